"""Ledger: what was served and when, one JSON line a record, each holding the hash of the one before.

Append-only and crash-safe: a line is written and flushed whole; a line that a crash cut short was never
acknowledged; `wmark verify` says that it is there and the next writer sets it aside.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from watermark import chain
from watermark.errors import LedgerInvalid
from watermark.files import canonical_json

FORMAT = "wmark-ledger/1"
Mode = Literal["full", "hash-only"]
_KIND = chain.Kind(FORMAT, "ledger", "record", "ledger record", hint="did you pass the answers as the ledger?")


@dataclass(frozen=True)
class Record:
    """One served answer. In a hash-only ledger `prompt` and `token_ids` are None and `answer_hash` stands alone.

    answer_hash: SHA-256 over canonical JSON of [salt, prompt, token_ids]; salt is fresh for each record.
    """

    seq: int
    time: str
    id: str
    kid: str
    receipt: dict[str, Any]
    salt: str
    answer_hash: str
    prompt: str | None
    token_ids: list[int] | None
    prev: str
    hash: str


class Ledger:
    """An open ledger, for one writer at a time. Use as a context manager.

    mode: "full" keeps prompts and token ids, "hash-only" keeps salted hashes of them; fixed when the file is made.
    Raises LedgerInvalid if the file is no ledger, its chain is broken, or another process writes to it.
    """

    def __init__(self, path: str | Path, *, mode: Mode | None = None) -> None:
        self.path = Path(path)
        self._stream = chain.open_locked(self.path)
        try:
            self._begin(mode)
        except BaseException:
            self._stream.close()
            raise

    def append(self, id: str, *, kid: str, receipt: dict[str, Any], prompt: str, token_ids: list[int]) -> Record:
        """Adds one served answer; on return it is on disk. Raises OSError if the disk is full."""
        salt = os.urandom(16).hex()
        full = self.mode == "full"
        body: dict[str, Any] = {
            "seq": self.length,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": id,
            "kid": kid,
            "receipt": receipt,
            "salt": salt,
            "answer_hash": answer_hash(salt, prompt, token_ids),
            "prompt": prompt if full else None,
            "token_ids": [int(i) for i in token_ids] if full else None,
            "prev": self.head,
        }
        self._write(body)
        self.length += 1
        return Record(**body, hash=self.head)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, mode: Mode | None) -> None:
        content = self._stream.read()
        whole = chain.whole_lines(content)
        if whole < len(content):
            _set_aside(self.path, content[whole:])
            self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        if whole == 0:
            self._start(mode or "full")
            return
        lines = chain.checked(self.path, content[:whole], _KIND)
        header, records = next(lines), list(_records(self.path, lines))
        self.mode: Mode = header["mode"]
        self.head = records[-1].hash if records else str(header["hash"])
        self.length = len(records)
        self.ids = {record.id for record in records}
        if mode is not None and mode != self.mode:
            raise LedgerInvalid(f"{self.path} is a {self.mode} ledger and cannot become {mode}; choose another file")

    def _start(self, mode: Mode) -> None:
        self.mode, self.length, self.head, self.ids = mode, 0, "", set()
        made = datetime.now(UTC).isoformat(timespec="seconds")
        self._write({"format": FORMAT, "mode": mode, "created": made, "ledger": os.urandom(8).hex()})

    def _write(self, body: dict[str, Any]) -> None:
        """One line, whole: if the disk is full the line is taken back and the ledger stays valid."""
        self.head = chain.append(self._stream, body)["hash"]
        if "id" in body:
            self.ids.add(body["id"])


def read_ledger(path: str | Path) -> Iterator[Record]:
    """The records of a ledger, its chain checked. Raises LedgerInvalid naming the first record that is wrong.

    A last line without its end is a write that never finished; it is left out.
    """
    path = Path(path)
    lines = chain.read_chain(path, _KIND)
    next(lines)
    yield from list(_records(path, lines))


def unfinished(path: str | Path) -> int:
    """Bytes after the last whole line: what an interrupted write left, and `read_ledger` leaves out."""
    content = Path(path).read_bytes()
    return len(content) - chain.whole_lines(content)


def answer_hash(salt: str, prompt: str, token_ids: list[int]) -> str:
    """SHA-256 over canonical JSON of [salt, prompt, token_ids], in hex."""
    return hashlib.sha256(canonical_json([salt, prompt, [int(i) for i in token_ids]])).hexdigest()


def is_ledger(path: str | Path) -> bool:
    """Whether a file starts like a ledger."""
    return chain.starts_as(path, _KIND)


def _records(path: Path, lines: Iterable[dict[str, Any]]) -> Iterator[Record]:
    for number, line in enumerate(lines, 2):
        try:
            record = Record(**line)
        except TypeError:
            raise LedgerInvalid(f"{path}, line {number}: the record's fields are not those of {FORMAT}") from None
        if record.token_ids is not None and (
            answer_hash(record.salt, record.prompt or "", record.token_ids) != record.answer_hash
        ):
            raise LedgerInvalid(f"{path}, line {number}: the answer does not match its hash")
        yield record


def _set_aside(path: Path, tail: bytes) -> None:
    """Keeps the cut-short line of an interrupted write beside the ledger."""
    with path.with_name(path.name + ".cut").open("ab") as stream:
        stream.write(tail + b"\n")
