"""The keyed function in numpy: the text that the other twins are held to. See the package's docstring.

Arithmetic is done in place on blocks of lanes that stay in the processor's second cache, m keys by n cells, by one
thread: several would wait for the interpreter's lock after every step (`apart` takes processes).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]
    I64 = NDArray[np.int64]

_SHIFTS = {by: (np.array(by, np.uint32), np.array(32 - by, np.uint32)) for by in (5, 7, 8, 13, 16)}  # made once
_LINE = 64  # bytes of a line of cache; numpy's arrays start at 16, and then vectors lie across two: a fifth slower
_BLOCK = 1 << 16  # lanes worked on at once: larger, and they leave the cache; smaller, and calls cost more than sums


@dataclass(frozen=True)
class Counting:
    """What a uniform counts: 1 if it is under `below`; with tables, high[first 16 bits] + low[last 16 bits].

    high, low: (65536,) whole numbers from 0; both empty for green bits.
    """

    below: int = 0
    high: I64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    low: I64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def most(self) -> int:
        """The largest score."""
        return int(self.high.max()) + int(self.low.max()) if len(self.high) else 1

    def scores(self, drawn: U32) -> I64:
        """The scores of uniforms, of any shape."""
        if not len(self.high):
            return (drawn < np.uint32(self.below)).astype(np.int64)
        high = np.take(self.high, (drawn >> np.uint32(16)).astype(np.int64), mode="clip")
        return high + np.take(self.low, (drawn & np.uint32(0xFFFF)).astype(np.int64), mode="clip")


def key_words(subkey: bytes) -> U32:
    """Eight little-endian 32-bit words of a 256-bit subkey. Raises ValueError for another length."""
    if len(subkey) != 32:
        raise ValueError(f"a subkey has 32 bytes, found {len(subkey)}")
    return np.frombuffer(subkey, dtype="<u4").astype(np.uint32)


def words_of_keys(subkeys: Iterable[bytes]) -> U32:
    """`key_words` of many, (m, 8). Raises ValueError for none, or for one of another length."""
    listed = list(subkeys)
    if not listed or any(len(subkey) != 32 for subkey in listed):
        raise ValueError("needed are one or more subkeys of 32 bytes")
    return np.frombuffer(b"".join(listed), dtype="<u4").astype(np.uint32).reshape(-1, 8)


def threshold(gamma: float) -> int:
    """The integer below which a uniform is green; gamma is rounded to a multiple of 2^-32."""
    return round(gamma * 2**32)


def window_states(windows: ArrayLike, words: U32) -> U32:
    """Steps 1 and 2 of the recipe. windows: (n, h) ids, h >= 1; words: (8,). Returns (n, 4)."""
    ids = np.asarray(windows).astype(np.uint32, copy=False)
    states, lanes = np.empty((len(ids), 4), dtype=np.uint32), _lanes(1, len(ids))
    for part in _parts(len(ids)):
        states[part] = _states(ids[part].T, words[:, None], lanes)[:, 0].T
    return states


def uniforms(windows: ArrayLike, tokens: ArrayLike, words: U32) -> U32:
    """Step 3 for matching windows (n, h) and tokens (n,). Returns (n,)."""
    ids, choices = np.asarray(windows).astype(np.uint32, copy=False), np.asarray(tokens).astype(np.uint32, copy=False)
    drawn, lanes = np.empty(len(choices), dtype=np.uint32), _lanes(1, len(choices))
    for part in _parts(len(choices)):
        states = _states(ids[part].T, words[:, None], lanes)
        drawn[part] = _token(choices[part], states, lanes)[0]
    return drawn


def totals(windows: U32, tokens: U32, weights: NDArray[np.int32], words: U32, counting: Counting) -> I64:
    """Weights times scores added up under each of m keys, as exact integers.

    windows: (n, h) and tokens: (n,) of the cells; weights: (S, n); words: (m, 8). Returns (m, S).
    """
    order, starts = grouped(windows)
    columns, choices = _aligned(windows.T[:, order[starts[:-1]]]), _aligned(tokens[order])
    counts = np.take(weights, order, axis=1).astype(np.int64)
    together = max(1, min(len(words), _BLOCK // max(1, len(choices))))
    lanes, found = _lanes(together, len(choices)), np.zeros((len(words), len(weights)), dtype=np.int64)
    votes = not len(counting.high) and bool((weights == 1).all())

    for some in _parts(columns.shape[1]):  # cells stay in the cache while keys go by
        begins = starts[some.start : some.stop + 1]
        alone = begins[-1] - begins[0] == len(begins) - 1  # each window has one cell
        owner = None if alone else np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        for first in range(0, len(words), together):
            keys = slice(first, min(first + together, len(words)))
            room = lanes[:, : keys.stop - keys.start]
            states = _states(columns[:, some], np.ascontiguousarray(words[keys].T), room)
            for part in _parts(int(begins[-1] - begins[0])):
                at = slice(begins[0] + part.start, begins[0] + part.stop)
                own = states if owner is None else np.take(states, owner[part], axis=2)
                drawn = _token(choices[at], own, room)
                if votes:
                    found[keys] += np.array([np.count_nonzero(row < np.uint32(counting.below)) for row in drawn])[
                        :, None
                    ]
                else:
                    found[keys] += counting.scores(drawn) @ counts[:, at].T
    return found


def grouped(windows: U32) -> tuple[I64, I64]:
    """(order, starts): cells sorted so that equal windows stand together, and where each run begins, n at the end."""
    order = np.argsort(window_ids(windows))
    ordered = np.take(windows, order, axis=0)
    new = np.any(ordered[1:] != ordered[:-1], axis=1)
    runs = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), dtype=bool), new]))
    return order, np.append(runs, len(order))


def threads() -> int:
    """NUMBA_NUM_THREADS or OMP_NUM_THREADS where one is set, else the processors open to this process."""
    stated = os.environ.get("NUMBA_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    if stated.isdecimal():
        return max(1, int(stated))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def uniform_rows(states: U32, width: int) -> U32:
    """Step 3 for every token id below `width`, one row a state (b, 4). Returns (b, width)."""
    vocabulary = np.arange(width, dtype=np.uint32)
    rows = np.empty((len(states), width), dtype=np.uint32)
    for row, state in zip(rows, states, strict=True):
        row[:] = row_uniforms(state, vocabulary)
    return rows


def row_uniforms(state: U32, tokens: ArrayLike) -> U32:
    """Step 3 for some tokens (k,) after one state (4,). Returns (k,)."""
    ids = np.asarray(tokens).astype(np.uint32, copy=False)
    drawn, lanes = np.empty(len(ids), dtype=np.uint32), _lanes(1, len(ids))
    for part in _parts(len(ids)):
        drawn[part] = _token(ids[part], state[:, None, None], lanes)[0]
    return drawn


def window_ids(windows: ArrayLike) -> U64:
    """A public 64-bit name for each window (n, h); keyless, for counting each window once.

    Two windows that share a name would be counted as one, which costs a vote and never validity.
    """
    ids = np.asarray(windows).astype(np.uint64)
    names = np.full(len(ids), ids.shape[1], dtype=np.uint64)
    for column in ids.T:
        names = _mix64(names, column)
    return names


def cell_ids(windows: ArrayLike, tokens: ArrayLike) -> U64:
    """A public 64-bit name for each cell: (n, h) windows and (n,) tokens. Returns (n,)."""
    return _mix64(window_ids(windows), np.asarray(tokens).astype(np.uint64))


def _lanes(keys: int, cells: int) -> U32:
    """Room to work in, six words a lane, used again and again: fresh memory for every step would cost as much as it."""
    return _room((6, keys, min(-(-cells // 16) * 16, _BLOCK)))


def _room(shape: tuple[int, ...]) -> U32:
    """An empty array that starts at a line of cache."""
    size = 4 * int(np.prod(shape))
    raw = np.empty(size + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(np.uint32).reshape(shape)


def _aligned(array: U32) -> U32:
    made = _room(array.shape)
    made[:] = array
    return made


def _states(columns: U32, words: U32, lanes: U32) -> U32:
    """Steps 1 and 2 for n windows, columns (h, n), under m keys, words (8, m). Returns (4, m, n), part of the lanes."""
    width, keys = len(columns), words[:, :, None].copy()
    keys[7] ^= np.uint32(width)
    state, spare = lanes[:4, :, : columns.shape[1]], lanes[4, :, : columns.shape[1]]
    if width <= 2:
        _first_round(columns, keys, state, spare)
        _rounds(state, spare, 3)
    else:
        state[3:] = keys[3]
        for value, key, column in zip(state, keys, columns):
            np.bitwise_xor(column, key, value)
        for start in range(4, width, 4):
            _rounds(state, spare, 4)
            for value, column in zip(state, columns[start:]):
                np.bitwise_xor(value, column, value)
        _rounds(state, spare, 4)
    np.bitwise_xor(state, keys[4:], state)
    _rounds(state, spare, 4)
    np.bitwise_xor(state, keys[:4], state)
    return state


def _first_round(columns: U32, keys: U32, state: U32, spare: U32) -> None:
    """The first round of windows of one or two ids, columns (h, n): what v2 and v3 begin with is the key's alone."""
    v0, v1, v2, v3 = state
    k2 = keys[2] + keys[3]
    k3 = _rotated(keys[3], 8) ^ k2
    np.bitwise_xor(columns[0], keys[0], v0)
    np.bitwise_xor(columns[1] if len(columns) > 1 else np.uint32(0), keys[1], v1)
    np.add(v0, v1, v0)
    _rotate(v1, 5, spare)
    np.bitwise_xor(v1, v0, v1)
    _rotate(v0, 16, spare)
    np.add(v0, k3, v0)
    np.bitwise_xor(v0, _rotated(k3, 13), v3)
    np.add(v1, k2, v2)
    _rotate(v1, 7, spare)
    np.bitwise_xor(v1, v2, v1)
    _rotate(v2, 16, spare)


