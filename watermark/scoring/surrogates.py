"""Surrogates: models that the owner trains on clean answers; what any student gets wrong alike is taken away with them.

They never see a key. Trained on the owner's own inputs they double the evidence's exponent against none at all; on the
inputs that a suspected account was served, they triple it (docs/scores.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import ExtraMissing, OutputsInvalid, TooFewObservations
from watermark.scores.table import Table, has_names, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores.direction import Direction

KINDS = ("boosted", "boosted", "network", "network", "network")
_LEAST = 200
_LEVELS = 50


@dataclass(frozen=True, eq=False)
class Surrogates:
    """Fitted models by kind. channels: of an answer; binary answers are learned by their second class alone."""

    encoder: Encoder
    models: dict[str, list[Callable[[NDArray[np.float64]], NDArray[np.float64]]]]
    channels: int
    mirrored: bool

    def predict(self, inputs: Any) -> NDArray[np.float64]:
        """(n, S, channels): the mean prediction of each kind. inputs: columns by name, as they were trained on."""
        placed = self.encoder.matrix(inputs)
        found = np.stack([np.mean([model(placed) for model in models], axis=0) for models in self.models.values()], 1)
        if not self.mirrored:
            return found
        return np.concatenate([1 - found, found], axis=2)


@dataclass(frozen=True)
class Encoder:
    """Columns to numbers for students: numbers standardised (missing is the mean), categories one to a column."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    levels: tuple[tuple[str, ...], ...]

    @classmethod
    def fit(cls, found: Table) -> Encoder:
        means: list[float] = []
        deviations: list[float] = []
        levels: list[tuple[str, ...]] = []
        for name in found.names:
            column = found.columns[name]
            if column.dtype.kind == "f":
                known = column[~np.isnan(column)]
                means.append(float(known.mean()) if len(known) else 0.0)
                deviations.append(float(known.std()) or 1.0 if len(known) else 1.0)
                levels.append(())
                continue
            names, counts = np.unique(column[column != ""], return_counts=True)
            kept = names[np.argsort(-counts, kind="stable")[:_LEVELS]]
            means.append(0.0)
            deviations.append(1.0)
            levels.append(tuple(str(level) for level in kept))
        return cls(tuple(found.names), tuple(means), tuple(deviations), tuple(levels))

    def matrix(self, inputs: Any) -> NDArray[np.float64]:
        """(n, m). Raises OutputsInvalid for a missing column."""
        found = table(inputs, None if has_names(inputs) else list(self.names))
        absent = [name for name in self.names if name not in found.columns]
        if absent:
            raise OutputsInvalid(f"the inputs have no column {', '.join(absent)}, which the surrogates were trained on")
        parts: list[NDArray[np.float64]] = []
        for name, mean, deviation, levels in zip(self.names, self.means, self.deviations, self.levels, strict=True):
            column = found.columns[name]
            if levels:
                parts.append((column[:, None] == np.array(levels)).astype(np.float64))
            else:
                parts.append(np.nan_to_num((column.astype(np.float64) - mean) / deviation)[:, None])
        return np.hstack(parts)


def train(
    inputs: Any,
    clean: Any,
    *,
    scheme: Direction | None = None,
    seed: int = 0,
    kinds: tuple[str, ...] = KINDS,
    progress: Callable[[str], None] | None = None,
) -> Surrogates:
    """Surrogates of the owner's model: boosted trees and networks that regress on its clean answers.

    inputs: table, array or frame (n, d); clean: (n,) or (n, channels). scheme: of the mark, which says whether one
    column is a probability of two classes or a value; without it, numbers from 0 to 1 are a probability. kinds:
    "boosted", "network", "forest" or "linear", one model each; those of one kind are averaged. Raises
    TooFewObservations for fewer than 200 rows, ExtraMissing without scikit-learn.
    """
    found = table(inputs)
    answers = clean.numbers(clean.names) if isinstance(clean, Table) else np.asarray(clean, dtype=np.float64)
    answers = answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers
    if len(answers) != len(found):
        raise OutputsInvalid(f"{len(answers)} clean answers for {len(found)} inputs; there should be one for each")
    if len(found) < _LEAST:
        raise TooFewObservations(f"{len(found)} rows to train surrogates on, needed are {_LEAST}")
    mirrored = answers.ndim == 2 and answers.shape[1] == 2 and bool(np.allclose(answers.sum(axis=1), 1, atol=1e-6))
    targets = answers[:, 1:] if mirrored else answers.reshape(len(answers), -1)
    encoder = Encoder.fit(found)
    placed = encoder.matrix(found)
    say = progress or (lambda text: None)
    models: dict[str, list[Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {}
    for number, kind in enumerate(kinds):
        say(f"training surrogate {number + 1} of {len(kinds)} ({kind})")
        rows = np.random.default_rng(seed + number).permutation(len(placed))
        rows = rows if number % 2 == 0 else rows[: int(0.9 * len(rows))]
        models.setdefault(kind, []).append(fit_one(kind, placed[rows], targets[rows], seed + number))
    channels = targets.shape[1] + mirrored
    if answers.ndim == 1 and (_probabilities(answers) if scheme is None else scheme.width < scheme.channels):
        mirrored, channels = True, 2
    return Surrogates(encoder, models, channels, mirrored)


def fit_one(
    kind: str, inputs: NDArray[np.float64], targets: NDArray[np.float64], seed: int
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """One student: regresses targets (n, C) on inputs (n, m); returns its prediction, (k, m) -> (k, C)."""
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
        from sklearn.linear_model import Ridge
        from sklearn.neural_network import MLPRegressor
    except ImportError:
        raise ExtraMissing("scikit-learn", "sklearn", "training surrogates") from None
    if kind == "boosted":
        fits = [
            HistGradientBoostingRegressor(max_iter=300, learning_rate=0.1, early_stopping=False, random_state=seed).fit(
                inputs, targets[:, c]
            )
            for c in range(targets.shape[1])
        ]
        return lambda x: np.column_stack([fit.predict(x) for fit in fits])
    centre, spread = targets.mean(axis=0), targets.std(axis=0) + 1e-9
    scaled = (targets - centre) / spread
    if kind == "network":
        batch = min(512, max(32, len(inputs) // 40))
        made: Any = MLPRegressor(
            hidden_layer_sizes=(128, 64), early_stopping=True, n_iter_no_change=6, max_iter=45, batch_size=batch,
            learning_rate_init=3e-3, random_state=seed,
        )  # fmt: skip
    elif kind == "forest":
        made = RandomForestRegressor(60, min_samples_leaf=2, max_features=0.5, random_state=seed)
    elif kind == "linear":
        made = Ridge(1.0)
    else:
        raise ValueError(f"a surrogate is boosted, network, forest or linear, found {kind!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network that stops at its last epoch is as good as we need
        made.fit(inputs.astype(np.float32), scaled[:, 0] if scaled.shape[1] == 1 else scaled)
    return lambda x: np.asarray(made.predict(x.astype(np.float32))).reshape(len(x), -1) * spread + centre


def _probabilities(answers: NDArray[np.float64]) -> bool:
    """Whether a single column reads as a probability, so that it stands for two classes."""
    return bool(answers.min() >= 0 and answers.max() <= 1)
