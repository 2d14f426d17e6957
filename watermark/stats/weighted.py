"""The law of S = Σ k_i B_i, integer weights on independent green bits: exact tails, Chernoff's bound, e-values.

One identity carries the file. With K(λ) = Σ log(1 - γ + γ e^{λ k_i}) and P_λ the law tilted by e^{λ S - K(λ)},

    P(S >= s) = e^{K(λ) - λ s} Σ_{x >= 0} e^{-λ x} P_λ(S = s + x)        for every λ  (Esscher 1932).

At the λ with K'(λ) = s the tilted law is centred at s, so the sum is an ordinary number however deep the tail.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .laws import Alternative

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["exact lattice", "Chernoff bound"]

_LOG10 = math.log(10)
_GRID = np.sqrt(2.0) ** np.arange(15)  # λ sd of the e-value's bets: 1, 1.4, ..., 128
_NEGLIGIBLE = 50.0  # a characteristic function below e^-50 = 2e-22 is left out
_ALIASED = math.log(1e-14)  # tilted probability allowed to wrap around the grid
_PINNED = 1e-22  # cells that the tilt leaves less random than this count as constants
_WIDEST = 1 << 24  # points of the frequency grid
_MOST_FACTORS = 1 << 26  # characteristic-function factors evaluated for one tail: about 5 s
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Tail:
    """One p-value and how it came: log10_p is exact ("exact lattice") or an upper bound ("Chernoff bound")."""

    log10_p: float
    method: Method


class SumLaw(ABC):
    """What can be asked of the law of a sum S = Σ k_i X_i of integer weights on independent scores 0 ... `most`."""

    weights: NDArray[np.int32]

    @property
    @abstractmethod
    def most(self) -> int:
        """The highest score of a cell."""

    @property
    @abstractmethod
    def mean(self) -> float: ...

    @property
    @abstractmethod
    def variance(self) -> float: ...

    @abstractmethod
    def log_mgf(self, bets: ArrayLike) -> Floats:
        """ψ(λ) = log E exp(λ (S - mean)) of each bet λ, shape as `bets`."""

    @abstractmethod
    def decay(self, size: int, places: Ints, counts: Floats) -> Floats:
        """A lower bound of -log |φ(2π m / size)|, m = 0 ... size/2, for `counts` cells of each weight in `places`."""

    @abstractmethod
    def log_factors(self, size: int, places: Ints, frequencies: Ints) -> NDArray[np.complex128]:
        """log E e^{iθ k X} at θ = 2π m / size: (m, k) for m in `frequencies` and k in `places`."""

    @abstractmethod
    def _same(self) -> SumLaw:
        """The same law, of which nothing was computed yet."""

    @abstractmethod
    def _log_chernoff(self, total: int) -> float:
        """log of Chernoff's bound on P(S >= total)."""

    @abstractmethod
    def _log_exact(self, total: int) -> float | None:
        """log P(S >= total) for a total above the mean; None if the lattice is too large."""

    @cached_property
    def _grouped(self) -> tuple[Ints, Floats]:
        """Distinct nonzero weights (j,) and the number of cells that bear each (j,)."""
        values, counts = np.unique(np.asarray(self.weights), return_counts=True)
        used = values != 0
        return values[used].astype(np.int64), counts[used].astype(np.float64)

    @cached_property
    def _moments(self) -> tuple[float, float, float]:
        values, counts = self._grouped
        squares = values.astype(np.float64) ** 2
        return float(values @ counts), float(squares @ counts), float(squares**2 @ counts)

    @property
    def effective_cells(self) -> float:
        """(Σ k²)² / Σ k⁴: how many equal weights would have as steady a variance; n if all are equal."""
        return self._moments[1] ** 2 / self._moments[2] if self._moments[2] else 0.0

    @property
    def lowest(self) -> int:
        values, counts = self._grouped
        return self.most * int(values[values < 0] @ counts[values < 0].astype(np.int64))

    @property
    def highest(self) -> int:
        values, counts = self._grouped
        return self.most * int(values[values > 0] @ counts[values > 0].astype(np.int64))

    @cached_property
    def _mirrored(self) -> SumLaw:
        """The law of -S."""
        twin, (values, counts) = self._same(), self._grouped
        twin.__dict__["_grouped"] = (-values[::-1], counts[::-1])
        return twin

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)

    def z(self, total: int) -> float:
        """(total - mean) / sd; 0 if no cell has weight."""
        return (total - self.mean) / self.sd if self.sd else 0.0

    def tail(self, total: float, *, alternative: Alternative = "greater") -> Tail:
        """The p-value of `total`, exact where the lattice allows, and the name of what it is.

        "greater": P(S >= total); "less": P(S <= total); "two-sided": twice the smaller of both, at most 1.
        Raises ValueError if no outcome of the cells could give `total`.
        """
        self._check(total, alternative)
        if alternative == "greater":
            return self._upper(int(total))
        if alternative == "less":
            return self._mirrored._upper(-int(total))
        near, far = (self, self._mirrored) if total > self.mean else (self._mirrored, self)
        at = int(total) if total > self.mean else -int(total)
        smaller = near._upper(at)
        if smaller.log10_p > math.log10(0.25):
            smaller = min(smaller, far._upper(-at), key=lambda tail: tail.log10_p)
        return Tail(min(0.0, smaller.log10_p + math.log10(2)), smaller.method)

    def log10_pvalue(self, total: float, *, alternative: Alternative = "greater") -> float:
        """log10 of `tail`: to 1e-9 relative in p, or 1e-10 relative in log10 p where very deep. Raises as it does."""
        return self.tail(total, alternative=alternative).log10_p

    def log10_chernoff(self, total: int, *, alternative: Alternative = "greater") -> float:
        """Chernoff's bound min_λ ψ(λ) - λ (total - mean) as log10; never below the exact tail.

        0 on the wrong side of the mean; "two-sided" is twice the smaller side, at most 1. Raises as `tail` does.
        """
        self._check(total, alternative)
        upper = self._log_chernoff(int(total)) / _LOG10
        if alternative == "greater":
            return upper
        lower = self._mirrored._log_chernoff(-int(total)) / _LOG10
        if alternative == "less":
            return lower
        return min(0.0, min(upper, lower) + math.log10(2))

    def log10_evalue(self, totals: ArrayLike, *, alternative: Alternative = "greater") -> Floats:
        """log10 of the e-value of each total, shape as `totals`: 1/E is a p-value by Markov's inequality.

        E = Σ_c w exp(λ_c (S - mean) - ψ(λ_c)), λ_c = c/sd for c = 1, √2, 2, ..., 128 with equal w: each term has
        mean 1, so has E. "less" bets on -λ_c, "two-sided" on both signs. Raises ValueError on NaN or infinity.
        """
        grid = signed(_GRID, alternative)
        found = np.asarray(totals, dtype=np.float64)
        if not np.isfinite(found).all():
            raise ValueError("totals must be finite numbers; found NaN or infinity")
        if not self.sd:
            return np.zeros(found.shape)
        bets = grid / self.sd
        gains = (found[..., None] - self.mean) * bets - self.log_mgf(bets)
        wealth: Floats = (np.logaddexp.reduce(gains, axis=-1) - math.log(len(bets))) / _LOG10
        return wealth

    def _check(self, total: float, alternative: Alternative) -> None:
        _check_alternative(alternative)
        if not math.isfinite(total) or int(total) != total or not self.lowest <= total <= self.highest:
            raise ValueError(
                f"total must be a whole number between {self.lowest} and {self.highest}, found {total}; "
                "it must be summed over the same cells as the weights"
            )

    def _upper(self, total: int) -> Tail:
        """P(S >= total); below the mean as 1 - P(S < total), so that the smaller tail is the one summed."""
        if total <= self.lowest:
            return Tail(0.0, "exact lattice")
        if total > self.mean:
            exact = self._log_exact(total)
            if exact is None:
                return Tail(self._log_chernoff(total) / _LOG10, "Chernoff bound")
            return Tail(min(0.0, exact / _LOG10), "exact lattice")
        below = self._mirrored._log_exact(1 - total)
        if below is None:
            return Tail(0.0, "Chernoff bound")
        return Tail(math.log1p(-math.exp(below)) / _LOG10 if below < 0 else -math.inf, "exact lattice")


