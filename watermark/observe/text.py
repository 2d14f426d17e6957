"""Observations from text: the cells (window, token) that a suspect's answers let us score, each counted once.

A text is read as it came, and once more for each way in which it may have been changed on its way here (`restored`);
its cells are those of all readings together. Token ids are read as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import TooFewObservations
from watermark.observe.rows import likely, rows_of
from watermark.observe.rules import MINIMUM_CELLS, REPEATED, Rules
from watermark.schemes import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger.filters import WindowFilter
    from watermark.mark import Watermark
    from watermark.observe.rows import Row
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

    _Read = tuple[Row, list[int]]

VOTES = "votes"
SAMPLED = 4
BATCH = 512


@dataclass(frozen=True)
class Sample:
    """One answer kept for display: its token ids, and for each the cell it became (-1: not scored)."""

    id: str
    token_ids: NDArray[np.int64]
    cells: NDArray[np.int64]


@dataclass(frozen=True)
class Observations:
    """n distinct cells in reading order.

    windows: (n, h) ids; choices: (n,) ids; documents: (n,) index of the answer each came from.
    weights: by statistic, (n,) whole numbers: how much each cell counts, chosen without the key. "votes" counts
    each voted cell once.
    names: id of every answer; tokens: tokens of every answer, shape (documents,).
    skipped: how many tokens were not scored, by reason. prompts_known: answers whose prompt is known.
    digest: SHA-256 over windows and choices; it seeds the decoys.
    restored: answers of which a reading with changes undone was scored; templated: answers that came inside a chat's
    template, of which the assistant's turns were read.
    """

    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    documents: NDArray[np.int64]
    names: tuple[str, ...]
    tokens: NDArray[np.int64]
    skipped: dict[str, int]
    prompts_known: int
    samples: tuple[Sample, ...]
    digest: str
    weights: Mapping[str, NDArray[np.int32]]
    restored: int = 0
    templated: int = 0

    def __len__(self) -> int:
        return len(self.choices)


def observe(
    outputs: Iterable[Output],
    mark: Watermark,
    *,
    tokenizer: Tokenizer | None = None,
    served: NDArray[np.uint64] | WindowFilter | None = None,
    progress: Callable[[int], None] | None = None,
) -> Observations:
    """Reads outputs into cells.

    tokenizer: needed where an output is text; it must be the mark's. served: window names from a ledger
    (`served_in`); only these windows are scored. progress: called with the number of answers read.
    Raises ProfileMismatch for another tokenizer, or ids that do not spell the text beside them; TooFewObservations
    under 50 distinct cells.
    """
    if tokenizer is not None:
        mark.check_tokenizer(tokenizer)
    reader = Reader(Rules(mark, tokenizer, served))
    stream = iter(outputs)
    while batch := tuple(islice(stream, BATCH)):
        reader.read(batch)
        if progress is not None:
            progress(len(reader.names))
    return reader.finish()


@dataclass
class Reader:
    """Reads batches of answers into cells. rules: for answers as they came. `loosely`: for readings with changes undone. `aside`: for further readings."""

    rules: Rules
    names: list[str] = field(default_factory=list)
    prompts_known: int = 0
    templated: int = 0
    restored: int = 0
    parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    shown: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loosely = replace(self.rules, loosely=True)  # what it leaves out counts as well
        self.aside = replace(self.loosely, skipped={})

    def read(self, batch: tuple[Output, ...]) -> None:
        first = len(self.names)
        self.names += [output.id for output in batch]
        self.rules.check_spelling(batch)
        asked = self.rules.prompt_texts(batch)
        rows = [row for n, output in enumerate(batch) for row in rows_of(n, output, asked[n])]
        kept = list(likely(rows, self.rules.tokenized([row.given for row in rows])))
        self.rules.check_width([ids for _, ids, _ in kept])
        self.prompts_known += len({row.document for row in rows if row.prompts})
        self.templated += len({row.document for row in rows if row.templated})
        self.restored += len({row.document for row, *_ in kept if row.reading})
        starts = self._measure([(row, ids) for row, ids, main in kept if main], batch)
        groups: tuple[tuple[Rules, list[_Read]], ...] = (
            (self.rules, [(row, ids) for row, ids, main in kept if main and not row.reading]),
            (self.loosely, [(row, ids) for row, ids, main in kept if main and row.reading]),
            (self.aside, [(row, ids) for row, ids, main in kept if not main]),
        )
        parts = zip(
            *(_cells(rules, read, {} if rules is self.aside else starts) for rules, read in groups), strict=True
        )
        windows, choices, documents, positions = map(np.concatenate, parts)
        order = np.argsort(documents, kind="stable")
        self.parts.append((windows[order], choices[order], documents[order] + first, positions[order]))

    def _measure(self, read: list[_Read], batch: tuple[Output, ...]) -> dict[tuple[int, int], int]:
        """Notes each answer's length and shows the first ones; returns where in its answer each turn starts."""
        said: list[list[int]] = [[] for _ in batch]
        starts = {}
        for row, ids in read:
            starts[row.document, row.turn] = len(said[row.document])
            said[row.document] += ids
        self.lengths.append(np.array([len(ids) for ids in said], dtype=np.int64))
        for output, tokens in zip(batch[: SAMPLED - len(self.shown)], said, strict=False):
            self.shown.append((output.id, np.asarray(tokens, dtype=np.int64)))
        return starts

    def cells(self) -> tuple[NDArray[Any], ...]:
        """(windows, choices, documents, positions) of all cells that may be scored, each as often as it stands."""
        h = self.rules.mark.scheme.window
        empty = (np.empty((0, h), np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64))
        return tuple(np.concatenate(part) for part in zip(empty, *self.parts, strict=True))

    def finish(self) -> Observations:
        windows, choices, documents, positions = self.cells()
        _, kept = np.unique(prf.cell_ids(*canonical(self.rules.mark.scheme, windows, choices)), return_index=True)
        kept.sort()
        own = positions >= 0
        skipped = self.rules.skipped | {REPEATED: int(own.sum() - own[kept].sum())}
        require_cells(len(kept), filtered=self.rules.served is not None)
        windows, choices, documents, positions = windows[kept], choices[kept], documents[kept], positions[kept]
        return Observations(
            windows=windows,
            choices=choices,
            documents=documents,
            names=tuple(self.names),
            tokens=np.concatenate(self.lengths),
            skipped={reason: count for reason, count in skipped.items() if count},
            prompts_known=self.prompts_known,
            samples=tuple(shown_cells(self.shown, np.where(positions < 0, -1, documents), positions)),
            digest=hashlib.sha256(windows.astype("<u4").tobytes() + choices.astype("<u4").tobytes()).hexdigest(),
            weights={VOTES: np.ones(len(choices), dtype=np.int32)},
            restored=self.restored,
            templated=self.templated,
        )


