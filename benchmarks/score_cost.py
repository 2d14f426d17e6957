"""The cost of marking a score beside the cost of the score itself, in one run on one thread.

Times mark.tilt on rows of a numpy array, in batches and one at a time, and scikit-learn's predict_proba of gradient
boosting on the same rows. Each repeat times all; figures are medians of process time. Asked are at most 50 microseconds
a row in batches and 300 for a single row; --check exits 1 if one is missed.

    OMP_NUM_THREADS=1 python benchmarks/score_cost.py
    OMP_NUM_THREADS=1 python benchmarks/score_cost.py --columns 40 --classes 10 --own 0.5 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from watermark.keys import decoy_keys
from watermark.scores import Basis, Direction, Marker

BATCH_US, SINGLE_US = 50.0, 300.0


def cpu_microseconds(work: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return 1e6 * (time.process_time() - started) / times


def measure(columns: int, classes: int, size: int, own: float, batch: int, repeats: int) -> dict[str, object]:
    """Median microseconds a row of marking and of scoring, in batches and for single rows, and their ratios."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(max(batch, 10 * size), columns))
    labels = np.argsort(np.argsort(inputs @ rng.normal(size=columns))) * classes // len(inputs)
    teacher = HistGradientBoostingClassifier(max_iter=100).fit(inputs, labels)
    mark = Marker(
        Direction(channels=classes, own=own), Basis.fit(inputs, size=size), next(iter(decoy_keys(b"cost", 1)))
    )
    many, one = inputs[:batch], inputs[:1]
    answers = teacher.predict_proba(many)
    timed = {
        "batch_tilt": (lambda: mark.tilt(answers, many), 1, batch),
        "batch_scores": (lambda: teacher.predict_proba(many), 1, batch),
        "single_tilt": (lambda: mark.tilt(answers[:1], one), 50, 1),
        "single_scores": (lambda: teacher.predict_proba(one), 5, 1),
    }
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):  # the first is to warm up
        for name, (work, times, rows) in timed.items():
            found = cpu_microseconds(work, times) / rows
            if repeat:
                spent[name].append(found)
    found = {f"{name}_us": statistics.median(values) for name, values in spent.items()}
    ratios = {f"{kind}_ratio": found[f"{kind}_tilt_us"] / found[f"{kind}_scores_us"] for kind in ("batch", "single")}
    asked = {"columns": columns, "classes": classes, "basis": size, "own": own, "batch": batch, "repeats": repeats}
    return asked | found | ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--basis", type=int, default=200)
    parser.add_argument("--own", type=float, default=0.0, help="share of the mark for the single input")
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is missed")
    given = parser.parse_args()
    found = measure(given.columns, given.classes, given.basis, given.own, given.batch, given.repeats)
    if given.json:
        print(json.dumps(found))
    else:
        print(f"{given.columns} columns, {given.classes} classes, basis of {given.basis}, own {given.own}")
        for kind, rows, limit in (
            ("batch", f"batch of {given.batch:,}", BATCH_US),
            ("single", "single row", SINGLE_US),
        ):
            print(
                f"{rows:<16} tilt {found[f'{kind}_tilt_us']:>7.1f} us a row (at most {limit:.0f}), predict_proba "
                f"{found[f'{kind}_scores_us']:>7.1f}, ratio {found[f'{kind}_ratio']:.3f}"
            )
    if given.check and (found["batch_tilt_us"] > BATCH_US or found["single_tilt_us"] > SINGLE_US):
        sys.exit(1)


if __name__ == "__main__":
    main()
