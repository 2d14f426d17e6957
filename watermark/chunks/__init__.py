"""Chunks: parts of a text that a tokenizer reads each by itself, so that what recurs is encoded once.

Where a text may be cut is known from how the tokenizer is made (`cuts`): the ids of the chunks, laid end to end, are
those of the text. Words recur, and looking one up costs a hundredth of encoding it. Other tokenizers are not taken;
tests/test_chunks.py and tests/test_chunks_signs.py hold the result against the tokenizer's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.chunks.added import Added
from watermark.chunks.cuts import SIGN, Cut, cut_of
from watermark.chunks.fresh import Fresh, encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    I64 = NDArray[np.int64]

_ENTRIES, _BYTES = 1 << 20, 1 << 26  # kept at most, then all is forgotten
_LONG = 128  # bytes of a chunk that is not worth keeping
_ALONE = threading.Lock()  # texts are encoded by one thread at a time: what is known grows
_TRIED = (
    "It's 12,345.67 — or\u00a0so \t they\n\nsaid:  “I'LL go!”\r\n  Then\u2003… don't\n \n def f(x):\n\t\treturn x**2 \n"
    f"Zoë 日本語 テスト。 e\u0301 🙂🙂 \u3000x \x1c y\x85z a{SIGN}b {SIGN}{SIGN} c{SIGN} {SIGN}  "
)


@dataclass
class Chunks:
    """Encodes texts by their chunks. backend: a `tokenizers.Tokenizer`; cut, added, fresh: its parts here."""

    backend: Any
    cut: Cut
    added: Added
    fresh: Fresh
    _known: dict[str, list[int]] = field(default_factory=lambda: {"": []})
    _table: Any = None

    @classmethod
    def of(cls, backend: Any) -> Chunks | None:
        """For a tokenizer whose texts may be cut; None for others, and where a trial disagrees."""
        cut = cut_of(backend)
        if cut is None:
            return None
        made = cls(backend, cut, Added.of(backend), Fresh(cut))
        whole = backend.encode(_TRIED, add_special_tokens=False).ids
        return made if made._read([_TRIED], made._by_word)[0].tolist() == whole else None

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """(ids of all texts end to end, where each text ends). Raises UnicodeEncodeError for a lone surrogate."""
        with _ALONE:
            return self._read(texts, self._cut)

    def _read(self, texts: Sequence[str], cut: Callable[[Sequence[str]], tuple[U32, I64]]) -> tuple[U32, I64]:
        """As `encode`: in pieces between tokens of the added vocabulary; a text with one that is not plain as a whole.
        cut: reads the pieces, which hold no such token and have their blank before them."""
        pieces: list[str] = []
        whole: dict[int, str] = {}
        given: dict[int, list[int]] = {}  # ids of pieces that are not cut
        last: list[int] = []
        for text in texts:
            odd = self.added.whole(text)
            if odd:
                text.encode()  # half a character raises here as it does in pieces
                whole[len(pieces)] = text
            for n, part in enumerate([""] if odd else self.added.parted(text)):
                if n % 2:
                    given[len(pieces)] = [self.added.ids[part]]
                pieces.append("" if n % 2 else self.cut.begun(part, first=n == 0))
            last.append(len(pieces) - 1)
        given |= zip(whole, encoded(self.backend, list(whole.values())), strict=True)
        ids, ends = cut(pieces)
        if not given:
            return ids, ends
        rows = np.split(ids, ends[:-1])
        for n, row in given.items():
            rows[n] = np.array(row, dtype=np.uint32)
        return np.concatenate(rows), np.cumsum([len(row) for row in rows], dtype=np.int64)[last]

    def _cut(self, pieces: Sequence[str]) -> tuple[U32, I64]:
        """As `compiled.Table.encode`, with the table where numba is at hand."""
        if prf.backend() != "numba":
            return self._by_word(pieces)
        from watermark.chunks.compiled import Table

        table, self._table = self._table, None  # one that was left while it learned is not used again
        if table is None or len(table) > _ENTRIES or table.size > _BYTES:
            table = Table(self.cut.where, self.cut.held, _LONG)
        found: tuple[U32, I64] = table.encode(pieces, self.fresh.encode)
        self._table = table
        return found

    def _by_word(self, pieces: Sequence[str]) -> tuple[U32, I64]:
        """As `compiled.Table.encode`, with a dictionary."""
        words = [self.cut.places.split(piece) for piece in pieces]
        if len(self._known) > _ENTRIES // 4:
            self._known = {"": []}
        new = [word for word in dict.fromkeys(chain.from_iterable(words)) if word not in self._known]
        self._known.update(zip(new, self._words(new), strict=True))
        rows = [list(chain.from_iterable(map(self._known.__getitem__, some))) for some in words]
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=sum(map(len, rows)))
        return ids, np.cumsum([len(row) for row in rows], dtype=np.int64)

    def _words(self, words: list[str]) -> list[list[int]]:
        coded = [word.encode() for word in words]
        ends = np.cumsum([len(word) for word in coded], dtype=np.int64)
        text = np.frombuffer(b"".join(coded), dtype=np.uint8)
        places = np.stack([np.concatenate([[0], ends[:-1]])[: len(ends)], ends], axis=1)
        ids, starts, lengths = self.fresh.encode(text, places)
        found = ids.tolist()
        return [found[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
