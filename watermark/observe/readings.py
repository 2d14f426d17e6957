"""Observations from log-probabilities: what a suspect, and a reference, make of each position of some texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from watermark import prf
from watermark.errors import SuspectUnusable
from watermark.observe.rules import Position, Rules
from watermark.observe.stages import Betting, Stage, stage_ends
from watermark.observe.text import SAMPLED, VOTES, Observations, Sample, require_cells
from watermark.observe.weights import Rows, statistics_of, votes, weigh
from watermark.schemes import merged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger.filters import WindowFilter
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]

_BATCH = 64


@dataclass(frozen=True)
class Reading:
    """One text as a suspect and a reference see it.

    token_ids (L,): the text in the mark's tokens. positions (m,): of the tokens that were predicted. tokens (m, k):
    candidates as mark ids, -1 for none. suspect, reference (m, k): natural log-probabilities, -inf where unknown;
    None where not read. chosen (m,): the token that stands there, as a mark id, or -1.
    """

    output: Output
    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    tokens: NDArray[np.int32]
    suspect: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None
    chosen: NDArray[np.int32]


@dataclass(frozen=True)
class Read:
    """All that observations are made of: rows, and what they were read from."""

    rows: Rows
    names: tuple[str, ...]
    tokens: NDArray[np.int64]
    skipped: dict[str, int]
    prompts_known: int
    shown: list[tuple[str, NDArray[np.int64]]]
    places: NDArray[np.int64]


def observe_readings(
    readings: Iterable[Reading],
    mark: Watermark,
    *,
    tokenizer: Tokenizer | None = None,
    served: NDArray[np.uint64] | WindowFilter | None = None,
    often: Counts | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Observations, Iterator[Stage]]:
    """Reads log-probabilities into weighted cells; returns all of them, and the same in stages for early stopping.

    often: window names (sorted) and counts, from clean text or a ledger. Raises TooFewObservations under 50 cells,
    SuspectUnusable for NaN, or a reference that says the same as the suspect everywhere.
    """
    read = _read(readings, Rules(mark, tokenizer, served, first=True), progress)
    require_cells(len(read.rows.names), filtered=served is not None)
    return _observations(read, read.rows, often), read_stages(read, often)


def read_stages(read: Read, often: Counts | None) -> Iterator[Stage]:
    """Growing parts of the readings, each with the cells that no earlier one has bet on."""
    betting = Betting(often)
    for end in stage_ends(read.tokens):
        yield betting.stage(read.rows.before(end), reached=read.tokens[:end].cumsum())


def gather(readings: Iterable[Reading], rules: Rules, gathered: Gathered) -> None:
    """Adds readings to what was gathered; the rules decide which positions stay."""
    stream = iter(readings)
    while batch := tuple(islice(stream, _BATCH)):
        prompts = rules.tokenized([(r.output.prompt_token_ids, r.output.prompt) for r in batch])
        answers = [r.token_ids for r in batch]
        rules.check_width(answers)
        found = rules.scorable(answers, prompts, rules.prompt_texts([r.output for r in batch]))
        windows = merged(rules.mark.scheme, found.windows)
        if windows is not found.windows:
            found = replace(found, windows=windows, names=prf.window_ids(windows))
        gathered.add(batch, found, sum(p is not None for p in prompts))


def _read(readings: Iterable[Reading], rules: Rules, progress: Callable[[int], None] | None) -> Read:
    gathered, stream = Gathered(), iter(readings)
    while batch := tuple(islice(stream, _BATCH)):
        gather(batch, rules, gathered)
        if progress is not None:
            progress(len(gathered.names))
    return gathered.finish(rules)


@dataclass
class Gathered:
    """Readings as they come in; `finish` joins them."""

    parts: list[Rows] = field(default_factory=list)
    places: list[NDArray[np.int64]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    shown: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)
    prompts_known: int = 0

    def add(self, batch: tuple[Reading, ...], found: Position, prompts_known: int) -> None:
        first, self.prompts_known = len(self.names), self.prompts_known + prompts_known
        for number, reading in enumerate(batch):
            _check_numbers(reading)
            self.names.append(reading.output.id)
            self.lengths.append(len(reading.token_ids))
            if len(self.shown) < SAMPLED:
                self.shown.append((reading.output.id, reading.token_ids))
            mine = np.flatnonzero(found.documents == number)
            both, here, there = np.intersect1d(found.positions[mine], reading.positions, return_indices=True)
            at = mine[here]
            self.places.append(both)
            self.parts.append(
                Rows(
                    found.windows[at],
                    found.names[at],
                    np.full(len(at), first + number, dtype=np.int64),
                    reading.tokens[there],
                    None if reading.suspect is None else reading.suspect[there],
                    None if reading.reference is None else reading.reference[there],
                    reading.chosen[there],
                )
            )

    def finish(self, rules: Rules) -> Read:
        return Read(
            rows=_joined(self.parts, rules.mark.scheme.window),
            names=tuple(self.names),
            tokens=np.array(self.lengths, dtype=np.int64),
            skipped={reason: count for reason, count in rules.skipped.items() if count},
            prompts_known=self.prompts_known,
            shown=self.shown,
            places=np.concatenate([np.empty(0, dtype=np.int64), *self.places]),
        )


def _check_numbers(reading: Reading) -> None:
    for role, values in (("suspect", reading.suspect), ("reference", reading.reference)):
        if values is not None and (np.isnan(values).any() or np.isposinf(values).any()):
            raise SuspectUnusable(
                f"answer {reading.output.id!r}: the {role} gives log-probabilities that are not numbers",
                hint="is the model whole, and was it loaded in a precision that it can bear?",
            )


def _joined(parts: list[Rows], window: int) -> Rows:
    width = max((part.tokens.shape[1] for part in parts), default=1)
    tokens = [_padded(part.tokens, width, -1) for part in parts]
    empty_rows = np.empty((0, width))
    return Rows(
        windows=np.concatenate([np.empty((0, window), np.uint32), *(part.windows for part in parts)]),
        names=np.concatenate([np.empty(0, np.uint64), *(part.names for part in parts)]),
        documents=np.concatenate([np.empty(0, np.int64), *(part.documents for part in parts)]),
        tokens=np.concatenate([empty_rows.astype(np.int32), *tokens]),
        suspect=_stacked([part.suspect for part in parts], width),
        reference=_stacked([part.reference for part in parts], width),
        chosen=np.concatenate([np.empty(0, np.int32), *(part.chosen for part in parts)]),
    )


def _stacked(parts: list[NDArray[np.float32] | None], width: int) -> NDArray[np.float32] | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if len(known) < len(parts):
        raise SuspectUnusable("some answers came with log-probabilities and some without", hint="probe them alike")
    return np.concatenate([_padded(part, width, -np.inf) for part in known])


def _padded(rows: NDArray, width: int, fill: float) -> NDArray:  # type: ignore[type-arg]
    missing = width - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, missing)), constant_values=fill) if missing else rows


def _observations(read: Read, rows: Rows, often: Counts | None) -> Observations:
    cells = weigh(rows, often=often)
    if all(not values.any() for values in cells.weights.values()):
        raise SuspectUnusable(
            "the reference gives the same probabilities as the suspect at every position; there is nothing to test",
            hint="pass the model that the suspect grew from, not the suspect itself",
        )
    windows, choices, documents = votes(rows)
    names, voted = prf.cell_ids(cells.windows, cells.choices), prf.cell_ids(windows, choices)
    extra = ~np.isin(voted, names)
    marks = {VOTES: np.concatenate([np.isin(names, voted), np.ones(int(extra.sum()))]).astype(np.int32)}
    none = np.zeros(int(extra.sum()), dtype=np.int32)
    marks |= {name: np.concatenate([cells.weights[name], none]) for name in statistics_of(rows)}
    windows = np.concatenate([cells.windows, windows[extra]])
    choices = np.concatenate([cells.choices, choices[extra]])
    documents = np.concatenate([cells.documents, documents[extra]])
    return Observations(
        windows=windows,
        choices=choices,
        documents=documents,
        names=read.names,
        tokens=read.tokens,
        skipped=read.skipped,
        prompts_known=read.prompts_known,
        samples=tuple(_samples(read, rows, windows, choices)),
        digest=digest_of(windows, choices, marks),
        weights=marks,
    )


def digest_of(windows: NDArray[np.uint32], choices: NDArray[np.uint32], weights: dict[str, NDArray[np.int32]]) -> str:
    """SHA-256 over windows, choices and the weights in the order of their names."""
    parts = [windows.astype("<u4"), choices.astype("<u4"), *(weights[name].astype("<i4") for name in sorted(weights))]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def _samples(read: Read, rows: Rows, windows: NDArray[np.uint32], choices: NDArray[np.uint32]) -> Iterator[Sample]:
    """The first answers, each written token with its cell among those observed."""
    names = prf.cell_ids(windows, choices)
    order = np.argsort(names)
    for index, (name, ids) in enumerate(read.shown):
        mine = np.flatnonzero((rows.documents == index) & (rows.chosen >= 0))
        wanted = prf.cell_ids(rows.windows[mine], rows.chosen[mine].astype(np.uint32))
        at = order[np.minimum(np.searchsorted(names[order], wanted), len(order) - 1)]
        cells = np.full(len(ids), -1, dtype=np.int64)
        cells[read.places[mine]] = np.where(names[at] == wanted, at, -1)
        yield Sample(name, np.asarray(ids, dtype=np.int64), cells)
