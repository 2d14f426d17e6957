"""The keyed function in numba: the same integers as `reference`, at the speed of the processor.

Lanes are keys where there are many and cells where there are few; every loop over them is plain, for LLVM to turn into
vectors. Numba widens an operation on two 32-bit integers to 64 bits, which halves the lanes: hence the `uint32(...)`
around each. Tilts of logits are in `watermark.schemes.compiled`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types, uint32
from numba.extending import intrinsic

from watermark.prf import reference
from watermark.prf.reference import threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    U32 = NDArray[np.uint32]

_LANES = 64  # keys worked on side by side: their states stay in the processor's first cache
_VECTOR = 16  # 32-bit lanes of the widest vectors; blocks of keys are filled up to a multiple
_CELLS = 256  # cells worked on side by side where keys are few
_FEW = 32  # keys; for fewer, putting equal windows together costs more than it saves
_LEAST = 64  # cells whose weights have to fit into 32 bits together; larger weights are cut in two


@intrinsic
def wide_vectors(_typing: Any) -> Any:
    """Asks LLVM for vectors of 512 bits in the function that calls this, where the processor has them.

    By itself LLVM keeps to 256 bits on many such processors, for their clock's sake; here the wider ones do 1.4 times
    as much. The attribute is that of clang's -mprefer-vector-width; llvmlite has no name for it.
    """

    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), generate


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
def _last_rounds(v0: Any, v1: Any, v2: Any, v3: Any, words: Any, k: Any, width: Any) -> Any:
    """From the last block of a window to its state under key k of words (8, k); word 2 is made odd."""
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
    v0, v1 = uint32(v0 ^ words[4, k]), uint32(v1 ^ words[5, k])
    v2, v3 = uint32(v2 ^ words[6, k]), uint32(v3 ^ uint32(words[7, k] ^ width))
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
    v0, v1 = uint32(v0 ^ words[0, k]), uint32(v1 ^ words[1, k])
    v2, v3 = uint32(v2 ^ words[2, k]), uint32(v3 ^ words[3, k])
    return v0, v1, uint32(v2 | uint32(1)), v3


@njit(inline="always")
def token_of(token: Any, s0: Any, s1: Any, odd: Any, s3: Any) -> Any:
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
def _uniforms(windows: Any, tokens: Any, words: Any, drawn: Any) -> None:
    """drawn (n,) of cells side by side. windows: (n, h); words: (8, 1)."""
    wide_vectors()
    width = windows.shape[1]
    held = np.empty((4, _CELLS), np.uint32)
    for first in range(0, tokens.shape[0], _CELLS):
        count = min(_CELLS, tokens.shape[0] - first)
        for j in range(4):
            for i in range(count):
                held[j, i] = words[j, 0]
        for at in range(width):
            if at > 0 and at % 4 == 0:
                for i in range(count):
                    v0, v1, v2, v3 = _rounds(held[0, i], held[1, i], held[2, i], held[3, i])
                    held[0, i], held[1, i], held[2, i], held[3, i] = v0, v1, v2, v3
            for i in range(count):
                held[at % 4, i] = uint32(held[at % 4, i] ^ windows[first + i, at])
        for i in range(count):
            v0, v1, v2, v3 = held[0, i], held[1, i], held[2, i], held[3, i]
            s0, s1, odd, s3 = _last_rounds(v0, v1, v2, v3, words, 0, uint32(width))
            drawn[first + i] = token_of(tokens[first + i], s0, s1, odd, s3)


@njit(cache=True, nogil=True)
def _window_states(windows: Any, words: Any, states: Any) -> None:
    """states (n, 4) of windows (n, h), each as a token is hashed after it: word 2 as it is. words: (8, 1)."""
    width = windows.shape[1]
    for i in range(windows.shape[0]):
        held = np.zeros(4, np.uint32)
        for j in range(4):
            held[j] = words[j, 0]
        for at in range(width):
            if at > 0 and at % 4 == 0:
                held[0], held[1], held[2], held[3] = _rounds(held[0], held[1], held[2], held[3])
            held[at % 4] = uint32(held[at % 4] ^ windows[i, at])
        v0, v1, v2, v3 = _rounds(held[0], held[1], held[2], held[3])
        v0, v1 = uint32(v0 ^ words[4, 0]), uint32(v1 ^ words[5, 0])
        v2, v3 = uint32(v2 ^ words[6, 0]), uint32(v3 ^ uint32(words[7, 0] ^ uint32(width)))
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
        states[i, 0], states[i, 1] = uint32(v0 ^ words[0, 0]), uint32(v1 ^ words[1, 0])
        states[i, 2], states[i, 3] = uint32(v2 ^ words[2, 0]), uint32(v3 ^ words[3, 0])


@njit(cache=True, nogil=True)
def _uniform_rows(states: Any, rows: Any) -> None:
    wide_vectors()
    for row in range(rows.shape[0]):
        s0, s1, s3 = states[row, 0], states[row, 1], states[row, 3]
        odd = uint32(states[row, 2] | uint32(1))
        for token in range(rows.shape[1]):
            rows[row, token] = token_of(uint32(token), s0, s1, odd, s3)


@njit(cache=True, nogil=True)
def _some_uniforms(state: Any, tokens: Any, drawn: Any) -> None:
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    for i in range(tokens.shape[0]):
        drawn[i] = token_of(uint32(tokens[i]), s0, s1, odd, s3)


@njit(inline="always")
def _states_of_keys(window: Any, width: Any, words: Any, token: Any, states: Any, drawn: Any) -> None:
    """One window (4 b,), filled up with zeros, under keys side by side: words (8, k) to states (4, k).

    drawn: (k,) uniforms of the first token after it, which most often is the only one.
    """
    x0, x1, x2, x3 = window[0], window[1], window[2], window[3]
    if window.shape[0] == 4:
        for k in range(words.shape[1]):
            v0, v1 = uint32(words[0, k] ^ x0), uint32(words[1, k] ^ x1)
            v2, v3 = uint32(words[2, k] ^ x2), uint32(words[3, k] ^ x3)
            v0, v1, v2, v3 = _last_rounds(v0, v1, v2, v3, words, k, width)
            states[0, k], states[1, k], states[2, k], states[3, k] = v0, v1, v2, v3
            drawn[k] = token_of(token, v0, v1, v2, v3)
        return
    for k in range(words.shape[1]):
        states[0, k], states[1, k] = uint32(words[0, k] ^ x0), uint32(words[1, k] ^ x1)
        states[2, k], states[3, k] = uint32(words[2, k] ^ x2), uint32(words[3, k] ^ x3)
    for start in range(4, window.shape[0], 4):
        x0, x1, x2, x3 = window[start], window[start + 1], window[start + 2], window[start + 3]
        for k in range(words.shape[1]):
            v0, v1, v2, v3 = _rounds(states[0, k], states[1, k], states[2, k], states[3, k])
            states[0, k], states[1, k] = uint32(v0 ^ x0), uint32(v1 ^ x1)
            states[2, k], states[3, k] = uint32(v2 ^ x2), uint32(v3 ^ x3)
    for k in range(words.shape[1]):
        v0, v1, v2, v3 = _last_rounds(states[0, k], states[1, k], states[2, k], states[3, k], words, k, width)
        states[0, k], states[1, k], states[2, k], states[3, k] = v0, v1, v2, v3
        drawn[k] = token_of(token, v0, v1, v2, v3)


@njit(inline="always")
def _flush(part: Any, sums: Any) -> None:
    for s in range(part.shape[0]):
        for k in range(part.shape[1]):
            sums[s, k] += part[s, k]
            part[s, k] = 0


@njit(cache=True, nogil=True)
def _totals(
    windows: Any, width: Any, starts: Any, tokens: Any, weights: Any,
    words: Any, below: Any, high: Any, low: Any, every: Any, sums: Any,
) -> None:  # fmt: skip
    """sums (S, k) int64 gain every cell's weights (n, S) times its score under key k.

    windows: (w, 4 b); words: (8, k). high, low: tables of levels; without the first a score is the green bit, an empty
    second one counts for nothing. `every` so many cells 32-bit sums are carried over, before they could overflow.
    """
    wide_vectors()
    keys = words.shape[1]
    states, drawn = np.empty((4, keys), np.uint32), np.empty(keys, np.uint32)
    scores, part = np.empty(keys, np.int32), np.zeros((weights.shape[1], keys), np.int32)
    left = every
    for w in range(windows.shape[0]):
        _states_of_keys(windows[w], width, words, tokens[starts[w]], states, drawn)
        for cell in range(starts[w], starts[w + 1]):
            if cell > starts[w]:
                token = tokens[cell]
                for k in range(keys):
                    drawn[k] = token_of(token, states[0, k], states[1, k], states[2, k], states[3, k])
            if high.shape[0] == 0:
                for k in range(keys):
                    scores[k] = np.int32(drawn[k] < below)
            elif low.shape[0] == 0:
                for k in range(keys):
                    scores[k] = np.int32(high[drawn[k] >> uint32(16)])
            else:
                for k in range(keys):
                    scores[k] = np.int32(high[drawn[k] >> uint32(16)]) + np.int32(low[drawn[k] & uint32(0xFFFF)])
            for s in range(weights.shape[1]):
                weight = weights[cell, s]
                if weight != 0:
                    for k in range(keys):
                        part[s, k] += weight * scores[k]
            left -= 1
            if left == 0:
                _flush(part, sums)
                left = every
    _flush(part, sums)


@njit(cache=True, nogil=True)
def _weighed(drawn: Any, weights: Any, below: Any, high: Any, low: Any, sums: Any) -> None:
    """sums (S,) int64 gain weights (S, n) times the scores of uniforms drawn (n,); tables as of `_totals`."""
    wide_vectors()
    for s in range(weights.shape[0]):
        total = np.int64(0)
        if high.shape[0] == 0:
            for i in range(drawn.shape[0]):
                total += np.int64(weights[s, i]) if drawn[i] < below else np.int64(0)
        else:
            for i in range(drawn.shape[0]):
                level = np.int64(high[drawn[i] >> uint32(16)])
                if low.shape[0] > 0:
                    level += np.int64(low[drawn[i] & uint32(0xFFFF)])
                total += np.int64(weights[s, i]) * level
        sums[s] += total


def window_states(windows: ArrayLike, words: U32) -> U32:
    """As `reference.window_states`."""
    ids = np.ascontiguousarray(np.asarray(windows), dtype=np.uint32)
    states = np.empty((len(ids), 4), dtype=np.uint32)
    _window_states(ids, np.ascontiguousarray(words).reshape(8, 1), states)
    return states


def uniforms(windows: ArrayLike, tokens: ArrayLike, words: U32) -> U32:
    """As `reference.uniforms`."""
    ids = np.ascontiguousarray(np.asarray(windows), dtype=np.uint32)
    choices = np.ascontiguousarray(np.asarray(tokens), dtype=np.uint32)
    drawn = np.empty(len(choices), dtype=np.uint32)
    _uniforms(ids, choices, np.ascontiguousarray(words).reshape(8, 1), drawn)
    return drawn


def uniform_rows(states: U32, width: int) -> U32:
    """As `reference.uniform_rows`."""
    rows = np.empty((len(states), width), dtype=np.uint32)
    _uniform_rows(np.ascontiguousarray(states), rows)
    return rows


def row_uniforms(state: U32, tokens: NDArray[np.int64]) -> U32:
    """As `reference.row_uniforms`."""
    drawn = np.empty(len(tokens), dtype=np.uint32)
    _some_uniforms(state, tokens, drawn)
    return drawn


def totals(
    windows: U32, tokens: U32, weights: NDArray[np.int32], words: U32, counting: reference.Counting
) -> NDArray[np.int64]:
    """As `reference.totals`, over blocks of keys in as many threads as `threads()` says."""
    if not len(tokens):
        return np.zeros((len(words), len(weights)), dtype=np.int64)
    parts, every = _parts(weights, counting.most) if len(words) >= _FEW else (weights, 0)
    if not every:
        return _by_keys(windows, tokens, weights, words, counting)
    order, starts = reference.grouped(windows)
    ids, choices = _blocks(np.take(windows, order[starts[:-1]], axis=0)), tokens[order]
    by_cell, width = np.ascontiguousarray(np.take(parts, order, axis=1).T), np.uint32(windows.shape[1])
    found = np.empty((len(words), len(parts)), dtype=np.int64)
    lanes = _lanes(len(words))

    def block(first: int) -> None:
        some = words[first : first + lanes]
        filled = np.zeros((8, -(-len(some) // _VECTOR) * _VECTOR), dtype=np.uint32)
        filled[:, : len(some)] = some.T
        sums = np.zeros((len(parts), filled.shape[1]), dtype=np.int64)
        _totals(ids, width, starts, choices, by_cell, filled, *_counted(counting), every, sums)
        found[first : first + lanes] = sums[:, : len(some)].T

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(block, range(0, len(words), lanes)))
    if len(parts) == len(weights):
        return found
    return (found[:, : len(weights)] << 16) + found[:, len(weights) :]


def vector_bits() -> int:
    """The width of this processor's vectors."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return 512 if features.get("avx512f") else 256 if features.get("avx2") else 128


