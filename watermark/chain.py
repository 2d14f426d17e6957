"""Hash chains: append-only files of canonical JSON lines, each holding its own hash and that of the line before.

A line is written and flushed whole; what follows the last line end is a write that never finished. The first line
says what the file is; the others count from 0 in `seq` and name the line before in `prev`.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watermark.errors import LedgerInvalid
from watermark.files import append_whole, canonical_json


@dataclass(frozen=True)
class Kind:
    """What chained files of one kind are called, for messages. format: their name and version, in the first line.

    file, line: nouns, "ledger" and "record". member: what unreadable lines are not, "ledger record". hint: for whoever
    passed another file.
    """

    format: str
    file: str
    line: str
    member: str
    hint: str | None = None


def open_locked(path: Path) -> io.FileIO:
    """Opens or makes a file, 0600, for one writer at a time. Raises LedgerInvalid if there is another."""
    try:
        stream = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as error:
        raise LedgerInvalid(f"{path} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise LedgerInvalid(f"{path} is being written by another process", hint="wait for it, or stop it") from None
    return stream


def append(stream: io.FileIO, body: dict[str, Any]) -> dict[str, Any]:
    """Adds a line, whole, and returns it with its hash; if the disk is full, the file is as it was before."""
    line = sealed(body)
    append_whole(stream, canonical_json(line) + b"\n")
    return line


def sealed(body: dict[str, Any]) -> dict[str, Any]:
    """A line's fields with `hash`, the SHA-256 of their canonical JSON."""
    return body | {"hash": _hash(body)}


def set_aside(path: Path, tail: bytes) -> None:
    """Keeps the cut-short line of an interrupted write beside the file, in `.cut`."""
    with path.with_name(path.name + ".cut").open("ab") as stream:
        stream.write(tail + b"\n")


def whole_lines(content: bytes) -> int:
    """How many bytes are whole lines."""
    return content.rfind(b"\n") + 1


def read_chain(path: Path, kind: Kind) -> Iterator[dict[str, Any]]:
    """The lines of a file, checked as they come, the header first. An unfinished last line is left out.

    Raises LedgerInvalid naming the first wrong line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerInvalid(f"{path} cannot be read: {error.strerror}") from None
    return checked(path, content[: whole_lines(content)], kind)


def checked(path: Path, content: bytes, kind: Kind) -> Iterator[dict[str, Any]]:
    """The lines of a file's content, as by `read_chain`."""
    yield from checked_lines(path, content.split(b"\n")[:-1], kind)


def checked_lines(path: Path, lines: Iterable[bytes], kind: Kind) -> Iterator[dict[str, Any]]:
    """As `checked`, of whole lines without their ends, read as they come."""
    rest = iter(lines)
    first = next(rest, None)
    if first is None:
        raise LedgerInvalid(f"{path} is empty; a {kind.file} starts with its header", hint="is this the right file?")
    header = _checked(path, first, 1, kind)
    if header.get("format") != kind.format:
        raise LedgerInvalid(f"{path} is not a {kind.file}: its first line should say {kind.format}", hint=kind.hint)
    yield header
    previous = header["hash"]
    for number, raw in enumerate(rest, 2):
        line = _checked(path, raw, number, kind)
        if line.get("prev") != previous or line.get("seq") != number - 2:
            raise LedgerInvalid(f"{path}, line {number}: a {kind.line} before it is missing, moved or changed")
        yield line
        previous = line["hash"]


def starts_as(path: str | Path, kind: Kind) -> bool:
    """Whether a file starts like one of this kind."""
    try:
        with Path(path).open("rb") as stream:
            return b'"format":"' + kind.format.encode() in stream.readline(1 << 16)
    except OSError:
        return False


def _checked(path: Path, raw: bytes, number: int, kind: Kind) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(raw)
        body = {name: value for name, value in line.items() if name != "hash"}
        whole, same = canonical_json(line), _hash(body) == line["hash"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise LedgerInvalid(f"{path}, line {number}: not a {kind.member}", hint=kind.hint) from None
    if not same or whole != raw:
        raise LedgerInvalid(f"{path}, line {number}: the {kind.line} does not match its hash; it was changed")
    return line


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
