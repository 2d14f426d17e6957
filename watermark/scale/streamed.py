"""Streamed: what was read, as `Observations` has it, while its cells stay on disk and are seen block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from watermark.observe.rules import REPEATED
from watermark.observe.text import SAMPLED, VOTES, Sample, require_cells
from watermark.observe.weights import Cells
from watermark.scale.blocks import block_of
from watermark.scale.once import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scale.job import Bench
    from watermark.scale.tasks import Argument


class Names(Sequence[str]):
    """The answers' ids, looked up where they lie. starts: the place of each block's first answer, and their number."""

    def __init__(self, bench: Bench, starts: NDArray[np.int64]) -> None:
        self._bench, self._starts, self._last = bench, starts, (-1, list[str | None]())

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        index = int(np.searchsorted(self._starts, place, side="right")) - 1
        if self._last[0] != index:
            self._last = index, block_of(self._bench, index).names()
        name = self._last[1][place - int(self._starts[index])]
        return str(place) if name is None else name


@dataclass(frozen=True)
class Streamed:
    """Observations of text whose cells are on disk. The fields are those of `Observations`.

    names: looked up when asked for. count: of cells. bad: records left out.
    """

    bench: Bench
    names: Names
    tokens: NDArray[np.int64]
    skipped: dict[str, int]
    prompts_known: int
    samples: tuple[Sample, ...]
    digest: str
    restored: int
    templated: int
    count: int
    bad: int

    def __len__(self) -> int:
        return self.count

    @property
    def weights(self) -> Mapping[str, NDArray[np.int32]]:
        """One vote for each cell; an array that takes no memory."""
        return {VOTES: np.broadcast_to(np.int32(1), self.count)}

    def chunks(self) -> Iterator[Cells]:
        """The cells that count in reading order, block by block."""
        first = 0
        for index in range(len(self.bench.corpus.blocks)):
            file = block_of(self.bench, index)
            which = counted(self.bench.work, index, file.kept)
            documents = first + np.repeat(np.arange(file.answers, dtype=np.int64), file.array("cells"))
            windows, choices = file.array("windows")[which], file.array("choices")[which]
            yield Cells(windows, choices, documents[which], {VOTES: np.ones(len(choices), dtype=np.int32)})
            first += file.answers


def streamed(bench: Bench, kept: list[Argument], *, filtered: bool, say: Callable[[int], None]) -> Streamed:
    """What was read, from all blocks after the reduce. kept: what `once.survivors` gave of each block.

    say: called with the number of blocks that went into the digest. Raises TooFewObservations under 50 cells.
    """
    files = [block_of(bench, index) for index in range(len(kept))]
    count = sum(each["kept"] for each in kept)
    require_cells(count, filtered=filtered)
    skipped: dict[str, int] = {}
    for file in files:
        for reason, number in file.manifest["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + number
    skipped[REPEATED] = sum(file.manifest["own"] for file in files) - sum(each["own"] for each in kept)
    starts = np.cumsum([0, *(file.answers for file in files)])
    total = {name: sum(f.manifest[name] for f in files) for name in ("prompts_known", "restored", "templated", "bad")}
    names = Names(bench, starts)
    return Streamed(
        bench=bench,
        names=names,
        tokens=np.concatenate([file.array("tokens") for file in files]).astype(np.int64),
        skipped={reason: number for reason, number in skipped.items() if number},
        samples=tuple(_samples(bench, names)),
        digest=_digest(bench, len(files), say),
        count=count,
        **total,
    )


def _samples(bench: Bench, names: Names) -> Iterator[Sample]:
    """The first answers, each token with the number of the cell that it became, or -1."""
    wanted, before, shown = min(SAMPLED, len(names)), 0, 0
    for index in range(len(bench.corpus.blocks)):
        if shown == wanted:
            return
        file = block_of(bench, index)
        which = counted(bench.work, index, file.kept)
        numbers = np.where(which, before + np.cumsum(which) - 1, -1)
        ends = np.cumsum(file.array("cells"), dtype=np.int64)
        for answer, told in enumerate(file.shown()[: wanted - shown]):
            mine = numbers[int(ends[answer - 1]) if answer else 0 : int(ends[answer])]
            at = np.array(told["positions"], dtype=np.int64)
            cells = np.full(len(told["token_ids"]), -1, dtype=np.int64)
            seen = (at >= 0) & (mine >= 0)
            cells[at[seen]] = mine[seen]
            yield Sample(names[shown], np.array(told["token_ids"], dtype=np.int64), cells)
            shown += 1
        before += int(which.sum())


def _digest(bench: Bench, blocks: int, say: Callable[[int], None]) -> str:
    """SHA-256 over all windows, then all choices, in reading order: as `Observations.digest`."""
    digest = hashlib.sha256()
    for number, column in enumerate(("windows", "choices")):
        for index in range(blocks):
            file = block_of(bench, index)
            which = counted(bench.work, index, file.kept)
            digest.update(np.ascontiguousarray(file.array(column)[which]).data)
            say(number * blocks + index + 1)
    return digest.hexdigest()
