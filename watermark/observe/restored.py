"""What a text may have been before it was copied, escaped, wrapped or shouted; and the answer inside a chat's template.

Both are functions of the text alone, without the key, the same for every suspect: no option chooses among them, and
nothing here is tried until it fits. Why scoring all readings together keeps the p-value exact: docs/validity.md.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

RECIPE = "wmark-readings/1"

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_BREAK, _PARAGRAPH = re.compile(r"<br\s*/?>\n?", re.IGNORECASE), re.compile(r"</p>\s*<p>", re.IGNORECASE)
_EDGE = re.compile(r"\A\s*<p>|</p>\s*\Z", re.IGNORECASE)
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORD = re.compile(r"[^\W_]+")
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")  # soft hyphen, widths of zero
_BLANK = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_ODD = re.compile("[\u00a0\u00ad\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]")  # any of these
_LEAD = re.compile("[\u00c2-\u00f4]")  # what the first byte of a character in UTF-8 is misread as
_SMALL, _CAPITAL = re.compile("[a-z]"), re.compile("[A-Z]")
_STRAIGHT = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
    **{"\u2026": "...", "\u2010": "-", "\u2011": "-", "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl"},
    **{"\ufb03": "ffi", "\ufb04": "ffl"},
}
_CURLED = re.compile(f"[{''.join(_STRAIGHT)}]")
_FEW = 20  # capitals without a small letter that say that a text was shouted
_BEGINNINGS = 2  # sentences begun without a capital, in a text that has none at all, that say it was lowered
_FULL, _NARROW = 2, 50  # full lines, and characters of the longest, that say that a text was wrapped


@dataclass(frozen=True)
class Turn:
    """One turn of a chat. answer: it is the assistant's."""

    answer: bool
    text: str


def restored(text: str) -> list[str]:
    """The text as it is, then with what encodings did to it undone, then with typography, wrapping and case undone too.

    Only those that differ from the ones before: one for most texts, three at most.
    """
    mended = _applied(text, (_decoded, _unescaped, _unbackslashed, _joined, _unquoted, _visible))
    guessed = _applied(mended, (_straightened, _unwrapped, _sentences))
    return list(dict.fromkeys((text, mended, guessed)))


def turns(text: str) -> list[Turn]:
    """The turns of a text that came with its chat template (ChatML, Llama 3, Gemma, Llama 2's and Mistral's [INST],
    <|user|> and <|assistant|>); none if there is no template with an answer in it.

    A dialogue without markers ("User: …") is not taken apart: the teacher may have written it.
    """
    if "<" not in text and "[/INST]" not in text:
        return []
    for family in _TEMPLATES:
        found = list(family(text))
        if any(turn.answer for turn in found):
            return found
    return []


@dataclass(frozen=True)
class Bare:
    """What is left of a text whatever was done to it. words: its letters and digits, one blank between words, and one
    before them where the text begins with anything else; signs: all other characters, blanks left out."""

    words: str
    signs: frozenset[str]

    def holds(self, part: Bare) -> bool:
        """Whether `part` may have been taken from here; of one without words, whether all of its signs stand here."""
        return part.words in self.words if part.words else part.signs <= self.signs


def bare(text: str) -> Bare:
    """The text in small letters, without what encodings, typography and wrapping change."""
    seen = _plain(_straightened(_applied(text, (_decoded, _unescaped, _visible))))
    folded = unicodedata.normalize("NFKC", seen).casefold()
    words = " ".join(_WORD.findall(folded))
    signs = frozenset(sign for sign in folded if not (sign.isalnum() or sign.isspace() or sign == "\ufffd"))
    return Bare(" " + words if words and not folded[0].isalnum() else words, signs)


def _applied(text: str, steps: tuple[Callable[[str], str], ...]) -> str:
    for step in steps:
        text = step(text)
    return text


# What encodings do: almost certain to be no part of what was written.


def _decoded(text: str) -> str:
    """UTF-8 that was read as Windows-1252 or Latin-1: "donâ€™t"."""
    return text if text.isascii() or not _LEAD.search(text) else _MISREAD.sub(_utf8, text)


def _utf8(found: re.Match[str]) -> str:
    try:
        return b"".join(_BYTES[character] for character in found[0]).decode("utf-8")
    except UnicodeDecodeError:
        return found[0]


def _bytes_by_character() -> dict[str, bytes]:
    """The bytes from 0x80 that a character may stand for; of the two code pages Windows' goes first."""
    found = {chr(byte): bytes([byte]) for byte in range(0x80, 0x100)}
    for byte in range(0x80, 0xA0):
        shown = bytes([byte]).decode("cp1252", errors="ignore")
        found |= {shown: bytes([byte])} if shown else {}
    return found


