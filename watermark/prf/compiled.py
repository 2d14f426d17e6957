"""The keyed function in numba: the same integers as `reference`, at the speed of the processor.

`uniforms` and `totals` serve detection, `tilt_rows` serves generation on a CPU. Lanes are keys where there are many and
cells where there are few; every loop over them is plain, for LLVM to turn into vectors. Numba widens an operation on
two 32-bit integers to 64 bits, which halves the lanes: hence the `uint32(...)` around each.
"""

from __future__ import annotations

import math
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
_NOTHING: Any = np.float32(0)
_TINY = np.float32(1.2e-38)  # no chance is below it, that log may read it
_ABREAST = 256  # tokens of a row that are looked at together
_STEPS = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0])  # below the largest logit, where a band begins
_LEAST = 64  # cells whose weights have to fit into 32 bits together; larger weights are cut in two


@intrinsic
def _wide_vectors(_typing: Any) -> Any:
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
def _uniforms(windows: Any, tokens: Any, words: Any, drawn: Any) -> None:
    """drawn (n,) of cells side by side. windows: (n, h); words: (8, 1)."""
    _wide_vectors()
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
            drawn[first + i] = _token(tokens[first + i], s0, s1, odd, s3)


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
def _tilt_rows(logits: Any, states: Any, below: Any, delta: Any, tilted: Any) -> None:
    _wide_vectors()
    for row in range(logits.shape[0]):
        s0, s1, s3 = states[row, 0], states[row, 1], states[row, 3]
        odd = uint32(states[row, 2] | uint32(1))
        for token in range(logits.shape[1]):
            green = _token(uint32(token), s0, s1, odd, s3) < below
            tilted[row, token] = logits[row, token] + (delta if green else np.float32(0))


@njit(cache=True, nogil=True)
def _uniform_rows(states: Any, rows: Any) -> None:
    _wide_vectors()
    for row in range(rows.shape[0]):
        s0, s1, s3 = states[row, 0], states[row, 1], states[row, 3]
        odd = uint32(states[row, 2] | uint32(1))
        for token in range(rows.shape[1]):
            rows[row, token] = _token(uint32(token), s0, s1, odd, s3)


@intrinsic
def _two_to(_typing: Any, _exponent: Any) -> Any:
    """2.0**n of a whole number n from -126 to 127, written into a float32's exponent."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        bits = builder.shl(builder.add(given[0], given[0].type(127)), given[0].type(23))
        return builder.bitcast(bits, context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@intrinsic
def _bits(_typing: Any, _value: Any) -> Any:
    """The bits of a float32 as a whole number."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _of_bits(_typing: Any, _bits: Any) -> Any:
    """The float32 that has these bits."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@njit(inline="always")
def _log(x: Any) -> Any:
    """log x for a positive normal float32, to its accuracy: its exponent, and a series around 1 (Cephes, logf)."""
    bits = _bits(x)
    part = np.int32(bits & np.int32(0x7FFFFF))
    over = np.int32(1) if part > np.int32(0x3504F3) else np.int32(0)  # the rest is above the root of 2
    f = _of_bits(np.int32(part | np.int32(np.int32(np.int32(127) - over) << np.int32(23)))) - np.float32(1)
    power = np.float32(np.int32(np.int32(np.int32(bits >> np.int32(23)) - np.int32(127)) + over))
    p = np.float32(7.0376836292e-2)
    p = p * f + np.float32(-1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f + np.float32(-1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f + np.float32(-1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f + np.float32(-2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    return f + (p * f - np.float32(0.5)) * f * f + power * np.float32(0.6931471805599453)


@njit(inline="always")
def _exp(x: Any) -> Any:
    """e^x for x of at most 0, a float32's accuracy: 2^n by its bits, the rest by its series to the sixth."""
    x = max(x * np.float32(1.4426950408889634), np.float32(-126))
    n = np.floor(x + np.float32(0.5))
    f = x - n
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1)
    return p * _two_to(np.int32(n))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _exp_sum(row: Any, top: Any) -> float:
    """The sum of e^(x - top), a float32's accuracy for each."""
    _wide_vectors()
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
    _wide_vectors()
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    whole, green = 0.0, 0.0
    for first in range(0, row.shape[0], _ABREAST):
        part, here, there = student[first : first + _ABREAST], _NOTHING, _NOTHING
        for i in range(part.shape[0]):
            chance = _exp(part[i] - top)
            here += chance
            there += chance if _token(uint32(first + i), s0, s1, odd, s3) < below else _NOTHING
        whole += here
        green += there
    scale, share = np.float32(strength / whole), np.float32(green / whole)
    for i in range(row.shape[0]):
        coin = np.float32(1) if _token(uint32(i), s0, s1, odd, s3) < below else _NOTHING
        made[i] = row[i] + scale * _exp(student[i] - top) * (coin - share)