@dataclass(frozen=True, eq=False)
class WeightedSum(SumLaw):
    """The law of S = Σ k_i B_i, the B_i independent Bernoulli(gamma).

    weights: (n,) integers k_i of any sign; zeros count for nothing. Totals are sums of k_i over the ones.
    Raises ValueError if weights are not a line of integers or gamma is not inside (0, 1).

    The exact tail is given unless the lattice is too large for it: a grid of more than 2^24 points (a tilted sd
    above some 200,000 units) or more than 2^26 factors (thousands of distinct weights on few random cells). Then
    Chernoff's bound stands in, and `tail` says so. A normal approximation is never used.
    """

    weights: NDArray[np.int32]
    gamma: float

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must lie between 0 and 1, found {self.gamma}")
        found = np.asarray(self.weights)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise ValueError(f"weights must be integers in one dimension, found {found.dtype} {found.shape}")

    @property
    def most(self) -> int:
        return 1

    @property
    def mean(self) -> float:
        return self.gamma * self._moments[0]

    @property
    def variance(self) -> float:
        return self.gamma * (1 - self.gamma) * self._moments[1]

    def log_mgf(self, bets: ArrayLike) -> Floats:
        """ψ(λ) = log E exp(λ (S - mean)) of each bet λ, shape as `bets`."""
        lambdas = np.asarray(bets, dtype=np.float64)
        values, counts = self._grouped
        exponents = lambdas[..., None] * values
        found: Floats = (_log_factor(exponents, self.gamma) - self.gamma * exponents) @ counts
        return found

    def decay(self, size: int, places: Ints, counts: Floats) -> Floats:
        spread = np.bincount(places % size, weights=counts * self.gamma * (1 - self.gamma), minlength=size)
        found: Floats = spread.sum() - np.fft.rfft(spread).real  # log |φ| <= -decay, by 1 - y <= e^-y
        return found

    def log_factors(self, size: int, places: Ints, frequencies: Ints) -> NDArray[np.complex128]:
        turns = frequencies[:, None] * (places % size) % size
        with np.errstate(divide="ignore"):
            found: NDArray[np.complex128] = np.log(1 - self.gamma + self.gamma * np.exp(2j * np.pi / size * turns))
        return found

    def _same(self) -> WeightedSum:
        return WeightedSum(self.weights, self.gamma)

    def _log_chernoff(self, total: int) -> float:
        """log of Chernoff's bound on P(S >= total)."""
        if total <= self.mean:
            return 0.0
        values, counts = self._grouped
        if total >= self.highest:
            return _log_all(values, counts, self.gamma)
        bet = _tilt(values, counts, self.gamma, total - self.mean)
        return min(0.0, _centred_log_mgf(values, counts, self.gamma, bet) - bet * (total - self.mean))

    def _log_exact(self, total: int) -> float | None:
        """log P(S >= total) for a total above the mean; None if the lattice is too large."""
        values, counts = self._grouped
        if total > self.highest:
            return -math.inf
        unit = int(np.gcd.reduce(values))
        values, total = values // unit, -(-total // unit)
        if total >= self.highest // unit:
            return _log_all(values, counts, self.gamma)
        excess = total - self.mean / unit
        bet = _tilt(values, counts, self.gamma, excess)
        series = _tilted_series(values, counts, self.gamma, bet, total)
        if series is None:
            return None
        return _centred_log_mgf(values, counts, self.gamma, bet) - bet * excess + math.log(series)


