"""What follows from score evidence alone: no key, no answers, nothing else is needed to check it.

p and e-values from cosines and dimensions, ranks from decoys, the correction over tests, the looks' order, the
interval from share and deviation, the verdict, the plan's level. What was read is checked from the case (`scores`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from watermark.errors import ReportInvalid
from watermark.report.checks import Check, require
from watermark.scores.direction import Direction, scheme_from_json
from watermark.scoring.case import look_points
from watermark.scoring.detect import SCORE_NULL, SCORE_POWER, key_test, level_of_each, together, verdict_of_scores
from watermark.stats.laws import Alternative
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from watermark.scoring.evidence import Carried, KeyTest, ScoreControl, ScoreEvidence

_LARGEST_BASIS = 100_000
_FEWEST_DECOYS = 99
_DIGEST = re.compile("[0-9a-f]{64}")
_COMMITTED = {"basis", "queries", "clean", "surrogates"}


def check_score_arithmetic(found: ScoreEvidence) -> Check:
    """Raises ReportInvalid naming the first thing that does not follow from the rest."""
    wrong = next(misshapen(found, type(found), "the evidence"), None)
    if wrong is not None:
        raise ReportInvalid(wrong)
    scheme, size = tested(found)
    _settings(found, scheme)
    _tests(found, scheme, size)
    _looks(found, size)
    require("log10_p", found.log10_p, together(found.tests, found.looks, stopped=found.stopped))
    _carried(found, scheme)
    verdict = verdict_of_scores(found.log10_p, found.alpha, found.carried)
    if found.verdict != verdict:
        raise ReportInvalid(
            f"the verdict {found.verdict!r} does not follow; log10 p = {found.log10_p:.3f} gives {verdict!r}"
        )
    for control in found.controls:
        _control(control, found, scheme.dimensions(size))
    _cost(found, scheme)
    _shown(found)
    held = [_what_follows(found)]
    if found.plan is not None:
        held.append(_plan(found, found.plan))
    return Check("arithmetic", "; ".join(held))


def tested(found: ScoreEvidence) -> tuple[Direction, int]:
    """The scheme and the size of the basis that the evidence states. Raises ReportInvalid, MarkInvalid."""
    scheme = scheme_from_json(found.mark.get("scheme"))
    basis = found.mark.get("basis")
    size = basis.get("size") if isinstance(basis, dict) else None
    if type(size) is not int or not 2 <= size <= _LARGEST_BASIS:
        raise ReportInvalid(f"a basis of {size!r} functions cannot be")
    return scheme, size


def part_of(found: ScoreEvidence) -> str:
    """Whose direction was tested, by the stated mark: the deployment's, or one account's."""
    return "deployment" if found.mark.get("shared") is None else "account"


def misshapen(value: Any, hint: Any, name: str) -> Iterator[str]:
    """Sentences on what is not of its declared type; the same walk for every field of the evidence.

    hint: a type as the dataclasses declare it: int, float, str, bool, a list, a dict, a Literal, a union with None, or
    a dataclass, whose fields are walked. A float may be a whole number; no number may be infinite.
    """
    kind, parts = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]
            yield f"{name} is not complete"
            return
        hints = get_type_hints(hint)
        for field in fields(hint):
            yield from misshapen(getattr(value, field.name), hints[field.name], f"{name}'s {field.name}")
    elif kind is list:
        if not isinstance(value, list):
            yield f"{name} is no list"
            return
        for number, item in enumerate(value, 1):
            yield from misshapen(item, parts[0], f"{name}, item {number}")
    elif kind is dict:
        if not isinstance(value, dict):
            yield f"{name} is no object"
            return
        for key, item in value.items():
            yield from misshapen(item, parts[1], f"{name}[{key!r}]")
    elif kind in (UnionType, Union):
        if value is None and NoneType in parts:
            return
        yield from misshapen(value, next(part for part in parts if part is not NoneType), name)
    elif kind is Literal:
        if value not in parts:
            yield f"{name} is {value!r}, none of {', '.join(map(str, parts))}"
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"{name} is {value!r}, no number"
    elif hint is not Any and type(value) is not hint:
        yield f"{name} is {value!r}, not of type {hint.__name__}"


def _settings(found: ScoreEvidence, scheme: Direction) -> None:
    """What the test was set to, and what was committed."""
    if found.null != SCORE_NULL:
        raise ReportInvalid("the null hypothesis stated is not that of this test")
    if found.alternative not in get_args(Alternative):
        raise ReportInvalid(f"the alternative {found.alternative!r} is none that is known")
    if not 0 < found.alpha < 1:
        raise ReportInvalid(f"alpha lies between 0 and 1, stated is {found.alpha}")
    allowed = {scheme.output, "labels"} if scheme.output in ("probabilities", "labels") else {scheme.output}
    if found.access not in allowed:
        raise ReportInvalid(f"what was read is stated as {found.access!r}; the mark is on {scheme.output}")
    for name in ("queries", "duplicates", "unanswered", "surrogates"):
        if getattr(found, name) < (name == "queries"):
            raise ReportInvalid(f"{getattr(found, name)} {name} cannot be")
    if not 0 <= found.explained <= 1:
        raise ReportInvalid(f"the share that was key-free is stated as {found.explained}; it lies between 0 and 1")
    _committed(found)


def _committed(found: ScoreEvidence) -> None:
    has = found.committed
    if set(has) != _COMMITTED or not _DIGEST.fullmatch(found.seed):
        raise ReportInvalid("the digests of what was read are not complete")
    for name, digest in has.items():
        absent = name == "surrogates" and not found.surrogates
        if not (digest == "" if absent else _DIGEST.fullmatch(digest)):
            raise ReportInvalid(f"the committed digest of the {name} is {digest!r}, no SHA-256 of what was read")
    if has["basis"] != found.mark["basis"].get("digest"):
        raise ReportInvalid("the basis that was tested is not the one of the stated mark")


def _tests(found: ScoreEvidence, scheme: Direction, size: int) -> None:
    """Each test is of the stated mark's parts, in its dimensions, and follows from its cosine and decoys."""
    parts = [part_of(found), *(["input"] if found.options.get("logged") is True else [])]
    if [test.part for test in found.tests] != parts:
        raise ReportInvalid(f"the tests are of {[test.part for test in found.tests]}, they should be of {parts}")
    if "input" in parts and not scheme.own:
        raise ReportInvalid("single inputs were tested, but the mark has no part for them")
    dimensions = {"input": found.queries * (scheme.width - scheme.zero_sum)}
    for test in found.tests:
        _test(test, found, dimensions.get(test.part, scheme.dimensions(size)))
    if len(found.tests[0].decoys) != found.options.get("decoys"):
        raise ReportInvalid(
            f"{len(found.tests[0].decoys)} decoys are listed, asked for were {found.options.get('decoys')}"
        )


