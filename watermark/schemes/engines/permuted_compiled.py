"""Permuted lists in numba: the same lists as `permuted`, without building one where a few tokens are asked for.

A token is in the list if a draw of the shuffle meets it where it stands, so that it can be followed through the draws,
which end with the last token found. For one token alone no draw is divided: whether it has one remainder is whether a
difference is divisible, which takes a product with an inverse modulo 2^32 (Granlund and Montgomery 1994,
doi 10.1145/178243.178249, section 9). Where many tokens share a seed the permutation is carried out.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import float32, int32, int64, njit, uint32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]

_MANY = 48  # tokens of one seed from which on carrying the permutation out is cheaper than following each
_LEAST = 2000  # a quotient falls short by at most 2^32 / left * 7 / 2^24 + 1 / left, so by less than one
_SHORT = 1 - 2**-22  # more than three roundings in single precision can add


@njit(inline="always")
def _mixed(this: Any, following: Any) -> Any:
    word = uint32((this & uint32(0x80000000)) | (following & uint32(0x7FFFFFFF)))
    return uint32((word >> uint32(1)) ^ (uint32(0x9908B0DF) & uint32(uint32(0) - (following & uint32(1)))))


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
    """drawn mod left by way of a quotient in single precision, right or one too small; twofold: 2 / left, and less."""
    quotient = uint32(int32(float32(int32(drawn >> uint32(1))) * twofold))
    rest = uint32(drawn - uint32(quotient * uint32(left)))
    return min(rest, uint32(rest - uint32(left)))


@njit(cache=True, nogil=True)
def _draw(state: Any, left: Any, twofold: Any, first: int, places: Any) -> None:
    """places: where each step of the shuffle, from `first` on, finds the element that it moves to its own place.

    left: V - i. twofold: 2 / left in single precision, or empty where left falls so low that a quotient could be off by
    more. 624 steps at most, for as many words the state has. The loops are turned into vector code.
    """
    if twofold.shape[0]:
        for k in range(places.shape[0]):
            places[k] = int32(int32(first + k) + int32(_remainder(_tempered(state[k]), left[k], twofold[k])))
    else:
        for k in range(places.shape[0]):
            places[k] = int32(first + k) + int32(_tempered(state[k]) % uint32(left[k]))


@njit(cache=True, nogil=True)
def _meets(state: Any, left: Any, inverse: Any, most: Any, below: Any) -> bool:
    """Whether a step k of these draws the place that is `below` short of V: its draw + below is a multiple of left[k].

    The first loop asks for the odd part of left[k] alone, the second, seldom needed, for its powers of two as well, and
    that the draw is not below the remainder. Both are turned into vector code.
    """
    perhaps, found = False, False
    for k in range(state.shape[0]):
        perhaps |= uint32(uint32(_tempered(state[k]) + below) * inverse[k]) <= most[k]
    if not perhaps:
        return False
    for k in range(state.shape[0]):
        drawn, rest = _tempered(state[k]), uint32(uint32(left[k]) - below)
        beyond, twos = uint32(drawn - rest), uint32((left[k] & -left[k]) - 1)
        found |= (uint32(beyond * inverse[k]) <= most[k]) & ((beyond & twos) == 0) & (drawn >= rest)
    return found


@njit(cache=True, nogil=True)
def _holds(state: Any, left: Any, inverse: Any, most: Any, vocabulary: int, token: int) -> bool:
    """Follows one token: it stays where it is until a step draws it, or reaches it and swaps it away."""
    at = token
    for first in range(0, left.shape[0], 624):
        _twist(state)
        last = min(first + 624, left.shape[0])
        step = first
        while step < last:
            own = min(at, last)
            inside = state[step - first : own - first]
            if _meets(inside, left[step:own], inverse[step:own], most[step:own], uint32(vocabulary - at)):
                return True
            if own == last:
                break
            moved = at + int64(_tempered(state[own - first]) % uint32(left[own]))
            if moved == at:
                return True
            step, at = own + 1, moved
    return False


@njit(cache=True, nogil=True)
def _any(places: Any, at: Any) -> bool:
    found = False
    for k in range(places.shape[0]):
        found |= places[k] == at
    return found


@njit(cache=True, nogil=True)
def _moved(places: Any, first: int, at: int) -> int:
    """Where a token that stands at `at` is after the steps from `first` on; -1 once it has come into the list."""
    k, steps = 0, places.shape[0]
    while True:
        own = min(at - first, steps)
        if _any(places[k:own], int32(at)):
            return -1
        if own == steps:
            return at
        moved = int(places[own])
        if moved == at:
            return -1
        k, at = own + 1, moved


@njit(cache=True, nogil=True)
def _follow(state: Any, left: Any, twofold: Any, places: Any, stands: Any) -> None:
    """Follows all tokens of one seed. stands (k,): where they are, and at the end -1 for those in the list."""
    missing = True
    for first in range(0, left.shape[0], 624):
        if not missing:
            return
        _twist(state)
        last, missing = min(first + 624, left.shape[0]), False
        part = places[: last - first]
        _draw(state, left[first:last], twofold[first:last], first, part)
        for j in range(stands.shape[0]):
            if stands[j] >= 0:
                stands[j] = _moved(part, first, stands[j])
                missing |= stands[j] >= 0


@njit(cache=True, nogil=True)
def _shuffle(state: Any, left: Any, twofold: Any, places: Any, order: Any) -> None:
    """Carries all steps out. order (V,): the permutation, as far as there are steps."""
    for i in range(order.shape[0]):
        order[i] = i
    for first in range(0, left.shape[0], 624):
        _twist(state)
        last = min(first + 624, left.shape[0])
        part = places[: last - first]
        _draw(state, left[first:last], twofold[first:last], first, part)
        for k in range(part.shape[0]):
            order[first + k], order[part[k]] = order[part[k]], order[first + k]


@njit(cache=True, nogil=True)
def _members(
    seeds: Any, starts: Any, tokens: Any, vocabulary: int, left: Any, twofold: Any, inverse: Any, most: Any, found: Any
) -> None:
    state, places, stands = np.empty(624, np.uint32), np.empty(624, np.int32), np.empty(_MANY, np.int64)
    order, green = np.empty(vocabulary, np.int32), np.zeros(vocabulary, np.uint8)
    for g in range(seeds.shape[0]):
        _seed(state, seeds[g])
        start, asked = starts[g], starts[g + 1] - starts[g]
        if asked == 1:
            found[start] = _holds(state, left, inverse, most, vocabulary, int64(tokens[start]))
            continue
        if asked < _MANY:
            stands[:asked] = tokens[start : start + asked]
            _follow(state, left, twofold, places, stands[:asked])
            found[start : start + asked] = stands[:asked] < 0
            continue
        _shuffle(state, left, twofold, places, order)
        green[:] = 0
        for i in range(left.shape[0]):
            green[order[i]] = 1
        for cell in range(start, start + asked):
            found[cell] = green[tokens[cell]] == 1


@njit(cache=True, nogil=True)
def _prefixes(seeds: Any, vocabulary: int, left: Any, twofold: Any, lists: Any) -> None:
    state, places, order = np.empty(624, np.uint32), np.empty(624, np.int32), np.empty(vocabulary, np.int32)
    for g in range(seeds.shape[0]):
        _seed(state, seeds[g])
        _shuffle(state, left, twofold, places, order)
        lists[g] = order[: left.shape[0]]


def members(seeds: U32, starts: NDArray[np.int64], tokens: U32, *, vocabulary: int, size: int) -> NDArray[np.bool_]:
    """As `permuted.members`."""
    found = np.empty(len(tokens), dtype=np.bool_)
    _members(seeds, starts, tokens, vocabulary, *_divisors(vocabulary, size), *_inverses(vocabulary, size), found)
    return found


def prefixes(seeds: U32, *, vocabulary: int, size: int) -> NDArray[np.int32]:
    """As `permuted.prefixes`."""
    lists = np.empty((len(seeds), size), dtype=np.int32)
    _prefixes(seeds, vocabulary, *_divisors(vocabulary, size), lists)
    return lists


@lru_cache(maxsize=4)
def _divisors(vocabulary: int, size: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """V - i for each step, and its inverse twofold in single precision if all of them are at least _LEAST."""
    left = np.arange(vocabulary, vocabulary - size, -1, dtype=np.int32)
    return left, (2 * _SHORT / left if left[-1] >= _LEAST else np.empty(0)).astype(np.float32)


@lru_cache(maxsize=4)
def _inverses(vocabulary: int, size: int) -> tuple[U32, U32]:
    """Of each V - i its odd part's inverse modulo 2^32, and the largest product with it of a multiple of 32 bits.

    A draw + below is one V - i more than the draw less its remainder, hence the power of two on top.
    """
    left = np.arange(vocabulary, vocabulary - size, -1, dtype=np.uint32)
    twos = left & -left
    odd = left // twos
    inverse = odd.copy()  # right to three bits, and each step doubles them
    for _ in range(4):
        inverse *= np.uint32(2) - odd * inverse
    most = (2**32 - 1) // odd.astype(np.uint64) + twos
    return inverse, np.minimum(most, 2**32 - 1).astype(np.uint32)
