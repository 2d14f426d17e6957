"""detect(): observe, score, test. The p-value is exact under one sentence: the key knows nothing of the outputs."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from watermark import prf
from watermark.access import Found, Request, read
from watermark.assess import Tally, anytime, control, directed_rank, tallied, totals_of, votes_anytime, weighted
from watermark.calibrate import Calibrated, read_calibration
from watermark.errors import KeyUnusable
from watermark.evidence import Anytime, Decoys, Document, Evidence, ShownDocument, ShownToken, Step, Verdict, Weighted
from watermark.files import sha256_of
from watermark.inforce import InForce, method_over, note_on
from watermark.keyring.keyset import KeySet
from watermark.keys import decoy_keys
from watermark.ledger import described, read_ledger
from watermark.ledger.filters import is_filter
from watermark.observe import (
    Observations,
    counted_records,
    counted_windows,
    observe,
    save_cells,
    served_in,
)
from watermark.observe.restored import RECIPE as READINGS
from watermark.outputs import Output, Outputs
from watermark.plan import Dated, Held, Plan, read_dated, read_plan
from watermark.probe.log import was_watched
from watermark.stats.laws import (
    Alternative,
    Law,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.embed.answers import Model
    from watermark.mark import Watermark
    from watermark.scale import Scale
    from watermark.scale.streamed import Streamed
    from watermark.tokenizer import Tokenizer

    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]

POWER = 0.9
INCONCLUSIVE_LIFT = 0.05
GRADED_LIFT = 0.1  # the same of graded scores, in standard deviations of one
NULL = (
    "the suspect's outputs are statistically independent of the key with this commitment; then each distinct cell "
    "(window, token) is green with probability gamma, independently of the others"
)
GRADED_NULL = (
    "the suspect's outputs are statistically independent of the key with this commitment; then the score of each "
    "distinct cell (window, token) has the law that `levels` states, independently of the others"
)
_STEPS = 60
_DOCUMENTS = 48


def detect(
    outputs: str | Path | Iterable[Output] | None,
    mark: Watermark | KeySet | InForce,
    *,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    suspect: str | Path | Model | None = None,
    reference: str | Path | Model | None = None,
    controls: Mapping[str, str | Path | Model] | None = None,
    logprobs: bool = False,
    samples: bool = False,
    clean: str | Path | Iterable[Output] | None = None,
    cells: str | Path | None = None,
    decoys: int = 999,
    alpha: float = 0.001,
    alternative: Alternative = "greater",
    stopped: bool = False,
    plan: str | Path | Plan | Dated | None = None,
    exploratory: bool = False,
    calibration: str | Path | Calibrated | None = None,
    ambient: str | Path | Evidence | None = None,
    scale: Scale | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Evidence:
    """Whether a suspect depends on the mark's key, from its answers or from the model itself.

    outputs: a file or folder (`Outputs` names the formats) or any iterable of Output. mark: or a set of keys; then all
    of them are tested and the p-value is corrected for their number, unless `plan` names one of them.
    tokenizer: the mark's, needed
    for text. ledger: only windows served in it are scored; a file, a database, or a filter of its windows.
    What is read: the text alone; with `suspect`, an open
    model's log-probabilities over these texts; with `logprobs`, those that came with the answers; with `samples`,
    many answers to each prompt. reference: a model to subtract, best the one that the suspect grew from, read over
    the same texts. controls: name -> model, put through the same code (with `suspect`). clean: text whose windows
    say which are frequent; by default the ledger's, else those of the texts read. cells: writes what was read here, so
    that `verify` can recompute it. decoys: keys drawn for the rank, at least 99. alpha: the level chosen before
    looking. alternative: "two-sided" also finds a suspect who was pushed towards red. stopped: the answers were
    collected until the e-process was content (so it is if their query log says that they were watched); then it
    alone decides, for the others assume that nobody looked.
    plan: made before the first question; a run that differs from it raises PlanMismatch, or is called `exploratory`
    in the evidence. calibration: of control students, for a dose; ambient: evidence of a model exposed as the public
    is, whose dose stands beside. scale: text is read in blocks into a work folder, in bounded memory, by many workers
    or machines; the evidence is the same to the bit. Only then may `outputs` be None (all blocks were read before) or
    an address such as s3://…. progress: called with a word and a count. Raises WatermarkError children for
    unusable input.
    """
    _check_options(alpha, alternative, decoys)
    if (exploratory and plan is None) or (ambient is not None and calibration is None):
        raise ValueError("exploratory departs from a plan, ambient stands beside a dose: pass plan or calibration too")
    access = _access(suspect is not None, logprobs, samples, reference is not None, bool(controls))
    if scale is not None:
        _check_scale(outputs, access, cells, plan)
    elif outputs is None:
        raise ValueError("pass the suspect's outputs; only a work folder (scale) may hold them already")
    source: Any = outputs
    if isinstance(outputs, (str, Path)) and (scale is None or "://" not in str(outputs)):
        source = Outputs(Path(outputs))
    source = source if isinstance(source, Outputs) or plan is None else list(source)
    say = progress or (lambda word, count: None)
    path = _path(source)
    stopped = stopped or (path is not None and was_watched(path))
    mark, whole = _keys(mark, plan, {"ledger": ledger, "calibration": calibration})
    held = None
    if plan is not None:
        held = Held(
            read_dated(plan),
            exploratory,
            source,
            {
                "mark": mark,
                "access": access,
                "reference": reference,
                "alpha": alpha,
                "alternative": alternative,
                "decoys": decoys,
                "stopped": stopped,
                "ledger": ledger is not None,
                "clean": clean,
            },
        )
        held.stamp()
    calibrated = None if calibration is None else read_calibration(calibration)
    check_key = getattr(mark.scheme, "check_key", None)
    if check_key is not None:
        check_key(mark.key)
    beside: dict[str, str | Path | None] = {"ledger": ledger, "cells": cells, "clean": _path(clean)}
    options = _options(source, alternative, alpha, decoys, ledger)
    with ExitStack() as stack:
        if scale is None:
            served = None if ledger is None else served_in(ledger, mark)
            if access == "text":
                found = Found(
                    observe(source, mark, tokenizer=tokenizer, served=served, progress=partial(say, "answers read"))
                )
            else:
                request = Request(source, mark, tokenizer, served, _often(ledger, clean, mark, tokenizer))
                found = read(request, access, suspect=suspect, reference=reference, controls=controls or {}, say=say)
            if cells is not None:
                save_cells(found.in_memory, cells)
            inputs, bad = _inputs(beside | {"outputs": path}), getattr(source, "skipped", 0)
        else:
            from watermark.scale import gathered

            given = gathered(source, mark, scale=scale, tokenizer=tokenizer, ledger=ledger, progress=say)
            apart = stack.enter_context(given)
            found, bad = Found(apart.seen, null=apart.decoys), apart.seen.bad
            inputs = {"outputs": apart.corpus.outputs} | _inputs(beside)
            options |= {"skip_bad": apart.run.bench.job.skip_bad, "fields": dict(apart.run.bench.job.fields)}
            stopped = stopped or apart.corpus.watched
        stamp = None if held is None else held.stamp(found.seen)  # type: ignore[arg-type]
        over = None
        if whole is not None:
            mark, found, over = whole.tested(
                found, access=access, alpha=alpha, alternative=alternative, stopped=stopped
            )
        evidence = judge(
            found,
            mark,
            access=access,
            reference=_named(reference),
            tokenizer=tokenizer,
            alpha=alpha,
            alternative=alternative,
            decoys=decoys,
            inputs=inputs,
            options=options | {"stopped": stopped},
            bad_records=bad,
            say=say,
        )
    if over is not None:
        evidence = _over_keys(evidence, over, mark.scheme.null)
    dose = None if calibrated is None else calibrated.dose(evidence, ambient=_loaded(ambient))
    return replace(evidence, plan=stamp, dose=dose)


def judge(
    found: Found,
    mark: Watermark,
    *,
    access: str,
    reference: str | None,
    tokenizer: Tokenizer | None,
    alpha: float,
    alternative: Alternative,
    decoys: int,
    inputs: dict[str, dict[str, Any]],
    options: dict[str, Any],
    bad_records: int = 0,
    say: Callable[[str, int], None] = lambda word, count: None,
) -> Evidence:
    """Evidence from observations that were made already: score, test, rank."""
    seen, law = found.seen, mark.scheme.null
    tally = tallied(seen, mark)
    null = _decoy_totals(seen, mark, decoys, say) if found.null is None else found.null(decoys, say)
    deep = None
    if access != "text":
        deep = weighted(
            found.in_memory,
            totals_of(seen, mark, [mark.key])[0, 1:],
            null[:, 1:],
            gamma=law,
            access=access,
            reference=reference,
            alternative=alternative,
        )
    n, green, most = int(tally.cells.sum()), int(tally.green.sum()), law.highest
    counted = law.log10_pvalue(green, n, alternative=alternative) + 0.0
    running = None
    if access == "text":
        running = votes_anytime(seen.tokens, tally, alpha=alpha, law=law, alternative=alternative)
    elif found.stages is not None:
        running = anytime(found.stages, mark, alpha=alpha, gamma=law, alternative=alternative)
    log10_p = headline(counted, deep, running, stopped=options["stopped"])
    reach = reach_of(law, n, alpha)
    return Evidence(
        verdict=verdict_of(log10_p, alpha, reach, law),
        alpha=alpha,
        method=_method(access, reference, alternative, options["ledger"], stopped=options["stopped"], graded=most > 1),
        null=null_of(law),
        alternative=alternative,
        log10_p=log10_p,
        cells=n,
        green=green,
        gamma=law.mean / most,
        green_rate=green / (n * most),
        green_rate_interval=interval_of(law, green, n),
        z=(green - n * law.mean) / math.sqrt(n * law.variance),
        log10_chernoff=law.log10_chernoff(green, n),
        detectable_rate=reach,
        power=POWER,
        access=access,
        weighted=deep,
        anytime=running,
        controls=[control(name, o, mark, gamma=law, alternative=alternative) for name, o in found.controls.items()],
        dose=None,
        plan=None,
        decoys=Decoys(
            seen.digest, directed_rank(green, null[:, 0], n * law.mean, alternative), [int(t) for t in null[:, 0]]
        ),
        documents_read=len(seen.names),
        tokens_read=int(seen.tokens.sum()),
        prompts_known=seen.prompts_known,
        bad_records=bad_records,
        skipped=seen.skipped,
        curve=_curve(seen, tally, law, alternative),
        documents=_documents(seen, tally),
        shown=_shown(seen, tally.first, tokenizer),
        observations=seen.digest,
        mark=mark.profile(),
        inputs=inputs,
        options=options,
        notes=_notes(seen, access, options["ledger"], tokenizer is not None, mark.accounts is not None)
        + list(getattr(mark.scheme, "remarks", ()))
        + ([_expected(mark)] if access == "text" and log10_p > math.log10(alpha) else []),
        software=_software(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        levels=levels_of(law),
    )


def _keys(
    mark: Watermark | KeySet | InForce, plan: str | Path | Plan | Dated | None, single: dict[str, Any]
) -> tuple[Watermark, InForce | None]:
    """The mark to read with, and all keys of a set unless the plan named one. single: what goes with one key alone."""
    if not isinstance(mark, (KeySet, InForce)):
        return mark, None
    whole = mark if isinstance(mark, InForce) else InForce.of(mark)
    if plan is not None:
        return whole.planned(read_plan(plan)), None
    for name, value in single.items():
        if value is not None:
            raise KeyUnusable(
                f"a {name} goes with one key, and all {len(whole.marks)} of set {whole.name} would be tested",
                hint="name one of them in a plan before anything is asked, or leave it out",
            )
    return whole.marks[0], whole


def _over_keys(evidence: Evidence, over: dict[str, Any], law: Law) -> Evidence:
    """The evidence of the foremost key as that of all keys: one p-value, corrected, and the list of them."""
    shared = replace(evidence, keys=over, log10_p=over["log10_p"])
    reach = reach_of(law, evidence.cells, shared.level)
    return replace(
        shared,
        verdict=verdict_of(shared.log10_p, evidence.alpha, reach, law),
        method=method_over(over, evidence.method),
        detectable_rate=reach,
        notes=[*evidence.notes, note_on(over)],
    )


def levels_of(law: Law) -> list[float] | None:
    """The chances of graded scores, None of bits."""
    chances = getattr(law, "chances", None)
    return None if chances is None else list(chances)


def null_of(law: Law) -> str:
    """The null hypothesis in words."""
    return NULL if law.highest == 1 else GRADED_NULL


def interval_of(law: Law, total: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the mean score, as a share of the highest."""
    low, high = law.interval(total, n)
    return low / law.highest, high / law.highest