_BYTES = _bytes_by_character()
_MISREAD = re.compile(f"[{''.join(re.escape(character) for character in _BYTES)}]{{2,}}")


def _unescaped(text: str) -> str:
    """HTML: entities, and the tags that stand for the ends of lines and paragraphs."""
    if "<" in text:
        text = _EDGE.sub("", _PARAGRAPH.sub("\n\n", _BREAK.sub("\n", text)))
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text


def _unbackslashed(text: str) -> str:
    r"""JSON's escapes (\n, \", \u2019), in a text that has no line's end of its own."""
    if "\\" not in text or "\n" in text:
        return text
    return _plain(text)


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    whole = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPED.get(m[2], m[2]), text)
    return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _joined(text: str) -> str:
    """Ends of lines as Windows and old Macintosh write them."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _unquoted(text: str) -> str:
    """A letter's "> " before every line."""
    if ">" not in text:
        return text
    lines = text.split("\n")
    full = [line for line in lines if line.strip()]
    if len(full) < 2 or not all(line.startswith(">") for line in full):
        return text
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in lines)


def _visible(text: str) -> str:
    """Composed characters (NFC), one kind of blank, nothing that cannot be seen."""
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", text)
    return _BLANK.sub(" ", _UNSEEN.sub("", composed)) if _ODD.search(composed) else composed


# What editors and people do: a guess, and so read beside the others.


def _straightened(text: str) -> str:
    """Typographers' quotation marks, ellipses and ligatures, which most models write as a keyboard does."""
    return text if text.isascii() else _CURLED.sub(lambda found: _STRAIGHT[found[0]], text)


def _unwrapped(text: str) -> str:
    """Lines that were broken at a width, for the next word would not have fitted; joined if most were."""
    if text.count("\n") < _FULL:
        return text
    lines = text.split("\n")
    width = max(map(len, lines))
    if width < _NARROW:
        return text
    follows = [bool(a.strip() and b.strip()) for a, b in pairwise(lines)]
    full = [
        both and len(a) + 1 + len(b.split(maxsplit=1)[0]) > width
        for both, (a, b) in zip(follows, pairwise(lines), strict=True)
    ]
    if sum(full) < _FULL or 2 * sum(full) <= sum(follows):
        return text
    ends = [" " if joined else "\n" for joined in full]
    return "".join(line + end for line, end in zip(lines, [*ends, ""], strict=True))


def _sentences(text: str) -> str:
    """A text all in capitals, or without any: small letters, with a capital where a sentence begins and for "I"."""
    if _SMALL.search(text) and _CAPITAL.search(text):
        return text
    upper, lower = sum(map(str.isupper, text)), sum(map(str.islower, text))
    shouted = upper >= _FEW and not lower
    if not shouted and (upper or len(_BEGUN.findall(text)) < _BEGINNINGS):
        return text
    small = re.sub(r"\bi\b", "I", text.lower())
    return _START.sub(lambda found: found[0].upper(), small)


# Runs are taken whole, and also where no letter follows: walked again from each place, a page of blanks takes minutes.
_START = re.compile(r"(?:\A|[.!?][\"')\]]*+\s++|\n)[\"'(\[*#\s]*+[a-z]?")
_BEGUN = re.compile(r"[a-z]{2}[.!?]\s+[a-z]")


# Chat templates.


def _marked_turns(pattern: str, answers: str) -> Callable[[str], Iterator[Turn]]:
    """Turns that a pattern's groups show: the role, then what was said."""
    compiled = re.compile(pattern, re.DOTALL)

    def family(text: str) -> Iterator[Turn]:
        return (Turn(found[1] == answers, found[2]) for found in compiled.finditer(text))

    return family


def _instructed(text: str) -> Iterator[Turn]:
    """[INST] question [/INST] answer</s>"""
    if "[/INST]" not in text:
        return
    for part in re.split(r"(?:<s>\s*)?\[INST\]", text)[1:]:
        asked, _, answer = part.partition("[/INST]")
        yield Turn(False, asked.strip())
        yield Turn(True, answer.split("</s>")[0].removeprefix(" "))


_TEMPLATES: tuple[Callable[[str], Iterator[Turn]], ...] = (
    _marked_turns(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|(?=<\|im_start\|>)|\Z)", "assistant"),
    _marked_turns(
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(?:<\|eot_id\|>|(?=<\|start_header_id\|>)|\Z)",
        "assistant",
    ),
    _marked_turns(r"<start_of_turn>(\w+)\n(.*?)(?:<end_of_turn>|(?=<start_of_turn>)|\Z)", "model"),
    _marked_turns(
        r"<\|(system|user|assistant)\|>\n?(.*?)(?:<\|(?:end|eos|endoftext)\|>|</s>|(?=<\|(?:system|user|assistant)\|>)|\Z)",
        "assistant",
    ),
    _instructed,
)
