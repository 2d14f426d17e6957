"""A ledger in PostgreSQL: writers on any number of machines, one chain.

A writer takes an advisory lock, reads the tail and adds its batch in one transaction; it needs to be granted no more
than SELECT and INSERT. Readers see a snapshot and wait for nobody. Passwords belong into PGPASSFILE or a service file:
a command line is seen by everyone on the machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from watermark.errors import ExtraMissing, LedgerInvalid
from watermark.files import canonical_json
from watermark.ledger.record import Record, Selection
from watermark.ledger.rows import LISTED, condition, header_in, record_of, row_of
from watermark.ledger.source import shown

_LOCK = 0x776D6B6C  # advisory locks, "wmkl": this one to make the tables, with a table's number to write to it
_FETCHED = 500
_TABLES = """
CREATE TABLE wmark_header (line bytea NOT NULL);
CREATE TABLE wmark_records (
    seq bigint PRIMARY KEY, time text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, kid text COLLATE "C" NOT NULL,
    receipt text NOT NULL, salt bytea NOT NULL, answer_hash bytea NOT NULL, prompt bytea, token_ids bytea,
    prev bytea NOT NULL, hash bytea NOT NULL
);
CREATE INDEX wmark_records_by_id ON wmark_records (id);
CREATE INDEX wmark_records_by_kid ON wmark_records (kid, time);
"""


class PostgresStore:
    """The tables wmark_header and wmark_records of a database, in the first schema of its search path.

    write: they are made if they are not there. Raises LedgerInvalid if the database does not answer or is refused,
    ExtraMissing without psycopg.
    """

    checks = False

    def __init__(self, url: str, *, write: bool) -> None:
        try:
            import psycopg
        except ImportError:
            raise ExtraMissing("psycopg", "pg", "a ledger in PostgreSQL") from None
        self.where, self._errors, self._write = shown(url), psycopg.Error, write
        try:
            self._db = psycopg.connect(url, autocommit=True, client_encoding="utf8", application_name="wmark")
            self._db.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # the tail is read after the lock
        except (psycopg.Error, UnicodeError) as error:
            raise LedgerInvalid(
                f"{self.where} cannot be opened: {_first(error)}",
                hint="postgresql://USER@HOST/DATABASE; the password goes into PGPASSFILE",
            ) from None

    def start(self, header: dict[str, Any]) -> dict[str, Any]:
        with self._told(), self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if not self._made():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(statement.encode())
                self._db.execute("INSERT INTO wmark_header VALUES (%s)", (canonical_json(header),))
        return self.header() or header

    def header(self) -> dict[str, Any] | None:
        with self._told():
            found = self._db.execute("SELECT line FROM wmark_header").fetchall() if self._made() else None
        return None if found is None else header_in(found, self.where)

    def tail(self) -> tuple[int, str]:
        with self._told():
            return self._tail()

    def extend(self, made: Callable[[int, str], list[Record]]) -> list[Record]:
        with self._told(), self._db.transaction():
            self._db.execute(
                "SELECT pg_advisory_xact_lock((%s::bigint << 32) + 'wmark_records'::regclass::oid::bigint)", (_LOCK,)
            )
            added = made(*self._tail())
            with self._db.cursor() as cursor, cursor.copy(f"COPY wmark_records ({LISTED}) FROM STDIN".encode()) as rows:
                for record in added:
                    rows.write_row(row_of(record))
        return added

    def records(self, chosen: Selection) -> Iterator[Record]:
        where, values = condition(chosen, "%s")
        query = f"SELECT {LISTED} FROM wmark_records{where} ORDER BY seq".encode()
        with self._told(), self._db.transaction(), self._db.cursor("wmark", binary=True) as cursor:
            cursor.itersize = _FETCHED
            for row in cursor.execute(query, values):
                yield record_of(row, self.where)

    def answered(self, id: str) -> list[tuple[str, str]]:
        with self._told():
            found = self._db.execute("SELECT salt, answer_hash FROM wmark_records WHERE id = %s", (id,)).fetchall()
        return [(salt.hex(), answer.hex()) for salt, answer in found]

    def close(self) -> None:
        self._db.close()

    def _made(self) -> bool:
        (found,) = self._db.execute("SELECT to_regclass('wmark_header') IS NOT NULL").fetchone() or (False,)
        return bool(found)

    def _tail(self) -> tuple[int, str]:
        last = self._db.execute("SELECT seq + 1, hash FROM wmark_records ORDER BY seq DESC LIMIT 1").fetchone()
        return (last[0], last[1].hex()) if last else (0, str((self.header() or {})["hash"]))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What PostgreSQL says, in our words."""
        try:
            yield
        except self._errors as error:
            raise LedgerInvalid(f"{self.where}: {_first(error)}") from None


def _first(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
