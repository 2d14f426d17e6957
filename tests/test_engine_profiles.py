"""Engines' own configuration files become marks that `wmark detect` finds; what is not read is refused in words."""

import hashlib
import hmac
import json
import logging
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from watermark.engine_readers import READERS
from watermark.engines import check_against, import_mark
from watermark.errors import KeyUnusable, MarkInvalid, ProfileMismatch
from watermark.mark import Watermark, load_profile
from watermark.schemes.engines import ENGINES
from watermark.tokenizer import Tokenizer, demo_model

ROOT = Path(__file__).parents[1]
KEY = 987654321123457  # odd, and long enough to be seen where it must not be
KEYS = [KEY + 2 * n for n in range(9)]
HF = {"greenlist_ratio": 0.25, "bias": 2.5, "hashing_key": KEY, "seeding_scheme": "lefthash", "context_width": 1}
LM = {"seeding_scheme": "ff-additive_prf-2-False-987654321123457", "gamma": 0.5, "delta": 2.0, "device": "cpu"}
KGW = {"algorithm_name": "KGW", "gamma": 0.5, "delta": 2.0, "hash_key": KEY, "prefix_length": 1, "f_scheme": "time",
       "window_scheme": "left", "z_threshold": 4.0}  # fmt: skip
SYNTHID = {"ngram_len": 5, "keys": KEYS, "sampling_table_size": 65536, "sampling_table_seed": 0}
VLLM = {"key": KEY, "algorithm": "gumbel", "context_width": 3}
SGLANG = {"key": "0x00abcdef01234567", "context_window": 5}
TEXTSEAL = {"secret_key": KEY, "ngram": 2, "watermark_type": "maryland", "gamma": 0.5, "delta": 1.5, "alpha": 0.2}
BRICKS = {"method": "maryland", "seed": KEY, "ngram": 2, "gamma": 0.25, "delta": 3.0, "seeding": "hash", "payload": 7}
SBW = {"seeding_scheme": "gpu-fused-simple_4-fullvocab", "gamma": 0.4, "delta": 2.0, "hash_key": KEY}
WORKING = {
    "hf": (HF, "hf-kgw/lefthash"),
    "hf-synthid": (SYNTHID, "hf-synthid/table"),
    "synthid-text": ({"ngram_len": 5, "keys": KEYS}, "synthid-text/iterated"),
    "vllm": (VLLM, "vllm-gumbel/single"),
    "sglang": (SGLANG, "sglang-gumbel/single"),
    "textseal": (TEXTSEAL, "textseal/greenlist"),
    "lm-watermarking": (LM, "lm-watermarking"),
    "three-bricks": (BRICKS, "three-bricks/maryland"),
    "owmark": ({"key": "00ff" * 16, "gamma": 0.25, "delta": 2.0}, "owmark/green-red"),
    "markllm": (KGW, "markllm/kgw"),
    "sbw": (SBW, "sbw/lefthash"),
}


@pytest.fixture(scope="module")
def demo():
    return Tokenizer.load("demo")


@pytest.fixture
def imported(tmp_path, demo):
    """Imports a configuration for the demo's model of 4,096 logits."""

    def run(engine, fields, *, tokenizer=demo, width=4096, name="c.json"):
        path = tmp_path / name
        path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
        path.chmod(0o600)
        return import_mark(path, engine, tokenizer=tokenizer, logits_width=width)

    return run