def reach_of(law: Law, n: int, alpha: float) -> float | None:
    """The smallest mean score that is found with probability `POWER`, as a share of the highest; None if none is."""
    found = law.detectable(n, alpha=alpha, power=POWER)
    return None if found is None else found / law.highest


def lift_of(law: Law) -> float:
    """How far above chance a mean score, as a share of the highest, may be missed before a test says too little."""
    return INCONCLUSIVE_LIFT if law.highest == 1 else GRADED_LIFT * math.sqrt(law.variance) / law.highest


def _check_options(alpha: float, alternative: str, decoys: int) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, found {alternative!r}")
    if decoys < 99:
        raise ValueError(f"at least 99 decoys are needed, found {decoys}")


def _check_scale(outputs: Any, access: str, cells: Any, plan: Any) -> None:
    """Raises ValueError for what does not go with a work folder."""
    if access != "text":
        raise ValueError(f"a work folder holds what is read from text; {access} is read in memory")
    if cells is not None:
        raise ValueError("cells are written of what is read in memory; a work folder holds its own")
    if outputs is not None and not isinstance(outputs, (str, Path, Outputs)):
        raise ValueError("a work folder is made from a file, a folder or an address: pass that as the outputs")
    if plan is not None and (outputs is None or "://" in str(outputs)):
        raise ValueError("a plan is held against the prompts of the outputs: pass the file or folder that holds them")


