"""transformers' own WatermarkDetector beside ours: both find their mark, one of them keeps its level.

Theirs with its defaults: lefthash, context width 1, and every repetition of an n-gram counted again.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from transformers import PretrainedConfig, WatermarkDetector, WatermarkingConfig
from transformers.generation import WatermarkLogitsProcessor

from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.schemes import GreenList

TEXTS, LENGTH, LEVEL = 60, 1_000, 0.01


def _theirs(ids: list[int], hashing_key: int, columns: int) -> float:
    """log10 of the p-value that their detector states."""
    config = WatermarkingConfig(greenlist_ratio=0.25, bias=2.0, hashing_key=hashing_key)
    model = PretrainedConfig(vocab_size=columns, bos_token_id=columns - 1)
    found = WatermarkDetector(model, "cpu", config)(torch.tensor([ids]), return_dict=True)
    return math.log10(max(float(found.p_value[0]), 1e-300))


def _ours(ids: list[int], mark: Watermark) -> float:
    seen = observe([Output("", token_ids=tuple(ids))], mark)
    green = int(mark.score(seen.windows, seen.choices).sum())
    return mark.scheme.null.log10_pvalue(green, len(seen))


@pytest.fixture(scope="module")
def innocent(corpora) -> dict[str, tuple[list[float], list[float]]]:
    """Their and our log10 p on each corpus, a new key for each text."""
    rng, found = np.random.default_rng(31), {}
    for corpus in ("templated", "code"):
        ids, pairs = corpora[corpus], []
        for key in decoy_keys(corpus.encode(), TEXTS):
            start = int(rng.integers(0, len(ids) - LENGTH))
            text, secret = ids[start : start + LENGTH].tolist(), int(rng.integers(1, 2**40))
            pairs.append((_theirs(text, secret, 2048), _ours(text, Watermark(GreenList(window=1), key))))
        found[corpus] = tuple(map(list, zip(*pairs)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["templated", "code"])
def test_on_innocent_text_theirs_exceeds_its_level_and_ours_holds(innocent, corpus, holds_level):
    theirs, ours = innocent[corpus]
    rates = [np.mean(np.array(found) <= math.log10(LEVEL)) for found in (theirs, ours)]
    print(f"\n{corpus}: {TEXTS} innocent texts, at {LEVEL}: theirs {rates[0]:.3f}, ours {rates[1]:.3f}")
    chance = binom.ppf(0.999, TEXTS, LEVEL)
    assert sum(p <= math.log10(LEVEL) for p in theirs) > chance
    assert sum(p <= math.log10(LEVEL) for p in ours) <= chance
    holds_level(ours, corpus)


@pytest.mark.slow
def test_on_marked_text_both_find_their_mark(source, binding, key):
    columns, rng = binding.logits_width, np.random.default_rng(32)
    mark = Watermark(GreenList(window=1, gamma=0.25, delta=2.0), key, binding)
    processor = WatermarkLogitsProcessor(columns, "cpu", greenlist_ratio=0.25, bias=2.0, hashing_key=15485863)

    def their_tilt(logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        return processor(torch.from_numpy(contexts), torch.from_numpy(logits)).numpy()

    under_theirs = source.sample(6, 150, rng, tilt=their_tilt, window=1).tolist()
    under_ours = source.sample(6, 150, rng, tilt=mark.tilt, window=1).tolist()
    for their_text, our_text in zip(under_theirs, under_ours):
        assert _theirs(their_text, 15485863, columns) < -3
        assert _ours(our_text, mark) < -3
        assert _ours(their_text, mark) > -3
        assert _theirs(our_text, 15485863, columns) > -3
