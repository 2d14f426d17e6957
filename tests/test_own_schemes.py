"""Gumbel, tournament and antidistill: what they draw, what they keep, and how they are served and found."""

import json
import math
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from tiny import WIDTH, tiny_model
from transformers import AutoModelForCausalLM

from watermark import prf
from watermark.accounts import Accounts
from watermark.detect import detect
from watermark.embed.transformers import Embedder, WatermarkProcessor
from watermark.errors import EmbeddingRefused, ReportInvalid
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.prf import tensors
from watermark.report import verify
from watermark.schemes import (
    SCHEMES,
    AntiDistill,
    GreenList,
    Gumbel,
    Tournament,
    marks_once,
    scheme_from_json,
    scheme_to_json,
)
from watermark.schemes.gate import entropies
from watermark.stats.graded import sum_of
from watermark.stats.many import upper_tails
from watermark.testing import check_scheme
from watermark.tokenizer import Tokenizer

KEY, OTHER = decoy_keys(b"own schemes", 2)
RNG = np.random.default_rng
ALL = [GreenList(), Gumbel(), Tournament(), Tournament(window=1, depth=7), AntiDistill()]
REDRAWN = [Gumbel(), Tournament(depth=12), Tournament(depth=3)]
NAMES = [f"{scheme.name}-{getattr(scheme, 'depth', '')}" for scheme in ALL]


def softmax(logits):
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return chances / chances.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "scheme", [Gumbel(window=4), Tournament(window=1, depth=7), Tournament(), AntiDistill(window=1)]
)
def test_own_schemes_keep_the_contract(scheme):
    check_scheme(scheme)


@pytest.mark.parametrize("scheme", [Gumbel(), Tournament(depth=9)])
def test_contract_holds_without_numba(scheme, monkeypatch):
    monkeypatch.setenv("WMARK_NUMBA", "0")
    check_scheme(scheme)


@pytest.mark.parametrize("scheme", [Gumbel(), Tournament(), Tournament(depth=17)])
def test_numba_and_numpy_total_the_same(scheme, monkeypatch):
    rng, keys = RNG(1), list(decoy_keys(b"totals", 12))
    windows = rng.integers(0, 40, (3000, scheme.window)).astype(np.uint32)
    tokens = rng.integers(0, 2**17, 3000).astype(np.uint32)
    weights = rng.integers(-50, 90, (3, 3000)).astype(np.int32)
    fast = Watermark(scheme, KEY).totals(windows, tokens, weights, keys)
    few = Watermark(scheme, KEY).totals(windows, tokens, weights, keys[:2])
    by_key = np.stack([weights.astype(np.int64) @ scheme.score(windows, tokens, key) for key in keys])
    monkeypatch.setenv("WMARK_NUMBA", "0")
    assert np.array_equal(fast, Watermark(scheme, KEY).totals(windows, tokens, weights, keys))
    assert np.array_equal(fast, by_key)
    assert np.array_equal(fast[:2], few)


# --- laws ----------------------------------------------------------------------------------------------


def test_gumbel_scores_are_the_exponential_law_in_quarters():
    law = Gumbel().null
    assert math.fsum(law.chances) == 1.0
    assert all((chance * 2**16).is_integer() for chance in law.chances)
    assert law.mean / 4 == pytest.approx(1, abs=0.01)
    assert law.variance / 16 == pytest.approx(1, abs=0.02)
    for level in range(1, 30):  # rounded to the nearest level, to a step of 2^-16
        assert math.fsum(law.chances[level:]) == pytest.approx(math.exp(-(level - 0.5) / 4), abs=2**-16)


@pytest.mark.parametrize("depth", [1, 2, 16, 17, 30])
def test_tournament_scores_are_a_weighted_sum_of_fair_coins(depth):
    scheme = Tournament(depth=depth)
    chances = np.ones(1)
    for weight in scheme.weights:
        coin = np.zeros(weight + 1)
        coin[[0, weight]] = 0.5
        chances = np.convolve(chances, coin)
    assert scheme.null.chances == pytest.approx(chances.tolist(), rel=1e-12, abs=1e-300)
    assert scheme.null.mean == sum(scheme.weights) / 2


