"""Window filters: the names of served windows as one sorted file, looked up where it lies; made once from a ledger.

A filter holds windows, never (window, token). With fewer bits to a name the file is smaller and now and then takes a
window for served that was not: a choice that knows nothing of the key, so it costs power and never validity
(docs/ledger.md; tests/calibration/test_coarse_filters.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from watermark.errors import LedgerInvalid, ProfileMismatch
from watermark.files import canonical_json
from watermark.ledger.record import Selection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark

FILTER = "wmark-filter/1"
BITS = 64
_HEAD = 4096  # bytes before the names
_ROOM = 1 << 28  # bytes that building takes, about


@dataclass(frozen=True)
class Contents:
    """What a filter says of itself. kids: of the marks it fits; window: their context width. bits: to a name.

    head, records: the ledger's last hash when the filter was made, and how many records were read. chosen: which.
    """

    kids: tuple[str, ...]
    window: int
    bits: int
    count: int
    head: str
    records: int
    chosen: Selection


class WindowFilter:
    """An open filter: a file of sorted names, mapped into memory, which any process may share.

    path: what `write_filter` wrote. Raises LedgerInvalid if it is no filter or is not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.contents = _contents(self.path)
        kind, count = _kind(self.contents.bits), self.contents.count
        if self.path.stat().st_size != _HEAD + count * kind.itemsize:
            raise LedgerInvalid(f"{path} is not whole; make it again with `wmark ledger filter`")
        self._names: NDArray[Any] = (
            np.memmap(self.path, dtype=kind, mode="r", offset=_HEAD, shape=(count,)) if count else np.empty(0, kind)
        )

    def __len__(self) -> int:
        return self.contents.count

    def __reduce__(self) -> tuple[type[WindowFilter], tuple[Path]]:
        return WindowFilter, (self.path,)

    def holds(self, names: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each window was served; of windows that were not, a share `false_positives` may be taken for such."""
        return held(_shortened(names, self.contents.bits), self._names)

    @property
    def false_positives(self) -> float:
        """The chance that a window that was not served is taken for one that was."""
        return float(len(self) / 2.0**self.contents.bits)

    def check_mark(self, mark: Watermark) -> WindowFilter:
        """Raises ProfileMismatch unless the filter was made for this mark; returns itself."""
        if mark.key.kid not in self.contents.kids or mark.scheme.window != self.contents.window:
            raise ProfileMismatch(
                f"the filter holds windows of {self.contents.window} served under kid {self.contents.kids[0]}, "
                f"the mark is {mark.key.kid} of window {mark.scheme.window}",
                hint="make a filter with this watermark file: `wmark ledger filter`",
            )
        return self


def served_among(names: NDArray[np.uint64], served: NDArray[np.uint64] | WindowFilter) -> NDArray[np.bool_]:
    """Whether each window stands in a sorted array of names, or in a filter."""
    return served.holds(names) if isinstance(served, WindowFilter) else held(names, served)


def held(names: NDArray[Any], ordered: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each name stands in a sorted array. names (n,), ordered (m,) of one type. Returns (n,)."""
    found = np.zeros(len(names), dtype=bool)
    if len(ordered):
        order = np.argsort(names)  # neighbours are looked up one after the other: few pages of a large file are read
        asked = names[order]
        at = np.minimum(np.searchsorted(ordered, asked), len(ordered) - 1)
        found[order] = ordered[at] == asked
    return found


def is_filter(path: str | Path) -> bool:
    """Whether a file starts like a filter."""
    try:
        with Path(path).open("rb") as stream:
            return b'"format":"' + FILTER.encode() in stream.read(_HEAD)
    except OSError:
        return False


def write_filter(
    names: Iterable[NDArray[np.uint64]],
    path: str | Path,
    mark: Watermark,
    *,
    told: Callable[[], tuple[int, str]],
    chosen: Selection | None = None,
    bits: int = BITS,
    room: int = _ROOM,
) -> WindowFilter:
    """Writes the filter of some window names, in bounded memory: sorted runs beside the file, then merged.

    names: 64-bit names, (n,) each, any number of times and in any order. told: asked when all were given for (records
    read, the ledger's head). bits: 8 to 64 to a name; up to 32 take half the space. room: bytes of memory, about.
    The same names make the same bytes. Raises LedgerInvalid if the file exists.
    """
    path = Path(path)
    if not 8 <= bits <= BITS:
        raise ValueError(f"bits must lie between 8 and {BITS}, found {bits}")
    if path.exists():
        raise LedgerInvalid(f"{path} exists already; nothing was written", hint="choose another file")
    kids = [mark.key.kid] + ([mark.shared.kid] if mark.shared else [])
    kind = _kind(bits)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        runs = list(_runs(names, Path(folder), bits, room))
        draft = Path(folder) / "filter"
        with draft.open("xb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(b" " * _HEAD)
            count = 0
            for some in _merged([run.open("rb") for run in runs], kind, room):
                count += len(some)
                some.tofile(stream)
            records, head = told()
            said = Contents(tuple(kids), mark.scheme.window, bits, count, head, records, chosen or Selection())
            stream.seek(0)
            stream.write(_first_line(said))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    return WindowFilter(path)


def _runs(names: Iterable[NDArray[np.uint64]], folder: Path, bits: int, room: int) -> Iterator[Path]:
    """Files of sorted distinct names, each made of as many as fit into half of the memory."""
    gathered = np.empty(max(1024, room // 2 // _kind(bits).itemsize), dtype=_kind(bits))
    filled = number = 0

    def written() -> Path:
        path = folder / str(number)
        _distinct(gathered[:filled]).tofile(path)
        return path

    for some in names:
        rest = _shortened(some, bits)
        while len(rest):
            taken = rest[: len(gathered) - filled]
            gathered[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
            if filled == len(gathered):
                yield written()
                filled, number = 0, number + 1
    if filled:
        yield written()


def _merged(runs: list[BinaryIO], kind: np.dtype[Any], room: int) -> Iterator[NDArray[Any]]:
    """Sorted distinct names of sorted runs, piece by piece; a piece ends where every run has been read so far."""
    step = max(1024, room // 4 // kind.itemsize // max(1, len(runs)))
    blocks = [np.fromfile(run, dtype=kind, count=step) for run in runs]
    while any(map(len, blocks)):
        more = [block[-1] for block in blocks if len(block) == step]
        ends = [np.searchsorted(b, min(more), side="right") if more else len(b) for b in blocks]
        yield _distinct(np.concatenate([block[:end] for block, end in zip(blocks, ends, strict=True)]))
        for n, (block, end) in enumerate(zip(blocks, ends, strict=True)):
            if end:
                blocks[n] = np.concatenate([block[end:], np.fromfile(runs[n], dtype=kind, count=int(end))])
    for run in runs:
        run.close()


def _distinct(names: NDArray[Any]) -> NDArray[Any]:
    """The distinct names, sorted; what was given is sorted in place."""
    names.sort()
    first = np.ones(len(names), dtype=bool)
    first[1:] = names[1:] != names[:-1]
    kept: NDArray[Any] = names[first]
    return kept


def _kind(bits: int) -> np.dtype[Any]:
    return np.dtype("<u4" if bits <= 32 else "<u8")


def _shortened(names: NDArray[np.uint64], bits: int) -> NDArray[Any]:
    """The first bits of names: names are mixed, so that these are as good as any."""
    first: NDArray[Any] = (names >> np.uint64(BITS - bits)).astype(_kind(bits))
    return first


def _first_line(said: Contents) -> bytes:
    line = canonical_json({"format": FILTER} | asdict(said)) + b"\n"
    if len(line) > _HEAD:
        raise LedgerInvalid(f"{len(said.chosen.kids)} keys are too many for one filter", hint="choose fewer, or all")
    return line


def _contents(path: Path) -> Contents:
    try:
        with path.open("rb") as stream:
            line = stream.read(_HEAD).split(b"\n")[0]
        said: dict[str, Any] = json.loads(line)
        if said.pop("format") != FILTER:
            raise ValueError
        said["chosen"] = Selection(**said["chosen"] | {"kids": tuple(said["chosen"]["kids"])})
        return Contents(**said | {"kids": tuple(said["kids"])})
    except OSError as error:
        raise LedgerInvalid(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LedgerInvalid(f"{path} is not a filter of windows", hint="`wmark ledger filter` makes one") from None
