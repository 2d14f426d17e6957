"""verify_scores(): recompute score evidence from its case, and under the key; it returns what held or raises.

A case holds all that was read and no key: with it a stranger draws every decoy again. Our own cosine needs our key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.attribute import Attribution
from watermark.errors import ReportInvalid, WatermarkError
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.report.checks import Check, close, require
from watermark.report.score_arithmetic import check_score_arithmetic, part_of
from watermark.report.verify import same_page
from watermark.scores.direction import scheme_to_json
from watermark.scoring.case import Case
from watermark.scoring.detect import (
    control_of,
    cost_of,
    direction_test,
    input_test,
    level_of_each,
    looks_at,
    method_of,
    share_carried,
)
from watermark.scoring.evidence import ScoreEvidence
from watermark.scoring.mark import ScoreWatermark

if TYPE_CHECKING:
    from watermark.scoring.evidence import KeyTest
    from watermark.stats.laws import Alternative

_NUMBERS_SHOWN = 10
_LOSSES = ("log_loss", "brier", "ece")
_UNUSABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


def verify_scores(
    evidence: ScoreEvidence | str | Path,
    *,
    case: str | Path | None = None,
    mark: ScoreWatermark | None = None,
    page: str | Path | None = None,
    plan: str | Path | None = None,
) -> list[Check]:
    """Recomputes score evidence; raises ReportInvalid naming the first thing that does not hold.

    evidence: or its file, whose digest is then checked. Without more, what follows from the evidence itself is
    recomputed. case: the file that `detect_scores` wrote; what was read is bound to its digests, the coefficients are
    fitted again and every decoy is drawn again; with `mark` also our own cosines, the looks, the share carried, the
    controls and the cost. plan: the one the evidence names, by digest. page: the HTML report must hold this evidence.
    `scores_taken_as_stated` says what was not recomputed.
    """
    found = evidence if isinstance(evidence, ScoreEvidence) else ScoreEvidence.load(evidence)
    checks = [Check("digest", f"the evidence matches its digest {found.digest[:16]}…")]
    checks.append(_in_words("the evidence", check_score_arithmetic, found))
    if mark is not None:
        checks.append(_same_mark(found, mark))
    if case is not None:
        checks.append(_in_words(str(case), _check_case, found, Path(case), mark))
    if plan is not None:
        checks.append(_in_words(str(plan), _same_plan, found, Path(plan)))
    if page is not None:
        checks.append(same_page(found, Path(page)))
    return checks


def load_evidence(path: str | Path) -> Evidence | ScoreEvidence | Attribution:
    """What a file holds: evidence of text, of scores, or an attribution. Raises ReportInvalid."""
    try:
        stored = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        stored = None
    kind = stored.get("format") if isinstance(stored, dict) else None
    if kind == ScoreEvidence.format:
        return ScoreEvidence.load(path)
    return Attribution.load(path) if kind == Attribution.format else Evidence.load(path)


def scores_taken_as_stated(
    evidence: ScoreEvidence | str | Path,
    *,
    case: str | Path | None = None,
    mark: ScoreWatermark | None = None,
    plan: str | Path | None = None,
) -> list[str]:
    """What `verify_scores` with these arguments does not recompute, in sentences."""
    found = evidence if isinstance(evidence, ScoreEvidence) else ScoreEvidence.load(evidence)
    left = []
    if case is None:
        left.append(
            "what was read of the suspect was taken as stated: --case draws every decoy again, and with --mark our own "
            "cosines, the looks and the share carried"
        )
    elif mark is None:
        left.append(
            "our own cosines, the looks, the share carried, the controls and the cost were taken as stated; --mark "
            "recomputes them"
        )
    if found.plan is not None and plan is None:
        left.append("the plan was taken as stated; --plan compares it with the run")
    if found.cost is not None and found.cost.log_loss is not None:
        left.append(
            "the changes in log loss, Brier score and calibration need the true labels, and were taken as stated"
        )
    left.append("that the suspect gave these answers was taken as stated; who can ask it can run the test again")
    left.append(
        "that the clean answers and surrogates owe nothing to the key, and that key, basis and inputs were fixed "
        "before the suspect was asked, no file here shows; a plan whose digest was published then does"
    )
    if found.options.get("logged") is True:
        left.append(
            "that the logged inputs were chosen without regard to the marked part of their answers was taken as stated"
        )
    return left


def _in_words(what: str, check: Any, *of: Any) -> Check:
    """The check's result; what a forged file breaks on the way is said in words."""
    try:
        held: Check = check(*of)
    except ReportInvalid:
        raise
    except (WatermarkError, *_UNUSABLE) as error:
        raise ReportInvalid(f"{what} states what cannot be: {error}") from None
    return held


