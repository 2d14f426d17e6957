"""What follows from the evidence alone: nothing else is needed to check it, not even a key.

Of weighted sums: z from total, mean and sd; ranks from the decoys' totals; the mean of the e-values, p = 1/E, and the
verdict. Each statistic's law (its mean, sd, tail and e-value) follows from the cells (`cells`), not from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.assess import directed_rank
from watermark.detect import POWER, headline, interval_of, null_of, reach_of, verdict_of
from watermark.errors import ReportInvalid
from watermark.inforce import check_keys
from watermark.observe.text import VOTES
from watermark.report.checks import Check, close, require
from watermark.schemes import scheme_from_json
from watermark.stats.combine import mean_evalue

if TYPE_CHECKING:
    from watermark.evidence import Anytime, Control, Evidence, Statistic, Weighted

_KEPT = 1.0  # the e-process keeps a tenth of the most it had (stats/anytime.py), as log10


def check_arithmetic(found: Evidence) -> Check:
    """Raises ReportInvalid naming the first number that does not follow from the others."""
    held = [] if found.keys is None else [check_keys(found)]
    held.append(_votes(found))
    if found.weighted is not None:
        held.append(_weighted(found, found.weighted))
    if found.anytime is not None:
        held.append(_anytime(found, found.anytime))
    for control in found.controls:
        _control(control, found)
    if found.dose is not None:
        held.append(_dose(found, found.dose))
    if found.plan is not None:
        held.append(_plan(found, found.plan))
    return Check("arithmetic", "; ".join(held))


def _votes(found: Evidence) -> str:
    """The one-vote count, and the verdict from whichever test decides."""
    law, n, green = found.law, found.cells, found.green
    scheme = scheme_from_json(found.mark.get("scheme", {}))
    if law != scheme.null or found.gamma != law.mean / law.highest or found.power != POWER:
        raise ReportInvalid("gamma, levels and power are not those of the stated scheme and of this test")
    if found.alternative not in ("greater", "less", "two-sided"):
        raise ReportInvalid(f"the alternative {found.alternative!r} is none that is known")
    if not 0 <= green <= n * law.highest:
        raise ReportInvalid(f"{green} green cells of {n} cannot be")
    rank = directed_rank(green, np.asarray(found.decoys.totals), n * law.mean, found.alternative)
    if not close(found.decoys.rank_pvalue, rank):
        raise ReportInvalid(f"the decoy rank is stated as {found.decoys.rank_pvalue}, recomputed it is {rank}")
    counted = law.log10_pvalue(green, n, alternative=found.alternative)  # type: ignore[arg-type]
    expected: dict[str, Any] = {
        "null": null_of(law),
        "log10_p": _deciding(found, counted),
        "green_rate": green / (n * law.highest),
        "green_rate_interval": interval_of(law, green, n),
        "z": (green - n * law.mean) / math.sqrt(n * law.variance),
        "log10_chernoff": law.log10_chernoff(green, n),
        "detectable_rate": reach_of(law, n, found.level),
    }
    for name, value in expected.items():
        require(name, getattr(found, name), value)
    verdict = verdict_of(found.log10_p, found.alpha, found.detectable_rate, law)
    if found.verdict != verdict:
        raise ReportInvalid(
            f"the verdict {found.verdict!r} does not follow; log10 p = {found.log10_p:.3f} gives {verdict!r}"
        )
    _curve(found, counted)
    what = f"{green} green cells of {n}" if law.highest == 1 else f"a total score of {green} in {n} cells"
    return f"log10 p = {counted:.3f} follows from {what}"


def _deciding(found: Evidence, counted: float) -> float:
    """log10 p of the test that decides; the evidence must hold what that test is made of."""
    stopped = bool(found.options.get("stopped", False))
    if stopped and found.anytime is None:
        raise ReportInvalid("the e-process is said to decide, but the evidence holds none")
    if (found.weighted is None) != (found.access == "text"):
        raise ReportInvalid(f"what was read is stated as {found.access!r}, which its statistics do not fit")
    if found.keys is not None:
        return float(found.keys["log10_p"])
    return headline(counted, found.weighted, found.anytime, stopped=stopped)


def _curve(found: Evidence, counted: float) -> None:
    """The curve grows, and ends at the counts of the whole."""
    for name in ("documents", "tokens", "cells", "green"):
        _growing(f"the curve's {name}", [getattr(step, name) for step in found.curve])
    if not found.curve:
        raise ReportInvalid("the curve has no point")
    last = found.curve[-1]
    stated = [last.documents, last.tokens, last.cells, last.green, last.log10_p]
    require(
        "the curve's last point",
        stated,
        [found.documents_read, found.tokens_read, found.cells, found.green, counted],
    )


def _weighted(found: Evidence, deep: Weighted) -> str:
    """The mean e-value, what follows from it, and each statistic's z and ranks."""
    names, count = [s.name for s in deep.statistics], len(found.decoys.totals)
    if deep.access != found.access:
        raise ReportInvalid(f"the statistics were read from {deep.access!r}, the evidence from {found.access!r}")
    if not names or len(set(names)) < len(names) or set(names) != set(deep.decoy_totals):
        raise ReportInvalid("the statistics and the decoys' totals do not bear the same names")
    if found.decoys.seed != found.observations:
        raise ReportInvalid("the decoys were not drawn from the digest of these observations")
    for statistic in deep.statistics:
        totals = deep.decoy_totals[statistic.name]
        if len(totals) != count:
            raise ReportInvalid(f"{statistic.name} has {len(totals)} decoys, the votes have {count}")
        _statistic(statistic, totals, found.alternative)
    mean = float(mean_evalue([s.log10_e for s in deep.statistics]))
    require("the mean e-value (log10)", deep.log10_e, mean)
    require("p = 1/E (log10)", deep.log10_p, min(0.0, -mean))
    rank = deep.rank_pvalue * (count + 1)
    if not (close(rank, round(rank)) and 1 <= round(rank) <= count + 1):
        raise ReportInvalid(f"{deep.rank_pvalue} is no rank among {count} decoys")
    return f"log10 E = {deep.log10_e:.3f} is that of the mean of {len(names)} e-values"


