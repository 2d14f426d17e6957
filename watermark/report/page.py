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
from typing import TYPE_CHECKING, Any, TypeVar

from watermark.errors import ExtraMissing
from watermark.evidence import Evidence
from watermark.files import canonical_json, write_whole
from watermark.report.commands import commands, missing
from watermark.report.figures import figures
from watermark.report.planned import banner, dose_words, flat
from watermark.report.results import results, tables
from watermark.report.weighted import meanings
from watermark.report.words import SKIPPED_BECAUSE, limits, notes, summary
from watermark.scoring.evidence import ScoreEvidence

if TYPE_CHECKING:
    from watermark.evidence import ShownDocument, ShownToken
    from watermark.sealed import Sealed

E = TypeVar("E", Evidence, ScoreEvidence)

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


def render(evidence: Evidence | ScoreEvidence, path: str | Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    write_whole(Path(path), page(evidence).encode())


def page(evidence: Evidence | ScoreEvidence) -> str:
    """The page as text; the same evidence gives the same bytes.

    Raises ExtraMissing without jinja2 or matplotlib.
    """
    if isinstance(evidence, ScoreEvidence):
        from watermark.report.score_page import score_page

        return score_page(evidence)
    evidence = in_one_order(evidence)
    style = style_of(evidence)
    template = environment().get_template("report.html")
    text: str = template.render(
        e=evidence,
        style=style,
        style_hash=hash_of(style),
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
        created=dated(evidence.created),
        data=data_of(evidence),
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


def environment() -> Any:
    """The templates: everything escaped, unseen characters named. Raises ExtraMissing without jinja2."""
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


def style_of(evidence: Sealed) -> str:
    """The style sheet; each printed sheet of paper carries the digest of its evidence."""
    foot = f'@page {{ @bottom-left {{ content: "evidence {evidence.digest[:32]}…"; font: 8pt sans-serif; }} }}\n'
    return resources.files("watermark.report").joinpath("report.css").read_text("utf-8") + foot


def hash_of(style: str) -> str:
    """What the page's policy allows: this style sheet, by its SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def data_of(evidence: Sealed) -> str:
    """The evidence as the JSON that the page holds."""
    return json.dumps(evidence.to_json(), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)


def in_one_order(evidence: E) -> E:
    """The evidence with sorted names: fresh from `detect` or read back, it gives the same page."""
    return type(evidence).from_json(json.loads(canonical_json(evidence.to_json())))


def dated(created: str) -> str:
    """A time in words, or as it stands if it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d, %H:%M} {moment.tzname() or ''}".strip()
