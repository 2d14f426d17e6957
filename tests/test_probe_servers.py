"""Asking real servers. `transformers serve` runs here; others are asked by hand, with benchmarks/probe_servers.py."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from watermark import Outputs
from watermark.errors import OutputsInvalid
from watermark.probe import Draw, Endpoint, Limits, ask, log_path, open_suspect, read_log, verify_log
from watermark.prompts import Prompt
from watermark.tokenizer import model_path

PROMPTS = [Prompt(f"p{i}", text, ({"role": "user", "content": text},)) for i, text in enumerate((
    "Tell a short story about a clever badger.", "Explain to a child what a rope is for.", "Describe a kind baker.",
))]  # fmt: skip
MODEL = str(model_path("demo"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of `transformers serve` with the demo's model."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("needs pip install 'wmark[servers]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("transformers"), "serve", MODEL, "--device", "cpu"]
    with (folder / "log").open("wb") as said:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=quiet, stdout=said, stderr=said
        )
        try:
            _await(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _await(address, server, log):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_transformers_serve_is_asked_and_its_answers_are_read(served, tmp_path, api):
    out = tmp_path / "answers.jsonl"
    suspect = Endpoint.open(served, model=MODEL, api=api, key_env="NO_KEY")
    done = ask(suspect, PROMPTS, out, draw=Draw(max_new_tokens=12, seed=1), samples=2, consistency=2)
    assert (done.ended, done.answers) == ("all answered", 6)
    assert done.model == f"{MODEL}@main"
    assert done.consistency == {"asked": 2, "changed": 0}
    assert sum(bool(output.text) for output in Outputs(out)) >= 4  # so small a model may end at once
    assert {line["usage"]["completion"] for line in read_log(log_path(out))[1]} <= set(range(1, 13))
    assert len({json.loads(line)["text"] for line in out.read_text().splitlines()}) >= 4
    verify_log(log_path(out), answers=out)


@pytest.mark.slow
def test_transformers_serve_takes_no_notice_of_logprobs_and_we_say_so(served, tmp_path):
    suspect = Endpoint.open(served, model=MODEL, key_env="NO_KEY")
    with pytest.raises(OutputsInvalid, match="gives no log-probabilities, though they were asked for"):
        ask(suspect, PROMPTS, tmp_path / "a.jsonl", draw=Draw(max_new_tokens=4, logprobs=5), limits=Limits(1))


@pytest.mark.slow
def test_transformers_serve_lists_no_model_and_we_ask_for_its_name(served):
    with pytest.raises(OutputsInvalid, match="lists no model .*one has to be named") as said:
        open_suspect(served, key_env="NO_KEY")
    assert "--model NAME" in said.value.hint
