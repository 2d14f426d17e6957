"""The page of an attribution: whose answers a suspect learned from; the same sheet as for text, account by account."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watermark.attribute import named
from watermark.report import numbers
from watermark.report.admissibility import Answer, five, of_parts
from watermark.report.drawing import (
    GREY,
    INK,
    ORANGE,
    PALE,
    UNDER_LEGEND,
    Figure,
    canvas_of,
    drawing,
    labelled,
    legend_above,
    svg,
)
from watermark.report.numbers import NARROW, span
from watermark.report.planned import flat
from watermark.report.reasons import AGAINST, NOT, PART, Explanation, counted, ground, leaked
from watermark.report.results import Row, Table
from watermark.report.shell import data_of, dated, environment, hash_of, in_one_order, style_of
from watermark.report.weight import SCALE, WHAT_IT_IS, from_pvalue, in_a_word, shown, weighing
from watermark.report.words import Summary
from watermark.stats.laws import binomial_interval

if TYPE_CHECKING:
    from watermark.attribute import Attribution, Exposure

FEWEST_ROWS = 20
_VERIFY = "wmark verify attribution.json"
STUDY = (4_900, "docs/results/study.md")  # accounts that taught nobody, of which none was named at 1 % over all
_LIMITS = (
    "The result speaks of exposure to answers that were served to an account. It does not show who acted, or with "
    "what intent; contracts, dates and logs can.",
    "The p-value of an account is how often chance alone would do at least as well. It is not the probability that "
    "the account’s holder is innocent, nor one minus the probability that it is not.",
    "All of this rests on keys that were fixed before these outputs existed, and that had no part in choosing the "
    "prompts.",
)


def attribution_page(found: Attribution) -> str:
    """The page as text; the same attribution gives the same bytes. Raises ExtraMissing without jinja2 or matplotlib."""
    found = in_one_order(found)
    style, best, ways = style_of(found), found.exposures[0], explanations(found)
    text: str = (
        environment()
        .get_template("attribution.html")
        .render(
            e=found,
            kind="evidence found" if found.found else "no evidence found",
            style=style,
            style_hash=hash_of(style),
            summary=attribution_summary(found),
            figures=figures(found),
            weighing=weighing(
                from_pvalue(best.log10_p_holm),
                what="these outputs",
                mark=f"answers that were served to account “{named(best)}”",
            ),
            key=f"{best.kid}, of account “{named(best)}”, drawn from the mark",
            accounts=accounts(found),
            explanations=ways,
            controlled=controlled(found),
            answers=answers(found),
            what_it_is=WHAT_IT_IS,
            scale=SCALE,
            limits=[*found.notes, *_LIMITS],
            mark=flat(found.mark),
            commands=commands(found),
            created=dated(found.created),
            data=data_of(found),
        )
    )
    return text


def attribution_summary(found: Attribution) -> Summary:
    """The first screen."""
    best, several = found.exposures[0], f"{found.hypotheses:,} accounts"
    headline = f"We found no dependence on the key of any of {several}."
    if found.found:
        headline = f"These outputs depend on the keys of {len(found.found):,} of {several}: {_listed(found.found)}."
    gap = "" if found.gap is None or found.runner_up is None else _runner_up(found)
    never = "If the suspect had nothing of an account’s answers, its key would score so high"
    return Summary(
        headline=headline,
        asked=(
            f"Whose answers, of {several}, the suspect was exposed to. {found.cells:,} distinct cells in windows of "
            "account keys were read. To a model without a given account’s answers its key is one random key like any "
            "other."
        ),
        found=(
            f"The highest score is that of account “{named(best)}”: {best.score:.1f} standard deviations above "
            f"chance.{gap}"
        ),
        sure=(
            f"{never} {numbers.odds(best.log10_p)} such tests; the best of {several} would, "
            f"{numbers.odds(best.log10_p_holm)} such inquiries (corrected "
            f"p{NARROW}={NARROW}{numbers.pvalue(best.log10_p_holm)}). The level over all of them is {found.alpha:g}. "
            f"{in_a_word(from_pvalue(best.log10_p_holm))}"
        ),
        power="An account with a small share of what the suspect learned is not found.",
        next_step="",
        does_not_show=(
            "It shows exposure to an account’s answers. It does not show who passed them on, who acted, or with what "
            "intent.",
            f"{'Other explanations' if found.found else 'Why an account may be missed'}: "
            f"{counted(explanations(found))}.",
            "The p-value is not the probability that the account’s holder is innocent.",
            "An account that was not tried here cannot be found; one that is not found is not cleared.",
        ),
    )


def accounts(found: Attribution) -> Table:
    """Each account's score, its p-value alone and corrected, and what the corrected one weighs."""
    rows = [_account(e) for e in found.exposures[: max(FEWEST_ROWS, len(found.found) + 5)]]
    left = found.hypotheses - len(rows)
    more = f" {left:,} accounts with lower scores are in the evidence below, and not in this table." if left > 0 else ""
    return Table(
        "Account by account",
        "The verdict goes by the p-value that is corrected for all accounts (Holm). max-T is the share of panels of "
        f"decoy keys, as many as accounts, whose best did as well. E and its words are of the corrected p-value.{more}",
        ("Account", "z", "p alone", "p of all", "max-T", "E", "Support", "Verdict"),
        rows,
    )


