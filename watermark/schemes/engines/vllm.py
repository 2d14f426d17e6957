"""vLLM's native marks: Gumbel with one key and with two, the HMAC variant, and SynthID from bits of one word.

Recipes of vllm 0.33.0 (vllm/v1/watermarking/gumbel.py, prfs/philox.py, prfs/base.py, vllm/config/watermarking.py); the
HMAC and SynthID files (prfs/hmac_sha256.py, synthid.py there) are in its repository, not in that wheel.

Key k has words k0 (low 32 bits) and k1. A window of h ids becomes four words: state = (0x574D4358, h, 0, 0), and for
each four ids from place i on, state = Philox10(state ^ ids, (k0 ^ i, k1)); places beyond the window's end hold
2^32 - 1 - place in the block. The word of token t is number t & 3 of Philox10((t >> 2, s0, s1, s2),
(k0 ^ s3, k1 ^ 0x574D544B)), its uniform u = ((word >> 8) + 1) / (2^24 + 1). The engine picks the largest
logit - log(-log u) and sums -log(1 - u).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from watermark import prf
from watermark.schemes.engines.philox import MASK, halves, philox10
from watermark.schemes.engines.sampler import (
    Sampler,
    check_depth,
    check_gamma,
    check_window,
    first_level,
    most,
    share_of_most,
)
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

_CONTEXT, _TOKEN = 0x574D4358, np.uint64(0x574D544B)
_LEVELS = 2**24
_HMAC_DOMAIN = b"vllm-watermark-hmac-sha256-v1\0"
_BINS = 4096  # levels of each uniform that the rule for two keys tells apart
_BLOCK = 1 << 14  # cells worked on at a time: their words stay in the processor's cache
_WIDEST = 64
_ONCE = "The engine leaves a window unmarked that it has met before in the answer; such tokens are scored all the same."


@dataclass(frozen=True)
class VllmGumbel(Sampler):
    """Green is a token whose uniform is in the top `gamma`; the key is one 64-bit number.

    window: the engine's context_width. Two distinct windows never give the keyed function one input.
    """

    name: ClassVar[str] = "vllm-gumbel/single"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "vllm-gumbel/philox4x32-10-v1"
    remarks: ClassVar[tuple[str, ...]] = (_ONCE,)

    window: int = 4
    gamma: float = 0.25

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_gamma(self.gamma)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the token's uniform is in the top gamma. contexts: (n, h); choices: (n,). Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        return (levels(words_of(contexts, choices, word)) >= self._first).astype(np.int64)

    def draw(self, logits: ArrayLike, contexts: ArrayLike, key: Key) -> NDArray[np.int64]:
        """The token that the engine samples after each context: the largest logit - log(-log u), in 32-bit floats.

        logits: (b, V), at the temperature and cut as they are sampled from; contexts: (b, h) ids of the answer, -1
        before it. The engine samples without the mark after a window that the answer already held. Returns (b,).
        """
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        rows = np.asarray(logits, dtype=np.float32)
        picked = [
            _largest(row, np.tile(window, (len(row), 1)), word)
            for row, window in zip(rows, np.asarray(contexts), strict=True)
        ]
        return np.array(picked, dtype=np.int64)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the share of the 2^24 levels that are green, nearest to gamma from below."""
        return Bernoulli((_LEVELS - self._first) / _LEVELS)

    @property
    def _first(self) -> int:
        return first_level(self.gamma, offset=Fraction(1), scale=_LEVELS + 1)


