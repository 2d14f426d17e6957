"""Observations in stages, for stopping early: each stage holds cells whose coins no earlier stage has looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from watermark import prf
from watermark.observe.weights import Rows, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]

_FIRST = 400  # tokens in the first stage
_GROWTH = 1.25
_LOOK, _LOOK_GROWTH = 1000.0, 1.5  # tokens at the first look at everything, and how they grow from look to look
_WORTH = 32  # a stage bets on cells of twice the root mean square: waiting for them paid, by 1.3 decades of E at 5 %


@dataclass(frozen=True)
class Look:
    """All cells of the first answers that reach a fixed number of tokens, with the weights known then."""

    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    weights: dict[str, NDArray[np.int32]]


@dataclass(frozen=True)
class Stage:
    """New cells after `documents` answers and `tokens` tokens: windows (n, h), choices (n,), weights (n,) each.

    looks: at everything read, those that became due since the stage before; None where cells never change weight, so
    that looking again would tell nothing new.
    """

    documents: int
    tokens: int
    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    weights: dict[str, NDArray[np.int32]]
    looks: tuple[Look, ...] | None = None

    def __len__(self) -> int:
        return len(self.choices)


@dataclass
class Betting:
    """Which cells were bet on. A cell is bet on once, when its weight, from all that was read so far, is worth it;
    its coin is then known and never used again. often: as for `weigh`. looked: looks at everything so far."""

    often: Counts | None = None
    bet: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    looked: int = 0

    def stage(self, rows: Rows, *, reached: NDArray[np.int64]) -> Stage:
        """The cells to bet on now, and the looks that are due. rows: all that was read so far.

        reached: tokens read up to and with each answer.
        """
        looks = tuple(self._looks(rows, reached))
        cells = weigh(rows, often=self.often)
        names = prf.cell_ids(cells.windows, cells.choices)
        heaviest = np.max([np.abs(values) for values in cells.weights.values()], axis=0)
        new = (heaviest >= _WORTH) & ~np.isin(names, self.bet)
        self.bet = np.concatenate([self.bet, names[new]])
        weights = {name: values[new] for name, values in cells.weights.items()}
        return Stage(len(reached), int(reached[-1]), cells.windows[new], cells.choices[new], weights, looks)

    def _looks(self, rows: Rows, reached: NDArray[np.int64]) -> Iterator[Look]:
        """Where a look ends depends on lengths alone, not on where reading happened to stop."""
        while reached[-1] >= (due := _LOOK * _LOOK_GROWTH**self.looked):
            seen = weigh(rows.before(int(np.searchsorted(reached, due)) + 1), often=self.often)
            yield Look(seen.windows, seen.choices, seen.weights)
            self.looked += 1


def stage_ends(tokens: NDArray[np.int64]) -> list[int]:
    """Numbers of answers after which a stage ends: about 400 tokens, then a quarter more each time, then all.

    tokens: of each answer. The schedule depends on lengths alone.
    """
    reached, ends, wanted = tokens.cumsum(), [], float(_FIRST)
    while wanted < reached[-1]:
        ends.append(int(np.searchsorted(reached, wanted)) + 1)
        wanted *= _GROWTH
    return sorted({*ends, len(tokens)})