def _same_mark(found: ScoreEvidence, mark: ScoreWatermark) -> Check:
    if not close(found.mark, mark.profile()):
        raise ReportInvalid(
            f"the watermark file (kid {mark.key.kid}) is not the one tested (kid {found.mark.get('kid')}, "
            f"commitment {str(found.mark.get('commitment'))[:16]}…)"
        )
    return Check("mark", f"the key opens the commitment {mark.key.commitment[:16]}…")


def _check_case(found: ScoreEvidence, path: Path, mark: ScoreWatermark | None) -> Check:
    case = Case.load(path)
    _same_reading(found, case, path)
    asked = mark or _with_any_key(case, part_of(found))
    alternative: Alternative = found.alternative  # type: ignore[assignment]
    tests = _tests_again(found, case, asked, alternative)
    for stated, again in zip(found.tests, tests, strict=True):
        _same_numbers(f"the decoys' cosines of the {stated.part} test", stated.decoys, again.decoys)
    for shown in found.shown:
        for name, rows in (("clean", case.clean), ("suspect", case.suspect)):
            require(
                f"the {name} answer shown for row {shown.row}",
                getattr(shown, name),
                [float(v) for v in rows[shown.row][:_NUMBERS_SHOWN]],
            )
    decoys = sum(len(test.decoys) for test in found.tests)
    if mark is None:
        return Check(
            "recomputed", f"{len(case):,} answers read again, {decoys:,} decoy cosines drawn again, all as stated"
        )
    _under_our_key(found, case, mark, tests, alternative)
    return Check(
        "recomputed",
        f"{len(case):,} answers read again, {decoys:,} decoy cosines and our own, {len(found.looks)} looks, "
        f"the share, {len(found.controls)} controls and the cost, all as stated",
    )


def _same_reading(found: ScoreEvidence, case: Case, path: Path) -> None:
    """The case is the one that was tested: its digest seeds the decoys."""
    if case.digest != found.seed:
        raise ReportInvalid(
            f"{path} holds another case: its digest is {case.digest[:16]}…, stated is {found.seed[:16]}…"
        )
    for name, digest in case.committed.items():
        require(f"the committed digest of the {name}", found.committed.get(name), digest)
    described = scheme_to_json(case.scheme)
    if not close(found.mark["scheme"], described):
        raise ReportInvalid(f"{path} was read for another scheme: {described['parameters']}")
    surrogates = 0 if case.surrogates is None else case.surrogates.shape[1]
    expected: dict[str, Any] = {
        "queries": len(case),
        "duplicates": case.duplicates,
        "unanswered": case.unanswered,
        "surrogates": surrogates,
        "access": "labels" if case.shows == "labels" else case.scheme.output,
        "explained": case.residual.explained,
        "method": method_of(case, found.tests, found.alternative, stopped=found.stopped),  # type: ignore[arg-type]
    }
    for name, value in expected.items():
        require(name, getattr(found, name), value)
    require("the basis' functions", found.mark["basis"].get("size"), case.basis.size)
    require("the basis' columns", found.mark["basis"].get("columns"), case.basis.names)
    require("the controls' names", sorted(control.name for control in found.controls), sorted(case.controls))
    if found.notes[: len(case.notes)] != list(case.notes):
        raise ReportInvalid("the notes do not say how the answers were read")


def _with_any_key(case: Case, part: str) -> ScoreWatermark:
    """A mark of the same kind under keys that marked nothing: all that is asked of it needs no secret."""
    key, shared = decoy_keys(b"any key will do", 2)
    return ScoreWatermark(case.scheme, case.basis, key, shared=None if part == "deployment" else shared)


