"""A suspect's answers as they come: rounded, cut to the first classes, in percent, labels alone; read and said so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import OutputsInvalid
from watermark.scores.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores.direction import Direction

_STRAY = 0.3  # share of rows that may lie a little outside the simplex: a student that regressed on our scores
_LOOSE = 0.02  # a row of probabilities may sum to so much less or more than one: rounding


@dataclass(frozen=True)
class Answers:
    """values: (n, channels); answered: (n,) whether the row holds an answer. shows: "scores" or "labels".

    notes: what was done to them, for the evidence.
    """

    values: NDArray[np.float64]
    answered: NDArray[np.bool_]
    shows: str
    notes: tuple[str, ...]


def suspect_answers(found: Any, scheme: Direction, *, labels: tuple[str, ...] = ()) -> Answers:
    """A suspect's answers to be tested against a mark.

    found: an array (n,) or (n, C), or a Table; a single column of words is read as labels, named by `labels` (in the
    order of the classes; sorted where it is empty); a single column of whole class numbers too. Raises
    OutputsInvalid for infinities, another number of channels, or rows that are no distribution even when they were
    rounded, cut or in percent.
    """
    if isinstance(found, Table):
        words = [name for name in found.names if found.columns[name].dtype.kind != "f"]
        if words and len(found.names) > 1:
            raise OutputsInvalid(f"the answers' column {words[0]} holds words among {len(found.names)} columns")
        if words:
            return _named_labels(found.columns[words[0]], scheme, labels)
        found = found.numbers(found.names)
    rows = np.asarray(found, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise OutputsInvalid(f"answers should be rows of numbers, found shape {np.shape(found)}")
    if np.isinf(rows).any():
        raise OutputsInvalid(f"{int(np.isinf(rows).any(axis=1).sum())} answers are infinite")
    if scheme.output in ("values", "embeddings"):
        return _plain(rows, scheme)
    if _are_labels(rows, scheme):
        return _labels(rows[:, 0], scheme)
    return _probabilities(rows, scheme)


def _plain(rows: NDArray[np.float64], scheme: Direction) -> Answers:
    if scheme.output == "values" and rows.shape[1] != scheme.channels:
        raise OutputsInvalid(f"answers have {rows.shape[1]} channels, the mark was made for {scheme.channels}")
    answered = np.asarray(np.isfinite(rows).all(axis=1))
    return Answers(rows, answered, "scores", _missing(answered))


def _probabilities(rows: NDArray[np.float64], scheme: Direction) -> Answers:
    notes: list[str] = []
    single = rows.shape[1] == 1 and scheme.channels == 2
    if not single and rows.shape[1] != scheme.channels:
        raise OutputsInvalid(
            f"answers have {rows.shape[1]} columns, the mark was made for {scheme.channels} classes",
            hint="give one column for each class, in the mark's order" + ("" if scheme.channels > 2 else ", or one"),
        )
    finite = np.isfinite(rows)
    answered = np.asarray(finite.all(axis=1) if single else finite.any(axis=1))
    largest = float(np.nanmax(rows)) if answered.any() else 0.0
    if 1.5 < largest <= 100 + _LOOSE:
        rows = rows / 100
        notes.append("answers were read as percentages")
    outside = np.asarray((finite & ((rows < -1e-9) | (rows > 1 + 1e-9))).any(axis=1))
    if outside.mean() > _STRAY or np.nanmax(np.abs(rows - 0.5), initial=0.0) > 1:
        worst = int(np.nanargmax(np.where(finite, np.abs(rows - 0.5), 0).max(axis=1)))
        raise OutputsInvalid(
            f"{int(outside.sum())} answers are no probabilities; row {worst + 1} is "
            f"{np.round(rows[worst], 4).tolist()}",
            hint="pass probabilities (or percentages), not logits",
        )
    if outside.any():
        notes.append(f"{int(outside.sum())} answers lie a little outside 0 to 1, as a regression's may")
    if single:
        filled = np.column_stack([1 - rows[:, 0], rows[:, 0]])
        return Answers(filled, answered, "scores", (*notes, *_missing(answered)))
    held = np.where(finite, rows, 0.0)
    total = held.sum(axis=1)
    absent = held == 0
    short = answered & (total < 1 - _LOOSE) & absent.any(axis=1)
    if short.any():
        share = np.where(short, (1 - total) / np.maximum(absent.sum(axis=1), 1), 0.0)
        held = held + absent * share[:, None]
        notes.append(f"{int(short.sum())} answers name only some classes; the rest was spread over the others")
    total = held.sum(axis=1)
    wrong = answered & (np.abs(total - 1) > _LOOSE * scheme.channels)
    if wrong.mean() > _STRAY or (wrong & (np.abs(total - 1) > 0.5)).any():
        worst = int(np.where(answered, np.abs(total - 1), 0).argmax())
        raise OutputsInvalid(
            f"{int(wrong.sum())} answers do not sum to one; row {worst + 1} sums to {total[worst]:.4f}",
            hint="pass one distribution a row; are the columns the classes?",
        )
    off = answered & (np.abs(total - 1) > 1e-6)
    if off.any():
        notes.append(f"{int(off.sum())} rounded answers were scaled to sum to one")
    scaled = held / np.where(total > 0, total, 1.0)[:, None]
    return Answers(scaled, answered, "scores", (*notes, *_missing(answered)))


def _are_labels(rows: NDArray[np.float64], scheme: Direction) -> bool:
    """One column of whole class numbers: for two classes nothing but 0 and 1."""
    if rows.shape[1] != 1:
        return False
    known = rows[np.isfinite(rows)]
    return bool(known.size and (known == np.rint(known)).all() and known.min() >= 0 and known.max() < scheme.channels)


def _labels(numbers: NDArray[np.float64], scheme: Direction) -> Answers:
    answered = np.isfinite(numbers)
    chosen = np.where(answered, numbers, 0).astype(np.intp)
    shown = np.eye(scheme.channels)[chosen]
    return Answers(shown, answered, "labels", ("the suspect shows labels alone", *_missing(answered)))


def _named_labels(words: NDArray[Any], scheme: Direction, labels: tuple[str, ...]) -> Answers:
    answered = words != ""
    names = list(labels) or sorted({str(word) for word in words[answered]})
    if len(names) != scheme.channels:
        raise OutputsInvalid(
            f"the answers hold {len(names)} labels, the mark was made for {scheme.channels} classes",
            hint="name the classes in order with --classes",
        )
    unknown = sorted({str(word) for word in words[answered]} - set(names))
    if unknown:
        raise OutputsInvalid(f"the label {unknown[0]!r} is none of {', '.join(names)}")
    place = {name: number for number, name in enumerate(names)}
    return _labels(np.array([place.get(str(word), np.nan) for word in words], dtype=np.float64), scheme)


def _missing(answered: NDArray[np.bool_]) -> tuple[str, ...]:
    absent = int((~answered).sum())
    return (f"{absent} inputs have no answer and were left out",) if absent else ()
