"""Observations: the cells (window, token) that a suspect's outputs let us score, each counted once.

The validity rules live here and only here; none is an option. Proofs: docs/validity.md.

1. One vote for each cell over the whole corpus, by the input that the keyed function uses.
2. A window lies wholly inside the response; a window that occurs in that answer's prompt, as ids or as text (the
   start of copied text is often tokenized otherwise than it was in the prompt), is skipped.
3. A ledger filters by its windows alone, never by (window, token).
4. Special tokens are neither scored nor part of a scored window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import OutputsInvalid, ProfileMismatch, TooFewObservations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger import Record
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

MINIMUM_CELLS = 50
SAMPLED = 4
_BATCH = 512
_START = "no full window before it"
_SKIPPED = (_START, "special token", "window in the prompt", "cell counted before", "window not in the ledger")


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
    reader = _Reader(mark, tokenizer, served)
    stream = iter(outputs)
    while batch := tuple(islice(stream, _BATCH)):
        reader.read(batch)
        if progress is not None:
            progress(len(reader.names))
    return reader.finish()


def served_windows(records: Iterable[Record], mark: Watermark) -> NDArray[np.uint64]:
    """The names of all windows in served answers, sorted. Raises ProfileMismatch for a ledger of another mark,
    OutputsInvalid for a hash-only one."""
    found: list[NDArray[np.uint64]] = [np.empty(0, dtype=np.uint64)]
    for record in records:
        if record.kid != mark.key.kid:
            raise ProfileMismatch(
                f"the ledger holds answers marked under kid {record.kid}, the mark is {mark.key.kid}",
                hint="pass the ledger that was written with this watermark file",
            )
        if record.token_ids is None:
            raise OutputsInvalid(
                "a hash-only ledger holds no tokens, so its windows cannot filter", hint="detect without --ledger"
            )
        ids = np.asarray(record.token_ids, dtype=np.uint32)
        if len(ids) >= mark.scheme.window:
            windows = np.lib.stride_tricks.sliding_window_view(ids, mark.scheme.window)
            found.append(prf.window_ids(windows))
    return np.unique(np.concatenate(found))


@dataclass
class _Reader:
    mark: Watermark
    tokenizer: Tokenizer | None
    served: NDArray[np.uint64] | None
    names: list[str] = field(default_factory=list)
    prompts_known: int = 0
    skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SKIPPED, 0))
    parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    shown: list[tuple[str, NDArray[np.int64]]] = field(default_factory=list)

    def read(self, batch: tuple[Output, ...]) -> None:
        answers = self._tokenized([(o.token_ids, o.text) for o in batch])
        prompts = self._tokenized([(o.prompt_token_ids, o.prompt) for o in batch])
        self._check_width(answers)
        first = len(self.names)
        self.names += [output.id for output in batch]
        self.prompts_known += sum(p is not None for p in prompts)
        self.lengths.append(np.array([len(a or ()) for a in answers], dtype=np.int64))
        for output, answer in zip(batch, answers, strict=True):
            if len(self.shown) < SAMPLED:
                self.shown.append((output.id, np.asarray(answer, dtype=np.int64)))
        self._cells(first, answers, prompts, self._prompt_texts(batch))

    def finish(self) -> Observations:
        h = self.mark.scheme.window
        empty = (np.empty((0, h), np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.int64))
        windows, choices, documents, positions = (np.concatenate(p) for p in zip(empty, *self.parts, strict=True))
        _, kept = np.unique(prf.cell_ids(windows, choices), return_index=True)
        kept.sort()
        self.skipped["cell counted before"] += len(choices) - len(kept)
        if len(kept) < MINIMUM_CELLS:
            raise TooFewObservations(
                f"{len(kept)} distinct cells to score, need at least {MINIMUM_CELLS}",
                hint="query the suspect for more text"
                if self.served is None
                else "query the suspect for more text, or detect without --ledger",
            )
        windows, choices, documents = windows[kept], choices[kept], documents[kept]
        digest = hashlib.sha256(windows.astype("<u4").tobytes() + choices.astype("<u4").tobytes()).hexdigest()
        return Observations(
            windows=windows,
            choices=choices,
            documents=documents,
            names=tuple(self.names),
            tokens=np.concatenate(self.lengths),
            skipped={reason: count for reason, count in self.skipped.items() if count},
            prompts_known=self.prompts_known,
            samples=tuple(self._samples(documents, positions[kept])),
            digest=digest,
        )

    def _cells(self, first: int, answers: list[Any], prompts: list[Any], texts: list[str]) -> None:
        """The cells of one batch: all answers laid end to end, windows that cross an end left out."""
        h = self.mark.scheme.window
        ids, owner, position = _laid_out(answers)
        self.skipped[_START] += int((position < h).sum())
        at = np.flatnonzero(position >= h)
        windows = np.stack([ids[at - h + i] for i in range(h)], axis=1)
        choices, documents, positions = ids[at], owner[at], position[at]
        special = np.asarray(self.mark.special_ids, dtype=np.int64)
        keep = ~(np.isin(windows, special).any(axis=1) | np.isin(choices, special))
        self.skipped["special token"] += int((~keep).sum())
        names = prf.window_ids(windows)
        prompted = keep & np.isin(_owned(names, documents), self._prompt_windows(prompts))
        prompted |= self._in_prompt_text(windows, names, documents, texts, keep & ~prompted)
        self.skipped["window in the prompt"] += int(prompted.sum())
        keep &= ~prompted
        if self.served is not None:
            unserved = keep & ~np.isin(names, self.served)
            self.skipped["window not in the ledger"] += int(unserved.sum())
            keep &= ~unserved
        self.parts.append(
            (
                windows[keep].astype(np.uint32),
                choices[keep].astype(np.uint32),
                documents[keep] + first,
                positions[keep],
            )
        )

    def _prompt_texts(self, batch: tuple[Output, ...]) -> list[str]:
        """Each prompt as text; "" where there is none or no tokenizer to read windows with."""
        if self.tokenizer is None:
            return [""] * len(batch)
        decoded = iter(
            self.tokenizer.texts([o.prompt_token_ids for o in batch if o.prompt is None and o.prompt_token_ids])
        )
        return [o.prompt if o.prompt is not None else next(decoded) if o.prompt_token_ids else "" for o in batch]

    def _in_prompt_text(
        self,
        windows: NDArray[np.int64],
        names: NDArray[np.uint64],
        documents: NDArray[np.int64],
        texts: list[str],
        among: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which cells' windows, as text without leading blanks, stand in their answer's prompt."""
        found = np.zeros(len(windows), dtype=bool)
        at = np.flatnonzero(among & np.array([bool(text) for text in texts])[documents])
        if self.tokenizer is None or not len(at):
            return found
        _, first, which = np.unique(names[at], return_index=True, return_inverse=True)
        read = [text.lstrip() for text in self.tokenizer.texts(windows[at[first]].tolist())]
        found[at] = [read[i] in texts[d] for i, d in zip(which.tolist(), documents[at].tolist(), strict=True)]
        return found

    def _prompt_windows(self, prompts: list[Any]) -> NDArray[np.uint64]:
        h = self.mark.scheme.window
        ids, owner, position = _laid_out(prompts)
        at = np.flatnonzero(position >= h - 1)
        windows = np.stack([ids[at - h + 1 + i] for i in range(h)], axis=1)
        return _owned(prf.window_ids(windows), owner[at])

    def _tokenized(self, given: list[tuple[tuple[int, ...] | None, str | None]]) -> list[Any]:
        """Token ids of each (token_ids, text): ids as they are, text encoded, None where neither is known."""
        texts = [text for ids, text in given if ids is None and text is not None]
        if texts and self.tokenizer is None:
            raise OutputsInvalid(
                "the outputs are text, and no tokenizer was given to read them with",
                hint="pass the teacher's model folder as the tokenizer",
            )
        encoded: Iterator[list[int]] = iter(self.tokenizer.encode(texts) if self.tokenizer else [])
        return [ids if ids is not None else (None if text is None else next(encoded)) for ids, text in given]

    def _check_width(self, answers: list[Any]) -> None:
        binding = self.mark.binding
        largest = max((max(a) for a in answers if a), default=0)
        if binding and largest >= binding.logits_width:
            raise ProfileMismatch(
                f"token id {largest} is beyond the mark's {binding.logits_width} logits",
                hint="were these token ids made by another tokenizer? pass text instead",
            )

    def _samples(self, documents: NDArray[np.int64], positions: NDArray[np.int64]) -> Iterator[Sample]:
        for index, (name, ids) in enumerate(self.shown):
            cells = np.full(len(ids), -1, dtype=np.int64)
            mine = np.flatnonzero(documents == index)
            cells[positions[mine]] = mine
            yield Sample(name, ids, cells)


def _laid_out(rows: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(ids, owner, position) of all rows laid end to end; a row may be None."""
    lengths = np.array([len(row or ()) for row in rows], dtype=np.int64)
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(row or () for row in rows), dtype=np.int64, count=total)
    owner = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    return ids, owner, np.arange(total, dtype=np.int64) - starts[owner]


def _owned(names: NDArray[np.uint64], owner: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Names made particular to one answer of the batch."""
    return prf.cell_ids(names.view(np.uint32).reshape(-1, 2), owner)
