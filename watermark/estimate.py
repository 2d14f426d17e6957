"""How much to ask, and what can be found: slopes measured on students, and what each of them promises.

The slopes (`power.json`, made by benchmarks/study/slopes.py) hold for those models and that training. The law that
turns them into tokens and power: `stats/power.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.observe.text import VOTES
from watermark.observe.weights import FROM_SAMPLES, FROM_TEXT, NORMED, WITH_REFERENCE, WITHOUT_REFERENCE
from watermark.schemes import scheme_to_json
from watermark.stats.power import Test, power_of, smallest_share, tokens_needed

if TYPE_CHECKING:
    from watermark.mark import Watermark

_SLOPES = Path(__file__).with_name("power.json")
_PER = 1000  # slopes are z per square root of so many probe tokens


@dataclass(frozen=True)
class Slope:
    """z = slope · share^exponent · √(tokens / 1,000), measured on `students` students. spread: its standard error
    for one more student like them. reference: "base" if the model they grew from was subtracted, else None.
    tokens: probe tokens that it was measured with. Answers of one kind repeat their windows, so z grows more slowly
    than the root: fewer tokens show more than this says, many more show less.
    """

    model: str
    training: str
    students: int
    window: int
    delta: float
    access: str
    reference: str | None
    statistic: str
    slope: float
    spread: float
    exponent: float
    tokens: int | None


@dataclass(frozen=True)
class Estimate:
    """What one measured slope promises. tokens: needed for the power aimed at, None if no number is enough.

    power: with the tokens that the probes will give; smallest_share: found with the power aimed at, or None.
    """

    slope: Slope
    tokens: int | None
    power: float
    smallest_share: float | None


def measured_slopes() -> list[Slope]:
    """All slopes in the package's table."""
    return [Slope(**row) for row in json.loads(_SLOPES.read_bytes())["slopes"]]


def slopes_for(mark: Watermark, access: str, *, reference: bool) -> list[Slope]:
    """Slopes measured for this access under the mark's width, and the largest delta not above the mark's."""
    window, delta = mark.scheme.window, _delta(mark)
    wanted = statistics_of(access, reference=reference)
    like = [
        slope
        for slope in measured_slopes()
        if (slope.access, slope.window, slope.reference is not None) == (access, window, reference)
        and slope.delta <= delta + 1e-9
        and slope.statistic in wanted
    ]
    largest = {model: max(s.delta for s in like if s.model == model) for model in {s.model for s in like}}
    return [slope for slope in like if slope.delta == largest[slope.model]]


def own_slope(
    mark: Watermark,
    access: str,
    reference: bool,
    statistics: tuple[str, ...],
    slope: float,
    spread: float,
    exponent: float,
) -> Slope:
    """What the user measured on a control student of theirs, as `slopes_for` gives what we measured."""
    return Slope(
        model="your own control student",
        training="as you trained it",
        students=1,
        window=mark.scheme.window,
        delta=_delta(mark),
        access=access,
        reference="base" if reference else None,
        statistic=" or ".join(statistics),
        slope=slope,
        spread=spread,
        exponent=exponent,
        tokens=None,
    )


def estimates(
    measured: list[Slope],
    supply: int,
    *,
    share: float,
    power: float,
    level: float,
    test: Test,
    two_sided: bool,
    statistics: int,
) -> list[Estimate]:
    """One for each model and training, by the statistic that needs least there; those that need most come first,
    and those where no number of tokens is enough come last."""
    best: dict[tuple[str, str], Estimate] = {}
    for slope in measured:
        per_token, se = slope.slope / math.sqrt(_PER), slope.spread / math.sqrt(_PER)
        rest: dict[str, Any] = {
            "test": test,
            "se": se,
            "exponent": slope.exponent,
            "two_sided": two_sided,
            "statistics": statistics,
        }
        found = Estimate(
            slope=slope,
            tokens=tokens_needed(per_token, share, level, power, **rest),
            power=power_of(per_token, share, supply, level, **rest),
            smallest_share=smallest_share(per_token, supply, level, power, **rest),
        )
        name = (slope.model, slope.training)
        if name not in best or _needs(found) < _needs(best[name]):
            best[name] = found
    return sorted(best.values(), key=lambda e: (e.tokens is None, -(e.tokens or 0)))


def statistics_of(access: str, *, reference: bool) -> tuple[str, ...]:
    """The statistics by which a level of access is tested: votes, or the weighted ones in their fixed order."""
    if access == "text" and not reference:
        return (VOTES,)
    kinds: tuple[str, ...] = WITH_REFERENCE if reference else WITHOUT_REFERENCE
    if access in ("text", "samples"):
        kinds = FROM_TEXT if reference else FROM_SAMPLES
    return tuple(kind + form for kind in kinds for form in ("", NORMED))


def _delta(mark: Watermark) -> float:
    return float(scheme_to_json(mark.scheme)["parameters"].get("delta", 0.0))


def _needs(estimate: Estimate) -> float:
    return math.inf if estimate.tokens is None else estimate.tokens
