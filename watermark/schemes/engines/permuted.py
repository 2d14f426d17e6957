"""Green lists that are the first places of a seeded permutation: the arithmetic, and what its engines share.

torch.Generator on a CPU is the Mersenne twister MT19937 seeded with the low 32 bits of the seed (numpy's legacy
seeding), and torch.randperm(V) a forward shuffle: at step i it swaps the places i and i + raw mod (V - i), raw being
the next 32-bit draw (torch 2.13, aten/src/ATen/native/TensorFactories.cpp, checked against torch in
tests/conformance). So a list of m tokens takes m steps, and no torch. On CUDA torch draws otherwise: lists made
there are another recipe.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from watermark import prf
from watermark.errors import KeyUnusable, ProfileMismatch
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")
LIMIT = 2**64 - 1  # seeds are reduced modulo this before they reach the generator
LARGEST = 2**18  # token ids are below it, so that sums and packed windows stay exact
_MANY = 250  # tokens of one seed from which on carrying the permutation out is cheaper than following each

LISTS = (
    "The lists are those of torch's CPU generator; text marked on another device carries other lists and shows as "
    "unmarked.",
    "A list has a fixed size, so that cells of one list are drawn without replacement: their count varies less than "
    "the binomial law says (Hoeffding 1963, theorem 4).",
    "The generator keeps 32 bits of a seed: keys that differ by a multiple of 2^32 can make the same mark, and the "
    "key can be found by trying.",
)


@dataclass(frozen=True, kw_only=True)
class Permuted(ABC):
    """What the engines of this family share; a child says how a context and the key make a seed.

    vocabulary: length of the permutation, V. gamma: share of green tokens, int(V gamma) of them. delta: logits
    gained, in nats. A child has `window`, the ids of context that the seed is made from.
    """

    vocabulary: int
    gamma: float = 0.25
    delta: float = 2.0

    def __post_init__(self) -> None:
        if type(self.vocabulary) is not int or not 2 <= self.vocabulary <= LARGEST:
            raise ValueError(f"vocabulary must be a whole number from 2 to {LARGEST}, found {self.vocabulary!r}")
        if not 0 < self.gamma < 1 or not 0 < self.size < self.vocabulary:
            raise ValueError(f"gamma must leave some tokens green and some red, found {self.gamma!r}")
        if not (math.isfinite(self.delta) and 0 < self.delta <= 50):
            raise ValueError(f"delta must be above 0 and at most 50, found {self.delta!r}")

    @property
    @abstractmethod
    def label(self) -> str:
        """Under which decoys' words are drawn."""

    @abstractmethod
    def seeds(self, contexts: U32, key: Key) -> U64:
        """The generator's seed after each context (n, h), below 2^64 - 1. Returns (n,)."""

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """The same cells with one window for all windows that make one seed whatever the key; here, unchanged."""
        return _ids(contexts), _ids(choices)

    def keyless(self, contexts: ArrayLike) -> NDArray[np.bool_]:
        """Which contexts (n, h) have one list under every key: such cells say nothing of a key and must not count."""
        return np.zeros(len(np.asarray(contexts)), dtype=bool)

    def check_key(self, key: Key) -> None:
        """Raises KeyUnusable for a key of the engine under which contexts share their lists; decoys need no check."""
        self._word(key)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the chosen token is in its context's list, else 0. contexts: (n, h); choices: (n,).

        Raises ProfileMismatch for an id beyond the vocabulary.
        """
        cells = self._grouped(contexts, choices)
        green = np.empty(len(cells.order), dtype=np.int64)
        green[cells.order] = self._green(cells, key)
        return green

    def totals(self, windows: U32, choices: U32, weights: NDArray[np.int32], keys: Sequence[Key]) -> NDArray[np.int64]:
        """Green weight of S statistics under m keys: (n, h), (n,), (S, n) give (m, S). See `Watermark.totals`."""
        cells = self._grouped(windows, choices)
        ordered = weights[:, cells.order]

        def of(key: Key) -> NDArray[np.int64]:
            found: NDArray[np.int64] = ordered.sum(axis=1, where=self._green(cells, key), dtype=np.int64)
            return found

        with ThreadPoolExecutor(_threads()) as pool:
            return np.stack(list(pool.map(of, keys)))

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key) -> Logits:
        """Adds delta to every green token. logits: (b, V or wider); contexts: (b, h) ids, oldest first.

        Returns a new array of the same kind. Raises ProfileMismatch for fewer than V columns.
        """
        if logits.shape[-1] < self.vocabulary:
            raise ProfileMismatch(
                f"the logits have {logits.shape[-1]} columns, the lists are over {self.vocabulary}",
                hint="state the vocabulary that the engine was started with",
            )
        lists = self.lists(contexts, key)
        if isinstance(logits, np.ndarray):
            tilted = logits.copy()
            for row, green in zip(tilted, lists, strict=True):
                row[green] += row.dtype.type(self.delta)
            return tilted
        import torch

        biased = logits.clone()
        for row, green in zip(biased, torch.from_numpy(lists.astype(np.int64)), strict=True):
            row[green.to(row.device)] += self.delta
        return biased

    def lists(self, contexts: ArrayLike, key: Key) -> NDArray[np.int32]:
        """The green tokens after each context (b, h), in the permutation's order. Returns (b, int(V gamma))."""
        host = contexts.detach().cpu() if hasattr(contexts, "detach") else contexts
        seeds = low(self.seeds(_ids(host), key))
        return self._arranged(prefixes(seeds, vocabulary=self.vocabulary, size=self.size))

    @property
    def size(self) -> int:
        """Tokens in a list."""
        return int(self.vocabulary * self.gamma)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the share of green tokens that a list really has."""
        return Bernoulli(self.size / self.vocabulary)

    def _word(self, key: Key) -> int:
        return key.engine_words(1, self.label)[0]

    def _asked(self, choices: U32) -> U32:
        """The entry of the permutation that decides on each choice; here, itself."""
        return choices

    def _arranged(self, lists: NDArray[np.int32]) -> NDArray[np.int32]:
        """The tokens that the entries decide on: what undoes `_asked`."""
        return lists

    def _grouped(self, contexts: ArrayLike, choices: ArrayLike) -> Cells:
        windows, tokens = self.canonical(contexts, choices)
        self._check_ids(tokens)
        order, starts = grouped(windows)
        return Cells(order, starts, windows[order[starts[:-1]]], self._asked(tokens)[order])

    def _check_ids(self, tokens: U32) -> None:
        if len(tokens) and int(tokens.max()) >= self.vocabulary:
            raise ProfileMismatch(
                f"token id {int(tokens.max())} is beyond the {self.vocabulary} of this mark's lists",
                hint="state the vocabulary that the engine was started with, and its tokenizer",
            )

    def _green(self, cells: Cells, key: Key) -> NDArray[np.bool_]:
        seeds = low(self.seeds(cells.windows, key))
        return members(seeds, cells.starts, cells.tokens, vocabulary=self.vocabulary, size=self.size)


@dataclass(frozen=True)
class Cells:
    """Cells with those of one window together: the u-th window's run from starts[u] to starts[u + 1] of `order`."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    windows: U32
    tokens: U32


