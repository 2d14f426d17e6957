"""Outputs: every format gives the same answers, and every bad input is named with its line and a remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from watermark import outputs as room
from watermark.errors import OutputsInvalid
from watermark.outputs import Output, Outputs

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Who?", "text": "Zoë said “no”.\nThen 🙂"},
    {"id": "b", "text": "no prompt here", "meta": {"model": "suspect"}},
    {"id": "c", "token_ids": [0, 65536, 2**32 - 1], "prompt_token_ids": [5, 6]},
    {"id": "d", "prompt": "empty answers are answers", "text": ""},
]
EXPECTED = [
    Output("a", text="Zoë said “no”.\nThen 🙂", prompt="Who?"),
    Output("b", text="no prompt here"),
    Output("c", token_ids=(0, 65536, 2**32 - 1), prompt_token_ids=(5, 6)),
    Output("d", text="", prompt="empty answers are answers"),
]


def _lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _plain(path: Path) -> Path:
    path.write_bytes(_lines(ROWS))
    return path


def _escaped(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def _gzip(path: Path) -> Path:
    path.write_bytes(gzip.compress(_lines(ROWS)))
    return path


def _gzip_in_two_members(path: Path) -> Path:
    path.write_bytes(gzip.compress(_lines(ROWS[:2])) + gzip.compress(_lines(ROWS[2:])))
    return path


def _zstd(path: Path) -> Path:
    path.write_bytes(zstandard.compress(_lines(ROWS)))
    return path


def _zstd_in_two_frames(path: Path) -> Path:
    path.write_bytes(zstandard.compress(_lines(ROWS[:2])) + zstandard.compress(_lines(ROWS[2:])))
    return path


def _table() -> pa.Table:
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("prompt", pa.string()),
            ("text", pa.string()),
            ("token_ids", pa.list_(pa.int64())),
            ("prompt_token_ids", pa.list_(pa.int64())),
        ]
    )
    return pa.Table.from_pylist([{k: v for k, v in row.items() if k != "meta"} for row in ROWS], schema=schema)


def _parquet(path: Path) -> Path:
    pq.write_table(_table(), path, row_group_size=2)
    return path


def _parquet_folder(path: Path) -> Path:
    path.mkdir()
    pq.write_table(_table().slice(0, 1), path / "part-0.parquet")
    pq.write_table(_table().slice(1), path / "part-1.parquet")
    return path


def _datasets_folder(path: Path) -> Path:
    """As datasets' save_to_disk leaves it: Arrow streams, and two small JSON files."""
    path.mkdir()
    for number, part in enumerate((_table().slice(0, 3), _table().slice(3))):
        name = str(path / f"data-0000{number}-of-00002.arrow")
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
    (path / "dataset_info.json").write_text("{}")
    (path / "state.json").write_text("{}")
    return path


def _blank_lines_and_crlf(path: Path) -> Path:
    path.write_bytes(b"\r\n" + _lines(ROWS).replace(b"\n", b"\r\n").replace(b"}\r\n", b"}\r\n  \r\n\n"))
    return path


def _no_last_newline(path: Path) -> Path:
    path.write_bytes(_lines(ROWS).rstrip(b"\n"))
    return path


def _byte_order_mark(path: Path) -> Path:
    path.write_bytes(b"\xef\xbb\xbf" + _lines(ROWS))
    return path


FORMATS = [
    _plain,
    _escaped,
    _gzip,
    _gzip_in_two_members,
    _zstd,
    _zstd_in_two_frames,
    _parquet,
    _parquet_folder,
    _datasets_folder,
    _blank_lines_and_crlf,
    _no_last_newline,
    _byte_order_mark,
]


@pytest.mark.parametrize("written", FORMATS, ids=lambda f: f.__name__[1:])
def test_every_format_gives_the_same_outputs(written, tmp_path):
    assert list(Outputs(written(tmp_path / "outputs"))) == EXPECTED


def test_datasets_own_folder_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]).save_to_disk(tmp_path / "d")
    assert list(Outputs(tmp_path / "d")) == [Output("a", text="one"), Output("b", text="two")]


def test_outputs_are_read_anew_at_each_pass(tmp_path):
    found = Outputs(_gzip(tmp_path / "o.gz"))
    assert list(found) == list(found) == EXPECTED


def _refusal(content: bytes | Path, tmp_path: Path, **options: Any) -> OutputsInvalid:
    path = content
    if isinstance(content, bytes):
        path = tmp_path / "bad.jsonl"
        path.write_bytes(content)
    with pytest.raises(OutputsInvalid) as caught:
        list(Outputs(path, **options))
    return caught.value


