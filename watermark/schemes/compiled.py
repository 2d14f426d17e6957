"""Tilts of logits in numba, for generation on a CPU: rows (V,) of one token after another, as wide as vectors are.

What `watermark.prf.compiled` says of 32 bits holds here too. Chances are float32 where logits are, and what they add up
to is float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types, uint32
from numba.extending import intrinsic

from watermark.prf.compiled import token_of, wide_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]

_NOTHING: Any = np.float32(0)
_FAINT = np.float32(1e-20)  # chances below it count as none
_ABREAST = 256  # tokens of a row that are looked at together
_STEPS = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0])  # below the largest logit, where a band begins


@njit(cache=True, nogil=True)
def _tilt_rows(logits: Any, states: Any, below: Any, delta: Any, tilted: Any) -> None:
    wide_vectors()
    for row in range(logits.shape[0]):
        s0, s1, s3 = states[row, 0], states[row, 1], states[row, 3]
        odd = uint32(states[row, 2] | uint32(1))
        for token in range(logits.shape[1]):
            green = token_of(uint32(token), s0, s1, odd, s3) < below
            tilted[row, token] = logits[row, token] + (delta if green else np.float32(0))


@intrinsic
def _two_to(_typing: Any, _exponent: Any) -> Any:
    """2.0**n of a whole number n from -126 to 127, written into a float32's exponent."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        bits = builder.shl(builder.add(given[0], given[0].type(127)), given[0].type(23))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(inline="always")
def _exp(x: Any) -> Any:
    """e^x for x of at most 0, a float32's accuracy: 2^n by its bits, the rest by its series to the sixth.

    Below e^-46, 1e-20, it is 0: numbers that are nearly too small for 32 bits take a processor many times as long.
    """
    given, x = x, max(x * np.float32(1.4426950408889634), np.float32(-126))
    n = np.floor(x + np.float32(0.5))
    f = x - n
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1)
    return p * _two_to(np.int32(n)) if given > np.float32(-46) else _NOTHING


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _exp_sum(row: Any, top: Any) -> float:
    """The sum of e^(x - top), a float32's accuracy for each."""
    wide_vectors()
    whole = 0.0
    for first in range(0, row.shape[0], _ABREAST):
        part, here = row[first : first + _ABREAST], _NOTHING
        for i in range(part.shape[0]):
            here += _exp(part[i] - top)
        whole += here
    return whole


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _taught(row: Any, student: Any, top: Any, state: Any, below: Any, strength: Any, made: Any) -> None:
    """See `taught`: the chances are added up in one walk over the vocabulary, and used in a second one."""
    wide_vectors()
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    whole, green = 0.0, 0.0
    for first in range(0, row.shape[0], _ABREAST):
        part, here, there = student[first : first + _ABREAST], _NOTHING, _NOTHING
        for i in range(part.shape[0]):
            chance = _exp(part[i] - top)
            here += chance
            there += chance if token_of(uint32(first + i), s0, s1, odd, s3) < below else _NOTHING
        whole += here
        green += there
    scale, share = np.float32(strength / whole), np.float32(green / whole)
    for i in range(row.shape[0]):
        coin = np.float32(1) if token_of(uint32(i), s0, s1, odd, s3) < below else _NOTHING
        made[i] = row[i] + scale * _exp(student[i] - top) * (coin - share)


@njit(cache=True, nogil=True)
def _kept(row: Any, counts: Any, most: int) -> int:
    """counts: how many are not -inf of each _ABREAST; returns their sum, -1 once it is more than `most`."""
    wide_vectors()
    count = 0
    for block in range(counts.shape[0]):
        part, here = row[block * _ABREAST : (block + 1) * _ABREAST], uint32(0)
        for i in range(part.shape[0]):
            here = uint32(here + uint32(part[i] > -np.inf))
        counts[block] = here
        count += here
        if count > most:
            return -1
    return count


