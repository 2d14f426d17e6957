"""Asking scoring suspects: over HTTP, in ONNX files, as functions; each input once, whatever happens."""

import json
import math
import os
import threading
import time

import numpy as np
import pytest
from fake_endpoint import fake

from watermark.errors import LedgerInvalid, OutputsInvalid, RunInterrupted
from watermark.probe.log import log_path, read_log, verify_log
from watermark.probe.pace import Limits
from watermark.probe.score_replies import BadScores, Form, as_table, cleaned, plain_rows
from watermark.probe.scores import CallableScorer, ask_scores, batches_path, open_scorer
from watermark.scores.table import read_table, table

FAST = Limits(concurrency=3, backoff=0.01)


def inputs(rows=20):
    rng = np.random.default_rng(0)
    return table({"amount": rng.normal(size=rows).round(3), "age": np.arange(20.0, 20 + rows), "city": ["A", "B"] * 10})


def numbers(rows=20):
    return inputs(rows).without(["city"])


def scored(rows):
    """What the fake suspect says to a row [amount, age, …]."""
    return [1 / (1 + math.exp(-row[0])) for row in rows]


def behaving(form="predictions", change=None):
    def behave(path, body, number):
        if change is not None and (told := change(body, number)) is not None:
            return told
        return 200, {}, {form: [[1 - p, p] for p in scored(body["inputs"])]}

    return behave


def probe(url, output, found=None, **options):
    form = options.pop("form", Form())
    given = {"batch": 8, "limits": FAST} | options
    return ask_scores(open_scorer(url, form=form), numbers() if found is None else found, output, **given)


def test_every_input_is_asked_once_and_the_first_ones_twice(tmp_path):
    with fake(behaving()) as server:
        done = probe(server.url, tmp_path / "a.csv")
        asked = [row for body in server.requests for row in body["inputs"]]
    assert (done.ended, done.answered, done.made, done.requests) == ("all answered", 20, 20, 5)
    assert len(asked) == 5 + 5 + 20
    found = read_table(tmp_path / "a.csv")
    assert found.names == ["c0", "c1"]
    np.testing.assert_array_equal(found.columns["c1"], scored(plain_rows(numbers())))
    assert done.words() == [
        f"all answered: 20 of 20 inputs, 20 asked now, of {server.url}",
        "spent 5 requests",
        "the first 5 inputs were asked twice: the same answers",
    ]


def test_whole_numbers_missing_values_and_words_travel_as_such(tmp_path):
    found = table({"age": [40, 41], "income": [1.5, np.nan], "city": ["Köln", ""]})
    with fake(lambda path, body, number: (200, {}, [0.25] * len(body["instances"]))) as server:
        probe(server.url, tmp_path / "a.csv", found, form=Form("instances", "objects"), twice=0)
        (body,) = server.requests
    assert body == {
        "instances": [{"age": 40, "city": "Köln", "income": 1.5}, {"age": 41, "city": None, "income": None}]
    }
    assert read_table(tmp_path / "a.csv").columns["score"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    "form, sent",
    [
        (Form("dataframe_split", "split"), {"dataframe_split": {"columns": ["a"], "data": [[1]]}}),
        (Form("", "objects"), [{"a": 1}]),
        (Form("inputs", "lists"), {"inputs": [[1]]}),
    ],
)
def test_bodies_have_the_form_that_was_asked_for(form, sent):
    assert json.loads(form.body(["a"], [[1]])) == sent


@pytest.mark.parametrize(
    "path, reply, rows",
    [
        ("", [0.1, 0.2], [0.1, 0.2]),
        ("", {"model": "m", "predictions": [[0.1], [0.2]]}, [0.1, 0.2]),
        ("", {"result": {"scores": [1, 0], "labels": ["no", "yes", "maybe"]}}, [1.0, 0.0]),
        ("outputs.0.data", {"outputs": [{"data": [0.1, 0.2]}]}, [0.1, 0.2]),
        ("predictions.*.p", {"predictions": [{"p": [0.1, 0.9]}, {"p": [0.2, 0.8]}]}, [[0.1, 0.9], [0.2, 0.8]]),
        ("", ["no", "yes"], ["no", "yes"]),
        ("", [{"no": 0.9, "yes": 0.1}, {"no": 0.3}], [{"no": 0.9, "yes": 0.1}, {"no": 0.3}]),
        ("", [[{"label": "no", "score": 0.9}], [{"label": "yes", "score": 0.7}]], [{"no": 0.9}, {"yes": 0.7}]),
        ("", [None, float("nan")], [None, None]),
    ],
)
def test_scores_are_found_in_replies_of_many_shapes(path, reply, rows):
    assert Form(path=path).scores(reply, 2) == rows


