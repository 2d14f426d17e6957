"""What thieves do: each change makes a suspect, from marked answers or, by the same steps, from unmarked ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Bench, the_key
from students import student, tuned
from tasks import Array, Generated, Predict, taught

from watermark.keys import Key
from watermark.scores import Basis, Direction, Marker
from watermark.scores.perturb import dithered, rounded
from watermark.scoring.residual import channels_of, label_residual
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from cell import Cell


@dataclass(frozen=True)
class Suspect:
    """Its answers (n, channels) to fresh probes and to the inputs that the thief asked about.

    labels: whether it shows labels alone; second: the key of the other account, if there are two.
    """

    probes: Array
    asked: Array
    labels: bool = False
    second: Key | None = None


Change = Callable[["Cell", Bench, Marker | None], Suspect]


def served(bench: Bench, marker: Marker | None) -> Array:
    """What the thief gets for its inputs."""
    clean = bench.clean("thief")
    return clean if marker is None else marker.tilt(clean, bench.rows("thief"))


def shown(cell: Cell, bench: Bench, learned: Array, rows: Array | None = None) -> Suspect:
    """A student of those answers, asked."""
    x = bench.rows("thief") if rows is None else rows
    model = student(cell.student, x, learned, output=bench.task.output, seed=cell.key)
    return Suspect(model(bench.rows("probes")), model(bench.rows("thief")))


def as_it_is(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    return shown(cell, bench, served(bench, marker))


def both_rounded(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """The service rounds, after the mark, and so does the suspect."""
    digits = int(cell.amount)
    suspect = shown(cell, bench, rounded(served(bench, marker), digits))
    return Suspect(np.round(suspect.probes, digits), np.round(suspect.asked, digits))


def shown_rounded(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    suspect = as_it_is(cell, bench, marker)
    return Suspect(np.round(suspect.probes, int(cell.amount)), np.round(suspect.asked, int(cell.amount)))


def shown_with_noise(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    suspect, rng = as_it_is(cell, bench, marker), np.random.default_rng(5)
    return Suspect(*(_valid(a + cell.amount * rng.normal(size=a.shape)) for a in (suspect.probes, suspect.asked)))


def sharpened(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """The suspect raises its probabilities to the power 1/T."""
    suspect = as_it_is(cell, bench, marker)
    sharp = [np.clip(a, 1e-9, 1) ** (1 / cell.amount) for a in (suspect.probes, suspect.asked)]
    return Suspect(*(_valid(a) for a in sharp))


def learned_with_noise(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    given, rng = served(bench, marker), np.random.default_rng(6)
    return shown(cell, bench, _valid(given + cell.amount * rng.normal(size=given.shape)))


def two_accounts(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Half of the inputs asked under another key altogether; the first key is tested."""
    given = served(bench, marker).copy()
    if marker is not None:
        other = Marker(marker.scheme, marker.basis, the_key(40 + cell.key))
        half = np.arange(len(given)) % 2 == 1
        given[half] = other.tilt(bench.clean("thief"), bench.rows("thief"))[half]
    return shown(cell, bench, given)


def several_teachers(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """The mean of several services' answers, ours one of them; the others learned from rows and labels of their own."""
    others = [_other_service(bench.name, index)(bench.rows("thief")) for index in range(int(cell.amount) - 1)]
    return shown(cell, bench, np.mean([served(bench, marker), *others], axis=0))


@lru_cache(maxsize=4)
def _other_service(name: str, index: int) -> Predict:
    assert name == "binary"
    made = Generated()
    rows = np.arange(index * 20_000, (index + 1) * 20_000)
    x, y = made.inputs("surrogates", rows[-1] + 20_001), made.labels("surrogates", rows[-1] + 20_001)
    return taught("boosted", x[rows + 20_000], y[rows + 20_000], "probabilities")


def some_truth(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """A share of the rows has true labels in place of answers."""
    given, hot = served(bench, marker), _hot(bench)
    chosen = np.random.default_rng(7).random(len(given)) < cell.amount
    return shown(cell, bench, np.where(chosen[:, None], hot, given))


def blended(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Every target is a mixture of the answer and the true label."""
    return shown(cell, bench, (1 - cell.amount) * served(bench, marker) + cell.amount * _hot(bench))


def labels_shown(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Learned from scores, shows labels alone."""
    return _decided(as_it_is(cell, bench, marker))


def labels_alone(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Learned from labels alone, which the mark never changes."""
    given = served(bench, marker)
    return _decided(shown(cell, bench, np.eye(given.shape[1])[given.argmax(axis=1)]))


def labels_dithered(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Learned from labels that the key decided near the boundary."""
    clean = bench.clean("thief")
    if marker is None:
        chosen = clean.argmax(axis=1)
    else:
        signs = np.tanh(4 * marker.marks(bench.rows("thief")))
        chosen = dithered(clean, np.column_stack([-signs, signs]), cell.epsilon)
    return _decided(shown(cell, bench, np.eye(clean.shape[1])[chosen]))


def tuned_on_truth(cell: Cell, bench: Bench, marker: Marker | None) -> Suspect:
    """Learned, then trained further on as many rows with true labels that nobody marked."""
    n = bench.n
    x, y = bench.task.inputs("surrogates", 2 * n)[n:], bench.task.labels("surrogates", 2 * n)[n:].astype(int)
    truth = np.eye(bench.task.channels)[y]
    model = tuned(
        cell.student, bench.rows("thief"), served(bench, marker), x, truth, output=bench.task.output, seed=cell.key
    )
    return Suspect(model(bench.rows("probes")), model(bench.rows("thief")))


def of_labels(bench: Bench, scheme: Direction, key: Key, basis: Basis, suspect: Suspect) -> dict[str, float]:
    """log10 p of a suspect that shows labels alone, on a fifth of the probes: those where the owner is least sure.

    Elsewhere labels say nothing. The choice knows neither key nor suspect.
    """
    clean = bench.clean("probes")
    chosen = np.argsort(clean.max(axis=1), kind="stable")[: len(clean) // 5]
    phi, shown, found = basis.features(bench.rows("probes")[chosen]), suspect.probes[chosen], dict[str, float]()
    for name, which in (("fresh", ""), ("fresh own", "own"), ("fresh logged", "logged")):
        near = bench.surrogates(which)[chosen][:, :, 1:] if which else None
        rest = label_residual(channels_of(shown, scheme), channels_of(clean[chosen], scheme), phi, near)
        found[name] = log10_pvalue(scheme.score(rest.coefficients, key), scheme.dimensions(basis.size))
    return found


def _decided(suspect: Suspect) -> Suspect:
    answers = [np.eye(a.shape[1])[a.argmax(axis=1)] for a in (suspect.probes, suspect.asked)]
    return Suspect(*answers, labels=True)


def _hot(bench: Bench) -> Array:
    y = bench.task.labels("thief", bench.n).astype(int)
    return np.asarray(np.eye(bench.task.channels)[y])


def _valid(answers: Array) -> Array:
    clipped = np.clip(answers, 1e-9, 1)
    return np.asarray(clipped / clipped.sum(axis=1, keepdims=True))


CHANGES: dict[str, Any] = {
    "": as_it_is,
    "rounded": both_rounded,
    "shown-rounded": shown_rounded,
    "shown-noise": shown_with_noise,
    "temperature": sharpened,
    "noise": learned_with_noise,
    "accounts": two_accounts,
    "teachers": several_teachers,
    "truth": some_truth,
    "blended": blended,
    "labels-shown": labels_shown,
    "labels": labels_alone,
    "dithered": labels_dithered,
    "tuned": tuned_on_truth,
}
