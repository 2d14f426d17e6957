"""Engines' green lists agree bit for bit with the engines' own code, and hold their level under random keys."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from watermark.errors import EmbeddingRefused, KeyUnusable, ProfileMismatch
from watermark.keys import Key, decoy_keys
from watermark.mark import Watermark
from watermark.schemes import scheme_to_json
from watermark.schemes.engines import ENGINES
from watermark.schemes.engines.hf import HuggingFaceLeftHash
from watermark.schemes.engines.lm_watermarking import LmWatermarking
from watermark.schemes.engines.markllm import MarkLlmKgw, MarkLlmUnigram
from watermark.schemes.engines.owmark import Owmark
from watermark.schemes.engines.permuted import members, prefixes, reduced_product, reduced_sum
from watermark.schemes.engines.sbw import SbwLeftHash
from watermark.schemes.engines.selfhash import HuggingFaceSelfHash, LmWatermarkingSelfHash
from watermark.schemes.engines.three_bricks import ThreeBricks

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "engines" / "greenlists.json").read_text())
SELF = (HuggingFaceSelfHash, LmWatermarkingSelfHash)
LISTED = (LmWatermarking, ThreeBricks, MarkLlmKgw, MarkLlmUnigram, Owmark, SbwLeftHash)
KINDS = {kind.name: kind for kind in (*LISTED, *SELF)}
SCHEMES = [
    HuggingFaceLeftHash(vocabulary=2_000),
    LmWatermarking(vocabulary=2_000, function="additive", window=2),
    LmWatermarking(vocabulary=2_000, function="minfunc", window=2),
    LmWatermarking(vocabulary=2_000, function="position", window=3),
    LmWatermarking(vocabulary=2_000, function="skipgram", window=2),
    ThreeBricks(vocabulary=2_000, window=1),
    ThreeBricks(vocabulary=2_000, window=2, gamma=0.25, payload=77),
    MarkLlmKgw(vocabulary=1_999, function="time", window=2),
    MarkLlmKgw(vocabulary=1_999, function="additive", window=2, gamma=0.25),
    MarkLlmKgw(vocabulary=1_999, function="skip", window=2),
    MarkLlmUnigram(vocabulary=2_000),
    SbwLeftHash(),
    Owmark(),
]


SELVES = [
    HuggingFaceSelfHash(vocabulary=2_000, context_width=4),
    LmWatermarkingSelfHash(vocabulary=2_000, context_width=3),
]


def named(scheme: object) -> str:
    return getattr(scheme, "recipe", str(scheme))


@pytest.fixture(params=["numba", "numpy"])
def backend(request, monkeypatch):
    monkeypatch.setenv("WMARK_NUMBA", str(int(request.param == "numba")))
    return request.param


@pytest.mark.parametrize(
    "vocabulary, size", [(2, 1), (7, 6), (625, 624), (1_000, 200), (1_000, 201), (50_257, 40_000), (128_256, 32_064)]
)
def test_lists_are_those_of_torch(backend, vocabulary, size):
    seeds = np.array([0, 1, 2**31, 2**32 - 1, *range(10**9, 10**9 + 36)], dtype=np.uint32)
    lists = prefixes(seeds, vocabulary=vocabulary, size=size)
    for seed, listed in zip(seeds.tolist(), lists, strict=True):
        whole = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
        assert np.array_equal(listed, whole[:size].numpy())


@pytest.mark.parametrize("vocabulary, size", [(7, 6), (1_000, 200), (1_000, 201), (1_000, 999), (128_256, 32_064)])
def test_membership_is_that_of_the_list_for_few_tokens_and_for_many(backend, vocabulary, size):
    seeds, rng = np.arange(30, dtype=np.uint32), np.random.default_rng(1)
    asked = [rng.integers(0, vocabulary, count) for count in (0, 1, 2, 47, 48, 300) * 5]
    starts = np.append(0, np.cumsum([len(tokens) for tokens in asked]))
    found = members(seeds, starts, np.concatenate(asked).astype(np.uint32), vocabulary=vocabulary, size=size)
    lists = prefixes(seeds, vocabulary=vocabulary, size=size)
    wanted = [np.isin(tokens, listed) for tokens, listed in zip(asked, lists, strict=True)]
    assert np.array_equal(found, np.concatenate(wanted))


@pytest.mark.parametrize("vocabulary, size", [(512, 511), (50_257, 12_564), (131_072, 32_768)])
def test_one_token_is_followed_to_where_the_list_has_it(vocabulary, size):
    """Also where V - i is a power of two, or one: that few draws are divisible by it is not taken for granted."""
    count = 2_000_000 // size + 200
    seeds, rng = np.arange(count, dtype=np.uint32), np.random.default_rng(6)
    tokens = np.where(rng.random(count) < 0.5, rng.integers(0, vocabulary, count), rng.integers(0, 500, count))
    found = members(seeds, np.arange(count + 1), tokens.astype(np.uint32), vocabulary=vocabulary, size=size)
    held = (prefixes(seeds, vocabulary=vocabulary, size=size) == tokens[:, None]).any(axis=1)
    assert np.array_equal(found, held)
    assert 0.8 * size / vocabulary < held.mean() <= 1


def test_seeds_are_reduced_as_whole_numbers_are():
    rng, limit = np.random.default_rng(2), 2**64 - 1
    left = np.append(rng.integers(0, 2**32, 2_000, dtype=np.uint64), [0, 1, 3, 2**32 - 1]).astype(np.uint64)
    for right in (0, 1, 15485863, 2**63 + 5, limit, limit // 3, int(rng.integers(0, 2**63)) * 2 + 1):
        assert reduced_product(left, right).tolist() == [x * right % limit for x in left.tolist()]
        wide = np.full(len(left), right, dtype=np.uint64)
        assert reduced_sum(left, wide).tolist() == [(x + right) % limit for x in left.tolist()]


@pytest.mark.parametrize("vocabulary, gamma, number", [(50_257, 0.25, 15485863), (128_256, 0.5, 2**40 + 15)])
def test_hugging_face_lists_and_tilt_are_those_of_its_processor(vocabulary, gamma, number):
    from transformers import WatermarkLogitsProcessor

    scheme, key = HuggingFaceLeftHash(vocabulary=vocabulary, gamma=gamma, delta=2.5), Key.of_engine([number])
    rng = np.random.default_rng(3)
    contexts = np.append(rng.integers(1, vocabulary, 5), [0, vocabulary - 1])[:, None]
    logits = torch.from_numpy(rng.standard_normal((7, vocabulary)).astype(np.float32))
    logits[:, ::11] = -torch.inf
    for width in (1, 3):
        theirs = WatermarkLogitsProcessor(vocabulary, "cpu", gamma, 2.5, number, context_width=width)
        ids = torch.from_numpy(np.hstack([rng.integers(0, vocabulary, (7, 4)), contexts]))
        for given in (logits, logits.double(), logits.half(), logits.bfloat16()):
            before = given.clone()
            assert torch.equal(scheme.tilt(given, ids[:, -1:], key), theirs(ids, given))
            assert torch.equal(given, before)
        assert np.array_equal(scheme.tilt(logits.numpy(), contexts, key), theirs(ids, logits).numpy())
    for context in contexts:
        green = np.zeros(vocabulary, dtype=np.int64)
        green[theirs._get_greenlist_ids(torch.from_numpy(context)).numpy()] = 1
        scores = scheme.score(np.tile(context, (vocabulary, 1)), np.arange(vocabulary), key)
        assert np.array_equal(scores, green)


def test_counts_are_those_of_hugging_face_detector():
    from types import SimpleNamespace

    from transformers import WatermarkDetector, WatermarkingConfig

    ids = np.random.default_rng(4).zipf(1.3, 600) % 1_000 + 1
    model = SimpleNamespace(vocab_size=4_000, bos_token_id=0, is_encoder_decoder=False)
    found = WatermarkDetector(model, "cpu", WatermarkingConfig(), ignore_repeated_ngrams=True)(
        torch.from_numpy(ids)[None], return_dict=True
    )
    pairs = np.unique(np.stack([ids[:-1], ids[1:]], axis=1), axis=0)
    green = HuggingFaceLeftHash(vocabulary=4_000).score(pairs[:, :1], pairs[:, 1], Key.of_engine([15485863]))
    assert (len(pairs), green.sum()) == (found.num_tokens_scored[0], found.num_green_tokens[0])


@pytest.mark.parametrize(
    "case", [case for case in CASES if "windows" in case], ids=lambda case: f"{case['scheme']}-{case['sha256'][:6]}"
)
def test_lists_are_those_of_the_peers_own_code(case):
    given = dict(case["parameters"])
    free = case["scheme"] in (Owmark.name, SbwLeftHash.name)
    vocabulary = given.pop("vocabulary") if free else given["vocabulary"]
    scheme, windows = KINDS[case["scheme"]](**given), np.array(case["windows"])
    scores = scheme.score(
        np.repeat(windows, vocabulary, axis=0), np.tile(np.arange(vocabulary), len(windows)), Key.of_engine(case["key"])
    )
    green = scores.reshape(len(windows), vocabulary).astype(bool)
    packed = np.stack([np.packbits(row) for row in green])
    assert hashlib.sha256(packed.tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("case", [case for case in CASES if "windows" not in case], ids=lambda case: case["sha256"][:6])
def test_colours_of_ngrams_are_those_of_the_peers_own_code(case):
    scheme, width = KINDS[case["scheme"]](**case["parameters"]), case["parameters"]["context_width"]
    ngrams = np.random.default_rng(width).integers(0, case["parameters"]["vocabulary"], (case["cells"], width))
    before = ngrams[:, :-1] if width > 1 else ngrams  # a lone token's context plays no part
    scores = scheme.score(before, ngrams[:, -1], Key.of_engine(case["key"]))
    assert hashlib.sha256(np.packbits(scores == 1).tobytes()).hexdigest() == case["sha256"]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_self_hash_colours_are_those_of_hugging_face_processor(width):
    from transformers import WatermarkLogitsProcessor

    rng, scheme = np.random.default_rng(9), HuggingFaceSelfHash(vocabulary=300, context_width=width)
    for number in (15485863, 2**31 + 11, 2**50 + 1):
        theirs = WatermarkLogitsProcessor(300, "cpu", 0.25, 2.0, number, "selfhash", width)
        ngrams = rng.integers(0, 300, (400, scheme.window + 1))
        wanted = [n[-1] in theirs._get_greenlist_ids(torch.from_numpy(n)).numpy() for n in ngrams]
        assert scheme.score(ngrams[:, :-1], ngrams[:, -1], Key.of_engine([number])).tolist() == wanted


def test_ngrams_of_one_token_are_not_separate_draws_and_its_first_alone_is():
    scheme = SELVES[1]
    ids = np.random.default_rng(10).zipf(1.25, 6_000) % 60 + 1
    ngrams = np.unique(np.lib.stride_tricks.sliding_window_view(ids, 3), axis=0)
    _, first = np.unique(scheme.canonical(ngrams[:, :-1], ngrams[:, -1])[1], return_index=True)
    mark, keys = Watermark(scheme, Key.of_engine([1])), list(decoy_keys(b"shared", 400))
    spread = {}
    for name, cells in (("every ngram", ngrams), ("one a token", ngrams[first])):
        weights = np.ones(len(cells), dtype=np.int32)
        totals = mark.totals(cells[:, :-1], cells[:, -1], weights, keys)
        spread[name] = totals.var() / (len(cells) * scheme.null.variance)
    assert spread["every ngram"] > 3
    assert spread["one a token"] == pytest.approx(1, abs=0.3)


def test_self_hash_is_read_and_not_produced():
    with pytest.raises(EmbeddingRefused, match="forty likeliest"):
        HuggingFaceSelfHash(vocabulary=300).tilt(np.zeros((1, 300)), [[1]], Key.of_engine([1]))


def test_every_recipe_is_compared_on_a_hundred_thousand_cells():
    for name in KINDS:
        assert sum(case["cells"] for case in CASES if case["scheme"] == name) >= 100_000


def text_like(scheme: object, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """(windows, choices) of a text whose ids follow Zipf's law and repeat one another; each cell once by its name."""
    rng, h = np.random.default_rng(5), scheme.window
    ids = rng.zipf(1.25, 40 * count) % 1_900 + 1
    ids[1::3] = ids[:-1:3] % 50 + 1  # pairs that recur
    windows, choices = np.lib.stride_tricks.sliding_window_view(ids, h)[:-1], ids[h:]
    names, _ = canonical(scheme, windows, choices)
    _, first = np.unique(np.column_stack([names, choices]), axis=0, return_index=True)
    kept = rng.permutation(first)[:count]
    return windows[kept], choices[kept]


