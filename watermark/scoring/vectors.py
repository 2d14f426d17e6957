"""What a suspect's embeddings hold beyond everything linear, as coefficients on the basis; a rotation changes nothing.

The mark of embeddings is a keyed map of the clean embedding that is not linear. So whatever is linear may go: the
suspect is aligned with the clean embeddings by least squares, which undoes a rotation, a change of scale or of
dimension; then the clean embeddings, a constant and surrogates go from it and from the basis alike (Frisch and Waugh
1933, Lovell 1963). Nothing here sees a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watermark.errors import SuspectUnusable, TooFewObservations
from watermark.scoring.residual import Residual

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONSTANT = 1e-9


def aligned(suspect: NDArray[np.float64], clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine image of the suspect's embeddings (n, e) that is nearest the clean ones (n, d); e may differ from d.

    Raises TooFewObservations unless there are four answers for each of the suspect's dimensions.
    """
    n, width = suspect.shape
    if n < 4 * (width + 1):
        raise TooFewObservations(
            f"{n} embeddings of {width} dimensions cannot be aligned, needed are {4 * (width + 1)}",
            hint="ask the suspect for more inputs",
        )
    known = np.column_stack([suspect, np.ones(n)])
    return np.asarray(known @ np.linalg.lstsq(known, clean, rcond=None)[0])


def vector_residual(
    suspect: NDArray[np.float64],
    clean: NDArray[np.float64],
    features: NDArray[np.float64],
    surrogates: NDArray[np.float64] | None = None,
) -> Residual:
    """Aligned embeddings less everything linear in the clean ones, on the basis less the same.

    suspect: (n, e); clean: (n, d); features: (n, B) of the clean embeddings; surrogates: (n, S, d) embeddings by
    models of the owner's. Coefficients are (B, d), all channels under one penalty. Raises TooFewObservations, or
    SuspectUnusable for embeddings that are constant or the clean ones.
    """
    n, size = features.shape
    known = key_free_vectors(clean, surrogates)
    needed = 2 * (known.shape[1] + size)
    if n < needed:
        raise TooFewObservations(
            f"{n} embeddings for {size} functions and {known.shape[1]} dimensions to take away, needed are {needed}",
            hint="ask the suspect for more inputs, or leave surrogates out",
        )
    if np.ptp(suspect, axis=0).max() < _CONSTANT:
        raise SuspectUnusable("the suspect embeds every input alike; nothing can depend on a key")
    near = aligned(suspect, clean)
    if np.abs(near - clean).max() < _CONSTANT:
        raise SuspectUnusable(
            "the suspect's embeddings are the clean ones, up to a linear map",
            hint="did you pass one file twice? the suspect's answers go to --answers, the owner's to --clean",
        )
    basis = np.linalg.qr(known)[0]
    rest, left = near - basis @ (basis.T @ near), features - basis @ (basis.T @ features)
    coefficients, penalty = steady_ridge(left, rest)
    spread = float(np.square(near - clean).sum())
    return Residual(
        rest=rest,
        coefficients=coefficients,
        penalty=penalty,
        explained=float(np.clip(1 - np.square(rest).sum() / spread, 0, 1)) if spread > 0 else 0.0,
    )


def key_free_vectors(clean: NDArray[np.float64], surrogates: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """What is taken away: the clean embedding, a constant, and every surrogate's embedding. (n, 1 + d + S d)."""
    parts = [np.ones((len(clean), 1)), clean]
    if surrogates is not None:
        parts.append(surrogates.reshape(len(clean), -1))
    return np.hstack(parts)


def steady_ridge(features: NDArray[np.float64], rest: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Ridge coefficients (B, C) of all channels (n, C) on (n, B), the penalty one mean eigenvalue of the Gram matrix.

    Less the linear part, some functions hardly vary and their coefficients are noise. Cross-validation takes a
    student's misfit for white, penalises too little, and finds log10 p of -25 where this finds -203 (docs/results).
    """
    n = len(rest)
    gram = features.T @ features / n
    penalty = float(np.trace(gram)) / len(gram)
    found = np.linalg.solve(gram + max(penalty, 1e-12) * np.eye(len(gram)), features.T @ rest / n)
    return np.asarray(found, dtype=np.float64), penalty
