"""Observations: the validity rules, checked against a plain reading of them with sets and loops."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark import prf
from watermark.errors import OutputsInvalid, ProfileMismatch, TooFewObservations
from watermark.keys import decoy_keys
from watermark.ledger import Record
from watermark.mark import Binding, Watermark
from watermark.observe import MINIMUM_CELLS, observe, served_windows
from watermark.observe.restored import restored
from watermark.outputs import Output
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

SPECIAL = (40, 41)
KEY = next(iter(decoy_keys(b"observe", 1)))


def _mark(width: int) -> Watermark:
    return Watermark(GreenList(window=width), KEY, Binding("digest", 42, SPECIAL))


def _plainly(outputs: list[Output], width: int, served: set[tuple[int, ...]] | None = None) -> list[tuple]:
    """(window, token, document) of every cell by the rules' own words, in reading order."""
    seen, cells = set(), []
    for document, output in enumerate(outputs):
        ids, prompt = output.token_ids, output.prompt_token_ids or ()
        prompted = {prompt[i : i + width] for i in range(len(prompt) - width + 1)}
        for place in range(width, len(ids)):
            window, token = ids[place - width : place], ids[place]
            if set(SPECIAL) & {*window, token} or window in prompted:
                continue
            if served is not None and window not in served:
                continue
            if (window, token) not in seen:
                seen.add((window, token))
                cells.append((window, token, document))
    return cells


def _cells(seen) -> list[tuple]:
    return [(tuple(w), t, d) for w, t, d in zip(seen.windows.tolist(), seen.choices.tolist(), seen.documents.tolist())]


rows = st.lists(st.integers(0, 41), max_size=40).map(tuple)
some_outputs = st.lists(
    st.builds(Output, st.just("x"), token_ids=rows, prompt_token_ids=st.none() | rows),
    min_size=20,
    max_size=60,
)