@dataclass(frozen=True)
class VllmDualGumbel(Sampler):
    """Two keys drawn from one: a token is sampled under key B with probability `alpha`, else under key A.

    Green is a cell whose (1 - alpha) * -log(1 - u_A) + alpha * -log(1 - u_B), the sum of the engine's detector, is in
    its top gamma; each uniform is rounded to the middle of one of 4,096 levels first, so that the green share is exact.
    The derived keys are the first 8 bytes, big-endian, of sha256("key_a" or "key_b" + the key as 8 bytes, big-endian).
    """

    name: ClassVar[str] = "vllm-gumbel/dual"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "vllm-dual-key-gumbel/philox4x32-10-v1"
    remarks: ClassVar[tuple[str, ...]] = (_ONCE,)

    window: int = 4
    gamma: float = 0.25
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_gamma(self.gamma)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie between 0 and 1, found {self.alpha!r}")

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the weighted sum of both keys' statistics is in its top gamma. Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        a, b = (levels(words_of(contexts, choices, each)) * _BINS // _LEVELS for each in derived_keys(word))
        return (b >= green_from(self.alpha, self.gamma)[a]).astype(np.int64)

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the exact share of green pairs of levels, near gamma."""
        return Bernoulli(float((_BINS - green_from(self.alpha, self.gamma)).sum()) / _BINS**2)


@dataclass(frozen=True)
class VllmHmacGumbel(Sampler):
    """VllmGumbel with HMAC-SHA-256 in place of Philox; the key has four 64-bit numbers, the least significant first.

    The message is the domain, h as 4 bytes, the ids and the token as 8 bytes each, all little-endian; the word is the
    digest's first 4 bytes.
    """

    name: ClassVar[str] = "vllm-gumbel/hmac"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "vllm-gumbel/hmac-sha256-v1"
    remarks: ClassVar[tuple[str, ...]] = (
        _ONCE,
        "The engine's repository has this recipe, no released server offers it.",
    )

    window: int = 4
    gamma: float = 0.25

    def __post_init__(self) -> None:
        check_window(self.window, 16)
        check_gamma(self.gamma)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where the token's uniform is in the top gamma. contexts: (n, h); choices: (n,). Returns (n,)."""
        words = key.engine_words(4, f"{self.name}/{self.version}")
        drawn = hmac_words(contexts, choices, b"".join(word.to_bytes(8, "little") for word in words))
        return (levels(drawn) >= self._first).astype(np.int64)

    @property
    def null(self) -> Bernoulli:
        """As for Philox: the share of the 2^24 levels that are green."""
        return Bernoulli((_LEVELS - self._first) / _LEVELS)

    @property
    def _first(self) -> int:
        return first_level(self.gamma, offset=Fraction(1), scale=_LEVELS + 1)


@dataclass(frozen=True)
class VllmSynthid(Sampler):
    """SynthID's tournament with the `depth` lowest bits of one Philox word; green is a word with more ones than zeros.

    A tie goes to the lowest bit, that of the first layer.
    """

    name: ClassVar[str] = "vllm-synthid/philox"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "vllm-synthid/philox4x32-10-v1"
    remarks: ClassVar[tuple[str, ...]] = (
        _ONCE,
        "The engine's repository has this recipe, no released server offers it.",
    )

    window: int = 4
    depth: int = 32

    def __post_init__(self) -> None:
        check_window(self.window, _WIDEST)
        check_depth(self.depth, 32)

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[np.int64]:
        """1 where most of the word's `depth` lowest bits are ones. contexts: (n, h); choices: (n,). Returns (n,)."""
        (word,) = key.engine_words(1, f"{self.name}/{self.version}")
        kept = words_of(contexts, choices, word) & np.uint64(2**self.depth - 1)
        return most(ones(kept), (kept & np.uint64(1)).astype(np.int64), self.depth)

    @property
    def null(self) -> Bernoulli:
        """Fair bits: one half, exactly."""
        return Bernoulli(share_of_most(self.depth, 0.5))


def words_of(contexts: ArrayLike, choices: ArrayLike, key: int) -> NDArray[np.uint64]:
    """Each cell's 32-bit word under a 64-bit key. contexts: (n, h) ids, -1 before the text; choices: (n,)."""
    windows = np.asarray(contexts).astype(np.uint32, copy=False)
    tokens = np.asarray(choices).astype(np.uint32, copy=False)
    if prf.backend() == "numba":
        from watermark.schemes.engines import sampler_compiled

        return sampler_compiled.philox_words(windows, tokens, key)
    drawn = np.empty(len(tokens), dtype=np.uint64)
    for start in range(0, len(tokens), _BLOCK):
        part = slice(start, start + _BLOCK)
        drawn[part] = _words(windows[part].astype(np.uint64), tokens[part].astype(np.uint64), key)
    return drawn


