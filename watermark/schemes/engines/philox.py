"""Philox4x32-10 on numpy arrays: the counter-based generator that vLLM's marks are drawn from.

Salmon, Moraes, Dror, Shaw 2011 (doi 10.1145/2063384.2063405), section 3.3 and table 2. Words are 32-bit values held in
uint64 arrays, so that a product of two needs no splitting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U64 = NDArray[np.uint64]
    Words = tuple[U64, U64, U64, U64]

MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def philox10(counter: Words, key: tuple[U64, U64]) -> Words:
    """Four 32-bit words for each counter under its key; arrays of any one shape, broadcast where they differ."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = c0 * _FACTORS[0], c2 * _FACTORS[1]
        c0, c1, c2, c3 = (right >> _HALF) ^ c1 ^ k0, right & MASK, (left >> _HALF) ^ c3 ^ k1, left & MASK
        k0, k1 = (k0 + np.uint64(_STEPS[0])) & MASK, (k1 + np.uint64(_STEPS[1])) & MASK
    return c0, c1, c2, c3


def halves(value: int) -> tuple[U64, U64]:
    """(low, high) 32 bits of an unsigned 64-bit integer, as arrays without axes."""
    return np.asarray(value & 0xFFFFFFFF, dtype=np.uint64), np.asarray(value >> 32, dtype=np.uint64)
