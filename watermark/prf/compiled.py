"""The keyed function in numba: the same integers as `reference`, at the speed of memory.

`uniforms` and `green_total` serve detection, `tilt_rows` serves generation on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, uint32

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    U32 = NDArray[np.uint32]


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
