"""Engines' marks on real text that met no mark: under random keys each recipe's p-value keeps its level.

Documentation, code and templates of the installed Python, 1,000 tokens at a time, read as `detect` reads them; 1,008
random keys for each recipe. At real vocabularies, other lengths and beside the engines' own detectors:
benchmarks/engine_levels.py and docs/results/engine_levels.md.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import numpy as np
import pytest

from watermark.keys import Key
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.schemes.engines import ENGINES

SLICES, KEYS, LENGTH = 12, 28, 1_000
WORDS = {"owmark/green-red": 4, "vllm-gumbel/hmac": 4, "sglang-gumbel/dual": 2}
WORDS |= {"hf-synthid/table": 30, "hf-synthid/table-cuda": 30, "synthid-text/iterated": 30}
LEFT_OUT = "hf-kgw/selfhash"  # a table of a million entries for each key; lm-watermarking's has one table for all
SLOW = ("hf-kgw/lefthash", "lm-watermarking", "markllm/kgw", "three-bricks/maryland")


def scheme_of(name, vocabulary):
    kind = ENGINES[name]
    return kind(**{"vocabulary": vocabulary} if "vocabulary" in {field.name for field in fields(kind)} else {})


def random_keys(name, seed):
    """Odd numbers: recipes that multiply by their key refuse many even ones."""
    rng = np.random.default_rng([seed, *name.encode()])
    while True:
        yield Key.of_engine([int(word) | 1 for word in rng.integers(0, 2**64, WORDS.get(name, 1), dtype=np.uint64)])


def slices(ids, seed):
    for start in np.random.default_rng(seed).integers(0, len(ids) - LENGTH, SLICES):
        yield Output("one", token_ids=tuple(ids[start : start + LENGTH].tolist()))


@pytest.fixture(scope="module")
def pvalues(corpora, binding):
    """Every run of a recipe: log10 p by kind of text."""

    def of(name):
        found = {}
        for seed, (kind, ids) in enumerate(corpora.items()):
            keys = random_keys(name, seed)
            mark = Watermark(scheme_of(name, binding.logits_width), next(keys), binding)
            found[kind] = [p for output in slices(ids, seed) for p in _read(output, mark, keys)]
        return found

    return of


def _read(output, mark, keys):
    seen = observe([output], mark)
    law, score = mark.scheme.null, partial(mark.scheme.score, seen.windows, seen.choices)
    for _ in range(KEYS):
        yield law.log10_pvalue(int(score(next(keys)).sum()), len(seen))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in sorted(ENGINES) if name != LEFT_OUT],
)
def test_an_engines_recipe_keeps_its_level_on_real_text(name, pvalues, holds_level):
    found = pvalues(name)
    for kind, p in found.items():
        holds_level(p, f"{name}, {kind}")
    together = np.concatenate(list(found.values()))
    assert len(together) >= 1_000
    holds_level(together, name)
    assert (together <= np.log10(0.05)).mean() > 0.01  # cautious where lists are small, not silent
