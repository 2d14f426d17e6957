"""Permuted lists in numba: the same lists as `permuted`, without building one where a few tokens are asked for.

A token is in the list if one of its first draws moves it there, so that following one token takes comparisons
alone; only where many tokens share a seed is the permutation carried out.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import float32, int32, njit, uint32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]

_MANY = 64  # tokens of one seed from which on carrying the permutation out is cheaper than following each
_BLOCK = 512
_LEAST = 800  # a quotient's error is below 2^32 / left * 3 / 2^24 + 1 / left, so below one


@njit(inline="always")
def _mixed(this: Any, following: Any) -> Any:
    word = uint32((this & uint32(0x80000000)) | (following & uint32(0x7FFFFFFF)))
    return uint32((word >> uint32(1)) ^ (uint32(0x9908B0DF) * (word & uint32(1))))


@njit(inline="always")
def _tempered(word: Any) -> Any:
    word = uint32(word ^ (word >> uint32(11)))
    word = uint32(word ^ (uint32(word << uint32(7)) & uint32(0x9D2C5680)))
    word = uint32(word ^ (uint32(word << uint32(15)) & uint32(0xEFC60000)))
    return uint32(word ^ (word >> uint32(18)))


@njit(cache=True, nogil=True)
def _seed(state: Any, seed: Any) -> None:
    word = uint32(seed)
    state[0] = word
    for k in range(1, 624):
        word = uint32(uint32(1812433253) * uint32(word ^ (word >> uint32(30))) + uint32(k))
        state[k] = word


@njit(cache=True, nogil=True)
def _twist(state: Any) -> None:
    for k in range(227):
        state[k] = uint32(state[k + 397] ^ _mixed(state[k], state[k + 1]))
    for k in range(227, 623):
        state[k] = uint32(state[k - 227] ^ _mixed(state[k], state[k + 1]))
    state[623] = uint32(state[396] ^ _mixed(state[623], state[0]))


@njit(inline="always")
def _remainder(drawn: Any, left: Any, twofold: Any) -> Any:
    """drawn mod left by way of a quotient in single precision, at most one off; twofold: 2 / left."""
    quotient = uint32(int32(float32(int32(drawn >> uint32(1))) * twofold))
    rest = int32(uint32(drawn - uint32(quotient * uint32(left))))
    rest = int32(rest + (left & int32(rest >> int32(31))))
    rest = int32(rest - left)
    return int32(rest + (left & int32(rest >> int32(31))))


@njit(cache=True, nogil=True)
def _draw(state: Any, left: Any, twofold: Any, places: Any) -> None:
    """places (size,): where step i of the shuffle finds the element that it moves to i. left: V - i.

    twofold: 2 / left in single precision, or empty where left falls so low that a quotient could be off by more.
    Loops run over slices, for these alone are turned into vector code.
    """
    for start in range(0, places.shape[0], 624):
        _twist(state)
        part, lefts = places[start : start + 624], left[start : start + 624]
        if twofold.shape[0]:
            twofolds = twofold[start : start + 624]
            for k in range(part.shape[0]):
                part[k] = int32(int32(start + k) + _remainder(_tempered(state[k]), lefts[k], twofolds[k]))
        else:
            for k in range(part.shape[0]):
                part[k] = int32(start + k) + int32(_tempered(state[k]) % uint32(lefts[k]))


@njit(cache=True, nogil=True)
def _any(places: Any, start: int, stop: int, at: Any) -> bool:
    for block in range(start, stop, _BLOCK):
        part, found = places[block : min(block + _BLOCK, stop)], False
        for k in range(part.shape[0]):
            found |= part[k] == at
        if found:
            return True
    return False


@njit(cache=True, nogil=True)
def _holds(places: Any, token: Any) -> bool:
    """Follows one token: it stays where it is until a step draws it, or reaches it and swaps it away."""
    size, start, at = places.shape[0], 0, int32(token)
    while True:
        if _any(places, start, min(at, size), at):
            return True
        if at >= size:
            return False
        moved = places[at]
        if moved == at:
            return True
        start, at = at + 1, moved


@njit(cache=True, nogil=True)
def _shuffle(places: Any, order: Any) -> None:
    for i in range(order.shape[0]):
        order[i] = i
    for i in range(places.shape[0]):
        at = places[i]
        order[i], order[at] = order[at], order[i]


@njit(cache=True, nogil=True)
def _members(seeds: Any, starts: Any, tokens: Any, vocabulary: int, left: Any, twofold: Any, found: Any) -> None:
    state, places = np.empty(624, np.uint32), np.empty(left.shape[0], np.int32)
    order, green = np.empty(vocabulary, np.int32), np.zeros(vocabulary, np.uint8)
    for g in range(seeds.shape[0]):
        _seed(state, seeds[g])
        _draw(state, left, twofold, places)
        if starts[g + 1] - starts[g] < _MANY:
            for cell in range(starts[g], starts[g + 1]):
                found[cell] = _holds(places, tokens[cell])
        else:
            _shuffle(places, order)
            green[:] = 0
            for i in range(places.shape[0]):
                green[order[i]] = 1
            for cell in range(starts[g], starts[g + 1]):
                found[cell] = green[tokens[cell]] == 1


@njit(cache=True, nogil=True)
def _prefixes(seeds: Any, vocabulary: int, left: Any, twofold: Any, lists: Any) -> None:
    state, places = np.empty(624, np.uint32), np.empty(left.shape[0], np.int32)
    order = np.empty(vocabulary, np.int32)
    for g in range(seeds.shape[0]):
        _seed(state, seeds[g])
        _draw(state, left, twofold, places)
        _shuffle(places, order)
        lists[g] = order[: places.shape[0]]


def members(seeds: U32, starts: NDArray[np.int64], tokens: U32, *, vocabulary: int, size: int) -> NDArray[np.bool_]:
    """As `permuted.members`."""
    found = np.empty(len(tokens), dtype=np.bool_)
    _members(seeds, starts, tokens, vocabulary, *_divisors(vocabulary, size), found)
    return found


def prefixes(seeds: U32, *, vocabulary: int, size: int) -> NDArray[np.int32]:
    """As `permuted.prefixes`."""
    lists = np.empty((len(seeds), size), dtype=np.int32)
    _prefixes(seeds, vocabulary, *_divisors(vocabulary, size), lists)
    return lists


def _divisors(vocabulary: int, size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """V - i for each step, and its inverse twofold in single precision if all of them are at least _LEAST."""
    left = np.arange(vocabulary, vocabulary - size, -1, dtype=np.int32)
    return left, (2 / left if left[-1] >= _LEAST else np.empty(0)).astype(np.float32)
