"""Files that hold a key: read with their mode and format checked, their key opened against its commitment."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from watermark import prf
from watermark.errors import KeyUnusable, MarkInvalid
from watermark.keys import Key

SCORE_FORMAT = "wmark-score-watermark/1"
_OTHERS = {
    "wmark-plan/1": "a plan",
    "wmark-evidence/2": "evidence",
    "wmark-attribution/1": "an attribution",
    "wmark-commitments/1": "what was published of a key set",
    "wmark-keys/1": "a key set that is not sealed",
}


def read_mark_file(path: Path, *, formats: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The fields of a file that holds a key. kind: what it should be, for messages.

    Raises KeyUnusable if others can read it, MarkInvalid if it is something else.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        raw = path.read_bytes()
    except FileNotFoundError:
        raise MarkInvalid(f"no {kind} at {path}", hint=f"make one with `{_maker(formats)}`") from None
    except OSError as error:
        raise MarkInvalid(f"{path} cannot be read: {error.strerror}") from None
    try:
        described = json.loads(raw)
    except ValueError:
        held = f"pass the file that `{_maker(formats)}` wrote"
        if raw.startswith(b"age-encryption"):
            held = "`wmark key mark` writes the mark of one of its epochs"
        raise MarkInvalid(f"{path} is not a {kind} (it is not JSON)", hint=held) from None
    found = described.get("format") if isinstance(described, dict) else None
    if found not in formats:
        raise _another(path, found, formats, kind)
    if described.get("prf", prf.RECIPE) != prf.RECIPE:
        raise MarkInvalid(f"{path} uses the keyed function {described.get('prf')!r}, this version has {prf.RECIPE!r}")
    if mode & 0o077:
        raise KeyUnusable(
            f"{path} holds a secret key and can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    assert isinstance(described, dict)
    return described


def exported(key: Key) -> dict[str, str]:
    """The secret fields, for the file alone."""
    secret, salt = key._export()
    return {"key": secret.hex(), "salt": salt.hex()}


def opened(described: dict[str, Any], path: str | Path) -> Key:
    """A key from its fields, checked against its commitment. Raises MarkInvalid."""
    key = Key(bytes.fromhex(described["key"]), kid=described["kid"], salt=bytes.fromhex(described["salt"]))
    if key.commitment != described["commitment"]:
        raise MarkInvalid(
            f"{path}: the key does not open the commitment it is stored with; the file was changed",
            hint="restore the file from a backup",
        )
    return key


def pretty(described: dict[str, Any]) -> bytes:
    return (json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def named(error: Exception) -> str:
    """The error without its values: a malformed file's values may be the secret."""
    return f"field {error.args[0]!r} is missing" if isinstance(error, KeyError) else "a field has the wrong type"


def _another(path: Path, found: Any, formats: tuple[str, ...], kind: str) -> MarkInvalid:
    """The refusal of a file of another format, with what it is where that is known."""
    if isinstance(found, str) and "profile/" in found:
        return MarkInvalid(f"{path} is a public profile; the watermark file with the key is needed")
    hint = f"pass the file that `{_maker(formats)}` wrote"
    if isinstance(found, str) and found == SCORE_FORMAT:
        hint = "a mark of scores is used with `wmark scores`"
    elif isinstance(found, str) and found.startswith("wmark-watermark/"):
        hint = "a mark of text is used with `wmark generate` and `wmark detect`"
    elif isinstance(found, str) and found in _OTHERS:
        hint = f"that is {_OTHERS[found]}; {hint}"
    return MarkInvalid(
        f"{path} is not a {kind}: its format is {found!r}, needed is {' or '.join(map(repr, formats))}", hint=hint
    )


def _maker(formats: tuple[str, ...]) -> str:
    return "wmark scores keygen" if SCORE_FORMAT in formats else "wmark keygen"
