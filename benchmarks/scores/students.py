"""Students: models of other people's that learn from answers. Each kind learns the answers as numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from tasks import Array, Predict

KINDS = ("boosted", "network", "lightgbm", "forest", "neighbours", "small", "linear", "cnn")


def student(kind: str, x: Array, answers: Array, *, output: str, seed: int = 0) -> Predict:
    """A model of one kind, fitted to answers (n, channels). Returns its own answers.

    Probabilities come back within [0, 1] and sum to one. Of two classes the second is learned, the first mirrors it.
    """
    two = output == "probabilities" and answers.shape[1] == 2
    learned = _fitted(kind, x, answers[:, 1:] if two else answers, seed)

    def answer(rows: Array) -> Array:
        found = learned(rows)
        if output != "probabilities":
            return found
        found = np.clip(found, 0, 1)
        if two:
            return np.column_stack([1 - found[:, 0], found[:, 0]])
        return np.asarray(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-12))

    return answer


def tuned(kind: str, x: Array, answers: Array, more: Array, truth: Array, *, output: str, seed: int = 0) -> Predict:
    """A student of `answers` that trained further on `truth` at the inputs `more`: a quarter of the epochs or trees.

    Of two classes the second is learned. kind: "boosted" or "network".
    """
    if output != "probabilities" or answers.shape[1] != 2:
        raise ValueError("further training is made for two classes alone")
    if kind == "network":
        learned = _network(x, answers[:, 1:], seed, then=(more, truth[:, 1:]))
    else:
        model = _single(kind, seed).fit(x, answers[:, 1])
        rest = (
            _single(kind, seed).set_params(max_iter=75, learning_rate=0.05).fit(more, truth[:, 1] - model.predict(more))
        )

        def learned(rows: Array) -> Array:
            return np.asarray(model.predict(rows) + rest.predict(rows))[:, None]

    def answer(rows: Array) -> Array:
        found = np.clip(learned(rows), 0, 1)
        return np.column_stack([1 - found[:, 0], found[:, 0]])

    return answer


def _fitted(kind: str, x: Array, y: Array, seed: int) -> Predict:
    if kind == "network":
        return _network(x, y, seed)
    if kind == "cnn":
        return _convolutional(x, y, seed)
    middle, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    if kind in ("forest", "neighbours", "linear"):
        model = _many(kind, seed).fit((x - middle) / spread, y[:, 0] if y.shape[1] == 1 else y)
        return lambda rows: np.asarray(model.predict((rows - middle) / spread)).reshape(len(rows), -1)
    models = [_single(kind, seed).fit(x, y[:, c]) for c in range(y.shape[1])]
    return lambda rows: np.column_stack([model.predict(rows) for model in models])


def _many(kind: str, seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Ridge
    from sklearn.neighbors import KNeighborsRegressor

    if kind == "forest":
        return RandomForestRegressor(60, min_samples_leaf=2, max_features=0.5, random_state=seed)
    return KNeighborsRegressor(5, weights="distance") if kind == "neighbours" else Ridge()


def _single(kind: str, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    if kind == "boosted":
        return HistGradientBoostingRegressor(max_iter=300, early_stopping=False, random_state=seed)
    if kind == "small":
        return HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    if kind == "lightgbm":
        from lightgbm import LGBMRegressor

        return _Named(
            LGBMRegressor(n_estimators=300, subsample=0.8, subsample_freq=1, n_jobs=1, random_state=seed, verbose=-1)
        )
    raise ValueError(f"no student of the kind {kind!r}")


class _Named:
    """LightGBM warns of arrays without names; it says nothing of them here."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, x: Array, y: Array) -> _Named:
        self.model.fit(x, y)
        return self

    def predict(self, x: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(self.model.predict(x))


def _network(x: Array, y: Array, seed: int, *, then: tuple[Array, Array] | None = None) -> Predict:
    """Two hidden layers in torch, squared error, one-cycle Adam, in single precision. then: what it learns next."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    middle, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    centre, scale = y.mean(axis=0), y.std(axis=0) + 1e-9
    wide = (128, 64) if y.shape[1] < 16 else (256, 256)
    net = nn.Sequential(
        nn.Linear(x.shape[1], wide[0]),
        nn.ReLU(),
        nn.Linear(wide[0], wide[1]),
        nn.ReLU(),
        nn.Linear(wide[1], y.shape[1]),
    )
    rows, wanted = torch.tensor((x - middle) / spread).float(), torch.tensor((y - centre) / scale).float()
    _learn(net, rows, wanted, seed, epochs=40)
    if then is not None:
        rows, wanted = (
            torch.tensor((then[0] - middle) / spread).float(),
            torch.tensor((then[1] - centre) / scale).float(),
        )
        _learn(net, rows, wanted, seed, epochs=10, rate=1e-3)

    def answer(given: Array) -> Array:
        with torch.no_grad():
            return net(torch.tensor((given - middle) / spread).float()).double().numpy() * scale + centre

    return answer


def _convolutional(x: Array, y: Array, seed: int) -> Predict:
    """Two convolutions on 8 x 8 pixels."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 96),
        nn.ReLU(),
        nn.Linear(96, y.shape[1]),
    )
    centre, scale = y.mean(axis=0), y.std(axis=0) + 1e-9
    _learn(net, torch.tensor(x / 8 - 1).float(), torch.tensor((y - centre) / scale).float(), seed, epochs=25)

    def answer(given: Array) -> Array:
        with torch.no_grad():
            return net(torch.tensor(given / 8 - 1).float()).double().numpy() * scale + centre

    return answer


def _learn(net: Any, rows: Any, wanted: Any, seed: int, *, epochs: int, rate: float = 4e-3) -> None:
    import torch

    batch = int(np.clip(len(rows) // 40, 32, 256))
    steps = -(-len(rows) // batch)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs=epochs, steps_per_epoch=steps)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows), generator=shuffle).split(batch):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(net(rows[chosen]), wanted[chosen]).backward()
            optimiser.step()
            schedule.step()
