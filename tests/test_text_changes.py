"""Text that was changed on its way: what is undone, that it finds the mark again, and that it accuses nobody."""

from __future__ import annotations

import html
import json
import math
import textwrap
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest

from watermark.detect import detect
from watermark.errors import ProfileMismatch, TooFewObservations
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.observe.restored import RECIPE, Turn, bare, restored, turns
from watermark.observe.rows import LONGER
from watermark.outputs import Output
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

Change = Callable[[str], str]


def _quoted(text: str) -> str:
    return text.replace(' "', " \u201c").replace('"', "\u201d").replace("'", "\u2019").replace("...", "\u2026")


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, 60, break_on_hyphens=False) for line in text.split("\n"))


def _mailed(text: str) -> str:
    return "\n".join(f"> {line}" for line in _wrapped(text).split("\n"))


def _sparse(text: str) -> str:
    return "\u200b".join(text[at : at + 10] for at in range(0, len(text), 10))


CHANGES: dict[str, Change] = {
    "entities": html.escape,
    "json": lambda text: json.dumps(text)[1:-1],
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "nfd": lambda text: unicodedata.normalize("NFD", text),
    "no-break": lambda text: text.replace(" ", "\u00a0"),
    "zero width": _sparse,
    "quotes": _quoted,
    "misread": lambda text: _quoted(text).encode().decode("latin-1"),
    "misread by Windows": lambda text: _quoted(text).encode().decode("cp1252", "ignore"),
    "wrapped": _wrapped,
    "mailed": _mailed,
    "shouted": str.upper,
    "lowered": str.lower,
    "many": lambda text: html.escape(_quoted(_wrapped(text))).replace("\n", "\r\n"),
}
LETTER = """Dear Zoë,

I can't say it "better" than you did & so I won't... When the café opened, nobody came for a week, and then on the \
first warm day of March there were forty people before noon who all wanted the same chair by the window.

The cake was gone in an hour. I wrote it all down for you.

Yours, Émile"""
PLAIN = LETTER.replace("Zoë", "zoe").replace("café", "cafe").replace("March", "march").replace("Émile", "emile")
EXACT = [name for name in CHANGES if name not in ("shouted", "lowered", "misread by Windows")]


@pytest.mark.parametrize("name", EXACT)
def test_what_was_changed_is_among_the_readings(name):
    changed = CHANGES[name](LETTER)
    readings = restored(changed)
    assert changed != LETTER
    assert LETTER in readings[1:]
    assert readings[0] == changed
    assert len(readings) <= 3


def test_misread_by_windows_is_mended():
    """Windows has no character for five bytes, the last of a closing quotation mark among them: such a mark is lost."""
    letter = LETTER.replace('"', "").replace("É", "E")
    assert letter in restored(CHANGES["misread by Windows"](letter))


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_case_comes_back_where_sentences_begin(change):
    (reading,) = restored(change(PLAIN))[1:]
    assert sum(a != b for a, b in zip(reading, PLAIN, strict=True)) <= 4


@pytest.mark.parametrize(
    "text",
    [
        LETTER,
        "A plain sentence. Another one, with 3 < 4 and AT&T in it; a & b.",
        "roses are red\nviolets are blue\nsugar is sweet",
        "1. Take flour.\n2. Add an egg, and stir until nothing sticks to the bowl any more.\n3. Bake.",
        "def f(x):\n    return x + '\\n'\n\n\ndef g(y):\n    return f(y)\n",
        "OK",
        "",
    ],
)
def test_text_that_was_not_changed_has_one_reading(text):
    assert restored(text) == [text]


def test_words_are_found_whatever_was_done_to_the_text():
    for name, change in CHANGES.items():
        asked = f"Please repeat this,\nat once:\n{change(LETTER)}"
        for part in ("cake was gone in an hour. I wrote", " gone", "one in", " wrote it", ".", ", "):
            assert bare(asked).holds(bare(part)), (name, part)
    for part in ("another cake", " one in", "#"):
        assert not bare(LETTER).holds(bare(part)), part


