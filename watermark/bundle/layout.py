"""The shape of a bag: what may stand in it, its manifests to the byte, and how it is opened without trusting it.

BagIt 1.0 (RFC 8493) with SHA-256. A bag here has one form only, so that a byte that differs anywhere is seen: manifests
are sorted and written one way, and a zip has exactly the bytes that `archive` would write from its members.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from watermark.bundle.archive import same_archive
from watermark.errors import BundleInvalid

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
BAGIT, INFO, MANIFEST, TAGS = "bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"
ENVELOPE, TOKEN, CUSTODY, SIGNERS, ORIGINAL = (
    "attestation.dsse.json",
    "attestation.tsr",
    "custody.jsonl",
    "signers/",
    "original/",
)
BEFORE = (BAGIT, INFO, MANIFEST)  # what the tag manifest covers
AFTER = (ENVELOPE, TOKEN, CUSTODY, TAGS)  # what comes after it, each bound by a hash of its own
PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}")
MOST_FILES = 2000
MOST_BYTES = 64 * 2**30
MOST_JSON = 256 * 2**20
MOST_TAG = 8 * 2**20


def files_of(folder: Path) -> dict[str, int]:
    """{path inside the bag: bytes}, sorted. Raises BundleInvalid for a link, a special file or a strange name."""
    found: dict[str, int] = {}
    for path, size in _walked(folder, folder):
        found[path] = size
        if len(found) > MOST_FILES:
            raise BundleInvalid(f"{folder.name} holds more than {MOST_FILES:,} files, which no bundle of ours does")
    if sum(found.values()) > MOST_BYTES:
        raise BundleInvalid(f"{folder.name} holds more than {MOST_BYTES >> 30} GiB, which no bundle of ours does")
    return dict(sorted(found.items()))


def _walked(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        told = entry.stat(follow_symlinks=False)
        path = Path(entry.path).relative_to(root).as_posix()
        if stat.S_ISLNK(told.st_mode):
            raise BundleInvalid(f"{path} is a symbolic link; a bundle holds plain files alone")
        if PATH.fullmatch(path) is None:
            raise BundleInvalid(f"{path!r} is no name of a file in a bundle")
        if stat.S_ISDIR(told.st_mode):
            yield from _walked(Path(entry.path), root)
        elif stat.S_ISREG(told.st_mode):
            yield path, told.st_size
        else:
            raise BundleInvalid(f"{path} is no plain file")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest(folder: Path, paths: list[str]) -> bytes:
    """One line for each file, sorted: digest, two blanks, path; `sha256sum -c` reads it."""
    return "".join(f"{digest_of(folder / path)}  {path}\n" for path in sorted(paths)).encode()


def read_tag(folder: Path, path: str, *, most: int = MOST_TAG) -> bytes:
    """A small file of the bag. Raises BundleInvalid if it is missing or too large."""
    return read_limited(folder / path, path, most=most)


def read_limited(path: Path, name: str, *, most: int) -> bytes:
    """A file of at most `most` bytes. Raises BundleInvalid."""
    try:
        size = path.stat().st_size
        if size > most:
            raise BundleInvalid(f"{name} has {size:,} bytes, more than the {most:,} that such a file may have")
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{name} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def opened(case: Path) -> Iterator[Path]:
    """The folder of a bundle: itself, or a zip unpacked into a temporary one. Raises BundleInvalid.

    Of a zip nothing is unpacked before all names and sizes were seen; then it must be, to the byte, the zip that its
    files give.
    """
    if case.is_symlink() or not case.exists():
        raise BundleInvalid(
            f"no bundle at {case}" if not case.is_symlink() else f"{case} is a symbolic link",
            hint="`wmark evidence bundle EVIDENCE --answers ANSWERS --output CASE.bag` makes one",
        )
    if case.is_dir():
        yield case
        return
    with tempfile.TemporaryDirectory(prefix="wmark-") as place:
        unpack(case, Path(place))
        yield Path(place)


def unpack(case: Path, folder: Path) -> None:
    """Unpacks a zip of ours into an empty folder. Raises BundleInvalid naming what is wrong."""
    try:
        with zipfile.ZipFile(case) as archive:
            entries = archive.infolist()
            _check_entries(case, entries)
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as sink:
                    while part := source.read(1 << 20):
                        sink.write(part)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BundleInvalid(
            f"{case.name} is not a bundle's zip: {error}",
            hint="pass CASE.bag, or the zip that `wmark evidence bundle` wrote",
        ) from None
    except OSError as error:
        raise BundleInvalid(f"{case.name} cannot be unpacked: {error.strerror or error}") from None
    same_archive(case, folder, list(files_of(folder)))


def _check_entries(case: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MOST_FILES:
        raise BundleInvalid(f"{case.name} holds more than {MOST_FILES:,} files, which no bundle of ours does")
    seen = set()
    for entry in entries:
        if PATH.fullmatch(entry.filename) is None:
            raise BundleInvalid(f"{case.name} would unpack to {entry.filename!r}, outside of a bundle's folder")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise BundleInvalid(f"{entry.filename} is compressed; a bundle's zip stores its files as they are")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleInvalid(f"{entry.filename} is a symbolic link; a bundle holds plain files alone")
        if entry.filename in seen:
            raise BundleInvalid(f"{entry.filename} stands twice in {case.name}")
        seen.add(entry.filename)
    if sum(entry.file_size for entry in entries) > case.stat().st_size:
        raise BundleInvalid(f"{case.name} says that it unpacks to more than it holds")
