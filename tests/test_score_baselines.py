"""Published marks of scores, in benchmarks/scores: their waves, their detectors, and what their tests promise."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "scores"


@pytest.fixture(scope="module")
def scores() -> dict[str, ModuleType]:
    """The study's modules, imported from their folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        return {name: importlib.import_module(name) for name in ("tasks", "students", "measure", "published", "exact")}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture
def published(scores: dict[str, ModuleType]) -> ModuleType:
    return scores["published"]


def answers(n: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=n)


def test_periodogram_agrees_with_scipy(published: ModuleType) -> None:
    from scipy.signal import lombscargle

    rng = np.random.default_rng(0)
    positions = (rng.integers(0, 4096, 700) + 0.0) / 4096  # on the bins, so that both see the same places
    values = np.cos(2 * np.pi * 5 * positions) + rng.normal(size=700)
    cycles, power = published.periodogram(positions, values)
    centred = values - values.mean()
    wanted = lombscargle(positions, centred, 2 * np.pi * cycles) / centred.var()
    np.testing.assert_allclose(power, wanted, rtol=1e-6, atol=1e-9)
    assert cycles[power.argmax()] == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("classes", [2, 5])
def test_cosine_mark_costs_epsilon_at_most_and_stays_on_the_simplex(published: ModuleType, classes: int) -> None:
    rng = np.random.default_rng(1)
    x, p = rng.normal(size=(4000, 6)), answers(4000, classes)
    p[0], p[1] = np.eye(classes)[0], np.eye(classes)[1]
    key = published.Cosine.make(x, 16.0, 1, rng)
    marked = key.mark(p, x, 0.03)
    assert np.abs(marked - p).max() <= 0.03 + 1e-12
    assert np.abs(marked - p).max() > 0.024
    assert marked.min() >= 0
    np.testing.assert_allclose(marked.sum(axis=1), 1)


def test_cosine_mark_is_found_where_nothing_hides_it_and_no_decoy_is(published: ModuleType) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 6))
    flat = np.column_stack([np.full(4000, 0.4), np.full(4000, 0.6)]) + 0.01 * rng.normal(size=(4000, 1)) * [[1, -1]]
    key = published.Cosine.make(x, 30.0, 1, rng)
    score = key.mark(flat, x, 0.02)[:, 1]
    decoys = [published.Cosine.make(x, 30.0, 1, rng) for _ in range(60)]
    found = published.signal_to_noise(key.projection(x), score, 30.0)
    null = np.array([published.signal_to_noise(d.projection(x), score, 30.0) for d in decoys])
    assert found > 20
    assert published.ranked(found, null) == pytest.approx(np.log10(1 / 61))


def test_hashed_mark_leaves_the_other_half_alone(published: ModuleType) -> None:
    rng = np.random.default_rng(3)
    x, p = rng.normal(size=(2000, 6)), answers(2000, 3)
    key = published.Hashed.make(x, 16.0, rng)
    moved = np.abs(key.mark(p, x, 0.02) - p).max(axis=1) > 0
    np.testing.assert_array_equal(moved, key.kept(x))
    assert 0.4 < moved.mean() < 0.6


def test_wrong_labels_are_found_in_who_memorises_and_in_nobody_else(published: ModuleType) -> None:
    rng = np.random.default_rng(4)
    x, p = rng.normal(size=(8000, 4)), answers(8000, 3)
    key = published.WrongLabels(b"k" * 32, 0.01)
    marked = key.mark(p, x)
    assert 0.005 < (marked.argmax(axis=1) != p.argmax(axis=1)).mean() < 0.015
    np.testing.assert_array_equal(np.sort(marked, axis=1), np.sort(p, axis=1))
    assert key.log10_p(marked, p, x) < -50
    assert key.log10_p(p, p, x) == 0
    assert published.WrongLabels(b"o" * 32, 0.01).log10_p(marked, p, x) > -3


@pytest.mark.slow
def test_wrong_labels_test_keeps_its_promise(published: ModuleType) -> None:
    """400 keys against one suspect that errs on a tenth of the rows: rejections at 0.05 within the binomial bound."""
    rng = np.random.default_rng(5)
    x, p = rng.normal(size=(1500, 4)), answers(1500, 2)
    suspect = np.where((rng.random(1500) < 0.1)[:, None], p[:, ::-1], p)
    found = np.array(
        [published.WrongLabels(bytes([i % 256, i // 256]) * 16, 0.05).log10_p(suspect, p, x) for i in range(400)]
    )
    assert (found <= np.log10(0.05)).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert (found < np.log10(0.5)).mean() > 0.3  # it isn't constant either


def test_near_wrong_labels_move_by_their_gap_at_most(published: ModuleType) -> None:
    rng = np.random.default_rng(6)
    x, p = rng.normal(size=(8000, 4)), answers(8000, 3)
    marked = published.WrongLabels(b"k" * 32, 0.5, 0.05).mark(p, x)
    assert 0 < np.abs(marked - p).max() <= 0.05


def test_naive_test_is_scipys_and_fires_at_smooth_marks(published: ModuleType) -> None:
    from scipy.stats import pearsonr

    rng = np.random.default_rng(7)
    x = np.sort(rng.random(3000))
    marks = np.column_stack([np.cos(2 * np.pi * (3 * x + phase)) for phase in rng.random(200)])
    deviation = np.cos(2 * np.pi * 3 * x) * 0.2 + rng.normal(size=3000)
    found = published.naive_log10_p(deviation, marks)
    wanted = [np.log10(pearsonr(deviation, m, alternative="greater").pvalue) for m in marks.T[:5]]
    np.testing.assert_allclose(found[:5], wanted, rtol=1e-6)
    assert (found < -2).mean() > 0.2


def test_upper_tail_is_the_librarys(scores: dict[str, ModuleType]) -> None:
    from watermark.stats.sphere import log10_pvalue

    cosine = np.linspace(-0.4, 0.4, 9)
    wanted = [10 ** log10_pvalue(c, 50) for c in cosine]
    np.testing.assert_allclose(scores["exact"].upper_tail(cosine, 50), wanted, rtol=1e-9)


def test_costs_are_those_of_scikit_learn(scores: dict[str, ModuleType]) -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    p, y = answers(500, 2), np.random.default_rng(1).integers(0, 2, 500)
    found = scores["measure"].judged(p, y)
    assert found["log loss"] == pytest.approx(log_loss(y, p[:, 1]))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p[:, 1]))
    sure = np.eye(2)[y]
    assert scores["measure"].judged(sure, y)["ece"] == pytest.approx(0)


def test_parts_of_a_task_do_not_overlap(scores: dict[str, ModuleType]) -> None:
    made = scores["tasks"].Generated(2)
    rows = {part: {row.tobytes() for row in made.inputs(part, 200)} for part in ("teacher", "thief", "probes")}
    assert len(set.union(*rows.values())) == 600
    np.testing.assert_array_equal(made.inputs("thief", 50), made.inputs("thief", 50))


@pytest.mark.parametrize(
    "kind", ["boosted", "small", pytest.param("network", marks=pytest.mark.slow), "forest", "neighbours", "linear"]
)
def test_students_learn_their_teacher(scores: dict[str, ModuleType], kind: str) -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(600, 4))
    p = 1 / (1 + np.exp(-x[:, 0] - 0.5 * x[:, 1]))
    wanted = np.column_stack([1 - p, p])
    found = scores["students"].student(kind, x, wanted, output="probabilities", seed=0)(x)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert np.corrcoef(found[:, 1], p)[0, 1] > 0.95
