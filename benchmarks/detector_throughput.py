"""Tokens scored in a CPU-second: transformers' WatermarkDetector and ours, on the same token ids in one run.

Both read ids (no tokenizing) and score one key: theirs lefthash with context width 1, ours observe + score
with the same width, gamma and vocabulary. Rates are tokens per second of process time; each repeat times both.

    OMP_NUM_THREADS=1 python benchmarks/detector_throughput.py
    OMP_NUM_THREADS=1 python benchmarks/detector_throughput.py --tokens 2000 --repeats 9 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig

from watermark import prf
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.schemes import GreenList


def zipf_answers(tokens: int, vocabulary: int, seed: int) -> np.ndarray:
    """Answers of 500 tokens whose ids follow a Zipf law. Returns (answers, 500)."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, vocabulary)
    ids = rng.permutation(vocabulary - 1)  # the last one stands for the begin token
    return ids[rng.choice(vocabulary - 1, (-(-tokens // 500), 500), p=share / share.sum())]


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def theirs(ids: np.ndarray, vocabulary: int) -> Callable[[], object]:
    config = WatermarkingConfig(greenlist_ratio=0.25, bias=2.0, seeding_scheme="lefthash", context_width=1)
    detector = WatermarkDetector(PretrainedConfig(vocab_size=vocabulary, bos_token_id=vocabulary - 1), "cpu", config)
    batch = torch.from_numpy(ids)
    return lambda: [detector(row[None], return_dict=True) for row in batch]


def ours(ids: np.ndarray) -> Callable[[], object]:
    mark = Watermark(GreenList(window=1, gamma=0.25), next(iter(decoy_keys(b"throughput", 1))))
    outputs = [Output(str(i), token_ids=tuple(row)) for i, row in enumerate(ids.tolist())]

    def detect() -> float:
        seen = observe(outputs, mark)
        green = int(mark.score(seen.windows, seen.choices).sum())
        return mark.scheme.null.log10_pvalue(green, len(seen))

    return detect


def measure(tokens: int, our_tokens: int, vocabulary: int, repeats: int) -> dict[str, object]:
    """Median rates, and the median and range of the ratio of each repeat."""
    few, many = zipf_answers(tokens, vocabulary, 1), zipf_answers(our_tokens, vocabulary, 2)
    many[: len(few)] = few  # ours scores what theirs does, and more: its time is too short to measure otherwise
    peer, own = theirs(few, vocabulary), ours(many)
    own()  # compiled once
    rates = [(few.size / cpu_seconds(peer), many.size / cpu_seconds(own)) for _ in range(repeats)]
    ratios = [mine / other for other, mine in rates]
    return {
        "vocabulary": vocabulary,
        "backend": prf.backend(),
        "repeats": repeats,
        "transformers_tokens_per_cpu_second": statistics.median(rate[0] for rate in rates),
        "ours_tokens_per_cpu_second": statistics.median(rate[1] for rate in rates),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000, help="tokens for transformers' detector")
    parser.add_argument("--our-tokens", type=int, default=500_000, help="tokens for ours, the former among them")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(given.tokens, given.our_tokens, given.vocabulary, given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    low, high = found["ratio_range"]
    print(f"vocabulary {given.vocabulary:,}, one key, width 1, {given.repeats} repeats, backend {found['backend']}")
    print(f"transformers  {found['transformers_tokens_per_cpu_second']:>12,.0f} tokens per CPU-second")
    print(f"ours          {found['ours_tokens_per_cpu_second']:>12,.0f} tokens per CPU-second")
    print(f"ratio         {found['ratio']:>12,.0f} (from {low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()
