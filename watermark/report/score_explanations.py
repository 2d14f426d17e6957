"""Other explanations of what scores show, each with the check that this evidence holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from watermark.report import weighted
from watermark.report.measured import score_trials
from watermark.report.numbers import percent
from watermark.report.reasons import (
    AGAINST,
    NOT,
    PART,
    POSSIBLE,
    Explanation,
    by_chance,
    ground,
    leaked,
    looked,
    other_mark,
)

if TYPE_CHECKING:
    from watermark.scoring.evidence import ScoreEvidence


def score_explanations(evidence: ScoreEvidence) -> list[Explanation]:
    """The same of scores."""
    if evidence.verdict != "evidence found":
        return _hidden_scores(evidence)
    return [
        _chance_of_scores(evidence),
        _alike(evidence),
        _asked_of_us(evidence),
        _second_hand(evidence),
        leaked(evidence.mark, None),
        other_mark(evidence.mark, [t for test in evidence.tests for t in score_trials(evidence, test)]),
        ground(evidence.log10_p, evidence.mark, evidence.plan),
        looked(evidence.plan, alone=evidence.stopped),
    ]


def _chance_of_scores(evidence: ScoreEvidence) -> Explanation:
    first = evidence.tests[0]
    beaten = weighted.beaten(first.rank_pvalue, len(first.decoys))
    return by_chance(evidence.log10_p, beaten, evidence.alpha, evidence.plan)


def _alike(evidence: ScoreEvidence) -> Explanation:
    name, how = (
        "Likeness without our answers",
        "The suspect was trained on the same data, or does the same task equally well.",
    )
    told = (
        f"What needs no key was taken away ({percent(evidence.explained)} of how it differs from us), with "
        f"{evidence.surrogates} surrogates of our own. A key’s direction is independent of all likeness: "
        f"{_controls(evidence)}"
    )
    return Explanation(name, how, AGAINST, told, "Nothing, if the key had no part in the inputs and in the surrogates.")


def _controls(evidence: ScoreEvidence) -> str:
    if not evidence.controls:
        return "no control model was read to show it."
    passing = sum(weighted.passes(c, evidence.alpha) for c in evidence.controls)
    return f"{passing} of {len(evidence.controls)} control models pass the level."


def _asked_of_us(evidence: ScoreEvidence) -> Explanation:
    name, how = "Our service asked at test time", "The suspect passes questions on to us, or keeps our answers to them."
    left = "Our own log shows whether these inputs were asked of us; use inputs that nobody was served."
    if evidence.options.get("logged") is True:
        return Explanation(name, how, POSSIBLE, "The inputs are logged ones, which an account was served.", left)
    return Explanation(
        name, how, NOT, "None: the evidence does not hold whether these inputs were ever asked of us.", left
    )


def _second_hand(evidence: ScoreEvidence) -> Explanation:
    how = (
        "A third model, or a data set, learned from our answers and taught the suspect; or somebody put it in its way."
    )
    told = "None can be made from scores: what was passed on carries the same mark."
    left = "Training records, dates and contracts; keys for each account say whose answers were passed on."
    return Explanation("Indirect or planted", how, NOT, told, left)


def _hidden_scores(evidence: ScoreEvidence) -> list[Explanation]:
    carried = evidence.carried
    reach = "How weak a trace would have been found is not measured here."
    if carried is not None and math.isfinite(carried.detectable):
        reach = f"A share of {percent(carried.detectable, 0)} of the mark would have been found with probability 90 %."
    return [
        Explanation(
            "Too few answers",
            "The trace is there, and weaker than a test of this size can see.",
            POSSIBLE if evidence.verdict == "inconclusive" else PART,
            reach,
            "Ask more inputs under a new plan; surrogates trained on our own answers sharpen the test.",
        ),
        Explanation(
            "Labels, mixtures, rounding",
            "The suspect learned from first classes alone, or from several teachers and true labels.",
            NOT,
            "None: such training leaves little or nothing of a mark that keeps the first class.",
            "Ask for scores where labels were given.",
        ),
        Explanation(
            "Another key",
            "The suspect met answers that were moved along another account’s direction.",
            NOT,
            "One key was tested.",
            "`wmark scores attribute` tries every account, corrected.",
        ),
    ]
