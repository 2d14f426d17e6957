"""Reading in numba: one pass over the token ids of a batch, the same cells as the numpy text of the rules.

`scan` applies rules 2 and 4 and compares windows with prompts as ids; `Copies` compares them as text; `first_of` finds
the first of each cell. Their twins stand in `rules` and `text`; tests/test_observe_compiled.py holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from watermark.observe.restored import Bare

    U32 = NDArray[np.uint32]
    I64 = NDArray[np.int64]

_PART = 1 << 14  # names of a part at most, on average: their table has half a megabyte
_LONGEST = 512  # bytes of a window's text
_UNSEEN, _BROKEN = -1, -2  # lengths of tokens: not asked for yet; not whole characters by themselves


class Scanned(NamedTuple):
    """What `scan` leaves: windows (n, h), choices, documents, positions and names (n,), and tokens left out: without
    a full window, special, for each kind of `unfit`, in the prompt."""

    windows: U32
    choices: U32
    documents: I64
    positions: I64
    names: NDArray[np.uint64]
    left: list[int]


@njit(inline="always")
def _mixed(name: Any, value: Any) -> Any:
    """`prf.reference._mix64`."""
    z = (name ^ value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def _named(ids: Any, first: Any, h: Any) -> Any:
    """`prf.window_ids` of ids[first:first + h]."""
    name = np.uint64(h)
    for i in range(first, first + h):
        name = _mixed(name, np.uint64(ids[i]))
    return name


@njit(cache=True, nogil=True)
def _noted(asked: Any, first: int, last: int, h: int, names: Any, filled: Any, stamp: Any) -> int:
    """Puts the names of all windows of a prompt into a set; returns its mask, or -1 for none. A place is filled where
    it holds the `stamp` of this answer."""
    count = last - first - h + 1
    if count <= 0:
        return -1
    size = 8
    while size < 2 * count:
        size *= 2
    mask = np.uint64(size - 1)
    for at in range(first, first + count):
        name = _named(asked, at, h)
        slot = name & mask
        while filled[slot] == stamp and names[slot] != name:
            slot = (slot + np.uint64(1)) & mask
        filled[slot], names[slot] = stamp, name
    return size - 1


@njit(cache=True, nogil=True)
def _scan(ids: Any, bounds: Any, h: int, special: Any, unfit: Any, asked: Any, asked_bounds: Any, out: Any) -> int:
    windows, choices, documents, positions, names, left, held, filled = out
    count = 0
    for document in range(len(bounds) - 1):
        first, last = bounds[document], bounds[document + 1]
        mask = -1
        if len(asked):
            mask = _noted(asked, asked_bounds[document], asked_bounds[document + 1], h, held, filled, document + 1)
        blocked = first - 1 - h
        for at in range(first, last):
            token = ids[at]
            if token < len(special) and special[token]:
                blocked = at
            if at - first < h:
                left[0] += 1
                continue
            if at - blocked <= h:
                left[1] += 1
                continue
            if len(unfit) and unfit[at]:
                left[1 + unfit[at]] += 1
                continue
            name = _named(ids, at - h, h)
            if mask >= 0:
                slot = name & np.uint64(mask)
                while filled[slot] == document + 1 and held[slot] != name:
                    slot = (slot + np.uint64(1)) & np.uint64(mask)
                if filled[slot] == document + 1:
                    left[4] += 1
                    continue
            for i in range(h):
                windows[count, i] = ids[at - h + i]
            choices[count], documents[count], positions[count] = token, document, at - first
            names[count] = name
            count += 1
    return count


def scan(
    ids: U32, bounds: I64, window: int, special: Sequence[int], unfit: NDArray[np.uint8], asked: U32, asked_bounds: I64
) -> Scanned:
    """The positions of answers that may be scored, as far as ids tell.

    ids: of all answers, of which answer i has ids[bounds[i]:bounds[i + 1]]. unfit: for each id 0, or 1 or 2 for a
    reason why it is left out if it is no special token; empty for none. asked: ids of the prompts, in the same way.
    """
    most = len(ids)
    table = np.zeros(max(special, default=-1) + 1, dtype=np.bool_)
    table[list(special)] = True
    longest = int(np.diff(asked_bounds).max(initial=0))
    room = 1 << max(3, (2 * longest).bit_length())
    held, filled = np.empty(room, dtype=np.uint64), np.zeros(room, dtype=np.int64)
    found = (
        np.empty((most, window), dtype=np.uint32),
        np.empty(most, dtype=np.uint32),
        np.empty(most, dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.empty(most, dtype=np.uint64),
    )
    left = np.zeros(5, dtype=np.int64)
    count = _scan(ids, bounds, window, table, unfit, asked, asked_bounds, (*found, left, held, filled))
    windows, choices, documents, positions, names = found
    return Scanned(windows[:count], choices[:count], documents[:count], positions[:count], names[:count], left.tolist())


@njit(cache=True, nogil=True)
def _cell_names(windows: Any, choices: Any, names: Any) -> None:
    for i in range(len(choices)):
        name = np.uint64(windows.shape[1])
        for k in range(windows.shape[1]):
            name = _mixed(name, np.uint64(windows[i, k]))
        names[i] = _mixed(name, np.uint64(choices[i]))


def cell_names(windows: NDArray[Any], choices: NDArray[Any], names: NDArray[np.uint64], at: int) -> int:
    """Writes `prf.cell_ids` of windows (n, h) and tokens (n,) into names[at:]; returns where they end."""
    _cell_names(windows, choices, names[at : at + len(choices)])
    return at + len(choices)


@njit(cache=True, nogil=True)
def _parted(names: Any, shift: Any, ends: Any, order: Any, sorted_names: Any) -> None:
    """Names by their first bits, in their own order within each part. ends: where each part begins, then ends."""
    for i in range(len(names)):
        place = names[i] >> shift
        sorted_names[ends[place]], order[ends[place]] = names[i], i
        ends[place] += 1


@njit(cache=True, nogil=True)
def _counted(names: Any, shift: Any, counts: Any) -> None:
    for name in names:
        counts[name >> shift] += 1


@njit(cache=True, nogil=True)
def _first(names: Any, ends: Any, order: Any, bits: int, first: Any) -> None:
    """first: whether no equal name stands before. A part fits into a table that stays in the processor's cache."""
    largest, begin = 1, 0
    for end in ends:
        while largest < 2 * (end - begin):
            largest *= 2
        begin = end
    table, begin = np.empty(largest, dtype=np.uint64), 0
    for end in ends:
        size, width = 2, 1
        while size < 2 * (end - begin):
            size *= 2
            width += 1
        mask = np.uint64(size - 1)
        table[:size] = 0
        zero = False
        for i in range(begin, end):
            name = names[i]
            if name == np.uint64(0):  # which marks an empty place
                first[order[i]], zero = not zero, True
                continue
            slot = (name << np.uint64(bits)) >> np.uint64(64 - width)
            while table[slot] != np.uint64(0) and table[slot] != name:
                slot = (slot + np.uint64(1)) & mask
            first[order[i]] = table[slot] == np.uint64(0)
            table[slot] = name
        begin = end


