"""Rows: the readings of each answer that `text` scores, each beside the readings of what stood before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from watermark.observe.restored import restored, turns

if TYPE_CHECKING:
    from watermark.outputs import Output

    Given = tuple[Sequence[int] | None, str | None]

LONGER = 0.03  # a reading that takes so many more tokens than another is left out: nobody wrote it so


@dataclass(frozen=True)
class Row:
    """One reading of an answer, or of one of the assistant's turns in it.

    document: index of the answer in its batch; turn: which of its turns. given: its token ids, or else its text.
    reading: 0 is as it came, others have changes undone. prompts: what stood before it, in every reading, as ids or
    else as text; empty where nothing is known. asked: the same as one text, "" where it cannot be read. templated: it
    stood in a chat's template.
    """

    document: int
    turn: int
    given: Given
    reading: int
    prompts: tuple[Given, ...]
    asked: str
    templated: bool


def rows_of(document: int, output: Output, asked: str) -> Iterator[Row]:
    """The rows of one answer. asked: its prompt as text, "" if that is unknown.

    Token ids are read as they are. A text is read in each way that `restored` gives; of one that came inside a chat's
    template each of the assistant's turns, after the turns of the others.
    """
    known = output.prompt_token_ids is not None or output.prompt is not None
    prompts: list[Given] = [(output.prompt_token_ids, output.prompt)] if known else []
    texts = restored(asked) if asked else [asked]
    prompts += [(None, text) for text in texts[1:]]
    if output.token_ids is not None or output.text is None:
        yield Row(document, 0, (output.token_ids, None), 0, tuple(prompts), "\n".join(texts), False)
        return
    spoken = turns(output.text)
    if not spoken:
        for reading, text in enumerate(restored(output.text)):
            yield Row(document, 0, (None, text), reading, tuple(prompts), "\n".join(texts), False)
    for number, turn in enumerate(spoken):
        readings = restored(turn.text)
        if not turn.answer:
            texts += readings
            prompts += [(None, text) for text in readings]
            continue
        for reading, text in enumerate(readings):
            yield Row(document, number, (None, text), reading, tuple(prompts), "\n".join(texts), True)


def likely(rows: Sequence[Row], answers: Sequence[Any]) -> Iterator[tuple[Row, Any, bool]]:
    """Rows with their ids (`answers`), without the readings that take many more tokens than another of the same turn.

    The flag is true for the first that is left of each turn: what the answer's own tokens are. A choice that knows
    texts and tokenizer alone.
    """
    if len({(row.document, row.turn) for row in rows}) == len(rows):
        yield from ((row, ids, True) for row, ids in zip(rows, answers, strict=True))
        return
    for _, group in groupby(zip(rows, answers, strict=True), key=lambda each: (each[0].document, each[0].turn)):
        readings = list(group)
        if len(readings) == 1:
            yield (*readings[0], True)
            continue
        most = (1 + LONGER) * min(_length(ids) for _, ids in readings)
        kept = [(row, ids) for row, ids in readings if _length(ids) <= most]
        yield from ((row, ids, number == 0) for number, (row, ids) in enumerate(kept))


def _length(ids: Any) -> int:
    return 0 if ids is None else len(ids)
