"""Tables in and out: answers to be marked, surrogates' predictions, true classes, as they stand in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import OutputsInvalid, ProfileMismatch
from watermark.scores import perturb
from watermark.scores.table import Table, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from watermark.scores.direction import Direction
    from watermark.scoring.mark import ScoreWatermark


def read_columns(path: str | Path, columns: Sequence[str] = ()) -> Table:
    """A table's columns, in the order named; all of them where none is. Raises OutputsInvalid or ProfileMismatch."""
    found = read_table(path)
    if not len(found):
        raise OutputsInvalid(f"{path} holds a header and no rows")
    absent = [name for name in columns if name not in found.columns]
    if absent:
        raise ProfileMismatch(
            f"{path} has no column {', '.join(absent)}", hint=f"its columns are {', '.join(found.names)}"
        )
    return Table({name: found.columns[name] for name in columns}) if columns else found


def answers_of(found: Table) -> NDArray[np.float64]:
    """The owner's answers: (n,) from one column, else (n, C). Raises OutputsInvalid where a column holds words."""
    rows = found.numbers(found.names)
    return rows[:, 0] if rows.shape[1] == 1 else rows


def served(
    mark: ScoreWatermark, answers: Table, inputs: Table, *, digits: int | None = None, top: int | None = None
) -> Table:
    """Answers as they are served: moved by the mark, then cut to the `top` likeliest classes, then rounded.

    answers: as many rows as inputs; their columns' names stay, a mark of labels gives one column `label` of class
    numbers. No argmax changes on the way (but for labels near a coin toss). Raises OutputsInvalid.
    """
    given, output = answers_of(answers), mark.scheme.output
    if top is not None and (output != "probabilities" or given.ndim != 2 or not 1 <= top <= given.shape[1]):
        classes = given.shape[1] if given.ndim == 2 else 1
        raise OutputsInvalid(f"the likeliest {top} of {classes} columns of {output} cannot be chosen")
    marked = mark.tilt(given, inputs)
    if output == "labels":
        return Table({"label": marked})
    marked = marked if top is None else perturb.truncated(marked, top)
    if digits is not None:
        marked = perturb.rounded(marked, digits) if output == "probabilities" else np.round(marked, digits)
    columns = marked.reshape(len(marked), -1).T
    return Table(dict(zip(answers.names, columns, strict=True)))


def answered_rows(answers: Table) -> int:
    """How many rows there are up to the last that holds an answer: where a run that stopped early ended.

    All of them if one before it holds none: a plan then knows the run by all inputs, not by its first ones.
    """
    held = [~np.isnan(c) if c.dtype.kind == "f" else c != "" for c in answers.columns.values()]
    found = np.flatnonzero(np.any(held, axis=0))
    return len(found) if len(found) and len(found) == found[-1] + 1 else len(answers)


def predictions_of(found: Table, scheme: Direction) -> NDArray[np.float64]:
    """Surrogates' predictions (n, S, channels), from columns surrogate by surrogate, each with its channels in order.

    For two classes one column a surrogate may stand for its second class: that is how columns are read whose pairs do
    not sum to one. Raises OutputsInvalid if the columns are no whole number of surrogates.
    """
    rows = found.numbers(found.names)
    count = rows.shape[1]
    if scheme.channels == 2 and scheme.output in ("probabilities", "labels"):
        pairs = count % 2 == 0 and bool(np.allclose(rows[:, ::2] + rows[:, 1::2], 1, atol=1e-3))
        return rows.reshape(len(rows), -1, 2) if pairs else np.stack([1 - rows, rows], axis=-1)
    if count % scheme.channels:
        raise OutputsInvalid(
            f"the surrogates' predictions have {count} columns, which is no multiple of {scheme.channels} channels",
            hint="lay them out surrogate by surrogate, each with one column for each of the mark's channels",
        )
    return rows.reshape(len(rows), -1, scheme.channels)


def predictions_table(predictions: NDArray[np.float64]) -> Table:
    """The table that `predictions_of` reads: columns s0_c0, s0_c1, …, s1_c0, …"""
    n, surrogates, channels = predictions.shape
    names = [f"s{s}_c{c}" for s in range(surrogates) for c in range(channels)]
    return Table(dict(zip(names, predictions.reshape(n, -1).T, strict=True)))


def truth_of(found: Table, scheme: Direction, *, labels: tuple[str, ...] = ()) -> NDArray[np.float64]:
    """True classes as numbers (n,), from one column of numbers or of names; or true values.

    labels: the classes' names in the mark's order; sorted where it is empty. Raises OutputsInvalid.
    """
    if len(found.names) != 1:
        raise OutputsInvalid(f"the truth should be one column, found {len(found.names)}: {', '.join(found.names)}")
    column = found.columns[found.names[0]]
    if column.dtype.kind == "f":
        return column
    names = list(labels) or sorted({str(word) for word in column if word})
    unknown = sorted({str(word) for word in column} - set(names))
    if len(names) != scheme.channels or unknown:
        raise OutputsInvalid(
            f"the truth names {len(names)} classes, the mark was made for {scheme.channels}"
            if not unknown
            else f"the true class {unknown[0]!r} is none of {', '.join(names)}",
            hint="name the classes in order with --classes",
        )
    return np.array([names.index(str(word)) for word in column], dtype=np.float64)


def format_of(path: str | Path) -> str | None:
    """The `format` of a JSON file; None if it has none."""
    try:
        if Path(path).stat().st_size > 1 << 30:
            return None
        found: Any = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    said = found.get("format") if isinstance(found, dict) else None
    return said if isinstance(said, str) else None
