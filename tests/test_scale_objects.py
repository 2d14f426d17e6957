"""Outputs and work in an object store: an S3 server on loopback, and what a client's library may do to us.

The server needs moto and s3fs, which are no extra: `make objects-test` brings them.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scale_ray import cluster  # noqa: F401  (a fixture)

from watermark.detect import detect
from watermark.errors import OutputsInvalid, WorkInvalid
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.scale import Addressed, Scale, score
from watermark.scale.store import Remote, store_at
from watermark.schemes import GreenList

MARK = Watermark(
    GreenList(window=1),
    next(iter(decoy_keys(b"objects", 1))),
    Binding("none", 5000, ()),
    created="2026-01-01T00:00:00+00:00",
)
BLOCKS = 6
FORMS = ("a.jsonl", "b.jsonl.gz", "c.parquet", "many")


def told(evidence) -> dict:
    return {name: value for name, value in evidence.to_json().items() if name not in ("created", "digest")}


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """The same answers in every form."""
    folder, rng = tmp_path_factory.mktemp("local"), np.random.default_rng(1)
    rows = [{"token_ids": (rng.zipf(1.2, int(rng.integers(2, 60))) % 5000).tolist()} for _ in range(BLOCKS * 512)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "a.jsonl").write_text("".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    pq.write_table(pa.Table.from_pylist(rows), folder / "c.parquet", row_group_size=700)
    (folder / "many").mkdir()
    for number in range(3):
        (folder / f"many/{number}.jsonl").write_text("".join(lines[number::3]))
    return folder


# Without a server: a client's library as it may behave.


class Client:
    """Of fsspec's interface what a store uses. Files know no `readline(size)`, as those of s3fs do not."""

    def __init__(self, objects: dict[str, bytes], error: Exception | None = None) -> None:
        self.objects, self.error, self.listed = objects, error, True

    def invalidate_cache(self) -> None:
        self.listed = False

    def info(self, path: str) -> dict[str, Any]:
        self._checked()
        if self.listed:
            return {"size": 0, "type": "directory"}
        if path not in self.objects:
            raise FileNotFoundError(path)
        return {"size": len(self.objects[path]), "type": "file", "ETag": str(hash(self.objects[path]))}

    def find(self, path: str) -> list[str]:
        self._checked()
        self.listed = True
        return [name for name in self.objects if name.startswith(f"{path}/")]

    def open(self, path: str, mode: str, block_size: int) -> Any:
        client, content = self, self.objects[path]

        class Opened:
            at = 0

            def read(self, count: int) -> bytes:
                client._checked()
                self.at += len(some := content[self.at : self.at + count])
                return some

            def seek(self, offset: int, whence: int = 0) -> int:
                self.at = (0, self.at, len(content))[whence] + offset
                return self.at

            def tell(self) -> int:
                return self.at

            def close(self) -> None:
                pass

        return Opened()

    def pipe_file(self, path: str, content: bytes) -> None:
        self._checked()
        self.objects[path] = content

    def _checked(self) -> None:
        if self.error is not None:
            raise self.error


def test_an_opened_object_is_read_line_by_line_and_sought():
    store = Remote("s3://b/in", Client({"b/in/a": b"one\ntwo\n"}), "b/in")
    with store.open("a") as stream:
        assert [stream.readline(100), stream.readline(2), stream.readline(100)] == [b"one\n", b"tw", b"o\n"]
        assert stream.seek(-4, 2) == 4
        assert stream.read() == b"two\n"


def test_what_was_listed_before_is_not_believed():
    store = Remote("s3://b/in", Client({"b/in/a": b"one", "b/in/sub/": b""}), "b/in")
    assert store.names() == ["a"], "a mark of a folder is no file"
    store.files.objects["b/in/new"] = b"four"
    assert (store.size("new"), store.size("none")) == (4, None)
    before = store.stamp("a")
    store.write("a", [b"t", b"wo"])
    assert store.stamp("a") != before


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), RuntimeError("no credentials"), TimeoutError()])
def test_what_a_library_raises_comes_out_in_words(error):
    client = Client({"b/in/a": b"one"})
    store = Remote("s3://b/in", client, "b/in")
    stream = store.open("a")
    client.error = error
    for attempt in (store.names, lambda: store.size("a"), stream.read, lambda: store.write("a", [b""])):
        with pytest.raises(WorkInvalid, match=r"s3://b/in/a? ?could not be (read|written): \w+") as found:
            attempt()
        assert "credentials" in found.value.hint
    assert client.objects["b/in/a"] == b"one"


