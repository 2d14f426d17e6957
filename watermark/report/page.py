"""The report as one HTML page: no script, nothing fetched, everything from the suspect escaped.

The page holds its evidence as JSON, so that the page alone is enough to start doubting it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import ExtraMissing
from watermark.evidence import Evidence
from watermark.files import canonical_json, write_whole
from watermark.report.commands import commands, missing
from watermark.report.figures import figures
from watermark.report.planned import banner, dose_words, flat
from watermark.report.results import results, tables
from watermark.report.weighted import meanings
from watermark.report.words import SKIPPED_BECAUSE, limits, notes, summary

if TYPE_CHECKING:
    from watermark.evidence import ShownDocument, ShownToken

SHOWN_TOKENS = 250
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
        banner=banner(evidence),
        results=results(evidence),
        tables=tables(evidence),
        meanings=meanings(evidence),
        dose=dose_words(evidence),
        skipped=[(why, count, SKIPPED_BECAUSE.get(why, "")) for why, count in evidence.skipped.items()],
        mark=flat(evidence.mark),
        options=flat(evidence.options),
        limits=limits(evidence),
        notes=notes(evidence),
        commands=commands(evidence),
        missing=missing(evidence),
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


def _dated(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d, %H:%M} {moment.tzname() or ''}".strip()