def test_tournament_coins_are_those_of_the_score():
    rng, scheme = RNG(4), Tournament(depth=30)
    windows, tokens = rng.integers(0, 2**17, (500, 2)), rng.integers(0, 2**17, 500)
    words = prf.key_words(KEY.derive("tournament/1"))
    drawn = prf.uniforms(windows.astype(np.uint32), tokens.astype(np.uint32), words)
    coins = drawn[:, None] >> np.arange(31, 1, -1, dtype=np.uint32) & 1
    assert np.array_equal(scheme.score(windows, tokens, KEY), coins @ np.array(scheme.weights))


@pytest.mark.parametrize("shared", ["window", "token"])
def test_all_bits_of_a_uniform_are_fair_and_independent(shared):
    """Of cells that share a window, or a token: every bit, and every pair of bits, 2,000 draws under 60 keys."""
    rng, ones, both = RNG(7), np.zeros(32), np.zeros((32, 32))
    count, keys = 2000, list(decoy_keys(b"bits", 60))
    for key in keys:
        windows = rng.integers(0, 2**17, (count, 2)).astype(np.uint32)
        tokens = np.arange(count, dtype=np.uint32)
        windows, tokens = (
            (windows[:1].repeat(count, 0), tokens) if shared == "window" else (windows, tokens[:1].repeat(count))
        )
        drawn = prf.uniforms(windows, tokens, prf.key_words(key.derive("tournament/1")))
        signs = ((drawn[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(float) * 2 - 1
        ones += signs.sum(axis=0) ** 2 / count
        both += (signs.T @ signs) ** 2 / count
    pairs = both[np.triu_indices(32, 1)]
    spread = math.sqrt(2 / len(keys))  # of a mean of squared standard normals
    assert np.abs(ones / len(keys) - 1).max() < 5 * spread
    assert np.abs(pairs / len(keys) - 1).max() < 6 * spread


# --- what they draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", REDRAWN)
def test_averaged_over_keys_the_text_is_as_likely_as_without_a_mark(scheme):
    logits = np.log(np.array([0.5, 0.25, 0.12, 0.08, 0.04, 0.01])).astype(np.float32)[None]
    wanted, rows = softmax(logits.astype(float))[0], []
    for key in decoy_keys(b"unbiased", 1500):
        rows.append(softmax(scheme.tilt(logits, np.array([[5, 9]]), key).astype(float))[0])
    found = np.array(rows)
    error = (found.mean(axis=0) - wanted) / (found.std(axis=0) / math.sqrt(len(found)))
    assert np.abs(error).max() < 4
    assert found.max(axis=1).mean() > wanted.max() + 0.04  # each key does choose


def test_gumbel_leaves_one_token_and_keeps_the_logsumexp():
    logits = RNG(2).standard_normal((5, 300)).astype(np.float32)
    made = Gumbel().tilt(logits, np.arange(10).reshape(5, 2), KEY)
    assert (np.isfinite(made).sum(axis=1) == 1).all()
    assert made.max(axis=1) == pytest.approx(np.log(np.exp(logits.astype(float)).sum(axis=1)), abs=1e-5)


def test_gumbel_winner_is_the_keyed_race():
    logits = RNG(3).standard_normal((4, 200))
    contexts = np.arange(8).reshape(4, 2)
    words = prf.key_words(KEY.derive("gumbel/1"))
    for row, context, made in zip(logits, contexts, Gumbel().tilt(logits, contexts, KEY)):
        drawn = prf.uniforms(np.tile(context, (200, 1)).astype(np.uint32), np.arange(200, dtype=np.uint32), words)
        u = (drawn.astype(float) + 0.5) / 2**32
        assert np.argmax(u ** (1 / softmax(row))) == np.argmax(made)


@pytest.mark.parametrize("scheme", [Gumbel(), Tournament(), Tournament(depth=12)])
def test_a_device_redraws_as_numpy_does(scheme):
    logits = RNG(5).standard_normal((6, 400))
    logits[:, ::9] = -np.inf
    contexts = np.arange(12).reshape(6, 2)
    words = prf.key_words(KEY.derive(f"{scheme.name}/1"))
    states = tensors.window_states(torch.from_numpy(contexts), words)
    made = scheme._redraw_tensor(torch.from_numpy(logits), tensors.unsigned(tensors.uniform_rows(states, 400)))
    assert np.allclose(softmax(made.numpy()), softmax(scheme.tilt(logits, contexts, KEY)), atol=1e-9)
    half = scheme.tilt(torch.from_numpy(logits).bfloat16(), torch.from_numpy(contexts), KEY)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("scheme", ALL, ids=NAMES)
def test_a_row_without_choice_is_left_so(scheme):
    logits = np.full((2, 50), -np.inf, dtype=np.float32)
    logits[1, 7] = 3.0
    made = scheme.tilt(logits, np.full((2, scheme.window), 4), KEY)
    assert np.isneginf(made[0]).all()
    assert np.flatnonzero(np.isfinite(made[1])).tolist() == [7]


def test_antidistill_is_the_formula_and_takes_a_proxy():
    rng, scheme = RNG(6), AntiDistill(strength=5.0)
    logits, other = rng.standard_normal((3, 80)), rng.standard_normal((3, 80))
    contexts = np.arange(6).reshape(3, 2)
    green = scheme.score(contexts.repeat(80, 0), np.tile(np.arange(80), 3), KEY).reshape(3, 80)
    for proxy in (None, other):
        p = softmax(logits if proxy is None else proxy)
        wanted = logits + 5.0 * p * (green - (p * green).sum(axis=1, keepdims=True))
        assert np.allclose(scheme.tilt(logits, contexts, KEY, proxy=proxy), wanted)
        on_device = scheme.tilt(
            torch.from_numpy(logits).half(), torch.from_numpy(contexts), KEY,
            proxy=None if proxy is None else torch.from_numpy(proxy).half(),
        )  # fmt: skip
        assert np.allclose(on_device.double().numpy(), wanted, atol=0.02)
    assert not np.allclose(scheme.tilt(logits, contexts, KEY, proxy=other), scheme.tilt(logits, contexts, KEY))


@pytest.mark.parametrize(
    "make",
    [lambda: Gumbel(window=0), lambda: Tournament(depth=31), lambda: Tournament(depth=0), lambda: Tournament(depth=2.0),
     lambda: AntiDistill(strength=0.0), lambda: AntiDistill(strength=float("nan")), lambda: AntiDistill(gamma=1.0),
     lambda: Gumbel(gate=-0.1), lambda: GreenList(gate=float("nan")), lambda: Tournament(gate=True)],
)  # fmt: skip
def test_unusable_parameters_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()


def test_a_gate_that_is_off_is_in_no_file():
    for kind in SCHEMES.values():
        assert "gate" not in scheme_to_json(kind())["parameters"]
        assert scheme_from_json(scheme_to_json(kind(gate=0.5))) == kind(gate=0.5)
        assert scheme_from_json(scheme_to_json(kind())) == kind()


# --- a mark of them ------------------------------------------------------------------------------------


def mark_of(scheme, **more):
    return Watermark(scheme, KEY, Binding("x", WIDTH, (0, 1, 2)), **more)


@pytest.mark.parametrize("scheme", ALL, ids=NAMES)
def test_special_tokens_keep_their_chance(scheme):
    logits = RNG(8).standard_normal((40, WIDTH)) * 2
    made = mark_of(scheme).tilt(logits, RNG(9).integers(3, WIDTH, (40, scheme.window)))
    assert np.array_equal(made[:, :3], logits[:, :3])
    if marks_once(scheme):
        assert softmax(made)[:, :3] == pytest.approx(softmax(logits)[:, :3], rel=1e-9)


@pytest.mark.parametrize("scheme", ALL, ids=NAMES)
def test_a_row_under_the_gate_is_left_alone(scheme):
    import dataclasses

    sure, open_ = np.zeros(WIDTH), np.zeros(WIDTH)
    sure[5] = 12.0
    logits, contexts = np.stack([sure, open_]), np.full((2, scheme.window), 9)
    gated = mark_of(dataclasses.replace(scheme, gate=1.0))
    for given in (logits, torch.from_numpy(logits)):
        made = np.asarray(gated.tilt(given, contexts))
        assert np.array_equal(made[0], logits[0])
        assert not np.array_equal(made[1], logits[1])
    assert not np.array_equal(mark_of(scheme).tilt(logits, contexts)[0], logits[0])


def test_entropies_are_those_of_the_softmax():
    logits = RNG(1).standard_normal((5, 90)) * 3
    logits[0, 10:] = -np.inf
    logits[4] = -np.inf
    p = softmax(logits[:4])
    wanted = -(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)).sum(axis=1)
    assert entropies(logits) == pytest.approx([*wanted, 0.0])
    assert entropies(torch.from_numpy(logits)) == pytest.approx([*wanted, 0.0])


@pytest.mark.parametrize("scheme", [Gumbel(window=1), Tournament()])
def test_a_window_met_before_is_left_alone(scheme):
    mark = mark_of(scheme)
    scores = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(3))
    rows = torch.tensor([[7, 8, 9, 7, 8], [7, 8, 9, 8, 5], [8, 8, 8, 8, 8]])
    met = [True, scheme.window == 1 and False, True]
    made = WatermarkProcessor(mark)(rows, scores)
    assert mark.met(rows).tolist() == mark.met(rows.tolist()).tolist() == met
    assert [bool((a == b).all()) for a, b in zip(made, scores)] == met
    green = WatermarkProcessor(mark_of(GreenList(window=scheme.window)))(rows, scores)
    assert not (green == scores).all(dim=1).any()


@pytest.mark.parametrize("scheme", ALL, ids=NAMES)
def test_two_keys_share_the_windows_of_every_scheme(scheme):
    """Half of the windows carry the global mark, the others the account's; each is found where it was put."""
    shared = mark_of(scheme, accounts=Accounts())
    account = shared.account("one")
    rng, rows = RNG(12), 4000
    contexts = rng.integers(3, WIDTH, (rows, scheme.window))
    logits = (3 * rng.standard_normal((rows, WIDTH))).astype(np.float32)
    drawn = (account.tilt(logits, contexts) + rng.gumbel(size=logits.shape)).argmax(axis=1)
    law = scheme.null
    for mark in (shared, account):
        own = mark.owned(contexts)
        assert 0.4 < own.mean() < 0.6
        z = (mark.score(contexts[own], drawn[own]).sum() - own.sum() * law.mean) / math.sqrt(own.sum() * law.variance)
        other = mark.score(contexts[~own], drawn[~own])
        off = (other.sum() - len(other) * law.mean) / math.sqrt(len(other) * law.variance)
        assert z > 5
        assert abs(off) < 4


# --- served and found ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("tiny"))).eval()


PROMPTS = torch.randint(3, WIDTH, (6, 5), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def answers(model):
    """Sampled answers under each scheme's mark, and their embedders.

    A model that knows nothing gives no token a chance worth a tilt that is in proportion to it: hence the strength.
    """
    made = {}
    for name, scheme in zip(NAMES, [*ALL[:-1], AntiDistill(strength=200.0)], strict=True):
        embedder = Embedder(mark_of(scheme))
        torch.manual_seed(5)
        with torch.inference_mode():
            rows = embedder.wrap(model.generate)(PROMPTS, do_sample=True, top_k=0, max_new_tokens=120)
        made[name] = ([Output(str(i), token_ids=tuple(row[5:].tolist())) for i, row in enumerate(rows)], embedder)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_served_answers_are_found_and_their_evidence_verifies(answers, name, tmp_path):
    outputs, embedder = answers[name]
    found = detect(outputs, embedder.mark, decoys=99)
    other = detect(outputs, embedder.mark.rekeyed(OTHER), decoys=99)
    assert other.log10_p > -3
    assert found.log10_p < -6
    assert found.verdict == "evidence found"
    assert (found.levels is None) == (found.law.highest == 1)
    found.save(tmp_path / "evidence.json")
    again = Evidence.load(tmp_path / "evidence.json")
    assert again == found
    verify(again)
    assert ("levels" in json.loads((tmp_path / "evidence.json").read_text())) == (found.law.highest > 1)


@pytest.mark.parametrize("name", ["gumbel-", "tournament-30"])
def test_verify_recomputes_a_graded_total_from_cells_and_refuses_another(answers, name, tmp_path):
    from dataclasses import replace

    outputs, embedder = answers[name]
    found = detect(outputs, embedder.mark, decoys=99, cells=tmp_path / "cells.npz")
    verify(found, cells=tmp_path / "cells.npz", mark=embedder.mark)
    with pytest.raises(ReportInvalid, match="is stated as|cannot be|our key|the key gives|last point"):
        verify(replace(found, green=found.green + 40), cells=tmp_path / "cells.npz", mark=embedder.mark)
    flat = [1 / len(found.levels)] * len(found.levels)
    with pytest.raises(ReportInvalid, match="levels"):
        verify(replace(found, levels=flat))
    with pytest.raises(ReportInvalid, match="levels"):
        verify(replace(found, levels=None))


@pytest.mark.parametrize("scheme", [Gumbel(), Tournament()])
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True, "num_beams": 2}, {}])
def test_decoding_without_sampling_is_refused(model, scheme, options):
    marked = Embedder(mark_of(scheme)).wrap(model.generate)
    with pytest.raises(EmbeddingRefused, match="stands in for the sampler"):
        marked(PROMPTS, max_new_tokens=4, **options)


