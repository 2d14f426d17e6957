"""Observations from text: the cells (window, token) that a suspect's answers let us score, each counted once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import TooFewObservations
from watermark.observe.rules import MINIMUM_CELLS, REPEATED, Rules
from watermark.schemes import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

VOTES = "votes"
SAMPLED = 4
_BATCH = 512


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

    def __len__(self) -> int:
        return len(self.choices)


def observe(
    outputs: Iterable[Output],
    mark: Watermark,
    *,
    tokenizer: Tokenizer | None = None,
    served: NDArray[np.uint64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Observations:
    """Reads outputs into cells.

    tokenizer: needed where an output is text; it must be the mark's. served: window names from a ledger
    (`served_windows`); only these windows are scored. progress: called with the number of answers read.
    Raises ProfileMismatch for another tokenizer, TooFewObservations under 50 distinct cells.
    """
    if tokenizer is not None:
        mark.check_tokenizer(tokenizer)
    reader = _Reader(Rules(mark, tokenizer, served))
    stream = iter(outputs)
    while batch := tuple(islice(stream, _BATCH)):
        reader.read(batch)
        if progress is not None:
            progress(len(reader.names))
    return reader.finish()


@dataclass
class _Reader:
    rules: Rules
    names: list[str] = field(default_factory=list)
    prompts_known: int = 0
    parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    shown: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)

    def read(self, batch: tuple[Output, ...]) -> None:
        answers = self.rules.tokenized([(o.token_ids, o.text) for o in batch])
        prompts = self.rules.tokenized([(o.prompt_token_ids, o.prompt) for o in batch])
        self.rules.check_width(answers)
        first = len(self.names)
        self.names += [output.id for output in batch]
        self.prompts_known += sum(p is not None for p in prompts)
        self.lengths.append(np.array([len(a or ()) for a in answers], dtype=np.int64))
        for output, answer in zip(batch, answers, strict=True):
            if len(self.shown) < SAMPLED:
                self.shown.append((output.id, np.asarray(answer, dtype=np.int64)))
        found = self.rules.scorable(answers, prompts, self.rules.prompt_texts(batch))
        self.parts.append((found.windows, found.choices, found.documents + first, found.positions))

    def finish(self) -> Observations:
        h = self.rules.mark.scheme.window
        empty = (np.empty((0, h), np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64))
        windows, choices, documents, positions = (np.concatenate(p) for p in zip(empty, *self.parts, strict=True))
        _, kept = np.unique(prf.cell_ids(*canonical(self.rules.mark.scheme, windows, choices)), return_index=True)
        kept.sort()
        skipped = self.rules.skipped | {REPEATED: len(choices) - len(kept)}
        require_cells(len(kept), filtered=self.rules.served is not None)
        windows, choices, documents = windows[kept], choices[kept], documents[kept]
        return Observations(
            windows=windows,
            choices=choices,
            documents=documents,
            names=tuple(self.names),
            tokens=np.concatenate(self.lengths),
            skipped={reason: count for reason, count in skipped.items() if count},
            prompts_known=self.prompts_known,
            samples=tuple(shown_cells(self.shown, documents, positions[kept])),
            digest=hashlib.sha256(windows.astype("<u4").tobytes() + choices.astype("<u4").tobytes()).hexdigest(),
            weights={VOTES: np.ones(len(choices), dtype=np.int32)},
        )


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
