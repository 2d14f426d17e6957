"""Tokens read per CPU-second: our reading of an engine's mark beside the engine's own detector, in one run.

    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py
    OMP_NUM_THREADS=1 python benchmarks/engine_throughput.py PEERS [NAME ...]  # PEERS: see engine_vectors_greenlists

The text is that of Python's own documentation (pydoc), its words and signs numbered by their ranks, below a vocabulary
of 128,256; both read the same ids, ours with its once-per-cell rule and its exact p-value, in one process. What is
printed are ratios; CPU seconds depend on the machine.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from engine_vectors_greenlists import loaded, markllm_module

from watermark import prf
from watermark.keys import Key
from watermark.schemes.engines import ENGINES

VOCABULARY = 128_256
LENGTHS = (200, 1_000, 5_000, 20_000)
NUMBER = 15485863
Peer = Callable[[list[int]], Any]


def hf_lefthash(peers: Path) -> Peer:
    """transformers' WatermarkDetector, each n-gram once."""
    import torch
    from transformers import WatermarkDetector, WatermarkingConfig

    model = SimpleNamespace(vocab_size=VOCABULARY, bos_token_id=-1, is_encoder_decoder=False)
    detector = WatermarkDetector(model, "cpu", WatermarkingConfig(), ignore_repeated_ngrams=True)
    return lambda ids: detector(torch.tensor([ids]), return_dict=True)


def lm_watermarking(peers: Path) -> Peer:
    """Its WatermarkDetector's scoring of ids, "simple_1", each n-gram once; its cache is emptied each time."""
    import torch

    processor = loaded(peers / "lm-watermarking", "extended_watermark_processor")
    detector = processor.WatermarkDetector(
        vocab=list(range(VOCABULARY)), seeding_scheme="simple_1", device=torch.device("cpu"), tokenizer=object()
    )

    def read(ids: list[int]) -> Any:
        type(detector)._get_ngram_score_cached.cache_clear()
        return detector._score_sequence(torch.tensor(ids))

    return read


def three_bricks(peers: Path) -> Peer:
    """Its MarylandDetector, each pair once ("v2")."""
    detector = loaded(peers / "three_bricks", "wm.detector").MarylandDetector
    tokenizer = SimpleNamespace(vocab_size=VOCABULARY, encode=lambda ids, add_special_tokens: ids)
    made = detector(tokenizer, seed=NUMBER, gamma=0.5)
    return lambda ids: made.get_pvalues(made.get_scores_by_t([ids], scoring_method="v2"))


def markllm_kgw(peers: Path) -> Peer:
    """Its score of a sequence, every position."""
    import torch

    kgw = markllm_module(peers, "kgw.kgw")
    config = SimpleNamespace(device="cpu", hash_key=NUMBER, vocab_size=VOCABULARY, f_scheme="time", gamma=0.5)
    config.__dict__.update(prefix_length=1, window_scheme="left")
    made = kgw.KGWUtils(config)
    return lambda ids: made.score_sequence(torch.tensor(ids))


def markllm_unigram(peers: Path) -> Peer:
    """Its mask and its score of a sequence, every position."""
    import torch

    unigram = markllm_module(peers, "unigram.unigram")
    config = SimpleNamespace(gamma=0.5, vocab_size=VOCABULARY, hash_key=NUMBER)
    return lambda ids: unigram.UnigramUtils(config).score_sequence(torch.tensor(ids))


def owmark(peers: Path) -> Peer:
    """Its detector, each pair once."""
    green_red = loaded(peers / "owmark", "owmark.genmark.green_red")
    config = green_red.GenConfig(key=NUMBER.to_bytes(8, "little") * 4)
    return lambda ids: green_red.detect(ids, config)


def sbw(peers: Path) -> Peer:
    """Its batched Philox over distinct n-grams, run as it stands, not compiled."""
    import torch

    batch = loaded(peers / "sbw", "sbw.batch")
    batch._philox4x32_10_compiled = batch._philox4x32_10

    def read(ids: list[int]) -> Any:
        ngrams = torch.unique(torch.tensor(ids).unfold(0, 5, 1), dim=0)
        return (batch.philox_at_positions(NUMBER * ngrams[:, :4].sum(dim=1), ngrams[:, 4]) < 0.25).sum()

    return read


PEERS: dict[str, Callable[[Path], Peer]] = {
    "hf-kgw/lefthash": hf_lefthash,
    "lm-watermarking": lm_watermarking,
    "three-bricks/maryland": three_bricks,
    "markllm/kgw": markllm_kgw,
    "markllm/unigram": markllm_unigram,
    "owmark/green-red": owmark,
    "sbw/lefthash": sbw,
}


def ours(name: str) -> Peer:
    """Each cell once, scores, and the exact p-value."""
    kind, words = ENGINES[name], 4 if name.startswith("owmark") else 1
    sized = "vocabulary" in {field.name for field in fields(kind)}
    scheme, key = kind(**{"vocabulary": VOCABULARY} if sized else {}), Key.of_engine([NUMBER] * words)

    def read(ids: list[int]) -> float:
        given = np.array(ids, dtype=np.uint32)
        windows = np.lib.stride_tricks.sliding_window_view(given, scheme.window)[:-1]
        choices = given[scheme.window :]
        names = scheme.canonical(windows, choices)[0] if hasattr(scheme, "canonical") else windows
        _, first = np.unique(prf.cell_ids(names, choices), return_index=True)
        green = scheme.score(windows[first], choices[first], key)
        return float(scheme.null.log10_pvalue(int(green.sum()), len(green)))

    return read


def text(count: int) -> list[int]:
    """The first ids of the documentation, ranks of words from 1 on."""
    from pydoc_data.topics import topics

    words = list(chain.from_iterable(re.findall(r"\w+|[^\w\s]", topics[name]) for name in sorted(topics)))
    rank = {word: 1 + at for at, (word, _) in enumerate(Counter(words).most_common())}
    return [rank[word] for word in words[:count]]


def seconds(read: Peer, ids: list[int], *, least: float = 0.2) -> float:
    """CPU seconds of one reading, the mean over at least 0.2 s of them."""
    spent, times = 0.0, 0
    while spent < least:
        start = time.process_time()
        read(ids)
        spent, times = spent + time.process_time() - start, times + 1
    return spent / times


def main(names: list[str]) -> None:
    """Names after the folder of the peers' code; without it, what is installed: transformers."""
    peers, chosen = Path(names[0] if names else "."), names[1:] or (list(PEERS) if names else ["hf-kgw/lefthash"])
    for name in chosen:
        mine, theirs = ours(name), PEERS[name](peers)
        mine(text(200)), theirs(text(50))  # compiled before the clock runs
        for length in LENGTHS:
            ids = text(length)
            fast, slow = seconds(mine, ids), seconds(theirs, ids)
            print(
                f"{name}  {len(ids):>6} tokens  ours {length / fast:>10,.0f}/s  theirs {length / slow:>8,.0f}/s  ",
                end="",
            )
            print(f"{slow / fast:>6,.0f} x", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
