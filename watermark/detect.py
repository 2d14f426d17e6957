"""detect(): observe, score, test. The p-value is exact under one sentence: the key knows nothing of the outputs."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from watermark import prf
from watermark.evidence import Decoys, Document, Evidence, ShownDocument, ShownToken, Step, Verdict
from watermark.files import sha256_of
from watermark.keys import decoy_keys
from watermark.ledger import read_ledger
from watermark.observe import Observations, observe, served_windows
from watermark.outputs import Output, Outputs
from watermark.stats.laws import (
    Alternative,
    Law,
    binomial_interval,
    binomial_log10_chernoff,
    detectable_rate,
)
from watermark.stats.rank import rank_pvalue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark
    from watermark.tokenizer import Tokenizer

POWER = 0.9
INCONCLUSIVE_LIFT = 0.05
NULL = (
    "the suspect's outputs are statistically independent of the key with this commitment; then each distinct cell "
    "(window, token) is green with probability gamma, independently of the others"
)
_STEPS = 60
_DOCUMENTS = 48


def detect(
    outputs: str | Path | Iterable[Output],
    mark: Watermark,
    *,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    decoys: int = 999,
    alpha: float = 0.001,
    alternative: Alternative = "greater",
    progress: Callable[[str, int], None] | None = None,
) -> Evidence:
    """Whether the outputs depend on the mark's key.

    outputs: a file or folder (`Outputs` names the formats) or any iterable of Output. tokenizer: needed for text.
    ledger: only windows served in it are scored. decoys: keys drawn for the rank, at least 99. alpha: the level
    chosen before looking. alternative: "two-sided" also finds a suspect who was pushed towards red.
    progress: called with a word and a count. Raises WatermarkError children for unusable input.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, found {alternative!r}")
    if decoys < 99:
        raise ValueError(f"at least 99 decoys are needed, found {decoys}")
    source = Outputs(Path(outputs)) if isinstance(outputs, (str, Path)) else outputs
    say = progress or (lambda word, count: None)
    served = None if ledger is None else served_windows(read_ledger(ledger), mark)
    seen = observe(source, mark, tokenizer=tokenizer, served=served, progress=lambda n: say("answers read", n))
    scores = mark.score(seen.windows, seen.choices)
    totals = _decoy_totals(seen, mark, decoys, say)
    return _evidence(source, ledger, seen, scores, totals, mark, tokenizer, alpha, alternative)


def _decoy_totals(seen: Observations, mark: Watermark, count: int, say: Callable[[str, int], None]) -> list[int]:
    totals = []
    for index, key in enumerate(decoy_keys(bytes.fromhex(seen.digest), count), 1):
        totals.append(int(mark.rekeyed(key).score(seen.windows, seen.choices).sum()))
        if index % 50 == 0 or index == count:
            say("decoys scored", index)
    return totals


