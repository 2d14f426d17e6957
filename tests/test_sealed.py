"""Sealed files: what was written comes back, and nothing else does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watermark.attribute import Attribution
from watermark.calibrate import Calibrated
from watermark.errors import MarkInvalid, WatermarkError
from watermark.evidence import Evidence
from watermark.plan import Plan
from watermark.sealed import Kept, Refusal, Sealed, read_sealed, unsealed

FORMAT = "wmark-note/3"
REFUSAL = Refusal(
    MarkInvalid,
    "a note",
    complete="a complete note",
    unreadable="write it again",
    other="pass a note",
    changed="keep it as it was",
)


@dataclass(frozen=True)
class Note(Sealed):
    format: ClassVar[str] = FORMAT

    words: list[str]
    rate: float


@dataclass(frozen=True)
class Line(Note):
    readable: ClassVar[bool] = False


@dataclass(frozen=True)
class Card(Kept):
    format: ClassVar[str] = FORMAT
    refusal: ClassVar[Refusal] = REFUSAL
    noun: ClassVar[str] = "card"

    words: list[str]
    rate: float


NOTE = Note(["seen", "ключ"], 0.25)


def _built(body: dict[str, Any]) -> Note:
    return Note(**body)


@pytest.fixture
def path(tmp_path):
    NOTE.save(tmp_path / "note.json")
    return tmp_path / "note.json"


def _refusal(path) -> WatermarkError:
    with pytest.raises(MarkInvalid) as caught:
        read_sealed(path, FORMAT, _built, REFUSAL)
    return caught.value


def test_a_sealed_file_comes_back(path):
    assert read_sealed(path, FORMAT, _built, REFUSAL) == NOTE
    assert read_sealed(str(path), FORMAT, _built, REFUSAL).digest == NOTE.digest


def test_a_class_reads_its_own_files_back(path):
    card = Card(NOTE.words, NOTE.rate)
    assert Card.load(path) == Card.from_json(card.to_json()) == card
    for name, called in ((None, "card"), ("it", "it")):
        with pytest.raises(MarkInvalid, match=f"^{called} does not match its digest"):
            Card.from_json(card.to_json() | {"rate": 0.5}, name=name)


def test_digest_is_over_all_but_itself(path):
    stored = json.loads(path.read_bytes())
    digest = stored.pop("digest")
    canonical = '{"format":"wmark-note/3","rate":0.25,"words":["seen","ключ"]}'
    assert stored == json.loads(canonical)
    assert digest == NOTE.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_layout_is_for_the_eye_or_one_canonical_line(path, tmp_path):
    digest = Line(NOTE.words, NOTE.rate).digest
    assert path.read_text("utf-8").splitlines()[:2] == ["{", f' "digest": "{digest}",']
    Line(NOTE.words, NOTE.rate).save(tmp_path / "line.json")
    expected = f'{{"digest":"{digest}","format":"wmark-note/3","rate":0.25,"words":["seen","ключ"]}}\n'
    assert (tmp_path / "line.json").read_text("utf-8") == expected


@given(st.data())
def test_no_byte_of_the_values_can_be_changed_unseen(data):
    """Whatever byte is changed: the file is refused, or still says the same."""
    content = bytearray(json.dumps(NOTE.to_json()).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        found = unsealed(json.loads(bytes(content)), FORMAT, _built, REFUSAL, name="it")
    except (ValueError, MarkInvalid):
        return
    assert found == NOTE


def test_a_hidden_change_is_named(path):
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.35"))
    error = _refusal(path)
    assert str(error) == f"{path} does not match its digest; it was changed after it was written"
    assert error.hint == "keep it as it was"


@pytest.mark.parametrize("format", ["wmark-note/2", "wmark-plan/1", None, 3])
def test_another_format_is_refused(path, format):
    path.write_text(json.dumps(NOTE.to_json() | {"format": format}))
    error = _refusal(path)
    assert str(error) == f"{path} is not a note (its format should be wmark-note/3)"
    assert error.hint == "pass a note"


@pytest.mark.parametrize("content", ["[]", "3", '"wmark-note/3"', "null", "{}"])
def test_json_of_another_shape_is_refused(path, content):
    path.write_text(content)
    assert "is not a note" in str(_refusal(path))


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "wmark-note/3"', b"\xff\xfe"])
def test_what_is_not_json_is_refused(path, content):
    path.write_bytes(content)
    error = _refusal(path)
    assert str(error) == f"{path} is not JSON; was it cut short?"
    assert error.hint == "write it again"


def test_a_missing_file_is_refused(tmp_path):
    assert (
        str(_refusal(tmp_path / "none.json")) == f"{tmp_path / 'none.json'} cannot be read: No such file or directory"
    )
    assert "cannot be read: Is a directory" in str(_refusal(tmp_path))


@pytest.mark.parametrize("change", [{"rate": ...}, {"more": 1}, {"digest": ...}, {"rate": float("nan")}])
def test_missing_and_unknown_fields_are_refused(path, change):
    stored = {name: value for name, value in (NOTE.to_json() | change).items() if value is not ...}
    path.write_text(json.dumps(stored))
    words = "does not match its digest" if "digest" in change else "is not a complete note: "
    assert words in str(_refusal(path))


def test_every_sealed_file_has_a_format_of_its_own():
    formats = {kind.format for kind in (Evidence, Plan, Calibrated, Attribution)}
    assert formats == {"wmark-evidence/2", "wmark-plan/1", "wmark-calibration/1", "wmark-attribution/1"}