def _statistic(stated: Statistic, totals: Sequence[int], alternative: str) -> None:
    z = (stated.total - stated.mean) / stated.sd if stated.sd else 0.0
    require(f"z of {stated.name}", stated.z, z)
    rank = directed_rank(stated.total, np.asarray(totals), stated.mean, alternative)
    require(f"the decoy rank of {stated.name}", stated.rank_pvalue, rank)
    if stated.tail not in ("exact lattice", "Chernoff bound"):
        raise ReportInvalid(f"{stated.name}: the tail {stated.tail!r} is none that is known")
    if stated.log10_p > stated.log10_chernoff + 1e-6:
        raise ReportInvalid(f"{stated.name}: an exact tail cannot lie above Chernoff's bound")
    if not -1e-9 <= stated.effective_cells <= stated.cells * (1 + 1e-9):
        raise ReportInvalid(f"{stated.name}: {stated.effective_cells} effective cells of {stated.cells} cannot be")


def _anytime(found: Evidence, running: Anytime) -> str:
    """The e-process's form: it grows with the reading, keeps its tenth, and passed 1/alpha where it says."""
    steps = running.steps
    for name in ("documents", "tokens"):
        _growing(f"the e-process's {name}", [getattr(step, name) for step in steps])
    if steps and (steps[-1].documents > found.documents_read or steps[-1].tokens > found.tokens_read):
        raise ReportInvalid("the e-process read more than was read")
    require("the e-process's log10 E", running.log10_e, steps[-1].log10_e if steps else 0.0)
    most = 0.0
    for step in steps:
        if step.log10_e < most - _KEPT - 1e-6:
            raise ReportInvalid(f"the e-process fell to log10 E = {step.log10_e} from {most}; it keeps a tenth")
        most = max(most, step.log10_e)
    level = -math.log10(found.alpha)
    reached = next((step.tokens for step in steps if step.log10_e >= level), None)
    require("where the e-process passed 1/alpha", running.reached_at, reached)
    return f"the e-process's {len(steps)} stages are in order and end at log10 E = {running.log10_e:.3f}"


def _control(control: Control, found: Evidence) -> None:
    require(f"p = 1/E of control {control.name} (log10)", control.log10_p, min(0.0, -control.log10_e))
    expected = {VOTES, *(s.name for s in found.weighted.statistics)} if found.weighted else {VOTES}
    if set(control.z) != expected:
        raise ReportInvalid(f"control {control.name} was not put through the suspect's statistics")


def _dose(found: Evidence, dose: dict[str, Any]) -> str:
    """The share and its interval, from the suspect's effect and the controls' as stated."""
    from watermark.calibrate import effect_of
    from watermark.stats.dose import Control as Student
    from watermark.stats.dose import calibrate

    try:
        effect, se = effect_of(found, dose["statistic"])
        fitted = calibrate([Student(*(float(value) for value in row)) for row in dose["controls"]])
        again = fitted.dose(effect, se, level=dose["level"])
        stated = [dose[name] for name in ("effect", "se", "share", "low", "high")]
    except (KeyError, TypeError) as error:
        raise ReportInvalid(f"the dose is not complete: {error}") from None
    require("the dose (effect, se, share, low, high)", stated, [effect, se, again.share, again.low, again.high])
    beside = dose.get("ambient")
    if isinstance(beside, dict) and "exceeded" in beside:
        require(
            "whether the dose exceeds the ambient one", beside["exceeded"], again.low > float(beside.get("high", 1))
        )
    return f"the dose, {again.low:.3g} to {again.high:.3g}, from the controls' effects as stated"


def _plan(found: Evidence, plan: dict[str, Any]) -> str:
    """A confirmatory run departs in nothing, and was held to the plan's level."""
    status, departures = plan.get("status"), plan.get("mismatches")
    if status not in ("confirmatory", "exploratory") or not isinstance(departures, list):
        raise ReportInvalid("the plan's status is neither confirmatory nor exploratory, or its departures are missing")
    if status == "confirmatory" and departures:
        raise ReportInvalid(f"the run is called confirmatory, and departs from its plan: {departures[0]}")
    if status == "confirmatory":
        require("the plan's level", plan.get("level"), found.alpha)
    return f"the run is {status} under its plan"


def _growing(what: str, values: Sequence[float]) -> None:
    if any(a > b for a, b in pairwise(values)) or any(value < 0 for value in values):
        raise ReportInvalid(f"{what} do not grow in reading order")
