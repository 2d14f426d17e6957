"""Key sets on disk: sealed, 0600, written whole or not at all, and never over one another.

Changing a set keeps the file as it was under its generation (`ours.jwks.age.g3`), then puts the new one in its place
in one step. Whatever interrupts that, the file under the old name opens, and no key that was ever written is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from watermark.errors import KeyUnusable
from watermark.files import write_new
from watermark.keyring.keyset import KeySet
from watermark.keyring.sealing import Identity, Passphrase, Secret, read_private, sealed, unsealed

SUFFIX = ".jwks.age"


def save_new(keys: KeySet, path: str | Path, *, passphrase: Passphrase | None = None) -> None:
    """Writes a new set, sealed to its recipients or by a passphrase. Raises KeyUnusable if `path` exists."""
    path = checked_name(path)
    if path.exists():
        raise _taken(path)
    with _draft(path, _sealed(keys, passphrase)) as draft:
        try:
            os.link(draft, path)  # unlike a rename, never over another file
        except FileExistsError:
            raise _taken(path) from None
    _settle(path.parent)


def open_keys(path: str | Path, secret: Secret) -> KeySet:
    """Opens a set. Raises KeyUnusable for a secret that does not fit, a file that others can read or that was changed,
    MarkInvalid for one that holds something else."""
    path = Path(path)
    return KeySet.of_content(unsealed(read_private(path, "a key set"), secret, name=path.name), name=path.name)


def change(path: str | Path, secret: Secret, step: Callable[[KeySet], KeySet]) -> KeySet:
    """Replaces a set by a changed one, sealed as it was, and keeps the old file beside it. Returns the new set.

    step: from the old set to the new one. Raises KeyUnusable if another process changes the set at the same time.
    """
    path = Path(path)
    with _locked(path):
        old = open_keys(path, secret)
        new = step(old)
        written = _sealed(new, secret if isinstance(secret, Passphrase) else None)
        if isinstance(secret, Identity):  # before the old file makes way: what opened it opens the new one
            KeySet.of_content(unsealed(written, secret, name=path.name), name=path.name)
        with _draft(path, written) as draft:
            _keep(path, path.with_name(f"{path.name}.g{old.generation}"))
            os.replace(draft, path)
        _settle(path.parent)
    return new


def sealed_by_passphrase(path: str | Path) -> bool:
    """What opens a set: a passphrase, or else an identity. Raises KeyUnusable for a file that cannot be read or is
    not sealed with age."""
    head = read_private(Path(path), "a key set")[:1024]
    if not head.startswith(b"age-encryption.org/"):
        raise KeyUnusable(f"{path} is no key set: it is not sealed with age", hint="`wmark key new` makes one")
    return b"\n-> scrypt " in head


def is_key_set(path: str | Path) -> bool:
    return Path(path).name.endswith(SUFFIX)


def checked_name(path: str | Path) -> Path:
    if not is_key_set(path):
        raise KeyUnusable(f"a key set's file ends in {SUFFIX}, found {Path(path).name!r}")
    return Path(path)


def _sealed(keys: KeySet, passphrase: Passphrase | None) -> bytes:
    return sealed(keys.content(), recipients=keys.recipients, passphrase=passphrase)


def _taken(path: Path) -> KeyUnusable:
    return KeyUnusable(
        f"{path} exists; a key set is never overwritten", hint="add a key with `wmark key rotate`, or choose a name"
    )


def _keep(path: Path, kept: Path) -> None:
    """The file as it is, under a second name. A name left by an interrupted change is the same file and stays."""
    if kept.exists() and not kept.samefile(path):
        raise KeyUnusable(f"{kept} exists and is another file; move it away, it may hold keys that {path.name} lacks")
    if not kept.exists():
        os.link(path, kept)


@contextlib.contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path`, whole on disk, gone afterwards unless it was renamed. What it holds is sealed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    draft.unlink(missing_ok=True)
    write_new(draft, content, mode=0o600)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One changer at a time. Raises KeyUnusable if there is another, or was one while this waited."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise KeyUnusable(f"no key set can be opened at {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise KeyUnusable(f"{path} is being changed by another process", hint="run it again afterwards") from None
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise KeyUnusable(f"{path} was changed by another process just now", hint="run it again")
        yield
    finally:
        os.close(descriptor)


def _settle(folder: Path) -> None:
    """Names in the folder, on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
