"""Tilts of a batch on a GPU, in Triton: few passes over the logits, and the host waits for nothing.

Twins of the schemes' `tilt` in torch. Windows, special tokens and the rows to leave alone are read in the kernels, so
that neither ids nor logits are asked back. A green list gives the same bits as on a processor, and Gumbel the same
token; chances are reckoned in 32 bits, to some hundred-thousandths of each, and added up so that a batch gives the same
bits again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from watermark.prf.fused import state, token

_BLOCK = 4096  # tokens of a program
_WARPS = 8
_COINS = 10  # layers of a tournament whose coins are counted together
_ONE = tl.constexpr(2.0**60)  # chances are added up as whole numbers of 2^-60, the same in any order


@dataclass(frozen=True)
class Rows:
    """What the kernels are told of the rows of a batch, all of it on their device.

    windows: (b, 1 + h) int32, first each row's place among the keys, -1 to leave it alone, then its last h ids, oldest
    first, below zero where it is shorter. words: (2 + k, 8) int32: the routing key, the shared key, the keys.
    special: (V,) uint8 or longer, ones for tokens that a window must not hold and whose columns stay as they are.
    routes: 0 if each row has its own key; 1 if windows whose uniform of token 0 under the routing key is below `share`
    are left alone; 2 if only these have the row's own key, and the others the shared one.
    """

    windows: torch.Tensor
    words: torch.Tensor
    special: torch.Tensor
    routes: int = 0
    share: int = 0

    def told(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that every kernel takes of it, and its constants."""
        given = (self.windows, self.words, self.special, len(self.special), self.share)
        return given, {"width": self.windows.shape[1] - 1, "routes": self.routes}


