"""Engines that sample: their keyed functions bit for bit, the level of their tests, and marks found in sampled text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import binom

from watermark.errors import EmbeddingRefused, KeyUnusable
from watermark.keys import Key, decoy_keys
from watermark.mark import Watermark
from watermark.schemes.engines import ENGINES, sglang, synthid, textseal, vllm
from watermark.schemes.engines.murmur import murmur32
from watermark.schemes.engines.philox import philox10
from watermark.schemes.engines.sglang import SglangDualGumbel, SglangGumbel
from watermark.schemes.engines.synthid import HfSynthid, SynthidText
from watermark.schemes.engines.textseal import TextsealGreenList, TextsealGumbel
from watermark.schemes.engines.vllm import VllmDualGumbel, VllmGumbel, VllmHmacGumbel, VllmSynthid

VECTORS = Path(__file__).parent.parent / "vectors" / "engines"
STORED = np.load(VECTORS / "samplers.npz")
GOLDENS = json.loads((VECTORS / "vllm_goldens.json").read_text("utf-8"))
KEYS = (42, 2**32 + 5, 2**64 - 59)
SCHEMES: list[Any] = [
    VllmGumbel(),
    VllmDualGumbel(window=2),
    VllmHmacGumbel(window=1),
    VllmSynthid(window=2),
    SglangGumbel(),
    SglangDualGumbel(window=2),
    TextsealGreenList(window=2),
    TextsealGumbel(window=1),
    HfSynthid(),
    SynthidText(depth=5),
]
WORDS = {"vllm-gumbel/hmac": 4, "sglang-gumbel/dual": 2, "hf-synthid/table": 30, "synthid-text/iterated": 5}
TOKENS = 300


def cells(width: int, count: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """The cells of benchmarks/engine_vectors_samplers.py."""
    rng = np.random.default_rng([5, width])
    return rng.integers(0, 150_000, (count, width)), rng.integers(0, 150_000, count)


def layer_keys(depth: int = 30) -> list[int]:
    return [int(key) for key in np.random.default_rng(9).integers(0, 2**62, depth)]


def agrees(name: str, values: np.ndarray) -> bool:
    return STORED[name].tobytes() == hashlib.sha256(np.ascontiguousarray(values).tobytes()).digest()


def uniforms(words: np.ndarray) -> np.ndarray:
    """vLLM's uniforms as it has them, in 32-bit floats."""
    return ((vllm.levels(words) + 1.0) / (2**24 + 1)).astype(np.float32)


def an_engine_key(scheme: Any, seed: int = 0) -> Key:
    words = np.random.default_rng(seed).integers(0, 2**64, WORDS.get(scheme.name, 1), dtype=np.uint64)
    return Key.of_engine([int(word) for word in words])


def named(scheme: Any) -> str:
    return str(scheme.name)