CHATS = {
    "ChatML": ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "Llama 3": tuple(
        f"{end}<|start_header_id|>{role}<|end_header_id|>\n\n"
        for end, role in (("", "system"), ("<|eot_id|>", "user"), ("<|eot_id|>", "assistant"))
    ),
    "Gemma": (
        "<start_of_turn>system\n",
        "<end_of_turn>\n<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
    ),
    "roles": ("<|system|>\n", "</s><|user|>\n", "</s><|assistant|>\n"),
}
ENDS = {"ChatML": "<|im_end|>\n", "Llama 3": "<|eot_id|>", "Gemma": "", "roles": "</s>"}


@pytest.mark.parametrize("name", CHATS)
def test_turns_of_a_chat_template(name):
    system, user, assistant = CHATS[name]
    chat = f"{system}Be kind.{user}Who?{assistant}I.{ENDS[name]}"
    assert turns(chat) == [Turn(False, "Be kind."), Turn(False, "Who?"), Turn(True, "I.")]


def test_turns_of_instructions():
    asked = "<s>[INST] Who? [/INST] I.</s><s>[INST] Why? [/INST] So."
    assert turns(asked) == [Turn(False, "Who?"), Turn(True, "I."), Turn(False, "Why?"), Turn(True, "So.")]


@pytest.mark.parametrize("text", ["User: Who?\nAssistant: I.", "<|im_start|>user\nWho?<|im_end|>", "a <|b|> c", ""])
def test_text_without_an_answer_in_a_template_is_read_whole(text):
    assert turns(text) == []


def _told(texts: dict[str, str], kind: str, start: int, count: int = 12) -> list[str]:
    return [texts[kind][at : at + 500].strip() for at in range(start, start + 500 * count, 500)]


def test_only_the_assistants_turns_are_read_and_the_others_are_its_prompt(texts, tokenizer, mark):
    asked, said = _told(texts, "english", 0), _told(texts, "code", 0)
    apart = [Output(str(i), text=s, prompt=a) for i, (a, s) in enumerate(zip(asked, said))]
    chats = [f"<|user|>{a}<|end|><|assistant|>{s}<|end|>" for a, s in zip(asked, said)]
    whole = [Output(str(i), text=chat) for i, chat in enumerate(chats)]
    expected, found = (observe(outputs, mark, tokenizer=tokenizer) for outputs in (apart, whole))
    assert found.digest == expected.digest
    assert found.templated == found.prompts_known == len(whole)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert expected.templated == 0


def test_turns_of_one_chat_are_shown_in_order(texts, tokenizer, mark):
    first, second = _told(texts, "code", 0, 1)[0], _told(texts, "english", 9_000, 1)[0].replace("\n", " ").upper()
    chat = f"<|user|>Go<|end|><|assistant|>{first}<|end|><|user|>On<|end|><|assistant|>{second}<|end|>"
    seen = observe([Output("a", text=chat)], mark, tokenizer=tokenizer)
    (sample,) = seen.samples
    assert len(sample.token_ids) == seen.tokens[0]
    scored = [(p, c) for p, c in enumerate(sample.cells.tolist()) if c >= 0]
    assert len(scored) > 100
    for place, cell in scored:
        assert seen.choices[cell] == sample.token_ids[place]
        assert tuple(seen.windows[cell]) == tuple(sample.token_ids[place - 2 : place])
    assert scored[-1][0] > len(tokenizer.encode([first])[0])


def test_reading_with_many_more_tokens_is_left_out(texts, tokenizer, mark):
    told = _told(texts, "templated", 0)
    shouted = observe([Output(str(i), text=t.upper()) for i, t in enumerate(told)], mark, tokenizer=tokenizer)
    longer = sum(map(len, tokenizer.encode([t.upper() for t in told])))
    assert shouted.restored == len(told)
    assert shouted.tokens.sum() < longer / (1 + LONGER)


