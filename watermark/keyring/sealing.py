"""age: a file that only a passphrase, an X25519 identity or an SSH key opens (age-encryption.org/v1, by pyrage).

A file sealed here is opened by the program `age` too: `age --decrypt --identity FILE ours.jwks.age`.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watermark.errors import ExtraMissing, KeyUnusable

_SHORTEST = 12
_MAGIC = b"age-encryption.org/v1"
_MADE = "age-keygen -o identity.txt, or ssh-keygen -t ed25519"


@dataclass(frozen=True)
class Passphrase:
    """A passphrase. Its text never shows."""

    text: str

    def __post_init__(self) -> None:
        if len(self.text) < _SHORTEST:
            raise KeyUnusable(
                f"the passphrase has {len(self.text)} characters, needed are {_SHORTEST}",
                hint="four random words will do",
            )

    def __repr__(self) -> str:
        return "Passphrase(…)"


@dataclass(frozen=True)
class Identity:
    """What opens a file sealed to recipients: an age identity file or an SSH private key, by its path."""

    path: Path


Secret = Passphrase | Identity


def sealed(content: bytes, *, recipients: tuple[str, ...] = (), passphrase: Passphrase | None = None) -> bytes:
    """The content, sealed. recipients: public keys, `age1…` or a line of an SSH `.pub` file (ed25519, RSA).

    Raises KeyUnusable for a recipient that cannot be used, or for recipients and a passphrase together, or neither.
    """
    if bool(recipients) == (passphrase is not None):
        raise KeyUnusable("a key set is sealed to recipients or by one passphrase: name one of the two")
    age = _age()
    if passphrase is not None:
        written: bytes = age.passphrase.encrypt(content, passphrase.text)
        return written
    found: bytes = age.encrypt(content, [_recipient(age, each) for each in recipients])
    return found


def unsealed(content: bytes, secret: Secret, *, name: str) -> bytes:
    """What was sealed. name: of the file, for messages. Raises KeyUnusable, saying what is wrong with which of them."""
    if not content.startswith(_MAGIC):
        raise KeyUnusable(
            f"{name} is not sealed with age (it does not begin with {_MAGIC.decode()!r})",
            hint="pass the *.jwks.age file that `wmark key new` wrote",
        )
    age = _age()
    by_passphrase = b"\n-> scrypt " in content[:1024]
    if by_passphrase != isinstance(secret, Passphrase):
        found, given = ("a passphrase", "an identity") if by_passphrase else ("recipients", "a passphrase")
        raise KeyUnusable(
            f"{name} is sealed {'by' if by_passphrase else 'to'} {found}, given is {given}",
            hint="leave out --identity" if by_passphrase else "pass --identity FILE, the private key of a recipient",
        )
    identity = None if isinstance(secret, Passphrase) else _identity(age, secret.path)
    try:
        if isinstance(secret, Passphrase):
            opened: bytes = age.passphrase.decrypt(content, secret.text)
        else:
            opened = age.decrypt(content, [identity])
    except age.DecryptError as error:
        raise _refused(str(error), secret, name) from None
    return opened


def _refused(said: str, secret: Secret, name: str) -> KeyUnusable:
    if said == "Decryption failed":
        return KeyUnusable(f"the passphrase does not open {name}")
    if said == "No matching keys found":
        opener = "the passphrase" if isinstance(secret, Passphrase) else secret.path.name
        return KeyUnusable(
            f"{opener} does not open {name}: it is not sealed to it, or its header was changed",
            hint="pass the identity of one of its recipients, or restore the file from a backup",
        )
    return KeyUnusable(
        f"{name} was changed or cut short after it was sealed: its content does not verify",
        hint="restore it from a backup; generations before the last rotation lie beside it",
    )


def recipient_of(text: str) -> str:
    """A recipient as it is kept: stripped, an SSH key without its comment. text: the key, or a file that holds it.

    Raises KeyUnusable for what is no public key; a private one is refused before anything else is done with it.
    """
    line = text.strip()
    if "PRIVATE KEY" in line or line.upper().startswith("AGE-SECRET-KEY-"):
        raise KeyUnusable("that is a private key; a recipient is the public one, and no secret is given as an option")
    if not line.startswith(("age1", "ssh-")):
        try:
            lines = Path(line).read_text("utf-8").splitlines()
        except (OSError, ValueError):
            raise KeyUnusable(
                "a recipient is an age or SSH public key (age1…, ssh-ed25519 …, ssh-rsa …) or a file that holds one",
                hint=f"make one with {_MADE}",
            ) from None
        kept = [each for each in lines if each.strip() and not each.startswith("#")]
        if len(kept) != 1 or not kept[0].startswith(("age1", "ssh-")):
            raise KeyUnusable(f"{Path(line).name} should hold one public key (age1…, ssh-ed25519 …, ssh-rsa …)")
        line = kept[0].strip()
    line = " ".join(line.split()[:2]) if line.startswith("ssh-") else line
    _recipient(_age(), line)
    return line


def _recipient(age: Any, line: str) -> Any:
    kinds = (("ssh-", age.ssh), ("age1tagpq1", age.tagpq), ("age1tag1", age.tag), ("age1", age.x25519))
    kind = next((module for start, module in kinds if line.startswith(start)), None)
    try:
        if kind is not None:
            return kind.Recipient.from_str(line)
    except age.RecipientError:
        pass
    raise KeyUnusable(
        f"{line[:24]}… cannot be used as a recipient", hint=f"age1… (X25519), ssh-ed25519 and ssh-rsa can: {_MADE}"
    )


def _identity(age: Any, path: Path) -> Any:
    """The private key in a file. Raises KeyUnusable, without what the file holds."""
    raw = read_private(path, "an identity")
    try:
        if b"PRIVATE KEY" in raw:
            return age.ssh.Identity.from_buffer(raw)
        lines = [line.strip() for line in raw.decode("ascii").splitlines()]
        found = [line for line in lines if line.startswith("AGE-SECRET-KEY-")]
        if len(found) == 1:
            return age.x25519.Identity.from_str(found[0])
    except age.IdentityError as error:
        if "decrypted first" in str(error):
            raise KeyUnusable(
                f"{path.name} is an SSH key with a passphrase of its own, which is not asked for here",
                hint="use an age identity, or a copy made with `ssh-keygen -p -N ''` in a safe place",
            ) from None
    except UnicodeDecodeError:
        pass
    raise KeyUnusable(
        f"{path.name} holds no usable identity: needed is one AGE-SECRET-KEY-… line or an SSH private key "
        "(ed25519 or RSA)",
        hint=f"make one with {_MADE}",
    )


def read_private(path: Path, what: str) -> bytes:
    """A secret file's bytes. Raises KeyUnusable if it cannot be read, or if others can read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_file() and mode & 0o077:
            raise KeyUnusable(
                f"{path} holds {what} and can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
            )
        return path.read_bytes()
    except OSError as error:
        raise KeyUnusable(f"{what} at {path} cannot be read: {error.strerror}") from None


def _age() -> Any:
    try:
        import pyrage
    except ImportError:
        raise ExtraMissing("pyrage", "keys", "a sealed key set") from None
    return pyrage
