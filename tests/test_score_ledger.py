"""The ledger of served scores: a chain that shows every edit, and rows that come back as they were."""

import errno
import hashlib
import json
import threading

import numpy as np
import pytest

from watermark.errors import LedgerInvalid, OutputsInvalid
from watermark.files import canonical_json
from watermark.scores.table import table
from watermark.scoring.ledger import (
    ScoreLedger,
    columns_hash,
    is_score_ledger,
    read_score_ledger,
    served_answers,
    served_inputs,
)

KID, OTHER = "0123456789abcdef", "fedcba9876543210"
INPUTS = {"age": [41.5, 30.0, np.nan], "city": ["Köln", "", "Rome"]}
ANSWERS = np.array([[0.2, 0.8], [0.71, 0.29], [0.1 + 0.2, 0.7]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "served.jsonl"


def written(path, *, mode=None, count=2):
    with ScoreLedger(path, mode=mode) as ledger:
        return [ledger.append(INPUTS, ANSWERS, kid=(KID, OTHER)[i % 2]) for i in range(count)]


@pytest.mark.parametrize("mode", ["full", "hash-only"])
def test_what_was_appended_is_read_back(path, mode):
    records = written(path, mode=mode)
    assert list(read_score_ledger(path)) == records
    assert [(r.seq, r.kid, r.rows) for r in records] == [(0, KID, 3), (1, OTHER, 3)]
    assert is_score_ledger(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_served_inputs_and_answers_are_the_rows_of_all_batches_or_of_one_account(path):
    written(path)
    inputs, answers = served_inputs(path), served_answers(path)
    np.testing.assert_array_equal(inputs.columns["age"], INPUTS["age"] * 2)
    assert inputs.columns["city"].tolist() == INPUTS["city"] * 2
    np.testing.assert_array_equal(answers.numbers(["c0", "c1"]), np.vstack([ANSWERS, ANSWERS]))
    assert len(served_inputs(path, kid=OTHER)) == 3
    with pytest.raises(LedgerInvalid, match="nothing that was marked under the key 9999"):
        served_inputs(path, kid="9999")


def test_a_column_that_holds_words_in_one_batch_holds_words(path):
    with ScoreLedger(path) as ledger:
        ledger.append({"code": [12.0]}, [0.5], kid=KID)
        ledger.append({"code": ["A1"]}, [0.5], kid=KID)
    assert served_inputs(path).columns["code"].tolist() == ["12.0", "A1"]


def test_batches_of_other_columns_are_refused_when_they_are_stacked(path):
    with ScoreLedger(path) as ledger:
        ledger.append({"a": [1.0]}, [0.5], kid=KID)
        ledger.append({"b": [1.0]}, [0.5], kid=OTHER)
    with pytest.raises(LedgerInvalid, match="batches with different columns: a; and b"):
        served_inputs(path)
    assert served_inputs(path, kid=OTHER).names == ["b"]


def test_hash_only_keeps_no_rows_and_its_hashes_are_the_documented_ones(path):
    (record, _) = written(path, mode="hash-only")
    assert b"Rome" not in path.read_bytes()
    assert b"0.71" not in path.read_bytes()
    columns = [["age", [41.5, 30.0, None]], ["city", ["Köln", "", "Rome"]]]
    assert record.inputs_hash == columns_hash(record.salt, columns)
    with pytest.raises(LedgerInvalid, match="hash-only ledger; it holds no rows"):
        served_inputs(path)


def test_equal_batches_have_unequal_hashes(path):
    first, second = written(path)
    assert first.inputs_hash != second.inputs_hash


def test_a_ledger_goes_on_where_it_was_and_keeps_its_mode(path):
    written(path)
    with ScoreLedger(path) as ledger:
        assert (ledger.length, ledger.mode) == (2, "full")
        assert ledger.append(INPUTS, ANSWERS, kid=KID).seq == 2
    with pytest.raises(LedgerInvalid, match="is a full ledger and cannot become hash-only"):
        ScoreLedger(path, mode="hash-only")


@pytest.mark.parametrize("change", [(b"0.71", b"0.72"), (b'"rows":3', b'"rows":2'), (b"Rome", b"Bern")])
def test_every_edit_is_named_by_its_line(path, change):
    written(path)
    path.write_bytes(path.read_bytes().replace(*change, 1))
    with pytest.raises(LedgerInvalid, match="line 2: the record does not match its hash"):
        list(read_score_ledger(path))


def test_rows_changed_under_a_fresh_hash_do_not_match_the_salted_one(path):
    written(path, count=1)
    header, line = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    line["answers"][0][1][0] = 0.3
    del line["hash"]
    line["hash"] = hashlib.sha256(canonical_json(line)).hexdigest()
    path.write_bytes(canonical_json(header) + b"\n" + canonical_json(line) + b"\n")
    with pytest.raises(LedgerInvalid, match="the rows do not match their hash"):
        list(read_score_ledger(path))


def test_a_missing_record_is_seen(path):
    written(path, count=3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(LedgerInvalid, match="line 3: a record before it is missing"):
        list(read_score_ledger(path))


def test_a_line_cut_short_by_a_crash_is_set_aside(path):
    written(path)
    with path.open("ab") as stream:
        stream.write(b'{"answers":')
    assert len(list(read_score_ledger(path))) == 2
    with ScoreLedger(path) as ledger:
        ledger.append(INPUTS, ANSWERS, kid=KID)
    assert len(list(read_score_ledger(path))) == 3
    assert path.with_name("served.jsonl.cut").read_bytes() == b'{"answers":\n'


def test_a_full_disk_leaves_the_ledger_as_it_was(path, monkeypatch):
    with ScoreLedger(path) as ledger:
        ledger.append(INPUTS, ANSWERS, kid=KID)
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
            with pytest.raises(OSError, match="No space left"):
                ledger.append(INPUTS, ANSWERS, kid=KID)
        ledger.append(INPUTS, ANSWERS, kid=KID)
    assert [record.seq for record in read_score_ledger(path)] == [0, 1]


def test_threads_may_share_a_ledger(path):
    with ScoreLedger(path) as ledger:
        threads = [
            threading.Thread(target=lambda: [ledger.append(INPUTS, ANSWERS, kid=KID) for _ in range(5)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(read_score_ledger(path))) == 20


def test_rows_that_do_not_match_and_other_files_are_refused(path, tmp_path):
    with ScoreLedger(path) as ledger:
        with pytest.raises(OutputsInvalid, match="2 answers for 3 inputs"):
            ledger.append(INPUTS, ANSWERS[:2], kid=KID)
        with pytest.raises(LedgerInvalid, match="being written by another process"):
            ScoreLedger(path)
    (tmp_path / "text.jsonl").write_text("hello\n")
    with pytest.raises(LedgerInvalid, match="line 1: not a record of a ledger of scores"):
        list(read_score_ledger(tmp_path / "text.jsonl"))


def test_columns_keep_their_order(path):
    with ScoreLedger(path) as ledger:
        ledger.append({"b": [1.0], "a": [2.0]}, [0.5], kid=KID)
        ledger.append({"a": [4.0], "b": [3.0]}, [0.5], kid=KID)
    assert {name: values.tolist() for name, values in served_inputs(path).columns.items()} == {"b": [1, 3], "a": [2, 4]}
    assert served_inputs(path).names == ["b", "a"]


def test_a_table_is_taken_as_it_is(path):
    with ScoreLedger(path) as ledger:
        ledger.append(table(INPUTS), table({"fraud": [0.1, 0.2, 0.3]}), kid=KID)
    assert served_answers(path).names == ["fraud"]
