"""A suspect's outputs: JSON Lines (plain, .gz, .zst), Parquet, or a folder of either or of datasets, read one by one.

Each output is {id, prompt?, text | token_ids, prompt_token_ids?, logprobs?, meta?}. A bad line names its number;
with `skip_bad` it is counted instead.
"""

from __future__ import annotations

import difflib
import gzip
import io
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast, overload

import numpy as np

from watermark.errors import ExtraMissing, OutputsInvalid
from watermark.idlists import LIFTING

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = ("id", "prompt", "text", "token_ids", "prompt_token_ids", "logprobs", "meta")
_MAX_LINE = 64 * 2**20
_BUFFER = 1 << 20  # bytes read at once: small reads cost more than parsing what they bring
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
UINT32 = "I" if array("I").itemsize == 4 else "L"
ZSTD, GZIP, PARQUET = b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"PAR1"


class Ids(Sequence[int]):
    """Token ids that lie in an array, (n,) uint32; to all who read them they are a tuple."""

    __slots__ = ("array",)

    def __init__(self, ids: NDArray[np.uint32]) -> None:
        self.array = ids

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...
    def __getitem__(self, at: int | slice) -> int | tuple[int, ...]:
        return tuple(self.array[at].tolist()) if isinstance(at, slice) else int(self.array[at])

    def __iter__(self) -> Iterator[int]:
        return iter(self.array.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, (Ids, tuple)) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True)
class Output:
    """One answer of the suspect. Given are `token_ids`, which are then what is read, or `text`, or both; `prompt` as it
    was asked, if known.

    messages: the prompt's turns where it was a chat. logprobs: one entry for each token, if they were offered.
    """

    id: str
    text: str | None = None
    token_ids: Sequence[int] | None = None
    prompt: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    messages: tuple[dict[str, str], ...] | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None