@njit(cache=True, nogil=True)
def _places(row: Any, counts: Any, places: Any) -> None:
    at = 0
    for block in range(counts.shape[0]):
        if counts[block]:
            for i in range(block * _ABREAST, min((block + 1) * _ABREAST, row.shape[0])):
                if row[i] > -np.inf:
                    places[at] = i
                    at += 1


@njit(cache=True, nogil=True)
def _contenders(row: Any, state: Any, top: Any, steps: Any, least: Any, most: Any, near: Any, drawn: Any) -> Any:
    """See `contenders`. steps: how far below the largest logit each of six bands begins."""
    wide_vectors()
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    known, count = float(top) + least[0], 0
    best = -np.inf
    slack = 1e-15 * abs(float(top))  # what sums of such size are rounded by
    edges, needed = np.empty(6, row.dtype), np.empty(6, np.uint32)
    for band in range(6):
        edges[band] = top - steps[band]
    abreast, flags = np.empty(_ABREAST, np.uint32), np.empty(_ABREAST, np.uint32)
    for first in range(0, row.shape[0], _ABREAST):
        part = row[first : first + _ABREAST]
        if known > best:
            best = known
            for band in range(6):
                needed[band] = np.searchsorted(most, best - float(edges[band]) - slack)
        e1, e2, e3, e4, e5 = edges[1], edges[2], edges[3], edges[4], edges[5]
        n0, n1, n2, n3, n4, n5 = needed[0], needed[1], needed[2], needed[3], needed[4], needed[5]
        here = uint32(0)
        for j in range(part.shape[0]):
            x, logit = token_of(uint32(first + j), s0, s1, odd, s3), part[j]
            need = n0
            need = n1 if logit < e1 else need
            need = n2 if logit < e2 else need
            need = n3 if logit < e3 else need
            need = n4 if logit < e4 else need
            need = n5 if logit < e5 else need
            abreast[j] = x
            flag = uint32(uint32(x >> uint32(20)) >= need)
            flags[j] = flag
            here = uint32(here + flag)
        if here:
            for j in range(part.shape[0]):
                place = abreast[j] >> uint32(20)
                if flags[j] and part[j] + most[place] >= known:
                    known = max(known, part[j] + least[place])
                    near[count], drawn[count] = first + j, abreast[j]
                    count += 1
    kept = 0
    for j in range(count):
        if row[near[j]] + most[drawn[j] >> uint32(20)] >= known:
            near[kept], drawn[kept] = near[j], drawn[j]
            kept += 1
    return kept


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _begun(row: Any, top: Any, state: Any, chances: Any, drawn: Any) -> float:
    """Chances by the largest logit and uniforms of a row; returns the sum of the former."""
    wide_vectors()
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    whole = 0.0
    for first in range(0, row.shape[0], _ABREAST):
        part, to, beside, here = row[first:], chances[first:], drawn[first:], _NOTHING
        for i in range(min(_ABREAST, part.shape[0])):
            chance = _exp(part[i] - top)
            to[i], beside[i] = chance, token_of(uint32(first + i), s0, s1, odd, s3)
            here += chance
        whole += here
    return whole


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _three(chances: Any, drawn: Any, before: Any, after: Any, factors: Any, sums: Any) -> None:
    """Multiplies chances by the factors (3, 2) of the coins at bits before, before - 1, before - 2; then adds up those
    with each choice of the bits after, after - 1, after - 2: sums (8,), at 4, 2 and 1 for these."""
    wide_vectors()
    z1, o1, z2, o2, z3, o3 = factors[0, 0], factors[0, 1], factors[1, 0], factors[1, 1], factors[2, 0], factors[2, 1]
    e1, e2, e3 = _bit(before), _bit(before - 1), _bit(before - 2)
    m1, m2, m3 = _bit(after), _bit(after - 1), _bit(after - 2)
    sums[:] = 0.0
    for first in range(0, chances.shape[0], _ABREAST):
        part, beside = chances[first:], drawn[first:]
        a0, a1, a2, a3 = _NOTHING, _NOTHING, _NOTHING, _NOTHING
        a4, a5, a6, a7 = _NOTHING, _NOTHING, _NOTHING, _NOTHING
        for i in range(min(_ABREAST, part.shape[0])):
            u = beside[i]
            p = part[i]
            p *= o1 if uint32(u & e1) else z1
            p *= o2 if uint32(u & e2) else z2
            p *= o3 if uint32(u & e3) else z3
            p = p if p > _FAINT else _NOTHING
            part[i] = p
            first_one = p if uint32(u & m1) else _NOTHING
            first_zero = _NOTHING if uint32(u & m1) else p
            q3 = first_one if uint32(u & m2) else _NOTHING
            q2 = _NOTHING if uint32(u & m2) else first_one
            q1 = first_zero if uint32(u & m2) else _NOTHING
            q0 = _NOTHING if uint32(u & m2) else first_zero
            a7 += q3 if uint32(u & m3) else _NOTHING
            a6 += _NOTHING if uint32(u & m3) else q3
            a5 += q2 if uint32(u & m3) else _NOTHING
            a4 += _NOTHING if uint32(u & m3) else q2
            a3 += q1 if uint32(u & m3) else _NOTHING
            a2 += _NOTHING if uint32(u & m3) else q1
            a1 += q0 if uint32(u & m3) else _NOTHING
            a0 += _NOTHING if uint32(u & m3) else q0
        sums[0] += a0
        sums[1] += a1
        sums[2] += a2
        sums[3] += a3
        sums[4] += a4
        sums[5] += a5
        sums[6] += a6
        sums[7] += a7


