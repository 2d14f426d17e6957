"""Self-salted lists: the seed is a smallest product of table entries, one of them always the chosen token's own.

Recipes from transformers 5.23.0, generation/logits_process.py (seeding_scheme="selfhash"), and from
jwkirchenbauer/lm-watermarking at fb602de ("selfhash", anchored_minhash_prf); Kirchenbauer et al. 2023 (2306.04634),
algorithm 3. Of the last `context_width` ids with the chosen token t among them, each id i has a table entry a(i) from 1
to 1,000,003; the seed is the smallest key * a(i) * a(t) in signed 64 bits, modulo 2^64 - 1; t is green iff it is in
the first int(V gamma) places of torch.randperm(V) from that seed. Engines try their forty likeliest tokens alone.

Which id makes the smallest product depends on the key, and n-grams that share it with t share their colour: over one
text hundreds of n-grams can be one draw, which is why the engines' own tests reject innocent text. Whatever the key,
two n-grams can coincide only if they end with the same token. So a token counts once, after its first context:
`canonical` gives one name to all cells of a token, while the score is that of the cell itself.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark.errors import EmbeddingRefused
from watermark.schemes.engines.hf import PUBLIC
from watermark.schemes.engines.lm_watermarking import TABLE, TABLE_SEED
from watermark.schemes.engines.permuted import LISTS, Cells, Permuted, low, refuse_key, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

Made = TypeVar("Made")
WIDTHS = range(1, 9)
ONCE = (
    "Each token counts once, after its first context, however many it has: under some keys several contexts of a token "
    "are one draw, and which ones can't be told without the key. This costs power and no validity."
)


@dataclass(frozen=True, kw_only=True)
class SelfHash(Permuted):
    """context_width: ids that the seed is made from, the chosen token among them; 1 is the token alone."""

    remarks: ClassVar[tuple[str, ...]] = (*LISTS, ONCE, PUBLIC)

    context_width: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        width = self.context_width
        if type(width) is not int or width not in WIDTHS:
            raise ValueError(f"context_width must be a whole number from 1 to {WIDTHS[-1]}, found {width!r}")

    @property
    def window(self) -> int:
        """Ids before the token; one even where none is used."""
        return max(1, self.context_width - 1)

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """One name for all cells of a token: the first of them is scored, as it stands."""
        return np.zeros(np.shape(contexts), dtype=np.uint32), np.asarray(choices).astype(np.uint32)

    def seeds(self, contexts: U32, key: Key) -> NDArray[np.uint64]:
        """The seed of each n-gram (n, context_width), the chosen token last."""
        word = self._word(key)
        entries = self._table(word)[contexts % np.uint32(TABLE)].astype(np.int64) + 1
        with np.errstate(over="ignore"):
            products = np.uint64(word).astype(np.int64) * entries * entries[:, -1:]
        smallest = products.min(axis=1)
        found: NDArray[np.uint64] = np.where(smallest < 0, smallest - 1, smallest).astype(np.uint64)
        return found  # a negative product is one less modulo 2^64 - 1 than modulo 2^64

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key with so many factors of two that tokens share the 32 bits of their seeds."""
        alone = np.arange(min(4_096, self.vocabulary), dtype=np.uint32)[:, None]
        shared = 1 - len(np.unique(low(self.seeds(alone, key)))) / len(alone)
        if shared > 0.01:
            refuse_key(f"{shared:.1%} of the tokens have a seed that another has")

    def tilt(self, logits: Made, contexts: Any, key: Any) -> Made:
        """Raises EmbeddingRefused."""
        raise EmbeddingRefused(
            f"{self.label} marks the forty likeliest tokens one by one, and no others; it is read here, not produced",
            hint="let the engine make the mark, or choose the scheme `greenlist`",
        )

    @abstractmethod
    def _table(self, word: int) -> NDArray[np.int32]:
        """The entries of all residues, less one."""

    def _grouped(self, contexts: ArrayLike, choices: ArrayLike) -> Cells:
        tokens = np.asarray(choices).astype(np.uint32)
        self._check_ids(tokens)
        before = np.asarray(contexts).astype(np.uint32)[:, self.window - self.context_width + 1 :]
        each = np.arange(len(tokens) + 1)
        return Cells(each[:-1], each, np.column_stack([before, tokens]), tokens)


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSelfHash(SelfHash):
    """vocabulary: the model's `vocab_size`. gamma: `greenlist_ratio`. Its key, `hashing_key`, draws the table."""

    name: ClassVar[str] = "hf-kgw/selfhash"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "hf-kgw/selfhash-mt19937-cpu-v1"

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def _table(self, word: int) -> NDArray[np.int32]:
        return whole(word % 2**32, TABLE)


@dataclass(frozen=True, kw_only=True)
class LmWatermarkingSelfHash(SelfHash):
    """vocabulary: length of the tokenizer's list. Its key is `hash_key`; one table serves all keys."""

    name: ClassVar[str] = "lm-watermarking/selfhash"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "lm-watermarking/ff-anchored_minhash_prf-True-mt19937-cpu-v1"

    context_width: int = 4

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def _table(self, word: int) -> NDArray[np.int32]:
        return whole(TABLE_SEED, TABLE)