def canonical(scheme: object, windows: np.ndarray, choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return scheme.canonical(windows, choices) if hasattr(scheme, "canonical") else (windows, choices)


@pytest.mark.parametrize("scheme", [*SCHEMES, pytest.param(SELVES[0], marks=pytest.mark.slow), SELVES[1]], ids=named)
def test_innocent_text_is_rejected_as_often_as_stated(scheme):
    windows, choices = text_like(scheme)
    keys = list(decoy_keys(b"calibration of " + scheme.name.encode(), 2_000))
    weights = np.ones((1, len(choices)), dtype=np.int32)
    totals = Watermark(scheme, keys[0]).totals(windows, choices, weights, keys)[:, 0]
    pvalues = {total: 10 ** scheme.null.log10_pvalue(total, len(choices)) for total in np.unique(totals).tolist()}
    found = np.array([pvalues[total] for total in totals.tolist()])
    for alpha in (0.05, 0.01, 0.001):
        assert (found <= alpha).mean() <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / len(keys)) + 1 / len(keys)
    variance = len(choices) * scheme.null.variance
    drawn_once = 1 - len(choices) / scheme.vocabulary if isinstance(scheme, MarkLlmUnigram) else 1.0
    assert totals.mean() == pytest.approx(len(choices) * scheme.null.mean, abs=4 * np.sqrt(variance / len(keys)))
    assert totals.var() / variance == pytest.approx(drawn_once, rel=0.15)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_tokens_picked_from_the_tilted_logits_are_green_and_no_decoy_sees_it(scheme):
    key, other = decoy_keys(b"tilt", 2)
    rng, vocabulary = np.random.default_rng(6), getattr(scheme, "vocabulary", 500)
    contexts = rng.integers(1, vocabulary, (40, scheme.window))
    logits = rng.standard_normal((40, vocabulary)).astype(np.float32)
    kept = logits.copy()
    tilted = scheme.tilt(logits, contexts, key)
    assert np.array_equal(logits, kept)
    raised = np.argwhere(tilted - logits > scheme.delta / 2)
    assert scheme.score(contexts[raised[:, 0]], raised[:, 1], key).all()
    assert len(raised) / logits.size == pytest.approx(scheme.null.mean, abs=0.03)
    assert scheme.score(contexts[raised[:, 0]], raised[:, 1], other).mean() == pytest.approx(scheme.null.mean, abs=0.03)
    assert np.array_equal(scheme.tilt(torch.from_numpy(logits), torch.from_numpy(contexts), key).numpy(), tilted)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if hasattr(s, "canonical")], ids=named)
