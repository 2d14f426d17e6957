"""Tokens read per CPU-second: our reading of an engine's mark beside the engine's own detector, in one run.

    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py                    # what is installed: transformers
    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py PEERS [NAME ...]   # PEERS: see engine_peers
    WMARK_NUMBA=0 python benchmarks/engine_throughput.py                        # ours in numpy alone

The text is that of Python's own documentation (pydoc), its words and signs numbered by their ranks, below a vocabulary
of 128,256; both read the same ids, ours with its once-per-cell rule and its exact p-value, in one process and by turns.
What counts are the ratios; CPU seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from engine_peers import PEERS, hf_kgw, words_of

from watermark import prf
from watermark.keys import Key
from watermark.schemes import canonical
from watermark.schemes.engines import ENGINES

VOCABULARY = 128_256
LENGTHS = (200, 1_000, 5_000, 20_000)
INSTALLED = ("hf-kgw/lefthash", "hf-kgw/selfhash", "hf-synthid/table")
TIMED = PEERS | {"hf-kgw/lefthash": hf_kgw("lefthash", once=True)}  # n-grams once: what its detector needs least for


def ours(name: str) -> Callable[[list[int]], float]:
    """Each cell once, scores, and the exact p-value."""
    kind = ENGINES[name]
    sized = "vocabulary" in {field.name for field in fields(kind)}
    scheme, key = kind(**{"vocabulary": VOCABULARY} if sized else {}), Key.of_engine(words_of(name))

    def read(ids: list[int]) -> float:
        given = np.array(ids, dtype=np.uint32)
        windows = np.lib.stride_tricks.sliding_window_view(given, scheme.window)[:-1]
        choices = given[scheme.window :]
        _, first = np.unique(prf.cell_ids(*canonical(scheme, windows, choices)), return_index=True)
        green = scheme.score(windows[first], choices[first], key)
        return float(scheme.null.log10_pvalue(int(green.sum()), len(green)))

    return read


def text(count: int) -> list[int]:
    """The first ids of the documentation, ranks of words from 1 on."""
    from pydoc_data.topics import topics

    words = list(chain.from_iterable(re.findall(r"\w+|[^\w\s]", topics[name]) for name in sorted(topics)))
    rank = {word: 1 + at for at, (word, _) in enumerate(Counter(words).most_common())}
    return [rank[word] for word in words[:count]]


def seconds(reads: list[Callable[[list[int]], Any]], ids: list[int], *, least: float = 0.4) -> list[float]:
    """CPU seconds of one reading by each: the median of as many, taken by turns, as need 0.4 s."""
    spent: list[list[float]] = [[] for _ in reads]
    while min(sum(times) for times in spent) < least:
        for read, times in zip(reads, spent, strict=True):
            for _ in range(5):
                if sum(times) < least:
                    start = time.process_time()
                    read(ids)
                    times.append(time.process_time() - start)
    return [median(times) for times in spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="?", type=Path, help="folder of the peers' code; without it, what is installed")
    parser.add_argument("names", nargs="*", help="recipes; default: all")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    given = parser.parse_args()
    print("| recipe | tokens | ours, per CPU-second | theirs | ratio |\n|---|---|---|---|---|", flush=True)
    for name in given.names or (list(TIMED) if given.peers else INSTALLED):
        reads = [ours(name), TIMED[name](given.peers or Path("."), VOCABULARY)]
        for read in reads:
            read(text(100))  # compiled before the clock runs
        for length in given.lengths:
            ids = text(length)
            fast, slow = seconds(reads, ids)
            print(
                f"| {name} | {length:,} | {length / fast:,.0f} | {length / slow:,.0f} | {slow / fast:.3g} |", flush=True
            )


if __name__ == "__main__":
    main()
