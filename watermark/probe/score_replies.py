"""How inputs are written for a scoring suspect, and where the scores stand in what it replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark.errors import OutputsInvalid
from watermark.files import canonical_json
from watermark.scores.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

Layout = Literal["lists", "objects", "split"]
_LAYOUTS = ("lists", "objects", "split")
_NESTED = 8


class BadScores(Exception):
    """A reply that holds no usable scores, in words."""


@dataclass(frozen=True)
class Form:
    """What a request looks like, and its reply.

    field: the member of the body that holds the rows, "inputs" or "instances"; "" where the body is the rows.
    layout: "lists" [[1, 2], …], "objects" [{"a": 1, "b": 2}, …], or "split" {"columns": […], "data": [[…], …]}.
    path: where the scores stand in the reply, as "predictions" or "outputs.0.data"; * goes through a list, as in
    "predictions.*.scores"; "" finds the one list of as many entries as rows were sent. empty: stands for a
    missing word.
    """

    field: str = "inputs"
    layout: Layout = "lists"
    path: str = ""
    empty: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in _LAYOUTS:
            raise OutputsInvalid(f"rows are written as {', '.join(_LAYOUTS)}; found {self.layout!r}")

    def body(self, names: list[str], rows: list[list[Any]]) -> str:
        """The body of a request, as canonical JSON."""
        written: Any = rows
        if self.layout == "objects":
            written = [dict(zip(names, row, strict=True)) for row in rows]
        elif self.layout == "split":
            written = {"columns": names, "data": rows}
        return canonical_json({self.field: written} if self.field else written).decode()

    def scores(self, reply: Any, count: int) -> list[Any]:
        """The rows of scores in a reply to `count` inputs, see `cleaned`. Raises BadScores."""
        found = _at(reply, self.path.split(".")) if self.path else _guessed(reply, count)
        return cleaned(found, count)


def plain_rows(found: Table, *, empty: str | None = None) -> list[list[Any]]:
    """A table's rows as JSON values: whole numbers as such where a column has no others, null where one is missing.

    empty: stands for a missing word.
    """
    return [list(row) for row in zip(*(_plain(found.columns[name], empty) for name in found.names), strict=True)]


def cleaned(found: Any, count: int) -> list[Any]:
    """Rows of scores as they are kept: a number, a word, a list of numbers, or numbers by class; null where absent.

    found: an array or nested lists; numbers that are not finite become null. Raises BadScores for another number of
    rows, for rows of unequal length, and for what is neither number nor word.
    """
    found = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(found, list):
        raise BadScores(f"the scores should be a list of one entry for each input, found {_shape(found)}")
    if len(found) != count:
        raise BadScores(f"{len(found)} answers came to {count} inputs; there should be one for each, in order")
    rows = [_row(row) for row in found]
    kinds = {_kind(row) for row in rows} - {"null"}
    if len(kinds) > 1:
        raise BadScores(f"the answers are not of one kind: {' and '.join(sorted(kinds))}")
    return rows


def kind_of(rows: list[Any]) -> str:
    """What rows hold: "numbers", "words", "lists of 3", "classes by name", or "null" if there is nothing."""
    return next((kind for kind in map(_kind, rows) if kind != "null"), "null")


def as_table(rows: Sequence[Any], *, classes: tuple[str, ...] = ()) -> Table:
    """Kept rows as columns. classes: which columns, and in which order, where the suspect names its classes.

    One column of numbers is called score, of words label; more are called c0, c1, …, or as the suspect does. Raises
    OutputsInvalid if rows do not go together.
    """
    kinds = {_kind(row) for row in rows} - {"null"}
    if len(kinds) > 1:
        raise OutputsInvalid(
            f"the suspect's answers changed from {' to '.join(sorted(kinds))} within one run",
            hint="ask anew with another --output; is it one model?",
        )
    kind = next(iter(kinds), "numbers")
    if kind == "words":
        return Table({"label": np.array(["" if row is None else row for row in rows], dtype=np.str_)})
    if kind == "numbers":
        return Table({"score": _floats(rows)})
    if kind == "classes by name":
        named = list(classes) or list(dict.fromkeys(name for row in rows if row for name in row))
        held = {name for row in rows if row for name in row}
        absent = [name for name in named if name not in held]
        if absent:
            raise OutputsInvalid(f"no answer names the class {absent[0]!r}; found are {', '.join(sorted(held))}")
        return Table({name: _floats([row and row.get(name) for row in rows]) for name in named})
    width = int(kind.split()[-1])
    if classes and len(classes) != width:
        raise OutputsInvalid(f"{len(classes)} classes are named, the suspect's answers have {width} columns")
    names = classes or tuple(f"c{i}" for i in range(width))
    return Table({name: _floats([row and row[i] for row in rows]) for i, name in enumerate(names)})


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _plain(column: Any, empty: str | None) -> list[Any]:
    if column.dtype.kind != "f":
        return [str(value) or empty for value in column]
    present = column[~np.isnan(column)]
    whole = bool((present == np.rint(present)).all() and np.abs(present).max(initial=0) < 2**53)
    return [None if value != value else int(value) if whole else value for value in column.tolist()]


def _row(row: Any, depth: int = 0) -> Any:
    row = row.tolist() if hasattr(row, "tolist") else row
    if row is None or isinstance(row, str):
        return row or None
    if isinstance(row, (bool, int, float)):
        return _number(row)
    if isinstance(row, dict):
        return {str(name): _number(value) for name, value in row.items()}
    if (
        isinstance(row, list)
        and row
        and all(isinstance(part, dict) and {"label", "score"} <= set(part) for part in row)
    ):
        return {str(part["label"]): _number(part["score"]) for part in row}
    if isinstance(row, list):
        return _row(row[0], depth + 1) if len(row) == 1 and depth < _NESTED else [_number(value) for value in row]
    raise BadScores(f"an answer should be a number, a word or a list of numbers, found {_shape(row)}")


def _number(value: Any) -> float | None:
    value = value.item() if hasattr(value, "item") else value
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)):
        raise BadScores(f"a score should be a number, found {_shape(value)}")
    return float(value) if math.isfinite(value) else None


def _kind(row: Any) -> str:
    if row is None:
        return "null"
    if isinstance(row, str):
        return "words"
    if isinstance(row, float):
        return "numbers"
    if all(value is None for value in (row.values() if isinstance(row, dict) else row)):
        return "null"
    return "classes by name" if isinstance(row, dict) else f"lists of {len(row)}"


def _at(reply: Any, path: list[str]) -> Any:
    """What stands at a path of names and numbers."""
    for place, step in enumerate(path):
        if step == "*" and isinstance(reply, list):
            return [_at(part, path[place + 1 :]) for part in reply]
        if isinstance(reply, dict) and step in reply:
            reply = reply[step]
        elif isinstance(reply, list) and step.lstrip("-").isdigit() and -len(reply) <= int(step) < len(reply):
            reply = reply[int(step)]
        else:
            raise BadScores(f"the reply holds nothing at {'.'.join(path[: place + 1])!r}; there is {_shape(reply)}")
    return reply


def _guessed(reply: Any, count: int) -> Any:
    """The reply itself if it is a list, else its one member that is a list of the right length, at any depth."""
    if isinstance(reply, list):
        return reply
    level = [reply]
    for _ in range(_NESTED):
        members = [value for part in level if isinstance(part, dict) for value in part.values()]
        lists = [value for value in members if isinstance(value, list)]
        fitting = [value for value in lists if len(value) == count] or lists
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            break
        level = members
    raise BadScores(f"the reply does not say which of its parts are the scores; it is {_shape(reply)}")


def _shape(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, dict):
        return "an object with " + (", ".join(map(str, list(value)[:6])) or "no members")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"{str(value)[:40]!r}"
