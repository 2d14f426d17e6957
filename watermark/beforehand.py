"""A plan before the first question: since when it was there, and what the query log says of when was asked.

A plan's own date is its maker's word. What counts instead, where there is one, is a time stamp over its file (RFC 3161,
`PLAN.tsr` beside it); and the query log, whose first line names the plan that the questions are asked under.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watermark.errors import LedgerInvalid, PlanMismatch
from watermark.probe.log import log_path, read_log
from watermark.timestamps import moment, read_stamp_file, stamp_beside

WORD, STAMP = "its maker's word", "a time stamp"


@dataclass(frozen=True)
class Since:
    """Since when a plan was there. time: UTC. authority: who stamped it, None where nobody did.

    checked: the stamp was verified against the certificate of an authority that was named.
    """

    time: str
    authority: str | None = None
    checked: bool = False

    @property
    def by(self) -> str:
        return WORD if self.authority is None else STAMP

    def to_json(self) -> dict[str, Any]:
        return {"time": self.time, "by": self.by, "authority": self.authority, "checked": self.checked}


@dataclass(frozen=True)
class Asked:
    """What a query log says. began: when it was begun; first: when the first question was sent, None before any.

    plan: what its first line says of the plan, None if it names none.
    """

    began: str
    first: str | None
    plan: dict[str, Any] | None


def since(created: str, path: Path | None, *, authorities: Sequence[str | Path] = ()) -> Since:
    """By the time stamp beside the plan's file, or else by the date in it. path: None for a plan that is no file.

    Raises BundleInvalid if the stamp is over other bytes, or not of a named authority; PlanMismatch if one is named and
    there is no stamp.
    """
    if path is None or not stamp_beside(path).exists():
        if authorities:
            raise PlanMismatch(
                f"{path or 'the plan'} bears no time stamp, and an authority was named",
                hint="`wmark evidence timestamp PLAN --authority …` has it stamped, before anything is asked",
            )
        return Since(created)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = read_stamp_file(stamp_beside(path), digest, authorities=[Path(one) for one in authorities])
    return Since(found.time, found.authority, found.checked)


def asked(answers: Any) -> Asked | None:
    """By the query log beside the answers of `wmark probe`; None where there is none.

    Of the questions the earliest counts, wherever its line stands. Raises LedgerInvalid if the chain is broken.
    """
    path = answers if isinstance(answers, (str, Path)) else getattr(answers, "path", None)
    if path is None or not log_path(path).exists():
        return None
    header, requests = read_log(log_path(path))
    sent, named = [str(line.get("time_sent")) for line in requests], header.get("plan")
    if named is not None and not isinstance(named, dict):
        raise LedgerInvalid(f"{log_path(path)}: what its first line says of a plan is not what `wmark probe` writes")
    return Asked(str(header.get("created")), min(sent, key=moment) if sent else None, named)


def put_now() -> Asked:
    """What stands for a query log where texts are put before an open model: they are put there in this very run.

    Nobody can see whether that was done before, so that a plan without a time stamp is its maker's word.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Asked(now, now, None)


def departures(digest: str, made: Since, said: Asked | None, *, answered: bool = False) -> list[str]:
    """Why a run cannot be called confirmatory by what its log says; an empty list if nothing speaks against it.

    answered: there are answers, so that the log must hold a question. The plan is older than the first question: the
    log was begun under it and names it, or a time stamp shows it.
    """
    if said is None:
        return ["no query log stands beside the answers, so that nobody can see whether the plan came first"]
    found = []
    if answered and said.first is None:
        found.append("the query log holds no question, so that nobody can see whether the plan came first")
    if said.first is not None and moment(said.first) < moment(made.time):
        by = "" if made.by == WORD else f", by {made.by}"
        found.append(f"the first question was asked at {said.first}, the plan made later, at {made.time}{by}")
    if said.first is not None and moment(said.first) < moment(said.began):
        found.append(f"the query log was begun at {said.began}, after its first question at {said.first}")
    if said.plan is not None and said.plan.get("digest") != digest:
        named = str(said.plan.get("digest"))[:16]
        found.append(f"the questions were asked under another plan ({named}…), this one is {digest[:16]}…")
    if said.plan is None and made.by == WORD:
        found.append(
            "the query log names no plan, and this one bears no time stamp: only its maker says that it came first"
        )
    if said.plan is not None and said.plan.get("mismatches"):
        found.append(f"the questions were asked as exploratory: {said.plan['mismatches'][0]}")
    return found


def told(made: Since, said: Asked | None) -> dict[str, Any]:
    """What evidence says of the dates: `since`, `first_question`, and whether the query log names the plan."""
    return {
        "since": made.to_json(),
        "first_question": None if said is None else said.first,
        "named_in_log": said is not None and said.plan is not None,
    }
