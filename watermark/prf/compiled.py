"""The keyed function in numba: the same integers as `reference`, at the speed of memory.

`uniforms` and `totals` serve detection, `tilt_rows` serves generation on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, uint32

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    U32 = NDArray[np.uint32]

_LANES = 64  # keys worked on side by side: their states stay in the processor's first cache


@njit(inline="always")
def _rotate(value: Any, by: Any) -> Any:
    return uint32((value << uint32(by)) | (value >> uint32(32 - by)))


@njit(inline="always")
def _rounds(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    for _ in range(4):
        v0 = uint32(v0 + v1)
        v1 = uint32(_rotate(v1, 5) ^ v0)
        v0 = _rotate(v0, 16)
        v2 = uint32(v2 + v3)
        v3 = uint32(_rotate(v3, 8) ^ v2)
        v0 = uint32(v0 + v3)
        v3 = uint32(_rotate(v3, 13) ^ v0)
        v2 = uint32(v2 + v1)
        v1 = uint32(_rotate(v1, 7) ^ v2)
        v2 = _rotate(v2, 16)
    return v0, v1, v2, v3


@njit(inline="always")
def _token(token: Any, s0: Any, s1: Any, odd: Any, s3: Any) -> Any:
    x = uint32(token + s0)
    x = uint32(x ^ (x >> uint32(16)))
    x = uint32(x * uint32(0x7FEB352D))
    x = uint32(x ^ (x >> uint32(15)))
    x = uint32(x + s1)
    x = uint32(x * odd)
    x = uint32(x ^ (x >> uint32(16)))
    x = uint32(x * uint32(0x846CA68B))
    return uint32(x + s3)


@njit(cache=True, nogil=True)
def _state(window: Any, words: Any) -> Any:
    width = window.shape[0]
    v0, v1, v2, v3 = words[0], words[1], words[2], words[3]
    for start in range(0, width, 4):
        if start > 0:
            v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
        v0 = uint32(v0 ^ window[start])
        if start + 1 < width:
            v1 = uint32(v1 ^ window[start + 1])
        if start + 2 < width:
            v2 = uint32(v2 ^ window[start + 2])
        if start + 3 < width:
            v3 = uint32(v3 ^ window[start + 3])
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
    v0 = uint32(v0 ^ words[4])
    v1 = uint32(v1 ^ words[5])
    v2 = uint32(v2 ^ words[6])
    v3 = uint32(v3 ^ words[7] ^ uint32(width))
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
    return uint32(v0 ^ words[0]), uint32(v1 ^ words[1]), uint32(v2 ^ words[2]), uint32(v3 ^ words[3])


@njit(cache=True, nogil=True)
def _uniforms(windows: Any, tokens: Any, words: Any, drawn: Any) -> None:
    for i in range(tokens.shape[0]):
        s0, s1, s2, s3 = _state(windows[i], words)
        drawn[i] = _token(tokens[i], s0, s1, uint32(s2 | uint32(1)), s3)


@njit(cache=True, nogil=True)
def _tilt_rows(logits: Any, states: Any, below: Any, delta: Any, tilted: Any) -> None:
    for row in range(logits.shape[0]):
        s0, s1, s3 = states[row, 0], states[row, 1], states[row, 3]
        odd = uint32(states[row, 2] | uint32(1))
        for token in range(logits.shape[1]):
            green = _token(uint32(token), s0, s1, odd, s3) < below
            tilted[row, token] = logits[row, token] + (delta if green else np.float32(0))


@njit(cache=True, nogil=True)
def _absorb(window: Any, start: int, keys: Any, states: Any) -> None:
    """states (4, k) = rounds(states) ^ keys (4, k) ^ the block of the window at `start`; one vector loop."""
    width = window.shape[0]
    x0 = window[start] if start < width else uint32(0)
    x1 = window[start + 1] if start + 1 < width else uint32(0)
    x2 = window[start + 2] if start + 2 < width else uint32(0)
    x3 = window[start + 3] if start + 3 < width else uint32(0)
    for k in range(keys.shape[1]):
        v0, v1, v2, v3 = _rounds(states[0, k], states[1, k], states[2, k], states[3, k])
        states[0, k] = uint32(v0 ^ keys[0, k] ^ x0)
        states[1, k] = uint32(v1 ^ keys[1, k] ^ x1)
        states[2, k] = uint32(v2 ^ keys[2, k] ^ x2)
        states[3, k] = uint32(v3 ^ keys[3, k] ^ x3)


@njit(cache=True, nogil=True)
def _states_of_keys(window: Any, words: Any, none: Any, states: Any) -> None:
    """One window under many keys. words: (8, k); none: (4, k) zeros. states: (4, k), written; word 2 is made odd."""
    width = window.shape[0]
    for k in range(words.shape[1]):
        states[0, k] = uint32(words[0, k] ^ window[0])
        states[1, k] = uint32(words[1, k] ^ (window[1] if width > 1 else uint32(0)))
        states[2, k] = uint32(words[2, k] ^ (window[2] if width > 2 else uint32(0)))
        states[3, k] = uint32(words[3, k] ^ (window[3] if width > 3 else uint32(0)))
    for start in range(4, width, 4):
        _absorb(window, start, none, states)
    _absorb(window, width, words[4:], states)
    for k in range(words.shape[1]):
        states[3, k] = uint32(states[3, k] ^ uint32(width))
    _absorb(window, width, words[:4], states)
    for k in range(words.shape[1]):
        states[2, k] = uint32(states[2, k] | uint32(1))


@njit(cache=True, nogil=True)
def _totals(windows: Any, starts: Any, tokens: Any, weights: Any, words: Any, below: Any, sums: Any) -> None:
    """sums (S, k) int64 gain every cell's weights (n, S) where it is green under key k."""
    states, none = np.empty((4, words.shape[1]), np.uint32), np.zeros((4, words.shape[1]), np.uint32)
    green = np.empty(words.shape[1], dtype=np.int64)
    for w in range(windows.shape[0]):
        _states_of_keys(windows[w], words, none, states)
        for cell in range(starts[w], starts[w + 1]):
            token = tokens[cell]
            for k in range(words.shape[1]):
                drawn = _token(token, states[0, k], states[1, k], states[2, k], states[3, k])
                green[k] = np.int64(drawn < below)
            for s in range(weights.shape[1]):
                weight = np.int64(weights[cell, s])
                if weight != 0:
                    for k in range(words.shape[1]):
                        sums[s, k] += weight * green[k]


