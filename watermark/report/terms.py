"""What the page calls the counts: green cells where a score is 0 or 1, scores where it is graded.

A mean score is given in percent of the highest one, as a green rate is the mean of ones in percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watermark.report.numbers import decimals

if TYPE_CHECKING:
    from watermark.evidence import Evidence


@dataclass(frozen=True)
class Terms:
    """rate, total: of all cells; counted: of a table's column; more, less: what the alternatives say; method: of the
    interval; curve: of the null; limit: what the rate is not; note: what a graded score is."""

    rate: str
    total: str
    counted: str
    more: str
    less: str
    interval: str
    curve: str
    limit: str
    note: str = ""


GREEN = Terms(
    rate="green rate",
    total="Green cells",
    counted="green",
    more="more green tokens",
    less="fewer green tokens",
    interval="Clopper and Pearson",
    curve="binomial, gamma = {gamma:g}",
    limit="The green rate measures how strongly the outputs lean towards the key's green tokens. It is not the "
    "share of the training data that was ours.",
)
GRADED = Terms(
    rate="mean score",
    total="Total score",
    counted="score",
    more="higher scores",
    less="lower scores",
    interval="laws that tilt the null's",
    curve="exact, mean {gamma:.3g} of the highest score",
    limit="The mean score measures how strongly the outputs lean towards the tokens that the key favours. "
    "It is not the share of the training data that was ours.",
    note="A token's score under a key is a whole number from 0 to {highest}; it is high where the key favours the "
    "token. Mean scores are given in percent of {highest}.",
)


def terms(evidence: Evidence) -> Terms:
    """The words for this evidence."""
    return GREEN if evidence.levels is None else GRADED


def places_of(evidence: Evidence) -> int:
    """How many decimals of a rate's percentage are worth printing: one standard error shows in the last."""
    if evidence.levels is None:
        return decimals(evidence.gamma, evidence.cells)
    law = evidence.law
    error = 100 * math.sqrt(law.variance / evidence.cells) / law.highest
    return max(1, min(4, math.ceil(-math.log10(error))))


def share_of(evidence: Evidence, total: float, cells: int) -> float:
    """The mean score of some cells, as a share of the highest: of green cells their rate."""
    return total / (cells * evidence.law.highest)
