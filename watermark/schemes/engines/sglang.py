"""SGLang's native marks: Gumbel under one key, or under two that share the windows.

Recipes of sglang 0.5.23 (python/sglang/srt/sampling/watermarking/core.py, detector.py, config.py). With m the 32-bit
MurmurHash3 of words: c = m(window), word = m(key low, key high, c, token), u = (word + 0.5) / 2^32. The engine picks
the largest log(u) / p and sums -log(1 - u). With two keys the window goes to A if m(A low, A high, B low, B high, c)
is below int(mixing * 2^32), else to B.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watermark import prf
from watermark.schemes.engines.murmur import murmur32, unhash_last
from watermark.schemes.engines.sampler import Sampler, check_gamma, check_window, first_level
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

    U32 = NDArray[np.uint32]

_WORDS = 2**32
_WIDEST = 64
_NARROW = (
    "SGLang's key acts through 32 bits: 2^32 keys share each mark, so that a p-value below 2^-32 (log10 p under -9.6) "
    "says that the text is marked, not that it was this key among all that exist."
)
_REPEATED = (
    "The engine marks each window once in an answer, at most 4,096 of them; other tokens are scored all the same."
)


@dataclass(frozen=True)
class SglangGumbel(Sampler):
    """Green is a token whose uniform is in the top `gamma`; the key is one 64-bit number.

    Windows enter by their 32-bit hash, so that distinct windows can be one cell: `canonical` names each by one window.
    """

    name: ClassVar[str] = "sglang-gumbel/single"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "sglang-gumbel/murmur3-32-v1"
    remarks: ClassVar[tuple[str, ...]] = (_NARROW, _REPEATED)
    alike: ClassVar[bool] = True  # windows of one hash score alike: weights are summed over them

    window: int = 4
    gamma: float = 0.25

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_gamma(self.gamma)

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """One window for all that share a hash: zeros, and the last id that hashes alike. Returns (n, h), (n,)."""
        return _named(contexts), _ids(choices)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the token's uniform is in the top gamma. contexts: (n, h); choices: (n,). Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        return _green(token_words(window_hashes(contexts), choices, word), self.gamma)

    def draw(self, logits: ArrayLike, contexts: ArrayLike, key: Key) -> NDArray[np.int64]:
        """The token that the engine picks after each context: the largest log(u) / p, in 32-bit floats.

        logits: (b, V), at the temperature and cut as they are sampled from; contexts: (b, h) ids, the prompt's before
        the answer's. The engine samples without the mark after a window that it marked before in the answer. (b,).
        """
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        rows = np.asarray(logits, dtype=np.float32)
        hashes = window_hashes(contexts)
        picked = [
            _largest(row, np.full(len(row), c, dtype=np.uint32), word) for row, c in zip(rows, hashes, strict=True)
        ]
        return np.array(picked, dtype=np.int64)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the exact share of green words."""
        return Bernoulli((_WORDS - _first(self.gamma)) / _WORDS)


@dataclass(frozen=True)
class SglangDualGumbel(Sampler):
    """Two keys, A and B: each window belongs to one by a keyed coin, A with probability `mixing`.

    A cell is scored under the key of its window, so that its uniform is exactly that of one key.
    """

    name: ClassVar[str] = "sglang-gumbel/dual"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "sglang-dual-gumbel/murmur3-32-v1"
    remarks: ClassVar[tuple[str, ...]] = (_NARROW, _REPEATED)
    alike: ClassVar[bool] = True

    window: int = 4
    gamma: float = 0.25
    mixing: float = 0.5

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_gamma(self.gamma)
        if not 0 < self.mixing < 1:
            raise ValueError(f"mixing must lie between 0 and 1, found {self.mixing!r}")

    def canonical(self, contexts: ArrayLike, choices: ArrayLike) -> tuple[U32, U32]:
        """As for one key: both keys see a window by its hash alone."""
        return _named(contexts), _ids(choices)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the uniform under the window's own key is in the top gamma. Returns (n,)."""
        a, b = key.engine_words(2, f"{self.name}/{self.version}")
        hashes = window_hashes(contexts)
        drawn = [token_words(hashes, choices, each) for each in (a, b)]
        return _green(np.where(goes_to_a(hashes, a, b, self.mixing), *drawn), self.gamma)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the exact share of green words."""
        return Bernoulli((_WORDS - _first(self.gamma)) / _WORDS)


def window_hashes(contexts: ArrayLike) -> U32:
    """The hash of each window (n, h). Returns (n,)."""
    windows = _ids(contexts)
    return murmur32([windows[:, i] for i in range(windows.shape[1])])


def token_words(hashes: U32, choices: ArrayLike, key: int) -> U32:
    """The 32-bit word of each token (n,) after windows of these hashes (n,), under a 64-bit key."""
    if prf.backend() == "numba":
        from watermark.schemes.engines import sampler_compiled

        return sampler_compiled.murmur_words(hashes, _ids(choices), key)
    return murmur32([*_halves(key), hashes, _ids(choices)])


def goes_to_a(hashes: U32, a: int, b: int, mixing: float) -> NDArray[np.bool_]:
    """Whether windows of these hashes (n,) belong to key A."""
    coins = murmur32([*_halves(a), *_halves(b), hashes])
    return coins < np.uint32(int(mixing * _WORDS))


def log_uniforms(words: U32) -> NDArray[np.float32]:
    """log u in 32-bit floats as the engine computes it, from the side of 1 for the upper half."""
    one, half, scale = np.uint32(_WORDS - 1), np.float32(0.5), np.float32(_WORDS)
    lower = np.log((words.astype(np.float32) + half) / scale)
    with np.errstate(divide="ignore", invalid="ignore"):  # of the lower half, which is not taken from here
        upper = np.log1p(-((one - words).astype(np.float32) + half) / scale)
    found: NDArray[np.float32] = np.where(words < 2**31, lower, upper).astype(np.float32)
    return found


def _largest(logits: NDArray[np.float32], hashes: U32, key: int) -> int:
    """The token that wins after one context: logits (V,), hashes (V,) all alike."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    drawn = log_uniforms(token_words(hashes, np.arange(len(logits)), key))
    with np.errstate(divide="ignore"):
        return int(np.argmax(np.where(p > 0, drawn / p, -np.inf)))


def _green(words: U32, gamma: float) -> NDArray[np.int64]:
    return (words >= np.uint32(_first(gamma))).astype(np.int64)


def _first(gamma: float) -> int:
    return first_level(gamma, offset=Fraction(1, 2), scale=_WORDS)


def _named(contexts: ArrayLike) -> U32:
    windows = _ids(contexts)
    named = np.zeros_like(windows)
    named[:, -1] = unhash_last(window_hashes(windows), [0] * (windows.shape[1] - 1))
    return named


def _ids(ids: ArrayLike) -> U32:
    return np.asarray(ids).astype(np.uint32, copy=False)


def _halves(key: int) -> tuple[int, int]:
    return key & 0xFFFFFFFF, key >> 32
