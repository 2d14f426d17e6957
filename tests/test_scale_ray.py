"""The same evidence on a Ray cluster: two nodes on loopback, and one of them killed while it works.

Needs the extra `ray`. What Ray calls is tested without it too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from watermark.detect import detect
from watermark.errors import ExtraMissing, OutputsInvalid, WorkInvalid
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.scale import Scale
from watermark.scale.engines import _Task
from watermark.scale.job import Bench, Job, keyless
from watermark.schemes import GreenList

MARK = Watermark(
    GreenList(window=1),
    next(iter(decoy_keys(b"ray", 1))),
    Binding("none", 5000, ()),
    created="2026-01-01T00:00:00+00:00",
)
BLOCKS = 24
os.environ["RAY_AUTH_MODE"] = "disabled"  # else a token that lies in the home folder is asked of some and not of others


def told(evidence) -> dict:
    return {name: value for name, value in evidence.to_json().items() if name not in ("created", "digest")}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path, rng = tmp_path_factory.mktemp("source") / "ids.jsonl", np.random.default_rng(1)
    with path.open("w") as stream:
        for _ in range(BLOCKS * 512):
            stream.write(json.dumps({"token_ids": (rng.zipf(1.2, int(rng.integers(2, 60))) % 5000).tolist()}) + "\n")
    return path


def test_what_ray_calls_gives_what_this_process_gives(source, tmp_path):
    """A row goes in as JSON and comes out as JSON; doing it twice changes nothing."""
    detect(source, MARK, decoys=99, scale=Scale(tmp_path / "work", block_bytes=20_000))
    job = Job(
        work=str(tmp_path / "work"), source=str(source.parent), told=str(source), folder=False, skip_bad=False,
        fields={}, mark=keyless(MARK), routing=None, tokenizer=None, served=False,
    )  # fmt: skip
    row = {"position": 3, "argument": json.dumps({"block": 5, "shard": None})}
    (tmp_path / "work/blocks/000005.json").unlink()
    before = (tmp_path / "work/blocks/000005.cells").read_bytes()
    for _ in range(2):
        assert _Task(job.to_json(), "read")(row) == {"position": 3, "result": '{"answers": 512}'}
    assert (tmp_path / "work/blocks/000005.cells").read_bytes() == before
    assert Bench(job).mark.key != MARK.key, "no key goes to a cluster"
    assert MARK.key._export()[0].hex() not in job.to_json()


def test_without_ray_its_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraMissing, match="--engine ray needs ray") as found:
        detect(source, MARK, scale=Scale(tmp_path, engine="ray"))
    assert found.value.hint == "pip install 'wmark[ray]'"


def test_where_nobody_listens_there_is_no_cluster(source, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(WorkInvalid, match=r"no Ray cluster at 127\.0\.0\.1:1: ") as found:
        detect(source, MARK, scale=Scale(tmp_path, engine="ray", address="127.0.0.1:1"))
    assert "ray start --head" in found.value.hint


def _below(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        own = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(each for child in own for each in _below(child))]


def _works(pid: int) -> bool:
    """Whether a process is a Ray worker in the middle of one of our tasks."""
    try:
        return b"_Task" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Node:
    """A node of one processor, by `ray start` in the foreground."""

    def __init__(self, *options: str) -> None:
        program = [sys.executable, "-m", "ray.scripts.scripts"]  # `ray`, of which an environment may have no copy
        command = [*program, "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
        self.process = subprocess.Popen(
            [*command, "--object-store-memory=100000000", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        """All its processes at once, as a machine that loses its power."""
        for pid in reversed(_below(self.process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


PORT = 26_379
ABSENT: list[str] = []  # why there is no cluster, once that was tried


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(address, the second node): two nodes, each with an address of its own on loopback."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    if ABSENT:
        pytest.skip(ABSENT[0])
    short = Path("/tmp") / f"wmark-ray-{os.getpid()}"  # a socket's path has 107 bytes at most
    address = f"127.0.0.1:{PORT}"
    head = Node(
        "--head", f"--port={PORT}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={short}"
    )
    second = None
    try:
        _connected(ray, address)
        second = Node(f"--address={address}", "--node-ip-address=127.0.0.2")
        deadline = time.monotonic() + 120
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            _still(deadline, "the second node")
            time.sleep(0.2)
        yield address, second
    finally:
        ray.shutdown()
        for node in (second, head):
            if node is not None:
                node.kill()
        shutil.rmtree(short, ignore_errors=True)


def _still(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        ABSENT.append(f"no cluster can be started here: {what} did not come in two minutes")
        pytest.skip(ABSENT[0])


def _connected(ray, address: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            ray.init(address=address, _node_ip_address="127.0.0.1", log_to_driver=False)
            return
        except (ConnectionError, RuntimeError, ValueError):
            _still(deadline, "the head node")
            time.sleep(0.5)


@pytest.mark.slow
def test_two_nodes_give_the_same_evidence(cluster, source, tmp_path):
    address, _ = cluster
    scale = Scale(f"file://{tmp_path}/work", engine="ray", address=address, block_bytes=20_000)
    assert told(detect(source, MARK, decoys=99, scale=scale)) == told(detect(source, MARK, decoys=99))
    assert len(list((tmp_path / "work/blocks").glob("*.json"))) == BLOCKS


@pytest.mark.slow
def test_errors_come_back_from_the_cluster_as_they_are_in_memory(cluster, source, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(source.read_text().replace("[", '["', 1).replace('{"token_ids": ', '{"tokn_ids": ', 1))
    with pytest.raises(OutputsInvalid) as expected:
        detect(path, MARK)
    with pytest.raises(OutputsInvalid) as found:
        detect(path, MARK, scale=Scale(tmp_path / "work", engine="ray", address=cluster[0], block_bytes=20_000))
    assert (str(found.value), found.value.hint) == (str(expected.value), expected.value.hint)


@pytest.mark.slow
def test_a_node_that_is_killed_at_work_changes_nothing(cluster, source, tmp_path):
    """The last of this file, for the node is gone after it."""
    address, second = cluster
    seen = threading.Event()

    def killer() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if any(map(_works, _below(second.process.pid))) and list((tmp_path / "work/blocks").glob("*.json")):
                seen.set()
                second.kill()
                return
            time.sleep(0.002)

    watching = threading.Thread(target=killer)
    watching.start()
    scale = Scale(tmp_path / "work", engine="ray", address=address, block_bytes=20_000)
    found = told(detect(source, MARK, decoys=99, scale=scale))
    watching.join()
    assert seen.is_set(), "the second node never took a task"
    assert found == told(detect(source, MARK, decoys=99))