def signed(grid: Floats, alternative: Alternative) -> Floats:
    """Bets on the sides that `alternative` names."""
    _check_alternative(alternative)
    if alternative == "two-sided":
        return np.concatenate([-grid[::-1], grid])
    return grid if alternative == "greater" else -grid


def _check_alternative(alternative: Alternative) -> None:
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, found {alternative!r}")


def _log_all(values: Ints, counts: Floats, gamma: float) -> float:
    """log of the chance that every positive weight is drawn and no negative one."""
    return float(counts[values > 0].sum()) * math.log(gamma) + float(counts[values < 0].sum()) * math.log1p(-gamma)


def _log_factor(exponents: Floats, gamma: float) -> Floats:
    """log(1 - γ + γ e^x), without overflow and exact near 0."""
    small: Floats = np.log1p(gamma * np.expm1(np.minimum(exponents, 30.0)))
    if not exponents.size or exponents.max() <= 30.0:
        return small
    return np.where(exponents > 30.0, np.logaddexp(math.log1p(-gamma), math.log(gamma) + exponents), small)


def _centred_log_mgf(values: Ints, counts: Floats, gamma: float, bet: float) -> float:
    exponents: Floats = (bet * values).astype(np.float64)
    return float(counts @ (_log_factor(exponents, gamma) - gamma * exponents))


