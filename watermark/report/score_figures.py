"""The plots of a score page: our direction among decoys, the share carried, evidence by answers, what answers moved."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.report.drawing import (
    BESIDE_LABELS,
    BLUE,
    GREY,
    INK,
    MARKS,
    ORANGE,
    PALE,
    Figure,
    canvas_of,
    drawing,
    labelled,
    legend_above,
    margin_labels,
    svg,
)
from watermark.report.numbers import NARROW, evalue, percent, pvalue, signed
from watermark.report.score_words import PART_NAMES, per_channel, share_of, short
from watermark.scores.direction import scheme_from_json
from watermark.scoring.detect import SCORE_POWER
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from watermark.scoring.evidence import Carried, KeyTest, ScoreEvidence

_UNDER_LEGEND = {"left": 0.085, "right": 0.97, "bottom": 0.17, "top": 0.86}
_BINS = 25


def score_figures(evidence: ScoreEvidence) -> list[Figure]:
    """All plots of the page, in order. Raises ExtraMissing without matplotlib."""
    with drawing():
        made = [direction_among_decoys(evidence, test) for test in evidence.tests]
        if evidence.carried is not None:
            made.append(share_and_power(evidence, evidence.carried))
        made.append(evidence_by_answers(evidence))
        if evidence.shown and evidence.cost is not None:
            made.append(moves(evidence))
        return made


def direction_among_decoys(evidence: ScoreEvidence, test: KeyTest) -> Figure:
    """Histogram of the decoys' cosines, the exact law of a cosine, our key, and controls beside."""
    edges = _edges(test)
    counts = np.histogram(test.decoys, edges)[0]
    expected = len(test.decoys) * np.diff([_below(float(edge), test.dimensions) for edge in edges])
    controls = evidence.controls if test is evidence.tests[0] else []
    canvas = canvas_of(_UNDER_LEGEND)
    axes = canvas.add_subplot()
    axes.stairs(
        counts,
        edges,
        fill=True,
        facecolor=PALE,
        edgecolor=GREY,
        linewidth=0.6,
        label=f"{len(test.decoys):,} decoy keys",
    )
    _draw_law(axes, test, edges)
    top = 1.35 * max(*counts, *expected)
    for number, control in enumerate(controls):
        axes.plot(
            [control.cosine],
            [-0.045 * top],
            linestyle="none",
            marker=MARKS[number % len(MARKS)],
            markersize=5,
            color=BLUE,
            markerfacecolor="white" if number % 2 else BLUE,
            label=f"control “{short(control.name)}”",
        )
    _draw_ours(axes, test, edges)
    cosines = [test.cosine, *(control.cosine for control in controls), float(edges[0]), float(edges[-1])]
    margin = 0.04 * (max(cosines) - min(cosines))
    axes.set_xlim(min(cosines) - margin, max(cosines) + margin)
    axes.set_ylim(-0.09 * top if controls else 0, top)
    labelled(axes, f"cosine with the key’s direction, {test.dimensions:,} dimensions", "decoy keys")
    _legend(canvas, axes)
    return Figure(
        name=f"decoys-{test.part}",
        title=f"Our key among keys that marked nothing{_of(test, evidence)}",
        svg=svg(canvas, f"decoys-{test.part}"),
        caption=_decoys_caption(evidence, test),
        columns=("cosine from", "to", "decoy keys", "expected by the exact law"),
        rows=[
            (signed(float(a), 4), signed(float(b), 4), f"{count:,}", f"{mean:.1f}")
            for a, b, count, mean in zip(edges, edges[1:], counts, expected)
        ],
    )