def _rotated(value: U32, by: int) -> U32:
    return (value << np.uint32(by)) | (value >> np.uint32(32 - by))


def _rounds(state: U32, spare: U32, count: int) -> None:
    """So many rounds, in place: state (4, m, n)."""
    v0, v1, v2, v3 = state
    for _ in range(count):
        np.add(v0, v1, v0)
        _rotate(v1, 5, spare)
        np.bitwise_xor(v1, v0, v1)
        _rotate(v0, 16, spare)
        np.add(v2, v3, v2)
        _rotate(v3, 8, spare)
        np.bitwise_xor(v3, v2, v3)
        np.add(v0, v3, v0)
        _rotate(v3, 13, spare)
        np.bitwise_xor(v3, v0, v3)
        np.add(v2, v1, v2)
        _rotate(v1, 7, spare)
        np.bitwise_xor(v1, v2, v1)
        _rotate(v2, 16, spare)


def _rotate(value: U32, by: int, spare: U32) -> None:
    left, right = _SHIFTS[by]
    np.right_shift(value, right, spare)
    np.left_shift(value, left, value)
    np.bitwise_or(value, spare, value)


def _token(ids: U32, states: U32, lanes: U32) -> U32:
    """Step 3: ids (n,) after states (4, m, n), or (4, m, 1). Returns (m, n), part of the lanes."""
    s0, s1, s2, s3 = states
    spare, x = lanes[4, :, : len(ids)], lanes[5, :, : len(ids)]
    np.add(ids, s0, x)
    np.bitwise_xor(x, np.right_shift(x, np.uint32(16), spare), x)
    np.multiply(x, np.uint32(0x7FEB352D), x)
    np.bitwise_xor(x, np.right_shift(x, np.uint32(15), spare), x)
    np.add(x, s1, x)
    np.multiply(x, np.bitwise_or(s2, np.uint32(1), spare[:, : s2.shape[1]]), x)
    np.bitwise_xor(x, np.right_shift(x, np.uint32(16), spare), x)
    np.multiply(x, np.uint32(0x846CA68B), x)
    np.add(x, s3, x)
    return x


def _mix64(names: U64, values: U64) -> U64:
    """One step of splitmix64 (Steele, Lea and Flood 2014) over names ^ values."""
    with np.errstate(over="ignore"):
        z = (names ^ values) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))