def _tilted_rates(values: Ints, gamma: float, bet: float) -> tuple[Floats, Floats]:
    """The tilted chances of a one and of a zero for each weight, both to full precision."""
    logit = bet * values + math.log(gamma) - math.log1p(-gamma)
    small = np.exp(-np.abs(logit))
    more, less = 1 / (1 + small), small / (1 + small)
    return np.where(logit > 0, more, less), np.where(logit > 0, less, more)


def _tilt(values: Ints, counts: Floats, gamma: float, excess: float) -> float:
    """The λ >= 0 that moves the mean by `excess`."""
    weighted = counts * values

    def off(bet: float) -> tuple[float, float]:
        ones, zeros = _tilted_rates(values, gamma, bet)
        return float(weighted @ (ones - gamma)) - excess, float((weighted * values) @ (ones * zeros))

    return solved(off, excess / (gamma * (1 - gamma) * float(weighted @ values)))


def solved(off: Callable[[float], tuple[float, float]], bet: float) -> float:
    """The λ at which a tilted mean is where it should be: Newton's method from `bet`, kept inside a bracket.

    off: λ -> (how far the tilted mean lies above its place, the tilted variance). K is convex. Any λ gives a correct
    tail and a valid bound, so 1e-9 tilted sd is close enough.
    """
    low, high = 0.0, math.inf
    for _ in range(200):
        gap, variance = off(bet)
        if abs(gap) <= 1e-9 * math.sqrt(variance):
            return bet
        low, high = (bet, high) if gap < 0 else (low, bet)
        step = bet - gap / variance if variance > 0 else math.inf
        if not low < step < min(high, 4 * bet + 1e-300):
            step = 2 * bet if high == math.inf else (low + high) / 2
        if step == bet:
            return bet
        bet = step
    return bet


