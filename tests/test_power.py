"""Power: by simulation of the very tests, by inversion, and careful where the slope is uncertain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from watermark.stats.power import power_of, smallest_share, threshold_z, tokens_needed
from watermark.stats.rank import rank_pvalue
from watermark.stats.weighted import WeightedSum

TESTS = ("exact", "chernoff", "evalue", "rank")


@pytest.fixture(scope="module")
def law() -> WeightedSum:
    weights = np.rint(np.random.default_rng(31).standard_t(4, 4_000) * 11).astype(np.int32)
    return WeightedSum(weights, 0.25)


def _totals(law: WeightedSum, shift: float, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Totals (runs,) of cells whose green bits are tilted to a mean z of `shift`."""
    odds = np.exp(shift / law.sd * law.weights) / 3
    green = rng.random((runs, len(law.weights)), dtype=np.float32) < odds / (1 + odds)
    return green @ law.weights.astype(np.int64)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("test", TESTS)
def test_power_is_that_of_the_real_test(law, test, two_sided):
    """600 students at share 0.2: the real test finds as many as were foretold, to within 3 s.e. and .03."""
    rng, alpha, runs = np.random.default_rng(32), 0.01, 600
    tokens = tokens_needed(0.2, 0.2, alpha, 0.7, test=test, two_sided=two_sided)
    totals = _totals(law, 0.2 * 0.2 * math.sqrt(tokens), runs, rng)
    side = "two-sided" if two_sided else "greater"
    if test == "exact":
        found = [law.log10_pvalue(int(total), alternative=side) <= math.log10(alpha) for total in totals]
    elif test == "chernoff":
        found = [law.log10_chernoff(int(total), alternative=side) <= math.log10(alpha) for total in totals]
    elif test == "evalue":
        found = law.log10_evalue(totals, alternative=side) >= -math.log10(alpha)
    else:
        null = rng.standard_normal((runs, 999))
        scores = (totals - law.mean) / law.sd
        level = alpha / 2 if two_sided else alpha
        found = [rank_pvalue(z, row) <= level for z, row in zip(scores, null)]
    assert np.mean(found) == pytest.approx(0.7, abs=3 * math.sqrt(0.21 / runs) + 0.03)