def _access(suspect: bool, logprobs: bool, samples: bool, reference: bool, controls: bool) -> str:
    """The name of what is read. Raises ValueError for a mixture that makes no sense."""
    if suspect + logprobs + samples > 1:
        raise ValueError("choose one of suspect, logprobs and samples: they are different ways to read a suspect")
    if controls and not suspect:
        raise ValueError("controls are models read beside an open suspect; pass suspect too")
    if suspect:
        return "logits"
    if logprobs:
        return "log-probabilities"
    if samples:
        return "samples"
    return "text and reference" if reference else "text"


def _decoy_totals(
    seen: Observations | Streamed, mark: Watermark, count: int, say: Callable[[str, int], None]
) -> NDArray[np.int64]:
    """Totals of votes and weighted statistics under decoys, (m, 1 + S)."""
    keys = decoy_keys(bytes.fromhex(seen.digest), count)
    parts: list[NDArray[np.int64]] = []
    while some := list(islice(keys, mark.keys_at_once(len(seen)))):
        parts.append(totals_of(seen, mark, some))
        say("decoys scored", sum(map(len, parts)))
    return np.concatenate(parts)


def _often(
    ledger: str | Path | None,
    clean: str | Path | Iterable[Output] | None,
    mark: Watermark,
    tokenizer: Tokenizer | None,
) -> Counts | None:
    """How often each window occurs in clean text, or else in the ledger; None without either, or of a filter alone."""
    if clean is not None:
        texts = Outputs(Path(clean)) if isinstance(clean, (str, Path)) else clean
        return counted_windows(texts, mark, tokenizer)
    return None if ledger is None or is_filter(ledger) else counted_records(read_ledger(ledger), mark)


