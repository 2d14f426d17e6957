"""Records: the canonical form that the chain is over, and how a chain of them is checked, whatever keeps it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from watermark import chain
from watermark.errors import LedgerInvalid
from watermark.files import canonical_json

FORMAT = "wmark-ledger/1"
Mode = Literal["full", "hash-only"]
KIND = chain.Kind(FORMAT, "ledger", "record", "ledger record", hint="did you pass the answers as the ledger?")


@dataclass(frozen=True)
class Record:
    """One served answer. In a hash-only ledger `prompt` and `token_ids` are None and `answer_hash` stands alone.

    answer_hash: SHA-256 over canonical JSON of [salt, prompt, token_ids]; salt is fresh for each record.
    prev: hash of the record before, of the header for the first. hash: SHA-256 over canonical JSON of all the others.
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


@dataclass(frozen=True)
class Answer:
    """An answer to be recorded. kid: of the key that marked it, "" for none."""

    id: str
    kid: str
    receipt: dict[str, Any]
    prompt: str
    token_ids: list[int]


@dataclass(frozen=True)
class Selection:
    """Which records: kids, of the keys that marked them (empty: all); since <= time < until, as `selection` makes
    them ("" for open)."""

    kids: tuple[str, ...] = ()
    since: str = ""
    until: str = ""

    def holds(self, record: Record) -> bool:
        """Whether a record is selected."""
        return (
            (not self.kids or record.kid in self.kids)
            and self.since <= record.time
            and (not self.until or record.time < self.until)
        )


def selection(kids: Iterable[str] = (), since: str | None = None, until: str | None = None) -> Selection:
    """A Selection by ISO dates or times, UTC unless they say otherwise; a record's time may equal `since`, not `until`.

    Raises LedgerInvalid for what is no date, and for a period that ends before it begins.
    """
    found = Selection(tuple(kids), _time(since), _time(until))
    if found.until and found.until <= found.since:
        raise LedgerInvalid(f"the period ends at {found.until}, before or when it begins at {found.since}")
    return found


def header_of(mode: Mode) -> dict[str, Any]:
    """The first line of a new ledger."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return chain.sealed({"format": FORMAT, "mode": mode, "created": made, "ledger": os.urandom(8).hex()})


def recorded(answers: Iterable[Answer], mode: Mode, length: int, head: str) -> list[Record]:
    """The records of some answers, after `length` others of which the last has the hash `head`."""
    made: list[Record] = []
    for answer in answers:
        salt, ids, full = os.urandom(16).hex(), [int(i) for i in answer.token_ids], mode == "full"
        body: dict[str, Any] = {
            "seq": length + len(made),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": answer.id,
            "kid": answer.kid,
            "receipt": answer.receipt,
            "salt": salt,
            "answer_hash": answer_hash(salt, answer.prompt, ids),
            "prompt": answer.prompt if full else None,
            "token_ids": ids if full else None,
            "prev": made[-1].hash if made else head,
        }
        made.append(Record(**chain.sealed(body)))
    return made


def answer_hash(salt: str, prompt: str, token_ids: list[int]) -> str:
    """SHA-256 over canonical JSON of [salt, prompt, token_ids], in hex."""
    return hashlib.sha256(canonical_json([salt, prompt, [int(i) for i in token_ids]])).hexdigest()


def line_of(record: Record) -> bytes:
    """The canonical line of a record, as JSON Lines keep it."""
    return canonical_json(vars(record)) + b"\n"


def checked_header(header: dict[str, Any], where: str) -> dict[str, Any]:
    """A header that is one and matches its hash. Raises LedgerInvalid."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise LedgerInvalid(f"{where} is not a ledger: its header should say {FORMAT}")
    if chain.sealed({name: value for name, value in header.items() if name != "hash"}) != header:
        raise LedgerInvalid(f"{where}: the header does not match its hash; it was changed")
    if header.get("mode") not in get_args(Mode) or not isinstance(header.get("created"), str):
        raise LedgerInvalid(f"{where}: the header's fields are not those of {FORMAT}")
    return header


def checked(records: Iterable[Record], where: str, header: dict[str, Any]) -> Iterator[Record]:
    """All records of a store, from its first: each is what was written, in its place. Raises LedgerInvalid."""
    previous, number = header["hash"], 0
    for record in records:
        if record.prev != previous or record.seq != number:
            raise LedgerInvalid(f"{where}, record {number}: a record before it is missing, moved or changed")
        yield unchanged(record, where)
        previous, number = record.hash, number + 1


def unchanged(record: Record, where: str) -> Record:
    """A record that matches its own hash, and its answer the answer's; its place among others is not looked at."""
    body = {name: value for name, value in vars(record).items() if name != "hash"}
    try:
        same, answered = chain.sealed(body)["hash"] == record.hash, answers(record)
    except (TypeError, ValueError):  # what no JSON holds, or not in this place
        raise LedgerInvalid(f"{where}, record {record.seq}: it is not as it was written; it was changed") from None
    if not same:
        raise LedgerInvalid(f"{where}, record {record.seq}: the record does not match its hash; it was changed")
    if not answered:
        raise LedgerInvalid(f"{where}, record {record.seq}: the answer does not match its hash")
    return record


def answers(record: Record) -> bool:
    """Whether a record's answer matches the answer's hash; true where only the hash is kept."""
    if record.token_ids is None:
        return True
    return answer_hash(record.salt, record.prompt or "", record.token_ids) == record.answer_hash


def _time(given: str | None) -> str:
    if not given:
        return ""
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise LedgerInvalid(f"{given!r} is no date", hint="write it as 2026-01-31 or 2026-01-31T09:30") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return found.isoformat(timespec="milliseconds")
