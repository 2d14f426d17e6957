"""Adapters under faked engines: each row gets its request's mark, others keep their bits, doubts end in a refusal."""

import abc
import importlib.util
import os
import random
import sys
import types
from dataclasses import replace
from pathlib import Path

import engines_faked as fake
import numpy as np
import pytest
import torch
from tiny import WIDTH, tiny_tokenizer

from watermark import check_adapter, detect
from watermark.accounts import Accounts
from watermark.conformance import Answer
from watermark.embed import llama_cpp as llama
from watermark.embed import mlx as mlx_adapter
from watermark.embed import served, sglang, tensorrt_llm, vllm
from watermark.embed.rows import tilt_row, tilt_rows
from watermark.embed.served import Served
from watermark.errors import EmbeddingRefused, MarkInvalid, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.outputs import Output
from watermark.schemes import GreenList, Gumbel
from watermark.schemes.engines.sglang import SglangGumbel

SPECIAL = (0, 1, 2)
KEYS = list(decoy_keys(b"adapters", 4))


def make_mark(number=0, *, window=2, width=WIDTH):
    return Watermark(GreenList(window, 0.25, 3.0), KEYS[number], Binding("x", width, SPECIAL))


@pytest.fixture
def mark():
    return make_mark()


def serve(monkeypatch, *marks, default="none", unmarked=True):
    """The marks a server would have read from its environment."""
    held = Served({mark.key.kid: mark for mark in marks}, default, unmarked)
    monkeypatch.setattr(Served, "from_environment", classmethod(lambda cls: held))
    return held


def asking(mark, temperature=1.0):
    return fake.SamplingParams(temperature, None if mark is None else {"wm_kid": mark.key.kid})


def logits_of(rows, width=WIDTH, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


# the function under all adapters


def test_rows_that_are_too_short_keep_their_bits(mark):
    logits = logits_of(3)
    tilted = tilt_rows(mark, [[5], [], [5, 6]], logits)
    assert torch.equal(tilted[:2], logits[:2])
    assert torch.equal(tilted[2:], mark.tilt(logits[2:], torch.tensor([[5, 6]])))


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.7])
def test_the_tilt_is_one_of_what_is_sampled(mark, temperature):
    logits = logits_of(1).numpy()
    given = tilt_rows(mark, [[5, 6]], logits, temperature=temperature)
    green = mark.tilt(logits, [[5, 6]]) > logits
    gained = (given - logits)[0] / temperature
    assert np.allclose(gained[green[0]], 3.0, atol=1e-4)
    assert np.array_equal(given[~green], logits[~green])
    as_tensor = tilt_rows(mark, [[5, 6]], torch.from_numpy(logits), temperature=temperature)
    assert np.array_equal(as_tensor.numpy(), given)


def test_greedy_decoding_is_tilted_by_delta(mark):
    logits = logits_of(1)
    assert torch.equal(tilt_rows(mark, [[5, 6]], logits, temperature=0.0), tilt_rows(mark, [[5, 6]], logits))


# which mark a request gets


def test_a_server_reads_its_marks_from_the_environment(mark, tmp_path, monkeypatch):
    other = make_mark(1)
    (tmp_path / "more").mkdir()
    mark.save(tmp_path / "a.wmark")
    other.save(tmp_path / "more" / "b.wmark")
    monkeypatch.setenv(served.MARKS, os.pathsep.join([str(tmp_path / "a.wmark"), str(tmp_path / "more")]))
    read = Served.from_environment()
    assert {kid: m.key for kid, m in read.marks.items()} == {mark.key.kid: mark.key, other.key.kid: other.key}
    assert read.asked({"wm_kid": other.key.kid}).key == other.key


def test_accounts_are_drawn_from_a_mark_with_accounts(mark, tmp_path, monkeypatch):
    shared = replace(mark, accounts=Accounts())
    shared.save(tmp_path / "a.wmark")
    monkeypatch.setenv(served.MARKS, str(tmp_path / "a.wmark"))
    with pytest.raises(EmbeddingRefused, match="has accounts"):
        Served.from_environment()
    (tmp_path / "accounts.txt").write_text("anna\nbert\n")
    monkeypatch.setenv(served.ACCOUNTS, str(tmp_path / "accounts.txt"))
    assert set(Served.from_environment().marks) == {shared.account(name).key.kid for name in ("anna", "bert")}