GOOD = _lines(ROWS[:2])

BAD = {
    "empty file": (b"", "it is empty", "each line should be"),
    "blank file": (b"\n\n  \n", "it is empty", "each line should be"),
    "binary file": (b"\x7fELF\x02\x01\x00\x00" * 9, "binary file", "pass .jsonl"),
    "zero byte in a line": (GOOD + b'{"text": "a\x00b"}\n', "line 3", "pass .jsonl"),
    "line cut short": (
        GOOD + b'{"id": "c", "te',
        "line 3: not a JSON object (the line has no end",
        "mend the line",
    ),
    "broken line": (GOOD + b'{"id": "c" "text"}\n' + GOOD, "line 3: not a JSON object", "--skip-bad"),
    "latin-1": (
        GOOD + '{"text": "Zoë"}\n'.encode("latin-1"),
        "line 3: not UTF-8 (byte 0xeb at column 13)",
        "UTF-8",
    ),
    "utf-16": ('{"text": "Zo"}\n'.encode("utf-16"), "", "pass .jsonl"),
    "near field": (
        GOOD + b'{"id": "c", "txt": "x"}\n',
        "line 3: unknown field 'txt'",
        "did you mean 'text'?",
    ),
    "far field": (
        GOOD + b'{"id": "c", "response": "x"}\n',
        "unknown field 'response'",
        "--field text=response",
    ),
    "prompt alone": (
        GOOD + b'{"id": "c", "prompt": "x"}\n',
        "line 3: found a prompt but no response",
        "prompts",
    ),
    "nothing": (GOOD + b"{}\n", "line 3: found the fields (none) but no response", None),
    "list": (GOOD + b"[1, 2]\n", "line 3: needed a JSON object, found list", None),
    "string": (GOOD + b'"text"\n', "line 3: needed a JSON object, found str", None),
    "null": (GOOD + b"null\n", "line 3: needed a JSON object, found NoneType", None),
    "text is a number": (GOOD + b'{"text": 7}\n', "line 3: 'text' should be a string, found int", None),
    "prompt is a number": (GOOD + b'{"text": "x", "prompt": 7}\n', "line 3: 'prompt' should be", None),
    "prompt without content": (
        GOOD + b'{"text": "x", "prompt": [{"role": "user"}]}\n',
        "'prompt' should be",
        None,
    ),
    "negative id": (GOOD + b'{"token_ids": [1, -1]}\n', "line 3: 'token_ids' should be", None),
    "boolean id": (GOOD + b'{"token_ids": [1, true]}\n', "line 3: 'token_ids' should be", None),
    "broken id": (GOOD + b'{"token_ids": [1, 2.0]}\n', "line 3: 'token_ids' should be", None),
    "id too large": (GOOD + b'{"token_ids": [4294967296]}\n', "line 3: 'token_ids' should be", None),
    "ids in a string": (GOOD + b'{"token_ids": "1 2"}\n', "line 3: 'token_ids' should be", None),
    "ids nested": (GOOD + b'{"token_ids": [[1]]}\n', "line 3: 'token_ids' should be", None),
    "bad prompt ids": (
        GOOD + b'{"text": "x", "prompt_token_ids": [-1]}\n',
        "'prompt_token_ids' should be",
        None,
    ),
    "deep nesting": (GOOD + b"[" * 100_000 + b"\n", "line 3: not a JSON object", "mend"),
    "half a surrogate pair": (GOOD + b'{"text": "cut \\ud83d"}\n', "line 3", None),
    "half a surrogate pair in a name": (
        GOOD + b'{"id": "cut \\ud83d", "text": "x"}\n',
        "line 3: 'id' holds",
        "--skip-bad",
    ),
}


@pytest.mark.parametrize("content, message, hint", BAD.values(), ids=BAD)
def test_bad_input_is_named_with_its_remedy(content, message, hint, tmp_path):
    error = _refusal(content, tmp_path)
    assert message in str(error)
    assert "bad.jsonl" in str(error)
    if hint is not None:
        assert hint in (error.hint or "")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(OutputsInvalid, match="no outputs at .*nowhere"):
        Outputs(tmp_path / "nowhere.jsonl")


LONG = _lines([{"id": str(i), "text": f"{i} " * 50} for i in range(3_000)])


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.9999])
def test_compressed_file_cut_short_is_refused(share, tmp_path):
    for packed in (gzip.compress(LONG), zstandard.compress(LONG)):
        error = _refusal(packed[: int(len(packed) * share)], tmp_path)
        assert "cut short" in str(error)


