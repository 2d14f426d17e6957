"""plan(): before the first question, how much to ask, and what will be done with the answers; then held to it.

A plan fixes everything that could be chosen after looking. `detect(plan=...)` refuses a run that differs from it, or
that was asked before it, or calls the run exploratory. JSON, format `wmark-plan/1`; it holds the key's commitment,
never the key.

How much to ask comes from slopes measured on students (`estimate`). Your own control student tells more: `slope`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from watermark import beforehand
from watermark.beforehand import Since
from watermark.errors import PlanMismatch
from watermark.estimate import Estimate, Slope, estimates, own_slope, slopes_for, statistics_of
from watermark.files import sha256_of
from watermark.observe.text import VOTES
from watermark.prompts import Prompt, read_prompts
from watermark.sealed import Refusal, Sealed, read_sealed
from watermark.stats.laws import Alternative
from watermark.stats.power import Test
from watermark.timestamps import moment
from watermark.tokenizer import model_path

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.observe import Observations
    from watermark.outputs import Output

FORMAT = "wmark-plan/1"
Access = Literal["text", "samples", "log-probabilities", "logits"]
Stop = Literal["none", "e-process"]
BESIDE = "text and reference"
_REFUSAL = Refusal(
    PlanMismatch,
    "a plan",
    complete="a complete plan",
    unreadable="pass what `wmark plan` wrote",
    other="make one with `wmark plan`",
    changed="use the plan as it was written, or make a new one before asking anything",
)


@dataclass(frozen=True)
class Probes:
    """The prompts to be asked: their file, and SHA-256 of the text of each, sorted, each once.

    samples: answers to each; tokens_per_answer: that they will hold at least, on average.
    """

    name: str
    sha256: str
    count: int
    samples: int
    tokens_per_answer: int
    prompts: list[str]

    @property
    def answers(self) -> int:
        return self.count * self.samples

    @property
    def tokens(self) -> int:
        return self.answers * self.tokens_per_answer


@dataclass(frozen=True)
class Plan(Sealed):
    """A test fixed in advance. mark: kid and commitment of the key. access: what will be read, by detect's names.

    reference, clean: name and SHA-256 (None where no file is here), or None. ledger: only windows served are scored.
    alpha: of the whole inquiry, over `keys` keys and `suspects` suspects; each test has `level`. stop_at: "none"
    asks all probes and tests once; "e-process" may stop when it reaches 1/level. share, power: aimed at.
    tokens: least number that keeps to the plan. estimates: one for each measured setting, the most cautious first.
    """

    format: ClassVar[str] = FORMAT
    readable: ClassVar[bool] = False

    mark: dict[str, str]
    access: str
    statistics: list[str]
    reference: dict[str, str | None] | None
    probes: Probes
    ledger: bool
    clean: dict[str, str | None] | None
    alpha: float
    keys: int
    suspects: int
    alternative: str
    decoys: int
    stop_at: str
    share: float
    power: float
    tokens: int
    estimates: list[Estimate]
    created: str

    @property
    def level(self) -> float:
        """Of each single test: alpha over the number of keys times suspects (Bonferroni)."""
        return self.alpha / (self.keys * self.suspects)

    def content(self) -> dict[str, Any]:
        return super().content() | {"level": self.level}

    def matches(self, stored: dict[str, Any]) -> bool:
        return super().matches(stored) and self.level == stored.get("level")

    def save(self, path: str | Path) -> None:
        """Writes the plan as one JSON file. Raises PlanMismatch if another plan is there: a plan is not replaced."""
        path = Path(path)
        if path.exists():
            raise PlanMismatch(f"{path} is there already; a plan is not written over", hint="choose another --output")
        super().save(path)

    def stamp(self, mismatches: list[str], *, exploratory: bool) -> dict[str, Any]:
        """What the evidence says of the plan. Raises PlanMismatch naming every mismatch, unless exploratory."""
        self.refuse(mismatches, exploratory=exploratory, run="the run is not the one planned")
        return self.entry("exploratory" if exploratory else "confirmatory", mismatches) | {
            "alpha": self.alpha,
            "keys": self.keys,
            "suspects": self.suspects,
            "level": self.level,
            "stop_at": self.stop_at,
            "share": self.share,
            "power": self.power,
            "tokens": self.tokens,
        }

    def entry(self, status: str, mismatches: list[str]) -> dict[str, Any]:
        """What evidence and query logs alike say of the plan they stand under."""
        return {"digest": self.digest, "status": status, "mismatches": mismatches, "created": self.created}

    def refuse(self, mismatches: list[str], *, exploratory: bool, run: str) -> None:
        """Raises PlanMismatch naming every mismatch, unless exploratory."""
        if mismatches and not exploratory:
            raise PlanMismatch(
                f"{run} ({self.digest[:16]}…): " + "; ".join(mismatches),
                hint="run as planned, or say that it is exploratory with --exploratory; the evidence will say so",
            )


@dataclass(frozen=True)
class Dated:
    """A plan, and since when it was there."""

    plan: Plan
    since: Since


def plan(
    mark: Watermark,
    *,
    access: Access,
    prompts: str | Path | None = None,
    reference: str | None = None,
    share: float = 0.05,
    power: float = 0.9,
    alpha: float = 0.001,
    tokens_per_answer: int = 100,
    samples: int = 1,
    keys: int = 1,
    suspects: int = 1,
    alternative: Alternative = "greater",
    decoys: int = 999,
    stop_at: Stop = "none",
    ledger: bool = False,
    clean: str | Path | None = None,
    slope: float | None = None,
    slope_se: float = 0.0,
    exponent: float = 1.0,
) -> Plan:
    """The plan of a test, and what it can find.

    access: what will be read of the suspect. prompts: file of the probes, all of which are asked, `samples` times;
    by default those that `wmark probe` asks.
    reference: the model that will be subtracted, a folder or a name. share, power: to be found, and how surely.
    alpha: over all keys and suspects. slope: z per √(1,000 tokens) at share 1 of your own control student (with its
    standard error, and the exponent of the share), instead of the measured ones. Raises ValueError for options that
    make no test, OutputsInvalid for unreadable prompts.
    """
    _check_options(access, alternative, stop_at, alpha, share, power, decoys)
    if min(tokens_per_answer, samples, keys, suspects) < 1:
        raise ValueError("tokens_per_answer, samples, keys and suspects are whole numbers from 1")
    read = BESIDE if access == "text" and reference else access
    statistics = statistics_of(access, reference=reference is not None)
    probes = _probes(default_prompts(reference) if prompts is None else Path(prompts), samples, tokens_per_answer)
    measured = slopes_for(mark, access, reference=reference is not None)
    if slope is not None:
        measured = [own_slope(mark, access, reference is not None, statistics, slope, slope_se, exponent)]
    test: Test = "exact" if read == "text" and stop_at == "none" else "evalue"
    promised = (
        []
        if alternative == "less" and slope is None
        else estimates(
            measured,
            probes.tokens,
            share=share,
            power=power,
            level=alpha / (keys * suspects),
            test=test,
            two_sided=alternative == "two-sided",
            statistics=len(statistics),
        )
    )
    needed = promised[0].tokens if promised else None
    return Plan(
        mark={"kid": mark.key.kid, "commitment": mark.key.commitment},
        access=read,
        statistics=list(statistics),
        reference=None if reference is None else model_named(reference),
        probes=probes,
        ledger=ledger,
        clean=None if clean is None else {"name": Path(clean).name, "sha256": sha256_of(Path(clean))},
        alpha=alpha,
        keys=keys,
        suspects=suspects,
        alternative=alternative,
        decoys=decoys,
        stop_at=stop_at,
        share=share,
        power=power,
        tokens=min(probes.tokens, needed or probes.tokens),
        estimates=promised,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read_plan(path: str | Path | Plan | Dated) -> Plan:
    """Reads a plan. Raises PlanMismatch if it is malformed or was changed after it was written."""
    if isinstance(path, Dated):
        return path.plan
    return path if isinstance(path, Plan) else read_sealed(path, FORMAT, _built, _REFUSAL)


def read_dated(path: str | Path | Plan | Dated, *, authorities: Sequence[str | Path] = ()) -> Dated:
    """Reads a plan and the time stamp beside it. authorities: certificates of those whose stamp counts.

    Raises as `read_plan` and `beforehand.since` do.
    """
    if isinstance(path, Dated):
        return path
    found, place = read_plan(path), None if isinstance(path, Plan) else Path(path)
    return Dated(found, beforehand.since(found.created, place, authorities=authorities))


def before_asking(
    planned: str | Path | Plan | Dated,
    *,
    prompts: Sequence[Prompt],
    output: str | Path,
    samples: int = 1,
    logprobs: bool = False,
    mark: Watermark | None = None,
    stop_at: float | None = None,
    exploratory: bool = False,
    now: datetime | None = None,
) -> dict[str, Any]:
    """What the first line of a query log says of the plan that questions are asked under: its digest, its departures.

    The options are `wmark probe`'s. mark, stop_at: those of an e-process that may end the run. output: where answers
    go; an earlier call's log beside it must have begun under this plan. now: by default the clock's. Raises
    PlanMismatch naming every mismatch, unless exploratory.
    """
    dated = read_dated(planned)
    made = dated.plan
    rule = "none" if stop_at is None else "e-process"
    pairs: list[tuple[str, Any, Any]] = [
        ("answers to each prompt", samples, made.probes.samples),
        ("stopping rule", rule, made.stop_at),
    ]
    if mark is not None:
        pairs.append(("key", mark.key.commitment[:16], made.mark["commitment"][:16]))
    if stop_at is not None and not math.isclose(stop_at, made.level, rel_tol=1e-9):
        pairs.append(("level", f"{stop_at:g}", f"{made.level:g}"))
    if made.access == "log-probabilities" and not logprobs:
        pairs.append(("access", "text, without log-probabilities", made.access))
    found = _differing(pairs)
    texts, probes = {text_digest(prompt.text) for prompt in prompts}, set(made.probes.prompts)
    for count, what in (
        (len(texts - probes), "of the prompts are not among the planned probes"),
        (len(probes - texts), "of the planned probes are not among the prompts"),
    ):
        found += [f"{count:,} {what}"] if count else []
    if moment(dated.since.time) > (now or datetime.now(UTC)):
        found.append(f"the plan is of {dated.since.time}, by {dated.since.by}, which is yet to come")
    said = beforehand.asked(output)
    if said is not None:
        found += beforehand.departures(made.digest, dated.since, said)
    made.refuse(found, exploratory=exploratory, run="the questions are not those planned")
    return made.entry("exploratory" if exploratory else "planned", found)


def _built(body: dict[str, Any]) -> Plan:
    fields = {name: value for name, value in body.items() if name != "level"}
    promised = [Estimate(**e | {"slope": Slope(**e["slope"])}) for e in fields["estimates"]]
    return Plan(**fields | {"probes": Probes(**fields["probes"]), "estimates": promised})


def check(
    planned: Plan,
    *,
    mark: Watermark,
    access: str,
    reference: Any,
    alpha: float,
    alternative: str,
    decoys: int,
    stopped: bool,
    ledger: bool,
    clean: Any,
    prompts: Iterable[str | None],
    statistics: Iterable[str] | None = None,
    tokens: int | None = None,
) -> list[str]:
    """In what a run differs from its plan, in words; an empty list if in nothing.

    The options are detect's. prompts: of every answer, None where unknown. statistics, tokens: once they are read.
    Order and format of the probes' file make no difference. Dates are `beforehand.departures`' business.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("key", mark.key.commitment[:16], planned.mark["commitment"][:16]),
        ("access", access, planned.access),
        ("alternative", alternative, planned.alternative),
        ("decoys", decoys, planned.decoys),
        ("stopping rule", "e-process" if stopped else "none", planned.stop_at),
        ("ledger as a filter", ledger, planned.ledger),
    ]
    if statistics is not None:
        pairs.append(("statistics", ", ".join(statistics), ", ".join(planned.statistics)))
    found = _differing(pairs)
    found += _other_file("reference", None if reference is None else model_named(reference), planned.reference)
    found += _other_file("clean text", _file(clean), planned.clean)
    if not math.isclose(alpha, planned.level, rel_tol=1e-9):
        split = f" ({planned.alpha:g} over {planned.keys} keys and {planned.suspects} suspects)"
        found.append(f"alpha is {alpha:g}, planned {planned.level:g}{split if planned.level != planned.alpha else ''}")
    found += _other_prompts(planned, list(prompts))
    if tokens is not None and planned.stop_at == "none" and tokens < planned.tokens:
        found.append(f"{tokens:,} tokens were read, planned at least {planned.tokens:,}")
    return found


