"""Killed at any moment, a run loses nothing and repeats nothing."""

import json
import os
import random
import signal
import time

import pytest
import torch
from tiny import tiny_model

from watermark import Evidence, GreenList, Ledger, Output, Outputs, Tokenizer, Watermark, detect, read_ledger
from watermark.embed.answers import Model, Sampling, write_answers
from watermark.errors import EmbeddingRefused, LedgerInvalid, OutputsInvalid
from watermark.ledger import answer_hash
from watermark.prompts import Prompt

KILLS = 60
PROMPTS = [Prompt(f"p{i}", f"question {i}", ({"role": "user", "content": f"question {i}"},)) for i in range(40)]
SAMPLING = Sampling(max_new_tokens=5, batch=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return Model.load(tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def mark(model):
    return Watermark.generate(GreenList(window=1), tokenizer=Tokenizer.wrap(model.tokenizer))


def killed(run, seconds):
    """Runs `run` in a child and kills it -9 after `seconds`; whether it was still running then."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def serve(model, mark, folder, mode):
    with Ledger(folder / "ledger.jsonl", mode=mode) as ledger:
        write_answers(model, PROMPTS, folder / "answers.jsonl", mark=mark, ledger=ledger, sampling=SAMPLING)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "hash-only"])
def test_generate_killed_at_random_moments_completes_without_duplicates(model, mark, tmp_path, mode):
    serve(model, mark, tmp_path_once(tmp_path), mode)  # warm, so that a child starts at once
    chance, kills, rounds = random.Random(7), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"{mode}{rounds}"
        folder.mkdir()
        rounds += 1
        while killed(lambda folder=folder: serve(model, mark, folder, mode), chance.uniform(0.001, 0.15)):
            kills += 1
            if (folder / "ledger.jsonl").exists() and (folder / "ledger.jsonl").stat().st_size:
                verified_or_headless(folder / "ledger.jsonl")
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        records = list(read_ledger(folder / "ledger.jsonl"))
        assert [a["id"] for a in answers] == [p.id for p in PROMPTS]
        assert sorted(r.id for r in records) == sorted(p.id for p in PROMPTS)
        served = {a["id"]: a["meta"]["token_ids"] for a in answers}
        prompts = {p.id: p.text for p in PROMPTS}
        for record in records:
            assert record.answer_hash == answer_hash(record.salt, prompts[record.id], served[record.id])
    assert kills >= KILLS


def tmp_path_once(tmp_path):
    folder = tmp_path / "warm"
    folder.mkdir()
    return folder


def verified_or_headless(path):
    """A ledger killed before its first line was whole has no header yet; any other verifies."""
    if b"\n" in path.read_bytes():
        list(read_ledger(path))


@pytest.mark.slow
def test_detect_killed_at_random_moments_leaves_whole_evidence_or_none(mark, tmp_path):
    chance = random.Random(3)
    rng = torch.Generator().manual_seed(0)
    outputs = [
        Output(str(i), token_ids=tuple(torch.randint(3, 400, (40,), generator=rng).tolist())) for i in range(100)
    ]
    path, found = tmp_path / "evidence.json", detect(outputs, mark, decoys=99)

    def run():
        detect(outputs, mark, decoys=99).save(path)

    run()
    first = json.loads(path.read_text())
    kills = 0
    while kills < KILLS:
        kills += killed(run, chance.uniform(0.001, 0.12))
        stored = Evidence.load(path)
        assert (stored.green, stored.cells, stored.decoys) == (found.green, found.cells, found.decoys)
    run()
    again = json.loads(path.read_text())
    for name in ("created", "digest"):
        first.pop(name), again.pop(name)
    assert first == again


def test_a_run_goes_on_where_it_stopped(model, mark, tmp_path):
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    assert write_answers(model, PROMPTS, once, mark=mark, sampling=SAMPLING) == 40
    assert write_answers(model, PROMPTS[:10], twice, mark=mark, sampling=SAMPLING) == 10
    assert write_answers(model, PROMPTS, twice, mark=mark, sampling=SAMPLING) == 30
    assert write_answers(model, PROMPTS, twice, mark=mark, sampling=SAMPLING) == 0
    assert once.read_bytes() == twice.read_bytes()


def test_a_cut_line_is_answered_again(model, mark, tmp_path):
    path = tmp_path / "answers.jsonl"
    write_answers(model, PROMPTS[:6], path, mark=mark, sampling=SAMPLING)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    write_answers(model, PROMPTS[:6], path, mark=mark, sampling=SAMPLING)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [p.id for p in PROMPTS[:6]]


def test_answers_made_before_the_ledger_are_recorded_later(model, mark, tmp_path):
    write_answers(model, PROMPTS[:6], tmp_path / "a.jsonl", mark=mark, sampling=SAMPLING)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        write_answers(model, PROMPTS[:8], tmp_path / "a.jsonl", mark=mark, ledger=ledger, sampling=SAMPLING)
    assert [r.id for r in read_ledger(tmp_path / "ledger.jsonl")] == [p.id for p in PROMPTS[:8]]


def test_another_mark_does_not_mix_into_a_run(model, mark, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(model, PROMPTS[:2], path, mark=mark, sampling=SAMPLING)
    kept = path.read_bytes()
    other = Watermark.generate(GreenList(window=1), tokenizer=Tokenizer.wrap(model.tokenizer))
    for wrong in (other, None):
        with pytest.raises(EmbeddingRefused, match=mark.key.kid):
            write_answers(model, PROMPTS[:4], path, mark=wrong, sampling=SAMPLING)
    assert path.read_bytes() == kept


def test_another_prompt_under_a_known_id_is_refused(model, mark, tmp_path):
    path = tmp_path / "a.jsonl"
    write_answers(model, PROMPTS[:2], path, mark=mark, sampling=SAMPLING)
    kept = path.read_bytes()
    changed = [Prompt("p1", "something else", ({"role": "user", "content": "something else"},))]
    with pytest.raises(OutputsInvalid, match="another prompt under the id 'p1'"):
        write_answers(model, changed, path, mark=mark, sampling=SAMPLING)
    assert path.read_bytes() == kept


def test_a_file_of_something_else_is_left_as_it_is(model, mark, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\nand more\n")
    with pytest.raises(OutputsInvalid, match="line 1: not an answer"):
        write_answers(model, PROMPTS[:2], path, mark=mark, sampling=SAMPLING)
    assert path.read_text() == "my notes\nand more\n"


def test_a_full_disk_loses_nothing(model, mark, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write_answers(model, PROMPTS[:2], path, mark=mark, sampling=SAMPLING)
    kept = path.read_bytes()
    real = os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_answers(model, PROMPTS[:6], path, mark=mark, sampling=SAMPLING)
    monkeypatch.setattr(os, "fsync", real)
    assert path.read_bytes() == kept
    assert write_answers(model, PROMPTS[:6], path, mark=mark, sampling=SAMPLING) == 4


def test_two_runs_do_not_write_one_file(model, mark, tmp_path):
    with Ledger(tmp_path / "ledger.jsonl"), pytest.raises(LedgerInvalid, match="another process"):
        Ledger(tmp_path / "ledger.jsonl")


def test_marked_answers_are_found_and_unmarked_are_not(model, mark, tmp_path):
    sampling = Sampling(max_new_tokens=60, batch=40)
    for name, used in (("marked", mark), ("plain", None)):
        write_answers(model, PROMPTS, tmp_path / f"{name}.jsonl", mark=used, sampling=sampling)
    tokenizer = Tokenizer.wrap(model.tokenizer)
    assert detect(Outputs(tmp_path / "marked.jsonl"), mark, tokenizer=tokenizer).verdict == "evidence found"
    assert detect(Outputs(tmp_path / "plain.jsonl"), mark, tokenizer=tokenizer).log10_p > -6
