"""The page of the study of scores: docs/results/scores.{json,md} and a plot, from the cells in a work folder.

    python benchmarks/scores/tables.py study/scores

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
TASKS = {
    "binary": "generated, 2 classes",
    "five": "generated, 5 classes",
    "values": "generated, a value",
    "digits": "digits (10 classes)",
    "cancer": "breast cancer (2)",
    "wine": "wine (3)",
    "diabetes": "diabetes (a value)",
    "flights": "flights (2)",
    "movies": "movies (2)",
    "cuts": "diamonds' cut (5)",
    "diamonds": "diamonds' price (a value)",
}


def publish(work: Path, folder: Path, command: str) -> None:
    """Writes page, figures and plot to `folder`."""
    rows = [json.loads(path.read_bytes()) for path in sorted((work / "cells").glob("*.json"))]
    folder.mkdir(parents=True, exist_ok=True)
    told = {**_described(command), "cells": rows}
    write_whole(folder / "scores.json", (json.dumps(told, separators=(",", ":")) + "\n").encode())
    parts = (_head, _power, _few, _real, _choices, _costs, _exact, _published, _thresholds, _vectors, _hard, _grid)
    page = "\n".join([*_title(told, rows), *(line for part in parts for line in part(rows))])
    path = folder / "scores.md"
    before = path.read_text("utf-8") if path.exists() else ""
    remarks = before[before.index(REMARKS) :] if REMARKS in before else ""
    write_whole(path, (page + "\n" + remarks).encode())
    if any(row["group"] == "grid" for row in rows):
        plotted(rows, folder / "scores-power.svg")


def _described(command: str) -> Row:
    names = ("wmark", "numpy", "scipy", "scikit-learn", "lightgbm", "torch")
    return {
        "command": command,
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.system()} on {platform.machine()}, one of {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def _title(told: Row, rows: Sequence[Row]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    hours = sum(row["seconds"] for row in rows) / 3600
    return [
        "# Study of scores",
        "",
        f"`{told['command']}`, {told['made']}; {told['machine']}; {versions}; {len(rows)} cells, {hours:.1f} hours.",
        "Any cell is made again by `python benchmarks/scores/study.py --work DIR --only NAME`; `--list` has the names.",
        "",
    ]


def _head(rows: Sequence[Row]) -> list[str]:
    return [
        "All figures are log10 p, exact whatever the suspect is; in brackets the same test of a double that learned",
        "in the same way from unmarked answers. `fresh`: inputs that nobody asked before; `asked`: the inputs that",
        "the thief asked, from the log. `alone`: only the owner's clean answers are taken away; `own`: so are",
        "surrogates that it trained on inputs of its own; `logged`: surrogates trained on the logged inputs.",
        "`inputs`: the part of a two-tier key (own = 0.3) that is for single inputs, on the log. Whoever looks at k",
        "of these tests multiplies the least p by k.",
        "",
    ]


# ---------------------------------------------------------------- tables


def _power(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "power"]
    lines = ["## Power on the generated task", "", "20,000 marked answers, 20,000 probes.", ""]
    lines += _header(
        "task, student, epsilon", "keys", "fresh alone", "fresh own", "fresh logged", "asked logged", "flips"
    )
    for name, group in _grouped(chosen, lambda r: (r["task"], r["student"], r["epsilon"], r["change"])):
        task, student, epsilon, change = name
        label = f"{TASKS[task]}, {student}, {epsilon:g}" + (", two digits on both sides" if change else "")
        shown = [_pair(group, test) for test in ("fresh", "fresh own", "fresh logged", "asked logged")]
        flips = sum(r["found"]["cost"].get("flips", 0) for r in group)
        lines.append(_row(label, len(group), *shown, f"{flips:g}"))
    return [*lines, ""]


def _few(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "power" and row["task"] == "binary" and not row["change"]]
    names = ["fresh own 200", "quiet own 200", "fresh logged 200", "fresh own 500", "quiet own 500", "fresh own 1000"]
    names += ["fresh logged 1000", "fresh own 5000"]
    lines = [
        "### Few probes",
        "",
        "Two classes, epsilon 0.02. `quiet`: of 20,000 candidates the probes where the owner's",
    ]
    lines += [
        "surrogates agree best with its clean answer and where the answer has room; chosen without key or suspect.",
        "",
    ]
    lines += _header("student", *names)
    for student, group in _grouped(chosen, lambda r: r["student"]):
        lines.append(_row(student, *(_pair(group, test) for test in names)))
    return [*lines, ""]


def _real(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "real"]
    lines = ["## Real data", "", "One key a cell; n: marked answers learned. Bold: p <= 1e-6.", ""]
    lines += _header(
        "data", "student", "n", "epsilon", "own", "fresh own", "fresh logged", "asked", "asked logged", "inputs",
        "inputs, logged", "likeness",
    )  # fmt: skip
    for row in sorted(chosen, key=lambda r: (list(TASKS).index(r["task"]), r["student"], r["epsilon"], r["own"])):
        tests = ("fresh own", "fresh logged", "asked", "asked logged", "asked inputs", "asked logged inputs")
        shown = [_bold(row, test) for test in tests]
        quality = row["found"]["quality"]
        like = f"R2 {quality['r2']:.2f}" if "r2" in quality else f"{100 * quality['agreement']:.0f} %"
        lines.append(
            _row(TASKS[row["task"]], row["student"], f"{row['n']:,}", row["epsilon"], row["own"], *shown, like)
        )
    return [*lines, ""]


def _choices(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] in ("choices", "real") and row["epsilon"] == 0.05 and not row["own"]]
    tasks = {row["task"] for row in rows if row["group"] == "choices"}
    lines = ["### Other bases", "", "epsilon 0.05, no per-input part; fresh own / fresh logged / asked logged.", ""]
    kinds = [(50, "kernel"), (100, "kernel"), (200, "kernel"), (400, "kernel"), (200, "additive")]
    lines += _header("data, student", *(f"{kind}, {size}" for size, kind in kinds))
    for name, group in _grouped(chosen, lambda r: (list(TASKS).index(r["task"]), r["student"])):
        if list(TASKS)[name[0]] not in tasks:
            continue
        by = {(row["size"], row["kind"]): row["found"]["marked"] for row in group}
        shown = [
            " / ".join(f"{by[k][test]:.1f}" for test in ("fresh own", "fresh logged", "asked logged"))
            if k in by
            else ""
            for k in kinds
        ]
        lines.append(_row(f"{list(TASKS.values())[name[0]]}, {name[1]}", *shown))
    return [*lines, ""]


def _costs(rows: Sequence[Row]) -> list[str]:
    lines = ["### What marking cost", "", "On rows with true labels that nobody learned from; change by the mark.", ""]
    lines += _header("data", "epsilon", "own", "rows", "largest move", "flips", "accuracy", "log loss", "Brier", "ECE")
    chosen = [row for row in rows if row["group"] in ("real", "power")]
    for name, group in _grouped(chosen, lambda r: (list(TASKS).index(r["task"]), r["epsilon"], r["own"])):
        cost, (place, epsilon, own) = group[0]["found"]["cost"], name
        task = list(TASKS.values())[place]
        if "rmse" in cost:
            shown = f"root mean square error {cost['rmse']:.4g} ({cost['rmse change']:+.2g})"
            lines.append(
                _row(task, epsilon, own, f"{cost['rows']:g}", f"{cost['largest move']:.3g}", "", "", shown, "", "")
            )
            continue
        changes = [f"{cost[m]:.4f} ({cost[m + ' change']:+.5f})" for m in ("accuracy", "log loss", "brier", "ece")]
        lines.append(
            _row(task, epsilon, own, f"{cost['rows']:g}", f"{cost['largest move']:.3f}", f"{cost['flips']:g}", *changes)
        )
    return [*lines, ""]


def _exact(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "exact"]
    if not chosen:
        return []
    keys, alphas = chosen[0]["found"]["keys"], ("0.05", "0.01", "0.001")
    bounds = ", ".join(f"{2 * (float(a) * (1 - float(a)) / keys) ** 0.5:.4f} at {a}" for a in alphas)
    lines: list[str] = []
    for row in chosen:
        found = row["found"]
        lines += [f"### {TASKS[row['task']]}, {row['kind']} basis, {found['dimensions']:,} dimensions", ""]
        lines += _header("suspect", *(f"own, {a}" for a in alphas), *(f"alone, {a}" for a in alphas), "naive, 0.01")
        for name, told in found.items():
            if isinstance(told, dict):
                surrogates = ("own surrogates", "no surrogates")
                ours = [_within(told[which][a], float(a), keys) for which in surrogates for a in alphas]
                lines.append(_row(name, *ours, f"{told['naive']['0.01']:.3f}"))
        lines.append("")
    beyond = sum(line.count("*") for line in lines)
    return [
        "## Exactness",
        "",
        f"Share of {keys:,} keys that each innocent suspect is rejected under, by our test; two binomial standard",
        f"errors are {bounds}; * is beyond: {beyond} of {_rates(chosen)} rates, where a",
        f"perfect test has {0.0455 * _rates(chosen):.0f}. The naive test is Pearson's correlation of deviation and",
        f"the mark, over {chosen[0]['found']['naive keys']:,} keys.",
        "",
        *lines,
    ]


def _rates(chosen: Sequence[Row]) -> int:
    return sum(6 for row in chosen for told in row["found"].values() if isinstance(told, dict))


def _within(rate: float, alpha: float, keys: int) -> str:
    far = abs(rate - alpha) > 2 * (alpha * (1 - alpha) / keys) ** 0.5
    return f"{rate:.4f}{'*' if far else ''}"


def _published(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "baselines"]
    if not chosen:
        return []
    lines = ["## Published marks at the same cost", ""]
    lines += [
        "The largest move is epsilon for all. CosWM and DRW: log10 of the rank of their own statistic among 400 decoy",
        "keys (-2.6 is the first place), and in parentheses z of a matched filter on our residual with our surrogates,",
        "which their papers don't have; the better of the frequencies 16 and 30 where both were run. DAWN: exact",
        "hypergeometric log10 p on the log; as published its answers move by far more than epsilon; `near` swaps only",
        "classes that are within epsilon. Ours: log10 p, and the rank of our cosine among as many decoy keys.",
        "",
    ]
    lines += _header(
        "data", "student", "epsilon", "ours, fresh own", "fresh logged", "asked", "inputs", "rank", "CosWM", "DRW",
        "DAWN 0.5 %", "DAWN near", "flips: CosWM, DRW, DAWN, near",
    )  # fmt: skip
    for row in sorted(chosen, key=lambda r: (list(TASKS).index(r["task"]), r["student"], r["epsilon"])):
        found, ours = row["found"], row["found"]["ours"]
        waved = [_best(found, name) for name in ("coswm", "drw")]
        wrong = [found[name] for name in ("dawn 0.5 %", "dawn within epsilon")]
        flips = ", ".join(f"{100 * told['flips']:.2f}" for told in (*waved, *wrong)) + " %"
        lines.append(
            _row(
                TASKS[row["task"]], row["student"], row["epsilon"],
                *(f"{ours[test]:.1f}" for test in ("fresh own", "fresh logged", "asked", "asked inputs", "rank")),
                *(f"{told['log10 rank']:.1f} (z {told['our residual z']:.1f})" for told in waved),
                *(f"{told['log10 p']:.1f}" for told in wrong), flips,
            )
        )  # fmt: skip
    return [*lines, ""]


def _best(found: Row, name: str) -> Row:
    told = [value for key, value in found.items() if key.startswith(name)]
    return min(told, key=lambda row: (row["log10 rank"], -row["our residual z"]))


def _thresholds(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "thresholds"]
    if not chosen:
        return []
    lines = ["### CosWM's threshold on suspects that never saw a mark", ""]
    lines += ["Share of 400 random keys; generated task, two classes.", ""]
    lines += _header("student", "frequency", "answers", "median SNR", "SNR > 3", "SNR > 10")
    for name, told in chosen[0]["found"].items():
        _, student, frequency, which = name.split("/")
        lines.append(
            _row(student, frequency, which, f"{told['median']:.2f}", f"{told['over 3']:.3f}", f"{told['over 10']:.3f}")
        )
    return [*lines, ""]


def _vectors(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "embeddings"]
    if not chosen:
        return []
    lines = ["## Embeddings", ""]
    lines += [
        "64 dimensions, 20,000 marked embeddings learned by a network, 10,000 probes; basis on 12 components.",
        "",
    ]
    lines += _header("change", *(f"B = {row['size']}" for row in chosen))
    lines.append(_row("cosine of marked to clean, mean", *(f"{r['found']['cosine to clean']:.4f}" for r in chosen)))
    lines.append(_row("cosine of the student to clean", *(f"{r['found']['marked likeness']:.4f}" for r in chosen)))
    for change in chosen[0]["found"]["marked"]:
        shown = [f"{r['found']['marked'][change]:.1f} [{r['found']['clean'][change]:.1f}]" for r in chosen]
        lines.append(_row(change, *shown))
    return [*lines, ""]


def _hard(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "hard"]
    lines = [
        "## Thieves' counter-moves and other students",
        "",
        "Generated task, two classes, 20,000 answers, one key.",
        "",
    ]
    tests = ("fresh own", "fresh logged", "asked logged", "asked inputs", "asked logged inputs")
    lines += _header("change", "student", "epsilon", "own", *tests, "agreement", "accuracy")
    for row in sorted(chosen, key=lambda r: (r["change"], r["amount"], r["student"], r["epsilon"], r["own"])):
        quality = row["found"]["quality"]
        change = f"{row['change']} {row['amount']:g}" if row["change"] else "none"
        lines.append(
            _row(
                change, row["student"], row["epsilon"], row["own"], *(_bold(row, test) for test in tests),
                f"{100 * quality['agreement']:.1f} %", f"{100 * quality['accuracy']:.1f} %",
            )
        )  # fmt: skip
    return [*lines, ""]


def _grid(rows: Sequence[Row]) -> list[str]:
    chosen = [row for row in rows if row["group"] == "grid"]
    lines = ["## Answers and epsilon", "", "Two-tier key (own = 0.3); fresh own / asked logged / inputs.", ""]
    lines += _header("student, n", *(f"{e:g}" for e in (0.005, 0.01, 0.02, 0.05)))
    for name, group in _grouped(chosen, lambda r: (r["student"], r["n"])):
        by = {row["epsilon"]: row["found"]["marked"] for row in group}
        shown = [
            " / ".join(f"{by[e][test]:.1f}" for test in ("fresh own", "asked logged", "asked logged inputs"))
            if e in by
            else ""
            for e in (0.005, 0.01, 0.02, 0.05)
        ]
        lines.append(_row(f"{name[0]}, {name[1]:,}", *shown))
    return [*lines, ""]


# ---------------------------------------------------------------- pieces


def _header(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]


def _row(*values: Any) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return sorted(found.items(), key=lambda pair: pair[0])


def _pair(group: Sequence[Row], test: str) -> str:
    """Mean over keys, and in brackets of the doubles."""
    marked = [row["found"]["marked"][test] for row in group if test in row["found"]["marked"]]
    clean = [row["found"]["clean"][test] for row in group if test in row["found"]["clean"]]
    return f"{statistics.mean(marked):.1f} [{statistics.mean(clean):.1f}]" if marked else ""


def _bold(row: Row, test: str) -> str:
    if test not in row["found"]["marked"]:
        return ""
    marked, clean = row["found"]["marked"][test], row["found"]["clean"][test]
    shown = f"{marked:.1f}" if marked > -6 else f"**{marked:.1f}**"
    return f"{shown} [{clean:.1f}]"


def plotted(rows: Sequence[Row], path: Path) -> None:
    """log10 p against epsilon, a line for each student and number of answers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "wmark"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, test in zip(axes, ("fresh own", "asked logged"), strict=True):
        for (student, n), group in _grouped(
            [r for r in rows if r["group"] == "grid"], lambda r: (r["student"], r["n"])
        ):
            points = sorted((row["epsilon"], row["found"]["marked"][test]) for row in group)
            style = "-" if student == "boosted" else "--"
            axis.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=f"{student}, {n:,} answers")
        axis.axhline(-6, color="grey", linewidth=0.8)
        axis.set(
            xscale="log", xlabel="epsilon", title={"fresh own": "fresh inputs", "asked logged": "logged inputs"}[test]
        )
    axes[0].set_ylabel("log10 p")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--command", default="make study-scores")
    chosen = parser.parse_args()
    publish(chosen.work, chosen.results, chosen.command)


if __name__ == "__main__":
    main()
