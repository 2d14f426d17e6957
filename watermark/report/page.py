"""The report as one HTML page: no script, nothing fetched, everything from the suspect escaped.

The page holds its evidence as JSON, so that the page alone is enough to start doubting it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import ExtraMissing
from watermark.evidence import Evidence
from watermark.files import canonical_json, write_whole
from watermark.report import numbers
from watermark.report.figures import figures
from watermark.report.words import LIMITS, SKIPPED_BECAUSE, above, summary

if TYPE_CHECKING:
    from watermark.evidence import ShownDocument, ShownToken

SHOWN_TOKENS = 250
_ALTERNATIVES = {
    "greater": "alternative “greater”: more green tokens than chance",
    "less": "alternative “less”: fewer green tokens than chance",
    "two-sided": "alternative “two-sided”: more or fewer green tokens than chance",
}
_LONGEST_PIECE = 40
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_DATA = re.compile(r'<pre id="evidence-json"[^>]*>(.*?)</pre>', re.DOTALL)


@dataclass(frozen=True)
class Tile:
    """One token of the heat map. kind: "green", "red" or "unscored"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Sheet:
    """The beginning of one answer as a heat map; `left_out` tokens follow that are not shown."""

    id: str
    tiles: list[Tile]
    green: int
    scored: int
    left_out: int


