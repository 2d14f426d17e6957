"""The study's page: docs/results/study.{json,md} and two plots, from the notes and found.jsonl of a work folder.

    python benchmarks/study/tables.py study

Remarks at the end of the page stay as they are when the tables are written again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from watermark.files import write_whole

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
REMARKS = "## Remarks"
Row = dict[str, Any]
HEAD = "log-ratio"  # the statistic that tables of one number show


def publish(work: Path, folder: Path, command: str) -> None:
    """Writes page, figures and plots to `folder`."""
    notes = {told["path"]: told for told in _notes(work)}
    found = [json.loads(line) for line in (work / "found.jsonl").read_bytes().splitlines()]
    found = [row for row in found if row["student"] in notes or row.get("change") == "neutralised"]
    folder.mkdir(parents=True, exist_ok=True)
    everything = {**_described(command), "students": list(notes.values()), "found": found}
    write_whole(folder / "study.json", (json.dumps(everything, indent=None, separators=(",", ":")) + "\n").encode())
    plotted(found, folder)
    path = folder / "study.md"
    before = path.read_text("utf-8") if path.exists() else ""
    remarks = before[before.index(REMARKS) :] if REMARKS in before else ""
    page = "\n".join([*_head(everything, notes), *_doses(found), *_grid(found), *_attacks(found), *_crowds(found)])
    write_whole(path, (page + "\n" + remarks).encode())
    print(page)


def _notes(work: Path) -> Iterable[Row]:
    for path in sorted(work.glob("*/*/*.json")):
        told = json.loads(path.read_bytes())
        if "parts" in told:
            yield told


def _described(command: str) -> Row:
    names = ("wmark", "torch", "transformers", "tokenizers", "numpy", "scipy", "numba")
    return {
        "command": command,
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, no accelerator",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def _head(everything: Row, notes: dict[str, Row]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in everything["versions"].items())
    recipes: dict[str, list[str]] = {}
    for told in notes.values():
        if told["change"] or told["name"].startswith("crowd"):
            continue
        r = told["recipe"]
        line = (
            f"{told['teacher']}, {'LoRA of rank ' + str(r['lora']) if r['lora'] else 'all weights'}: {r['epochs']} "
            f"pass(es), peak rate {r['rate']:g}, {r['step']:,} tokens a step"
        )
        recipes.setdefault(line, []).append(told["path"])
    learned = ", ".join(f"{line} ({len(who)})" for line, who in recipes.items())
    return [
        "# Study: students at known doses",
        "",
        f"`{everything['command']}`, {everything['made']}; {everything['machine']}; {versions}.",
        "",
        f"{len(notes)} students, copies of their teacher. Recipes (students): {learned}.",
        "Shares are of the answer tokens; marked answers at temperature 1, green list, gamma 0.25. `w1d2` is window 1,",
        "delta 2. Each student is read over 200 answers of its unmarked teacher to prompts that nobody learned from;",
        "text is what it answers itself. z under the true key; normal under other keys (last line of the first table).",
        "argmax: binomial votes of predicted tokens (arXiv 2402.14904); mass: mean green mass with Hoeffding's bound",
        "(arXiv 2602.03812). The last log10 p is that of the mean e-value over the statistics chosen beforehand.",
        "",
    ]


def _z(rows: Sequence[Row], access: str, reference: str | None, statistic: str = HEAD) -> float | None:
    """Mean z of one statistic over rows of one access and reference."""
    found = [
        row["z"][statistic]
        for row in rows
        if row["access"] == access and row["reference"] == reference and statistic in row.get("z", {})
    ]
    return statistics.mean(found) if found else None


def _mean(rows: Sequence[Row], access: str, reference: str | None, field: str) -> float | None:
    found = [r[field] for r in rows if r["access"] == access and r["reference"] == reference and field in r]
    return statistics.mean(found) if found else None


COLUMNS: list[tuple[str, Callable[[Sequence[Row]], float | None]]] = [
    ("argmax", lambda rows: _mean(rows, "published", None, "argmax_z")),
    ("mass log10 p", lambda rows: _mean(rows, "published", None, "mass_log10_p")),
    ("text votes", lambda rows: _mean(rows, "text", None, "votes_z")),
    ("text, base", lambda rows: _z(rows, "text", "base", "excess")),
    ("top 5, base", lambda rows: _z(rows, "log-probabilities", "base")),
    ("logits, no reference", lambda rows: _z(rows, "logits", None, "mass")),
    ("logits, unrelated", lambda rows: _z(rows, "logits", "unrelated")),
    ("logits, control", lambda rows: _z(rows, "logits", "full-0")),
    ("logits, base", lambda rows: _z(rows, "logits", "base")),
    ("ledger, base", lambda rows: _z(rows, "logits, ledger", "base")),
    ("ledger, unrelated", lambda rows: _z(rows, "logits, ledger", "unrelated")),
    ("ledger, top 5, base", lambda rows: _z(rows, "log-probabilities, ledger", "base")),
    ("normed", lambda rows: _z(rows, "logits", "base", "log-ratio normed")),
    ("difference", lambda rows: _z(rows, "logits", "base", "difference")),
    ("log10 p", lambda rows: _mean(rows, "logits", "base", "log10_p")),
]


def _table(groups: dict[str, list[Row]], columns: Sequence[tuple[str, Any]], first: str) -> list[str]:
    lines = [
        f"| {first} | keys | " + " | ".join(name for name, _ in columns) + " |",
        "|---|--:|" + "--:|" * len(columns),
    ]
    for name, rows in groups.items():
        keys = len({(row["student"], row["key"]) for row in rows})
        shown = [_shown(figure(rows)) for _, figure in columns]
        lines.append(f"| {name} | {keys} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _doses(found: Sequence[Row]) -> list[str]:
    """One line for each setting, recipe and share; the last of a setting is of keys that marked nothing."""
    lines = ["## Doses: z by what is read", ""]
    plain = [
        r for r in found if r.get("change") == "" and r["access"] != "attribution" and "/crowd" not in r["student"]
    ]
    for setting in sorted({r["student"].rpartition("/")[0] for r in plain}):
        groups: dict[str, list[Row]] = {}
        mine = [r for r in plain if r["student"].startswith(f"{setting}/")]
        for row in sorted(mine, key=lambda r: (-r["share"], r["student"])):
            kind = row["student"].rpartition("/")[2].partition("-")[0]
            named = f"{100 * row['share']:g} %, {kind}" if row["share"] else "0 %, keys that marked nothing"
            groups.setdefault(named, []).append(row)
        if len({row["student"] for row in mine}) > 1:
            lines += [f"### {setting}", "", *_table(groups, COLUMNS, "share, student")]
    return lines


def _grid(found: Sequence[Row]) -> list[str]:
    """Width by strength: the log-ratio against the base."""
    rows = [r for r in found if r.get("change") == "" and r["key"] == "" and "/full-" in r["student"] and r["share"]]
    columns = [c for c in COLUMNS if c[0] in ("argmax", "text votes", "text, base", "logits, base", "log10 p")]
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["student"]):
        if row["student"].startswith("demo/"):
            groups.setdefault(f"{row['student']}", []).append(row)
    return ["## Widths, strengths, samplers", "", *_table(groups, columns, "student")] if len(groups) > 3 else []


def _attacks(found: Sequence[Row]) -> list[str]:
    rows = [r for r in found if r.get("change") and r["share"]]
    groups: dict[str, list[Row]] = {}
    for origin in ("full-100", "full-20"):
        path = f"demo/w1d2/{origin}"
        groups[f"{path} (no attack)"] = [r for r in found if r["student"] == path and r.get("share")]
    for row in rows:
        groups.setdefault(f"{row['student']}", []).append(row)
    groups = {name: rows for name, rows in groups.items() if rows}
    columns = [
        c for c in COLUMNS if c[0] not in ("mass log10 p", "logits, no reference", "logits, control", "difference")
    ]
    return ["## Attacks", "", *_table(groups, columns, "student")] if rows else []


def _crowds(found: Sequence[Row]) -> list[str]:
    rows = [r for r in found if r["access"] == "attribution"]
    if not rows:
        return []
    lines = [
        "## Attribution: which accounts a student learned from",
        "",
        "Logits against the base; Holm at 1 % over all candidates, by mean e-value and by one statistic's exact tail.",
        "",
        "| student | accounts | candidates | found | false | found by tail | false by tail | median z |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['student']} | {r['taught']} | {r['candidates']:,} | {r['found']} | {r['false']} "
            f"| {r['found_alone']} | {r['false_alone']} | {statistics.median(r['z'][r['statistic']]):.1f} |"
        )
    return [*lines, ""]


def plotted(found: Sequence[Row], folder: Path) -> None:
    """study-doses.svg: z by share for each way of reading, the demo's students of window 1 and delta 2."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "study"
    wanted = ("argmax", "text votes", "text, base", "top 5, base", "logits, unrelated", "logits, base")
    rows = [r for r in found if r.get("change") == "" and r["student"].startswith("demo/w1d2/") and r["share"]]
    shares = sorted({row["share"] for row in rows})
    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for name, column in [c for c in COLUMNS if c[0] in wanted]:
        points = [(s, column([r for r in rows if r["share"] == s])) for s in shares]
        known = [(100 * s, z) for s, z in points if z is not None and z > 0]
        axes.plot([s for s, _ in known], [z for _, z in known], marker="o", label=name)
    axes.axhline(3.1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlabel="marked share of the training tokens, %", ylabel="z (dotted: p = 0.001)"
    )
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "study-doses.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the page")
    parser.add_argument("--command", default="make study")
    given = parser.parse_args()
    publish(given.work, given.results, given.command)


if __name__ == "__main__":
    main()