@pytest.mark.parametrize(
    "path, reply, says",
    [
        ("", [0.1], "1 answers came to 2 inputs"),
        ("", {"a": [1, 2], "b": [3, 4]}, "does not say which of its parts are the scores; it is an object with a, b"),
        ("scores", {"predictions": [1, 2]}, "holds nothing at 'scores'; there is an object with predictions"),
        ("", {"error": "none"}, "does not say which"),
        ("", [[0.1, 0.9], [0.2]], "not of one kind: lists of 2 and numbers"),
        ("", [[[1, 2], [3]], [1, 2]], "a score should be a number, found a list of 2"),
    ],
)
def test_replies_without_usable_scores_are_refused_in_words(path, reply, says):
    with pytest.raises(BadScores, match=says):
        Form(path=path).scores(reply, 2)


def test_top_classes_by_name_become_columns_in_the_order_wanted():
    rows = cleaned([{"a": 0.7, "b": 0.3}, {"c": 0.9}], 2)
    assert as_table(rows).names == ["a", "b", "c"]
    found = as_table(rows, classes=("c", "a", "b"))
    np.testing.assert_array_equal(found.numbers(["c", "a", "b"]), [[np.nan, 0.7, 0.3], [0.9, np.nan, np.nan]])
    with pytest.raises(OutputsInvalid, match="no answer names the class 'd'"):
        as_table(rows, classes=("d",))


def test_a_stopped_run_goes_on_and_asks_nothing_again(tmp_path):
    output = tmp_path / "a.csv"
    with fake(behaving()) as server:
        first = probe(server.url, output, limits=Limits(concurrency=1, max_requests=4))
        assert (first.ended, first.answered, first.left) == ("out of requests", 16, 0)
        assert np.isnan(read_table(output).columns["c1"]).sum() == 4
        second = probe(server.url, output, limits=Limits(concurrency=1, max_requests=9))
        assert (second.ended, second.made, second.requests) == ("all answered", 4, 5)
        third = probe(server.url, output)
        assert (third.made, third.requests, len(server.requests)) == (0, 5, 5)
    assert not np.isnan(read_table(output).columns["c1"]).any()
    verify_log(log_path(output), answers=batches_path(output))


def test_another_suspect_form_or_table_is_another_run(tmp_path):
    output = tmp_path / "a.csv"
    with fake(behaving()) as server:
        probe(server.url, output)
        with pytest.raises(LedgerInvalid, match="belongs to a run with batch 8, this one 4; nothing was written"):
            probe(server.url, output, batch=4)
        with pytest.raises(LedgerInvalid, match="belongs to a run with inputs"):
            probe(server.url, output, numbers().rows(slice(3)))
    (tmp_path / "b.csv").write_text("mine\n1\n")
    with pytest.raises(OutputsInvalid, match="no query log"):
        probe("http://127.0.0.1:1", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "mine\n1\n"


def test_rate_limits_and_server_errors_are_waited_out(tmp_path):
    told = {1: (429, {"Retry-After": "0.05"}, {"detail": "slowly"}), 2: (503, {}, b"busy"), 3: (200, {}, b"<html>")}
    with fake(behaving(change=lambda body, number: told.get(number))) as server:
        done = probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1, backoff=0.01))
    assert (done.ended, done.requests) == ("all answered", 8)
    _, lines = read_log(log_path(tmp_path / "a.csv"))
    assert [line["error"] for line in lines[:3]] == [
        "rate limit (429): slowly", "server error (503): busy", "the reply is not JSON: <html>",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "told, says, hint",
    [
        ((401, {}, {"detail": "no token"}), "refuses access \\(401\\): no token", "--header-env"),
        ((404, {}, {"detail": "Not Found"}), "nothing takes POST at http", "whole address"),
        ((422, {}, {"detail": "field required: rows"}), "does not take the inputs \\(422\\): field required", "--body"),
        ((413, {}, b"too big"), "batch is too large", "smaller --batch"),
        ((302, {"Location": "http://x/"}, b""), "redirects \\(302\\) to http://x/", "address that answers"),
        ((429, {"Retry-After": "7200"}, b"later"), "asks to wait 7,200 s", "again later"),
        ((200, {}, {"predictions": [0.5] * 3}), "3 answers came to 5 inputs", "--path"),
        ((200, {}, b'{"predictions": [NaN, NaN, NaN, NaN, NaN]}'), "no answer of the batch is a finite number", None),
    ],
)
def test_what_cannot_go_on_ends_at_once_in_words(tmp_path, told, says, hint):
    with fake(lambda path, body, number: told) as server, pytest.raises(OutputsInvalid, match=says) as error:
        probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1))
    assert str(error.value).endswith("; no answer was had")
    assert hint is None or hint in error.value.hint
    assert len(server.requests) == 1
    assert not (tmp_path / "a.csv").exists()


