"""Gumbel: the next token is argmax of log p - log(-log u) over keyed uniforms u, so that the text stays as likely.

Aaronson 2022 (the scheme, and the score -ln(1 - u) of a token); under another key the score is exponential and a sum
of n of them Gamma(n) (Fernandez et al. 2023, arXiv 2308.00113). Here scores are rounded to quarters of a
nat, and the sum's law on that lattice is exact; every bit of the 256-bit key and every id of the window counts.
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

UNIT = 0.25  # nats of one level; rounding to it costs 0.3 % of z
_STEPS = 1 << 16


@dataclass(frozen=True)
class Gumbel(Redrawn):
    """window: context width h in tokens. gate: nats of entropy under which a row is left alone, 0 for none.

    The score of a token is -ln(1 - u), u its uniform to 16 bits, in quarters of a nat: 0 ... 47, on average 4.
    """

    name: ClassVar[str] = "gumbel"
    version: ClassVar[int] = 1

    window: int = 2
    gate: float = 0.0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_gate(self.gate)

    @property
    def _tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _tables()

    def _redraw(self, row: NDArray[np.float64], drawn: NDArray[np.uint32]) -> NDArray[np.float64]:
        won = np.argmax(row + _noise(drawn))
        whole = log_sum(row, out=row)
        row.fill(-np.inf)
        row[won] = whole
        return row

    def _redraw_whole(
        self, row: NDArray[Any], state: NDArray[np.uint32], made: NDArray[Any], lent: NDArray[np.float64]
    ) -> None:
        top = row.max()
        if prf.backend() != "numba" or not np.isfinite(top):
            super()._redraw_whole(row, state, made, lent)
            return
        from watermark.schemes import compiled

        near, drawn = compiled.contenders(row, state, top, *_bounds())
        single = row.dtype == np.float32
        whole = float(top) + math.log(compiled.exp_sum(row, top)) if single else log_sum(row, out=lent)
        made[near[np.argmax(row[near] + _noise(drawn))]] = whole

    def tilt_fused(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """`tilt` on a GPU, of rows that the kernels are told of (`watermark.ongpu`)."""
        from watermark.schemes import fused

        return fused.gumbel(logits, rows)

    def _redraw_tensor(self, rows: Any, drawn: Any) -> Any:
        import torch

        noise = -torch.log(-torch.log((drawn.double() + 0.5) / 2.0**32))  # in 32 bits the largest u would be 1
        won = (rows + noise).argmax(dim=-1, keepdim=True)
        return torch.full_like(rows, -math.inf).scatter(1, won, rows.logsumexp(-1, keepdim=True))


def _noise(drawn: NDArray[Any]) -> NDArray[np.float64]:
    """-log(-log u) of uniforms at the middle of their steps."""
    noise: NDArray[np.float64] = -np.log(-np.log((drawn + 0.5) / 2.0**32))
    return noise


@lru_cache(maxsize=1)
def _bounds() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the most noise of uniforms by their first 12 bits, a little wider than rounding could make them."""
    firsts = np.arange(1 << 12, dtype=np.uint64) << np.uint64(20)
    return _noise(firsts) - 1e-9, _noise(firsts + np.uint64((1 << 20) - 1)) + 1e-9


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The level of each value of the first 16 bits, counted from the middle of its step; the other 16 add nothing."""
    score = [-math.log((_STEPS - step - 0.5) / _STEPS) for step in range(_STEPS)]
    return np.array([round(each / UNIT) for each in score], dtype=np.int64), np.zeros(_STEPS, dtype=np.int64)
