"""Totals under many keys: cells times keys, as `detect` asks for decoys and `attribute` for accounts.

First table: the large cases on all processors, by wall clock and CPU time, with numba and with numpy alone (timed on a
few keys; its time for all is their multiple). Second table: `Watermark.totals` beside a plain loop over keys (score,
then a dot product), CPU time of one run; the loop is timed on a few keys too. Wherever two ways are compared they give
the same integers, which is checked. Everything is compiled before. Cells: random ids, windows that never come again
unless the case says so.

    python benchmarks/many_keys.py
    python benchmarks/many_keys.py --quick
    OMP_NUM_THREADS=1 python benchmarks/many_keys.py --share 0.1 --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from watermark import prf
from watermark.keys import Key, decoy_keys
from watermark.mark import Watermark
from watermark.schemes import GreenList, Gumbel, Scheme, Tournament

LOOPED = 3
CASES = (
    # what it stands for, keys, windows, cells in each, statistics
    ("10,000 accounts, text: one vote a window", 10_000, 10_000, 1, 1),
    ("10,000 accounts, 20 candidates a window", 10_000, 10_000, 20, 1),
    ("1,000 decoys, a million votes", 1_000, 1_000_000, 1, 1),
    ("1,000 decoys, 20 candidates, 5 statistics", 1_000, 50_000, 20, 5),
    ("one key, a million votes", 1, 1_000_000, 1, 1),
)


MARK = GreenList(window=2)


@dataclass(frozen=True)
class Large:
    """A case of the first table. each: cells in a window. most: seconds that it may take, where some were agreed."""

    name: str
    keys: int
    cells: int
    scheme: Scheme = MARK
    each: int = 1
    statistics: int = 1
    most: float | None = None


LARGE = (
    Large("10,000 decoy keys, a million votes", 10_000, 1_000_000, most=10),
    Large("24,000 account keys, 100,000 votes", 24_000, 100_000, most=5),
    Large("the first with window 4", 10_000, 1_000_000, GreenList(window=4)),
    Large("the first with window 8", 10_000, 1_000_000, GreenList(window=8)),
    Large("the first with 20 cells a window", 10_000, 1_000_000, each=20),
    Large("that with 5 weighted statistics", 10_000, 1_000_000, each=20, statistics=5),
    Large("the first with Gumbel's scores", 10_000, 1_000_000, Gumbel(window=2)),
    Large("the first with a tournament's", 10_000, 1_000_000, Tournament(window=2)),
)
FEW = 600_000_000  # keys times cells that numpy is timed on: enough for it to take processes


def cells(windows: int, each: int, statistics: int, *, width: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of one statistic are votes."""
    rng = np.random.default_rng(3)
    ids = np.repeat(rng.integers(0, 128_256, (windows, width)).astype(np.uint32), each, axis=0)
    choices = rng.integers(0, 128_256, len(ids)).astype(np.uint32)
    if statistics == 1:
        return ids, choices, np.ones((1, len(ids)), dtype=np.int32)
    return ids, choices, rng.integers(-50, 51, (statistics, len(ids))).astype(np.int32)


def large(case: Large) -> dict[str, object]:
    """Wall and CPU seconds of a case, nanoseconds per key and cell, and how much longer numpy alone takes."""
    keys = list(islice(decoy_keys(b"many keys", case.keys), case.keys))
    mark = Watermark(case.scheme, keys[0])
    given = cells(case.cells // case.each, case.each, case.statistics, width=case.scheme.window)
    mark.totals(given[0][:1000], given[1][:1000], given[2][:, :1000], keys[:64])  # compiled
    walled, spent, found = timed(lambda: mark.totals(*given, keys))
    few = keys[: -(-FEW // case.cells)]
    with only_numpy():
        slow_wall, slow, expected = timed(lambda: mark.totals(*given, few))
    if not np.array_equal(found[: len(few)], expected):
        raise SystemExit("numba and numpy disagree")
    pairs, few_pairs = case.keys * case.cells, len(few) * case.cells
    return {
        "case": case.name,
        "keys": case.keys,
        "cells": case.cells,
        "wall_seconds": walled,
        "cpu_seconds": spent,
        "cpu_ns_per_key_and_cell": spent / pairs * 1e9,
        "numpy_cpu_ns_per_key_and_cell": slow / few_pairs * 1e9,
        "numpy_wall_seconds": slow_wall / few_pairs * pairs,
        "numpy_ratio": (slow / few_pairs) / (spent / pairs),
    }


@contextmanager
def only_numpy() -> Iterator[None]:
    before = os.environ.get("WMARK_NUMBA")
    os.environ["WMARK_NUMBA"] = "0"
    try:
        yield
    finally:
        del os.environ["WMARK_NUMBA"]
        if before is not None:
            os.environ["WMARK_NUMBA"] = before


def timed(work: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """(wall, CPU, result), other processes' CPU too; keys' subkeys are drawn within."""
    walled, spent = time.perf_counter(), _spent()
    found = work()
    return time.perf_counter() - walled, _spent() - spent, found


def repeated(work: Callable[[], np.ndarray], least: float = 0.3) -> tuple[float, np.ndarray]:
    """(CPU seconds of one call, its result), of as many as fill `least` seconds."""
    calls, started = 0, time.process_time()
    while (spent := time.process_time() - started) < least or not calls:
        found = work()
        calls += 1
    return spent / calls, found


def _spent() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    return sum(os.times()[:4])


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

    together, found = repeated(lambda: mark.totals(*given, keys))
    alone, expected = repeated(looped)
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
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the keys, multiplied")
    parser.add_argument("--only", type=int, default=len(LARGE), help="so many of the large cases")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    share = 0.064 if given.quick else given.share
    keys = list(islice(decoy_keys(b"warm", 65), 65))
    Watermark(GreenList(window=2), keys[0]).totals(*cells(10, 2, 2), keys)
    Watermark(GreenList(window=2), keys[0]).score(*cells(10, 2, 1)[:2])
    of_all = [replace(case, keys=max(1, round(case.keys * share))) for case in LARGE[: given.only]]
    if given.json:
        found = {"large": [large(case) for case in of_all], "cases": [measure(case, share) for case in CASES]}
        print(json.dumps({"backend": prf.backend(), "threads": prf.threads()} | found))
        return
    print(f"backend {prf.backend()}, {prf.threads()} threads; seconds for all keys\n")
    print("| case | wall | CPU | ns per key and cell | numpy alone, ns | wall | ratio of CPU |\n" + "|---" * 7 + "|")
    for case, whole in zip(of_all, LARGE):
        row = large(case)
        times = whole.keys / case.keys
        agreed = f" (of {whole.most:g})" if whole.most else ""
        print(
            f"| {case.name} | {row['wall_seconds'] * times:.1f}{agreed} | {row['cpu_seconds'] * times:.1f} | "
            f"{row['cpu_ns_per_key_and_cell']:.2f} | {row['numpy_cpu_ns_per_key_and_cell']:.1f} | "
            f"{row['numpy_wall_seconds'] * times:.0f} | {row['numpy_ratio']:.1f} |",
            flush=True,
        )
    print("\n| case | keys | cells | statistics | loop over keys | totals | ratio |\n" + "|---" * 7 + "|")
    for case in CASES:
        row = measure(case, share)
        print(
            f"| {row['case']} | {row['keys']:,} | {row['cells']:,} | {row['statistics']} | "
            f"{row['loop_cpu_seconds']:,.2f} | {row['totals_cpu_seconds']:,.2f} | {row['ratio']:,.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