Raw = tuple[str, "dict[str, Any] | OutputsInvalid"]  # where a record stands, and what it holds or why that is bad


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of an answer: its bytes, and the likeliest tokens there, each with its natural log-probability."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass
class Outputs:
    """An iterable over the outputs in a file or folder; read anew at each pass, never held in memory.

    fields: names used by this file for ours, e.g. {"text": "response"}; with it, other columns are ignored.
    skipped: bad records left out in the last pass (only with skip_bad). Raises OutputsInvalid while iterating.
    """

    path: Path
    skip_bad: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        check_fields(self.fields)
        if not self.path.exists():
            raise OutputsInvalid(f"no outputs at {self.path}", hint="pass a .jsonl file of the suspect's answers")

    def __iter__(self) -> Iterator[Output]:
        read = 0
        for output in self.parsed(self._records()):
            read += 1
            yield output
        self.require(read, self.skipped)

    def parsed(self, records: Iterable[Raw]) -> Iterator[Output]:
        """The outputs of raw records, the bad ones counted in `skipped` or raised; ids are counted from 0."""
        self.skipped, read = 0, 0
        for where, found in records:
            try:
                if isinstance(found, OutputsInvalid):
                    raise found
                output = self._output(found, where, read)
            except OutputsInvalid:
                if not self.skip_bad:
                    raise
                self.skipped += 1
                continue
            read += 1
            yield output

    def require(self, read: int, skipped: int) -> None:
        """Raises OutputsInvalid if nothing was read."""
        if read == 0:
            reason = f"all {skipped} records are bad" if skipped else "it is empty"
            raise OutputsInvalid(
                f"{self.path} holds no outputs: {reason}", hint='each line should be {"id": …, "prompt": …, "text": …}'
            )

    def _records(self) -> Iterator[Raw]:
        if not self.path.is_dir():
            return self._file(self.path)
        lines = json_lines_of(self.path)
        if lines:
            return chain.from_iterable(self._lines(path, _start(path)) for path in lines)
        return self._numbered("row", _arrow_rows(self.path))

    def _file(self, path: Path) -> Iterator[Raw]:
        start = _start(path)
        return self._numbered("row", _parquet_rows(path)) if start == PARQUET else self._lines(path, start)

    def _numbered(self, unit: str, rows: Iterable[dict[str, Any]]) -> Iterator[Raw]:
        for number, row in enumerate(rows, 1):
            yield f"{self.path}, {unit} {number}", present(row)

    def _lines(self, path: Path, start: bytes) -> Iterator[Raw]:
        with _decompressed(path, start) as stream:
            yield from decoded_lines(stream, path)

    def _output(self, found: dict[str, Any], where: str, index: int) -> Output:
        record = self._renamed(found, where)
        text, ids = record.get("text"), record.get("token_ids")
        if text is None and ids is None:
            known = "a prompt" if "prompt" in record else f"the fields {', '.join(record) or '(none)'}"
            raise OutputsInvalid(
                f"{where}: found {known} but no response; needed is 'text' or 'token_ids'",
                hint="these look like prompts: pass what the suspect answered" if "prompt" in record else None,
            )
        if text is not None and not isinstance(text, str):
            raise OutputsInvalid(f"{where}: 'text' should be a string, found {type(text).__name__}")
        _check_characters(text or "", where, "text")
        name = str(index if record.get("id") is None else record["id"])
        _check_characters(name, where, "id")
        return Output(
            id=name,
            text=text,
            token_ids=None if ids is None else _ids(ids, where, "token_ids"),
            prompt=_prompt(record.get("prompt"), where),
            prompt_token_ids=_ids(record["prompt_token_ids"], where, "prompt_token_ids")
            if record.get("prompt_token_ids") is not None
            else None,
            messages=_messages(record.get("prompt")),
            logprobs=_logprobs(record.get("logprobs"), where),
        )

    def _renamed(self, found: dict[str, Any], where: str) -> dict[str, Any]:
        if self.fields:
            return {name: found[theirs] for name, theirs in _mapping(self.fields).items() if theirs in found}
        for name in found:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                raise OutputsInvalid(
                    f"{where}: unknown field {name!r}; fields are {', '.join(FIELDS)}",
                    hint=f"did you mean {near[0]!r}?"
                    if near
                    else f"put it under 'meta', or say what it is: --field text={name}",
                )
        return found


def check_fields(fields: Mapping[str, str]) -> None:
    """Raises OutputsInvalid for a field that is none of ours."""
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise OutputsInvalid(f"unknown field {unknown[0]!r}; fields are {', '.join(FIELDS)}")


def json_lines_of(folder: Path) -> list[Path]:
    """The JSON Lines files of a folder that holds neither Arrow nor Parquet files, by name; query logs are none."""
    if any(next(folder.rglob(f"*.{kind}"), None) for kind in ("arrow", "parquet")):
        return []
    return sorted(path for ending in LINES for path in folder.rglob(f"*{ending}") if not is_log(path.name))


def is_log(name: str) -> bool:
    """Whether a file of this name is a query log, and so holds no outputs."""
    return name.endswith(".log.jsonl")


def decoded_lines(stream: IO[bytes], path: Path | str, *, first: int = 1) -> Iterator[Raw]:
    """The records of JSON Lines with the places where they stand. first: the number of the first line."""
    for number, line in numbered_lines(stream, path, first=first):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _decoded(line, where)


def numbered_lines(stream: IO[bytes], path: Path | str, *, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers. Raises OutputsInvalid where the file is damaged, binary, or a line has no end."""
    number = first
    while line := _next_line(stream, path, number):
        yield number, line
        number += 1


def present(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty fields."""
    return {name: value for name, value in row.items() if value is not None}


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4)


def _mapping(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: fields.get(name, name) for name in FIELDS}


