"""Exactness: innocent suspects under thousands of keys, by our test and by the naive one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Bench, bench_of, the_basis, the_key, the_scheme
from students import student
from tasks import Array, taught

from watermark.keys import decoy_keys
from watermark.scores import Marker
from watermark.scoring.residual import residual

if TYPE_CHECKING:
    from study import Cell

KEYS, NAIVE = 10_000, 1000
ALPHAS = (0.05, 0.01, 0.001)


def innocents(bench: Bench, basis: Any) -> dict[str, Array]:
    """Answers of suspects that never saw the keys tested: their probabilities of the second class (n,)."""
    x, clean, probes = bench.rows("thief"), bench.clean("thief"), bench.rows("probes")
    labels = bench.task.labels("thief", bench.n)
    hot = np.column_stack([1 - labels, labels])

    def shown(kind: str, rows: Array, answers: Array) -> Array:
        return student(kind, rows, answers, output="probabilities", seed=1)(probes)[:, 1]

    other = Marker(the_scheme(bench.task, 0.05), basis, the_key(99)).tilt(clean, x)
    return {
        "boosted, of clean answers": shown("boosted", x, clean),
        "network, of clean answers": shown("network", x, clean),
        "small boosted, of clean answers": shown("small", x, clean),
        "forest, of clean answers": shown("forest", x, clean),
        "independent, own labels": taught("boosted", x, labels, "probabilities")(probes)[:, 1],
        "boosted, of another key's answers": shown("boosted", x, other),
        "nearly constant": 0.5 + 1e-6 * (probes[:, 0] > 0),
        "overfitted to 300 labels": shown("neighbours", x[:300], hot[:300]),
    }


def measured(cell: Cell, folder: Path) -> dict[str, Any]:
    """Rejection rates over keys, for every innocent; and the naive test's, at the same probes."""
    from published import naive_log10_p

    bench = bench_of(cell.task, cell.n, cell.probes, folder)
    scheme = the_scheme(bench.task, 0.02)
    basis = the_basis(cell.task, cell.size, cell.kind)
    phi, clean = basis.features(bench.rows("probes")), bench.clean("probes")
    directions = np.column_stack([scheme.matrix(key, basis.size)[:, 0] for key in decoy_keys(b"exactness", KEYS)])
    marks = np.tanh(4 * phi @ directions[:, :NAIVE] / np.sqrt(basis.size))
    found: dict[str, Any] = {"keys": KEYS, "naive keys": NAIVE, "dimensions": basis.size}
    for name, answers in innocents(bench, basis).items():
        told: dict[str, Any] = {}
        for which, near in (("own surrogates", bench.surrogates("own")[:, :, 1:]), ("no surrogates", None)):
            read = residual(answers[:, None], clean[:, 1:], phi, near).coefficients[:, 0]
            told[which] = rates(upper_tail(cosines(read, directions), basis.size))
        naive = naive_log10_p(answers - clean[:, 1], marks)
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
