"""The law of one score under the null, and the exact tail of a sum of scores, in log space.

Tails are returned as log10 p, so that nothing underflows: p = 1e-10000 is -10000.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

Alternative = Literal["greater", "less", "two-sided"]
_LOG10 = math.log(10)
_CHUNK = 1 << 16
_FIRST = 1 << 12  # terms of a chunk that are most often enough
_NEGLIGIBLE = 60.0  # terms e^-60 below the sum so far end the series: a relative error under 1e-20


class Law(Protocol):
    """The distribution of one score 0 ... `highest` under the null; scores of distinct cells are independent.

    Two kinds exist: `Bernoulli`, and `Levels` (stats/graded.py) of which it is the case of two.
    """

    @property
    def mean(self) -> float: ...

    @property
    def variance(self) -> float: ...

    @property
    def highest(self) -> int: ...

    def log10_pvalue(self, total: float, n: int, *, alternative: Alternative = "greater") -> float:
        """log10 of the exact p-value of `total`, the sum of n independent scores."""

    def log10_chernoff(self, total: int, n: int) -> float:
        """Chernoff's bound on log10 of the upper tail."""

    def interval(self, total: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
        """An interval for the mean score."""

    def detectable(self, n: int, *, alpha: float, power: float = 0.9) -> float | None:
        """The smallest mean score that a level-alpha test finds with probability `power`; None if none is."""


@dataclass(frozen=True)
class Bernoulli:
    """Scores 0 or 1, one with probability p. The sum of n of them is Binomial(n, p)."""

    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(f"a Bernoulli law needs 0 < p < 1, found {self.p}")

    @property
    def mean(self) -> float:
        return self.p

    @property
    def variance(self) -> float:
        return self.p * (1 - self.p)

    def log10_pvalue(self, total: float, n: int, *, alternative: Alternative = "greater") -> float:
        """Exact binomial p-value; "two-sided" doubles the smaller tail (at most 1).

        total: number of ones, 0 <= total <= n. Raises ValueError outside that range.
        """
        if alternative not in get_args(Alternative):
            raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, found {alternative!r}")
        successes = int(total) if math.isfinite(total) else -1
        if successes != total or not 0 <= successes <= n:
            raise ValueError(f"total must be a whole number between 0 and {n}, found {total}")
        upper = binomial_log10_sf(successes, n, self.p)
        if alternative == "greater":
            return upper
        lower = binomial_log10_sf(n - successes, n, 1 - self.p)
        if alternative == "less":
            return lower
        return min(0.0, min(upper, lower) + math.log10(2))

    @property
    def highest(self) -> int:
        return 1

    def log10_chernoff(self, total: int, n: int) -> float:
        """See `binomial_log10_chernoff`."""
        return binomial_log10_chernoff(total, n, self.p)

    def interval(self, total: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
        """See `binomial_interval`."""
        return binomial_interval(total, n, level=level)

    def detectable(self, n: int, *, alpha: float, power: float = 0.9) -> float | None:
        """See `detectable_rate`."""
        return detectable_rate(n, self.p, alpha=alpha, power=power)


def binomial_log10_sf(successes: int, n: int, p: float) -> float:
    """log10 P(X >= successes) for X ~ Binomial(n, p), by summing the smaller tail term by term.

    With k0 = successes the tail is pmf(k0) (1 + r1 + r1 r2 + ...), r_i = (n-k+1)/k * p/(1-p) at k = k0 + i.
    Relative error of log10 P under 1e-9 for n up to 1e6 and under 1e-6 up to 1e9 (cancellation in lgamma).
    """
    if successes <= 0:
        return 0.0
    if successes > n * p:
        return _log_upper_tail(successes, n, p) / _LOG10
    below = _log_upper_tail(n - successes + 1, n, 1 - p)
    return min(0.0, math.log1p(-math.exp(min(below, 0.0))) / _LOG10) if below < 0 else -math.inf


def binomial_log10_chernoff(successes: int, n: int, p: float) -> float:
    """Chernoff's bound on log10 P(X >= successes): -n KL(successes/n || p), 0 at or below the mean.

    Hoeffding 1963, theorem 1, equation 2.1. Never below the exact tail.
    """
    rate = successes / n if n else 0.0
    if rate <= p:
        return 0.0
    left = rate * math.log(rate / p)
    right = (1 - rate) * math.log((1 - rate) / (1 - p)) if rate < 1 else 0.0
    return -n * (left + right) / _LOG10


def binomial_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) for a binomial rate; covers it with at least `level`."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high


def smallest_significant(n: int, p: float, *, alpha: float) -> int:
    """The smallest count whose exact upper-tail p-value is at most alpha; n + 1 if there is none."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if middle <= n and binomial_log10_sf(middle, n, p) > math.log10(alpha):
            low = middle + 1
        else:
            high = middle
    return low


def detectable_rate(n: int, p: float, *, alpha: float, power: float = 0.9) -> float | None:
    """The smallest success rate that a level-alpha test on n cells finds with probability `power`.

    None if even a rate of 1 would not be found.
    """
    needed = smallest_significant(n, p, alpha=alpha)
    if needed > n:
        return None
    low, high = p, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        found = 10 ** binomial_log10_sf(needed, n, middle)
        low, high = (low, middle) if found >= power else (middle, high)
    return high


def _log_upper_tail(successes: int, n: int, p: float) -> float:
    if successes > n:
        return -math.inf
    first = (
        math.lgamma(n + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(n - successes + 1)
        + successes * math.log(p)
        + (n - successes) * math.log1p(-p)
    )
    total, reached, k = 1.0, 0.0, successes
    odds = math.log(p) - math.log1p(-p)
    while k < n:
        chunk = np.zeros(min(_CHUNK, n - k))
        for size in (_FIRST, len(chunk)):
            steps = np.arange(k + 1, min(k + size, n) + 1, dtype=np.float64)
            terms = reached + np.cumsum(np.log((n - steps + 1) / steps) + odds)
            chunk[: len(terms)] = np.exp(terms)
            added, last = float(chunk.sum()), float(terms[-1])
            if last < math.log(total + added) - _NEGLIGIBLE:
                break  # the ratios fall, so that what follows is smaller still: zeros in its place add up to the same
        total, reached, k = total + added, last, int(steps[-1])
        if reached < math.log(total) - _NEGLIGIBLE:
            break
    return first + math.log(total)