@pytest.mark.parametrize(
    ("setting", "said"),
    [({}, "not set"), ({served.MARKS: "/nowhere"}, "no watermark file"), ({served.UNMARKED: "maybe"}, "'refuse' or")],
)
def test_a_server_without_a_usable_mark_does_not_start(setting, said, monkeypatch):
    for name in (served.MARKS, served.ACCOUNTS, served.DEFAULT, served.UNMARKED):
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((EmbeddingRefused, MarkInvalid), match=said):
        Served.from_environment()


def test_a_folder_without_marks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(served.MARKS, str(tmp_path))
    with pytest.raises(MarkInvalid, match="holds no"):
        Served.from_environment()


def test_kernels_are_prepared_once_for_all_accounts_before_the_first_answer(mark, monkeypatch, schedule):
    asked = []
    monkeypatch.setattr("watermark.ongpu.prepare", lambda mark, width: asked.append((mark.scheme, width)))
    shared, other = replace(mark, accounts=Accounts()), make_mark(3, window=3)
    serve(monkeypatch, *(shared.account(name) for name in "abc"), other)
    vllm.WatermarkLogitsProcessor(fake.config(WIDTH), "cpu", False)
    assert asked == [(mark.scheme, WIDTH), (other.scheme, WIDTH)]
    sglang.WatermarkLogitProcessor()._check_width(WIDTH)
    assert asked == 2 * [(mark.scheme, WIDTH), (other.scheme, WIDTH)]


@pytest.mark.parametrize("asked", [None, {}, {"wm_kid": "none"}])
def test_requests_without_a_mark_need_the_operators_leave(mark, asked):
    with pytest.raises(EmbeddingRefused, match="not served here"):
        Served({mark.key.kid: mark}).asked(asked)
    assert Served({mark.key.kid: mark}, unmarked=True).asked(asked) is None


def test_a_default_marks_those_who_name_none_and_not_those_who_opt_out(mark):
    held = Served({mark.key.kid: mark}, mark.key.kid)
    assert held.asked(None) is mark
    assert held.asked({"other": 1}) is mark
    with pytest.raises(EmbeddingRefused, match="not served here"):
        held.asked({"wm_kid": "none"})
    with pytest.raises(EmbeddingRefused, match="the kid of none"):
        Served({mark.key.kid: mark}, "f" * 16)


@pytest.mark.parametrize("asked", [{"wm_kid": "f" * 16}, {"wm_kid": 3}, {"wm_kid": ["a"]}, {"wm_kdi": "a"}])
def test_unknown_kids_and_arguments_are_refused(mark, asked):
    with pytest.raises(EmbeddingRefused):
        Served({mark.key.kid: mark}, mark.key.kid, True).asked(asked)


def test_a_mark_of_another_width_tokenizer_or_way_does_not_serve(mark, tmp_path):
    held = Served({mark.key.kid: mark})
    held.check_model(width=WIDTH)
    with pytest.raises(ProfileMismatch, match="401 columns"):
        held.check_model(width=WIDTH + 1)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ProfileMismatch, match="not that of mark"):
        held.check_model(width=WIDTH, tokenizer=tmp_path)
    native = Watermark(SglangGumbel(), KEYS[0], mark.binding)
    with pytest.raises(EmbeddingRefused, match="own way to sample"):
        Served({native.key.kid: native}).check_model(width=WIDTH)


# vLLM


def test_vllm_refuses_to_start_on_another_vocabulary(mark, monkeypatch):
    serve(monkeypatch, mark)
    with pytest.raises(ProfileMismatch):
        vllm.WatermarkLogitsProcessor(fake.config(WIDTH + 1), "cpu", False)


def test_vllm_refuses_a_request_with_an_error_that_becomes_http_400(mark, monkeypatch):
    serve(monkeypatch, mark, unmarked=False)
    vllm.WatermarkLogitsProcessor.validate_params(asking(mark))
    for said in (None, {"wm_kid": "none"}, {"wm_kid": "f" * 16}):
        with pytest.raises(ValueError, match="not served here"):
            vllm.WatermarkLogitsProcessor.validate_params(fake.SamplingParams(extra_args=said))