def _by_keys(
    windows: U32, tokens: U32, weights: NDArray[np.int32], words: U32, counting: reference.Counting
) -> NDArray[np.int64]:
    """The same for few keys, one after another: cells side by side, sums in 64 bits."""
    ids, choices, given = (np.ascontiguousarray(each) for each in (windows, tokens, weights))
    found = np.zeros((len(words), len(weights)), dtype=np.int64)

    def one(k: int) -> None:
        drawn = np.empty(len(choices), dtype=np.uint32)
        _uniforms(ids, choices, np.ascontiguousarray(words[k]).reshape(8, 1), drawn)
        _weighed(drawn, given, *_counted(counting), found[k])

    if len(words) == 1:  # starting a thread takes as long as thousands of cells
        one(0)
        return found
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(one, range(len(words))))
    return found


def _parts(weights: NDArray[np.int32], most: int) -> tuple[NDArray[np.int32], int]:
    """(parts, every): weights as they are, or their upper and lower 16 bits one after the other, (2 S, n).

    every: how many cells' weights times scores, of at most `most`, can be added up in 32 bits; 0 if none can.
    """
    every = (2**31 - 1) // (max(1, -int(weights.min()), int(weights.max())) * max(1, most))
    if every >= _LEAST:
        return weights, every
    return np.concatenate([weights >> 16, weights & 0xFFFF]), (2**31 - 1) // (2**16 * most)


def _lanes(keys: int) -> int:
    """Keys in a block: _LANES of them, or fewer for every thread to have some; a multiple of _VECTOR."""
    blocks = max(-(-keys // _LANES), min(threads(), -(-keys // _VECTOR)))
    return -(-keys // (blocks * _VECTOR)) * _VECTOR


def _blocks(windows: NDArray[Any]) -> U32:
    """Windows (n, h) filled up with zeros to whole blocks of four, (n, 4 b)."""
    count, width = windows.shape
    filled = np.zeros((count, -(-width // 4) * 4), dtype=np.uint32)
    filled[:, :width] = windows
    return filled


def _counted(counting: reference.Counting) -> tuple[np.uint32, NDArray[Any], NDArray[Any]]:
    """(below, high, low) as the kernels take them: small tables, for they are looked up at random."""
    low = counting.low if counting.low.any() else counting.low[:0]
    small = np.uint8 if counting.most < 256 else np.int32
    return np.uint32(counting.below), counting.high.astype(small), low.astype(small)
