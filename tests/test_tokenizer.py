"""Tokenizer: what transformers loads from a hub or a .gguf file is read without transformers, to the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import SPECIAL, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe, rules
from watermark.observe.compiled import Copies
from watermark.observe.rules import UNKNOWN
from watermark.outputs import Output
from watermark.scale.job import carried
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer as Ours

AWKWARD = [
    "",
    " ",
    "  two blanks  and at the end ",
    "It's 12,345.67 — or\u00a0so \t they\n\nsaid:  “I'LL go!”\r\n  Then\u2003… don't\n \n",
    "<bos>a <eos> b<extra>c  <extra> d <user> e<pad>",
    "e\u0301tude étude 日本語 テスト。 🙂🙂 \u3000x \x1c y\x85z \0 ▁a▁ ▁▁",
    " word" * 3,
]


DECODED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def _bytes() -> Tokenizer:
    return Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())


def _signs() -> Tokenizer:
    """The same vocabulary with "▁", as SentencePiece's are: blanks before a text, bytes for what is unknown."""
    described = json.loads(_bytes().to_str())
    model = described["model"]
    ordered = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens = [token.replace("Ġ", "▁") for token in ordered if "Ġ" not in token[1:]]
    respelt = {token: n for n, token in enumerate([*tokens, *(f"<0x{byte:02X}>" for byte in range(256))])}
    pairs = [[part.replace("Ġ", "▁") for part in pair] for pair in model["merges"]]
    model["vocab"] = respelt
    model["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= respelt.keys()]
    model |= {"byte_fallback": True, "fuse_unk": True}
    made = Tokenizer.from_str(json.dumps(described | {"pre_tokenizer": None, "decoder": None}))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(DECODED)
    return made


def _first() -> Tokenizer:
    made = _signs()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


def _composed() -> Tokenizer:
    made = _bytes()
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


BACKENDS = {"bytes": _bytes, "signs": _signs, "first": _first, "composed": _composed}


def _saved(folder: Path, backend: Tokenizer, **told: Any) -> Path:
    """A folder as hubs have it, with tokens that only tokenizer_config.json knows."""
    named = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, **named, **told)
    theirs.add_tokens([AddedToken("<extra>", lstrip=True), AddedToken("<user>", rstrip=True, special=True)])
    theirs.save_pretrained(folder)
    return folder


def _same(ours: Ours, wrapped: Ours) -> None:
    assert (ours.digest, ours.size, ours.special_ids) == (wrapped.digest, wrapped.size, wrapped.special_ids)
    ids = wrapped.encode(AWKWARD)
    assert ours.encode(AWKWARD) == ids
    assert [row.tolist() for row in ours.arrays(AWKWARD * 1000)] == ids * 1000  # so much that it is cut
    assert ours.texts(ids) == wrapped.texts(ids)
    assert ours.spellings() == wrapped.spellings()
    assert ours.writes_bytes == wrapped.writes_bytes


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("told", [{}, {"add_prefix_space": True}, {"model_max_length": 8, "padding_side": "left"}])
def test_a_hubs_tokenizer_is_read_without_transformers(tmp_path, kind, told):
    folder = _saved(tmp_path / "model", BACKENDS[kind](), **told)
    ours, wrapped = Ours._from_hub(str(folder)), Ours.wrap(AutoTokenizer.from_pretrained(folder))
    assert ours.shareable
    assert not wrapped.shareable
    assert ours.source == wrapped.source
    _same(ours, wrapped)
    assert (vars(ours)["_chunks"] is None) == (kind == "composed")  # a blank before a text and byte level: not cut


def test_lengths_and_padding_do_not_change_what_is_read(tmp_path):
    backend = _bytes()
    backend.enable_truncation(4)
    backend.enable_padding(length=12)
    folder = _saved(tmp_path / "model", backend)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    _same(Ours._from_hub(str(folder)), Ours.wrap(AutoTokenizer.from_pretrained(folder)))


def test_special_tokens_that_are_read_as_text_keep_transformers(tmp_path):
    folder = _saved(tmp_path / "model", _bytes(), split_special_tokens=True)
    ours = Ours._from_hub(str(folder))
    assert not ours.shareable
    assert not set(ours.encode(["<bos>a<eos>"])[0]) & set(ours.special_ids)


def test_a_tokenizer_with_a_way_of_its_own_keeps_it(monkeypatch):
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *given: Any, **told: Any) -> Any:
            return super()._encode_plus([part.upper() for part in text], *given, **told)

    theirs = Shouting(tokenizer_object=_bytes())
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *given, **told: theirs)
    ours = Ours._from_hub("theirs")
    assert ours.encode(["a cat"]) == [_bytes().encode("A CAT").ids]


def test_wrapping_leaves_a_users_tokenizer_as_it_is():
    theirs = tiny_tokenizer()
    theirs.backend_tokenizer.enable_truncation(5)
    theirs.backend_tokenizer.enable_padding(length=9)
    before = theirs.backend_tokenizer.to_str()
    wrapped = Ours.wrap(theirs)
    ours = wrapped._alone()
    assert ours.shareable
    ours.encode(AWKWARD)
    assert theirs.backend_tokenizer.to_str() == before
    theirs.add_tokens(["<later>"])
    assert ours.encode(["a<later>"]) != wrapped.encode(["a<later>"])


