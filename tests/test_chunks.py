"""Chunks: the ids are those of the tokenizer itself, whatever the text, and nothing is cut where that is not sure."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from watermark import chunks as room
from watermark.chunks import Chunks, fresh
from watermark.chunks.cuts import AFTER_LINES, BEFORE_BLANKS, WITH_LINES, cut_of
from watermark.errors import OutputsInvalid
from watermark.tokenizer import Tokenizer as Ours

WRITTEN = (
    "It's the cat's hat, they'll say: “don't”! 12 345 6789 cats; naïve café, e\u0301tude.\n\nYou and I\nI'M  here.\r\n"
    "def f(x):\n    return x ** 2  # 100%\n\t日本語のテスト。 Ω ≠ 🙂 🙂🙂 <b>bold</b>\u00a0and\u2003so … \u3000on\n" * 3
)
KINDS = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama3": [
        pre_tokenizers.Split(Regex(WITH_LINES[0]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen": [
        pre_tokenizers.Split(Regex(WITH_LINES[1]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


@cache
def _backend(kind: str) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    steps = KINDS[kind]
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if kind == "qwen":
        backend.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    backend.train_from_iterator([WRITTEN], trainer)
    backend.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<of K>", special=True)])
    backend.add_tokens([AddedToken(" so", lstrip=True, normalized=True)] if kind == "gpt2" else [])
    return backend


def _whole(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [found.ids for found in backend.encode_batch(texts, add_special_tokens=False)]


def _rows(found: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    ids, ends = found
    return [row.tolist() for row in np.split(ids, ends[:-1])]


@pytest.fixture(params=["numba", "numpy"])
def twin(request, monkeypatch):
    monkeypatch.setenv("WMARK_NUMBA", "1" if request.param == "numba" else "0")
    return request.param


def test_cuts_are_known_for_common_tokenizers():
    cuts = {kind: cut_of(_backend(kind)) for kind in KINDS}
    assert {kind: cut and cut.where for kind, cut in cuts.items()} == {
        "gpt2": BEFORE_BLANKS,
        "smollm": BEFORE_BLANKS,
        "llama3": AFTER_LINES,
        "qwen": AFTER_LINES,
    }


characters = [*" \n\t\r.,'!-_aZ09éß“”…\u00a0\u2003\u2028\u3000\x1c\x85\u0301字テ🙂\0"]
runs = ["  ", "\n\n", " \n", "'s", "'LL", "word", "12345", "<|end|>", "<of K>", "<of \u212a>", " so", "Ｋ"]
parts = st.sampled_from([*characters, *runs])
pieces = st.lists(parts | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(pieces, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_ids_are_those_of_the_tokenizer(kind, texts):
    backend = _backend(kind)
    made = Chunks.of(backend)
    assert made is not None
    for backends in ("1", "0", "1", "0"):  # new, then known
        with pytest.MonkeyPatch.context() as here:
            here.setenv("WMARK_NUMBA", backends)
            assert _rows(made.encode(texts)) == _whole(backend, texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_character_beside_a_blank_makes_a_difference(kind, monkeypatch):
    backend, made = _backend(kind), Chunks.of(_backend(kind))
    assert made is not None
    found = [chr(c) for c in [*range(0x3100), *range(0xFE00, 0x10000), *range(0x1F600, 0x1F650)]]
    blanks = [chr(c) for c in range(sys.maxunicode) if chr(c).isspace()]
    texts = [f"a{c} b{c}\nc {c} d\n{c}.{c}\n\n {c}" for c in found]
    texts += [f"x{c}{other} y.{other}{c}\nz" for c in blanks for other in blanks]
    whole = _whole(backend, texts)
    for numba in ("1", "0"):
        monkeypatch.setenv("WMARK_NUMBA", numba)
        assert _rows(made.encode(texts)) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Metaspace(split=False)},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\S+ \S+"), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        },
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(WITH_LINES[0]), "merged_with_next"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        },
        {"normalizer": normalizers.Strip()},
        {"normalizer": normalizers.NFKC()},
        {"dropout": 0.1},
    ],
)
def test_tokenizers_that_are_not_known_are_not_cut(change):
    backend = Tokenizer.from_str(_backend("gpt2").to_str())
    assert cut_of(backend) is not None
    if "dropout" in change:
        backend.model.dropout = change["dropout"]
    else:
        ((name, step),) = change.items()
        setattr(backend, name, step)
    assert Chunks.of(backend) is None


def test_truncation_and_padding_are_not_cut():
    backend = Tokenizer.from_str(_backend("gpt2").to_str())
    backend.enable_truncation(4)
    assert Chunks.of(backend) is None


def test_what_is_known_is_forgotten_before_it_fills_the_memory(twin, monkeypatch):
    monkeypatch.setattr(room, "_ENTRIES", 400)
    backend, made = _backend("smollm"), Chunks.of(_backend("smollm"))
    assert made is not None
    sizes = []
    for first in range(0, 3000, 100):
        texts = [f"word{n} of {n * n}" for n in range(first, first + 100)]
        assert _rows(made.encode(texts)) == _whole(backend, texts)
        sizes.append(len(made._known) if twin == "numpy" else len(made._table))
    assert max(sizes) < 400 + 210


def test_words_of_many_texts_are_encoded_once(monkeypatch):
    """That is what it is for: the tokenizer is asked for each new word, and never again."""
    asked: list[int] = []
    made = Chunks.of(_backend("llama3"))
    assert made is not None
    encoded = fresh.encoded
    monkeypatch.setattr(
        fresh, "encoded", lambda backend, texts: asked.append(len("".join(texts))) or encoded(backend, texts)
    )
    text = " ".join(f"word{n}" for n in range(50))
    for _ in range(20):
        made.encode([text] * 20)
    assert sum(asked) <= 2 * len(text)


def test_a_tokenizers_arrays_are_its_ids(teacher_folder, texts, monkeypatch):
    ours = Ours.load(teacher_folder)
    many = [texts["english"][n : n + 997] for n in range(0, 300_000, 997)] + [texts["code"][:50_000], ""]
    few = many[:3]
    assert [row.tolist() for row in ours.arrays(few)] == ours.encode(few)
    assert "_chunks" not in vars(ours)  # too few to be worth a start
    assert [row.tolist() for row in ours.arrays(many)] == ours.encode(many)
    assert vars(ours)["_chunks"] is not None
    assert [row.tolist() for row in ours.arrays(few)] == ours.encode(few)
    with pytest.raises(OutputsInvalid, match="lone surrogate"):
        ours.arrays([*many, "half \ud800"])


def test_composed_and_decomposed_words_are_told_apart():
    made = Chunks.of(_backend("qwen"))
    assert made is not None
    text = "e\u0301tude étude " * 30
    assert text != unicodedata.normalize("NFC", text)
    assert _rows(made.encode([text])) == _whole(_backend("qwen"), [text])


def test_what_was_interrupted_leaves_nothing_half_known(twin, monkeypatch):
    """Ctrl-C in a notebook, and the same tokenizer is used again."""
    made, texts = Chunks.of(_backend("gpt2")), ["a brave new wörld of things", "and another"]
    assert made is not None

    def stopped(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with monkeypatch.context() as here:
        here.setattr(fresh, "encoded", stopped)
        with pytest.raises(KeyboardInterrupt):
            made.encode(texts)
    assert _rows(made.encode(texts)) == _whole(_backend("gpt2"), texts)
