"""Observations from text: the cells (window, token) that a suspect's answers let us score, each counted once.

A text is read as it came, and once more for each way in which it may have been changed on its way here (`restored`);
its cells are those of all readings together. Token ids are read as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import TooFewObservations
from watermark.observe.ahead import ahead, settled
from watermark.observe.rows import likely, rows_of
from watermark.observe.rules import MANY, MINIMUM_CELLS, REPEATED, Rules, end_to_end
from watermark.schemes import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger.filters import WindowFilter
    from watermark.mark import Watermark
    from watermark.observe.rows import Row
    from watermark.outputs import Output
    from watermark.schemes import Scheme
    from watermark.tokenizer import Tokenizer

    _Read = tuple[Row, Any, Any]  # with its ids and those of what stood before it
    _Part = tuple[NDArray[Any], ...]

VOTES = "votes"
SAMPLED = 4
BATCH = 512
_SIFTED = 1 << 22  # cells that wait at most, or as many as were kept so far


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
    batches = iter(lambda: tuple(islice(stream, BATCH)), ())
    beside = prf.threads() > 1 and tokenizer is not None and tokenizer.shareable
    with settled():
        for prepared in ahead(batches, reader.prepared) if beside else map(reader.prepared, batches):
            reader.take(prepared)
            reader.settle()
            if progress is not None:
                progress(len(reader.names))
        return reader.finish()


@dataclass(frozen=True)
class Prepared:
    """A batch of answers with its tokens: all that is a function of texts and tokenizer alone.

    read: its rows, each with its ids, whether they are its answer's own, and the ids of what stood before them.
    """

    batch: tuple[Output, ...]
    rows: tuple[Row, ...]
    read: tuple[tuple[Row, Any, bool, Any], ...]


@dataclass
class Reader:
    """Reads batches of answers into cells.

    rules: for answers as they came. `loosely`: for readings with changes undone. `aside`: for further readings.
    parts: what was read and not yet settled.
    """

    rules: Rules
    names: list[str] = field(default_factory=list)
    prompts_known: int = 0
    templated: int = 0
    restored: int = 0
    parts: list[_Part] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    shown: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loosely = replace(self.rules, loosely=True)  # what it leaves out counts as well
        self.aside = replace(self.loosely, skipped={})
        self.distinct = Distinct(self.rules.mark.scheme)

    def prepared(self, batch: tuple[Output, ...]) -> Prepared:
        """The batch's rows and tokens. Changes nothing here, so that another thread may do it."""
        self.rules.check_spelling(batch)
        asked = self.rules.prompt_texts(batch)
        rows = [row for n, output in enumerate(batch) for row in rows_of(n, output, asked[n])]
        kept = list(likely(rows, self.rules.read([row.given for row in rows])))
        self.rules.check_width([ids for _, ids, _ in kept])
        prompts = iter(self.rules.read([prompt for row, *_ in kept for prompt in row.prompts]))
        read = tuple((row, ids, own, _one(list(islice(prompts, len(row.prompts))))) for row, ids, own in kept)
        return Prepared(batch, tuple(rows), read)

    def take(self, prepared: Prepared) -> None:
        """Reads a batch into cells."""
        first, kept = len(self.names), prepared.read
        self.names += [output.id for output in prepared.batch]
        self.prompts_known += len({row.document for row in prepared.rows if row.prompts})
        self.templated += len({row.document for row in prepared.rows if row.templated})
        self.restored += len({row.document for row, *_ in kept if row.reading})
        starts = self._measure([(row, ids) for row, ids, own, _ in kept if own], prepared.batch)
        groups: tuple[tuple[Rules, list[_Read]], ...] = (
            (self.rules, [(row, ids, asked) for row, ids, own, asked in kept if own and not row.reading]),
            (self.loosely, [(row, ids, asked) for row, ids, own, asked in kept if own and row.reading]),
            (self.aside, [(row, ids, asked) for row, ids, own, asked in kept if not own]),
        )
        parts = [_cells(rules, read, {} if rules is self.aside else starts) for rules, read in groups if read]
        windows, choices, documents, positions = _in_order(parts) if len(parts) > 1 else parts[0]
        self.parts.append((windows, choices, documents + first, positions))

    def _measure(self, read: list[tuple[Row, Any]], batch: tuple[Output, ...]) -> dict[tuple[int, int], int]:
        """Notes each answer's length and shows the first ones; returns where in its answer each turn starts."""
        lengths, starts = [0] * len(batch), {}
        said: list[list[Any]] = [[] for _ in batch[: SAMPLED - len(self.shown)]]
        for row, ids in read:
            starts[row.document, row.turn] = lengths[row.document]
            lengths[row.document] += 0 if ids is None else len(ids)
            if row.document < len(said):
                said[row.document].append(ids)
        self.lengths.append(np.array(lengths, dtype=np.int64))
        for output, tokens in zip(batch, said, strict=False):
            self.shown.append((output.id, end_to_end(tokens)[0].astype(np.int64)))
        return starts

    def settle(self) -> None:
        """Keeps of what was read the cells that are met for the first time."""
        for part in self.parts:
            self.distinct.add(part)
        self.parts.clear()

    def cells(self) -> tuple[NDArray[Any], ...]:
        """(windows, choices, documents, positions) of all cells that may be scored, each as often as it stands."""
        return _joined(self.rules.mark.scheme, self.parts)

    def finish(self) -> Observations:
        self.settle()
        windows, choices, documents, positions = self.distinct.finish()
        skipped = self.rules.skipped | {REPEATED: self.distinct.repeated}
        require_cells(len(choices), filtered=self.rules.served is not None)
        return Observations(
            windows=windows,
            choices=choices,
            documents=documents,
            names=tuple(self.names),
            tokens=np.concatenate(self.lengths),
            skipped={reason: count for reason, count in skipped.items() if count},
            prompts_known=self.prompts_known,
            samples=tuple(self._samples(documents, positions)),
            digest=_digest(windows, choices),
            weights={VOTES: np.ones(len(choices), dtype=np.int32)},
            restored=self.restored,
            templated=self.templated,
        )

    def _samples(self, documents: NDArray[np.int64], positions: NDArray[np.int64]) -> Iterator[Sample]:
        """The first answers with their own cells; documents ascend."""
        first = int(np.searchsorted(documents, len(self.shown)))
        positions = positions[:first]
        return shown_cells(self.shown, np.where(positions < 0, -1, documents[:first]), positions)


