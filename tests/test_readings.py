"""Reading models and endpoints: log-probabilities in the mark's tokens, and the weights made of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_model

from watermark import prf
from watermark.detect import detect
from watermark.embed.answers import Model, Sampling
from watermark.errors import OutputsInvalid, ReportInvalid, SuspectUnusable
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import load_cells, observe_readings, save_cells
from watermark.observe.stages import Betting
from watermark.observe.weights import UNITS, Rows, refitted, statistics_of, votes, weigh
from watermark.outputs import Output, TokenLogprobs
from watermark.probe.reading import read_logprobs, read_models, read_texts
from watermark.prompts import Prompt
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

WIDTH = 400


@pytest.fixture(scope="module")
def suspect(tmp_path_factory) -> Model:
    return Model.load(tiny_model(tmp_path_factory.mktemp("suspect"), seed=1))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Model:
    return Model.load(tiny_model(tmp_path_factory.mktemp("reference"), seed=2))


@pytest.fixture(scope="module")
def own(suspect) -> Tokenizer:
    return Tokenizer.wrap(suspect.tokenizer)


@pytest.fixture(scope="module")
def mark(own) -> Watermark:
    key = next(iter(decoy_keys(b"readings", 1)))
    return Watermark(GreenList(window=1), key, Binding(own.digest, WIDTH, own.special_ids))


@pytest.fixture(scope="module")
def answers(suspect) -> list[Output]:
    asked = [Prompt(f"p{i}", f"def f{i}(x):", ({"role": "user", "content": f"def f{i}(x):"},)) for i in range(6)]
    rows = suspect.answer(asked, Sampling(40), seed=1)
    return [Output(p.id, token_ids=tuple(row), prompt=p.text) for p, row in zip(asked, rows)]


def _direct(model: Model, answer: Output) -> np.ndarray:
    """(L, V): log-probabilities of every token of one answer, by one plain forward pass."""
    asked = model.tokenizer(answer.prompt)["input_ids"]
    ids = torch.tensor([asked + list(answer.token_ids)])
    with torch.inference_mode():
        logits = model.model(ids).logits[0]
    return torch.log_softmax(logits[len(asked) - 1 : -1].float(), dim=-1).numpy()


def test_a_model_is_read_as_one_plain_forward_pass_would(suspect, reference, mark, own, answers):
    for (reading,), answer in zip(read_models(answers, [suspect], mark, own, reference=reference), answers):
        direct, beside = _direct(suspect, answer), _direct(reference, answer)
        assert reading.positions.tolist() == list(range(len(answer.token_ids)))
        assert reading.chosen.tolist() == list(answer.token_ids)
        rows = np.arange(len(direct))[:, None]
        assert np.allclose(reading.suspect, direct[rows, reading.tokens], atol=1e-4)
        assert np.allclose(reading.reference, beside[rows, reading.tokens], atol=1e-4)
        assert not np.isin(reading.tokens, own.special_ids).any()
        best = direct.copy()
        best[:, list(own.special_ids)] = -np.inf
        assert (reading.tokens == best.argmax(axis=1)[:, None]).any(axis=1).all()


def test_an_endpoint_that_lists_a_models_own_top_tokens_reads_the_same(suspect, mark, own, answers):
    spelled = own.spellings()
    texts = own.texts([answer.token_ids for answer in answers])
    told = []
    for answer, text, whole in zip(answers, texts, read_models(answers, [suspect], mark, own)):
        order = whole[0].suspect.argsort(axis=1)[:, ::-1][:, :5]
        entries = [
            TokenLogprobs(
                spelled[token] or b"",
                -1.0 if at is None else float(line[at]),
                tuple((spelled[tokens[k]], float(line[k])) for k in top),
            )
            for token, tokens, line, top in zip(answer.token_ids, whole[0].tokens, whole[0].suspect, order)
            for at in [next(iter(np.flatnonzero(tokens == token)), None)]
        ]
        told.append(Output(answer.id, token_ids=answer.token_ids, text=text, logprobs=tuple(entries)))
    read = list(read_logprobs(told, mark, own))
    for listed, (whole,) in zip(read, read_models(answers, [suspect], mark, own)):
        lines = {int(p): n for n, p in enumerate(whole.positions)}
        assert len(listed.positions) == len(whole.positions)
        for place, tokens, values in zip(listed.positions, listed.tokens, listed.suspect):
            known = dict(zip(whole.tokens[lines[int(place)]].tolist(), whole.suspect[lines[int(place)]].tolist()))
            for token, value in zip(tokens.tolist(), values.tolist()):
                assert token < 0 or known.get(token, value) == pytest.approx(value, abs=1e-5)


def test_text_and_a_reference_give_observed_minus_expected(reference, mark, own, answers):
    for reading, answer in zip(read_texts(answers, mark, own, reference=reference), answers):
        assert reading.suspect is None
        assert (reading.tokens == np.array(answer.token_ids)[:, None]).any(axis=1).all()
        seen = Rows(
            np.array(answer.token_ids, dtype=np.uint32)[:-1, None],
            prf.window_ids(np.array(answer.token_ids)[:-1, None]),
            np.zeros(len(answer.token_ids) - 1, dtype=np.int64),
            reading.tokens[1:],
            None,
            reading.reference[1:],
            reading.chosen[1:],
        )
        assert statistics_of(seen) == ("excess", "excess normed")


def _rows(seed: int = 0, n: int = 300, k: int = 12) -> Rows:
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, 30, (n, 1)).astype(np.uint32)
    tokens = np.stack([rng.permutation(50)[:k] for _ in range(n)]).astype(np.int32)
    suspect, reference = (np.log(rng.dirichlet(np.ones(k), n)).astype(np.float32) for _ in range(2))
    documents = np.sort(rng.integers(0, 20, n))
    return Rows(windows, prf.window_ids(windows), documents, tokens, suspect, reference, tokens[:, 0].copy())


def test_weights_are_sums_over_all_contexts_of_a_window():
    rows = _rows()
    cells = weigh(rows)
    plain: dict[tuple[int, int], float] = {}
    fitted, often = refitted(rows), np.bincount(rows.windows[:, 0])
    for window, tokens, s, r in zip(rows.windows[:, 0], rows.tokens, fitted.suspect, rows.reference):
        share = often[window] / (often[window] + 20)
        for token, p, q in zip(tokens.tolist(), np.exp(s.astype(float)), np.exp(r.astype(float))):
            plain[int(window), token] = plain.get((int(window), token), 0.0) + share * min(max(p - q, -0.02), 0.02)
    unit = np.sqrt(np.mean(np.square([value for value in plain.values() if abs(value) > 1e-9]))) / UNITS
    found = {
        (int(w), int(t)): int(k)
        for w, t, k in zip(cells.windows[:, 0], cells.choices, cells.weights["difference"])
        if k
    }
    expected = {cell: round(value / unit) for cell, value in plain.items() if round(value / unit)}
    assert len(expected) > 500
    assert sum(abs(found.get(cell, 0) - k) > 1 for cell, k in expected.items()) == 0
    assert set(found) <= set(plain)


def test_normed_windows_carry_like_weight():
    cells = weigh(_rows())
    square = np.bincount(cells.windows[:, 0], weights=cells.weights["log-ratio normed"].astype(float) ** 2)
    plain = np.bincount(cells.windows[:, 0], weights=cells.weights["log-ratio"].astype(float) ** 2)
    assert square.max() / np.median(square) < plain.max() / np.median(plain)


def test_windows_count_by_how_often_they_occur_where_that_is_known():
    rows = _rows()
    names = np.unique(rows.names)
    counts = np.where(np.arange(len(names)) < 5, 10_000, 0)
    counted = weigh(rows, often=(names, counts))
    kept = np.isin(prf.window_ids(counted.windows), names[:5])
    assert kept.all()
    assert len(counted.choices) > 50
    alike = weigh(rows, often=(names, np.full(len(names), 7)))
    most, least = (find(np.bincount(rows.windows[:, 0])) for find in (np.argmax, np.argmin))

    def size(cells, window):
        return np.abs(cells.weights["difference"][cells.windows[:, 0] == window]).sum()

    assert size(weigh(rows), most) / size(weigh(rows), least) > 1.2 * size(alike, most) / size(alike, least)


def test_another_temperature_isrefitted():
    """The same model at T = 0.7 beside itself at T = 1 leaves next to nothing, while other models do."""
    rows = _rows()
    cold = rows.reference.astype(np.float64) / 0.7
    cold = (cold - np.log(np.exp(cold).sum(axis=1, keepdims=True))).astype(np.float32)
    weighed = weigh(dataclasses.replace(rows, suspect=cold))
    same = dataclasses.replace(rows, suspect=rows.reference)
    assert all(not values.any() for values in weigh(same).weights.values())
    p, q = np.exp(cold), np.exp(rows.reference)
    raw = np.abs(p - q).sum()
    left = np.abs(np.exp(refitted(dataclasses.replace(rows, suspect=cold)).suspect) - q).sum()
    assert left < 0.1 * raw
    assert set(weighed.weights) == set(statistics_of(rows))


def test_a_single_listed_token_keeps_its_probability():
    """Of one candidate nothing can be fitted: scaled to sum to one, both sides would say the same."""
    rows = _rows(k=12)
    first = {name: getattr(rows, name)[:, :1] for name in ("tokens", "suspect", "reference")}
    one = dataclasses.replace(rows, **first)
    assert (refitted(one).suspect == one.suspect).all()
    assert weigh(one).weights["difference"].any()


def test_one_vote_for_each_cell_is_the_likeliest_token():
    rows = _rows()
    windows, choices, documents = votes(rows)
    best = rows.tokens[np.arange(len(rows.tokens)), rows.suspect.argmax(axis=1)]
    expected = list(dict.fromkeys(zip(rows.windows[:, 0].tolist(), best.tolist())))
    assert list(zip(windows[:, 0].tolist(), choices.tolist())) == expected
    assert (np.diff(documents) >= 0).all()


def test_no_stage_bets_on_a_cell_again():
    rows, betting, seen = _rows(n=2_000), Betting(), set()
    for end in (5, 10, 20):
        stage = betting.stage(rows.before(end), reached=100 * np.arange(1, end + 1))
        cells = set(zip(stage.windows[:, 0].tolist(), stage.choices.tolist()))
        assert len(cells) == len(stage) > 0
        assert not cells & seen
        seen |= cells


def test_cells_survive_the_disk_and_damage_is_named(suspect, reference, mark, own, answers, tmp_path):
    readings = (reading for (reading,) in read_models(answers, [suspect], mark, own, reference=reference))
    seen, _ = observe_readings(readings, mark, tokenizer=own)
    save_cells(seen, tmp_path / "cells.npz")
    windows, choices, weights, digest = load_cells(tmp_path / "cells.npz")
    assert digest == seen.digest
    assert (windows == seen.windows).all()
    assert (choices == seen.choices).all()
    assert set(weights) == {"votes", "difference", "difference normed", "log-ratio", "log-ratio normed"}
    for content in (b"", b"PK", (tmp_path / "cells.npz").read_bytes()[:-200]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ReportInvalid, match="not a file of cells"):
            load_cells(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", windows=windows, choices=choices[1:], **{"weight.votes": weights["votes"]})
    with pytest.raises(ReportInvalid, match="do not fit"):
        load_cells(tmp_path / "other.npz")


def test_a_reference_that_is_the_suspect_is_refused(suspect, mark, own, answers):
    with pytest.raises(SuspectUnusable, match="same probabilities"):
        detect(answers, mark, tokenizer=own, suspect=suspect, reference=suspect, decoys=99)


def test_a_control_that_is_the_reference_is_refused_by_its_name(suspect, reference, mark, own, answers):
    given = {"suspect": suspect, "reference": reference, "controls": {"base": reference}}
    with pytest.raises(SuspectUnusable, match=r"control 'base'.*same probabilities"):
        detect(answers, mark, tokenizer=own, decoys=99, **given)


def test_a_model_that_gives_no_numbers_is_refused(tmp_path, mark, own, answers):
    broken = Model.load(tiny_model(tmp_path / "broken"))
    with torch.no_grad():
        next(broken.model.parameters())[5] = float("nan")
    with pytest.raises(SuspectUnusable, match="not numbers"):
        detect(answers, mark, tokenizer=own, suspect=broken, decoys=99)


def test_answers_without_logprobs_are_refused(mark, own, answers):
    with pytest.raises(SuspectUnusable, match="without log-probabilities"):
        detect(answers, mark, tokenizer=own, logprobs=True, decoys=99)


def test_a_resized_model_is_refused(tmp_path, mark, own, answers):
    wide = Model.load(tiny_model(tmp_path / "wide", width=WIDTH + 8))
    with pytest.raises(SuspectUnusable, match="408 logits"):
        detect(answers, mark, tokenizer=own, suspect=wide, decoys=99)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"logprobs": True, "samples": True}, "choose one"),
        ({"controls": {"base": "x"}}, "pass suspect too"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(mark, own, answers, given, words):
    with pytest.raises(ValueError, match=words):
        detect(answers, mark, tokenizer=own, decoys=99, **given)


def test_reading_models_needs_a_tokenizer(suspect, mark, answers):
    with pytest.raises(OutputsInvalid, match="needs the mark's tokenizer"):
        detect(answers, mark, suspect=suspect, decoys=99)


def test_every_access_says_what_it_is(suspect, reference, mark, own, answers):
    """Text alone, with a reference, samples, an open model with controls: each names itself and its statistics."""
    found = {
        "text": detect(answers, mark, tokenizer=own, decoys=99),
        "text and reference": detect(answers, mark, tokenizer=own, reference=reference, decoys=99),
        "samples": detect(answers, mark, tokenizer=own, samples=True, decoys=99),
        "logits": detect(answers, mark, tokenizer=own, suspect=suspect, controls={"other": reference}, decoys=99),
    }
    for access, evidence in found.items():
        assert evidence.access == access
        assert (evidence.weighted is None) == (access == "text")
        assert evidence.anytime is not None
        assert access == "text" or access in evidence.method
    assert [s.name for s in found["logits"].weighted.statistics] == ["mass", "mass normed", "spread", "spread normed"]
    assert [c.name for c in found["logits"].controls] == ["other"]
    assert found["text and reference"].weighted.reference.startswith("reference")