def _tilted_series(values: Ints, counts: Floats, gamma: float, bet: float, total: int) -> float | None:
    """Σ_{x >= 0} e^{-λ x} P_λ(S = total + x), from the tilted characteristic function φ on M frequencies.

    Inverting φ at θ_m = 2π m / M and summing the geometric series in closed form,
        (1/M) Σ_m φ(θ_m) e^{-i θ_m total} (1 - e^{-(λ + iθ_m) M/2}) / (1 - e^{-(λ + iθ_m)}).
    Aliasing: the only error is tilted mass M/2 or more away from `total`; M is at least 80 tilted sd, and is
    doubled until Chernoff's bound on that mass is under 1e-14 (or M exceeds the whole range: then it is none).
    Left out: frequencies with |φ| < e^-50. By 1 - y <= e^-y,
        log |φ(θ)| <= -Σ_j n_j p_j q_j (1 - cos θ k_j),
    which one FFT of the weights' histogram gives at all frequencies; their sum is under 2e-22 (2 + log M).
    Pinned: weights whose cells together have tilted chance under 1e-22 to differ from their likelier value.
    """
    ones, zeros = _tilted_rates(values, gamma, bet)
    random = counts * np.minimum(ones, zeros) * len(values) > _PINNED
    fixed = ~random & (ones > zeros)
    total = total - int(values[fixed] @ counts[fixed].astype(np.int64))
    values, counts, ones, zeros = values[random], counts[random], ones[random], zeros[random]
    if not len(values):
        return 1.0 if total <= 0 else None
    spread = counts * ones * zeros
    size = _grid_size(values, counts, ones, zeros, total)
    if size is None:
        return None
    histogram = np.bincount(values % size, weights=spread, minlength=size)
    decay = spread.sum() - np.fft.rfft(histogram).real
    kept = np.flatnonzero(decay < _NEGLIGIBLE)
    if len(kept) * len(values) > _MOST_FACTORS:
        return None
    log_phi = _log_characteristic(values, counts, ones, zeros, kept, size)
    turns = kept * (total % size) % size
    exponent = bet + 2j * np.pi * kept / size
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        series = np.expm1(-exponent * (size // 2)) / np.expm1(-exponent)
    series[exponent == 0] = size // 2
    terms = (np.exp(log_phi - 2j * np.pi * turns / size) * series).real
    both = np.where((kept == 0) | (2 * kept == size), 1.0, 2.0)  # θ and -θ are conjugate
    found = float(terms @ both) / size
    return found if found > 0 else None


def _grid_size(values: Ints, counts: Floats, ones: Floats, zeros: Floats, total: int) -> int | None:
    """The number of frequencies M, a power of two; None if it would have to be above 2^24."""
    magnitude = np.abs(values)
    reach = int(magnitude @ counts.astype(np.int64)) + 1
    centre = float((counts * values) @ ones)
    sd = math.sqrt(float((counts * values.astype(np.float64) ** 2) @ (ones * zeros)))
    size = 64
    while size < min(2 * reach, 80 * sd):
        size *= 2
    while size <= _WIDEST:
        if size >= 2 * reach:
            return size
        away = size / 2 - abs(total - centre) - 1
        above, below = (_log_beyond(side, counts, ones, zeros, away, sd) for side in (values, -values))
        if max(above, below) < _ALIASED:
            return size
        size *= 2
    return None


def _log_beyond(values: Ints, counts: Floats, ones: Floats, zeros: Floats, away: float, sd: float) -> float:
    """A bound on log P(Σ k X - mean >= away), the X binomial at their own rates: the best of a few λ."""
    best = 0.0
    for bet in np.array([0.5, 1, 2, 4, 8, 16]) / sd:
        exponents = bet * values
        if exponents.max() > 600:
            break
        factors = np.log(zeros + ones * np.exp(exponents)) - ones * exponents
        best = min(best, float(counts @ factors) - float(bet) * away)
    return best


def _log_characteristic(
    values: Ints, counts: Floats, ones: Floats, zeros: Floats, frequencies: Ints, size: int
) -> NDArray[np.complex128]:
    """log φ at 2π m / size for each m of `frequencies`: Σ n_j log(q_j + p_j e^{iθ k_j})."""
    found = np.empty(len(frequencies), dtype=np.complex128)
    rows = max(1, _BLOCK // len(values))
    for start in range(0, len(frequencies), rows):
        angles = (frequencies[start : start + rows, None] * (values % size) % size) * (2 * np.pi / size)
        with np.errstate(divide="ignore"):  # a fair coin's factor is 0 at half a turn
            moduli = np.log1p(np.maximum(-4 * ones * zeros * np.sin(angles / 2) ** 2, -1.0)) / 2
        phases = np.arctan2(ones * np.sin(angles), zeros + ones * np.cos(angles))
        found[start : start + rows] = moduli @ counts + 1j * (phases @ counts)
    return found