def _loaded(evidence: str | Path | Evidence | None) -> Evidence | None:
    return evidence if isinstance(evidence, Evidence) or evidence is None else Evidence.load(evidence)


def _named(model: str | Path | Model | None) -> str | None:
    """A model's own name, without the path that says where an analyst keeps it."""
    if model is None:
        return None
    return Path(getattr(model, "source", str(model))).name


def verdict_of(log10_p: float, alpha: float, reach: float | None, law: Law) -> Verdict:
    """The one rule: evidence at p <= alpha; else inconclusive if even gamma + 0.05 could have been missed.

    Of graded scores: if a mean score a tenth of a standard deviation above chance could have been.
    """
    if log10_p <= math.log10(alpha):
        return "evidence found"
    if reach is None or reach > law.mean / law.highest + lift_of(law):
        return "inconclusive"
    return "no evidence found"


def headline(counted: float, deep: Weighted | None, running: Anytime | None, *, stopped: bool) -> float:
    """log10 p of the test that decides: the e-process where answers were collected until it was content, else the
    mean e-value where weights were read, else the exact count of votes."""
    if stopped and running is not None:
        return min(0.0, -running.log10_e) + 0.0
    return counted if deep is None else deep.log10_p


def _method(
    access: str, reference: str | None, alternative: Alternative, filtered: bool, *, stopped: bool, graded: bool
) -> str:
    windows = ", over the windows served in the ledger" if filtered else ""
    if stopped:
        return (
            f"e-process over new cells, read from {access}{windows}, alternative {alternative}; p = 1/E when it stopped"
        )
    if access == "text":
        tail = {"greater": "upper", "less": "lower", "two-sided": "twice the smaller"}[alternative]
        test = "exact test of the total score" if graded else "exact binomial test"
        return f"{test}, {tail} tail, one vote for each distinct cell{windows}; rank among decoy keys beside it"
    against, summed = f" against the reference {reference}" if reference else "", "scores" if graded else "green cells"
    return (
        f"mean of e-values over weighted sums of {summed}, read from {access}{against}{windows}, alternative "
        f"{alternative}; p = 1/E by Markov's inequality; exact tails, Chernoff bounds and rank among decoy keys "
        "beside it"
    )