def test_workers_get_a_hubs_tokenizer_as_json(tmp_path):
    ours = Ours._from_hub(str(_saved(tmp_path / "model", _first())))
    told = carried(ours)
    assert told is not None
    there = Ours.from_text(told["json"], told["source"])
    assert (there.digest, there.special_ids) == (ours.digest, ours.special_ids)
    assert there.encode(AWKWARD) == ours.encode(AWKWARD)


PROMPT = "It's 12,345.67 said: I'LL go! <extra> café\n\n Then …\u2003 word word ▁ a <eos>"


@pytest.mark.parametrize("kind", ["signs", "first", "no strip"])
def test_windows_are_compared_with_prompts_as_their_text_is(tmp_path, kind):
    """Token by token behind another, as all decoded at once; never wrong, and rarely unknown."""
    backend = BACKENDS["first" if kind == "no strip" else kind]()
    if kind == "signs":
        backend.decoder = decoders.Sequence([*DECODED, decoders.Strip(" ", 1, 0)])
    ours = Ours._from_hub(str(_saved(tmp_path / "model", backend)))
    assert ours.writes_signs
    said = [*AWKWARD, PROMPT, *(f"{a}{b}" for a in PROMPT for b in PROMPT)]
    rows = ours.encode(said)
    for h in (1, 2, 3):
        windows = [row[at : at + h] for row in rows for at in range(len(row) - h + 1)]
        windows += np.random.default_rng(h).integers(0, ours.size + 3, (3_000, h)).tolist()
        expected = [text.lstrip() in PROMPT for text in ours.texts(windows)]
        given = np.array(windows, dtype=np.uint32), np.zeros(len(windows), dtype=np.int64)
        found = Copies(ours.behind, ours.size).found(*given, [PROMPT]).tolist()
        assert [e for e, f in zip(expected, found, strict=True) if f != UNKNOWN] == [
            f == 1 for f in found if f != UNKNOWN
        ]
        assert 0 < sum(expected) < len(expected)
        assert found[: len(windows) - 3_000].count(UNKNOWN) < 0.5 * len(windows)


def test_what_is_observed_is_the_same_with_and_without_that(tmp_path, monkeypatch):
    """Of texts with prompts: cells, what was left out and why, and the digest that seeds the decoys."""
    rng = np.random.default_rng(4)
    parts = [*PROMPT.split(), *AWKWARD, " the", "def ", "\n    ", "THE WHOLE OF IT IS SHOUTED "]
    made = [" ".join(rng.choice(parts, 60)) for _ in range(120)]
    outputs = [Output(str(n), text=text, prompt=made[n - 1][:90] + text[40:80]) for n, text in enumerate(made)]
    ours = Ours._from_hub(str(_saved(tmp_path / "model", _signs())))
    binding = Binding(ours.digest, ours.size, ours.special_ids, ours.source)
    mark = Watermark(GreenList(window=2), next(decoy_keys(b"signs", 1)), binding)
    monkeypatch.setattr(rules, "MANY", 0)
    asked: list[int] = []
    found = Copies.found
    monkeypatch.setattr(Copies, "found", lambda self, *given: asked.append(1) or found(self, *given))
    first = observe(outputs, mark, tokenizer=ours)
    assert asked
    monkeypatch.setattr(Ours, "writes_signs", False)
    second = observe(outputs, mark, tokenizer=ours)
    assert (first.digest, first.skipped, len(first)) == (second.digest, second.skipped, len(second))
    assert first.skipped["window in the prompt"] > 100


def test_only_decoders_that_are_known_are_taken_apart():
    for decoder in (
        decoders.Metaspace(),
        decoders.Sequence([*DECODED, decoders.Strip("x", 1, 0)]),
        decoders.Fuse(),
        None,
    ):
        backend = _signs()
        if decoder is not None:
            backend.decoder = decoder
        else:
            backend = Tokenizer.from_str(json.dumps(json.loads(backend.to_str()) | {"decoder": None}))
        assert not Ours.from_text(backend.to_str(), "here").writes_signs


def _gguf(path: Path, kind: str) -> Path:
    """A file with a vocabulary and no weights."""
    gguf = pytest.importorskip("gguf", reason="needs gguf; the same is tested with a hub's folder")
    model = json.loads((_bytes() if kind == "gpt2" else _signs()).to_str())["model"]
    tokens = [f"[unused{n}]" for n in range(max(model["vocab"].values()) + 1)]
    for token, index in model["vocab"].items():
        tokens[index] = token
    writer = gguf.GGUFWriter(path, "llama")
    for told in ("context_length", "embedding_length", "feed_forward_length", "block_count", "head_count"):
        getattr(writer, f"add_{told}")(8)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 6 if token.startswith("<0x") else 1 for token in tokens])
    if kind == "gpt2":
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    else:
        writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_gguf_files_tokenizer_is_read_without_transformers(tmp_path, kind):
    path = _gguf(tmp_path / "tiny.gguf", kind)
    ours = Ours.load(path)
    assert ours.shareable
    assert ours.source == str(path.resolve())
    _same(ours, Ours.wrap(AutoTokenizer.from_pretrained(str(tmp_path), gguf_file=path.name)))
    assert vars(ours)["_chunks"] is not None
