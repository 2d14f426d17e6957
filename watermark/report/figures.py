"""The plots of the page, each with its caption and its table: the same evidence gives the same bytes.

Where votes decide they are three, all of votes; else those of `weighted_figures`, and votes beside for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.detect import interval_of
from watermark.report.drawing import (
    BESIDE_LABELS,
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    UNDER_LEGEND,
    Figure,
    canvas_of,
    drawing,
    labelled,
    legend_above,
    margin_labels,
    sober,
    svg,
    whole_numbers,
)
from watermark.report.numbers import NARROW, percent, pvalue, signed, span
from watermark.report.terms import places_of, share_of, terms
from watermark.report.weighted import decided_by
from watermark.report.weighted_figures import beside_controls, calibration, stakes
from watermark.stats.graded import Levels, LevelSum
from watermark.stats.many import upper_tails

if TYPE_CHECKING:
    from watermark.evidence import Document, Evidence

FAR = 30.0  # standard deviations beyond which the axis is broken, so that the decoys keep their shape


def figures(evidence: Evidence) -> list[Figure]:
    """All plots of the page, in order. Raises ExtraMissing without matplotlib."""
    with drawing():
        votes = [key_among_decoys(evidence)]
        if decided_by(evidence) == "votes":
            votes += [evidence_against_text(evidence), rate_by_document(evidence)]
            return [*votes, *_dose(evidence)]
        weighted = [] if evidence.weighted is None else [beside_controls(evidence)]
        running = [] if evidence.anytime is None else [stakes(evidence)]
        if decided_by(evidence) == "e-process":
            weighted, running = running, weighted
        return [*weighted, *running, *_dose(evidence), *map(_beside, votes)]


def _dose(evidence: Evidence) -> list[Figure]:
    drawn = calibration(evidence)
    return [] if drawn is None else [drawn]


def _beside(figure: Figure) -> Figure:
    """A picture of votes where something else decides."""
    return replace(
        figure,
        title="One vote for each cell, for comparison",
        caption=f"Descriptive; it does not decide here. {figure.caption}",
    )


def key_among_decoys(evidence: Evidence) -> Figure:
    """Histogram of the decoys' green rates, the exact null curve, and our key."""
    edges, counts, expected = _histogram(evidence)
    places = places_of(evidence)
    canvas = canvas_of(UNDER_LEGEND)
    for axes in _around_key(canvas, evidence, edges):
        _draw_histogram(
            axes, 100 * share_of(evidence, edges, evidence.cells), counts, expected, len(evidence.decoys.totals)
        )
    _draw_key(canvas, evidence, percent(evidence.green_rate, places))
    return Figure(
        name="decoys",
        title="Our key among keys that marked nothing",
        svg=svg(canvas, "decoys"),
        caption=_decoys_caption(evidence),
        columns=(
            "green tokens" if evidence.levels is None else "total score",
            terms(evidence).rate,
            "decoy keys",
            "expected by chance",
        ),
        rows=[
            (
                f"{math.ceil(a):,} to {math.floor(b):,}",
                f"{percent(share_of(evidence, math.ceil(a), evidence.cells), places + 1)}",
                f"{count:,}",
                f"{mean:.1f}",
            )
            for a, b, count, mean in zip(edges, edges[1:], counts, expected)
        ],
    )


