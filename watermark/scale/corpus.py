"""Corpus: an input cut into blocks that can be read apart. Its order is the input's own: files by name, records as
they stand, so that nothing depends on who reads which block, or when."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

from watermark.errors import OutputsInvalid, WorkInvalid
from watermark.files import canonical_json
from watermark.outputs import (
    GZIP,
    LINES,
    PARQUET,
    ZSTD,
    Outputs,
    Raw,
    batch_rows,
    check_fields,
    decoded_lines,
    is_log,
    numbered_lines,
    present,
    pyarrow_part,
    unpacked,
)
from watermark.scale.store import Store
from watermark.sealed import Refusal, Sealed, unsealed

FILE = "corpus.json"
_REFUSAL = Refusal(
    WorkInvalid,
    "what says how outputs were cut into blocks",
    other="pass the folder that `wmark score` or `wmark detect --work` made",
    changed="remove the folder and begin again",
)
BLOCK_BYTES = 4 << 20  # of input, uncompressed: about 0.7 million token ids, a million tokens of text
_ID_BYTES = 6  # that a token id counts for in a table, as in JSON
_TOGETHER = 512  # records are read so many at a time; blocks hold whole batches
_ROWS = 1024
_SNIFFED = 4


@dataclass(frozen=True)
class Block:
    """A part of the input. file: its name; kind: "lines", "unpacked" (compressed lines, kept in the work folder),
    "parquet" or "arrow"; start, stop: bytes, or rows of that file; first: the number of its first line or row in
    messages; sha256: of the bytes of lines."""

    file: str
    kind: str
    start: int
    stop: int
    first: int
    sha256: str | None


@dataclass(frozen=True)
class Corpus(Sealed):
    """An input and its blocks. outputs: name, bytes and SHA-256, as evidence states them. reading: what it is read
    by, in a few digests and versions. watched: a query log says that its collector stopped when content."""

    format: ClassVar[str] = "wmark-corpus/1"

    outputs: dict[str, Any]
    reading: dict[str, Any]
    watched: bool
    blocks: list[Block]

    def keep(self, work: Store) -> None:
        work.write(FILE, [canonical_json(self.to_json())])


def kept_corpus(work: Store) -> Corpus | None:
    """What a work folder says of its input; None if it is new. Raises WorkInvalid if it is something else."""
    if work.size(FILE) is None:
        return None
    try:
        stored = json.loads(work.read(FILE))
    except ValueError:
        raise WorkInvalid(f"{FILE} of the work folder is not JSON", hint="remove the folder and begin again") from None
    return unsealed(stored, Corpus.format, _built, _REFUSAL, name=FILE)


def _built(body: dict[str, Any]) -> Corpus:
    return Corpus(**body | {"blocks": [Block(**block) for block in body["blocks"]]})


@dataclass(frozen=True)
class Input:
    """Where outputs lie. store, names: of the files that hold records, in reading order; others: of a folder's other
    files, which its SHA-256 covers. told: the path or address as it was given, for messages. folder: it is one."""

    store: Store
    names: list[str]
    others: list[str]
    told: str
    folder: bool

    @property
    def name(self) -> str:
        return PurePosixPath(self.told.rstrip("/")).name

    def stamps(self) -> dict[str, str]:
        """By name: bytes and time of each file."""
        return {n: f"{self.store.size(n)} {self.store.stamp(n)}" for n in (*self.names, *self.others)}


def input_at(told: str, *, folder: Store | None, file: tuple[Store, str]) -> Input:
    """The files of one input. folder: if it is one; else the `file` and the store that holds it.

    Raises OutputsInvalid where there is nothing to read.
    """
    if folder is None:
        if file[0].size(file[1]) is None:
            raise OutputsInvalid(f"no outputs at {told}", hint="pass a .jsonl file of the suspect's answers")
        return Input(file[0], [file[1]], [], told, False)
    names = folder.names()
    if not names and "://" in told:
        raise OutputsInvalid(f"no outputs at {told}", hint="is that the address, bucket and all?")
    by_kind = ([n for n in names if n.endswith(kinds)] for kinds in (".arrow", ".parquet", LINES))
    found = next((some for some in by_kind if some), [])
    found = [name for name in found if not is_log(name)]
    if not found:
        raise OutputsInvalid(f"{told} is not a datasets folder: no .arrow, .parquet or .jsonl file in it")
    if "dataset_dict.json" in names and not found[0].endswith(LINES):
        raise OutputsInvalid(f"{told} holds several splits", hint="pass the folder of one split")
    return Input(folder, found, [name for name in names if name not in set(found)], told, True)


def scanned(
    given: Input, work: Store, *, block_bytes: int, say: Callable[[int], None]
) -> tuple[dict[str, Any], list[Block]]:
    """Reads an input once: (name, bytes and SHA-256 as `files.sha256_of` has it, blocks).

    Compressed files cannot be entered in the middle: they are unpacked into the work folder, block by block.
    Raises OutputsInvalid for a damaged file.
    """
    blocks: list[Block] = []
    digests, row = {}, 1
    for name in given.names:
        with given.store.open(name) as stream:
            start = stream.read(_SNIFFED)
        where = f"{given.told}/{name}" if given.folder else given.told
        if name.endswith(".arrow") or start == PARQUET:
            kind = "parquet" if start == PARQUET else "arrow"
            found = list(_table_blocks(given.store, name, kind, row, block_bytes))
            row += sum(block.stop - block.start for block in found)
            digests[name] = _sha256(given.store, name)
        elif start[:2] == GZIP or start == ZSTD:
            found = list(_unpacked(given.store, name, start, where, work, len(blocks), block_bytes))
            digests[name] = _sha256(given.store, name)
        else:
            whole = hashlib.sha256()
            with given.store.open(name) as stream:
                found = [block for block, _ in _line_blocks(stream, name, where, whole, block_bytes)]
            digests[name] = whole.hexdigest()
        blocks += found
        say(len(blocks))
    digests |= {name: _sha256(given.store, name) for name in given.others}
    size = sum(given.store.size(name) or 0 for name in digests)
    listed = sorted(digests.items(), key=lambda pair: PurePosixPath(pair[0]).parts)
    digest = hashlib.sha256(canonical_json(listed)).hexdigest() if given.folder else digests[given.names[0]]
    return {"name": given.name, "bytes": size, "sha256": digest}, blocks


def _sha256(store: Store, name: str) -> str:
    with store.open(name) as stream:
        digest = hashlib.sha256()
        while some := stream.read(1 << 20):
            digest.update(some)
    return digest.hexdigest()


def _line_blocks(
    stream: IO[bytes], name: str, where: str, whole: Any, block_bytes: int
) -> Iterator[tuple[Block, bytes]]:
    """Blocks of whole lines with their bytes; blank lines do not count towards a batch."""
    held: list[bytes] = []
    start, size, full, first, number = 0, 0, 0, 1, 0
    for number, line in numbered_lines(stream, where):
        held.append(line)
        size += len(line)
        full += bool(line.strip())
        if size >= block_bytes and full % _TOGETHER == 0:
            yield _line_block(held, name, start, first, whole)
            start, size, full, first, held = start + size, 0, 0, number + 1, []
    if held:
        yield _line_block(held, name, start, first, whole)


def _line_block(held: list[bytes], name: str, start: int, first: int, whole: Any) -> tuple[Block, bytes]:
    content = b"".join(held)
    whole.update(content)
    digest = hashlib.sha256(content).hexdigest()
    return Block(name, "lines", start, start + len(content), first, digest), content


def _unpacked(
    store: Store, name: str, start: bytes, where: str, work: Store, number: int, block_bytes: int
) -> Iterator[Block]:
    with store.open(name) as packed, unpacked(packed, start, where) as stream:
        for block, content in _line_blocks(stream, name, where, hashlib.sha256(), block_bytes):
            kept = f"unpacked/{number:06d}.jsonl"
            work.write(kept, [content])
            yield Block(kept, "unpacked", 0, len(content), block.first, block.sha256)
            number += 1


def _table_blocks(store: Store, name: str, kind: str, row: int, block_bytes: int) -> Iterator[Block]:
    """Blocks of rows, as many as have about the right size in memory. row: the number of the table's first one."""
    parts = _parquet_parts(store, name) if kind == "parquet" else _arrow_parts(store, name)
    start = rows = size = 0
    for count, many in parts:
        each = max(1.0, many / max(1, count))
        while count:
            most = max(_TOGETHER, int(block_bytes / each) // _TOGETHER * _TOGETHER)
            taken = min(count, max(1, most - rows))
            rows, size, count = rows + taken, size + int(taken * each), count - taken
            if rows >= most or (size >= block_bytes and rows % _TOGETHER == 0):
                yield Block(name, kind, start, start + rows, row + start, None)
                start, rows, size = start + rows, 0, 0
    if rows:
        yield Block(name, kind, start, start + rows, row + start, None)


def _parquet_parts(store: Store, name: str) -> Iterator[tuple[int, int]]:
    """(rows, bytes) of each row group; the bytes of lists of ids are counted, for a dictionary makes them few."""
    with _parquet(store, name) as table:
        for group in range(table.metadata.num_row_groups):
            described = table.metadata.row_group(group)
            values = sum(described.column(number).num_values for number in range(described.num_columns))
            yield described.num_rows, max(described.total_byte_size, _ID_BYTES * values)


def _arrow_parts(store: Store, name: str) -> Iterator[tuple[int, int]]:
    for batch in _arrow_batches(store, name):
        yield batch.num_rows, batch.nbytes


@contextmanager
def _parquet(store: Store, name: str) -> Iterator[Any]:
    """A Parquet file, open. Raises OutputsInvalid if it is not readable."""
    module = pyarrow_part("pyarrow.parquet", Path(name))
    with store.open(name) as stream:
        try:
            yield module.ParquetFile(stream)
        except (OSError, ValueError) as error:
            raise OutputsInvalid(f"{name} is not readable Parquet: {error}") from None


def _arrow_batches(store: Store, name: str) -> Iterator[Any]:
    ipc = pyarrow_part("pyarrow.ipc", Path(name))
    try:
        with store.open(name) as stream:
            yield from ipc.open_stream(stream)
    except (OSError, ValueError) as error:
        raise OutputsInvalid(f"{name} is not a readable Arrow file: {error}") from None


def records_of(block: Block, given: Store, work: Store, told: str, *, folder: bool) -> Iterator[Raw]:
    """The raw records of a block, each with its place in the input. given: the store of the input's files.

    Raises WorkInvalid if the bytes are not those that were there when the input was cut.
    """
    if block.kind in ("lines", "unpacked"):
        content = (work if block.kind == "unpacked" else given).read(block.file, block.start, block.stop)
        if hashlib.sha256(content).hexdigest() != block.sha256:
            raise WorkInvalid(
                f"{told} has changed since its blocks were laid out (lines from {block.first} on)",
                hint="begin again in another work folder",
            )
        where = f"{told}/{block.file}" if folder and block.kind == "lines" else told
        return decoded_lines(io.BytesIO(content), where, first=block.first)
    rows = _parquet_rows(given, block) if block.kind == "parquet" else _arrow_rows(given, block)
    return ((f"{told}, row {number}", present(row)) for number, row in enumerate(rows, block.first))


def _parquet_rows(store: Store, block: Block) -> Iterator[dict[str, Any]]:
    with _parquet(store, block.file) as table:
        groups: list[int] = []
        at = first = 0
        for group in range(table.metadata.num_row_groups):
            end = at + table.metadata.row_group(group).num_rows
            if end > block.start and at < block.stop:
                first = at if not groups else first
                groups.append(group)
            at = end
        batches = table.iter_batches(batch_size=_ROWS, row_groups=groups)
        yield from _between(batches, block.start - first, block.stop - first)


def _arrow_rows(store: Store, block: Block) -> Iterator[dict[str, Any]]:
    return _between(_arrow_batches(store, block.file), block.start, block.stop)


def _between(batches: Any, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows from `start` to `stop` of what batches hold; only these are taken apart."""
    at = 0
    for batch in batches:
        low, high = max(0, start - at), min(batch.num_rows, stop - at)
        if low < high:
            yield from batch_rows(batch.slice(low, high - low))
        at += batch.num_rows
        if at >= stop:
            return


class Addressed(Outputs):
    """Outputs at an address that fsspec knows, or wherever `records_of` found their records; read through `scale`."""

    def __post_init__(self) -> None:
        check_fields(self.fields)

    def _records(self) -> Iterator[Raw]:
        raise OutputsInvalid(
            f"{self.path} is an address, which is read block by block", hint="pass --work DIR (in Python: scale=)"
        )
