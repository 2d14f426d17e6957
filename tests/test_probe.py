"""Asking a suspect: what is asked, kept and logged, and every way in which an endpoint can misbehave."""

import json
import os
import random
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from fake_endpoint import fake, good

from watermark import Outputs
from watermark.errors import LedgerInvalid, OutputsInvalid, RunInterrupted
from watermark.probe import (
    Draw,
    Endpoint,
    Limits,
    LocalModel,
    ask,
    default_prompts,
    log_path,
    open_suspect,
    read_log,
    verify_log,
)
from watermark.probe.pace import retry_after
from watermark.probe.replies import BadReply, parse
from watermark.probe.topics import PROMPTS, prompts
from watermark.probe.wire import Wire
from watermark.prompts import Prompt

QUICK = Limits(backoff=0.01, retries=3)
TWELVE = [Prompt(f"p{i}", f"question {i}", ({"role": "user", "content": f"question {i}"},)) for i in range(12)]


def probe(url, output, *, prompts=TWELVE, limits=QUICK, model="small", any_model=False, api="chat", timeout=5, **more):
    suspect = Endpoint.open(url, model=model, api=api, any_model=any_model, timeout=timeout)
    return ask(suspect, prompts, output, limits=limits, **more)


def lines(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "answers.jsonl"


# what is asked and kept


def test_every_prompt_is_answered_and_logged(out):
    with fake() as server:
        done = probe(server.url, out)
    assert (done.ended, done.answers, done.made, done.requests) == ("all answered", 12, 12, 12)
    answers = {answer["id"]: answer for answer in lines(out)}
    assert {p.id: p.text for p in TWELVE} == {id: a["prompt"] for id, a in answers.items()}
    assert answers["p3"]["text"] == "about question 3 (None)"
    assert [o.id for o in Outputs(out)] == [a["id"] for a in lines(out)]
    header, logged = read_log(log_path(out))
    assert header["suspect"] == {"kind": "endpoint", "address": server.url, "api": "chat", "model": "small"}
    line = next(line for line in logged if line["id"] == "p3")
    assert (line["attempt"], line["status"], line["outcome"], line["purpose"]) == (1, 200, "answered", "probe")
    assert (line["model_asked"], line["model_returned"], line["system_fingerprint"]) == ("small", "small", "fp1")
    assert line["usage"] == {"prompt": 5, "completion": 4}
    assert line["time_sent"] <= line["time_received"]
    assert line["response_sha256"] == answers["p3"]["meta"]["response_sha256"]
    verify_log(log_path(out), answers=out)


def test_the_request_says_how_to_draw(out):
    draw = Draw(max_new_tokens=7, temperature=0.5, top_p=0.9, seed=3, logprobs=2)
    with fake() as server:
        probe(server.url, out, prompts=TWELVE[:1], draw=draw)
        sent = server.requests[0]
    assert sent["messages"] == [{"role": "user", "content": "question 0"}]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"]) == (7, 0.5, 0.9)
    assert (sent["logprobs"], sent["top_logprobs"], sent["model"]) == (True, 2, "small")
    assert isinstance(sent["seed"], int)


def test_no_seed_is_sent_unless_asked(out):
    with fake() as server:
        probe(server.url, out, prompts=TWELVE[:1])
        assert not {"seed", "top_p", "logprobs"} & set(server.requests[0])


def test_samples_have_ids_and_seeds_of_their_own(out):
    with fake() as server:
        probe(server.url, out, prompts=TWELVE[:2], samples=3, draw=Draw(seed=1))
        seeds = [sent["seed"] for sent in server.requests]
    assert {a["id"] for a in lines(out)} == {"p0", "p1", "p0#2", "p1#2", "p0#3", "p1#3"}
    assert len(set(seeds)) == 6


def test_a_chat_is_sent_and_kept_turn_by_turn(out):
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    chat = [Prompt("c", "Be brief.\nWhy?", turns)]
    with fake() as server:
        probe(server.url, out, prompts=chat)
        assert server.requests[0]["messages"] == list(turns)
        assert probe(server.url, out, prompts=chat).made == 0
    assert next(iter(Outputs(out))).messages == turns


def test_more_samples_extend_a_run(out):
    with fake() as server:
        probe(server.url, out, prompts=TWELVE[:2])
        assert probe(server.url, out, prompts=TWELVE[:2], samples=2).made == 2


def test_logprobs_have_one_form_for_both_interfaces(out, tmp_path):
    with fake() as server:
        for api in ("chat", "completions"):
            probe(server.url, tmp_path / f"{api}.jsonl", api=api, draw=Draw(logprobs=3))
    first, second = lines(tmp_path / "chat.jsonl")[0], lines(tmp_path / "completions.jsonl")[0]
    for found in (first, second):
        assert [entry["token"] for entry in found["logprobs"]] == [f" {word}" for word in found["text"].split()]
        assert [e["token"] for e in found["logprobs"][0]["top_logprobs"]] == [" alt0", " alt1", " alt2"]
        assert found["logprobs"][0]["logprob"] == -0.5
    assert first["logprobs"][0]["bytes"] == list(b" about")


def test_the_listed_model_is_taken_and_a_choice_is_left_to_the_user():
    with fake() as server:
        assert open_suspect(server.url).name == "small"
    with fake(models=("a", "b")) as server, pytest.raises(OutputsInvalid, match=r"lists 2 models \(a, b\)"):
        open_suspect(server.url)


def test_concurrency_is_bounded_and_used(out):
    slow = lambda path, body, number: time.sleep(0.05)  # noqa: E731
    with fake(slow) as server:
        probe(server.url, out, limits=Limits(concurrency=3, backoff=0.01))
        assert 2 <= server.most_at_once <= 3


def test_the_rate_is_kept(out):
    with fake() as server:
        begun = time.monotonic()
        probe(server.url, out, limits=Limits(concurrency=4, rate=1200))
        assert time.monotonic() - begun >= 11 * 60 / 1200


# budgets


def test_the_budget_in_requests_ends_a_run_and_says_what_is_left(out):
    with fake() as server:
        done = probe(server.url, out, limits=Limits(max_requests=5))
        assert (done.ended, done.answers, done.left["requests"], len(server.requests)) == ("out of requests", 5, 0, 5)
        assert probe(server.url, out, limits=Limits(max_requests=5)).made == 0
        assert probe(server.url, out, limits=Limits(max_requests=50)).ended == "all answered"
    verify_log(log_path(out), answers=out)


def test_the_budget_in_tokens_is_never_passed(out):
    with fake() as server:
        done = probe(server.url, out, draw=Draw(max_new_tokens=20), limits=Limits(max_tokens=150))
    assert done.ended == "out of tokens"
    assert 0 < done.tokens <= 150
    assert done.left["tokens"] == 150 - done.tokens
    assert "left in the budget" in " ".join(done.words())


def test_without_a_count_of_tokens_the_most_is_counted(out):
    def no_usage(path, body, number):
        return 200, {}, {k: v for k, v in good(path, body).items() if k != "usage"}

    with fake(no_usage) as server:
        done = probe(server.url, out, prompts=TWELVE[:1], draw=Draw(max_new_tokens=100))
    assert done.tokens >= 100 + len("question 0")


# stopping early


def test_stop_sees_every_answer_once_and_ends_the_run(out):
    seen = []

    def stop(new):
        seen.extend(new)
        return len(seen) >= 6

    with fake() as server:
        done = probe(server.url, out, stop=stop, batch=3, limits=Limits(concurrency=1))
        assert done.ended == "stopped early"
        assert 6 <= done.answers < 12
        assert [o.id for o in seen] == [a["id"] for a in lines(out)][: len(seen)]
        seen.clear()
        assert probe(server.url, out, stop=stop).made == 0
        assert [o.id for o in seen] == [a["id"] for a in lines(out)]


def test_stop_sees_what_the_file_will_say(out):
    seen = []
    with fake() as server:
        probe(server.url, out, draw=Draw(logprobs=2), stop=lambda new: bool(seen.extend(new)))
    assert seen == list(Outputs(out))
    assert len(seen[0].logprobs[0].top) == 2


def test_stop_that_never_says_so_sees_all(out):
    seen = []
    with fake() as server:
        done = probe(server.url, out, stop=lambda new: bool(seen.extend(new)), batch=5)
    assert done.ended == "all answered"
    assert sorted(o.id for o in seen) == sorted(p.id for p in TWELVE)
    assert seen[0].text.startswith("about question")


# an endpoint that fails


def failing(first, told):
    """The first `first` requests are answered as told, all later ones well."""
    return lambda path, body, number: told if number <= first else None


def error(words, code=None):
    return {"error": {"message": words, "code": code}}


def test_endpoint_down_is_said_quickly(out):
    with fake() as server:
        url = server.url
    with pytest.raises(OutputsInvalid, match="nothing answers at .* no answer was had"):
        probe(url, out, limits=Limits(backoff=0.01))
    assert [line["outcome"] for line in read_log(log_path(out))[1]].count("retried") >= 2
    with pytest.raises(OutputsInvalid, match="nothing answers") as said:
        open_suspect(url)
    assert "is it running" in said.value.hint


@pytest.mark.parametrize("status, says", [(401, "refuses access"), (403, "refuses access"), (404, "no such model")])
def test_refusals_for_good_are_not_retried(out, status, says):
    with fake(failing(99, (status, {}, error("go away")))) as server:
        with pytest.raises(OutputsInvalid, match=f"{says}.*go away"):
            probe(server.url, out, limits=Limits(concurrency=1))
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_passing_errors_are_retried(out, status):
    with fake(failing(2, (status, {}, error("later")))) as server:
        done = probe(server.url, out)
    assert (done.ended, done.requests) == ("all answered", 14)
    assert [line["outcome"] for line in read_log(log_path(out))[1]].count("retried") == 2


def test_retry_after_is_honoured_by_all_requests(out):
    with fake(failing(1, (429, {"Retry-After": "0.6"}, error("slow down")))) as server:
        begun = time.monotonic()
        done = probe(server.url, out, limits=Limits(concurrency=1, backoff=0.001))
    assert done.ended == "all answered"
    assert time.monotonic() - begun >= 0.6


def test_retry_after_may_be_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < retry_after(later) <= 90
    assert retry_after("7") == 7
    assert retry_after("soon") is retry_after(None) is retry_after("nan") is retry_after("inf") is None
    assert retry_after("-5") == 0


def test_a_very_long_wait_is_said_instead(out):
    with (
        fake(failing(99, (429, {"Retry-After": "86400"}, error("daily limit")))) as server,
        pytest.raises(OutputsInvalid, match="daily limit; it asks to wait 86,400 s"),
    ):
        probe(server.url, out)


def test_a_used_up_quota_is_not_retried(out):
    with fake(failing(99, (429, {}, error("no money", "insufficient_quota")))) as server:
        with pytest.raises(OutputsInvalid, match="quota is used up"):
            probe(server.url, out, limits=Limits(concurrency=1))
        assert len(server.requests) == 1


BROKEN = {
    "truncated": (200, {}, b'{"model": "small", "choices": [{"mess'),
    "cut short": (200, {"Content-Length": "5000"}, b'{"model": "small", "choi'),
    "no json": (200, {}, b"<html>hello</html>"),
    "not UTF-8": (200, {}, b'{"model": "caf\xe9"}'),
    "no choices": (200, {}, {"model": "small", "choices": []}),
    "a list": (200, {}, [1, 2]),
    "deep": (200, {}, b"[" * 200_000),
    "closed": (200, {}, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies_are_retried_then_said(out, name):
    with fake(failing(2, BROKEN[name])) as server:
        assert probe(server.url, out).ended == "all answered"
    out.unlink(), log_path(out).unlink()
    with fake(failing(99, BROKEN[name])) as server:
        with pytest.raises(OutputsInvalid, match="not JSON|not UTF-8|no choices|no JSON object|cut short|was closed"):
            probe(server.url, out, limits=Limits(concurrency=1, retries=2, backoff=0.01))
        assert len(server.requests) == 3
    assert out.read_bytes() == b""


def test_a_huge_body_is_not_read(out):
    with fake(failing(99, (200, {}, b" " * 300_000))) as server:
        suspect = Endpoint(Wire(server.url, largest=100_000), "small")
        with pytest.raises(OutputsInvalid, match="a response of more than 0 MiB, not read further"):
            ask(suspect, TWELVE, out, limits=Limits(concurrency=1, retries=0))


def test_timeouts_are_retried(out):
    slow_once = lambda path, body, number: time.sleep(0.6) if number == 1 else None  # noqa: E731
    with fake(slow_once) as server:
        done = probe(server.url, out, timeout=0.25, prompts=TWELVE[:2])
    assert done.ended == "all answered"
    assert "no answer within 0.25 s" in [line["error"] for line in read_log(log_path(out))[1]]


def test_a_trickling_body_ends_at_the_deadline():
    """Each byte comes in time, the whole does not."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle():
            with listening.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(40):
                    try:
                        peer.sendall(b" ")
                    except OSError:
                        return
                    time.sleep(0.05)

        threading.Thread(target=trickle, daemon=True).start()
        begun = time.monotonic()
        wire = Wire(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=0.4)
        with pytest.raises(Exception, match="no answer within 0.4 s"):
            wire.send("/chat/completions", {})
        assert time.monotonic() - begun < 1.5


def test_one_prompt_that_always_fails_is_counted_and_asked_again_next_time(out):
    broken = True

    def behave(path, body, number):
        if broken and body["messages"][0]["content"] == "question 5":
            return 500, {}, error("cannot")
        return None

    with fake(behave) as server:
        done = probe(server.url, out)
        assert (done.ended, done.answers, done.unanswered) == ("some unanswered", 11, 1)
        broken = False
        done = probe(server.url, out)
    assert (done.ended, done.made) == ("all answered", 1)


def test_a_refused_prompt_is_counted_and_many_in_a_row_end_the_run(out):
    def behave(path, body, number):
        return (400, {}, error("against policy")) if number == 3 else None

    with fake(behave) as server:
        done = probe(server.url, out)
    assert (done.answers, done.refused, done.requests) == (11, 1, 12)
    assert "1 prompts were refused" in done.words()
    out.unlink(), log_path(out).unlink()
    with fake(failing(99, (400, {}, error("against policy")))) as server:
        with pytest.raises(OutputsInvalid, match="refused .400.: against policy"):
            probe(server.url, out, limits=Limits(concurrency=1))
        assert len(server.requests) == 5


def test_a_redirect_is_not_followed(out):
    with fake() as other:
        there = failing(99, (307, {"Location": other.url}, b""))
        with fake(there) as server, pytest.raises(OutputsInvalid, match="redirects .307. to http"):
            probe(server.url, out)
        assert other.requests == []


def test_the_newer_name_of_the_limit_is_learnt(out):
    def behave(path, body, number):
        if "max_tokens" in body:
            return 400, {}, error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return None

    with fake(behave) as server:
        assert probe(server.url, out, limits=Limits(concurrency=1, backoff=0.01)).requests == 13
        assert server.requests[-1]["max_completion_tokens"] == 128


# models and log-probabilities


def test_another_models_name_is_refused_unless_allowed(out):
    other = lambda path, body, number: (200, {}, good(path, body, model="large"))  # noqa: E731
    with fake(other) as server:
        with pytest.raises(OutputsInvalid, match="asked for the model 'small', the answer comes from 'large'"):
            probe(server.url, out)
        assert out.read_bytes() == b""
        assert read_log(log_path(out))[1][0]["model_returned"] == "large"
        assert probe(server.url, out, any_model=True).model == "large"


@pytest.mark.parametrize(
    "name, same",
    [("small-2026-01-31", True), ("small-20260131", True), ("small@main", True), ("small-turbo", False),
     ("small-2026-01-31-tuned", False), ("-2026-01-31", False), ("2026-01-31", False)],
)  # fmt: skip
def test_a_version_of_the_model_is_the_model_asked_for(out, name, same):
    with fake(lambda path, body, number: (200, {}, good(path, body, model=name))) as server:
        if same:
            assert probe(server.url, out).model == name
            return
        with pytest.raises(OutputsInvalid, match=f"the answer comes from '{name}'"):
            probe(server.url, out)


@pytest.mark.parametrize("any_model", [False, True])
def test_a_model_that_changes_in_the_middle_stops_the_run_and_keeps_what_is_there(out, any_model):
    def behave(path, body, number):
        return (200, {}, good(path, body, model="small-2026-02-02")) if number > 6 else None

    with fake(behave) as server:
        with pytest.raises(OutputsInvalid, match="name changed in the middle of the run.*answers are kept"):
            probe(server.url, out, any_model=any_model, limits=Limits(concurrency=1))
        assert len(lines(out)) == 6
        with pytest.raises(OutputsInvalid, match="first 'small', now"):
            probe(server.url, out, any_model=any_model)  # remembered from the log
    assert len(lines(out)) == 6


@pytest.mark.parametrize(
    "told",
    [(400, {}, error("logprobs are not supported")), (500, {}, error("logprobs need logits_all=True")), None],
)
def test_an_endpoint_without_logprobs_is_said(out, told):
    def behave(path, body, number):
        plain = {name: value for name, value in body.items() if name != "logprobs"}
        return told if told and "logprobs" in body else (200, {}, good(path, plain))

    with fake(behave) as server:
        with pytest.raises(OutputsInvalid, match="gives no log-probabilities") as said:
            probe(server.url, out, draw=Draw(logprobs=5))
        assert "without --logprobs" in said.value.hint
        assert out.read_bytes() == b""
        out.unlink(), log_path(out).unlink()
        assert probe(server.url, out).ended == "all answered"


def test_impossible_logprobs_are_a_broken_answer():
    body = {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None}}]}
    choice = body["choices"][0]["logprobs"]
    assert parse(json.dumps(body).encode(), api="completions").logprobs[0]["top_logprobs"] == []
    for bad in (float("nan"), float("inf"), "x", None, True, 10**400):
        choice["token_logprobs"] = [bad]
        with pytest.raises(BadReply, match="log-probability"):
            parse(json.dumps(body).encode(), api="completions")
    choice["token_logprobs"] = [float("-inf")]
    assert parse(json.dumps(body).encode(), api="completions").logprobs[0]["logprob"] == -9999.0
    choice["tokens"] = ["a", "b"]
    with pytest.raises(BadReply, match="different lengths"):
        parse(json.dumps(body).encode(), api="completions")


def test_half_characters_are_mended_and_said_so(out):
    with fake(lambda path, body, number: (200, {}, good(path, body, text="half \ud83d!"))) as server:
        probe(server.url, out, prompts=TWELVE[:1])
    (answer,) = lines(out)
    assert (answer["text"], answer["meta"]["mended"]) == ("half \ufffd!", True)


def test_empty_and_cut_answers_are_counted(out):
    def behave(path, body, number):
        told = good(path, body, text="" if number == 1 else "some")
        told["choices"][0]["finish_reason"] = "length" if number <= 3 else "stop"
        if number == 2:
            told["choices"][0]["message"]["content"] = None
        return 200, {}, told

    with fake(behave) as server:
        done = probe(server.url, out, limits=Limits(concurrency=1))
    assert (done.empty, done.cut) == (2, 3)
    assert lines(out)[0]["meta"]["finish_reason"] == "length"
    assert len(list(Outputs(out))) == 12


# consistency


def test_answers_that_change_between_calls_are_counted(out):
    def behave(path, body, number):
        if body["temperature"] == 0 and body["messages"][0]["content"] in ("question 0", "question 2"):
            return 200, {}, good(path, body, text=f"new each time {number}")
        return None

    with fake(behave) as server:
        done = probe(server.url, out, consistency=5)
        assert done.consistency == {"asked": 5, "changed": 2}
        assert "2 of 5 prompts got another answer" in " ".join(done.words())
        assert len(lines(out)) == 12
        asked = [line for line in read_log(log_path(out))[1] if line["purpose"] == "consistency"]
        assert len(asked) == 10
        assert {line["temperature"] for line in asked} == {0.0}
        before = len(server.requests)
        assert probe(server.url, out, consistency=5).consistency == {"asked": 5, "changed": 2}
        assert len(server.requests) == before
    verify_log(log_path(out), answers=out)


# the key


def test_the_key_is_sent_and_never_shown(out, monkeypatch, capfd):
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("SUSPECT_KEY", secret)
    with fake() as server:
        suspect = Endpoint.open(server.url, model="small", key_env="SUSPECT_KEY")
        ask(suspect, TWELVE, out, limits=QUICK)
        assert server.headers[0]["Authorization"] == f"Bearer {secret}"
        assert secret not in repr(suspect)
    assert secret not in out.read_text() + log_path(out).read_text()
    echo = failing(99, (401, {}, error(f"wrong key {secret}\x1b[31m")))
    with fake(echo) as server:
        suspect = Endpoint.open(server.url, model="small", key_env="SUSPECT_KEY")
        out.unlink(), log_path(out).unlink()
        with pytest.raises(OutputsInvalid, match=r"wrong key \[key\]") as said:
            ask(suspect, TWELVE, out, limits=QUICK)
    assert secret not in str(said.value) + log_path(out).read_text()
    assert "\x1b" not in str(said.value)


def test_a_key_does_not_travel_unencrypted(monkeypatch):
    monkeypatch.setenv("SUSPECT_KEY", "sk-secret")
    with pytest.raises(OutputsInvalid, match="would travel to suspect.example unencrypted"):
        Endpoint.open("http://suspect.example/v1", model="m", key_env="SUSPECT_KEY")
    assert Endpoint.open("http://suspect.example/v1", model="m", key_env="UNSET_VARIABLE").name == "m"
    monkeypatch.setenv("SUSPECT_KEY", "sk\n")
    assert Endpoint.open("http://127.0.0.1:9/v1", model="m", key_env="SUSPECT_KEY").wire.key == "sk"
    monkeypatch.setenv("SUSPECT_KEY", "sk-ключ")
    with pytest.raises(OutputsInvalid, match="characters that no header may carry"):
        Endpoint.open("http://127.0.0.1:9/v1", model="m", key_env="SUSPECT_KEY")


@pytest.mark.parametrize("address", ["http://", "http://u:secret@h/v1", "http://h/v1?key=secret", "http://h:x/v1"])
def test_a_wrong_address_is_refused_without_repeating_it(address):
    with pytest.raises(OutputsInvalid, match="address") as said:
        Endpoint.open(address, model="m")
    assert "secret" not in str(said.value)


# the log and the answers file


def test_a_changed_missing_or_moved_line_breaks_the_chain(out):
    with fake() as server:
        probe(server.url, out)
    path = log_path(out)
    whole = path.read_bytes().splitlines(keepends=True)
    for name, changed in {
        "changed": [whole[0], whole[1].replace(b'"attempt":1', b'"attempt":2'), *whole[2:]],
        "missing": [*whole[:3], *whole[4:]],
        "moved": [whole[0], whole[2], whole[1], *whole[3:]],
        "not a line": [*whole, b"{}\n"],
        "no header": whole[1:],
        "another format": [b'{"a":1}\n'],
    }.items():
        path.write_bytes(b"".join(changed))
        with pytest.raises(LedgerInvalid):
            verify_log(path)
        with fake() as server, pytest.raises((LedgerInvalid, OutputsInvalid)):
            probe(server.url, out)
        assert path.read_bytes() == b"".join(changed), name
    path.write_bytes(b"".join(whole))
    verify_log(path, answers=out)


def test_an_edited_or_missing_answer_does_not_verify(out):
    with fake() as server:
        probe(server.url, out)
        kept = out.read_bytes()
        out.write_bytes(kept.replace(b"about question 3", b"about question 4"))
        with pytest.raises(LedgerInvalid, match="'p3' is not the one"):
            verify_log(log_path(out), answers=out)
        with pytest.raises(LedgerInvalid, match="'p3' is not the one"):
            probe(server.url, out)
        out.write_bytes(b"".join(kept.splitlines(keepends=True)[1:]))
        with pytest.raises(LedgerInvalid, match="lacks the answer"):
            verify_log(log_path(out), answers=out)
        assert probe(server.url, out).made == 1  # a lost answer is asked again
    verify_log(log_path(out), answers=out)


def test_another_run_does_not_mix_in(out):
    with fake() as server:
        probe(server.url, out)
        kept = out.read_bytes(), log_path(out).read_bytes()
        with pytest.raises(LedgerInvalid, match="belongs to a run with draw"):
            probe(server.url, out, draw=Draw(temperature=0.3))
        with pytest.raises(LedgerInvalid, match="belongs to a run with suspect"):
            probe(server.url, out, model="other")
        changed = [Prompt("p1", "else", ({"role": "user", "content": "else"},))]
        with pytest.raises(OutputsInvalid, match="another prompt under the id 'p1'"):
            probe(server.url, out, prompts=changed)
        assert kept == (out.read_bytes(), log_path(out).read_bytes())


def test_a_file_of_something_else_is_left_as_it_is(out):
    out.write_text("my notes\n")
    with fake() as server, pytest.raises(OutputsInvalid, match="no query log"):
        probe(server.url, out)
    assert out.read_text() == "my notes\n"
    assert not log_path(out).exists()
    out.unlink()
    log_path(out).write_text("my notes\n")
    with fake() as server, pytest.raises(LedgerInvalid):
        probe(server.url, out)
    assert log_path(out).read_text() == "my notes\n"
    log_path(out).write_text("my unfinished notes")
    with fake() as server, pytest.raises(LedgerInvalid):
        probe(server.url, out)
    assert log_path(out).read_text() == "my unfinished notes"


def test_two_runs_do_not_write_one_file(out):
    def second(path, body, number):
        if number == 1:
            with pytest.raises(LedgerInvalid, match="another process"):
                probe(server.url, out)

    with fake(second) as server:
        assert probe(server.url, out, limits=Limits(concurrency=1)).ended == "all answered"


def test_cut_lines_are_asked_again(out):
    with fake() as server:
        probe(server.url, out)
        whole = out.read_bytes()
        for cut in (1, 5, 30, len(whole.splitlines()[-1])):
            out.write_bytes(whole[:-cut])
            log_path(out).write_bytes(log_path(out).read_bytes() + b'{"answer_sha')
            assert probe(server.url, out).made == 1
            verify_log(log_path(out), answers=out)
            assert len({a["id"] for a in lines(out)}) == len(lines(out)) == 12


def test_a_full_disk_loses_nothing(out, monkeypatch):
    real, count = os.fsync, 0

    def full(descriptor):
        nonlocal count
        count += 1
        if count > 9:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with fake() as server:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            probe(server.url, out)
        monkeypatch.setattr(os, "fsync", real)
        assert probe(server.url, out).ended == "all answered"
    verify_log(log_path(out), answers=out)
    assert len(lines(out)) == 12


@pytest.mark.slow
def test_killed_at_random_moments_a_run_loses_nothing_and_repeats_nothing(tmp_path):
    from test_interrupted import killed

    chance, kills, rounds = random.Random(5), 0, 0
    with fake(lambda path, body, number: time.sleep(0.004)) as server:
        while kills < 30:
            out = tmp_path / f"{rounds}.jsonl"
            rounds += 1
            seen = b""
            while killed(lambda out=out: probe(server.url, out, samples=2), chance.uniform(0.001, 0.08)):
                kills += 1
                content = out.read_bytes() if out.exists() else b""
                assert content.startswith(seen[: seen.rfind(b"\n") + 1])
                seen = content
            assert sorted(a["id"] for a in lines(out)) == sorted(p.id + s for p in TWELVE for s in ("", "#2"))
            verify_log(log_path(out), answers=out)


def test_ctrl_c_keeps_what_came_and_logs_what_was_in_flight(out):
    def behave(path, body, number):
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 6:
            time.sleep(0.5)

    with fake(behave) as server:
        with pytest.raises(RunInterrupted, match=r"interrupted; \d answers are in") as said:
            probe(server.url, out, limits=Limits(concurrency=2))
        assert "same command" in said.value.hint
        verify_log(log_path(out), answers=out)
        assert "interrupted" in [line["outcome"] for line in read_log(log_path(out))[1]]
        assert 3 <= len(lines(out)) <= 6
        server.behave = lambda path, body, number: None
        assert probe(server.url, out).ended == "all answered"


# a model that is here


def test_a_model_folder_is_asked_like_an_endpoint(tmp_path, out):
    from tiny import tiny_model

    folder = tiny_model(tmp_path / "model")
    suspect = open_suspect(str(folder))
    assert isinstance(suspect, LocalModel)
    suspect.batch = 5
    draw = Draw(max_new_tokens=6, seed=4)
    done = ask(suspect, TWELVE, out, draw=draw, samples=2, consistency=2, limits=Limits(max_requests=20))
    assert (done.ended, done.answers) == ("out of requests", 20)
    done = ask(suspect, TWELVE, out, draw=draw, samples=2, consistency=2)
    assert (done.ended, done.answers, done.consistency) == ("all answered", 24, {"asked": 2, "changed": 0})
    header, logged = read_log(log_path(out))
    assert len(header["suspect"]["sha256"]) == 64
    assert all(line["model_returned"] == str(folder) for line in logged)
    verify_log(log_path(out), answers=out)
    assert len(list(Outputs(out))) == 24
    with pytest.raises(OutputsInvalid, match="has all its logits"):
        ask(suspect, TWELVE, tmp_path / "other.jsonl", draw=Draw(logprobs=3))
    with pytest.raises(OutputsInvalid, match="is no address"):
        open_suspect(str(folder), model="m")


# prompts that ship


def test_the_default_prompts_are_what_the_lists_make():
    made = prompts()
    assert lines(PROMPTS) == made
    assert len(made) >= 600
    assert len({prompt["prompt"] for prompt in made}) == len(made)
    assert default_prompts("http://localhost/v1")[0].id == "ask-0000"


def test_the_demos_model_gets_the_demos_prompts():
    assert default_prompts("demo")[0].id == "probe-0000"
