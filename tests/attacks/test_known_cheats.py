"""Ways to be accused that look like evidence: a seam, a ledger's counts, another vocabulary, numbers that are none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import WIDTH, tiny_model, tiny_tokenizer
from toy import (
    SPECIAL,
    VOCABULARY,
    Text,
    Toy,
    drifted,
    judged,
    mark_of,
    openings,
    read_all,
    record,
    seen_by,
    teacher,
    tilted_by,
)

from watermark.detect import detect
from watermark.embed.answers import Model
from watermark.errors import SuspectUnusable
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import Reading, counted_records, counted_windows, observe_readings, served_windows
from watermark.observe.weights import Rows, refitted, weigh
from watermark.outputs import Output
from watermark.probe.reading import read_models
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

KEYS = 300
TEACHER = teacher()
BASE = drifted(TEACHER, 6)
SUSPECT = dataclasses.replace(drifted(TEACHER, 5), copy=0.6)


def _keeps(found: list[dict[str, float]], what: str, holds_level) -> None:
    for name in found[0]:
        holds_level([each[name] for each in found], f"{what}, {name}")


# The seam between prompt and answer: a list whose prompt ends like one of its lines.

ITEMS, NEWLINE = 40, 7


@pytest.fixture(scope="module")
def lists() -> list[tuple[Watermark, np.ndarray]]:
    """Marked answers of two lines, each begun by the same bullet: ? \\n | * a b c \\n * d e f."""
    rng, marks = np.random.default_rng(41), [mark_of(key) for key in decoy_keys(b"seam", KEYS)]
    rows = KEYS * ITEMS
    tilt, newline = tilted_by(marks, ITEMS), np.full((rows, 1), NEWLINE)
    bullet = rng.integers(8, SPECIAL, (rows, 1))
    ids = np.concatenate([rng.integers(8, SPECIAL, (rows, 1)), newline, bullet], axis=1)
    ids = TEACHER.write(ids, 3, rng, tilt)
    ids = TEACHER.write(np.concatenate([ids, newline, bullet], axis=1), 3, rng, tilt)
    return list(zip(marks, ids.reshape(KEYS, ITEMS, -1)))


@pytest.mark.slow
def test_window_that_reaches_from_the_prompt_into_the_answer_counts_as_seen(lists, holds_level):
    """What followed it is marked and can be copied, though it lies in neither the prompt nor the answer."""
    found = []
    for mark, rows in lists:
        texts = [Text(row, 2) for row in rows]
        readings = [read_all(t, seen_by(SUSPECT, t), seen_by(BASE, t)) for t in texts]
        found.append(judged(observe_readings(readings, mark)[0], mark))
    _keeps(found, "seam", holds_level)


# Counts of a ledger: a green loop is served more often.


def _stuttering(seed: int) -> Toy:
    """A language in which any token may be said again at once."""
    toy = teacher(seed, near=1.0, far=0.3, common=1.0)
    again = np.log(0.3 / 0.7) + np.log(np.exp(toy.near).sum(axis=1))
    toy.near[np.arange(SPECIAL), np.arange(SPECIAL)] = again[:SPECIAL]
    return toy


@pytest.fixture(scope="module")
def stuttered() -> list[tuple[Watermark, np.ndarray]]:
    marks = [mark_of(key, window=1) for key in decoy_keys(b"counts", KEYS)]
    rng, rows = np.random.default_rng(42), 20
    ids = _stuttering(3).write(openings(KEYS * rows, rng), 70, rng, tilted_by(marks, rows))
    return list(zip(marks, ids.reshape(KEYS, rows, -1)))


@pytest.fixture(scope="module")
def innocent() -> list[list[Reading]]:
    """Texts of the same language, unmarked, before a model that learnt it elsewhere; 20 sets, without reference."""
    rng, suspect = np.random.default_rng(43), drifted(_stuttering(3), 8)
    ids = _stuttering(3).write(openings(20 * 12, rng), 40, rng).reshape(20, 12, -1)
    return [[read_all(text, seen_by(suspect, text), None) for text in (Text(row, 2) for row in rows)] for rows in ids]


@pytest.mark.slow
@pytest.mark.parametrize("filtered", [False, True], ids=["all windows", "served windows"])
def test_frequencies_from_the_ledger_of_the_very_key_keep_the_level(filtered, stuttered, innocent, holds_level):
    found, looping = [], []
    for number, (mark, rows) in enumerate(stuttered):
        records = [record(mark, row[2:]) for row in rows.tolist()]
        served = served_windows(records, mark) if filtered else None
        readings = innocent[number % len(innocent)]
        seen, _ = observe_readings(readings, mark, served=served, often=counted_records(records, mark))
        found.append(judged(seen, mark))
        texts = [Output("", token_ids=tuple(row[2:])) for row in rows.tolist()]
        seen, _ = observe_readings(readings, mark, served=served, often=counted_windows(texts, mark, None))
        found[-1] |= {f"clean {name}": value for name, value in judged(seen, mark, exact=False).items()}
        looping.append(_every_occurrence(mark, rows))
    _keeps(found, "counts of the ledger", holds_level)
    assert np.mean(looping) > 2  # in standard deviations: what counting every occurrence would have added


def _every_occurrence(mark: Watermark, rows: np.ndarray) -> float:
    """z of the green loops (w, w), each weighed by how often w was served."""
    counts = np.bincount(rows[:, 2:].ravel(), minlength=VOCABULARY)[:SPECIAL]
    weight, tokens = counts / (counts + 20.0), np.arange(SPECIAL)
    gamma = mark.scheme.null.mean
    excess = weight @ (mark.score(tokens[:, None], tokens) - gamma)
    return float(excess / np.sqrt(gamma * (1 - gamma) * weight @ weight))


# A position of which nothing is known must not decide how the others are read.


def test_position_with_nothing_listed_leaves_the_others_as_they_are():
    rng, n, k = np.random.default_rng(44), 300, 6
    windows = rng.integers(0, 200, (n, 1)).astype(np.uint32)
    reference = np.log(rng.dirichlet(np.full(k, 0.5), n) + 1e-6).astype(np.float32)
    sharper = 1.6 * reference
    suspect = (sharper - np.log(np.exp(sharper).sum(axis=1, keepdims=True))).astype(np.float32)
    tokens = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    rows = Rows(
        windows, windows[:, 0].astype(np.uint64), np.zeros(n, np.int64), tokens, suspect, reference, tokens[:, 0]
    )
    unlisted, unknown = tokens.copy(), suspect.copy()
    unlisted[5], unknown[5:7] = -1, -np.inf
    found = refitted(dataclasses.replace(rows, tokens=unlisted, suspect=unknown)).suspect
    assert np.abs(found[7:] - refitted(rows).suspect[7:]).max() < 0.01
    assert np.isneginf(found[5:7]).all()
    assert not any(np.isnan(v).any() for v in weigh(dataclasses.replace(rows, suspect=unknown)).weights.values())


# Nothing to test, and numbers that are none.


def _readings(ids: np.ndarray, suspect: Toy, reference: Toy) -> list[Reading]:
    return [read_all(text, seen_by(suspect, text), seen_by(reference, text)) for text in (Text(row, 2) for row in ids)]


def test_reference_that_is_the_suspect_is_refused():
    rng = np.random.default_rng(45)
    ids = TEACHER.write(openings(6, rng), 40, rng)
    with pytest.raises(SuspectUnusable, match="same probabilities as the suspect"):
        observe_readings(_readings(ids, SUSPECT, SUSPECT), mark_of(next(iter(decoy_keys(b"same", 1)))))


@pytest.mark.parametrize("role", ["suspect", "reference"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_log_probabilities_that_are_no_numbers_are_refused(role, value):
    rng = np.random.default_rng(46)
    readings = _readings(TEACHER.write(openings(6, rng), 40, rng), SUSPECT, BASE)
    getattr(readings[3], role)[7, 2] = value
    with pytest.raises(SuspectUnusable, match=f"the {role} gives log-probabilities that are not numbers"):
        observe_readings(readings, mark_of(next(iter(decoy_keys(b"nan", 1)))))


# Models with a vocabulary of their own.


class Parrot(torch.nn.Module):
    """A model that has learnt how often tokens occur and copies what followed the last token, where it stood before."""

    def __init__(self, counts: np.ndarray, copy: float = 0.6, match: int = 2):
        super().__init__()
        self.common = torch.log(torch.tensor((counts + 1) / (counts + 1).sum(), dtype=torch.float32))
        self.copy, self.match = copy, match
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=4096))

    def forward(self, input_ids, attention_mask=None):
        found, copies = self.common.expand(*input_ids.shape, -1).clone(), []
        for row, ids in enumerate(input_ids.tolist()):
            last: dict[tuple[int, ...], int] = {}
            for place in range(self.match, len(ids) + 1):
                context = tuple(ids[place - self.match : place])
                if context in last:
                    copies.append((row, place - 1, last[context]))
                if place < len(ids):
                    last[context] = ids[place]
        if copies:
            rows, places, tokens = torch.tensor(copies).T
            found[rows, places] += float(np.log(1 - self.copy))
            now = found[rows, places, tokens]
            found[rows, places, tokens] = torch.logaddexp(now, torch.full_like(now, float(np.log(self.copy))))
        return SimpleNamespace(logits=found)


@pytest.fixture(scope="module")
def foreign(corpora_text) -> tuple[Tokenizer, Model]:
    """The mark's tokenizer, and a parrot with a smaller one."""
    theirs = tiny_tokenizer(300)
    counts = np.bincount(np.array(theirs(corpora_text)["input_ids"]), minlength=len(theirs))
    return Tokenizer.wrap(tiny_tokenizer()), Model(Parrot(counts), theirs, "parrot")