def test_a_canonical_cell_has_the_score_of_its_cells_and_is_its_own(scheme):
    rng = np.random.default_rng(7)
    windows, choices = rng.integers(0, 40, (3_000, scheme.window)), rng.integers(0, 1_900, 3_000)
    names, same = scheme.canonical(windows, choices)
    again, _ = scheme.canonical(names, same)
    assert np.array_equal(same, choices)
    assert np.array_equal(again, names)
    assert (names.dtype, names.shape) == (np.uint32, windows.shape)
    for key in (*decoy_keys(b"canonical", 5), Key.of_engine([15485863])):
        seeds = scheme.seeds(windows.astype(np.uint32), key)
        assert np.array_equal(seeds, scheme.seeds(names, key))
        assert np.array_equal(scheme.score(windows, choices, key), scheme.score(names, same, key))


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if isinstance(s, (LmWatermarking, MarkLlmKgw))], ids=named)
def test_contexts_that_give_one_seed_are_one_cell(scheme):
    windows = np.stack(np.meshgrid(*[np.arange(1, 12)] * scheme.window), axis=-1).reshape(-1, scheme.window)
    names, _ = scheme.canonical(windows, windows[:, 0])
    for key in decoy_keys(b"one cell", 3):
        seeds = scheme.seeds(windows.astype(np.uint32), key)
        if isinstance(scheme, MarkLlmKgw):
            scheme.check_key(key)  # the vocabulary is prime
        assert len(np.unique(seeds)) == len(np.unique(names, axis=0)) < len(windows)


