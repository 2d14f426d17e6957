"""Cuts: where the texts of a tokenizer may be cut without another id, known from how it is made and not by trying.

Byte-level. Such a tokenizer first cuts a text by a pattern whose matches never run from a character over a blank into
the next word. So a text may be cut before those blanks.

Blanks written as "▁" (SentencePiece: Llama 2, Mistral, Gemma, T5). A text may be cut before a run of "▁", whether a
blank or the sign itself stood there:
- A pre-tokenizer that splits before each "▁" does so itself, whatever the model.
- Else byte pair encoding merges across all the text. A merge joins two tokens to a token of the vocabulary that reads
  as both. Across such a place its left part would be what the token reads before a "▁" that stands behind another
  character. Each token left of the place ends with the character before it, or with that character's last byte (<0x0A>)
  or the unknown token if the vocabulary does not have it; and one right of it begins with "▁". So a text is cut only
  behind characters that no token of the vocabulary has before a "▁": most vocabularies have none, Gemma 3's has
  ">▁</". Then no merge crosses, and the merges of either side come in the same order as if it stood alone: by rank,
  then from the left (`tokenizers` 0.23, models/bpe/word.rs). Characters that are unknown are made one token only up to
  the next "▁", which is known (models/bpe/model.rs, `merge_word`). A vocabulary that has no token for some characters,
  and would leave them out, is not taken; nor one that looks up whole texts before it merges.
- A blank that is put before a text is put there before the cut (`Cut.begun`), and nothing is put before what follows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

BEFORE_BLANKS, AFTER_LINES, BEFORE_SIGNS = 1, 2, 3  # before a blank; also before or after a line's end; before "▁" too
SIGN = "\u2581"
_WHERE = {
    BEFORE_BLANKS: re.compile(r"(?<=\S)(?=[ \n])"),
    AFTER_LINES: re.compile(r"(?<=\S)(?= )|(?<=\n)(?=\S)"),
}
# GPT-4's cut and its descendants: Llama 3, Qwen 2 and 3, GPT-4 (cl100k). Each ends a match at an end of line.
WITH_LINES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
NEVER, UNLESS_THERE, ALWAYS, FIRST = "never", "unless there", "always", "first"
_SIGNED = {"type": "Replace", "pattern": {"String": " "}, "content": SIGN}
_BYTE = re.compile("<0x[0-9A-F]{2}>$")
_PREFIXES = {"never": NEVER, "always": UNLESS_THERE, "first": FIRST}  # of Metaspace


@dataclass(frozen=True)
class Cut:
    """How a tokenizer's texts are cut.

    where: one of the constants above. reader: the `tokenizers.Tokenizer` that encodes chunks, nothing put before them;
    vocabulary: the ids of its tokens.
    prefix: when a blank is put before what is read: ALWAYS, UNLESS_THERE (a blank or "▁"), FIRST (at the start of a
    text alone, unless there), NEVER. held: characters of ASCII behind which texts are not cut before a sign.
    """

    where: int
    reader: Any = field(repr=False)
    vocabulary: dict[str, int] = field(repr=False)
    prefix: str = NEVER
    held: str = ""

    @cached_property
    def places(self) -> re.Pattern[str]:
        """What finds the places."""
        held = re.escape(f" {SIGN}{self.held}")
        return re.compile(f"(?<=[^{held}])(?=[ {SIGN}])") if self.where == BEFORE_SIGNS else _WHERE[self.where]

    def begun(self, text: str, *, first: bool = True) -> str:
        """The text with the blank that the tokenizer puts before it. first: whether nothing stands before it."""
        if not text or self.prefix == NEVER or (self.prefix == FIRST and not first):
            return text
        return text if self.prefix != ALWAYS and text[0] in (" ", SIGN) else f" {text}"


def cut_of(backend: Any) -> Cut | None:
    """How texts may be cut for this `tokenizers.Tokenizer`; None if no way is known to be safe."""
    if backend.truncation is not None or backend.padding is not None or getattr(backend.model, "dropout", None):
        return None
    before, after = _steps(backend.normalizer, "normalizers"), _steps(backend.pre_tokenizer, "pretokenizers")
    where = _byte_level(before, after)
    return _signed(backend, before, after) if where is None else Cut(where, backend, _vocabulary(backend))


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    described = json.loads(part.__getstate__())
    found: list[dict[str, Any]] = described[name] if described["type"] == "Sequence" else [described]
    return found


def _byte_level(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int | None:
    byte_level = [step for step in after if step["type"] == "ByteLevel"]
    splits = [step for step in after if step["type"] == "Split"]
    others = [step for step in after if step["type"] not in ("ByteLevel", "Split", "Digits")]
    composed = before in ([], [{"type": "NFC"}])
    if not composed or others or len(byte_level) != 1 or byte_level[0] is not after[-1]:
        return None
    if byte_level[0].get("add_prefix_space"):
        return None
    if byte_level[0].get("use_regex", True):
        return None if splits else BEFORE_BLANKS
    known = [step for step in splits if step["pattern"].get("Regex") in WITH_LINES]
    plain = all(step["behavior"] == "Isolated" and not step["invert"] for step in splits)
    return AFTER_LINES if len(splits) == len(known) == 1 and plain else None


def _signed(backend: Any, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Cut | None:
    """For a tokenizer that writes blanks as "▁" in one of the ways that are known."""
    put = [step["prepend"] for step in before if step["type"] == "Prepend"]
    signed = [step for step in before if step == _SIGNED]
    if len(put) + len(signed) != len(before) or len(put) > 1 or len(signed) > 1:
        return None
    if put not in ([], [SIGN]) and (put != [" "] or before[0]["type"] != "Prepend"):
        return None
    if signed and len(after) == 1 and after[0]["type"] == "Split" and after[0]["pattern"] == {"String": " "}:
        after = []  # Gemma: no blank is left to split at
    spaces = [step for step in after if step["type"] == "Metaspace" and step["replacement"] == SIGN]
    if len(spaces) != len(after) or len(after) > 1 or not (spaces or signed):
        return None
    split = bool(spaces) and spaces[0].get("split", True)
    prefix = ALWAYS if put else _PREFIXES.get(spaces[0].get("prepend_scheme", "")) if spaces else NEVER
    if prefix is None:
        return None
    reader = _reader(backend.model, bool(signed), split if spaces else None)
    cut = Cut(BEFORE_SIGNS, reader, _vocabulary(reader), prefix)
    if split:
        return cut if _by_itself(backend.model) else None
    return _behind(cut, backend.model)


def _by_itself(model: Any) -> bool:
    """Whether the model reads each part between splits alone and the same each time."""
    kind = type(model).__name__
    return kind == "BPE" or (kind == "Unigram" and model.alpha is None)


def _behind(cut: Cut, model: Any) -> Cut | None:
    """The cut, behind those characters where a byte-pair model cannot merge across, by the argument above."""
    if type(model).__name__ != "BPE" or model.ignore_merges:
        return None
    if model.continuing_subword_prefix or model.end_of_word_suffix or not _spells_all(cut.vocabulary, model):
        return None
    lefts = {left for token in cut.vocabulary if SIGN in token.lstrip(SIGN) for left in _lefts(token)}
    unknown = model.unk_token or "<0x00>"
    if any(_BYTE.search(left) or left.endswith(unknown) or not left.isascii() for left in lefts):
        return None
    return replace(cut, held="".join(sorted({left[-1] for left in lefts})))


def _spells_all(vocabulary: dict[str, int], model: Any) -> bool:
    """Whether each character becomes a token or more, "▁" its own, and none but that one ends with "▁"."""
    all_bytes = model.byte_fallback and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    unknown = model.unk_token in vocabulary and not model.unk_token.endswith(SIGN)
    distinct = len(set(vocabulary.values())) == len(vocabulary)
    return distinct and SIGN in vocabulary and (unknown or (all_bytes and not model.unk_token))


def _lefts(token: str) -> list[str]:
    """What a token reads before each "▁" behind another character."""
    return [token[:at] for at in range(1, len(token)) if token[at] == SIGN != token[at - 1]]


def _vocabulary(backend: Any) -> dict[str, int]:
    found: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    return found


def _reader(model: Any, signed: bool, split: bool | None) -> Any:
    """The same model without added tokens, which puts nothing before what it reads. split: of its Metaspace, if any."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    reader = Tokenizer(model)
    if signed:
        reader.normalizer = normalizers.Replace(" ", SIGN)
    if split is not None:
        reader.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SIGN, prepend_scheme="never", split=split)
    return reader