@pytest.fixture(scope="module")
def corpora_text() -> str:
    return Path(torch.__file__).with_name("functional.py").read_text("utf-8")[:100_000]


@pytest.fixture(scope="module")
def spoken(corpora_text, foreign) -> tuple[np.ndarray, np.ndarray]:
    """Logits (V, V) of a bigram teacher over the mark's vocabulary, and how often each token begins a text."""
    tokenizer = foreign[0]
    ids = np.array(tokenizer.encode([corpora_text])[0])
    counts = np.bincount(ids[:-1] * WIDTH + ids[1:], minlength=WIDTH**2).reshape(WIDTH, WIDTH)
    share = np.bincount(ids, minlength=WIDTH) + 1e-9
    logits = np.log(counts + 2.0 * share / share.sum() + 1e-12)
    logits[:, list(tokenizer.special_ids)] = -np.inf
    return logits.astype(np.float32), ids


def _marked_texts(mark: Watermark, spoken: tuple[np.ndarray, np.ndarray], rows: int, rng) -> np.ndarray:
    logits, ids = spoken
    found = rng.choice(ids, (rows, 1))
    for _ in range(90):
        now = logits[found[:, -1]]
        if found.shape[1] >= mark.scheme.window:
            now = mark.tilt(now, found[:, -mark.scheme.window :])
        noise = -np.log(rng.standard_exponential(now.shape) + 1e-30)
        found = np.concatenate([found, (now + noise).argmax(axis=1)[:, None]], axis=1)
    return found


