"""The keyed function in numpy: the text that the other twins are held to. See the package's docstring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]

_BLOCK = 8192  # cells worked on at once, so that every temporary stays in the processor's cache


def key_words(subkey: bytes) -> U32:
    """Eight little-endian 32-bit words of a 256-bit subkey. Raises ValueError for another length."""
    if len(subkey) != 32:
        raise ValueError(f"a subkey has 32 bytes, found {len(subkey)}")
    return np.frombuffer(subkey, dtype="<u4").astype(np.uint32)


def threshold(gamma: float) -> int:
    """The integer below which a uniform is green; gamma is rounded to a multiple of 2^-32."""
    return round(gamma * 2**32)


def window_states(windows: ArrayLike, words: U32) -> U32:
    """Steps 1 and 2 of the recipe. windows: (n, h) ids, h >= 1. Returns (n, 4)."""
    ids = np.asarray(windows).astype(np.uint32)
    count, width = ids.shape
    states = np.empty((count, 4), dtype=np.uint32)
    for part in _parts(count):
        states[part] = np.stack(_absorb(ids[part].T, width, words), axis=1)
    return states


def uniforms(windows: ArrayLike, tokens: ArrayLike, words: U32) -> U32:
    """Step 3 for matching windows (n, h) and tokens (n,). Returns (n,)."""
    states = window_states(windows, words)
    ids = np.asarray(tokens).astype(np.uint32)
    drawn = np.empty(len(ids), dtype=np.uint32)
    for part in _parts(len(ids)):
        s0, s1, s2, s3 = states[part].T
        drawn[part] = _token(ids[part], s0, s1, s2 | np.uint32(1), s3)
    return drawn


def totals(
    windows: U32, starts: NDArray[np.int64], tokens: U32, weights: NDArray[np.int32], words: U32, *, below: int
) -> NDArray[np.int64]:
    """Sums of the weights of green cells under each of m keys, as exact integers.

    windows: (w, h) distinct windows; starts: (w + 1,) where each window's cells begin; tokens: (n,) and weights:
    (S, n) of the cells in that order; words: (m, 8); a uniform under `below` is green. Returns (m, S).
    """
    owner = np.repeat(np.arange(len(windows)), np.diff(starts))
    found = np.zeros((len(words), len(weights)), dtype=np.int64)
    for sums, key in zip(found, words, strict=True):
        states = window_states(windows, key)
        for part in _parts(len(tokens)):
            s0, s1, s2, s3 = states[owner[part]].T
            green = _token(tokens[part], s0, s1, s2 | np.uint32(1), s3) < np.uint32(below)
            sums += weights[:, part].sum(axis=1, where=green, dtype=np.int64)
    return found


def uniform_rows(states: U32, width: int) -> U32:
    """Step 3 for every token id below `width`, one row a state (b, 4). Returns (b, width)."""
    vocabulary = np.arange(width, dtype=np.uint32)
    rows = np.empty((len(states), width), dtype=np.uint32)
    for row, (s0, s1, s2, s3) in zip(rows, states, strict=True):
        for part in _parts(width):
            row[part] = _token(vocabulary[part], s0, s1, s2 | np.uint32(1), s3)
    return rows


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


def _absorb(columns: U32, width: int, words: U32) -> tuple[U32, U32, U32, U32]:
    blank = np.zeros(columns.shape[1], dtype=np.uint32)
    state = [blank ^ word for word in words[:4]]
    for start in range(0, width, 4):
        if start:
            state = _rounds(state)
        for offset, column in enumerate(columns[start : start + 4]):
            state[offset] = state[offset] ^ column
    state = _rounds(state)
    state = [value ^ word for value, word in zip(state, words[4:], strict=True)]
    state[3] ^= np.uint32(width)
    state = _rounds(state)
    v0, v1, v2, v3 = (value ^ word for value, word in zip(state, words[:4], strict=True))
    return v0, v1, v2, v3


def _rounds(state: list[U32]) -> list[U32]:
    v0, v1, v2, v3 = state
    for _ in range(4):
        v0 = v0 + v1
        v1 = _rotate(v1, 5) ^ v0
        v0 = _rotate(v0, 16)
        v2 = v2 + v3
        v3 = _rotate(v3, 8) ^ v2
        v0 = v0 + v3
        v3 = _rotate(v3, 13) ^ v0
        v2 = v2 + v1
        v1 = _rotate(v1, 7) ^ v2
        v2 = _rotate(v2, 16)
    return [v0, v1, v2, v3]


def _rotate(value: U32, by: int) -> U32:
    return (value << np.uint32(by)) | (value >> np.uint32(32 - by))


def _token(ids: U32, s0: U32, s1: U32, odd: U32, s3: U32) -> U32:
    with np.errstate(over="ignore"):
        x = ids + s0
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x += s1
        x *= odd
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x846CA68B)
        x += s3
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
