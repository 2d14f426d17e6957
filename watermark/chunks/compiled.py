"""Chunks in numba: texts as bytes, cut and looked up in one pass. The cuts are those of `cuts`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Encoded = Callable[[NDArray[np.uint8], NDArray[np.int64]], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]

_SMALLEST = 1 << 12


@njit(cache=True)
def _most(size: int, texts: int) -> int:
    """The most chunks there can be in so many bytes: two of three, as in "x \\nx \\n", and the ends of each text."""
    return 2 * size // 3 + 2 * texts


@njit(cache=True, nogil=True)
def _blank_at(text: Any, at: int) -> bool:
    """Whether a character that is blank, or may be one, begins at this byte (str.isspace)."""
    byte = text[at]
    if byte < 0x80:
        return byte == 0x20 or 0x09 <= byte <= 0x0D or 0x1C <= byte <= 0x1F
    return byte == 0xC2 or byte == 0xE1 or byte == 0xE2 or byte == 0xE3


@njit(cache=True, nogil=True)
def _is_blank(text: Any, first: int, at: int) -> bool:
    """Whether the character that ends before this byte is blank. first: where the text begins."""
    last = text[at - 1]
    if last < 0x80:
        return _blank_at(text, at - 1)
    lead = at - 1
    while lead > first and 0x80 <= text[lead] < 0xC0:
        lead -= 1
    if text[lead] == 0xC2:
        return last == 0x85 or last == 0xA0
    if text[lead] == 0xE1:
        return text[lead + 1] == 0x9A and last == 0x80
    if text[lead] == 0xE2 and text[lead + 1] == 0x80:
        return last <= 0x8A or last == 0xA8 or last == 0xA9 or last == 0xAF
    if text[lead] == 0xE2:
        return text[lead + 1] == 0x81 and last == 0x9F
    return text[lead] == 0xE3 and text[lead + 1] == 0x80 and last == 0x80


@njit(cache=True, nogil=True)
def _cut_here(text: Any, first: int, at: int, cut: int, held: Any) -> bool:
    """Whether a chunk ends before this byte. cut: 1 BEFORE_BLANKS, 2 AFTER_LINES, 3 BEFORE_SIGNS ("▁" is E2 96 81)."""
    byte = text[at]
    if cut == 3:
        if byte != 0x20 and (byte != 0xE2 or text[at + 1] != 0x96 or text[at + 2] != 0x81):
            return False
        if text[at - 1] < 0x80:
            return not held[text[at - 1]]
        return at < first + 3 or text[at - 1] != 0x81 or text[at - 2] != 0x96 or text[at - 3] != 0xE2
    if byte == 0x20:
        return not _is_blank(text, first, at)
    if cut == 1:
        return byte == 0x0A and not _is_blank(text, first, at)
    return text[at - 1] == 0x0A and not _blank_at(text, at)


@njit(cache=True, nogil=True)
def _cut(text: Any, bounds: Any, where: Any, long: int, slots: Any, kept: Any, arena: Any, used: Any, out: Any) -> int:
    """Numbers the chunks of each text, known ones and new ones; stops before a text for which there is no room.

    text: bytes of all texts, of which text i lies in bounds[i]:bounds[i + 1]. where: (which cut, whether a text is not
    cut before a sign behind each byte of ASCII). slots (…, 2): hash and entry number, -1
    for none; kept (entries, 2): start in `arena` and length of each entry. used: [entries, bytes of the arena, new
    entries, chunks, texts], all advanced. out: found, the entry of each chunk; ends, chunks up to the end of each text;
    new (…, 2), where each new entry stands in `text`.
    """
    found, ends, new = out
    cut, behind = where
    mask = np.uint64(len(slots) - 1)
    entries, filled, fresh, chunks = used[0], used[1], used[2], used[3]
    number = used[4]
    while number < len(bounds) - 1:
        first, last = bounds[number], bounds[number + 1]
        if 2 * (entries + _most(last - first, 1)) > len(slots):
            break
        start = first
        while start < last:
            hashed = (np.uint64(0xCBF29CE484222325) ^ np.uint64(text[start])) * np.uint64(0x100000001B3)
            at = start + 1
            while at < last and not _cut_here(text, first, at, cut, behind):
                hashed = (hashed ^ np.uint64(text[at])) * np.uint64(0x100000001B3)
                at += 1
            hashed ^= hashed >> np.uint64(32)
            name, size, entry = np.int64(hashed), at - start, np.int64(-1)
            slot = hashed & mask
            if size <= long:
                while slots[slot, 1] >= 0:
                    other = slots[slot, 1]
                    if slots[slot, 0] == name and kept[other, 1] == size:
                        held, i = kept[other, 0], 0
                        while i < size and arena[held + i] == text[start + i]:
                            i += 1
                        if i == size:
                            entry = other
                            break
                    slot = (slot + np.uint64(1)) & mask
            if entry < 0:
                entry = entries
                entries += 1
                new[fresh, 0], new[fresh, 1] = start, at
                fresh += 1
                kept[entry, 0], kept[entry, 1] = filled, 0
                if size <= long:
                    slots[slot, 0], slots[slot, 1], kept[entry, 1] = name, entry, size
                    for i in range(size):
                        arena[filled + i] = text[start + i]
                    filled += size
            found[chunks] = entry
            chunks += 1
            start = at
        ends[number] = chunks
        number += 1
    used[0], used[1], used[2], used[3], used[4] = entries, filled, fresh, chunks, number
    return number


@njit(cache=True, nogil=True)
def _rehashed(old: Any, slots: Any) -> None:
    mask = np.uint64(len(slots) - 1)
    for i in range(len(old)):
        if old[i, 1] >= 0:
            slot = np.uint64(old[i, 0]) & mask
            while slots[slot, 1] >= 0:
                slot = (slot + np.uint64(1)) & mask
            slots[slot, 0], slots[slot, 1] = old[i, 0], old[i, 1]


@njit(cache=True, nogil=True)
def _lengths(found: Any, ends: Any, where: Any, lengths: Any) -> None:
    """lengths: ids of each text. where (entries, 2): start and number of each entry's ids."""
    chunk = 0
    for number in range(len(ends)):
        total = 0
        while chunk < ends[number]:
            total += where[found[chunk], 1]
            chunk += 1
        lengths[number] = total


