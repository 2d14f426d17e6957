"""verify_attribution(): recompute whose answers a suspect learned from; it returns what was checked, or raises."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from watermark.attribute import Attribution, attribute, named, runner_up
from watermark.errors import ReportInvalid
from watermark.outputs import Outputs
from watermark.report.checks import Check, close, require
from watermark.report.verify import same_page
from watermark.stats.combine import holm

if TYPE_CHECKING:
    from watermark.mark import Watermark

_STATED = ("created", "software", "notes", "mark", "digest")


def load_attribution(path: str | Path) -> Attribution:
    """Reads an attribution file. Raises ReportInvalid if it is malformed or does not match its digest."""
    return Attribution.load(path)


def verify_attribution(
    attribution: Attribution | str | Path,
    *,
    outputs: str | Path | None = None,
    mark: Watermark | None = None,
    tokenizer: str | Path | None = None,
    page: str | Path | None = None,
) -> list[Check]:
    """Recomputes an attribution; raises ReportInvalid naming the first thing that does not hold.

    By itself: Holm's correction, the names that are found, the order, the runner-up. With outputs and mark (the one
    that accounts are drawn from) also every total, score, p-value and panel of decoys, if it was read from text.
    page: the HTML report must hold this attribution.
    """
    found = attribution if isinstance(attribution, Attribution) else load_attribution(attribution)
    checks = [Check("digest", f"the attribution matches its digest {found.digest[:16]}…"), _arithmetic(found)]
    if page is not None:
        checks.append(same_page(found, Path(page)))
    if mark is None:
        return [*checks, Check("recomputed", "NOT CHECKED: totals of the accounts are as stated; --outputs and --mark")]
    if mark.profile() != found.mark:
        raise ReportInvalid(f"the watermark file (kid {mark.key.kid}) is not the one tested: {found.mark.get('kid')}")
    checks.append(Check("mark", f"the key opens the commitment {mark.key.commitment[:16]}…"))
    checks.append(_keys(found, mark))
    if outputs is None:
        return [*checks, Check("recomputed", "NOT CHECKED: totals of the accounts are as stated; --outputs recomputes")]
    return [*checks, _again(found, Path(outputs), mark, tokenizer)]


def _arithmetic(found: Attribution) -> Check:
    """What follows from the accounts' scores and p-values."""
    exposures = found.exposures
    if not exposures or len(exposures) != found.hypotheses:
        raise ReportInvalid(f"{len(exposures)} accounts are listed, {found.hypotheses} hypotheses are stated")
    if len({(e.account, e.epoch) for e in exposures}) < len(exposures):
        raise ReportInvalid("an account stands twice in the attribution")
    adjusted = holm(np.array([e.log10_p for e in exposures]))
    for exposure, value in zip(exposures, adjusted, strict=True):
        require(f"the corrected p-value of {named(exposure)} (log10)", exposure.log10_p_holm, float(value) + 0.0)
        verdict = "exposure found" if value <= math.log10(found.alpha) else "none found"
        if exposure.verdict != verdict:
            raise ReportInvalid(f"the verdict on {named(exposure)} is {exposure.verdict!r}, it follows: {verdict!r}")
    scores = [e.score for e in exposures]
    if scores != sorted(scores, reverse=True):
        raise ReportInvalid("the accounts do not stand in the order of their scores")
    shown = [named(e) for e in exposures if e.verdict == "exposure found"]
    if shown != found.found:
        raise ReportInvalid(f"found are said to be {found.found}, of the accounts' verdicts follow {shown}")
    runner, gap = runner_up(exposures, len(shown))
    if found.runner_up != runner:
        raise ReportInvalid(f"the runner-up is said to be {found.runner_up!r}, it follows: {runner!r}")
    require("the gap", found.gap, gap)
    if found.decoys is not None:
        largest = np.array(found.decoys.largest)
        if len(largest) != found.decoys.panels:
            raise ReportInvalid(f"{len(largest)} panels of decoys are listed, {found.decoys.panels} are stated")
    return Check("arithmetic", f"of {found.hypotheses} accounts {len(shown)} are found by Holm's correction")


def _keys(found: Attribution, mark: Watermark) -> Check:
    """Each account's kid is that of the key which its name and epoch give."""
    for exposure in found.exposures:
        kid = mark.account(exposure.account, epoch=exposure.epoch).key.kid
        if kid != exposure.kid:
            raise ReportInvalid(f"the key of {named(exposure)} is {kid}, stated is {exposure.kid}: another was tested")
    return Check("accounts", f"{len(found.exposures)} keys are those that names and epochs give")


def _again(found: Attribution, outputs: Path, mark: Watermark, tokenizer: str | Path | None) -> Check:
    from watermark.observe import observe

    first = found.exposures[0].account
    account = mark.account(first)
    seen = observe(Outputs(outputs), account, tokenizer=account.tokenizer(tokenizer))
    if seen.digest != found.observations:
        if found.statistic != "votes":
            return Check("recomputed", "NOT CHECKED: it was read from a model, whose readings are not in the outputs")
        raise ReportInvalid(
            f"{outputs.name} gives other observations ({seen.digest[:16]}…) than were tested "
            f"({found.observations[:16]}…)"
        )
    again = attribute(
        seen,
        mark,
        list(dict.fromkeys(sorted(e.account for e in found.exposures))),
        epochs=sorted({e.epoch for e in found.exposures}),
        alpha=found.alpha,
        statistic=found.statistic,
        decoys=0 if found.decoys is None else found.decoys.panels,
    )
    _same(found, again)
    return Check("recomputed", f"{again.cells:,} cells, totals and p-values of {again.hypotheses} accounts, as stated")


def _same(found: Attribution, again: Attribution) -> None:
    """Both say the same; panels of decoys do not depend on the order in which accounts were named."""
    for one, other in zip(found.exposures, again.exposures, strict=True):
        for name, value in dataclasses.asdict(other).items():
            if not close(getattr(one, name), value):
                raise ReportInvalid(f"{named(one)}: {name} is stated as {getattr(one, name)}, recomputed it is {value}")
    stated = found.to_json()
    for name, value in again.to_json().items():
        if name not in _STATED and not close(stated[name], value):
            raise ReportInvalid(f"{name} does not recompute from the outputs and the key")
