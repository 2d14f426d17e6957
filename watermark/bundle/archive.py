"""A zip of stored files with one form: sorted, no times but one, no extra fields; the same files give the same bytes.

Written here rather than by a library, because a verifier compares a zip with what its files give, to the byte, and a
library's choices change from version to version. Layout: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from watermark.errors import BundleInvalid

_DATE = (1980 - 1980) << 9 | 1 << 5 | 1  # 1 January 1980: the files' own times say nothing
_UTF8 = 1 << 11
_MODE = 0o100644 << 16
_PART = 1 << 20
_MOST = 2**32 - 1


def archive(folder: Path, paths: list[str]) -> Iterator[bytes]:
    """The bytes of the zip of these files, in parts. Raises BundleInvalid beyond 4 GiB, where a folder is needed."""
    central, at = [], 0
    for path in sorted(paths):
        name, size, check = path.encode(), (folder / path).stat().st_size, _crc(folder / path)
        if at + size + len(name) + 64 > _MOST:
            raise BundleInvalid("more than 4 GiB do not fit into one zip", hint="write a folder: --output CASE.bag")
        common = struct.pack("<HHHHHIIIHH", 10, _UTF8, 0, 0, _DATE, check, size, size, len(name), 0)
        yield b"PK\x03\x04" + common + name
        central.append(
            b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 20) + common + struct.pack("<HHHII", 0, 0, 0, _MODE, at) + name
        )
        at += 30 + len(name) + size
        yield from _parts(folder / path)
    held = b"".join(central)
    yield held
    yield b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, len(central), len(central), len(held), at, 0)


def write_archive(target: Path, folder: Path, paths: list[str]) -> None:
    """Writes the zip, whole or not at all; `target` may be there already and is then replaced."""
    draft = target.with_name(f".{target.name}.part")
    try:
        with draft.open("wb") as stream:
            for part in archive(folder, paths):
                stream.write(part)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def same_archive(case: Path, folder: Path, paths: list[str]) -> None:
    """Raises BundleInvalid unless `case` has exactly the bytes that its files give."""
    with case.open("rb") as stream:
        for part in archive(folder, paths):
            if stream.read(len(part)) != part:
                raise BundleInvalid(f"{case.name} is not the zip that its files give; its frame was changed")
        if stream.read(1):
            raise BundleInvalid(f"{case.name} goes on after its end")


def _crc(path: Path) -> int:
    found = 0
    for part in _parts(path):
        found = zlib.crc32(part, found)
    return found


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while part := stream.read(_PART):
            yield part
