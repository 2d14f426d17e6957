"""A list of token ids in JSON text, read in numba."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray


@njit(inline="always")
def _blanks(text: Any, at: Any) -> Any:
    while at < len(text) and (text[at] == 0x20 or text[at] == 0x0A or text[at] == 0x0D or text[at] == 0x09):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _ids(text: Any, at: int, ids: Any) -> Any:
    """Writes the ids of the list that begins here; returns how many and where it ends, (-1, at) for any other."""
    size, count = len(text), 0
    at = _blanks(text, at + 1)
    if at < size and text[at] == 0x5D:
        return 0, at + 1
    while at < size:
        first, value = at, np.uint64(0)
        while at < size and 0x30 <= text[at] <= 0x39:
            value = value * np.uint64(10) + np.uint64(text[at] - 0x30)
            at += 1
            if at - first > 10:
                return -1, at
        if at == first or (text[first] == 0x30 and at - first > 1) or value > np.uint64(0xFFFFFFFF):
            return -1, at
        ids[count] = value
        count += 1
        at = _blanks(text, at)
        if at == size:
            break
        if text[at] == 0x5D:
            return count, at + 1
        if text[at] != 0x2C:
            break
        at = _blanks(text, at + 1)
    return -1, at


def ids_at(line: bytes, at: int) -> tuple[NDArray[np.uint32] | None, int]:
    """(ids, where their list ends) of the JSON list that begins at line[at]; (None, …) if any of it is no whole
    number from 0 to 2^32 - 1."""
    text = np.frombuffer(line, dtype=np.uint8)
    ids = np.empty((len(line) - at) // 2 + 1, dtype=np.uint32)
    count, end = _ids(text, at, ids)
    return (None if count < 0 else ids[:count].copy()), int(end)
