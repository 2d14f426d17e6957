"""The keyed function in Triton, for GPUs: totals of cells under keys in one kernel, the same integers as `reference`.

A program has its own block of keys and of cells, and adds its 64-bit sums to the others'; integers add up to the same
in any order. Triton comes with torch where torch has CUDA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.prf.reference import Counting

_LANES = 128  # keys of a program, one a thread
_CELLS = 1024  # cells of a program


@triton.jit
def _rotated(value, by: tl.constexpr):  # type: ignore[no-untyped-def]
    return (value << by) | (value >> (32 - by))


@triton.jit
def _rounds(v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    for _ in tl.static_range(4):
        v0 = v0 + v1
        v1 = _rotated(v1, 5) ^ v0
        v0 = _rotated(v0, 16)
        v2 = v2 + v3
        v3 = _rotated(v3, 8) ^ v2
        v0 = v0 + v3
        v3 = _rotated(v3, 13) ^ v0
        v2 = v2 + v1
        v1 = _rotated(v1, 7) ^ v2
        v2 = _rotated(v2, 16)
    return v0, v1, v2, v3


@triton.jit
def _loaded(at, mask):  # type: ignore[no-untyped-def]
    return tl.load(at, mask=mask, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def _id(windows, place: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """One id of the window at `windows`, zero beyond its width."""
    found = tl.full((), 0, tl.uint32)
    if place < width:
        found = tl.load(windows + place).to(tl.uint32)
    return found


@triton.jit
def state(windows, width: tl.constexpr, k0, k1, k2, k3, k4, k5, k6, k7):  # type: ignore[no-untyped-def]
    """Step 2: the state of the window of ids at `windows` under each key (lanes,), or under one."""
    v0, v1 = k0 ^ _id(windows, 0, width), k1 ^ _id(windows, 1, width)
    v2, v3 = k2 ^ _id(windows, 2, width), k3 ^ _id(windows, 3, width)
    for start in tl.static_range(4, width, 4):
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
        v0, v1 = v0 ^ _id(windows, start, width), v1 ^ _id(windows, start + 1, width)
        v2, v3 = v2 ^ _id(windows, start + 2, width), v3 ^ _id(windows, start + 3, width)
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3)
    v0, v1, v2, v3 = _rounds(v0 ^ k4, v1 ^ k5, v2 ^ k6, v3 ^ k7 ^ tl.full((), width, tl.uint32))
    return v0 ^ k0, v1 ^ k1, v2 ^ k2, v3 ^ k3


@triton.jit
def token(tokens, s0, s1, s2, s3):  # type: ignore[no-untyped-def]
    """Step 3: the uniform of each token, or of each state."""
    x = tokens + s0
    x = (x ^ (x >> 16)) * tl.full((), 0x7FEB352D, tl.uint32)
    x = ((x ^ (x >> 15)) + s1) * (s2 | tl.full((), 1, tl.uint32))
    return (x ^ (x >> 16)) * tl.full((), 0x846CA68B, tl.uint32) + s3


@triton.jit
def _totals(  # type: ignore[no-untyped-def]
    windows, tokens, weights, words, high, low, sums, cells, keys, below,
    width: tl.constexpr, statistics: tl.constexpr, rows: tl.constexpr, graded: tl.constexpr,
    each: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * lanes + tl.arange(0, lanes)
    s = tl.arange(0, rows)
    live = k < keys
    k0, k1 = _loaded(words + k, live), _loaded(words + keys + k, live)
    k2, k3 = _loaded(words + 2 * keys + k, live), _loaded(words + 3 * keys + k, live)
    k4, k5 = _loaded(words + 4 * keys + k, live), _loaded(words + 5 * keys + k, live)
    k6, k7 = _loaded(words + 6 * keys + k, live), _loaded(words + 7 * keys + k, live)
    added = tl.zeros((rows, lanes), tl.int64)
    first = tl.program_id(1).to(tl.int64) * each
    for step in range(each):
        cell = first + step
        if cell < cells:
            s0, s1, s2, s3 = state(windows + cell * width, width, k0, k1, k2, k3, k4, k5, k6, k7)
            x = token(tl.load(tokens + cell).to(tl.uint32, bitcast=True), s0, s1, s2, s3)
            if graded == 0:
                score = (x.to(tl.int64) < below).to(tl.int64)
            else:
                score = tl.load(high + (x >> 16).to(tl.int32)).to(tl.int64)
                if graded == 2:
                    score += tl.load(low + (x & 0xFFFF).to(tl.int32)).to(tl.int64)
            weight = tl.load(weights + cell * statistics + s, mask=s < statistics, other=0).to(tl.int64)
            added += weight[:, None] * score[None, :]
    at = sums + s[:, None] * keys + k[None, :]
    tl.atomic_add(at, added, mask=(s[:, None] < statistics) & live[None, :])


def totals(
    windows: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor, words: torch.Tensor, counting: Counting
) -> torch.Tensor:
    """As `reference.totals`, of int32 bit patterns on one GPU: (n, h), (n,), (S, n), (m, 8). Returns (m, S) int64."""
    cells, keys, statistics = len(tokens), len(words), len(weights)
    sums = torch.zeros((statistics, keys), dtype=torch.int64, device=tokens.device)
    graded = 0 if not len(counting.high) else 1 if not counting.low.any() else 2
    tables = [torch.from_numpy(_narrow(table)).to(tokens.device) for table in (counting.high, counting.low)]
    grid: Any = (triton.cdiv(keys, _LANES), triton.cdiv(cells, _CELLS))
    _totals[grid](
        windows.contiguous(), tokens.contiguous(), weights.T.contiguous(), words.T.contiguous(), *tables, sums,
        cells, keys, counting.below,
        width=windows.shape[1], statistics=statistics, rows=triton.next_power_of_2(statistics),
        graded=graded, each=_CELLS, lanes=_LANES,
    )  # fmt: skip
    return sums.T


def _narrow(levels: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
    """A table of levels in one byte each where they fit: those of 65,536 then stay in a multiprocessor's own cache."""
    small = len(levels) and levels.min() >= 0 and levels.max() < 256
    return levels.astype(np.uint8) if small else levels