def test_continuous_batching_is_refused():
    with pytest.raises(EmbeddingRefused, match="must see the whole answer"):
        assert WatermarkProcessor(mark_of(Gumbel(window=1))).supports_continuous_batching


def test_receipts_count_first_windows_alone():
    embedder = Embedder(mark_of(Gumbel(window=1)))
    assert embedder.receipt([5, 6, 5, 7, 8]).tokens_marked == 3
    assert embedder.receipt([5, 6, 5, 7, 8], prompt=[6]).tokens_marked == 2
    assert Embedder(mark_of(GreenList(window=1))).receipt([5, 6, 5, 7, 8]).tokens_marked == 4


def test_a_proxy_model_changes_the_tilt_and_padding_does_not(model, tmp_path_factory):
    proxy = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("proxy"), seed=3)).eval()
    mark = mark_of(AntiDistill(strength=100.0))
    processor = Embedder(mark, proxy=proxy).config.construct_processor(WIDTH, "cpu")
    scores = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(2))
    made = processor(PROMPTS, scores)
    with torch.inference_mode():
        beside = proxy(PROMPTS).logits[:, -1]
    assert torch.allclose(made, mark.tilt(scores, PROMPTS[:, -2:], proxy=beside))
    assert not torch.allclose(made, mark.tilt(scores, PROMPTS[:, -2:]))
    padded = torch.cat([torch.zeros(6, 3, dtype=torch.long), PROMPTS], dim=1)
    assert torch.allclose(processor(padded, scores), made, atol=1e-5)
    with pytest.raises(EmbeddingRefused, match="asks no proxy"):
        Embedder(mark_of(GreenList()), proxy=proxy)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [Gumbel(), Tournament(depth=8)])
