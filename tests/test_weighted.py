"""Weighted sums: exact tails against enumeration, convolution and the binomial; bounds that bound."""

from __future__ import annotations

import math
import time
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.stats import weighted
from watermark.stats.laws import binomial_log10_chernoff, binomial_log10_sf
from watermark.stats.weighted import WeightedSum

gammas = st.sampled_from([0.03, 0.25, 0.5, 0.9])
few_weights = st.lists(st.integers(-60, 60).filter(bool), min_size=1, max_size=10)


def _law(weights, gamma=0.25) -> WeightedSum:
    return WeightedSum(np.asarray(weights, dtype=np.int32), gamma)


def _enumerated(weights, gamma) -> tuple[np.ndarray, np.ndarray]:
    """Every outcome of n coins: totals (2^n,) and chances (2^n,)."""
    bits = np.arange(2 ** len(weights))[:, None] >> np.arange(len(weights)) & 1
    return bits @ np.asarray(weights), np.prod(np.where(bits, gamma, 1 - gamma), axis=1)


def _convolved(weights, gamma) -> tuple[int, np.ndarray]:
    """The lowest total and the chances of it and all above, by adding one cell after the other."""
    lowest = sum(k for k in weights if k < 0)
    chances = np.zeros(sum(abs(k) for k in weights) + 1)
    chances[-lowest] = 1.0
    for k in weights:
        chances = (1 - gamma) * chances + gamma * np.roll(chances, k)
    return lowest, chances


def _heavy(n: int, seed: int = 0) -> np.ndarray:
    """Weights as real ones: mixed signs, rms about 16, a few in the thousands."""
    drawn = np.random.default_rng(seed).standard_t(2.2, n) * 7
    return np.clip(np.rint(drawn), -4000, 4000).astype(np.int32)


@given(weights=few_weights, gamma=gammas, scale=st.sampled_from([1, 3, 64]))
@settings(max_examples=80, deadline=None)
def test_tails_agree_with_enumeration(weights, gamma, scale):
    weights = [k * scale for k in weights]
    totals, chances = _enumerated(weights, gamma)
    law = _law(weights, gamma)
    for total in {int(totals.min()), int(np.median(totals)), int(totals[-1]), int(totals.max())}:
        upper, lower = chances[totals >= total].sum(), chances[totals <= total].sum()
        both = min(1.0, 2 * min(upper, lower))
        for alternative, expected in (("greater", upper), ("less", lower), ("two-sided", both)):
            found = law.tail(total, alternative=alternative)
            assert found.method == "exact lattice"
            assert 10**found.log10_p == pytest.approx(expected, rel=1e-9), (total, alternative)


def test_all_totals_of_sixteen_cells_agree_with_enumeration():
    weights = [1, 1, 1, -1, 2, -3, 5, 7, -7, 11, 16, 16, -20, 40, 160, -300]
    totals, chances = _enumerated(weights, 0.25)
    law = _law(weights)
    for total in range(int(totals.min()), int(totals.max()) + 1, 7):
        expected = chances[totals >= total].sum()
        assert 10 ** law.log10_pvalue(total) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.25, 0.5])
def test_tails_agree_with_convolution(gamma):
    rng = np.random.default_rng(3)
    for _ in range(10):
        weights = rng.integers(-30, 31, 120)
        lowest, chances = _convolved(weights.tolist(), gamma)
        law = _law(weights, gamma)
        for z in (-6, -2, -0.3, 0, 0.4, 1, 3, 8):
            total = round(law.mean + z * law.sd)
            upper = chances[total - lowest :].sum()
            lower = chances[: total - lowest + 1].sum()
            assert 10 ** law.log10_pvalue(total) == pytest.approx(upper, rel=1e-9)
            assert 10 ** law.log10_pvalue(total, alternative="less") == pytest.approx(lower, rel=1e-9)


@pytest.mark.parametrize("weight", [1, 3, 16])
@pytest.mark.parametrize("n", [40, 1_000, 50_000, 1_000_000])
def test_equal_weights_give_the_binomial(n, weight):
    law = _law(np.full(n, weight))
    for z in (-9, -2, -0.5, 0, 0.5, 2, 6, 40, 300):
        count = round(n / 4 + z * math.sqrt(n * 3 / 16))
        if not 0 <= count <= n:
            continue
        expected = binomial_log10_sf(count, n, 0.25)
        assert law.log10_pvalue(weight * count) == pytest.approx(expected, rel=1e-6), (count, z)
        chernoff = binomial_log10_chernoff(count, n, 0.25)
        assert law.log10_chernoff(weight * count) == pytest.approx(chernoff, rel=1e-9, abs=1e-12)


def test_negative_weights_mirror():
    weights = _heavy(500)
    law, mirrored = _law(weights), _law(-weights)
    total = round(law.mean + 2.5 * law.sd)
    assert law.log10_pvalue(total) == pytest.approx(mirrored.log10_pvalue(-total, alternative="less"), rel=1e-12)
    assert law.log10_evalue(total) == pytest.approx(mirrored.log10_evalue(-total, alternative="less"), rel=1e-9)


def test_deep_tail_against_fifty_digits():
    """Two weights, 3,000 and 2,000 cells: the convolution of two binomials, in 50 digits."""
    counts, sizes, total = (3_000, 2_000), (3, -5), 7_800
    with mpmath.workdps(50):
        quarter = mpmath.mpf(1) / 4

        def pmf(n: int, k: int) -> mpmath.mpf:
            return mpmath.binomial(n, k) * quarter**k * (1 - quarter) ** (n - k)

        second = [pmf(counts[1], b) for b in range(400)]
        expected = mpmath.mpf(0)
        for a in range(2_600, 3_001):
            most = (sizes[0] * a - total) // -sizes[1]
            expected += pmf(counts[0], a) * sum(second[: most + 1], mpmath.mpf(0)) if most >= 0 else 0
        expected = float(mpmath.log10(expected))
    found = _law(np.repeat(sizes, counts)).log10_pvalue(total)
    assert expected < -1_000
    assert found == pytest.approx(expected, rel=1e-10)


def test_deeper_than_five_thousand_decades_is_still_exact():
    law = _law(_heavy(200_000))
    tail = law.tail(round(law.mean + 130 * law.sd))
    assert tail.method == "exact lattice"
    assert -20_000 < tail.log10_p < -5_000
    assert tail.log10_p < law.log10_chernoff(round(law.mean + 130 * law.sd)) < tail.log10_p + 10


@given(weights=few_weights, gamma=gammas, share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_chernoff_is_never_below_the_exact_tail(weights, gamma, share):
    law = _law(weights, gamma)
    total = round(law.lowest + share * (law.highest - law.lowest))
    for alternative in ("greater", "less", "two-sided"):
        exact = law.log10_pvalue(total, alternative=alternative)
        assert law.log10_chernoff(total, alternative=alternative) >= exact - 1e-9


@given(weights=few_weights, gamma=gammas, alternative=st.sampled_from(["greater", "less", "two-sided"]))
@settings(max_examples=60, deadline=None)
def test_evalue_has_mean_one(weights, gamma, alternative):
    totals, chances = _enumerated(weights, gamma)
    evalues = 10 ** _law(weights, gamma).log10_evalue(totals, alternative=alternative)
    assert float(chances @ evalues) == pytest.approx(1.0, rel=1e-9)


def test_evalue_grows_on_the_named_side_only():
    law = _law(_heavy(5_000))
    high, low = round(law.mean + 8 * law.sd), round(law.mean - 8 * law.sd)
    assert law.log10_evalue(high) > 8 > 0 > law.log10_evalue(low)
    assert law.log10_evalue(low, alternative="less") > 8 > 0 > law.log10_evalue(high, alternative="less")
    assert min(law.log10_evalue([low, high], alternative="two-sided")) > 8


def test_evalue_follows_a_mixture_written_plainly():
    law = _law([3, -2, 5, 5, 1], 0.3)
    bets = [2 ** (c / 2) / law.sd for c in range(15)]
    products = []
    for bet in bets:
        mgf = math.prod(1 - 0.3 + 0.3 * math.exp(bet * k) for k in (3, -2, 5, 5, 1))
        products.append(math.exp(bet * 6) / mgf)
    assert law.log10_evalue(6) == pytest.approx(math.log10(sum(products) / 15), rel=1e-9)
    assert law.log10_evalue([[6, 1], [0, 6]])[1, 1] == pytest.approx(float(law.log10_evalue(6)))


def test_moments_are_those_of_the_weights():
    law = _law([4, -2, 0, 6], 0.25)
    assert (law.mean, law.variance) == (2.0, 0.1875 * 56)
    assert law.effective_cells == pytest.approx(56**2 / (256 + 16 + 1296))
    assert law.z(4) == pytest.approx(2 / law.sd)
    assert _law(np.full(70, -9)).effective_cells == pytest.approx(70)


def test_a_sum_without_weights_says_nothing():
    law = _law([0, 0, 0])
    for alternative in ("greater", "less", "two-sided"):
        assert law.log10_pvalue(0, alternative=alternative) == 0.0
        assert law.log10_chernoff(0, alternative=alternative) == 0.0
        assert law.log10_evalue(0, alternative=alternative) == 0.0
    assert (law.z(0), law.effective_cells) == (0.0, 0.0)


def test_too_large_a_lattice_falls_back_to_chernoff_and_says_so(monkeypatch):
    law = _law([100_000_000, 99_999_999, 7, 7, 3])
    total = 200_000_000
    tail = law.tail(total)
    assert tail.method == "Chernoff bound"
    assert tail.log10_p == law.log10_chernoff(total) >= math.log10(0.25**2 * (1 - 0.75**3))
    assert law.tail(10, alternative="two-sided").method == "Chernoff bound"
    monkeypatch.setattr(weighted, "_MOST_FACTORS", 10)
    assert _law([5, 4, 3, 2]).tail(9).method == "Chernoff bound"


def test_common_factors_do_not_enlarge_the_lattice():
    law, small = _law(np.array([3, -1, 2]) * 300_000_000), _law([3, -1, 2])
    assert law.tail(5 * 300_000_000).method == "exact lattice"
    assert law.log10_pvalue(5 * 300_000_000) == pytest.approx(small.log10_pvalue(5), rel=1e-12)


@pytest.mark.parametrize("total", [-4, 9, 2.5, math.nan, math.inf])
def test_totals_that_cannot_be_are_refused(total):
    law = _law([3, 5, -3])
    for test in (law.tail, law.log10_chernoff):
        with pytest.raises(ValueError, match="whole number between -3 and 8"):
            test(total)


def test_bad_laws_are_refused():
    with pytest.raises(ValueError, match="gamma must lie"):
        WeightedSum(np.ones(3, np.int32), 1.0)
    with pytest.raises(ValueError, match="weights must be integers"):
        WeightedSum(np.ones(3), 0.25)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one dimension"):
        WeightedSum(np.ones((3, 2), np.int32), 0.25)
    with pytest.raises(ValueError, match="alternative must be one of"):
        _law([1, 2]).log10_pvalue(1, alternative="both")
    with pytest.raises(ValueError, match="NaN"):
        _law([1, 2]).log10_evalue([1.0, math.nan])


def test_no_warning_at_the_edges():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gamma in (1e-9, 0.5, 1 - 1e-9):
            law = _law([1, 2, -700, 2_000], gamma)
            for total in (law.lowest, 0, 3, law.highest):
                assert law.log10_pvalue(total) <= 0
                assert math.isfinite(law.log10_evalue(total, alternative="two-sided"))


def test_a_million_heavy_cells_take_seconds():
    weights = _heavy(1_000_000)
    assert 12 < np.sqrt(np.mean(weights.astype(float) ** 2)) < 24
    started = time.process_time()
    law = _law(weights)
    tails = [law.tail(round(law.mean + z * law.sd), alternative="two-sided") for z in (0.1, 5, 100)]
    decoys = law.log10_evalue(law.mean + law.sd * np.linspace(-4, 4, 10_000), alternative="two-sided")
    assert time.process_time() - started < 9
    assert {tail.method for tail in tails} == {"exact lattice"}
    assert decoys.shape == (10_000,)
