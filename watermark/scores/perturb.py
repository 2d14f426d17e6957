"""How an answer moves: at most epsilon, never past the argmax, never off the simplex.

`signs` are the mark's values in [-1, 1]; what follows scales them to the room that an answer has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPARE = 0.7  # of a probability is the most that it may lose or a rival gain: none becomes zero, log loss stays small
_SHY = 0.98  # of the distance to the next class: the argmax does not change


def binary(p: NDArray[np.float64], signs: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """p + A(p) s, A = min(epsilon, 0.7 p, 0.7 (1 - p), 0.98 |p - 1/2|). p: of one of two classes (n,); signs: (n,)."""
    room = np.minimum(np.minimum(epsilon, _SPARE * np.minimum(p, 1 - p)), _SHY * np.abs(p - 0.5))
    return np.asarray(p + room * signs)


def classes(p: NDArray[np.float64], signs: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """A shift of zero sum, at most epsilon in each class. p: rows of the simplex (n, K >= 3); signs: (n, K).

    Each class moves in proportion to the room below it, min(0.7 p, epsilon); the whole row is then scaled until it
    stays within epsilon, loses at most 0.7 of a class, and stays on its side of the runner-up.
    """
    rows = np.arange(len(p))
    room = np.minimum(_SPARE * p, epsilon)
    shift = signs * room
    shift -= room * (shift.sum(axis=1) / np.maximum(room.sum(axis=1), 1e-12))[:, None]
    scale = np.minimum(1.0, epsilon / np.maximum(np.abs(shift).max(axis=1), 1e-12))
    below = np.where(shift < 0, _SPARE * p / np.maximum(-shift, 1e-300), np.inf).min(axis=1)
    scale = np.minimum(scale, below)
    top = p.argmax(axis=1)
    others = np.ones(p.shape, dtype=bool)
    others[rows, top] = False
    gaining = shift - shift[rows, top][:, None]
    gap = p[rows, top][:, None] - p
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        least = np.where(others & (gaining > 0), _SHY * gap / gaining, np.inf).min(axis=1)
    scale = np.minimum(scale, least)
    found = np.clip(p + shift * scale[:, None], 0.0, 1.0)
    return np.where((found.argmax(axis=1) == top)[:, None], found, p)  # two classes a rounding error apart stay


def values(
    y: NDArray[np.float64], signs: NDArray[np.float64], epsilon: float, scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """y + epsilon * scale * s. y, signs: (n, C); scale: (C,), the outputs' standard deviations."""
    return np.asarray(y + epsilon * scale * signs)


def vectors(e: NDArray[np.float64], moves: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    """e moved by epsilon of its length along `moves`, and brought back to its length. e, moves: (n, d).

    moves: of root-mean-square length one over inputs like the reference.
    """
    length = np.linalg.norm(e, axis=1, keepdims=True)
    moved = e + epsilon * length * moves
    return np.asarray(moved * (length / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-300)))


def dithered(p: NDArray[np.float64], signs: NDArray[np.float64], epsilon: float) -> NDArray[np.intp]:
    """Labels where the answer is a coin toss decided by the mark: the argmax of p + epsilon s.

    Only answers less than 2 epsilon ahead of the runner-up can change; of two classes, those within epsilon of one
    half. p: (n, K); signs: (n, K). Returns (n,) class indices.
    """
    top = p.argmax(axis=1)
    near = p >= p.max(axis=1, keepdims=True) - 2 * epsilon
    chosen = np.where(near, p + epsilon * signs, -np.inf).argmax(axis=1)
    return np.asarray(np.where(near.sum(axis=1) > 1, chosen, top), dtype=np.intp)


def rounded(p: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Probabilities to so many digits, the argmax kept: perturb first, then round.

    A row whose rounding makes another class equal or first has its first class raised, or the other lowered, by one
    unit; rows need not sum to one exactly, as with any rounding. p: (n, K) or (n,) for one class of two.
    """
    if p.ndim == 1:
        found = np.round(p, digits)
        unit = 10.0**-digits
        found = np.where((p > 0.5) & (found <= 0.5), 0.5 + unit, found)
        return np.asarray(np.where((p < 0.5) & (found >= 0.5), 0.5 - unit, found))
    if p.shape[1] == 2:
        second = rounded(p[:, 1], digits)
        return np.column_stack([np.round(1 - second, digits), second])
    rows, top, unit = np.arange(len(p)), p.argmax(axis=1), 10.0**-digits
    found = np.round(p, digits)
    others = found.copy()
    others[rows, top] = -np.inf
    behind = np.maximum(found[rows, top], others.max(axis=1) + unit)
    found[rows, top] = np.where(found[rows, top] > others.max(axis=1), found[rows, top], behind)
    return np.asarray(np.round(found, digits))


def truncated(p: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    """Only the `top` likeliest classes, the others zero; not renormalised. p: (n, K)."""
    kept = np.argsort(-p, axis=1, kind="stable")[:, :top]
    found = np.zeros_like(p)
    np.put_along_axis(found, kept, np.take_along_axis(p, kept, axis=1), axis=1)
    return found
