"""The validity rules: which positions of an answer may be scored. None is an option. Proofs: docs/validity.md.

1. One vote for each cell over the whole corpus, by the input that the keyed function uses (`text`); where weights
   are summed, a cell has one weight and one coin (`weights`).
2. A window lies wholly inside the response; a window that occurs in that answer's prompt, as ids or as text (the
   start of copied text is often tokenized otherwise than it was in the prompt), is skipped; in a reading that has
   changes undone, whatever the prompt's blanks, signs and capitals are.
3. A ledger filters by its windows alone, never by (window, token).
4. Special tokens are neither scored nor part of a scored window; where a mark has accounts, only windows that go to
   the key that is tested are scored.
5. Where log-probabilities are read, a window that occurs earlier in the same answer is skipped too: the text may
   have been put before the model, and what followed that window last time can be copied from it. The first tokens
   of an answer were served after windows that reach back into the prompt, and prompts (with the teacher's chat
   template) are not always known: so a window is skipped too if it ends as such a window may have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import OutputsInvalid, ProfileMismatch
from watermark.ledger.filters import WindowFilter, served_among
from watermark.observe.restored import bare
from watermark.schemes import keyless

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger import Record
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

MINIMUM_CELLS = 50
START = "no full window before it"
SPECIAL = "special token"
PROMPTED = "window in the prompt"
UNSERVED = "window not in the ledger"
REPEATED = "cell counted before"
OTHER_KEY = "window of another key"
KEYLESS = "window that no key changes"
EARLIER = "window earlier in the same answer"
_LOOKED_AT, _SPELT = 4, 256  # answers and ids that are spelt to see whether they are the text's


@dataclass(frozen=True)
class Position:
    """Scorable positions of a batch of answers, shape (n,) each; windows (n, h).

    documents: index of the answer within the batch. positions: of the scored token in its answer. names: public
    names of the windows.
    """

    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    documents: NDArray[np.int64]
    positions: NDArray[np.int64]
    names: NDArray[np.uint64]


@dataclass
class Rules:
    """Applies the rules batch by batch and counts what they leave out.

    served: window names from a ledger, sorted, or a filter of them (`served_in`); only these windows are scored.
    first: rule 5 holds. loosely:
    windows and prompts are compared as text by their words alone (`restored.bare`).
    """

    mark: Watermark
    tokenizer: Tokenizer | None
    served: NDArray[np.uint64] | WindowFilter | None = None
    first: bool = False
    loosely: bool = False
    skipped: dict[str, int] = field(default_factory=dict)

    def scorable(self, answers: list[Any], prompts: list[Any], texts: list[str]) -> Position:
        """The positions that may be scored.

        answers, prompts: ids of each answer and its prompt, None where unknown; texts: the prompts as text.
        """
        h = self.mark.scheme.window
        ids, owner, position = laid_out(answers)
        self._skip(START, int((position < h).sum()))
        at = np.flatnonzero(position >= h)
        windows = np.stack([ids[at - h + i] for i in range(h)], axis=1)
        choices, documents, positions = ids[at], owner[at], position[at]
        special = np.asarray(self.mark.special_ids, dtype=np.int64)
        keep = ~(np.isin(windows, special).any(axis=1) | np.isin(choices, special))
        self._skip(SPECIAL, int((~keep).sum()))
        keep = self._drop(OTHER_KEY, keep, ~self.mark.owned(windows))
        keep = self._drop(KEYLESS, keep, keyless(self.mark.scheme, windows))
        names = prf.window_ids(windows)
        prompted = keep & np.isin(_owned(names, documents), self._prompt_windows(prompts))
        prompted |= self._in_prompt_text(windows, names, documents, texts, keep & ~prompted)
        keep = self._drop(PROMPTED, keep, prompted)
        if self.first:
            earlier = _seen_before(_owned(names, documents)) | _like_the_start(ids, position, at, h)
            keep = self._drop(EARLIER, keep, earlier)
        if self.served is not None:
            keep = self._drop(UNSERVED, keep, ~served_among(names, self.served))
        return Position(
            windows[keep].astype(np.uint32),
            choices[keep].astype(np.uint32),
            documents[keep],
            positions[keep],
            names[keep],
        )

    def tokenized(self, given: Sequence[tuple[Sequence[int] | None, str | None]]) -> list[Any]:
        """Token ids of each (token_ids, text): ids as they are, text encoded, None where neither is known."""
        texts = [text for ids, text in given if ids is None and text is not None]
        if texts and self.tokenizer is None:
            raise OutputsInvalid(
                "the outputs are text, and no tokenizer was given to read them with",
                hint="pass the teacher's model folder as the tokenizer",
            )
        encoded: Iterator[list[int]] = iter(self.tokenizer.encode(texts) if self.tokenizer else [])
        return [ids if ids is not None else (None if text is None else next(encoded)) for ids, text in given]

    def prompt_texts(self, batch: Sequence[Output]) -> list[str]:
        """Each prompt as text; "" where there is none or no tokenizer to read windows with."""
        if self.tokenizer is None:
            return [""] * len(batch)
        decoded = iter(
            self.tokenizer.texts([o.prompt_token_ids for o in batch if o.prompt is None and o.prompt_token_ids])
        )
        return [o.prompt if o.prompt is not None else next(decoded) if o.prompt_token_ids else "" for o in batch]

    def check_width(self, answers: list[Any]) -> None:
        """Raises ProfileMismatch for a token id beyond the mark's logits."""
        binding = self.mark.binding
        largest = max((max(a) for a in answers if a is not None and len(a)), default=0)
        if binding and largest >= binding.logits_width:
            raise ProfileMismatch(
                f"token id {largest} is beyond the mark's {binding.logits_width} logits",
                hint="were these token ids made by another tokenizer? pass text instead",
            )

    def check_spelling(self, batch: Sequence[Output]) -> None:
        """Raises ProfileMismatch if none of the token ids that came with their text spells it: another tokenizer's."""
        both = [(o.token_ids[:_SPELT], o.text) for o in batch if o.token_ids and o.text][:_LOOKED_AT]
        if self.tokenizer is None or not both:
            return
        spelt = self.tokenizer.texts([ids for ids, _ in both])
        if not any(_alike(said, text) for said, (_, text) in zip(spelt, both, strict=True)):
            raise ProfileMismatch(
                f"the token ids do not spell the text that came with them: {spelt[0][:40]!r} where the text begins "
                f"{both[0][1][:40]!r}; another tokenizer made them, and scores would be chance",
                hint="leave the ids out, so that the text is read, or pass the mark of the model that made them",
            )

    def _skip(self, reason: str, count: int) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def _drop(self, reason: str, keep: NDArray[np.bool_], unfit: NDArray[np.bool_]) -> NDArray[np.bool_]:
        self._skip(reason, int((keep & unfit).sum()))
        return keep & ~unfit

    def _prompt_windows(self, prompts: list[Any]) -> NDArray[np.uint64]:
        h = self.mark.scheme.window
        ids, owner, position = laid_out(prompts)
        at = np.flatnonzero(position >= h - 1)
        windows = np.stack([ids[at - h + 1 + i] for i in range(h)], axis=1)
        return _owned(prf.window_ids(windows), owner[at])

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
        at = np.flatnonzero(among & np.array([bool(text) for text in texts], dtype=bool)[documents])
        if self.tokenizer is None or not len(at):
            return found
        _, first, which = np.unique(names[at], return_index=True, return_inverse=True)
        read = self.tokenizer.texts(windows[at[first]].tolist())
        pairs = zip(which.tolist(), documents[at].tolist(), strict=True)
        if self.loosely:
            parts, wholes = [bare(text) for text in read], [bare(f" {text}") for text in texts]
            found[at] = [wholes[d].holds(parts[i]) for i, d in pairs]
            return found
        read = [text.lstrip() for text in read]
        found[at] = [read[i] in texts[d] for i, d in pairs]
        return found