def _curve(seen: Observations | Streamed, tally: Tally, law: Law, alternative: Alternative) -> list[Step]:
    """The votes along the reading order, at about sixty points."""
    cells, green, tokens = tally.cells.cumsum(), tally.green.cumsum(), seen.tokens.cumsum()
    stops = np.unique(np.linspace(1, len(seen.names), min(_STEPS, len(seen.names))).astype(int)) - 1
    return [
        Step(
            documents=int(stop) + 1,
            tokens=int(tokens[stop]),
            cells=int(cells[stop]),
            green=int(green[stop]),
            log10_p=law.log10_pvalue(int(green[stop]), int(cells[stop]), alternative=alternative) + 0.0,
        )
        for stop in stops
    ]


def _documents(seen: Observations | Streamed, tally: Tally) -> list[Document]:
    """Up to 48 answers, evenly spaced in reading order, whatever they show."""
    count = len(seen.names)
    chosen = np.unique(np.linspace(0, count - 1, min(_DOCUMENTS, count)).astype(int)).tolist()
    return [Document(seen.names[i], int(seen.tokens[i]), int(tally.cells[i]), int(tally.green[i])) for i in chosen]


def _shown(seen: Observations | Streamed, scores: NDArray[Any], tokenizer: Tokenizer | None) -> list[ShownDocument]:
    shown = []
    for sample in seen.samples:
        ids = [int(i) for i in sample.token_ids]
        pieces = tokenizer.pieces(ids) if tokenizer else [str(i) for i in ids]
        marks = [None if cell < 0 else int(scores[cell]) for cell in sample.cells]
        shown.append(ShownDocument(sample.id, [ShownToken(p, m) for p, m in zip(pieces, marks, strict=True)]))
    return shown