def first_of(names: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each name is the first of its kind, as `np.unique(names, return_index=True)` says.

    Names are parted by their first bits, then each part is looked up in a small table (radix-partitioned hashing,
    Manegold, Boncz and Kersten 2002): memory is read in order, twice, where a table of all names waits for each.
    """
    bits = max(0, (len(names) // _PART).bit_length())
    shift = np.uint64(63 if bits == 0 else 64 - bits)
    counts = np.zeros(1 << max(bits, 1), dtype=np.int64)
    _counted(names, shift, counts)
    ends = counts.cumsum() - counts
    order = np.empty(len(names), dtype=np.int64 if len(names) >= 2**32 else np.uint32)
    parted = np.empty_like(names)
    _parted(names, shift, ends, order, parted)
    first = np.empty(len(names), dtype=np.bool_)
    _first(parted, ends, order, max(bits, 1), first)
    return first


@njit(cache=True, nogil=True)
def _taken(first: Any, part: Any, kept: Any, at: int) -> int:
    windows, choices, documents, positions = part
    kept_windows, kept_choices, kept_documents, kept_positions = kept
    for i in range(len(first)):
        if first[i]:
            for k in range(windows.shape[1]):
                kept_windows[at, k] = windows[i, k]
            kept_choices[at], kept_documents[at], kept_positions[at] = choices[i], documents[i], positions[i]
            at += 1
    return at


def taken(first: NDArray[np.bool_], parts: Sequence[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """Of the cells (windows, choices, documents, positions) of some parts those that are the first, end to end."""
    count = int(np.count_nonzero(first))
    kept = tuple(np.empty((count, *column.shape[1:]), dtype=column.dtype) for column in parts[0])
    at = begin = 0
    for part in parts:
        at = _taken(first[begin : begin + len(part[1])], part, kept, at)
        begin += len(part[1])
    return kept


@njit(cache=True, nogil=True)
def _blank(text: Any, at: int) -> int:
    """Bytes of the blank character (str.isspace) that begins here; 0 for any other."""
    byte = text[at]
    if byte < 0x80:
        return int(byte == 0x20 or 0x09 <= byte <= 0x0D or 0x1C <= byte <= 0x1F)
    if byte == 0xC2:
        return 2 * int(text[at + 1] == 0x85 or text[at + 1] == 0xA0)
    if byte == 0xE1:
        return 3 * int(text[at + 1] == 0x9A and text[at + 2] == 0x80)
    if byte == 0xE3:
        return 3 * int(text[at + 1] == 0x80 and text[at + 2] == 0x80)
    if byte != 0xE2:
        return 0
    last = text[at + 2]
    if text[at + 1] == 0x81:
        return 3 * int(last == 0x9F)
    return 3 * int(text[at + 1] == 0x80 and (last <= 0x8A or last == 0xA8 or last == 0xA9 or last == 0xAF))


@njit(cache=True, nogil=True)
def _stripped(text: Any, length: int) -> int:
    """Where the first character that is no blank begins (str.lstrip)."""
    at = 0
    while at < length:
        width = _blank(text, at)
        if width == 0:
            return at
        at += width
    return at


@njit(cache=True, nogil=True)
def _copied(
    windows: Any, documents: Any, where: Any, arena: Any, prompts: Any, bounds: Any, signs: Any, room: Any, found: Any
) -> None:
    """found: for each window whether its text stands in its answer's prompt: 0, 1, or 2 where its text is not known.

    where (ids, 2): start in `arena` and length of each token's text. signs (answers, 128): of each prompt, where
    windows are compared by their words; else empty. room: [text of a window, its words, first places of three bytes,
    next places, whether a pair of bytes stands in the prompt, the same of single bytes].
    """
    text, words, heads, following, pairs, singles = room
    known = np.int64(-1)
    first = last = mask = np.int64(0)
    for cell in range(len(documents)):
        document = documents[cell]
        if document != known:
            for at in range(first, last - 1):
                pairs[(np.int64(prompts[at]) << 8) | prompts[at + 1]] = False
            singles[:] = False
            known, first, last = document, bounds[document], bounds[document + 1]
            size = np.int64(256)
            while size < last - first and size < len(heads):
                size *= 2
            mask = size - 1
            heads[:size] = -1
            for at in range(first, last):
                singles[prompts[at]] = True
                if at + 1 < last:
                    pairs[(np.int64(prompts[at]) << 8) | prompts[at + 1]] = True
                if at + 2 < last:
                    place = _three(prompts, at) & mask
                    following[at - first] = heads[place]
                    heads[place] = at
        length = _spelt(windows[cell], where, arena, text)
        if length < 0:
            found[cell] = 2
            continue
        prompt = (prompts, first, last, heads, following, mask, pairs, singles)
        if len(signs) == 0:
            found[cell] = first < last and _stands(text, _stripped(text, length), length, prompt)
            continue
        begin, end = _worded(text, length, words)
        if end < 0:
            found[cell] = 2
        elif begin < end:
            found[cell] = _stands(words, begin, end, prompt)
        else:
            found[cell] = _signed(text, length, signs[document])


@njit(cache=True, nogil=True)
def _spelt(window: Any, where: Any, arena: Any, text: Any) -> int:
    """Writes a window's text; returns its length, -1 if it is not known or too long."""
    length = 0
    for token in window:
        start, size = where[token, 0], where[token, 1]
        if size < 0 or length + size > len(text):
            return -1
        for k in range(size):
            text[length + k] = arena[start + k]
        length += size
    return length


@njit(inline="always")
def _is_word(byte: Any) -> Any:
    return 0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x5A or 0x61 <= byte <= 0x7A


@njit(cache=True, nogil=True)
def _worded(text: Any, length: int, words: Any) -> Any:
    """Writes `restored.bare(text).words` of plain ASCII; returns where they begin and end, (0, -1) for any other text
    and for signs with which an escape or a tag may begin."""
    end, apart = 1, False
    for i in range(length):
        byte = text[i]
        if byte >= 0x80 or byte == 0x26 or byte == 0x3C or byte == 0x5C:
            return 0, -1
        if not _is_word(byte):
            apart = True
            continue
        if apart and end > 1:
            words[end] = 0x20
            end += 1
        apart = False
        words[end] = byte | 0x20 if 0x41 <= byte <= 0x5A else byte
        end += 1
    words[0] = 0x20
    return 1 if end == 1 or _is_word(text[0]) else 0, end


@njit(cache=True, nogil=True)
def _signed(text: Any, length: int, signs: Any) -> bool:
    """Whether all signs of plain ASCII without words are among those of the prompt."""
    unknown = 0
    for i in range(length):
        unknown += _blank(text, i) == 0 and not signs[text[i]]
    return unknown == 0


@njit(inline="always")
def _three(text: Any, at: Any) -> Any:
    return ((np.int64(text[at]) * 31 + np.int64(text[at + 1])) * 31 + np.int64(text[at + 2])) * 0x9E3779B1 >> 8


@njit(cache=True, nogil=True)
def _stands(text: Any, begin: int, end: int, prompt: Any) -> bool:
    """Whether text[begin:end] stands in the prompt."""
    prompts, first, last, heads, following, mask, pairs, singles = prompt
    if end - begin == 0:
        return True
    if end - begin == 1:
        return bool(singles[text[begin]])
    if end - begin == 2:
        return bool(pairs[(np.int64(text[begin]) << 8) | text[begin + 1]])
    at = np.int64(heads[_three(text, begin) & mask])
    while at >= 0:
        if at + end - begin <= last:
            i = begin
            while i < end and prompts[at + i - begin] == text[i]:
                i += 1
            if i == end:
                return True
        at = np.int64(following[at - first])
    return False


@dataclass
class Copies:
    """Finds windows that stand in their answer's prompt as text. spelt: the text of each of some ids by itself; that
    of several is these end to end, which holds of tokenizers whose decoder writes bytes. size: ids there are."""

    spelt: Callable[[list[int]], list[str]]
    size: int
    where: Any = None
    arena: Any = field(default_factory=lambda: np.empty(0, dtype=np.uint8))

    def found(self, windows: U32, documents: I64, prompts: Sequence[str]) -> NDArray[np.uint8]:
        """For each window (n, h), of answer documents[i], in ascending order: 1 if its text, without leading blanks,
        stands in that answer's prompt, 0 if not, 2 if it holds an id that has no text by itself."""
        return self._found(windows, documents, prompts, np.empty((0, 128), dtype=np.bool_))

    def found_bare(self, windows: U32, documents: I64, prompts: Sequence[Bare]) -> NDArray[np.uint8]:
        """As `found`, by words and signs: whether the prompt `holds` the window, both `restored.bare`. 2 also for
        windows that are more than plain ASCII."""
        signs = np.zeros((len(prompts), 128), dtype=np.bool_)
        for number in np.unique(documents).tolist():
            signs[number, [ord(sign) for sign in prompts[number].signs if sign.isascii()]] = True
        return self._found(windows, documents, [prompt.words for prompt in prompts], signs)

    def _found(
        self, windows: U32, documents: I64, prompts: Sequence[str], signs: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        windows = np.ascontiguousarray(np.minimum(windows, np.uint32(self.size)))  # the last one stands for no id
        self._learn(windows)
        coded = [prompt.encode("utf-8", "surrogatepass") for prompt in prompts]
        bounds = np.cumsum([0, *map(len, coded)], dtype=np.int64)
        longest = max(map(len, coded), default=0)
        room = (
            np.empty(_LONGEST, dtype=np.uint8),
            np.empty(2 * _LONGEST, dtype=np.uint8),
            np.empty(1 << min(16, max(8, longest.bit_length())), dtype=np.int64),
            np.empty(longest + 1, dtype=np.int64),
            np.zeros(1 << 16, dtype=np.bool_),
            np.zeros(256, dtype=np.bool_),
        )
        found = np.empty(len(documents), dtype=np.uint8)
        text = np.frombuffer(b"".join(coded), dtype=np.uint8)
        _copied(windows, documents, self.where, self.arena, text, bounds, signs, room, found)
        return found

    def _learn(self, windows: U32) -> None:
        if self.where is None:
            self.where = np.full((self.size + 1, 2), _UNSEEN, dtype=np.int64)
            self.where[self.size, 1] = _BROKEN
        standing = np.zeros(len(self.where), dtype=np.bool_)
        standing[windows.ravel()] = True
        new = np.flatnonzero(standing & (self.where[:, 1] == _UNSEEN))
        texts = [text.encode() for text in self.spelt(new.tolist())] if len(new) else []
        whole = np.array([b"\xef\xbf\xbd" not in text for text in texts], dtype=np.bool_)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self.where[new, 0] = len(self.arena) + np.cumsum(lengths) - lengths
        self.where[new, 1] = np.where(whole, lengths, _BROKEN)
        self.arena = np.concatenate([self.arena, np.frombuffer(b"".join(texts), dtype=np.uint8)])
