"""Tails: right against scipy where scipy can, and against fifty digits of mpmath where it cannot."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from watermark.stats import laws
from watermark.stats.laws import (
    Bernoulli,
    binomial_interval,
    binomial_log10_chernoff,
    binomial_log10_sf,
    detectable_rate,
    smallest_significant,
)
from watermark.stats.rank import rank_pvalue

trials = st.integers(1, 3_000)
rates = st.floats(0.001, 0.999)


def _exact_log10_sf(successes: int, n: int, p: float) -> float:
    """The same tail in 50 digits, summed from its largest term on."""
    with mpmath.workdps(50):
        chance = mpmath.mpf(p)
        odds = chance / (1 - chance)
        upper = successes > n * p
        k = successes if upper else successes - 1
        term = mpmath.binomial(n, k) * chance**k * (1 - chance) ** (n - k)
        total = mpmath.mpf(0)
        while 0 <= k <= n and term > total * mpmath.mpf(10) ** -45:
            total += term
            term *= odds * (n - k) / (k + 1) if upper else k / odds / (n - k + 1)
            k += 1 if upper else -1
        return float(mpmath.log10(total if upper else 1 - total))


@given(n=trials, p=rates, share=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_tail_agrees_with_scipy(n, p, share):
    successes = round(share * n)
    expected = binom.logsf(successes - 1, n, p) / math.log(10)
    if expected < -250:  # scipy underflows to -inf from about 1e-308 on
        return
    assert binomial_log10_sf(successes, n, p) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    "n, p", [(50, 0.25), (1_000, 0.25), (20_000, 0.25), (20_000, 0.001), (20_000, 0.999), (999, 0.5)]
)
def test_tail_agrees_with_scipy_on_a_grid(n, p):
    mean, sd = n * p, math.sqrt(n * p * (1 - p))
    for z in np.linspace(-8, 8, 33):
        successes = int(min(max(round(mean + z * sd), 0), n))
        expected = binom.logsf(successes - 1, n, p) / math.log(10)
        assert binomial_log10_sf(successes, n, p) == pytest.approx(expected, rel=1e-8, abs=1e-10), (
            successes,
            z,
        )


DEEP = [
    (20_000, 20_000, 0.25),  # 1e-12041
    (18_000, 20_000, 0.25),
    (12_000, 20_000, 0.25),
    (9_000, 20_000, 0.25),
    (5_100, 20_000, 0.25),
    (70_000, 100_000, 0.25),  # 1e-18000
    (300_000, 1_000_000, 0.25),
    (252_000, 1_000_000, 0.25),
    (60, 10_000, 0.001),
    (1_000, 10_000, 0.001),
    (9_999, 10_000, 0.5),
    (33_400, 33_400, 0.5),  # 1e-10054
]


@pytest.mark.parametrize("successes, n, p", DEEP)
def test_deep_tail_agrees_with_fifty_digits(successes, n, p):
    assert binomial_log10_sf(successes, n, p) == pytest.approx(_exact_log10_sf(successes, n, p), rel=1e-9)


@pytest.mark.parametrize("successes", [249_000, 249_999, 250_000, 250_001, 250_500])
def test_tail_near_the_mean_of_a_million_is_right_to_a_part_in_ten_million(successes):
    expected = _exact_log10_sf(successes, 1_000_000, 0.25)
    assert binomial_log10_sf(successes, 1_000_000, 0.25) == pytest.approx(expected, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("sigmas", [0.1, 3, 40])
def test_tail_of_a_billion_cells_is_right_to_a_part_in_a_million(sigmas):
    n, p = 10**9, 0.25
    successes = round(n * p + sigmas * math.sqrt(n * p * (1 - p)))
    with mpmath.workdps(30):
        # too many terms to sum: the incomplete beta function by its continued fraction (DLMF 8.17.22)
        a, b, x = successes, n - successes + 1, mpmath.mpf(p)
        fraction = mpmath.mpf(0)
        for m in range(60_000 if sigmas < 1 else 8_000, 0, -1):
            odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
            even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            fraction = even / (1 + odd / (1 + fraction))
        first = -(a + b) * x / (a + 1)
        front = mpmath.loggamma(a + b) - mpmath.loggamma(a + 1) - mpmath.loggamma(b)
        front += a * mpmath.log(x) + b * mpmath.log1p(-x)
        expected = float((front - mpmath.log(1 + first / (1 + fraction))) / mpmath.log(10))
    assert binomial_log10_sf(successes, n, p) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n, p", [(1, 0.25), (7, 0.5), (50, 0.001), (50, 0.999), (1_000, 0.25)])
def test_edges(n, p):
    assert binomial_log10_sf(0, n, p) == 0.0
    assert binomial_log10_sf(n, n, p) == pytest.approx(n * math.log10(p), rel=1e-12)
    assert binomial_log10_sf(1, n, p) == pytest.approx(math.log10(-math.expm1(n * math.log1p(-p))), rel=1e-10)
    at_mean = int(n * p)
    for successes in (at_mean, at_mean + 1):
        expected = _exact_log10_sf(successes, n, p) if successes else 0.0
        assert binomial_log10_sf(successes, n, p) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@given(n=st.integers(1, 400), p=rates)
@settings(max_examples=60, deadline=None)
def test_tail_falls_as_successes_rise_and_is_never_zero(n, p):
    tails = [binomial_log10_sf(k, n, p) for k in range(n + 1)]
    assert tails[0] == 0.0
    assert all(math.isfinite(t) for t in tails)
    assert all(after <= before + 1e-12 for before, after in pairwise(tails))


@given(n=trials, p=rates, share=st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_chernoff_is_never_below_the_exact_tail(n, p, share):
    successes = round(share * n)
    assert binomial_log10_chernoff(successes, n, p) >= binomial_log10_sf(successes, n, p) - 1e-9


def test_chernoff_is_the_divergence():
    divergence = 0.4 * math.log10(0.4 / 0.25) + 0.6 * math.log10(0.6 / 0.75)
    assert binomial_log10_chernoff(4_000, 10_000, 0.25) == pytest.approx(-10_000 * divergence)
    assert binomial_log10_chernoff(2_500, 10_000, 0.25) == 0.0
    assert binomial_log10_chernoff(10_000, 10_000, 0.25) == pytest.approx(10_000 * math.log10(0.25))


@given(n=st.integers(1, 2_000), p=rates, share=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_alternatives_agree_with_their_definitions(n, p, share):
    law, k = Bernoulli(p), round(share * n)
    upper = law.log10_pvalue(k, n)
    lower = law.log10_pvalue(k, n, alternative="less")
    assert upper == binomial_log10_sf(k, n, p)
    expected = binom.logcdf(k, n, p) / math.log(10)
    if expected > -250:
        assert lower == pytest.approx(expected, rel=1e-7, abs=1e-9)
    both = law.log10_pvalue(k, n, alternative="two-sided")
    assert both == pytest.approx(min(0.0, min(upper, lower) + math.log10(2)))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("n, p", [(1, 0.25), (30, 0.25), (200, 0.5)])
def test_exact_size_never_passes_the_level(alternative, n, p):
    law, chance = Bernoulli(p), binom.pmf(np.arange(n + 1), n, p)
    found = np.array([law.log10_pvalue(k, n, alternative=alternative) for k in range(n + 1)])
    for level in (0.2, 0.05, 0.01, 0.001):
        assert chance[found <= math.log10(level)].sum() <= level + 1e-12


@pytest.mark.parametrize("total", [-1, 11, 2.5, math.nan])
def test_impossible_total_is_refused(total):
    with pytest.raises(ValueError, match=r"whole number|cannot convert"):
        Bernoulli(0.25).log10_pvalue(total, 10)


def test_unknown_alternative_is_refused():
    with pytest.raises(ValueError, match="alternative"):
        Bernoulli(0.25).log10_pvalue(9, 10, alternative="larger")  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [0, 1, -0.1, 1.1, math.nan])
def test_impossible_rate_is_refused(p):
    with pytest.raises(ValueError, match="0 < p < 1"):
        Bernoulli(p)


@given(n=st.integers(1, 5_000), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=150, deadline=None)
def test_interval_agrees_with_scipy(n, share, level):
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(level, method="exact")
    assert binomial_interval(k, n, level=level) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-6])
@pytest.mark.parametrize("n, p", [(1, 0.25), (5, 0.25), (60, 0.25), (999, 0.5), (5_000, 0.001)])
def test_smallest_significant_agrees_with_direct_search(n, p, alpha):
    direct = next((k for k in range(n + 1) if binom.sf(k - 1, n, p) <= alpha), n + 1)
    assert smallest_significant(n, p, alpha=alpha) == direct


@pytest.mark.parametrize("alpha, power", [(0.05, 0.9), (0.001, 0.9), (0.001, 0.5)])
@pytest.mark.parametrize("n, p", [(60, 0.25), (1_000, 0.25), (20_000, 0.25), (500, 0.5)])
def test_detectable_rate_is_where_the_power_is_reached(n, p, alpha, power):
    needed = next(k for k in range(n + 1) if binom.sf(k - 1, n, p) <= alpha)
    rate = detectable_rate(n, p, alpha=alpha, power=power)
    assert rate is not None
    assert binom.sf(needed - 1, n, rate) == pytest.approx(power, abs=1e-6)
    assert binom.sf(needed - 1, n, rate - 1e-4) < power


def test_detectable_rate_is_none_where_no_count_suffices():
    assert detectable_rate(3, 0.25, alpha=0.001) is None  # all green is still 1/64


def test_detectable_rate_falls_with_more_text():
    found = [detectable_rate(n, 0.25, alpha=0.001) for n in (100, 1_000, 10_000, 100_000)]
    assert found == sorted(found, reverse=True)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.integers(-60, 60))
def test_rank_is_its_definition_and_never_zero(null, observed):
    beaten = sum(total >= observed for total in null)
    assert rank_pvalue(observed, null) == (1 + beaten) / (1 + len(null))
    assert 0 < rank_pvalue(observed, null) <= 1


def test_rank_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one decoy"):
        rank_pvalue(1, [])


def test_rank_is_exact_for_exchangeable_totals():
    """Of 1 + m exchangeable values each rank is equally likely: P(p <= j / (1 + m)) = j / (1 + m)."""
    rng = np.random.default_rng(0)
    totals = rng.standard_normal((20_000, 20))
    found = np.array([rank_pvalue(row[0], row[1:]) for row in totals])
    counts = np.bincount(np.rint(found * 20).astype(int), minlength=21)[1:]
    assert counts.min() > binom.ppf(1e-5, 20_000, 1 / 20)
    assert counts.max() < binom.ppf(1 - 1e-5, 20_000, 1 / 20)


def _whole_series(successes: int, n: int, p: float) -> float:
    """log P(X >= successes), every chunk of the series added up to its end."""
    first = math.lgamma(n + 1) - math.lgamma(successes + 1) - math.lgamma(n - successes + 1)
    first = first + successes * math.log(p) + (n - successes) * math.log1p(-p)
    total, reached, k = 1.0, 0.0, successes
    while k < n:
        steps = np.arange(k + 1, min(k + laws._CHUNK, n) + 1, dtype=np.float64)
        terms = reached + np.cumsum(np.log((n - steps + 1) / steps) + (math.log(p) - math.log1p(-p)))
        total, reached, k = total + float(np.exp(terms).sum()), float(terms[-1]), int(steps[-1])
        if reached < math.log(total) - laws._NEGLIGIBLE:
            break
    return first + math.log(total)


def test_terms_left_out_do_not_change_a_bit():
    rng = np.random.default_rng(5)
    for n in (3, 800, 4_095, 4_097, 70_001, 352_494, 2_000_003):
        for p in (0.02, 0.25, 0.5, 0.9):
            deviations = n * p + rng.uniform(0, 9, 6) * math.sqrt(n * p * (1 - p))
            for successes in {min(n, math.floor(each) + 1) for each in deviations}:
                assert laws._log_upper_tail(successes, n, p) == _whole_series(successes, n, p)
