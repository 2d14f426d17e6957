"""detect_scores(): does a suspect carry our direction? Exact under one sentence: the key knows nothing of the suspect.

The key is the only thing that is random. Given everything that was read, the direction u is uniform on the sphere, so
the cosine of any key-free coefficients with u has its exact law (`stats.sphere`), whatever the suspect is, however its
answers depend on each other, at any number of queries.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark.errors import EmbeddingRefused, OutputsInvalid, SuspectUnusable, TooFewObservations
from watermark.evidence import Verdict
from watermark.files import sha256_of
from watermark.keys import Key, decoy_keys
from watermark.scores.direction import cosine
from watermark.scoring.case import Case, look_points, read_case
from watermark.scoring.evidence import Carried, Cost, KeyTest, Look, ScoreControl, ScoreEvidence, Shown
from watermark.scoring.plan import ALPHA, Run, ScoreDated, ScoreHeld, ScorePlan, hold
from watermark.scoring.residual import Residual, channels_of, key_free
from watermark.stats.laws import Alternative
from watermark.stats.rank import rank_pvalue
from watermark.stats.sphere import DirectionProcess, log10_evalue, log10_pvalue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scoring.mark import ScoreWatermark

SCORE_POWER = 0.9
SCORE_NULL = (
    "the suspect's answers are statistically independent of the key with this commitment; then, given everything that "
    "was read, the key's direction is uniform on the sphere"
)
LABELS_CARRY_NOTHING = (
    "labels of a mark that never changes the argmax are the labels of the unmarked model: a student trained on them "
    "alone has seen nothing of the key"
)
INCONCLUSIVE_SHARE = 0.5  # a test that would have missed a suspect carrying half of the mark says nothing
_SLOPES = 199  # decoy keys for the deviation of the share carried
_INPUT_DECOYS, _INPUT_NUMBERS = 99, 4_000_000  # at least so many decoys for single inputs, about so many hashes
_SHOWN = 12


def detect_scores(
    mark: ScoreWatermark,
    inputs: Any,
    answers: Any,
    clean: Any,
    *,
    surrogates: Any | None = None,
    controls: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
    truth: Any | None = None,
    served: Literal["scores", "labels"] = "scores",
    logged: bool = False,
    alpha: float | None = None,
    alternative: Alternative = "greater",
    decoys: int = 999,
    stopped: bool = False,
    plan: ScorePlan | ScoreDated | None = None,
    exploratory: bool = False,
    files: Mapping[str, str | Path] | None = None,
    case: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScoreEvidence:
    """Tests a suspect's answers to `inputs` against a mark of scores.

    inputs, answers, clean, surrogates, controls, labels: see `read_case`. truth: true classes or values, for the cost
    alone. served: "scores", or "labels" if nobody was ever shown more. logged: the inputs are ones that the key's
    account was served, so that the part of the mark that belongs to single inputs is tested too (Bonferroni over
    both). alpha: 0.001, or what the plan says. stopped: answers were collected until the e-process was content; it
    alone decides then. plan: fixed before; a run that departs from it is refused unless `exploratory`. files: what
    was read, for the evidence. case: where to write what was read, for a stranger. Raises EmbeddingRefused where the
    labels served carried no mark, and all that `read_case` and `residual` raise.
    """
    _check(alpha, decoys)
    if served == "labels":
        refuse_labels_alone(mark)
    say = progress or (lambda text: None)
    say("reading the answers")
    found = read_case(
        mark.scheme, mark.basis, inputs, answers, clean, surrogates=surrogates, controls=controls, labels=labels
    )
    return detect_case(
        mark,
        found,
        logged=logged,
        alpha=alpha,
        alternative=alternative,
        decoys=decoys,
        stopped=stopped,
        plan=plan,
        exploratory=exploratory,
        truth=truth,
        files=files,
        case=case,
        progress=say,
    )


def detect_case(
    mark: ScoreWatermark,
    found: Case,
    *,
    logged: bool = False,
    alpha: float | None = None,
    alternative: Alternative = "greater",
    decoys: int = 999,
    stopped: bool = False,
    plan: ScorePlan | ScoreDated | None = None,
    exploratory: bool = False,
    truth: Any | None = None,
    files: Mapping[str, str | Path] | None = None,
    case: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> ScoreEvidence:
    """As `detect_scores`, of a case that was read before; truth: of all rows that were given to `read_case`."""
    _check(alpha, decoys)
    mark.check_basis(found.basis)
    if logged and not mark.scheme.own:
        logged = False  # the mark has no part for single inputs: fresh and logged inputs are tested alike
    say = progress or (lambda text: None)
    run = Run(mark.key.commitment, found.committed, len(found), alpha, alternative, stopped, logged)
    held = None if plan is None else hold(plan, run, exploratory=exploratory, answers=(files or {}).get("answers"))
    alpha = held.level if held is not None else alpha or ALPHA
    say("testing the key's direction")
    seed = found.digest
    tests = [direction_test(mark, found, seed, decoys, alternative)]
    if logged:
        few = max(_INPUT_DECOYS, _INPUT_NUMBERS // len(found))
        tests.append(input_test(mark, found, seed, min(decoys, few), alternative))
    say("looking batch by batch")
    looks = looks_at(mark, found, alternative, stopped=stopped)
    log10_p = together(tests, looks, stopped=stopped)
    say("measuring the share carried")
    carried = share_carried(mark, found, seed, level_of_each(alpha, len(tests), alternative))
    reached = next((look.answers for look in looks if look.log10_e >= -math.log10(alpha)), None)
    if case is not None:
        found.save(case)
    return ScoreEvidence(
        verdict=verdict_of_scores(log10_p, alpha, carried),
        alpha=alpha,
        method=method_of(found, tests, alternative, stopped=stopped),
        null=SCORE_NULL,
        alternative=alternative,
        log10_p=log10_p,
        tests=tests,
        access="labels" if found.shows == "labels" else mark.scheme.output,
        queries=len(found),
        duplicates=found.duplicates,
        unanswered=found.unanswered,
        surrogates=0 if found.surrogates is None else found.surrogates.shape[1],
        explained=found.residual.explained,
        carried=carried,
        looks=looks,
        reached_at=reached,
        stopped=stopped,
        controls=[control_of(name, answers, mark, found, alternative) for name, answers in found.controls.items()],
        cost=cost_of(mark, found, truth),
        shown=_shown(mark, found),
        plan=None if held is None else held.to_json(),
        seed=seed,
        committed=found.committed,
        mark=mark.profile(),
        inputs={name: _named(path) for name, path in (files or {}).items()},
        options={"logged": logged, "decoys": decoys},
        notes=[*found.notes, *_notes(found, log10_p, logged=logged, planned=held)],
        software=_software(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def direction_test(mark: ScoreWatermark, found: Case, seed: str, decoys: int, alternative: Alternative) -> KeyTest:
    """The cosine of what was read with the key's direction on the basis, and with decoys'."""
    read = found.residual.coefficients
    null = np.array([mark.scheme.score(read, key, part=mark.part) for key in decoy_keys(bytes.fromhex(seed), decoys)])
    return key_test(mark.part, mark.score(read), mark.dimensions, null, alternative)


def input_test(mark: ScoreWatermark, found: Case, seed: str, decoys: int, alternative: Alternative) -> KeyTest:
    """The cosine of the residual itself, row by row, with the key's numbers of these very inputs.

    Under the null those numbers are independent standard normals for distinct inputs: uniform on a sphere of one
    dimension for each free channel of each input.
    """
    rest = centred_rows(found.residual.rest, mark.scheme.zero_sum)

    def at(key: Key) -> float:
        return cosine(rest, mark.scheme.numbers(key, found.coordinates))

    null = np.array([at(key) for key in decoy_keys(bytes.fromhex(seed), decoys)])
    free = rest.shape[1] - mark.scheme.zero_sum
    return key_test("input", at(mark.key), len(rest) * free, null, alternative)


def centred_rows(rest: NDArray[np.float64], zero_sum: bool) -> NDArray[np.float64]:
    return rest - rest.mean(axis=1, keepdims=True) if zero_sum else rest


def key_test(
    part: str, observed: float, dimensions: int, null: NDArray[np.float64], alternative: Alternative
) -> KeyTest:
    """One test from its cosine and the decoys'."""
    return KeyTest(
        part=part,
        cosine=observed,
        dimensions=dimensions,
        log10_p=log10_pvalue(observed, dimensions, alternative=alternative) + 0.0,
        log10_e=float(log10_evalue(observed, dimensions, alternative=alternative)) + 0.0,
        rank_pvalue=rank_pvalue(directed(observed, alternative), directed(null, alternative)),
        decoys=[float(c) for c in null],
    )