def _evidence(
    source: Iterable[Output],
    ledger: str | Path | None,
    seen: Observations,
    scores: NDArray[Any],
    totals: list[int],
    mark: Watermark,
    tokenizer: Tokenizer | None,
    alpha: float,
    alternative: Alternative,
) -> Evidence:
    law = mark.scheme.null
    n, green = len(seen), int(scores.sum())
    log10_p = law.log10_pvalue(green, n, alternative=alternative)
    reach = detectable_rate(n, law.mean, alpha=alpha, power=POWER)
    return Evidence(
        verdict=verdict_of(log10_p, alpha, reach, law.mean),
        alpha=alpha,
        method=_method(alternative, ledger is not None),
        null=NULL,
        alternative=alternative,
        log10_p=log10_p + 0.0,
        cells=n,
        green=green,
        gamma=law.mean,
        green_rate=green / n,
        green_rate_interval=binomial_interval(green, n),
        z=(green - n * law.mean) / math.sqrt(n * law.variance),
        log10_chernoff=binomial_log10_chernoff(green, n, law.mean),
        detectable_rate=reach,
        power=POWER,
        decoys=Decoys(seen.digest, decoy_rank(green, totals, n * law.mean, alternative), totals),
        documents_read=len(seen.names),
        tokens_read=int(seen.tokens.sum()),
        prompts_known=seen.prompts_known,
        bad_records=getattr(source, "skipped", 0),
        skipped=seen.skipped,
        curve=_curve(seen, scores, law, alternative),
        documents=_documents(seen, scores),
        shown=_shown(seen, scores, tokenizer),
        observations=seen.digest,
        mark=mark.profile(),
        inputs=_inputs(source, ledger),
        options=_options(source, alternative, alpha, len(totals), ledger),
        notes=_notes(seen, ledger is not None, tokenizer is not None),
        software=_software(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def decoy_rank(green: int, totals: list[int], expected: float, alternative: str) -> float:
    """The decoy rank in the test's direction; two-sided ranks the distance from the expected total."""
    if alternative == "less":
        return rank_pvalue(-green, -np.asarray(totals))
    if alternative == "two-sided":
        return rank_pvalue(abs(green - expected), np.abs(np.asarray(totals) - expected))
    return rank_pvalue(green, totals)


def verdict_of(log10_p: float, alpha: float, reach: float | None, gamma: float) -> Verdict:
    """The one rule: evidence at p <= alpha; else inconclusive if even gamma + 0.05 could have been missed."""
    if log10_p <= math.log10(alpha):
        return "evidence found"
    if reach is None or reach > gamma + INCONCLUSIVE_LIFT:
        return "inconclusive"
    return "no evidence found"


def _method(alternative: Alternative, filtered: bool) -> str:
    tail = {"greater": "upper", "less": "lower", "two-sided": "twice the smaller"}[alternative]
    windows = ", over the windows served in the ledger" if filtered else ""
    return (
        f"exact binomial test, {tail} tail, one vote for each distinct cell{windows}; rank among decoy keys beside it"
    )


def _curve(seen: Observations, scores: NDArray[Any], law: Law, alternative: Alternative) -> list[Step]:
    """The evidence along the reading order, at about sixty points."""
    cells = np.bincount(seen.documents, minlength=len(seen.names)).cumsum()
    green = np.bincount(seen.documents, weights=scores, minlength=len(seen.names)).cumsum()
    tokens = seen.tokens.cumsum()
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


def _documents(seen: Observations, scores: NDArray[Any]) -> list[Document]:
    """Up to 48 answers, evenly spaced in reading order, whatever they show."""
    count = len(seen.names)
    cells = np.bincount(seen.documents, minlength=count)
    green = np.bincount(seen.documents, weights=scores, minlength=count).astype(int)
    chosen = np.unique(np.linspace(0, count - 1, min(_DOCUMENTS, count)).astype(int))
    return [Document(seen.names[i], int(seen.tokens[i]), int(cells[i]), int(green[i])) for i in chosen]


def _shown(seen: Observations, scores: NDArray[Any], tokenizer: Tokenizer | None) -> list[ShownDocument]:
    shown = []
    for sample in seen.samples:
        ids = [int(i) for i in sample.token_ids]
        pieces = tokenizer.pieces(ids) if tokenizer else [str(i) for i in ids]
        marks = [None if cell < 0 else int(scores[cell]) for cell in sample.cells]
        shown.append(ShownDocument(sample.id, [ShownToken(p, m) for p, m in zip(pieces, marks, strict=True)]))
    return shown


def _inputs(source: Iterable[Output], ledger: str | Path | None) -> dict[str, dict[str, Any]]:
    """Name, size and SHA-256 of each file; names alone, for a path says where an analyst keeps things."""
    paths = {"outputs": getattr(source, "path", None), "ledger": ledger}
    return {role: _file(Path(path)) for role, path in paths.items() if path is not None}


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


def _notes(seen: Observations, filtered: bool, readable: bool) -> list[str]:
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
    if filtered:
        notes.append("Windows were chosen by the ledger: by windows alone, never by window and token.")
    if seen.tokens.sum() > 4 * len(seen):
        notes.append("Under a quarter of the tokens became distinct cells: the outputs repeat themselves a great deal.")
    return notes


def _software() -> dict[str, str]:
    found = {"python": platform.python_version(), "prf": prf.RECIPE, "prf backend": prf.backend()}
    for name in ("wmark", "numpy", "scipy", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