def test_an_endpoint_that_is_down_is_said_so(tmp_path):
    with fake() as server:
        url = server.url
    with pytest.raises(OutputsInvalid, match="nothing answers at http://127.0.0.1:.*connection refused"):
        probe(url, tmp_path / "a.csv")


def test_what_came_before_a_failure_is_kept_and_counted_in_inputs(tmp_path):
    broken = behaving(change=lambda body, number: (200, {}, [0.5]) if number == 4 else None)
    with fake(broken) as server, pytest.raises(OutputsInvalid, match="the answers to 8 inputs are kept"):
        probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1))
    assert np.isfinite(read_table(tmp_path / "a.csv").columns["c1"]).sum() == 8


def test_answers_that_change_between_calls_are_measured(tmp_path):
    def noisy(path, body, number):
        return 200, {}, [p + 0.001 * number for p in scored(body["inputs"])]

    with fake(noisy) as server:
        done = probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1))
    assert done.twice.largest == pytest.approx(0.001)
    assert "the largest difference is 0.001; noise in a suspect's answers costs power, not validity" in done.words()[2]


def test_labels_that_change_between_calls_are_counted(tmp_path):
    def fickle(path, body, number):
        return 200, {}, [["no", "yes"][(number + i) % 2] for i in range(len(body["inputs"]))]

    with fake(fickle) as server:
        done = probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1))
    assert (done.twice.changed, done.columns, done.kind) == (5, ["label"], "words")


def test_single_inputs_without_a_number_are_left_empty_and_counted(tmp_path):
    def gappy(path, body, number):
        return (
            200,
            {},
            json.dumps([None if row[1] == 30 else p for row, p in zip(body["inputs"], scored(body["inputs"]))]),
        )

    with fake(lambda *a: (200, {}, gappy(*a)[2].encode())) as server:
        done = probe(server.url, tmp_path / "a.csv")
    assert done.absent == 1
    assert np.flatnonzero(np.isnan(read_table(tmp_path / "a.csv").columns["score"])).tolist() == [10]


def test_a_suspect_that_changes_its_kind_of_answer_is_refused(tmp_path):
    change = lambda body, number: (200, {}, [0.5] * len(body["inputs"])) if number == 4 else None  # noqa: E731
    with fake(behaving(change=change)) as server, pytest.raises(OutputsInvalid, match="from lists of 2 to numbers"):
        probe(server.url, tmp_path / "a.csv", limits=Limits(concurrency=1))


def test_secrets_come_from_the_environment_and_are_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("THEIR_KEY", "Bearer sk-12345")

    def echo(path, body, number):
        return (400, {}, {"detail": "bad key sk-12345"}) if number == 1 else None

    with fake(echo) as server:
        suspect = open_scorer(server.url, headers={"Authorization": "THEIR_KEY"})
        with pytest.raises(OutputsInvalid, match="bad key") as error:
            ask_scores(suspect, numbers(), tmp_path / "a.csv", limits=FAST)
        assert server.headers[0]["Authorization"] == "Bearer sk-12345"
    assert "sk-1" not in str(error.value) + repr(suspect) + log_path(tmp_path / "a.csv").read_text()
    with pytest.raises(OutputsInvalid, match="variable NOT_SET, for the header X-Key, is not set"):
        open_scorer(server.url, headers={"X-Key": "NOT_SET"})
    with pytest.raises(OutputsInvalid, match="would travel unencrypted"):
        open_scorer("http://example.org/score", headers={"X-Key": "THEIR_KEY"})


def test_requests_are_bounded_at_once(tmp_path):
    slow = behaving(change=lambda body, number: time.sleep(0.05))
    with fake(slow) as server:
        probe(server.url, tmp_path / "a.csv", batch=1, limits=Limits(concurrency=3))
    assert 1 < server.most_at_once <= 3


def test_an_interrupted_run_keeps_what_came(tmp_path):
    calls = []

    def function(array):
        calls.append(len(array))
        if len(calls) == 5:
            signalled.set()
            time.sleep(0.3)
        return array[:, 0]

    signalled = threading.Event()
    threading.Thread(target=lambda: (signalled.wait(5), os.kill(os.getpid(), 2)), daemon=True).start()
    with pytest.raises(RunInterrupted, match="interrupted; the answers to 16 inputs are kept"):
        ask_scores(function, numbers(), tmp_path / "a.csv", batch=8)
    assert np.isfinite(read_table(tmp_path / "a.csv").columns["score"]).sum() == 16
    assert ask_scores(lambda array: array[:, 0], numbers(), tmp_path / "a.csv", batch=8).made == 4


