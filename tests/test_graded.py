"""Graded scores: tails against convolution, the gamma law and the law of bits; intervals; bets."""

import math

import numpy as np
import pytest
from scipy.stats import gamma as gamma_law

from watermark.stats.anytime import EProcess
from watermark.stats.graded import Levels, LevelSum, sum_of
from watermark.stats.laws import Bernoulli, binomial_interval, detectable_rate
from watermark.stats.many import upper_tails
from watermark.stats.weighted import WeightedSum

UNEVEN = Levels((0.5, 0.0, 0.25, 0.125, 0.125))
COIN = Levels((0.75, 0.25))
RNG = np.random.default_rng


def exponential(unit, highest):
    """The exponential law rounded to multiples of `unit`."""
    bounds = np.exp(-(np.arange(highest + 1) - 0.5) * unit)
    bounds[0] = 1.0
    chances = bounds - np.append(bounds[1:], 0.0)
    return Levels(tuple((chances / math.fsum(chances)).tolist()))


def convolved(weights, law):
    """(lowest, chances of every total from there), by adding one cell after another."""
    lowest, chances = 0, np.ones(1)
    for weight in weights:
        if weight == 0:
            continue
        one = np.zeros(abs(weight) * law.highest + 1)
        one[:: abs(weight)] = law.chances
        lowest += min(0, int(weight) * law.highest)
        chances = np.convolve(chances, one if weight > 0 else one[::-1])
    return lowest, chances


@pytest.mark.parametrize("law", [UNEVEN, exponential(0.25, 20)])
@pytest.mark.parametrize("weights", [[1] * 12, [3, -2, 5, 0, 7, -1], [4, 4, 8, -8], [1, 100, -50], [-3, -3, -1]])
def test_tails_are_those_of_the_convolution(law, weights):
    mine = LevelSum(np.array(weights, np.int32), law)
    lowest, chances = convolved(weights, law)
    upper, lower = np.cumsum(chances[::-1])[::-1], np.cumsum(chances)
    assert (mine.lowest, mine.highest) == (lowest, lowest + len(chances) - 1)
    for place in np.unique(np.linspace(0, len(chances) - 1, 60).astype(int)):
        total = lowest + int(place)
        assert 10 ** mine.log10_pvalue(total) == pytest.approx(upper[place], rel=1e-9)
        assert 10 ** mine.log10_pvalue(total, alternative="less") == pytest.approx(lower[place], rel=1e-9)
        assert mine.log10_chernoff(total) >= mine.log10_pvalue(total) - 1e-12
    totals = lowest + np.arange(len(chances))
    assert mine.mean == pytest.approx(float(totals @ chances), rel=1e-12, abs=1e-9)
    assert mine.variance == pytest.approx(float((totals - mine.mean) ** 2 @ chances), rel=1e-9)


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_two_levels_are_the_law_of_bits(n):
    weights = RNG(n).integers(-40, 60, n).astype(np.int32)
    bits, levels = WeightedSum(weights, 0.25), LevelSum(weights, COIN)
    for z in (-4, -1, 0.3, 2, 9, 40):
        total = max(bits.lowest, min(bits.highest, int(bits.mean + z * bits.sd)))
        for side in ("greater", "less", "two-sided"):
            assert levels.log10_pvalue(total, alternative=side) == pytest.approx(
                bits.log10_pvalue(total, alternative=side), rel=1e-9, abs=1e-12
            )
            assert levels.log10_evalue(total, alternative=side) == pytest.approx(
                bits.log10_evalue(total, alternative=side), abs=1e-9
            )
        assert levels.log10_chernoff(total) == pytest.approx(bits.log10_chernoff(total), abs=1e-9)
    assert levels.effective_cells == bits.effective_cells


@pytest.mark.parametrize("n", [1, 20, 500])
@pytest.mark.parametrize("z", [0.5, 3.0, 12.0])
def test_fine_levels_are_the_gamma_law(n, z):
    """The sum of n exponential scores is Gamma(n) (Fernandez et al. 2023, arXiv 2308.00113)."""
    unit = 1 / 64
    law = exponential(unit, 64 * 50)
    total = round((n + z * math.sqrt(n)) / unit)
    wanted = gamma_law.logsf((total - 0.5) * unit, n) / math.log(10)
    assert law.log10_pvalue(total, n) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_deep_tails_are_kept():
    law = exponential(0.25, 40)
    found = law.log10_pvalue(round(2 * 100_000 / 0.25), 100_000)
    assert found < -10_000
    assert 0 < law.log10_chernoff(round(2 * 100_000 / 0.25), 100_000) - found < 5


