"""The quick ways around a step of `restored` change no text: each step against its plain statement."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from watermark.observe import restored as room


def _visible(text: str) -> str:
    return room._BLANK.sub(" ", room._UNSEEN.sub("", unicodedata.normalize("NFC", text)))


def _unquoted(text: str) -> str:
    lines = text.split("\n")
    full = [line for line in lines if line.strip()]
    if len(full) < 2 or not all(line.startswith(">") for line in full):
        return text
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines)


def _unwrapped(text: str) -> str:
    lines = text.split("\n")
    width = max(len(line) for line in lines)
    follows = [bool(a.strip() and b.strip()) for a, b in pairwise(lines)]
    full = [both and len(a) + 1 + len(b.split(maxsplit=1)[0]) > width for both, (a, b) in zip(follows, pairwise(lines))]
    if width < 50 or sum(full) < 2 or 2 * sum(full) <= sum(follows):
        return text
    return "".join(line + end for line, end in zip(lines, [*(" " if joined else "\n" for joined in full), ""]))


def _cased(text: str) -> tuple[bool, bool]:
    """Whether `_sentences` may touch a text at all: all in capitals, or without any."""
    upper, lower = sum(map(str.isupper, text)), sum(map(str.islower, text))
    return (upper >= 20 and not lower), not upper


STEPS = {
    "_decoded": lambda text: room._MISREAD.sub(room._utf8, text),
    "_visible": _visible,
    "_straightened": lambda text: text.translate(str.maketrans(room._STRAIGHT)),
    "_unquoted": _unquoted,
    "_unwrapped": _unwrapped,
}
said = [
    "word",
    "Word",
    "SHOUTED",
    "ｆｕｌｌ",
    "don’t",
    "“x”",
    "Ã©",
    "é",
    "ﬁne",
    "ß",
    "Ω",
    "字",
    "x. y",
    "a-long-word-to-wrap",
]
odd = [
    "\u00e2\u20ac\u2122",
    "e\u0301",
    "\u200b",
    "a\u00a0b",
    "\u2003",
    "\ufeff",
    "\u212b",
    "&amp;",
    "<p>",
    "> quoted",
    ">",
]
chats = ["[INST]", "[/INST]", "</s>", "<|user|>", "<|assistant|>", "<start_of_turn>model\n", "<|im_end|>"]
words = st.sampled_from([*said, *odd, *chats, "<|im_start|>assistant\n"])
breaks = st.sampled_from([*" " * 6, "\n", "\n\n", "\n> ", "\r\n", "\n \n", ""])
texts = st.lists(words | st.characters(exclude_categories=["Cs"]), max_size=60).flatmap(
    lambda chosen: st.lists(breaks, min_size=len(chosen), max_size=len(chosen)).map(
        lambda between: "".join(word + gap for word, gap in zip(chosen, between))
    )
)
wrapped = st.lists(st.integers(30, 60).map(lambda n: ("lorem ipsum dolor " * 4)[:n].strip()), max_size=8).map("\n".join)


@pytest.mark.parametrize("step", STEPS)
@given(text=texts | wrapped)
@example(text="> a\n\n> b")
@example(text="a\n> b")
@settings(max_examples=250, deadline=None)
def test_a_step_is_what_it_says(step, text):
    assert getattr(room, step)(text) == STEPS[step](text)


@pytest.mark.parametrize("step", STEPS)
def test_every_character_is_handled_alike(step):
    for code in [*range(0xD800), *range(0xE000, 0x10000, 1), 0x1F642]:
        for text in (chr(code), f"a{chr(code)}\u0080\u0301b", f"{chr(code)}\u00a9"):
            assert getattr(room, step)(text) == STEPS[step](text), hex(code)


@given(text=texts | texts.map(str.upper) | texts.map(str.lower))
@settings(max_examples=400, deadline=None)
def test_only_texts_of_one_case_are_changed_in_case(text):
    shouted, lowered = _cased(text)
    changed = room._sentences(text)
    if not shouted and (not lowered or len(room._BEGUN.findall(text)) < 2):
        assert changed == text
    else:
        assert changed.casefold() == text.lower().casefold()
        assert changed == room._sentences(changed.lower()) or shouted or "\u0130" in text


@given(text=st.text(alphabet="abXI.!?\"')]([*#1 \n\t\u00a0\x1c", max_size=30))
@settings(max_examples=600, deadline=None)
def test_sentences_begin_where_the_plain_statement_says(text):
    plain = re.compile(r"(?:\A|[.!?][\"')\]]*\s+|\n)[\"'(\[*#\s]*[a-z]")
    shouted = f"{'SHOUTED ' * 3}{text}".upper()
    small = re.sub(r"\bi\b", "I", shouted.lower())
    assert room._sentences(shouted) == plain.sub(lambda found: found[0].upper(), small)


@pytest.mark.parametrize("run", ["\n", " ", "'", "#", "\n#", ". "])
def test_runs_of_signs_and_blanks_are_walked_once(run):
    """What a model that has gone astray writes by the page; walked from each of its places it would take minutes."""
    text = f"{'SHOUTED ' * 3}. \n{run * 100_000}1"
    assert room._sentences(text) == f"Shouted shouted shouted . \n{run * 100_000}1"


@given(text=texts)
@settings(max_examples=400, deadline=None)
def test_turns_are_those_of_the_first_template_with_an_answer(text):
    found = [list(family(text)) for family in room._TEMPLATES]
    assert room.turns(text) == next((turns for turns in found if any(turn.answer for turn in turns)), [])