def grouped(windows: U32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(order, starts): cells sorted so that equal windows (n, h) stand together, and where each run begins."""
    order = np.lexsort(windows.T)
    ordered = windows[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    return order, np.append(np.flatnonzero(new), len(order))


def members(seeds: U32, starts: NDArray[np.int64], tokens: U32, *, vocabulary: int, size: int) -> NDArray[np.bool_]:
    """Which tokens are among the first `size` of their seed's permutation of `vocabulary` tokens.

    seeds: (u,); tokens: (n,), those of seed g from starts[g] to starts[g + 1]; size < vocabulary. Returns (n,).
    """
    if prf.backend() == "numba":
        from watermark.schemes.engines import permuted_compiled

        return permuted_compiled.members(seeds, starts, tokens, vocabulary=vocabulary, size=size)
    found, green = np.empty(len(tokens), dtype=bool), np.zeros(vocabulary, dtype=bool)
    for seed, start, stop in zip(seeds, starts, starts[1:], strict=False):
        places, asked = _places(int(seed), vocabulary, size), tokens[start:stop]
        if len(asked) < _MANY:
            found[start:stop] = [_holds(places, token) for token in asked.tolist()]
            continue
        listed = _carried_out(places, vocabulary)
        green[listed] = True
        found[start:stop] = green[asked]
        green[listed] = False
    return found


def prefixes(seeds: U32, *, vocabulary: int, size: int) -> NDArray[np.int32]:
    """The first `size` tokens of each seed's permutation. seeds: (u,); size < vocabulary. Returns (u, size)."""
    if prf.backend() == "numba":
        from watermark.schemes.engines import permuted_compiled

        return permuted_compiled.prefixes(seeds, vocabulary=vocabulary, size=size)
    drawn = [_carried_out(_places(int(seed), vocabulary, size), vocabulary) for seed in seeds]
    return np.array(drawn, dtype=np.int32).reshape(-1, size)


@lru_cache(maxsize=4)
def whole(seed: int, vocabulary: int) -> NDArray[np.int32]:
    """The permutation of one seed, all of it: its last place is the one left over."""
    drawn = prefixes(np.array([seed], dtype=np.uint32), vocabulary=vocabulary, size=vocabulary - 1)[0]
    left = vocabulary * (vocabulary - 1) // 2 - int(drawn.sum(dtype=np.int64))
    return np.append(drawn, np.int32(left))


def low(seeds: U64) -> U32:
    """The 32 bits of a seed that the generator keeps."""
    return seeds.astype(np.uint32)


def reduced_product(left: U64, right: int) -> U64:
    """left * right modulo 2^64 - 1, for left below 2^32 and right below 2^64, without wider integers."""
    top, bottom = np.uint64(right >> 32), np.uint64(right & 0xFFFFFFFF)
    with np.errstate(over="ignore"):
        carried = (left * bottom) >> np.uint64(32)
        product = left * np.uint64(right)
        return reduced_sum(product, (left * top + carried) >> np.uint64(32))


def reduced_sum(left: U64, right: U64) -> U64:
    """left + right modulo 2^64 - 1: the carry comes back at the other end, and all ones are zero."""
    with np.errstate(over="ignore"):
        added = left + right
        added += (added < left).astype(np.uint64)
    return np.where(added == np.uint64(LIMIT), np.uint64(0), added)


def refuse_key(reason: str) -> None:
    """Raises KeyUnusable."""
    raise KeyUnusable(
        f"this key makes contexts share their lists: {reason}; a p-value over such cells would be wrong",
        hint="nothing can be shown with this key; a new one should be an odd number",
    )


def _places(seed: int, vocabulary: int, size: int) -> NDArray[np.int64]:
    """Where each step of the shuffle finds the element that it moves to its own place."""
    raw = np.random.RandomState(seed).randint(2**32, size=size, dtype=np.uint32)
    steps = np.arange(size)
    return steps + raw % (vocabulary - steps)


def _holds(places: NDArray[np.int64], token: int) -> bool:
    """Follows one token: it stays where it is until a step draws it, or reaches it and swaps it away."""
    start, at = 0, token
    while not (places[start:at] == at).any():
        if at >= len(places):
            return False
        if places[at] == at:
            return True
        start, at = at + 1, int(places[at])
    return True


def _carried_out(places: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """The first places of the permutation itself."""
    order = list(range(vocabulary))
    for i, at in enumerate(places.tolist()):
        order[i], order[at] = order[at], order[i]
    return np.array(order[: len(places)])


def _ids(ids: ArrayLike) -> U32:
    return np.asarray(ids).astype(np.uint32)


def _threads() -> int:
    if prf.backend() != "numba":
        return 1
    return prf.threads()