def test_pooled_answers_have_the_distribution_of_unmarked_text(scheme):
    """Two draws after one another under 3,000 keys, against the chances of the chain."""
    rng, table = RNG(3), np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    counts = np.zeros((3, 3))
    for key in decoy_keys(b"pooled", 3000):
        mark, last = Watermark(scheme, key), [7, 0]
        for _ in range(2):
            logits = scheme.tilt(np.log(table[last[-1]])[None], np.array([last]), mark.key)[0]
            last = [last[-1], int(rng.choice(3, p=softmax(logits)))]
        counts[last[0], last[1]] += 1
    wanted = 3000 * table[0][:, None] * table
    assert chisquare(counts.reshape(-1), wanted.reshape(-1)).pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ALL, ids=NAMES)
def test_innocent_text_keeps_its_level(scheme, corpora, binding, holds_level):
    """1,080 keys, thirty of them against each of 36 slices of real text; votes and a weighted sum."""
    votes, sums = [], []
    for corpus, ids in corpora.items():
        keys, rng = decoy_keys(f"{corpus} {scheme.name}".encode(), 12 * 30), RNG(len(corpus))
        for start in rng.integers(0, len(ids) - 2500, 12):
            slice_ = ids[start : start + 2000].tolist()
            outputs = [Output(str(at), token_ids=tuple(slice_[at : at + 250])) for at in range(0, 2000, 250)]
            mark = Watermark(scheme, KEY, binding)
            seen = observe(outputs, mark)
            weights = np.stack([np.ones(len(seen)), rng.integers(-9, 12, len(seen))]).astype(np.int32)
            totals = mark.totals(seen.windows, seen.choices, weights, list(islice(keys, 30)))
            votes += upper_tails(sum_of(weights[0], scheme.null), totals[:, 0]).tolist()
            sums += upper_tails(sum_of(weights[1], scheme.null), totals[:, 1]).tolist()
    assert len(votes) == 1080
    holds_level(votes, f"{scheme.name}, votes")
    holds_level(sums, f"{scheme.name}, weights")
    assert kstest(10 ** np.array(sums), "uniform").pvalue > 0.001