def share_and_power(evidence: ScoreEvidence, carried: Carried) -> Figure:
    """How probable it was to find a suspect by the share that it carries, and the share of this one beneath."""
    canvas = canvas_of({"left": 0.1, "right": 0.97, "bottom": 0.15, "top": 0.94}, size=(6.2, 3.5))
    upper, lower = canvas.subplots(2, 1, sharex=True, height_ratios=(3.4, 1), gridspec_kw={"hspace": 0.12})
    low, high = min(-0.1, carried.low - 0.05), max(1.1, carried.high + 0.05, min(1.15 * carried.detectable, 3.0))
    shares = np.linspace(low, high, 201)
    upper.set_xlim(100 * low, 100 * high)
    upper.plot(100 * shares, 100 * chance_of_finding(shares, carried), color=BLUE, linewidth=1.8)
    _draw_detectable(upper, carried, high)
    upper.set_ylim(0, 108)
    upper.set_yticks([0, 50, 100])
    labelled(upper, "", "found, %")
    upper.tick_params(axis="x", length=0)
    for panel in (upper, lower):
        for level in (0, 100):
            panel.axvline(level, color=PALE, linewidth=1.0, zorder=0)
    lower.plot([100 * carried.low, 100 * carried.high], [0, 0], color=ORANGE, linewidth=2.2, solid_capstyle="butt")
    lower.plot([100 * carried.share], [0], marker="D", markersize=6.5, color=ORANGE, linestyle="none")
    lower.annotate(
        f"this suspect, {share_of(carried.share)}",
        (100 * carried.share, 0),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color=ORANGE,
        weight="bold",
    )
    lower.set_ylim(-0.6, 1.5)
    lower.set_yticks([])
    labelled(lower, "share of the mark carried, % (100: as much as our own marked answers)", "")
    lower.spines["left"].set_visible(False)
    return Figure(
        name="carried",
        title="Share of the mark carried, and the chance of finding it",
        svg=svg(canvas, "carried"),
        caption=_carried_caption(evidence, carried),
        columns=("share carried", "chance of finding it"),
        rows=[
            (share_of(s), percent(float(chance_of_finding(np.array(s), carried)), 1)) for s in _table_shares(carried)
        ],
    )


def chance_of_finding(shares: Any, carried: Carried) -> Any:
    """Normal approximation of the power: the slope varies by `deviation`, and the level is set by what is detectable.

    detectable = deviation (z of 0.9 + z of 1 - alpha), so the chance at a share is the normal law of the share less
    the threshold, in deviations.
    """
    from scipy.special import ndtr

    threshold = carried.detectable - carried.deviation * NormalDist().inv_cdf(SCORE_POWER)
    return ndtr((shares - threshold) / carried.deviation)


