"""Sealed files: one JSON object with a `format`, and a `digest` over all else in it.

The digest shows a change; it does not say who wrote the file. A reader rebuilds the object from its fields and seals it
again: what is not the same was changed after it was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from watermark.errors import WatermarkError
from watermark.files import canonical_json, readable_json, write_whole

_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Sealed:
    """A frozen dataclass of JSON values that is kept as a sealed file.

    format: name and version of the file. readable: laid out for the eye, else canonical JSON in one line.
    """

    format: ClassVar[str]
    readable: ClassVar[bool] = True

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of everything but the digest itself."""
        return hashlib.sha256(canonical_json(self.content())).hexdigest()

    def content(self) -> dict[str, Any]:
        """What the digest covers: the fields and the format."""
        return dataclasses.asdict(self) | {"format": self.format}

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with format and digest."""
        return self.content() | {"digest": self.digest}

    def save(self, path: str | Path) -> None:
        """Writes one JSON file, whole or not at all."""
        written = readable_json if self.readable else canonical_json
        write_whole(Path(path), written(self.to_json()) + b"\n")

    def matches(self, stored: dict[str, Any]) -> bool:
        """Whether the file that this was rebuilt from is as it was written."""
        return bool(self.digest == stored.get("digest"))


@dataclass(frozen=True)
class Kept(Sealed):
    """A sealed object that its own class reads back.

    refusal: how it refuses what is no such file. noun: what messages call one that comes from no file.
    """

    refusal: ClassVar[Refusal]
    noun: ClassVar[str]

    @classmethod
    def built(cls, body: dict[str, Any]) -> Self:
        """From all that was stored but format and digest; see `unsealed`."""
        return cls(**body)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads such a file. Raises the refusal's error if it is malformed or does not match its digest."""
        return read_sealed(path, cls.format, cls.built, cls.refusal)

    @classmethod
    def from_json(cls, stored: Any, *, name: str | None = None) -> Self:
        """From `to_json`. name: of where it lay, for messages. Raises the refusal's error."""
        return unsealed(stored, cls.format, cls.built, cls.refusal, name=name or cls.noun)


@dataclass(frozen=True)
class Refusal:
    """How a reader refuses a file that is no sealed one of its kind.

    error: what it raises. kind: what the file should be, "a plan". complete: what it is not where fields are missing.
    unreadable, other, changed: hints for a file that is not JSON, is something else, or does not match its digest.
    """

    error: type[WatermarkError]
    kind: str
    complete: str = "complete"
    unreadable: str | None = None
    other: str | None = None
    changed: str | None = None


S = TypeVar("S", bound=Sealed)


def read_sealed(path: str | Path, format: str, build: Callable[[dict[str, Any]], S], refusal: Refusal) -> S:
    """The object in a sealed file, checked. build, refusal: see `unsealed`. Raises the refusal's error."""
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise refusal.error(f"{path} is larger than {_MOST_BYTES >> 20} MiB; it is not {refusal.kind}")
        stored = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise refusal.error(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise refusal.error(f"{path} is not JSON; was it cut short?", hint=refusal.unreadable) from None
    return unsealed(stored, format, build, refusal, name=str(path))


def unsealed(stored: Any, format: str, build: Callable[[dict[str, Any]], S], refusal: Refusal, *, name: str) -> S:
    """The object that `to_json` gave, checked. Raises the refusal's error.

    build: makes it from all that was stored but format and digest; fields that are missing or wrong may raise
    TypeError, KeyError, ValueError and the like. name: of the file, for messages.
    """
    if not isinstance(stored, dict) or stored.get("format") != format:
        raise refusal.error(f"{name} is not {refusal.kind} (its format should be {format})", hint=refusal.other)
    try:
        found = build({field: value for field, value in stored.items() if field not in ("format", "digest")})
        same = found.matches(stored)
    except (TypeError, KeyError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise refusal.error(f"{name} is not {refusal.complete}: {error}") from None
    if not same:
        raise refusal.error(
            f"{name} does not match its digest; it was changed after it was written", hint=refusal.changed
        )
    return found
