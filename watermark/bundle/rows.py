"""Responses in tokens, for a stranger who has no tokenizer: what was read of each, and how its tokens are spelt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.observe.restored import restored
from watermark.observe.rules import Rules
from watermark.outputs import Outputs

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.tokenizer import Tokenizer

_BATCH = 512


def rows(answers: Path, mark: Watermark, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """One for each response: `ids` as it came, `prompt_ids` of its prompt in every reading, or null, `asked` as text.

    mark: any with the scheme and binding of the one tested; its key is not asked. Raises as `observe` does.
    """
    rules, found, stream = Rules(mark, tokenizer), list[dict[str, Any]](), iter(Outputs(answers))
    while batch := list(islice(stream, _BATCH)):
        said = rules.tokenized([(output.token_ids, output.text) for output in batch])
        for output, ids, asked in zip(batch, said, rules.prompt_texts(batch), strict=True):
            texts = restored(asked) if asked else []
            before = list(_prompts(output, texts, rules))
            found.append(
                {
                    "document": len(found),
                    "ids": [int(i) for i in ids],
                    "prompt_ids": before or None,
                    "asked": "\n".join(texts),
                }
            )
    return found


def spelling(read: list[dict[str, Any]], tokenizer: Tokenizer | None) -> dict[str, str]:
    """Token id -> its bytes in hex, of all tokens in `ids`; empty without a tokenizer."""
    spelled = [] if tokenizer is None else tokenizer.spellings()
    used = sorted({i for row in read for i in row["ids"] if i < len(spelled)})
    return {str(i): found.hex() for i in used if (found := spelled[i]) is not None}


def _prompts(output: Output, texts: list[str], rules: Rules) -> Iterator[list[int]]:
    given: list[Any] = [(output.prompt_token_ids, output.prompt)]
    known = output.prompt_token_ids is not None or output.prompt is not None
    for ids in rules.tokenized((given if known else []) + [(None, text) for text in texts[1:]]):
        yield [int(i) for i in ids or ()]
