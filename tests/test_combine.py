"""Combining tests: Holm, the mean of e-values and max-T, by hand and as rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.stats.combine import holm, max_t, mean_evalue

logs = st.lists(st.floats(-300, 0), min_size=1, max_size=12)


def test_holm_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    assert 10 ** holm(np.log10(p)) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert 10 ** holm([math.log10(0.4), math.log10(0.9)]) == pytest.approx([0.8, 0.9])
    assert holm([-5_000.0, 0.0, -math.inf]).tolist() == pytest.approx([-5_000 + math.log10(2), 0.0, -math.inf])
    assert holm([]).shape == (0,)


@given(logs)
@settings(max_examples=200, deadline=None)
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(log10_p):
    raw, adjusted = np.array(log10_p), holm(log10_p)
    assert (adjusted <= 0).all()
    assert (adjusted >= raw).all()
    assert (adjusted <= raw + math.log10(len(raw)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()


@given(logs, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_holm_does_not_mind_the_order(log10_p, random):
    order = list(range(len(log10_p)))
    random.shuffle(order)
    assert holm([log10_p[i] for i in order]).tolist() == holm(log10_p)[order].tolist()


def test_holm_keeps_the_familywise_error():
    rng = np.random.default_rng(5)
    uniform = rng.random((4_000, 20))
    uniform[:, :5] **= 4  # five of twenty are findings; the rest must rarely be called one
    rejected = np.array([(holm(np.log10(p))[5:] <= math.log10(0.05)).any() for p in uniform])
    assert rejected.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 4_000)
    plain = (uniform[:, 5:] <= 0.05).any(axis=1)
    assert plain.mean() > 0.4


def test_mean_evalue_by_hand():
    assert float(mean_evalue([1.0, 2.0, 0.0])) == pytest.approx(math.log10(111 / 3))
    assert mean_evalue([[0.0, 3.0], [-math.inf, 1.0]]).tolist() == pytest.approx([math.log10(500.5), math.log10(5)])
    assert mean_evalue([[0.0, 3.0], [2.0, 1.0]], axis=0).tolist() == pytest.approx([math.log10(50.5), math.log10(505)])
    assert float(mean_evalue([5_000.0, -5_000.0])) == pytest.approx(5_000 - math.log10(2))
    assert float(mean_evalue([-math.inf, -math.inf])) == -math.inf


def test_mean_evalue_keeps_its_level_for_dependent_evalues():
    shared = np.random.default_rng(6).standard_normal((40_000, 1))
    bets = np.array([0.5, 1.0, 2.0, 3.0])
    evalues = (bets * shared - bets**2 / 2) / math.log(10)
    crossed = (mean_evalue(evalues) >= math.log10(20)).mean()
    assert 0 < crossed <= 0.05


def test_max_t_by_hand():
    null = [[0.1, 2.0], [1.0, 0.5], [-1.0, 0.0], [3.0, 1.0]]  # largest: 2, 1, 0, 3
    assert max_t([2.5, 0.5], null).tolist() == [2 / 5, 4 / 5]
    assert max_t([9.0, -9.0], null).tolist() == [1 / 5, 1.0]


def test_max_t_counts_ties_against_the_finding():
    assert max_t([2.0], [[2.0], [1.0], [3.0]]).tolist() == [3 / 4]


def test_max_t_keeps_the_familywise_error_and_sees_dependence():
    """30 nearly equal tests among 199 decoys: as many errors as promised, and fewer lost than to Bonferroni."""
    rng = np.random.default_rng(7)
    smallest = []
    for _ in range(1_500):
        rows = rng.standard_normal((200, 1)) + 0.3 * rng.standard_normal((200, 30))
        smallest.append(max_t(rows[0], rows[1:]).min())
    rate = np.mean(np.array(smallest) <= 0.05)
    assert abs(rate - 0.05) <= 3 * math.sqrt(0.05 * 0.95 / 1_500)


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="pass log10, not p"):
        holm([0.2, -3.0])
    with pytest.raises(ValueError, match="NaN"):
        holm([math.nan])
    with pytest.raises(ValueError, match="one line"):
        holm([[-1.0]])
    for empty in ([], 3.0):
        with pytest.raises(ValueError, match="at least one e-value"):
            mean_evalue(empty)
    with pytest.raises(ValueError, match="NaN"):
        mean_evalue([1.0, math.nan])
    with pytest.raises(ValueError, match="needs totals"):
        max_t([1.0, 2.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="at least one decoy"):
        max_t([1.0], np.empty((0, 1)))
    with pytest.raises(ValueError, match="NaN"):
        max_t([math.nan], [[1.0]])
