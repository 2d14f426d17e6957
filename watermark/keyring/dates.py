"""Dates of keys: whole seconds since 1970 (RFC 7519's NumericDate) in files, UTC with its zone where people read."""

from __future__ import annotations

from datetime import UTC, datetime

from watermark.errors import KeyUnusable


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def told(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def read_date(text: str) -> int:
    """From "2027-01-31", midnight UTC, or a full time with its zone. Raises KeyUnusable."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise KeyUnusable(f"a date reads 2027-01-31 or 2027-01-31T12:00:00Z, found {text!r}") from None
    if found.tzinfo is None and len(text) > 10:
        raise KeyUnusable(f"a time needs its zone, 2027-01-31T12:00:00Z; found {text!r}")
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
