"""Pictures of weighted evidence: suspect and controls by statistic, the e-process, and the dose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.observe.text import VOTES
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
    labelled,
    margin_labels,
    svg,
    whole_numbers,
)
from watermark.report.numbers import evalue, percent, signed
from watermark.report.planned import dose_points, interval_of, is_number
from watermark.report.weighted import decided_by

if TYPE_CHECKING:
    from watermark.evidence import Control, Evidence

_WIDTH = 6.2  # inches
_LANE = 0.17  # inches for one model's mark


def beside_controls(evidence: Evidence) -> Figure:
    """z of every statistic: the suspect, each control, and where the suspect's decoys lie."""
    names, spread = [*_scores(evidence)], _decoy_spread(evidence)
    lanes = 1 + len(evidence.controls)
    legend = 0.2 * (lanes + 1) + 0.1
    height = legend + len(names) * (lanes * _LANE + 0.12) + 0.55
    canvas = canvas_of(
        {"left": 0.2, "right": 0.97, "bottom": 0.5 / height, "top": 1 - legend / height}, size=(_WIDTH, height)
    )
    axes = canvas.add_subplot()
    _draw_lanes(axes, evidence, names, spread)
    axes.set_yticks([row + 0.5 for row in range(len(names))], names)
    axes.set_ylim(len(names), 0)
    labelled(axes, "z: standard deviations from chance", "")
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "lower left", "bbox_to_anchor": (-0.22, 1.0), "frameon": False, "borderaxespad": 0.2}
    axes.legend(handles, labels, **place)
    return Figure(
        name="controls",
        title="Suspect and controls, by statistic" if evidence.controls else "Our key among decoys, by statistic",
        svg=svg(canvas, "controls"),
        caption=_controls_caption(evidence),
        columns=("statistic", "decoys, least", "decoys, most", "suspect", *(c.name for c in evidence.controls)),
        rows=_controls_rows(evidence, names, spread),
    )


