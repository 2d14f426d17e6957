"""Lists of ids lifted out of a line give what json gives, and what json refuses is refused in json's words."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark import prf
from watermark.idlists import Lifting
from watermark.outputs import Outputs

pytestmark = pytest.mark.skipif(prf.backend() != "numba", reason="lists are lifted where numba is installed")

LONG = list(range(0, 4_000_000_000, 40_000_001))
READY = {"seen": 1 << 20, "compiled": True}


def plain(found):
    """With arrays as lists."""
    return (
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in found.items()} if type(found) is dict else found
    )


def both(line: bytes):
    """(what json makes of a line, what we make of it); an error's kind and words for one that is refused."""
    made = []
    for loads in (lambda: json.loads(line.decode("utf-8-sig")), lambda: plain(Lifting(**READY).loads(line))):
        try:
            made.append(loads())
        except (ValueError, RecursionError) as error:
            made.append((type(error), str(error)))
    return made


keys = st.sampled_from(
    [
        "token_ids",
        "prompt_token_ids",
        "id",
        "text",
        "meta",
        'x"token_ids',
        "xtoken_ids",
        "token_ids\\",
        "token\u005fids",
    ]
)
numbers = st.integers(0, 2**32 - 1) | st.integers(-3, 2**33) | st.floats(allow_nan=False)
values = st.recursive(
    st.none()
    | st.text(max_size=9)
    | numbers
    | st.lists(st.integers(0, 2**32 - 1), max_size=9)
    | st.lists(numbers, max_size=3),
    lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
layouts = st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}])


@given(record=st.dictionaries(keys, values, max_size=5), layout=layouts, where=st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_any_record_is_what_json_says(record, layout, where):
    items = list(record.items())
    items.insert(where, ("meta" if where % 2 else "prompt", "x" * 300))
    line = json.dumps(dict(items), **layout).replace("\n", " ").encode()
    expected, found = both(line)
    assert found == expected


@given(ids=st.lists(st.integers(0, 2**32 - 1), min_size=100, max_size=120), layout=layouts)
@settings(max_examples=30, deadline=None)
def test_long_lists_are_lifted(ids, layout):
    line = json.dumps({"id": "a", "token_ids": ids, "prompt_token_ids": ids[:1]}, **layout).encode()
    found = Lifting(**READY).loads(line)
    assert found["token_ids"].dtype == found["prompt_token_ids"].dtype == np.uint32
    assert plain(found) == json.loads(line)


PADDED = '"text": "' + "y" * 300 + '"'
UNUSUAL = [
    '{"token_ids": [1, 2,], %s}',
    '{"token_ids": [,1], %s}',
    '{"token_ids": [1 2], %s}',
    '{"token_ids": [01], %s}',
    '{"token_ids": [1, 00], %s}',
    '{"token_ids": [1, -2], %s}',
    '{"token_ids": [1, +2], %s}',
    '{"token_ids": [1.0], %s}',
    '{"token_ids": [1e3], %s}',
    '{"token_ids": [4294967296], %s}',
    '{"token_ids": [99999999999999999999], %s}',
    '{"token_ids": [true], %s}',
    '{"token_ids": [[1]], %s}',
    '{"token_ids": [1\u00a0], %s}',
    '{"token_ids": [1', '{"token_ids": [1,', '{"token_ids": [', '{"token_ids":',
    '{"token_ids": [1], "token_ids": [2], %s}',
    '{"token_ids": [1], "token_ids": 2, %s}',
    '{"meta": {"token_ids": [1, 2]}, %s}',
    '{"meta": {"token_ids": [1, 2]}, "token_ids": [3], %s}',
    '{"meta": {"token_ids": [1, 2]}, "token\\u005fids": [], %s}',
    '{"token_ids": [1], "token\\u005fids": [], %s}',
    '{"a\\"token_ids": [1], %s}',
    '{"a\\\\"token_ids": [1], %s}',
    '{"b": "\\"token_ids\\": [1]", %s}',
    '{"b": "token_ids", %s}',
    '{"b": "the \\"token_ids", "c": [1], %s}',
    '[{"token_ids": [1, 2], %s}]',
    '{"token_ids" : \t[ \n7\r,\t8 ]\n, %s}',
    '{"token_ids": [], %s}',
    '{"token_ids": [ ], "prompt_token_ids": [0], %s}',
    '{"token_ids": [1] %s}',
    '{"token_ids": [1], %s} x',
    '{"token_ids": "[1]", %s}',
    '{"token_ids": null, %s}',
]  # fmt: skip


@pytest.mark.parametrize("shape", UNUSUAL)
def test_unusual_lines_are_what_json_says(shape):
    line = (shape % PADDED if "%s" in shape else shape + " " * 300).encode()
    expected, found = both(line)
    assert found == expected


def test_bytes_that_are_no_text_are_refused_as_ever():
    line = b'{"token_ids": [1], "text": "\xff' + b"y" * 300 + b'"}'
    assert both(line)[0] == both(line)[1]
    assert both(b"\xef\xbb\xbf" + line.replace(b"\xff", b""))[1]["token_ids"] == [1]


def test_nobody_can_write_what_stands_for_a_list():
    lifting = Lifting(**READY)
    lifting.loads(b'{"token_ids": [1], "text": "' + b"y" * 300 + b'"}')
    assert len(lifting.held) == 32
    assert Lifting(**READY).held != lifting.held


def test_a_file_reads_the_same_before_and_after_lists_are_lifted(tmp_path, monkeypatch):
    from watermark import outputs

    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "token_ids": LONG[n:]}) + "\n" for n in range(60)))
    read = []
    for compiled in (False, True):
        lifting = Lifting(seen=1 << 20, compiled=compiled)
        monkeypatch.setattr(outputs, "LIFTING", lifting)
        read.append(list(Outputs(path)))
        assert bool(lifting.held) is compiled
    assert read[0] == read[1]


def test_small_files_start_nothing(tmp_path):
    lifting = Lifting()
    lifting.loads(json.dumps({"token_ids": LONG}).encode())
    assert not lifting.compiled
    for _ in range(2_000):
        lifting.loads(json.dumps({"token_ids": LONG}).encode())
    assert lifting.compiled
