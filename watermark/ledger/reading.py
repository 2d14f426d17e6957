"""Reading a ledger: its records, what it holds in short, and a copy of it in another store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from watermark.errors import LedgerInvalid
from watermark.ledger.opening import kept, open_source, open_store, required
from watermark.ledger.record import Mode, Record, Selection, checked_header, unchanged
from watermark.ledger.source import Source, all_records

_BATCH = 2000


@dataclass(frozen=True)
class Overview:
    """A ledger in short. store: what keeps it; first, last: times of records, "" without any; tokens: of the answers,
    None in a hash-only ledger; kids: how many records each key marked, "" those served without a mark."""

    store: str
    mode: Mode
    created: str
    records: int
    tokens: int | None
    first: str
    last: str
    head: str
    kids: dict[str, int]


def read_ledger(where: str | Path, chosen: Selection | None = None) -> Iterator[Record]:
    """The records of a ledger, checked as they come, in bounded memory.

    The whole chain is checked; with `chosen` each record that is selected, and that it stands in the chain only where
    the store has to be read through. Raises LedgerInvalid naming the first record that is wrong. A last line of JSON
    Lines without its end is a write that never finished; it is left out.
    """
    with closing(open_source(where)) as source:
        header = checked_header(required(source), source.where)
        if chosen is None or chosen == Selection():
            yield from all_records(source, header)
            return
        for record in source.records(chosen):
            yield record if source.checks else unchanged(record, source.where)


def overview(where: str | Path, chosen: Selection | None = None) -> Overview:
    """What a ledger holds, or what is chosen of it; reads it through. Raises as `read_ledger`."""
    with closing(open_source(where)) as source:
        header = checked_header(required(source), source.where)
    kids: Counter[str] = Counter()
    count, tokens, first, last, head = 0, 0, "", "", str(header["hash"])
    for record in read_ledger(where, chosen):
        kids[record.kid] += 1
        count, tokens, head = count + 1, tokens + len(record.token_ids or ()), record.hash
        first, last = min(first or record.time, record.time), max(last, record.time)
    mode: Mode = header["mode"]
    known = tokens if mode == "full" else None
    return Overview(kept(where), mode, header["created"], count, known, first, last, head, dict(kids.most_common()))


def noted_head(where: str | Path, head: str) -> int:
    """How many records a ledger had when `head` was its last hash: it has not been cut or rewritten since.

    Raises LedgerInvalid if no record has this hash, or the chain is broken.
    """
    with closing(open_source(where)) as source:
        header = checked_header(required(source), source.where)
        found = 0 if header["hash"] == head else None
        for record in all_records(source, header):
            found = record.seq + 1 if record.hash == head else found
    if found is None:
        raise LedgerInvalid(
            f"{source.where} holds no record with the hash {head[:16]}…: it was cut, or it is another ledger"
        )
    return found


def copy_ledger(source: str | Path, target: str | Path, progress: Callable[[int], None] | None = None) -> int:
    """Copies a ledger, record by record as they are, into another store; returns how many were added.

    target: new, or a ledger that is the beginning of the source, which then goes on; a copy that was stopped goes on
    too. Parquet is written anew. Raises LedgerInvalid if it is anything else or the source's chain is broken.
    """
    with closing(open_source(source)) as given:
        if kept(target) == "Parquet":
            from watermark.ledger.parquet import write_parquet

            return write_parquet(given, Path(target), progress)
        return _copied(given, target, progress)


def _copied(given: Source, target: str | Path, progress: Callable[[int], None] | None) -> int:
    header = checked_header(required(given), given.where)
    with closing(open_store(target)) as store:
        there, said = store.start(header), 0
        length, head = store.tail()
        records, last = all_records(given, header), str(header["hash"])
        for record in islice(records, length):
            said, last = said + 1, record.hash
        if there != header or said < length or last != head:
            raise LedgerInvalid(
                f"{store.where} is not the beginning of {given.where}; nothing was written",
                hint="choose a new file or an empty database",
            )
        added = 0
        while batch := list(islice(records, _BATCH)):
            store.extend(partial(_following, batch, store.where))
            added += len(batch)
            if progress is not None:
                progress(length + added)
        return added


def _following(batch: list[Record], where: str, length: int, head: str) -> list[Record]:
    if (batch[0].seq, batch[0].prev) != (length, head):
        raise LedgerInvalid(f"{where} was written to by another process while it was copied to")
    return batch
