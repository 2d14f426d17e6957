"""Where a secret comes from: a file, standard input, the environment, the OS keyring, or a person. Never an option.

An option's value shows in the process list and in the shell's history; so options name a file or a keyring's entry.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from watermark.errors import KeyUnusable
from watermark.keyring.provider import from_keyring, keep_in_keyring
from watermark.keyring.sealing import Identity, Passphrase, Secret, read_private

PASSPHRASE, PASSPHRASE_FILE, IDENTITY = "WMARK_PASSPHRASE", "WMARK_PASSPHRASE_FILE", "WMARK_IDENTITY"
ENTRY = "WMARK_KEYRING"
_SOURCES = f"--passphrase-file FILE ('-' reads standard input), --keyring NAME, {PASSPHRASE_FILE} or {PASSPHRASE}"
Ask = Callable[[str], str]


def secret_for(
    name: str,
    *,
    by_passphrase: bool,
    identity: Path | None = None,
    passphrase_file: Path | None = None,
    entry: str | None = None,
    ask: Ask | None = None,
) -> Secret:
    """What opens the set `name`. identity, passphrase_file, entry: as options gave them, else from the environment.

    ask: prompts a person, where there is one. Raises KeyUnusable, naming where a secret is looked for.
    """
    given = identity or (Path(os.environ[IDENTITY]) if os.environ.get(IDENTITY) and not by_passphrase else None)
    if given is not None:
        return Identity(given)
    if not by_passphrase:
        raise KeyUnusable(
            f"{name} is sealed to recipients, and no identity was given",
            hint=f"pass --identity FILE, or name the file in {IDENTITY}",
        )
    found = _passphrase(passphrase_file, entry)
    if found is None and ask is not None:
        found = ask(f"Passphrase of {name}: ")
    if found is None:
        raise KeyUnusable(f"{name} is sealed by a passphrase, and none was given", hint=f"use {_SOURCES}")
    return Passphrase(found)


def new_passphrase(
    name: str, *, passphrase_file: Path | None = None, entry: str | None = None, ask: Ask | None = None
) -> Passphrase:
    """The passphrase for a new set. entry: one of 256 random bits is made and kept in the OS keyring under that name.

    A person is asked twice. Raises KeyUnusable if none is given, or if the second differs from the first.
    """
    if entry is not None:
        made = secrets.token_urlsafe(32)
        keep_in_keyring(entry, made)
        return Passphrase(made)
    found = _passphrase(passphrase_file, None)
    if found is None and ask is not None:
        found = ask(f"New passphrase for {name}: ")
        if ask("The same again: ") != found:
            raise KeyUnusable("the two passphrases differ; nothing was written")
    if found is None:
        raise KeyUnusable(
            f"{name} needs recipients or a passphrase to be sealed with",
            hint=f"pass --recipient age1…, or {_SOURCES}",
        )
    return Passphrase(found)


def person() -> Ask | None:
    """Asks at the terminal without showing what is typed; None where there is no terminal."""
    if not sys.stdin.isatty():
        return None
    from getpass import getpass

    return getpass


def _passphrase(file: Path | None, entry: str | None) -> str | None:
    """From what was named, in this order: a file or standard input, the keyring, the environment."""
    if file is not None:
        return _line(sys.stdin.buffer.read(4096) if str(file) == "-" else read_private(file, "a passphrase"))
    entry = entry or os.environ.get(ENTRY)
    if entry:
        found = from_keyring(entry)
        if found is None:
            raise KeyUnusable(f"the keyring has no entry {entry!r} of the service 'wmark'")
        return found
    if os.environ.get(PASSPHRASE_FILE):
        return _line(read_private(Path(os.environ[PASSPHRASE_FILE]), "a passphrase"))
    return os.environ.get(PASSPHRASE) or None


def _line(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise KeyUnusable("the passphrase is not UTF-8 text") from None
    line = text.rstrip("\r\n")
    if "\n" in line:
        raise KeyUnusable("a passphrase is one line; the file has several")
    return line