@pytest.mark.slow
def test_suspect_of_another_vocabulary_that_copies_marked_text_keeps_the_level(foreign, spoken, holds_level):
    """240 keys, widths 1 and 2: the texts it is shown are marked under each, half are ids and half text, which is
    tokenized anew."""
    tokenizer, parrot = foreign
    binding = Binding(tokenizer.digest, WIDTH, tokenizer.special_ids)
    rng, found, naive = np.random.default_rng(47), [], []
    for number, key in enumerate(decoy_keys(b"foreign", 240)):
        mark = Watermark(GreenList(window=1 + number % 2, delta=3.0), key, binding)
        rows = _marked_texts(mark, spoken, 6, rng).tolist()
        texts = [
            Output("", token_ids=tuple(row)) if number % 4 < 2 else Output("", text=tokenizer.texts([row])[0])
            for row in rows
        ]
        readings = [seen for (seen,) in read_models(texts, [parrot], mark, tokenizer, top=32)]
        found.append(judged(observe_readings(readings, mark, tokenizer=tokenizer)[0], mark))
        naive.append(_argmax_without_rules(mark, readings))
    _keeps(found, "foreign vocabulary", holds_level)
    assert np.mean(np.array(naive) <= np.log10(0.05)) > 0.25  # the copying does reach the mark's tokens