def test_without_its_library_an_address_is_refused_with_what_to_install(monkeypatch):
    pytest.importorskip("fsspec.registry")

    for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(WorkInvalid, match=r"^s3://bucket/in needs s3fs, which is not installed$") as found:
        store_at("s3://bucket/in")
    assert found.value.hint == "pip install s3fs"


# On a server.


@pytest.fixture(scope="module")
def bucket(local):
    """A client of the server, on which all forms lie in bucket/in."""
    reason = "needs moto and s3fs: make objects-test"
    server_of = pytest.importorskip("moto.server", reason=reason).ThreadedMotoServer
    s3fs = pytest.importorskip("s3fs", reason=reason)
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = s3fs.S3FileSystem()
        client.mkdir("bucket")
        client.put(f"{local}/", "bucket/in/", recursive=True)
        yield client
    server.stop()


def streamed(form: str, work: str, *, workers: int = 1) -> dict:
    scale = Scale(f"s3://bucket/{work}", workers=workers, block_bytes=20_000)
    return told(detect(Addressed(f"s3://bucket/in/{form}"), MARK, decoys=99, scale=scale))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_evidence_is_that_of_the_local_run(bucket, local, form):
    assert streamed(form, f"work-{form}") == told(detect(local / form, MARK, decoys=99))


@pytest.mark.slow
def test_two_workers_shards_and_a_missing_one(bucket, local):
    expected = told(detect(local / "many", MARK, decoys=99))
    assert streamed("many", "two", workers=2) == expected
    source, scale = Addressed("s3://bucket/in/many"), Scale("s3://bucket/shards", block_bytes=20_000)
    score(source, MARK, scale=scale, shard=(1, 2))
    with pytest.raises(WorkInvalid, match=r"blocks are missing from s3://bucket/shards: .*\(of shard 2/2\)"):
        detect(None, MARK, scale=scale)
    for _ in range(2):
        score(source, MARK, scale=scale, shard=(2, 2))
    found = told(detect(None, MARK, decoys=99, scale=scale))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("form", ["many", "c.parquet"])
def test_a_ray_cluster_of_two_nodes_reads_and_works_in_the_store(bucket, cluster, local, form):  # noqa: F811
    """Its nodes were started with what the store's library asks of the environment."""
    scale = Scale(f"s3://bucket/ray-{form}", engine="ray", address=cluster[0], block_bytes=20_000)
    found = detect(Addressed(f"s3://bucket/in/{form}"), MARK, decoys=99, scale=scale)
    assert told(found) == told(detect(local / form, MARK, decoys=99))


CHILD = """
import sys
from watermark.detect import detect
from watermark.mark import Watermark
from watermark.scale import Addressed, Scale
source, mark, work, output = sys.argv[1:]
scale = Scale(work, workers=2, block_bytes=20_000)
detect(Addressed(source), Watermark.load(mark), decoys=299, scale=scale).save(output)
"""


@pytest.mark.slow
def test_a_run_killed_at_work_goes_on_to_the_same_evidence(bucket, local, tmp_path):
    MARK.save(tmp_path / "ours.wmark")
    output = tmp_path / "e.json"
    names = ("s3://bucket/in/a.jsonl", tmp_path / "ours.wmark", "s3://bucket/killed", output)
    command = [sys.executable, "-c", CHILD, *map(str, names)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline, work = time.monotonic() + 120, store_at("s3://bucket/killed")
    while work.size("blocks/000000.json") is None:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    subprocess.run(command, check=True)
    assert told(Evidence.load(output)) == told(detect(local / "a.jsonl", MARK, decoys=299))


@pytest.mark.slow
def test_what_is_not_there_or_not_allowed_or_changes_is_told(bucket, local):
    scale = Scale("s3://bucket/other", block_bytes=20_000)
    for address in ("s3://bucket/in/none.jsonl", "s3://nobody/a.jsonl"):
        with pytest.raises(OutputsInvalid, match=f"no outputs at {address}"):
            detect(Addressed(address), MARK, scale=scale)
    with pytest.raises(WorkInvalid, match=r"s3://nobody/work/stamps.json could not be written"):
        detect(Addressed("s3://bucket/in/a.jsonl"), MARK, scale=Scale("s3://nobody/work"))
    content = (local / "a.jsonl").read_bytes()
    bucket.pipe("bucket/changing.jsonl", content)
    score(Addressed("s3://bucket/changing.jsonl"), MARK, scale=scale, shard=(1, 2))
    bucket.pipe("bucket/changing.jsonl", content.replace(b"1, 2", b"2, 1"))
    with pytest.raises(WorkInvalid, match="whose bytes are others"):
        score(Addressed("s3://bucket/changing.jsonl"), MARK, scale=scale, shard=(2, 2))
