"""Cells of texts that were marked on a CUDA device and published, for tests/conformance/test_cuda.py.

    git clone https://github.com/THU-BPM/MarkLLM                               # at 112fa74
    python benchmarks/engine_vectors_cuda.py MarkLLM/watermark/synthid/generated_texts/watermarked_texts.json \\
        vocab.json merges.txt dict.txt tests/vectors/engines/synthid_cuda.npz

The texts are OPT's, under the documentation's 30 keys, ngrams of 5, table seed 0. OPT's tokenizer is GPT-2's
(vocab.json, merges.txt) with the ids of fairseq's gpt2_bpe/dict.txt, whose line n is id n + 4. Prints how many of all
texts each table finds; stores the cells of the first hundred: for each distinct ngram the token that `canonical` names
it by, which is all that SynthID's table can learn of it and from which no text can be read.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

from watermark.engine_config import DEPTHS
from watermark.schemes.engines.synthid import HfSynthid
from watermark.schemes.engines.synthid_cuda import HfSynthidCuda

STORED = 100


def tokenized(texts: list[str], vocab: Path, merges: Path, dictionary: Path) -> list[np.ndarray]:
    """OPT's ids of each text."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    pairs = [tuple(line.split()) for line in merges.read_text("utf-8").splitlines() if line and line[0] != "#"]
    gpt2 = Tokenizer(BPE(json.loads(vocab.read_text("utf-8")), pairs))
    gpt2.pre_tokenizer = ByteLevel(add_prefix_space=False)
    theirs = np.full(60_000, 3)  # <unk>
    for place, line in enumerate(dictionary.read_text("utf-8").splitlines()):
        if line.split()[0].isdigit():
            theirs[int(line.split()[0])] = place + 4
    return [theirs[read.ids] for read in gpt2.encode_batch(texts)]


def cells(ids: np.ndarray, width: int = 4) -> np.ndarray:
    """The distinct cells of one text, each as the token that names it."""
    ngrams = np.lib.stride_tricks.sliding_window_view(ids, width + 1)
    return np.unique(HfSynthid().canonical(ngrams[:, :-1], ngrams[:, -1])[1])


def z_of(scheme: HfSynthid, cells: np.ndarray) -> float:
    """By how many deviations the ones of all layers exceed a half: the documented mean score, standardised."""
    from watermark.keys import Key

    places = scheme.bits_by_place()
    named = scheme._places(np.zeros((len(cells), scheme.window)), cells)
    read = places[(named[:, None] + scheme._starts(Key.of_engine(list(DEPTHS)))) % scheme.table_size]
    return float((read.mean() - 0.5) * 2 * math.sqrt(read.size))


def main(texts: Path, vocab: Path, merges: Path, dictionary: Path, target: Path) -> None:
    told = [row["watermarked_text"] for row in json.loads(texts.read_text("utf-8"))]
    rows = [cells(ids) for ids in tokenized(told, vocab, merges, dictionary) if len(ids) > 4]
    for scheme in (HfSynthid(), HfSynthidCuda()):
        found = np.array([z_of(scheme, row) for row in rows])
        print(f"{scheme.recipe}: z {found.mean():.2f} on average, above 4 in {(found > 4).sum()} of {len(rows)}")
    kept = rows[:STORED]
    np.savez_compressed(target, cells=np.concatenate(kept).astype("<u2"), lengths=[len(row) for row in kept])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
