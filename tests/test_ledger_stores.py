"""The ledger's stores: the same records and hashes wherever they lie, and a chain that several writers do not fork."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_stores import missing_postgres, postgres

from watermark.errors import ExtraMissing, LedgerInvalid, OutputsInvalid, ReportInvalid
from watermark.ledger import (
    Answer,
    Ledger,
    Record,
    copy_ledger,
    described,
    is_ledger,
    noted_head,
    overview,
    read_ledger,
    selection,
    shown,
)

KID, OTHER = "0123456789abcdef", "fedcba9876543210"
# a zero byte, a control character, an emoji, a quote: what databases and JSON write in their own ways
PROMPTS = ['Say "hello"\tto\x00\x1b[1m Zoë\x07 🙂', "two\nlines\r\n", ""]
RECEIPT = {"temperature": 0.7, "rate": 2.5e-07, "model": "teacher\x1f\x00"}
STORES = ("jsonl", "sqlite", "postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    why = missing_postgres()
    if why:
        pytest.skip(why)
    with postgres() as url:
        yield url


@pytest.fixture(params=STORES)
def where(request, tmp_path) -> Iterator[str]:
    """An empty place of each kind that can be written."""
    if request.param != "postgresql":
        yield str(tmp_path / f"served.{request.param}")
        return
    yield emptied(request.getfixturevalue("server"))


def emptied(url: str) -> str:
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS wmark_header, wmark_records")
    return url


def answers(count: int, *, kid: str = KID, start: int = 0) -> list[Answer]:
    return [
        Answer(f"a{i}", kid, RECEIPT, PROMPTS[i % 3], [i, 0, 65536 + i, 2**32 - 1]) for i in range(start, start + count)
    ]


def written(where: str | Path, count: int = 3, *, mode: str = "full") -> list[Record]:
    with Ledger(where, mode=mode) as ledger:
        return ledger.append_many(answers(count))


@pytest.mark.parametrize("mode", ["full", "hash-only"])
def test_what_was_appended_is_read_back(where, mode):
    with Ledger(where, mode=mode) as ledger:
        made = ledger.append_many(answers(2))
        made.append(ledger.append("b", kid="", receipt={}, prompt="", token_ids=[]))
        assert (ledger.length, ledger.head) == (3, made[-1].hash)
    assert (ledger.length, ledger.head) == (3, made[-1].hash)
    assert list(read_ledger(where)) == made
    assert [record.seq for record in made] == [0, 1, 2]
    assert (made[0].prompt is None) == (mode == "hash-only")
    assert is_ledger(where)


def test_reopened_ledger_goes_on(where):
    written(where)
    with Ledger(where) as ledger:
        assert (ledger.mode, ledger.length, ledger.ids) == ("full", 3, {"a0", "a1", "a2"})
        ledger.append_many(answers(1, start=3))
        ledger.append_many([])
    assert [record.id for record in read_ledger(where)] == ["a0", "a1", "a2", "a3"]
    with pytest.raises(LedgerInvalid, match="cannot become hash-only"):
        Ledger(where, mode="hash-only")


def test_this_very_answer_is_known_again_and_no_other(where):
    for mode in ("full", "hash-only"):
        if mode == "hash-only":
            where = emptied(where) if where.startswith("postgres") else where.replace("served", "hashed")
        with Ledger(where, mode=mode) as ledger:
            ledger.append("a", kid=KID, receipt={}, prompt="p", token_ids=[1, 2])
            ledger.append("a", kid=KID, receipt={}, prompt="p", token_ids=[7])
            assert ledger.holds("a", prompt="p", token_ids=[1, 2])
            assert ledger.holds("a", prompt="p", token_ids=[7])
            assert not ledger.holds("a", prompt="p", token_ids=[2, 1])
            assert not ledger.holds("b", prompt="p", token_ids=[1, 2])


def test_what_cannot_be_written_leaves_the_ledger_as_it_was(where):
    written(where)
    with Ledger(where) as ledger:
        bad = Answer("x", KID, {"rate": float("nan")}, "p", [1])
        with pytest.raises(ValueError, match="JSON"):
            ledger.append_many([*answers(2, start=3), bad])
        assert ledger.length == 3
        ledger.append_many(answers(1, start=3))
    assert [record.id for record in read_ledger(where)] == ["a0", "a1", "a2", "a3"]


def test_token_ids_beyond_32_bits_are_refused_by_a_database(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(LedgerInvalid, match="does not fit into 32 bits"):
        ledger.append("a", kid=KID, receipt={}, prompt="", token_ids=[2**32])


def test_threads_share_an_open_ledger(where):
    with Ledger(where) as ledger:
        threads = [
            threading.Thread(target=lambda n=n: [ledger.append_many(answers(2, start=10 * n)) for _ in range(5)])
            for n in range(4)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(list(read_ledger(where))) == 40


# ---- copies: the same chain in another store


def test_copies_keep_every_hash_and_export_to_the_same_bytes(where, tmp_path):
    made = written(where, 5)
    for name in ("copy.jsonl", "copy.sqlite", "copy.parquet"):
        assert copy_ledger(where, tmp_path / name) == 5
        assert list(read_ledger(tmp_path / name)) == made
        again = tmp_path / f"again-{name}.jsonl"
        copy_ledger(tmp_path / name, again)
        assert again.read_bytes() == (tmp_path / "copy.jsonl").read_bytes()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_evidence_names_the_records_not_the_store(where, tmp_path):
    written(where)
    copy_ledger(where, tmp_path / "copy.jsonl")
    copy_ledger(where, tmp_path / "copy.sqlite")
    told = [described(place) for place in (where, tmp_path / "copy.jsonl", tmp_path / "copy.sqlite")]
    assert len({(t["bytes"], t["sha256"]) for t in told}) == 1
    assert told[1]["bytes"] == (tmp_path / "copy.jsonl").stat().st_size


def test_a_copy_goes_on_and_refuses_another_ledger(where, tmp_path):
    written(where, 3)
    target = tmp_path / "copy.sqlite"
    assert copy_ledger(where, target) == 3
    with Ledger(where) as ledger:
        ledger.append_many(answers(4, start=3))
    assert copy_ledger(where, target) == 4
    assert copy_ledger(where, target) == 0
    with Ledger(target) as ledger:
        ledger.append_many(answers(1, start=90))
    with pytest.raises(LedgerInvalid, match="is not the beginning of"):
        copy_ledger(where, target)
    written(tmp_path / "other.sqlite")
    with pytest.raises(LedgerInvalid, match="is not the beginning of"):
        copy_ledger(where, tmp_path / "other.sqlite")
    assert overview(tmp_path / "other.sqlite").records == 3


def test_an_imported_ledger_goes_on_in_its_new_store(where, tmp_path):
    old = written(tmp_path / "old.jsonl")
    copy_ledger(tmp_path / "old.jsonl", where)
    with Ledger(where) as ledger:
        assert ledger.append_many(answers(1, start=3))[0].prev == old[-1].hash
    assert overview(where).records == 4


def test_parquet_is_written_once_and_whole(tmp_path, monkeypatch):
    written(tmp_path / "l.sqlite")
    copy_ledger(tmp_path / "l.sqlite", tmp_path / "l.parquet")
    with pytest.raises(LedgerInvalid, match="exists already"):
        copy_ledger(tmp_path / "l.sqlite", tmp_path / "l.parquet")
    with pytest.raises(LedgerInvalid, match="written once"):
        Ledger(tmp_path / "l.parquet")
    changed(tmp_path / "l.sqlite", "UPDATE records SET kid = 'x' WHERE seq = 1")
    with pytest.raises(LedgerInvalid, match="it was changed"):
        copy_ledger(tmp_path / "l.sqlite", tmp_path / "bad.parquet")
    assert {path.name for path in tmp_path.iterdir()} <= {"l.sqlite", "l.parquet", "l.sqlite-wal", "l.sqlite-shm"}


def test_changed_parquet_is_caught(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    written(tmp_path / "l.jsonl")
    copy_ledger(tmp_path / "l.jsonl", tmp_path / "l.parquet")
    table = pq.read_table(tmp_path / "l.parquet")
    ids = pa.array([[9]] * 3, type=table.schema.field("token_ids").type)
    pq.write_table(table.set_column(table.column_names.index("token_ids"), "token_ids", ids), tmp_path / "l.parquet")
    with pytest.raises(LedgerInvalid, match="it was changed"):
        list(read_ledger(tmp_path / "l.parquet"))
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "l.parquet")
    with pytest.raises(LedgerInvalid, match="no ledger"):
        list(read_ledger(tmp_path / "l.parquet"))


# ---- what is changed behind the ledger's back


def changed(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


EDITS = [
    "UPDATE records SET time = '2020-01-01T00:00:00.000+00:00' WHERE seq = 1",
    "UPDATE records SET id = 'z' WHERE seq = 1",
    f"UPDATE records SET kid = '{OTHER}' WHERE seq = 1",
    "UPDATE records SET receipt = '{}' WHERE seq = 1",
    "UPDATE records SET receipt = 'no JSON' WHERE seq = 1",
    "UPDATE records SET salt = zeroblob(16) WHERE seq = 1",
    "UPDATE records SET answer_hash = zeroblob(32) WHERE seq = 1",
    "UPDATE records SET prompt = 'other' WHERE seq = 1",
    "UPDATE records SET prompt = NULL WHERE seq = 1",
    "UPDATE records SET token_ids = NULL WHERE seq = 1",
    "UPDATE records SET token_ids = x'01000000' WHERE seq = 1",
    "UPDATE records SET token_ids = x'010000' WHERE seq = 1",
    "UPDATE records SET prev = zeroblob(32) WHERE seq = 1",
    "UPDATE records SET hash = zeroblob(32) WHERE seq = 1",
    "UPDATE records SET seq = 9 WHERE seq = 1",
    "DELETE FROM records WHERE seq = 1",
    "DELETE FROM records WHERE seq = 0",
    "DELETE FROM header",
    "UPDATE header SET line = replace(line, 'full', 'none')",
]


@pytest.mark.parametrize("edit", EDITS)
def test_every_column_and_every_row_is_in_the_chain(tmp_path, edit):
    written(tmp_path / "l.sqlite", 4)
    changed(tmp_path / "l.sqlite", edit)
    with pytest.raises(LedgerInvalid, match=r"l\.sqlite"):
        list(read_ledger(tmp_path / "l.sqlite"))


@pytest.mark.parametrize("edit", EDITS)
def test_every_column_and_every_row_is_in_the_chain_of_postgresql(server, edit):
    import psycopg

    url = emptied(server)
    written(url, 4)
    edit = edit.replace("records", "wmark_records").replace("header", "wmark_header")
    edit = edit.replace("zeroblob(16)", r"'\x00'::bytea").replace("zeroblob(32)", r"'\x00'::bytea")
    edit = edit.replace("x'01000000'", r"'\x01000000'::bytea").replace("x'010000'", r"'\x010000'::bytea")
    edit = edit.replace("replace(line, 'full', 'none')", "replace(convert_from(line, 'UTF8'), 'full', 'none')::bytea")
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(edit)
    with pytest.raises(LedgerInvalid, match="postgresql://"):
        list(read_ledger(url))


def test_records_cut_from_the_end_are_missed_by_a_noted_head_alone(where, tmp_path):
    made = written(where, 4)
    cut = tmp_path / "cut.jsonl"
    copy_ledger(where, cut)
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:-1]))
    assert overview(cut).records == 3
    assert noted_head(where, made[2].hash) == noted_head(cut, made[2].hash) == 3
    with pytest.raises(LedgerInvalid, match="it was cut, or it is another ledger"):
        noted_head(cut, made[3].hash)


def test_a_database_of_something_else_is_left_alone(tmp_path):
    changed(tmp_path / "other.sqlite", "CREATE TABLE t (x)")
    assert not is_ledger(tmp_path / "other.sqlite")
    for use in (lambda p: list(read_ledger(p)), Ledger):
        with pytest.raises(LedgerInvalid, match="a database of something else"):
            use(tmp_path / "other.sqlite")
    (tmp_path / "torn.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(LedgerInvalid, match=r"torn\.sqlite"):
        list(read_ledger(tmp_path / "torn.sqlite"))


def test_a_server_that_may_only_insert_records_and_rewrites_nothing(server):
    import psycopg

    made = written(emptied(server))
    with psycopg.connect(server, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS serving")
        db.execute("CREATE ROLE serving LOGIN")
        db.execute("GRANT SELECT, INSERT ON wmark_header, wmark_records TO serving")
    narrow = server.replace("wmark@", "serving@")
    with Ledger(narrow) as ledger:
        assert ledger.append_many(answers(1, start=3))[0].prev == made[-1].hash
    with psycopg.connect(narrow) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute("UPDATE wmark_records SET kid = ''")
    assert overview(server).records == 4
    with psycopg.connect(emptied(server), autocommit=True) as db:
        db.execute("DROP ROLE serving")


def test_an_empty_database_holds_no_ledger(server):
    with pytest.raises(LedgerInvalid, match="holds no ledger"):
        list(read_ledger(emptied(server)))


# ---- many writers, and one who dies


WRITER = """
    import sys
    from watermark.ledger import Answer, Ledger
    where, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with Ledger(where) as ledger:
        for batch in range(batches):
            given = [Answer(f"{name}-{batch}-{i}", "k" * 16, {}, "p", [batch, i]) for i in range(3)]
            ledger.append_many(given)
            print(ledger.head, flush=True)
