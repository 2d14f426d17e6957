"""What a mark costs: how far answers move, and how much log loss, Brier score and calibration it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import OutputsInvalid
from watermark.scoring.evidence import Cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores.table import Table
    from watermark.scoring.mark import ScoreWatermark

EPSILONS = (0.005, 0.01, 0.02, 0.05)
_BINS = 15


@dataclass(frozen=True)
class Tuned:
    """What a mark would cost at one epsilon."""

    epsilon: float
    cost: Cost


@dataclass(frozen=True)
class Tuning:
    """rows: inputs. log_loss, brier, ece: of the clean answers, None without true classes. tuned: by epsilon."""

    rows: int
    log_loss: float | None
    brier: float | None
    ece: float | None
    tuned: list[Tuned]


def tune(
    mark: ScoreWatermark,
    inputs: Table,
    clean: Any,
    truth: Any | None = None,
    *,
    epsilons: Sequence[float] = EPSILONS,
) -> Tuning:
    """What the mark would cost on these inputs at each epsilon, under its own key and basis; nothing is served.

    clean: the owner's answers (n,) or (n, C). truth: see `cost`. Raises OutputsInvalid for answers or an epsilon that
    cannot be used, or for a mark of labels or embeddings, whose cost is not in these figures.
    """
    if mark.scheme.output not in ("probabilities", "values"):
        raise OutputsInvalid(f"the cost of a mark of {mark.scheme.output} is not measured in these figures")
    rows, tuned = mark.rows(clean), []
    for epsilon in epsilons:
        try:
            other = replace(mark, scheme=replace(mark.scheme, epsilon=float(epsilon)))
        except ValueError as error:
            raise OutputsInvalid(str(error)) from None
        tuned.append(Tuned(float(epsilon), cost(rows, other.tilt(rows, inputs), truth)))
    if truth is None or mark.scheme.output != "probabilities":
        return Tuning(len(rows), None, None, None, tuned)
    known = np.asarray(truth).astype(np.intp)
    return Tuning(len(rows), log_loss(rows, known), brier(rows, known), calibration_error(rows, known), tuned)


def cost(clean: NDArray[np.float64], marked: NDArray[np.float64], truth: Any | None = None) -> Cost:
    """Marked against clean answers (n, C). truth: true classes (n,) as numbers, for probabilities; else ignored.

    Raises OutputsInvalid if the true classes do not fit.
    """
    moved = marked - clean
    distributions = clean.shape[1] > 1 and bool(np.allclose(clean.sum(axis=1), 1, atol=1e-6))
    flips = int((clean.argmax(axis=1) != marked.argmax(axis=1)).sum()) if distributions else 0
    losses: tuple[float | None, float | None, float | None] = (None, None, None)
    if distributions and truth is not None:
        known = np.asarray(truth)
        if known.shape != (len(clean),) or not np.isin(known, np.arange(clean.shape[1])).all():
            raise OutputsInvalid(
                f"true classes should be one whole number below {clean.shape[1]} for each of {len(clean)} inputs"
            )
        known = known.astype(np.intp)
        losses = tuple(  # type: ignore[assignment]
            float(measure(marked, known) - measure(clean, known)) for measure in (log_loss, brier, calibration_error)
        )
    return Cost(float(np.abs(moved).max()), float(np.sqrt(np.mean(moved**2))), flips, *losses)


def log_loss(p: NDArray[np.float64], truth: NDArray[np.intp]) -> float:
    """Mean of -log p of the true class, in nats; probabilities are cut at 1e-6."""
    return float(-np.log(np.clip(p[np.arange(len(p)), truth], 1e-6, 1)).mean())


def brier(p: NDArray[np.float64], truth: NDArray[np.intp]) -> float:
    """Mean squared distance to the true class' indicator, over classes (Brier 1950); half of it for two classes."""
    gap = p - np.eye(p.shape[1])[truth]
    return float((gap**2).sum(axis=1).mean() / (2 if p.shape[1] == 2 else 1))


def calibration_error(p: NDArray[np.float64], truth: NDArray[np.intp]) -> float:
    """Expected calibration error of the first class, 15 bins of equal width (Guo et al. 2017, equation 3)."""
    sure, right = p.max(axis=1), p.argmax(axis=1) == truth
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gaps = np.bincount(bins, right, minlength=_BINS) - np.bincount(bins, sure, minlength=_BINS)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))