def test_many_tails_are_those_asked_one_by_one():
    law = LevelSum(RNG(3).integers(-3, 9, 300).astype(np.int32), UNEVEN)
    totals = [round(law.mean + z * law.sd) for z in (-3, -1, 0, 0.5, 2, 3.9, 8)]
    assert upper_tails(law, totals) == pytest.approx([law.log10_pvalue(t) for t in totals], rel=1e-8, abs=1e-9)


def test_a_law_whose_characteristic_function_has_zeros_keeps_its_exact_tail():
    """Even chances of eight levels: it is exactly 0 at seven of eight turns."""
    law, weights = Levels((0.125,) * 8), np.array([1, 1, 3], np.int32)
    mine = LevelSum(weights, law)
    _, chances = convolved(weights, law)
    upper = np.cumsum(chances[::-1])[::-1]
    assert [mine.tail(total).method for total in range(36)] == ["exact lattice"] * 36
    assert 10 ** np.array([mine.log10_pvalue(t) for t in range(36)]) == pytest.approx(upper, rel=1e-9)
    assert 10 ** upper_tails(mine, np.arange(36)) == pytest.approx(upper, rel=1e-9)


def test_interval_and_detectable_mean_are_those_of_bits():
    assert COIN.interval(300, 1000) == pytest.approx(binomial_interval(300, 1000), rel=1e-6)
    assert COIN.interval(0, 9)[0] == 0.0
    assert COIN.interval(9, 9)[1] == 1.0
    assert COIN.detectable(1000, alpha=0.001) == pytest.approx(detectable_rate(1000, 0.25, alpha=0.001), rel=1e-6)
    assert COIN.detectable(3, alpha=0.001) is None


def test_interval_covers_the_mean_of_a_tilted_law():
    rng, true = RNG(8), UNEVEN.tilted(0.2)
    sums = rng.choice(5, size=(150, 40), p=true.chances).sum(axis=1)
    intervals = {int(total): UNEVEN.interval(int(total), 40) for total in np.unique(sums)}
    covered = np.mean([intervals[int(t)][0] <= true.mean <= intervals[int(t)][1] for t in sums])
    assert covered >= 0.92


def test_detectable_mean_is_found_with_the_power():
    mean = UNEVEN.detectable(400, alpha=0.01, power=0.8)
    theta = next(t for t in np.linspace(0, 0.5, 2001) if UNEVEN.tilted(t).mean >= mean)
    sums = RNG(9).choice(5, size=(2000, 400), p=UNEVEN.tilted(theta).chances).sum(axis=1)
    level = {int(t): UNEVEN.log10_pvalue(int(t), 400) <= -2 for t in np.unique(sums)}
    assert np.mean([level[int(t)] for t in sums]) == pytest.approx(0.8, abs=0.035)


def test_evalues_have_mean_one_or_less():
    law = LevelSum(np.array([1, 2, 5], np.int32), UNEVEN)
    lowest, chances = convolved([1, 2, 5], UNEVEN)
    for side in ("greater", "less", "two-sided"):
        wealth = 10 ** law.log10_evalue(lowest + np.arange(len(chances)), alternative=side)
        assert wealth @ chances == pytest.approx(1.0, rel=1e-9)


def test_eprocess_over_graded_scores_is_a_martingale():
    """After two chunks, over all outcomes of both, the mean wealth is 1."""
    first, second = np.array([1, 2], np.int32), np.array([3, 1], np.int32)
    (_, one), (_, two) = convolved(first, UNEVEN), convolved(second, UNEVEN)
    mean = 0.0
    for total, chance in enumerate(one):
        for later, then in enumerate(two):
            process = EProcess(UNEVEN)
            process.update([first], [total])
            mean += chance * then * 10 ** process.update([second], [later])
    assert mean == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(ValueError, match="total must be a whole number"):
        EProcess(UNEVEN).update([first], [99])


def test_the_law_of_a_sum_follows_the_law_of_its_scores():
    weights = np.array([1, 2], np.int32)
    assert isinstance(sum_of(weights, UNEVEN), LevelSum)
    assert sum_of(weights, 0.25).mean == sum_of(weights, Bernoulli(0.25)).mean == 0.75


@pytest.mark.parametrize(
    "chances", [(1.0,), (0.5, 0.4), (0.5, -0.1, 0.6), (0.0, 1.0), (0.5, 0.5, 0.0), (math.nan, 1.0)]
)
def test_unusable_laws_are_refused(chances):
    with pytest.raises(ValueError, match="level|chances"):
        Levels(chances)


def test_totals_that_no_outcome_gives_are_refused():
    for total in (-1, 13, 0.5, math.nan):
        with pytest.raises(ValueError, match="total must be a whole number"):
            UNEVEN.log10_pvalue(total, 3)
