"""Tokens of the added vocabulary, such as <s> or <|end|>: they are taken out of a text before it is normalized and cut.

`tokenizers` 0.23 (tokenizer/added_vocabulary.rs) finds them from the left, the longest first, in the text as it stands,
and reads what lies between them apart. Some are found otherwise: in the normalized text, as a word only, or with the
blanks beside them. A text that holds one of those is encoded whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from watermark.chunks.cuts import SIGN


@dataclass(frozen=True)
class Added:
    """ids: of each token that is found as it stands; plain: what finds them; odd: what may find one of the others;
    composed: whether texts are normalized to composed characters (NFC)."""

    ids: dict[str, int]
    plain: re.Pattern[str] | None
    odd: re.Pattern[str] | None
    composed: bool

    @classmethod
    def of(cls, backend: Any) -> Added:
        """Those of a `tokenizers.Tokenizer`."""
        tokens = backend.get_added_tokens_decoder()
        ids = {} if backend.encode_special_tokens else {t.content: i for i, t in tokens.items() if _plain(t)}
        odd = {token.content for token in tokens.values()} - ids.keys()
        odd |= {unicodedata.normalize("NFC", content) for content in odd}
        composed = backend.normalizer is not None and b'"NFC"' in backend.normalizer.__getstate__()
        plain = re.compile(f"({_longest(ids)})") if ids else None
        loose = re.compile("|".join(map(_loosely, sorted(odd)))) if odd else None
        return cls(ids, plain, loose, composed)

    def whole(self, text: str) -> bool:
        """Whether a text may hold a token that is not found as it stands."""
        if self.odd is None:
            return False
        if self.composed and not text.isascii():
            text = f"{text}\0{unicodedata.normalize('NFC', text)}"
        return self.odd.search(f" {text}") is not None

    def parted(self, text: str) -> list[str]:
        """The text in parts, every second of which is a token."""
        return [text] if self.plain is None else self.plain.split(text)


def _plain(token: Any) -> bool:
    return not (token.normalized or token.single_word or token.lstrip or token.rstrip)


def _longest(contents: Iterable[str]) -> str:
    """A pattern that finds the longest of these at a place, letter by letter: some vocabularies have thousands."""
    tree: dict[str, Any] = {}
    for content in contents:
        node = tree
        for letter in content:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _pattern(tree)


def _pattern(node: dict[str, Any]) -> str:
    branches = [re.escape(letter) + _pattern(further) for letter, further in node.items() if letter]
    if not branches:
        return ""
    alone = len(branches) == 1 and "" not in node
    return branches[0] if alone else f"(?:{'|'.join(branches)}){'?' if '' in node else ''}"


def _loosely(content: str) -> str:
    """Blanks may be written as "▁", and with one more before the text."""
    return "".join(f"[ {SIGN}]" if letter in (" ", SIGN) else re.escape(letter) for letter in content)
