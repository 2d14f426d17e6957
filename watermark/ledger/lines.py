"""A ledger as JSON Lines: append-only, one writer; a line that a crash cut short was never acknowledged.

`wmark verify` says that such a line is there, and the next writer sets it aside.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from watermark import chain
from watermark.errors import LedgerInvalid
from watermark.files import append_whole, canonical_json
from watermark.ledger.record import FORMAT, KIND, Record, Selection, answers, line_of

_STEP = 1 << 16


class LinesSource:
    """A file that is read, its chain checked as it goes. Raises LedgerInvalid naming the first wrong line."""

    checks = True

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)

    def header(self) -> dict[str, Any] | None:
        return next(chain.checked_lines(self.path, self._whole(), KIND))

    def records(self, chosen: Selection) -> Iterator[Record]:
        lines = chain.checked_lines(self.path, self._whole(), KIND)
        next(lines)
        for number, line in enumerate(lines, 2):
            record = self._record(line, number)
            if chosen.holds(record):
                yield record

    def close(self) -> None:
        pass

    def _whole(self) -> Iterator[bytes]:
        """Whole lines, without their ends; what follows the last end was never finished."""
        try:
            with self.path.open("rb") as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        yield line[:-1]
        except OSError as error:
            raise LedgerInvalid(f"{self.path} cannot be read: {error.strerror}") from None

    def _record(self, line: dict[str, Any], number: int) -> Record:
        try:
            record = Record(**line)
        except TypeError:
            raise LedgerInvalid(f"{self.path}, line {number}: the record's fields are not those of {FORMAT}") from None
        if not answers(record):
            raise LedgerInvalid(f"{self.path}, line {number}: the answer does not match its hash")
        return record


class LinesStore(LinesSource):
    """A file that is written, by one process at a time. Opening it reads and checks all of it.

    Raises LedgerInvalid if the file is no ledger, its chain is broken, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._first: dict[str, Any] | None = None
        self._tail = 0, ""
        self._answered: dict[str, list[tuple[str, str]]] = {}
        self._stream = chain.open_locked(path)
        try:
            self._begin()
        except BaseException:
            self._stream.close()
            raise

    def start(self, header: dict[str, Any]) -> dict[str, Any]:
        if self._first is None:
            append_whole(self._stream, canonical_json(header) + b"\n")
            self._first, self._tail = header, (0, str(header["hash"]))
        return self._first

    def header(self) -> dict[str, Any] | None:
        return self._first

    def tail(self) -> tuple[int, str]:
        return self._tail

    def extend(self, made: Callable[[int, str], list[Record]]) -> list[Record]:
        """If the disk is full the lines are taken back and the ledger stays valid; then raises OSError."""
        added = made(*self._tail)
        if added:
            append_whole(self._stream, b"".join(map(line_of, added)))
            self._tail = added[-1].seq + 1, added[-1].hash
            self._note(added)
        return added

    def answered(self, id: str) -> list[tuple[str, str]]:
        return self._answered.get(id, [])

    def close(self) -> None:
        self._stream.close()

    def _begin(self) -> None:
        size = os.fstat(self._stream.fileno()).st_size
        whole = _end_of_lines(self._stream, size)
        if whole < size:
            chain.set_aside(self.path, os.pread(self._stream.fileno(), size - whole, whole))
            self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        if whole == 0:
            return
        self._first = super().header()
        self._tail = 0, str((self._first or {})["hash"])
        for record in self.records(Selection()):
            self._tail = record.seq + 1, record.hash
            self._note([record])

    def _note(self, records: list[Record]) -> None:
        for record in records:
            self._answered.setdefault(record.id, []).append((record.salt, record.answer_hash))


def _end_of_lines(stream: io.FileIO, size: int) -> int:
    """How many bytes of a file are whole lines."""
    end = size
    while end > 0:
        start = max(0, end - _STEP)
        found = os.pread(stream.fileno(), end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