def _differing(pairs: Iterable[tuple[str, Any, Any]]) -> list[str]:
    """Those of (what, as it is, as it was planned) that differ, in words."""
    return [f"{name} is {ran}, planned {wanted}" for name, ran, wanted in pairs if ran != wanted]


@dataclass(frozen=True)
class Held:
    """A run held to its plan. options: detect's, as `check` names them."""

    plan: Dated
    exploratory: bool
    source: Iterable[Output]
    options: dict[str, Any]

    def stamp(self, seen: Observations | None = None) -> dict[str, Any]:
        """What the evidence says of the plan; asked once before anything is read, and again with what was read.

        Raises PlanMismatch, so that a run that differs is refused before its p-value is known.
        """
        read: dict[str, Any] = {}
        if seen is not None:
            weighted = tuple(name for name in seen.weights if name != VOTES)
            read = {"statistics": weighted or (VOTES,), "tokens": int(seen.tokens.sum())}
        prompts, planned = [output.prompt for output in self.source], self.plan.plan
        mismatches = check(planned, prompts=prompts, **self.options, **read)
        said = beforehand.asked(self.source)
        if said is None and self.options["access"] == "logits":
            said = beforehand.put_now()
        mismatches += beforehand.departures(planned.digest, self.plan.since, said, answered=True)
        stamp = planned.stamp(mismatches, exploratory=self.exploratory)
        return stamp | beforehand.told(self.plan.since, said)