@given(outputs=some_outputs, width=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_cells_are_those_of_the_rules(outputs, width):
    expected = _plainly(outputs, width)
    if len(expected) < MINIMUM_CELLS:
        with pytest.raises(TooFewObservations, match=f"^{len(expected)} distinct cells"):
            observe(outputs, _mark(width))
        return
    seen = observe(outputs, _mark(width))
    assert _cells(seen) == expected
    assert seen.tokens.tolist() == [len(output.token_ids) for output in outputs]
    assert len(seen) + sum(seen.skipped.values()) == seen.tokens.sum()
    assert seen.prompts_known == sum(output.prompt_token_ids is not None for output in outputs)


@given(outputs=some_outputs, served=st.lists(rows, min_size=5, max_size=20), width=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_ledger_keeps_the_windows_that_were_served_and_no_others(outputs, served, width):
    windows = {row[i : i + width] for row in served for i in range(len(row) - width + 1)}
    expected = _plainly(outputs, width, windows)
    names = served_windows([_record(row) for row in served], _mark(width))
    if len(expected) < MINIMUM_CELLS:
        with pytest.raises(TooFewObservations):
            observe(outputs, _mark(width), served=names)
        return
    assert _cells(observe(outputs, _mark(width), served=names)) == expected


def _record(ids, kid: str = KEY.kid) -> Record:
    return Record(0, "", "", kid, {}, "", "", "", None if ids is None else list(ids), "", "")


def _random_outputs(count: int, length: int, *, seed: int = 0, top: int = 40) -> list[Output]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, top, (count, length)).tolist()
    return [Output(f"a{i}", token_ids=tuple(ids)) for i, ids in enumerate(drawn)]


def test_windows_never_cross_from_one_answer_to_the_next():
    apart = [Output(str(i), token_ids=(i % 40, (7 * i) % 40)) for i in range(500)]
    together = Output("a", token_ids=tuple(i for output in apart for i in output.token_ids))
    assert len(observe([together], _mark(2))) >= 50
    with pytest.raises(TooFewObservations, match="^0 distinct cells"):
        observe(apart, _mark(2))


def test_at_least_fifty_cells_are_needed():
    ids = tuple(range(40)) + tuple(range(0, 40, 3))
    assert MINIMUM_CELLS == 50
    with pytest.raises(TooFewObservations, match="49 distinct cells to score, need at least 50") as caught:
        observe([Output("a", token_ids=ids[:50])], _mark(1))
    assert "query the suspect for more text" in str(caught.value.hint)
    assert len(observe([Output("a", token_ids=ids[:51])], _mark(1))) == 50


def test_each_cell_counts_once_over_the_whole_corpus():
    once = _random_outputs(20, 100)
    assert _cells(observe(once * 5, _mark(2))) == _cells(observe(once, _mark(2)))
    assert observe(once * 5, _mark(2)).digest == observe(once, _mark(2)).digest


def test_window_in_the_answers_own_prompt_is_skipped_and_only_there():
    answers = _random_outputs(4, 300)
    copied = [dataclasses.replace(answers[0], prompt_token_ids=answers[0].token_ids), *answers[1:]]
    seen = observe(copied, _mark(2))
    assert 0 not in seen.documents
    assert seen.skipped["window in the prompt"] == 298
    swapped = [dataclasses.replace(answers[0], prompt_token_ids=tuple(range(40))), *answers[1:]]
    assert 0 in observe(swapped, _mark(2)).documents


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("lead", ["", " ", "\n", '"'])
def test_words_copied_from_the_prompt_are_skipped_however_they_begin(lead, width, texts, tokenizer, key, binding):
    """The teacher may have said "Word" where the prompt holds " Word": other ids, the same copied text."""
    quotes = [part.strip()[:120] for part in texts["english"][:200_000].split(". ")]
    quote = next(q for q in quotes if len(q) > 100 and _begins_otherwise(q, tokenizer))
    output = Output("a", text=f"{lead}{quote}{texts['code'][:4_000]}", prompt=f"Please repeat: {quote}")
    seen = observe([output], Watermark(GreenList(window=width), key, binding), tokenizer=tokenizer)
    copied = len(tokenizer.encode([lead + quote])[0]) - 2
    first = width + len(tokenizer.encode([lead])[0])  # windows that hold what stands before the quote may count
    assert (seen.samples[0].cells[first:copied] == -1).all()


def _begins_otherwise(quote: str, tokenizer: Tokenizer) -> bool:
    """Whether the quote's first token is another one behind a space, and does not recur."""
    alone, prompt = tokenizer.encode([quote, f"Please repeat: {quote}"])
    return alone[0] not in prompt and alone[1] in prompt


def test_batches_do_not_change_the_cells():
    """Answers are read 512 at a time: prompts must stay with their own answer in every batch."""
    outputs = [
        dataclasses.replace(output, prompt_token_ids=output.token_ids[: 3 + i % 9])
        for i, output in enumerate(_random_outputs(1_300, 12))
    ]
    assert _cells(observe(iter(outputs), _mark(2))) == _plainly(outputs, 2)


def test_special_tokens_are_neither_scored_nor_in_windows():
    outputs = _random_outputs(30, 100, top=42)
    seen = observe(outputs, _mark(2))
    assert not np.isin(seen.windows, SPECIAL).any()
    assert not np.isin(seen.choices, SPECIAL).any()
    assert seen.skipped["special token"] > 0


@pytest.mark.parametrize("width", [1, 2, 4])
def test_order_of_reading_changes_neither_the_cells_nor_the_count(width):
    outputs = [
        dataclasses.replace(output, prompt_token_ids=output.token_ids[:20])
        for output in _random_outputs(40, 60, top=12 if width < 4 else 5)
    ]
    forward, backward = observe(outputs, _mark(width)), observe(outputs[::-1], _mark(width))
    assert {c[:2] for c in _cells(forward)} == {c[:2] for c in _cells(backward)}
    score = _mark(width).score
    assert score(forward.windows, forward.choices).sum() == score(backward.windows, backward.choices).sum()


def test_digest_is_the_documented_hash():
    seen = observe(_random_outputs(9, 90), _mark(3))
    raw = seen.windows.astype("<u4").tobytes() + seen.choices.astype("<u4").tobytes()
    assert seen.digest == hashlib.sha256(raw).hexdigest()
    changed = observe(_random_outputs(9, 90, seed=1), _mark(3))
    assert changed.digest != seen.digest


def test_token_ids_and_text_give_the_same_cells(texts, tokenizer, mark):
    pieces = [text[i : i + 700] for text in texts.values() for i in range(0, 21_000, 700)]
    pieces = [piece for piece in pieces if restored(piece) == [piece] and restored(piece[100:200]) == [piece[100:200]]]
    as_text = [Output(str(i), text=t, prompt=t[100:200]) for i, t in enumerate(pieces)]
    encoded, prompts = tokenizer.encode(pieces), tokenizer.encode([t[100:200] for t in pieces])
    as_ids = [
        Output(str(i), token_ids=tuple(a), prompt_token_ids=tuple(p)) for i, (a, p) in enumerate(zip(encoded, prompts))
    ]
    first, second = observe(as_text, mark, tokenizer=tokenizer), observe(as_ids, mark, tokenizer=tokenizer)
    assert first.digest == second.digest
    assert first.skipped == second.skipped
    assert first.skipped["window in the prompt"] > 0


def test_text_may_stand_beside_token_ids(texts, tokenizer, mark):
    text = texts["english"][:4_000]
    (ids,) = tokenizer.encode([text])
    mixed = [Output("a", text=text), Output("b", token_ids=tuple(ids)), Output("c", text=text, prompt="x")]
    alone = observe(mixed[:1], mark, tokenizer=tokenizer)
    assert observe(mixed, mark, tokenizer=tokenizer).digest == alone.digest


def test_a_prompt_that_came_as_text_and_as_ids_is_both(texts, tokenizer, mark):
    """The ids hold a retrieved text that the prompt does not; its copies begin otherwise than it is cut there."""
    pieces = [texts["english"][i : i + 300] for i in range(0, 9_000, 300)]
    answers = tokenizer.encode([piece[5:] for piece in pieces])
    held = tokenizer.encode([f"Answer from this: {piece}" for piece in pieces])
    given = [
        Output(str(n), token_ids=tuple(ids), prompt_token_ids=tuple(before))
        for n, (ids, before) in enumerate(zip(answers, held, strict=True))
    ]
    others = [Output("fresh", text=texts["english"][10_000:14_000])]
    alone = observe(given + others, mark, tokenizer=tokenizer)
    named = [dataclasses.replace(output, prompt="What happened?") for output in given]
    both = observe(named + others, mark, tokenizer=tokenizer)
    assert both.digest == alone.digest
    assert both.skipped == alone.skipped
    assert not (both.documents < len(given)).any()


def test_special_tokens_written_out_in_a_text_are_left_out(texts, tokenizer, mark):
    text = texts["english"][:3_000]
    noted = observe([Output("a", text=text.replace(" ", "<|end|>", 30))], mark, tokenizer=tokenizer)
    assert noted.skipped["special token"] >= 30
    assert not np.isin(noted.windows, mark.special_ids).any()


def test_samples_say_which_token_became_which_cell():
    outputs = _random_outputs(9, 80)
    seen = observe(outputs, _mark(2))
    assert [sample.id for sample in seen.samples] == ["a0", "a1", "a2", "a3"]
    for sample, output in zip(seen.samples, outputs):
        assert tuple(sample.token_ids) == output.token_ids
        for place, cell in enumerate(sample.cells):
            if cell >= 0:
                assert seen.choices[cell] == output.token_ids[place]
                assert tuple(seen.windows[cell]) == output.token_ids[place - 2 : place]
    shown = np.concatenate([sample.cells for sample in seen.samples])
    assert sorted(shown[shown >= 0]) == np.flatnonzero(seen.documents < 4).tolist()


def test_text_of_ids_is_not_tidied_up(teacher_folder):
    """A hub's tokenizer may take blanks away before signs; the prompt that a window is compared with still has them."""
    transformers = pytest.importorskip("transformers")
    tidy = {"clean_up_tokenization_spaces": True}
    tidy["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    wrapped = Tokenizer.wrap(
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(teacher_folder / "tokenizer.json"), **tidy)
    )
    said = "He did n't know , and it was fine ."
    assert wrapped.texts(wrapped.encode([said])) == [said]


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(OutputsInvalid, match="no tokenizer was given"):
        observe([Output("a", text="hello")], _mark(2))


