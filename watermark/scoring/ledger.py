"""ScoreLedger: which inputs were served which marked answers, one JSON line a batch, each with the hash of the last.

Logged inputs are what a test of the part of the mark that belongs to single inputs needs; the ledger shows that they
were served, and when. It is a chain like the ledger of text (`watermark.chain`): append-only, crash-safe, 0600.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark import chain
from watermark.errors import LedgerInvalid, OutputsInvalid
from watermark.files import canonical_json
from watermark.scores.table import Table, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORE_LEDGER = "wmark-score-ledger/1"
Mode = Literal["full", "hash-only"]
Columns = list[list[Any]]
_KIND = chain.Kind(
    SCORE_LEDGER,
    "ledger of scores",
    "record",
    "record of a ledger of scores",
    hint="pass what `wmark scores generate --ledger` wrote",
)


@dataclass(frozen=True)
class ScoreRecord:
    """One served batch. kid: of the key that marked it, the account's own where the mark has accounts.

    inputs_hash, answers_hash: SHA-256 over canonical JSON of [salt, columns], see `columns_hash`; salt is fresh for
    each record. inputs, answers: [[name, values], …] in the order of the columns, a missing value null; None in a
    hash-only ledger.
    """

    seq: int
    time: str
    kid: str
    rows: int
    salt: str
    inputs_hash: str
    answers_hash: str
    inputs: Columns | None
    answers: Columns | None
    prev: str
    hash: str


class ScoreLedger:
    """An open ledger, for one process at a time and any of its threads. Use as a context manager.

    mode: "full" keeps inputs and answers, "hash-only" salted hashes of them; fixed when the file is made. Raises
    LedgerInvalid if the file is none of these, its chain is broken, or another process writes to it.
    """

    def __init__(self, path: str | Path, *, mode: Mode | None = None) -> None:
        if mode not in (None, "full", "hash-only"):
            raise LedgerInvalid(f"a ledger is full or hash-only, found {mode!r}")
        self.path, self.length, self.head = Path(path), 0, ""
        self._lock = threading.Lock()
        self._stream = chain.open_locked(self.path)
        try:
            self._begin(mode)
        except BaseException:
            self._stream.close()
            raise

    def append(self, inputs: Any, answers: Any, *, kid: str) -> ScoreRecord:
        """Adds one served batch; on return it is on disk.

        inputs: as for `scores.table` (n rows). answers: what was served, a Table, or an array (n,) or (n, C). Raises
        OutputsInvalid if their rows do not match, OSError if the disk is full; the ledger is then as it was before.
        """
        asked, served = to_columns(table(inputs)), to_columns(_answers(answers))
        rows = _length(asked)
        if rows != _length(served):
            raise OutputsInvalid(f"{_length(served)} answers for {rows} inputs; there should be one for each")
        salt, full = os.urandom(16).hex(), self.mode == "full"
        with self._lock:
            body: dict[str, Any] = {
                "seq": self.length,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kid": kid,
                "rows": rows,
                "salt": salt,
                "inputs_hash": columns_hash(salt, asked),
                "answers_hash": columns_hash(salt, served),
                "inputs": asked if full else None,
                "answers": served if full else None,
                "prev": self.head,
            }
            self.head = str(chain.append(self._stream, body)["hash"])
            self.length += 1
            return ScoreRecord(**body, hash=self.head)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> ScoreLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, mode: Mode | None) -> None:
        content = self._stream.read()
        whole = chain.whole_lines(content)
        if whole < len(content):
            chain.set_aside(self.path, content[whole:])
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
        if mode is not None and mode != self.mode:
            raise LedgerInvalid(f"{self.path} is a {self.mode} ledger and cannot become {mode}; choose another file")

    def _start(self, mode: Mode) -> None:
        self.mode = mode
        made = datetime.now(UTC).isoformat(timespec="seconds")
        header = {"format": SCORE_LEDGER, "mode": mode, "created": made, "ledger": os.urandom(8).hex()}
        self.head = str(chain.append(self._stream, header)["hash"])


def read_score_ledger(path: str | Path) -> Iterator[ScoreRecord]:
    """The records of a ledger, its chain checked. Raises LedgerInvalid naming the first record that is wrong.

    A last line without its end is a write that never finished; it is left out.
    """
    path = Path(path)
    lines = chain.read_chain(path, _KIND)
    next(lines)
    yield from list(_records(path, lines))


def served_inputs(path: str | Path, *, kid: str | None = None) -> Table:
    """The inputs of a full ledger, in the order they were served, for a test on logged inputs.

    kid: of one account's key; None for all. Raises LedgerInvalid if it does not verify, keeps hashes alone, holds
    nothing of that key, or its records have different columns.
    """
    return _stacked(path, [record.inputs for record in _of(path, kid)])


def served_answers(path: str | Path, *, kid: str | None = None) -> Table:
    """The answers that were served, row by row with `served_inputs`."""
    return _stacked(path, [record.answers for record in _of(path, kid)])


def is_score_ledger(path: str | Path) -> bool:
    """Whether a file starts like a ledger of scores."""
    return chain.starts_as(path, _KIND)


def columns_hash(salt: str, columns: Columns) -> str:
    """SHA-256 over canonical JSON of [salt, columns], in hex."""
    return hashlib.sha256(canonical_json([salt, columns])).hexdigest()


def to_columns(found: Table) -> Columns:
    """A table as JSON values: [[name, values], …], with numbers, words, and null for a missing number."""
    return [
        [name, [None if value != value else value for value in column.tolist()]]
        for name, column in found.columns.items()
    ]


def _answers(given: Any) -> Table:
    """Answers as a table; an array's columns are c0, c1, …"""
    if isinstance(given, Table):
        return given
    array = np.asarray(given)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise OutputsInvalid(f"answers should be rows of numbers, found shape {np.shape(given)}")
    return table(array, [f"c{i}" for i in range(array.shape[1])])


