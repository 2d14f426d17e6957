"""The contracts as programs: check_scheme() says whether a scheme's pair of functions agrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from watermark.keys import Key, decoy_keys
from watermark.schemes import Scheme, scheme_to_json

_VOCABULARY = 512
_CELLS = 20_000
_SIGMAS = 5.0


def check_scheme(scheme: Scheme) -> None:
    """Raises AssertionError, in words, unless the scheme keeps its contract.

    Scores follow `null` under random keys and are independent from cell to cell; tilting raises the true key's
    score and no decoy's; a batch equals its rows; inputs survive untouched; -inf stays; parameters survive JSON;
    numpy and torch agree to the bit.
    """
    key, *others = decoy_keys(b"check_scheme", 9)
    rng = np.random.default_rng(20240607)
    _check_json(scheme)
    _check_null(scheme, [key, *others], rng)
    _check_independence(scheme, key, rng)
    _check_tilt(scheme, key, others, rng)
    _check_shapes(scheme, key, rng)


def _check_json(scheme: Scheme) -> None:
    described = scheme_to_json(scheme)
    again = type(scheme)(**described["parameters"])
    _require(again == scheme, "parameters do not survive JSON: rebuilt from its fields the scheme differs")
    _require(dataclasses.is_dataclass(scheme), "a scheme is a frozen dataclass")


def _check_null(scheme: Scheme, keys: list[Key], rng: np.random.Generator) -> None:
    windows, choices = _cells(scheme, rng)
    for key in keys:
        scores = np.asarray(scheme.score(windows, choices, key), dtype=float)
        _require(scores.shape == (_CELLS,), f"score returns shape {scores.shape}, needed is ({_CELLS},)")
        error = abs(scores.mean() - scheme.null.mean) / np.sqrt(scheme.null.variance / _CELLS)
        _require(error < _SIGMAS, f"scores under a random key miss the mean of `null` by {error:.1f} sigma")
        ratio = scores.var() / scheme.null.variance
        _require(0.9 < ratio < 1.1, f"scores have {ratio:.2f} times the variance of `null`")


def _check_independence(scheme: Scheme, key: Key, rng: np.random.Generator) -> None:
    """Cells that share a token, or a window, or all but the oldest id of it, must not share their score."""
    side = 150
    windows = rng.integers(0, 2**20, (side, scheme.window))
    windows[:, 1:] = windows[:1, 1:]
    choices = rng.integers(0, 2**17, side)
    grid = np.asarray(scheme.score(np.repeat(windows, side, axis=0), np.tile(choices, side), key), dtype=float)
    centred = grid.reshape(side, side) - scheme.null.mean
    for axis, shared in ((0, "token"), (1, "window")):
        ratio = centred.sum(axis=axis).var() / (side * scheme.null.variance)
        _require(0.4 < ratio < 1.8, f"cells that share a {shared} are not independent: {ratio:.1f} times the variance")


def _check_tilt(scheme: Scheme, key: Key, others: list[Key], rng: np.random.Generator) -> None:
    rows = 2_000
    contexts = rng.integers(0, _VOCABULARY, (rows, scheme.window))
    logits = 3 * rng.standard_normal((rows, _VOCABULARY)).astype(np.float32)
    tilted = scheme.tilt(logits, contexts, key)
    gumbel = rng.gumbel(size=logits.shape)
    marked, plain = (tilted + gumbel).argmax(axis=1), (logits + gumbel).argmax(axis=1)
    spread = np.sqrt(scheme.null.variance / rows)
    gain = _mean(scheme, contexts, marked, key) - _mean(scheme, contexts, plain, key)
    _require(gain > 3 * spread, f"tilting raises the true key's score by {gain / spread:.1f} sigma, needed are 3")
    for other in others:
        off = abs(_mean(scheme, contexts, marked, other) - scheme.null.mean) / spread
        _require(off < _SIGMAS, f"tilting moves another key's score by {off:.1f} sigma")


def _check_shapes(scheme: Scheme, key: Key, rng: np.random.Generator) -> None:
    import torch

    contexts = rng.integers(0, _VOCABULARY, (4, scheme.window))
    logits = rng.standard_normal((4, _VOCABULARY)).astype(np.float32)
    logits[:, ::7] = -np.inf
    kept, known = logits.copy(), contexts.copy()
    batch = scheme.tilt(logits, contexts, key)
    _require((logits == kept).all() and (contexts == known).all(), "tilt changes its inputs")
    _require(bool(np.isneginf(batch[:, ::7]).all()), "tilt un-masks -inf")
    rows = np.concatenate([scheme.tilt(logits[i : i + 1], contexts[i : i + 1], key) for i in range(4)])
    _require(np.array_equal(batch, rows), "a batch differs from its rows")
    tensor = scheme.tilt(torch.from_numpy(logits), torch.from_numpy(contexts), key)
    _require(np.array_equal(batch, tensor.numpy()), "numpy and torch tilt differently")
    double = scheme.tilt(torch.from_numpy(logits).double(), torch.from_numpy(contexts), key)
    _require(np.allclose(batch, double.numpy()), "float64 logits are tilted differently")


def _mean(scheme: Scheme, contexts: Any, choices: Any, key: Key) -> float:
    return float(np.asarray(scheme.score(contexts, choices, key), dtype=float).mean())


def _cells(scheme: Scheme, rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.integers(0, 2**20, (_CELLS, scheme.window)), rng.integers(0, 2**17, _CELLS)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
