"""Hugging Face transformers' WatermarkingConfig(seeding_scheme="lefthash"): Kirchenbauer et al. 2023, algorithm 2.

Recipe from transformers 5.23.0, generation/logits_process.py (WatermarkLogitsProcessor): the seed is
key * last id modulo 2^64 - 1, the list the first int(V * greenlist_ratio) places of torch.randperm(V).
`context_width` takes no part in it, so that every width is this recipe. lm-watermarking's "simple_1" is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watermark.schemes.engines.permuted import LISTS, Permuted, low, reduced_product, refuse_key

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

PUBLIC = "15485863 is the key that the library comes with: who else left it unchanged has the same mark."
STARTS = "Token id 0 gives one list under every key; cells after it are not counted."


@dataclass(frozen=True, kw_only=True)
class HuggingFaceLeftHash(Permuted):
    """vocabulary: the model's `vocab_size`, the width of its logits. gamma: `greenlist_ratio`. delta: `bias`.

    Its key is `hashing_key`, a whole number from 1 to 2^64 - 1; a negative one is another key than its 64 bits are.
    """

    name: ClassVar[str] = "hf-kgw/lefthash"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "hf-kgw/lefthash-mt19937-cpu-v1"
    window: ClassVar[int] = 1
    remarks: ClassVar[tuple[str, ...]] = (*LISTS, STARTS, PUBLIC)

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def seeds(self, contexts: NDArray[np.uint32], key: Key) -> NDArray[np.uint64]:
        """Key times last id, modulo 2^64 - 1."""
        return reduced_product(contexts[:, -1].astype(np.uint64), self._word(key))

    def keyless(self, contexts: ArrayLike) -> NDArray[np.bool_]:
        """Contexts that end with id 0: their seed is 0 whatever the key."""
        ended: NDArray[np.bool_] = np.asarray(contexts)[:, -1] == 0
        return ended

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key with so many factors of two that ids share their seeds' 32 bits."""
        ids = np.arange(1, self.vocabulary, dtype=np.uint32)
        shared = 1 - len(np.unique(low(self.seeds(ids[:, None], key)))) / len(ids)
        if shared > 0.001:
            refuse_key(f"{shared:.1%} of the ids have a seed that another id has")
