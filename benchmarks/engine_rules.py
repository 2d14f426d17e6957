"""What each engine's own detector makes of a text: the positions it counts, its sum, its p-value and its verdict.

A rule is the peer's formula over this library's scores, which agree with the peer's to the bit (tests/conformance):
so a thousand texts can be judged by it in minutes, and without the peer. `engine_levels.py --peers` compares rules with
the peers' detectors themselves (`engine_peers.py`). Files and versions: each rule's `source`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special, stats

from watermark import prf
from watermark.keys import Key
from watermark.schemes import canonical, keyless
from watermark.schemes.engines import sglang, synthid, textseal, vllm

Counting = Literal["every position", "each n-gram once", "each window once", "windows not among the last 1,024"]
Array = np.ndarray[Any, Any]
WORDS = {"owmark/green-red": 4, "vllm-gumbel/hmac": 4, "sglang-gumbel/dual": 2}  # numbers of a key; else one
WORDS |= {"hf-synthid/table": 30, "hf-synthid/table-cuda": 30, "synthid-text/iterated": 30}


@dataclass(frozen=True)
class Rule:
    """source: file and version. counting: which positions. threshold: its own verdict, in words.

    value: (scheme, key, windows, choices) -> (n,) what it sums; none: whether green. pvalue: (scheme, values) -> (p,
    verdict); p is nan where the peer has none. before: ids put before the text; skipped: first positions left out;
    most: positions counted at most.
    """

    source: str
    counting: Counting
    threshold: str
    pvalue: Callable[[Any, Array], tuple[float, bool]]
    value: Callable[[Any, Key, Array, Array], Array] | None = None
    before: tuple[int, ...] = ()
    skipped: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Positions:
    """A text as (windows (n, h), choices (n,)) position by position, and which positions are the same n-gram.

    unseen: index of the first position of each n-gram; same: (n,) which of them each position is. own: the first
    position that has no padding in its window.
    """

    windows: Array
    choices: Array
    unseen: Array
    same: Array
    own: int

    @classmethod
    def of(cls, ids: Array, window: int, before: tuple[int, ...] = ()) -> Positions:
        given = np.concatenate([np.array(before, dtype=np.int64), ids]).astype(np.uint32)
        windows, choices = np.lib.stride_tricks.sliding_window_view(given, window)[:-1], given[window:]
        _, unseen, same = np.unique(prf.cell_ids(windows, choices), return_index=True, return_inverse=True)
        return cls(windows, choices, unseen, same, len(before))

    def counted(self, rule: Rule) -> Array:
        """Which positions a rule counts. Returns their indices, in reading order."""
        if rule.counting == "every position":
            found = np.arange(len(self.choices))
        elif rule.counting == "each n-gram once":
            _, first = np.unique(self.same[rule.skipped :], return_index=True)
            found = np.sort(first) + rule.skipped
        else:
            found = self._windows(1024 if rule.counting == "windows not among the last 1,024" else None)
        return found[found >= rule.skipped][: rule.most]

    def cells(self, scheme: Any) -> Array:
        """The positions that this library counts: each cell once, as in `watermark.observe`."""
        windows, choices = self.windows[self.own :], self.choices[self.own :]
        told = np.flatnonzero(~keyless(scheme, windows))
        names = prf.cell_ids(*canonical(scheme, windows[told], choices[told]))
        return self.own + told[np.sort(np.unique(names, return_index=True)[1])]

    def _windows(self, history: int | None) -> Array:
        """Positions whose window did not occur before, or not among the last `history` positions."""
        names = prf.cell_ids(self.windows, np.zeros(len(self.choices), dtype=np.uint32))
        order = np.argsort(names, kind="stable")
        gap = np.full(len(order), np.iinfo(np.int64).max)
        again = names[order[1:]] == names[order[:-1]]
        gap[order[1:][again]] = (order[1:] - order[:-1])[again]
        return np.flatnonzero(gap > (np.iinfo(np.int64).max - 1 if history is None else history))


@dataclass(frozen=True)
class Reading:
    """A text read once, to be judged under many keys. mine, theirs: (n-grams each counts), as indices of n-grams."""

    scheme: Any
    rule: Rule | None
    windows: Array
    choices: Array
    mine: Array
    theirs: Array

    @classmethod
    def of(cls, rule: Rule | None, scheme: Any, ids: Array) -> Reading:
        text = Positions.of(ids, scheme.window, () if rule is None else rule.before)
        theirs = np.empty(0, dtype=np.int64) if rule is None else text.same[text.counted(rule)]
        mine = text.same[text.cells(scheme)]
        return cls(scheme, rule, text.windows[text.unseen], text.choices[text.unseen], mine, theirs)

    def judged(self, key: Key) -> tuple[float, float, bool]:
        """(log10 of our p-value, the peer's p-value, its verdict); nan and no where there is no rule."""
        green = self.scheme.score(self.windows, self.choices, key)
        ours = self.scheme.null.log10_pvalue(int(green[self.mine].sum()), len(self.mine))
        if self.rule is None:
            return ours, math.nan, False
        value = self.rule.value
        values = green if value is None else value(self.scheme, key, self.windows, self.choices)
        return ours, *self.rule.pvalue(self.scheme, values[self.theirs])


def normal(threshold: float) -> Callable[[Any, Array], tuple[float, bool]]:
    """z = (green - gamma n) / sqrt(n gamma (1 - gamma)) with the gamma of the configuration, and its normal tail."""

    def found(scheme: Any, values: Array) -> tuple[float, bool]:
        n, share = len(values), scheme.gamma
        z = (values.sum() - share * n) / math.sqrt(n * share * (1 - share))
        return float(stats.norm.sf(z)), bool(z > threshold)

    return found


def binomial(level: float, *, middle: bool = False) -> Callable[[Any, Array], tuple[float, bool]]:
    """The binomial tail at the configuration's gamma; `middle` takes half of the observed count's probability off."""

    def found(scheme: Any, values: Array) -> tuple[float, bool]:
        green, n = int(values.sum()), len(values)
        p = 1.0 if green == 0 else float(special.betainc(green, 1 + n - green, scheme.gamma))
        p -= 0.5 * float(stats.binom.pmf(green, n, scheme.gamma)) if middle else 0.0
        return p, p < level

    return found


def gamma(level: float) -> Callable[[Any, Array], tuple[float, bool]]:
    """P(Gamma(n, 1) >= sum) for sums of -log(1 - u)."""

    def found(scheme: Any, values: Array) -> tuple[float, bool]:
        p = float(special.gammaincc(len(values), float(values.sum(dtype=np.float64))))
        return p, p <= level

    return found


def matched_gamma(scheme: Any, values: Array) -> tuple[float, bool]:
    """A Gamma law with the mean and the variance of the weighted sum of two keys."""
    spread = (1 - scheme.alpha) ** 2 + scheme.alpha**2
    p = float(special.gammaincc(len(values) / spread, float(values.sum()) / spread))
    return p, p <= 0.01


def mean_above(threshold: float) -> Callable[[Any, Array], tuple[float, bool]]:
    """The mean of all layers' bits against a constant: no p-value."""
    return lambda scheme, values: (math.nan, bool(values.mean() > threshold))


def vllm_single(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    return _vllm(windows, choices, *key.engine_words(1, f"{scheme.name}/{scheme.version}"))


def vllm_dual(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    a, b = vllm.derived_keys(*key.engine_words(1, f"{scheme.name}/{scheme.version}"))
    return (1 - scheme.alpha) * _vllm(windows, choices, a) + scheme.alpha * _vllm(windows, choices, b)


def vllm_hmac(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    words = key.engine_words(4, f"{scheme.name}/{scheme.version}")
    signed = windows.astype(np.int32)  # the ids before a text are -1
    drawn = vllm.hmac_words(signed, choices, b"".join(word.to_bytes(8, "little") for word in words))
    return _vllm_sum(drawn)


def _vllm(windows: Array, choices: Array, word: int) -> Array:
    return _vllm_sum(vllm.words_of(windows, choices, word))


def _vllm_sum(words: Array) -> Array:
    uniforms = ((vllm.levels(words) + 1.0) / (2**24 + 1)).astype(np.float32).astype(np.float64)
    return -np.log1p(-uniforms)


def sglang_single(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    (word,) = key.engine_words(1, f"{scheme.name}/{scheme.version}")
    return -np.log1p(-(sglang.token_words(sglang.window_hashes(windows), choices, word) + 0.5) / 2**32)


def sglang_dual(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    """Each position under its window's own key: the detector's "combined"."""
    a, b = key.engine_words(2, f"{scheme.name}/{scheme.version}")
    hashes = sglang.window_hashes(windows)
    drawn = [sglang.token_words(hashes, choices, word) for word in (a, b)]
    return -np.log1p(-(np.where(sglang.goes_to_a(hashes, a, b, scheme.mixing), *drawn) + 0.5) / 2**32)


def textseal_sum(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    (word,) = key.engine_words(1, f"{scheme.name}/{scheme.version}")
    uniforms = textseal.levels(textseal.cell_sums(windows, choices), word).astype(np.float32) / np.float32(8191)
    return -np.log(np.float32(1) - uniforms)


def table_mean(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    words = key.engine_words(scheme.depth, f"{scheme.name}/{scheme.version}")
    layers = synthid.table_layers(np.column_stack([windows, choices]), words, size=scheme.table_size)
    return layers.mean(axis=1)


def iterated_mean(scheme: Any, key: Key, windows: Array, choices: Array) -> Array:
    words = key.engine_words(scheme.depth, f"{scheme.name}/{scheme.version}")
    return synthid.iterated_ones(np.column_stack([windows, choices]), words)[0] / scheme.depth


_HF = "transformers 5.23.0, generation/watermarking.py, its defaults"
_KGW = "lm-watermarking fb602de, extended_watermark_processor.py, its defaults"
_MARKLLM = "MarkLLM 112fa74, watermark/"
_VLLM = "vllm 0.33.0, v1/watermarking/gumbel.py"
_SGLANG = "sglang 0.5.23, srt/sampling/watermarking/detector.py"
_TEXTSEAL = "textseal 0.0.5, posthoc/detector.py, scoring_method v2"
_HISTORY: Counting = "windows not among the last 1,024"
_MEAN = "mean of the bits > 0.52 (MarkLLM's SynthID.json); neither transformers nor synthid-text has a threshold"

RULES: dict[str, Rule | None] = {
    "hf-kgw/lefthash": Rule(_HF, "every position", "z > 3", normal(3.0)),
    "hf-kgw/selfhash": Rule(_HF, "every position", "z > 3", normal(3.0), before=(0,)),
    "lm-watermarking": Rule(_KGW, "each n-gram once", "z > 4", normal(4.0)),
    "lm-watermarking/selfhash": Rule(_KGW, "each n-gram once", "z > 4", normal(4.0)),
    "markllm/kgw": Rule(_MARKLLM + "kgw/kgw.py", "every position", "z > 4", normal(4.0)),
    "markllm/unigram": Rule(_MARKLLM + "unigram/unigram.py", "every position", "z > 4", normal(4.0), before=(0,)),
    "owmark/green-red": Rule("owmark 0.8.1, genmark/green_red.py", "each n-gram once", "p < 10^-6", binomial(1e-6)),
    "sbw/lefthash": Rule("sbw 1.0.0, detector.py", "each n-gram once", "z > 4", normal(4.0)),
    "three-bricks/maryland": Rule(
        "three_bricks ee9c7a2, wm/detector.py, scoring_method v2", "each n-gram once", "none", binomial(0.0), skipped=1
    ),
    "vllm-gumbel/single": Rule(
        _VLLM, "each window once", "p <= 0.01", gamma(0.01), value=vllm_single, before=(-1,) * 4
    ),
    "vllm-gumbel/dual": Rule(_VLLM, "each window once", "p <= 0.01", matched_gamma, value=vllm_dual, before=(-1,) * 4),
    "vllm-gumbel/hmac": Rule(_VLLM, "each window once", "p <= 0.01", gamma(0.01), value=vllm_hmac, before=(-1,) * 4),
    "vllm-synthid/philox": None,
    "sglang-gumbel/single": Rule(_SGLANG, "each window once", "none", gamma(0.0), value=sglang_single, most=4096),
    "sglang-gumbel/dual": Rule(_SGLANG, "each window once", "none", gamma(0.0), value=sglang_dual, most=4096),
    "textseal/greenlist": Rule(_TEXTSEAL, "each n-gram once", "p < 0.001", binomial(0.001, middle=True), skipped=1),
    "textseal/gumbel": Rule(_TEXTSEAL, "each n-gram once", "p < 0.001", gamma(0.001), value=textseal_sum, skipped=1),
    "hf-synthid/table": Rule(_MARKLLM + "synthid/detector.py", _HISTORY, _MEAN, mean_above(0.52), value=table_mean),
    "synthid-text/iterated": Rule(
        "synthid-text addb4a1, detector_mean.py", _HISTORY, _MEAN, mean_above(0.52), value=iterated_mean
    ),
}