def _account(e: Exposure) -> tuple[str, ...]:
    weight = from_pvalue(e.log10_p_holm)
    return (
        named(e),
        numbers.signed(e.score, 2),
        numbers.pvalue(e.log10_p),
        numbers.pvalue(e.log10_p_holm),
        "–" if e.max_t_pvalue is None else numbers.pvalue_of(e.max_t_pvalue),
        shown(weight.log10_e),
        weight.band,
        e.verdict,
    )


def figures(found: Attribution) -> list[Figure]:
    """The accounts' scores beside the best of each panel of decoys; none without panels."""
    if found.decoys is None:
        return []
    with drawing():
        return [_among_decoys(found, found.decoys.largest)]


def explanations(found: Attribution) -> list[Explanation]:
    """What else could name an account, or hide one."""
    best = found.exposures[0]
    untried = Explanation(
        "An account that was not tried",
        "The answers came through an account that is not in the list.",
        PART,
        f"{found.hypotheses:,} accounts were tried. Keys of others cannot raise these, nor lower them.",
        "List closed accounts and earlier epochs too; that the list is whole the ledger shows.",
    )
    if not found.found:
        return [_small(), untried]
    corrected = f"p{NARROW}={NARROW}{numbers.pvalue(best.log10_p_holm)}, corrected for {found.hypotheses:,} accounts"
    return [
        Explanation(
            "Chance",
            "An account that had no part scores so high by accident.",
            AGAINST,
            f"{corrected}; level {found.alpha:g}.",
            "The correction covers these accounts, and no suspect but this one.",
        ),
        Explanation(
            "Passed on",
            "The account’s answers were published, resold, or used by others with its credentials.",
            NOT,
            "None can be made from outputs: the mark is the same whoever carried it.",
            "The account’s own records, what it published, and who used its credentials.",
        ),
        untried,
        leaked(found.mark, None),
        ground(best.log10_p, found.mark, None),
    ]


def _small() -> Explanation:
    return Explanation(
        "A small share",
        "An account’s answers are a small part of what the suspect learned, or were rewritten.",
        NOT,
        "None: how small a share would have been found is not measured here.",
        "Test the shared key with `wmark detect`, which all accounts feed; read more, or log-probabilities.",
    )


def controlled(found: Attribution) -> list[Row]:
    """Dose, controls, and what could be missed."""
    others = found.hypotheses - len(found.found)
    rows = [
        ("Dose", "none", "an account’s share is not estimated: the score grows with it, and with how much was read"),
        (
            "Negative controls, accounts",
            f"{others:,}",
            "accounts tried beside, whose keys are not found on the same cells",
        ),
    ]
    if found.decoys is not None:
        best = max(found.decoys.largest)
        told = f"panels of {found.hypotheses:,} keys each that marked nothing; their best score is {best:.1f}"
        rows.append(("Negative controls, keys", f"{found.decoys.panels:,}", told))
    return [*rows, ("Could be missed", "not measured", "accounts of small share; which, control students can tell")]


