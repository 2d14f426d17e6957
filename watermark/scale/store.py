"""Store: named bytes in a folder, or at an address that fsspec knows; written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from watermark.errors import ExtraMissing, WorkInvalid

Bytes = bytes | memoryview


class Store(Protocol):
    """What a folder and an object store have in common. Names are relative, with "/" between their parts."""

    @property
    def address(self) -> str: ...

    def names(self, under: str = "") -> list[str]:
        """All names under a folder, sorted part by part."""

    def size(self, name: str) -> int | None:
        """Bytes, None if it is not there."""

    def stamp(self, name: str) -> str:
        """What changes when a file is written again: its time, or what the object store says of it."""

    def open(self, name: str) -> IO[bytes]: ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`."""

    def write(self, name: str, parts: Iterable[Bytes], *, mode: int = 0o666) -> None:
        """Puts the parts under a name in one step: a reader, or a crash, sees the old bytes or the new.

        mode: as for os.open, where there is one.
        """


def store_at(address: str | Path) -> Store:
    """The store at a folder's path or at an address such as s3://bucket/folder.

    Raises ExtraMissing where the address needs a library that is not installed, WorkInvalid if it is none.
    """
    text = str(address)
    if "://" not in text:
        return Folder(Path(text))
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ExtraMissing("fsspec", "ray", f"reading {text}") from None
    protocol = text.partition("://")[0]
    try:
        files, root = url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise WorkInvalid(f"{text} is no address that can be read here: {error}") from None
    return Folder(Path(root)) if protocol in ("file", "local") else Remote(text, files, str(root).rstrip("/"))


def placed(address: str) -> tuple[Store, str]:
    """(store of the folder that holds it, name in it) of one file's path or address."""
    folder, _, name = address.rstrip("/").rpartition("/")
    if "://" not in address:
        return Folder(Path(address).resolve().parent), Path(address).resolve().name
    return store_at(folder), name


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order of their parts, which is that of paths."""
    return sorted(names, key=lambda name: PurePosixPath(name).parts)


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, or one that machines share."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root.resolve())

    def names(self, under: str = "") -> list[str]:
        found = (self.root / under).rglob("*")
        return ordered(path.relative_to(self.root).as_posix() for path in found if path.is_file())

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except OSError:
            return None

    def stamp(self, name: str) -> str:
        return str((self.root / name).stat().st_mtime_ns)

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with (self.root / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)

    def write(self, name: str, parts: Iterable[Bytes], *, mode: int = 0o666) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.part")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class Remote:
    """Objects under an address, through fsspec; putting one is a single step there. files: the file system."""

    address: str

    files: Any
    root: str

    def names(self, under: str = "") -> list[str]:
        self.files.invalidate_cache()
        found = (str(path).removeprefix(self.root).lstrip("/") for path in self.files.find(self._at(under)))
        return ordered(name for name in found if name)  # of one object `find` gives itself

    def size(self, name: str) -> int | None:
        try:
            return int(self.files.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def stamp(self, name: str) -> str:
        return str(self.files.ukey(self._at(name)))

    def open(self, name: str) -> IO[bytes]:
        return cast("IO[bytes]", self.files.open(self._at(name), "rb"))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        return bytes(self.files.cat_file(self._at(name), start=start, end=stop))

    def write(self, name: str, parts: Iterable[Bytes], *, mode: int = 0o666) -> None:
        self.files.pipe_file(self._at(name), b"".join(parts))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")
