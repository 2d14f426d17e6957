"""The engines' keyed functions in numba: the same integers as the numpy text of `vllm`, `sglang` and `synthid`."""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, uint32, uint64

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]


def philox_words(windows: U32, tokens: U32, key: int) -> U64:
    """Each cell's 32-bit word under a 64-bit key, as `vllm.words_of`. windows: (n, h); tokens: (n,). Returns (n,)."""
    found = np.empty(len(tokens), dtype=np.uint64)
    _philox_words(np.ascontiguousarray(windows), np.ascontiguousarray(tokens), key & 0xFFFFFFFF, key >> 32, found)
    return found


def murmur_words(hashes: U32, tokens: U32, key: int) -> U32:
    """The word of each token after windows of these hashes, as `sglang.token_words`. Both (n,). Returns (n,)."""
    found = np.empty(len(tokens), dtype=np.uint32)
    _murmur_words(np.ascontiguousarray(hashes), np.ascontiguousarray(tokens), key & 0xFFFFFFFF, key >> 32, found)
    return found


def iterated_ones(sums: U64, words: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ones among the layers, the first layer's bit) of each sum (n,), as `synthid.iterated_layers`."""
    ones, first = np.empty(len(sums), dtype=np.int64), np.empty(len(sums), dtype=np.int64)
    _iterated_ones(sums, words, ones, first)
    return ones, first


@njit(inline="always")
def _philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    for _ in range(10):
        left, right = uint64(c0) * uint64(0xD2511F53), uint64(c2) * uint64(0xCD9E8D57)
        c0, c2 = uint32(uint32(right >> uint64(32)) ^ c1 ^ k0), uint32(uint32(left >> uint64(32)) ^ c3 ^ k1)
        c1, c3 = uint32(right), uint32(left)
        k0, k1 = uint32(k0 + uint32(0x9E3779B9)), uint32(k1 + uint32(0xBB67AE85))
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _philox_words(windows: Any, tokens: Any, low: Any, high: Any, found: Any) -> None:
    k0, k1, width = uint32(low), uint32(high), windows.shape[1]
    block = np.empty(4, dtype=np.uint32)
    for cell in range(windows.shape[0]):
        s0, s1, s2, s3 = uint32(0x574D4358), uint32(width), uint32(0), uint32(0)
        for start in range(0, width, 4):
            for slot in range(4):
                at = start + slot
                block[slot] = windows[cell, at] if at < width else uint32(0xFFFFFFFF - slot)
            s0, s1, s2, s3 = _philox(
                uint32(s0 ^ block[0]),
                uint32(s1 ^ block[1]),
                uint32(s2 ^ block[2]),
                uint32(s3 ^ block[3]),
                uint32(k0 ^ uint32(start)),
                k1,
            )
        token = tokens[cell]
        drawn = _philox(uint32(token >> uint32(2)), s0, s1, s2, uint32(k0 ^ s3), uint32(k1 ^ uint32(0x574D544B)))
        found[cell] = drawn[token & uint32(3)]


@njit(inline="always")
def _rotate(x: Any, by: Any) -> Any:
    return uint32((x << uint32(by)) | (x >> uint32(32 - by)))


@njit(inline="always")
def _mix(state: Any, word: Any) -> Any:
    word = uint32(_rotate(uint32(word * uint32(0xCC9E2D51)), 15) * uint32(0x1B873593))
    return uint32(_rotate(uint32(state ^ word), 13) * uint32(5) + uint32(0xE6546B64))


@njit(cache=True, nogil=True)
def _murmur_words(hashes: Any, tokens: Any, low: Any, high: Any, found: Any) -> None:
    keyed = _mix(_mix(uint32(0), uint32(low)), uint32(high))
    for cell in range(tokens.shape[0]):
        x = uint32(_mix(_mix(keyed, hashes[cell]), tokens[cell]) ^ uint32(16))
        x = uint32((x ^ (x >> uint32(16))) * uint32(0x85EBCA6B))
        x = uint32((x ^ (x >> uint32(13))) * uint32(0xC2B2AE35))
        found[cell] = uint32(x ^ (x >> uint32(16)))


@njit(cache=True, nogil=True)
def _iterated_ones(sums: Any, words: Any, ones: Any, first: Any) -> None:
    factor, kept = uint64(6364136223846793005), uint64(0xF800000000000000)
    for cell in range(sums.shape[0]):
        total = 0
        for layer in range(words.shape[0]):
            x = uint64((sums[cell] + words[layer]) * factor + uint64(1))
            for _ in range(12):
                x = uint64((x + uint64(1)) * factor + uint64(1))
                sign = kept if x >> uint64(63) else uint64(0)
                x = uint64((x >> uint64(5)) | sign)
            bit = int((x >> uint64(30)) & uint64(1))
            total += bit
            if layer == 0:
                first[cell] = bit
        ones[cell] = total