def evidence_against_text(evidence: Evidence) -> Figure:
    """-log10 p after each stretch of text, with the line of alpha."""
    canvas = canvas_of(BESIDE_LABELS)
    axes = canvas.add_subplot()
    tokens = [step.tokens for step in evidence.curve]
    strength = [-step.log10_p for step in evidence.curve]
    level = -math.log10(evidence.alpha)
    axes.axhline(level, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.plot(tokens, strength, color=BLUE, linewidth=1.6, marker="o", markersize=2.6)
    axes.set_xlim(0, 1.02 * max(tokens))
    axes.set_ylim(0, 1.12 * max(level, *strength, 1.5))
    whole_numbers(axes)
    labelled(axes, "tokens read, in reading order", "evidence, −log₁₀ p")
    margin_labels(
        axes,
        [
            (strength[-1], f"p = {pvalue(evidence.curve[-1].log10_p)}", BLUE),
            (level, f"alpha = {evidence.alpha:g}", ORANGE),
        ],
    )
    return Figure(
        name="curve",
        title="Evidence against amount of text",
        svg=svg(canvas, "curve"),
        caption=_curve_caption(evidence),
        columns=("answers", "tokens", "cells", terms(evidence).counted, "p"),
        rows=[
            (f"{s.documents:,}", f"{s.tokens:,}", f"{s.cells:,}", f"{s.green:,}", pvalue(s.log10_p))
            for s in evidence.curve
        ],
    )


def rate_by_document(evidence: Evidence) -> Figure:
    """Green rate of each answer with its 95 % interval, beside chance and all answers together."""
    listed = [d for d in evidence.documents if d.cells]
    places = places_of(evidence)
    canvas = canvas_of(BESIDE_LABELS)
    axes = canvas.add_subplot()
    intervals = _intervals(evidence, listed)
    _draw_documents(axes, [100 * share_of(evidence, d.green, d.cells) for d in listed], intervals)
    axes.axhline(100 * evidence.gamma, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.axhline(100 * evidence.green_rate, color=BLUE, linewidth=1.6)
    axes.set_xlim(0, len(listed) + 1)
    axes.set_ylim(bottom=0)
    whole_numbers(axes)
    labelled(axes, "answer, numbered as in the table below", f"{terms(evidence).rate}, %")
    pooled = 100 * evidence.green_rate
    margin_labels(
        axes,
        [
            (pooled, f"all {percent(evidence.green_rate, places)}", BLUE),
            (100 * evidence.gamma, f"chance {percent(evidence.gamma, places)}", INK),
        ],
    )
    return Figure(
        name="documents",
        title=f"{terms(evidence).rate.capitalize()} of single answers",
        svg=svg(canvas, "documents"),
        caption=_documents_caption(evidence, listed),
        columns=("no.", "answer", "tokens", "cells", terms(evidence).counted, terms(evidence).rate, "95 % interval"),
        rows=[
            _document_row(number, d, share_of(evidence, d.green, d.cells), interval)
            for number, (d, interval) in enumerate(zip(listed, intervals), 1)
        ],
    )


def _decoys_caption(evidence: Evidence) -> str:
    places, totals = places_of(evidence), evidence.decoys.totals
    low, high = (percent(share_of(evidence, t, evidence.cells), places) for t in (min(totals), max(totals)))
    side = "above" if evidence.z >= 0 else "below"
    return (
        f"{len(totals):,} decoy keys, which marked nothing, were put to the same {evidence.cells:,} cells; "
        f"their {terms(evidence).rate}s run from {low} to {high}. Our key’s is {percent(evidence.green_rate, places)}, "
        f"{abs(evidence.z):.1f} standard deviations {side} chance. The curve is the exact law of a key that "
        f"had no part in the text ({terms(evidence).curve.format(gamma=evidence.gamma)})."
    )


def _curve_caption(evidence: Evidence) -> str:
    last = evidence.curve[-1]
    return (
        f"Evidence as text is added: −log₁₀ p reaches {abs(last.log10_p):.1f} after {last.tokens:,} tokens; "
        f"the dashed line is alpha = {evidence.alpha:g}, that is {-math.log10(evidence.alpha):.1f}. "
        "Descriptive, not a stopping rule: only the last point is the test."
    )


def _documents_caption(evidence: Evidence, listed: list[Document]) -> str:
    places = places_of(evidence)
    higher = sum(share_of(evidence, d.green, d.cells) > evidence.gamma for d in listed)
    return (
        f"{len(listed)} of {evidence.documents_read:,} answers, evenly spaced in reading order, each with "
        f"its 95{NARROW}% interval ({terms(evidence).interval}). {higher} of them lie above chance, "
        f"{percent(evidence.gamma, places)} (dashed); all answers together give "
        f"{percent(evidence.green_rate, places)} (solid). One answer is seldom enough to tell; the test is "
        "on all of them together."
    )


def _histogram(evidence: Evidence) -> tuple[Any, list[int], list[float]]:
    """(edges at half counts, decoys in each bin, exact expectation of each bin)."""
    n, law, totals = evidence.cells, evidence.law, np.asarray(evidence.decoys.totals)
    mean, deviation = n * law.mean, math.sqrt(n * law.variance)
    low = min(int(totals.min()), math.floor(mean - 3.5 * deviation))
    high = max(int(totals.max()), math.ceil(mean + 3.5 * deviation))
    width = max(1, math.ceil((high - low + 1) / 27))
    edges = np.arange(low, high + width + 1, width) - 0.5
    counts = np.histogram(totals, edges)[0]
    expected = len(totals) * np.diff(_below(evidence, edges))
    return edges, [int(c) for c in counts], [float(e) for e in expected]


def _below(evidence: Evidence, edges: Any) -> Any:
    """The chance of a total under each edge, which lies between whole numbers."""
    n, law = evidence.cells, evidence.law
    if isinstance(law, Levels):
        sums, totals = LevelSum.of(n, law), np.ceil(edges).astype(np.int64)
        return 1 - 10 ** upper_tails(sums, np.clip(totals, sums.lowest, sums.highest))
    from scipy.stats import binom

    return binom.cdf(edges, n, law.p)


def _intervals(evidence: Evidence, listed: list[Document]) -> list[tuple[float, float]]:
    """The 95 % interval of each answer's rate; the same counts have the same."""
    known = {(d.green, d.cells): interval_of(evidence.law, d.green, d.cells) for d in listed}
    return [known[d.green, d.cells] for d in listed]


def _around_key(canvas: Any, evidence: Evidence, edges: Any) -> list[Any]:
    """One axis for decoys and key; or, if the key is far off, the decoys' axis and a stub for the key."""
    low, high = (100 * share_of(evidence, float(edge), evidence.cells) for edge in (edges[0], edges[-1]))
    key = 100 * evidence.green_rate
    margin = 0.04 * (max(high, key) - min(low, key))
    if abs(evidence.z) <= FAR:
        axes = canvas.add_subplot()
        axes.set_xlim(min(low, key) - margin, max(high, key) + margin)
        return [axes]
    ratios = (4, 1) if evidence.z > 0 else (1, 4)
    panels = canvas.subplots(1, 2, sharey=True, width_ratios=ratios, gridspec_kw={"wspace": 0.06})
    main, stub = panels if evidence.z > 0 else panels[::-1]
    main.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    stub.set_xlim(key - 1, key + 1)
    stub.set_xticks([key], [f"{key:.1f}"])
    _break_axis(panels)
    return [main, stub]


def _break_axis(panels: Sequence[Any]) -> None:
    """Two short strokes where the axis is broken, and no frame between."""
    left, right = panels
    stroke = {
        "marker": [(-0.5, -1), (0.5, 1)],
        "markersize": 9,
        "linestyle": "none",
        "color": INK,
        "clip_on": False,
    }
    left.plot([1], [0], transform=left.transAxes, **stroke)
    right.plot([0], [0], transform=right.transAxes, **stroke)
    right.spines["left"].set_visible(False)
    right.tick_params(axis="y", left=False)


def _draw_histogram(axes: Any, rates: Any, counts: list[int], expected: list[float], decoys: int) -> None:
    limits = axes.get_xlim()
    axes.stairs(
        counts,
        rates,
        fill=True,
        facecolor=PALE,
        edgecolor=GREY,
        linewidth=0.6,
        label=f"{decoys:,} decoy keys",
    )
    middles = (rates[1:] + rates[:-1]) / 2
    axes.plot(middles, expected, color=INK, linewidth=1.4, label="exact law of a key that had no part in it")
    axes.set_xlim(limits)
    axes.set_ylim(0, 1.5 * max(*counts, *expected))


def _draw_key(canvas: Any, evidence: Evidence, rate: str) -> None:
    """The line of our key, labelled on the side that has room, and the legend above."""
    panels = canvas.axes
    main = panels[0] if evidence.z > 0 else panels[-1]
    axes = panels[-1] if evidence.z > 0 else panels[0]
    key = 100 * evidence.green_rate
    axes.axvline(key, color=ORANGE, linewidth=2.4)
    left = _label_left_of(key, axes.get_xlim(), above=evidence.z > 0, alone=len(panels) > 1)
    axes.annotate(
        f"our key {rate}\nz = {signed(evidence.z, 1)}",
        (key, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=ORANGE,
        weight="bold",
    )
    labelled(main, f"{terms(evidence).rate}, %" + (" (axis broken)" if len(panels) > 1 else ""), "")
    panels[0].set_ylabel("decoy keys")
    for panel in panels:
        sober(panel)
    legend_above(panels[0], main)


def _label_left_of(key: float, limits: tuple[float, float], *, above: bool, alone: bool) -> bool:
    """Whether the key's label stands to its left: away from the decoys, unless the picture ends there."""
    share = (key - limits[0]) / (limits[1] - limits[0])
    if alone:
        return above
    return share > 0.75 or (share > 0.25 and not above)


def _draw_documents(axes: Any, rates: list[float], intervals: list[tuple[float, float]]) -> None:
    numbers = list(range(1, len(rates) + 1))
    for number, (low, high) in zip(numbers, intervals):
        axes.vlines(number, 100 * low, 100 * high, color=PALE, linewidth=2.2)
    axes.plot(numbers, rates, linestyle="none", marker="o", markersize=3.4, color=GREY)


def _document_row(number: int, document: Document, rate: float, interval: tuple[float, float]) -> tuple[str, ...]:
    return (
        str(number),
        document.id,
        f"{document.tokens:,}",
        f"{document.cells:,}",
        f"{document.green:,}",
        percent(rate),
        span(interval),
    )
