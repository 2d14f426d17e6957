"""Tournament: the next token wins a knock-out over keyed coins, layer by layer, so that the text stays as likely.

SynthID-Text's idea in its vectorised form with two candidates, p <- p (1 + g_l - Σ p g_l) for layers l = 1 ... m
(Dathathri et al. 2024, Nature 634, "Scalable watermarking for identifying large language model outputs", methods).
The m coins of a cell are bits of its one 32-bit uniform: fair, independent, and no table that every key shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from watermark import prf
from watermark.schemes.gate import check_gate
from watermark.schemes.greenlist import check_window
from watermark.schemes.redrawn import Redrawn, log_sum

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from watermark.schemes.fused import Rows

DEEPEST = 30
_TOGETHER = 10  # layers
_LONG = 2048  # tokens from which rows of coins, or chances in 32 bits, are quicker


@dataclass(frozen=True)
class Tournament(Redrawn):
    """window: context width h in tokens. depth: layers m. gate: as of `Gumbel`.

    The score is the sum of a cell's coins, weighted by 10 in the first layer down to 1 in the last (Dathathri et al.
    weight alike: late layers have less left to choose from).
    """

    name: ClassVar[str] = "tournament"
    version: ClassVar[int] = 1

    window: int = 2
    depth: int = DEEPEST
    gate: float = 0.0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_gate(self.gate)
        if type(self.depth) is not int or not 1 <= self.depth <= DEEPEST:
            raise ValueError(f"depth must be a whole number from 1 to {DEEPEST}, found {self.depth!r}")

    @property
    def weights(self) -> tuple[int, ...]:
        """What a one counts in each layer."""
        return weights_of(self.depth)

    @property
    def _tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _tables(self.depth)

    def _redraw(self, row: NDArray[np.float64], drawn: NDArray[np.uint32]) -> NDArray[np.float64]:
        return self._by_layers(row, drawn) if len(row) < _LONG else self._by_coins(row, drawn)

    def _redraw_whole(
        self, row: NDArray[Any], state: NDArray[np.uint32], made: NDArray[Any], lent: NDArray[np.float64]
    ) -> None:
        if prf.backend() != "numba" or row.dtype != np.float32 or len(row) < _LONG or not np.isfinite(row.max()):
            super()._redraw_whole(row, state, made, lent)
            return
        from watermark.schemes import compiled

        made[:] = row
        compiled.tournament(made, state, self.depth, lent)

    def _by_layers(self, row: NDArray[np.float64], drawn: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The formula as it stands: every chance changed in every layer."""
        whole = log_sum(row)
        chances = np.exp(row - whole)
        if prf.backend() == "numba":
            from watermark.schemes import compiled

            compiled.layered(chances, drawn, self.depth)
        else:
            for layer in range(self.depth):
                coins = ((drawn >> np.uint32(31 - layer)) & np.uint32(1)).astype(np.float64)
                chances = np.maximum(chances * (1 + coins - chances @ coins), 0.0)
        with np.errstate(divide="ignore"):
            made: NDArray[np.float64] = np.log(chances) - math.log(chances.sum()) + whole
        return made

    def _by_coins(self, row: NDArray[np.float64], drawn: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The same for many tokens: what happens to one in ten layers depends on its ten coins there alone.

        So the layers are walked over 1,024 sums of chances, and the vocabulary once for every ten layers.
        """
        chances = row - row.max()
        np.exp(chances, out=chances)
        chances /= chances.sum()
        factors, gains, shifts, left = np.ones(1), [], [], 1.0
        for first in range(0, self.depth, _TOGETHER):
            layers = min(_TOGETHER, self.depth - first)
            shifts.append(32 - first - layers)
            masses = _grown(drawn, shifts[-1], layers, factors, chances)
            factors = _factors(masses, layers)
            left = float(masses @ factors)
            with np.errstate(divide="ignore"):
                gains.append(np.log(factors))
        gains[-1] = gains[-1] - math.log(left)
        return _gained(row, drawn, shifts, gains)

    def tilt_fused(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """`tilt` on a GPU, of rows that the kernels are told of (`watermark.ongpu`)."""
        from watermark.schemes import fused

        return fused.tournament(logits, rows, self.depth)

    def _redraw_tensor(self, rows: Any, drawn: Any) -> Any:
        whole = rows.logsumexp(-1, keepdim=True)
        chances = (rows - whole).exp()
        for layer in range(self.depth):
            coins = ((drawn >> (31 - layer)) & 1).to(chances.dtype)
            chances = (chances * (1 + coins - (chances * coins).sum(-1, keepdim=True))).clamp_min(0.0)
        return chances.log() - chances.sum(-1, keepdim=True).log() + whole


def _factors(masses: NDArray[np.float64], layers: int) -> NDArray[np.float64]:
    """What the tokens of each row of coins, one a layer, are multiplied with, of their chances: (2^layers,) both."""
    sums = [masses]
    while len(sums) < layers:
        sums.append(sums[-1].reshape(-1, 2).sum(axis=1))
    factors = np.ones(1)
    for by_coin in reversed(sums):
        share = float(factors @ by_coin[1::2])
        factors = np.outer(factors, [max(1.0 - share, 0.0), max(2.0 - share, 0.0)]).ravel()
    return factors


def _grown(
    drawn: NDArray[np.uint32], shift: int, bits: int, before: NDArray[np.float64], chances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Chances (k,) times the factors `before` of their last coins, in place, added up by the next: (2^bits,)."""
    if len(before) > 1:
        chances *= before[(drawn >> np.uint32(shift + bits)) & np.uint32(len(before) - 1)]
    places = (drawn >> np.uint32(shift)) & np.uint32((1 << bits) - 1)
    return np.bincount(places.astype(np.int64), weights=chances, minlength=1 << bits).astype(np.float64, copy=False)


def _gained(
    row: NDArray[np.float64], drawn: NDArray[np.uint32], shifts: list[int], gains: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """row (k,), changed in place by the gain of each of its coins' rows, one from each table."""
    for shift, table in zip(shifts, gains, strict=True):
        row += table[(drawn >> np.uint32(shift)) & np.uint32(len(table) - 1)]
    return row


@lru_cache(maxsize=DEEPEST)
def weights_of(depth: int) -> tuple[int, ...]:
    """Whole numbers from 10 in the first of `depth` layers to 1 in the last, in even steps; 1 for a single one."""
    return tuple(1 if depth == 1 else round(10 - 9 * layer / (depth - 1)) for layer in range(depth))


@lru_cache(maxsize=DEEPEST)
def _tables(depth: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Levels of the first 16 bits (layers 1 to 16) and of the last 16 (layers 17 on)."""
    values, weights = np.arange(1 << 16), [*weights_of(depth), *[0] * (32 - depth)]
    halves = [
        sum(weight * (values >> (15 - place) & 1) for place, weight in enumerate(some))
        for some in (weights[:16], weights[16:])
    ]
    return np.asarray(halves[0], dtype=np.int64), np.asarray(halves[1], dtype=np.int64)