def hmac_words(contexts: ArrayLike, choices: ArrayLike, key: bytes) -> NDArray[np.uint64]:
    """Each cell's 32-bit word under HMAC-SHA-256. contexts: (n, h) ids, -1 before the text; choices: (n,)."""
    ids = np.column_stack([np.asarray(contexts), np.asarray(choices)]).astype("<i8")
    head = _HMAC_DOMAIN + (ids.shape[1] - 1).to_bytes(4, "little")
    digests = (hmac.digest(key, head + row.tobytes(), "sha256")[:4] for row in ids)
    return np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint64)


def levels(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The level 0..2^24 - 1 of each word; its uniform is (level + 1) / (2^24 + 1)."""
    return (words >> np.uint64(8)).astype(np.int64)


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The engine's uniforms, rounded to 32-bit floats as it rounds them."""
    return ((levels(words) + 1.0) / (_LEVELS + 1)).astype(np.float32)


def ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many of each 32-bit word's bits are ones (Warren 2013, Hacker's Delight, figure 5-2)."""
    two, four, eight = np.uint64(0x55555555), np.uint64(0x33333333), np.uint64(0x0F0F0F0F)
    pairs = words - ((words >> np.uint64(1)) & two)
    quads = (pairs & four) + ((pairs >> np.uint64(2)) & four)
    octets = (quads + (quads >> np.uint64(4))) & eight
    found: NDArray[np.int64] = (((octets * np.uint64(0x01010101)) & MASK) >> np.uint64(24)).astype(np.int64)
    return found


def derived_keys(key: int) -> tuple[int, int]:
    """Keys A and B of a 64-bit key."""
    a, b = (hashlib.sha256(domain + key.to_bytes(8, "big")).digest()[:8] for domain in (b"key_a", b"key_b"))
    return int.from_bytes(a, "big"), int.from_bytes(b, "big")


@lru_cache(maxsize=8)
def green_from(alpha: float, gamma: float) -> NDArray[np.int64]:
    """For each of 4,096 levels of A's uniform the first level of B's that is green, 4,096 where none is. Read-only."""
    middle = -np.log1p(-(np.arange(_BINS) + 0.5) / _BINS)
    low, high = 0.0, float(middle[-1])
    for _ in range(60):
        cut = (low + high) / 2
        first = np.searchsorted(alpha * middle, cut - (1 - alpha) * middle)
        low, high = (cut, high) if (_BINS - first).sum() > gamma * _BINS**2 else (low, cut)
    found = np.searchsorted(alpha * middle, high - (1 - alpha) * middle).astype(np.int64)
    found.setflags(write=False)
    return found


def _largest(logits: NDArray[np.float32], windows: NDArray[Any], key: int) -> int:
    """The token that wins after one context: logits (V,), windows (V, h) all alike."""
    drawn = uniforms(words_of(windows, np.arange(len(logits)), key))
    with np.errstate(divide="ignore"):  # the highest uniforms are 1 as 32-bit floats, and win
        return int(np.argmax(logits - np.log(-np.log(drawn))))


def _words(windows: NDArray[np.uint64], tokens: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    k0, k1 = halves(key)
    width, nothing = windows.shape[1], np.zeros(len(windows), dtype=np.uint64)
    state = (nothing + np.uint64(_CONTEXT), nothing + np.uint64(width), nothing, nothing)
    for start in range(0, width, 4):
        block = [windows[:, at] if at < width else MASK - np.uint64(at - start) for at in range(start, start + 4)]
        mixed = (state[0] ^ block[0], state[1] ^ block[1], state[2] ^ block[2], state[3] ^ block[3])
        state = philox10(mixed, (k0 ^ np.uint64(start), k1))
    counter = (tokens >> np.uint64(2), state[0], state[1], state[2])
    drawn = philox10(counter, (k0 ^ state[3], k1 ^ _TOKEN))
    return np.choose((tokens & np.uint64(3)).astype(np.int64), drawn)
