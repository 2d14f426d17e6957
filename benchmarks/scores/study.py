"""The study of scores: who learned from marked answers, how surely it is found, and what marking cost.

    make study-scores                                       everything: about two hours on one core
    python benchmarks/scores/study.py --work study/scores --quick
    python benchmarks/scores/study.py --work study/scores --only 'real/flights'
    python benchmarks/scores/study.py --work study/scores --list

Every cell is one file of JSON in the work folder; what is there is not made again, so a run that was stopped goes on.
`tables.py` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cell import Cell
from measure import Bench, bench_of, cost, evidence, judged, quiet, single_inputs, the_basis, the_key, the_scheme
from tasks import Array

from watermark.files import write_whole
from watermark.scores import Marker

SMALL = ("digits", "cancer", "wine", "diabetes")
PROBES = (200, 500, 1000, 5000)


def cells(quick: bool) -> Iterator[Cell]:
    """All cells, the most wanted first."""
    keys = 1 if quick else 3
    both = ("boosted", "network")
    for key in range(keys):
        for who in both:
            yield Cell("power", "binary", who, key=key)
            yield Cell("power", "binary", who, key=key, change="rounded", amount=2)
    for who in both:
        yield Cell("power", "five", who)
    yield from _real(quick)
    yield Cell("exact", "binary")
    if not quick:
        yield Cell("exact", "movies")
        yield Cell("exact", "cuts")
        yield Cell("exact", "binary", kind="additive")
    for size in (24,) if quick else (24, 64, 128):
        yield Cell("embeddings", "embeddings", "network", epsilon=0.05, size=size, probes=10_000)
    yield from _hard(quick)
    yield from _baselines(quick)
    yield from _grids(quick)


def _real(quick: bool) -> Iterator[Cell]:
    names = ("wine", "diabetes") if quick else ("flights", "movies", "cuts", "diamonds", *SMALL)
    for name in names:
        probes = 20_000 if name not in SMALL else 10_000
        n = 20_000 if name not in SMALL else 5_000
        kinds = ["boosted", "network", "lightgbm", "forest"]
        kinds = ["cnn", "network", "forest"] if name == "digits" else kinds
        for who in kinds[:2] if quick else kinds:
            yield Cell("real", name, who, n=n, epsilon=0.05, own=0.3, probes=probes)
        for who in kinds[:2]:
            yield Cell("real", name, who, n=n, epsilon=0.05, probes=probes)
        if not quick:
            yield Cell("real", name, kinds[0], n=n, epsilon=0.02, own=0.3, probes=probes)


def _baselines(quick: bool) -> Iterator[Cell]:
    for name in ("binary",) if quick else ("binary", "five", "flights", "movies", "cuts", "cancer", "wine", "digits"):
        probes, n = (10_000, 5_000) if name in SMALL else (20_000, 20_000)
        for epsilon in (0.02, 0.05):
            for who in ("cnn",) if name == "digits" else ("boosted", "network"):
                if (epsilon == 0.05 and name != "five") or (name in ("binary", "five") and epsilon == 0.02):
                    yield Cell("baselines", name, who, n=n, epsilon=epsilon, probes=probes)
    yield Cell("thresholds", "binary")


HARD = (
    ("temperature", 0.5),
    ("shown-rounded", 1),
    ("shown-noise", 0.05),
    ("rounded", 1),
    ("noise", 0.02),
    ("noise", 0.1),
    ("accounts", 2),
    ("teachers", 2),
    ("teachers", 4),
    ("truth", 0.5),
    ("blended", 0.5),
    ("labels-shown", 0),
    ("labels", 0),
    ("dithered", 0),
    ("tuned", 0),
)


OF_LABELS = ("labels-shown", "labels", "dithered")  # of 100,000 probes the 20,000 nearest the boundary are read


def _hard(quick: bool) -> Iterator[Cell]:
    for change, amount in HARD[:3] if quick else HARD:
        for who in ("boosted", "network"):
            for epsilon in (0.02, 0.05) if who == "boosted" else (0.02,):
                probes = 100_000 if change in OF_LABELS and not quick else 20_000
                yield Cell("hard", "binary", who, epsilon=epsilon, change=change, amount=amount, probes=probes)
    for who in ("lightgbm", "forest", "neighbours", "small", "linear"):
        for own in (0.0, 0.3):
            yield Cell("hard", "binary", who, own=own)
    for who in () if quick else ("boosted", "network"):
        for change, amount in (("teachers", 2), ("truth", 0.5)):
            yield Cell("hard", "binary", who, own=0.3, change=change, amount=amount, epsilon=0.05)


def _choices() -> Iterator[Cell]:
    """Other bases on real data."""
    for name in ("diamonds", "cuts", "cancer"):
        n, probes = (5_000, 10_000) if name in SMALL else (20_000, 20_000)
        for size, kind in ((50, "kernel"), (100, "kernel"), (400, "kernel"), (200, "additive")):
            for who in ("network",) if name == "digits" else ("boosted", "network"):
                yield Cell("choices", name, who, n=n, epsilon=0.05, size=size, kind=kind, probes=probes)


def _grids(quick: bool) -> Iterator[Cell]:
    if quick:
        return
    yield from _choices()
    for who in ("boosted", "network"):
        for n in (1000, 5000, 20_000):
            for epsilon in (0.005, 0.01, 0.02, 0.05):
                yield Cell("grid", "binary", who, n=n, epsilon=epsilon, own=0.3)
    for epsilon in (0.02, 0.05):
        yield Cell("power", "values", "boosted", epsilon=epsilon)
        yield Cell("power", "values", "network", epsilon=epsilon)


# ---------------------------------------------------------------- one cell


def found_in(cell: Cell, folder: Path) -> dict[str, Any]:
    """Everything that is measured in one cell."""
    if cell.group in ("baselines", "thresholds"):
        import published

        return published.measured(cell, folder)
    if cell.group == "embeddings":
        import embeddings

        return embeddings.measured(cell, folder)
    if cell.group == "exact":
        import exact

        return exact.measured(cell, folder)
    return suspect_cell(cell, folder)


def suspect_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """Trains the suspect and its clean double, and tests both."""
    from changes import CHANGES, Suspect

    bench = bench_of(cell.task, cell.n, cell.probes, folder)
    scheme = the_scheme(bench.task, cell.epsilon, own=cell.own)
    key, basis = the_key(cell.key), the_basis(cell.task, cell.size, cell.kind)
    marker = Marker(scheme, basis, key)
    suspect: Suspect = CHANGES[cell.change](cell, bench, marker)
    found: dict[str, Any] = {"cost": cost(bench.task, marker), "basis": basis.size}
    found["marked"] = tested(bench, scheme, key, basis, suspect)
    found["clean"] = tested(bench, scheme, key, basis, _double(_unmarked(cell), folder))
    found["quality"] = _likeness(suspect.probes, bench)
    return found


def _unmarked(cell: Cell) -> Cell:
    """The cell with all that an unmarked double does not depend on left out."""
    return replace(cell, group="", epsilon=0.02, key=0, own=0.0, size=200, kind="kernel")


@lru_cache(maxsize=8)
def _double(cell: Cell, folder: Path) -> Any:
    """What learned by the same steps from unmarked answers."""
    from changes import CHANGES

    return CHANGES[cell.change](cell, bench_of(cell.task, cell.n, cell.probes, folder), None)


def tested(bench: Bench, scheme: Any, key: Any, basis: Any, suspect: Any) -> dict[str, float]:
    """log10 p with every kind of surrogate, on fresh inputs and, if the suspect knows them, on the logged ones."""
    if suspect.labels:
        from changes import of_labels

        return of_labels(bench, scheme, key, basis, suspect)
    clean, phi = bench.clean("probes"), basis.features(bench.rows("probes"))
    own, logged = bench.surrogates("own"), bench.surrogates("logged")
    found = {}
    for name, near in (("fresh", None), ("fresh own", own), ("fresh logged", logged)):
        found[name] = evidence(suspect.probes, clean, phi, scheme, key, near)
    for m in PROBES:
        if m < len(clean):
            found[f"fresh own {m}"] = evidence(suspect.probes[:m], clean[:m], phi[:m], scheme, key, own[:m])
            found[f"fresh logged {m}"] = evidence(suspect.probes[:m], clean[:m], phi[:m], scheme, key, logged[:m])
    for m in PROBES[:2]:
        chosen = quiet(clean, own, scheme.epsilon, m)
        found[f"quiet own {m}"] = evidence(suspect.probes[chosen], clean[chosen], phi[chosen], scheme, key, own[chosen])
    asked, answers = bench.rows("thief"), bench.clean("thief")
    coordinates, near = basis.coordinates(asked), bench.surrogates("logged", "thief")
    phi = basis.at(coordinates)
    for name, surrogates in (("asked", None), ("asked logged", near)):
        found[name] = evidence(suspect.asked, answers, phi, scheme, key, surrogates)
        if scheme.own:
            found[f"{name} inputs"] = single_inputs(suspect.asked, answers, coordinates, scheme, key, surrogates)
    return found


def _likeness(answers: Array, bench: Bench) -> dict[str, float]:
    """How well the suspect copies its teacher, and how well it predicts."""
    clean, y = bench.clean("probes"), bench.task.labels("probes", bench.probes)
    if bench.task.output == "values":
        return {"r2": float(1 - np.mean((answers - clean) ** 2) / clean.var())}
    agreement = float((answers.argmax(axis=1) == clean.argmax(axis=1)).mean())
    misfit = float(np.sqrt(np.mean((answers - clean) ** 2)))
    return judged(answers, y.astype(int)) | {"agreement": agreement, "misfit": misfit}


# ---------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a smaller size of the same: minutes")
    parser.add_argument("--only", default="", help="cells whose name this pattern finds")
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    wanted = [cell for cell in cells(chosen.quick) if re.search(chosen.only, cell.name)]
    if chosen.quick:
        wanted = [replace(cell, n=min(cell.n, 5000), probes=min(cell.probes, 5000)) for cell in wanted]
    for cell in wanted:
        path = chosen.work / "cells" / f"{cell.name.replace('/', '.')}.json"
        if chosen.list:
            print("  made" if path.exists() else "  to do", cell.name)
            continue
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            found = found_in(cell, chosen.work)
        except Exception:
            print(f"{cell.name} failed", traceback.format_exc(), sep="\n", flush=True)
            continue
        seconds = round(time.monotonic() - started, 1)
        told = {"name": cell.name, **asdict(cell), "seconds": seconds, "found": found}
        write_whole(path, (json.dumps(told, indent=1) + "\n").encode())
        print(f"{cell.name} {seconds} s {_short(found)}", flush=True)


def _short(found: dict[str, Any]) -> str:
    marked, clean = found.get("marked", {}), found.get("clean", {})
    shown = [f"{name} {marked[name]:.1f} [{clean.get(name, 0):.1f}]" for name in marked if not name[-1].isdigit()]
    return " | ".join(shown)


if __name__ == "__main__":
    main()
