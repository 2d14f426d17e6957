"""Opening what --mark names: a watermark file, or a sealed key set, whose secret comes from the environment or a
person (`wmark key` says where it is looked for)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watermark.keyring import KeySet
    from watermark.mark import Watermark


def opened(path: Path) -> Watermark | KeySet:
    """The mark in a file, or the set of keys."""
    from watermark.keyring import is_key_set
    from watermark.mark import Watermark

    if not is_key_set(path):
        return Watermark.load(path)
    from watermark.keyring import open_keys

    from .key import secret

    return open_keys(path, secret(path, None, None, None))


def serving(path: Path) -> Watermark:
    """The mark in a file, or that of the set's active epoch."""
    from watermark.keyring import KeySet

    found = opened(path)
    return found.watermark(found.serving()) if isinstance(found, KeySet) else found