def directed(values: Any, alternative: Alternative) -> Any:
    """Cosines so that greater is more extreme."""
    if alternative == "less":
        return -values
    return np.abs(values) if alternative == "two-sided" else values


def together(tests: list[KeyTest], looks: list[Look], *, stopped: bool) -> float:
    """log10 p of all tests: Bonferroni, or of the e-process alone after early stopping."""
    if stopped:
        return min(0.0, -(looks[-1].log10_e if looks else 0.0)) + 0.0
    return min(0.0, min(test.log10_p for test in tests) + math.log10(len(tests))) + 0.0


def _early(found: Case, count: int) -> Residual | None:
    """What the first answers hold; None where they are too few to be read, or hold nothing to test yet."""
    try:
        return found.residual_of(found.suspect, count)
    except (TooFewObservations, SuspectUnusable):
        return None


def level_of_each(alpha: float, tests: int, alternative: Alternative) -> float:
    """The one-sided level that one of so many tests is held to."""
    return alpha / tests / (2 if alternative == "two-sided" else 1)


def looks_at(mark: ScoreWatermark, found: Case, alternative: Alternative, *, stopped: bool) -> list[Look]:
    """The evidence after a growing number of answers, and the e-process over them.

    At each look all answers so far are read anew; the process bets on what is new in them. Where answers were
    collected until the process was content (`stopped`), it bets at its fixed points alone: how many answers there
    are in the end may then depend on the key.
    """
    fixed = set(look_points(2 * len(found), mark.basis.size)[:-1])
    process = DirectionProcess(mark.dimensions, alternative=alternative)
    direction = mark.scheme.matrix(mark.key, mark.basis.size, part=mark.part)
    frame = zero_sum_frame(mark.scheme.width) if mark.scheme.zero_sum else np.eye(mark.scheme.width)
    looks = []
    for count in look_points(len(found), mark.basis.size):
        read = found.residual if count == len(found) else _early(found, count)
        if read is None:
            continue
        evidence = process.log10_e
        if count in fixed or not stopped:
            evidence = process.update((read.coefficients @ frame).ravel(), (direction @ frame).ravel())
        p = log10_pvalue(mark.score(read.coefficients), mark.dimensions, alternative=alternative)
        looks.append(Look(count, p + 0.0, evidence + 0.0))
    return looks