def _cells(rules: Rules, read: list[_Read], starts: dict[tuple[int, int], int]) -> tuple[NDArray[Any], ...]:
    """(windows, choices, documents, positions) of what may be scored.

    starts: where in its answer each turn starts. positions: of the scored tokens in their answers; -1 without `starts`.
    """
    rows = [row for row, _ in read]
    asked = iter(rules.tokenized([prompt for row in rows for prompt in row.prompts]))
    prompts = [list(chain.from_iterable(islice(asked, len(row.prompts)))) or None for row in rows]
    found = rules.scorable([ids for _, ids in read], prompts, [row.asked for row in rows])
    start = np.array([starts.get((row.document, row.turn), 0) for row in rows], dtype=np.int64)
    document = np.array([row.document for row in rows], dtype=np.int64)
    positions = found.positions + start[found.documents] if starts else np.full_like(found.positions, -1)
    return found.windows, found.choices, document[found.documents], positions


def require_cells(count: int, *, filtered: bool) -> None:
    """Raises TooFewObservations under 50 distinct cells."""
    if count < MINIMUM_CELLS:
        raise TooFewObservations(
            f"{count} distinct cells to score, need at least {MINIMUM_CELLS}",
            hint="query the suspect for more text" + (", or detect without --ledger" if filtered else ""),
        )


def shown_cells(
    shown: list[tuple[str, NDArray[np.int64]]], documents: NDArray[np.int64], positions: NDArray[np.int64]
) -> Iterator[Sample]:
    """The first answers, each token with the cell it became. positions: (n,) of the cells in their answers."""
    for index, (name, ids) in enumerate(shown):
        cells = np.full(len(ids), -1, dtype=np.int64)
        mine = np.flatnonzero(documents == index)
        cells[positions[mine]] = mine
        yield Sample(name, ids, cells)