def test_contexts_of_one_polynomial_are_one_cell_at_large_vocabularies():
    scheme, key = ThreeBricks(vocabulary=128_256, window=2), Key.of_engine([9])
    windows = np.array([[3, 40_000], [4, 40_000 - 35_317], [4, 40_000]])
    names, _ = scheme.canonical(windows, windows[:, 0])
    seeds = scheme.seeds(windows.astype(np.uint32), key)
    assert (names[0] == names[1]).all()
    assert seeds[0] == seeds[1] != seeds[2]
    assert (names[2] != names[1]).any()


def test_contexts_with_one_list_under_every_key_are_named():
    windows = np.array([[5, 0], [0, 5], [0, 0], [3, 4]])
    for scheme in [s for s in SCHEMES if hasattr(s, "keyless")]:
        given = windows[:, -scheme.window :] if scheme.window < 3 else np.column_stack([windows, windows[:, 0]])
        seeds = np.stack([scheme.seeds(given.astype(np.uint32), key) for key in decoy_keys(b"keyless", 4)])
        assert np.array_equal(scheme.keyless(given), (seeds == seeds[0]).all(axis=0)), scheme


def test_keys_that_make_contexts_share_their_lists_are_refused():
    even = HuggingFaceLeftHash(vocabulary=128_256)
    with pytest.raises(KeyUnusable, match="seed that another id has"):
        even.check_key(Key.of_engine([2**31]))
    with pytest.raises(KeyUnusable, match="8 divides both"):
        MarkLlmKgw(vocabulary=32_000).check_key(Key.of_engine([24]))
    with pytest.raises(KeyUnusable, match="share their lists"):
        LmWatermarking(vocabulary=32_000).check_key(Key.of_engine([2**32]))
    with pytest.raises(KeyUnusable, match="power of two"):
        SbwLeftHash().check_key(Key.of_engine([2**50]))
    with pytest.raises(KeyUnusable, match="of the tokens have a seed"):
        HuggingFaceSelfHash(vocabulary=32_000).check_key(Key.of_engine([2**20]))
    for scheme in (*SCHEMES[:-1], *SELVES):
        scheme.check_key(Key.of_engine([15485863]))


