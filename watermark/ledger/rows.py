"""A record as a row of a database, the same in SQLite and PostgreSQL; the line that is hashed is made from it again.

Columns: seq, time, id, kid, receipt (canonical JSON), salt, answer_hash, prev, hash (bytes), prompt (UTF-8; null in
hash-only), token_ids (32-bit little-endian; null in hash-only). A column that is changed changes the line.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from watermark.errors import LedgerInvalid
from watermark.files import canonical_json
from watermark.ledger.record import Record, Selection

COLUMNS = ("seq", "time", "id", "kid", "receipt", "salt", "answer_hash", "prompt", "token_ids", "prev", "hash")
LISTED = ", ".join(COLUMNS)


def row_of(record: Record) -> tuple[Any, ...]:
    """A record's columns. Raises LedgerInvalid for what they cannot hold."""
    return (
        record.seq,
        record.time,
        record.id,
        record.kid,
        canonical_json(record.receipt).decode(),
        _bytes(record, "salt"),
        _bytes(record, "answer_hash"),
        None if record.prompt is None else record.prompt.encode(),
        None if record.token_ids is None else _packed(record),
        _bytes(record, "prev"),
        _bytes(record, "hash"),
    )


def record_of(row: tuple[Any, ...], where: str) -> Record:
    """The record of a row. Raises LedgerInvalid for a row that no record makes."""
    seq, time, id, kid, receipt, salt, answer_hash, prompt, token_ids, prev, hash = row
    try:
        if not all(isinstance(text, str) for text in (time, id, kid)):
            raise TypeError  # SQLite keeps any kind of value in any column
        return Record(
            seq=seq,
            time=time,
            id=id,
            kid=kid,
            receipt=receipt_of(receipt),
            salt=salt.hex(),
            answer_hash=answer_hash.hex(),
            prompt=None if prompt is None else bytes(prompt).decode(),
            token_ids=None if token_ids is None else unpacked(token_ids),
            prev=prev.hex(),
            hash=hash.hex(),
        )
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise LedgerInvalid(f"{where}, record {seq}: its columns are not those of a record; it was changed") from None


def header_in(found: Sequence[tuple[Any, ...]], where: str) -> dict[str, Any]:
    """The header as it was stored, one line in one row. Raises LedgerInvalid if it is not as it was written."""
    try:
        ((line,),) = found
        header: dict[str, Any] = json.loads(line)
        if canonical_json(header) == bytes(line):
            return header
    except (ValueError, TypeError):
        pass
    raise LedgerInvalid(f"{where}: its header cannot be read; it was changed")


def condition(chosen: Selection, mark: str) -> tuple[str, list[Any]]:
    """The WHERE clause of a selection, with its values. mark: how a value is written, "?" or "%s"."""
    parts: list[str] = []
    values: list[Any] = []
    if chosen.kids:
        parts.append(f"kid IN ({', '.join([mark] * len(chosen.kids))})")
        values += chosen.kids
    for sign, time in ((">=", chosen.since), ("<", chosen.until)):
        if time:
            parts.append(f"time {sign} {mark}")
            values.append(time)
    return " WHERE " + " AND ".join(parts) if parts else "", values


def unpacked(token_ids: bytes) -> list[int]:
    """Token ids of a column. Raises ValueError for bytes that are none."""
    ids = array("I", bytes(token_ids))
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def receipt_of(text: str) -> dict[str, Any]:
    """The receipt in a column. Raises ValueError for JSON that is not canonical: it is not as it was written."""
    found: dict[str, Any] = json.loads(text)
    if canonical_json(found).decode() != text:
        raise ValueError(f"not canonical: {text[:80]!r}")
    return found


def _packed(record: Record) -> bytes:
    try:
        ids = array("I", record.token_ids or ())
    except OverflowError:
        raise LedgerInvalid(
            f"record {record.seq}: a token id does not fit into 32 bits; it cannot be kept in a database"
        ) from None
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def _bytes(record: Record, name: str) -> bytes:
    digits = getattr(record, name)
    try:
        if (found := bytes.fromhex(digits)).hex() == digits:
            return found
    except (ValueError, TypeError):
        pass
    raise LedgerInvalid(f"record {record.seq}: {name} is not hexadecimal; it cannot be kept in a database")