def test_readings_of_like_length_are_scored_together(texts, tokenizer, mark):
    told = [t.lower().replace("\n", " ") for t in _told(texts, "english", 0)]
    seen = observe([Output(str(i), text=t) for i, t in enumerate(told)], mark, tokenizer=tokenizer)
    once = observe(
        [Output(str(i), token_ids=tuple(t)) for i, t in enumerate(tokenizer.encode(told))], mark, tokenizer=tokenizer
    )
    held, cells = ({(*w, t) for w, t in zip(s.windows.tolist(), s.choices.tolist())} for s in (once, seen))
    assert seen.restored > 0
    assert held < cells
    assert len(cells) == len(seen)


def test_token_ids_are_read_as_they_are(texts, tokenizer, mark):
    ids = tokenizer.encode([t.upper() for t in _told(texts, "english", 0)])
    seen = observe([Output(str(i), token_ids=tuple(row)) for i, row in enumerate(ids)], mark, tokenizer=tokenizer)
    assert seen.restored == 0
    assert seen.tokens.tolist() == [len(row) for row in ids]


@pytest.fixture(scope="module")
def said(served, tokenizer) -> tuple[Watermark, list[str]]:
    """Marked answers as text, under a fixed key."""
    case = served[1]
    return case.mark, tokenizer.texts(case.ids.tolist())


# Ids beside a text, and what the evidence says.


def _both(texts: dict[str, str], tokenizer: Tokenizer, shift: int) -> list[Output]:
    told = _told(texts, "english", 0)
    ids = [tuple((i + shift) % 2_000 for i in row) for row in tokenizer.encode(told)]
    return [Output(str(n), text=text, token_ids=row) for n, (text, row) in enumerate(zip(told, ids, strict=True))]


def test_ids_of_another_tokenizer_are_refused_by_the_text_beside_them(texts, tokenizer, mark):
    with pytest.raises(ProfileMismatch, match="do not spell the text that came with them") as caught:
        observe(_both(texts, tokenizer, 700), mark, tokenizer=tokenizer)
    assert "another tokenizer made them" in str(caught.value)
    assert "leave the ids out" in str(caught.value.hint)


def test_ids_are_read_and_not_the_text_beside_them(texts, tokenizer, mark):
    both = _both(texts, tokenizer, 0)
    alone = [Output(o.id, token_ids=o.token_ids) for o in both]
    changed = [Output(o.id, token_ids=o.token_ids, text=html.escape(o.text or "")) for o in both]
    digests = {observe(outputs, mark, tokenizer=tokenizer).digest for outputs in (both, alone, changed)}
    assert len(digests) == 1


def test_evidence_says_what_was_undone_and_how_the_text_was_read(texts, tokenizer, mark):
    told = [html.escape(_quoted(t)).upper() for t in _told(texts, "templated", 0)]
    found = detect([Output(str(i), text=t) for i, t in enumerate(told)], mark, tokenizer=tokenizer, decoys=99)
    notes = " ".join(found.notes)
    assert f"{len(told)} of {len(told)} texts were also or only read with changes undone" in notes
    assert f"read as greenlist version 1, window 2, gamma 0.25, tokenizer {tokenizer.digest[:12]}…" in notes
    assert "wmark profile import" in notes
    assert found.software["readings"] == RECIPE
    plain = detect([Output(str(i), token_ids=tuple(t)) for i, t in enumerate(tokenizer.encode(told))], mark, decoys=99)
    assert "changes undone" not in " ".join(plain.notes)


def test_evidence_that_found_the_mark_asks_nobody_to_compare_settings(said, tokenizer):
    mark, told = said
    found = detect([Output("", text=text) for text in told], mark, tokenizer=tokenizer, decoys=99)
    assert found.verdict == "evidence found"
    assert "profile import" not in " ".join(found.notes)


# The mark is found again.


