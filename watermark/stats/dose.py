"""From an effect to a share: how much of the training text was marked, read off students whose share is known.

The curve. A share x has mean effect f(x), f(0) = 0 (under an independent key nothing leans either way), f growing.
Measured effects (z 3.2, 9.1, 25, 41 at shares 1, 5, 20, 100 %) rise ever more slowly and are no power of the share:
the log-log slopes between neighbours are .65, .73 and .31. So f passes through the mean of the controls at each share,
made monotone, which no model can spoil where the controls stand; only *between* them a model is needed, and there f
is linear in share^b, b fitted to the same means (b = 1 is the chord, which for a concave curve lies low). Beyond the
largest share nothing was calibrated: the limits then read "at least".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

Floats = NDArray[np.float64]
Matrix = tuple[tuple[float, float], tuple[float, float]]
_GRID = np.unique(np.concatenate([np.linspace(0, 1, 501), np.geomspace(1e-5, 1, 801)]))  # shares tried
_CURVED = (0.3, 1.0)  # exponents b considered


class CannotCalibrate(ValueError):
    """The controls do not say which share an effect means."""


@dataclass(frozen=True)
class Control:
    """A student whose marked share is known: its effect and the effect's standard error under the null law."""

    share: float
    effect: float
    se: float


@dataclass(frozen=True)
class Dose:
    """An estimated share of marked text with its interval, all in [0, 1].

    level: coverage of low..high. effect, se: what was read from the suspect. between: the standard deviation
    between students of that share, beyond se. beyond: the effect lies above all controls, so `share` is the
    largest calibrated one and high is 1. ambient: the same estimate for what anyone may have been exposed to
    (controls, public text, another key), if given.
    """

    share: float
    low: float
    high: float
    level: float
    effect: float
    se: float
    between: float
    beyond: bool = False
    ambient: Dose | None = None

    @property
    def above_ambient(self) -> bool | None:
        """Whether the interval lies wholly above the ambient one; None without an ambient estimate."""
        return None if self.ambient is None else self.low > self.ambient.high


@dataclass(frozen=True)
class Calibration:
    """The curve f and its uncertainty, from `calibrate`.

    shares: (j,) distinct, rising, from 0. effects: (j,) f there, rising. errors: (j,) standard errors of f.
    exponent: b of the interpolation. floor, relative: between-student sd at share x is
    sqrt(floor² + (relative f(x))²). doubt: covariance matrix (2, 2) of the estimates of floor² and relative².
    controls: how many were used.
    """

    shares: tuple[float, ...]
    effects: tuple[float, ...]
    errors: tuple[float, ...]
    exponent: float
    floor: float
    relative: float
    doubt: Matrix
    controls: int

    def expected(self, shares: ArrayLike) -> Floats:
        """f at each share; constant beyond the largest calibrated one."""
        at = np.asarray(shares, dtype=np.float64) ** self.exponent
        return np.asarray(np.interp(at, np.array(self.shares) ** self.exponent, self.effects))

    def freedom(self, shares: ArrayLike, se: float) -> Floats:
        """Degrees of freedom behind se² + between(x)² as an estimated variance, at least 1.

        Satterthwaite 1946: 2 V² over the variance of V's estimate. Few where students differ much and few showed
        it; many where se, which is known, is most of V.
        """
        slope = np.stack([np.ones(np.shape(shares)), self.expected(shares) ** 2], axis=-1)
        doubt = np.einsum("...i,ij,...j->...", slope, np.array(self.doubt), slope)
        variance = se**2 + self.between(shares) ** 2
        return np.asarray(np.clip(2 * variance**2 / np.maximum(doubt, 1e-300), 1.0, 1e6))

    def between(self, shares: ArrayLike) -> Floats:
        """Standard deviation between students of the same share, beyond their own standard errors."""
        return np.asarray(np.hypot(self.floor, self.relative * self.expected(shares)))

    def dose(
        self, effect: float, se: float, *, level: float = 0.95, ambient: tuple[float, float] | None = None
    ) -> Dose:
        """The share that `effect` ± `se` means; ambient: another (effect, se) to report beside it.

        The interval holds every share x whose prediction the effect does not contradict (calibration by
        inversion, Fieller 1954; Eisenhart 1939):
            |effect - f(x)| <= t · sqrt(se² + between(x)² + error of f(x)²),
        t Student's quantile at `freedom(x)`. The upper limit is read from max(effect, 0): luck below zero never
        makes it tighter than an effect of zero would. Raises ValueError unless effect and se > 0 are finite.
        """
        if not (math.isfinite(effect) and math.isfinite(se) and se > 0):
            raise ValueError(f"a dose needs a finite effect and a standard error above 0, found {effect} and {se}")
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, found {level}")
        grid = np.union1d(_GRID, self.shares)
        curve, quantile = self.expected(grid), student_t.ppf((1 + level) / 2, self.freedom(grid, se))
        spread = quantile * np.sqrt(se**2 + self.between(grid) ** 2 + self._error(grid) ** 2)
        possible_low = grid[curve + spread >= effect]
        possible_high = grid[curve - spread <= max(effect, 0.0)]
        top = self.shares[-1]
        share, low, high = self._invert(effect), float(min(possible_low, default=top)), float(possible_high[-1])
        beside = None if ambient is None else self.dose(*ambient, level=level)
        return Dose(
            share=share,
            low=min(low, share),
            high=max(high, share),
            level=level,
            effect=effect,
            se=se,
            between=float(self.between(share)),
            beyond=top < 1 and effect > self.effects[-1],
            ambient=beside,
        )

    def _error(self, shares: Floats) -> Floats:
        """Standard error of f: that of the two neighbouring means, as the interpolation weighs them."""
        at, knots = shares**self.exponent, np.array(self.shares) ** self.exponent
        right = np.clip(np.searchsorted(knots, at), 1, len(knots) - 1)
        weight = np.clip((at - knots[right - 1]) / (knots[right] - knots[right - 1]), 0, 1)
        errors = np.array(self.errors)
        return np.asarray(np.hypot((1 - weight) * errors[right - 1], weight * errors[right]))

    def _invert(self, effect: float) -> float:
        """The share with f = effect; the middle of them on a level stretch."""
        curve = np.array(self.effects)
        knots = np.array(self.shares) ** self.exponent
        if effect <= curve[0]:
            return 0.0
        if effect > curve[-1]:
            return self.shares[-1]
        right = int(np.searchsorted(curve, effect, side="left"))
        first = knots[right - 1] + (knots[right] - knots[right - 1]) * (
            (effect - curve[right - 1]) / (curve[right] - curve[right - 1])
        )
        last = knots[int(np.searchsorted(curve, effect, side="right")) - 1] if effect == curve[right] else first
        return float(min(1.0, ((first + max(first, last)) / 2) ** (1 / self.exponent)))


