"""MurmurHash3 for 32-bit words, on numpy arrays: what SGLang's marks are drawn from.

MurmurHash3_x86_32 with seed 0 over whole words (Appleby, public domain, smhasher: MurmurHash3.cpp). `unhash_last` runs
it backwards: every step is a bijection of its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]

_C1, _C2 = 0xCC9E2D51, 0x1B873593
_ADDED = np.uint32(0xE6546B64)
_F1, _F2 = 0x85EBCA6B, 0xC2B2AE35


def murmur32(words: Sequence[Any]) -> U32:
    """The hash of each row: words are columns, (n,) uint32 each or one number for all rows. Returns (n,)."""
    return _finish(mixed(np.zeros(1, dtype=np.uint32), words), len(words))


def mixed(state: U32, words: Sequence[Any]) -> U32:
    """The state after more words."""
    for word in words:
        state = (
            _rotate(state ^ _scrambled(np.atleast_1d(np.asarray(word, dtype=np.uint32))), 13) * np.uint32(5) + _ADDED
        )
    return state


def unhash_last(hashes: U32, before: Sequence[Any]) -> U32:
    """The one last word with which rows that begin with `before` have these hashes. Returns (n,)."""
    state = _unfinish(hashes, len(before) + 1)
    scrambled = _rotate((state - _ADDED) * _inverse(5), 19) ^ mixed(np.zeros(1, dtype=np.uint32), before)
    return _rotate(scrambled * _inverse(_C2), 17) * _inverse(_C1)


def _scrambled(word: U32) -> U32:
    return _rotate(word * np.uint32(_C1), 15) * np.uint32(_C2)


def _finish(state: U32, words: int) -> U32:
    x = state ^ np.uint32(4 * words)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(_F1)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(_F2)
    return x ^ (x >> np.uint32(16))


def _unfinish(x: U32, words: int) -> U32:
    x = (x ^ (x >> np.uint32(16))) * _inverse(_F2)
    x = (x ^ (x >> np.uint32(13)) ^ (x >> np.uint32(26))) * _inverse(_F1)
    return x ^ (x >> np.uint32(16)) ^ np.uint32(4 * words)


def _rotate(x: U32, by: int) -> U32:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


def _inverse(odd: int) -> np.uint32:
    return np.uint32(pow(odd, -1, 2**32))