def wmark(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "wmark_cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.mark.parametrize("engine", sorted(READERS))
def test_every_engine_has_a_configuration_that_is_read_and_saved(engine, imported, tmp_path):
    fields, name = WORKING[engine]
    made = imported(engine, fields).mark
    made.save(tmp_path / "m.wmark")
    read = Watermark.load(tmp_path / "m.wmark")
    assert (read.scheme.name, read.scheme, read.binding.logits_width) == (name, made.scheme, 4096)
    assert stat.S_IMODE((tmp_path / "m.wmark").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("engine", "change", "name", "parameters"),
    [
        ("hf", {}, "hf-kgw/lefthash", {"vocabulary": 4096, "gamma": 0.25, "delta": 2.5}),
        ("hf", {"context_width": 4}, "hf-kgw/lefthash", {"window": 1}),
        ("hf", {"seeding_scheme": "selfhash", "context_width": 4}, "hf-kgw/selfhash", {"context_width": 4}),
        ("hf-synthid", {"context_history_size": 9}, "hf-synthid/table", {"window": 4, "depth": 9}),
        ("vllm", {"deduplicate_contexts": "all"}, "vllm-gumbel/single", {"window": 3}),
        ("vllm", {"algorithm": "dual_key_gumbel", "alpha": 0.3}, "vllm-gumbel/dual", {"alpha": 0.3}),
        ("vllm", {"prf": "hmac_sha256"}, "vllm-gumbel/hmac", {"window": 3}),
        ("vllm", {"algorithm": "sbw", "sbw_scheme": "lefthash"}, "sbw/lefthash", {"window": 3, "gamma": 0.5}),
        ("sglang", {"key_b": "ff", "mixing_probability": 0.3}, "sglang-gumbel/dual", {"mixing": 0.3, "window": 5}),
        ("textseal", {}, "textseal/greenlist", {"window": 2, "gamma": 0.5, "delta": 1.5}),
        ("textseal", {"watermark_type": "gumbelmax"}, "textseal/gumbel", {"window": 2, "gamma": 0.25}),
        ("lm-watermarking", {}, "lm-watermarking", {"function": "additive", "window": 2, "vocabulary": 4096}),
        ("lm-watermarking", {"seeding_scheme": "selfhash"}, "lm-watermarking/selfhash", {"context_width": 4}),
        ("lm-watermarking", {"seeding_scheme": "skipgram"}, "lm-watermarking", {"function": "skipgram", "window": 5}),
        ("three-bricks", {}, "three-bricks/maryland", {"window": 2, "payload": 7, "delta": 3.0}),
        ("markllm", {"vocab_size": 4000, "f_scheme": "skip"}, "markllm/kgw", {"vocabulary": 4000, "function": "skip"}),
        ("sbw", {}, "sbw/lefthash", {"window": 4, "gamma": 0.4}),
    ],
)
def test_fields_become_the_recipes_parameters(engine, change, name, parameters, imported):
    scheme = imported(engine, WORKING[engine][0] | change).mark.scheme
    assert scheme.name == name
    assert {field: getattr(scheme, field) for field in parameters} == parameters


@pytest.mark.parametrize(
    ("engine", "change", "words"),
    [
        ("hf", {}, [KEY]),
        ("hf-synthid", {}, KEYS),
        ("vllm", {"prf": "hmac_sha256", "key": 5 + (7 << 64) + (9 << 192)}, [5, 7, 0, 9]),
        ("sglang", {}, [0xABCDEF01234567]),
        ("sglang", {"key": "f" * 16, "key_b": "0X1"}, [2**64 - 1, 1]),
        ("textseal", {"secret_key": -1}, [2**64 - 1]),
        ("lm-watermarking", {}, [KEY]),
        ("three-bricks", {}, [KEY]),
    ],
)
def test_the_key_is_the_engines_own(engine, change, words, imported):
    mark = imported(engine, WORKING[engine][0] | change).mark
    assert mark.key.engine_words(len(words), "x") == words


def test_a_short_key_of_owmark_is_padded_as_hmac_pads_it(imported):
    mark = imported("owmark", {"key": "0102030405"}).mark
    windows, choices = torch.arange(300).reshape(-1, 1).numpy(), torch.arange(300).numpy() * 7
    digests = (
        hmac.digest(bytes([1, 2, 3, 4, 5]), a.to_bytes(8, "big") + b.to_bytes(8, "big"), hashlib.sha256)[:8]
        for a, b in zip(windows[:, 0].tolist(), choices.tolist())
    )
    assert mark.score(windows, choices).tolist() == [int.from_bytes(d, "big") / 2**64 < 0.25 for d in digests]


REFUSED = [
    ("hf", {"rescale": 2}, MarkInvalid, "not known here and may change the recipe: rescale"),
    ("hf", {"seeding_scheme": "minhash"}, MarkInvalid, "'minhash', which is not read; what is: lefthash, selfhash"),
    ("hf", {"greenlist_ratio": 1.5}, MarkInvalid, "between 0 and 1 in 'greenlist_ratio', found 1.5"),
    ("hf", {"greenlist_ratio": float("nan")}, MarkInvalid, "between 0 and 1"),
    ("hf", {"greenlist_ratio": "0.25"}, MarkInvalid, "should have a number in 'greenlist_ratio', found str"),
    ("hf", {"hashing_key": -KEY}, KeyUnusable, "'hashing_key', should be a whole number of 64 bits, from 0 on"),
    ("hf", {"hashing_key": str(KEY)}, KeyUnusable, "whole number"),
    ("hf", {"hashing_key": 2**40}, KeyUnusable, "contexts share their lists"),
    ("hf", {"device": "cuda:0"}, MarkInvalid, "a device other than the CPU"),
    ("hf", {"bias": -1}, MarkInvalid, "delta must be above 0"),
    ("hf", {"seeding_scheme": "selfhash", "context_width": 40}, MarkInvalid, "context_width must be"),
    ("hf", {"ngram_len": 5}, MarkInvalid, "a configuration of SynthID"),
    ("hf-synthid", HF, MarkInvalid, "a configuration of green lists"),
    ("hf-synthid", {"keys": []}, KeyUnusable, "a list of whole numbers"),
    ("hf-synthid", {"keys": [KEY, 0.5]}, KeyUnusable, "whole numbers of 64 bits"),
    ("hf-synthid", {"ngram_len": None}, MarkInvalid, "has no 'ngram_len'"),
    ("hf-synthid", {"sampling_table_size": 65537}, MarkInvalid, "power of two"),
    ("vllm", {"key": None}, KeyUnusable, "'key', is missing"),
    ("vllm", {"key": 2**64}, KeyUnusable, "64 bits"),
    ("vllm", {"algorithm": "synthid"}, MarkInvalid, "'synthid', which is not read"),
    ("vllm", {"algorithm": "sbw"}, MarkInvalid, "sbw_scheme 'selfhash', which is not read"),
    ("vllm", {"algorithm": "dual_key_gumbel", "prf": "hmac_sha256"}, MarkInvalid, "other than philox"),
    ("vllm", {"context_width": 65}, MarkInvalid, "window must be a whole number from 1 to 64"),
    ("sglang", {"key": "12 34"}, KeyUnusable, "hexadecimal digits"),
    ("sglang", {"key": "f" * 17}, KeyUnusable, "1 to 16"),
    ("sglang", {"key": None, "key_b": "ff"}, KeyUnusable, "'key', is missing"),
    ("sglang", {"mixing_probability": 0.3}, MarkInvalid, "needs a second key"),
    ("textseal", {"watermark_type": "synthid"}, MarkInvalid, "'synthid', which is not read"),
    ("textseal", {"watermark_type": None}, MarkInvalid, "has no 'watermark_type'"),
    ("lm-watermarking", {"gamma": None}, MarkInvalid, "has no 'gamma'"),
    ("lm-watermarking", {"seeding_scheme": "ff-minhash_prf-4-False-987654321123457"}, MarkInvalid, "is not read"),
    ("lm-watermarking", {"seeding_scheme": f"ff-additive_prf-2-False-{KEY}x"}, KeyUnusable, "whole number"),
    ("lm-watermarking", {"hash_key": 3}, KeyUnusable, "not the one in 'hash_key'"),
    ("lm-watermarking", {"select_green_tokens": False}, MarkInvalid, "the last places"),
    ("lm-watermarking", {"use_gpu": True}, MarkInvalid, "drawn on CUDA"),
    ("lm-watermarking", {"vocab_size": 5000}, ProfileMismatch, "vocab_size is 5000, the model has 4096 logits"),
    ("three-bricks", {"method": "openai"}, MarkInvalid, "'openai', which is not read"),
    ("three-bricks", {"seeding": "min"}, MarkInvalid, "a table that each process draws anew"),
    ("three-bricks", {"hash_key": 5}, MarkInvalid, "another factor of the polynomial"),
    ("owmark", {"key": "ab" * 33}, KeyUnusable, "1 to 64 hexadecimal digits"),
    ("owmark", {"key": "abc"}, KeyUnusable, "whole bytes"),
    ("markllm", {"algorithm_name": "EXP"}, MarkInvalid, "'EXP', which is not read"),
    ("markllm", {"f_scheme": "min"}, MarkInvalid, "depends on the key"),
    ("markllm", {"window_scheme": "self"}, MarkInvalid, "'self', which is not read"),
    ("markllm", {"hash_key": KEY + 1}, KeyUnusable, "divides both the key and the vocabulary"),
    ("sbw", {"seeding_scheme": f"ff-additive_prf-4-False-{KEY}"}, MarkInvalid, "seeding_scheme that is not read"),
    ("sbw", {"seeding_scheme": None}, MarkInvalid, "seeding_scheme that is not read"),
    ("hf", {"seeding_scheme": f"ff-additive_prf-4-False-{KEY}"}, MarkInvalid, "which is not read"),
]


@pytest.mark.parametrize(("engine", "change", "kind", "words"), REFUSED)
def test_what_is_not_read_is_refused_in_words_that_keep_the_key(engine, change, kind, words, imported):
    with pytest.raises(kind, match=words) as raised:
        imported(engine, WORKING[engine][0] | change)
    shown = f"{raised.value} {raised.value.hint} {raised.value!r}"
    assert str(KEY) not in shown
    assert str(KEY + 1) not in shown


@pytest.mark.parametrize("raw", ["", "{", "[1]", "{}", f'{{"hashing_key": {KEY}', "3", '{"watermarking_config": null}'])
def test_files_that_hold_no_configuration_are_refused(raw, imported):
    with pytest.raises(MarkInvalid, match=r"c\.json") as raised:
        imported("hf", raw)
    assert str(KEY) not in str(raised.value)


def test_a_broken_yaml_file_is_refused_without_its_line(imported):
    with pytest.raises(MarkInvalid, match="is not YAML") as raised:
        imported("textseal", f"watermark:\n  secret_key: {KEY}: 3\n", name="c.yaml")
    assert str(KEY) not in str(raised.value)


def test_the_part_of_a_larger_file_is_found(imported):
    assert imported("hf", {"transformers_version": "5", "watermarking_config": HF}).mark.scheme.gamma == 0.25
    yaml = f"model: x\nwatermark:\n  secret_key: {KEY}\n  watermark_type: openai\n"
    assert imported("textseal", yaml, name="c.yaml").mark.scheme.name == "textseal/gumbel"
    assert imported("vllm", f"port: 1\nwatermark-config: '{json.dumps(VLLM)}'\n", name="c.yaml").mark.scheme.window == 3


def test_lists_need_the_model_and_its_width(imported, demo):
    with pytest.raises(ProfileMismatch, match="run over the model's logits"):
        imported("hf", HF, tokenizer=demo, width=None)
    with pytest.raises(ProfileMismatch, match="run over the tokenizer's vocabulary"):
        imported("lm-watermarking", LM, tokenizer=None, width=None)
    with pytest.raises(ProfileMismatch, match=f"{demo.size} ids, the logits only 100 columns"):
        imported("vllm", VLLM, width=100)
    with pytest.raises(ProfileMismatch, match="4096 tokens, the model 4160 logits"):
        imported("markllm", KGW, width=4160)
    assert imported("hf", HF, width=4160).mark.scheme.vocabulary == 4160


def test_the_tokenizers_list_is_as_long_as_its_own(demo):
    from watermark.engine_config import Model

    theirs = AutoTokenizer.from_pretrained(demo_model())
    assert Model(demo, None).listed() == len(theirs.get_vocab())


def test_a_mark_without_a_model_is_bound_to_none_and_says_so(imported):
    made = imported("vllm", VLLM, tokenizer=None, width=None)
    assert made.mark.binding is None
    assert any("bound to no tokenizer" in sentence for sentence in made.warnings)


@pytest.mark.parametrize(
    ("engine", "change", "sentence"),
    [
        ("hf", {"hashing_key": None}, "15485863 is the key that the engine comes with"),
        ("hf", {"hashing_key": 15485863}, "who else left it unchanged has the same mark"),
        ("hf", {}, "text it marked on CUDA shows as unmarked"),
        ("hf", {"greenlist_ratio": None}, "defaults are taken: greenlist_ratio 0.25"),
        ("hf-synthid", {"keys": [654, 400, 836, 123]}, "are the documentation's"),
        ("textseal", {"secret_key": 42}, "42 is the key that the engine comes with"),
        ("vllm", {"prf": "hmac_sha256"}, "no released server"),
        ("sglang", {"max_probability": 0.9}, "likelier than max_probability are unmarked"),
    ],
)
def test_what_its_owner_should_know_is_said(engine, change, sentence, imported):
    made = imported(engine, WORKING[engine][0] | change)
    assert any(sentence in said for said in made.warnings), made.warnings
    assert str(KEY) not in repr(made) + " ".join(made.warnings)


def test_a_configuration_on_a_cpu_with_a_key_of_its_own_has_no_warning(imported):
    assert imported("hf", HF | {"device": "cpu"}).warnings == ()


def test_a_configuration_that_others_can_read_is_told(imported, tmp_path, demo):
    imported("vllm", VLLM)
    (tmp_path / "c.json").chmod(0o644)
    made = import_mark(tmp_path / "c.json", "vllm", tokenizer=demo, logits_width=4096)
    assert any("can be read by others" in sentence for sentence in made.warnings)


def test_another_gamma_than_the_profiles_is_named_with_both_values(imported):
    published = imported("hf", HF | {"greenlist_ratio": 0.5}).mark.profile()
    check_against(imported("hf", HF | {"greenlist_ratio": 0.5, "bias": 4}).mark, published)
    with pytest.raises(ProfileMismatch, match="gamma is 0.25 here, needed is 0.5;") as raised:
        check_against(imported("hf", HF).mark, published)
    assert "served under" in raised.value.hint


def test_another_recipe_width_or_tokenizer_than_the_profiles_is_named(imported, demo):
    published = imported("hf", HF).mark.profile()
    with pytest.raises(ProfileMismatch, match="recipe is vllm-gumbel/single version 1 here, needed is hf-kgw/lefthash"):
        check_against(imported("vllm", VLLM).mark, published)
    with pytest.raises(ProfileMismatch, match="logits_width is 4160 here, needed is 4096; vocabulary is 4160 here"):
        check_against(imported("hf", HF, width=4160).mark, published)
    with pytest.raises(ProfileMismatch, match="tokenizer digest is 000000000000… here"):
        check_against(imported("hf", HF, tokenizer=replace(demo, digest="0" * 64)).mark, published)
    with pytest.raises(MarkInvalid, match="not whole"):
        check_against(imported("hf", HF).mark, {"kid": "x"})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Answers of transformers' own generate() under its own configurations, and a control, with the files it saved."""
    folder, count = tmp_path_factory.mktemp("served"), 12
    configs = {
        "hf": WatermarkingConfig(hashing_key=KEY, bias=2.5),
        "hf-synthid": SynthIDTextWatermarkingConfig(ngram_len=3, keys=[KEY + n * n for n in range(30)]),
        "control": None,
    }
    model, theirs = AutoModelForCausalLM.from_pretrained(demo_model()).float().eval(), Tokenizer.load("demo")
    prompts = torch.randint(3, 4000, (count, 4), generator=torch.Generator().manual_seed(2))
    for name, config in configs.items():
        torch.manual_seed(3)
        settings = GenerationConfig(
            do_sample=True, max_new_tokens=60, top_k=0, eos_token_id=None, pad_token_id=0, watermarking_config=config
        )
        with torch.inference_mode():
            rows = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=settings)[:, 4:]
        texts = theirs.texts(rows.tolist())
        lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        if config is not None:
            settings.save_pretrained(folder, config_file_name=f"{name}.json")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hf", "hf-synthid"])