def test_any_function_can_be_asked(tmp_path):
    done = ask_scores(lambda array: array[:, :1] * 0 + 0.25, numbers(), tmp_path / "a.csv")
    assert (done.answered, done.columns) == (20, ["score"])
    frames = []

    def of_frames(frame):
        frames.append(frame)
        return np.column_stack([frame["amount"], frame["age"], (frame["city"] == "A") * 1.0])

    mixed = ask_scores(CallableScorer(of_frames, "a pipeline"), inputs(), tmp_path / "b.parquet", batch=20)
    assert mixed.columns == ["c0", "c1", "c2"]
    assert list(frames[-1].columns) == ["amount", "age", "city"]
    np.testing.assert_array_equal(read_table(tmp_path / "b.parquet").columns["c2"], [1.0, 0.0] * 10)


def test_a_batch_whose_words_are_all_missing_is_a_frame_like_the_others(tmp_path):
    kinds = []

    def function(frame):
        kinds.append(type(frame).__name__)
        return frame["amount"]

    found = table({"amount": [1.0, 2.0], "city": ["", "Rome"]})
    ask_scores(function, found, tmp_path / "a.csv", batch=1, twice=0)
    assert kinds == ["DataFrame", "DataFrame"]


def test_an_array_can_be_asked_too(tmp_path):
    asked = ask_scores(lambda array: array[:, 1], np.array([[1.0, 0.25], [2.0, 0.5]]), tmp_path / "a.csv")
    assert asked.answered == 2
    assert read_table(tmp_path / "a.csv").columns["score"].tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    "function, says",
    [
        (lambda array: array[:3, 0], "3 answers came to 5 inputs"),
        (lambda array: 1 / 0, "the suspect raised ZeroDivisionError: division by zero"),
        (lambda array: array[:, 0] * np.nan, "no answer of the batch is a finite number"),
        (lambda array: None, "should be a list of one entry for each input"),
    ],
)
def test_functions_that_fail_are_said_so(tmp_path, function, says):
    with pytest.raises(OutputsInvalid, match=says):
        ask_scores(function, numbers(), tmp_path / "a.csv")


def test_the_stop_sees_answers_in_order_and_ends_the_run(tmp_path):
    seen = []

    def stop(found):
        seen.append(len(found))
        return 10 if len(found) >= 12 else None

    with fake(behaving()) as server:
        done = probe(server.url, tmp_path / "a.csv", batch=4, limits=Limits(concurrency=1), stop=stop, twice=0)
        assert len(server.requests) == 3
        again = probe(server.url, tmp_path / "a.csv", batch=4, limits=Limits(concurrency=1), stop=stop, twice=0)
        assert len(server.requests) == 3
    assert seen[:3] == [4, 8, 12]
    assert (done.ended, done.answered, again.ended) == ("stopped early", 10, "stopped early")
    assert np.isfinite(read_table(tmp_path / "a.csv").columns["c1"]).tolist() == [True] * 10 + [False] * 10


def test_an_onnx_file_is_asked(tmp_path):
    pytest.importorskip("onnxruntime")
    from onnxruntime.datasets import get_example

    model = get_example("logreg_iris.onnx")
    done = ask_scores(open_scorer(model), numbers(), tmp_path / "a.csv")
    assert (done.ended, done.columns, done.kind) == ("all answered", ["0", "1", "2"], "classes by name")
    found = read_table(tmp_path / "a.csv").numbers(["0", "1", "2"])
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    labels = ask_scores(open_scorer(model, form=Form(path="label")), numbers(), tmp_path / "b.csv")
    np.testing.assert_array_equal(read_table(tmp_path / "b.csv").columns["score"], found.argmax(axis=1))
    assert labels.twice.largest == 0
    with pytest.raises(OutputsInvalid, match="has no output 'logits'"):
        open_scorer(model, form=Form(path="logits"))
    with pytest.raises(OutputsInvalid, match="^column city should hold numbers"):
        ask_scores(open_scorer(model), inputs(), tmp_path / "c.csv")


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(OutputsInvalid, match="runs whatever code it holds, so it is not opened") as error:
        open_scorer(str(tmp_path / "model.pkl"))
    assert "ONNX" in error.value.hint
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(OutputsInvalid, match="no ONNX model"):
        open_scorer(str(tmp_path / "model.onnx"))
    with pytest.raises(OutputsInvalid, match="there is no file"):
        open_scorer(str(tmp_path / "other.onnx"))
    with pytest.raises(OutputsInvalid, match="neither an address nor an ONNX file"):
        open_scorer(str(tmp_path))


def test_edited_batches_are_refused(tmp_path):
    output = tmp_path / "a.csv"
    ask_scores(lambda array: array[:, 0], numbers(), output)
    path = batches_path(output)
    path.write_bytes(path.read_bytes().replace(b'"text":"[0.126', b'"text":"[0.226'))
    with pytest.raises(LedgerInvalid, match="it was changed"):
        ask_scores(lambda array: array[:, 0], numbers(), output)
