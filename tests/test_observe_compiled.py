"""The compiled pass over token ids says the same as the rules in numpy and in plain words, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark import prf
from watermark.accounts import Accounts
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import compiled, observe, rules, text
from watermark.observe.compiled import Copies, cell_names, first_of, scan
from watermark.observe.restored import bare
from watermark.outputs import Output
from watermark.schemes import GreenList, scheme_from_json

KEY, SHARED = decoy_keys(b"compiled", 2)
SPECIAL = (3, 40, 41)


def _seen(outputs, mark, *, compiled: bool, **options):
    """Observations by either way, whatever the number of ids."""
    with pytest.MonkeyPatch.context() as here:
        for room in (rules, text):
            here.setattr(room, "MANY", 0 if compiled else 1 << 60)
        here.setattr(text, "BATCH", 16)
        return observe(outputs, mark, **options)


def _same(first, second) -> None:
    for name in ("windows", "choices", "documents", "tokens"):
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for name in ("names", "skipped", "prompts_known", "digest", "restored", "templated"):
        assert getattr(first, name) == getattr(second, name)
    for one, other in zip(first.samples, second.samples, strict=True):
        assert one.id == other.id
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.cells, other.cells)


rows = st.lists(st.integers(0, 60) | st.sampled_from([2**32 - 1]), max_size=40).map(tuple)
some_outputs = st.lists(
    st.builds(Output, st.just("x"), token_ids=rows, prompt_token_ids=st.none() | rows), min_size=30, max_size=60
)


@given(outputs=some_outputs, width=st.integers(1, 5), accounts=st.booleans(), served=st.booleans())
@settings(max_examples=30, deadline=None)
def test_both_ways_see_the_same(outputs, width, accounts, served):
    outputs = [*outputs, Output("enough", token_ids=tuple(range(1000)))]
    mark = Watermark(
        GreenList(window=width),
        KEY,
        Binding("digest", 2**32, SPECIAL),
        accounts=Accounts(0.3) if accounts else None,
        shared=SHARED if accounts else None,
    )
    names = None
    if served:
        ids = np.array([i for output in outputs for i in output.token_ids][::2] * 2, dtype=np.uint32)
        names = np.unique(
            prf.window_ids(np.lib.stride_tricks.sliding_window_view(np.arange(1030, dtype=np.uint32), width))
        )
        names = np.unique(np.append(names, prf.window_ids(ids[: len(ids) // width * width].reshape(-1, width))))
    _same(
        _seen(outputs, mark, compiled=True, served=names),
        _seen(outputs, mark, compiled=False, served=names),
    )


@pytest.mark.parametrize("name", ["gumbel", "tournament"])
def test_other_schemes_too(name):
    rng = np.random.default_rng(1)
    outputs = [Output(str(n), token_ids=tuple(rng.integers(0, 40, 100).tolist())) for n in range(60)]
    scheme = scheme_from_json({"name": name, "version": 1, "parameters": {}})
    mark = Watermark(scheme, KEY, Binding("digest", 50, SPECIAL))
    _same(_seen(outputs, mark, compiled=True), _seen(outputs, mark, compiled=False))


def test_engines_that_confuse_windows_or_ignore_keys_too():
    from watermark.schemes.engines import ENGINES

    rng, tried = np.random.default_rng(2), 0
    outputs = [Output(str(n), token_ids=tuple(rng.integers(0, 30, 80).tolist())) for n in range(40)]
    for kind in ENGINES.values():
        if not (hasattr(kind, "canonical") or hasattr(kind, "keyless")):
            continue
        try:
            mark = Watermark(kind(), KEY, Binding("digest", 50, SPECIAL))
        except TypeError:
            continue
        tried += 1
        _same(_seen(outputs, mark, compiled=True), _seen(outputs, mark, compiled=False))
    assert tried


@pytest.mark.parametrize("width", [1, 2, 3])
def test_texts_and_their_prompts_too(width, texts, tokenizer, binding):
    mark = Watermark(GreenList(window=width), KEY, binding)
    outputs = []
    for n, source in enumerate(("english", "code", "templated") * 12):
        start = 700 * n
        said = texts[source][start : start + 700] + ("é “x” \u00a0 字 🙂🙂\n" if n % 2 else "")
        asked = (None, texts[source][start + 50 : start + 250], "\n ", "", f"字“{said[-5:]}", "a")[n % 6]
        outputs.append(Output(str(n), text=said.upper() if n % 7 == 3 else said, prompt=asked))
    _same(
        _seen(outputs, mark, compiled=True, tokenizer=tokenizer),
        _seen(outputs, mark, compiled=False, tokenizer=tokenizer),
    )


PIECES = [
    "a",
    "b",
    "ab",
    " ",
    "\n",
    "\u00a0",
    "\u2003",
    "é",
    "字",
    "ba",
    " a",
    "\u3000",
    "\x1c",
    "",
    "\ufffd",
    "\u2029b",
    "aba",
]
prompts = st.lists(st.sampled_from([*PIECES, "abab", "baab字é"]), max_size=12).map("".join)


@given(
    windows=st.lists(st.lists(st.integers(0, len(PIECES) + 1), min_size=2, max_size=2), min_size=1, max_size=40),
    texts=st.lists(prompts, min_size=1, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_copies_are_what_stands_in_the_prompt_without_leading_blanks(windows, texts):
    asked: list[int] = []
    copies = Copies(lambda ids: asked.extend(ids) or [PIECES[i] for i in ids], len(PIECES))
    ids = np.array(windows, dtype=np.uint32)
    documents = np.sort(np.arange(len(ids)) % len(texts))
    for _ in range(2):
        found = copies.found(ids, documents, texts).tolist()
        for window, document, said in zip(windows, documents.tolist(), found, strict=True):
            known = all(i < len(PIECES) and PIECES[i] != "\ufffd" for i in window)
            if not known and texts[document]:
                assert said == rules.UNKNOWN
            elif known:
                spelt = "".join(PIECES[i] for i in window).lstrip()
                assert said == int(bool(texts[document]) and spelt in texts[document])
    assert len(asked) == len(set(asked))  # each is spelt once


def test_a_window_does_not_run_from_one_prompt_into_the_next():
    copies = Copies(lambda ids: [["ab", "cde", "e"][i] for i in ids], 3)
    windows, texts = np.array([[0, 1], [0, 1], [2, 2]], dtype=np.uint32), ["zabcd", "e abcde", "e"]
    assert copies.found(windows, np.arange(3), texts).tolist() == [0, 1, 0]
    assert copies.found_bare(windows, np.arange(3), [bare(text) for text in texts]).tolist() == [0, 1, 0]


LOOSE = ["a", "B", " Ab", "_", "-", "1", " ", "\n", "é", "&", "amp;", "<p>", "“", "\\n", "?!", "", "Ｋ", "\x1c"]
asked_loosely = st.lists(st.sampled_from([*LOOSE, "ab 1", "a-b", "&lt;"]), max_size=12).map("".join)


@given(
    windows=st.lists(st.lists(st.integers(0, len(LOOSE) - 1), min_size=3, max_size=3), min_size=1, max_size=40),
    texts=st.lists(asked_loosely, min_size=1, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_copies_by_words_are_what_the_bare_prompt_holds(windows, texts):
    copies = Copies(lambda ids: [LOOSE[i] for i in ids], len(LOOSE))
    ids, wholes = np.array(windows, dtype=np.uint32), [bare(f" {text}") for text in texts]
    documents = np.sort(np.arange(len(ids)) % len(texts))
    for window, document, said in zip(windows, documents.tolist(), copies.found_bare(ids, documents, wholes).tolist()):
        spelt = "".join(LOOSE[i] for i in window)
        if said == rules.UNKNOWN:
            assert not spelt.isascii() or set(spelt) & set("&<\\")
        else:
            assert said == int(wholes[document].holds(bare(spelt)))


@pytest.mark.parametrize("part", [1, 7, 1 << 14])
def test_the_first_of_each_name_is_found(part, monkeypatch):
    monkeypatch.setattr(compiled, "_PART", part)
    rng = np.random.default_rng(3)
    for names in (
        prf.cell_ids(rng.integers(0, 60, (20_000, 2)), rng.integers(0, 60, 20_000)),
        rng.integers(0, 5, 300).astype(np.uint64),  # with 0, which marks an empty place; all in one part
        rng.integers(2**64 - 5, 2**64 - 1, 300, dtype=np.uint64, endpoint=True),
        np.repeat(rng.integers(0, 2**64 - 1, 100, dtype=np.uint64), 3),
        np.empty(0, dtype=np.uint64),
        np.zeros(1, dtype=np.uint64),
    ):
        _, first = np.unique(names, return_index=True)
        assert np.flatnonzero(first_of(names)).tolist() == sorted(first.tolist())


@pytest.mark.parametrize("sifted", [1, 500, 1 << 22])
def test_distinct_cells_are_the_same_however_often_they_are_sifted(sifted, monkeypatch):
    monkeypatch.setattr(text, "_SIFTED", sifted)
    rng = np.random.default_rng(5)
    part = (rng.integers(0, 9, (3000, 2)).astype(np.uint32), rng.integers(0, 9, 3000).astype(np.uint32))
    part = (*part, np.arange(3000) // 50, np.where(rng.random(3000) < 0.1, -1, np.arange(3000) % 50))
    found = []
    for numba in ("1", "0"):
        monkeypatch.setenv("WMARK_NUMBA", numba)
        distinct = text.Distinct(GreenList(window=2))
        for at in np.array_split(np.arange(3000), 13):
            distinct.add(tuple(column[at] for column in part))
        found.append((distinct.finish(), distinct.repeated))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found[0][1] == found[1][1] > 0


def test_names_are_those_of_the_windows():
    ids = np.random.default_rng(4).integers(0, 2**32, 300, dtype=np.uint32)
    bounds = np.array([0, 100, 100, 300])
    found = scan(
        ids, bounds, 3, (), np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint32), np.zeros(4, dtype=np.int64)
    )
    np.testing.assert_array_equal(found.names, prf.window_ids(found.windows))
    names = np.empty(300, dtype=np.uint64)
    assert cell_names(found.windows, found.choices, names, 6) == 300
    np.testing.assert_array_equal(names[6:], prf.cell_ids(found.windows, found.choices))
    assert found.left == [6, 0, 0, 0, 0]
    assert len(found.choices) == 294