def stakes(evidence: Evidence) -> Figure:
    """log10 E of the e-process against tokens read, with the line of 1/alpha."""
    running = evidence.anytime
    assert running is not None
    canvas = canvas_of(BESIDE_LABELS | {"left": 0.11})
    axes = canvas.add_subplot()
    tokens = [0, *(step.tokens for step in running.steps)]
    grown = [0.0, *(step.log10_e for step in running.steps)]
    level = -math.log10(evidence.alpha)
    axes.axhline(level, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot(tokens, grown, color=BLUE, linewidth=1.6, marker="o", markersize=2.6)
    axes.set_xlim(0, 1.02 * max(1, *tokens))
    axes.set_ylim(min(-0.5, 1.2 * min(grown)), 1.12 * max(level, *grown))
    whole_numbers(axes)
    labelled(axes, "tokens read, in reading order", "stake, log₁₀ E")
    margin_labels(
        axes, [(grown[-1], f"E = {evalue(running.log10_e)}", BLUE), (level, f"1/alpha = {evalue(level)}", ORANGE)]
    )
    return Figure(
        name="stakes",
        title="The e-process: evidence that may be looked at any time",
        svg=svg(canvas, "stakes"),
        caption=_stakes_caption(evidence),
        columns=("answers", "tokens", "new cells", "log₁₀ E"),
        rows=[(f"{s.documents:,}", f"{s.tokens:,}", f"{s.cells:,}", signed(s.log10_e, 2)) for s in running.steps],
    )


def calibration(evidence: Evidence) -> Figure | None:
    """The suspect's share with its interval, beside the control students; None where nothing can be drawn."""
    dose = evidence.dose or {}
    interval, points = interval_of(dose), dose_points(dose)
    if interval is None or not points:
        return None
    canvas = canvas_of(BESIDE_LABELS)
    axes = canvas.add_subplot()
    shares, effects, errors = (np.array(values) for values in zip(*points, strict=True))
    low, share, high = interval
    axes.axvspan(100 * low, 100 * high, color=PALE, alpha=0.6, linewidth=0)
    axes.errorbar(100 * shares, effects, yerr=1.96 * errors, fmt="o", color=GREY, markersize=3.4, linewidth=1.2)
    axes.axvline(100 * share, color=BLUE, linewidth=1.6)
    labels = []
    if is_number(effect := dose.get("effect")):
        axes.axhline(float(str(effect)), color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
        labels.append((float(str(effect)), "the suspect", ORANGE))
    axes.set_xscale("function", functions=(_root, _square))
    axes.set_xlim(left=-0.1)
    ticks = [tick for tick in (0, 1, 5, 20, 50, 100) if tick <= max(1, 100 * shares.max(), 100 * high)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    labelled(axes, "marked share of the control’s training text, % (square root scale)", "effect")
    margin_labels(axes, labels)
    return Figure(
        name="dose",
        title="From effect to dose",
        svg=svg(canvas, "dose"),
        caption=(
            f"{len(points)} control students of known share (dots, bars of 1.96 standard errors). The dashed line "
            f"is the suspect’s effect; the solid one, at {percent(share)}, the share that it means; the shaded band, "
            f"{percent(low)} to {percent(high)}, the interval."
        ),
        columns=("control", "share", "effect", "standard error"),
        rows=[(str(n), percent(s), signed(e, 2), f"{error:.2f}") for n, (s, e, error) in enumerate(points, 1)],
    )


def _root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def _scores(evidence: Evidence) -> dict[str, float]:
    """z of the suspect by statistic, votes first."""
    deep = evidence.weighted
    return {VOTES: evidence.z} | ({s.name: s.z for s in deep.statistics} if deep else {})


def _decoy_spread(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """The least and the greatest z among decoys, by statistic."""
    mean, sd = evidence.cells * evidence.law.mean, math.sqrt(evidence.cells * evidence.law.variance)
    found = {VOTES: _extremes(evidence.decoys.totals, mean, sd)}
    for s in evidence.weighted.statistics if evidence.weighted else ():
        assert evidence.weighted is not None
        found[s.name] = _extremes(evidence.weighted.decoy_totals[s.name], s.mean, s.sd)
    return found


def _extremes(totals: list[int], mean: float, sd: float) -> tuple[float, float]:
    return ((min(totals) - mean) / sd, (max(totals) - mean) / sd) if sd else (0.0, 0.0)


def _draw_lanes(axes: Any, evidence: Evidence, names: list[str], spread: dict[str, tuple[float, float]]) -> None:
    lanes = 1 + len(evidence.controls)
    rows = np.arange(len(names))
    for row, name in enumerate(names):
        low, high = spread[name]
        label = f"{len(evidence.decoys.totals):,} decoy keys on the suspect, least to most" if row == 0 else None
        axes.fill_betweenx([row + 0.04, row + 0.96], low, high, color=PALE, alpha=0.7, linewidth=0, label=label)
        if row:
            axes.axhline(row, color=PALE, linewidth=0.6)
    axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
    own = _scores(evidence)
    axes.plot(
        [own[name] for name in names],
        rows + 0.5 / lanes,
        linestyle="none",
        marker="D",
        markersize=5.5,
        color=ORANGE,
        label=f"suspect{_with_e(evidence)}",
    )
    for number, control in enumerate(evidence.controls, 1):
        axes.plot(
            [control.z.get(name, math.nan) for name in names],
            rows + (number + 0.5) / lanes,
            linestyle="none",
            marker=MARKS[(number - 1) % len(MARKS)],
            markersize=4.5,
            color=BLUE,
            markerfacecolor="white" if number % 2 else BLUE,
            label=f"control “{_short(control.name)}”, mean E = {evalue(control.log10_e)}",
        )


def _with_e(evidence: Evidence) -> str:
    return f", mean E = {evalue(evidence.weighted.log10_e)}" if evidence.weighted else ""


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _controls_rows(
    evidence: Evidence, names: list[str], spread: dict[str, tuple[float, float]]
) -> list[tuple[str, ...]]:
    own, rows = _scores(evidence), []
    for name in names:
        low, high = (signed(value, 2) for value in spread[name])
        others = [signed(control.z[name], 2) if name in control.z else "–" for control in evidence.controls]
        rows.append((name, low, high, signed(own[name], 2), *others))
    if evidence.weighted:
        others = [signed(control.log10_e, 2) for control in evidence.controls]
        rows.append(("mean e-value, log₁₀ E", "–", "–", signed(evidence.weighted.log10_e, 2), *others))
    return rows


def _controls_caption(evidence: Evidence) -> str:
    text = (
        "How far from chance (dashed) each statistic lies, in standard deviations: diamonds are the suspect, the pale "
        f"bands hold all of {len(evidence.decoys.totals):,} decoy keys put to the suspect’s cells."
    )
    if not evidence.controls:
        return text + " No control model was read beside it."
    listed = "; ".join(_told(control) for control in evidence.controls)
    return (
        f"{text} Controls went through the same code on the same texts: {listed}. They give the scale, and the "
        "verdict does not rest on them."
    )


def _told(control: Control) -> str:
    return f"“{_short(control.name)}” E = {evalue(control.log10_e)}"


def _stakes_caption(evidence: Evidence) -> str:
    running = evidence.anytime
    assert running is not None
    passed = "It never passed" if running.reached_at is None else f"After {running.reached_at:,} tokens it had passed"
    decides = (
        "It decides here: reading stopped when it was content."
        if decided_by(evidence) == "e-process"
        else "It stands beside the test; the verdict is the test’s."
    )
    return (
        f"A stake of 1, bet on new cells stage by stage; a key that had no part in the text leaves it at 1 on average, "
        f"and lets it ever pass 1/alpha (dashed) with probability at most alpha = {evidence.alpha:g}, whenever one "
        f"looks or stops. {passed} 1/alpha; it ends at log₁₀ E = {signed(running.log10_e, 1)}. A tenth of the "
        f"most it had is never staked. {decides}"
    )