@pytest.mark.parametrize("seed", range(4))
def test_vllm_v1_marks_each_row_as_its_request_wants_while_the_batch_moves(monkeypatch, seed):
    """Requests of two accounts and of none come, leave, slide and swap; every step is compared with the mark itself."""
    marks = [make_mark(0, window=2), make_mark(1, window=4), None]
    serve(monkeypatch, *marks[:2])
    processor = vllm.WatermarkLogitsProcessor(fake.config(WIDTH), "cpu", False)
    rng, batch, marked = random.Random(seed), fake.PersistentBatch(), 0
    for step in range(60):
        leave = [row for row in range(len(batch.rows)) if rng.random() < 0.15]
        come = [
            fake.Request(asking(rng.choice(marks), rng.choice([0.0, 0.7, 1.0])), rng.choices(range(3, WIDTH), k=k))
            for k in (rng.choices(range(6), k=2) if rng.random() < 0.4 else [])
        ]
        swap = rng.random() < 0.3
        processor.update_state(batch.change(leave, come, swap) if leave or come or swap else None)
        logits = logits_of(len(batch.rows), seed=step)
        given = processor.apply(logits.clone())
        for row, request in enumerate(batch.rows):
            mark = processor._served.asked(request.params.extra_args)
            alone = logits[row]
            if mark is not None:
                alone = tilt_row(mark, request.ids, logits[row], temperature=request.params.temperature)
                marked += not torch.equal(alone, logits[row])
            assert torch.equal(given[row], alone)
            request.output.append(rng.randrange(3, WIDTH))
    assert marked > 40


def test_vllm_v1_knows_the_answer_where_the_prompt_is_not_told(mark, monkeypatch):
    serve(monkeypatch, mark)
    processor = vllm.WatermarkLogitsProcessor(fake.config(WIDTH), "cpu", False)
    output = [5, 6]
    processor.update_state(fake.BatchUpdate(1, [], [(0, asking(mark), None, output)], []))
    logits = logits_of(1)
    assert torch.equal(processor.apply(logits.clone()), tilt_rows(mark, [[5, 6]], logits))


def test_vllm_v1_stops_rather_than_mark_by_a_token_it_was_not_told(mark, monkeypatch):
    serve(monkeypatch, mark)
    processor = vllm.WatermarkLogitsProcessor(fake.config(WIDTH), "cpu", False)
    processor.update_state(fake.BatchUpdate(1, [], [(0, asking(mark), [4, 5], [6, -1])], []))
    with pytest.raises(EmbeddingRefused, match="has not told"):
        processor.apply(logits_of(1))


@pytest.mark.parametrize("drafting", [False, True])
def test_vllm_v2_marks_each_row_as_its_slot_wants_also_under_drafts(monkeypatch, drafting):
    marks = [make_mark(0, window=2), make_mark(1, window=4), None]
    serve(monkeypatch, *marks[:2])
    slots, rng, marked = fake.Slots(6, 64), random.Random(5), 0
    processor = vllm.WatermarkLogitsProcessor(fake.config(WIDTH), slots)
    for step in range(40):
        for slot in [slot for slot in slots.held if rng.random() < 0.2 or len(slots.held[slot].ids) > 50]:
            slots.remove(slot)
        while slots.free and rng.random() < 0.6:
            request = fake.Request(asking(rng.choice(marks), 0.7), rng.choices(range(3, WIDTH), k=rng.randrange(1, 6)))
            slot = slots.add(request)
            assert processor.add_request(slot, request.params) == (request.params.extra_args is not None)
        drafts = {slot: rng.choices(range(3, WIDTH), k=rng.randrange(4)) if drafting else [] for slot in slots.held}
        batch = [(slot, slots.held[slot], drafts[slot]) for slot in rng.sample(list(slots.held), len(slots.held))]
        if not batch:
            continue
        ctx, before = fake.context(batch)
        logits = logits_of(len(before), seed=step)
        given = processor.apply(logits.clone(), ctx)
        for row, (ids, slot) in enumerate(zip(before, ctx.expanded_idx_mapping.tolist(), strict=True)):
            mark = processor._served.asked(slots.held[slot].params.extra_args)
            alone = logits[row] if mark is None else tilt_row(mark, ids, logits[row], temperature=0.7)
            marked += not torch.equal(alone, logits[row])
            assert torch.equal(given[row], alone)
        for slot in slots.held:
            slots.held[slot].output.append(rng.randrange(3, WIDTH))
            slots.tell(slot)
    assert marked > 40