@pytest.mark.parametrize("scheme", [*SCHEMES, *SELVES], ids=named)
def test_parameters_survive_json_and_every_recipe_says_what_it_is(scheme):
    described = json.loads(json.dumps(scheme_to_json(scheme)))
    assert ENGINES[described["name"]](**described["parameters"]) == scheme
    assert scheme.recipe.startswith(scheme.name.split("/")[0])
    assert all(remark.endswith(".") for remark in scheme.remarks)


def test_ids_beyond_the_vocabulary_and_narrow_logits_are_refused():
    scheme, (key,) = SCHEMES[0], decoy_keys(b"width", 1)
    with pytest.raises(ProfileMismatch, match="token id 2000 is beyond the 2000"):
        scheme.score([[1]], [2_000], key)
    with pytest.raises(ProfileMismatch, match="1999 columns"):
        scheme.tilt(np.zeros((1, 1_999), dtype=np.float32), [[1]], key)


@pytest.mark.parametrize(
    "kind, wrong",
    [
        (HuggingFaceLeftHash, {"vocabulary": 1}),
        (HuggingFaceLeftHash, {"vocabulary": 100, "gamma": 0.001}),
        (HuggingFaceLeftHash, {"vocabulary": 100, "delta": 0.0}),
        (LmWatermarking, {"vocabulary": 100, "function": "minhash"}),
        (LmWatermarking, {"vocabulary": 100, "window": 9}),
        (ThreeBricks, {"vocabulary": 100, "window": 5}),
        (ThreeBricks, {"vocabulary": 100, "payload": 100}),
        (MarkLlmKgw, {"vocabulary": 100, "function": "min"}),
        (MarkLlmKgw, {"vocabulary": 100, "window": 0}),
        (HuggingFaceSelfHash, {"vocabulary": 100, "context_width": 0}),
        (SbwLeftHash, {"window": 9}),
        (SbwLeftHash, {"gamma": 1.0}),
        (SbwLeftHash, {"delta": 51.0}),
        (Owmark, {"gamma": 1.0}),
        (Owmark, {"delta": 0.0}),
    ],
)
def test_unusable_parameters_are_refused(kind, wrong):
    with pytest.raises(ValueError, match="found"):
        kind(**wrong)


def test_scores_do_not_depend_on_the_order_of_cells_or_on_the_backend(backend):
    rng, (key,) = np.random.default_rng(8), decoy_keys(b"order", 1)
    windows, choices = rng.integers(0, 60, (2_000, 2)), rng.integers(0, 2_000, 2_000)
    scheme, shuffled = SCHEMES[1], rng.permutation(2_000)
    scores = scheme.score(windows, choices, key)
    assert np.array_equal(scheme.score(windows[shuffled], choices[shuffled], key), scores[shuffled])
    assert hashlib.sha256(np.packbits(scores == 1)).hexdigest()[:16] == "189c09013ccf9c5f"
