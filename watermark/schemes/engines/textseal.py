"""TextSeal's marks, green list and Gumbel, over one sum modulo 8,191; its tournament is read by its first layer.

Recipes of textseal 0.0.5 (textseal/common/watermark/pseudorandom.py) and of its repository at 046cec4
(textseal/watermarking/core.py): S = the ids of the window times 10000019, 10000247, ... plus token * 100000007, H =
(S + key * 500001713) * 15485863 * 40499 modulo 2^64; H ^= H >> 13, with its sign; the level is H mod 8191, never
negative, and the uniform level / 8191 in 32-bit floats. The sum S is all that a key sees of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from watermark.schemes.engines.sampler import Sampler, check_gamma, check_window, first_level
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    I64 = NDArray[np.int64]
    U32 = NDArray[np.uint32]

_PRIMES = (10000019, 10000247, 10000439, 10000643, 10000747, 10000867, 10000993, 10001213, 10001357, 10001501)
_TOKEN, _KEY = 100000007, 500001713
_FACTOR = np.array(15485863 * 40499, dtype=np.int64)
_LEVELS = 8191
_SUM = 2**32 - 1  # in place of a window's first id: a canonical cell, whose sum stands in what follows
_RELATED = (
    "TextSeal's hash leaves cells related: a key moves all sums alike, and one pair of cells in eight is correlated, "
    "up to 0.56, with either sign. On real text the total's variance over random keys was 0.89 to 1.11 times the "
    "binomial's, at 300 cells as at 20,000: a p-value of 1e-6 may be wrong by a factor of 3; the rank among decoys is "
    "exact."
)


@dataclass(frozen=True)
class _Summed:
    """What the two share: a window of at most ten ids, and cells that are known by their sum."""

    window: int = 1

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """The cell's sum in place of its ids, where distinct ids can share one: from width 2 on. (n, h), (n,).

        Of width 1 each sum of ids below ten million has one (window, token), and cells stay as they are.
        """
        windows, tokens = _ids(contexts), _ids(choices)
        if windows.shape[1] == 1:
            return windows, tokens
        sums, named = cell_sums(windows, tokens).view(np.uint64), np.zeros_like(windows)
        named[:, 0], named[:, 1] = _SUM, (sums & np.uint64(_SUM)).astype(np.uint32)
        return named, (sums >> np.uint64(32)).astype(np.uint32)


@dataclass(frozen=True)
class TextsealGreenList(_Summed):
    """Green is a token whose uniform is below `gamma`; green tokens gain delta in the logits. The key: one number."""

    name: ClassVar[str] = "textseal/greenlist"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "textseal-greenlist/mod8191-v1"
    remarks: ClassVar[tuple[str, ...]] = (_RELATED,)

    gamma: float = 0.5
    delta: float = 2.0

    def __post_init__(self) -> None:
        check_window(self.window, len(_PRIMES))
        check_gamma(self.gamma)
        if not 0 < self.delta <= 50:
            raise ValueError(f"delta must be above 0 and at most 50, found {self.delta!r}")

    def tilt(self, logits: Any, contexts: ArrayLike, key: Key) -> Any:
        """Adds delta to every green token. logits: (b, V), numpy or torch; contexts: (b, h). Returns a new array."""
        windows, tokens = _ids(contexts), np.arange(logits.shape[-1], dtype=np.uint32)
        before = cell_sums(windows, np.zeros(len(windows), dtype=np.uint32))[:, None]
        green = levels(before + tokens.astype(np.int64) * _TOKEN, self._word(key)) < self._below
        if isinstance(logits, np.ndarray):
            return logits + logits.dtype.type(self.delta) * green
        import torch

        return logits + self.delta * torch.from_numpy(green).to(logits.device)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> I64:
        """1 where the chosen token is green. contexts: (n, h); choices: (n,). Returns (n,)."""
        return (levels(cell_sums(contexts, choices), self._word(key)) < self._below).astype(np.int64)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the share of the 8,191 levels below gamma."""
        return Bernoulli(self._below / _LEVELS)

    @property
    def _below(self) -> int:
        return levels_below(self.gamma)

    def _word(self, key: Key) -> int:
        return key.engine_words(1, f"{self.name}/{self.version}")[0]


@dataclass(frozen=True)
class TextsealGumbel(Sampler, _Summed):
    """Green is a token whose uniform is in the top `gamma`; the key is one number."""

    name: ClassVar[str] = "textseal/gumbel"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "textseal-gumbel/mod8191-v1"
    remarks: ClassVar[tuple[str, ...]] = (_RELATED,)

    gamma: float = 0.25

    def __post_init__(self) -> None:
        check_window(self.window, len(_PRIMES))
        check_gamma(self.gamma)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> I64:
        """1 where the token's uniform is in the top gamma. contexts: (n, h); choices: (n,). Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        return (levels(cell_sums(contexts, choices), word) >= self._first).astype(np.int64)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the share of the 8,191 levels that are green."""
        return Bernoulli((_LEVELS - self._first) / _LEVELS)

    @property
    def _first(self) -> int:
        return first_level(self.gamma, offset=Fraction(0), scale=_LEVELS)


def cell_sums(contexts: ArrayLike, choices: ArrayLike) -> I64:
    """The sum that stands for each cell, whatever the key; a canonical cell's is read. (n, h), (n,) give (n,)."""
    windows, tokens = _ids(contexts), _ids(choices)
    sums = tokens.astype(np.int64) * _TOKEN
    for place, prime in zip(range(windows.shape[1]), _PRIMES, strict=False):
        sums += windows[:, place].astype(np.int64) * prime
    if windows.shape[1] == 1:
        return sums
    read = (tokens.astype(np.uint64) << np.uint64(32)) | windows[:, 1]
    return np.where(windows[:, 0] == _SUM, read.view(np.int64), sums)


def levels(sums: I64, key: int) -> I64:
    """The level 0..8190 of each sum under a 64-bit key."""
    shift = np.array(key * _KEY % 2**64, dtype=np.uint64).view(np.int64)
    mixed = (sums + shift) * _FACTOR
    found: I64 = (mixed ^ (mixed >> 13)) % _LEVELS
    return found


def levels_below(gamma: float) -> int:
    """How many levels have a uniform below gamma, in the 32-bit floats in which the engine compares them."""
    uniforms = np.arange(_LEVELS, dtype=np.float32) / np.float32(_LEVELS)
    return int((uniforms < np.float32(gamma)).sum())


def _ids(ids: ArrayLike) -> U32:
    return np.asarray(ids).astype(np.uint32, copy=False)
