"""Custody: what was done with a case, hash-chained from the first question to the sealing and what came after it.

The file stands beside the manifests, for it goes on growing: a signature and a time stamp are events too. Each event
names what it made by its SHA-256, so that an artifact without its event, or another one in its place, is seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watermark import chain
from watermark.errors import BundleInvalid, LedgerInvalid
from watermark.files import canonical_json

FORMAT = "wmark-custody/1"
_KIND = chain.Kind(FORMAT, "custody record", "event", "event of custody")


def begin(path: Path, case: str, events: list[dict[str, Any]]) -> str:
    """Writes a new record of events, each with `time` and `event`; returns its head. case: the evidence's digest."""
    if path.exists():
        raise BundleInvalid(f"{path} is there already; a record of custody is not written over")
    with closing(chain.open_locked(path)) as stream:
        head = str(chain.append(stream, {"format": FORMAT, "case": case})["hash"])
        for number, event in enumerate(events):
            head = str(chain.append(stream, event | {"seq": number, "prev": head})["hash"])
    path.chmod(0o644)
    return head


def add(path: Path, event: dict[str, Any]) -> str:
    """Adds one event and returns the new head. Raises BundleInvalid if the chain is broken."""
    lines = read(path)
    with closing(chain.open_locked(path)) as stream:
        stream.seek(0, os.SEEK_END)
        body = event | {"seq": len(lines) - 1, "prev": lines[-1]["hash"]}
        return str(chain.append(stream, body)["hash"])


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, the first one included. Raises BundleInvalid naming the first wrong one."""
    from watermark.bundle.layout import MOST_TAG, read_limited

    content = read_limited(path, path.name, most=MOST_TAG)
    if chain.whole_lines(content) != len(content):
        raise BundleInvalid(f"{path.name} ends within a line; it was cut short or changed")
    try:
        return list(chain.checked(Path(path.name), content, _KIND))
    except LedgerInvalid as error:
        raise BundleInvalid(str(error)) from None
    except RecursionError:
        raise BundleInvalid(f"{path.name} is nested too deep") from None


def events(lines: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Those of one kind, in order."""
    return (line for line in lines if line.get("event") == name)


def now() -> str:
    """UTC time: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org), else the clock's."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.now(UTC) if told is None else datetime.fromtimestamp(_whole(told), UTC)
    return moment.isoformat(timespec="seconds")


def sealing_time(created: str) -> str:
    """When a bundle says that it was made: SOURCE_DATE_EPOCH, else the evidence's own time; its bytes repeat."""
    return now() if "SOURCE_DATE_EPOCH" in os.environ else created


def canonical(value: Any) -> bytes:
    """Canonical JSON with a line's end, as every small file of a bundle is written."""
    return canonical_json(value) + b"\n"


def _whole(told: str) -> int:
    if not told.isdigit():
        raise BundleInvalid(f"SOURCE_DATE_EPOCH should be whole seconds since 1970, found {told!r}")
    return int(told)