def test_philox_has_the_known_answers_of_its_authors() -> None:
    """Random123's kat_vectors: all zeros, all ones, and the digits of pi."""
    cases = [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, answer in cases:
        given = [np.array([word], dtype=np.uint64) for word in counter + key]
        found = philox10((given[0], given[1], given[2], given[3]), (given[4], given[5]))
        assert [int(word[0]) for word in found] == answer


@pytest.mark.parametrize(("width", "key"), list(zip((1, 4, 5), KEYS, strict=True)))
def test_vllm_uniforms_are_the_engines(width: int, key: int) -> None:
    assert agrees(f"vllm_philox_{width}", uniforms(vllm.words_of(*cells(width), key)))


@pytest.mark.parametrize("key", KEYS)
def test_vllm_hmac_uniforms_are_the_engines(key: int) -> None:
    secret = (key**4 % 2**256).to_bytes(32, "little")
    assert agrees(f"vllm_hmac_{key}", uniforms(vllm.hmac_words(*cells(4), secret)))


@pytest.mark.parametrize(("width", "key"), list(zip((1, 4, 5), KEYS, strict=True)))
def test_sglang_words_and_coins_are_the_engines(width: int, key: int) -> None:
    windows, tokens = cells(width)
    hashes = sglang.window_hashes(windows)
    assert agrees(f"sglang_words_{width}", sglang.token_words(hashes, tokens, key))
    coins = murmur32([key % 2**32, key >> 32, KEYS[0], 0, hashes])
    assert agrees(f"sglang_coins_{width}", coins)
    assert np.array_equal(sglang.goes_to_a(hashes, key, KEYS[0], 0.3), coins < 0.3 * 2**32)


@pytest.mark.parametrize(("width", "size"), [(4, 2048), (2, 2048), (1, 700)])
@pytest.mark.parametrize(("scheme", "prompt"), [(VllmGumbel, []), (SglangGumbel, [1, 2, 3, 4, 5])])
def test_answers_are_drawn_token_for_token_as_by_the_engines_samplers(
    scheme: Any, prompt: list[int], width: int, size: int
) -> None:
    """1,200 steps by each engine's own sampler: windows met before are unmarked; there the largest logit was taken."""
    marked, key, seen = scheme(window=width), Key.of_engine([KEYS[1]]), set()
    text = prompt or [-1] * width
    for step in range(1200):
        window = tuple(text[-width:])
        logits = (np.random.default_rng([11, size, step]).integers(-40, 40, (1, size)) / 8).astype(np.float32)
        drawn = logits[0].argmax() if window in seen else marked.draw(logits, np.array([window]), key)[0]
        seen.add(window)
        text = [*text, int(drawn)]
    assert len(seen) < 1200 if width == 1 else len(seen) == 1200
    assert agrees(f"{scheme.name.split('-')[0]}_draws_{width}_{size}", np.array(text[-1200:], dtype=np.uint16))


@pytest.mark.parametrize(("width", "key"), [(1, 42), (2, 2**31 + 9), (5, 2**62 - 57)])
def test_textseal_levels_and_green_lists_are_the_engines(width: int, key: int) -> None:
    windows, tokens = cells(width)
    assert agrees(
        f"textseal_levels_{width}", textseal.levels(textseal.cell_sums(windows, tokens), key).astype(np.uint16)
    )
    green = TextsealGreenList(window=width, gamma=0.25).score(windows, tokens, Key.of_engine([key]))
    assert agrees(f"textseal_green_{width}", np.packbits(green.astype(np.uint8)))


def test_synthid_text_layers_are_the_repositorys() -> None:
    windows, tokens = cells(4)
    found = synthid.iterated_layers(np.column_stack([windows, tokens]), layer_keys())
    assert agrees("synthid_text", np.packbits(found))


@pytest.mark.parametrize("size", [65536, 4096])
def test_hf_layers_are_those_of_transformers(size: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.generation.logits_process import SynthIDTextWatermarkLogitsProcessor

    ids = np.random.default_rng(3).integers(0, 150_000, 100_004)
    processor = SynthIDTextWatermarkLogitsProcessor(5, layer_keys(), size, 7, 1024, torch.device("cpu"))
    theirs = processor.compute_g_values(torch.from_numpy(ids)[None])[0].numpy()
    ours = synthid.table_layers(sliding_window_view(ids, 5), layer_keys(), size=size, seed=7)
    assert theirs.shape == (100_000, 30)
    assert np.array_equal(theirs, ours)


def test_hf_green_cells_have_most_of_the_layers_that_transformers_draws() -> None:
    windows, tokens = cells(4)
    ones = synthid.table_layers(np.column_stack([windows, tokens]), layer_keys())
    most = 2 * ones.sum(axis=1, dtype=np.int64) + ones[:, 0] > 30
    scheme, key = HfSynthid(), Key.of_engine(layer_keys())
    assert np.array_equal(scheme.score(windows, tokens, key), most)
    assert np.array_equal(scheme.score(windows[:900], tokens[:900], key), most[:900]), "few cells, read one by one"
    weights = np.random.default_rng(2).integers(-50, 50, (2, len(tokens))).astype(np.int32)
    found = Watermark(scheme, key).totals(windows, tokens, weights, [key, an_engine_key(scheme)])
    assert np.array_equal(found[0], weights.astype(np.int64) @ most)
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize("golden", GOLDENS["goldens"], ids=lambda golden: golden["id"])
def test_vllm_goldens_are_sampled_and_scored_again(golden: dict[str, Any]) -> None:
    """The engine's own golden answers, token for token, and the score that its detector gives them."""
    key, width, alpha = int(golden["key"]), golden["width"], golden["alpha"]
    keys = [key] if alpha is None else list(vllm.derived_keys(key))
    text, seen, scores, skips = [-1] * width, set(), [], 0
    for place in range(64):
        context = tuple(text[-width:])
        known = context in seen or (golden["scope"] == "all" and -1 in context)
        logits = ((37 * np.arange(128) + 17 * place) % 131 - 56).astype(np.float32) / np.float32(16)
        drawn = [uniforms(vllm.words_of(np.tile(context, (128, 1)), np.arange(128), each)) for each in keys]
        used = drawn[0 if alpha is None or 1 - alpha > _golden_ratio(place) else 1]
        skips += known and golden["scope"] != "none"
        noise = 0 if known and golden["scope"] != "none" else -np.log(-np.log(used))
        text.append(int((logits + noise).argmax()))
        if context not in seen or golden["scope"] == "none":
            each = [-math.log1p(-float(u[text[-1]])) for u in drawn]
            scores.append(each[0] if alpha is None else (1 - alpha) * each[0] + alpha * each[1])
        seen.add(context)
    assert text[width:] == golden["generation"]
    assert (skips, len(scores)) == (golden["skips"], golden["scored"])
    assert sum(scores) == pytest.approx(golden["score"], rel=1e-9)


def test_vllm_keys_of_two_are_derived_as_in_its_goldens() -> None:
    for key, derived in GOLDENS["derived_keys"].items():
        assert [str(word) for word in vllm.derived_keys(int(key))] == derived


def _golden_ratio(place: int) -> float:
    return round((place + 1) * (5**0.5 - 1) / 2 % 1.0, 4)


def test_two_keys_score_the_weighted_sum_of_both_statistics() -> None:
    """Green cells are those of the largest sums: all beyond the bin at the threshold, none before it."""
    windows, tokens = cells(2)
    scheme, key = VllmDualGumbel(window=2, alpha=0.3, gamma=0.1), an_engine_key(VllmDualGumbel())
    (word,) = key.engine_words(1, "")
    a, b = (vllm.levels(vllm.words_of(windows, tokens, each)) / 2**24 for each in vllm.derived_keys(word))
    sums = -0.7 * np.log1p(-a) - 0.3 * np.log1p(-b)
    green = scheme.score(windows, tokens, key) == 1
    assert green.mean() == pytest.approx(scheme.null.p, abs=0.005)
    assert scheme.null.p == pytest.approx(0.1, abs=1e-4)
    order = np.argsort(-sums)
    assert green[order[:9_500]].mean() > 0.99
    assert not green[order[10_500:]].mean() > 0.001


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_two_keys_have_the_stated_share_at_every_mixture(alpha: float) -> None:
    assert VllmDualGumbel(alpha=alpha).null.p == pytest.approx(0.25, abs=5e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
@pytest.mark.parametrize("window", [1, 4, 9])
def test_numba_and_numpy_agree_to_the_bit(scheme: Any, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    scheme, key = replace(scheme, window=window), an_engine_key(scheme)
    windows, tokens = cells(window, 3_000)
    monkeypatch.setenv("WMARK_NUMBA", "1")
    compiled = scheme.score(windows, tokens, key)
    monkeypatch.setenv("WMARK_NUMBA", "0")
    assert np.array_equal(compiled, scheme.score(windows, tokens, key))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_both_backends_have_the_engines_words(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("WMARK_NUMBA", str(int(backend == "numba")))
    assert agrees("vllm_philox_5", uniforms(vllm.words_of(*cells(5), KEYS[2])))
    windows, tokens = cells(5)
    assert agrees("sglang_words_5", sglang.token_words(sglang.window_hashes(windows), tokens, KEYS[2]))
    ngrams = np.column_stack(cells(4))[:5_000]
    layers = synthid.iterated_layers(ngrams, layer_keys())
    ones, first = synthid.iterated_ones(ngrams, layer_keys())
    assert np.array_equal(ones, layers.sum(axis=1, dtype=np.int64))
    assert np.array_equal(first, layers[:, 0])


def test_vllm_synthid_reads_the_lowest_bits_of_the_word() -> None:
    windows, tokens = cells(3, 20_000)
    key = an_engine_key(VllmSynthid())
    words = vllm.words_of(windows, tokens, key.engine_words(1, "")[0])
    bits = (words[:, None] >> np.arange(11, dtype=np.uint64)) & np.uint64(1)
    assert np.array_equal(VllmSynthid(window=3, depth=11).score(windows, tokens, key), bits.sum(axis=1) >= 6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_null_is_the_share_of_green_cells(scheme: Any) -> None:
    """200,000 random cells of one random key each would be exact; cells of 20 keys stand for them."""
    found = [scheme.score(*cells(scheme.window, 10_000), an_engine_key(scheme, seed)).mean() for seed in range(20)]
    assert np.mean(found) == pytest.approx(scheme.null.p, abs=4 * math.sqrt(scheme.null.variance / 200_000))


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if hasattr(s, "canonical")], ids=named)
def test_canonical_cells_score_alike_and_stay_what_they_are(scheme: Any) -> None:
    windows, tokens = cells(scheme.window, 20_000)
    key = an_engine_key(scheme)
    named_windows, named_tokens = scheme.canonical(windows, tokens)
    assert np.array_equal(scheme.score(named_windows, named_tokens, key), scheme.score(windows, tokens, key))
    again = scheme.canonical(named_windows, named_tokens)
    assert np.array_equal(again[0], named_windows)
    assert np.array_equal(again[1], named_tokens)
    assert named_windows.dtype == named_tokens.dtype == np.uint32


def test_cells_that_one_input_stands_for_have_one_name() -> None:
    """SynthID's ids 65,536 apart; two windows of one MurmurHash3; two TextSeal cells of one sum."""
    for scheme, one, other in (
        (HfSynthid(window=2), ([[7, 9]], [11]), ([[7 + 65536, 9]], [11 + 3 * 65536])),
        (SglangGumbel(window=2), ([[7, 9]], [11]), ([[0, _twin(7, 9)]], [11])),
        (TextsealGumbel(window=2), ([[10_000_247, 9]], [11]), ([[0, 9 + 10_000_019]], [11])),
    ):
        first, second = scheme.canonical(*one), scheme.canonical(*other)
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])
        apart = scheme.canonical(one[0], [12])
        assert not (np.array_equal(first[0], apart[0]) and np.array_equal(first[1], apart[1]))


def _twin(*ids: int) -> int:
    from watermark.schemes.engines.murmur import unhash_last

    return int(unhash_last(sglang.window_hashes([list(ids)]), [0])[0])


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_tests_of_innocent_text_hold_their_level(
    scheme: Any, corpora: dict[str, np.ndarray], holds_level: Callable[[Any, str], None]
) -> None:
    """2,500 random keys, one text, once per cell; the mean is exact and rejections are as many as they should be."""
    ngrams = sliding_window_view(corpora["english"][20_000:20_400], scheme.window + 1)
    windows, tokens = _once(scheme, ngrams[:, :-1], ngrams[:, -1])
    asked = decoy_keys(b"level", 2_500)
    totals = Watermark(scheme, an_engine_key(scheme)).totals(windows, tokens, np.ones(len(tokens), np.int32), asked)
    n, p = len(tokens), scheme.null.p
    found = np.log10(binom.sf(totals[:, 0] - 1, n, p))
    holds_level(found, scheme.name)
    z = (totals[:, 0] - n * p) / math.sqrt(n * p * (1 - p))
    assert abs(z.mean()) < 4 / math.sqrt(2_500)
    assert 0.85 < z.var() < 1.15
    attained = binom.sf(binom.isf(0.05, n, p), n, p)
    assert (found <= math.log10(0.05)).mean() > 0.6 * attained, "it would reject too seldom"


def _once(scheme: Any, windows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cell once."""
    if hasattr(scheme, "canonical"):
        windows, tokens = scheme.canonical(windows, tokens)
    rows = np.unique(np.column_stack([windows, tokens]), axis=0)
    return rows[:, :-1], rows[:, -1]


def vllm_rule(words: np.ndarray, logits: np.ndarray) -> int:
    return int((logits - np.log(-np.log(uniforms(words)))).argmax())


def drawn_by(scheme: Any, key: Key, rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], int]:
    """The engine's own rule: the next token after a window (h,) of these logits (V,)."""

    def pick(window: np.ndarray, logits: np.ndarray) -> int:
        tokens = np.arange(len(logits))
        windows = np.tile(window, (len(logits), 1))
        chances = np.exp(logits) / np.exp(logits).sum()
        if isinstance(scheme, VllmHmacGumbel):
            secret = b"".join(word.to_bytes(8, "little") for word in key.engine_words(4, ""))
            return vllm_rule(vllm.hmac_words(windows, tokens, secret), logits)
        if isinstance(scheme, (VllmGumbel, VllmDualGumbel)):
            (word,) = key.engine_words(1, "")
            used = vllm.derived_keys(word)[int(rng.random() < 0.1)] if isinstance(scheme, VllmDualGumbel) else word
            return vllm_rule(vllm.words_of(windows, tokens, used), logits)
        if isinstance(scheme, (SglangGumbel, SglangDualGumbel)):
            hashes, words = sglang.window_hashes(windows), key.engine_words(WORDS.get(scheme.name, 1), "")
            used = words[0] if len(words) == 1 or sglang.goes_to_a(hashes[:1], *words, 0.5)[0] else words[1]
            return int((np.log((sglang.token_words(hashes, tokens, used) + 0.5) / 2**32) / chances).argmax())
        if isinstance(scheme, TextsealGumbel):
            levels = textseal.levels(textseal.cell_sums(windows, tokens), key.engine_words(1, "")[0])
            return int((np.log(np.maximum(levels, 1e-9) / 8191) / chances).argmax())
        if isinstance(scheme, TextsealGreenList):
            return int((scheme.tilt(logits[None], window[None], key)[0] + rng.gumbel(size=len(logits))).argmax())
        for bits in tournament(scheme, key, windows, tokens).T:
            chances = chances * (1 + bits - (bits * chances).sum())
        return int(rng.choice(len(logits), p=chances / chances.sum()))

    return pick


def tournament(scheme: Any, key: Key, windows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The bits of all layers, (V, depth)."""
    ngrams = np.column_stack([windows, tokens])
    if isinstance(scheme, HfSynthid):
        return synthid.table_layers(ngrams, key.engine_words(scheme.depth, "")).astype(float)
    if isinstance(scheme, SynthidText):
        return synthid.iterated_layers(ngrams, key.engine_words(scheme.depth, "")).astype(float)
    words = vllm.words_of(windows, tokens, key.engine_words(1, "")[0])
    return ((words[:, None] >> np.arange(scheme.depth, dtype=np.uint64)) & np.uint64(1)).astype(float)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_a_marked_text_is_found_and_an_innocent_one_is_not(scheme: Any) -> None:
    """300 tokens of a random source, sampled by the engine's rule; scored through `Watermark.totals`."""
    key, rng = an_engine_key(scheme, 3), np.random.default_rng(8)
    pick = drawn_by(scheme, key, rng)
    marked = [int(i) for i in rng.integers(0, 200, scheme.window)]
    innocent = list(marked)
    for _ in range(TOKENS):
        logits = rng.standard_normal(200)
        marked.append(pick(np.array(marked[-scheme.window :]), logits))
        innocent.append(int((logits + rng.gumbel(size=200)).argmax()))
    mark, decoys = Watermark(scheme, key), [key, *decoy_keys(b"others", 20)]
    for text, guilty in ((marked, True), (innocent, False)):
        ngrams = sliding_window_view(np.array(text), scheme.window + 1)
        windows, tokens = _once(scheme, ngrams[:, :-1], ngrams[:, -1])
        totals = mark.totals(windows, tokens, np.ones(len(tokens), np.int32), decoys)[:, 0]
        found = [scheme.null.log10_pvalue(int(total), len(tokens)) for total in totals]
        assert (found[0] < -6) == guilty, f"log10 p is {found[0]:.1f}"
        assert min(found[1:]) > -4, "another key's mark seems to be there"


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if not isinstance(s, TextsealGreenList)], ids=named)
def test_a_sampler_refuses_to_tilt(scheme: Any) -> None:
    with pytest.raises(EmbeddingRefused, match="not a bias on logits") as raised:
        scheme.tilt(np.zeros((1, 8)), np.zeros((1, scheme.window)), an_engine_key(scheme))
    assert raised.value.hint


def test_textseal_tilts_its_green_tokens_in_numpy_and_torch() -> None:
    torch = pytest.importorskip("torch")
    scheme, key = TextsealGreenList(window=2, gamma=0.3, delta=1.5), an_engine_key(TextsealGreenList())
    logits, windows = np.zeros((3, 400), dtype=np.float32), np.array([[1, 2], [3, 4], [5, 6]])
    tilted = scheme.tilt(logits, windows, key)
    green = scheme.score(np.repeat(windows, 400, axis=0), np.tile(np.arange(400), 3), key).reshape(3, 400)
    assert np.array_equal(tilted, np.where(green == 1, np.float32(1.5), 0))
    assert np.array_equal(tilted, scheme.tilt(torch.from_numpy(logits), windows, key).numpy())
    assert not logits.any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_engines_are_registered_and_take_keys_of_their_size_alone(scheme: Any) -> None:
    assert ENGINES[scheme.name] is type(scheme)
    assert scheme.recipe
    assert all(remark.endswith(".") for remark in scheme.remarks)
    with pytest.raises(KeyUnusable, match="numbers"):
        scheme.score(*cells(scheme.window, 10), Key.of_engine([1] * 7))


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
    [
        (VllmGumbel, {"window": 0}, "window"),
        (VllmGumbel, {"gamma": 1.0}, "gamma"),
        (VllmDualGumbel, {"alpha": 1.5}, "alpha"),
        (VllmHmacGumbel, {"window": 17}, "window"),
        (VllmSynthid, {"depth": 33}, "depth"),
        (SglangGumbel, {"window": 65}, "window"),
        (SglangDualGumbel, {"mixing": 0.0}, "mixing"),
        (TextsealGreenList, {"delta": 0.0}, "delta"),
        (TextsealGumbel, {"window": 11}, "window"),
        (HfSynthid, {"table_size": 65_000}, "power of two"),
        (HfSynthid, {"table_seed": -1}, "table_seed"),
        (SynthidText, {"depth": 0}, "depth"),
    ],
)
def test_parameters_beyond_the_recipe_are_refused(kind: type[Any], parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**parameters)
