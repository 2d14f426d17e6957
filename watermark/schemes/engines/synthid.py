"""SynthID-Text as transformers has it (a table of 65,536 bits) and as DeepMind's repository has it since June 2025.

Every id, then one key a layer, enters x -> (x + id) * 6364136223846793005 + 1 modulo 2^64.

- `HfSynthid`: transformers 5.23.0 (generation/logits_process.py), synthid-text 0.2.1, MarkLLM. x starts at 1; layer d
  reads table[x_d mod size], the table being `torch.randint(0, 2, (size,))` of a CPU generator with a public seed.
- `SynthidText`: synthid-text at addb4a1 (src/synthid_text/logits_processing.py). x starts at sha256(keys as int64,
  little-endian), read big-endian, modulo 2^63 - 1; then 12 times y -> ((y + 1) * a + 1) >> 5, with its sign; layer d
  reads bit 30.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watermark import prf
from watermark.schemes.engines.sampler import Sampler, check_depth, check_window, most, share_of_most
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]

_A, _ONE = np.uint64(6364136223846793005), np.uint64(1)
_DEEPEST, _WIDEST = 100, 64
_BLOCK = 1 << 12
FEW = (
    "SynthID's table keeps 16 bits of each ngram and of each key: 65,536 cells exist, each has one vote. Their mean is "
    "exact; their variance over random keys, on real text, was 0.98 times the binomial's at 1,000 cells, 0.83 at "
    "17,000 and 0.35 with all 65,536 taken, so that p-values are too large rather than too small; text beyond some "
    "20,000 tokens adds little, beyond 200,000 nothing."
)
_DEVICE = "The table is that of a CPU generator; a mark whose table was drawn on another device is not seen."
_ITERATED = (
    "The hash leaves cells related, pairs by up to 0.19 in each layer and with either sign: on real text the total's "
    "variance over random keys was 0.92 to 1.13 times the binomial's. The rank among decoys is exact."
)


@dataclass(frozen=True)
class HfSynthid(Sampler):
    """Green is a cell with more ones than zeros in its `depth` layers; the key is one number a layer.

    window: ngram_len - 1. All that the keyed function learns of an ngram is x mod table_size, which needs no key: that
    number is the cell (`canonical`), and there are 65,536 at most. One cell's layers are independent under random keys,
    so that `null` is exact. Two cells read one table at a fixed distance, whose correlation the table fixes (0.004 on
    average, 0.016 at most): the variance of a total is known for each text (`remarks`).
    """

    name: ClassVar[str] = "hf-synthid/table"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "hf-synthid/lcg-table-cpu-v1"
    remarks: ClassVar[tuple[str, ...]] = (FEW, _DEVICE)

    window: int = 4
    depth: int = 30
    table_size: int = 65536
    table_seed: int = 0

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_depth(self.depth, _DEEPEST)
        if type(self.table_size) is not int or self.table_size not in [2**bits for bits in range(8, 25)]:
            raise ValueError(f"table_size must be a power of two from 256 to 2^24, found {self.table_size!r}")
        if type(self.table_seed) is not int or not 0 <= self.table_seed < 2**32:
            raise ValueError(f"table_seed must be a whole number of 32 bits, found {self.table_seed!r}")

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """One ngram for all that reach the table at one place: zeros, and a token below table_size. (n, h), (n,)."""
        windows = _ids(contexts)
        named = self._after(windows) + _ids(choices) - self._after(np.zeros((1, self.window), dtype=np.uint64))
        return np.zeros(windows.shape, dtype=np.uint32), (named & self._mask).astype(np.uint32)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where most layers read a one. contexts: (n, h); choices: (n,). Returns (n,)."""
        places = self._places(contexts, choices)
        if len(places) < self.table_size // 4:
            return self._most(key, places)
        found: NDArray[np.int64] = self._most(key, np.arange(self.table_size))[places]
        return found

    def totals(self, windows: U32, choices: U32, weights: NDArray[np.int32], keys: Sequence[Key]) -> NDArray[np.int64]:
        """Green weight of S statistics under m keys: (n, h), (n,), (S, n) give (m, S). See `Watermark.totals`."""
        places = self._places(windows, choices)
        summed = np.zeros((len(weights), self.table_size), dtype=np.int64)
        for row, weight in zip(summed, weights, strict=True):
            np.add.at(row, places, weight.astype(np.int64))
        everywhere = np.arange(self.table_size)
        return np.stack([summed @ self._most(key, everywhere) for key in keys])

    @property
    def null(self) -> Bernoulli:
        """The exact share: each layer a one with the share of ones in the table, independently under random keys."""
        return Bernoulli(share_of_most(self.depth, float(self.bits().mean())))

    def bits(self) -> NDArray[np.uint8]:
        """The table, (table_size,): here as a CPU draws it."""
        return table(self.table_size, self.table_seed)

    def bits_by_place(self) -> NDArray[np.uint8]:
        """The table as a layer's sums reach it, (table_size,): see `by_place`."""
        return by_place(self.table_size, self.table_seed)

    @property
    def _mask(self) -> np.uint64:
        return np.uint64(self.table_size - 1)

    def _after(self, windows: NDArray[np.uint64]) -> U64:
        return hashed(np.full(len(windows), 1, dtype=np.uint64), windows)

    def _places(self, contexts: ArrayLike, choices: ArrayLike) -> NDArray[np.int64]:
        """x mod table_size of each ngram, which decides all that any key can do. Returns (n,)."""
        ngrams = np.column_stack([_ids(contexts), _ids(choices)])
        return (self._after(ngrams) & self._mask).astype(np.int64)

    def _starts(self, key: Key) -> list[int]:
        words = key.engine_words(self.depth, f"{self.name}/{self.version}")
        return [word % self.table_size for word in words]

    def _most(self, key: Key, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whether most layers read a one at places (n,) of the table. Returns (n,)."""
        twice = np.concatenate([self.bits_by_place()] * 2)
        whole = len(places) == self.table_size
        read = [
            twice[start : start + self.table_size] if whole else twice[places + start] for start in self._starts(key)
        ]
        ones = np.zeros(len(places), dtype=np.uint8)
        for bits in read:
            ones += bits
        return most(ones, read[0], self.depth)


@dataclass(frozen=True)
class SynthidText(Sampler):
    """Green is a cell with more ones than zeros in its `depth` layers; the key is one number a layer.

    window: ngram_len - 1. Two ngrams give one input if they agree in a sum of 64 bits; among a million of random
    ngrams that has a chance of 3e-8, so cells are not merged.
    """

    name: ClassVar[str] = "synthid-text/iterated"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "synthid-text/lcg12-v1"
    remarks: ClassVar[tuple[str, ...]] = (_ITERATED,)

    window: int = 4
    depth: int = 30

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_depth(self.depth, _DEEPEST)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where most layers are ones. contexts: (n, h); choices: (n,). Returns (n,)."""
        words = key.engine_words(self.depth, f"{self.name}/{self.version}")
        return most(*iterated_ones(np.column_stack([_ids(contexts), _ids(choices)]), words), self.depth)

    @property
    def null(self) -> Bernoulli:
        """Fair bits: one half."""
        return Bernoulli(share_of_most(self.depth, 0.5))


def hashed(start: U64, ids: NDArray[np.uint64]) -> U64:
    """The hash of rows of ids (n, k) from a start (n,), modulo 2^64. Returns (n,)."""
    for column in range(ids.shape[1]):
        start = (start + ids[:, column]) * _A + _ONE
    return start


@lru_cache(maxsize=4)
def table(size: int, seed: int) -> NDArray[np.uint8]:
    """The engine's table of bits, read-only: the low bits of MT19937's first outputs, as on a CPU."""
    drawn = np.random.RandomState(seed).randint(0, 2**32, size, dtype=np.uint32) & 1
    bits: NDArray[np.uint8] = drawn.astype(np.uint8)
    bits.setflags(write=False)
    return bits


@lru_cache(maxsize=4)
def by_place(size: int, seed: int) -> NDArray[np.uint8]:
    """The table as layer's sums reach it: entry v is table[(v * a + 1) mod size], v = place + key. Read-only."""
    return placed(table(size, seed))


def placed(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A table's bits in the order of `by_place`. Read-only."""
    order = (np.arange(len(bits), dtype=np.uint64) * _A + _ONE) & np.uint64(len(bits) - 1)
    found: NDArray[np.uint8] = bits[order.astype(np.int64)]
    found.setflags(write=False)
    return found


def table_layers(ngrams: ArrayLike, keys: Sequence[int], *, size: int = 65536, seed: int = 0) -> NDArray[np.uint8]:
    """All g-values of ngrams (n, h + 1) under a key for each layer. Returns (n, depth)."""
    ids = _ids(ngrams)
    places = hashed(np.full(len(ids), 1, dtype=np.uint64), ids)[:, None]
    at = (places + np.array(keys, dtype=np.uint64)) & np.uint64(size - 1)
    found: NDArray[np.uint8] = by_place(size, seed)[at.astype(np.int64)]
    return found


def iterated_ones(ngrams: ArrayLike, keys: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ones among the layers, the first layer's bit) of ngrams (n, h + 1). Returns (n,) each."""
    if prf.backend() == "numba":
        from watermark.schemes.engines import sampler_compiled

        words = np.array(keys, dtype=np.uint64)
        return sampler_compiled.iterated_ones(_started(_ids(ngrams), words), words)
    bits = iterated_layers(ngrams, keys)
    return bits.sum(axis=1, dtype=np.int64), bits[:, 0].astype(np.int64)


def iterated_layers(ngrams: ArrayLike, keys: Sequence[int]) -> NDArray[np.uint8]:
    """All g-values of ngrams (n, h + 1) under a key for each layer. Returns (n, depth)."""
    ids, words = _ids(ngrams), np.array(keys, dtype=np.uint64)
    found = np.empty((len(ids), len(words)), dtype=np.uint8)
    for start in range(0, len(ids), _BLOCK):
        found[start : start + _BLOCK] = _iterated(_started(ids[start : start + _BLOCK], words), words)
    return found


def _started(ngrams: U64, words: U64) -> U64:
    """The hash of ngrams from the start that the layers' keys give."""
    digest = hashlib.sha256(words.astype("<u8").tobytes()).digest()
    return hashed(np.full(len(ngrams), int.from_bytes(digest, "big") % (2**63 - 1), dtype=np.uint64), ngrams)


def _iterated(sums: U64, words: U64) -> NDArray[np.uint8]:
    drawn = (sums[:, None] + words) * _A + _ONE
    for _ in range(12):
        drawn = (((drawn + _ONE) * _A + _ONE).view(np.int64) >> np.int64(5)).view(np.uint64)
    return ((drawn >> np.uint64(30)) & _ONE).astype(np.uint8)


def _ids(ids: ArrayLike) -> U64:
    return np.asarray(ids).astype(np.uint32, copy=False).astype(np.uint64)
