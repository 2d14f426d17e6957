"""A ledger as Parquet: a copy for analysts, written once and read back; the header stands in the file's metadata.

Columns are those of a record; `receipt` is canonical JSON, `token_ids` a list of 32-bit numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import ExtraMissing, LedgerInvalid
from watermark.files import canonical_json
from watermark.ledger.record import FORMAT, Record, Selection, checked_header
from watermark.ledger.rows import header_in, receipt_of
from watermark.ledger.source import all_records

if TYPE_CHECKING:
    from watermark.ledger.source import Source

_GROUP = 20_000  # records written and read at once
_METADATA = b"wmark"


class ParquetSource:
    """A file that is read. Raises LedgerInvalid if it is no ledger, ExtraMissing without pyarrow."""

    checks = False

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        parquet = _library()
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow's errors share no base with files'
            raise LedgerInvalid(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None

    def header(self) -> dict[str, Any] | None:
        line = (self._file.schema_arrow.metadata or {}).get(_METADATA)
        if line is None:
            raise LedgerInvalid(f"{self.path} is Parquet, but no ledger", hint="pass what `wmark ledger export` wrote")
        return header_in([(line,)], self.where)

    def records(self, chosen: Selection) -> Iterator[Record]:
        for rows in self._rows():
            for row in rows:
                try:
                    if not all(isinstance(row[name], str) for name in ("time", "id", "kid")):
                        raise TypeError
                    record = Record(**row | {"receipt": receipt_of(row["receipt"])})
                except (TypeError, ValueError, KeyError, RecursionError):
                    raise LedgerInvalid(f"{self.path}: its columns are not those of {FORMAT}") from None
                if chosen.holds(record):
                    yield record

    def close(self) -> None:
        self._file.close()

    def _rows(self) -> Iterator[list[dict[str, Any]]]:
        import pyarrow

        try:
            for batch in self._file.iter_batches(batch_size=_GROUP):
                yield batch.to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            raise LedgerInvalid(f"{self.path} cannot be read as Parquet, it was changed: {told}") from None


def write_parquet(source: Source, path: Path, progress: Callable[[int], None] | None = None) -> int:
    """Copies a ledger into a new Parquet file, checked on the way; returns the number of records.

    Raises LedgerInvalid if the file exists or the chain is broken; the file is there whole, or not at all.
    """
    import pyarrow

    parquet = _library()
    if path.exists():
        raise LedgerInvalid(f"{path} exists already; nothing was written", hint="choose another file")
    header = checked_header(source.header() or {}, source.where)
    schema = _schema(pyarrow).with_metadata({_METADATA: canonical_json(header)})
    records, count = all_records(source, header), 0
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
            while batch := list(islice(records, _GROUP)):
                rows = [vars(record) | {"receipt": canonical_json(record.receipt).decode()} for record in batch]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                count += len(batch)
                if progress is not None:
                    progress(count)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _schema(pyarrow: Any) -> Any:
    text = pyarrow.string()
    kinds = {"seq": pyarrow.int64(), "token_ids": pyarrow.list_(pyarrow.uint32())}
    return pyarrow.schema([(name, kinds.get(name, text)) for name in Record.__dataclass_fields__])


def _library() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ExtraMissing("pyarrow", "scale", "a ledger as Parquet") from None
    return pyarrow.parquet
