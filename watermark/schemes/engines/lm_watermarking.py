"""lm-watermarking, the code of Kirchenbauer et al. 2023 (arXiv 2301.10226, 2306.04634), without its self-salted forms.

Recipes from jwkirchenbauer/lm-watermarking at fb602de, alternative_prf_schemes.py and
extended_watermark_processor.py: a context of h ids and the key make an integer, reduced modulo 2^64 - 1 to the seed
of torch.randperm(V), whose first int(V * gamma) places are the list; V is the length of the tokenizer's list, not
the width of the logits. "simple_1" and "lefthash" are additive with h = 1, "skipgram" is skipgram with h = 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from watermark.schemes.engines.hf import PUBLIC
from watermark.schemes.engines.permuted import LISTS, Permuted, low, reduced_product, refuse_key, whole

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

Function = Literal["additive", "minfunc", "position", "skipgram"]
WIDTHS = range(1, 9)
TABLE = 1_000_003
TABLE_SEED = 2971215073  # of the table that every installation shares
STARTS = "Contexts whose integer is 0 whatever the key (of ids 0) have one list under every key; they are not counted."
MERGED = (
    "The function sees its context as one integer (a sum, the smallest id, the first id): all contexts with the same "
    "integer are one cell with each token."
)


@dataclass(frozen=True, kw_only=True)
class LmWatermarking(Permuted):
    """function: the library's `..._prf`, key times their sum, their smallest, their sum weighted by place (in 64
    bits), or a table's entry for key times the first of them. window: its `context_width` h. Its key is `hash_key`.

    minhash and the other forms of several table entries are left out: which ids they use depends on the key, so that
    cells which coincide under it can't be told without it. "selfhash" is in `selfhash`.
    """

    name: ClassVar[str] = "lm-watermarking"
    version: ClassVar[int] = 1
    remarks: ClassVar[tuple[str, ...]] = (*LISTS, STARTS, MERGED, PUBLIC)

    function: Function = "additive"
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.function not in get_args(Function):
            raise ValueError(f"function must be one of {', '.join(get_args(Function))}, found {self.function!r}")
        if type(self.window) is not int or self.window not in WIDTHS:
            raise ValueError(f"window must be a whole number from 1 to {WIDTHS[-1]}, found {self.window!r}")

    @property
    def recipe(self) -> str:
        """Named as the library writes its free forms."""
        return f"lm-watermarking/ff-{self.function}_prf-{self.window}-False-mt19937-cpu-v1"

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def seeds(self, contexts: U32, key: Key) -> NDArray[np.uint64]:
        """The key times what the function keeps of a context; a table's entry of that for "skipgram"."""
        kept, word = _kept(self.function, contexts), self._word(key)
        if self.function in ("additive", "minfunc"):
            return reduced_product(kept, word)
        with np.errstate(over="ignore"):
            product = (kept * np.uint64(word)).astype(np.int64)
        if self.function == "skipgram":
            return whole(TABLE_SEED, TABLE)[product % TABLE].astype(np.uint64) + np.uint64(1)
        return np.where(product < 0, product - 1, product).astype(np.uint64)  # a negative product modulo 2^64 - 1

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """Windows (n, h) that make one integer become one: all of it stands where the function finds it alone."""
        ids = np.asarray(contexts).astype(np.uint32)
        kept = _kept(self.function, ids).astype(np.uint32)
        alone = np.zeros_like(ids)
        if self.function == "minfunc":
            alone[:] = kept[:, None]
        else:
            alone[:, 0 if self.function in ("skipgram", "position") else -1] = kept
        return alone, np.asarray(choices).astype(np.uint32)

    def keyless(self, contexts: ArrayLike) -> NDArray[np.bool_]:
        """Contexts whose integer is 0."""
        nothing: NDArray[np.bool_] = _kept(self.function, np.asarray(contexts).astype(np.uint32)) == 0
        return nothing

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key under which contexts share the 32 bits of their seeds."""
        alone = np.zeros((self.vocabulary - 1, self.window), dtype=np.uint32)
        alone[:] = np.arange(1, self.vocabulary, dtype=np.uint32)[:, None]
        seeds = low(self.seeds(self.canonical(alone, alone[:, 0])[0], key))
        shared = 1 - len(np.unique(seeds)) / len(seeds)
        if shared > (0.2 if self.function == "skipgram" else 0.001):  # a table hit at random repeats some entries
            refuse_key(f"{shared:.1%} of the integers have a seed that another has")


def _kept(function: Function, ids: U32) -> NDArray[np.uint64]:
    """The integer that a context (n, h) is to the function; below 2^24 for ids below 2^18."""
    wide = ids.astype(np.uint64)
    kept: NDArray[np.uint64]
    if function == "skipgram":
        kept = wide[:, 0]
        return kept
    if function == "minfunc":
        kept = wide.min(axis=1)
        return kept
    places: Any = np.arange(1, ids.shape[1] + 1, dtype=np.uint64) if function == "position" else np.uint64(1)
    kept = (wide * places).sum(axis=1)
    return kept
