"""The e-process: a martingale exactly, Ville's inequality as a rate, a floor that holds, growth near the best bet."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.stats.anytime import EProcess
from watermark.stats.weighted import WeightedSum

GAMMA = 0.25


def _tilted(weights: np.ndarray, z: float) -> np.ndarray:
    """Green rates (n,) under which the total of `weights` lies about z sd above its mean."""
    odds = GAMMA / (1 - GAMMA) * np.exp(z / WeightedSum(weights, GAMMA).sd * weights)
    return odds / (1 + odds)


def _run(process: EProcess, chunks: list[np.ndarray], rng: np.random.Generator, *, z: float = 0.0) -> EProcess:
    for weights in chunks:
        green = rng.random(len(weights)) < _tilted(weights, z)
        process.update([weights], [int(weights @ green)])
    return process


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_wealth_has_mean_one_exactly(alternative, keep):
    """All 512 outcomes of three chunks of three cells, two statistics on the same bits."""
    first = np.array([[3, -1, 5], [1, 4, -2], [7, 1, -3]], dtype=np.int32)
    second = np.array([[1, 1, 1], [0, 2, 0], [0, 0, 0]], dtype=np.int32)
    mean = 0.0
    for bits in itertools.product((0, 1), repeat=9):
        process = EProcess(GAMMA, statistics=2, alternative=alternative, keep=keep)
        for chunk, green in enumerate(np.reshape(bits, (3, 3))):
            process.update([first[chunk], second[chunk]], [int(first[chunk] @ green), int(second[chunk] @ green)])
        mean += GAMMA ** sum(bits) * (1 - GAMMA) ** (9 - sum(bits)) * 10**process.log10_e
    assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.slow
def test_ten_thousand_null_runs_cross_rarely():
    rng = np.random.default_rng(21)
    chunks = [np.rint(rng.standard_t(3, size) * 10).astype(np.int32) for size in rng.integers(5, 80, 9)]
    sides = itertools.cycle(["greater", "two-sided"])
    peaks = np.array([_run(EProcess(GAMMA, alternative=next(sides)), chunks, rng).log10_peak for _ in range(10_000)])
    for level in (0.05, 0.01):
        rate = (peaks >= -math.log10(level)).mean()
        assert rate <= level + 2 * math.sqrt(level * (1 - level) / 10_000), (level, rate)
    assert (peaks > 0.5).any()


@given(
    keep=st.sampled_from([0.01, 0.1, 0.5, 0.9]),
    alternative=st.sampled_from(["greater", "less", "two-sided"]),
    drift=st.lists(st.floats(-12, 12), min_size=1, max_size=40),
)
@settings(max_examples=80, deadline=None)
def test_wealth_never_falls_below_its_floor(keep, alternative, drift):
    """Whatever the totals, friendly or not: F >= keep · max F, at every step."""
    process, weights = EProcess(GAMMA, alternative=alternative, keep=keep), np.full(400, 2, dtype=np.int32)
    law = WeightedSum(weights, GAMMA)
    for z in drift:
        count = round(law.mean / 2 + z * law.sd / 2)
        process.update([weights], [2 * min(max(count, 0), 400)])
    highest = np.maximum.accumulate([0.0, *process.history])[1:]
    assert (np.array(process.history) >= highest + math.log10(keep) - 1e-9).all()
    assert process.log10_peak == pytest.approx(highest[-1])


def test_signal_free_chunks_cost_at_most_a_factor_ten_and_signal_is_found_again():
    rng = np.random.default_rng(22)
    chunks = [np.rint(rng.standard_t(3, 300) * 10).astype(np.int32) for _ in range(40)]
    process, plain = EProcess(GAMMA), EProcess(GAMMA, keep=0.0)
    for each, seed in ((process, 1), (plain, 1)):
        _run(each, chunks[:12], np.random.default_rng(seed), z=2.0)
    won = process.log10_e
    assert won > 6
    for each, seed in ((process, 2), (plain, 2)):
        _run(each, chunks, np.random.default_rng(seed))
    assert won - 1 <= process.log10_e
    assert plain.log10_e < won - 2  # without the floor the same chunks cost more
    lowest = process.log10_e
    _run(process, chunks, np.random.default_rng(3), z=3.0)
    assert process.log10_e > lowest + 5


@pytest.mark.slow
def test_a_thousand_signal_free_chunks_cost_at_most_a_factor_ten():
    weights, rng = np.full(300, 7, np.int32), np.random.default_rng(28)
    process = _run(EProcess(GAMMA, alternative="two-sided"), [weights] * 12, rng, z=2.0)
    won = process.log10_e
    _run(process, [weights] * 1_000, rng)
    assert won - 1 <= process.log10_e


@pytest.mark.parametrize("z", [0.1, 0.5, 1, 3, 8])
@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_growth_is_near_that_of_the_best_constant_bet(z, alternative):
    rng, weights = np.random.default_rng(23), np.ones(3_000, dtype=np.int32)
    law = WeightedSum(weights, GAMMA)
    bet, rate = z / law.sd, _tilted(weights, z)[0]
    steps = math.ceil(60 / z**2) + 2 if z > 0.2 else 3_000
    ours, best = [], []
    for _ in range(3):
        process = EProcess(GAMMA, alternative=alternative)
        totals = rng.binomial(3_000, rate, steps)
        for total in totals:
            process.update([weights], [int(total)])
        ours.append(process.log10_e)
        best.append(float((bet * (totals - law.mean) - law.log_mgf(bet)).sum()) / math.log(10))
    assert np.mean(ours) > 0.88 * np.mean(best) - 1.4  # about ten equal starts, and 4 % of rate


def test_two_statistics_cost_at_most_a_factor_two_where_one_is_blind():
    rng, weights, blind = np.random.default_rng(24), np.full(400, 3, np.int32), np.zeros(400, np.int32)
    alone, both = EProcess(GAMMA), EProcess(GAMMA, statistics=2)
    for _ in range(10):
        total = int(weights @ (rng.random(400) < _tilted(weights, 2.0)))
        alone.update([weights], [total])
        both.update([weights, blind], [total, 0])
    assert alone.log10_e > 4
    assert alone.log10_e - 0.5 < both.log10_e < alone.log10_e


def test_red_excess_is_found_two_sided_and_less_but_not_greater():
    chunks = [np.full(400, 3, np.int32)] * 8
    found = {
        side: _run(EProcess(GAMMA, alternative=side), chunks, np.random.default_rng(25), z=-3.0).log10_e
        for side in ("greater", "less", "two-sided")
    }
    assert found["greater"] < 0
    assert min(found["less"], found["two-sided"]) > 6


def test_chunks_without_weight_change_nothing():
    rng, weights = np.random.default_rng(26), np.full(400, 3, np.int32)
    process = _run(EProcess(GAMMA), [weights] * 5, rng, z=2.0)
    before = process.log10_e
    assert process.update([np.zeros(7, np.int32)], [0]) == pytest.approx(before, rel=1e-12)
    assert process.update([np.zeros(0, np.int32)], [0]) == pytest.approx(before, rel=1e-12)
    late, early = EProcess(GAMMA), EProcess(GAMMA)
    late.update([np.zeros(4, np.int32)], [0])
    for process in (late, early):
        _run(process, [weights] * 5, np.random.default_rng(2), z=2.0)
    assert late.log10_e == pytest.approx(early.log10_e, rel=1e-12)
    assert (len(late.history), len(early.history)) == (6, 5)


def test_fixed_bets_do_not_mind_the_order_of_chunks():
    """Reversing equal-sized chunks moves only the predictable half: less than a factor of a hundred here."""
    rng, weights = np.random.default_rng(27), np.full(400, 3, np.int32)
    totals = [int(weights @ (rng.random(400) < _tilted(weights, 2.0))) for _ in range(12)]
    ends = []
    for order in (totals, totals[::-1]):
        process = EProcess(GAMMA, keep=0.0)
        for total in order:
            process.update([weights], [total])
        ends.append(process.log10_e)
    assert abs(ends[0] - ends[1]) < 2 < min(ends)


def test_wealth_of_a_thousand_decades_stays_finite():
    weights, process = np.ones(20_000, np.int32), EProcess(GAMMA)
    for _ in range(10):
        process.update([weights], [20_000])
    high = process.log10_e
    assert high > 1_000
    for _ in range(50):
        process.update([weights], [0])
    assert process.log10_e == pytest.approx(high - 1)


def test_what_cannot_be_is_refused_and_changes_nothing():
    weights, process = np.array([3, -2, 1], np.int32), EProcess(GAMMA, statistics=2)
    process.update([weights, weights], [4, 4])
    before = process.log10_e
    for totals in ([math.nan, 1], [1, 5], [1, -3], [0.5, 1], [1, math.inf]):
        with pytest.raises(ValueError, match="whole number from -2 to 4"):
            process.update([weights, weights], totals)
    with pytest.raises(ValueError, match="bets on 2"):
        process.update([weights], [1])
    with pytest.raises(ValueError, match="weights must be integers"):
        process.update([weights, np.array([1.0, math.nan])], [1, 1])
    assert (process.log10_e, len(process.history)) == (before, 1)
    assert process.update([weights, weights], [4, 4]) > before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gamma": 1.5}, "gamma must lie"),
        ({"gamma": 0.25, "statistics": 0}, "at least one statistic"),
        ({"gamma": 0.25, "keep": 1.0}, "keep must be"),
        ({"gamma": 0.25, "alternative": "both"}, "alternative must be one of"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EProcess(**options)
