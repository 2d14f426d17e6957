"""Totals under many keys: `Watermark.totals` beside a plain loop over keys (score, then a dot product), in one run.

The loop is timed on a few keys and its time for all is their multiple; both give the same integers, which is checked.
CPU seconds of one thread; numba is compiled before. Cells: distinct windows of random ids, some candidates to each.

    OMP_NUM_THREADS=1 python benchmarks/many_keys.py
    OMP_NUM_THREADS=1 WMARK_NUMBA=0 python benchmarks/many_keys.py --share 0.01
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import islice

import numpy as np

from watermark import prf
from watermark.keys import Key, decoy_keys
from watermark.mark import Watermark
from watermark.schemes import GreenList

LOOPED = 3
CASES = (
    # what it stands for, keys, windows, cells in each, statistics
    ("10,000 accounts, text: one vote a window", 10_000, 10_000, 1, 1),
    ("10,000 accounts, 20 candidates a window", 10_000, 10_000, 20, 1),
    ("1,000 decoys, a million votes", 1_000, 1_000_000, 1, 1),
    ("1,000 decoys, 20 candidates, 5 statistics", 1_000, 50_000, 20, 5),
    ("one key, a million votes", 1, 1_000_000, 1, 1),
)


def cells(windows: int, each: int, statistics: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    ids = np.repeat(rng.integers(0, 128_256, (windows, 2)).astype(np.uint32), each, axis=0)
    choices = rng.integers(0, 128_256, len(ids)).astype(np.uint32)
    return ids, choices, rng.integers(-50, 51, (statistics, len(ids))).astype(np.int32)


def cpu_seconds(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def measure(case: tuple[str, int, int, int, int], share: float) -> dict[str, object]:
    name, count, windows, each, statistics = case
    count = max(1, round(count * share))
    given = cells(windows, each, statistics)
    keys: list[Key] = list(islice(decoy_keys(b"many keys", count), count))
    mark = Watermark(GreenList(window=2), keys[0])
    some = keys[:LOOPED]

    def looped() -> np.ndarray:
        scores = (mark.rekeyed(key).score(given[0], given[1]) for key in some)
        return np.stack([given[2].astype(np.int64) @ score for score in scores])

    together, found = cpu_seconds(lambda: mark.totals(*given, keys))
    alone, expected = cpu_seconds(looped)
    if not np.array_equal(found[: len(some)], expected):
        raise SystemExit("the two ways disagree")
    naive = alone / len(some) * count
    return {
        "case": name,
        "keys": count,
        "cells": windows * each,
        "statistics": statistics,
        "loop_cpu_seconds": naive,
        "totals_cpu_seconds": together,
        "ratio": naive / together,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the keys, to be quick")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    keys = list(islice(decoy_keys(b"warm", 65), 65))
    Watermark(GreenList(window=2), keys[0]).totals(*cells(10, 2, 2), keys)
    Watermark(GreenList(window=2), keys[0]).score(*cells(10, 2, 1)[:2])
    if given.json:
        print(json.dumps({"backend": prf.backend(), "cases": [measure(case, given.share) for case in CASES]}))
        return
    print(f"backend {prf.backend()}, window 2; CPU seconds\n")
    print("| case | keys | cells | statistics | loop over keys | totals | ratio |\n|---|---|---|---|---|---|---|")
    for case in CASES:
        row = measure(case, given.share)
        print(
            f"| {row['case']} | {row['keys']:,} | {row['cells']:,} | {row['statistics']} | "
            f"{row['loop_cpu_seconds']:,.1f} | {row['totals_cpu_seconds']:,.2f} | {row['ratio']:,.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
