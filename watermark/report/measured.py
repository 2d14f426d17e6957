"""Error rates: those that were measured of this test on who never met a mark, and those that its own decoys show.

The figures are copied from docs/results/calibration.md, which says how to measure them again; a test holds the two
together. Of a decoy key it is known that it had no part in the outputs: each is one trial of a false alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from watermark.report.numbers import percent, span
from watermark.report.weighted import decided_by
from watermark.stats.graded import Levels, count_of
from watermark.stats.laws import Bernoulli, binomial_interval
from watermark.stats.many import upper_tails
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from watermark.evidence import Evidence
    from watermark.scoring.evidence import KeyTest, ScoreEvidence

WHERE = "docs/results/calibration.md"
LEVELS = (0.05, 0.01, 0.001)


@dataclass(frozen=True)
class Rates:
    """False alarms at LEVELS among `runs` tests of who never met the mark, as WHERE states them. what: was tested."""

    what: str
    runs: int
    rates: tuple[float | None, ...]


@dataclass(frozen=True)
class Trial:
    """Decoys of one evidence that a test of `level` would have called: `called` of `decoys`, with a 95 % interval."""

    level: float
    decoys: int
    called: int
    interval: tuple[float, float]

    @property
    def too_many(self) -> bool:
        """Whether chance does not explain how many were called (one in 1,000): then the test errs on these outputs."""
        return binomial_interval(self.called, self.decoys, level=0.998)[0] > self.level


TEXTS = Rates(
    "English, source code and templated text, a new random key on each piece", 3_150, (0.0467, 0.0083, 0.0006)
)
E_VALUES = {
    "text and reference": (
        Rates("text, a base model subtracted", 6_000, (0.0015, 0.0003, 0.0002)),
        Rates("text, an unrelated model subtracted", 6_000, (0.0015, 0.0, 0.0)),
    ),
    "samples": (
        Rates("samples", 6_000, (0.0008, 0.0002, 0.0)),
        Rates("samples, a base model subtracted", 6_000, (0.0013, 0.0, 0.0)),
        Rates("samples, an unrelated model subtracted", 6_000, (0.0008, 0.0, 0.0)),
    ),
    "log-probabilities": (
        Rates("the likeliest token’s log-probability", 6_000, (0.0013, 0.0, 0.0)),
        Rates("log-probabilities of five tokens", 6_000, (0.0010, 0.0002, 0.0)),
        Rates("log-probabilities of five tokens, a base model subtracted", 6_000, (0.0010, 0.0, 0.0)),
        Rates("log-probabilities of five tokens, an unrelated model subtracted", 6_000, (0.0007, 0.0002, 0.0)),
    ),
    "logits": (
        Rates("an open model’s predictions", 6_000, (0.0010, 0.0, 0.0)),
        Rates("an open model’s predictions, a base model subtracted", 6_000, (0.0008, 0.0002, 0.0)),
        Rates("an open model’s predictions, an unrelated model subtracted", 6_000, (0.0017, 0.0003, 0.0)),
    ),
}
ALL_E_VALUES = Rates("all ways of reading together, mean e-value", 102_000, (0.0012, 0.0001, 0.0))
STAGES = Rates("the e-process at its highest", 10_000, (0.0011, 0.0, None))
SCORES = Rates("seven models that never saw the marked scores, 4,000 keys each", 28_000, (0.0476, 0.0096, 0.0007))
SCORE_STAGES = Rates("the e-process over growing batches, at its highest", 10_000, (0.0019, 0.0004, 0.0))


def measured(evidence: Evidence) -> tuple[Rates, ...]:
    """What was measured of the test that decides, read as it was read here."""
    deciding = decided_by(evidence)
    if deciding == "e-process":
        return (STAGES,)
    if deciding == "votes":
        return (TEXTS,)
    return (*E_VALUES.get(evidence.access, ()), ALL_E_VALUES)


def measured_scores(evidence: ScoreEvidence) -> tuple[Rates, ...]:
    return (SCORE_STAGES,) if evidence.stopped else (SCORES,)


def rows_of(rates: Sequence[Rates]) -> list[tuple[str, ...]]:
    """(what, runs, rate at each level) for people; the source has four digits."""
    return [(each.what, f"{each.runs:,}", *(_rate(rate) for rate in each.rates)) for each in rates]


def trials(evidence: Evidence) -> list[Trial]:
    """How many decoys the one-vote count would have called, at 5 %, 1 % and the level of this test."""
    drawn = tuple(evidence.decoys.totals)
    tails = np.array(_tails(evidence.law, evidence.cells, drawn, evidence.alternative))
    return [_trial(each, tails) for each in _levels(evidence.level)]


def score_trials(evidence: ScoreEvidence, test: KeyTest) -> list[Trial]:
    """The same of one test of scores: each decoy's cosine against the exact law."""
    cosines, side = np.clip(test.decoys, -1, 1), evidence.alternative
    tails = np.array([log10_pvalue(c, test.dimensions, alternative=side) for c in cosines])  # type: ignore[arg-type]
    return [_trial(each, tails) for each in _levels(evidence.alpha / len(evidence.tests))]


@lru_cache(maxsize=8)
def _tails(law: Bernoulli | Levels, n: int, totals: tuple[int, ...], alternative: str) -> tuple[float, ...]:
    """log10 p of each total of n scores, as `law.log10_pvalue` to 1e-9, all at once; beyond reach as at its end."""
    within, most = np.clip(totals, 0, n * law.highest), n * law.highest
    upper = upper_tails(count_of(n, law), within)
    if alternative == "greater":
        return tuple(upper.tolist())
    mirrored = Levels(law.chances[::-1]) if isinstance(law, Levels) else Bernoulli(1 - law.p)
    lower = upper_tails(count_of(n, mirrored), most - within)
    both = lower if alternative == "less" else np.minimum(0.0, np.minimum(lower, upper) + math.log10(2))
    return tuple(both.tolist())


def trial_rows(found: Sequence[Trial]) -> list[tuple[str, ...]]:
    """(level, expected, called, interval of the rate) for people."""
    return [
        (f"{t.level:.4g}", f"{t.level * t.decoys:.1f}", f"{t.called:,} of {t.decoys:,}", span(t.interval, 2))
        for t in found
    ]


def _levels(level: float) -> list[float]:
    return sorted({0.05, 0.01, level}, reverse=True)


def _trial(level: float, tails: NDArray[np.float64]) -> Trial:
    """tails: log10 p of each decoy."""
    count = int((tails <= math.log10(level)).sum())
    return Trial(level, len(tails), count, binomial_interval(count, len(tails)))


def _rate(rate: float | None) -> str:
    if rate is None:
        return "not measured"
    return percent(rate, 2) if rate else f"under {percent(0.00005, 3)}"
