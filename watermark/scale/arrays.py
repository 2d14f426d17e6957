"""Arrays in one file: laid end to end, with a table that says where each begins, and read in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scale.store import Store

Table = dict[str, Any]


def write_arrays(store: Store, name: str, arrays: Mapping[str, NDArray[Any]]) -> Table:
    """Writes the arrays, little-endian; returns {name: [dtype, shape, first byte]}, and their "bytes" together."""
    table: Table = {}
    parts, at = [], 0
    for key, values in arrays.items():
        plain = np.ascontiguousarray(values)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        table[key] = [plain.dtype.str, list(plain.shape), at]
        parts.append(plain.data.cast("B") if plain.size else b"")
        at += plain.nbytes
    store.write(name, parts)
    return table | {"bytes": at}


def read_array(store: Store, name: str, table: Table, key: str, low: int = 0, high: int | None = None) -> NDArray[Any]:
    """Rows `low` to `high` of one array."""
    kind, shape, start = table[key]
    high = shape[0] if high is None else high
    row = np.dtype(kind).itemsize * int(np.prod(shape[1:], dtype=np.int64))
    if high <= low or not row:
        return np.empty((max(0, high - low), *shape[1:]), dtype=kind)
    return np.frombuffer(store.read(name, start + low * row, start + high * row), kind).reshape(-1, *shape[1:])
