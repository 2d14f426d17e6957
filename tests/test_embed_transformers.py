"""The embedder for transformers: every decoding mode, no state, no leaked key."""

import base64
import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from tiny import WIDTH, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, WatermarkingConfig

from watermark import Embedder, GreenList, Ledger, Output, Tokenizer, Watermark, detect, read_ledger
from watermark.embed.transformers import WatermarkProcessor
from watermark.errors import EmbeddingRefused, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.mark import Binding

SPECIAL = (0, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def mark():
    return make_mark()


OURS, OTHERS = decoy_keys(b"embedder", 2)  # fixed: a beam under an unlucky key repeats itself


def make_mark(**parameters):
    return Watermark(GreenList(**{"delta": 5.0} | parameters), OURS, Binding("x", WIDTH, SPECIAL))


@pytest.fixture
def prompts():
    return torch.randint(3, WIDTH, (4, 6), generator=torch.Generator().manual_seed(1))


def log10_p(mark, sequences, start):
    outputs = [Output(str(i), token_ids=tuple(row[start:].tolist()), prompt="") for i, row in enumerate(sequences)]
    return detect(outputs, mark, tokenizer=None if mark.binding is None else _Silent()).log10_p


class _Silent:
    digest, size, special_ids, source, shareable = "x", WIDTH, SPECIAL, "tiny", False

    def encode(self, texts):
        return [[] for _ in texts]

    def arrays(self, texts):
        return [np.empty(0, dtype=np.uint32) for _ in texts]

    def texts(self, rows):
        return [str(row) for row in rows]

    def pieces(self, ids):
        return [str(i) for i in ids]


MODES = {
    "sampling": {"do_sample": True},
    "low temperature": {"do_sample": True, "temperature": 0.5},
    "top-k": {"do_sample": True, "top_k": 20},
    "top-p": {"do_sample": True, "top_p": 0.8},
    "greedy": {"do_sample": False},
    "beam": {"num_beams": 3, "do_sample": False},
    "beam sampling": {"num_beams": 2, "do_sample": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [1, 2, 4])
def test_every_mode_carries_the_mark_and_no_other_key_sees_it(model, prompts, mode, window):
    mark = make_mark(window=window)
    torch.manual_seed(0)
    served = Embedder(mark).wrap(model.generate)(prompts, max_new_tokens=60, **MODES[mode])
    assert log10_p(mark, served, 6) < -6
    assert log10_p(mark.rekeyed(OTHERS), served, 6) > -4


def test_plain_config_marks_the_same_as_wrap(model, prompts, mark):
    embedder = Embedder(mark)
    torch.manual_seed(0)
    wrapped = embedder.wrap(model.generate)(prompts, do_sample=True, max_new_tokens=40)
    torch.manual_seed(0)
    plain = model.generate(prompts, do_sample=True, max_new_tokens=40, watermarking_config=embedder.config)
    assert torch.equal(wrapped, plain)


def test_assisted_and_prompt_lookup_decoding_carry_the_mark(model, prompts, mark):
    generate = Embedder(mark).wrap(model.generate)
    torch.manual_seed(0)
    assisted = generate(prompts[:1], do_sample=True, max_new_tokens=90, assistant_model=model)
    looked_up = generate(prompts[:1], do_sample=True, max_new_tokens=90, prompt_lookup_num_tokens=3)
    assert log10_p(mark, assisted, 6) < -6
    assert log10_p(mark, looked_up, 6) < -6


def test_processor_runs_after_the_other_processors(model, mark):
    config = GenerationConfig(do_sample=True, top_k=5, temperature=0.7, watermarking_config=Embedder(mark).config)
    config._pad_token_tensor = None
    processors = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    assert isinstance(processors[-1], WatermarkProcessor)
    assert len(processors) > 1


def test_left_padding_changes_no_row(mark):
    processor = WatermarkProcessor(mark)
    ids = torch.randint(3, WIDTH, (1, 7))
    scores = torch.randn(1, WIDTH)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], dim=1)
    assert torch.equal(processor(ids, scores), processor(padded, scores))


