"""calibrate_scores(): before anything is served, which basis and epsilon find which copies, on the owner's own data.

The owner plays the thief: students are trained on marked answers to one part of the data, and tested on another, under
throw-away keys, with surrogates from a third. What comes out is the setting that finds the smallest number of queries
at the wanted power, what it costs, and what none of them finds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import OutputsInvalid, TooFewObservations
from watermark.keys import Key, decoy_keys
from watermark.scores.basis import Basis
from watermark.scores.direction import Direction, Marker, as_rows
from watermark.scores.table import Table, table
from watermark.scoring.case import read_case
from watermark.scoring.costs import cost
from watermark.scoring.surrogates import Encoder, fit_one, train
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scoring.evidence import Cost

_LEAST = 600
_FINE = 60  # bisections for the smallest cosine that a level asks for


@dataclass(frozen=True)
class Trial:
    """One setting tried. queries: marked answers the student learned; probes: fresh inputs asked afterwards.

    cosine: mean over keys; log10_p: of that cosine; power: chance of p <= alpha, the cosine taken as normal around its
    mean with the deviation of the null, 1/sqrt(dimensions): approximate.
    """

    kind: str
    size: int
    epsilon: float
    student: str
    queries: int
    probes: int
    cosine: float
    log10_p: float
    power: float


@dataclass(frozen=True)
class Choice:
    """A setting for its weakest student. smallest: fewest queries tried that are found at the wanted power, or None."""

    kind: str
    size: int
    epsilon: float
    smallest: int | None
    log10_p: float
    cost: Cost


@dataclass(frozen=True)
class ScoreCalibration:
    """best: the choice that finds the smallest copy, the least epsilon among equals; None if none finds any."""

    alpha: float
    power: float
    trials: list[Trial]
    choices: list[Choice]
    best: Choice | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibrate_scores(
    inputs: Any,
    clean: Any,
    *,
    output: str = "probabilities",
    epsilons: Sequence[float] = (0.01, 0.02, 0.05),
    sizes: Sequence[int] = (64, 200),
    kinds: Sequence[str] = ("kernel", "additive"),
    students: Sequence[str] = ("boosted", "network"),
    keys: int = 2,
    alpha: float = 0.001,
    power: float = 0.9,
    truth: Any | None = None,
    seed: int = 0,
    work: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScoreCalibration:
    """Tries settings on the owner's data. inputs: table, array or frame; clean: the owner's answers, row by row.

    A half of the rows is the thief's, at a quarter, a half and all of it; a quarter is asked afterwards; surrogates
    learn from the last quarter. A basis larger than a tenth of the inputs is left out. truth: true classes, for the
    cost. work: a file of finished trials; what is there is not tried again. Raises TooFewObservations for fewer
    than 600 rows, OutputsInvalid if answers are unusable.
    """
    found = table(inputs)
    if len(found) < _LEAST:
        raise TooFewObservations(f"{len(found)} rows to calibrate on, needed are {_LEAST}")
    answers = clean.numbers(clean.names) if isinstance(clean, Table) else np.asarray(clean, dtype=np.float64)
    shape = _scheme(output, answers)
    rows = as_rows(answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers, shape(epsilons[0]))
    if len(rows) != len(found):
        raise OutputsInvalid(f"{len(rows)} answers for {len(found)} inputs; there should be one for each")
    bench = _Bench.split(found, rows, seed)
    known = None if truth is None else np.asarray(truth)
    say, done = progress or (lambda text: None), _Finished(work)
    trials: list[Trial] = []
    choices: list[Choice] = []
    surrogates: NDArray[np.float64] | None = None
    for kind in kinds:
        for size in sizes:
            if 10 * size > len(found):
                continue
            basis = Basis.fit(found, size=size, kind=kind)  # type: ignore[arg-type]
            if surrogates is None:
                say("training surrogates")
                surrogates = train(bench.own, bench.own_clean, scheme=shape(epsilons[0])).predict(bench.probes)
            for epsilon in epsilons:
                scheme = shape(epsilon)
                some = list(_tried(bench, basis, scheme, surrogates, students, keys, alpha, done, say))
                trials += some
                marked = Marker(scheme, basis, _key(0)).tilt(rows, found)
                smallest, log10_p = _weakest(some, power)
                choices.append(Choice(kind, basis.size, epsilon, smallest, log10_p, cost(rows, marked, known)))
    return ScoreCalibration(alpha, power, trials, choices, _best(choices))


def power_at(cosine: float, dimensions: int, alpha: float) -> float:
    """Chance that a test at level alpha finds a mean cosine: normal around it with deviation 1/sqrt(dimensions)."""
    from scipy.special import ndtr

    return float(ndtr((cosine - least_cosine(dimensions, alpha)) * math.sqrt(dimensions)))


def least_cosine(dimensions: int, alpha: float) -> float:
    """The smallest cosine whose p-value is alpha, by bisection."""
    low, high, wanted = 0.0, 1.0, math.log10(alpha)
    for _ in range(_FINE):
        middle = (low + high) / 2
        low, high = (low, middle) if log10_pvalue(middle, dimensions) <= wanted else (middle, high)
    return high


@dataclass(frozen=True, eq=False)
class _Bench:
    """The owner's rows in their three roles."""

    thief: Table
    thief_clean: NDArray[np.float64]
    probes: Table
    probes_clean: NDArray[np.float64]
    own: Table
    own_clean: NDArray[np.float64]
    encoder: Encoder

    @classmethod
    def split(cls, found: Table, rows: NDArray[np.float64], seed: int) -> _Bench:
        order = np.random.default_rng(seed).permutation(len(found))
        half, quarter = len(found) // 2, 3 * len(found) // 4
        a, b, c = order[:half], order[half:quarter], order[quarter:]
        return cls(found.rows(a), rows[a], found.rows(b), rows[b], found.rows(c), rows[c], Encoder.fit(found.rows(a)))


