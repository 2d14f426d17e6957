"""A service of embeddings and a student of it, whose vectors are then rotated, mapped, cut, rounded or blurred."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Bench, bench_of, the_basis, the_key, the_scheme
from students import student
from tasks import Array

from watermark.scores import Marker
from watermark.scoring.vectors import vector_residual
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from cell import Cell

COMPONENTS = 12


def measured(cell: Cell, folder: Path) -> dict[str, Any]:
    """log10 p of the student and of its double that learned from unmarked embeddings, each under every change."""
    bench = bench_of(cell.task, cell.n, cell.probes, folder)
    scheme, key = the_scheme(bench.task, cell.epsilon), the_key(cell.key)
    basis = the_basis(cell.task, cell.size, cell.kind, COMPONENTS)
    marker = Marker(scheme, basis, key)
    clean = bench.clean("probes")
    phi = basis.features(clean)
    marked = marker.tilt(clean, clean)
    given = {"marked": marker.tilt(bench.clean("thief"), bench.clean("thief")), "clean": bench.clean("thief")}
    found: dict[str, Any] = {
        "cosine to clean": float(_likeness(marked, clean).mean()),
        "least cosine to clean": float(_likeness(marked, clean).min()),
        "dimensions": scheme.dimensions(basis.size),
    }
    for name, answers in given.items():
        model = student(cell.student, bench.rows("thief"), answers, output="embeddings", seed=cell.key)
        suspect = model(bench.rows("probes"))
        found[f"{name} likeness"] = float(_likeness(suspect, clean).mean())
        found[name] = {}
        for change, vectors in changed(suspect).items():
            for which, near in (("", None), (" own", bench.surrogates("own"))):
                read = vector_residual(vectors, clean, phi, near).coefficients
                found[name][change + which] = log10_pvalue(scheme.score(read, key), scheme.dimensions(basis.size))
        found[name]["as it is, 1000 probes"] = _few(suspect, clean, phi, scheme, key, bench)
    return found


def changed(suspect: Array) -> dict[str, Array]:
    """The suspect's vectors (n, d) as they are, and after what a thief may do to them."""
    rng = np.random.default_rng(11)
    width = suspect.shape[1]
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    return {
        "as it is": suspect,
        "rotated": suspect @ turn,
        "any linear map": suspect @ rng.normal(size=(width, width)),
        "half of the dimensions": suspect[:, : width // 2],
        "noise of 0.05 each": suspect + 0.05 * rng.normal(size=suspect.shape),
        "brought to length one": suspect / np.linalg.norm(suspect, axis=1, keepdims=True),
        "rounded to 8 bits": np.round(suspect * 127) / 127,
    }


def _few(suspect: Array, clean: Array, phi: Array, scheme: Any, key: Any, bench: Bench) -> float:
    read = vector_residual(suspect[:1000], clean[:1000], phi[:1000]).coefficients
    return log10_pvalue(scheme.score(read, key), scheme.dimensions(phi.shape[1]))


def _likeness(a: Array, b: Array) -> Array:
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