def test_batch_equals_its_rows_in_any_order(mark):
    processor = WatermarkProcessor(mark)
    ids, scores = torch.randint(0, WIDTH, (9, 5)), torch.randn(9, WIDTH)
    batch = processor(ids, scores)
    for i in reversed(range(9)):
        assert torch.equal(batch[i : i + 1], processor(ids[i : i + 1], scores[i : i + 1]))


def test_prompt_shorter_than_the_window_is_left_alone():
    processor, scores = WatermarkProcessor(make_mark(window=4)), torch.randn(2, WIDTH)
    assert processor(torch.randint(3, WIDTH, (2, 3)), scores) is scores


def test_padding_inside_the_window_leaves_the_row_alone(mark):
    ids, scores = torch.tensor([[0, 9], [8, 9]]), torch.randn(2, WIDTH)
    tilted = WatermarkProcessor(mark)(ids, scores)
    assert torch.equal(tilted[0], scores[0])
    assert not torch.equal(tilted[1], scores[1])


def test_special_tokens_and_masked_tokens_gain_nothing(mark):
    scores = torch.randn(64, WIDTH)
    scores[:, 50:60] = -torch.inf
    tilted = WatermarkProcessor(mark)(torch.randint(3, WIDTH, (64, 2)), scores)
    assert torch.equal(tilted[:, :3], scores[:, :3])
    assert torch.isneginf(tilted[:, 50:60]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_tilted_alike(mark, dtype):
    ids, scores = torch.randint(3, WIDTH, (3, 2)), torch.zeros(3, WIDTH)
    tilted = WatermarkProcessor(mark)(ids, scores.to(dtype))
    assert tilted.dtype == dtype
    assert torch.equal(tilted > 0, WatermarkProcessor(mark)(ids, scores) > 0)


def test_scores_are_not_changed_in_place(mark):
    ids, scores = torch.randint(3, WIDTH, (3, 2)), torch.randn(3, WIDTH)
    kept = scores.clone()
    WatermarkProcessor(mark)(ids, scores)
    assert torch.equal(scores, kept)


def test_another_vocabulary_is_refused(model, prompts):
    other = Watermark(GreenList(), OTHERS, Binding("x", WIDTH + 1, SPECIAL))
    with pytest.raises(ProfileMismatch, match="400 columns.*401"):
        Embedder(other).wrap(model.generate)(prompts, max_new_tokens=2)


def test_continuous_batching_is_refused_for_wide_windows():
    with pytest.raises(EmbeddingRefused, match="one token, this mark needs 2"):
        WatermarkProcessor(make_mark(window=2)).supports_continuous_batching  # noqa: B018
    assert WatermarkProcessor(make_mark(window=1)).supports_continuous_batching


def test_continuous_batching_keeps_width_one_and_raises_for_width_two(model):
    """transformers drops what does not support it with a warning; ours raises where its list is made."""
    batching = pytest.importorskip("transformers.generation.continuous_batching.cb_logits_processors")
    for window in (1, 2):
        mark = make_mark(window=window)
        config = GenerationConfig(do_sample=True, watermarking_config=Embedder(mark).config)
        processors = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
        if window == 2:
            with pytest.raises(EmbeddingRefused, match="one token, this mark needs 2"):
                batching.ContinuousBatchingLogitsProcessorList(processors)
            continue
        kept = batching.ContinuousBatchingLogitsProcessorList(processors).logits_processor
        last, scores = torch.randint(3, WIDTH, (4,)), torch.randn(4, WIDTH)
        assert torch.equal(kept[-1](last, scores), mark.tilt(scores, last[:, None]))


def test_wrap_refuses_what_it_cannot_mark(model, prompts, mark):
    with pytest.raises(EmbeddingRefused, match="generate_batch"):
        Embedder(mark).wrap(model.generate_batch)
    with pytest.raises(EmbeddingRefused, match="another watermarking_config"):
        Embedder(mark).wrap(model.generate)(prompts, watermarking_config=WatermarkingConfig())


def test_receipts_count_what_can_be_detected(model, prompts, mark):
    embedder = Embedder(mark)
    served = embedder.wrap(model.generate)(prompts, do_sample=True, max_new_tokens=20, eos_token_id=-1)
    assert [receipt.tokens for receipt in embedder.receipts] == [20] * 4  # an end token of -1 never comes
    for receipt, row in zip(embedder.receipts, served, strict=True):
        response = row[6 : 6 + receipt.tokens].tolist()
        windows = [response[i - 2 : i + 1] for i in range(2, len(response))]
        assert receipt.tokens_marked == sum(not set(w) & set(SPECIAL) for w in windows)
        assert receipt.kid == mark.key.kid


@pytest.mark.parametrize("given", [7, [7, 8], torch.tensor(7)])
def test_a_response_ends_at_the_end_token_of_its_call(model, prompts, mark, given):
    embedder, ends = Embedder(mark), {7, 8} if isinstance(given, list) else {7}
    torch.manual_seed(3)
    served = embedder.wrap(model.generate)(prompts, do_sample=True, max_new_tokens=300, eos_token_id=given)
    for receipt, row in zip(embedder.receipts, served[:, 6:].tolist(), strict=True):
        assert receipt.tokens == next((i for i, token in enumerate(row) if token in ends), len(row))
    assert min(receipt.tokens for receipt in embedder.receipts) < served.shape[1] - 6


def test_a_response_too_short_to_mark_says_so(mark):
    receipt = Embedder(mark).receipt([5, 6])
    assert (receipt.applied, receipt.tokens_marked) == (False, 0)
    assert "no token has a full window of 2" in receipt.reason


def test_every_response_is_in_the_ledger(model, folder, prompts, mark, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        embedder = Embedder(mark, ledger=ledger)
        served = embedder.wrap(model.generate, tokenizer=tokenizer)(
            prompts, do_sample=True, max_new_tokens=8, num_return_sequences=2
        )
    records = list(read_ledger(tmp_path / "ledger.jsonl"))
    assert len(records) == len(served) == 8
    for index, record in enumerate(records):
        response = served[index, 6 : 6 + len(record.token_ids)].tolist()
        assert record.token_ids == response
        assert record.prompt == tokenizer.decode(prompts[index // 2])
        assert record.receipt == dataclasses.asdict(embedder.receipts[index])


def test_the_key_reaches_no_config_no_log_and_no_ledger(model, prompts, mark, tmp_path, caplog, capsys):
    secret = mark.key._export()[0]
    with Ledger(tmp_path / "ledger.jsonl") as ledger, caplog.at_level(logging.DEBUG):
        embedder = Embedder(mark, ledger=ledger)
        embedder.wrap(model.generate)(prompts, max_new_tokens=3)
        config = GenerationConfig(watermarking_config=embedder.config)
        config.save_pretrained(tmp_path / "config")
        embedder.config.to_json_file(tmp_path / "plain.json")
        logging.getLogger().warning("%s %r %s", config, embedder.config, dict(embedder.config))
        print(embedder, embedder.config, vars(embedder), embedder.receipts)
    seen = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    seen += caplog.text.encode() + capsys.readouterr().out.encode()
    saved = json.loads((tmp_path / "config" / "generation_config.json").read_text())
    assert saved["watermarking_config"]["kid"] == mark.key.kid
    for form in (secret, secret.hex().encode(), base64.b64encode(secret), str(list(secret))[1:-1].encode()):
        assert form not in seen


def test_numpy_and_torch_rows_agree_with_the_mark(mark):
    ids, scores = np.random.default_rng(0).integers(3, WIDTH, (5, 2)), torch.randn(5, WIDTH)
    assert np.array_equal(mark.tilt(scores.numpy(), ids), mark.tilt(scores, torch.from_numpy(ids)).numpy())


def test_mark_made_for_the_folder_fits_its_model(folder, model, prompts):
    mark = Watermark.generate(GreenList(), tokenizer=Tokenizer.load(folder), logits_width=WIDTH)
    assert mark.special_ids == SPECIAL
    Embedder(mark).wrap(model.generate)(prompts, max_new_tokens=2)


def test_seeds_draw_different_answers_though_a_generator_hears_32_bits():
    from watermark.embed.answers import batch_seed

    seeds = [batch_seed(seed, first) for seed in range(40) for first in range(0, 4000, 128)]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
