"""The ledger: a chain that shows every edit, and a file that survives a crash and a full disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.errors import LedgerInvalid
from watermark.files import canonical_json
from watermark.ledger import Ledger, Record, answer_hash, read_ledger

KID = "0123456789abcdef"
# a control character, a quote, an emoji and a float with an exponent: all that JSON can write in two ways
PROMPTS = ['Say "hello"\tto\x1b[1m Zoë\x07 🙂', "two\nlines\r\n", ""]
RECEIPT = {"temperature": 0.7, "rate": 2.5e-07, "model": "teacher\x1f"}


def _written(path: Path, *, mode: str = "full", count: int = 3) -> list[Record]:
    with Ledger(path, mode=mode) as ledger:
        return [
            ledger.append(f"a{i}", kid=KID, receipt=RECEIPT, prompt=PROMPTS[i % 3], token_ids=[i, 0, 65536 + i])
            for i in range(count)
        ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "served.jsonl"


@pytest.mark.parametrize("mode", ["full", "hash-only"])
def test_what_was_appended_is_read_back(path, mode):
    written = _written(path, mode=mode)
    assert list(read_ledger(path)) == written
    assert [record.seq for record in written] == [0, 1, 2]


def test_each_line_holds_the_hash_of_the_one_before(path):
    _written(path)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    previous = None
    for line in lines:
        digest = line.pop("hash")
        assert digest == hashlib.sha256(canonical_json(line)).hexdigest()
        if previous is not None:
            assert line["prev"] == previous
        previous = digest


def test_answer_hash_is_the_documented_one(path):
    first, *_ = _written(path)
    expected = hashlib.sha256(canonical_json([first.salt, first.prompt, first.token_ids])).hexdigest()
    assert first.answer_hash == expected
    assert answer_hash(first.salt, first.prompt, first.token_ids) == expected
    assert answer_hash(first.salt, first.prompt, [*first.token_ids, 0]) != expected


def _replacements(byte: int) -> set[int]:
    """One bit flipped, the other case, a digit, another line's end."""
    return {byte ^ 1, byte ^ 0x20, ord("9"), 0x0D} - {byte}


@pytest.mark.slow
def test_every_changed_byte_is_caught(path):
    """But in the last line's end: without it that line is a write that never finished."""
    written = _written(path, count=1)
    content = bytearray(path.read_bytes())
    missed = []
    for place, byte in enumerate(content):
        for other in sorted(_replacements(byte)):
            content[place] = other
            path.write_bytes(content)
            found: object
            try:
                found = list(read_ledger(path))
            except LedgerInvalid:
                continue
            except Exception as error:
                found = repr(error)
            if place < len(content) - 1 or found != written[:-1]:
                missed.append((place, bytes(content[place - 8 : place + 1]), found))
        content[place] = byte
    assert not missed


def test_added_bytes_are_caught(path):
    """A second field of the same name, or a space: JSON reads them as if they were not there."""
    _written(path, count=2)
    content = path.read_bytes()
    for added in (
        content.replace(b'{"answer_hash"', b'{"answer_hash":"","answer_hash"', 1),
        content.replace(b'{"answer_hash"', b'{ "answer_hash"', 1),
        content.replace(b"\n", b"\r\n", 1),
        content.replace(b"\n", b"\n\n", 1),
    ):
        assert added != content
        path.write_bytes(added)
        with pytest.raises(LedgerInvalid):
            list(read_ledger(path))


@pytest.mark.parametrize(
    "rearranged",
    [
        lambda lines: [lines[0], *lines[2:]],  # first record dropped
        lambda lines: [*lines[:2], *lines[3:]],  # one dropped in the middle
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],  # neighbours swapped
        lambda lines: [lines[0], *lines[:0:-1]],  # reversed
        lambda lines: [*lines, lines[-1]],  # one served twice
        lambda lines: lines[1:],  # header dropped
        lambda lines: [lines[0], *lines],  # header twice
    ],
)
def test_moved_or_missing_record_is_caught(path, rearranged):
    _written(path, count=4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rearranged(lines)))
    with pytest.raises(LedgerInvalid):
        list(read_ledger(path))


def test_record_of_another_ledger_is_caught(path, tmp_path):
    _written(path)
    _written(tmp_path / "other.ledger")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = (tmp_path / "other.ledger").read_bytes().splitlines(keepends=True)[2]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerInvalid, match="line 3"):
        list(read_ledger(path))


def test_answer_exchanged_under_a_rebuilt_chain_is_caught(path):
    """Whoever recomputes the line's hash but not the answer's is still found out."""
    _written(path, count=1)
    header, line = path.read_bytes().splitlines()
    body = json.loads(line)
    body["token_ids"] = [9, 9, 9]
    del body["hash"]
    forged = canonical_json(body | {"hash": hashlib.sha256(canonical_json(body)).hexdigest()})
    path.write_bytes(header + b"\n" + forged + b"\n")
    with pytest.raises(LedgerInvalid, match="answer does not match"):
        list(read_ledger(path))


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_line_cut_short_is_set_aside_and_the_next_append_goes_on(path, cut):
    written = _written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert list(read_ledger(path)) == written[:-1]
    with Ledger(path) as ledger:
        ledger.append("next", kid=KID, receipt={}, prompt="p", token_ids=[1])
    last_line = whole.splitlines()[-1]
    aside = path.with_name(path.name + ".cut").read_bytes()
    assert aside.rstrip(b"\n") == (last_line + b"\n")[:-cut].rstrip(b"\n")
    assert [record.id for record in read_ledger(path)] == ["a0", "a1", "next"]


