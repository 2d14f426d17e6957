"""What a ledger is, wherever it is kept: a source that is read, a store that is written; and how places are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from watermark.ledger.record import Record, Selection, checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SQLITE_MARK = 0x776D6B6C  # SQLite's application id: "wmkl"
OPEN_HERE: Counter[tuple[int, int]] = Counter()  # databases that this process has open: device and inode
_URLS = ("postgresql://", "postgres://")


class Source(Protocol):
    """A ledger that is read. where: its name for messages, without a password. checks: its records come checked, each
    in its place; else whoever reads them checks them (`checked`)."""

    where: str
    checks: bool

    def header(self) -> dict[str, Any] | None:
        """The first line; None where nothing was written yet."""

    def records(self, chosen: Selection) -> Iterator[Record]:
        """Records in their order, one snapshot, in bounded memory."""

    def close(self) -> None:
        """Lets go of the file or the connection."""


class Store(Source, Protocol):
    """A ledger that is written. One batch is one step: all of it is on disk when `extend` returns, or none."""

    def start(self, header: dict[str, Any]) -> dict[str, Any]:
        """Writes the first line unless there is one; returns the one that stands."""

    def tail(self) -> tuple[int, str]:
        """How many records there are, and the hash of the last one, or else of the header."""

    def extend(self, made: Callable[[int, str], list[Record]]) -> list[Record]:
        """Adds the records that `made` makes of the tail; no other writer comes between."""

    def answered(self, id: str) -> list[tuple[str, str]]:
        """Salt and answer hash of each record of an id."""


def all_records(source: Source, header: dict[str, Any]) -> Iterator[Record]:
    """Every record of a source, each checked, in its place."""
    found = source.records(Selection())
    return found if source.checks else checked(found, source.where, header)


def is_url(where: str | Path) -> bool:
    """Whether this is the address of a database, not a path."""
    return str(where).startswith(_URLS)


def shown(where: str | Path) -> str:
    """A ledger's name for people: of an address host and database alone, for the rest may hold a password."""
    if not is_url(where):
        return str(where)
    parts = urlsplit(str(where))
    return f"postgresql://{parts.hostname or ''}{parts.path}"
