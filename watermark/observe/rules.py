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

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import OutputsInvalid, ProfileMismatch
from watermark.ledger.filters import WindowFilter, served_among
from watermark.observe.restored import Bare, bare
from watermark.outputs import UINT32, Ids
from watermark.schemes import keyless

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger import Record
    from watermark.mark import Watermark
    from watermark.observe.compiled import Copies
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

    Laid = tuple[NDArray[Any], NDArray[np.int64]]
    Given = Sequence[tuple[Sequence[int] | None, str | None]]

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
UNKNOWN = 2  # whether a window stands in a prompt, where it was not found out
MANY = 1 << 16  # ids from which on compiled passes are worth their start


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

    def where(self, keep: NDArray[np.bool_]) -> Position:
        """Those that are kept."""
        if keep.all():
            return self
        return Position(
            self.windows[keep], self.choices[keep], self.documents[keep], self.positions[keep], self.names[keep]
        )


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
    seen: int = field(default=0, init=False)

    def scorable(self, answers: list[Any], prompts: list[Any], texts: list[str]) -> Position:
        """The positions that may be scored.

        answers, prompts: ids of each answer and its prompt, None where unknown; texts: the prompts as text.
        """
        said, asked = end_to_end(answers), end_to_end(prompts)
        self.seen += len(said[0])
        if self.first or said[0].dtype != np.uint32 or asked[0].dtype != np.uint32 or not self._compiled:
            return self._scorable(said, asked, texts)
        from watermark.observe import compiled

        unfit = self._unfit(*said)
        found = compiled.scan(*said, self.mark.scheme.window, self.mark.special_ids, unfit, *asked)
        for reason, count in zip((START, SPECIAL, OTHER_KEY, KEYLESS, PROMPTED), found.left, strict=True):
            self._skip(reason, count)
        kept = Position(found.windows, found.choices, found.documents, found.positions, found.names)
        copied = self._in_prompt_text(
            kept.windows, kept.names, kept.documents, texts, np.ones(len(kept.choices), dtype=bool)
        )
        self._skip(PROMPTED, int(copied.sum()))
        kept = kept.where(~copied)
        if self.served is None:
            return kept
        served = served_among(kept.names, self.served)
        self._skip(UNSERVED, int((~served).sum()))
        return kept.where(served)

    def _unfit(self, ids: NDArray[np.uint32], bounds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """For each id 0, 1 if its window goes to another key, 2 if no key changes it; empty where all are fit."""
        h = self.mark.scheme.window
        if (self.mark.accounts is None and not hasattr(self.mark.scheme, "keyless")) or len(ids) <= h:
            return np.empty(0, dtype=np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), h)[: len(ids) - h]
        other, without = ~self.mark.owned(windows), keyless(self.mark.scheme, windows)
        unfit = np.zeros(len(ids), dtype=np.uint8)
        unfit[h:] = np.where(other, 1, np.where(without, 2, 0))
        return unfit

    def _scorable(self, said: Laid, asked: Laid, texts: list[str]) -> Position:
        """As `scorable`: the rules in numpy."""
        h = self.mark.scheme.window
        ids, owner, position = placed(*said)
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
        prompted = keep & np.isin(_owned(names, documents), self._prompt_windows(asked))
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

    def tokenized(self, given: Given) -> list[Any]:
        """Token ids of each (token_ids, text): ids as they are, text encoded, None where neither is known."""
        return [
            None if ids is None else ids.tolist() if isinstance(ids, np.ndarray) else ids for ids in self.read(given)
        ]

    def read(self, given: Given) -> list[Any]:
        """As `tokenized`; what was text, or stood in an array, as an array (n,) uint32."""
        texts = [text for ids, text in given if ids is None and text is not None]
        if texts and self.tokenizer is None:
            raise OutputsInvalid(
                "the outputs are text, and no tokenizer was given to read them with",
                hint="pass the teacher's model folder as the tokenizer",
            )
        known = dict(zip(dict.fromkeys(texts), self._encoded(list(dict.fromkeys(texts))), strict=True))
        return [
            (None if text is None else known[text]) if ids is None else ids.array if isinstance(ids, Ids) else ids
            for ids, text in given
        ]

    def _encoded(self, texts: list[str]) -> Sequence[NDArray[np.uint32]]:
        return self.tokenizer.arrays(texts) if self.tokenizer else []

    def prompt_texts(self, batch: Sequence[Output]) -> list[str]:
        """Each prompt as text; "" where there is none or no tokenizer to read windows with.

        Of a prompt that came as text and as ids too: both, if the ids spell more (a template, a retrieved text).
        """
        if self.tokenizer is None:
            return [""] * len(batch)
        decoded = iter(self.tokenizer.texts([o.prompt_token_ids for o in batch if o.prompt_token_ids]))
        spelt = [next(decoded) if o.prompt_token_ids else "" for o in batch]
        return [
            more if output.prompt is None else output.prompt if more in output.prompt else f"{output.prompt}\n{more}"
            for output, more in zip(batch, spelt, strict=True)
        ]

    def check_width(self, answers: list[Any]) -> None:
        """Raises ProfileMismatch for a token id beyond the mark's logits."""
        binding = self.mark.binding
        largest = int(end_to_end(answers)[0].max(initial=0))
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

    def _prompt_windows(self, asked: Laid) -> NDArray[np.uint64]:
        h = self.mark.scheme.window
        ids, owner, position = placed(*asked)
        at = np.flatnonzero(position >= h - 1)
        windows = np.stack([ids[at - h + 1 + i] for i in range(h)], axis=1)
        return _owned(prf.window_ids(windows), owner[at])

    def _in_prompt_text(
        self,
        windows: NDArray[Any],
        names: NDArray[np.uint64],
        documents: NDArray[np.int64],
        texts: list[str],
        among: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which cells' windows, as text without leading blanks, stand in their answer's prompt."""
        found = np.zeros(len(windows), dtype=bool)
        if self.tokenizer is None or not any(texts):
            return found
        at = np.flatnonzero(among & np.array([bool(text) for text in texts], dtype=bool)[documents])
        wholes = [bare(f" {text}") if text else _NOTHING for text in texts] if self.loosely and len(at) else []
        if len(at) and windows.dtype == np.uint32 and self._copies is not None:
            given = windows[at], documents[at]
            copied = self._copies.found_bare(*given, wholes) if self.loosely else self._copies.found(*given, texts)
            found[at], at = copied == 1, at[copied == UNKNOWN]
        if not len(at):
            return found
        _, first, which = np.unique(names[at], return_index=True, return_inverse=True)
        read = self.tokenizer.texts(windows[at[first]].tolist())
        pairs = zip(which.tolist(), documents[at].tolist(), strict=True)
        if self.loosely:
            parts = [bare(text) for text in read]
            found[at] = [wholes[d].holds(parts[i]) for i, d in pairs]
            return found
        read = [text.lstrip() for text in read]
        found[at] = [read[i] in texts[d] for i, d in pairs]
        return found

    @property
    def _compiled(self) -> bool:
        return self.seen >= MANY and prf.backend() == "numba"

    @cached_property
    def _copies(self) -> Copies | None:
        """What compares windows with prompts as text in one pass, where the text of several ids is theirs end to end;
        by words, a blank before the first of them counts, which not all decoders write."""
        if self.tokenizer is None or not (
            self.tokenizer.writes_bytes or (self.tokenizer.writes_signs and not self.loosely)
        ):
            return None
        from watermark.observe.compiled import Copies

        spelt = self.tokenizer.pieces if self.tokenizer.writes_bytes else self.tokenizer.behind
        return Copies(spelt, self.tokenizer.size)


_NOTHING = Bare("", frozenset())


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


def end_to_end(rows: Sequence[Any]) -> Laid:
    """(ids of all rows end to end, where each begins, with the end of the last); a row may be None.

    The ids are uint32, or int64 where one of them does not fit.
    """
    arrays = [_array(row) for row in rows if row is not None and len(row)]
    bounds = np.cumsum([0, *(0 if row is None else len(row) for row in rows)], dtype=np.int64)
    whole = all(each.dtype == np.uint32 for each in arrays)
    kind = np.uint32 if whole else np.int64
    return np.concatenate([np.empty(0, dtype=kind), *arrays]).astype(kind, copy=False), bounds


def _array(row: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    if isinstance(row, np.ndarray) and row.dtype == np.uint32:
        return row
    try:
        return np.frombuffer(array(UINT32, row), dtype=np.uint32)
    except (OverflowError, TypeError):
        return np.asarray(row, dtype=np.int64)


def placed(
    ids: NDArray[Any], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(ids, owner, position) of rows laid end to end."""
    owner = np.repeat(np.arange(len(bounds) - 1, dtype=np.int64), np.diff(bounds))
    return ids.astype(np.int64), owner, np.arange(len(ids), dtype=np.int64) - bounds[:-1][owner]


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
