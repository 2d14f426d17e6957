"""SynthID's table as CUDA draws it, held to texts that MarkLLM's authors marked on a GPU and published."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from watermark.engine_config import DEPTHS
from watermark.engines import import_mark
from watermark.errors import MarkInvalid
from watermark.keys import Key, decoy_keys
from watermark.schemes.engines.synthid import HfSynthid
from watermark.schemes.engines.synthid_cuda import HfSynthidCuda, cuda_table

STORED = np.load(Path(__file__).parent.parent / "vectors" / "engines" / "synthid_cuda.npz")
TEXTS = np.split(STORED["cells"].astype(np.uint32), STORED["lengths"].cumsum()[:-1])
THEIRS = Key.of_engine(list(DEPTHS))
PART = 2048  # entries of the table, those of eight blocks of threads


def windows(tokens: np.ndarray) -> np.ndarray:
    return np.zeros((len(tokens), 4), dtype=np.uint32)


def log10_p(scheme: HfSynthid, tokens: np.ndarray, key: Key = THEIRS) -> float:
    green = int(scheme.score(windows(tokens), tokens, key).sum())
    return scheme.null.log10_pvalue(green, len(tokens))


def test_every_published_text_is_found_under_cudas_table_and_none_under_the_cpus() -> None:
    cuda = np.array([log10_p(HfSynthidCuda(), text) for text in TEXTS])
    cpu = np.array([log10_p(HfSynthid(), text) for text in TEXTS])
    assert len(TEXTS) == 100
    assert (cuda < -1.3).all()
    assert np.median(cuda) < -6
    assert (cpu > -3).all()
    assert 0.35 < np.mean(10**cpu) < 0.65


def test_each_part_of_the_table_is_confirmed_by_the_published_texts() -> None:
    """Marked text reads more ones than zeros; a part drawn otherwise would read as many of each."""
    tokens = STORED["cells"].astype(np.uint64)
    scheme = HfSynthidCuda()
    sums = scheme._places(windows(tokens), tokens)[:, None] + np.array(scheme._starts(THEIRS))
    entries = ((sums.astype(np.uint64) * np.uint64(6364136223846793005) + np.uint64(1)) & np.uint64(65535)).astype(int)
    z = {}
    for name, bits in (("cuda", cuda_table(65536, 0)), ("cpu", HfSynthid().bits())):
        read = np.bincount(entries.ravel() // PART, minlength=32)
        ones = np.bincount(entries.ravel() // PART, weights=bits[entries].ravel().astype(float), minlength=32)
        z[name] = (2 * ones - read) / np.sqrt(read)
    assert len(z["cuda"]) == 32
    assert z["cuda"].min() > 10
    assert abs(z["cpu"].mean()) < 1


def test_its_level_holds_over_random_keys() -> None:
    """19,000 cells of real text: the mean is exact, the variance at most the binomial's."""
    tokens = np.unique(STORED["cells"]).astype(np.uint32)
    scheme, n = HfSynthidCuda(), len(np.unique(STORED["cells"]))
    keys = list(decoy_keys(b"cuda table", 1500))
    totals = scheme.totals(windows(tokens), tokens, np.ones((1, n), dtype=np.int32), keys)[:, 0]
    z = (totals - n * scheme.null.mean) / math.sqrt(n * scheme.null.variance)
    assert abs(z.mean()) < 3 / math.sqrt(len(z))
    assert 0.7 < z.var() < 1.1
    for level, threshold in ((0.05, 1.645), (0.01, 2.326)):
        assert (z > threshold).mean() <= level + 3 * math.sqrt(level / len(z))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7])
@pytest.mark.parametrize("size", [2, 1_000, 2**16])
def test_the_table_is_the_devices(size: int, seed: int) -> None:
    drawn = torch.randint(0, 2, (size,), generator=torch.Generator("cuda").manual_seed(seed), device="cuda")
    assert np.array_equal(drawn.cpu().numpy(), cuda_table(size, seed))


@pytest.mark.parametrize(
    ("change", "recipe"),
    [
        ({"device": "cuda:0"}, "hf-synthid/lcg-table-cuda-v1"),
        ({"device": "cpu"}, "hf-synthid/lcg-table-cpu-v1"),
        ({}, "hf-synthid/lcg-table-cpu-v1"),
    ],
)
def test_the_configuration_says_on_which_device(change: dict[str, str], recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"ngram_len": 5, "keys": list(range(1000, 1030)), **change}))
    made = import_mark(path, "hf-synthid")
    assert made.mark.scheme.recipe == recipe  # type: ignore[attr-defined]
    assert any('add "device": "cuda"' in said for said in made.warnings) == (not change)


@pytest.mark.parametrize("change", [{"device": "mps"}, {"device": "cuda", "sampling_table_size": 2**17}])
def test_tables_that_are_not_known_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"ngram_len": 5, "keys": list(range(1000, 1030)), **change}))
    with pytest.raises(MarkInvalid):
        import_mark(path, "hf-synthid")