@njit(cache=True, nogil=True)
def _laid(found: Any, where: Any, known: Any, ids: Any) -> None:
    """The ids of all chunks, end to end."""
    at = 0
    for chunk in range(len(found)):
        start, count = where[found[chunk], 0], where[found[chunk], 1]
        for i in range(count):
            ids[at + i] = known[start + i]
        at += count


def _empty(kind: Any, *shape: int) -> Any:
    return np.empty(shape, dtype=kind)


@dataclass
class Table:
    """Chunks met so far with their ids. cut, held: where texts may be cut, as in `cuts.Cut`; long: bytes of a chunk
    that is not kept."""

    cut: int
    held: str
    long: int
    used: Any = field(default_factory=lambda: np.zeros(5, dtype=np.int64))
    slots: Any = field(default_factory=lambda: np.full((_SMALLEST, 2), -1, dtype=np.int64))
    kept: Any = field(default_factory=lambda: _empty(np.int64, _SMALLEST, 2))
    arena: Any = field(default_factory=lambda: _empty(np.uint8, _SMALLEST))
    where: Any = field(default_factory=lambda: _empty(np.int64, _SMALLEST, 2))
    known: Any = field(default_factory=lambda: _empty(np.uint32, _SMALLEST))
    ids: int = 0

    def __len__(self) -> int:
        return int(self.used[0])

    @property
    def size(self) -> int:
        """Bytes of text and ids that are kept."""
        return int(self.used[1]) + 4 * self.ids

    def encode(self, texts: Sequence[str], encoded: Encoded) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """(ids of all texts end to end, where each ends). encoded: the tokenizer, asked for new chunks alone: of bytes
        and the places of chunks in them it gives all ids, and where those of each chunk start and how many they are."""
        coded = [text.encode() for text in texts]
        bounds = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        text = np.frombuffer(b"".join(coded), dtype=np.uint8)
        found, ends, new = self._found(text, bounds)
        self._learn(*encoded(text, new))
        lengths = np.empty(len(texts), dtype=np.int64)
        _lengths(found, ends, self.where, lengths)
        ids = np.empty(int(lengths.sum()), dtype=np.uint32)
        _laid(found, self.where, self.known, ids)
        return ids, lengths.cumsum()

    def _found(self, text: Any, bounds: Any) -> tuple[Any, Any, Any]:
        """(entry of each chunk, chunks up to the end of each text, where each new entry stands)."""
        most = _most(len(text), len(bounds))
        self.kept = _grown(self.kept, len(self) + most)
        self.arena = _grown(self.arena, int(self.used[1]) + len(text))
        out = _empty(np.int32, most), _empty(np.int64, len(bounds) - 1), _empty(np.int64, most, 2)
        self.used[2:] = 0
        held = np.zeros(128, dtype=np.bool_)
        held[[ord(character) for character in f" {self.held}"]] = True
        where = self.cut, held
        while (done := _cut(text, bounds, where, self.long, self.slots, self.kept, self.arena, self.used, out)) < len(
            bounds
        ) - 1:
            wanted = 2 * (len(self) + _most(int(bounds[done + 1] - bounds[done]), 1))
            grown = np.full((1 << wanted.bit_length(), 2), -1, dtype=np.int64)
            _rehashed(self.slots, grown)
            self.slots = grown
        return out[0][: self.used[3]], out[1], out[2][: self.used[2]]

    def _learn(self, ids: NDArray[np.uint32], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Notes the ids of the newest entries."""
        first = len(self) - len(starts)
        self.where, self.known = _grown(self.where, len(self)), _grown(self.known, self.ids + len(ids))
        self.where[first : len(self), 0], self.where[first : len(self), 1] = starts + self.ids, lengths
        self.known[self.ids : self.ids + len(ids)] = ids
        self.ids += len(ids)


def _grown(array: Any, wanted: int) -> Any:
    """The array itself, or one with room for `wanted` rows that begins with it."""
    if len(array) >= wanted:
        return array
    grown = np.empty((1 << (wanted - 1).bit_length(), *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown
