"""Exactness: innocent suspects under thousands of keys, by our test and by the naive one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Bench, bench_of, the_basis, the_key, the_scheme
from students import student
from tasks import Array, taught

from watermark.keys import decoy_keys
from watermark.scores import Marker
from watermark.scoring.residual import channels_of, residual

if TYPE_CHECKING:
    from cell import Cell

KEYS, NAIVE = 10_000, 1000
ALPHAS = (0.05, 0.01, 0.001)


def innocents(bench: Bench, basis: Any) -> Iterator[tuple[str, Array]]:
    """Suspects that never saw the keys tested, and their answers to the probes (n, channels)."""
    x, clean, probes = bench.rows("thief"), bench.clean("thief"), bench.rows("probes")
    labels, classes = bench.task.labels("thief", bench.n), bench.task.channels
    hot = np.eye(classes)[labels.astype(int)]

    def shown(kind: str, rows: Array, answers: Array) -> Array:
        return student(kind, rows, answers, output="probabilities", seed=1)(probes)

    yield "boosted, of clean answers", shown("boosted", x, clean)
    yield "network, of clean answers", shown("network", x, clean)
    yield "small boosted, of clean answers", shown("small", x, clean)
    yield "forest, of clean answers", shown("forest", x, clean)
    yield "independent, own labels", taught("boosted", x, labels, "probabilities")(probes)
    other = Marker(the_scheme(bench.task, 0.05), basis, the_key(99)).tilt(clean, x)
    yield "boosted, of another key's answers", shown("boosted", x, other)
    tilted = np.full((len(probes), classes), 1 / classes)
    tilted[:, 0] += 1e-6 * (probes[:, 0] > np.median(probes[:, 0]))
    yield "nearly constant", tilted / tilted.sum(axis=1, keepdims=True)
    yield "overfitted to 300 labels", shown("neighbours", x[:300], hot[:300])


def measured(cell: Cell, folder: Path) -> dict[str, Any]:
    """Rejection rates over keys, for every innocent; and the naive test's, at the same probes."""
    from published import naive_log10_p

    bench = bench_of(cell.task, cell.n, cell.probes, folder)
    scheme = the_scheme(bench.task, 0.02)
    basis = the_basis(cell.task, cell.size, cell.kind)
    phi, clean = basis.features(bench.rows("probes")), channels_of(bench.clean("probes"), scheme)
    own = bench.surrogates("own")
    own = own[:, :, 1:] if scheme.width == 1 else own
    matrices = [scheme.matrix(key, basis.size) for key in decoy_keys(b"exactness", KEYS)]
    directions = np.column_stack([matrix.ravel() for matrix in matrices])
    channel = scheme.width - 1
    last = np.column_stack([matrix[:, channel] for matrix in matrices[:NAIVE]])
    marks = np.tanh(4 * phi @ last / np.sqrt(basis.size))
    dimensions = scheme.dimensions(basis.size)
    found: dict[str, Any] = {"keys": KEYS, "naive keys": NAIVE, "dimensions": dimensions}
    for name, all_answers in innocents(bench, basis):
        answers, told = channels_of(all_answers, scheme), dict[str, Any]()
        for which, near in (("own surrogates", own), ("no surrogates", None)):
            read = residual(answers, clean, phi, near).coefficients
            read = read - read.mean(axis=1, keepdims=True) if scheme.zero_sum else read
            told[which] = rates(upper_tail(cosines(read.ravel(), directions), dimensions))
        naive = naive_log10_p(answers[:, channel] - clean[:, channel], marks)
        told["naive"] = rates(10.0**naive) | {"least log10 p": float(naive.min())}
        found[name] = told
    return found


def cosines(read: Array, directions: Array) -> Array:
    """Of one vector (B,) with every column (B, m): one product for all keys."""
    return np.asarray(read @ directions / (np.linalg.norm(read) * np.linalg.norm(directions, axis=0)))


def upper_tail(cosine: Array, dimensions: int) -> Array:
    """P(cos >= c) elementwise, for p-values that are not deep."""
    from scipy.special import betainc

    half = 0.5 * betainc((dimensions - 1) / 2, 0.5, 1 - cosine**2)
    return np.asarray(np.where(cosine >= 0, half, 1 - half))


def rates(p: Array) -> dict[str, float]:
    """Share of p-values at or below each level."""
    return {f"{alpha:g}": float((p <= alpha).mean()) for alpha in ALPHAS}