def _digest(windows: NDArray[np.uint32], choices: NDArray[np.uint32]) -> str:
    hashed = hashlib.sha256(np.ascontiguousarray(windows, dtype="<u4").data)
    hashed.update(np.ascontiguousarray(choices, dtype="<u4").data)
    return hashed.hexdigest()


@dataclass
class Distinct:
    """Cells that were met for the first time, by what the scheme's keyed function uses of them (rule 1).

    repeated: how many of the answers' own cells were met before.
    """

    scheme: Scheme
    repeated: int = 0
    waiting: list[_Part] = field(default_factory=list)
    kept: list[_Part] = field(default_factory=list)
    count: int = 0
    names: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def add(self, part: _Part) -> None:
        """Takes cells (windows, choices, documents, positions) in reading order."""
        self.waiting.append(part)
        self.count += len(part[1])
        if self.count >= max(_SIFTED, len(self.names)) and prf.backend() == "numba":
            self._sift()

    def finish(self) -> _Part:
        """All distinct cells in reading order."""
        if self.kept or (self.count >= MANY and prf.backend() == "numba"):
            self._sift(last=True)
            return _joined(self.scheme, self.kept)
        windows, choices, documents, positions = _joined(self.scheme, self.waiting)
        _, first = np.unique(prf.cell_ids(*canonical(self.scheme, windows, choices)), return_index=True)
        first.sort()
        self.repeated += int((positions >= 0).sum() - (positions[first] >= 0).sum())
        return windows[first], choices[first], documents[first], positions[first]

    def _sift(self, *, last: bool = False) -> None:
        """Keeps of those that wait what was not met. names: of all that are kept, for the next time."""
        from watermark.observe.compiled import cell_names, first_of, taken

        if not self.waiting:
            return
        known, own = len(self.names), sum(int((part[3] >= 0).sum()) for part in self.waiting)
        names = np.empty(known + self.count, dtype=np.uint64)
        names[:known], at = self.names, known
        for part in self.waiting:
            at = cell_names(*canonical(self.scheme, part[0], part[1]), names, at)
        first = first_of(names)
        self.kept.append(taken(first[known:], self.waiting))
        self.repeated += own - int((self.kept[-1][3] >= 0).sum())
        self.names, self.count = self.names if last else names[first], 0
        self.waiting.clear()


def _joined(scheme: Scheme, parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    empty = (
        np.empty((0, scheme.window), np.uint32),
        np.empty(0, np.uint32),
        np.empty(0, np.int64),
        np.empty(0, np.int64),
    )
    return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))


def _in_order(parts: list[_Part]) -> _Part:
    """Cells of several readings by their answers, those of one reading before those of the next."""
    windows, choices, documents, positions = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(documents, kind="stable")
    return windows[order], choices[order], documents[order], positions[order]


def _cells(rules: Rules, read: list[_Read], starts: dict[tuple[int, int], int]) -> _Part:
    """(windows, choices, documents, positions) of what may be scored.

    starts: where in its answer each turn starts. positions: of the scored tokens in their answers; -1 without `starts`.
    """
    rows = [row for row, *_ in read]
    found = rules.scorable([ids for _, ids, _ in read], [asked for *_, asked in read], [row.asked for row in rows])
    start = np.array([starts.get((row.document, row.turn), 0) for row in rows], dtype=np.int64)
    document = np.array([row.document for row in rows], dtype=np.int64)
    positions = found.positions if starts else np.full_like(found.positions, -1)
    if start.any():
        positions = positions + start[found.documents]
    documents = found.documents
    if (document != np.arange(len(rows))).any():
        documents = document[documents]
    return found.windows, found.choices, documents, positions


def _one(readings: list[Any]) -> Any:
    """The readings of one prompt end to end; None where there is none."""
    if not readings:
        return None
    return readings[0] if len(readings) == 1 else end_to_end(readings)[0]


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
