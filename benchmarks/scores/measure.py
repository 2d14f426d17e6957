"""What is measured of one suspect: evidence by our test, from fresh and from logged inputs, and what marking cost.

Surrogates are models that the owner trains on its unmarked answers: "own" ones on inputs of its own, "logged" ones on
the inputs that the thief asked about. Every log10 p is of the exact law in `watermark.stats.sphere`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from students import student
from tasks import Array, Task, task

from watermark.errors import WatermarkError
from watermark.keys import Key, decoy_keys
from watermark.scores import Basis, Direction, Marker
from watermark.scores.direction import cosine
from watermark.scores.keyed import distinct
from watermark.scoring.residual import channels_of, left_over, residual
from watermark.stats.sphere import log10_pvalue

REFERENCE = 20_000
SURROGATES: dict[str, tuple[str, ...]] = {
    "digits": ("network", "cnn"),
    "embeddings": ("network",),
}
EACH = 4  # surrogates of every kind, each on inputs of its own where there are enough
LEARNED, HELD = 20_000, 60_000  # inputs of one surrogate, and those that the owner has for all of them


@lru_cache(maxsize=64)
def the_key(index: int, seed: bytes = b"study") -> Key:
    """The index-th key of the study."""
    return next(islice(decoy_keys(seed, index + 1), index, None))


@lru_cache(maxsize=8)
def the_basis(name: str, size: int = 200, kind: str = "kernel", components: int | None = None) -> Basis:
    """A basis on the task's reference inputs; of embeddings, on the clean embeddings themselves."""
    chosen = task(name)
    x = chosen.inputs("reference", REFERENCE)
    if chosen.output == "embeddings":
        x = chosen.teacher(x)
    return Basis.fit(x, size=min(size, len(x) // 10), kind=kind, components=components)  # type: ignore[arg-type]


def the_scheme(chosen: Task, epsilon: float, own: float = 0.0, account: float = 0.0) -> Direction:
    """The scheme that fits a task's answers. Values have their reference's deviation as scale."""
    scale = ()
    if chosen.output == "values":
        scale = tuple(float(s) for s in chosen.teacher(chosen.inputs("reference", REFERENCE)).std(axis=0))
    return Direction(
        output=chosen.output, channels=chosen.channels, epsilon=epsilon, own=own, account=account, scale=scale
    )  # type: ignore[arg-type]


@dataclass(frozen=True)
class Bench:
    """A task with the rows that its study uses, and the surrogates' answers kept in a folder.

    n: thief's rows; probes: rows that the suspect is asked about.
    """

    name: str
    n: int
    probes: int
    folder: Path

    @property
    def task(self) -> Task:
        return task(self.name)

    def rows(self, part: str) -> Array:
        return _rows(self.name, part, self.n if part == "thief" else self.probes)

    def clean(self, part: str) -> Array:
        return _clean(self.name, part, self.n if part == "thief" else self.probes)

    def surrogates(self, which: str, asked: str = "probes") -> Array:
        """(rows, S, channels): predictions of the owner's surrogates ("own" or "logged") for the asked part's rows."""
        rows = self.rows(asked)
        thief = f"-{self.n}" if which == "logged" or asked == "thief" else ""
        path = self.folder / f"surrogates-{self.name}-{which}-{asked}{thief}-{len(rows)}.npy"
        if path.exists():
            return np.asarray(np.load(path))
        part, n = ("thief", self.n) if which == "logged" else ("surrogates", HELD)
        x, answers = _rows(self.name, part, n), _clean(self.name, part, n)
        each, found = (2 if which == "logged" or self.task.channels > 2 else EACH), list[Array]()
        for kind in SURROGATES.get(self.name, ("boosted", "network")):
            made = []
            for seed in range(each):
                share = min(len(x) if seed == 0 else int(0.9 * len(x)), LEARNED)
                chosen = np.random.default_rng(seed).permutation(len(x))[:share]
                made.append(student(kind, x[chosen], answers[chosen], output=self.task.output, seed=400 + seed)(rows))
            found.append(np.mean(made, axis=0))
        means = np.stack(found, axis=1)
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(path, means)
        return means


def bench_of(name: str, n: int, probes: int, folder: Path) -> Bench:
    """The bench of a task; one of few rows gives what it has. folder: where surrogates' answers are kept."""
    most = task(name).most
    return Bench(name, min(n, most) if most else n, probes, folder / "kept")


def quiet(clean: Array, surrogates: Array, epsilon: float, count: int) -> NDArray[np.intp]:
    """Those `count` inputs where the surrogates agree best with the owner, among answers that have room for the mark.

    Nothing of it sees a key or a suspect: probes may be chosen so before they are asked.
    """
    misfit = np.sqrt(np.square(surrogates - clean[:, None, :]).mean(axis=(1, 2)))
    ordered = np.sort(clean, axis=1)
    if clean.shape[1] > 1:
        tight = (ordered[:, -1] > 1 - epsilon) | (ordered[:, -1] - ordered[:, -2] < 2 * epsilon)
        misfit = np.where(tight, np.inf, misfit)
    return np.argsort(misfit, kind="stable")[:count]


@lru_cache(maxsize=12)
def _rows(name: str, part: str, n: int) -> Array:
    return task(name).inputs(part, n)


@lru_cache(maxsize=12)
def _clean(name: str, part: str, n: int) -> Array:
    return task(name).teacher(_rows(name, part, n))


def evidence(
    answers: Array, clean: Array, phi: Array, scheme: Direction, key: Key, surrogates: Array | None = None
) -> float:
    """log10 p of a suspect's answers (n, channels); 0 where the library says there is nothing to test."""
    try:
        found = residual(
            channels_of(answers, scheme),
            channels_of(clean, scheme),
            phi,
            None if surrogates is None else _channels(surrogates, scheme),
        )
    except WatermarkError:
        return 0.0
    return log10_pvalue(scheme.score(found.coefficients, key), scheme.dimensions(phi.shape[1]))


def single_inputs(
    answers: Array, clean: Array, coordinates: Array, scheme: Direction, key: Key, surrogates: Array | None = None
) -> float:
    """log10 p of the per-input part of a two-tier key, on logged inputs: one dimension for each input and channel.

    Of repeated inputs the first counts.
    """
    rows = distinct(coordinates)
    q, f = channels_of(answers, scheme)[rows], channels_of(clean, scheme)[rows]
    near = None if surrogates is None else _channels(surrogates, scheme)[rows]
    rest = np.column_stack(
        [left_over(q[:, c], f[:, c], None if near is None else near[:, :, c]) for c in range(q.shape[1])]
    )
    if scheme.zero_sum:
        rest = rest - rest.mean(axis=1, keepdims=True)
    found = cosine(rest, scheme.numbers(key, coordinates[rows]))
    return log10_pvalue(found, len(rows) * (scheme.width - 1 if scheme.zero_sum else scheme.width))


def _channels(surrogates: Array, scheme: Direction) -> Array:
    two = scheme.width == 1 and scheme.channels == 2
    return surrogates[:, :, 1:] if two else surrogates


# ---------------------------------------------------------------- what marking costs


def cost(chosen: Task, marker: Marker, *, n: int = 20_000) -> dict[str, float]:
    """Log loss, Brier score, calibration error, accuracy, flips and the largest move, on rows with true labels."""
    part = "held out" if chosen.name in ("digits", "cancer", "wine", "diabetes") else "probes"
    x, y = chosen.inputs(part, n), chosen.labels(part, n)
    clean = chosen.teacher(x)
    marked = marker.tilt(clean, x)
    moved = {"largest move": float(np.abs(marked - clean).max()), "rows": float(len(x))}
    if chosen.output == "values":
        before, after = (float(np.sqrt(np.mean((a[:, 0] - y) ** 2))) for a in (clean, marked))
        return moved | {"rmse": before, "rmse change": after - before, "deviation": float(clean.std())}
    truth = y.astype(int)
    before, after = judged(clean, truth), judged(marked, truth)
    flips = float((clean.argmax(axis=1) != marked.argmax(axis=1)).sum())
    return moved | before | {f"{name} change": after[name] - before[name] for name in before} | {"flips": flips}


def judged(p: Array, y: NDArray[np.int_]) -> dict[str, float]:
    """Log loss, Brier score (of two classes: of the second), accuracy, and the top class's calibration error."""
    rows = np.arange(len(p))
    hot = np.zeros_like(p)
    hot[rows, y] = 1
    brier = np.square(p - hot).sum(axis=1).mean() / (2 if p.shape[1] == 2 else 1)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = np.abs(np.bincount(bins, right - confidence, minlength=15))
    return {
        "log loss": float(-np.log(np.clip(p[rows, y], 1e-6, 1)).mean()),
        "brier": float(brier),
        "ece": float(gaps.sum() / len(p)),
        "accuracy": float(right.mean()),
    }