@njit(inline="always")
def _bit(place: Any) -> Any:
    return uint32(uint32(1) << uint32(place))


@njit(cache=True, nogil=True)
def _shares(sums: Any, factors: Any, gains: Any) -> None:
    """What either coin multiplies a chance with in as many layers as gains (3, 2) has, and its logarithm.

    sums: of chances by their three coins. 1 - Σ p g is taken as the chances of zeros, which loses no digits where one
    token has nearly all. No factor is below 1e-6, which moves no more than 1e-12 of the chances.
    """
    factors[:] = 1.0
    for layer in range(gains.shape[0]):
        zeros, whole = 0.0, 0.0
        for at in range(8):
            whole += sums[at]
            if not at & (4 >> layer):
                zeros += sums[at]
        share = zeros / whole
        gains[layer, 0], gains[layer, 1] = math.log(max(share, 1e-38)), math.log(1.0 + share)
        factors[layer, 0], factors[layer, 1] = max(share, 1e-6), 1.0 + share
        for at in range(8):
            sums[at] *= factors[layer, 1 if at & (4 >> layer) else 0]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _gained(row: Any, drawn: Any, gains: Any) -> None:
    """Adds the gain of each of its coins to a row, gains (m, 2) of m layers, m a multiple of 6."""
    wide_vectors()
    for first in range(0, row.shape[0], _ABREAST):
        part, beside = row[first:], drawn[first:]
        for layer in range(0, gains.shape[0], 6):
            g, place = gains[layer : layer + 6], 31 - layer
            z1, o1, z2, o2, z3, o3 = g[0, 0], g[0, 1], g[1, 0], g[1, 1], g[2, 0], g[2, 1]
            z4, o4, z5, o5, z6, o6 = g[3, 0], g[3, 1], g[4, 0], g[4, 1], g[5, 0], g[5, 1]
            e1, e2, e3 = _bit(place), _bit(place - 1), _bit(place - 2)
            e4, e5, e6 = _bit(place - 3), _bit(place - 4), _bit(place - 5)
            for i in range(min(_ABREAST, part.shape[0])):
                u = beside[i]
                some = (o1 if uint32(u & e1) else z1) + (o2 if uint32(u & e2) else z2)
                some += (o3 if uint32(u & e3) else z3) + (o4 if uint32(u & e4) else z4)
                some += (o5 if uint32(u & e5) else z5) + (o6 if uint32(u & e6) else z6)
                part[i] += some