@njit(cache=True, nogil=True)
def _kept(row: Any, counts: Any, most: int) -> int:
    """counts: how many are not -inf of each _ABREAST; returns their sum, -1 once it is more than `most`."""
    _wide_vectors()
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
    _wide_vectors()
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
            x, logit = _token(uint32(first + j), s0, s1, odd, s3), part[j]
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
    _wide_vectors()
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    whole = 0.0
    for first in range(0, row.shape[0], _ABREAST):
        part, to, beside, here = row[first:], chances[first:], drawn[first:], _NOTHING
        for i in range(min(_ABREAST, part.shape[0])):
            chance = _exp(part[i] - top)
            to[i], beside[i] = chance, _token(uint32(first + i), s0, s1, odd, s3)
            here += chance
        whole += here
    return whole


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _three(chances: Any, drawn: Any, before: Any, after: Any, factors: Any, sums: Any) -> None:
    """Multiplies chances by the factors (3, 2) of the coins at bits before, before - 1, before - 2; then adds up those
    with ones at each choice of the bits after, after - 1, after - 2: sums (8,), at 4, 2 and 1 for these."""
    _wide_vectors()
    z1, o1, z2, o2, z3, o3 = factors[0, 0], factors[0, 1], factors[1, 0], factors[1, 1], factors[2, 0], factors[2, 1]
    e1, e2, e3 = (
        uint32(uint32(1) << uint32(before)),
        uint32(uint32(1) << uint32(before - 1)),
        uint32(uint32(1) << uint32(before - 2)),
    )
    m1, m2, m3 = (
        uint32(uint32(1) << uint32(after)),
        uint32(uint32(1) << uint32(after - 1)),
        uint32(uint32(1) << uint32(after - 2)),
    )
    sums[:] = 0.0
    for first in range(0, chances.shape[0], _ABREAST):
        part, beside = chances[first:], drawn[first:]
        t, a1, a2, a3 = _NOTHING, _NOTHING, _NOTHING, _NOTHING
        a12, a13, a23, a123 = _NOTHING, _NOTHING, _NOTHING, _NOTHING
        for i in range(min(_ABREAST, part.shape[0])):
            u = beside[i]
            p = part[i]
            p *= o1 if uint32(u & e1) else z1
            p *= o2 if uint32(u & e2) else z2
            p *= o3 if uint32(u & e3) else z3
            part[i] = p
            t += p
            a3 += p if uint32(u & m3) else _NOTHING
            q1 = p if uint32(u & m1) else _NOTHING
            q2 = p if uint32(u & m2) else _NOTHING
            q12 = q1 if uint32(u & m2) else _NOTHING
            a1 += q1
            a2 += q2
            a12 += q12
            a13 += q1 if uint32(u & m3) else _NOTHING
            a23 += q2 if uint32(u & m3) else _NOTHING
            a123 += q12 if uint32(u & m3) else _NOTHING
        sums[0] += t
        sums[1] += a3
        sums[2] += a2
        sums[3] += a23
        sums[4] += a1
        sums[5] += a13
        sums[6] += a12
        sums[7] += a123


