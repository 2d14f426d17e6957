"""The keyed function: a uniform 32-bit number for every (window, token), the only randomness in a watermark.

Integer arithmetic alone, so that numpy, numba and torch agree to the bit on every machine. Recipe `arx32-v1`:

1. The 256-bit subkey is eight little-endian 32-bit words k0..k7. A window of h ids x1..xh (oldest first) is cut
   into blocks of four words, the last one filled with zeros.
2. state = block1 ^ (k0..k3); before each further block: four rounds, then ^ block. Then four rounds,
   ^ (k4..k7), word 3 ^ h, four rounds, ^ (k0..k3). A round is that of Chaskey (Mouha et al. 2014, fig. 1;
   ISO/IEC 29192-6): additions, exclusive-ors and rotations by 5, 16, 8, 13, 7, 16.
   For h <= 4 the state is a bijection of the padded window: two windows of one width never share a state.
3. From state s0..s3 and token t:  x = t + s0;  x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x += s1;
   x *= s2 | 1;  x ^= x >> 16;  x *= 0x846ca68b;  x += s3, all modulo 2^32; x is the uniform.

A token is *green* when its uniform is below `threshold(gamma)`: each cell is its own Bernoulli draw, with
probability exactly threshold / 2^32. `reference` is the numpy text of the recipe (`apart` shares large work out over
processes), `compiled` its numba twin (chosen when numba is installed), `tensors` its torch twin and `fused` its Triton
twin (`devices` says when).
Golden vectors: tests/vectors/arx32-v1.json.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.prf import devices, reference
from watermark.prf.reference import Counting, cell_ids, key_words, threads, threshold, window_ids, words_of_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "RECIPE",
    "Counting",
    "backend",
    "cell_ids",
    "key_words",
    "machine",
    "row_uniforms",
    "threads",
    "threshold",
    "totals",
    "uniform_rows",
    "uniforms",
    "window_ids",
    "window_states",
    "words_of_keys",
]

RECIPE = "arx32-v1"
_LARGE = 1 << 29  # keys times cells from which on numpy is worth the start of another process


def backend() -> str:
    """Which twin runs on CPU: "numba" where it is installed and WMARK_NUMBA is not 0, else "numpy"."""
    wanted = os.environ.get("WMARK_NUMBA", "1") != "0"
    return "numba" if wanted and importlib.util.find_spec("numba") else "numpy"


def machine() -> dict[str, str | int | None]:
    """What runs here: "backend", "threads", "vector_bits" (None for numpy, which chooses itself), "device", "kernels".

    kernels: what totals and tilts run in on the device, "triton" or "torch"; None without one.
    """
    bits = None
    if backend() == "numba":
        from watermark.prf import compiled

        bits = compiled.vector_bits()
    device = devices.chosen()
    kernels = device and ("triton" if importlib.util.find_spec("triton") else "torch")
    return {"backend": backend(), "threads": threads(), "vector_bits": bits, "device": device, "kernels": kernels}


def window_states(windows: NDArray[np.uint32], words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The keyed state of each window. windows: (n, h) ids; words: (8,). Returns (n, 4)."""
    if backend() == "numba":
        from watermark.prf import compiled

        return compiled.window_states(windows, words)
    return reference.window_states(windows, words)


def uniforms(windows: NDArray[np.uint32], tokens: NDArray[np.uint32], words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """One uniform for each cell. windows: (n, h); tokens: (n,); words: (8,). Returns (n,)."""
    if backend() == "numba":
        from watermark.prf import compiled

        return compiled.uniforms(windows, tokens, words)
    return reference.uniforms(windows, tokens, words)


def totals(
    windows: NDArray[np.uint32],
    tokens: NDArray[np.uint32],
    weights: NDArray[np.int32],
    words: NDArray[np.uint32],
    counting: Counting,
) -> NDArray[np.int64]:
    """Weights times scores added up: S statistics under m keys, exact integers whatever the order or backend.

    windows: (n, h); tokens: (n,); weights: (S, n); words: (m, 8); counting: what a uniform scores. Returns (m, S).
    Cells are grouped by window once for all keys, unless these are few; memory is that of the cells, never n times m.
    """
    if devices.worth(len(words) * len(tokens)) and (device := devices.chosen()):
        return devices.totals(windows, tokens, weights, words, counting, device)
    if backend() == "numba":
        from watermark.prf import compiled

        return compiled.totals(windows, tokens, weights, words, counting)
    if threads() > 1 and len(words) * len(tokens) >= _LARGE:
        from watermark.prf import apart

        return apart.totals(windows, tokens, weights, words, counting)
    return reference.totals(windows, tokens, weights, words, counting)


def uniform_rows(states: NDArray[np.uint32], width: int) -> NDArray[np.uint32]:
    """The uniforms of a whole vocabulary for each state. states: (b, 4). Returns (b, width)."""
    if backend() == "numba":
        from watermark.prf import compiled

        return compiled.uniform_rows(states, width)
    return reference.uniform_rows(states, width)


def row_uniforms(state: NDArray[np.uint32], tokens: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
    """The uniforms of some tokens (k,) after one state (4,). Returns (k,)."""
    if backend() == "numba":
        from watermark.prf import compiled

        return compiled.row_uniforms(state, np.asarray(tokens, dtype=np.int64))
    return reference.row_uniforms(state, tokens)
