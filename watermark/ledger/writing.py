"""Ledger: an open ledger, to which served answers are added."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from watermark.errors import LedgerInvalid
from watermark.ledger.opening import open_store
from watermark.ledger.record import (
    Answer,
    Mode,
    Record,
    Selection,
    answer_hash,
    checked_header,
    header_of,
    recorded,
)
from watermark.ledger.source import shown


class Ledger:
    """An open ledger. Use as a context manager; any threads may share it.

    where: a file, or the address of a PostgreSQL database (`opening` says which name makes what). JSON Lines take one
    writing process at a time; SQLite and PostgreSQL any number, and their chain does not fork.
    mode: "full" keeps prompts and token ids, "hash-only" keeps salted hashes of them; fixed when the ledger is made.
    Raises LedgerInvalid if there is something else, or JSON Lines whose chain is broken or that another process
    writes to; a database is not read through for it (`read_ledger` is).
    """

    def __init__(self, where: str | Path, *, mode: Mode | None = None) -> None:
        self.where, self._lock = shown(where), threading.RLock()
        self._store = open_store(where)
        try:
            header = checked_header(self._store.start(header_of(mode or "full")), self.where)
            self.mode: Mode = header["mode"]
            if mode is not None and mode != self.mode:
                raise LedgerInvalid(
                    f"{self.where} is a {self.mode} ledger and cannot become {mode}; choose another file"
                )
            self._tail = self._store.tail()
        except BaseException:
            self._store.close()
            raise
        self._open = True

    def append(self, id: str, *, kid: str, receipt: dict[str, Any], prompt: str, token_ids: list[int]) -> Record:
        """Adds one served answer; on return it is on disk. Raises OSError if the disk is full."""
        return self.append_many([Answer(id, kid, receipt, prompt, token_ids)])[0]

    def append_many(self, answers: Iterable[Answer]) -> list[Record]:
        """Adds served answers in one step; on return all are on disk. Raises as `append`, and then none was added.

        A step waits for the disk once: a server that gathers a batch records many times faster (docs/ledger.md).
        """
        given = list(answers)
        with self._lock:
            added = self._store.extend(lambda length, head: recorded(given, self.mode, length, head))
            if added:
                self._tail = added[-1].seq + 1, added[-1].hash
        return added

    def holds(self, id: str, *, prompt: str, token_ids: list[int]) -> bool:
        """Whether this very answer was recorded under this id."""
        with self._lock:
            found = self._store.answered(id)
        return any(answer_hash(salt, prompt, token_ids) == made for salt, made in found)

    @property
    def length(self) -> int:
        """How many records there are, those of other writers among them."""
        return self._now()[0]

    @property
    def head(self) -> str:
        """The hash of the last record, or else of the header: note it elsewhere, and nothing can be cut off unseen."""
        return self._now()[1]

    @property
    def ids(self) -> set[str]:
        """The ids of all records; reads the whole ledger."""
        with self._lock:
            return {record.id for record in self._store.records(Selection())}

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._now()
            self._open = False
            self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> tuple[int, str]:
        with self._lock:
            if self._open:
                self._tail = self._store.tail()
            return self._tail
