"""How many probe tokens to find a share, how small a share is found: power before the first question is asked.

The model is one line: z of the total is about Normal(μ, 1) with μ = slope · share^exponent · sqrt(tokens). It is used
to plan, never to test. slope is z per square root of a probe token in a student of marked text alone (share 1).
exponent 1 says that the effect is proportional to the share, which is cautious: measured effects are concave, so a
small share shows more than its part.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import beta

Test = Literal["exact", "chernoff", "evalue", "rank"]
_CAUTION = 1.6448536269514722  # standard errors taken off an estimated slope: its one-sided 95 % limit
_GRID = np.sqrt(2.0) ** np.arange(15)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_MOST_TOKENS = 10**15


def threshold_z(
    alpha: float, *, test: Test = "exact", two_sided: bool = False, statistics: int = 1, decoys: int = 999
) -> float:
    """The z from which `test` rejects at level alpha; inf if it never can.

    exact: the normal quantile, near which the exact tail's lies. chernoff: sqrt(2 log 1/α), the normal case of
    the bound. evalue: where the mixture over bets c = 1 ... 128, averaged with statistics - 1 that saw nothing,
    reaches 1/α. rank: the median of the decoy total to be beaten. two_sided: each side gets α/2.
    """
    _check(alpha, test, statistics, decoys)
    side = alpha / 2 if two_sided else alpha
    if test == "exact":
        return float(-ndtri(side))
    if test == "chernoff":
        return math.sqrt(-2 * math.log(side))
    if test == "evalue":
        return _evalue_threshold(-math.log(side) + math.log(statistics))
    passed = _decoys_passed(side, decoys)
    return float(-ndtri(beta.median(passed + 1, decoys - passed))) if passed >= 0 else math.inf


def power_of(
    slope: float,
    share: float,
    tokens: float,
    alpha: float,
    *,
    test: Test = "exact",
    se: float = 0.0,
    exponent: float = 1.0,
    two_sided: bool = False,
    statistics: int = 1,
    decoys: int = 999,
) -> float:
    """The chance that `test` at level alpha finds `share` with `tokens` probe tokens.

    slope: z per sqrt(token) at share 1, se its standard error: 1.645 of them are taken off, so that the power is
    at least this with 95 % confidence. statistics: how many e-values are averaged, one of which sees the effect.
    decoys: of the rank test. The wrong side of a two-sided test is not counted. Raises ValueError on shares
    outside [0, 1], alpha outside (0, 1), exponents outside (0, 1], negative tokens, se, or NaN.
    """
    _check(alpha, test, statistics, decoys)
    sure = _sure(slope, se, exponent)
    if not 0 <= share <= 1 or not tokens >= 0:
        raise ValueError(f"power needs a share from 0 to 1 and tokens >= 0, found share {share} and {tokens} tokens")
    shift = sure * share**exponent * math.sqrt(tokens)
    side = alpha / 2 if two_sided else alpha
    if test != "rank":
        at = threshold_z(alpha, test=test, two_sided=two_sided, statistics=statistics)
        return float(ndtr(shift - at))
    passed = _decoys_passed(side, decoys)
    if passed < 0:
        return 0.0
    # the decoy total to beat is the (passed + 1)-th largest of m normals: its upper tail is Beta distributed
    tails = beta.ppf((_NODES + 1) / 2, passed + 1, decoys - passed)
    return float(_WEIGHTS @ ndtr(shift + ndtri(tails))) / 2


def tokens_needed(
    slope: float,
    share: float,
    alpha: float,
    power: float,
    *,
    test: Test = "exact",
    se: float = 0.0,
    exponent: float = 1.0,
    two_sided: bool = False,
    statistics: int = 1,
    decoys: int = 999,
) -> int | None:
    """The fewest probe tokens that give `power`; None if no number does (no effect, a slope not surely above 0,
    too few decoys for alpha). Options and errors as in `power_of`; power must lie in (0, 1).
    """
    _check(alpha, test, statistics, decoys)
    sure = _sure(slope, se, exponent)
    shift = _shift_needed(alpha, power, test=test, two_sided=two_sided, statistics=statistics, decoys=decoys)
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, found {share}")
    per_root: float = sure * share**exponent
    if not per_root or shift == math.inf or shift / per_root > math.sqrt(_MOST_TOKENS):
        return None
    return math.ceil((shift / per_root) ** 2)


def smallest_share(
    slope: float,
    tokens: float,
    alpha: float,
    power: float,
    *,
    test: Test = "exact",
    se: float = 0.0,
    exponent: float = 1.0,
    two_sided: bool = False,
    statistics: int = 1,
    decoys: int = 999,
) -> float | None:
    """The smallest share found with `power` from `tokens` probe tokens; None if even share 1 would not be.

    What a negative result had the power to see. Options and errors as in `power_of`.
    """
    _check(alpha, test, statistics, decoys)
    sure = _sure(slope, se, exponent)
    shift = _shift_needed(alpha, power, test=test, two_sided=two_sided, statistics=statistics, decoys=decoys)
    if not tokens >= 0:
        raise ValueError(f"tokens must be 0 or more, found {tokens}")
    whole = sure * math.sqrt(tokens)
    if not whole or shift > whole:
        return None
    return float((shift / whole) ** (1 / exponent))


def _shift_needed(alpha: float, power: float, *, test: Test, two_sided: bool, statistics: int, decoys: int) -> float:
    """The μ at which the test has `power`; inf if it can never reject, 0 if chance alone is enough."""
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1, found {power}")
    at = threshold_z(alpha, test=test, two_sided=two_sided, statistics=statistics, decoys=decoys)
    if test != "rank" or at == math.inf:
        return max(0.0, at + float(ndtri(power)))

    def gap(shift: float) -> float:
        found = power_of(shift, 1.0, 1.0, alpha, test="rank", two_sided=two_sided, decoys=decoys)
        return found - power

    return float(brentq(gap, 0.0, at + 20.0)) if gap(0.0) < 0 else 0.0


def _decoys_passed(alpha: float, decoys: int) -> int:
    """How many of the decoys may lie above a total that still has (1 + b) / (1 + m) <= alpha; -1 if none may."""
    return min(math.floor(alpha * (1 + decoys) * (1 + 1e-12)), decoys) - 1


def _evalue_threshold(goal: float) -> float:
    def gap(z: float) -> float:
        return float(logsumexp(_GRID * z - _GRID**2 / 2)) - math.log(len(_GRID)) - goal

    return float(brentq(gap, 0.0, 2 * math.sqrt(goal + 10) + goal / 64 + 10))


def _check(alpha: float, test: Test, statistics: int, decoys: int) -> None:
    if test not in get_args(Test):
        raise ValueError(f"test must be one of {', '.join(get_args(Test))}, found {test!r}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    if statistics < 1 or decoys < 1:
        raise ValueError(f"statistics and decoys must be 1 or more, found {statistics} and {decoys}")


def _sure(slope: float, se: float, exponent: float) -> float:
    """The slope with caution taken off, never below 0."""
    if not math.isfinite(slope) or not (math.isfinite(se) and se >= 0):
        raise ValueError(f"a slope and its standard error must be finite, the error >= 0, found {slope} and {se}")
    if not 0 < exponent <= 1:
        raise ValueError(f"the exponent of the share must lie in (0, 1], found {exponent}")
    return max(0.0, slope - _CAUTION * se)
