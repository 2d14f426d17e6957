"""Store: named bytes in a folder, or at an address that fsspec knows; written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from watermark.errors import ExtraMissing, WorkInvalid

Bytes = bytes | memoryview
_READ_AHEAD = 4 << 20  # bytes that a reader of an object asks for at a time; fsspec's own 50 MiB are a block's tenfold
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "updated", "last_modified", "created")
_LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


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

    Raises ExtraMissing without fsspec, WorkInvalid where the address needs another library or is none.
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
    except ImportError as error:
        library = _LIBRARIES.get(protocol)
        if library is None:
            raise WorkInvalid(f"{text} needs a library that is not installed: {error}") from None
        raise WorkInvalid(f"{text} needs {library}, which is not installed", hint=f"pip install {library}") from None
    except ValueError as error:
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
    """Objects under an address, through fsspec. files: the file system.

    Putting an object is a single step there. Nothing is believed that was listed before, for others write here too.
    Whatever the library raises comes out as WorkInvalid, in its words.
    """

    address: str
    files: Any
    root: str

    def names(self, under: str = "") -> list[str]:
        self.files.invalidate_cache()
        with self._in_words(under):
            try:
                found = [str(path) for path in self.files.find(self._at(under))]
            except FileNotFoundError:  # a bucket that is not there
                return []
        names = (path.removeprefix(self.root).lstrip("/") for path in found if not path.endswith("/"))
        return ordered(name for name in names if name)  # of one object `find` gives itself

    def size(self, name: str) -> int | None:
        told = self._info(name)
        return None if told is None or told.get("type") == "directory" else int(told["size"])

    def stamp(self, name: str) -> str:
        told = self._info(name) or {}
        return " ".join(str(told[key]) for key in _STAMPS if told.get(key) is not None)

    def open(self, name: str) -> IO[bytes]:
        with self._in_words(name):
            opened = self.files.open(self._at(name), "rb", block_size=_READ_AHEAD)
        return cast("IO[bytes]", io.BufferedReader(_Opened(opened, lambda: self._in_words(name)), 1 << 16))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._in_words(name):
            return bytes(self.files.cat_file(self._at(name), start=start or None, end=stop))

    def write(self, name: str, parts: Iterable[Bytes], *, mode: int = 0o666) -> None:
        content = b"".join(parts)
        with self._in_words(name, "written"):
            self.files.pipe_file(self._at(name), content)

    def _info(self, name: str) -> dict[str, Any] | None:
        self.files.invalidate_cache()
        with self._in_words(name):
            try:
                told: dict[str, Any] = self.files.info(self._at(name))
            except FileNotFoundError:
                return None
            return told

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    @contextmanager
    def _in_words(self, name: str, verb: str = "read") -> Iterator[None]:
        """Raises WorkInvalid for what a client's library raises: errors of its own kinds, some of them no OSError."""
        try:
            yield
        except (WorkInvalid, MemoryError):
            raise
        except Exception as error:
            raise WorkInvalid(
                f"{self.address.rstrip('/')}/{name} could not be {verb}: {str(error) or type(error).__name__}",
                hint="is the address right, and may these credentials use it? what was finished is kept",
            ) from None


class _Opened(io.RawIOBase):
    """An object that fsspec opened, as Python's own buffered reader wants it. words: see `Remote._in_words`."""

    def __init__(self, opened: Any, words: Callable[[], AbstractContextManager[None]]) -> None:
        self._opened, self._words = opened, words

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._words():
            content = self._opened.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self._opened.tell())

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()
