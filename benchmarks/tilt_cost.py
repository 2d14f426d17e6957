"""The cost of marking: one tilt step beside the sampling that follows it, in one run on one thread.

Times mark.tilt of each scheme on a batch of float32 logits, with numba and with WMARK_NUMBA=0, as a share of torch's
softmax and multinomial on the same logits: also where one token is nearly certain, as in a model it often is, and of
schemes that redraw where top-k left 50 tokens of each row. Each repeat times all; shares are of process time.

    OMP_NUM_THREADS=1 python benchmarks/tilt_cost.py
    OMP_NUM_THREADS=1 python benchmarks/tilt_cost.py --batch 16 --repeats 9 --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.schemes import AntiDistill, GreenList, Gumbel, Tournament, marks_once


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


MARKS = (GreenList, AntiDistill, Gumbel, Tournament)


def measure(
    scheme: type, kept: int, sure: bool, vocabulary: int, batch: int, window: int, repeats: int
) -> dict[str, object]:
    """Median milliseconds of each, and the median and range of each share.

    kept: tokens of a row that are not -inf. sure: whether one of them stands 25 nats above.
    """
    binding = Binding("benchmark", vocabulary, (vocabulary - 2, vocabulary - 1))
    mark = Watermark(scheme(window=window), next(iter(decoy_keys(b"tilt", 1))), binding)
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.standard_normal((batch, vocabulary), dtype=np.float32) * 3)
    if sure:
        logits[:, 7] += 25
    if kept < vocabulary:
        best = logits.topk(kept)
        logits = torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)
    contexts = rng.integers(0, vocabulary - 2, (batch, window))

    def sample() -> torch.Tensor:
        return torch.multinomial(torch.softmax(logits, dim=-1), 1)

    def tilt(numba: str) -> Callable[[], object]:
        def tilted() -> torch.Tensor:
            os.environ["WMARK_NUMBA"] = numba
            return mark.tilt(logits, contexts)

        return tilted

    timed = {"sampling": sample, "numba": tilt("1"), "numpy": tilt("0")}
    for work in timed.values():
        work()  # compiled and warm
    spent: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            spent[name].append(cpu_seconds(work))
    found: dict[str, object] = {
        "scheme": mark.scheme.name,
        "vocabulary": vocabulary,
        "kept": kept,
        "sure": sure,
        "batch": batch,
        "window": window,
        "repeats": repeats,
    }
    for name, seconds in spent.items():
        found[f"{name}_ms"] = 1_000 * statistics.median(seconds)
        if name != "sampling":
            shares = [mine / other for mine, other in zip(seconds, spent["sampling"])]
            found[f"{name}_share"] = statistics.median(shares)
            found[f"{name}_share_range"] = [min(shares), max(shares)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = given.vocabulary
    asked = [(scheme, whole, sure) for sure in (False, True) for scheme in MARKS]
    asked += [(scheme, 50, False) for scheme in MARKS if marks_once(scheme)]
    rows = [measure(*each, whole, given.batch, given.window, given.repeats) for each in asked]
    if given.json:
        print(json.dumps(rows))
        return
    print(f"vocabulary {whole:,}, batch {given.batch}, window {given.window}, {given.repeats} repeats\n")
    print("| scheme | tokens a row | sampling, ms | with numba | numpy alone |\n|---|---|---|---|---|")
    for found in rows:
        shares = []
        for name in ("numba", "numpy"):
            low, high = found[f"{name}_share_range"]
            shares.append(f"{found[f'{name}_share']:.3f} ({low:.3f}–{high:.3f})")
        said = f"{found['scheme']}{', one token nearly certain' if found['sure'] else ''}"
        print(f"| {said} | {found['kept']:,} | {found['sampling_ms']:.0f} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