def _test(test: KeyTest, found: ScoreEvidence, dimensions: int) -> None:
    if test.dimensions != dimensions:
        raise ReportInvalid(
            f"the {test.part} test is stated in {test.dimensions} dimensions; the mark's scheme and basis give "
            f"{dimensions}"
        )
    if max(map(abs, [test.cosine, *test.decoys])) > 1 + 1e-9:
        raise ReportInvalid(f"the {test.part} test states a cosine beyond 1, which cannot be")
    if len(test.decoys) < _FEWEST_DECOYS:
        raise ReportInvalid(f"the {test.part} test has {len(test.decoys)} decoys, at least {_FEWEST_DECOYS} are drawn")
    again = key_test(test.part, test.cosine, dimensions, np.array(test.decoys), found.alternative)  # type: ignore[arg-type]
    for name in ("log10_p", "log10_e", "rank_pvalue"):
        require(f"{name} of the {test.part} test", getattr(test, name), getattr(again, name))


def _looks(found: ScoreEvidence, size: int) -> None:
    """The looks are where they have to be, end at the whole, and passed 1/alpha where it is said."""
    seen = [look.answers for look in found.looks]
    if any(a >= b for a, b in pairwise(seen)):
        raise ReportInvalid("the looks are not in order")
    points = look_points(found.queries, size)
    if not set(seen) <= set(points) or seen[-1:] != points[-1:]:
        raise ReportInvalid(f"the looks were after {seen} answers, they should be after {points}")
    if any(look.log10_p > 0 for look in found.looks):
        raise ReportInvalid("a look states a p-value above 1")
    require("log10_p of the last look", found.looks[-1].log10_p, found.tests[0].log10_p)
    level = -math.log10(found.alpha)
    reached = next((look.answers for look in found.looks if look.log10_e >= level), None)
    require("where the e-process passed 1/alpha (reached_at)", found.reached_at, reached)


