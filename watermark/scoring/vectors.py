"""Embeddings: a suspect's vectors, turned, stretched or cut as they may be, against the owner's clean ones.

The suspect is first laid onto the clean embeddings by least squares, which undoes any rotation or affine map; then all
that is linear in the clean embedding, and the surrogates' vectors, are taken away from it and from the basis alike.
What is left can only be non-linear in the clean embedding, as the mark is. None of it sees a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watermark.errors import SuspectUnusable, TooFewObservations
from watermark.scoring.residual import Residual

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RIDGE = 1e-2  # of the basis' unit variance


def vector_residual(
    suspect: NDArray[np.float64],
    clean: NDArray[np.float64],
    features: NDArray[np.float64],
    surrogates: NDArray[np.float64] | None = None,
) -> Residual:
    """Suspect's vectors less everything key-free, on the basis.

    suspect: (n, s), of any dimension; clean: (n, d); features: (n, B); surrogates: (n, S, d). Returns coefficients
    (B, d) and the rest (n, d). Raises TooFewObservations for fewer rows than regressors, SuspectUnusable where the
    vectors are constant or nothing of them is left.
    """
    n, size = features.shape
    needed = 2 * (suspect.shape[1] + clean.shape[1] + size)
    if n < needed:
        raise TooFewObservations(
            f"{n} embeddings, needed are {needed}: twice the dimensions of both sides and of the basis",
            hint="ask the suspect for more inputs",
        )
    if np.ptp(suspect, axis=0).max() < 1e-9:
        raise SuspectUnusable("the suspect answers every input alike; nothing can depend on a key")
    laid = aligned(suspect, clean)
    known = [np.ones((n, 1)), clean]
    if surrogates is not None:
        known.append(surrogates.reshape(n, -1))
    frame = np.linalg.qr(np.hstack(known))[0]
    rest = laid - frame @ (frame.T @ laid)
    left = features - frame @ (frame.T @ features)
    spread = float(np.square(laid - clean).sum())
    if float(np.square(rest).sum()) <= 1e-18 * float(np.square(laid).sum()):
        raise SuspectUnusable("the suspect's vectors are an affine map of the clean ones, to the last digit")
    gram = left.T @ left + _RIDGE * n * np.eye(size)
    coefficients = np.linalg.solve(gram, left.T @ rest)
    explained = float(np.clip(1 - np.square(rest).sum() / spread, 0, 1)) if spread > 0 else 0.0
    return Residual(rest, coefficients, (_RIDGE,) * clean.shape[1], explained)


def aligned(suspect: NDArray[np.float64], clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The suspect's vectors under the affine map that lays them closest to the clean ones. Returns (n, d)."""
    known = np.hstack([suspect, np.ones((len(suspect), 1))])
    return np.asarray(known @ np.linalg.lstsq(known, clean, rcond=None)[0])
