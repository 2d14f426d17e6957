"""How pictures are drawn here: matplotlib's SVG, stripped to what a page needs: no scripts, styles or links out."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from watermark.errors import ExtraMissing

INK, GREY, PALE = "#1f2933", "#5b6670", "#b9c7d3"
BLUE, ORANGE = "#0072b2", "#b84a00"  # Okabe and Ito's blue; their vermilion, darkened to 4.5:1 on white
BESIDE_LABELS = {"left": 0.085, "right": 0.79, "bottom": 0.175, "top": 0.97}  # room for `margin_labels`
UNDER_LEGEND = {"left": 0.085, "right": 0.98, "bottom": 0.175, "top": 0.88}  # room for `legend_above`
MARKS = ("o", "s", "^", "v", "P", "X", "<", ">")  # of control models, so that no two differ by colour alone
_SIZE = (6.2, 2.9)  # inches
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
}
_LINE = 0.075  # least distance between two labels in the margin, as a share of the height


@dataclass(frozen=True)
class Figure:
    """A picture and its numbers. svg: safe to place in a page as it is. rows: as many cells as columns."""

    name: str
    title: str
    svg: str
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Our settings for a while, whatever the reader's matplotlib was told before."""
    try:
        import matplotlib
    except ImportError:
        raise ExtraMissing("matplotlib", "evidence", "writing the report page") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def canvas_of(edges: dict[str, float], *, size: tuple[float, float] = _SIZE) -> Any:
    """An empty drawing; size in inches."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size)
    canvas.subplots_adjust(**edges)
    return canvas


def labelled(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    sober(axes)


def sober(axes: Any) -> None:
    """No frame but the two axes, quiet ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, length=3)
    axes.patch.set_visible(False)


def whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend_above(axes: Any, drawn: Any, *, columns: int = 2) -> None:
    """The legend of what was drawn in `drawn`, above `axes`."""
    handles, labels = drawn.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.6,
    )


def margin_labels(axes: Any, labels: list[tuple[float, str, str]]) -> None:
    """Names the lines in the right margin, at their height, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    heights = [(value - low) / (high - low) for value, _, _ in labels]
    order = np.argsort(heights)
    shortfall = _LINE - (heights[order[1]] - heights[order[0]]) if len(labels) > 1 else 0.0
    if shortfall > 0:
        heights[order[0]] -= shortfall / 2
        heights[order[1]] += shortfall / 2
    for height, (_, text, colour) in zip(heights, labels):
        axes.text(1.015, height, text, transform=axes.transAxes, color=colour, va="center", weight="bold")


def svg(canvas: Any, name: str) -> str:
    """The drawing as one <svg> element, its ids made particular to `name`."""
    import matplotlib

    drawn = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _stripped(drawn.getvalue().decode(), name)


def _stripped(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href").replace("\r", "")
    svg = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg \1 role="img" aria-labelledby="caption-{name}">',
        svg,
        count=1,
    )
    svg = re.sub(r"<(style|metadata)\b.*?</\1>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _attributes(style: str) -> str:
    """`a: b; c: d` as ` a="b" c="d"`, so that the page needs no inline styles; the page's font is used."""
    pairs = [part.split(":", 1) for part in style.split(";") if ":" in part]
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs if name.strip() != "font-family")