@njit(cache=True, nogil=True)
def _level_totals(
    windows: Any, starts: Any, tokens: Any, weights: Any, words: Any, high: Any, low: Any, sums: Any
) -> None:
    """As `_totals`, a cell's score under key k being high[first 16 bits] + low[last 16 bits] of its uniform."""
    states, none = np.empty((4, words.shape[1]), np.uint32), np.zeros((4, words.shape[1]), np.uint32)
    scores = np.empty(words.shape[1], dtype=np.int64)
    for w in range(windows.shape[0]):
        _states_of_keys(windows[w], words, none, states)
        for cell in range(starts[w], starts[w + 1]):
            token = tokens[cell]
            for k in range(words.shape[1]):
                drawn = _token(token, states[0, k], states[1, k], states[2, k], states[3, k])
                scores[k] = high[drawn >> uint32(16)] + low[drawn & uint32(0xFFFF)]
            for s in range(weights.shape[1]):
                weight = np.int64(weights[cell, s])
                if weight != 0:
                    for k in range(words.shape[1]):
                        sums[s, k] += weight * scores[k]


def uniforms(windows: ArrayLike, tokens: ArrayLike, words: U32) -> U32:
    """As `reference.uniforms`."""
    ids = np.ascontiguousarray(np.asarray(windows), dtype=np.uint32)
    choices = np.ascontiguousarray(np.asarray(tokens), dtype=np.uint32)
    drawn = np.empty(len(choices), dtype=np.uint32)
    _uniforms(ids, choices, words, drawn)
    return drawn


def tilt_rows(logits: NDArray[np.float32], states: U32, *, below: int, delta: float) -> NDArray[np.float32]:
    """logits (b, V) float32 plus delta wherever the row's uniform is under `below`; a new array."""
    tilted = np.empty(logits.shape, dtype=np.float32)
    _tilt_rows(logits, states, np.uint32(below), np.float32(delta), tilted)
    return tilted


def totals(
    windows: U32, starts: NDArray[np.int64], tokens: U32, weights: NDArray[np.int32], words: U32, *, below: int
) -> NDArray[np.int64]:
    """As `reference.totals`, over blocks of keys in as many threads as `threads()` says."""
    ids, choices, by_cell = np.ascontiguousarray(windows), np.ascontiguousarray(tokens), np.ascontiguousarray(weights.T)

    def add(some: U32, sums: NDArray[np.int64]) -> None:
        _totals(ids, starts, choices, by_cell, some, np.uint32(below), sums)

    return _by_blocks(add, words, len(weights))


def level_totals(
    windows: U32,
    starts: NDArray[np.int64],
    tokens: U32,
    weights: NDArray[np.int32],
    words: U32,
    *,
    high: NDArray[np.int64],
    low: NDArray[np.int64],
) -> NDArray[np.int64]:
    """As `totals`, of graded scores."""
    ids, choices, by_cell = np.ascontiguousarray(windows), np.ascontiguousarray(tokens), np.ascontiguousarray(weights.T)
    tables = high.astype(np.int32), low.astype(np.int32)

    def add(some: U32, sums: NDArray[np.int64]) -> None:
        _level_totals(ids, starts, choices, by_cell, some, *tables, sums)

    return _by_blocks(add, words, len(weights))


def _by_blocks(add: Callable[[U32, NDArray[np.int64]], None], words: U32, statistics: int) -> NDArray[np.int64]:
    """(m, S) from `add`, which adds up the sums (S, k) of a block of keys (8, k)."""
    found = np.empty((len(words), statistics), dtype=np.int64)

    def block(first: int) -> None:
        some = np.ascontiguousarray(words[first : first + _LANES].T)
        sums = np.zeros((statistics, some.shape[1]), dtype=np.int64)
        add(some, sums)
        found[first : first + _LANES] = sums.T

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(block, range(0, len(words), _LANES)))
    return found


def threads() -> int:
    """NUMBA_NUM_THREADS or OMP_NUM_THREADS where one is set, else the processors open to this process."""
    stated = os.environ.get("NUMBA_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return max(1, int(stated)) if stated.isdecimal() else len(os.sched_getaffinity(0))
