"""Chunks: parts of a text that a byte-level tokenizer reads each by itself, so that what recurs is encoded once.

Such a tokenizer first cuts a text by a pattern whose matches never run from a character over a blank into the next
word. So a text may be cut before those blanks: the ids of the chunks, laid end to end, are those of the text. Words
recur, and looking one up costs a hundredth of encoding it. Only tokenizers whose cut is known below are taken;
tests/test_chunks.py holds the result against the tokenizer's own.
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    I64 = NDArray[np.int64]

BEFORE_BLANKS, AFTER_LINES = 1, 2  # where a text may be cut besides before a blank: before or after an end of line
_CUTS = {
    BEFORE_BLANKS: re.compile(r"(?<=\S)(?=[ \n])"),
    AFTER_LINES: re.compile(r"(?<=\S)(?= )|(?<=\n)(?=\S)"),
}
# GPT-4's cut and its descendants: Llama 3, Qwen 2 and 3, GPT-4 (cl100k). Each ends a match at an end of line.
_WITH_LINES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_ENTRIES, _BYTES = 1 << 20, 1 << 26  # kept at most, then all is forgotten
_LONG = 128  # bytes of a chunk that is not worth keeping
_AT_ONCE = 64  # new chunks that are encoded together
_ALONE = threading.Lock()  # texts are encoded by one thread at a time: what is known grows
_TRIED = (
    "It's 12,345.67 — or\u00a0so \t they\n\nsaid:  “I'LL go!”\r\n  Then\u2003… don't\n \n def f(x):\n\t\treturn x**2 \n"
    "Zoë 日本語 テスト。 e\u0301 🙂🙂 \u3000x \x1c y\x85z  "
)


def cut_of(backend: Any) -> int | None:
    """Where texts may be cut for this `tokenizers.Tokenizer`; None if that is not known to be safe."""
    described = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else {}
    normalizer = {} if backend.normalizer is None else json.loads(backend.normalizer.__getstate__())
    whole = normalizer.get("type", "NFC") == "NFC" and getattr(backend.model, "dropout", None) is None
    if not whole or backend.truncation is not None or backend.padding is not None:
        return None
    steps = described.get("pretokenizers", []) if described.get("type") == "Sequence" else [described]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    splits = [step for step in steps if step.get("type") == "Split"]
    others = [step for step in steps if step.get("type") not in ("ByteLevel", "Split", "Digits")]
    if others or len(byte_level) != 1 or byte_level[0] is not steps[-1] or byte_level[0].get("add_prefix_space"):
        return None
    if byte_level[0].get("use_regex", True):
        return None if splits else BEFORE_BLANKS
    known = [step for step in splits if step["pattern"].get("Regex") in _WITH_LINES]
    plain = all(step["behavior"] == "Isolated" and not step["invert"] for step in splits)
    return AFTER_LINES if len(splits) == len(known) == 1 and plain else None


@dataclass
class Chunks:
    """Encodes texts by their chunks. backend: a `tokenizers.Tokenizer`; cut: of `cut_of`; added: what finds a token of
    the added vocabulary in a text, which is then encoded whole, for such tokens are taken out before the cut."""

    backend: Any
    cut: int
    added: re.Pattern[str] | None = None
    _known: dict[str, list[int]] = field(default_factory=lambda: {"": []})
    _table: Any = None

    @classmethod
    def of(cls, backend: Any) -> Chunks | None:
        """For a tokenizer whose texts may be cut; None for others, and where a trial disagrees."""
        cut = cut_of(backend)
        if cut is None:
            return None
        contents = sorted({token.content for token in backend.get_added_tokens_decoder().values()})
        made = cls(backend, cut, re.compile("|".join(map(re.escape, contents))) if contents else None)
        whole = backend.encode(_TRIED, add_special_tokens=False).ids
        return made if made._by_word([_TRIED])[0].tolist() == whole else None

    def encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """(ids of all texts end to end, where each text ends). Raises UnicodeEncodeError for a lone surrogate."""
        with _ALONE:
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> tuple[U32, I64]:
        whole = [n for n, text in enumerate(texts) if self._holds_added(text)]
        if not whole:
            return self._cut(texts)
        aside = set(whole)
        ids, ends = self._cut(["" if n in aside else text for n, text in enumerate(texts)])
        rows = np.split(ids, ends[:-1])
        for n, row in zip(whole, self._encoded([texts[n] for n in whole]), strict=True):
            rows[n] = np.array(row, dtype=np.uint32)
        return np.concatenate(rows), np.cumsum([len(row) for row in rows], dtype=np.int64)

    def _holds_added(self, text: str) -> bool:
        if self.added is None:
            return False
        if self.backend.normalizer is not None and not text.isascii():
            text = f"{text}\0{unicodedata.normalize('NFC', text)}"
        return self.added.search(text) is not None

    def _cut(self, texts: Sequence[str]) -> tuple[U32, I64]:
        if prf.backend() != "numba":
            return self._by_word(texts)
        from watermark.chunks.compiled import Table

        table, self._table = self._table, None  # one that was left while it learned is not used again
        if table is None or len(table) > _ENTRIES or table.size > _BYTES:
            table = Table(self.cut, _LONG)
        found: tuple[U32, I64] = table.encode(texts, self._fresh)
        self._table = table
        return found

    def _by_word(self, texts: Sequence[str]) -> tuple[U32, I64]:
        """As `compiled.Table.encode`, with a dictionary."""
        cut = _CUTS[self.cut]
        words = [cut.split(text) for text in texts]
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
        ids, starts, lengths = self._fresh(
            text, np.stack([np.concatenate([[0], ends[:-1]])[: len(ends)], ends], axis=1)
        )
        found = ids.tolist()
        return [found[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]

    def _fresh(self, text: NDArray[np.uint8], places: I64) -> tuple[U32, I64, I64]:
        """(ids, where those of each chunk start, how many they are) of chunks at `places` (n, 2) of UTF-8.

        The tokenizer takes them many at a time, end to end, where they may be cut again; what each of them became is
        read from the lengths of the tokens. If these do not fit, and of all other chunks, each is encoded by itself.
        """
        if not len(places):
            return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        heads, tails = text[places[:, 0]], text[places[:, 1] - 1]
        begins = (heads == 0x20) | ((heads == 0x0A) & (self.cut == BEFORE_BLANKS))
        together = begins & (tails > 0x20) & (tails < 0x7F) & bool(len(self._widths))
        starts, lengths = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        at = np.flatnonzero(together)
        ids, counts = self._together(text, places[at])
        if counts is None:
            at, ids, counts = at[:0], ids[:0], np.empty(0, dtype=np.int64)
        rest = np.setdiff1d(np.arange(len(places)), at, assume_unique=True)
        rows = self._encoded([bytes(text[start:end]).decode() for start, end in places[rest].tolist()])
        lengths[at], lengths[rest] = counts, [len(row) for row in rows]
        order = np.concatenate([at, rest])
        starts[order] = np.cumsum(lengths[order]) - lengths[order]
        others = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=int(lengths[rest].sum()))
        return np.concatenate([ids, others]), starts, lengths

    def _together(self, text: NDArray[np.uint8], places: I64) -> tuple[U32, I64 | None]:
        """(ids, how many each chunk has), or None for the latter if the tokens' lengths do not fit the chunks'."""
        sizes = places[:, 1] - places[:, 0]
        ends = sizes.cumsum()
        joined = text[np.repeat(places[:, 0] - (ends - sizes), sizes) + np.arange(int(sizes.sum()))]
        cuts = [0, *ends[_AT_ONCE - 1 :: _AT_ONCE].tolist(), len(joined)]
        rows = self._encoded([bytes(joined[start:end]).decode() for start, end in pairwise(cuts) if start < end])
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=sum(map(len, rows)))
        reached = self._widths[ids].cumsum()
        last = np.searchsorted(reached, ends)
        fits = (
            len(reached) and (last < len(reached)).all() and (reached[last] == ends).all() and reached[-1] == ends[-1]
        )
        return ids, np.diff(last, prepend=-1) if fits else None

    @cached_property
    def _widths(self) -> I64:
        """Bytes that each id stands for; far too many for an added token. Empty where texts are normalized first."""
        if self.backend.normalizer is not None:
            return np.empty(0, dtype=np.int64)
        vocabulary, added = self.backend.get_vocab(with_added_tokens=True), self.backend.get_added_tokens_decoder()
        widths = np.full(max(vocabulary.values()) + 1, 1 << 40, dtype=np.int64)
        for token, index in vocabulary.items():
            if index not in added:
                widths[index] = len(token)  # one letter of the byte alphabet for each
        return widths

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