@triton.jit
def _row(row, windows, words, special, held, share, width: tl.constexpr, routes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a row is marked, and the state of its window."""
    own = windows + row.to(tl.int64) * (1 + width)
    which = tl.load(own)
    marked = which >= 0
    for place in tl.static_range(width):
        found = tl.load(own + 1 + place)
        marked = marked & (found >= 0)
        marked = marked & (tl.load(special + found, mask=(found >= 0) & (found < held), other=0) == 0)
    at = words + 16 + tl.maximum(which, 0) * 8
    if routes > 0:
        s0, s1, s2, s3 = _state(own + 1, width, words)
        routed = token(tl.full((), 0, tl.uint32), s0, s1, s2, s3).to(tl.int64) < share
        if routes == 1:
            marked = marked & (routed == 0)
        else:
            at = words + tl.where(routed, 16 + tl.maximum(which, 0) * 8, 8)
    s0, s1, s2, s3 = _state(own + 1, width, at)
    return marked, s0, s1, s2, s3


@triton.jit
def _state(ids, width: tl.constexpr, at):  # type: ignore[no-untyped-def]
    return state(
        ids, width, _word(at, 0), _word(at, 1), _word(at, 2), _word(at, 3), _word(at, 4), _word(at, 5), _word(at, 6),
        _word(at, 7),
    )  # fmt: skip


@triton.jit
def _word(words, place: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.load(words + place).to(tl.uint32, bitcast=True)


@triton.jit
def _open(columns, marked, special, live):  # type: ignore[no-untyped-def]
    """Which tokens of a row the mark touches."""
    return live & marked & (tl.load(special + columns, mask=live, other=1) == 0)


@triton.jit
def _read(logits, row, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of a row: its columns, which of them there are, and their logits, -inf beyond."""
    columns = tl.program_id(1) * block + tl.arange(0, block)
    live = columns < size
    return columns, live, tl.load(logits + row.to(tl.int64) * size + columns, mask=live, other=-float("inf"))


@triton.jit
def _green(  # type: ignore[no-untyped-def]
    logits, made, size, windows, words, special, held, share, below, delta,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    if marked:
        chosen = token(columns.to(tl.uint32), s0, s1, s2, s3).to(tl.int64) < below
        chosen = chosen & _open(columns, marked, special, live)
        value = tl.where(chosen, (value.to(tl.float32) + delta).to(value.dtype), value)
    tl.store(made + row.to(tl.int64) * size + columns, value, mask=live)


def green(logits: torch.Tensor, rows: Rows, below: int, delta: float) -> torch.Tensor:
    """Logits (b, V) with delta more where a uniform is under `below`, as `GreenList.tilt`."""
    made, (given, constants) = torch.empty_like(logits), rows.told()
    _green[_grid(logits)](
        logits, made, logits.shape[1], *given, below, delta, **constants, block=_BLOCK, num_warps=_WARPS
    )
    return made


@triton.jit
def _summed(value, tops, sums, part):  # type: ignore[no-untyped-def]
    """Notes a block's largest logit, and the sum of chances by it."""
    top = tl.max(value, axis=0)
    tl.store(tops + part, top)
    tl.store(sums + part, tl.sum(tl.exp(value - tl.where(top > -float("inf"), top, 0.0)), axis=0))


@triton.jit
def _log_sum(tops, sums, row, blocks, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row's log sum from its blocks; -inf of one with nothing left."""
    part = tl.arange(0, padded)
    top = tl.load(tops + row * blocks + part, mask=part < blocks, other=-float("inf"))
    most = tl.max(top, axis=0)
    base = tl.where(most > -float("inf"), most, 0.0)
    scaled = tl.load(sums + row * blocks + part, mask=part < blocks, other=0.0) * tl.exp(top - base)
    return base + tl.log(tl.sum(scaled, axis=0))


@triton.jit
def _noisy(  # type: ignore[no-untyped-def]
    logits, made, best, tops, sums, size, blocks, windows, words, special, held, share,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Notes each block's largest logit with noise, to a thousandth; what the mark touches becomes -inf in `made`."""
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    touched = _open(columns, marked, special, live)
    tl.store(made + row.to(tl.int64) * size + columns, tl.where(touched, -float("inf"), value), mask=live)
    value = tl.where(touched, value.to(tl.float32), -float("inf"))
    part = row * blocks + tl.program_id(1)
    _summed(value, tops, sums, part)
    drawn = token(columns.to(tl.uint32), s0, s1, s2, s3)
    above = drawn ^ tl.full((), 0xFFFFFFFF, tl.uint32)
    left = (above.to(tl.float32) + 0.5) * 2.0**-32  # 1 - u, which keeps its digits where u is nearly 1
    short = left * (1.0 + left * (0.5 + left * (1.0 / 3.0 + left * 0.25)))
    long = -tl.log((drawn.to(tl.float32) + 0.5) * 2.0**-32)
    tl.store(best + part, tl.max(value - tl.log(tl.where(left < 0.02, short, long)), axis=0))


@triton.jit
def _exactly(logits, row, at, size, special, s0, s1, s2, s3, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest logit with noise of block `at`, in 64 bits, and the first column that it stands in."""
    columns = at * block + tl.arange(0, block)
    live = columns < size
    value = tl.load(logits + row.to(tl.int64) * size + columns, mask=live, other=-float("inf"))
    value = tl.where(tl.load(special + columns, mask=live, other=1) == 0, value, -float("inf"))
    drawn = token(columns.to(tl.uint32), s0, s1, s2, s3).to(tl.float64)
    noisy = value.to(tl.float64) - tl.log(-tl.log((drawn + 0.5) * 2.0**-32))
    most = tl.max(noisy, axis=0)
    return most, tl.min(tl.where(noisy == most, columns, size), axis=0)


@triton.jit
def _won(  # type: ignore[no-untyped-def]
    logits, made, best, tops, sums, size, blocks, windows, words, special, held, share,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    whole = _log_sum(tops, sums, row, blocks, padded)
    if whole > -float("inf"):
        _, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
        part = tl.arange(0, padded)
        noisy = tl.load(best + row * blocks + part, mask=part < blocks, other=-float("inf"))
        top = tl.max(noisy, axis=0)
        near = (noisy >= top - 1e-3 - 1e-6 * tl.abs(top)) & (part < blocks)
        first = tl.min(tl.where(near, part, padded), axis=0)
        most, winner = _exactly(logits, row, first, size, special, s0, s1, s2, s3, block)
        if tl.sum(near.to(tl.int32), axis=0) > 1:
            for other in range(blocks):
                if (other > first) & (tl.sum((near & (part == other)).to(tl.int32), axis=0) > 0):
                    now, place = _exactly(logits, row, other, size, special, s0, s1, s2, s3, block)
                    winner = tl.where(now > most, place, winner)
                    most = tl.maximum(now, most)
        tl.store(made + row.to(tl.int64) * size + winner, whole.to(made.dtype.element_ty))


def gumbel(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Logits (b, V), all -inf but for the token that wins with its noise, as `Gumbel.tilt`."""
    made, grid, (given, constants) = torch.empty_like(logits), _grid(logits), rows.told()
    best, tops, sums = torch.empty((3, *grid), dtype=torch.float32, device=logits.device)
    given = (logits, made, best, tops, sums, logits.shape[1], grid[1], *given)
    constants |= {"block": _BLOCK, "num_warps": _WARPS}
    _noisy[grid](*given, **constants)
    _won[(len(logits),)](*given, **constants, padded=triton.next_power_of_2(grid[1]))
    return made


@triton.jit
def _measured(  # type: ignore[no-untyped-def]
    logits, tops, sums, size, blocks, windows, words, special, held, share,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, _, _, _, _ = _row(row, windows, words, special, held, share, width, routes)
    value = tl.where(_open(columns, marked, special, live), value.to(tl.float32), -float("inf"))
    _summed(value, tops, sums, row * blocks + tl.program_id(1))


@triton.jit
def _gain(drawn, gains, layers: tl.constexpr):  # type: ignore[no-untyped-def]
    """What tokens' chances have gained in the first `layers`, in nats: by their coins, one of two each."""
    gain = tl.zeros(drawn.shape, tl.float32)
    for layer in tl.static_range(layers):
        one = (drawn >> (31 - layer)) & 1 != 0
        gain += tl.where(one, tl.load(gains + 2 * layer + 1), tl.load(gains + 2 * layer))
    return gain


@triton.jit
def _counted(  # type: ignore[no-untyped-def]
    logits, masses, gains, tops, sums, size, blocks, windows, words, special, held, share,
    first: tl.constexpr, layers: tl.constexpr, most: tl.constexpr, padded: tl.constexpr,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Adds each token's chance before layer `first` to the mass of its coins in the next `layers`."""
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    value = tl.where(_open(columns, marked, special, live), value.to(tl.float32), -float("inf"))
    if tl.max(value, axis=0) > -float("inf"):
        drawn = token(columns.to(tl.uint32), s0, s1, s2, s3)
        value += _gain(drawn, gains + row * 64, first) - _log_sum(tops, sums, row, blocks, padded)
        mass = (tl.exp(value) * _ONE).to(tl.int64)
        coins = (drawn >> (32 - first - layers)) & ((1 << layers) - 1)
        tl.atomic_add(masses + row * most + coins.to(tl.int32), mass, mask=mass > 0, sem="relaxed")


@triton.jit
def _shared(masses, gains, first: tl.constexpr, layers: tl.constexpr, most: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gains of either coin in each layer, from the masses of coins: 1 - Σ p g is the mass of zeros."""
    row = tl.program_id(0)
    coins = tl.arange(0, 1 << layers)
    at = masses + row * most + coins
    left = tl.load(at).to(tl.float64) / _ONE
    tl.store(at, tl.zeros((1 << layers,), tl.int64))
    for layer in tl.static_range(layers):
        one = ((coins >> (layers - 1 - layer)) & 1) != 0
        zeros = tl.sum(tl.where(one, 0.0, left), axis=0) / tl.maximum(tl.sum(left, axis=0), 1e-30)
        ones = 1.0 + zeros
        left *= tl.where(one, ones, zeros)
        to = gains + row * 64 + 2 * (first + layer)
        tl.store(to, tl.log(zeros).to(tl.float32))
        tl.store(to + 1, tl.log(ones).to(tl.float32))


@triton.jit
def _gained(  # type: ignore[no-untyped-def]
    logits, made, gains, size, windows, words, special, held, share, depth: tl.constexpr,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    touched = _open(columns, marked, special, live) & (value > -float("inf"))
    if tl.max(touched.to(tl.int32), axis=0) > 0:
        drawn = token(columns.to(tl.uint32), s0, s1, s2, s3)
        gained = value.to(tl.float32) + _gain(drawn, gains + row * 64, depth)
        value = tl.where(touched, gained.to(value.dtype), value)
    tl.store(made + row.to(tl.int64) * size + columns, value, mask=live)


def tournament(logits: torch.Tensor, rows: Rows, depth: int) -> torch.Tensor:
    """Logits (b, V) after `depth` layers, as `Tournament.tilt`: masses of ten coins at once, as there."""
    made, grid, (given, constants) = torch.empty_like(logits), _grid(logits), rows.told()
    count, size = logits.shape
    tops, sums = torch.empty((2, *grid), dtype=torch.float32, device=logits.device)
    gains = torch.empty((count, 64), dtype=torch.float32, device=logits.device)
    masses = torch.zeros((count, 1 << _COINS), dtype=torch.int64, device=logits.device)
    constants |= {"block": _BLOCK, "num_warps": _WARPS}
    _measured[grid](logits, tops, sums, size, grid[1], *given, **constants)
    for first in range(0, depth, _COINS):
        part = {"first": first, "layers": min(_COINS, depth - first), "most": 1 << _COINS}
        _counted[grid](
            logits, masses, gains, tops, sums, size, grid[1], *given, **part, **constants,
            padded=triton.next_power_of_2(grid[1]),
        )  # fmt: skip
        _shared[(count,)](masses, gains, **part)
    _gained[grid](logits, made, gains, size, *given, depth=depth, **constants)
    return made


@triton.jit
def _weighed(  # type: ignore[no-untyped-def]
    student, tops, sums, greens, size, blocks, windows, words, special, held, share, below,
    width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Notes each block's largest logit, the sum of chances by it, and that of green tokens."""
    row = tl.program_id(0)
    columns, _, value = _read(student, row, size, block)
    _, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    value, part = value.to(tl.float32), row * blocks + tl.program_id(1)
    _summed(value, tops, sums, part)
    top = tl.max(value, axis=0)
    chance = tl.exp(value - tl.where(top > -float("inf"), top, 0.0))
    green = token(columns.to(tl.uint32), s0, s1, s2, s3).to(tl.int64) < below
    tl.store(greens + part, tl.sum(tl.where(green, chance, 0.0), axis=0))


@triton.jit
def _taught(  # type: ignore[no-untyped-def]
    logits, student, made, tops, sums, greens, size, blocks, windows, words, special, held, share, below, strength,
    padded: tl.constexpr, width: tl.constexpr, routes: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns, live, value = _read(logits, row, size, block)
    marked, s0, s1, s2, s3 = _row(row, windows, words, special, held, share, width, routes)
    whole = _log_sum(tops, sums, row, blocks, padded)
    if marked & (whole > -float("inf")):
        part = tl.arange(0, padded)
        top = tl.load(tops + row * blocks + part, mask=part < blocks, other=-float("inf"))
        by = tl.load(greens + row * blocks + part, mask=part < blocks, other=0.0) * tl.exp(top - whole)
        _, _, beside = _read(student, row, size, block)
        green = token(columns.to(tl.uint32), s0, s1, s2, s3).to(tl.int64) < below
        gain = strength * tl.exp(beside.to(tl.float32) - whole) * (green.to(tl.float32) - tl.sum(by, axis=0))
        touched = _open(columns, marked, special, live)
        value = tl.where(touched, (value.to(tl.float32) + gain).to(value.dtype), value)
    tl.store(made + row.to(tl.int64) * size + columns, value, mask=live)


def antidistill(logits: torch.Tensor, student: torch.Tensor, rows: Rows, below: int, strength: float) -> torch.Tensor:
    """Logits (b, V) with what raises green tokens in a student of chances softmax(student), as `AntiDistill.tilt`."""
    made, grid, (given, constants) = torch.empty_like(logits), _grid(logits), rows.told()
    noted = torch.empty((3, *grid), dtype=torch.float32, device=logits.device)
    size = logits.shape[1]
    constants |= {"block": _BLOCK, "num_warps": _WARPS}
    _weighed[grid](student, *noted, size, grid[1], *given, below, **constants)
    _taught[grid](
        logits, student, made, *noted, size, grid[1], *given, below, strength, **constants,
        padded=triton.next_power_of_2(grid[1]),
    )  # fmt: skip
    return made


def _grid(logits: torch.Tensor) -> tuple[int, int]:
    return len(logits), triton.cdiv(logits.shape[1], _BLOCK)