def test_zstd_cut_at_the_end_of_a_block_is_refused(tmp_path):
    packer = zstandard.ZstdCompressor().compressobj()
    first = packer.compress(GOOD) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert "damaged or cut short" in str(_refusal(first, tmp_path))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_compressed_file_with_a_damaged_byte_is_refused(pack, tmp_path):
    """Wherever the byte stands: never another exception, never other outputs."""
    packed = bytearray(pack(LONG))
    for place in range(20, len(packed), len(packed) // 40):
        packed[place] ^= 0x55
        assert "bad.jsonl" in str(_refusal(bytes(packed), tmp_path))
        packed[place] ^= 0x55


@pytest.mark.parametrize("start", [b"PAR1", b"PAR1 and then nonsense PAR1"])
def test_damaged_parquet_is_refused(start, tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_bytes(start)
    assert "not readable Parquet" in str(_refusal(path, tmp_path))


def test_damaged_arrow_file_is_refused(tmp_path):
    folder = _datasets_folder(tmp_path / "d")
    arrow = sorted(folder.glob("*.arrow"))[1]
    arrow.write_bytes(b"nonsense" * 20)
    assert "not a readable Arrow file" in str(_refusal(folder, tmp_path))


def test_folder_without_data_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    assert "not a datasets folder" in str(_refusal(tmp_path / "d", tmp_path))


def test_folder_of_several_splits_is_refused(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    _datasets_folder(folder / "train")
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    error = _refusal(folder, tmp_path)
    assert "several splits" in str(error)
    assert "one split" in (error.hint or "")


def test_bad_row_of_a_table_is_named(tmp_path):
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "a"}, {"text": None}]), path)
    assert "row 2" in str(_refusal(path, tmp_path))


def test_too_long_a_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_MAX_LINE", 2**20)
    content = GOOD + b'{"text": "' + b"x" * 2**20 + b'"}\n'
    error = _refusal(content, tmp_path)
    assert "line 3: longer than 1 MiB" in str(error)
    allowed = tmp_path / "allowed.jsonl"
    allowed.write_bytes(content.replace(b"x" * 20, b""))
    assert len(list(Outputs(allowed))) == 3


def test_skip_bad_leaves_bad_records_out_and_counts_them(tmp_path):
    contents = [content for content, *_ in BAD.values() if content.startswith(GOOD)]
    contents = [content for content in contents if b"\x00" not in content and b"\\ud83d" not in content]
    bad = [content[len(GOOD) :].split(b"\n")[0] + b"\n" for content in contents]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(b"".join(line + _lines(ROWS[:1]) for line in bad))
    found = Outputs(path, skip_bad=True)
    assert list(found) == [EXPECTED[0]] * len(bad)
    assert found.skipped == len(bad)
    list(found)
    assert found.skipped == len(bad)


def test_skip_bad_does_not_make_nothing_of_a_file(tmp_path):
    error = _refusal(b"[1]\n[2]\n", tmp_path, skip_bad=True)
    assert "all 2 records are bad" in str(error)


def test_fields_say_what_a_column_is(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_bytes(_lines([{"uid": 7, "question": "Who?", "response": "Me", "score": 0.3}]))
    found = Outputs(path, fields={"id": "uid", "prompt": "question", "text": "response"})
    assert list(found) == [Output("7", text="Me", prompt="Who?")]


def test_field_that_is_none_of_ours_is_refused(tmp_path):
    path = _plain(tmp_path / "o.jsonl")
    with pytest.raises(OutputsInvalid, match="unknown field 'answer'"):
        Outputs(path, fields={"answer": "text"})


def test_chat_prompt_is_joined_turn_by_turn(tmp_path):
    path = tmp_path / "o.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    path.write_bytes(_lines([{"prompt": chat, "text": "Me"}]))
    asked = Output("0", text="Me", prompt="Be brief.\nWho?", messages=tuple(chat))
    assert list(Outputs(path)) == [asked]


def test_ids_win_over_text_and_missing_names_are_counted(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_bytes(_lines([{"text": "a", "token_ids": [1]}, {"text": "b"}]))
    assert list(Outputs(path)) == [Output("0", text="a", token_ids=(1,)), Output("1", text="b")]


def test_a_folder_of_json_lines_is_read_by_name(tmp_path):
    """Its query log is none of its answers."""
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"id": name, "text": name}) + "\n")
    (tmp_path / "a.jsonl.log.jsonl").write_text('{"format": "a log"}\n')
    with gzip.open(tmp_path / "ab.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"id": "packed", "text": "packed"}) + "\n")
    assert [o.id for o in Outputs(tmp_path)] == ["a.jsonl", "packed", "b.jsonl", "sub/c.jsonl"]
