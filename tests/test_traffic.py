"""Prompts from one's own traffic: deterministic, without repeats, without answers, never from what was marked."""

import json

import pytest

from watermark import Ledger
from watermark.errors import LedgerInvalid, OutputsInvalid
from watermark.probe.traffic import gather_prompts
from watermark.prompts import read_prompts

MARKED = {"kid": "ab" * 8, "applied": True}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(path):
    return [prompt.text for prompt in read_prompts(path)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "prompts.jsonl"


def test_questions_are_taken_and_answers_are_not(tmp_path, out):
    records = [
        {"id": "1", "prompt": "First question?", "text": "An answer."},
        {"messages": [{"role": "system", "content": "You are ours."}, {"role": "user", "content": "Second question?"},
                      {"role": "assistant", "content": "An answer."}, {"role": "user", "content": "And then?"}]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Third question?"}]}]},
        {"messages": [{"role": "assistant", "content": "Hello, I am an answer."}]},
    ]  # fmt: skip
    done = gather_prompts(write(tmp_path / "t.jsonl", records), out)
    assert sorted(texts(out)) == ["First question?", "Second question?", "Third question?"]
    assert (done.read, done.written, done.empty) == (4, 3, 1)
    assert "nswer" not in out.read_text()
    assert "ours." not in out.read_text()


def test_repeats_long_and_broken_prompts_are_left_out(tmp_path, out):
    records = [{"prompt": p} for p in ("Why?", " why? ", "WHY?", "x" * 50, "", "half \ud83d", "How?")]
    done = gather_prompts(write(tmp_path / "t.jsonl", records), out, longest=40)
    assert sorted(t.casefold() for t in texts(out)) == ["how?", "why?"]
    assert (done.repeated, done.overlong, done.empty) == (2, 1, 2)


def test_the_draw_depends_on_the_seed_alone(tmp_path):
    records = [{"prompt": f"question {i}"} for i in range(100)]
    drawn = []
    for name, seed, listed in (("a", 1, records), ("b", 1, records[::-1] + records[:9]), ("c", 2, records)):
        gather_prompts(write(tmp_path / f"{name}.t", listed), tmp_path / name, count=10, seed=seed)
        drawn.append(texts(tmp_path / name))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 10


@pytest.mark.parametrize(
    "record",
    [{"prompt": "q", "text": "a", "meta": {"receipt": MARKED}}, {"prompt": "q", "receipt": MARKED},
     {"prompt": "q", "kid": "ab" * 8}],
)  # fmt: skip
def test_what_was_served_under_a_mark_is_refused_or_left_out(tmp_path, out, record):
    traffic = write(tmp_path / "t.jsonl", [{"prompt": "plain", "meta": {"receipt": None}}, record])
    with pytest.raises(OutputsInvalid, match="line 2: it was served under a mark"):
        gather_prompts(traffic, out)
    assert not out.exists()
    assert gather_prompts(traffic, out, skip_marked=True).marked == 1
    assert texts(out) == ["plain"]


def test_a_ledger_gives_its_unmarked_records(tmp_path, out):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append("1", kid="", receipt={"applied": False}, prompt="an open question", token_ids=[1])
    gather_prompts(path, out)
    assert texts(out) == ["an open question"]
    with Ledger(path) as ledger:
        ledger.append("2", kid="ab" * 8, receipt=MARKED, prompt="a marked question", token_ids=[1])
    with pytest.raises(OutputsInvalid, match="record 1: it was served under a mark"):
        gather_prompts(path, tmp_path / "other")
    path.write_text(path.read_text().replace("open", "shut"))
    with pytest.raises(LedgerInvalid, match="it was changed"):
        gather_prompts(path, tmp_path / "other")


def test_a_hash_only_ledger_holds_no_prompts_and_it_is_said(tmp_path, out):
    with Ledger(tmp_path / "l", mode="hash-only") as ledger:
        ledger.append("1", kid="", receipt={"applied": False}, prompt="q", token_ids=[1])
    with pytest.raises(OutputsInvalid, match="a hash-only ledger keeps none"):
        gather_prompts(tmp_path / "l", out)


BAD = {
    "not JSON": (b'{"prompt": "q"}\n{"prom', "line 2: not a JSON object"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}\n', "line 1: not UTF-8"),
    "a list": (b"[1]\n", "needed a JSON object, found list"),
    "no prompt": (b'{"text": "an answer"}\n', "no prompt in it; needed is 'prompt' or 'messages'"),
    "nothing": (b"", "holds no prompt that can be used"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_traffic_is_refused_in_words(tmp_path, out, name):
    content, says = BAD[name]
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(OutputsInvalid, match=says):
        gather_prompts(tmp_path / "t.jsonl", out)
    assert not out.exists()


def test_a_missing_file_and_an_existing_output_are_refused(tmp_path, out):
    with pytest.raises(OutputsInvalid, match="cannot be read"):
        gather_prompts(tmp_path / "nothing", out)
    out.write_text("mine")
    with pytest.raises(OutputsInvalid, match="exists already"):
        gather_prompts(write(tmp_path / "t", [{"prompt": "q"}]), out)
    assert out.read_text() == "mine"
