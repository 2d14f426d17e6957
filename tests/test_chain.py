"""Hash chains: every line is the one that was written, in its place; the words are those of the kind of file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watermark import chain
from watermark.errors import LedgerInvalid

DIARY = chain.Kind("wmark-diary/1", "diary", "note", "diary note", hint="pass the diary")


def _written(path, notes: int = 3) -> list[dict]:
    with chain.open_locked(path) as stream:
        lines = [chain.append(stream, {"format": DIARY.format})]
        for number in range(notes):
            lines.append(chain.append(stream, {"seq": number, "word": "ключ", "prev": lines[-1]["hash"]}))
    return lines


@pytest.fixture
def path(tmp_path):
    _written(tmp_path / "diary")
    return tmp_path / "diary"


def _refusal(path) -> LedgerInvalid:
    with pytest.raises(LedgerInvalid) as caught:
        list(chain.read_chain(path, DIARY))
    return caught.value


def test_lines_come_back_as_they_were_written(tmp_path):
    lines = _written(tmp_path / "diary")
    assert list(chain.read_chain(tmp_path / "diary", DIARY)) == lines


def test_hash_is_over_the_canonical_line_without_it(path):
    raw = path.read_bytes().split(b"\n")[1]
    claimed = json.loads(raw)["hash"]
    without = raw.replace(b'"hash":"' + claimed.encode() + b'",', b"")
    assert claimed == hashlib.sha256(without).hexdigest()


def test_unfinished_last_line_is_left_out(path):
    content = path.read_bytes()
    path.write_bytes(content + b'{"seq":3')
    assert chain.whole_lines(path.read_bytes()) == len(content)
    assert len(list(chain.read_chain(path, DIARY))) == 4


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("chain") / "diary"
    _written(path)
    return path.read_bytes()


@given(data=st.data())
def test_any_changed_byte_is_seen(data, content):
    place = data.draw(st.integers(0, len(content) - 2))  # without the last line end the line was never finished
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = content[:place] + bytes([byte]) + content[place + 1 :]
    with pytest.raises(LedgerInvalid):
        list(chain.checked(Path("diary"), changed, DIARY))


def _lines(path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


SPOILED = {
    "empty": (lambda lines: [], "it is empty; a diary starts with its header"),
    "no header": (lambda lines: lines[1:], "it is not a diary: its first line should say wmark-diary/1"),
    "missing": (lambda lines: lines[:1] + lines[2:], "it, line 2: a note before it is missing, moved or changed"),
    "moved": (
        lambda lines: [lines[0], lines[2], lines[1]],
        "it, line 2: a note before it is missing, moved or changed",
    ),
    "twice": (lambda lines: [*lines, lines[-1]], "it, line 5: a note before it is missing, moved or changed"),
    "no JSON": (lambda lines: [*lines, b"word\n"], "it, line 5: not a diary note"),
    "a list": (lambda lines: [*lines, b"[]\n"], "it, line 5: not a diary note"),
    "spaced": (
        lambda lines: [*lines[:3], lines[3].replace(b",", b", ", 1)],
        "it, line 4: the note does not match its hash; it was changed",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_first_wrong_line_is_named(path, spoil, words):
    path.write_bytes(b"".join(spoil(_lines(path))))
    assert str(_refusal(path)).replace(str(path), "it") == words


def test_lines_before_the_wrong_one_are_given(path):
    lines = _lines(path)
    path.write_bytes(b"".join([*lines[:3], b"{}\n"]))
    read = chain.read_chain(path, DIARY)
    assert [next(read).get("seq") for _ in range(3)] == [None, 0, 1]
    with pytest.raises(LedgerInvalid, match="line 4"):
        next(read)


def test_one_writer_at_a_time(path):
    with chain.open_locked(path), pytest.raises(LedgerInvalid, match="is being written by another process"):
        chain.open_locked(path)


def test_new_files_are_for_their_owner_alone(path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_shows_its_kind_in_its_first_line(path, tmp_path):
    assert chain.starts_as(path, DIARY)
    assert not chain.starts_as(path, chain.Kind("wmark-diary/2", "diary", "note", "diary note"))
    assert not chain.starts_as(tmp_path / "none", DIARY)
    assert "cannot be read: No such file" in str(_refusal(tmp_path / "none"))