def _inputs(paths: dict[str, str | Path | None]) -> dict[str, dict[str, Any]]:
    """Name, size and SHA-256 of each file; names alone, for a path says where an analyst keeps things."""
    given = {role: path for role, path in paths.items() if path is not None}
    return {role: described(path) if role == "ledger" else _file(Path(path)) for role, path in given.items()}


def _path(source: str | Path | Iterable[Output] | None) -> Path | None:
    """Where a source lies, if it is a file."""
    return Path(source) if isinstance(source, (str, Path)) else getattr(source, "path", None)


def _file(path: Path) -> dict[str, Any]:
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    return {"name": path.name, "bytes": size, "sha256": sha256_of(path)}


def _options(
    source: Iterable[Output], alternative: Alternative, alpha: float, decoys: int, ledger: str | Path | None
) -> dict[str, Any]:
    """What `verify` must repeat, by the names of `detect`'s arguments."""
    return {
        "alternative": alternative,
        "alpha": alpha,
        "decoys": decoys,
        "ledger": ledger is not None,
        "skip_bad": bool(getattr(source, "skip_bad", False)),
        "fields": dict(getattr(source, "fields", {})),
    }


def _notes(seen: Observations | Streamed, access: str, filtered: bool, readable: bool, shared: bool) -> list[str]:
    notes = [
        "The p-value holds if the key was fixed before the outputs existed and had no part in choosing the prompts; "
        "the commitment's date is what shows it."
    ]
    unknown = len(seen.names) - seen.prompts_known
    if unknown:
        notes.append(
            f"{unknown} of {len(seen.names)} answers came without their prompt: text copied from a marked prompt or "
            "from retrieved marked documents could not be left out there."
        )
    if seen.prompts_known and not readable:
        notes.append("No tokenizer was given: windows were compared with the prompts by token ids, not as text too.")
    if shared:
        notes.append("Windows go to this key or another by a keyed bit that is independent of the green bits.")
    if filtered:
        notes.append("Windows were chosen by the ledger: by windows alone, never by window and token.")
    if access == "logits":
        notes.append(
            "The texts were put before the model. A window that stood earlier in the same text, or in its prompt, was "
            "left out, so that copying from the text raises no alarm; exactness is proved for texts without our mark."
        )
    if seen.restored:
        notes.append(
            f"{seen.restored} of {len(seen.names)} texts were also or only read with changes undone (escapes, line "
            "ends, quotation marks, wrapping, case): by the text alone, the same for every suspect, each cell once."
        )
    if seen.templated:
        notes.append(
            f"{seen.templated} of {len(seen.names)} texts came inside a chat's template: the assistant's turns were "
            "read, the other turns were taken as their prompts."
        )
    if access == "text" and seen.tokens.sum() > 4 * len(seen):
        notes.append("Under a quarter of the tokens became distinct cells: the outputs repeat themselves a great deal.")
    return notes


def settings(mark: Watermark) -> str:
    """What text is read as, in words: recipe, window, gamma, tokenizer and width. The commonest reason why text that
    carries a mark shows none is that one of them is another (text-generation-inference, issue 2474)."""
    scheme, bound = mark.scheme, mark.binding
    recipe = getattr(scheme, "recipe", f"{scheme.name} version {scheme.version}")
    vocabulary = f"tokenizer {bound.digest[:12]}…, {bound.logits_width} logits" if bound else "no tokenizer bound"
    return f"{recipe}, window {scheme.window}, gamma {scheme.null.mean:.4g}, {vocabulary}"


def _expected(mark: Watermark) -> str:
    return (
        f"The text was read as {settings(mark)}. If it is known to carry the mark and shows none, one of these is not "
        "what it was served under: hold the engine's own configuration to the published profile with `wmark profile "
        "import … --against PROFILE`, which names each difference."
    )


def _software() -> dict[str, str]:
    found = {"python": platform.python_version(), "prf": prf.RECIPE, "prf backend": prf.backend(), "readings": READINGS}
    for name in ("wmark", "numpy", "scipy", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