def fake_vllm(monkeypatch, *homes):
    """A package `vllm` whose modules have the two abstract classes, and the adapter imported beside it."""
    v1 = type("V1", (abc.ABC,), {"__init__": abc.abstractmethod(lambda self, a, b, c: None),
                                 "apply": abc.abstractmethod(lambda self, logits: None),
                                 "is_argmax_invariant": abc.abstractmethod(lambda self: None),
                                 "update_state": abc.abstractmethod(lambda self, update: None)})  # fmt: skip
    v2 = type("V2", (abc.ABC,), {"apply": abc.abstractmethod(lambda self, logits, ctx: None)})
    package = types.ModuleType("vllm")
    package.__spec__ = importlib.util.spec_from_loader("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", package)
    for name, kind in zip(("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"), (v1, v2)):
        for parent in (name.rsplit(".", depth)[0] for depth in range(1, name.count("."))):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        module = types.ModuleType(name)
        if kind is v1 or "v2" in homes:
            module.LogitsProcessor = kind
            monkeypatch.setitem(sys.modules, name, module)
        else:
            monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("adapter_beside_vllm", vllm.__file__)
    adapter = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, adapter)
    spec.loader.exec_module(adapter)
    return adapter.WatermarkLogitsProcessor, v1, v2


def test_vllm_takes_one_class_for_both_of_its_interfaces(mark, monkeypatch):
    serve(monkeypatch, mark)
    adapter, v1, v2 = fake_vllm(monkeypatch, "v2")
    assert issubclass(adapter, v1)
    assert issubclass(adapter, v2)
    assert adapter(fake.config(WIDTH), "cpu", False).is_argmax_invariant() is False
    assert adapter(fake.config(WIDTH), fake.Slots(2, 8)).add_request(0, asking(mark))


def test_vllm_of_an_older_version_has_the_first_interface_alone(mark, monkeypatch):
    serve(monkeypatch, mark)
    adapter, v1, v2 = fake_vllm(monkeypatch)
    assert issubclass(adapter, v1)
    assert not issubclass(adapter, v2)
    adapter(fake.config(WIDTH), "cpu", False)


def test_vllm_takes_a_client_that_switches_watermarks_off_at_its_word(mark, monkeypatch):
    """Its own field for native marks; beam search, which reads clean log-probabilities, sets it too."""
    params = fake.SamplingParams(watermarking=False)
    serve(monkeypatch, mark, default=mark.key.kid, unmarked=False)
    with pytest.raises(ValueError, match="not served here"):
        vllm.WatermarkLogitsProcessor.validate_params(params)
    serve(monkeypatch, mark, default=mark.key.kid)
    assert not vllm.WatermarkLogitsProcessor(fake.config(WIDTH), fake.Slots(2, 8)).add_request(0, params)


