"""The page of score evidence: the same sheet as for text, with tables and pictures that fit scores."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from watermark.report import numbers
from watermark.report.admissibility import score_answers
from watermark.report.controlled import score_controlled
from watermark.report.planned import flat
from watermark.report.results import Row, Table
from watermark.report.score_explanations import score_explanations
from watermark.report.score_figures import score_figures
from watermark.report.score_words import (
    PART_NAMES,
    per_channel,
    score_banner,
    score_limits,
    score_summary,
    share_of,
    subject,
)
from watermark.report.shell import data_of, dated, environment, hash_of, in_one_order, style_of
from watermark.report.weight import SCALE, WHAT_IT_IS, weighing, weight_of_scores
from watermark.scores.direction import scheme_from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.scoring.evidence import ScoreEvidence

_CHANNELS_SHOWN = 4
_VERIFY = "wmark verify evidence.json"
_ALTERNATIVES = {
    "greater": "alternative “greater”: answers lean along the mark",
    "less": "alternative “less”: answers lean against the mark",
    "two-sided": "alternative “two-sided”: answers lean along the mark or against it",
}
_COMMITTED = {
    "basis": "the basis: the public functions of the input",
    "queries": "the inputs that were asked",
    "clean": "our own answers to them, unmarked",
    "surrogates": "predictions of models that we trained on our unmarked answers",
}


def score_page(evidence: ScoreEvidence) -> str:
    """The page as text; the same evidence gives the same bytes.

    Raises ExtraMissing without jinja2 or matplotlib.
    """
    evidence = in_one_order(evidence)
    style = style_of(evidence)
    text: str = (
        environment()
        .get_template("scores.html")
        .render(
            e=evidence,
            style=style,
            style_hash=hash_of(style),
            summary=score_summary(evidence),
            weighing=weighing(
                weight_of_scores(evidence),
                what=subject(evidence),
                mark="answers that carry its mark",
                plan=score_banner(evidence),
            ),
            explanations=score_explanations(evidence),
            controlled=score_controlled(evidence),
            answers=score_answers(evidence),
            what_it_is=WHAT_IT_IS,
            scale=SCALE,
            figures=score_figures(evidence),
            banner=score_banner(evidence),
            results=results(evidence),
            tables=tables(evidence),
            examples=examples(evidence),
            mark=flat(evidence.mark),
            committed=[(what, evidence.committed.get(name) or "none") for name, what in _COMMITTED.items()],
            options=flat(evidence.options),
            limits=score_limits(evidence),
            commands=commands(evidence),
            missing=missing(evidence),
            created=dated(evidence.created),
            data=data_of(evidence),
        )
    )
    return text


def results(evidence: ScoreEvidence) -> list[Row]:
    """(figure, value, what it means) of the test that decides."""
    return [
        ("Answers tested", f"{evidence.queries:,}", "distinct inputs, each counted once"),
        (
            "Key-free part",
            numbers.percent(evidence.explained),
            "of how the suspect differs from our answers needs no key, and was taken away",
        ),
        *_carried(evidence),
        ("p", numbers.pvalue(evidence.log10_p), f"log₁₀ p = {numbers.signed(evidence.log10_p, 3)}; {_how(evidence)}"),
        ("E-process, E at the end", numbers.evalue(evidence.looks[-1].log10_e), _passed(evidence)),
        ("Level, alpha", f"{evidence.alpha:g}", _ALTERNATIVES.get(evidence.alternative, evidence.alternative)),
    ]


def tables(evidence: ScoreEvidence) -> list[Table]:
    """Each test by itself, the controls, and what the mark costs."""
    made = [_tests(evidence)]
    if evidence.controls:
        made.append(_controls(evidence))
    if evidence.cost is not None:
        made.append(_cost(evidence))
    return made


def examples(evidence: ScoreEvidence) -> Table | None:
    """Some inputs' answers: ours unmarked, ours as it would be served, and the suspect's."""
    if not evidence.shown:
        return None
    binary = scheme_from_json(evidence.mark["scheme"]).width == 1
    what = "The second class’s probability" if binary and evidence.access == "probabilities" else "Answers"
    return Table(
        "Answers side by side",
        f"{what} for inputs that are evenly spaced in the order they were asked: without the mark, as it would be "
        "served, and as the suspect gives it. No single answer tells; the test is on all of them together.",
        ("Input no.", "Unmarked", "Marked", "Moved by", "Suspect"),
        [
            (
                f"{shown.row + 1:,}",
                _numbers(per_channel(shown.clean)),
                _numbers(per_channel(shown.marked)),
                _numbers([b - a for a, b in zip(per_channel(shown.clean), per_channel(shown.marked))], sign=True),
                _numbers(per_channel(shown.suspect)),
            )
            for shown in evidence.shown
        ],
    )


def commands(evidence: ScoreEvidence) -> list[tuple[str, str]]:
    """(sentence, command), from what anyone can check to what needs the key and the suspect."""
    planned = "" if evidence.plan is None else " --plan PLAN.json"
    made = [
        (
            "Save the evidence below (it is in this page’s file, not on paper) as evidence.json. Its digest, and all "
            "that follows from its own numbers (p-values, ranks, interval, verdict), need nothing else:",
            _VERIFY,
        ),
        (
            "With the case that the test wrote, and without any key: what was read, and every decoy’s cosine:",
            f"{_VERIFY} --case case.npz{planned}",
        ),
        (
            "With the watermark file too, which holds the secret key, also our own cosines, the looks, the share "
            "carried, the controls and the cost:",
            f"{_VERIFY} --case case.npz --mark ours.wmark{planned}",
        ),
    ]
    named = [f"{role} {shlex.quote(str(file.get('name')))}" for role, file in evidence.inputs.items()]
    if named:
        made.append(
            (
                "Whoever can ask the suspect repeats the test. It was made from " + ", ".join(named) + ":",
                _again(evidence),
            )
        )
    return made


def missing(evidence: ScoreEvidence) -> list[str]:
    """What cannot be recomputed from the files, in sentences."""
    left = [
        "The case file holds inputs and answers, ours and the suspect’s, and no key; it is bound to this page by its "
        "digest, from which the decoy keys are drawn, so that nobody can choose them.",
        "That the suspect gave these answers, and that our own answers and the surrogates owe nothing to the key, no "
        "file here shows: whoever can ask the suspect repeats the test.",
    ]
    if evidence.cost is not None and evidence.cost.log_loss is not None:
        left.append("The changes in log loss, Brier score and calibration need the true labels, which the case lacks.")
    return left


def _again(evidence: ScoreEvidence) -> str:
    words = ["wmark scores detect INPUTS ANSWERS --mark ours.wmark --clean CLEAN"]
    words += [f"--control {shlex.quote(f'{control.name}=CONTROL')}" for control in evidence.controls]
    words += ["--logged"] if evidence.options.get("logged") is True else []
    words += ["--stopped"] if evidence.stopped else []
    words.append(f"--alpha {evidence.alpha:g} --alternative {evidence.alternative}")
    return " ".join(words)


def _carried(evidence: ScoreEvidence) -> list[Row]:
    carried = evidence.carried
    if carried is None:
        return [("Share carried", "–", f"not measured for {evidence.access}")]
    span = f"{share_of(carried.low)} to {share_of(carried.high)}"
    return [
        (
            "Share carried",
            share_of(carried.share),
            f"95 % interval {span}: slope on our own mark, 1.96 deviations of the same slope under decoy keys",
        ),
        (
            "Found with probability 90 %",
            share_of(carried.detectable),
            "the share that a test of this level would have found; normal approximation",
        ),
    ]


def _how(evidence: ScoreEvidence) -> str:
    if evidence.stopped:
        return "1/E of the e-process"
    if len(evidence.tests) > 1:
        return f"the smallest of {len(evidence.tests)}, times their number (Bonferroni)"
    return "exact"


def _passed(evidence: ScoreEvidence) -> str:
    bar = numbers.evalue(-math.log10(evidence.alpha))
    when = f"never passed 1/alpha = {bar}"
    if evidence.reached_at is not None:
        when = f"passed 1/alpha = {bar} after {evidence.reached_at:,} answers"
    return f"{when}; the test that decides" if evidence.stopped else f"{when}; it stands beside the test"


def _tests(evidence: ScoreEvidence) -> Table:
    return Table(
        "Each test by itself",
        "A cosine with a direction that had no part in the answers is distributed as stated, whatever the suspect is. "
        "The rank compares our key with decoy keys and needs no law.",
        ("Test of", "cosine", "dimensions", "p", "e-value", "decoy rank, p", "among decoys"),
        [
            (
                PART_NAMES.get(test.part, test.part),
                numbers.signed(test.cosine, 4),
                f"{test.dimensions:,}",
                numbers.pvalue(test.log10_p),
                numbers.evalue(test.log10_e),
                numbers.pvalue_of(test.rank_pvalue),
                f"{len(test.decoys):,}",
            )
            for test in evidence.tests
        ],
    )


def _controls(evidence: ScoreEvidence) -> Table:
    return Table(
        "Controls",
        "Other models' answers to the same inputs, through the same code and under our key. They give the scale; the "
        "verdict does not rest on them.",
        ("Control", "cosine", "p", "log₁₀ p"),
        [
            (c.name, numbers.signed(c.cosine, 4), numbers.pvalue(c.log10_p), numbers.signed(c.log10_p, 2))
            for c in evidence.controls
        ],
    )


def _cost(evidence: ScoreEvidence) -> Table:
    cost = evidence.cost
    assert cost is not None
    rows: list[tuple[str, ...]] = [
        ("Largest move", f"{cost.largest:.4g}", "of any answer, in any class or value"),
        ("Typical move", f"{cost.root_mean_square:.4g}", "root mean square"),
    ]
    if evidence.access != "values":
        rows.append(("First class changed", f"{cost.flips:,}", f"of {evidence.queries:,} answers"))
        rows += [_loss(name, value) for name, value in _losses(cost)]
    return Table(
        "What the mark costs",
        "Our answers to these inputs, marked against unmarked. Above zero means that the mark makes them worse.",
        ("Cost", "Value", "Meaning"),
        rows,
    )


def _losses(cost: Any) -> list[tuple[str, float | None]]:
    return [("Log loss", cost.log_loss), ("Brier score", cost.brier), ("Calibration error", cost.ece)]


def _loss(name: str, value: float | None) -> tuple[str, str, str]:
    if value is None:
        return (name, "–", "not measured: no true labels were given")
    sign = "+" if value > 0 else ""
    meaning = {"Log loss": "change, nats", "Brier score": "change", "Calibration error": "change, 15 bins"}[name]
    return (name, sign + numbers.signed(value, 5), f"{meaning}, against the true labels")


def _numbers(values: Sequence[float], *, sign: bool = False) -> str:
    """Up to four numbers to four decimals."""
    some = [("+" if sign and value > 0 else "") + numbers.signed(value, 4) for value in values[:_CHANNELS_SHOWN]]
    return "  ".join(some) + (" …" if len(values) > _CHANNELS_SHOWN else "")