def _length(columns: Columns) -> int:
    return len(columns[0][1]) if columns else 0


def _of(path: str | Path, kid: str | None) -> list[ScoreRecord]:
    records = list(read_score_ledger(path))
    found = [record for record in records if kid in (None, record.kid)]
    if not found:
        whose = "no records" if kid is None or not records else f"nothing that was marked under the key {kid}"
        raise LedgerInvalid(f"{path} holds {whose}", hint="is this the ledger of that deployment and account?")
    return found


def _stacked(path: str | Path, parts: list[Columns | None]) -> Table:
    """Batches below each other. A column that holds words anywhere is one of words."""
    held = [{str(name): values for name, values in part} for part in parts if part is not None]
    if len(held) < len(parts):
        raise LedgerInvalid(
            f"{path} is a hash-only ledger; it holds no rows", hint="pass the logged inputs themselves, with --inputs"
        )
    names = list(held[0])
    other = next((part for part in held if set(part) != set(names)), None)
    if other is not None:
        raise LedgerInvalid(
            f"{path} holds batches with different columns: {', '.join(names)}; and {', '.join(other)}",
            hint="keep one ledger for each interface, or read one account's records: served_inputs(path, kid=…)",
        )
    return Table({name: _column([value for part in held for value in part[name]]) for name in names})


def _column(values: list[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _records(path: Path, lines: Iterable[dict[str, Any]]) -> Iterator[ScoreRecord]:
    for number, line in enumerate(lines, 2):
        try:
            record = ScoreRecord(**line)
            good = all(
                part is None or (columns_hash(record.salt, part) == stated and _length(part) == record.rows)
                for part, stated in ((record.inputs, record.inputs_hash), (record.answers, record.answers_hash))
            )
        except (TypeError, ValueError, IndexError, KeyError):
            raise LedgerInvalid(f"{path}, line {number}: the record's fields are not those of {SCORE_LEDGER}") from None
        if not good:
            raise LedgerInvalid(f"{path}, line {number}: the rows do not match their hash")
        yield record
