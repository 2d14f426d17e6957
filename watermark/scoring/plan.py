"""ScorePlan: key, basis and query set, fixed before the suspect is asked; a run that picks them afterwards is refused.

JSON, format `wmark-score-plan/1`; it holds the key's commitment, never the key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from watermark import beforehand
from watermark.beforehand import Since
from watermark.errors import PlanMismatch
from watermark.scores.table import Table
from watermark.sealed import Refusal, Sealed, read_sealed
from watermark.stats.laws import Alternative
from watermark.timestamps import moment

if TYPE_CHECKING:
    from watermark.scoring.mark import ScoreWatermark

ALPHA = 0.001  # where neither a plan nor the caller says
SCORE_PLAN = "wmark-score-plan/1"
_REFUSAL = Refusal(
    PlanMismatch,
    "a plan for scores",
    complete="a complete plan",
    unreadable="pass what `wmark scores plan` wrote",
    other="make one with `wmark scores plan`",
    changed="use the plan as it was written, or make a new one before asking anything",
)


@dataclass(frozen=True)
class ScorePlan(Sealed):
    """A test fixed in advance. committed: SHA-256 of the basis, of the `count` distinct inputs that will be asked, of
    the owner's clean answers to them, and of the surrogates' predictions ("" if there are none).

    alpha: of the whole inquiry, over `keys` keys and `suspects` suspects; each test has `level`. logged: whether
    the inputs are logged ones. stopping: "none", or "e-process" that may stop at 1/level, after as many answers as
    `looks` has, which commits to the inputs up to each.
    """

    format: ClassVar[str] = SCORE_PLAN

    mark: dict[str, str]
    committed: dict[str, str]
    count: int
    looks: dict[str, dict[str, str]]
    logged: bool
    alpha: float
    keys: int
    suspects: int
    alternative: str
    stopping: str
    created: str

    @property
    def level(self) -> float:
        """Of each single test: alpha over keys times suspects (Bonferroni)."""
        return self.alpha / (self.keys * self.suspects)

    def content(self) -> dict[str, Any]:
        return super().content() | {"level": self.level}

    def matches(self, stored: dict[str, Any]) -> bool:
        return super().matches(stored) and self.level == stored.get("level")

    def save(self, path: str | Path) -> None:
        """Writes the plan. Raises PlanMismatch if another plan is there: a plan is not replaced."""
        if Path(path).exists():
            raise PlanMismatch(f"{path} is there already; a plan is not written over", hint="choose another --output")
        super().save(path)


@dataclass(frozen=True)
class ScoreDated:
    """A plan, and since when it was there."""

    plan: ScorePlan
    since: Since


@dataclass(frozen=True)
class ScoreHeld:
    """Whether a run kept to its plan: "confirmatory", or "exploratory" with what departed.

    by_dates: those of the departures that dates show, of the plan and of the query log. dates: as `beforehand.told`.
    """

    plan: str
    status: str
    level: float
    mismatches: tuple[str, ...]
    by_dates: tuple[str, ...] = ()
    dates: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        made = {"digest": self.plan, "status": self.status, "level": self.level, "mismatches": list(self.mismatches)}
        return made | self.dates | ({"by_dates": list(self.by_dates)} if self.by_dates else {})


def plan_scores(
    mark: ScoreWatermark,
    inputs: Any,
    clean: Any,
    *,
    surrogates: Any | None = None,
    logged: bool = False,
    alpha: float = 0.001,
    keys: int = 1,
    suspects: int = 1,
    alternative: Alternative = "greater",
    stopping: str = "none",
) -> ScorePlan:
    """The plan of a test: what will be asked, under which key and basis, and how it will be judged.

    inputs, clean, surrogates: as for `read_case`; rows that repeat an input are asked once. Raises PlanMismatch for
    unusable numbers, and what `read_case` raises.
    """
    from watermark.scoring.case import look_points, read_case

    if not 0 < alpha < 1 or keys < 1 or suspects < 1:
        raise PlanMismatch(f"alpha lies between 0 and 1, keys and suspects are at least 1; found {alpha}, {keys}")
    if alternative not in ("greater", "less", "two-sided") or stopping not in ("none", "e-process"):
        raise PlanMismatch(f"unknown alternative or stopping rule: {alternative!r}, {stopping!r}")
    stand_in = clean.numbers(clean.names) if isinstance(clean, Table) else clean
    found = read_case(mark.scheme, mark.basis, inputs, stand_in, clean, surrogates=surrogates)
    looks = look_points(len(found), mark.basis.size) if stopping == "e-process" else []
    return ScorePlan(
        mark={"kid": mark.key.kid, "commitment": mark.key.commitment},
        committed=found.committed,
        count=len(found),
        looks={str(count): found.committed_to(count) for count in looks},
        logged=logged,
        alpha=alpha,
        keys=keys,
        suspects=suspects,
        alternative=alternative,
        stopping=stopping,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read_score_plan(path: str | Path) -> ScorePlan:
    """Reads a plan. Raises PlanMismatch if it is none or was changed."""
    return read_sealed(
        path, SCORE_PLAN, lambda body: ScorePlan(**{k: v for k, v in body.items() if k != "level"}), _REFUSAL
    )


def read_score_dated(
    path: str | Path | ScorePlan | ScoreDated, *, authorities: Sequence[str | Path] = ()
) -> ScoreDated:
    """Reads a plan and the time stamp beside it, as `plan.read_dated` does. Raises PlanMismatch, BundleInvalid."""
    if isinstance(path, ScoreDated):
        return path
    if isinstance(path, ScorePlan):
        return ScoreDated(path, beforehand.since(path.created, None, authorities=authorities))
    found = read_score_plan(path)
    return ScoreDated(found, beforehand.since(found.created, Path(path), authorities=authorities))


def before_asking_scores(
    planned: str | Path | ScorePlan | ScoreDated,
    *,
    output: str | Path,
    mark: ScoreWatermark | None = None,
    stop_at: float | None = None,
    exploratory: bool = False,
    now: datetime | None = None,
) -> dict[str, Any]:
    """What a query log's first line says of the plan that inputs are asked under. See `plan.before_asking`.

    Which inputs were planned is compared by `detect_scores`, which has the mark and the clean answers.
    """
    dated = read_score_dated(planned)
    made, found = dated.plan, list[str]()
    if mark is not None and mark.key.commitment != made.mark["commitment"]:
        found.append("the key: other than planned")
    if (rule := "none" if stop_at is None else "e-process") != made.stopping:
        found.append(f"stopping rule is {rule}, planned {made.stopping}")
    if stop_at is not None and not math.isclose(stop_at, made.level, rel_tol=1e-9):
        found.append(f"level is {stop_at:g}, planned {made.level:g}")
    if moment(dated.since.time) > (now or datetime.now(UTC)):
        found.append(f"the plan is of {dated.since.time}, by {dated.since.by}, which is yet to come")
    said = beforehand.asked(output)
    found += [] if said is None else beforehand.departures(made.digest, dated.since, said)
    _refuse(found, exploratory=exploratory)
    status = "exploratory" if exploratory else "planned"
    return {"digest": made.digest, "status": status, "mismatches": found, "created": made.created}


@dataclass(frozen=True)
class Run:
    """What a plan is compared with: whose key, what was read, and how it is judged. alpha: None if none was asked for.

    committed, count: digests and number of the inputs that were asked.
    """

    commitment: str
    committed: dict[str, str]
    count: int
    alpha: float | None
    alternative: str
    stopped: bool
    logged: bool


def hold(planned: ScorePlan | ScoreDated, run: Run, *, exploratory: bool, answers: Any = None) -> ScoreHeld:
    """Holds a run to its plan. answers: their file, beside which the query log stands, if they were asked here.

    Raises PlanMismatch naming each departure, unless the run is called exploratory.
    """
    dated, said = read_score_dated(planned), beforehand.asked(answers)
    plan = dated.plan
    by_dates = [] if said is None else beforehand.departures(plan.digest, dated.since, said, answered=True)
    departures = [*departures_of(plan, run), *by_dates]
    _refuse(departures, exploratory=exploratory)
    status = "exploratory" if departures or exploratory else "confirmatory"
    dates = beforehand.told(dated.since, said)
    return ScoreHeld(plan.digest, status, plan.level, tuple(departures), tuple(by_dates), dates)


def _refuse(departures: list[str], *, exploratory: bool) -> None:
    if departures and not exploratory:
        raise PlanMismatch(
            f"the run departs from its plan: {'; '.join(departures)}",
            hint="keep to the plan, or pass --exploratory; the report will say so",
        )


def departures_of(plan: ScorePlan, run: Run) -> list[str]:
    """What differs between a plan and a run, in words.

    A run that stopped early is held to the planned inputs up to its look: it may stop at planned looks alone.
    """
    has, wanted = run.committed, plan.committed
    if run.stopped and plan.stopping == "e-process" and has["queries"] != wanted["queries"]:
        wanted = plan.looks.get(str(run.count), wanted)
    pairs = [
        ("the key", run.commitment, plan.mark["commitment"]),
        ("the basis", has["basis"], wanted["basis"]),
        ("the inputs", has["queries"], wanted["queries"]),
        ("the clean answers", has["clean"], wanted["clean"]),
        ("the surrogates' predictions", has["surrogates"], wanted["surrogates"]),
        ("the alternative", run.alternative, plan.alternative),
        ("logged inputs or fresh ones", run.logged, plan.logged),
    ]
    departures = [f"{what}: other than planned" for what, now, then in pairs if now != then]
    if run.alpha is not None and not math.isclose(run.alpha, plan.level):
        departures.append(f"alpha is {run.alpha:g}, planned was {plan.level:g}")
    if run.stopped and plan.stopping == "none":
        departures.append("answers were collected until the e-process was content, planned was no such stop")
    return departures