def evidence_by_answers(evidence: ScoreEvidence) -> Figure:
    """-log10 p and log10 E after each look, with the line of alpha."""
    canvas = canvas_of(BESIDE_LABELS)
    axes = canvas.add_subplot()
    answers = [look.answers for look in evidence.looks]
    strength = [-look.log10_p for look in evidence.looks]
    grown = [look.log10_e for look in evidence.looks]
    level = -math.log10(evidence.alpha)
    axes.axhline(level, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.axhline(0, color=PALE, linewidth=0.8)
    axes.plot(answers, strength, color=BLUE, linewidth=1.6, marker="o", markersize=3)
    axes.plot(answers, grown, color=GREY, linewidth=1.4, marker="s", markersize=3, linestyle=(0, (2, 1)))
    axes.set_ylim(min(-0.5, 1.1 * min(grown)), 1.12 * max(level, *strength, *grown))
    _answers_axis(axes, answers)
    labelled(axes, "answers read (each scale mark is a look)", "evidence, powers of ten")
    _three_labels(
        axes,
        [
            (strength[-1], f"p = {pvalue(evidence.looks[-1].log10_p)}", BLUE),
            (level, f"alpha = {evidence.alpha:g}", ORANGE),
            (grown[-1], f"E = {evalue(grown[-1])}", GREY),
        ],
    )
    return Figure(
        name="looks",
        title="Evidence against number of answers",
        svg=svg(canvas, "looks"),
        caption=_looks_caption(evidence),
        columns=("answers", "p, had one stopped there", "e-process, log₁₀ E"),
        rows=[(f"{k.answers:,}", pvalue(k.log10_p), signed(k.log10_e, 2)) for k in evidence.looks],
    )


def moves(evidence: ScoreEvidence) -> Figure:
    """How far the mark moves the answers shown, against their unmarked value, within the most it may."""
    points = [
        (100 * old, 100 * (new - old)) if evidence.access != "values" else (old, new - old)
        for shown in evidence.shown
        for old, new in zip(per_channel(shown.clean), per_channel(shown.marked))
    ]
    scheme = scheme_from_json(evidence.mark["scheme"])
    most = [100 * scheme.epsilon] if evidence.access != "values" else [scheme.epsilon * s for s in scheme.scale]
    canvas = canvas_of(BESIDE_LABELS | {"left": 0.11})
    axes = canvas.add_subplot()
    axes.axhline(0, color=PALE, linewidth=0.8)
    for bound in {min(most), max(most)}:
        for side in (-bound, bound):
            axes.axhline(side, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
    old, moved = (np.array(values) for values in zip(*points))
    axes.vlines(old, 0, moved, color=BLUE, linewidth=1.0)
    axes.plot(old, moved, linestyle="none", marker="o", markersize=4, color=BLUE)
    axes.set_ylim(-1.25 * max(most), 1.25 * max(most))
    unit = "" if evidence.access == "values" else ", %"
    labelled(axes, f"unmarked answer{unit}", "moved by" + ("" if not unit else ", points"))
    margin_labels(axes, [(max(most), "most allowed", ORANGE), (-max(most), "most allowed", ORANGE)])
    return Figure(
        name="moves",
        title="What the mark does to answers",
        svg=svg(canvas, "moves"),
        caption=_moves_caption(evidence),
        columns=("unmarked answer", "moved by"),
        rows=[(signed(a, 3), signed(b, 3)) for a, b in points],
    )


def _edges(test: KeyTest) -> Any:
    """Bins over the decoys and four standard deviations of the law, within [-1, 1]."""
    wide = min(1.0, 4 / math.sqrt(test.dimensions))
    return np.linspace(min(-wide, *test.decoys), max(wide, *test.decoys), _BINS + 1)


def _below(cosine: float, dimensions: int) -> float:
    """P(cos <= cosine), by the exact law."""
    return 10 ** log10_pvalue(min(1.0, max(-1.0, cosine)), dimensions, alternative="less")


def _draw_law(axes: Any, test: KeyTest, edges: Any) -> None:
    """The exact density, (1 - c^2)^((D - 3)/2) / B(1/2, (D - 1)/2), as counts of one bin."""
    from scipy.special import betaln

    inside = np.clip(np.linspace(edges[0], edges[-1], 240), -1 + 1e-9, 1 - 1e-9)
    half = (test.dimensions - 1) / 2
    density = np.exp((half - 1) * np.log1p(-(inside**2)) - betaln(0.5, half))
    drawn = len(test.decoys) * float(edges[1] - edges[0]) * density
    axes.plot(inside, drawn, color=INK, linewidth=1.4, label="exact law of any key that had no part in it")


def _draw_ours(axes: Any, test: KeyTest, edges: Any) -> None:
    axes.axvline(test.cosine, color=ORANGE, linewidth=2.4)
    left = test.cosine > float(edges[-1]) or test.cosine > 0
    axes.annotate(
        f"our key {signed(test.cosine, 3)}\np = {pvalue(test.log10_p)}",
        (test.cosine, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=ORANGE,
        weight="bold",
    )


def _legend(canvas: Any, axes: Any) -> None:
    """Above the picture, two in a row; the picture gives way to what it takes."""
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(axes.get_legend_handles_labels()[0]) / 2)
    height = 2.9 + 0.19 * (rows - 1)
    canvas.set_size_inches(6.2, height)
    canvas.subplots_adjust(top=1 - (0.12 + 0.2 * rows) / height, bottom=0.5 / height)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_above(axes, axes)


def _draw_detectable(axes: Any, carried: Carried, high: float) -> None:
    """The share that is found with probability 0.9, where it is in the picture."""
    if carried.detectable > high:
        return
    x, y = 100 * carried.detectable, 100 * SCORE_POWER
    axes.plot([x, x, axes.get_xlim()[0]], [0, y, y], color=GREY, linewidth=1.0, linestyle=(0, (2, 2)))
    axes.plot([x], [y], marker="o", markersize=5, color=BLUE)
    low, high = axes.get_xlim()
    beyond = (x - low) / (high - low) > 0.45
    axes.annotate(
        f"{share_of(carried.detectable)} is found {10 * SCORE_POWER:.0f} times in 10",
        (x, y),
        xytext=(-8, 5) if beyond else (8, -14),
        textcoords="offset points",
        color=BLUE,
        weight="bold",
        ha="right" if beyond else "left",
    )


def _table_shares(carried: Carried) -> list[float]:
    return sorted({0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, round(carried.detectable, 4)})


def _answers_axis(axes: Any, answers: list[int]) -> None:
    """Logarithmic, for each look has half as many answers more; some of them are named."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    step = math.ceil(len(answers) / 6)
    named = answers[::-1][::step]
    axes.set_xticks(named, [f"{count:,}" for count in named])
    axes.set_xticks(answers, minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    spread = answers[-1] / answers[0]
    axes.set_xlim(answers[0] / max(1.05, spread**0.03), answers[-1] * max(1.05, spread**0.03))


def _three_labels(axes: Any, labels: list[tuple[float, str, str]]) -> None:
    """Labels in the margin, highest first, pushed down where they would overlap."""
    low, high = axes.get_ylim()
    least = 0.085 * (high - low)
    placed: list[tuple[float, str, str]] = []
    for height, text, colour in sorted(labels, key=lambda label: -label[0]):
        free = min(height, placed[-1][0] - least) if placed else height
        placed.append((free, text, colour))
    for height, text, colour in placed:
        axes.text(
            1.015,
            (height - low) / (high - low),
            text,
            transform=axes.transAxes,
            color=colour,
            va="center",
            weight="bold",
        )


def _of(test: KeyTest, evidence: ScoreEvidence) -> str:
    return "" if len(evidence.tests) == 1 else f": {PART_NAMES[test.part]}"


def _decoys_caption(evidence: ScoreEvidence, test: KeyTest) -> str:
    low, high = signed(min(test.decoys), 3), signed(max(test.decoys), 3)
    text = (
        f"{len(test.decoys):,} decoy keys, which marked nothing, were put to the same answers; their cosines run from "
        f"{low} to {high}. Our key’s is {signed(test.cosine, 3)}. The curve is the exact law of the cosine with a "
        f"direction that had no part in the answers, uniform on the sphere of {test.dimensions:,} dimensions; the test "
        "rests on it, the decoys show that it holds."
    )
    if test is evidence.tests[0] and evidence.controls:
        text += " Controls are other models' answers to the same inputs, read by the same code under our key."
    return text


def _carried_caption(evidence: ScoreEvidence, carried: Carried) -> str:
    return (
        f"Below: the suspect carries {share_of(carried.share)} of the mark, with its 95{NARROW}% interval "
        f"{share_of(carried.low)} to {share_of(carried.high)}. Above: the chance that a suspect carrying that "
        f"share would have been found at alpha = {evidence.alpha:g}; a normal approximation, from how the same share "
        "varies under decoy keys once our own mark is taken away. The verdict does not rest on it."
    )


def _looks_caption(evidence: ScoreEvidence) -> str:
    level = -math.log10(evidence.alpha)
    passed = (
        "it never passed 1/alpha"
        if evidence.reached_at is None
        else f"it had passed 1/alpha after {evidence.reached_at:,} answers"
    )
    decides = (
        "The e-process decides here."
        if evidence.stopped
        else "Only the last point of p is the test; the e-process stands beside it."
    )
    return (
        f"Solid: −log₁₀ p of the direction’s test, had one stopped there. Dashed grey: log₁₀ E of the e-process, which "
        f"may be looked at after every look; {passed}, the dashed line at {level:.1f}. {decides}"
    )


def _moves_caption(evidence: ScoreEvidence) -> str:
    scheme = scheme_from_json(evidence.mark["scheme"])
    unit = "standard deviations of each value" if scheme.output == "values" else "in any class"
    nearby = (
        "" if scheme.output == "values" else " Near a coin toss answers move less, so that the first class stays first."
    )
    return (
        f"{len(evidence.shown)} of the inputs, evenly spaced in the order they were asked: how far our own answer "
        f"moves when it is marked. Dashed: the most that the mark allows, {scheme.epsilon:g} {unit}.{nearby}"
    )