@pytest.mark.parametrize("test", TESTS)
@given(
    share=st.floats(0.01, 1),
    alpha=st.floats(0.002, 0.3),
    power=st.floats(0.1, 0.99),
    exponent=st.sampled_from([0.5, 0.7, 1.0]),
    two_sided=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_tokens_share_and_power_invert_each_other(test, share, alpha, power, exponent, two_sided):
    options = {"test": test, "exponent": exponent, "two_sided": two_sided}
    tokens = tokens_needed(0.4, share, alpha, power, **options)
    if tokens == 0:
        assert power <= power_of(0.4, share, 0, alpha, **options) + 1e-9
        return
    assert power_of(0.4, share, tokens, alpha, **options) >= power - 1e-9
    assert power_of(0.4, share, tokens - 1, alpha, **options) <= power + 1e-9
    assert smallest_share(0.4, tokens, alpha, power, **options) <= share * (1 + 1e-9)


def test_without_effect_the_rank_test_has_its_level():
    assert power_of(0.0, 0.5, 100, 0.05, test="rank") == pytest.approx(0.05, abs=1e-4)
    assert power_of(0.3, 0.0, 10**6, 0.05, test="exact") == pytest.approx(0.05)
    assert power_of(0.3, 0.0, 10**6, 0.05, test="chernoff") < 0.05
    assert power_of(0.3, 0.0, 10**6, 0.05, test="evalue") < 0.05


def test_thresholds_by_hand():
    assert threshold_z(0.05) == pytest.approx(1.644854, abs=1e-6)
    assert threshold_z(0.05, two_sided=True) == pytest.approx(1.959964, abs=1e-6)
    assert threshold_z(1e-6, test="chernoff") == pytest.approx(math.sqrt(12 * math.log(10)))
    assert threshold_z(0.05, test="rank", decoys=19) == pytest.approx(-norm.ppf(1 - 0.5 ** (1 / 19)))
    z = threshold_z(1e-3, test="evalue")
    grid = 2 ** (np.arange(15) / 2)
    assert np.exp(grid * z - grid**2 / 2).mean() == pytest.approx(1e3)
    assert threshold_z(1e-3, test="evalue", statistics=5) > z
    assert threshold_z(1e-300, test="evalue") == pytest.approx(math.sqrt(600 * math.log(10)), rel=0.05)


def test_cheaper_evidence_needs_more_tokens():
    needed = [tokens_needed(0.41, 0.05, 0.001, 0.9, test=test) for test in ("exact", "chernoff", "evalue")]
    assert needed[0] < needed[1] < needed[2]
    assert tokens_needed(0.41, 0.05, 0.001, 0.9, test="rank") > needed[0]
    assert tokens_needed(0.41, 0.05, 0.001, 0.9, test="evalue", statistics=4) > needed[2]
    assert tokens_needed(0.41, 0.05, 0.001, 0.9, two_sided=True) > needed[0]
    assert tokens_needed(0.41, 0.05, 0.001, 0.9, exponent=0.6) < needed[0]


def test_twice_the_share_needs_a_quarter_of_the_tokens():
    assert tokens_needed(0.4, 0.05, 0.01, 0.9) == pytest.approx(4 * tokens_needed(0.4, 0.1, 0.01, 0.9), abs=4)


def test_what_no_number_of_tokens_finds_is_none():
    assert tokens_needed(0.4, 0.0, 0.01, 0.9) is None
    assert tokens_needed(-0.1, 0.5, 0.01, 0.9) is None
    assert tokens_needed(0.4, 0.5, 1e-4, 0.9, test="rank", decoys=999) is None
    assert power_of(0.4, 0.5, 10**9, 1e-4, test="rank", decoys=999) == 0.0
    assert threshold_z(1e-4, test="rank", decoys=999) == math.inf
    assert smallest_share(0.4, 10, 0.01, 0.9) is None
    assert smallest_share(0.4, 0, 0.01, 0.9) is None


def test_an_uncertain_slope_makes_the_answer_careful():
    sure, unsure = (tokens_needed(0.4, 0.05, 0.01, 0.9, se=se) for se in (0.0, 0.1))
    assert unsure == pytest.approx(sure * (0.4 / (0.4 - 0.1645)) ** 2, rel=0.01)
    assert tokens_needed(0.4, 0.05, 0.01, 0.9, se=0.3) is None
    assert smallest_share(0.4, 10_000, 0.01, 0.9, se=0.1) > smallest_share(0.4, 10_000, 0.01, 0.9)


def test_planned_power_is_reached_with_the_promised_confidence():
    """Slopes estimated with error: in 95 % of plans the real power is at least the planned one."""
    rng, kept = np.random.default_rng(33), []
    for _ in range(1_500):
        estimate = 0.4 + 0.08 * rng.standard_normal()
        tokens = tokens_needed(estimate, 0.05, 0.01, 0.8, se=0.08)
        kept.append(tokens is None or power_of(0.4, 0.05, tokens, 0.01) >= 0.8 - 1e-9)
    assert np.mean(kept) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 1_500))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tokens_needed(0.4, 1.5, 0.01, 0.9), "share lies between"),
        (lambda: tokens_needed(0.4, 0.5, 0.0, 0.9), "alpha must lie"),
        (lambda: tokens_needed(0.4, 0.5, 0.01, 1.0), "power must lie"),
        (lambda: tokens_needed(math.nan, 0.5, 0.01, 0.9), "must be finite"),
        (lambda: tokens_needed(0.4, 0.5, 0.01, 0.9, se=-1.0), "must be finite"),
        (lambda: tokens_needed(0.4, 0.5, 0.01, 0.9, exponent=2.0), "exponent"),
        (lambda: tokens_needed(0.4, 0.5, 0.01, 0.9, test="wald"), "test must be one of"),
        (lambda: power_of(0.4, 0.5, -1, 0.01), "tokens >= 0"),
        (lambda: power_of(0.4, math.nan, 1, 0.01), "share from 0 to 1"),
        (lambda: power_of(0.4, 0.5, 1, 0.01, decoys=0), "1 or more"),
        (lambda: smallest_share(0.4, math.nan, 0.01, 0.9), "tokens must be"),
    ],
)
def test_bad_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