def test_what_transformers_marks_is_found_by_its_own_configuration(engine, served):
    made = wmark(
        "profile", "import", f"{engine}.json", "--from", engine, "--mark", f"{engine}.wmark", "--model", "demo",
        "--profile", f"{engine}.profile.json", cwd=served,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    mark = Watermark.load(served / f"{engine}.wmark")
    mark.check_profile(load_profile(served / f"{engine}.profile.json"))
    assert made.stdout.strip() == mark.key.kid
    found = {}
    for name in (engine, "control"):
        read = wmark("detect", f"{name}.jsonl", "--mark", f"{engine}.wmark", "--json", "--decoys", 99, cwd=served)
        assert read.returncode == 0, read.stderr
        found[name] = json.loads(read.stdout)
    assert found[engine]["log10_p"] < -6
    assert found[engine]["verdict"] == "evidence found"
    assert found["control"]["log10_p"] > -3
    assert found["control"]["verdict"] != "evidence found"
    assert str(KEY) not in made.stdout + made.stderr + (served / f"{engine}.profile.json").read_text()
    assert str(KEY) not in json.dumps(found)


def test_the_command_refuses_and_writes_nothing(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(HF | {"greenlist_ratio": 0}))
    done = wmark("profile", "import", "c.json", "--from", "hf", "--mark", "m.wmark", "--model", "demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "wmark: error: c.json should have a number between 0 and 1 in 'greenlist_ratio', found 0" in done.stderr
    assert not (tmp_path / "m.wmark").exists()


def test_the_command_holds_an_import_to_a_published_profile(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(HF | {"greenlist_ratio": 0.5}))
    (tmp_path / "b.json").write_text(json.dumps(HF))
    importing = ["--from", "hf", "--model", "demo", "--mark"]
    assert (
        wmark("profile", "import", "a.json", *importing, "a.wmark", "--profile", "p.json", cwd=tmp_path).returncode == 0
    )
    done = wmark("profile", "import", "b.json", *importing, "b.wmark", "--against", "p.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "gamma is 0.25 here, needed is 0.5" in done.stderr
    assert not (tmp_path / "b.wmark").exists()


def test_nothing_that_is_logged_holds_the_key(imported, caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        made = imported("hf", HF)
        print(made, made.mark, made.mark.key)
    shown = capsys.readouterr()
    assert str(KEY) not in caplog.text + shown.out + shown.err
    assert KEY.to_bytes(8, "little").hex() not in shown.out + json.dumps(made.mark.profile())


def test_the_page_names_every_recipe_and_every_importer():
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    for name, kind in ENGINES.items():
        assert f"`{name}`" in page
        assert not isinstance(kind.recipe, str) or f"`{kind.recipe}`" in page
    assert [engine for engine in READERS if f"| `{engine}`" not in page and f", `{engine}` |" not in page] == []


def test_the_example_in_the_help_is_a_command(tmp_path):
    shown = " ".join(wmark("profile", "import", "--help", cwd=tmp_path).stdout.split())
    assert "Example: wmark profile import" in shown
    assert all(engine in shown for engine in READERS)
    assert os.listdir(tmp_path) == []
