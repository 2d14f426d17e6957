"""How files are written here: whole or not at all, never over a secret, and always as the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: keys sorted, no spaces, UTF-8, no NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def readable_json(value: Any) -> bytes:
    """The same values laid out for the eye: a line each, keys sorted."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder: over its sorted relative names and their files' digests."""
    if path.is_dir():
        listed = [(str(f.relative_to(path)), sha256_of(f)) for f in sorted(path.rglob("*")) if f.is_file()]
        return hashlib.sha256(canonical_json(listed)).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_new(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Writes a file that must not exist yet; leaves nothing behind if the disk is full.

    mode: as for os.open, before the umask. Raises FileExistsError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a reader, or a crash, sees the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.unlink(missing_ok=True)
    write_new(draft, content)
    try:
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def append_whole(stream: io.FileIO, line: bytes) -> None:
    """Appends to an unbuffered file and flushes to disk; if that fails, the file is as it was before."""
    start = stream.tell()
    try:
        while line:
            line = line[stream.write(line) :]
        os.fsync(stream.fileno())
    except BaseException:
        stream.truncate(start)
        stream.seek(start)
        raise