def _z(outputs: list[Output], mark: Watermark, tokenizer: Tokenizer) -> float:
    seen = observe(outputs, mark, tokenizer=tokenizer)
    law, n = mark.scheme.null, len(seen)
    return (int(mark.score(seen.windows, seen.choices).sum()) - n * law.mean) / math.sqrt(n * law.variance)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("entities", 0.9), ("json", 0.9), ("no-break", 0.9), ("zero width", 0.9), ("quotes", 0.9), ("shouted", 0.5)],
)
def test_mark_is_found_again(name, kept, said, tokenizer):
    mark, told = said
    changed = [CHANGES[name](text) for text in told]
    whole = _z([Output("", text=text) for text in told], mark, tokenizer)
    once = _z([Output("", token_ids=tuple(ids)) for ids in tokenizer.encode(changed)], mark, tokenizer)
    again = _z([Output("", text=text) for text in changed], mark, tokenizer)
    assert whole > 10
    assert again > kept * whole
    assert again > once


# Nobody is accused.


@pytest.fixture(scope="module")
def changed_innocents(texts, tokenizer, binding) -> list[tuple[str, object, Watermark]]:
    """Every change to innocent texts of three kinds, at three widths: what was read, and a mark to rekey."""
    made = []
    for width in (1, 2, 4):
        mark = Watermark(GreenList(window=width), next(iter(decoy_keys(b"unused", 1))), binding)
        for kind in texts:
            for n, (name, change) in enumerate(CHANGES.items()):
                told = [Output("", text=change(t)) for t in _told(texts, kind, 8_000 * n)]
                made.append((f"{name}, {kind}, {width}", observe(told, mark, tokenizer=tokenizer), mark))
    return made


def _tail(mark: Watermark, green: int, cells: int, known: dict[tuple[int, int], float]) -> float:
    if (green, cells) not in known:
        known[green, cells] = mark.scheme.null.log10_pvalue(green, cells)
    return known[green, cells]


@pytest.mark.slow
def test_changed_innocent_text_keeps_the_level(changed_innocents, holds_level):
    """126 readings under 100 keys each."""
    found: list[float] = []
    known: dict[tuple[int, int], float] = {}
    for number, (what, seen, mark) in enumerate(changed_innocents):
        keys = list(decoy_keys(f"innocent {number}".encode(), 100))
        totals = mark.totals(seen.windows, seen.choices, np.ones(len(seen), np.int32), keys)[:, 0]
        log10_p = [_tail(mark, int(green), len(seen), known) for green in totals]
        assert np.mean(np.array(log10_p) <= -2) <= 0.08, what
        found += log10_p
    assert len(found) == 12_600
    holds_level(found, "all")
    rate = (np.array(found) <= math.log10(0.05)).mean()
    assert rate > 0.03, "the tests should spend their level"


def _log10_p(outputs: list[Output], mark: Watermark, tokenizer: Tokenizer) -> float:
    try:
        seen = observe(outputs, mark, tokenizer=tokenizer)
    except TooFewObservations:
        return 0.0
    return mark.scheme.null.log10_pvalue(int(mark.score(seen.windows, seen.choices).sum()), len(seen))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quotes", "shouted", "many"])
def test_copy_of_a_changed_marked_prompt_raises_no_alarm(name, served, tokenizer, holds_level):
    """Marked text was changed, then asked about among other words, and the suspect repeats it as it stood there."""
    ruled, unruled = [], []
    for case in served[:120]:
        copied = [CHANGES[name](text) for text in tokenizer.texts(case.ids[:16].tolist())]
        outputs = [Output("", text=text, prompt=f"Please repeat this, Ann:\n{text}\nThank you!") for text in copied]
        ruled.append(_log10_p(outputs, case.mark, tokenizer))
        unruled.append(_log10_p([Output("", text=o.text) for o in outputs], case.mark, tokenizer))
    holds_level(ruled, f"copied after {name}")
    assert np.mean(np.array(unruled) <= -3) > 0.3
