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

from watermark.schemes.gate import check_gate
from watermark.schemes.greenlist import check_window
from watermark.schemes.redrawn import Redrawn, log_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEEPEST = 30


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
        whole = log_sum(row)
        chances = np.exp(row - whole)
        for layer in range(self.depth):
            coins = ((drawn >> np.uint32(31 - layer)) & np.uint32(1)).astype(np.float64)
            chances = np.maximum(chances * (1 + coins - chances @ coins), 0.0)
        with np.errstate(divide="ignore"):
            made: NDArray[np.float64] = np.log(chances) - math.log(chances.sum()) + whole
        return made

    def _redraw_tensor(self, rows: Any, drawn: Any) -> Any:
        whole = rows.logsumexp(-1, keepdim=True)
        chances = (rows - whole).exp()
        for layer in range(self.depth):
            coins = ((drawn >> (31 - layer)) & 1).to(chances.dtype)
            chances = (chances * (1 + coins - (chances * coins).sum(-1, keepdim=True))).clamp_min(0.0)
        return chances.log() - chances.sum(-1, keepdim=True).log() + whole


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