def calibrate(controls: Sequence[Control]) -> Calibration:
    """Fits the curve and the between-student spread to students of known share; 12 to 30 of them serve well.

    At least 3 distinct shares, 0 among them, at least 3 repeats in all (students beyond the first of each
    positive share, and all of share 0), effects that grow with the share. Raises CannotCalibrate in words
    otherwise, ValueError on values that are not numbers or shares outside [0, 1].

    Spread: the variance of a control is se² + floor² + (relative · f)², both found by restricted maximum
    likelihood about the means (Patterson and Thompson 1971); about 0 at share 0, since f(0) = 0 is known.
    """
    _check(controls)
    found = sorted(controls, key=lambda control: control.share)
    shares = np.array([control.share for control in found])
    effects = np.array([control.effect for control in found])
    noise = np.array([control.se for control in found]) ** 2
    knots, group = np.unique(shares, return_inverse=True)
    repeats = len(found) - (len(knots) - 1)
    if repeats < 3:
        raise CannotCalibrate(
            f"{len(found)} controls at {len(knots)} shares leave {repeats} repeats to tell how much students of one "
            "share differ, need 3; train more students at the same shares, or more without marked text"
        )
    plain, errors = _group_means(effects, noise, group)
    level = _rising(plain, errors)
    floor, relative = _spread(effects, noise, group, level)
    variances = noise + floor**2 + (relative * level[group]) ** 2
    means, errors = _group_means(effects, variances, group)
    _check_growth(knots, means, errors)
    curve = _rising(means, errors)
    return Calibration(
        shares=tuple(knots.tolist()),
        effects=tuple(curve.tolist()),
        errors=tuple(errors.tolist()),
        exponent=_exponent(knots[1:], curve[1:], errors[1:]),
        floor=floor,
        relative=relative,
        doubt=_doubt(variances, group, level),
        controls=len(found),
    )