def answers(found: Attribution) -> list[Answer]:
    """The five questions of a court."""
    count, where = STUDY
    tested = (
        "Yes. A key that had no part in the outputs scores by a known law, whatever the suspect learned from others. "
        f"Of {count:,} accounts that taught nobody none was named at 1 % over all ({where})."
    )
    rates = (
        f"Of naming any account that had no part: at most {found.alpha:g} over all {found.hypotheses:,}, by proof "
        "(Holm). Of a miss: not measured here."
    )
    return five(
        tested=tested,
        published=of_parts(found.mark),
        rates=rates,
        here=[_panels(found)] if found.decoys is not None and found.found else [],
        elsewhere=None,
        planned=None,
        accepted="sums of independent draws, and the correction for many tests",
    )


def commands(found: Attribution) -> list[tuple[str, str]]:
    """(sentence, command)."""
    return [
        (
            "Save the evidence below as attribution.json. Its digest, Holm’s correction and the verdicts need "
            "nothing else:",
            _VERIFY,
        ),
        (
            "With the suspect’s outputs and the watermark file that the accounts are drawn from, every total:",
            f"{_VERIFY} --outputs OUTPUTS --mark MARK.wmark"
            + (" --tokenizer MODEL_FOLDER" if found.mark.get("tokenizer") else ""),
        ),
    ]


def _panels(found: Attribution) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """How many panels of decoys held a key that did as well as the least of the accounts that are named."""
    assert found.decoys is not None
    least = found.exposures[len(found.found) - 1].score
    count, panels = sum(best >= least for best in found.decoys.largest), found.decoys.panels
    rate = span(binomial_interval(count, panels), 1)
    caption = "Panels of decoy keys whose best does as well as the least of the accounts that are named"
    return (
        caption,
        ("Panels", "Keys in each", "That do as well", "95 % interval of the rate"),
        [(f"{panels:,}", f"{found.hypotheses:,}", f"{count:,}", rate)],
    )


def _runner_up(found: Attribution) -> str:
    return f" The best of the others, “{found.runner_up}”, lies {found.gap:.1f} behind the one before it."


def _listed(names: list[str]) -> str:
    some = ", ".join(f"“{name}”" for name in names[:5])
    return some if len(names) <= 5 else f"{some} and {len(names) - 5:,} more"


def _among_decoys(found: Attribution, largest: list[float]) -> Figure:
    scores = np.array([e.score for e in found.exposures])
    low, high = min(*largest, float(scores.min())), max(*largest, float(scores.max()))
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    canvas = canvas_of(UNDER_LEGEND)
    axes = canvas.add_subplot()
    axes.hist(
        scores[len(found.found) :], bins=edges, color=PALE, edgecolor=GREY, linewidth=0.6, label="accounts not found"
    )
    axes.hist(
        largest,
        bins=edges,
        histtype="step",
        color=INK,
        linewidth=1.2,
        label="best of a panel of decoys",
    )
    for e in found.exposures[: len(found.found)]:
        axes.axvline(e.score, color=ORANGE, linewidth=2.0)
    if found.found:
        axes.plot([], [], color=ORANGE, linewidth=2.0, label="accounts found")
    labelled(axes, "score, standard deviations above chance", "keys, panels")
    legend_above(axes, axes, columns=3)
    return Figure(
        name="accounts",
        title="Accounts among keys that marked nothing",
        svg=svg(canvas, "accounts"),
        caption=(
            f"Scores of {found.hypotheses:,} accounts, and the best score of each of {len(largest):,} panels of as "
            f"many keys that marked nothing, on the same cells: these run from {min(largest):.1f} to "
            f"{max(largest):.1f}. Accounts that are found stand as lines: {len(found.found):,}."
        ),
        columns=("scores from", "to", "accounts", "panels"),
        rows=_bins(edges, scores, np.array(largest)),
    )


def _bins(edges: np.ndarray, scores: np.ndarray, largest: np.ndarray) -> list[tuple[str, ...]]:
    """The counts behind the picture, empty stretches left out."""
    each = zip(edges, edges[1:], np.histogram(scores, edges)[0], np.histogram(largest, edges)[0], strict=False)
    return [
        (numbers.signed(float(a), 2), numbers.signed(float(b), 2), f"{n:,}", f"{m:,}") for a, b, n, m in each if n or m
    ]