def test_header_cut_short_begins_anew(path):
    path.write_bytes(b'{"format":"wmark-led')
    assert [r.id for r in _written(path)] == ["a0", "a1", "a2"]
    assert len(list(read_ledger(path))) == 3


def test_hash_only_ledger_keeps_no_prompt_and_no_tokens(path):
    with Ledger(path, mode="hash-only") as ledger:
        record = ledger.append("x", kid=KID, receipt={}, prompt="the secret plan", token_ids=[31337, 4242])
    assert record.prompt is None
    assert record.token_ids is None
    assert b"secret plan" not in path.read_bytes()
    assert b"31337" not in path.read_bytes().replace(record.answer_hash.encode(), b"")
    assert answer_hash(record.salt, "the secret plan", [31337, 4242]) == record.answer_hash


def test_equal_answers_have_unequal_hashes(path):
    with Ledger(path, mode="hash-only") as ledger:
        made = [ledger.append(str(i), kid=KID, receipt={}, prompt="p", token_ids=[1]) for i in range(20)]
    assert len({record.answer_hash for record in made}) == 20


def test_mode_of_a_ledger_is_fixed(path):
    _written(path, mode="hash-only")
    with Ledger(path) as ledger:
        assert ledger.mode == "hash-only"
    with pytest.raises(LedgerInvalid, match="cannot become full"):
        Ledger(path, mode="full")


def test_second_writer_is_refused(path):
    with Ledger(path) as ledger:
        with pytest.raises(LedgerInvalid, match="another process"):
            Ledger(path)
        ledger.append("a", kid=KID, receipt={}, prompt="", token_ids=[])
    with Ledger(path) as ledger:
        assert ledger.length == 1


def test_reading_while_another_writes_is_allowed(path):
    with Ledger(path) as ledger:
        ledger.append("a", kid=KID, receipt={}, prompt="", token_ids=[])
        assert len(list(read_ledger(path))) == 1


def test_reopened_ledger_goes_on_and_knows_its_ids(path):
    _written(path)
    with Ledger(path) as ledger:
        assert ledger.ids == {"a0", "a1", "a2"}
        record = ledger.append("b", kid=KID, receipt={}, prompt="", token_ids=[])
        assert record.seq == 3
        assert ledger.ids == {"a0", "a1", "a2", "b"}
    assert len(list(read_ledger(path))) == 4


def test_broken_ledger_is_not_appended_to(path):
    _written(path)
    path.write_bytes(path.read_bytes().replace(b"65536", b"65537", 1))
    with pytest.raises(LedgerInvalid, match="line 2"):
        Ledger(path)


def test_ledger_is_readable_by_its_owner_alone(path):
    before = os.umask(0)
    try:
        _written(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"hello\n", b'{"id": "a", "text": "b"}\n', b"[1]\n", b"\x00\xff\n"])
def test_file_that_is_no_ledger_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(LedgerInvalid, match="served.jsonl"):
        list(read_ledger(path))


def test_missing_ledger_is_named(path):
    with pytest.raises(LedgerInvalid, match="cannot be read"):
        list(read_ledger(path))


@given(st.text(max_size=40), st.lists(st.integers(0, 2**32 - 1), max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_prompt_survives(tmp_path_factory, prompt, token_ids):
    path = tmp_path_factory.mktemp("any") / "l.jsonl"
    with Ledger(path) as ledger:
        ledger.append("a", kid=KID, receipt={}, prompt=prompt, token_ids=token_ids)
    (record,) = read_ledger(path)
    assert (record.prompt, record.token_ids) == (prompt, token_ids)


FILLING = """
    import resource, sys
    from watermark.ledger import Ledger, read_ledger
    path, limit = sys.argv[1], int(sys.argv[2])

    def append(ledger, i):
        ledger.append(f"a{i}", kid="k" * 16, receipt={}, prompt="x" * 3000, token_ids=[1] * 4000)

    with Ledger(path) as ledger:
        append(ledger, 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        refused = 0
        for i in range(1, 6):
            try:
                append(ledger, i)
            except OSError:
                refused += 1
        print("refused", refused, "kept", len(list(read_ledger(path))), ledger.length)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for i in range(6, 8):
            append(ledger, i)
    print("records", [r.id for r in read_ledger(path)])
"""


@pytest.mark.parametrize("limit", [12_000, 16_385, 23_000, 30_001])
def test_full_disk_leaves_a_ledger_that_verifies_and_goes_on(path, limit):
    """The file may grow to `limit` bytes; refused appends raise, and space found again is used."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILLING), str(path), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    first, last = run.stdout.splitlines()
    _, refused, _, kept, length = first.split()
    assert int(refused) >= 1
    assert int(kept) == int(length) == 6 - int(refused)
    expected = [f"a{i}" for i in range(int(kept))] + ["a6", "a7"]
    assert last == f"records {expected}"


def test_disk_full_at_the_last_step_takes_the_line_back(path, monkeypatch):
    with Ledger(path) as ledger:
        ledger.append("a", kid=KID, receipt={}, prompt="p", token_ids=[1])

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            ledger.append("b", kid=KID, receipt={}, prompt="p", token_ids=[1])
        monkeypatch.undo()
        ledger.append("c", kid=KID, receipt={}, prompt="p", token_ids=[1])
    assert [record.id for record in read_ledger(path)] == ["a", "c"]