@njit(cache=True, nogil=True)
def _layered(chances: Any, drawn: Any, depth: int) -> None:
    for layer in range(depth):
        shift, share = uint32(31 - layer), 0.0
        for i in range(chances.shape[0]):
            if (drawn[i] >> shift) & uint32(1):
                share += chances[i]
        for i in range(chances.shape[0]):
            coin = float((drawn[i] >> shift) & uint32(1))
            chances[i] = max(chances[i] * (1.0 + coin - share), 0.0)


def tilt_rows(logits: NDArray[np.float32], states: U32, *, below: int, delta: float) -> NDArray[np.float32]:
    """logits (b, V) float32 plus delta wherever the row's uniform is under `below`; a new array."""
    tilted = np.empty(logits.shape, dtype=np.float32)
    _tilt_rows(logits, states, np.uint32(below), np.float32(delta), tilted)
    return tilted


def kept(row: NDArray[Any], most: int) -> NDArray[np.int64] | None:
    """The places of a row (k,) that are not -inf, ascending; None if there are more than `most`."""
    counts = np.empty(-(-len(row) // _ABREAST), dtype=np.uint32)
    count = _kept(row, counts, most)
    if count < 0:
        return None
    places = np.empty(count, dtype=np.int64)
    _places(row, counts, places)
    return places


def exp_sum(row: NDArray[np.float32], top: np.float32) -> float:
    """Σ e^(x - top) of a row (k,), none of it above top; right to a few in 10^7."""
    return float(_exp_sum(row, top))


def taught(
    row: NDArray[np.float32],
    student: NDArray[np.float32],
    state: U32,
    below: int,
    strength: float,
    made: NDArray[np.float32],
) -> None:
    """Writes a row (V,) with strength p (1[green] - p(green)) more, p the chances of a student's, to made (V,)."""
    _taught(row, student, student.max(), state, np.uint32(below), strength, made)


def contenders(
    row: NDArray[Any], state: U32, top: Any, least: NDArray[np.float64], most: NDArray[np.float64]
) -> tuple[NDArray[np.int64], U32]:
    """Which of `row` (k,) can be the largest once something is added that the uniforms of a state (4,) decide.

    top: the largest of the row. least, most: (4096,) bounds of what is added, by a uniform's first 12 bits, both
    ascending. Returns the places, ascending, and their uniforms. Whoever is left out is below what another reaches at
    least, so that the largest sum, and the first of equal ones, is among them. Tokens far below the largest logit need
    so large a uniform that comparing its first bits with one number for each band of logits leaves hardly any.
    """
    near, drawn = np.empty(len(row), dtype=np.int64), np.empty(len(row), dtype=np.uint32)
    count = _contenders(row, np.ascontiguousarray(state), top, _STEPS, least, most, near, drawn)
    return near[:count], drawn[:count]


def tournament(row: NDArray[np.float32], state: U32, depth: int, lent: NDArray[np.float64]) -> None:
    """A row (V,) of logits after `depth` layers, in place: three layers in each walk over the vocabulary.

    Chances are float32, and those below 1e-20 are left out of the sums, which are float64; every logit gains what its
    coins say. lent: (V,), room to work in.
    """
    chances, drawn = lent.view(np.float32)[: len(row)], lent.view(np.uint32)[len(row) : 2 * len(row)]
    factors, sums = np.ones((3, 2), dtype=np.float32), np.empty(8)
    factors[0] = 1 / _begun(row, row.max(), state, chances, drawn)
    gains = np.zeros((-(-depth // 6) * 6, 2), dtype=np.float32)
    for done in range(0, depth, 3):
        _three(chances, drawn, min(31, 34 - done), 31 - done, factors, sums)
        _shares(sums, factors, gains[done : min(done + 3, depth)])
    _gained(row, drawn, gains)


def layered(chances: NDArray[np.float64], drawn: U32, depth: int) -> None:
    """A tournament's layers over chances (k,), in place: p <- p (1 + g_l - sum of p g_l)."""
    _layered(chances, drawn, depth)
