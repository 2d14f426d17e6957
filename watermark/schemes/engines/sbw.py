"""sbw's left hash: a green list with one Philox word for each token in place of a permutation.

Recipe from sbw 1.0.0 (sbw/batch.py, the scheme "gpu-fused-simple_4" and its kin): the seed is key * sum of the ids
of the context modulo 2^64; the word of token t is number t & 3 of Philox10((t >> 2, 0, 0, 0), (seed low, seed high)); t
is green iff the word's low 31 bits are below int(gamma * (2^31 - 1)). The package's detector compares in single
precision, which moves at most one token in 10^6 across the line; the generator's comparison is the one kept here.
Its selfhash is left out: which id of the context it uses depends on the key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark.schemes.engines.permuted import refuse_key
from watermark.schemes.engines.philox import MASK, philox10
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")
WIDTHS = range(1, 9)
_BLOCK = 1 << 14  # cells worked on at a time: their words stay in the processor's cache
REMARKS = (
    "The function sees its context as the sum of its ids: all contexts with the same sum are one cell with each token.",
    "Contexts of ids 0 have one list under every key; they are not counted.",
    "15485863 is the key that the package comes with: who else left it unchanged has the same mark.",
)


@dataclass(frozen=True, kw_only=True)
class SbwLeftHash:
    """window: context width h, 4 in "simple_4". gamma: share of green tokens. delta: logits gained, in nats.

    Its key is `hash_key`, a 64-bit number.
    """

    name: ClassVar[str] = "sbw/lefthash"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "sbw/lefthash-additive-philox4x32-10-v1"
    remarks: ClassVar[tuple[str, ...]] = REMARKS

    window: int = 4
    gamma: float = 0.25
    delta: float = 2.0

    def __post_init__(self) -> None:
        if type(self.window) is not int or self.window not in WIDTHS:
            raise ValueError(f"window must be a whole number from 1 to {WIDTHS[-1]}, found {self.window!r}")
        if not 0.001 <= self.gamma <= 0.999:
            raise ValueError(f"gamma must lie between 0.001 and 0.999, found {self.gamma!r}")
        if not (math.isfinite(self.delta) and 0 < self.delta <= 50):
            raise ValueError(f"delta must be above 0 and at most 50, found {self.delta!r}")

    def seeds(self, contexts: ArrayLike, key: Key) -> NDArray[np.uint64]:
        """Key times the sum of each context (n, h), modulo 2^64. Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        with np.errstate(over="ignore"):
            found: NDArray[np.uint64] = _summed(contexts) * np.uint64(word)
        return found

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """Windows (n, h) of one sum become one: zeros, then the sum."""
        alone = np.zeros(np.shape(contexts), dtype=np.uint32)
        alone[:, -1] = _summed(contexts)
        return alone, np.asarray(choices).astype(np.uint32)

    def keyless(self, contexts: ArrayLike) -> NDArray[np.bool_]:
        """Which contexts (n, h) have one list under every key."""
        nothing: NDArray[np.bool_] = _summed(contexts) == 0
        return nothing

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key with so many factors of two that sums share their seeds."""
        if not self.seeds(np.full((1, self.window), 2**23, dtype=np.uint32), key)[0]:
            refuse_key("sums that differ by a power of two have one seed")

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the chosen token is green after its context, else 0. contexts: (n, h); choices: (n,)."""
        seeds, tokens = self.seeds(contexts, key), np.asarray(choices).astype(np.uint64)
        green = np.empty(len(tokens), dtype=np.int64)
        for start in range(0, len(tokens), _BLOCK):
            part = slice(start, start + _BLOCK)
            green[part] = self._drawn(seeds[part], tokens[part])
        return green

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key) -> Logits:
        """Adds delta to every green token. logits: (b, V); contexts: (b, h) ids. A new array of the same kind."""
        host: Any = contexts.detach().cpu() if hasattr(contexts, "detach") else contexts
        vocabulary = np.arange(logits.shape[-1], dtype=np.uint64)
        tilted: Any = logits.copy() if isinstance(logits, np.ndarray) else logits.clone()
        for row, seed in zip(tilted, self.seeds(host, key), strict=True):
            green = np.flatnonzero(self._drawn(np.full(1, seed), vocabulary))
            row[green if isinstance(logits, np.ndarray) else green.tolist()] += self.delta
        return tilted  # type: ignore[no-any-return]

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the share of 31-bit words that are green."""
        return Bernoulli(self._below / 2**31)

    @property
    def _below(self) -> int:
        return int(self.gamma * 0x7FFFFFFF)

    def _drawn(self, seeds: NDArray[np.uint64], tokens: NDArray[np.uint64]) -> NDArray[np.bool_]:
        none = np.zeros(1, dtype=np.uint64)
        words = philox10((tokens >> np.uint64(2), none, none, none), (seeds & MASK, seeds >> np.uint64(32)))
        mine = np.choose((tokens & np.uint64(3)).astype(np.int64), words)
        green: NDArray[np.bool_] = (mine & np.uint64(0x7FFFFFFF)) < np.uint64(self._below)
        return green


def _summed(contexts: ArrayLike) -> NDArray[np.uint64]:
    found: NDArray[np.uint64] = np.asarray(contexts).astype(np.uint32).sum(axis=1, dtype=np.uint64)
    return found
