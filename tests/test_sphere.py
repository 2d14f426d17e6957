"""The law of a cosine with a uniform direction: against scipy's beta law, simulation, and its own identities."""

import numpy as np
import pytest
from scipy import stats

from watermark.stats.sphere import DirectionProcess, effective_dimensions, log10_evalue, log10_pvalue


@pytest.mark.parametrize("dimensions", [2, 3, 50, 200, 1000])
@pytest.mark.parametrize("cosine", [-0.7, -0.1, 0.0, 0.05, 0.3, 0.6])
def test_pvalue_is_the_beta_tail(cosine, dimensions):
    half = stats.beta.sf(cosine**2, 0.5, (dimensions - 1) / 2) / 2
    expected = np.log10(half) if cosine >= 0 else np.log10(1 - half)
    assert log10_pvalue(cosine, dimensions) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_two_sided_doubles_and_less_mirrors():
    assert log10_pvalue(-0.3, 100, alternative="two-sided") == pytest.approx(log10_pvalue(0.3, 100) + np.log10(2))
    assert log10_pvalue(-0.3, 100, alternative="less") == log10_pvalue(0.3, 100)
    assert log10_pvalue(0.0, 100, alternative="two-sided") == 0.0


def test_deep_tails_go_on_where_the_beta_function_underflows():
    """P(cos >= c) by numerical integration of the density (1 - t^2)^((D - 3) / 2), in logarithms."""
    for dimensions, cosine in ((400, 0.98), (2000, 0.8)):
        t = np.linspace(cosine, 1, 2_000_001)[:-1]
        logs = (dimensions - 3) / 2 * np.log1p(-(t**2))
        from scipy.special import betaln, logsumexp

        expected = (logsumexp(logs) + np.log(t[1] - t[0]) - betaln(0.5, (dimensions - 1) / 2)) / np.log(10)
        assert log10_pvalue(cosine, dimensions) == pytest.approx(expected, abs=0.02)
        assert log10_pvalue(cosine, dimensions) < -260
    assert -800 < log10_pvalue(1.0, 100) < -700


def test_deep_and_shallow_formula_meet():
    from watermark.stats import sphere

    shallow = log10_pvalue(0.4, 300)
    kept, sphere._DEEP = sphere._DEEP, 1.0
    try:
        assert log10_pvalue(0.4, 300) == pytest.approx(shallow, rel=1e-10)
    finally:
        sphere._DEEP = kept


def test_evalues_average_one_over_the_sphere():
    """By quadrature over the cosine's density: heavy tails make simulation too crude."""
    for dimensions in (3, 20, 200):
        c = np.linspace(-1, 1, 400_001)[1:-1]
        density = np.exp((dimensions - 3) / 2 * np.log1p(-(c**2)) - _log_beta(dimensions))
        for alternative in ("greater", "less", "two-sided"):
            e = 10.0 ** log10_evalue(c, dimensions, alternative=alternative)
            assert (e * density).sum() * (c[1] - c[0]) == pytest.approx(1.0, abs=2e-3), (dimensions, alternative)


def test_evalues_follow_the_pvalue():
    """An e-value is never above 1/p, and within four decades of it where there is evidence."""
    for cosine in (0.3, 0.5, 0.7):
        e, p = float(log10_evalue(cosine, 200)), log10_pvalue(cosine, 200)
        assert -p - 4 < e <= -p
    assert float(log10_evalue(-0.5, 200)) < 0


def test_the_process_bets_on_what_is_new_alone():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=60)
    process = DirectionProcess(60)
    first = process.update(direction + rng.normal(size=60), direction)
    assert first > 0
    assert process.update(first * (process._seen[0]), direction) == first  # nothing new, nothing gained
    assert process.history == [first, first]


def test_every_bet_has_its_exact_law_given_those_before():
    """Batches that build on each other: each step's p-values are uniform, and know nothing of the step before."""
    rng = np.random.default_rng(1)
    reads = np.cumsum(rng.normal(size=(3, 6)), axis=0)
    steps = []
    for _ in range(4000):
        direction, process = rng.normal(size=6), DirectionProcess(6)
        for read in reads:
            process.update(read, direction)
        assert [left for _, left in process.bets] == [6, 5, 4]
        steps.append([10.0 ** log10_pvalue(cosine, left) for cosine, left in process.bets])
    p = np.array(steps)
    for step in range(3):
        assert stats.kstest(p[:, step], "uniform").pvalue > 0.001
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        assert stats.spearmanr(p[:, earlier], p[:, later]).pvalue > 0.001
        assert stats.spearmanr(np.abs(p[:, earlier] - 0.5), np.abs(p[:, later] - 0.5)).pvalue > 0.001


def test_a_process_is_left_alone_when_dimensions_run_out():
    process = DirectionProcess(2)
    first = process.update([1.0, 0.0], [1.0, 0.2])
    assert process.update([0.0, 1.0], [1.0, 0.2]) == first


@pytest.mark.parametrize("bad", [1, 0, -3])
def test_a_direction_needs_two_dimensions(bad):
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        log10_pvalue(0.1, bad)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        DirectionProcess(bad)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        log10_evalue(0.1, bad)


def test_a_cosine_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="between -1 and 1"):
        log10_pvalue(1.2, 10)


def test_effective_dimensions_count_equal_variances():
    assert effective_dimensions(np.eye(7) * 3) == pytest.approx(7)
    assert effective_dimensions(np.diag([1.0, 0.0])) == pytest.approx(1)


def _log_beta(dimensions):
    from scipy.special import betaln

    return betaln(0.5, (dimensions - 1) / 2)
