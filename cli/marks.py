"""Opening what --mark and --plan name: a watermark file, or a sealed key set, whose secret comes from the environment
or a person (`wmark key` says where it is looked for); a plan, with the time stamp beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watermark.keyring import KeySet
    from watermark.mark import Watermark
    from watermark.plan import Dated


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


def one(path: Path, planned: Dated | None = None, *, epoch: str | None = None) -> Watermark:
    """The mark in a file; of a set the epoch that was named, by label or kid, or the one that the plan is about."""
    from watermark.errors import KeyUnusable
    from watermark.inforce import InForce
    from watermark.keyring import KeySet

    found = opened(path)
    if not isinstance(found, KeySet):
        if epoch is not None:
            raise KeyUnusable(f"{path.name} holds one key and no epochs; an epoch is named of a key set alone")
        return found
    if epoch is not None:
        return found.watermark(found.epoch(epoch))
    if planned is not None:
        return InForce.of(found).planned(planned.plan)
    if len(found.epochs) == 1:
        return found.watermark(found.epochs[0])
    raise KeyUnusable(
        f"{path.name} holds {len(found.epochs)} keys ({', '.join(e.label for e in found.epochs)}), and this takes one",
        hint=f"name one with --key-epoch, or write its file: wmark key mark {path} ONE.wmark --epoch LABEL",
    )


def with_accounts(path: Path) -> Watermark:
    """The mark that accounts are drawn from. Raises KeyUnusable for a key set: its keys have none."""
    from watermark.errors import KeyUnusable
    from watermark.keyring import is_key_set
    from watermark.mark import Watermark

    if is_key_set(path):
        raise KeyUnusable(
            f"{path.name} is a key set, whose keys have no accounts; whose answers a suspect learned from is asked of "
            "one mark with accounts",
            hint="make one with `wmark keygen --accounts`; a tenant's own mark is written by `wmark key mark --tenant`",
        )
    return Watermark.load(path)


def planned(path: Path, authorities: list[Path] | None) -> Dated:
    """The plan in a file, with its date."""
    from watermark.plan import read_dated

    return read_dated(path, authorities=authorities or [])