class _Finished:
    """Trials that a stopped run left behind."""

    def __init__(self, work: str | Path | None) -> None:
        self._path = None if work is None else Path(work)
        self._cosines: dict[str, float] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text("utf-8").splitlines():
                try:
                    held = json.loads(line)
                    self._cosines[held["trial"]] = float(held["cosine"])
                except (ValueError, KeyError, TypeError):
                    continue  # the line that an interruption cut short

    def once(self, name: str, make: Callable[[], float]) -> float:
        if name not in self._cosines:
            self._cosines[name] = make()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"trial": name, "cosine": self._cosines[name]}) + "\n")
        return self._cosines[name]


def _tried(
    bench: _Bench,
    basis: Basis,
    scheme: Direction,
    surrogates: NDArray[np.float64],
    students: Sequence[str],
    keys: int,
    alpha: float,
    done: _Finished,
    say: Callable[[str], None],
) -> Iterator[Trial]:
    dimensions = scheme.dimensions(basis.size)
    for student in students:
        for queries in (len(bench.thief) // 4, len(bench.thief) // 2, len(bench.thief)):
            cosines = []
            for number in range(keys):
                name = f"{basis.digest[:16]} {scheme} {student} {queries} {number}"
                setting = f"{basis.kind} {basis.size}, epsilon {scheme.epsilon:g}"
                say(f"{setting}: {student} on {queries} answers, key {number + 1} of {keys}")
                cosines.append(
                    done.once(name, lambda: _trial(bench, basis, scheme, surrogates, student, queries, number))  # noqa: B023
                )
            mean = float(np.mean(cosines))
            yield Trial(
                kind=basis.kind,
                size=basis.size,
                epsilon=scheme.epsilon,
                student=student,
                queries=queries,
                probes=len(bench.probes),
                cosine=mean,
                log10_p=log10_pvalue(mean, dimensions) + 0.0,
                power=power_at(mean, dimensions, alpha),
            )


def _trial(
    bench: _Bench,
    basis: Basis,
    scheme: Direction,
    surrogates: NDArray[np.float64],
    student: str,
    queries: int,
    number: int,
) -> float:
    """The cosine under one throw-away key of one student of so many marked answers."""
    key = _key(number)
    some = bench.thief.rows(slice(queries))
    marked = Marker(scheme, basis, key).tilt(bench.thief_clean[:queries], some)
    mirrored = scheme.width < scheme.channels
    model = fit_one(student, bench.encoder.matrix(some), marked[:, 1:] if mirrored else marked, number)
    said = model(bench.encoder.matrix(bench.probes))
    answers = np.clip(said, 0, 1) if mirrored else said
    case = read_case(scheme, basis, bench.probes, answers, bench.probes_clean, surrogates=surrogates)
    return scheme.score(case.residual.coefficients, key)


def _key(number: int) -> Key:
    """A throw-away key, the same each time: it marks nothing that anybody is served."""
    return list(decoy_keys(hashlib.sha256(b"calibration").digest(), number + 1))[number]


def _scheme(output: str, answers: NDArray[np.float64]) -> Callable[[float], Direction]:
    """A scheme for such answers at any epsilon."""
    if output == "values":
        scale = tuple(float(s) for s in np.atleast_1d(answers.std(axis=0)))
        return lambda epsilon: Direction("values", len(scale), epsilon, scale=scale)
    if output != "probabilities":
        raise OutputsInvalid(f"calibration knows probabilities and values, found {output!r}")
    channels = answers.shape[1] if answers.ndim == 2 and answers.shape[1] > 1 else 2
    return lambda epsilon: Direction("probabilities", channels, epsilon)


def _weakest(trials: Sequence[Trial], power: float) -> tuple[int | None, float]:
    """Fewest queries at which every kind of student is found, and the weakest log10 p at the most queries."""
    most = max(trial.queries for trial in trials)
    found = [
        queries
        for queries in sorted({trial.queries for trial in trials})
        if all(trial.power >= power for trial in trials if trial.queries >= queries)
    ]
    return (found[0] if found else None), max(trial.log10_p for trial in trials if trial.queries == most)


def _best(choices: Sequence[Choice]) -> Choice | None:
    able = [choice for choice in choices if choice.smallest is not None]
    return min(able, key=lambda c: (c.smallest or 0, c.epsilon, c.log10_p)) if able else None
