"""The plan a run was made under, and the dose: what was fixed before looking, and how much was read off controls."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watermark.report.numbers import percent, span
from watermark.report.shell import dated

if TYPE_CHECKING:
    from watermark.evidence import Evidence
    from watermark.scoring.evidence import ScoreEvidence

_SAID = ("mismatches",)
_DRAWN = ("share", "low", "high", "level", "method", "controls", "ambient")


@dataclass(frozen=True)
class Banner:
    """What must be read before the verdict. departures: where the run was not the planned one."""

    title: str
    text: str
    departures: list[str]
    exploratory: bool
    details: list[tuple[str, str]]


@dataclass(frozen=True)
class DoseWords:
    """The estimate, how it was made, what stands beside it; details: (name, value) of the rest."""

    estimate: str
    method: str
    ambient: str
    details: list[tuple[str, str]]


def banner(evidence: Evidence | ScoreEvidence) -> Banner | None:
    """None where no plan came with the run."""
    plan = evidence.plan
    if plan is None:
        return None
    digest = str(plan.get("digest", "not stated"))
    departures = [_shown(item) for item in _listed(plan.get("mismatches"))]
    details = flat({name: value for name, value in plan.items() if name not in _SAID})
    if plan.get("status") == "confirmatory" and not departures:
        text = (
            f"This run kept to plan {digest[:16]}…: its statistics, texts, level and stopping were fixed there. "
            f"{_older(plan)}"
        )
        return Banner("Confirmatory: the run that was planned", text, [], False, details)
    begun = "This run departs from its plan" if departures else "This run was declared exploratory under its plan"
    text = (
        f"{begun} ({digest[:16]}…). What it found is a reason to look again, under a plan that is kept; its p-value "
        "is not held to the level that the plan promised."
    )
    return Banner("Exploratory: not the test that was planned", text, departures, True, details)


def stamped(plan: dict[str, Any]) -> str | None:
    """ "A time stamp by … dates the plan to …"; None where only its maker says when it was made."""
    since = plan.get("since")
    if not isinstance(since, dict) or since.get("authority") is None:
        return None
    checked = "" if since.get("checked") else ", not held to a named authority,"
    return f"A time stamp by {since['authority']}{checked} dates the plan to {dated(str(since.get('time')))}"


def first_asked(plan: dict[str, Any]) -> str | None:
    """When the first question was asked, by the query log; None where the evidence does not say."""
    first = plan.get("first_question")
    return first if isinstance(first, str) else None


def _older(plan: dict[str, Any]) -> str:
    when = stamped(plan)
    if when is None:
        return "The plan’s date is its maker’s word: a time stamp over it would show that it is older than the run."
    first = first_asked(plan)
    return f"{when}{f'; the first question was asked on {dated(first)}' if first else ''}."


def aimed(evidence: Evidence) -> str:
    """What a kept plan was made to find, as a sentence; empty without one."""
    plan = evidence.plan or {}
    share, power = plan.get("share"), plan.get("power")
    if plan.get("status") != "confirmatory" or not is_number(share) or not is_number(power):
        return ""
    return (
        f" The plan was made to find a share of {percent(float(str(share)))} marked training text with probability "
        f"{percent(float(str(power)), 0)}, by students that were measured before."
    )


def dose_words(evidence: Evidence) -> DoseWords | None:
    """None where no dose was estimated."""
    dose = evidence.dose
    if dose is None:
        return None
    details = flat({name: value for name, value in dose.items() if name not in _DRAWN})
    return DoseWords(
        _estimate(dose), _shown(dose.get("method", "")), _ambient(dose.get("ambient"), interval_of(dose)), details
    )


def dose_points(dose: dict[str, Any]) -> list[tuple[float, float, float]]:
    """The controls as (share, effect, standard error), those that are whole numbers or fractions."""
    points = []
    for item in _listed(dose.get("controls")):
        values = list(item.values()) if isinstance(item, dict) else item
        if isinstance(values, (list, tuple)) and len(values) >= 3 and all(is_number(v) for v in values[:3]):
            points.append((float(values[0]), float(values[1]), float(values[2])))
    return points


def interval_of(dose: Any) -> tuple[float, float, float] | None:
    """(low, share, high), or None where one is missing, or there is no dose."""
    if not isinstance(dose, dict):
        return None
    found = [dose.get(name) for name in ("low", "share", "high")]
    if not all(is_number(value) for value in found):
        return None
    low, share, high = (float(value) for value in found if value is not None)
    return low, share, high


def ambient_of(dose: dict[str, Any] | None) -> tuple[float, float, float] | None:
    """(low, share, high) of models exposed as the public is, or None where it was not estimated."""
    return None if dose is None else interval_of(dose.get("ambient"))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def flat(described: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested description as (dotted name, value) pairs."""
    pairs: list[tuple[str, str]] = []
    for name, value in described.items():
        if isinstance(value, dict) and value:
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + str(name), _shown(value)))
    return pairs


def _estimate(dose: dict[str, Any]) -> str:
    found = interval_of(dose)
    if found is None:
        return "A dose was asked for, and could not be estimated."
    low, share, high = found
    level = dose.get("level")
    named = f"{percent(float(level), 0)} interval" if level is not None and is_number(level) else "interval"
    at_least = "at least " if dose.get("beyond") else ""
    nothing = " The interval holds 0: no dose is shown." if low <= 0 else ""
    if dose.get("beyond"):
        nothing += " The effect lies above that of every control: more than the largest known share cannot be told."
    return (
        f"Estimated share of marked text in what the suspect learned from: {at_least}{percent(share)} ({named} "
        f"{span((low, high))}), read off control students whose share is known.{nothing} It holds as far as the "
        "suspect learns as those students do."
    )


def _ambient(ambient: Any, own: tuple[float, float, float] | None) -> str:
    """own: the suspect's (low, share, high), None where it could not be estimated."""
    if ambient is None:
        return (
            "Ambient exposure was not measured: how large the same figure is for models that met marked text only as "
            "anybody might is not known."
        )
    begun = "Ambient exposure, the same figure for models that met marked text only as anybody might: "
    if is_number(ambient):
        return f"{begun}{percent(float(ambient))}."
    if (found := interval_of(ambient)) is not None:
        low, share, high = found
        beside = ""
        if own is not None:
            lies = "lies wholly above it" if own[0] > high else "reaches into it"
            beside = f" The suspect’s interval {lies}."
        return f"{begun}{percent(share)} (interval {span((low, high))}).{beside}"
    return f"{begun}{_shown(ambient)}."


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
