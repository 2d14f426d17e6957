"""What a suspect's answers hold beyond everything key-free, as coefficients on the basis.

Nothing here sees a key. From each channel go a polynomial of the owner's clean answer (temperature, calibration,
shrinkage) and the predictions of surrogates that the owner trained on clean answers (what any student gets wrong
alike); the rest is put on the basis by ridge regression. Any such coefficients have an exact test (`stats.sphere`):
what is taken away or left in costs power, never validity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from watermark.errors import OutputsInvalid, SuspectUnusable, TooFewObservations
from watermark.scores.direction import Direction

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = "NDArray[np.float64]"
DEGREE = 5
_PENALTY = 0.3  # of ridge, in mean eigenvalues of the Gram matrix
_CONSTANT = 1e-9


@dataclass(frozen=True)
class Residual:
    """rest: (n, C) what is left of each channel; coefficients: (B, C) of it on the basis; penalty: of the ridge.

    explained: share of the suspect's variance around the clean answers that the key-free part took away.
    """

    rest: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    penalty: float
    explained: float


def channels_of(answers: NDArray[np.float64], scheme: Direction) -> NDArray[np.float64]:
    """The channels that carry the mark (..., width): the second of two classes, all of more, all values."""
    return answers[..., 1:] if scheme.width == 1 and scheme.channels == 2 else answers


def residual(
    suspect: NDArray[np.float64],
    clean: NDArray[np.float64],
    features: NDArray[np.float64],
    surrogates: NDArray[np.float64] | None = None,
) -> Residual:
    """Suspect's answers less everything key-free, on the basis.

    suspect, clean: (n, C); features: (n, B); surrogates: (n, S, C) predictions, if there are any. Raises
    TooFewObservations for fewer answers than functions, SuspectUnusable if all answers are one constant or the
    clean ones themselves.
    """
    n, size = features.shape
    if n < 50 or n < size // 4:
        raise TooFewObservations(
            f"{n} answers on a basis of {size} functions, needed are at least {max(50, size // 4)}",
            hint="ask the suspect for more inputs, or make a mark with a smaller basis",
        )
    if np.ptp(suspect, axis=0).max() < _CONSTANT:
        raise SuspectUnusable(
            "the suspect answers every input alike; nothing can depend on a key",
            hint="ask for scores, not for a default, and check that the inputs reach the suspect",
        )
    if np.abs(suspect - clean).max() < _CONSTANT:
        raise SuspectUnusable(
            "the suspect's answers are the clean answers themselves, to the last digit",
            hint="did you pass one file twice? the suspect's answers go to --answers, the owner's to --clean",
        )
    rest = np.column_stack(
        [
            left_over(suspect[:, c], clean[:, c], None if surrogates is None else surrogates[:, :, c])
            for c in range(suspect.shape[1])
        ]
    )
    coefficients, penalty = ridge(features, rest)
    spread = float(np.square(suspect - clean - (suspect - clean).mean(axis=0)).sum())
    return Residual(
        rest=rest,
        coefficients=coefficients,
        penalty=penalty,
        explained=float(np.clip(1 - np.square(rest).sum() / spread, 0, 1)) if spread > 0 else 0.0,
    )


def left_over(
    suspect: NDArray[np.float64], clean: NDArray[np.float64], surrogates: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """One channel (n,) after least squares on a polynomial of the clean answer and on surrogates (n, S)."""
    known = key_free(clean, surrogates)
    return np.asarray(suspect - known @ np.linalg.lstsq(known, suspect, rcond=None)[0])


def key_free(clean: NDArray[np.float64], surrogates: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The regressors that are taken away: powers 0 to 5 of the scaled clean answer, and each surrogate."""
    deviation = clean.std()
    powers = np.vander((clean - clean.mean()) / (deviation if deviation > 0 else 1.0), DEGREE + 1)
    return powers if surrogates is None else np.column_stack([powers, surrogates])


def ridge(features: NDArray[np.float64], rest: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Ridge coefficients (B, C) of (n, C) on (n, B). Returns them and the penalty: 0.3 (1 + 3 B / n) mean eigenvalues
    of the Gram matrix.

    Fixed, since cross-validation takes a student's misfit for white noise and penalises too little: on real data
    log10 p was -28 with this one where it was -3.4 (docs/results/scores.md). More for few answers: with 200 of them
    -3.5 where it was -3.1.
    """
    n, size = features.shape
    gram = features.T @ features / n
    penalty = max(_PENALTY * (1 + 3 * size / n) * float(np.trace(gram)) / size, 1e-12)
    return np.linalg.solve(gram + penalty * np.eye(size), features.T @ rest / n), penalty


def label_residual(
    labels: NDArray[np.float64],
    clean: NDArray[np.float64],
    features: NDArray[np.float64],
    surrogates: NDArray[np.float64] | None = None,
) -> Residual:
    """As `residual`, for a suspect that shows labels alone.

    labels: (n, C) indicators of each channel's class; clean: (n, C) the owner's clean probabilities. Each indicator
    loses its isotonic expectation given the clean probability, and is weighted towards the boundary, where labels
    say most.
    """
    from scipy.optimize import isotonic_regression

    if labels.shape != clean.shape:
        raise OutputsInvalid(f"labels have shape {labels.shape}, the clean answers {clean.shape}")
    columns = []
    for c in range(labels.shape[1]):
        order = np.argsort(clean[:, c], kind="stable")
        expected = np.empty(len(labels))
        expected[order] = isotonic_regression(labels[order, c]).x
        steady = (labels[:, c] - expected) / np.sqrt(np.clip(expected * (1 - expected), 0.02, None))
        if surrogates is not None:
            s = surrogates[:, :, c]
            known = np.column_stack([np.ones(len(s)), s, s**2, s > 0.5])
            steady = steady - known @ np.linalg.lstsq(known, steady, rcond=None)[0]
        columns.append(steady)
    rest = np.column_stack(columns)
    if np.abs(rest).max() < _CONSTANT:
        raise SuspectUnusable("the suspect's labels are the clean answers' own everywhere; nothing is left to test")
    return Residual(rest, *ridge(features, rest), 0.0)
