"""Ledger: what was served and when, each record holding the hash of the one before.

The chain is over the canonical record (`record`), so it is the same in every store: JSON Lines (`lines`), SQLite
(`sqlite`), PostgreSQL (`postgres`); Parquet (`parquet`) is written once. `opening` tells them apart.
"""

from __future__ import annotations

from watermark.ledger.opening import described, is_ledger, unfinished
from watermark.ledger.reading import Overview, copy_ledger, noted_head, overview, read_ledger
from watermark.ledger.record import FORMAT, Answer, Mode, Record, Selection, answer_hash, selection
from watermark.ledger.source import is_url, shown
from watermark.ledger.writing import Ledger

__all__ = [
    "FORMAT",
    "Answer",
    "Ledger",
    "Mode",
    "Overview",
    "Record",
    "Selection",
    "answer_hash",
    "copy_ledger",
    "described",
    "is_ledger",
    "is_url",
    "noted_head",
    "overview",
    "read_ledger",
    "selection",
    "shown",
    "unfinished",
]
