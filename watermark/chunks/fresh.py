"""Chunks that were not met before: encoded many at a time, each with ids of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.chunks.cuts import BEFORE_BLANKS, BEFORE_SIGNS, SIGN, Cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    I64 = NDArray[np.int64]

_AT_ONCE = 64  # new chunks that are encoded together
_NONE = 1 << 40  # wider than any chunk


@dataclass
class Fresh:
    """Encodes chunks. cut: how texts are cut, and the `tokenizers.Tokenizer` that reads the chunks."""

    cut: Cut

    def encode(self, text: NDArray[np.uint8], places: I64) -> tuple[U32, I64, I64]:
        """(ids, where those of each chunk start, how many they are) of chunks at `places` (n, 2) of UTF-8.

        The tokenizer takes them many at a time, end to end, where they may be cut again; what each of them became is
        read from the lengths of the tokens. If these do not fit, and of all other chunks, each is encoded by itself.
        """
        if not len(places):
            return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        starts, lengths = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        at = np.flatnonzero(self._joinable(text, places))
        ids, counts = self._together(text, places[at])
        if counts is None:
            at, ids, counts = at[:0], ids[:0], np.empty(0, dtype=np.int64)
        rest = np.setdiff1d(np.arange(len(places)), at, assume_unique=True)
        rows = encoded(self.cut.reader, [bytes(text[start:end]).decode() for start, end in places[rest].tolist()])
        lengths[at], lengths[rest] = counts, [len(row) for row in rows]
        order = np.concatenate([at, rest])
        starts[order] = np.cumsum(lengths[order]) - lengths[order]
        others = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=int(lengths[rest].sum()))
        return np.concatenate([ids, others]), starts, lengths

    def _joinable(self, text: NDArray[np.uint8], places: I64) -> NDArray[np.bool_]:
        """Which chunks are cut again where they are laid end to end, and of letters whose number tells them apart."""
        heads, tails = text[places[:, 0]], text[places[:, 1] - 1]
        if not len(self._widths):
            return np.zeros(len(places), dtype=np.bool_)
        if self.cut.where != BEFORE_SIGNS:
            begins = (heads == 0x20) | ((heads == 0x0A) & (self.cut.where == BEFORE_BLANKS))
            found: NDArray[np.bool_] = begins & (tails > 0x20) & (tails < 0x7F)
            return found
        joined, ends = _laid(text, places)
        others = np.add.reduceat(~self._letters[joined], np.concatenate([[0], ends[:-1]]), dtype=np.int64)
        held = np.isin(tails, np.frombuffer(f" {self.cut.held}".encode(), dtype=np.uint8))
        spelt: NDArray[np.bool_] = (heads == 0x20) & ~held & (others == 0)
        return spelt

    def _together(self, text: NDArray[np.uint8], places: I64) -> tuple[U32, I64 | None]:
        """(ids, how many each chunk has), or None for the latter if the tokens' lengths do not fit the chunks'."""
        joined, ends = _laid(text, places)
        cuts = [0, *ends[_AT_ONCE - 1 :: _AT_ONCE].tolist(), len(joined)]
        rows = encoded(
            self.cut.reader, [bytes(joined[start:end]).decode() for start, end in pairwise(cuts) if start < end]
        )
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=sum(map(len, rows)))
        reached = self._widths[ids].cumsum()
        last = np.searchsorted(reached, ends)
        fits = (
            len(reached) and (last < len(reached)).all() and (reached[last] == ends).all() and reached[-1] == ends[-1]
        )
        return ids, np.diff(last, prepend=-1) if fits else None

    @cached_property
    def _widths(self) -> I64:
        """Bytes of a chunk that each id stands for; far too many for an added token. Empty where that is not known,
        since texts are normalized first."""
        signs, added = self.cut.where == BEFORE_SIGNS, self.cut.reader.get_added_tokens_decoder()
        if self.cut.reader.normalizer is not None and not signs:
            return np.empty(0, dtype=np.int64)
        widths = np.full(max(self.cut.vocabulary.values()) + 1, _NONE, dtype=np.int64)
        for token, index in self.cut.vocabulary.items():
            if index not in added:
                widths[index] = len(token)  # one letter of the byte alphabet for each; or one of ASCII, or "▁"
        if signs:
            for byte in np.flatnonzero(self._letters).tolist():
                if _written(byte) not in self.cut.vocabulary:
                    widths[self.cut.vocabulary[f"<0x{byte:02X}>"]] = 1
        return widths

    @cached_property
    def _letters(self) -> NDArray[np.bool_]:
        """Which bytes are characters that the vocabulary has a token for, if only that of the byte."""
        found = np.zeros(256, dtype=np.bool_)
        for byte in range(0x80):
            alone = getattr(self.cut.reader.model, "byte_fallback", False) and f"<0x{byte:02X}>" in self.cut.vocabulary
            found[byte] = _written(byte) in self.cut.vocabulary or (alone and byte != 0x20)
        return found


def _written(byte: int) -> str:
    return SIGN if byte == 0x20 else chr(byte)


def encoded(backend: Any, texts: list[str]) -> list[list[int]]:
    """What a `tokenizers.Tokenizer` makes of texts, nothing added."""
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _laid(text: NDArray[np.uint8], places: I64) -> tuple[NDArray[np.uint8], I64]:
    """(the bytes of all chunks end to end, where each ends there)."""
    sizes = places[:, 1] - places[:, 0]
    ends = sizes.cumsum()
    return text[np.repeat(places[:, 0] - (ends - sizes), sizes) + np.arange(int(sizes.sum()))], ends
