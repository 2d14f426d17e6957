"""MarkLLM's KGW with left windows, and its Unigram.

Recipes from THU-BPM/MarkLLM at 112fa74, watermark/kgw/kgw.py and watermark/unigram/unigram.py.
KGW: f is the entry of torch.randperm(V) from the key at a number made from the context's ids modulo V, the seed
is key * f modulo V, the list the first int(V gamma) places of torch.randperm(V) from that seed.
Unigram: one list for all contexts: int(gamma V) times True, then False, shuffled by numpy's default_rng from the first
four bytes, little-endian, of SHA-256 of the key as int64.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from watermark.schemes.engines.permuted import LISTS, Permuted, refuse_key, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

Function = Literal["time", "additive", "skip"]
WIDTHS = range(1, 9)
MERGED = (
    "The function sees its context as one number modulo the vocabulary (a product, a sum, the first id): all contexts "
    "with the same number are one cell with each token."
)
FEW = (
    "There are as many lists as tokens, the same under every key; a key says only which context has which. A token is "
    "in gamma of them but for chance, which can shift a count of a hundred thousand cells by a tenth of its deviation; "
    "decoys have the same shift, so that the rank among them is free of it."
)
DECOYS = (
    "A key that shares a factor with the vocabulary repeats lists; such keys are refused, but stand among the decoys, "
    "whose totals therefore spread more and whose rank is cautious."
)
ONE_LIST = (
    "There is one list for all contexts: a token counts once however often it occurs, so that a text has as many cells "
    "as different tokens, and a tokens' own frequency is no evidence."
)


@dataclass(frozen=True, kw_only=True)
class MarkLlmKgw(Permuted):
    """function: `f_scheme`. window: `prefix_length`. vocabulary: `vocab_size`. Its key is `hash_key`.

    f_scheme "min" and window_scheme "self" are left out: which cells coincide under them depends on the key.
    """

    name: ClassVar[str] = "markllm/kgw"
    version: ClassVar[int] = 1
    remarks: ClassVar[tuple[str, ...]] = (*LISTS, MERGED, FEW, DECOYS)

    gamma: float = 0.5
    function: Function = "time"
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.function not in get_args(Function):
            raise ValueError(f"function must be one of {', '.join(get_args(Function))}, found {self.function!r}")
        if type(self.window) is not int or self.window not in WIDTHS:
            raise ValueError(f"window must be a whole number from 1 to {WIDTHS[-1]}, found {self.window!r}")

    @property
    def recipe(self) -> str:
        """Named by the function."""
        return f"markllm/kgw-left-{self.function}-mt19937-cpu-v1"

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def seeds(self, contexts: U32, key: Key) -> NDArray[np.uint64]:
        """Key times the table's entry at the context's number, modulo V."""
        word, size = self._word(key), self.vocabulary
        entries = whole(word % 2**32, size)[self._number(contexts)].astype(np.uint64)
        return entries * np.uint64(word % size) % np.uint64(size)

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """Contexts (n, h) of one number become one: the number, beside ones for a product and zeros otherwise."""
        ids = np.asarray(contexts).astype(np.uint32)
        alone = np.full_like(ids, self.function == "time")
        alone[:, 0] = self._number(ids)
        return alone, np.asarray(choices).astype(np.uint32)

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key that shares a factor with V."""
        shared = math.gcd(self._word(key), self.vocabulary)
        if shared > 1:
            refuse_key(f"{shared} divides both the key and the vocabulary")

    def _number(self, contexts: U32) -> NDArray[np.int64]:
        ids = contexts.astype(np.int64)
        if self.function == "skip":
            return ids[:, 0] % self.vocabulary
        if self.function == "additive":
            summed: NDArray[np.int64] = ids.sum(axis=1) % self.vocabulary
            return summed
        product = ids[:, 0] % self.vocabulary
        for column in ids[:, 1:].T:
            product = product * (column % self.vocabulary) % self.vocabulary
        return product


@dataclass(frozen=True, kw_only=True)
class MarkLlmUnigram(Permuted):
    """vocabulary: `vocab_size`. Its key is `hash_key`. The context plays no part."""

    name: ClassVar[str] = "markllm/unigram"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "markllm/unigram-pcg64-shuffle-v1"
    window: ClassVar[int] = 1
    remarks: ClassVar[tuple[str, ...]] = (ONE_LIST, LISTS[1])

    gamma: float = 0.5

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def seeds(self, contexts: U32, key: Key) -> NDArray[np.uint64]:
        """The seed of the one list, for each context."""
        hashed = hashlib.sha256(self._word(key).to_bytes(8, "little")).digest()
        return np.full(len(contexts), int.from_bytes(hashed[:4], "little"), dtype=np.uint64)

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """All windows are one."""
        return np.zeros_like(np.asarray(contexts), dtype=np.uint32), np.asarray(choices).astype(np.uint32)

    def lists(self, contexts: ArrayLike, key: Key) -> NDArray[np.int32]:
        """The green tokens, in ascending order, after each context (b, 1). Returns (b, int(V gamma))."""
        host: Any = contexts.detach().cpu() if hasattr(contexts, "detach") else contexts
        return np.tile(np.flatnonzero(self._mask(key)).astype(np.int32), (len(np.asarray(host)), 1))

    def _green(self, cells: Any, key: Key) -> NDArray[np.bool_]:
        green: NDArray[np.bool_] = self._mask(key)[cells.tokens]
        return green

    def _mask(self, key: Key) -> NDArray[np.bool_]:
        mask = np.arange(self.vocabulary) < self.size
        np.random.default_rng(int(self.seeds(np.zeros((1, 1), dtype=np.uint32), key)[0])).shuffle(mask)
        return mask