@njit(cache=True, nogil=True)
def _shares(sums: Any, layers: int, factors: Any) -> float:
    """The factors of either coin in each layer, from sums of chances by coins that are ones; returns what is left."""
    for bit in (1, 2, 4):  # from sums of those with ones to those with ones there alone
        for at in range(8):
            if not at & bit:
                sums[at] -= sums[at | bit]
    factors[:] = 1.0
    for layer in range(layers):
        share = 0.0
        for at in range(8):
            if at & (4 >> layer):
                share += sums[at]
        factors[layer, 0], factors[layer, 1] = max(1.0 - share, 0.0), max(2.0 - share, 0.0)
        for at in range(8):
            sums[at] *= factors[layer, 1 if at & (4 >> layer) else 0]
    return sums.sum()


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _ended(row: Any, chances: Any, drawn: Any, before: Any, factors: Any, whole: Any) -> None:
    """The logits of the chances after the last factors, into row, but for what is -inf."""
    _wide_vectors()
    z1, o1, z2, o2, z3, o3 = factors[0, 0], factors[0, 1], factors[1, 0], factors[1, 1], factors[2, 0], factors[2, 1]
    e1, e2, e3 = (
        uint32(uint32(1) << uint32(before)),
        uint32(uint32(1) << uint32(before - 1)),
        uint32(uint32(1) << uint32(before - 2)),
    )
    for i in range(row.shape[0]):
        p = chances[i]
        p *= o1 if uint32(drawn[i] & e1) else z1
        p *= o2 if uint32(drawn[i] & e2) else z2
        p *= o3 if uint32(drawn[i] & e3) else z3
        made = _log(max(p, _TINY)) + whole
        row[i] = made if row[i] > -np.inf else row[i]


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


@njit(cache=True, nogil=True)
def _some_uniforms(state: Any, tokens: Any, drawn: Any) -> None:
    s0, s1, odd, s3 = state[0], state[1], uint32(state[2] | uint32(1)), state[3]
    for i in range(tokens.shape[0]):
        drawn[i] = _token(uint32(tokens[i]), s0, s1, odd, s3)


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
            drawn[k] = _token(token, v0, v1, v2, v3)
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
        drawn[k] = _token(token, v0, v1, v2, v3)


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
    _wide_vectors()
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
                    drawn[k] = _token(token, states[0, k], states[1, k], states[2, k], states[3, k])
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
    _wide_vectors()
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


def tilt_rows(logits: NDArray[np.float32], states: U32, *, below: int, delta: float) -> NDArray[np.float32]:
    """logits (b, V) float32 plus delta wherever the row's uniform is under `below`; a new array."""
    tilted = np.empty(logits.shape, dtype=np.float32)
    _tilt_rows(logits, states, np.uint32(below), np.float32(delta), tilted)
    return tilted


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

    Chances are float32, and none falls below 1e-38; what they add up to is float64. lent: (V,), room to work in.
    """
    chances, drawn = lent.view(np.float32)[: len(row)], lent.view(np.uint32)[len(row) : 2 * len(row)]
    top = row.max()
    whole = _begun(row, top, state, chances, drawn)
    factors, sums, before = np.ones((3, 2), dtype=np.float32), np.empty(8), 31
    factors[0] = 1 / whole
    exact = np.empty((3, 2))
    for done in range(0, depth, 3):
        _three(chances, drawn, before, 31 - done, factors, sums)
        left, before = _shares(sums, min(3, depth - done), exact), 31 - done
        factors[:] = exact
    _ended(row, chances, drawn, before, factors, np.float32(float(top) + math.log(whole) - math.log(left)))


def layered(chances: NDArray[np.float64], drawn: U32, depth: int) -> None:
    """A tournament's layers over chances (k,), in place: p <- p (1 + g_l - sum of p g_l)."""
    _layered(chances, drawn, depth)


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
