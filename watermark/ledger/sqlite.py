"""A ledger in SQLite: any number of writers and readers on one machine, indexed, each batch one transaction.

Write-ahead log and `synchronous=FULL`: what was acknowledged survives a crash and a cut of power. Writers queue for
the database's write lock and read the tail under it, so the chain cannot fork.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from watermark.errors import LedgerInvalid
from watermark.files import canonical_json
from watermark.ledger.record import Record, Selection
from watermark.ledger.rows import COLUMNS, LISTED, condition, header_in, record_of, row_of
from watermark.ledger.source import OPEN_HERE, SQLITE_MARK

_WAIT = 60.0  # seconds that a writer queues for the others
_TABLES = f"""
CREATE TABLE header (line BLOB NOT NULL);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, time TEXT NOT NULL, id TEXT NOT NULL, kid TEXT NOT NULL, receipt TEXT NOT NULL,
    salt BLOB NOT NULL, answer_hash BLOB NOT NULL, prompt BLOB, token_ids BLOB, prev BLOB NOT NULL, hash BLOB NOT NULL
);
CREATE INDEX records_by_id ON records (id);
CREATE INDEX records_by_kid ON records (kid, time);
PRAGMA application_id = {SQLITE_MARK};
"""


class SQLiteStore:
    """A database file, 0600. write: made if it is not there; else opened to be read, and never changed.

    Raises LedgerInvalid if it is no ledger or cannot be opened.
    """

    checks = False

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path, self.where = path, str(path)
        try:
            self._db = _patiently(_writable if write else _readable, path)
        except sqlite3.Error as error:
            raise LedgerInvalid(f"{path} cannot be opened as SQLite: {error}") from None
        except OSError as error:
            raise LedgerInvalid(f"{path} cannot be opened: {error.strerror}") from None
        found = path.stat()
        self._file: tuple[int, int] | None = (found.st_dev, found.st_ino)
        OPEN_HERE[self._file] += 1
        try:
            with self._told():
                self._known = self._marked()
        except BaseException:
            self.close()
            raise

    def start(self, header: dict[str, Any]) -> dict[str, Any]:
        with self._writing():
            if not self._marked():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO header VALUES (?)", (canonical_json(header),))
        self._known = True
        return self.header() or header

    def header(self) -> dict[str, Any] | None:
        if not self._known:
            return None
        return header_in(self._all("SELECT line FROM header"), self.where)

    def tail(self) -> tuple[int, str]:
        with self._told():
            return self._tail()

    def extend(self, made: Callable[[int, str], list[Record]]) -> list[Record]:
        """Raises OSError if the disk is full; the ledger is then as it was before."""
        with self._writing():
            added = made(*self._tail())
            self._db.executemany(
                f"INSERT INTO records ({LISTED}) VALUES ({', '.join('?' * len(COLUMNS))})", map(row_of, added)
            )
        return added

    def records(self, chosen: Selection) -> Iterator[Record]:
        where, values = condition(chosen, "?")
        with self._told():
            for row in self._db.execute(f"SELECT {LISTED} FROM records{where} ORDER BY seq", values):
                yield record_of(row, self.where)

    def answered(self, id: str) -> list[tuple[str, str]]:
        found = self._all("SELECT salt, answer_hash FROM records WHERE id = ?", id)
        return [(salt.hex(), answer.hex()) for salt, answer in found]

    def close(self) -> None:
        self._db.close()
        if self._file is not None:
            OPEN_HERE[self._file] -= 1
            self._file = None

    def _marked(self) -> bool:
        asked = "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        found, tables = self._db.execute(asked).fetchone()  # in one statement: another process may be making them
        if tables and found != SQLITE_MARK:
            raise LedgerInvalid(f"{self.path} is a database of something else, not a ledger")
        return bool(tables)

    def _tail(self) -> tuple[int, str]:
        last = self._db.execute("SELECT seq + 1, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
        return (last[0], last[1].hex()) if last else (0, str((self.header() or {})["hash"]))

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._told():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction under the write lock; rolled back if anything fails."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says, in our words."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise OSError(28, f"the ledger could not be written: {error}", str(self.path)) from None
            hint = "another process holds its lock; try again" if code == sqlite3.SQLITE_BUSY else None
            raise LedgerInvalid(f"{self.path}: {error}", hint=hint) from None


def _patiently(opened: Callable[[Path], sqlite3.Connection], path: Path) -> sqlite3.Connection:
    """Opens a database, and again while others who open it too hold its lock: SQLite does not queue for its journal."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            return opened(path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _writable(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _readable(path: Path) -> sqlite3.Connection:
    """Read-only; a copy in a folder that cannot be written is opened as a file that nobody changes."""
    name = f"file:{quote(str(path.absolute()))}?mode=ro"
    written = path.with_name(path.name + "-wal").exists()
    frozen = "" if written or os.access(path.parent, os.W_OK) else "&immutable=1"
    return sqlite3.connect(name + frozen, uri=True, timeout=_WAIT, isolation_level=None, check_same_thread=False)
