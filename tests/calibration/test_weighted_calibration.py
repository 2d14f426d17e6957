"""Weighted sums keep their level: random green bits, many shapes of weights, every answer the law can give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from watermark.stats.combine import mean_evalue
from watermark.stats.weighted import WeightedSum

RUNS = 1_200
LEVELS = (0.05, 0.01, 0.001)


def _heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """Student's t with 1.5 degrees: a few cells hold most of the variance."""
    return np.clip(np.rint(rng.standard_t(1.5, n) * 4), -4_000, 4_000)


def _mixed(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(-40, 41, n)


def _votes(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.full(n, 16)


def _positive(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.rint(rng.exponential(16, n))


SHAPES = {
    "heavy": (_heavy, 600),
    "mixed": (_mixed, 300),
    "votes": (_votes, 500),
    "positive": (_positive, 400),
    "tiny": (_heavy, 6),
    "few": (_mixed, 25),
}


def _keeps(log10_p: np.ndarray, what: str) -> None:
    """At most the nominal rate and two standard errors."""
    for level in LEVELS:
        rate = (log10_p <= math.log10(level)).mean()
        assert rate <= level + 2 * math.sqrt(level * (1 - level) / len(log10_p)), (what, level, rate)


def _answers(shape: str) -> dict[str, np.ndarray]:
    """p-values (RUNS,) of each kind: 12 draws of weights, gammas and sides by turns, 100 draws of bits each."""
    rng, (make, n) = np.random.default_rng([41, list(SHAPES).index(shape)]), SHAPES[shape]
    found: dict[str, list[np.ndarray]] = {"exact": [], "chernoff": [], "1/E": []}
    for draw in range(RUNS // 100):
        gamma, side = (0.25, 0.5)[draw % 2], ("greater", "less", "two-sided")[draw % 3]
        law = WeightedSum(make(rng, n).astype(np.int32), gamma)
        totals = (rng.random((100, n)) < gamma) @ law.weights.astype(np.int64)
        found["exact"].append(np.array([law.log10_pvalue(int(total), alternative=side) for total in totals]))
        found["chernoff"].append(np.array([law.log10_chernoff(int(total), alternative=side) for total in totals]))
        found["1/E"].append(-law.log10_evalue(totals, alternative=side))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.slow
def test_every_pvalue_keeps_its_level(holds_level):
    """Exact, Chernoff and 1/E: two standard errors over all shapes, the 99.9 % binomial point in each."""
    answers = {shape: _answers(shape) for shape in SHAPES}
    for name in ("exact", "chernoff", "1/E"):
        for shape in SHAPES:
            holds_level(answers[shape][name], f"{name}, {shape}")
        _keeps(np.concatenate([answers[shape][name] for shape in SHAPES]), name)
    smooth = np.concatenate([answers[shape]["exact"] for shape in ("heavy", "mixed", "positive")])
    spent = (smooth <= math.log10(0.05)).mean()  # exact is not merely safe: it spends its level
    assert spent >= 0.05 - 3 * math.sqrt(0.05 * 0.95 / len(smooth))


def test_the_mean_of_evalues_on_shared_bits_keeps_its_level():
    """Four weightings of the same cells, as detection combines them."""
    rng, found = np.random.default_rng(43), []
    for _ in range(40):
        votes = np.full(400, 16)
        laws = [WeightedSum(np.asarray(k, np.int32), 0.25) for k in (votes, _mixed(rng, 400), _heavy(rng, 400))]
        laws.append(WeightedSum(laws[1].weights * 3 + laws[2].weights, 0.25))
        green = rng.random((100, 400)) < 0.25
        each = [law.log10_evalue(green @ law.weights.astype(np.int64)) for law in laws]
        found.append(-mean_evalue(np.stack(each), axis=0))
    _keeps(np.concatenate(found), "mean of e-values")


def test_a_normal_tail_would_not_keep_it():
    """Why there is no normal approximation: with a few heavy cells its p-values reject too often."""
    rng = np.random.default_rng(44)
    z = []
    for _ in range(4_000):
        weights = np.rint(rng.exponential(16, 40) ** 2 / 16).astype(np.int32)
        law = WeightedSum(weights, 0.1)
        z.append(law.z(int(weights @ (rng.random(40) < 0.1))))
    rate = (np.array(z) >= 3.0902).mean()
    assert rate > 0.001 + 4 * math.sqrt(0.001 / 4_000)
