"""The five questions that a court in the United States asks of an expert's method, answered by what was measured.

Daubert v. Merrell Dow Pharmaceuticals, 509 U.S. 579 (1993), and Federal Rule of Evidence 702 as amended in 2023.
Nothing is claimed here that is not measured in the evidence, or in the file that is named; what is missing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watermark.report.measured import (
    WHERE,
    Rates,
    Trial,
    measured,
    measured_scores,
    rows_of,
    score_trials,
    trial_rows,
    trials,
)
from watermark.report.numbers import percent, pvalue_of
from watermark.report.score_words import PART_NAMES
from watermark.report.weighted import beaten, decided_by, rank_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.evidence import Evidence
    from watermark.scoring.evidence import ScoreEvidence

Rows = list[tuple[str, ...]]
HERE = ("At the level", "By chance", "Called", "95 % interval of the rate")
ELSEWHERE = ("Tested on", "Runs", "at 5 %", "at 1 %", "at 0.1 %")

_STATISTICS = (
    "ranks among random alternatives (Phipson and Smyth 2010, Statistical Applications in "
    "Genetics and Molecular Biology)",
    "intervals (Clopper and Pearson 1934, Biometrika)",
)
_MARKS = {
    "greenlist": "green lists (Kirchenbauer et al. 2023, ICML)",
    "gumbel": "the mark (Aaronson 2022, a lecture, not reviewed)",
    "tournament": "the mark (Dathathri et al. 2024, Nature)",
    "antidistill": "the mark (arXiv 2602.03812, a preprint, not reviewed as far as is known)",
}
_CELLS = "exact tests with each cell counted once (Fernandez et al. 2023, IEEE WIFS)"
_RADIOACTIVE = "marks found in models that learned from marked text (Sander et al. 2024, NeurIPS)"
_BETS = "e-values (Vovk and Wang 2021, Annals of Statistics)"
_SPHERE = "the law of a cosine with a secret direction (Sablayrolles et al. 2020, ICML)"
_NO_REVIEW = (
    "This program as a whole has had no peer review that its authors know of; its source, its "
    "proofs ({proofs}) and its "
    "tests are open to any."
)
_ACCEPTANCE = (
    "The statistics are general ones, taught everywhere: {what}. To read a mark off a model that learned from marked "
    "answers is recent ({since}) and is used by few. The authors know of no court that has ruled on it, and claim no "
    "general acceptance of it."
)
_TEXT, _SCORES = (
    ("docs/validity.md", "of language models published in 2024"),
    ("docs/scores.md", "first published in 2020"),
)
_STANDARDS = (
    "The rules of the test ({proofs}) are fixed: none is an option of the program. {plan} Every file is named "
    "by SHA-256, and whoever has them recomputes the result. Weight is worded as the ENFSI guideline has it. No "
    "accreditation of a laboratory, such as under ISO/IEC 17025, is claimed."
)


@dataclass(frozen=True)
class Answer:
    """One question and its answer. tables: (caption, columns, rows) of the figures that it rests on."""

    question: str
    text: str
    tables: list[tuple[str, tuple[str, ...], Rows]]


def answers(evidence: Evidence) -> list[Answer]:
    """The five of evidence of text or of a model's predictions."""
    found, votes = trials(evidence), decided_by(evidence) == "votes"
    exact = "sums of independent draws, and randomisation among keys"
    what = exact if votes else f"{exact}, and e-values"
    return five(
        tested=_tested(evidence, found),
        published=of_parts(evidence.mark),
        rates=_rates(evidence, found),
        here=[(_of_decoys("the one-vote count"), HERE, trial_rows(found))],
        elsewhere=measured(evidence),
        planned=evidence.plan,
        accepted=what,
    )


def score_answers(evidence: ScoreEvidence) -> list[Answer]:
    """The five of evidence of scores."""
    each = [(test, score_trials(evidence, test)) for test in evidence.tests]
    tested = (
        "Yes. The method predicts that a key which had no part in the answers has a cosine of a known law with them, "
        "whatever the suspect is. That was tried on suspects that never saw our answers (below), and here with "
        f"{len(evidence.tests[0].decoys):,} decoy keys: " + _within([t for _, found in each for t in found])
    )
    rates = (
        f"Of a false alarm: at most {evidence.alpha:g} for this test, by proof under the assumptions listed as "
        "limits; measured below. Of a miss: see “Dose, controls and limits”."
    )
    return five(
        tested=tested,
        published=(_SPHERE, _BETS, *_STATISTICS),
        rates=rates,
        here=[
            (_of_decoys(f"the test of {PART_NAMES.get(test.part, test.part)}"), HERE, trial_rows(t)) for test, t in each
        ],
        elsewhere=measured_scores(evidence),
        planned=evidence.plan,
        accepted="the uniform law on a sphere, and randomisation among keys",
        scores=True,
    )