def model_named(source: Any) -> dict[str, str | None]:
    """A model's name without the path where it lies, and SHA-256 of its folder if it is here."""
    told = str(getattr(source, "source", source))
    path = model_path(told)
    return {"name": Path(told).name, "sha256": sha256_of(path) if path.exists() else None}


def text_digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _check_options(
    access: str, alternative: str, stop_at: str, alpha: float, share: float, power: float, decoys: int
) -> None:
    named: tuple[tuple[str, str, Any], ...] = (
        ("access", access, Access),
        ("alternative", alternative, Alternative),
        ("stop_at", stop_at, Stop),
    )
    for name, value, allowed in named:
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, found {value!r}")
    for name, number in (("alpha", alpha), ("power", power)):
        if not 0 < number < 1:
            raise ValueError(f"{name} must lie between 0 and 1, found {number}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie above 0 and be at most 1, found {share}")
    if decoys < 99:
        raise ValueError(f"at least 99 decoys are needed, found {decoys}")


def _probes(path: Path, samples: int, tokens_per_answer: int) -> Probes:
    prompts = read_prompts(path)
    texts = sorted({text_digest(prompt.text) for prompt in prompts})
    return Probes(path.name, sha256_of(path), len(prompts), samples, tokens_per_answer, texts)


def default_prompts(reference: str | None) -> Path:
    """The file of the prompts that ship with the package: stories for the demo's model, which knows nothing else."""
    here = Path(__file__).parent
    return here / ("demo/prompts/probe.jsonl" if reference == "demo" else "probe/prompts/default.jsonl")


