"""A small world of scores for the tests: skewed, correlated inputs, a teacher, and students of what it answers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def inputs(n, seed):
    """(n, 10): six continuous columns, two of them skewed, and four binary ones."""
    rng = np.random.default_rng(1000 + seed)
    mix = np.linalg.cholesky(0.6 * np.eye(6) + 0.4)
    z = rng.normal(size=(n, 6)) @ mix.T
    x = z.copy()
    x[:, 4:] = np.exp(0.7 * z[:, 4:])
    return np.hstack([x, (rng.normal(size=(n, 4)) + 0.5 * z[:, :4] > 0.3).astype(float)])


def scores(x, classes=2):
    """The teacher: probabilities (n, classes) that bend with the inputs."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(x.shape[1], 24)) / 2.5, rng.normal(size=(24, classes)) * 0.8
    z = x.copy()
    z[:, 4:6] = np.log(np.maximum(z[:, 4:6], 1e-9)) / 0.7
    hidden = np.maximum(z @ first + rng.uniform(-1, 1, 24), 0) @ second
    hidden = (hidden - hidden.mean(axis=0)) / hidden.std(axis=0)
    e = np.exp(hidden - hidden.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def boosted(x, y, seed=0, rounds=150):
    """A student: regresses y (n,) on x; returns its prediction."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=rounds, early_stopping=False, random_state=seed).fit(x, y).predict


@lru_cache(maxsize=1)
def bench():
    """thief's inputs, probes, their clean scores of the second class, and the owner's surrogates at the probes."""
    from watermark.scoring.surrogates import train

    thief, probes, own = inputs(5000, 1), inputs(4000, 2), inputs(4000, 3)
    every = scores(np.vstack([thief, probes, own]))[:, 1]
    a, b, c = every[:5000], every[5000:9000], every[9000:]
    predictions = train(own, c, kinds=("boosted", "network")).predict(probes)
    return thief, a, probes, b, predictions