def _tests_again(found: ScoreEvidence, case: Case, mark: ScoreWatermark, alternative: Alternative) -> list[KeyTest]:
    made = [direction_test(mark, case, found.seed, len(found.tests[0].decoys), alternative)]
    made += [
        input_test(mark, case, found.seed, len(test.decoys), alternative)
        for test in found.tests
        if test.part == "input"
    ]
    return made


def _same_share(found: ScoreEvidence, case: Case, mark: ScoreWatermark) -> None:
    """The share carried and its deviation, which is of what is left when our own mark is gone."""
    level = level_of_each(found.alpha, len(found.tests), found.alternative)  # type: ignore[arg-type]
    again = share_carried(mark, case, found.seed, level)
    if found.carried is None or again is None:
        require("the share carried", found.carried, again)
        return
    for name in ("share", "deviation", "low", "high", "detectable"):
        require(f"{name} of the share carried", getattr(found.carried, name), getattr(again, name))


def _under_our_key(
    found: ScoreEvidence, case: Case, mark: ScoreWatermark, tests: list[KeyTest], alternative: Alternative
) -> None:
    """Everything that only the key gives."""
    for stated, again in zip(found.tests, tests, strict=True):
        require(f"our cosine of the {stated.part} test", stated.cosine, again.cosine)
    _same_share(found, case, mark)
    looks = [asdict(look) for look in looks_at(mark, case, alternative, stopped=found.stopped)]
    for stated_look, look in zip(found.looks, looks, strict=True):
        require(f"the look after {look['answers']} answers", asdict(stated_look), look)
    for control in found.controls:
        again_control = control_of(control.name, case.controls[control.name], mark, case, alternative)
        require(f"control {control.name}", asdict(control), asdict(again_control))
    cost = cost_of(mark, case, None)
    if found.cost is not None and cost is not None:
        kept = {name: getattr(found.cost, name) for name in _LOSSES}
        require("the cost", asdict(found.cost), asdict(cost) | kept)
    if found.shown:
        rows = [shown.row for shown in found.shown]
        marked = mark.tilt(case.clean[rows], case.inputs.rows(rows))
        for shown, row in zip(found.shown, marked, strict=True):
            require(f"the marked answer shown for row {shown.row}", shown.marked, row[:_NUMBERS_SHOWN].tolist())


def _same_numbers(name: str, stated: Sequence[float], computed: Sequence[float]) -> None:
    """As `require`, naming the first that differs and not all of them."""
    for number, (a, b) in enumerate(zip(stated, computed, strict=True), 1):
        if not close(a, b):
            raise ReportInvalid(f"{name}: number {number} is stated as {a}, recomputed it is {b}")


def _same_plan(found: ScoreEvidence, path: Path) -> Check:
    """The plan is the stated one, and what the evidence says of itself is what was planned, or listed as departing."""
    from watermark.scoring.plan import Run, departures_of, read_score_plan

    planned = read_score_plan(path)
    if found.plan is None:
        raise ReportInvalid(f"the evidence was made without a plan, but {path} was given")
    if planned.digest != found.plan.get("digest"):
        raise ReportInvalid(f"{path} is not the plan of this evidence: its digest is {planned.digest[:16]}…")
    if not math.isclose(planned.level, found.alpha):
        raise ReportInvalid(f"the run was held to alpha = {found.alpha:g}, its plan to {planned.level:g}")
    run = Run(
        commitment=str(found.mark.get("commitment")),
        committed=found.committed,
        count=found.queries,
        alpha=None,
        alternative=found.alternative,
        stopped=found.stopped,
        logged=found.options.get("logged") is True,
    )
    departs = departures_of(planned, run)
    by_dates = found.plan.get("by_dates") or []
    listed = [m for m in found.plan["mismatches"] if not str(m).startswith("alpha ") and m not in by_dates]
    if departs != listed:
        raise ReportInvalid(
            f"the run's departures from {path} are {departs or 'none'}, the evidence says {listed or 'none'}"
        )
    return Check("plan", f"{path.name} is the plan with digest {planned.digest[:16]}…, made {planned.created}")
