"""What the ledger's stores cost: rows written and read, bytes a row, opening, and building a filter of the windows.

    python benchmarks/ledger_stores.py [--rows 20000] [--url postgresql://…] [--filter 1e8]

Answers of 200 tokens after prompts of 100 characters. Seconds of this process's CPU; appends one by one wait for the
disk, so these are wall seconds of the disk that is here. `--filter N` builds filters of N random windows instead.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from watermark.keys import decoy_keys
from watermark.ledger import Answer, Ledger, copy_ledger, read_ledger
from watermark.ledger.filters import BITS, WindowFilter, write_filter
from watermark.mark import Watermark
from watermark.observe import filter_ledger
from watermark.schemes import GreenList

MARK = Watermark(GreenList(window=2), next(iter(decoy_keys(b"ledger stores", 1))))
TOKENS, PROMPT, BATCH, ONE_BY_ONE = 200, "What would you say to somebody who asks how ledgers are kept? " * 2, 64, 500


def answers(count: int) -> list[Answer]:
    rng = np.random.default_rng(0)
    receipt = {
        "scheme": "greenlist/1", "kid": MARK.key.kid, "engine": "transformers", "applied": True, "reason": None,
        "tokens": TOKENS, "tokens_marked": TOKENS - 2, "shared_kid": None,
    }  # fmt: skip
    rows = rng.integers(0, 128_000, (count, TOKENS)).tolist()
    return [Answer(f"p{n}", MARK.key.kid, receipt, PROMPT[:100], row) for n, row in enumerate(rows)]


def took(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    work()
    return clock() - start


def write(where: str | Path, given: list[Answer], batch: int) -> None:
    with Ledger(where) as ledger:
        for start in range(0, len(given), batch):
            ledger.append_many(given[start : start + batch])


def measured(where: str | Path, given: list[Answer], folder: Path) -> dict[str, float]:
    few = given[:ONE_BY_ONE]
    one = took(lambda: write(where, few, 1), time.perf_counter)
    many = took(lambda: write(where, given, BATCH))
    opened = took(lambda: Ledger(where).close())
    read = took(lambda: sum(1 for _ in read_ledger(where)))
    filtered = took(lambda: filter_ledger(where, MARK, folder / f"{len(list(folder.iterdir()))}.filter"))
    total = len(few) + len(given)
    size = float("nan") if "://" in str(where) else Path(where).stat().st_size / total
    return {
        "one": len(few) / one, "many": len(given) / many, "read": total / read, "open_ms": 1000 * opened,
        "filter": total / filtered, "bytes": size,
    }  # fmt: skip


def random_windows(count: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint64]]]:
    rng = np.random.default_rng(1)
    for start in range(0, count, 1_000_000):
        yield rng.integers(0, 2**64, min(1_000_000, count - start), dtype=np.uint64)


def filters(count: int, folder: Path) -> None:
    drawing = took(lambda: sum(map(len, random_windows(count))))
    for bits in (BITS, 32):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        made = write_filter(random_windows(count), folder / f"{bits}", MARK, told=lambda: (0, ""), bits=bits)
        built = time.process_time() - start - drawing
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"filter of {len(made):,} windows, {bits} bits: {made.path.stat().st_size / len(made):.2f} bytes a window, "
            f"built in {built:.1f} CPU s, peak memory {peak >> 10} MiB ({before >> 10} before)"
        )
        asked = list(random_windows(2_000_000))
        for batch in (1_000, 100_000, 1_000_000):
            parts = [part for names in asked for part in np.split(names, 1_000_000 // batch)][:200]
            made.holds(parts[0])
            spent = took(partial(looked_up, made, parts))
            print(f"  {batch:,} lookups at once: {len(parts) * batch / spent / 1e6:.2f} million a CPU-second")


def looked_up(made: WindowFilter, parts: list[np.ndarray[Any, np.dtype[np.uint64]]]) -> None:
    for part in parts:
        made.holds(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--url", help="a PostgreSQL database that may be written to")
    parser.add_argument("--filter", type=float, default=0, help="build filters of so many random windows instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.filter:
            filters(int(asked.filter), folder)
            return
        given = answers(asked.rows)
        print("store        one by one/s   in batches/s   read/s   opened ms   filter rows/s   bytes a row")
        for where in (folder / "l.jsonl", folder / "l.sqlite", *([asked.url] if asked.url else [])):
            found = measured(where, given, folder)
            label = "PostgreSQL" if "://" in str(where) else Path(where).suffix[1:]
            print(
                f"{label:<12}{found['one']:>13,.0f}{found['many']:>15,.0f}{found['read']:>9,.0f}"
                f"{found['open_ms']:>12.1f}{found['filter']:>16,.0f}{found['bytes']:>14,.0f}"
            )
        copy_ledger(folder / "l.sqlite", folder / "l.parquet")
        read = took(lambda: sum(1 for _ in read_ledger(folder / "l.parquet")))
        total = len(given) + min(ONE_BY_ONE, len(given))
        size = (folder / "l.parquet").stat().st_size / total
        print(f"{'parquet':<12}{'–':>13}{'–':>15}{total / read:>9,.0f}{'–':>12}{'–':>16}{size:>14,.0f}")


if __name__ == "__main__":
    main()