def _other_prompts(planned: Plan, prompts: list[str | None]) -> list[str]:
    """How the prompts that were answered differ from the plan's probes."""
    found, probes = [], set(planned.probes.prompts)
    asked = {text_digest(prompt) for prompt in prompts if prompt is not None}
    unknown, other, missing = prompts.count(None), len(asked - probes), len(probes - asked)
    if unknown:
        found.append(f"{unknown:,} answers came without their prompt, so that nobody can see if it was planned")
    if other:
        found.append(f"{other:,} of the prompts that were answered are not among the planned probes")
    if missing and planned.stop_at == "none":
        found.append(f"{missing:,} of the planned probes have no answer")
    if planned.stop_at == "none" and len(prompts) > planned.probes.answers:
        found.append(f"there are {len(prompts):,} answers, planned {planned.probes.answers:,}")
    return found


def _file(path: Any) -> dict[str, str | None] | None:
    """Name and SHA-256 of a file; of other sources only that they were there."""
    if path is None:
        return None
    if isinstance(path, (str, Path)):
        return {"name": Path(path).name, "sha256": sha256_of(Path(path))}
    return {"name": type(path).__name__, "sha256": None}


def _other_file(role: str, ran: dict[str, str | None] | None, wanted: dict[str, str | None] | None) -> list[str]:
    """Files and models are the same if their contents are; their names count where a content is not known."""
    if ran is not None and wanted is not None:
        by = "sha256" if ran["sha256"] and wanted["sha256"] else "name"
        if ran[by] == wanted[by]:
            return []
    return [] if ran == wanted else [f"{role} is {_told(ran)}, planned {_told(wanted)}"]


def _told(file: dict[str, str | None] | None) -> str:
    if file is None:
        return "none"
    return f"{file['name']} ({file['sha256'][:16]}…)" if file["sha256"] else str(file["name"])
