"""`wmark probe` and `wmark prompts` as a person meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_endpoint import fake
from test_cli import wmark


@pytest.fixture
def case(tmp_path):
    asked = [json.dumps({"id": f"q{i}", "prompt": f"question {i}"}) for i in range(6)]
    (tmp_path / "ask.jsonl").write_text("\n".join(asked) + "\n")
    return tmp_path


def probe(case, url, *more, **options):
    return wmark("probe", url, "--output", "a.jsonl", "--prompts", "ask.jsonl", *more, cwd=case, **options)


def test_a_session_reads_like_this(case):
    with fake() as server:
        done = probe(case, server.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            "all answered: 6 of 6 answers, 6 made now, from small",
            "spent 6 requests, 54 tokens",
            "answers in a.jsonl, every request in a.jsonl.log.jsonl",
        ]
        again = probe(case, server.url, "--json")
    summary = json.loads(again.stdout)
    assert (summary["made"], summary["answers"], summary["ended"]) == (0, 6, "all answered")


def test_options_reach_the_endpoint(case):
    with fake(models=("a", "b")) as server:
        done = probe(
            case, server.url, "--model", "b", "--api", "completions", "--logprobs", 2, "--samples", 2, "--seed", 5,
            "--temperature", 0.7, "--top-p", 0.9, "--max-new-tokens", 9, "--max-requests", 8, "--consistency", 1,
            "--concurrency", 1, "--rate", 6000, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        sent = server.requests[0]
    assert (sent["model"], sent["logprobs"], sent["temperature"], sent["top_p"]) == ("b", 2, 0.7, 0.9)
    assert (sent["max_tokens"], sent["prompt"]) == (9, "question 0")
    summary = json.loads(done.stdout)
    assert (summary["ended"], summary["answers"], summary["left"]["requests"]) == ("out of requests", 8, 0)
    assert "left in the budget: 0 requests" in done.stderr


def test_failures_are_words_and_exit_codes(case):
    with fake() as server:
        url = server.url
    down = probe(case, url, "--model", "m", "--retries", 0)
    assert down.returncode == 1
    assert down.stderr.startswith("wmark: error: nothing answers at http://127.0.0.1:")
    assert probe(case, url, "--api", "telepathy").returncode == 2
    refused = wmark("probe", "http://u:pw@h/v1", "--output", "b.jsonl", "--model", "m", cwd=case)
    assert refused.returncode == 1
    assert "pw" not in refused.stderr
    broken = case / "a.jsonl.log.jsonl"
    broken.write_text(broken.read_text().replace('"attempt":1', '"attempt":9'))
    assert probe(case, url, "--model", "m").returncode == 3


def test_a_question_without_an_answer_exits_1(case):
    with fake(lambda path, body, n: (500, {}, b"{}") if "5" in body["messages"][0]["content"] else None) as server:
        done = probe(case, server.url, "--retries", 0)
    assert done.returncode == 1
    assert "some unanswered: 5 of 6 answers" in done.stderr
    assert "1 questions got no answer; run the same command again" in done.stderr


def test_the_key_comes_from_the_named_variable(case):
    with fake() as server:
        done = probe(case, server.url, "--api-key-env", "THEIR_KEY", env=os.environ | {"THEIR_KEY": "sk-1"})
        assert done.returncode == 0, done.stderr
        assert server.headers[0]["Authorization"] == "Bearer sk-1"
    assert "sk-1" not in done.stderr + (case / "a.jsonl.log.jsonl").read_text()


def test_ctrl_c_is_said_and_the_run_goes_on(case):
    slow = lambda path, body, number: time.sleep(30 if number > 3 else 0)  # noqa: E731
    with fake(slow) as server:
        command = ["probe", server.url, "--output", "a.jsonl", "--prompts", "ask.jsonl", "--concurrency", "1"]
        run = subprocess.Popen(
            [sys.executable, "-m", "wmark_cli", *command], cwd=case, stderr=subprocess.PIPE, text=True
        )
        while len(server.requests) < 4:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=20)[1]
        assert run.returncode == 130
        assert "interrupted; 3 answers are in a.jsonl" in said
        assert "Traceback" not in said
        server.behave = lambda path, body, number: None
        assert "6 of 6 answers, 3 made now" in probe(case, server.url).stderr


def test_detect_reads_what_probe_wrote(case, tmp_path):
    from tiny import tiny_model

    tiny_model(tmp_path / "model")
    wmark("keygen", "ours.wmark", "--model", "model", cwd=case)
    with fake() as server:
        assert probe(case, server.url, "--samples", 9, "--seed", 1).returncode == 0
    done = wmark("detect", "a.jsonl", "--mark", "ours.wmark", "--json", cwd=case)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["log10_p"] > -6


def test_prompts_are_taken_from_traffic(case):
    records = [{"prompt": f"what about {i % 7}?", "text": "an answer"} for i in range(20)]
    (case / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    done = wmark("prompts", "t.jsonl", "--output", "p.jsonl", "--count", 5, "--json", cwd=case)
    assert done.returncode == 0, done.stderr
    assert "5 prompts written to p.jsonl, from 20 records" in done.stderr
    assert "left out: 13 repeated, 2 surplus" in done.stderr
    assert json.loads(done.stdout)["written"] == 5
    assert len((case / "p.jsonl").read_text().splitlines()) == 5
    again = wmark("prompts", "t.jsonl", "--output", "p.jsonl", cwd=case)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)


def test_a_log_is_verified_with_its_answers_and_one_edited_answer_is_seen(case):
    with fake() as server:
        assert probe(case, server.url).returncode == 0
    done = wmark("verify", "a.jsonl.log.jsonl", "--outputs", "a.jsonl", cwd=case)
    assert done.returncode == 0, done.stderr
    assert "6 requests, chain unbroken" in done.stdout
    answers = case / "a.jsonl"
    answers.write_text(answers.read_text().replace("question 3", "question 4", 1))
    assert wmark("verify", "a.jsonl.log.jsonl", "--outputs", "a.jsonl", cwd=case).returncode == 3


def test_stopping_early_needs_a_mark_and_a_level(case):
    assert probe(case, "http://127.0.0.1:9/v1", "--stop-at", 0.001).returncode == 2
    assert probe(case, "http://127.0.0.1:9/v1", "--stop-at", 2, "--mark", "ours.wmark").returncode == 2


def test_help_has_an_example(case):
    for command in ("probe", "prompts"):
        assert f"Example: wmark {command} " in " ".join(wmark(command, "--help", cwd=case).stdout.split())