def of_parts(mark: dict[str, Any]) -> tuple[str, ...]:
    """What was published of the parts of a test of text."""
    made = _MARKS.get(_scheme_of(mark), "the engine’s own documentation (the mark)")
    return (_RADIOACTIVE, made, _CELLS, _BETS, *_STATISTICS)


def five(
    *,
    tested: str,
    published: Sequence[str],
    rates: str,
    here: list[tuple[str, tuple[str, ...], Rows]],
    elsewhere: Sequence[Rates] | None,
    planned: dict[str, object] | None,
    accepted: str,
    scores: bool = False,
) -> list[Answer]:
    """The questions with their answers. here, elsewhere: tables of error rates; elsewhere: None where there is none."""
    plan = "A plan fixed what could be chosen before anything was asked." if planned else "No plan came with this run."
    proofs, since = _SCORES if scores else _TEXT
    reviewed = f"Its parts: {'; '.join(published)}. {_NO_REVIEW.format(proofs=proofs)}"
    away = []
    if elsewhere is not None:
        away = [(f"False alarms measured on who never met a mark ({WHERE})", ELSEWHERE, rows_of(elsewhere))]
    return [
        Answer("Can the method be tested, and was it?", tested, []),
        Answer("Was it published and reviewed by peers?", reviewed, []),
        Answer("What is its known or potential rate of error?", rates, [*here, *away]),
        Answer("Which standards control its operation?", _STANDARDS.format(plan=plan, proofs=proofs), []),
        Answer("Is it generally accepted?", _ACCEPTANCE.format(what=accepted, since=since), []),
    ]


def _of_decoys(test: str) -> str:
    return f"Decoy keys in this evidence that {test} would have called"


def _tested(evidence: Evidence, found: Sequence[Trial]) -> str:
    return (
        "Yes. The method predicts how any key scores that had no part in the outputs. That was tried on texts and "
        "models that never met a mark (below), with the known ways to raise a false alarm played as attacks "
        f"(tests/attacks), and here with {len(evidence.decoys.totals):,} decoy keys: {_within(found)}"
    )


def _within(found: Sequence[Trial]) -> str:
    wrong = [t for t in found if t.too_many]
    if not wrong:
        return "no more of them than chance allows would have been called."
    worst = wrong[-1]
    return (
        f"at the level {worst.level:.4g} the count called {worst.called:,} of {worst.decoys:,}, more than chance "
        "explains. Ask why before relying on the result."
    )


def _rates(evidence: Evidence, found: Sequence[Trial]) -> str:
    level = f"at most {evidence.alpha:g} for this test, by proof under the assumptions listed as limits"
    keys = "" if evidence.keys is None else f", shared among {evidence.keys['tested']} keys"
    own = found[-1]
    text = f"Of a false alarm: {level}{keys}; measured below, here on {own.decoys:,} keys and on who never met a mark. "
    if decided_by(evidence) != "votes":
        rank = rank_of(evidence)
        text += (
            f"The mean e-value has its rank for this: {beaten(rank, own.decoys)} (p = {pvalue_of(rank)}); what it "
            "would have called of the decoys is not kept, the one-vote count on the same cells is. "
        )
    return (
        text + f"{_scheme(evidence)}Of a miss: a trace as large as stated under “Dose, controls and "
        f"limits” is missed with probability {percent(1 - evidence.power, 0)}, a weaker one more often."
    )


def _scheme(evidence: Evidence) -> str:
    """Where another scheme than the one of the table was measured."""
    name = _scheme_of(evidence.mark)
    if name == "greenlist":
        return ""
    where = "docs/results/schemes.md" if name in _MARKS else "docs/results/engine_levels.md"
    return (
        f"The table was measured with green lists; this mark, {name}, was measured apart, over fewer keys ({where}). "
    )


def _scheme_of(mark: dict[str, Any]) -> str:
    scheme = mark.get("scheme")
    return str(scheme.get("name")) if isinstance(scheme, dict) else "unnamed"