def zero_sum_frame(width: int) -> NDArray[np.float64]:
    """(width, width - 1): an orthonormal frame of the vectors that sum to zero."""
    steps = np.eye(width)[:, :-1] - 1 / width
    return np.asarray(np.linalg.qr(steps)[0])


def share_carried(mark: ScoreWatermark, found: Case, seed: str, level: float) -> Carried | None:
    """Slope of the suspect's residual on our own mark, its deviation by decoy keys; None for labels and embeddings.

    Both have lost the same key-free part. Marks are made as they would be served, so 1 is a suspect that answers as
    we do; of an account's mark, the account's part alone. Decoys are laid on what is left when our own mark is gone
    too, since they overlap with it by chance. level: one-sided, of one test.
    """
    if found.shows == "labels" or mark.scheme.output in ("labels", "embeddings"):
        return None
    scheme = mark.scheme
    clean, rest = channels_of(found.clean, scheme), found.residual.rest
    owners = None if found.surrogates is None else channels_of(found.surrogates, scheme)
    frames = [
        np.linalg.qr(key_free(clean[:, c], None if owners is None else owners[:, :, c]))[0]
        for c in range(clean.shape[1])
    ]

    def left(marks: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = channels_of(scheme.moved(found.clean, marks), scheme) - clean
        return np.column_stack([moved[:, c] - q @ (q.T @ moved[:, c]) for c, q in enumerate(frames)])

    def slope(of: NDArray[np.float64], on: NDArray[np.float64]) -> float:
        size = float((on * on).sum())
        return float((on * of).sum() / size) if size > 0 else 0.0

    def alone(key: Key) -> NDArray[np.float64]:
        strength = math.sqrt((scheme.account if mark.part == "account" else 1.0) / mark.basis.size)
        return np.asarray(found.features @ scheme.matrix(key, mark.basis.size, part=mark.part) * strength)

    own = left(mark.marks(found.inputs) if mark.part == "deployment" else alone(mark.key))
    share = slope(rest, own)
    beyond = rest - share * own
    null = [slope(beyond, left(alone(key))) for key in decoy_keys(bytes.fromhex(seed)[::-1], _SLOPES)]
    deviation = float(np.std(null))
    from scipy.special import ndtri

    reach = deviation * float(ndtri(SCORE_POWER) - ndtri(level))
    return Carried(share, share - 1.96 * deviation, share + 1.96 * deviation, deviation, reach)


def verdict_of_scores(log10_p: float, alpha: float, carried: Carried | None) -> Verdict:
    """Evidence at p <= alpha; else inconclusive where half of the mark could have been missed, or nothing is known."""
    if log10_p <= math.log10(alpha):
        return "evidence found"
    if carried is None or carried.detectable > INCONCLUSIVE_SHARE:
        return "inconclusive"
    return "no evidence found"


def control_of(
    name: str, answers: NDArray[np.float64], mark: ScoreWatermark, found: Case, alternative: Alternative
) -> ScoreControl:
    observed = mark.score(found.residual_of(answers).coefficients)
    return ScoreControl(name, observed, log10_pvalue(observed, mark.dimensions, alternative=alternative) + 0.0)


def cost_of(mark: ScoreWatermark, found: Case, truth: Any | None) -> Cost | None:
    """What serving these inputs under the mark costs; None for embeddings and labels."""
    if mark.scheme.output not in ("probabilities", "values"):
        return None
    from watermark.scoring.costs import cost

    known = None if truth is None else np.asarray(truth)
    if known is not None and (found.rows is None or known.shape != (found.given,)):
        raise OutputsInvalid(f"{len(known)} true answers for {found.given} inputs; there should be one for each")
    return cost(found.clean, mark.tilt(found.clean, found.inputs), None if known is None else known[found.rows])


def refuse_labels_alone(mark: ScoreWatermark) -> None:
    """Raises EmbeddingRefused: a deployment that shows labels alone carries the mark only with keyed dither."""
    if mark.scheme.output != "labels":
        raise EmbeddingRefused(
            LABELS_CARRY_NOTHING,
            hint="serve scores, or make a mark with `--output labels`: the key then decides answers near a coin toss",
        )


def method_of(found: Case, tests: list[KeyTest], alternative: Alternative, *, stopped: bool) -> str:
    taken = f"the clean answer (degree 5) and {0 if found.surrogates is None else found.surrogates.shape[1]} surrogates"
    if found.scheme.output == "embeddings":
        taken = taken.replace("the clean answer (degree 5)", "all that is linear in the clean embedding")
    if found.shows == "labels":
        taken = taken.replace("the clean answer (degree 5)", "the labels' isotonic expectation given the clean answer")
    if stopped:
        return f"e-process over growing batches, residual after {taken}, alternative {alternative}; p = 1/E"
    corrected = "" if len(tests) == 1 else f", Bonferroni over {len(tests)} tests"
    law = "exact law of the cosine with a uniform direction"
    return f"{law}, residual after {taken}, alternative {alternative}{corrected}"


def _check(alpha: float | None, decoys: int) -> None:
    if alpha is not None and not 0 < alpha < 1:
        raise OutputsInvalid(f"alpha must lie between 0 and 1, found {alpha!r}")
    if decoys < 99:
        raise OutputsInvalid(f"decoys must be at least 99, found {decoys}")


def _shown(mark: ScoreWatermark, found: Case) -> list[Shown]:
    if mark.scheme.output in ("embeddings", "labels"):
        return []
    rows = np.unique(np.linspace(0, len(found) - 1, _SHOWN).astype(int))
    marked = mark.tilt(found.clean[rows], found.inputs.rows(rows))
    return [
        Shown(int(row), *([float(v) for v in part[:10]] for part in (found.clean[row], new, found.suspect[row])))
        for row, new in zip(rows, marked, strict=True)
    ]


def _notes(found: Case, log10_p: float, *, logged: bool, planned: ScoreHeld | None) -> list[str]:
    notes = []
    if planned is not None and planned.dates.get("first_question") is None:
        notes.append(
            "no query log stands beside the answers: that the plan is older than the first question is its maker's "
            "word, and a bundle refuses to call such a run confirmatory"
        )
    if planned is None:
        notes.append(
            "no plan was fixed before the suspect was asked: the p-value holds if key, basis and inputs were chosen "
            "without looking at the suspect's answers"
        )
    if logged:
        notes.append(
            "the inputs are logged ones: valid if the account chose them without regard to the marked part of its "
            "answers; where it may have, test fresh inputs"
        )
    if log10_p < -12:
        notes.append("below 10^-12 other explanations, such as a leaked key, are likelier than chance")
    if found.shows == "labels":
        notes.append("a suspect that learned from labels alone carries nothing of a mark that keeps the argmax")
    return notes


def _named(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("wmark", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found
