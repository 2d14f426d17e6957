"""Inputs as columns by name: from arrays, data frames, CSV or Parquet; the same table whatever it came from.

A column is an array of float64 (numbers; NaN is missing) or of strings (categories; "" is missing).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import ExtraMissing, OutputsInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MISSING = {"", "na", "n/a", "nan", "none", "null"}


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length. numbers are float64 arrays, categories arrays of str."""

    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def rows(self, wanted: Any) -> Table:
        """Those rows: a slice, indices or a mask."""
        return Table({name: column[wanted] for name, column in self.columns.items()})

    def without(self, names: Sequence[str]) -> Table:
        return Table({name: column for name, column in self.columns.items() if name not in names})

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(n, len(names)) float64. Raises OutputsInvalid if one is missing or holds words."""
        absent = [name for name in names if name not in self.columns]
        if absent:
            raise OutputsInvalid(f"column {', '.join(absent)} is missing; found are {', '.join(self.names)}")
        words = [name for name in names if self.columns[name].dtype.kind != "f"]
        if words:
            example = next((v for v in self.columns[words[0]] if v), "")
            raise OutputsInvalid(f"column {words[0]} should hold numbers, found for example {str(example)[:40]!r}")
        return np.column_stack([self.columns[name] for name in names])


def table(inputs: Any, names: Sequence[str] | None = None) -> Table:
    """A table from an array (n, d), a mapping of columns, a pandas or polars frame, an Arrow table, or a Table.

    names: of an array's columns, x0, x1, … by default. Raises OutputsInvalid for anything else, or for infinities.
    """
    if isinstance(inputs, Table):
        return inputs
    if isinstance(inputs, Mapping):
        return Table(_same_length({str(name): _column(str(name), values) for name, values in inputs.items()}))
    if hasattr(inputs, "column_names"):  # an Arrow table
        return table({name: inputs.column(name).to_pylist() for name in inputs.column_names})
    if hasattr(inputs, "columns"):  # pandas, polars
        return table({str(name): inputs[name] for name in inputs.columns})
    array = np.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs)
    if array.ndim != 2:
        raise OutputsInvalid(f"inputs should be rows of columns (n, d), found shape {array.shape}")
    found = [f"x{i}" for i in range(array.shape[1])] if names is None else list(names)
    if len(found) != array.shape[1]:
        raise OutputsInvalid(f"the inputs have {array.shape[1]} columns, the mark was made for {len(found)}")
    return Table({name: _column(name, array[:, i]) for i, name in enumerate(found)})


def has_names(inputs: Any) -> bool:
    """Whether inputs name their columns: a frame, an Arrow table, a mapping or a Table does, an array does not."""
    return hasattr(inputs, "columns") or hasattr(inputs, "column_names") or isinstance(inputs, Mapping)


def read_table(path: str | Path) -> Table:
    """A table from .csv (with a header), .parquet, or .npy. Raises OutputsInvalid or ExtraMissing."""
    path = Path(path)
    try:
        if path.suffix == ".npy":
            return table(np.load(path, allow_pickle=False))
        if path.suffix == ".parquet":
            return table(_parquet(path))
        return _csv(path)
    except OSError as error:
        raise OutputsInvalid(f"{path} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise OutputsInvalid(f"{path} is not a readable table: {error}") from None


def write_table(found: Table, path: str | Path) -> None:
    """Writes .csv or .parquet, whole or not at all. Numbers keep all their digits."""
    import io

    from watermark.files import write_whole

    path = Path(path)
    if path.suffix == ".parquet":
        pyarrow, parquet = _arrow()
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(dict(found.columns)), buffer)
        write_whole(path, buffer.getvalue())
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found.names)
    writer.writerows(zip(*(_printed(column) for column in found.columns.values()), strict=True))
    write_whole(path, text.getvalue().encode())


def _printed(column: NDArray[Any]) -> list[str]:
    if column.dtype.kind != "f":
        return [str(value) for value in column]
    return ["" if math.isnan(value) else repr(float(value)) for value in column]


def _csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        header = next(rows, None)
        if not header:
            raise OutputsInvalid(f"{path} is empty; needed is a header line with the columns' names")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise OutputsInvalid(f"{path}: column {twice!r} stands twice in the header")
        body = []
        for row in rows:
            if len(row) != len(header):
                raise OutputsInvalid(f"{path}, line {rows.line_num}: {len(row)} fields, the header has {len(header)}")
            body.append(row)
    return Table({name: _column(name, [row[i] for row in body]) for i, name in enumerate(header)})


def _parquet(path: Path) -> Any:
    return _arrow()[1].read_table(path)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ExtraMissing("pyarrow", "scale", "reading Parquet") from None
    return pyarrow, pyarrow.parquet


def _column(name: str, values: Any) -> NDArray[Any]:
    """float64 if every value is a number or missing, else str."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    if array.ndim != 1:
        raise OutputsInvalid(f"column {name} should be one-dimensional, found shape {array.shape}")
    if array.dtype.kind in "fiub":
        return _finite(name, array.astype(np.float64))
    try:
        words = [str(value).strip() if value is not None and value == value else "" for value in array.tolist()]
    except (TypeError, ValueError):
        raise OutputsInvalid(f"column {name} holds values that are neither numbers nor words") from None
    try:
        return _finite(name, np.array([float("nan") if w.lower() in _MISSING else float(w) for w in words]))
    except ValueError:
        return np.array(["" if w.lower() in _MISSING else w for w in words], dtype=np.str_)


def _finite(name: str, column: NDArray[np.float64]) -> NDArray[np.float64]:
    infinite = np.isinf(column)
    if infinite.any():
        raise OutputsInvalid(
            f"column {name} holds {int(infinite.sum())} infinities, the first in row {int(infinite.argmax()) + 1}; "
            "a value is a finite number or missing",
            hint="leave the field empty where there is no value",
        )
    return column


def _same_length(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise OutputsInvalid(f"columns have different lengths: {sorted(lengths)}")
    return columns
