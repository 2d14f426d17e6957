"""Streamed detection: whatever the blocks, the workers, the order or the interruptions, the evidence is the same."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import zstandard
from wmark_cli.score import Engine, parted, scaled

from watermark.assess import tallied
from watermark.detect import detect
from watermark.errors import OutputsInvalid, ProfileMismatch, TooFewObservations, WorkInvalid
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.ledger import Ledger
from watermark.mark import Watermark
from watermark.observe import Sample
from watermark.observe.weights import Cells
from watermark.outputs import Output, Outputs
from watermark.scale import Addressed, Scale, blocks, gathered, run, score
from watermark.scale.blocks import by_name
from watermark.scale.corpus import BLOCK_BYTES, kept_corpus
from watermark.scale.once import parts_for
from watermark.scale.store import Folder, ordered, store_at
from watermark.schemes import GreenList, Tournament

KEY, OTHER = decoy_keys(b"scale", 2)
BLOCK = 20_000  # bytes: many blocks of a small input
CREATED = "2026-01-01T00:00:00+00:00"


def told(evidence) -> dict:
    """The evidence but for its date (and so its digest)."""
    return {name: value for name, value in evidence.to_json().items() if name not in ("created", "digest")}


def ids_of(rng: np.random.Generator, most: int = 60) -> list[int]:
    return (rng.zipf(1.4, int(rng.integers(0, most))) % 900).tolist()


@pytest.fixture(scope="module")
def mark(binding) -> Watermark:
    return Watermark(GreenList(window=2), KEY, binding, created=CREATED)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, texts) -> Path:
    """Text and ids, known prompts and none, with and without ids of their own, repeats, changed texts, blank lines and
    records that are bad."""
    rng, numbers = random.Random(5), np.random.default_rng(5)
    words, path = texts["english"].split(), tmp_path_factory.mktemp("mixed") / "mixed.jsonl"
    lines = []
    for n in range(1600):
        start, length = rng.randrange(len(words) - 200), rng.randrange(0, 60)
        text = " ".join(words[start : start + length])
        row: dict = {"text": text} if n % 5 else {"token_ids": ids_of(numbers)}
        row |= {"id": f"a{n}"} if n % 3 else {}
        if n % 4 == 0:
            row["prompt"] = " ".join(words[max(0, start - 9) : start + 4])
        if n % 50 == 1 and "text" in row:
            row["text"] = f"<|im_start|>user\n{text[:40]}<|im_end|>\n<|im_start|>assistant\n{text.upper()}<|im_end|>"
        if n % 60 == 2 and "text" in row:
            row["text"] = text.replace('"', "&quot;").replace(" ", "\\n", 3)
        lines.append(json.dumps(row))
        lines += [""] if n % 97 == 0 else []
        lines += ['{"txt": 1}'] if n % 301 == 7 else []
        lines += ['{"id": "bad", "text": '] if n % 500 == 9 else []
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def in_memory(mixed, mark, tokenizer) -> dict:
    return told(detect(Outputs(mixed, skip_bad=True), mark, tokenizer=tokenizer, decoys=99))


def streamed(source, mark, work, *, tokenizer=None, ledger=None, **scale) -> dict:
    made = Scale(work, **{"block_bytes": BLOCK} | scale)
    return told(detect(source, mark, tokenizer=tokenizer, ledger=ledger, decoys=99, scale=made))


@pytest.mark.parametrize("block_bytes", [1, 30_000, 1 << 30])
def test_the_evidence_is_the_same_whatever_the_blocks(mixed, mark, tokenizer, in_memory, tmp_path, block_bytes):
    found = streamed(
        Outputs(mixed, skip_bad=True), mark, tmp_path / "work", tokenizer=tokenizer, block_bytes=block_bytes
    )
    assert found == in_memory
    assert found["bad_records"] == 10
    assert len(kept_corpus(Folder(tmp_path / "work")).blocks) == (4 if block_bytes < 1 << 20 else 1)


def test_the_evidence_is_the_same_by_many_workers(mixed, mark, tokenizer, in_memory, tmp_path):
    source = Outputs(mixed, skip_bad=True)
    assert streamed(source, mark, tmp_path / "work", tokenizer=tokenizer, workers=3) == in_memory


@pytest.mark.parametrize("parts", [4, 64])
def test_the_evidence_is_the_same_however_the_reduce_is_cut(
    mixed, mark, tokenizer, in_memory, tmp_path, monkeypatch, parts
):
    monkeypatch.setattr(run, "parts_for", lambda cells: parts)
    source = Outputs(mixed, skip_bad=True)
    assert streamed(source, mark, tmp_path / "work", tokenizer=tokenizer) == in_memory
    assert len(list((tmp_path / "work/once").glob("*.json"))) == parts


def test_shards_in_any_order_then_one_reduce(mixed, mark, tokenizer, in_memory, tmp_path):
    source, scale = Outputs(mixed, skip_bad=True), Scale(tmp_path / "work", block_bytes=BLOCK)
    counts = {i: score(source, mark, scale=scale, tokenizer=tokenizer, shard=(i, 3)) for i in (3, 1)}
    with pytest.raises(WorkInvalid, match=r"1 of 4 blocks are missing .*: 1 \(of shard 2/3\)"):
        detect(None, mark, tokenizer=tokenizer, scale=scale)
    assert counts | {2: score(source, mark, scale=scale, tokenizer=tokenizer, shard=(2, 3))} == {1: 2, 2: 1, 3: 1}
    assert told(detect(None, mark, tokenizer=tokenizer, decoys=99, scale=scale)) == in_memory


def test_what_is_done_is_not_done_again(mixed, mark, tokenizer, in_memory, tmp_path, monkeypatch):
    source, work = Outputs(mixed, skip_bad=True), tmp_path / "work"
    streamed(source, mark, work, tokenizer=tokenizer)
    files = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    monkeypatch.setattr(blocks, "Reader", None)
    assert streamed(source, mark, work, tokenizer=tokenizer) == in_memory
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()} == files


def test_a_block_without_all_its_bytes_is_read_again(mixed, mark, tokenizer, in_memory, tmp_path):
    source, work = Outputs(mixed, skip_bad=True), tmp_path / "work"
    streamed(source, mark, work, tokenizer=tokenizer)
    for folder in ("once", "kept", "decoys"):
        shutil.rmtree(work / folder)
    (work / "blocks/000002.json").unlink()
    (work / "blocks/000003.cells").write_bytes((work / "blocks/000003.cells").read_bytes()[:-1])
    assert streamed(source, mark, work, tokenizer=tokenizer) == in_memory


def _rows(mixed: Path) -> list[dict]:
    """The rows of `mixed` that a table can hold."""
    return [{"id": o.id, "text": o.text, "token_ids": None if o.token_ids is None else list(o.token_ids),
             "prompt": o.prompt} for o in Outputs(mixed, skip_bad=True)]  # fmt: skip


def _table(rows: list[dict]) -> pa.Table:
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("token_ids", pa.list_(pa.int64())),
                        ("prompt", pa.string())])  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def _forms(mixed: Path, folder: Path, form: str) -> Path:
    """The answers of `mixed` in another form."""
    if form in ("gz", "zst"):
        lines = "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in _rows(mixed))
        packed = gzip.compress if form == "gz" else zstandard.ZstdCompressor().compress
        (folder / f"a.jsonl.{form}").write_bytes(packed(lines.encode()))
        return folder / f"a.jsonl.{form}"
    if form == "parquet":
        pq.write_table(_table(_rows(mixed)), folder / "a.parquet", row_group_size=700)
        return folder / "a.parquet"
    rows, made = _rows(mixed), folder / "many"
    made.mkdir()
    for number, start in enumerate(range(0, len(rows), 600)):
        some = _table(rows[start : start + 600])
        if form == "folder of parquet":
            pq.write_table(some, made / f"{9 - number}.parquet", row_group_size=300)
        elif form == "folder of arrow":
            path = str(made / f"data-{number}.arrow")
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, some.schema) as stream:
                stream.write_table(some, max_chunksize=200)
        else:
            lines = "".join(json.dumps({"text": row["text"] or "none"}) + "\n" for row in some.to_pylist())
            (made / f"{number}.jsonl").write_text(lines)
    (made / "README.md").write_text("what this is")
    return made


@pytest.mark.parametrize("form", ["gz", "zst", "parquet", "folder of parquet", "folder of arrow", "folder of lines"])
def test_the_evidence_is_the_same_in_every_form(mixed, mark, tokenizer, tmp_path, form):
    source = _forms(mixed, tmp_path, form)
    expected = told(detect(source, mark, tokenizer=tokenizer, decoys=99))
    assert streamed(source, mark, tmp_path / "work", tokenizer=tokenizer, block_bytes=20_000) == expected
    assert len(kept_corpus(Folder(tmp_path / "work")).blocks) >= 3


def test_other_names_of_fields_and_ids_that_are_places(tmp_path, mark):
    rng, path = np.random.default_rng(3), tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"tokens": ids_of(rng), "junk": 1}) + "\n" for _ in range(1100)))
    source = Outputs(path, fields={"token_ids": "tokens", "id": "name"})
    expected = told(detect(source, mark, decoys=99))
    assert streamed(source, mark, tmp_path / "work") == expected
    assert expected["documents"][-1]["id"] == "1099"
    again = told(detect(None, mark, decoys=99, scale=Scale(tmp_path / "work")))
    assert again == expected, "the folder knows what its run was given"


def test_graded_schemes_and_other_windows(tmp_path, binding):
    rng, path = np.random.default_rng(4), tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "token_ids": ids_of(rng)}) + "\n" for n in range(1100)))
    for scheme in (Tournament(window=1), GreenList(window=4)):
        graded = Watermark(scheme, KEY, binding, created=CREATED)
        expected = told(detect(path, graded, decoys=99))
        assert streamed(path, graded, tmp_path / f"work{scheme.window}") == expected


def test_a_ledger_filters_as_in_memory(tmp_path, mark):
    rng, path = np.random.default_rng(6), tmp_path / "a.jsonl"
    rows = [ids_of(rng) for _ in range(1100)]
    path.write_text("".join(json.dumps({"id": str(n), "token_ids": row}) + "\n" for n, row in enumerate(rows)))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for n in range(0, 200):
            ledger.append(id=str(n), receipt={}, prompt="", token_ids=rows[n], kid=mark.key.kid)
    expected = told(detect(path, mark, ledger=tmp_path / "ledger.jsonl", decoys=99))
    assert streamed(path, mark, tmp_path / "work", ledger=tmp_path / "ledger.jsonl", workers=2) == expected
    assert expected["skipped"]["window not in the ledger"] > 0
    assert (tmp_path / "work/served.filter").stat().st_mode & 0o077 == 0
    with pytest.raises(WorkInvalid, match="the ledger is another"):
        streamed(path, mark, tmp_path / "work")


def test_marks_of_accounts_read_their_own_windows_and_leave_no_key_behind(tmp_path, binding):
    from watermark.accounts import Accounts

    rng, path = np.random.default_rng(8), tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"token_ids": ids_of(rng)}) + "\n" for _ in range(1100)))
    shared = Watermark(GreenList(window=2), KEY, binding, created=CREATED, accounts=Accounts())
    for number, each in enumerate((shared, shared.account("acme"))):
        work = tmp_path / f"work{number}"
        assert streamed(path, each, work, workers=2) == told(detect(path, each, decoys=99))
        with pytest.raises(WorkInvalid, match="shared out by a key, which is not sent"):
            streamed(path, each, tmp_path / f"ray{number}", engine="ray")
    secret = KEY._export()[0]
    for file in tmp_path.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert secret not in content
        assert secret.hex().encode() not in content


def test_all_keys_of_a_set_are_tested(tmp_path, binding):
    from keyring_tools import fixed_set

    rng, path = np.random.default_rng(9), tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"token_ids": ids_of(rng)}) + "\n" for _ in range(1100)))
    keys = fixed_set(b"scale", 3, scheme=GreenList(window=2), binding=binding)
    for stopped in (False, True):
        expected = told(detect(path, keys, decoys=99, stopped=stopped))
        work = Scale(tmp_path / "work", block_bytes=BLOCK)
        assert told(detect(path, keys, decoys=99, stopped=stopped, scale=work)) == expected


def test_plans_and_query_logs_count_as_in_memory(tmp_path, mark, tokenizer):
    """A watched run is one whose e-process decides; the folder remembers it."""
    from watermark.plan import plan
    from watermark.probe.log import QueryLog, log_path

    rng, path, asked = np.random.default_rng(11), tmp_path / "a.jsonl", tmp_path / "probes.jsonl"
    prompts = [f"What is {n} good for?" for n in range(1100)]
    asked.write_text("".join(json.dumps({"id": str(n), "prompt": text}) + "\n" for n, text in enumerate(prompts)))
    path.write_text("".join(json.dumps({"token_ids": ids_of(rng), "prompt": text}) + "\n" for text in prompts))
    QueryLog(log_path(path), {"suspect": {"model": "m"}, "watched": True}).close()
    made = plan(mark, access="text", prompts=asked, tokens_per_answer=30, slope=4.0)
    options = {"plan": made, "exploratory": True, "alpha": made.level, "tokenizer": tokenizer}
    scale = Scale(tmp_path / "work", block_bytes=BLOCK)
    expected = told(detect(path, mark, **options))
    assert told(detect(path, mark, scale=scale, **options)) == expected
    assert expected["plan"]["status"] == "exploratory"
    assert expected["options"]["stopped"]
    assert detect(None, mark, tokenizer=tokenizer, scale=scale, decoys=99).method.startswith("e-process")
    with pytest.raises(ValueError, match="held against the prompts"):
        detect(None, mark, scale=scale, **options)


def test_a_watched_run_is_one_in_a_folder_too(tmp_path, mark, monkeypatch):
    """The log lies beside the answers, so within the folder; passing that does not turn the e-process off."""
    from watermark.probe.log import QueryLog, log_path

    folder, rng = tmp_path / "answers", np.random.default_rng(11)
    folder.mkdir()
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"token_ids": ids_of(rng)}) + "\n" for _ in range(200)))
    assert not detect(folder, mark, decoys=99).options["stopped"]
    QueryLog(log_path(path), {"suspect": {"model": "m"}, "watched": True}).close()
    expected = told(detect(folder, mark, decoys=99))
    assert expected["options"]["stopped"]
    assert streamed(folder, mark, tmp_path / "work") == expected
    monkeypatch.chdir(folder)
    assert detect(".", mark, decoys=99).options["stopped"]


# What does not belong together is refused in words.


@pytest.mark.parametrize(
    "other",
    ["mark", "tokenizer", "skip_bad", "outputs", "name", "version"],
)
def test_another_runs_folder_is_refused(mixed, mark, tokenizer, tmp_path, monkeypatch, other):
    work, path = tmp_path / "work", tmp_path / "mixed.jsonl"
    shutil.copy(mixed, path)
    streamed(Outputs(path, skip_bad=True), mark, work, tokenizer=tokenizer)
    skip_bad, said = True, {"mark": "the mark is another", "tokenizer": "the tokenizer is another"}
    if other == "mark":
        mark = Watermark(mark.scheme, OTHER, mark.binding, created=CREATED)
    if other == "tokenizer":
        tokenizer = None
    if other == "skip_bad":
        skip_bad, said[other] = False, "the rule for bad records is another"
    if other == "name":
        path = path.rename(tmp_path / "other.jsonl")
        said[other] = "the same bytes under the name mixed.jsonl"
    if other == "outputs":
        with path.open("a") as stream:
            stream.write('{"text": "one more"}\n')
        said[other] = "mixed.jsonl, whose bytes are others"
    if other == "version":
        monkeypatch.setattr(run, "version", lambda name: "0.0.1")
        said[other] = "the version of wmark is another"
    with pytest.raises(WorkInvalid, match=said[other]):
        streamed(Outputs(path, skip_bad=skip_bad), mark, work, tokenizer=tokenizer)


def test_a_block_of_another_run_is_refused(mixed, mark, tokenizer, tmp_path):
    other = Watermark(mark.scheme, OTHER, mark.binding, created=CREATED)
    scale = {name: Scale(tmp_path / name, block_bytes=BLOCK) for name in ("ours", "theirs")}
    for each, name in ((mark, "ours"), (other, "theirs")):
        score(Outputs(mixed, skip_bad=True), each, scale=scale[name], tokenizer=tokenizer)
    for kind in ("json", "cells"):
        shutil.copy(tmp_path / f"theirs/blocks/000001.{kind}", tmp_path / f"ours/blocks/000001.{kind}")
    with pytest.raises(WorkInvalid, match="block 1 .* does not belong to this run: the mark is another"):
        detect(None, mark, tokenizer=tokenizer, scale=scale["ours"])


def test_an_input_that_changes_under_way_is_noticed(mixed, mark, tokenizer, tmp_path):
    path, scale = tmp_path / "a.jsonl", Scale(tmp_path / "work", block_bytes=BLOCK)
    shutil.copy(mixed, path)
    source = Outputs(path, skip_bad=True)
    score(source, mark, scale=scale, tokenizer=tokenizer, shard=(1, 2))
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"the", b"teh"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as many bytes, at the same time
    with pytest.raises(WorkInvalid, match="has changed since its blocks were laid out"):
        score(source, mark, scale=scale, tokenizer=tokenizer, shard=(2, 2))


def test_a_folder_that_holds_nothing_or_something_else(mark, tmp_path):
    with pytest.raises(WorkInvalid, match="nothing was read into"):
        detect(None, mark, scale=Scale(tmp_path))
    (tmp_path / "corpus.json").write_text('{"format": "a corpus of another kind"}')
    with pytest.raises(WorkInvalid, match="its format should be wmark-corpus/1"):
        detect(None, mark, scale=Scale(tmp_path))


@pytest.mark.parametrize("inside", ["", "case"])
def test_work_within_the_outputs_is_refused_before_it_changes_them(mixed, mark, tokenizer, tmp_path, inside):
    """What is kept there would be read as answers the next time, and the evidence would name other bytes."""
    folder = _forms(mixed, tmp_path, "folder of lines")
    before = sorted(folder.rglob("*"))
    with pytest.raises(WorkInvalid, match="lies in the folder of the outputs"):
        streamed(Outputs(folder), mark, folder / inside, tokenizer=tokenizer)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_records_raise_the_first_error_that_reading_in_memory_raises(mixed, mark, tokenizer, tmp_path, workers):
    with pytest.raises(OutputsInvalid) as expected:
        detect(mixed, mark, tokenizer=tokenizer)
    with pytest.raises(OutputsInvalid) as found:
        streamed(mixed, mark, tmp_path / "work", tokenizer=tokenizer, workers=workers)
    assert (str(found.value), found.value.hint) == (str(expected.value), expected.value.hint)


def test_other_errors_are_those_of_reading_in_memory(mark, tmp_path):
    cases: dict[str, tuple[str, type]] = {
        "empty": ("\n", OutputsInvalid),
        "few": ('{"token_ids": [1, 2, 3, 4]}\n', TooFewObservations),
        "wide": ('{"token_ids": [1, 2, 99999]}\n' * 60, ProfileMismatch),
        "text": ('{"text": "no tokenizer was given"}\n', OutputsInvalid),
    }
    for name, (content, kind) in cases.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(content)
        with pytest.raises(kind) as expected:
            detect(path, mark)
        with pytest.raises(kind) as found:
            streamed(path, mark, tmp_path / name)
        assert str(found.value) == str(expected.value)


def test_an_address_without_a_work_folder_is_refused(mark):
    with pytest.raises(OutputsInvalid, match="s3://bucket/suspect is an address") as error:
        detect(Addressed("s3://bucket/suspect"), mark)
    assert "--work" in error.value.hint


def test_options_that_make_no_sense_are_refused(mark, tmp_path, mixed):
    for wrong in ({"workers": 0}, {"engine": "spark"}, {"address": "auto"}):
        with pytest.raises(ValueError, match="worker|engine|address"):
            Scale(tmp_path, **wrong)
    scale = Scale(tmp_path)
    for wrong in ({"samples": True}, {"cells": tmp_path / "cells"}):
        with pytest.raises(ValueError, match="work folder|in memory"):
            detect(mixed, mark, scale=scale, **wrong)
    with pytest.raises(ValueError, match="pass that as the outputs"):
        detect([Output("a", text="a")], mark, scale=scale)
    with pytest.raises(ValueError, match="only a work folder"):
        detect(None, mark)
    with pytest.raises(ValueError, match="i of n"):
        score(mixed, mark, scale=scale, shard=(3, 2))


# The parts.


def test_a_shard_of_nothing_and_a_folder_that_is_a_file_are_refused(mark, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(OutputsInvalid, match="holds no outputs: it is empty"):
        score(tmp_path / "empty.jsonl", mark, scale=Scale(tmp_path / "work"))
    with pytest.raises(WorkInvalid, match="is a file, needed is a folder to work in"):
        score(tmp_path / "empty.jsonl", mark, scale=Scale(tmp_path / "empty.jsonl"))


def test_names_in_order_are_those_of_a_stable_sort():
    rng = np.random.default_rng(1)
    for count, spread in ((1, 1), (1000, 50), (5000, 2**64 - 1), (4096, 1 << 20)):
        ids = rng.integers(0, spread, count, dtype=np.uint64, endpoint=True)
        ids[: count // 3] |= np.uint64(1 << 63)  # many agree in the upper bits, and differ in the lower
        expected = np.argsort(ids, kind="stable")
        order, first = by_name(ids)
        assert np.array_equal(order, expected)
        assert np.array_equal(np.sort(order[first]), np.sort(np.unique(ids, return_index=True)[1]))
    assert len(by_name(np.empty(0, np.uint64))[0]) == 0


def test_parts_are_powers_of_two_within_the_edges():
    assert [parts_for(n) for n in (0, 1 << 20, 100_000_000, 10**12)] == [1, 2, 128, 4096]


def test_files_come_in_the_order_of_paths():
    names = ["b.jsonl", "a.jsonl", "a/c.jsonl", "a-1.jsonl"]
    assert ordered(names) == [path.as_posix() for path in sorted(map(Path, names))]


def test_a_store_writes_whole_or_not_at_all(tmp_path):
    store = Folder(tmp_path)
    store.write("a/b", [b"old"])

    def broken():
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write("a/b", broken())
    assert store.read("a/b") == b"old"
    assert store.names() == ["a/b"]


def test_addresses_of_fsspec_hold_input_and_work(mixed, mark, tokenizer, in_memory):
    pytest.importorskip("fsspec")
    store = store_at("memory://bucket/in")
    store.write("mixed.jsonl", [mixed.read_bytes()])
    source = Addressed("memory://bucket/in/mixed.jsonl", skip_bad=True)
    assert streamed(source, mark, "memory://bucket/work", tokenizer=tokenizer) == in_memory
    assert told(detect(None, mark, tokenizer=tokenizer, decoys=99, scale=Scale("memory://bucket/work"))) == in_memory
    assert store_at("memory://bucket/work").size("corpus.json")
    assert isinstance(store_at(f"file://{mixed.parent}"), Folder)
    with pytest.raises(WorkInvalid, match="no address"):
        store_at("nonsense://bucket")


def test_scores_are_let_go_part_by_part(mark):
    """A stream of two million cells in parts of fifty thousand: what is kept of them is one number an answer."""
    windows, choices = np.zeros((50_000, 2), np.uint32), np.zeros(50_000, np.uint32)
    part = Cells(windows, choices, np.arange(50_000) // 500, {"votes": np.ones(50_000, np.int32)})
    shown = (Sample("a", np.arange(9), np.arange(9)),)
    seen = SimpleNamespace(samples=shown, names=[""] * 100, chunks=lambda: (part for _ in range(40)))
    tallied(seen, mark)
    tracemalloc.start()
    found = tallied(seen, mark)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.cells.sum() == 2_000_000
    assert len(found.first) == 9
    assert held < 100_000, "no more than the counts of a hundred answers"
    assert peak < 60 * 50_000, "under 60 bytes a cell of one part"


def test_the_cells_of_a_corpus_are_never_in_memory_at_once(mixed, mark, tokenizer, tmp_path):
    scale = Scale(tmp_path / "work", block_bytes=BLOCK)
    with gathered(Outputs(mixed, skip_bad=True), mark, scale=scale, tokenizer=tokenizer) as found:
        sizes = [len(chunk.choices) for chunk in found.seen.chunks()]
        assert sum(sizes) == len(found.seen)
        assert len(sizes) == 4
        assert found.seen.weights["votes"].strides == (0,)


# Interruptions, as a person or a machine makes them.

CLI = [sys.executable, "-m", "wmark_cli"]


def _command(mixed: Path, saved: Path, work: Path, *more: str) -> list[str]:
    made = [*CLI, "detect", mixed, "--mark", saved, "--work", work, "--skip-bad", "--decoys", 99, *more]
    return list(map(str, made))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, mark) -> Path:
    path = tmp_path_factory.mktemp("mark") / "ours.wmark"
    mark.save(path)
    return path


def _until(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


CHILD = """
import sys
from watermark.detect import detect
from watermark.mark import Watermark
from watermark.scale import Scale
source, mark, work, output = sys.argv[1:]
scale = Scale(work, workers=2, block_bytes=20_000)
detect(source, Watermark.load(mark), decoys=2999, scale=scale).save(output)
"""


@pytest.mark.slow
def test_a_run_killed_in_every_stage_goes_on_to_the_same_evidence(mark, saved, tmp_path):
    """kill -9 of all its processes: while reading, reducing, and scoring under decoys."""
    rng, source = np.random.default_rng(2), tmp_path / "ids.jsonl"
    source.write_text("".join(json.dumps({"token_ids": ids_of(rng)}) + "\n" for _ in range(12 * 512)))
    work, output = tmp_path / "work", tmp_path / "e.json"
    command = [sys.executable, "-c", CHILD, *map(str, (source, saved, work, output))]
    for pattern in ("blocks/*.json", "kept/*.json", "decoys/*/*"):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        _until(lambda pattern=pattern: list(work.glob(pattern)), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not output.exists()
    assert len(list(work.glob("decoys/*/*"))) < 12, "it was killed at its end"
    subprocess.run(command, check=True)
    assert told(Evidence.load(output)) == told(detect(source, mark, decoys=2999))


@pytest.fixture(scope="module")
def padded(tmp_path_factory) -> Path:
    """Several blocks of the size that the command line takes, with few ids in them."""
    path, rng = tmp_path_factory.mktemp("padded") / "ids.jsonl", np.random.default_rng(2)
    with path.open("w") as stream:
        for n in range(3 * 512):
            stream.write(json.dumps({"id": str(n), "token_ids": ids_of(rng), "meta": {"note": "x" * 8200}}) + "\n")
        assert stream.tell() > 3 * BLOCK_BYTES
    return path


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_from_which_the_run_goes_on(padded, mark, saved, tmp_path):
    work, output = tmp_path / "work", tmp_path / "e.json"
    command = _command(padded, saved, work, "--workers", "2", "--output", str(output))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _until(lambda: list(work.glob("blocks/*.json")), process)
    process.send_signal(signal.SIGINT)
    words = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "interrupted; finished work is on disk" in words
    assert "run the same command again to go on" in words
    assert "Traceback" not in words
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    source = Outputs(padded, skip_bad=True)
    assert told(Evidence.load(output)) == told(detect(source, mark, tokenizer=mark.tokenizer(), decoys=99))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_of_and_its_block_read_again(padded, saved, tmp_path):
    process = subprocess.Popen(
        _command(padded, saved, tmp_path / "work", "--workers", "2"), stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _until(lambda: len(children.read_text().split()) == 2, process)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    words = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "a worker process ended (code -9)" in words
    assert "run the same command again, with fewer workers" in words


def test_the_commands_read_shards_and_reduce_them(mixed, mark, saved, in_memory, tmp_path):
    run_it = lambda *a: subprocess.run([*CLI, *map(str, a)], cwd=tmp_path, capture_output=True, text=True)  # noqa: E731
    shard = ("score", mixed, "--mark", saved, "--work", "case", "--skip-bad", "--quiet", "--shard")
    done = run_it(*shard, "1/2")
    assert done.returncode == 0, done.stderr
    assert "when all shards are, run `wmark detect --work case`" in done.stderr
    assert run_it(*shard, "2/2").returncode == 0
    done = run_it("detect", "--mark", saved, "--work", "case", "--decoys", 99, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: value for name, value in found.items() if name not in ("created", "digest")} == json.loads(
        json.dumps(in_memory)
    )


def test_options_of_the_command_line_that_make_no_sense_are_refused():
    for shard in ("3/2", "0/2", "a/b", "1"):
        with pytest.raises(typer.BadParameter, match="--shard should read i/n"):
            parted(shard)
    for wrong in ((None, 2, Engine.local, None), (None, 1, Engine.ray, None), ("work", 1, Engine.local, "auto")):
        with pytest.raises(typer.BadParameter, match="go with --work|pass --engine ray"):
            scaled(*wrong)
    assert scaled(None, 1, Engine.local, None) is None
    done = subprocess.run([*CLI, "detect", "--mark", "m", "--work", "w", "--samples"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--work is for text" in " ".join(done.stderr.split())
