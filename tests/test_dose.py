"""Doses: intervals that cover, limits that stay honest at the ends, refusals in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from watermark.stats.dose import Calibration, CannotCalibrate, Control, calibrate

KNOWN = np.array([0.01, 0.05, 0.2, 1.0])
MEASURED = np.array([3.2, 9.1, 25.0, 41.0])  # z of the strongest test on students of these shares
TWENTY = [0.0] * 4 + [0.01] * 4 + [0.05] * 4 + [0.2] * 4 + [1.0] * 4
TWELVE = [0.0] * 3 + [0.01] * 3 + [0.05] * 3 + [0.2] * 3


def _effect(share: np.ndarray | float) -> np.ndarray:
    """The measured curve: linear to 1 %, then a power of the share from point to point."""
    at = np.asarray(share, dtype=float)
    curved = np.exp(np.interp(np.log(np.maximum(at, 1e-9)), np.log(KNOWN), np.log(MEASURED)))
    return np.where(at < 0.01, 320 * at, curved)


def _students(shares: Sequence[float], rng: np.random.Generator, floor: float = 0.0, relative: float = 0.0):
    """Effects of students (n,) with standard error 1 and a spread between students of one share."""
    mean = _effect(np.array(shares))
    return mean + rng.standard_normal(len(shares)) * np.sqrt(1 + floor**2 + (relative * mean) ** 2)


def _calibrated(shares: Sequence[float], effects: Sequence[float], se: float = 1.0) -> Calibration:
    return calibrate([Control(share, float(effect), se) for share, effect in zip(shares, effects)])


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return _calibrated(TWENTY, _students(TWENTY, np.random.default_rng(51), relative=0.05))


@pytest.mark.slow
@pytest.mark.parametrize("shares", [TWELVE, TWENTY], ids=["12 controls", "20 controls"])
@pytest.mark.parametrize("floor, relative", [(0.0, 0.0), (1.0, 0.0), (0.3, 0.15)])
def test_intervals_cover_the_true_share(shares, floor, relative):
    """150 calibrations, a new student of each share: 95 % intervals cover at least 93 % of 900, 90 % of each share."""
    rng, truths = np.random.default_rng(52), (0.0, 0.01, 0.05, 0.2, 0.02, 0.1)
    covered = []
    for _ in range(150):
        calibration = _calibrated(shares, _students(shares, rng, floor, relative))
        effects = _students(truths, rng, floor, relative)
        doses = [calibration.dose(float(effect), 1.0) for effect in effects]
        covered.append([dose.low <= truth <= dose.high for dose, truth in zip(doses, truths)])
    assert np.mean(covered) >= 0.93
    assert np.mean(covered, axis=0).min() >= 0.90


def test_estimates_are_near_the_truth_and_intervals_useful(calibration):
    for share, low, high in ((0.05, 0.025, 0.09), (0.2, 0.12, 0.5)):
        dose = calibration.dose(float(_effect(share)), 1.0)
        assert dose.share == pytest.approx(share, rel=0.35)
        assert low < dose.low < share < dose.high < high
    assert calibration.dose(0.0, 1.0).high < 0.02


def test_level_and_noise_widen_the_interval(calibration):
    plain = calibration.dose(9.0, 1.0)
    for wider in (calibration.dose(9.0, 1.0, level=0.99), calibration.dose(9.0, 3.0)):
        assert wider.low < plain.low < plain.share < plain.high < wider.high
        assert wider.share == plain.share


def test_spread_between_students_is_found_and_widens_the_interval():
    rng = np.random.default_rng(53)
    alike = [_calibrated(TWENTY, _students(TWENTY, rng)) for _ in range(12)]
    unlike = [_calibrated(TWENTY, _students(TWENTY, rng, relative=0.2)) for _ in range(12)]
    assert np.median([float(each.between(0.2)) for each in alike]) < 1.0
    assert np.median([float(each.between(0.2)) for each in unlike]) == pytest.approx(0.2 * 25, rel=0.5)
    widths = [np.median([c.dose(9.1, 1.0).high - c.dose(9.1, 1.0).low for c in each]) for each in (alike, unlike)]
    assert widths[1] > 1.3 * widths[0]


def test_few_repeats_mean_few_degrees_of_freedom():
    rng = np.random.default_rng(54)
    few, many = (_calibrated(s, _students(s, rng, floor=3.0)) for s in (TWELVE, TWENTY * 3))
    assert 1 <= few.freedom(0.05, 1.0) < many.freedom(0.05, 1.0)
    assert few.freedom(0.05, 100.0) > few.freedom(0.05, 1.0)  # a known error needs no estimate


def test_no_effect_gives_share_zero_and_luck_does_not_tighten_the_limit(calibration):
    none, lucky, very_lucky = (calibration.dose(effect, 1.0) for effect in (0.0, -1.5, -40.0))
    assert (none.share, none.low) == (0.0, 0.0)
    assert none.high == lucky.high == very_lucky.high > 0
    assert (very_lucky.share, very_lucky.low) == (0.0, 0.0)


def test_beyond_the_controls_the_limit_is_one():
    narrow = _calibrated(TWELVE, _students(TWELVE, np.random.default_rng(55)))
    dose = narrow.dose(60.0, 1.0)
    assert (dose.share, dose.high, dose.beyond) == (0.2, 1.0, True)
    assert dose.low > 0.1
    assert not narrow.dose(5.0, 1.0).beyond


def test_interpolation_follows_the_curvature():
    shares = [0.0] * 3 + [0.01] * 3 + [0.2] * 3 + [1.0] * 3
    curved = _calibrated(shares, 50 * np.array(shares) ** 0.5, se=0.1)
    assert curved.exponent == pytest.approx(0.5, abs=0.02)
    assert float(curved.expected(0.05)) == pytest.approx(50 * 0.05**0.5, rel=0.02)
    straight = _calibrated(shares, 50 * np.array(shares), se=0.01)
    assert float(straight.expected(0.05)) == pytest.approx(2.5, rel=0.02)
    for share in (0.005, 0.03, 0.2, 0.7):
        assert curved.dose(50 * share**0.5, 0.1).share == pytest.approx(share, rel=0.15)


def test_expected_effect_grows_and_starts_at_zero(calibration):
    curve = calibration.expected(np.linspace(0, 1, 300))
    assert curve[0] == 0
    assert (np.diff(curve) >= 0).all()


def test_means_that_fall_by_chance_are_pooled():
    effects = [0.1, -0.2, 0.3, 0.0, 3.4, 3.0, 3.2, 2.9, 25.0, 24.0]
    shares = [0.0] * 4 + [0.01, 0.01, 0.02, 0.02, 0.2, 0.2]
    calibration = _calibrated(shares, effects, se=0.5)
    assert calibration.effects[1] == calibration.effects[2] == pytest.approx(3.125, rel=0.05)
    flat = calibration.dose(calibration.effects[1], 0.5)
    assert 0.01 <= flat.share <= 0.02
    assert flat.low < 0.01
    assert flat.high > 0.02


def test_ambient_is_reported_beside(calibration):
    alone = calibration.dose(25.0, 1.0)
    assert (alone.ambient, alone.above_ambient) == (None, None)
    dose = calibration.dose(25.0, 1.0, ambient=(2.0, 1.0))
    assert replace(dose, ambient=None) == alone
    assert dose.ambient == calibration.dose(2.0, 1.0)
    assert dose.above_ambient is True
    assert calibration.dose(3.0, 1.0, ambient=(2.0, 1.0)).above_ambient is False


def test_scale_of_effects_does_not_matter():
    effects = _students(TWENTY, np.random.default_rng(56), floor=1.0)
    large, small = _calibrated(TWENTY, effects), _calibrated(TWENTY, effects / 1_000, se=0.001)
    one, other = large.dose(9.0, 1.0), small.dose(0.009, 0.001)
    assert (one.share, one.low, one.high) == pytest.approx((other.share, other.low, other.high), rel=1e-6)


@pytest.mark.parametrize(
    "shares, effects, message",
    [
        ([], [], "shares none"),
        ([0.0, 0.0, 0.1, 0.1, 0.1], [0, 0, 5, 5, 5], "at least 3 distinct shares, 0 among them"),
        ([0.05, 0.1, 0.2] * 3, [3, 5, 9] * 3, "0 among them"),
        ([0.0, 0.1, 0.2, 0.5], [0, 5, 9, 12], "leave 1 repeats"),
        ([0.0, 0.1, 0.2] * 3, [0, 0.2, 0.3] * 3, "too close to 0"),
        ([0.0, 0.1, 0.2] * 3, [0, -9, -20] * 3, "too close to 0"),
        ([0.0, 0.1, 0.2] * 3, [0, 30, 9] * 3, "falls from 30 at share 0.1 to 9 at 0.2"),
    ],
)
def test_controls_that_cannot_calibrate_are_refused_in_words(shares, effects, message):
    with pytest.raises(CannotCalibrate, match=message):
        _calibrated(shares, effects)


def test_numbers_that_are_none_are_refused(calibration):
    for share, effect, se in ((0.0, math.nan, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, math.inf)):
        with pytest.raises(ValueError, match="must be finite"):
            calibrate([Control(share, effect, se)])
    with pytest.raises(ValueError, match="share lies between"):
        calibrate([Control(1.5, 1.0, 1.0)])
    for effect, se in ((math.nan, 1.0), (1.0, 0.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="finite effect"):
            calibration.dose(effect, se)
    with pytest.raises(ValueError, match="level must"):
        calibration.dose(1.0, 1.0, level=1.0)
