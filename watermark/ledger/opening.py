"""Where a ledger is: one function opens a file or a database to be written, one to be read; nothing else chooses.

What exists says itself what it is. Of a new file the name decides: `.jsonl` and `.ndjson` are JSON Lines, all others
SQLite; `postgresql://…` is a database that answers there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from watermark import chain
from watermark.errors import LedgerInvalid
from watermark.files import canonical_json, sha256_of
from watermark.ledger.record import FORMAT, KIND, checked_header, line_of
from watermark.ledger.source import OPEN_HERE, SQLITE_MARK, all_records, is_url

if TYPE_CHECKING:
    from watermark.ledger.source import Source, Store

Kept = Literal["JSON Lines", "SQLite", "PostgreSQL", "Parquet"]
_LINES = (".jsonl", ".ndjson", ".json")


def kept(where: str | Path) -> Kept:
    """What keeps a ledger, or would keep a new one."""
    if is_url(where):
        return "PostgreSQL"
    path = Path(where)
    if opened_here(path):
        return "SQLite"
    first = _first(path)
    if first.startswith(b"SQLite format 3\0"):
        return "SQLite"
    if first.startswith(b"PAR1") or (not first and path.suffix == ".parquet"):
        return "Parquet"
    return "JSON Lines" if first or path.suffix in _LINES else "SQLite"


def open_store(where: str | Path) -> Store:
    """A ledger to be written, made if it is not there. Raises LedgerInvalid, and ExtraMissing without psycopg."""
    _refuse_folder(where)
    kind = kept(where)
    if kind == "PostgreSQL":
        from watermark.ledger.postgres import PostgresStore

        return PostgresStore(str(where), write=True)
    if kind == "Parquet":
        raise LedgerInvalid(
            f"{where} is Parquet, which is written once", hint="record in SQLite, and `wmark ledger export` to it"
        )
    if kind == "SQLite":
        from watermark.ledger.sqlite import SQLiteStore

        return SQLiteStore(Path(where), write=True)
    from watermark.ledger.lines import LinesStore

    return LinesStore(Path(where))


def open_source(where: str | Path) -> Source:
    """A ledger to be read. Raises LedgerInvalid, and ExtraMissing where a library is needed."""
    _refuse_folder(where)
    kind = kept(where)
    if kind == "PostgreSQL":
        from watermark.ledger.postgres import PostgresStore

        return PostgresStore(str(where), write=False)
    if not is_url(where) and not Path(where).exists():
        raise LedgerInvalid(
            f"{where} cannot be read: No such file or directory",
            hint="pass the ledger that `wmark generate --ledger` or a server's `Ledger` wrote",
        )
    if kind == "Parquet":
        from watermark.ledger.parquet import ParquetSource

        return ParquetSource(Path(where))
    if kind == "SQLite":
        from watermark.ledger.sqlite import SQLiteStore

        return SQLiteStore(Path(where), write=False)
    from watermark.ledger.lines import LinesSource

    return LinesSource(Path(where))


def is_ledger(where: str | Path) -> bool:
    """Whether a file starts like a ledger, in any of its forms; an address of PostgreSQL is taken for one."""
    if is_url(where):
        return True
    kind, path = kept(where), Path(where)
    if kind == "SQLite":
        return opened_here(path) or _first(path)[68:72] == SQLITE_MARK.to_bytes(4, "big")
    if kind == "Parquet":
        return path.is_file() and FORMAT.encode() in _last(path)
    return chain.starts_as(path, KIND)


def opened_here(path: Path) -> bool:
    """Whether this process has this database open; its file must then not be opened and closed beside it.

    Closing any handle of a file drops all locks that the process holds on it (POSIX), SQLite's among them
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        found = path.stat()
    except OSError:
        return False
    return OPEN_HERE[found.st_dev, found.st_ino] > 0


def unfinished(where: str | Path) -> int:
    """Bytes after the last whole line of JSON Lines: what an interrupted write left, and readers leave out."""
    if kept(where) != "JSON Lines":
        return 0
    content = Path(where).read_bytes()
    return len(content) - chain.whole_lines(content)


def described(where: str | Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a ledger as evidence states it: of the JSON Lines that it is, or is exported to.

    So evidence is held to the records, not to the store they lie in. Raises LedgerInvalid for a broken chain.
    """
    if not is_url(where) and kept(where) == "JSON Lines":
        path = Path(where)
        return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    digest, size = hashlib.sha256(), 0
    with closing(open_source(where)) as source:
        for line in lines(source):
            digest.update(line)
            size += len(line)
    name = f"postgresql:{urlsplit(str(where)).path.strip('/')}" if is_url(where) else Path(where).name
    return {"name": name, "bytes": size, "sha256": digest.hexdigest()}


def lines(source: Source) -> Iterator[bytes]:
    """A ledger as JSON Lines, checked as it goes."""
    header = checked_header(required(source), source.where)
    yield canonical_json(header) + b"\n"
    for record in all_records(source, header):
        yield line_of(record)


def required(source: Source) -> dict[str, Any]:
    """The header of a source. Raises LedgerInvalid where there is none."""
    header = source.header()
    if header is None:
        raise LedgerInvalid(f"{source.where} holds no ledger", hint="is this the right place?")
    return header


def _refuse_folder(where: str | Path) -> None:
    if not is_url(where) and Path(where).is_dir():
        raise LedgerInvalid(f"{where} is a folder; a ledger is a file or a database", hint="name the file in it")


def _first(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(100)
    except OSError:
        return b""


def _last(path: Path) -> bytes:
    """The end of a file, where Parquet keeps its metadata."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - (1 << 20)))
        return stream.read()