@pytest.mark.parametrize("name", ["gumbel-", "tournament-30"])
def test_the_page_speaks_of_scores(answers, name, tmp_path):
    from watermark.report import render

    outputs, embedder = answers[name]
    found = detect(outputs, embedder.mark, decoys=99)
    render(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    for said in ("mean score", "Total score", "score above chance", "exact test of the total score"):
        assert said in page
    shown = page.split('<script type="application/json"')[0]
    for unsaid in ("green rate", "Green cells", "are green", "binomial", "gamma ="):
        assert unsaid not in shown
    verify(found, page=tmp_path / "report.html")


def test_a_little_graded_text_is_inconclusive_and_says_how_much_is_needed(answers):
    from watermark.report.words import cells_needed, summary

    outputs, embedder = answers["gumbel-"]
    little = detect(outputs[:1], embedder.mark.rekeyed(OTHER), decoys=99)
    assert little.verdict == "inconclusive"
    needed = cells_needed(little)
    lift = 0.1 * math.sqrt(little.law.variance) / little.law.highest
    assert little.law.detectable(needed, alpha=0.001) / little.law.highest <= little.gamma + lift
    assert little.law.detectable(needed * 9 // 10, alpha=0.001) / little.law.highest > little.gamma + lift
    assert "mean score" in summary(little).power


@pytest.mark.slow
def test_an_open_model_is_read_under_levels(tmp_path):
    """Weighted statistics, controls, the e-process and their verification, with scores of 48 levels."""
    from watermark.embed.answers import Model

    folder = tiny_model(tmp_path / "tiny")
    model = Model.load(folder)
    mark = Watermark.generate(Gumbel(window=1), tokenizer=Tokenizer.wrap(model.tokenizer)).rekeyed(KEY)
    rows = [Output(str(i), text=text) for i, text in enumerate(["import torch", "def grad(x):", "return self"] * 4)]
    found = detect(rows, mark, tokenizer=Tokenizer.wrap(model.tokenizer), suspect=model, controls={"same": model},
                   decoys=99, cells=tmp_path / "cells.npz")  # fmt: skip
    assert found.levels is not None
    assert found.log10_p > -3
    assert found.controls[0].log10_e == pytest.approx(found.weighted.log10_e)
    assert all(s.tail == "exact lattice" for s in found.weighted.statistics)
    verify(found, cells=tmp_path / "cells.npz", mark=mark)


def test_a_dose_is_read_off_students_of_the_same_scheme(answers):
    from watermark.calibrate import way_of

    found = {name: detect(outputs, embedder.mark, decoys=99) for name, (outputs, embedder) in answers.items()}
    ways = {name: way_of(evidence, "votes") for name, evidence in found.items()}
    assert ways["greenlist-"].scheme == "greenlist"
    assert ways["tournament-30"].scheme == "tournament depth 30"
    assert ways["antidistill-"].scheme == "antidistill strength 200"
    assert len({way.scheme for way in ways.values()}) == len(ways)


# --- keygen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, parameters",
    [
        (["--scheme", "gumbel", "--window", "1"], {"name": "gumbel", "window": 1}),
        (
            ["--scheme", "tournament", "--depth", "12", "--gate", "0.4"],
            {"name": "tournament", "depth": 12, "gate": 0.4},
        ),
        (["--scheme", "antidistill", "--strength", "5"], {"name": "antidistill", "strength": 5.0, "gamma": 0.25}),
        (["--delta", "1.5", "--gamma", "0.5"], {"name": "greenlist", "delta": 1.5, "gamma": 0.5}),
    ],
)
def test_keygen_makes_every_scheme(tmp_path, options, parameters):
    from typer.testing import CliRunner
    from wmark_cli.main import app

    done = CliRunner().invoke(app, ["keygen", str(tmp_path / "ours.wmark"), *options, "--json"])
    assert done.exit_code == 0, done.output
    made = scheme_to_json(Watermark.load(tmp_path / "ours.wmark").scheme)
    assert {"name": made["name"], **made["parameters"]} == {**made["parameters"], **parameters}


@pytest.mark.parametrize(
    "options, says",
    [
        (["--scheme", "purple"], "--scheme is one of greenlist, gumbel, tournament, antidistill"),
        (["--scheme", "gumbel", "--delta", "2"], "gumbel has no --delta; it has --window, --gate"),
        (["--depth", "3"], "greenlist has no --depth"),
        (["--scheme", "tournament", "--depth", "31"], "depth must be a whole number from 1 to 30"),
        (["--gate", "-1"], "gate must be an entropy"),
    ],
)
def test_keygen_refuses_what_a_scheme_does_not_have(tmp_path, options, says):
    from typer.testing import CliRunner
    from wmark_cli.main import app

    done = CliRunner().invoke(app, ["keygen", str(tmp_path / "ours.wmark"), *options])
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "ours.wmark").exists()


def test_antidistillation_adds_the_same_with_numba_and_without(monkeypatch):
    """Also beside a proxy, of a row cut to a few tokens, and of one with nothing left."""
    rng = np.random.default_rng(8)
    logits, beside = (3 * rng.standard_normal((5, 3_000)).astype(np.float32) for _ in range(2))
    logits[1, 20:], beside[1, 20:], logits[2], beside[2] = -np.inf, -np.inf, -np.inf, -np.inf
    made = {}
    for backend in "10":
        monkeypatch.setenv("WMARK_NUMBA", backend)
        made[backend] = [AntiDistill().tilt(logits, PROMPTS[:5, -2:], KEY, **more) for more in ({}, {"proxy": beside})]
    for fast, slow in zip(made["1"], made["0"], strict=True):
        np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=2e-6)
        assert (fast[[0, 3, 4]] != logits[[0, 3, 4]]).any(axis=1).all()
