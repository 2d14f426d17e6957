"""Chunks of tokenizers that write blanks as "▁": the ids are the tokenizer's own, and what is not proved is not cut."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from watermark.chunks import Chunks, fresh
from watermark.chunks.added import Added
from watermark.chunks.cuts import ALWAYS, BEFORE_SIGNS, FIRST, NEVER, UNLESS_THERE, cut_of

WRITTEN = (
    "It's the cat's hat, they'll say: “don't”! 12 345 6789 cats; naïve café, étude. You and I and I'M  here. "
    "def f(x):    return x ** 2  # 100% the tests of the tokens and   runs of blanks     by the cats " * 3
)
SIGNED = normalizers.Replace(" ", "▁")
PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), SIGNED])
PLAIN = [AddedToken(token, normalized=False) for token in ("<s>", "</s>", "[INST]", "[INST", "\n\n", "\n\n\n", "▁▁")]
ODD = [AddedToken("<user>", rstrip=True, normalized=False), AddedToken("cat", normalized=True, single_word=True)]
ODD += [AddedToken(" so", normalized=True), AddedToken("\u00e9t", lstrip=True, normalized=False)]


def _spaces(scheme: str, *, split: bool) -> Any:
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


@cache
def _model(kind: str) -> dict[str, Any]:
    """A trained model as JSON, with a token for each byte."""
    backend = Tokenizer(models.BPE(unk_token="<unk>") if kind == "BPE" else models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    told = {"vocab_size": 600, "special_tokens": special, "show_progress": False}
    trainer = (
        trainers.BpeTrainer(**told, min_frequency=1)
        if kind == "BPE"
        else trainers.UnigramTrainer(**told, unk_token="<unk>")
    )
    backend.train_from_iterator([WRITTEN], trainer)
    found: dict[str, Any] = json.loads(backend.to_str())["model"]
    return found


def _merged(*merges: tuple[str, str]) -> dict[str, Any]:
    """The trained model with merges before all others."""
    vocabulary = dict(_model("BPE")["vocab"])
    for token in (part for pair in merges for part in (*pair, "".join(pair))):
        vocabulary.setdefault(token, len(vocabulary))
    return {"vocab": vocabulary, "merges": [*map(list, merges), *_model("BPE")["merges"]]}


def _without(*tokens: str) -> dict[str, Any]:
    vocabulary = {token: index for token, index in _model("BPE")["vocab"].items() if token not in tokens}
    merges = [pair for pair in _model("BPE")["merges"] if {*pair, "".join(pair)} <= vocabulary.keys()]
    return {"vocab": vocabulary, "merges": merges}


# normalizer, pre-tokenizer, what is told of the model otherwise, added tokens, when a blank is put before a text
KINDS: dict[str, tuple[Any, Any, dict[str, Any], list[AddedToken], str]] = {
    "llama2": (PREPENDED, None, {}, PLAIN[:2], ALWAYS),
    "mistral": (None, _spaces("first", split=False), {"unk_token": None}, PLAIN[:4], FIRST),
    "gemma": (SIGNED, pre_tokenizers.Split(" ", "merged_with_previous"), {}, PLAIN, NEVER),
    "phi3": (PREPENDED, None, {}, PLAIN[:3] + ODD, ALWAYS),
    "always": (None, _spaces("always", split=False), {}, PLAIN + ODD, UNLESS_THERE),
    "blank first": (normalizers.Sequence([normalizers.Prepend(" "), SIGNED]), None, {}, PLAIN[:2], ALWAYS),
    "unknown fused": (None, _spaces("first", split=False), {"byte_fallback": False}, PLAIN[:3], FIRST),
    "unknown apart": (PREPENDED, None, {"byte_fallback": False, "fuse_unk": False}, ODD, ALWAYS),
    "split": (None, _spaces("first", split=True), {"ignore_merges": True}, PLAIN[:3], FIRST),
    "held": (
        PREPENDED,
        None,
        _merged(("e", "▁"), ("e▁", "c"), ("▁", "<"), ("▁<", "/"), (">", "▁</")),
        PLAIN[:2],
        ALWAYS,
    ),
    "unigram": (None, _spaces("always", split=True), {}, PLAIN[:3], UNLESS_THERE),
    "unigram, signed": (SIGNED, _spaces("never", split=True), {}, PLAIN[:3], NEVER),
}


def _made(normalizer: Any, pre_tokenizer: Any, told: dict[str, Any], added: list[AddedToken], model: str) -> Tokenizer:
    described = json.loads(Tokenizer(models.BPE()).to_str())
    by_bytes = {"byte_fallback": True} if model == "Unigram" else {"byte_fallback": True, "fuse_unk": True}
    described["model"] = _model(model) | by_bytes | told
    backend = Tokenizer.from_str(json.dumps(described))
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.add_tokens(added)
    return backend


@cache
def _backend(kind: str) -> Tokenizer:
    normalizer, pre_tokenizer, told, added, _ = KINDS[kind]
    return _made(normalizer, pre_tokenizer, told, added, "Unigram" if kind.startswith("unigram") else "BPE")


def _whole(backend: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [found.ids for found in backend.encode_batch(texts, add_special_tokens=False)]


def _rows(found: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    ids, ends = found
    return [row.tolist() for row in np.split(ids, ends[:-1])]


def _agree(kind: str, texts: list[str]) -> None:
    """New and known, compiled and not."""
    made, whole = Chunks.of(_backend(kind)), _whole(_backend(kind), texts)
    assert made is not None
    for numba in ("1", "0", "1", "0"):
        with pytest.MonkeyPatch.context() as here:
            here.setenv("WMARK_NUMBA", numba)
            assert _rows(made.encode(texts)) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_common_tokenizers_are_cut_before_signs(kind):
    cut = cut_of(_backend(kind))
    assert cut is not None
    assert (cut.where, cut.prefix) == (BEFORE_SIGNS, KINDS[kind][-1])


STARTS = ["", " ", "▁", "  ", " ▁", "▁ ", "a", " a", "▁a", "  a", "\n", "\n a", "é", " é", "字", "<s>", "<user>", "cat"]


@pytest.mark.parametrize("kind", KINDS)
def test_starts_and_ends_are_read_as_the_tokenizer_does(kind):
    _agree(kind, [f"{start}{end}" for start in STARTS for end in STARTS])
    _agree(kind, [f"{start}<s>{end}" for start in STARTS for end in STARTS])


characters = [*" \n\t\r▁.,'!-_aZ09éßt“”…\u00a0\u2003\u0301字テ🙂\0\u2582\u2580\u2501"]
runs = [
    "  ",
    "▁▁",
    "\n\n",
    "\n\n\n",
    " \n",
    "word",
    " the",
    "cats",
    " cat ",
    "345",
    " so",
    "▁so",
    "ét",
    "<0x0A>",
    "<unk>",
]
runs += ["> </", "he cat", "> <", ">▁</p> c", "e c"]
runs += ["<s>", "</s>", "[INST", "[INST]", "<user>", "< s>", " <user> "]
pieces = st.lists(st.sampled_from([*characters, *runs]) | st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(pieces.map("".join), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ids_are_those_of_the_tokenizer(kind, texts):
    _agree(kind, texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama2", "mistral", "gemma", "unknown fused", "unigram"])
def test_no_character_beside_a_blank_makes_a_difference(kind):
    found = [chr(c) for c in [*range(0x3100), *range(0xFE00, 0x10000), *range(0x1F600, 0x1F650)]]
    blanks = [chr(c) for c in range(sys.maxunicode) if chr(c).isspace()] + ["▁"]
    texts = [f"a{c} b{c}\nc {c} d▁{c}.{c}▁ {c}" for c in found]
    texts += [f"x{c}{other} y.{other}{c}▁z" for c in blanks for other in blanks]
    _agree(kind, texts)


def test_new_words_are_encoded_many_at_a_time_and_never_again(monkeypatch):
    asked: list[str] = []
    made, texts = Chunks.of(_backend("llama2")), [" ".join(f"cat{n}\tof\n{n * n}" for n in range(3_000))] * 3
    assert made is not None
    encoded = fresh.encoded
    monkeypatch.setattr(fresh, "encoded", lambda backend, some: asked.extend(some) or encoded(backend, some))
    for _ in range(3):
        assert _rows(made.encode(texts)) == _whole(_backend("llama2"), texts)
    assert len("".join(asked)) < 1.1 * len(texts[0])
    assert len(asked) < 3_000 / 50


def test_a_cut_where_the_vocabulary_merges_over_a_blank_would_be_wrong():
    """What the vocabulary says of such places is what keeps the ids right."""
    backend, texts = _backend("held"), ["the cats", "a cat> </s"]
    cut = cut_of(backend)
    assert cut is not None
    assert cut.held == ">e"
    whole = _whole(backend, texts)
    assert {backend.token_to_id("e▁c"), backend.token_to_id(">▁</")} <= {index for row in whole for index in row}
    for held, wrong in ((">", 0), ("e", 1)):
        less = replace(cut, held=held)
        forced = Chunks(backend, less, Added.of(backend), fresh.Fresh(less))
        assert [row == right for row, right in zip(_rows(forced.encode(texts)), whole, strict=True)] == [
            n != wrong for n in range(2)
        ]


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "told"),
    [
        (PREPENDED, None, {"dropout": 0.1}),
        (PREPENDED, None, {"ignore_merges": True}),
        (PREPENDED, None, {"continuing_subword_prefix": "##", "merges": []}),
        (PREPENDED, None, {"end_of_word_suffix": "</w>"}),
        (PREPENDED, None, {"byte_fallback": False, "unk_token": None}),  # characters are left out
        (PREPENDED, None, {"unk_token": None} | _without("<0x0A>")),
        (PREPENDED, None, _without("▁")),
        (PREPENDED, None, _merged(("é", "▁c"))),
        (PREPENDED, None, _merged(("<0x0A>", "▁c"))),
        (PREPENDED, None, _merged(("<unk>", "▁c"))),
        (PREPENDED, None, {"unk_token": "?▁"} | _merged(("?", "▁"))),
        (normalizers.Prepend("▁"), None, {}),
        (normalizers.Replace(Regex(" +"), "▁"), None, {}),
        (normalizers.Replace(" ", "_"), None, {}),
        (normalizers.Sequence([SIGNED, normalizers.Prepend(" ")]), None, {}),
        (normalizers.Sequence([normalizers.NFKC(), SIGNED]), None, {}),
        (normalizers.Sequence([normalizers.Strip(), SIGNED]), None, {}),
        (normalizers.Sequence([normalizers.Prepend("x"), SIGNED]), None, {}),
        (None, None, {}),
        (SIGNED, pre_tokenizers.Split("a", "isolated"), {}),
        (None, pre_tokenizers.Split(" ", "isolated"), {}),
        (SIGNED, pre_tokenizers.Whitespace(), {}),
        (None, pre_tokenizers.Metaspace(replacement="_", split=False), {}),
    ],
)
def test_what_is_not_proved_is_not_cut(normalizer, pre_tokenizer, told):
    assert cut_of(_made(normalizer, pre_tokenizer, told, [], "BPE")) is None


def test_other_models_are_not_cut():
    for model, split in ((models.Unigram([("<unk>", 0.0), ("▁", -1.0)], 0, False), False), (models.WordLevel(), True)):
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
        assert cut_of(backend) is None


@pytest.mark.parametrize("text", ["half \ud800", "half \ud800 of a <user>", "<s>\ud800"])
def test_half_a_character_is_told_wherever_it_stands(text):
    made = Chunks.of(_backend("phi3"))
    assert made is not None
    with pytest.raises(UnicodeEncodeError):
        made.encode(["whole", text])


def test_thousands_of_added_tokens_are_found_longest_first():
    backend = Tokenizer.from_str(_backend("gemma").to_str())
    backend.add_tokens([AddedToken(f"<unused{n}>", normalized=False) for n in range(3_000)])
    backend.add_tokens([AddedToken("a" * n, normalized=False) for n in (3, 5, 9, 10)])
    made, texts = Chunks.of(backend), ["a" * n for n in range(32)] + ["<unused77> <unused777>x<unused3001>", "<<s>>"]
    assert made is not None
    assert _rows(made.encode(texts)) == _whole(backend, texts)


def test_special_tokens_that_are_read_as_text_are_text():
    """transformers' split_special_tokens."""
    backend = Tokenizer.from_str(_backend("llama2").to_str())
    backend.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    backend.encode_special_tokens = True
    made, texts = Chunks.of(backend), ["a <end> b<end>", "<end>", "the <s> cats"]
    assert made is not None
    assert _rows(made.encode(texts)) == _whole(backend, texts)
    assert backend.token_to_id("<end>") not in made.encode(texts)[0]