def test_no_entry_point_can_load_the_adapter_by_itself():
    import tomllib

    described = tomllib.loads((Path(vllm.__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert "vllm.logits_processors" not in described["project"].get("entry-points", {})


# llama-cpp-python


def test_llama_cpp_marks_by_the_ids_so_far(mark):
    llm, row = fake.Llama(WIDTH), logits_of(1)[0].numpy()
    given = llm.logits([9, 5, 6], row, llama.logits_processors(mark, llm))
    assert np.array_equal(given, tilt_row(mark, [5, 6], row))
    warm = llm.logits([9, 5, 6], row, llama.logits_processors(mark, llm, temperature=0.8))
    assert np.array_equal(warm, tilt_row(mark, [5, 6], row, temperature=0.8))


def test_llama_cpp_keeps_the_mark_when_a_call_has_a_logit_bias(mark):
    llm, row = fake.Llama(WIDTH), logits_of(1)[0].numpy()
    assert np.array_equal(llm.logits([5, 6], row, [lambda i, s: s + 1], logit_bias=True), row)  # the trap
    processors = llama.logits_processors(mark, llm)
    assert np.array_equal(llm.logits([5, 6], row, processors, logit_bias=True), tilt_row(mark, [5, 6], row))
    assert len(processors) == 1


def test_llama_cpp_ends_an_answer_that_cannot_be_marked(mark, capsys):
    llm, row = fake.Llama(WIDTH), logits_of(1)[0].numpy()
    (processor,) = llama.logits_processors(mark, llm)
    given = processor(np.array([5, 6]), row[:-1])
    assert given.argmax() == llm.token_eos()
    assert np.isneginf(np.delete(given, llm.token_eos())).all()
    assert "ProfileMismatch" in capsys.readouterr().err


def test_llama_cpp_refuses_other_vocabularies_and_drafts(mark):
    with pytest.raises(ProfileMismatch):
        llama.logits_processors(mark, fake.Llama(WIDTH + 1))
    with pytest.raises(EmbeddingRefused, match="a draft model"):
        llama.logits_processors(mark, fake.Llama(WIDTH, draft_model=object()))


# MLX


@pytest.fixture
def mx(monkeypatch):
    core = fake.mlx_core()
    monkeypatch.setitem(sys.modules, "mlx", types.SimpleNamespace(core=core))
    monkeypatch.setitem(sys.modules, "mlx.core", core)
    return core


def test_mlx_keeps_the_precision_of_the_logits(mark, mx):
    row = logits_of(1).numpy()
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        given = mlx_adapter.WatermarkLogitsProcessor(mark)(mx.array([9, 5, 6]), mx.array(row).astype(dtype))
        assert given.dtype == dtype
        held = np.array(mx.array(row).astype(dtype).astype(mx.float32))
        assert np.array_equal(given.values > held, mark.tilt(row, [[5, 6]]) > row)


def test_mlx_refuses_another_vocabulary(mark, mx):
    with pytest.raises(ProfileMismatch):
        mlx_adapter.WatermarkLogitsProcessor(mark)(mx.array([5, 6]), mx.array(np.zeros((1, WIDTH + 1), np.float32)))


# SGLang


@pytest.fixture
def schedule(monkeypatch):
    """sglang.srt.runtime_context with the overlap scheduler off."""
    said = types.SimpleNamespace(disable_overlap_schedule=True)
    context = types.SimpleNamespace(get_schedule=lambda: said)
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", context)
    return said


def sglang_params(mark, *rest):
    return {**({} if mark is None else {"wm_kid": mark.key.kid}), "__req__": fake.Req.of(*rest)}


def test_sglang_marks_the_rows_that_ask_for_it(monkeypatch, schedule):
    one, two = make_mark(0), make_mark(1, window=3)
    serve(monkeypatch, one, two)
    params = [
        sglang_params(one, "a", [4, 5], []),
        None,
        sglang_params(two, "b", [4, 5], [6, 7], 0.5),
        sglang_params(None, "c", [4, 5], [6]),
    ]
    logits = logits_of(4)
    given = logits.clone()
    fake.sglang_apply(given, sglang.WatermarkLogitProcessor(), [0, 2, 3], params)
    assert torch.equal(given[0], tilt_row(one, [4, 5], logits[0]))
    assert torch.equal(given[2], tilt_row(two, [5, 6, 7], logits[2], temperature=0.5))
    assert torch.equal(given[[1, 3]], logits[[1, 3]])


def test_sglang_refuses_where_the_last_id_is_not_known(mark, monkeypatch, schedule):
    serve(monkeypatch, mark)
    processor = sglang.WatermarkLogitProcessor()
    with pytest.raises(EmbeddingRefused, match="without custom_params"):
        processor(logits_of(1), [None])
    same = sglang_params(mark, "a", [4, 5], [])
    with pytest.raises(EmbeddingRefused, match="speculation"):
        processor(logits_of(2), [same, same])
    schedule.disable_overlap_schedule = False
    with pytest.raises(EmbeddingRefused, match="overlap scheduler"):
        sglang.WatermarkLogitProcessor()


def test_sglang_native_key_is_the_one_that_detect_reads():
    """The engine's own sampler, under the key of the request's field, draws text that the mark finds."""
    for native in (Watermark(SglangGumbel(2), KEYS[0]), Watermark(SglangGumbel(2), KEYS[1].subkey(tenant="anna"))):
        fields = sglang.request_fields(native)["watermark"]
        served_key = type(KEYS[0]).of_engine([int(fields["key"], 16)])
        rng, ids = np.random.default_rng(0), [4, 5]
        for _ in range(300):
            row = rng.standard_normal((1, 200)).astype(np.float32)
            ids.append(int(SglangGumbel(fields["context_window"]).draw(row, [ids[-2:]], served_key)[0]))
        outputs = [Output("a", token_ids=tuple(ids), prompt_token_ids=())]
        assert detect(outputs, native, decoys=99).log10_p < -6
        assert detect(outputs, native.rekeyed(KEYS[2]), decoys=99).log10_p > -4
        assert len(fields["key"]) == 16


def test_sglang_native_needs_a_mark_of_its_own_scheme(mark):
    with pytest.raises(EmbeddingRefused, match="sglang-gumbel/single"):
        sglang.request_fields(mark)


# TensorRT-LLM


def test_tensorrt_llm_marks_every_beam_in_place(mark, monkeypatch):
    serve(monkeypatch, mark)
    logits = logits_of(2)[None]
    kept = logits.clone()
    processor = tensorrt_llm.WatermarkLogitsProcessor(mark.key.kid, temperature=0.5)
    assert processor(1, logits, [[4, 5, 6], [4, 5, 7]], None, None) is None
    assert torch.equal(logits[0, 0], tilt_row(mark, [5, 6], kept[0, 0], temperature=0.5))
    assert torch.equal(logits[0, 1], tilt_row(mark, [5, 7], kept[0, 1], temperature=0.5))


def test_tensorrt_llm_carries_a_kid_and_no_key(mark, monkeypatch):
    serve(monkeypatch, mark)
    processor = tensorrt_llm.WatermarkLogitsProcessor(mark.key.kid)
    assert set(vars(processor)) == {"_kid", "_temperature"}
    with pytest.raises(EmbeddingRefused, match="not served here"):
        tensorrt_llm.WatermarkLogitsProcessor("f" * 16)


# all of them on the golden vectors


def through_vllm(mark, histories, logits, precision, *, v2=False):
    states = fake.Slots(len(logits), 64)
    processor = vllm.WatermarkLogitsProcessor(fake.config(logits.shape[1]), *((states,) if v2 else ("cpu", False)))
    requests = [fake.Request(asking(mark), ids[:2], ids[2:]) for ids in histories]
    rows = torch.from_numpy(logits.copy())
    if not v2:
        added = [(row, it.params, it.prompt, it.output) for row, it in enumerate(requests)]
        processor.update_state(fake.BatchUpdate(len(rows), [], added, []))
        return processor.apply(rows).numpy()
    batch = [(states.add(it), it, []) for it in requests if it.ids]
    for slot, it, _ in batch:
        processor.add_request(slot, it.params)
    told = [row for row, it in enumerate(requests) if it.ids]
    rows[told] = processor.apply(rows[told], fake.context(batch)[0])
    return rows.numpy()


def through_vllm_v2(*given):
    return through_vllm(*given, v2=True)


def through_llama(mark, histories, logits, precision):
    llm = fake.Llama(logits.shape[1])
    return np.stack(
        [llm.logits(ids, row, llama.logits_processors(mark, llm)) for ids, row in zip(histories, logits, strict=True)]
    )


def through_mlx(mark, histories, logits, precision):
    processor, core = mlx_adapter.WatermarkLogitsProcessor(mark), fake.mlx_core()
    rows = zip(histories, logits, strict=True)
    return np.concatenate(
        [processor(core.array(np.array(h, int)), core.array(row[None]).astype(precision)).values for h, row in rows]
    )


def through_sglang(mark, histories, logits, precision):
    params = [sglang_params(mark, str(n), ids[:2], ids[2:]) for n, ids in enumerate(histories)]
    rows = torch.from_numpy(logits.copy()).to(getattr(torch, precision))
    fake.sglang_apply(rows, sglang.WatermarkLogitProcessor(), range(len(rows)), params)
    return rows.float().numpy()


def through_tensorrt(mark, histories, logits, precision):
    rows = torch.from_numpy(logits.copy()).to(getattr(torch, precision))
    for n, ids in enumerate(histories):
        tensorrt_llm.WatermarkLogitsProcessor(mark.key.kid)(n, rows[n][None, None], [ids], None, None)
    return rows.float().numpy()


HALF = ("float32", "bfloat16", "float16")
THROUGH = {
    "vllm v1": (through_vllm, ("float32",)),
    "vllm v2": (through_vllm_v2, ("float32",)),
    "llama.cpp": (through_llama, ("float32",)),
    "mlx": (through_mlx, HALF),
    "sglang": (through_sglang, HALF),
    "tensorrt-llm": (through_tensorrt, HALF),
}


@pytest.mark.parametrize("engine", THROUGH)
def test_every_adapter_passes_the_golden_vectors(engine, monkeypatch, mx, schedule):
    through, precisions = THROUGH[engine]

    def one(mark, *rest):
        with monkeypatch.context() as patch:
            serve(patch, mark)
            return through(mark, *rest)

    checked = check_adapter(one, engine=engine, precisions=precisions)
    checked.require()
    assert checked.cells == 48_000 * len(precisions)
    assert "equal to the bit: passed" in str(checked)


@pytest.mark.parametrize("engine", THROUGH)
def test_a_scheme_that_marks_once_is_told_the_whole_answer(engine, monkeypatch, mx, schedule):
    """Row 0's window stood in its text before, in the prompt; row 1's did not."""
    mark = Watermark(Gumbel(2), KEYS[3], Binding("x", WIDTH, SPECIAL))
    serve(monkeypatch, mark)
    histories, logits = [[5, 6, 7, 8, 5, 6], [4, 6, 7, 8, 5, 6]], logits_of(2).numpy()
    given = THROUGH[engine][0](mark, histories, logits, "float32")
    assert np.array_equal(given[0], logits[0])
    assert np.isneginf(given[1]).sum() == WIDTH - len(SPECIAL) - 1


def test_greedy_decoding_is_refused_to_a_scheme_that_stands_in_for_the_sampler(monkeypatch):
    mark = Watermark(Gumbel(2), KEYS[3], Binding("x", WIDTH, SPECIAL))
    serve(monkeypatch, mark)
    vllm.WatermarkLogitsProcessor.validate_params(asking(mark))
    with pytest.raises(ValueError, match="draws nothing"):
        vllm.WatermarkLogitsProcessor.validate_params(asking(mark, temperature=0.0))
    for make in (
        lambda: llama.logits_processors(mark, fake.Llama(WIDTH), temperature=0.0),
        lambda: mlx_adapter.WatermarkLogitsProcessor(mark, temperature=0.0),
        lambda: tilt_row(mark, [5, 6], logits_of(1)[0], temperature=0.0),
    ):
        with pytest.raises(EmbeddingRefused, match="draws nothing"):
            make()


# what the check itself refuses


def shifted(by):
    """An adapter that reads its window `by` ids too early."""
    return lambda mark, histories, logits, precision: tilt_rows(
        mark, [ids[: len(ids) - by] for ids in histories], logits
    )


def test_the_check_sees_an_adapter_that_is_told_each_id_too_late():
    assert check_adapter(shifted(0), engine="mine").passed
    late = check_adapter(shifted(1), engine="mine")
    assert late.differing > 5000
    with pytest.raises(EmbeddingRefused, match="FAILED"):
        late.require()


def test_the_check_sees_marks_that_are_lost_or_reach_the_neighbour(mark):
    """A toy engine: fixed logits, one generator for each request, an adapter on those that are marked."""

    def engine(marks, *, lose=False, leak=False):
        said = []
        for seed, own in enumerate(marks):
            rng, ids = np.random.default_rng(seed), [5, 6]
            used = None if lose else (next(m for m in marks if m is not None) if leak and any(marks) else own)
            for _ in range(80):
                row = rng.standard_normal(WIDTH).astype(np.float32)
                row = row if used is None else tilt_row(used, ids, row)
                ids.append(int((row + rng.gumbel(size=WIDTH)).argmax()))
            said.append(Answer(tuple(ids[2:])))
        return said

    whole = check_adapter(shifted(0), engine="mine", generate=engine, mark=mark)
    assert whole.passed
    assert whole.untouched
    assert whole.log10_p < -6
    assert "unmarked requests untouched: passed" in str(whole)
    lost = check_adapter(shifted(0), engine="mine", generate=lambda marks: engine(marks, lose=True), mark=mark)
    assert not lost.passed
    leaked = check_adapter(shifted(0), engine="mine", generate=lambda marks: engine(marks, leak=True), mark=mark)
    assert leaked.log10_p < -6
    assert "unmarked requests CHANGED: FAILED" in str(leaked)
    with pytest.raises(ValueError, match="needs the mark"):
        check_adapter(shifted(0), engine="mine", generate=engine)


def test_the_vectors_are_those_that_were_published(monkeypatch):
    monkeypatch.setattr("watermark.conformance.GOLDEN", "0" * 64)
    with pytest.raises(EmbeddingRefused, match="golden vectors"):
        check_adapter(shifted(0), engine="mine")
