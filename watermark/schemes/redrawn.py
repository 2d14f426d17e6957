"""What schemes share that redraw the next token instead of favouring some: their scores are levels, their law exact.

Such a tilt replaces a row's distribution by one that the key chose, so that averaged over keys the text is as likely
as without a mark. That holds once: a window that comes again in the same answer would be answered alike each time, and
so it is left alone there (`once`; Hu et al. 2023, arXiv 2310.10669). The keyed choice stands in for the
sampler, and so greedy and beam search cannot carry it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark import prf
from watermark.schemes.keyed import Keyed
from watermark.stats.graded import Levels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    Tables = tuple[NDArray[np.int64], NDArray[np.int64]]

Logits = TypeVar("Logits", "NDArray[Any]", Any)
_CUT = 8  # a row counts as cut if at most one token in so many is left


class Redrawn(Keyed):
    """Scores, totals and law from two tables: a score is high[first 16 bits] + low[last 16 bits] of a cell's uniform.

    A scheme adds `_tables`, `_redraw` for numpy rows and `_redraw_tensor` for rows on a device.
    """

    once: ClassVar[bool] = True
    shuts: ClassVar[bool] = True  # `tilt` takes columns to leave out

    @property
    def _tables(self) -> Tables:
        raise NotImplementedError

    def _redraw(self, row: NDArray[np.float64], drawn: NDArray[np.uint32]) -> NDArray[np.float64]:
        """A row of logits (k,), some finite, with one uniform for each; new logits, with the same logsumexp.

        The row is lent to be written over: of a vocabulary fresh memory costs as much as the arithmetic.
        """
        raise NotImplementedError

    def _redraw_tensor(self, rows: Any, drawn: Any) -> Any:
        """The same for float64 rows (b, V) and int64 uniforms on a device, -inf among them."""
        raise NotImplementedError

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key, *, shut: ArrayLike = ()) -> Logits:
        """Logits (b, V) whose softmax is the keyed choice; contexts: (b, h) ids, oldest first.

        shut: columns that are read as -inf. The row's logsumexp is kept, so that a column which is put back afterwards
        (a special token's) has the chance it had. Returns a new array of the same kind; -inf stays -inf.
        """
        words = self._words(key)
        if isinstance(logits, np.ndarray):
            return self._redrawn(logits, np.asarray(contexts), words, shut)
        return self._redrawn_tensor(logits, contexts, words, shut)

    @property
    def null(self) -> Levels:
        """The exact law of one score: all 2^32 uniforms counted."""
        return law_of_tables(*(tuple(table.tolist()) for table in self._counted))

    @property
    def _counting(self) -> prf.Counting:
        high, low = self._tables
        return prf.Counting(high=high, low=low)

    @property
    def _counted(self) -> Tables:
        """How many of the 65,536 entries of each table have each level."""
        high, low = self._tables
        return np.bincount(high), np.bincount(low)

    def _redrawn(
        self, logits: NDArray[Any], contexts: NDArray[Any], words: NDArray[np.uint32], shut: ArrayLike
    ) -> NDArray[Any]:
        states, tilted = prf.window_states(contexts.astype(np.uint32), words), np.full_like(logits, -np.inf)
        kind = np.float32 if logits.dtype == np.float32 else np.float64
        row, lent, closed = (
            np.empty(logits.shape[1], dtype=kind),
            np.empty(logits.shape[1]),
            np.asarray(shut, dtype=np.int64),
        )
        for given, state, made in zip(logits, states, tilted, strict=True):
            row[:] = given
            row[closed] = -np.inf
            places = _kept(row)
            if places is None:
                self._redraw_whole(row, state, made, lent)
            elif len(places):
                made[places] = self._redraw(row[places].astype(np.float64), prf.row_uniforms(state, places))
        return tilted

    def _redraw_whole(
        self, row: NDArray[Any], state: NDArray[np.uint32], made: NDArray[Any], lent: NDArray[np.float64]
    ) -> None:
        """A row (V,) of which much is left, redrawn into `made`, all -inf. state: its window's; lent: room."""
        lent[:] = row
        made[:] = self._redraw(lent, prf.uniform_rows(state[None], len(row))[0])

    def _redrawn_tensor(self, logits: Any, contexts: ArrayLike, words: NDArray[np.uint32], shut: ArrayLike) -> Any:
        import torch

        from watermark.prf import tensors

        ids = torch.as_tensor(contexts, device=logits.device)
        if logits.device.type in ("cpu", "mps"):  # there is no float64 on the latter
            rows = logits.detach().cpu()
            exact = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
            made = torch.from_numpy(self._redrawn(exact.numpy(), ids.cpu().numpy(), words, shut))
            return made.to(logits)
        return self._redrawn_there(without(logits, shut), tensors.window_states(ids, words))

    def _redrawn_there(self, logits: Any, states: Any) -> Any:
        """Where the logits lie; of rows that are cut to some tokens only these are redrawn (top-k, top-p)."""
        import torch

        from watermark.prf import tensors

        most = int((logits > -torch.inf).sum(-1).max()) if len(logits) else 0
        if most * _CUT > logits.shape[1] or not most:
            drawn = tensors.unsigned(tensors.uniform_rows(states, logits.shape[1]))
            return self._redraw_tensor(logits.double(), drawn).to(logits.dtype).where(logits > -torch.inf, -torch.inf)
        kept = logits.topk(most).indices.sort(-1).values  # ascending: of equals the first one wins
        left = logits.gather(1, kept)
        made = self._redraw_tensor(left.double(), tensors.unsigned(tensors.uniforms(states, kept)))
        made = made.to(logits.dtype).where(left > -torch.inf, -torch.inf)  # of a row with nothing left all stays so
        return torch.full_like(logits, -torch.inf).scatter(1, kept, made)


@lru_cache(maxsize=32)
def law_of_tables(high: tuple[int, ...], low: tuple[int, ...]) -> Levels:
    """The law of high + low from how often each level stands in either table: whole numbers over 2^32, exactly."""
    ways = np.convolve(np.array(high, dtype=np.int64), np.array(low, dtype=np.int64))
    return Levels(tuple((ways / 2.0**32).tolist()))


def without(logits: Any, columns: ArrayLike) -> Any:
    """Logits (b, V) in which some columns cannot be drawn, so that the others are shared out alone."""
    closed = np.asarray(columns, dtype=np.int64)
    if not len(closed):
        return logits
    others = logits.copy() if isinstance(logits, np.ndarray) else logits.clone()
    others[:, closed] = -np.inf
    return others


def log_sum(row: NDArray[Any], *, out: NDArray[Any] | None = None) -> float:
    """log Σ e^x of a row, not all of it -inf. out: where the terms may be written, the row itself for instance."""
    largest = row.max()
    terms = np.subtract(row, largest, out=out)
    return float(largest) + math.log(np.exp(terms, out=terms).sum())


def _kept(row: NDArray[Any]) -> NDArray[np.int64] | None:
    """The places of a row that are not -inf, where it was cut to some; None where much is left."""
    if prf.backend() == "numba":
        from watermark.schemes import compiled

        return compiled.kept(row, len(row) // _CUT)
    left = row > -np.inf
    return np.flatnonzero(left) if np.count_nonzero(left) <= len(row) // _CUT else None
