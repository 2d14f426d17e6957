"""owmark's generation mark: one HMAC-SHA256 for each pair of tokens, and no list.

Recipe from owmark 0.8.1 (owmark/genmark/green_red.py): t is green after prev iff the first eight bytes of
HMAC-SHA256(key, prev | t), both as eight bytes big-endian, read as an integer and divided by 2^64 in double
precision, are below gamma.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")


@dataclass(frozen=True, kw_only=True)
class Owmark:
    """gamma: share of green tokens. delta: logits gained, in nats.

    Its key is 32 bytes: as numbers for `Key.of_engine`, four of 64 bits, little-endian, in the bytes' order.
    """

    name: ClassVar[str] = "owmark/green-red"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "owmark/hmac-sha256-bigram-v1"
    window: ClassVar[int] = 1
    remarks: ClassVar[tuple[str, ...]] = ()

    gamma: float = 0.25
    delta: float = 2.0

    def __post_init__(self) -> None:
        if not 0.001 <= self.gamma <= 0.999:
            raise ValueError(f"gamma must lie between 0.001 and 0.999, found {self.gamma!r}")
        if not 0 < self.delta <= 50:
            raise ValueError(f"delta must be above 0 and at most 50, found {self.delta!r}")

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the chosen token is green after the last id of its context (n, 1), else 0."""
        pairs = np.stack([np.asarray(contexts)[:, -1], np.asarray(choices)], axis=1).astype(">u8").tobytes()
        return np.array(self._green(pairs, key), dtype=np.int64)

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key) -> Logits:
        """Adds delta to every green token. logits: (b, V); contexts: (b, 1) ids. A new array of the same kind."""
        host: Any = contexts.detach().cpu() if hasattr(contexts, "detach") else contexts
        vocabulary = np.arange(logits.shape[-1])
        tilted: Any = logits.copy() if isinstance(logits, np.ndarray) else logits.clone()
        for row, context in zip(tilted, np.asarray(host), strict=True):
            green = np.flatnonzero(self.score(np.tile(context, (len(vocabulary), 1)), vocabulary, key))
            row[green if isinstance(logits, np.ndarray) else green.tolist()] += self.delta
        return tilted  # type: ignore[no-any-return]

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the number of eight-byte words below gamma over 2^64."""
        return Bernoulli(self._below / 2**64)

    @cached_property
    def _below(self) -> int:
        """The smallest word whose quotient, rounded to double precision, is not below gamma."""
        low, high = 0, 2**64 - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if middle / 2.0**64 < self.gamma else (low, middle)
        return low

    def _green(self, pairs: bytes, key: Key) -> list[bool]:
        """Whether the word of each message of 16 bytes is below gamma, HMAC's two inner states being made once.

        A digest that begins with the bound itself is longer than it, hence not below.
        """
        secret = b"".join(word.to_bytes(8, "little") for word in key.engine_words(4, f"{self.name}/{self.version}"))
        below, found = self._below.to_bytes(8, "big"), []
        inner, outer = (hashlib.sha256(bytes(b ^ pad for b in secret.ljust(64, b"\0"))) for pad in (0x36, 0x5C))
        for at in range(0, len(pairs), 16):
            first, second = inner.copy(), outer.copy()
            first.update(pairs[at : at + 16])
            second.update(first.digest())
            found.append(second.digest() < below)
        return found