"""


def writer(where: str, name: str, batches: int) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), where, name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sqlite", "postgresql"], indirect=True)
def test_writers_of_several_processes_make_one_chain(where):
    """Four processes make the ledger together and write to it at once: no record is lost, doubled or moved."""
    running = [writer(where, f"w{n}", 12) for n in range(4)]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-2000:]
    records = list(read_ledger(where))
    assert [record.seq for record in records] == list(range(4 * 12 * 3))
    expected = {f"w{n}-{batch}-{i}" for n in range(4) for batch in range(12) for i in range(3)}
    assert {record.id for record in records} == expected
    for n in range(4):  # each batch lies together, and a writer's batches in their order
        own = [record.id for record in records if record.id.startswith(f"w{n}-")]
        assert own == [f"w{n}-{batch}-{i}" for batch in range(12) for i in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["jsonl", "sqlite", "postgresql"], indirect=True)
def test_a_killed_writer_loses_nothing_that_was_acknowledged(where):
    """Killed at any moment: what it printed is there, and only whole batches (JSON Lines: whole records) are."""
    heads: list[str] = []
    for kill in range(3):
        process = writer(where, f"k{kill}", 100_000)
        assert process.stdout is not None
        heads += [process.stdout.readline().strip() for _ in range(4 + 3 * kill)]
        process.send_signal(signal.SIGKILL)
        heads += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait(timeout=60)
        deadline = time.monotonic() + 30
        while True:
            try:
                with Ledger(where) as ledger:
                    ledger.append("after", kid="", receipt={}, prompt="", token_ids=[])
                break
            except LedgerInvalid:  # the system has not let go of the dead process's lock yet
                assert time.monotonic() < deadline
    records = list(read_ledger(where))
    assert set(filter(None, heads)) <= {record.hash for record in records}
    if not where.endswith("jsonl"):
        assert all(sum(r.id.startswith(f"k{kill}-") for r in records) % 3 == 0 for kill in range(3))


@pytest.mark.slow
def test_processes_that_begin_a_database_at_once_all_succeed(tmp_path):
    """Twelve rounds of six: SQLite does not queue whoever makes a journal or tables, so opening must be patient."""
    ready = multiprocessing.get_context("fork")
    for turn in range(12):
        path, together, told = str(tmp_path / f"{turn}.sqlite"), ready.Barrier(6), ready.SimpleQueue()
        running = [ready.Process(target=begun, args=(path, together, told)) for _ in range(6)]
        [process.start() for process in running]
        assert [told.get() for _ in running] == ["well"] * 6
        [process.join() for process in running]
        assert overview(path).records == 6


def begun(path: str, together, told) -> None:
    try:
        together.wait()
        with Ledger(path) as ledger:
            ledger.append("a", kid="", receipt={}, prompt="", token_ids=[])
        told.put("well")
    except BaseException as error:
        told.put(repr(error))


def test_looking_at_an_open_database_leaves_its_locks(tmp_path):
    """Opening and closing a file drops every lock that the process has on it; another process would see none."""
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.append_many(answers(3))
        assert is_ledger(path)
        assert overview(path).records == 3
        described(path)
        with Ledger(path) as second:
            second.append_many(answers(1, start=3))
        assert _locked(path)
        assert ledger.append_many(answers(1, start=4))[0].seq == 4
    assert not _locked(path)
    assert overview(path).records == 5


def _locked(path: Path) -> bool:
    """Whether another process finds the database in use: it may not leave the write-ahead log then."""
    code = (
        "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: print(db.execute('PRAGMA journal_mode = DELETE').fetchone()[0])\n"
        "except sqlite3.OperationalError: print('locked')\n"
        "finally: db.execute('PRAGMA journal_mode = WAL')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip() in ("locked", "wal")


def test_readers_see_a_snapshot_while_another_writes(where):
    with Ledger(where) as ledger:
        ledger.append_many(answers(3))
        reading = read_ledger(where)
        first = next(reading)
        ledger.append_many(answers(3, start=3))
        seen = [first, *reading]
    assert [record.seq for record in seen] == list(range(len(seen)))
    assert len(seen) == 3 or where.endswith("jsonl")


# ---- names, choices, words


def test_the_name_of_a_new_file_decides_and_what_exists_says_itself(tmp_path):
    for name, start in (("a.jsonl", b"{"), ("b.ndjson", b"{"), ("c", b"SQLite"), ("d.sqlite", b"SQLite")):
        written(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    os.rename(tmp_path / "a.jsonl", tmp_path / "moved")
    os.rename(tmp_path / "c", tmp_path / "moved.jsonl")
    for name in ("moved", "moved.jsonl"):
        with Ledger(tmp_path / name) as ledger:
            ledger.append_many(answers(1, start=3))
        assert overview(tmp_path / name).records == 4


def test_a_selection_takes_keys_and_a_period(where):
    with Ledger(where) as ledger:
        ledger.append_many([*answers(2), *answers(3, kid=OTHER, start=2)])
        time.sleep(0.005)
        later = ledger.append_many(answers(2, start=5))
    chosen = selection([OTHER])
    assert [r.id for r in read_ledger(where, chosen)] == ["a2", "a3", "a4"]
    after = selection(since=later[0].time)
    assert [r.id for r in read_ledger(where, after)] == ["a5", "a6"]
    assert [r.id for r in read_ledger(where, selection([KID], until=later[0].time))] == ["a0", "a1"]
    assert overview(where, chosen).kids == {OTHER: 3}
    assert overview(where, selection(since="2999-01-01")).records == 0


def test_times_of_a_selection_are_utc_and_in_order():
    assert selection(since="2026-01-31").since == "2026-01-31T00:00:00.000+00:00"
    assert selection(until="2026-01-31T09:30+02:00").until == "2026-01-31T07:30:00.000+00:00"
    with pytest.raises(LedgerInvalid, match="is no date"):
        selection(since="last week")
    with pytest.raises(LedgerInvalid, match="before or when it begins"):
        selection(since="2026-02-01", until="2026-01-01")


def test_a_changed_record_is_refused_when_it_is_selected(tmp_path):
    written(tmp_path / "l.sqlite")
    changed(tmp_path / "l.sqlite", f"UPDATE records SET kid = '{OTHER}' WHERE seq = 1")
    with pytest.raises(LedgerInvalid, match="record 1: the record does not match its hash"):
        list(read_ledger(tmp_path / "l.sqlite", selection([OTHER])))


@given(st.text(max_size=40), st.text(max_size=10), st.lists(st.integers(0, 2**32 - 1), max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answer_survives_a_database(tmp_path_factory, prompt, id, token_ids):
    path = tmp_path_factory.mktemp("any") / "l.sqlite"
    with Ledger(path) as ledger:
        made = ledger.append(id, kid=KID, receipt={id: prompt}, prompt=prompt, token_ids=token_ids)
    assert list(read_ledger(path)) == [made]


def test_password_of_an_address_is_never_shown():
    url = "postgresql://mallory:s3cret@127.0.0.1:1/served?sslpassword=alsos3cret"
    assert shown(url) == "postgresql://127.0.0.1/served"
    with pytest.raises(LedgerInvalid) as caught:
        list(read_ledger(url))
    assert "s3cret" not in str(caught.value) + str(caught.value.hint)


def test_missing_libraries_are_named_with_their_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ExtraMissing) as caught:
        Ledger("postgresql:///served")
    assert "wmark[pg]" in str(caught.value.hint)
    written(tmp_path / "l.jsonl")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExtraMissing) as caught:
        copy_ledger(tmp_path / "l.jsonl", tmp_path / "l.parquet")
    assert "wmark[scale]" in str(caught.value.hint)


def test_a_database_in_a_folder_that_cannot_be_written_is_read_without_a_trace(tmp_path, monkeypatch):
    made = written(tmp_path / "l.sqlite")
    os.chmod(tmp_path / "l.sqlite", 0o400)
    os.chmod(tmp_path, 0o500)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may write anywhere
    try:
        assert list(read_ledger(tmp_path / "l.sqlite")) == made
        assert [path.name for path in tmp_path.iterdir()] == ["l.sqlite"]
    finally:
        os.chmod(tmp_path, 0o700)


# ---- the command


def wmark(*arguments, cwd) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "wmark_cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_the_command_reads_like_a_session(tmp_path):
    made = written(tmp_path / "old.jsonl", 4)
    moved = wmark("ledger", "import", "old.jsonl", "--ledger", "served.sqlite", cwd=tmp_path)
    assert (moved.returncode, moved.stdout) == (0, "")
    assert moved.stderr == "4 records copied to served.sqlite\n"
    checked = wmark("ledger", "verify", "served.sqlite", "--head", made[1].hash, cwd=tmp_path)
    assert checked.stdout == (
        f"4 records, chain unbroken, head {made[-1].hash}\n"
        "the noted head is that after 2 records: nothing before it was cut or rewritten\n"
    )
    seen = json.loads(wmark("ledger", "show", "served.sqlite", "--kid", KID, "--json", cwd=tmp_path).stdout)
    assert seen == {"ledger": "served.sqlite", **asdict(overview(tmp_path / "served.sqlite"))}
    assert (seen["store"], seen["records"], seen["tokens"], seen["kids"]) == ("SQLite", 4, 16, {KID: 4})
    told = wmark("ledger", "show", "served.sqlite", cwd=tmp_path).stdout
    assert f"key        {KID}: 4" in told
    assert "hello" not in told
    out = wmark("ledger", "export", "served.sqlite", "--output", "out.jsonl", "--json", cwd=tmp_path)
    assert json.loads(out.stdout) == {"added": 4, "from": "served.sqlite", "to": "out.jsonl"}
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "old.jsonl").read_bytes()
    plain = wmark("verify", "served.sqlite", cwd=tmp_path)
    assert plain.stdout == f"1. ledger: 4 records, chain unbroken, head {made[-1].hash}\n"


def test_the_command_ends_with_3_where_the_chain_is_broken(tmp_path):
    written(tmp_path / "l.sqlite", 4)
    changed(tmp_path / "l.sqlite", "DELETE FROM records WHERE seq = 2")
    for command in (("ledger", "verify"), ("verify",)):
        done = wmark(*command, "l.sqlite", cwd=tmp_path)
        assert done.returncode == 3
        assert "record 2: a record before it is missing, moved or changed" in done.stderr
    done = wmark("ledger", "show", "none.sqlite", cwd=tmp_path)
    assert done.returncode == 3
    assert "none.sqlite cannot be read" in done.stderr
    assert not (tmp_path / "none.sqlite").exists()


def test_looking_at_a_database_loads_nothing_heavy(tmp_path):
    written(tmp_path / "l.sqlite")
    code = (
        f"from wmark_cli.main import app\ntry: app(['ledger', 'verify', {str(tmp_path / 'l.sqlite')!r}])\n"
        "except SystemExit: pass\nimport sys; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "scipy", "numpy", "pyarrow", "psycopg", "tokenizers"}
    assert not set(done.stdout.splitlines()[-1].split()) & heavy


@pytest.mark.slow
def test_a_session_over_one_database_from_serving_to_evidence(tmp_path, monkeypatch):
    """Served into SQLite because no suffix says otherwise; detected through it; verified by it and by its export."""
    from tiny import tiny_model
    from typer.testing import CliRunner
    from wmark_cli.main import app

    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model")
    asked = [json.dumps({"id": f"q{i}", "prompt": f"question {i}"}) for i in range(16)]
    (tmp_path / "ask.jsonl").write_text("\n".join(asked) + "\n")

    def run(*given):
        done = CliRunner().invoke(app, list(map(str, given)), catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    run("keygen", "ours.wmark", "--model", "model")
    served = ("generate", "model", "--mark", "ours.wmark", "--prompts", "ask.jsonl", "--output", "answers.jsonl",
              "--ledger", "served", "--max-new-tokens", 40, "--quiet")  # fmt: skip
    run(*served)
    run(*served)  # nothing is left to answer, and nothing is recorded twice
    assert (tmp_path / "served").read_bytes().startswith(b"SQLite")
    assert "16 records, chain unbroken" in run("verify", "served")
    run("ledger", "filter", "served", "--mark", "ours.wmark", "--output", "served.filter", "--quiet")
    for ledger in ("served", "served.filter"):
        run("detect", "answers.jsonl", "--mark", "ours.wmark", "--ledger", ledger, "--output", f"{ledger}.json", "-q")
        told = run("verify", f"{ledger}.json", "--outputs", "answers.jsonl", "--mark", "ours.wmark", "--ledger", ledger)
        assert f"{ledger} has the stated SHA-256" in told
    run("ledger", "export", "served", "--output", "served.jsonl")
    run("verify", "served.json", "--outputs", "answers.jsonl", "--mark", "ours.wmark", "--ledger", "served.jsonl")
    with Ledger(tmp_path / "served") as ledger:
        ledger.append("later", kid="", receipt={}, prompt="", token_ids=[])
    with pytest.raises(ReportInvalid, match="served is not the ledger of this evidence"):
        run("verify", "served.json", "--ledger", "served")
    with pytest.raises(OutputsInvalid, match="served, record 0: it was served under a mark"):
        run("prompts", "served", "--output", "own.jsonl")


TAMPERED = {
    "time as bytes": "UPDATE records SET time = x'00ff' WHERE seq = 1",
    "id as bytes": "UPDATE records SET id = x'00ff' WHERE seq = 1",
    "no number": """UPDATE records SET receipt = '{"temperature":NaN}' WHERE seq = 1""",
    "half a character": """UPDATE records SET receipt = '{"model":"\\ud800"}' WHERE seq = 1""",
    "nested too deep": f"UPDATE records SET receipt = '{'[' * 100_000}' WHERE seq = 1",
    "a second name": """UPDATE records SET receipt = '{"rate":1,' || substr(receipt, 2) WHERE seq = 1""",
    "moved": "UPDATE records SET seq = -1 WHERE seq = 2",
    "a header of another kind": "UPDATE header SET line = CAST('[]' AS BLOB)",
    "two headers": "INSERT INTO header SELECT line FROM header",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED)
def test_a_database_that_was_changed_by_hand_is_refused_in_words(statement, tmp_path):
    path = tmp_path / "served.sqlite"
    written(path)
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()
    for read in (
        overview,
        described,
        lambda where: list(read_ledger(where)),
        lambda where: noted_head(where, "0" * 64),
    ):
        with pytest.raises(LedgerInvalid):
            read(path)


def test_parquet_with_a_flipped_bit_is_refused_in_words_or_reads_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    written(tmp_path / "served.jsonl", 5)
    copy_ledger(tmp_path / "served.jsonl", tmp_path / "whole.parquet")
    whole, records = (tmp_path / "whole.parquet").read_bytes(), list(read_ledger(tmp_path / "served.jsonl"))
    refused = 0
    for at in range(4, len(whole), 23):
        changed = bytearray(whole)
        changed[at] ^= 4
        (tmp_path / "changed.parquet").write_bytes(changed)
        try:
            assert list(read_ledger(tmp_path / "changed.parquet")) == records
        except LedgerInvalid:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a":' * 100_000], ids=["lists", "objects"])
def test_a_ledger_that_is_nested_too_deep_is_refused_in_words(line, tmp_path):
    (tmp_path / "deep.jsonl").write_bytes(line + b"\n")
    with pytest.raises(LedgerInvalid, match="line 1: not a ledger record"):
        overview(tmp_path / "deep.jsonl")


def test_a_folder_is_no_ledger(tmp_path):
    for opened in (overview, Ledger):
        with pytest.raises(LedgerInvalid, match="is a folder"):
            opened(tmp_path)
