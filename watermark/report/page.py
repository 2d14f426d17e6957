"""The report as one HTML page: no script, nothing fetched, everything from the suspect escaped.

The page holds its evidence as JSON, so that the page alone is enough to start doubting it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.attribute import Attribution
from watermark.evidence import Evidence
from watermark.files import write_whole
from watermark.report.admissibility import answers
from watermark.report.attribution_page import attribution_page
from watermark.report.commands import commands, missing
from watermark.report.controlled import controlled
from watermark.report.explanations import explanations
from watermark.report.figures import figures
from watermark.report.planned import banner, dose_words, flat
from watermark.report.results import results, tables
from watermark.report.score_page import score_page
from watermark.report.shell import data_of, dated, environment, hash_of, in_one_order, style_of
from watermark.report.weight import SCALE, WHAT_IT_IS, weighing, weight_of
from watermark.report.weighted import meanings, subject
from watermark.report.words import SKIPPED_BECAUSE, limits, notes, summary
from watermark.scoring.evidence import ScoreEvidence

if TYPE_CHECKING:
    from watermark.evidence import ShownDocument, ShownToken

SHOWN_TOKENS = 250
_LONGEST_PIECE = 40


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


def render(evidence: Evidence | ScoreEvidence | Attribution, path: str | Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    write_whole(Path(path), page(evidence).encode())


def page(evidence: Evidence | ScoreEvidence | Attribution) -> str:
    """The page as text; the same evidence gives the same bytes.

    Raises ExtraMissing without jinja2 or matplotlib.
    """
    if isinstance(evidence, ScoreEvidence):
        return score_page(evidence)
    if isinstance(evidence, Attribution):
        return attribution_page(evidence)
    evidence = in_one_order(evidence)
    style, told = style_of(evidence), summary(evidence)
    template = environment().get_template("report.html")
    text: str = template.render(
        e=evidence,
        style=style,
        style_hash=hash_of(style),
        summary=told,
        figures=figures(evidence),
        sheets=[sheet(document, above=evidence.law.mean if evidence.levels else 0) for document in evidence.shown],
        graded=evidence.levels is not None,
        banner=banner(evidence),
        weighing=weighing(
            weight_of(evidence),
            what=subject(evidence),
            mark="text that carries its mark",
            plan=banner(evidence),
            keys=int(evidence.keys["tested"]) if evidence.keys else 1,
        ),
        key=_key(evidence),
        explanations=explanations(evidence),
        controlled=controlled(evidence, told.power),
        answers=answers(evidence),
        what_it_is=WHAT_IT_IS,
        scale=SCALE,
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


def _key(evidence: Evidence) -> str:
    """The key by its id, and among which others it was tested."""
    kid, keys = str(evidence.mark.get("kid")), evidence.keys
    return kid if keys is None else f"{kid}, the foremost of the {keys['tested']} keys of set {keys['set']}"


def sheet(document: ShownDocument, *, above: float = 0) -> Sheet:
    """The heat map of one answer's first tokens; green are those whose score lies above `above`."""
    begun = document.tokens[:SHOWN_TOKENS]
    scores = [token.score for token in begun if token.score is not None]
    return Sheet(
        id=document.id,
        tiles=[_tile(token, above) for token in begun],
        green=sum(score > above for score in scores),
        scored=len(scores),
        left_out=len(document.tokens) - len(begun),
    )


def _tile(token: ShownToken, above: float) -> Tile:
    kind = "unscored" if token.score is None else "green" if token.score > above else "red"
    piece = token.piece if len(token.piece) <= _LONGEST_PIECE else token.piece[:_LONGEST_PIECE] + "…"
    return Tile(kind, piece.replace("\n", "↵\n") or "∅")