def _carried(found: ScoreEvidence, scheme: Direction) -> None:
    """The interval is 1.96 deviations to each side, and the detectable share follows from deviation and alpha."""
    from scipy.special import ndtri

    measured = found.access in ("probabilities", "values")
    if (found.carried is not None) != measured:
        raise ReportInvalid(f"the share carried is {'missing' if measured else 'stated'}, for {found.access}")
    if found.carried is None:
        return
    carried: Carried = found.carried
    if carried.deviation <= 0:
        raise ReportInvalid(f"the deviation of the share carried is stated as {carried.deviation}")
    level = level_of_each(found.alpha, len(found.tests), found.alternative)  # type: ignore[arg-type]
    reach = carried.deviation * float(ndtri(SCORE_POWER) - ndtri(level))
    expected = {
        "low": carried.share - 1.96 * carried.deviation,
        "high": carried.share + 1.96 * carried.deviation,
        "detectable": reach,
    }
    for name, value in expected.items():
        require(f"{name} of the share carried", getattr(carried, name), value)


def _control(control: ScoreControl, found: ScoreEvidence, dimensions: int) -> None:
    if abs(control.cosine) > 1 + 1e-9:
        raise ReportInvalid(f"control {control.name} states a cosine beyond 1, which cannot be")
    p = log10_pvalue(control.cosine, dimensions, alternative=found.alternative)  # type: ignore[arg-type]
    require(f"log10_p of control {control.name}", control.log10_p, p + 0.0)


def _cost(found: ScoreEvidence, scheme: Direction) -> None:
    """No answer moves by more than the mark allows."""
    if (found.cost is not None) != (scheme.output in ("probabilities", "values")):
        raise ReportInvalid(f"the cost is {'missing' if found.cost is None else 'stated'}, for {scheme.output}")
    if found.cost is None:
        return
    most = scheme.epsilon * max(scheme.scale, default=1.0)
    if not 0 <= found.cost.root_mean_square <= found.cost.largest * (1 + 1e-9) <= most * (1 + 1e-6):
        raise ReportInvalid(
            f"the largest move is stated as {found.cost.largest}, the mark allows {most}; their root mean square as "
            f"{found.cost.root_mean_square}"
        )
    if not 0 <= found.cost.flips <= found.queries:
        raise ReportInvalid(f"{found.cost.flips} changed first classes of {found.queries} answers cannot be")


def _shown(found: ScoreEvidence) -> None:
    most = math.inf if found.cost is None else found.cost.largest + 1e-9
    for shown in found.shown:
        if not 0 <= shown.row < found.queries or not len(shown.clean) == len(shown.marked) == len(shown.suspect):
            raise ReportInvalid(f"the answer shown for row {shown.row} is none of the {found.queries} that were read")
        if any(abs(new - old) > most for new, old in zip(shown.marked, shown.clean, strict=True)):
            raise ReportInvalid(f"the answer shown for row {shown.row} moves by more than the largest move stated")


def _plan(found: ScoreEvidence, plan: dict[str, Any]) -> str:
    """A confirmatory run departs in nothing; any run under a plan is held to its level."""
    status, departures = plan.get("status"), plan.get("mismatches")
    if status not in ("confirmatory", "exploratory") or not isinstance(departures, list):
        raise ReportInvalid("the plan's status is neither confirmatory nor exploratory, or its departures are missing")
    if status == "confirmatory" and departures:
        raise ReportInvalid(f"the run is called confirmatory, and departs from its plan: {departures[0]}")
    require("the plan's level", plan.get("level"), found.alpha)
    return f"the run is {status} under its plan"


def _what_follows(found: ScoreEvidence) -> str:
    if found.stopped:
        return f"log10 p = {found.log10_p:.3f} follows from the e-process after {found.queries:,} answers"
    listed = " and ".join(f"{test.cosine:.4f} in {test.dimensions:,} dimensions" for test in found.tests)
    return f"log10 p = {found.log10_p:.3f} follows from cosine {listed}"