def _argmax_without_rules(mark: Watermark, readings: list[Reading]) -> float:
    h = mark.scheme.window
    windows, best = [], []
    for reading in readings:
        for place, row, tokens in zip(reading.positions.tolist(), reading.suspect, reading.tokens):
            if place >= h:
                windows.append(reading.token_ids[place - h : place])
                best.append(tokens[row.argmax()])
    green = mark.score(np.array(windows), np.array(best))
    return mark.scheme.null.log10_pvalue(int(green.sum()), len(green))


class Renumbered(torch.nn.Module):
    """The same model with its tokens numbered otherwise: order[new] = old."""

    def __init__(self, model: torch.nn.Module, order: np.ndarray):
        super().__init__()
        self.model, self.order, self.config = model, torch.from_numpy(order), model.config

    def forward(self, input_ids, attention_mask=None):
        found = self.model(input_ids=self.order[input_ids], attention_mask=attention_mask).logits
        return SimpleNamespace(logits=found[:, :, self.order])


def _renumbered(model: Model, order: np.ndarray) -> Model:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    described = json.loads(model.tokenizer.backend_tokenizer.to_str())
    new = {int(old): index for index, old in enumerate(order)}
    described["model"]["vocab"] = {token: new[index] for token, index in described["model"]["vocab"].items()}
    for token in described["added_tokens"]:
        token["id"] = new[token["id"]]
    described["added_tokens"].sort(key=lambda token: token["id"])
    raw = tokenizers.Tokenizer.from_str(json.dumps(described))
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    own = PreTrainedTokenizerFast(tokenizer_object=raw, name_or_path="renumbered", **names)
    return Model(Renumbered(model.model, order), own, "renumbered")


def test_model_with_its_vocabulary_renumbered_reads_the_same(tmp_path, corpora_text):
    """Token for token and number for number, at every position: a boundary of one is a boundary of the other."""
    model = Model.load(tiny_model(tmp_path / "tiny"))
    tokenizer = Tokenizer.wrap(model.tokenizer)
    mark = Watermark(
        GreenList(window=2), next(iter(decoy_keys(b"n", 1))), Binding(tokenizer.digest, WIDTH, tokenizer.special_ids)
    )
    twin = _renumbered(model, np.random.default_rng(48).permutation(WIDTH))
    assert Tokenizer.wrap(twin.tokenizer).digest != tokenizer.digest
    outputs = [Output(str(n), text=corpora_text[n * 900 :][:300], prompt=corpora_text[n * 900 - 80 : n * 900])
               for n in range(1, 6)]  # fmt: skip
    for own, other in read_models(outputs, [model, twin], mark, tokenizer):
        assert own.positions.tolist() == other.positions.tolist() == list(range(len(own.token_ids)))
        for here, there, seen, beheld in zip(own.tokens, other.tokens, own.suspect, other.suspect):
            spelled, found = dict(zip(here.tolist(), seen.tolist())), dict(zip(there.tolist(), beheld.tolist()))
            shared = spelled.keys() & found.keys()
            assert len(shared) >= len(here) - 1  # the last of the 128 likeliest may tie
            assert all(abs(spelled[token] - found[token]) < 1e-4 for token in shared)


@pytest.mark.slow
def test_detect_refuses_the_suspect_as_its_own_reference_and_a_broken_model(tmp_path, corpora_text):
    folder = tiny_model(tmp_path / "tiny")
    model = Model.load(folder)
    tokenizer = Tokenizer.wrap(model.tokenizer)
    mark = Watermark(
        GreenList(window=1), next(iter(decoy_keys(b"r", 1))), Binding(tokenizer.digest, WIDTH, tokenizer.special_ids)
    )
    outputs = [Output(str(n), text=corpora_text[n * 500 :][:400]) for n in range(4)]
    with pytest.raises(SuspectUnusable, match="same probabilities as the suspect"):
        detect(outputs, mark, tokenizer=tokenizer, suspect=folder, reference=folder, decoys=99)
    with torch.no_grad():
        model.model.lm_head.weight[5] = torch.nan
    with pytest.raises(SuspectUnusable, match="not numbers"):
        detect(outputs, mark, tokenizer=tokenizer, suspect=model, decoys=99)