def render(evidence: Evidence, path: str | Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    write_whole(Path(path), page(evidence).encode())


def page(evidence: Evidence) -> str:
    """The page as text; the same evidence gives the same bytes.

    Raises ExtraMissing without jinja2 or matplotlib.
    """
    evidence = _in_one_order(evidence)
    style = _style(evidence)
    template = _environment().get_template("report.html")
    text: str = template.render(
        e=evidence,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        summary=summary(evidence),
        figures=figures(evidence),
        sheets=[sheet(document) for document in evidence.shown],
        results=_results(evidence),
        skipped=[(why, count, SKIPPED_BECAUSE.get(why, "")) for why, count in evidence.skipped.items()],
        mark=_flat(evidence.mark),
        options=_flat(evidence.options),
        limits=LIMITS,
        commands=_commands(evidence),
        created=_dated(evidence.created),
        data=json.dumps(evidence.to_json(), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False),
    )
    return text


def embedded(text: str) -> Any:
    """The evidence JSON that a page holds. Raises ValueError if it holds none."""
    found = _DATA.search(text)
    if found is None:
        raise ValueError("it holds no evidence")
    return json.loads(html.unescape(found[1]))


def sheet(document: ShownDocument) -> Sheet:
    """The heat map of one answer's first tokens."""
    begun = document.tokens[:SHOWN_TOKENS]
    scores = [token.score for token in begun if token.score is not None]
    return Sheet(
        id=document.id,
        tiles=[_tile(token) for token in begun],
        green=sum(scores),
        scored=len(scores),
        left_out=len(document.tokens) - len(begun),
    )


def visible(text: str) -> str:
    """Text with its unseen characters named: a suspect's direction marks must not rearrange the page."""
    return "".join(f"‹U+{ord(c):04X}›" if unicodedata.category(c) in _HIDDEN and c not in "\n\t" else c for c in text)


def _tile(token: ShownToken) -> Tile:
    kind = "unscored" if token.score is None else "green" if token.score else "red"
    piece = token.piece if len(token.piece) <= _LONGEST_PIECE else token.piece[:_LONGEST_PIECE] + "…"
    return Tile(kind, piece.replace("\n", "↵\n") or "∅")


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ExtraMissing("jinja2", "evidence", "writing the report page") from None
    environment = Environment(
        loader=PackageLoader("watermark.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["comma"] = lambda count: f"{count:,}"
    return environment


def _style(evidence: Evidence) -> str:
    """The style sheet; each printed sheet of paper carries the digest of its evidence."""
    foot = f'@page {{ @bottom-left {{ content: "evidence {evidence.digest[:32]}…"; font: 8pt sans-serif; }} }}\n'
    return resources.files("watermark.report").joinpath("report.css").read_text("utf-8") + foot


def _in_one_order(evidence: Evidence) -> Evidence:
    """The evidence with sorted names: fresh from `detect` or read back, it gives the same page."""
    return Evidence.from_json(json.loads(canonical_json(evidence.to_json())))


def _results(evidence: Evidence) -> list[tuple[str, str, str]]:
    """(figure, value, what it means)."""
    places = numbers.decimals(evidence.gamma, evidence.cells)
    decoys = len(evidence.decoys.totals)
    reach = evidence.detectable_rate
    return [
        ("Distinct cells scored, n", f"{evidence.cells:,}", "(window, token) pairs, each counted once"),
        ("Green cells", f"{evidence.green:,}", f"expected by chance: {evidence.cells * evidence.gamma:,.0f}"),
        ("Chance, gamma", numbers.percent(evidence.gamma, places), "share of cells that any key makes green"),
        (
            "Green rate",
            numbers.percent(evidence.green_rate, places),
            f"95 % interval {numbers.span(evidence.green_rate_interval, places)} (Clopper and Pearson)",
        ),
        (
            "z",
            numbers.signed(evidence.z, 2),
            "standard deviations from chance; descriptive, no p-value is taken from it",
        ),
        ("p, exact", numbers.pvalue(evidence.log10_p), f"log₁₀ p = {numbers.signed(evidence.log10_p, 3)}"),
        (
            "Chernoff’s bound on p",
            numbers.pvalue(evidence.log10_chernoff),
            f"log₁₀ = {numbers.signed(evidence.log10_chernoff, 3)}; upper tail, short enough to check by "
            "hand, never below the exact p",
        ),
        (
            "Rank among decoys, p",
            numbers.pvalue_of(evidence.decoys.rank_pvalue),
            f"{above(evidence)}; the least that {decoys:,} decoys can give is {numbers.pvalue_of(1 / (decoys + 1))}",
        ),
        (
            "Level, alpha",
            f"{evidence.alpha:g}",
            _ALTERNATIVES.get(evidence.alternative, evidence.alternative),
        ),
        (
            f"Found with probability {numbers.percent(evidence.power, 0)}",
            "none" if reach is None else numbers.percent(reach, places),
            "the green rate that an upper-tail test of this size and level would have found",
        ),
    ]


def _flat(described: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested description as (dotted name, value) pairs."""
    pairs: list[tuple[str, str]] = []
    for name, value in described.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return pairs


def _commands(evidence: Evidence) -> list[str]:
    """What to type to check the arithmetic; and, where the outputs were a file, to recompute all and to test again."""
    arithmetic = "wmark verify evidence.json"
    if "outputs" not in evidence.inputs:
        return [arithmetic]
    outputs, shared = _named(evidence, "outputs"), ["--mark MARK.wmark"]
    if "ledger" in evidence.inputs:
        shared.append(f"--ledger {_named(evidence, 'ledger')}")
    if evidence.mark.get("tokenizer"):
        shared.append("--tokenizer MODEL_FOLDER")
    files = " ".join(shared)
    return [arithmetic, f"{arithmetic} --outputs {outputs} {files}", f"wmark detect {outputs} {files} {_how(evidence)}"]


def _how(evidence: Evidence) -> str:
    """The options of `wmark detect` that this test was made with."""
    options = evidence.options
    parts = [f"--decoys {len(evidence.decoys.totals)}", f"--alpha {evidence.alpha:g}"]
    parts.append(f"--alternative {evidence.alternative}")
    parts += ["--skip-bad"] if options.get("skip_bad") else []
    parts += [f"--field {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in options.get("fields", {}).items()]
    return " ".join(parts)


def _named(evidence: Evidence, role: str) -> str:
    return shlex.quote(evidence.inputs[role]["name"])


def _dated(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d, %H:%M} {moment.tzname() or ''}".strip()