def _alike(said: str, text: str) -> bool:
    """Whether most words of the shorter text stand in the other one; true where there are none to compare."""
    few, many = sorted((set(bare(said).words.split()), set(bare(text).words.split())), key=len)
    return 2 * len(few & many) >= len(few)


def require_record(record: Record, mark: Watermark) -> list[int]:
    """The served token ids of a ledger's record. Raises ProfileMismatch for another mark's, OutputsInvalid for
    a hash-only one."""
    if mark.key.kid not in (record.kid, record.receipt.get("shared_kid")):
        raise ProfileMismatch(
            f"the ledger holds answers marked under kid {record.kid}, the mark is {mark.key.kid}",
            hint="pass the ledger that was written with this watermark file",
        )
    if record.token_ids is None:
        raise OutputsInvalid(
            "a hash-only ledger holds no tokens, so its windows cannot filter", hint="detect without --ledger"
        )
    return record.token_ids


def laid_out(rows: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(ids, owner, position) of all rows laid end to end; a row may be None."""
    lengths = np.array([0 if row is None else len(row) for row in rows], dtype=np.int64)
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(() if row is None else row for row in rows), dtype=np.int64, count=total)
    owner = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    return ids, owner, np.arange(total, dtype=np.int64) - starts[owner]


def _owned(names: NDArray[np.uint64], owner: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Names made particular to one answer of the batch."""
    return prf.cell_ids(names.view(np.uint32).reshape(-1, 2), owner)


def _like_the_start(
    ids: NDArray[np.int64], position: NDArray[np.int64], at: NDArray[np.int64], h: int
) -> NDArray[np.bool_]:
    """Whether the window before each place of `at` ends with all tokens by which its answer begins: 1 to h - 1."""
    start, found = at - position[at], np.zeros(len(at), dtype=bool)
    for length in range(1, h):
        same = np.ones(len(at), dtype=bool)
        for step in range(length):
            same &= ids[at - length + step] == ids[start + step]
        found |= same
    return found


def _seen_before(names: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each name stood earlier in the array."""
    _, first = np.unique(names, return_index=True)
    seen = np.ones(len(names), dtype=bool)
    seen[first] = False
    return seen