def _rising(means: Floats, errors: Floats) -> Floats:
    """The means made monotone from 0 on, by pooling neighbours that fall (Ayer et al. 1955)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, shares in it
    for mean, error in zip(means[1:].tolist(), errors[1:].tolist()):
        pool = (mean, error**-2, 1)
        while pools and pools[-1][0] >= pool[0]:
            before = pools.pop()
            weight = before[1] + pool[1]
            pool = ((before[0] * before[1] + pool[0] * pool[1]) / weight, weight, before[2] + pool[2])
        pools.append(pool)
    return np.array([0.0] + [max(0.0, mean) for mean, _, size in pools for _ in range(size)])


def _group_means(effects: Floats, variances: Floats, group: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Weighted mean and its standard error for each share; share 0 has mean 0, known."""
    weights = 1 / variances
    total = np.bincount(group, weights)
    means, errors = np.bincount(group, weights * effects) / total, np.sqrt(1 / total)
    means[0] = errors[0] = 0.0
    return means, errors


def _spread(effects: Floats, noise: Floats, group: NDArray[np.intp], level: Floats) -> tuple[float, float]:
    """Between-student spread (floor, relative) of largest restricted likelihood, on a grid of 41 x 41.

    level: (j,) the curve at each share, to which `relative` refers.
    """
    scale = float(np.sqrt(np.mean((effects - level[group]) ** 2)))
    floors = np.concatenate([[0.0], np.geomspace(0.02, 4, 40)]) * scale
    relatives = np.concatenate([[0.0], np.geomspace(0.005, 2, 40)])
    between = floors[:, None, None] ** 2 + (relatives[:, None] * level[group]) ** 2
    weights = 1 / (noise + between)  # (41, 41, n)
    member = np.eye(len(level))[group]
    total = weights @ member
    means = (weights * effects) @ member / total
    means[..., 0] = 0.0
    misfit = (weights * (effects - means[..., group]) ** 2 - np.log(weights)).sum(axis=-1)
    likelihood = -(misfit + np.log(total[..., 1:]).sum(axis=-1)) / 2
    best = np.unravel_index(int(likelihood.argmax()), likelihood.shape)
    return float(floors[best[0]]), float(relatives[best[1]])


def _doubt(
    variances: Floats, group: NDArray[np.intp], level: Floats
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Covariance of the estimates of (floor², relative²): the inverse of their Fisher information.

    A control counts for (n_j - 1)/n_j at a share with n_j, whose mean was fitted, and fully at share 0.
    """
    size = np.bincount(group)[group]
    counted = np.where(group > 0, (size - 1) / size, 1.0) / (2 * variances**2)
    slopes = np.stack([np.ones(len(group)), level[group] ** 2])
    inverse = np.linalg.pinv((slopes * counted) @ slopes.T)
    (a, b), (c, d) = inverse.tolist()
    return (a, b), (c, d)


def _exponent(knots: Floats, curve: Floats, errors: Floats) -> float:
    """b of the closest a · share^b, weighted by the relative errors of the means, kept within (.3, 1)."""
    used = curve > 0
    if used.sum() < 2:
        return 1.0
    x, y = np.log(knots[used]), np.log(curve[used])
    weights = 1 / ((errors[used] / curve[used]) ** 2 + 0.01)
    x = x - np.average(x, weights=weights)
    spread = float((weights * x * x).sum())
    slope = float((weights * x * y).sum()) / spread if spread else 1.0
    return min(max(slope, _CURVED[0]), _CURVED[1])


def _check(controls: Sequence[Control]) -> None:
    for control in controls:
        if not (math.isfinite(control.effect) and math.isfinite(control.se) and control.se > 0):
            raise ValueError(f"a control's effect must be finite and its standard error above 0, found {control}")
        if not 0 <= control.share <= 1:
            raise ValueError(f"a share lies between 0 and 1, found {control.share}")
    shares = {control.share for control in controls}
    if len(shares) < 3 or 0 not in shares:
        listed = ", ".join(f"{share:g}" for share in sorted(shares)) or "none"
        raise CannotCalibrate(
            f"controls at shares {listed}; a dose needs at least 3 distinct shares, 0 among them: "
            "train students on other shares of marked text"
        )


def _check_growth(knots: Floats, means: Floats, errors: Floats) -> None:
    """The largest share must show an effect, and effects must not fall by more than chance."""
    if means[-1] < 3 * errors[-1]:
        raise CannotCalibrate(
            f"students of share {knots[-1]:g} show an effect of {means[-1]:.3g} ± {errors[-1]:.2g}, too close to 0 to "
            "tell shares apart; use more probe tokens or larger shares"
        )
    falls = np.diff(means) / np.hypot(errors[1:], errors[:-1])
    worst = int(falls.argmin())
    if falls[worst] < -3:
        raise CannotCalibrate(
            f"the effect falls from {means[worst]:.3g} at share {knots[worst]:g} to {means[worst + 1]:.3g} at "
            f"{knots[worst + 1]:g}, more than chance allows; the controls were not made alike"
        )
