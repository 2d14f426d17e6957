"""Graded scores: the law of S = Σ k_i X_i where each X_i is a whole number 0 ... L with one exact law.

Bernoulli bits are the case L = 1 and keep their own file (`weighted`); the identity there carries this one too. With
K(λ) = Σ log E e^{λ k_i X} and P_λ the tilted law, P(S >= s) = e^{K(λ) - λ s} Σ_{x >= 0} e^{-λ x} P_λ(S = s + x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .laws import Alternative, Bernoulli, Law
from .weighted import SumLaw, WeightedSum, solved

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from .weighted import Floats, Ints

_NEGLIGIBLE = 50.0  # a characteristic function below e^-50 = 2e-22 is left out
_ALIASED = math.log(1e-14)  # tilted probability allowed to wrap around the grid
_WIDEST = 1 << 24  # points of the frequency grid
_MOST_FACTORS = 1 << 27  # terms of the characteristic function evaluated for one tail: some seconds
_TRANSFORM = 8  # a transform of M points costs about as much as so many terms for each
_BLOCK = 1 << 20
_STEEPEST = 600.0  # exponents of a tilt, so that no chance becomes zero
_LOG10 = math.log(10)


@dataclass(frozen=True)
class Levels:
    """Scores 0 ... L; `chances` are those of each, (L + 1,), and add up to 1.

    Raises ValueError for chances that are no distribution, or where score 0 or L cannot occur.
    """

    chances: tuple[float, ...]

    def __post_init__(self) -> None:
        given = np.asarray(self.chances, dtype=np.float64)
        if given.ndim != 1 or len(given) < 2 or not np.isfinite(given).all() or (given < 0).any():
            raise ValueError("a law of levels needs the chances of two or more scores, none of them negative")
        if abs(math.fsum(self.chances) - 1) > 1e-12:
            raise ValueError(f"the chances of all levels add up to 1, found {math.fsum(self.chances)}")
        if not (given[0] > 0 and given[-1] > 0):
            raise ValueError("the lowest and the highest level must have a chance above 0")

    @property
    def highest(self) -> int:
        return len(self.chances) - 1

    @cached_property
    def mean(self) -> float:
        return math.fsum(level * chance for level, chance in enumerate(self.chances))

    @cached_property
    def variance(self) -> float:
        return math.fsum((level - self.mean) ** 2 * chance for level, chance in enumerate(self.chances))

    def log10_pvalue(self, total: float, n: int, *, alternative: Alternative = "greater") -> float:
        """Exact p-value of `total`, the sum of n scores; as `Bernoulli.log10_pvalue`. Raises ValueError."""
        return LevelSum.of(n, self).log10_pvalue(total, alternative=alternative)

    def log10_chernoff(self, total: int, n: int) -> float:
        """Chernoff's bound on log10 P(S >= total), 0 at or below the mean; never below the exact tail."""
        return LevelSum.of(n, self).log10_chernoff(total)

    def interval(self, total: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
        """An interval for the mean score, from the laws that tilt this one (chances times e^{θ score}).

        Its ends are the means of the two tilted laws that put (1 - level)/2 beyond `total`; of two levels this is
        Clopper and Pearson's interval. Exact within that family; a law of another shape it describes.
        """
        log_tail = math.log10((1 - level) / 2)
        low, high = 0.0, float(self.highest)
        if total > 0:
            low = self._mean_where(lambda law: law.log10_pvalue(total, n) - log_tail)
        if total < n * self.highest:
            high = self._mean_where(lambda law: log_tail - law.log10_pvalue(total, n, alternative="less"))
        return low, high

    def detectable(self, n: int, *, alpha: float, power: float = 0.9) -> float | None:
        """The smallest mean score of a tilted law that a level-alpha test on n cells finds with probability `power`.

        None if even the highest score in every cell would not be found.
        """
        needed = self._smallest_significant(n, math.log10(alpha))
        if needed > n * self.highest:
            return None
        return self._mean_where(lambda law: law.log10_pvalue(needed, n) - math.log10(power))

    def tilted(self, theta: float) -> Levels:
        """The law with chances in proportion to chance · e^{θ score}."""
        steep = theta * np.arange(len(self.chances))
        made = np.asarray(self.chances) * np.exp(steep - steep.max())
        return Levels(tuple((made / made.sum()).tolist()))

    def _mean_where(self, gap: Callable[[Levels], float]) -> float:
        """The mean of the tilted law at which `gap`, growing with the tilt, is zero; an end if it is zero nowhere."""
        from scipy.optimize import brentq

        bound = _STEEPEST / self.highest
        if gap(self.tilted(-bound)) >= 0:
            return 0.0
        if gap(self.tilted(bound)) <= 0:
            return float(self.highest)
        theta = brentq(lambda theta: gap(self.tilted(theta)), -bound, bound, xtol=1e-12, rtol=1e-9)
        return self.tilted(float(theta)).mean

    def _smallest_significant(self, n: int, log10_alpha: float) -> int:
        """The smallest total whose exact upper tail is at most alpha; one above the highest if there is none."""
        law = LevelSum.of(n, self)
        low, high = math.floor(law.mean), law.highest + 1
        step = max(1, math.ceil(law.sd))
        while low + step < high and law.log10_pvalue(low + step) > log10_alpha:
            low, step = low + step, 2 * step
        high = min(high, low + step)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if law.log10_pvalue(middle) <= log10_alpha else (middle, high)
        return high


@dataclass(frozen=True, eq=False)
class LevelSum(SumLaw):
    """The law of S = Σ k_i X_i, the X_i independent with law `law`. weights: as of `WeightedSum`.

    The exact tail is given unless the lattice is too large (more than 2^24 frequencies, or 2^27 terms of the
    characteristic function); then Chernoff's bound stands in, and `tail` says so.
    """

    weights: NDArray[np.int32]
    law: Levels

    def __post_init__(self) -> None:
        found = np.asarray(self.weights)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise ValueError(f"weights must be integers in one dimension, found {found.dtype} {found.shape}")

    @classmethod
    def of(cls, n: int, law: Levels) -> LevelSum:
        """The law of the sum of n scores."""
        made = cls(np.broadcast_to(np.int32(1), n), law)
        some = min(1, n)
        made.__dict__["_grouped"] = np.ones(some, dtype=np.int64), np.full(some, float(n))
        return made

    @property
    def most(self) -> int:
        return self.law.highest

    @property
    def mean(self) -> float:
        return self.law.mean * self._moments[0]

    @property
    def variance(self) -> float:
        return self.law.variance * self._moments[1]

    def log_mgf(self, bets: ArrayLike) -> Floats:
        """ψ(λ) = log E exp(λ (S - mean)) of each bet λ, shape as `bets`."""
        values, counts = self._grouped
        lambdas = np.asarray(bets, dtype=np.float64)
        found = [float(self._log_mgfs(bet * values) @ counts) for bet in lambdas.reshape(-1)]
        return np.array(found).reshape(lambdas.shape)

    def decay(self, size: int, places: Ints, counts: Floats) -> Floats:
        chances = np.broadcast_to(np.asarray(self.law.chances), (len(places), self.most + 1))
        return _decay(places, counts, chances, size)

    def log_factors(self, size: int, places: Ints, frequencies: Ints) -> NDArray[np.complex128]:
        chances = np.bincount(np.arange(self.most + 1) % size, weights=self.law.chances, minlength=size)
        of_one = np.fft.fft(chances).conj()
        return _log(of_one[frequencies[:, None] * (places % size) % size])

    def _same(self) -> LevelSum:
        return LevelSum(self.weights, self.law)

    def _log_mgfs(self, exponents: NDArray[Any]) -> Floats:
        """log E exp(x (X - mean)) for each x of `exponents` (j,), without overflow and exact near 0."""
        centred = np.arange(self.most + 1) - self.law.mean
        terms = np.multiply.outer(exponents, centred)
        chances = np.asarray(self.law.chances)
        largest = terms.max(axis=-1, initial=0.0)
        small: Floats = np.log1p(np.expm1(np.minimum(terms, 30.0)) @ chances)
        if not (largest > 30.0).any():
            return small
        large: Floats = largest + np.log(np.exp(terms - largest[..., None]) @ chances)
        return np.where(largest > 30.0, large, small)

    def _log_all(self) -> float:
        """log of the chance that every positive weight meets the highest score and every negative one a 0."""
        values, counts = self._grouped
        up, down = float(counts[values > 0].sum()), float(counts[values < 0].sum())
        return up * math.log(self.law.chances[-1]) + down * math.log(self.law.chances[0])

    def _log_chernoff(self, total: int) -> float:
        if total <= self.mean:
            return 0.0
        if total >= self.highest:
            return self._log_all()
        values, counts = self._grouped
        bet = self._tilt(values, total - self.mean)
        return min(0.0, float(self._log_mgfs(bet * values) @ counts) - bet * (total - self.mean))

    def _log_exact(self, total: int) -> float | None:
        if total > self.highest:
            return -math.inf
        values, counts = self._grouped
        unit = int(np.gcd.reduce(values))
        values, total = values // unit, -(-total // unit)
        if total >= self.highest // unit:
            return self._log_all()
        excess = total - self.mean / unit
        bet = self._tilt(values, excess)
        series = _tilted_series(values, counts, self._tilted_chances(bet * values), bet, total)
        if series is None:
            return None
        return float(self._log_mgfs(bet * values) @ counts) - bet * excess + math.log(series)

    def _tilted_chances(self, exponents: NDArray[Any]) -> Floats:
        """(j, L + 1): the law of a cell's score under each tilt x, in proportion to chance · e^{x score}."""
        steep = np.multiply.outer(exponents, np.arange(self.most + 1))
        made = np.asarray(self.law.chances) * np.exp(steep - steep.max(axis=1, keepdims=True))
        found: Floats = made / made.sum(axis=1, keepdims=True)
        return found

    def _tilt(self, values: Ints, excess: float) -> float:
        """The λ >= 0 that moves the mean by `excess`."""
        _, counts = self._grouped
        levels = np.arange(self.most + 1) - self.law.mean
        weighted = counts * values

        def off(bet: float) -> tuple[float, float]:
            chances = self._tilted_chances(bet * values)
            means = chances @ levels
            variances = np.maximum(chances @ levels**2 - means**2, 0.0)
            return float(weighted @ means) - excess, float((weighted * values) @ variances)

        start = excess / (self.law.variance * float(weighted @ values))
        return solved(off, min(start, 1 / float(np.abs(values).max())))


def sum_of(weights: NDArray[np.int32], law: float | Law) -> SumLaw:
    """The law of Σ k_i X_i under the law of one score; a number is the chance of a green bit."""
    if isinstance(law, Levels):
        return LevelSum(weights, law)
    return WeightedSum(weights, law if isinstance(law, (int, float)) else law.mean)


def count_of(cells: int, law: float | Law) -> SumLaw:
    """The law of the total score of `cells` cells of which each counts once: `sum_of` ones, without their array."""
    found = sum_of(np.broadcast_to(np.int32(1), cells), law)
    some = min(1, cells)
    found.__dict__["_grouped"] = np.ones(some, dtype=np.int64), np.full(some, float(cells))
    return found


def law_of(chances: list[float] | None, gamma: float) -> Bernoulli | Levels:
    """The law that evidence states: of graded scores by their chances, else a bit that is 1 with chance gamma."""
    return Bernoulli(gamma) if chances is None else Levels(tuple(chances))


def _tilted_series(values: Ints, counts: Floats, chances: Floats, bet: float, total: int) -> float | None:
    """Σ_{x >= 0} e^{-λ x} P_λ(S = total + x), as `weighted._tilted_series` does it for bits.

    chances: (j, L + 1), the tilted law of the cells of each weight. Left out are frequencies where `_decay` shows
    |φ| < e^-50; M is doubled until Chernoff's bound on the tilted mass beyond M/2 is under 1e-14.
    """
    size = _grid_size(values, counts, chances, total)
    if size is None:
        return None
    kept = np.flatnonzero(_decay(values, counts, chances, size) < _NEGLIGIBLE)
    if len(values) * min(len(kept) * chances.shape[1], _TRANSFORM * size) > _MOST_FACTORS:
        return None
    middle = np.rint(chances @ np.arange(chances.shape[1])).astype(np.int64)  # levels counted from there: small angles
    log_phi = _log_characteristic(values, counts, chances, middle, kept, size)
    left = total - int((values * middle) @ counts.astype(np.int64))
    exponent = bet + 2j * np.pi * kept / size
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        series = np.expm1(-exponent * (size // 2)) / np.expm1(-exponent)
    series[exponent == 0] = size // 2
    terms = (np.exp(log_phi - 2j * np.pi * (kept * (left % size) % size) / size) * series).real
    both = np.where((kept == 0) | (2 * kept == size), 1.0, 2.0)  # θ and -θ are conjugate
    found = float(terms @ both) / size
    return found if found > 0 else None


def _decay(places: Ints, counts: Floats, chances: Floats, size: int) -> Floats:
    """A lower bound of -log |φ(2π m / size)|, m = 0 ... size/2, by one FFT.

    |φ_j(θ)|² = Σ_d r_jd cos(θ k_j d), r_j the autocorrelation of cell j's chances, and log y <= y - 1:
    log |φ(θ)| <= -Σ_j n_j Σ_{d > 0} r_jd (1 - cos θ k_j d).
    """
    levels = chances.shape[1]
    spectrum = np.fft.rfft(chances, 2 * levels, axis=1)
    lagged = np.maximum(np.fft.irfft(np.abs(spectrum) ** 2, 2 * levels, axis=1)[:, 1:levels], 0.0)
    spread = counts[:, None] * lagged
    at = np.multiply.outer(places, np.arange(1, levels)) % size
    histogram = np.bincount(at.reshape(-1), weights=spread.reshape(-1), minlength=size)
    found: Floats = spread.sum() - np.fft.rfft(histogram).real
    return found


def _grid_size(values: Ints, counts: Floats, chances: Floats, total: int) -> int | None:
    """The number of frequencies M, a power of two; None if it would have to be above 2^24."""
    levels = np.arange(chances.shape[1])
    means = chances @ levels
    centred = levels - means[:, None]
    reach = (chances.shape[1] - 1) * int(np.abs(values) @ counts.astype(np.int64)) + 1
    centre = float((counts * values) @ means)
    sd = math.sqrt(float((counts * values.astype(np.float64) ** 2) @ (chances * centred**2).sum(axis=1)))
    size = 64
    while size < min(2 * reach, 80 * sd):
        size *= 2
    while size <= _WIDEST:
        if size >= 2 * reach:
            return size
        away = size / 2 - abs(total - centre) - 1
        if max(_log_beyond(side, counts, chances, centred, away, sd) for side in (values, -values)) < _ALIASED:
            return size
        size *= 2
    return None


def _log_beyond(values: Ints, counts: Floats, chances: Floats, centred: Floats, away: float, sd: float) -> float:
    """A bound on log P(Σ k X - mean >= away) of the tilted cells: the best of a few λ."""
    best = 0.0
    for bet in np.array([0.5, 1, 2, 4, 8, 16]) / sd if sd else ():
        exponents = bet * values[:, None] * centred
        if exponents.max() > _STEEPEST:
            break
        factors = np.log((chances * np.exp(exponents)).sum(axis=1))
        best = min(best, float(counts @ factors) - float(bet) * away)
    return best


def _log_characteristic(
    values: Ints, counts: Floats, chances: Floats, middle: Ints, frequencies: Ints, size: int
) -> NDArray[np.complex128]:
    """Σ n_j log E e^{iθ k_j (X - middle_j)} at θ = 2π m / size, m in `frequencies`."""
    places = values[:, None] * (np.arange(chances.shape[1]) - middle[:, None]) % size
    if len(frequencies) * chances.shape[1] > _TRANSFORM * size:
        return _transformed(places, counts, chances, frequencies, size)
    found = np.empty(len(frequencies), dtype=np.complex128)
    rows = max(1, _BLOCK // places.size)
    for start in range(0, len(frequencies), rows):
        some = frequencies[start : start + rows, None, None]
        turns = some * places % size
        turns = np.where(2 * turns > size, turns - size, turns)  # small angles stay small
        angles = turns * (2 * np.pi / size)
        real = -2 * (np.sin(angles / 2) ** 2 * chances).sum(axis=2)
        imaginary = (np.sin(angles) * chances).sum(axis=2)
        with np.errstate(divide="ignore"):
            moduli = np.log1p(np.maximum(2 * real + real**2 + imaginary**2, -1.0)) / 2
        found[start : start + rows] = moduli @ counts + 1j * (np.arctan2(imaginary, 1 + real) @ counts)
    return found


def _transformed(places: Ints, counts: Floats, chances: Floats, frequencies: Ints, size: int) -> NDArray[np.complex128]:
    """The same, each weight at all frequencies by one FFT: where nearly all of them are needed."""
    found = np.zeros(len(frequencies), dtype=np.complex128)
    for at, count, chance in zip(places, counts, chances, strict=True):
        masses = np.bincount(at, weights=chance, minlength=size)
        found += count * _log(np.fft.rfft(masses).conj()[frequencies])
    return found


def _log(values: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The logarithm, of 0 that of 1e-300: finite, so that multiples of it are numbers."""
    found: NDArray[np.complex128] = np.log(np.where(values == 0, 1e-300, values))
    return found
