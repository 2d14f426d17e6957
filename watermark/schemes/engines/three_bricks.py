"""three_bricks and radioactive-watermark: the list of Kirchenbauer et al. under a polynomial of the context's ids.

Recipe from facebookresearch/three_bricks at ee9c7a2, wm/detector.py and wm/generator.py, which
facebookresearch/radioactive-watermark at 19c6dc9 repeats ("Three Bricks", Fernandez et al. 2023; "Watermarking makes
language models radioactive", Sander et al. 2024), with seeding = "hash": s = seed, then for each id of the context
s = (s * 35317 + id) mod (2^64 - 1); the list is the first int(gamma V) places of torch.randperm(V) from s. A payload
m makes token t green if t + m (mod V) is in the list. The other seedings look into a table that each process draws
anew, and can't be read afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watermark.schemes.engines.permuted import LIMIT, LISTS, Permuted, reduced_sum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

SALT = 35317
WIDTHS = range(1, 5)  # the polynomial of five ids is beyond 64 bits
MERGED = (
    "Contexts with one value of the polynomial are one cell with each token; those whose values agree in 32 bits alone "
    "share a list too under nearly every key, one pair in 2^32, and are counted apart."
)
PAYLOAD = "The payload was stated beforehand; a payload found by trying several calls for a correction by their number."


@dataclass(frozen=True, kw_only=True)
class ThreeBricks(Permuted):
    """window: `ngram`, h. vocabulary: the tokenizer's `vocab_size`. payload: the message m. Its key is `seed`."""

    name: ClassVar[str] = "three-bricks/maryland"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "three-bricks/maryland-hash-35317-mt19937-cpu-v1"
    remarks: ClassVar[tuple[str, ...]] = (*LISTS, MERGED, PAYLOAD)

    window: int = 1
    gamma: float = 0.5
    delta: float = 1.0
    payload: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.window) is not int or self.window not in WIDTHS:
            raise ValueError(f"window must be a whole number from 1 to {WIDTHS[-1]}, found {self.window!r}")
        if type(self.payload) is not int or not 0 <= self.payload < self.vocabulary:
            raise ValueError(f"payload must be a whole number below the vocabulary, found {self.payload!r}")

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def seeds(self, contexts: U32, key: Key) -> NDArray[np.uint64]:
        """The polynomial of the ids plus the key's term, modulo 2^64 - 1."""
        lead = np.array([self._word(key) * SALT**self.window % LIMIT], dtype=np.uint64)
        return reduced_sum(_polynomial(contexts), lead)

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """Contexts (n, h) of one polynomial become its digits to the base 35317, the first of them unbounded."""
        left, digits = _polynomial(np.asarray(contexts).astype(np.uint32)), []
        for _ in range(self.window - 1):
            left, digit = np.divmod(left, np.uint64(SALT))
            digits.append(digit)
        return np.stack([left, *reversed(digits)], axis=1).astype(np.uint32), np.asarray(choices).astype(np.uint32)

    def _asked(self, choices: U32) -> U32:
        return ((choices.astype(np.int64) + self.payload) % self.vocabulary).astype(np.uint32)

    def _arranged(self, lists: NDArray[np.int32]) -> NDArray[np.int32]:
        return (lists - np.int32(self.payload)) % np.int32(self.vocabulary)


def _polynomial(contexts: U32) -> NDArray[np.uint64]:
    """Horner's rule over a context's ids, oldest first; below 2^64 - 1 for four ids below 2^18."""
    value = np.zeros(len(contexts), dtype=np.uint64)
    for column in contexts.astype(np.uint64).T:
        value = value * np.uint64(SALT) + column
    return value