def _decoded(line: bytes, where: str) -> dict[str, Any] | OutputsInvalid:
    try:
        found = LIFTING.loads(line)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return OutputsInvalid(
            f"{where}: not UTF-8 (byte 0x{byte:02x} at column {error.start + 1})",
            hint="convert the file to UTF-8, or leave such lines out with --skip-bad",
        )
    except (ValueError, RecursionError):
        cut = "" if line.endswith(b"\n") else " (the line has no end: was the file cut short?)"
        return OutputsInvalid(f"{where}: not a JSON object{cut}", hint="mend the line, or leave it out with --skip-bad")
    if not isinstance(found, dict):
        return OutputsInvalid(f"{where}: needed a JSON object, found {type(found).__name__}")
    return found


def _next_line(stream: IO[bytes], path: Path | str, number: int) -> bytes:
    try:
        line = stream.readline(_MAX_LINE + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise OutputsInvalid(
            f"{path}, line {number}: the compressed file is damaged or cut short ({error})", hint="copy it again"
        ) from None
    if len(line) > _MAX_LINE:
        raise OutputsInvalid(f"{path}, line {number}: longer than {_MAX_LINE >> 20} MiB; one output a line is needed")
    if b"\x00" in line:
        raise OutputsInvalid(
            f"{path} is a binary file, not JSON Lines (a zero byte in line {number})",
            hint="pass .jsonl, .jsonl.gz, .jsonl.zst, .parquet or a datasets folder",
        )
    return line


def _decompressed(path: Path, start: bytes) -> IO[bytes]:
    if start[:2] == GZIP:
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return unpacked(path.open("rb", buffering=_BUFFER), start, path.name)


def unpacked(stream: IO[bytes], start: bytes, name: str) -> IO[bytes]:
    """What a compressed stream holds; the stream itself if it is not compressed. start: its first four bytes."""
    if start[:2] == GZIP:
        return cast("IO[bytes]", gzip.open(stream, "rb"))
    if start == ZSTD:
        try:
            import zstandard
        except ImportError:
            raise ExtraMissing("zstandard", "scale", f"reading {name}") from None
        return io.BufferedReader(_Frames(stream, zstandard.ZstdDecompressor().decompressobj))
    return stream


class _Frames(io.RawIOBase):
    """A file of zstandard frames; one that is damaged or cut short raises OSError."""

    def __init__(self, source: IO[bytes], start: Callable[[], Any]) -> None:
        self._source, self._start, self._frame, self._ready = source, start, start(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            taken = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                taken = taken or self._source.read(1 << 16)
                if not taken:
                    return 0
                self._frame = self._start()
            else:
                taken = self._source.read(1 << 16)
                if not taken:
                    raise OSError("the last frame has no end")
            self._ready = self._decompressed(taken)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompressed(self, taken: bytes) -> bytes:
        try:
            found: bytes = self._frame.decompress(taken)
        except Exception as error:  # zstandard.ZstdError, known only once imported
            raise OSError(str(error)) from None
        return found

    def close(self) -> None:
        self._source.close()
        super().close()


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    parquet = pyarrow_part("pyarrow.parquet", path)
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
            yield from batch_rows(batch)
    except (OSError, ValueError) as error:
        raise OutputsInvalid(f"{path} is not readable Parquet: {error}") from None


def batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a record batch; lists of token ids stay in its arrays."""
    columns = [_arrays(column) or column.to_pylist() for column in batch.columns]
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


def _arrays(column: Any) -> list[Ids | None] | None:
    """A column of lists as ids; None for any other column, and for one with numbers that are no ids."""
    import pyarrow

    kind = column.type
    lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    if not lists or not pyarrow.types.is_integer(kind.value_type):
        return None
    offsets = column.offsets.to_numpy()
    values = column.values[int(offsets[0]) : int(offsets[-1])]
    if values.null_count:
        return None
    flat = values.to_numpy()
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < 2**32:
        return None
    ids, bounds = flat.astype(np.uint32, copy=False), (offsets - offsets[0]).tolist()
    present = column.is_valid().to_pylist()
    return [Ids(ids[bounds[n] : bounds[n + 1]]) if there else None for n, there in enumerate(present)]


def _arrow_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of a folder written by datasets' save_to_disk, or of a folder of Parquet files."""
    arrows, parquets = sorted(folder.rglob("*.arrow")), sorted(folder.rglob("*.parquet"))
    if not arrows and not parquets:
        raise OutputsInvalid(f"{folder} is not a datasets folder: no .arrow, .parquet or .jsonl file in it")
    if (folder / "dataset_dict.json").exists():
        raise OutputsInvalid(f"{folder} holds several splits", hint="pass the folder of one split")
    for path in parquets if not arrows else []:
        yield from _parquet_rows(path)
    for path in arrows:
        ipc = pyarrow_part("pyarrow.ipc", folder)
        try:
            with path.open("rb") as stream:
                for batch in ipc.open_stream(stream):
                    yield from batch_rows(batch)
        except (OSError, ValueError) as error:
            raise OutputsInvalid(f"{path} is not a readable Arrow file: {error}") from None


def pyarrow_part(module: str, path: Path) -> Any:
    """A module of pyarrow. Raises ExtraMissing, naming the file to be read, where it is not installed."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ExtraMissing("pyarrow", "scale", f"reading {path.name}") from None


def _ids(values: Any, where: str, name: str) -> Ids:
    if isinstance(values, Ids):
        return values
    if isinstance(values, np.ndarray):
        return Ids(values)
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        raise _no_ids(where, name)
    try:
        return Ids(np.frombuffer(array(UINT32, values), dtype=np.uint32))
    except OverflowError:
        raise _no_ids(where, name) from None


def _no_ids(where: str, name: str) -> OutputsInvalid:
    return OutputsInvalid(f"{where}: {name!r} should be a list of token ids (whole numbers from 0)")


def _check_characters(text: str, where: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OutputsInvalid(
            f"{where}: {name!r} holds half a character (a lone surrogate at position {error.start}); was it cut short?",
            hint="mend the line, or leave it out with --skip-bad",
        ) from None


def _prompt(value: Any, where: str) -> str | None:
    """A prompt as text; a chat is joined turn by turn, which is all that the validity rules need."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in value):
        value = "\n".join(m["content"] for m in value)
    if isinstance(value, str):
        _check_characters(value, where, "prompt")
        return value
    raise OutputsInvalid(f"{where}: 'prompt' should be a string or a list of messages with 'content'")


def _messages(value: Any) -> tuple[dict[str, str], ...] | None:
    """The turns of a prompt that is a chat (its form was checked by `_prompt`)."""
    if not isinstance(value, list):
        return None
    return tuple({"role": str(m.get("role", "user")), "content": m["content"]} for m in value)


def _logprobs(value: Any, where: str) -> tuple[TokenLogprobs, ...] | None:
    """Log-probabilities in the form of chat completions: [{token, logprob, bytes?, top_logprobs: […]}, …]."""
    if isinstance(value, dict):  # a whole `choices[i].logprobs`
        value = value.get("content")
    if value is None:
        return None
    try:
        return tuple(
            TokenLogprobs(
                _bytes(entry), _logprob(entry), tuple((_bytes(t), _logprob(t)) for t in entry.get("top_logprobs") or ())
            )
            for entry in value
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        raise OutputsInvalid(
            f"{where}: 'logprobs' should be a list of {{token, logprob, top_logprobs}}, logprobs at most 0",
            hint="write them with `wmark probe --logprobs`, or as chat completions give them",
        ) from None


def _bytes(entry: dict[str, Any]) -> bytes:
    """A token's bytes, which its text cannot show where a character is split."""
    return bytes(entry["bytes"]) if entry.get("bytes") is not None else str(entry["token"]).encode()


def _logprob(entry: dict[str, Any]) -> float:
    value = float(entry["logprob"])
    if not value <= 1e-4:  # also NaN
        raise ValueError(value)
    return min(value, 0.0)
