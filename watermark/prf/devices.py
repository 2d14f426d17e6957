"""Totals of cells under keys on a GPU, where there is one and the work is worth the way there.

A GPU is chosen by itself, and held to its word: before it is first believed, a small sample has to agree with numpy to
the bit. WMARK_CUDA=0 leaves it alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from watermark.prf import reference

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

LARGE = 4_000_000_000  # keys times cells: seconds for two processors, as long as torch takes to load
LOADED = 400_000_000  # where torch is there already: a third of a second
_DRIVER = Path("/dev/nvidiactl")


def worth(pairs: int) -> bool:
    """Whether so many keys times cells are worth the way to a GPU, if there is one."""
    return pairs >= (LOADED if "torch" in sys.modules else LARGE)


def chosen() -> str | None:
    """The device for large totals, "cuda"; None without a GPU that torch can use, or if WMARK_CUDA is 0."""
    if os.environ.get("WMARK_CUDA", "1") == "0" or not _DRIVER.exists() or not importlib.util.find_spec("torch"):
        return None
    import torch

    return "cuda" if torch.cuda.is_available() and trusted("cuda") else None


@lru_cache(maxsize=1)
def trusted(device: str) -> bool:
    """Whether the device gives numpy's totals of 600 cells under 70 keys, green bits and levels; else it warns."""
    rng = np.random.default_rng(1)
    windows, tokens = rng.integers(0, 2**32, (600, 5), dtype=np.uint32), rng.integers(0, 2**32, 600, dtype=np.uint32)
    weights = rng.integers(-(2**31), 2**31, (3, 600)).astype(np.int32)
    words = rng.integers(0, 2**32, (70, 8), dtype=np.uint32)
    levels = rng.integers(0, 300, (2, 1 << 16))
    for counting in (reference.Counting(3 << 30), reference.Counting(high=levels[0], low=levels[1])):
        expected = reference.totals(windows, tokens, weights, words, counting)
        try:
            agreed = np.array_equal(totals(windows, tokens, weights, words, counting, device), expected)
        except Exception as error:  # whatever a driver or compiler fails with, the processors can do it
            warnings.warn(f"the GPU is left alone, it failed with {type(error).__name__}: {error}", stacklevel=2)
            return False
        if not agreed:
            warnings.warn("the GPU is left alone: its totals are not those of the processor", stacklevel=2)
            return False
    return True


def totals(
    windows: NDArray[np.uint32],
    tokens: NDArray[np.uint32],
    weights: NDArray[np.int32],
    words: NDArray[np.uint32],
    counting: reference.Counting,
    device: str,
) -> NDArray[np.int64]:
    """As `reference.totals`, on a device of torch; in one Triton kernel where that is installed."""
    ids, choices, counts, of_keys = (_sent(each, device) for each in (windows, tokens, weights, words))
    if device.startswith("cuda") and importlib.util.find_spec("triton"):
        from watermark.prf import fused

        return np.asarray(fused.totals(ids, choices, counts, of_keys, counting).cpu().numpy())
    from watermark.prf import tensors

    return np.asarray(tensors.totals(ids, choices, counts, of_keys, counting).cpu().numpy())


def _sent(integers: NDArray[np.uint32] | NDArray[np.int32], device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(integers, order="C").view(np.int32)).to(device)
