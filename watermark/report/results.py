"""The tables of the page: the test that decides, each weighted statistic, and one vote for each cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watermark.report import numbers, weighted
from watermark.report.terms import places_of, terms
from watermark.report.words import above

if TYPE_CHECKING:
    from watermark.evidence import Evidence

Row = tuple[str, str, str]
_ALTERNATIVES = {
    "greater": "alternative “greater”: {more} than chance",
    "less": "alternative “less”: {less} than chance",
    "two-sided": "alternative “two-sided”: {more} or {less} than chance",
}


@dataclass(frozen=True)
class Table:
    """One table with its caption. note: what it means for the verdict."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def results(evidence: Evidence) -> list[Row]:
    """(figure, value, what it means) of the test that decides."""
    if weighted.decided_by(evidence) == "votes":
        return [*votes(evidence), *_over_keys(evidence), *_process(evidence), *_level(evidence)]
    return [*_together(evidence), *_over_keys(evidence), *_process(evidence), *_level(evidence)]


def tables(evidence: Evidence) -> list[Table]:
    """What stands beside it: the statistics, and one vote for each cell where that is not the test itself."""
    made = [statistics(evidence)] if evidence.weighted is not None else []
    if weighted.decided_by(evidence) != "votes":
        made.append(
            Table(
                "One vote for each cell, for comparison",
                "Descriptive: the count that published tests make, on the same reading. It does not decide here.",
                ("Figure", "Value", "Meaning"),
                [tuple(row) for row in votes(evidence)],
            )
        )
    return made


def statistics(evidence: Evidence) -> Table:
    """Every weighted statistic with its three answers: tail or bound, e-value, rank."""
    deep = evidence.weighted
    assert deep is not None
    reference = f"Reference: {deep.reference}." if deep.reference else "No reference was subtracted."
    rows: list[tuple[str, ...]] = [
        (
            s.name,
            numbers.signed(s.z, 2),
            numbers.pvalue(s.log10_p),
            s.tail,
            numbers.pvalue(s.log10_chernoff),
            numbers.evalue(s.log10_e),
            numbers.pvalue_of(s.rank_pvalue),
            f"{s.cells:,}",
            f"{s.effective_cells:,.0f}",
        )
        for s in deep.statistics
    ]
    return Table(
        "Each statistic by itself",
        f"{reference} Which statistics there are follows from what was read, not from what they show; the test "
        "averages their e-values. A statistic’s own p holds for whoever had chosen that one alone. Effective cells: "
        "as many cells of equal weight would vary as steadily.",
        (
            "Statistic",
            "z",
            "p",
            "p is",
            "Chernoff’s bound",
            "e-value",
            "decoy rank, p",
            "cells",
            "effective cells",
        ),
        rows,
    )


def _over_keys(evidence: Evidence) -> list[Row]:
    """Where every key of a set was tested: the p-value of all together, which the verdict goes by."""
    if evidence.keys is None:
        return []
    told = f"{evidence.keys['correction']}; log₁₀ p = {numbers.signed(evidence.log10_p, 3)}; the verdict goes by it"
    return [(f"p over all {evidence.keys['tested']} keys", numbers.pvalue(evidence.log10_p), told)]


def votes(evidence: Evidence) -> list[Row]:
    """The one-vote count and what follows from it."""
    places, named, law = places_of(evidence), terms(evidence), evidence.law
    decoys = len(evidence.decoys.totals)
    counted = evidence.curve[-1].log10_p
    return [
        ("Distinct cells scored, n", f"{evidence.cells:,}", "(window, token) pairs, each counted once"),
        (named.total, f"{evidence.green:,}", f"expected by chance: {evidence.cells * law.mean:,.0f}"),
        _chance(evidence, places),
        (
            named.rate.capitalize(),
            numbers.percent(evidence.green_rate, places),
            f"95 % interval {numbers.span(evidence.green_rate_interval, places)} ({named.interval})",
        ),
        (
            "z",
            numbers.signed(evidence.z, 2),
            "standard deviations from chance; descriptive, no p-value is taken from it",
        ),
        ("p, exact", numbers.pvalue(counted), f"log₁₀ p = {numbers.signed(counted, 3)}"),
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
    ]


def _chance(evidence: Evidence, places: int) -> Row:
    value = numbers.percent(evidence.gamma, places)
    if evidence.levels is None:
        return ("Chance, gamma", value, "share of cells that any key makes green")
    return ("Chance", value, f"mean score under any other key, of the highest, {evidence.law.highest}")


def _together(evidence: Evidence) -> list[Row]:
    """The mean e-value, if weights were read."""
    deep, decoys = evidence.weighted, len(evidence.decoys.totals)
    if deep is None:
        return []
    return [
        (
            "Mean e-value, E",
            numbers.evalue(deep.log10_e),
            f"mean of the {len(deep.statistics)} e-values below; log₁₀ E = {numbers.signed(deep.log10_e, 3)}",
        ),
        (
            "p = 1/E",
            numbers.pvalue(deep.log10_p),
            f"Markov’s inequality: never below the true p; log₁₀ p = {numbers.signed(deep.log10_p, 3)}",
        ),
        (
            "Rank of E among decoys, p",
            numbers.pvalue_of(deep.rank_pvalue),
            f"{weighted.beaten(deep.rank_pvalue, decoys)}; the least that {decoys:,} decoys can give is "
            f"{numbers.pvalue_of(1 / (decoys + 1))}",
        ),
    ]


def _process(evidence: Evidence) -> list[Row]:
    running = evidence.anytime
    if running is None:
        return []
    bar = numbers.evalue(-math.log10(evidence.alpha))
    when = f"never passed 1/alpha = {bar}"
    if running.reached_at is not None:
        when = f"passed 1/alpha = {bar} after {running.reached_at:,} tokens"
    decides = "; the test that decides" if weighted.decided_by(evidence) == "e-process" else ""
    return [
        (
            "E-process, E at the end",
            numbers.evalue(running.log10_e),
            f"{when}; it alone may be looked at after every stage, and stopped at will{decides}",
        )
    ]


def _level(evidence: Evidence) -> list[Row]:
    named = terms(evidence)
    side = _ALTERNATIVES.get(evidence.alternative, evidence.alternative).format(more=named.more, less=named.less)
    rows = [("Level, alpha", f"{evidence.alpha:g}", side)]
    found_with = f"Found with probability {numbers.percent(evidence.power, 0)}"
    if evidence.weighted is not None:
        z = f"z = {weighted.needed_z(evidence):.1f}"
        meaning = "expected z of one statistic that a test of this level would have found; normal approximation"
        return [*rows, (found_with, z, meaning)]
    reach = evidence.detectable_rate
    places = places_of(evidence)
    return [
        *rows,
        (
            found_with,
            "none" if reach is None else numbers.percent(reach, places),
            f"the {named.rate} that an upper-tail test of this size and level would have found",
        ),
    ]