def test_text_cut_within_a_character_does_not_stop_the_reading(texts, tokenizer, mark):
    """JSON may hold half of a surrogate pair: refused in words, or read, but not another exception."""
    outputs = [Output("a", text=texts["english"][:2_000]), Output("b", text="cut \ud83d")]
    with contextlib.suppress(OutputsInvalid):
        observe(outputs, mark, tokenizer=tokenizer)


def test_another_tokenizer_is_refused(texts, tokenizer, mark):
    other = Tokenizer("0" * 64, tokenizer.size, tokenizer.special_ids, "other", tokenizer._backend)
    with pytest.raises(ProfileMismatch, match="is not that of mark"):
        observe([Output("a", text=texts["english"][:2_000])], mark, tokenizer=other)


def test_token_id_beyond_the_logits_is_refused():
    outputs = _random_outputs(5, 50)
    observe([*outputs, Output("edge", token_ids=(41,))], _mark(2))
    with pytest.raises(ProfileMismatch, match="token id 42 is beyond the mark's 42 logits"):
        observe([*outputs, Output("beyond", token_ids=(42,))], _mark(2))


def test_ledger_of_another_key_is_refused():
    with pytest.raises(ProfileMismatch, match="marked under kid f{16}"):
        served_windows([_record([1, 2, 3]), _record([1, 2, 3], kid="f" * 16)], _mark(2))


def test_hash_only_ledger_cannot_filter():
    with pytest.raises(OutputsInvalid, match="hash-only"):
        served_windows([_record(None)], _mark(2))


def test_served_windows_are_all_windows_once():
    names = served_windows([_record([1, 2, 3, 1, 2]), _record([5]), _record([])], _mark(2))
    expected = prf.window_ids(np.array([[1, 2], [2, 3], [3, 1]]))
    assert names.tolist() == sorted(expected.tolist())


def test_outputs_survive_untouched_and_progress_is_told():
    outputs, told = _random_outputs(1_100, 6), []
    kept = list(outputs)
    observe(outputs, _mark(1), progress=told.append)
    assert outputs == kept
    assert told == [512, 1_024, 1_100]


def test_only_distinct_cells_reach_the_score_whatever_the_repetition():
    looping = [Output("a", token_ids=tuple(np.random.default_rng(3).integers(0, 40, 80).tolist()) * 200)]
    assert len(observe(looping, _mark(2))) <= 80
