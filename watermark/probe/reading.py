"""Reading a model: what it makes of every position of some texts, in the mark's tokens, whatever its own are.

A text is put before the model behind its prompt (through the model's own chat template); the log-probabilities at
each position become a `Reading`. A model with another vocabulary is read where both tokenizations share a boundary,
and its tokens are taken for the mark's where their bytes are the same: a choice that knows nothing of the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from watermark.errors import OutputsInvalid, SuspectUnusable
from watermark.observe.readings import Reading
from watermark.prompts import Prompt
from watermark.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from watermark.embed.answers import Model
    from watermark.mark import Watermark
    from watermark.outputs import Output

TOP = 128
_BATCH = 16
_LOGITS = 400_000  # columns of all texts of a batch together: a wide vocabulary is read a few texts at a time


def read_models(
    outputs: Iterable[Output],
    suspects: Sequence[Model],
    mark: Watermark,
    tokenizer: Tokenizer,
    *,
    reference: Model | None = None,
    top: int = TOP,
) -> Iterator[tuple[Reading, ...]]:
    """One reading of each text by each suspect, against the same reference.

    top: candidates kept at a position, the likeliest of either side. tokenizer: the mark's. Raises SuspectUnusable
    for a model that shares no token with the mark's vocabulary.
    """
    sights = [_Sight.of(model, mark, tokenizer) for model in suspects]
    beside = None if reference is None else _Sight.of(reference, mark, tokenizer)
    for batch in _batches(outputs, mark):
        texts = _texts(batch, tokenizer)
        expected = None if beside is None else beside.rows(batch, texts)
        seen = [sight.rows(batch, texts) for sight in sights]
        for number, (output, text) in enumerate(zip(batch, texts, strict=True)):
            other = None if expected is None else expected[number]
            yield tuple(_reading(output, text, rows[number], other, top) for rows in seen)


def read_logprobs(
    outputs: Iterable[Output], mark: Watermark, tokenizer: Tokenizer, *, reference: Model | None = None
) -> Iterator[Reading]:
    """Readings of answers that came with log-probabilities; the reference is read at the tokens that were listed.

    Raises SuspectUnusable where an answer has none.
    """
    beside = None if reference is None else _Sight.of(reference, mark, tokenizer)
    spelled = tokenizer.spellings()
    ids = {token: index for index, token in enumerate(spelled) if token}
    for batch in _batches(outputs, mark):
        texts = _texts(batch, tokenizer)
        expected = None if beside is None else beside.rows(batch, texts)
        for number, (output, text) in enumerate(zip(batch, texts, strict=True)):
            yield _listed(output, text, ids, spelled, None if expected is None else expected[number])


def read_texts(
    outputs: Iterable[Output],
    mark: Watermark,
    tokenizer: Tokenizer,
    *,
    reference: Model | None = None,
    top: int = TOP,
) -> Iterator[Reading]:
    """Readings of text alone: the token that was written and, with a reference, what it expected there."""
    beside = None if reference is None else _Sight.of(reference, mark, tokenizer)
    for batch in _batches(outputs, mark):
        texts = _texts(batch, tokenizer)
        expected = None if beside is None else beside.rows(batch, texts)
        for number, (output, text) in enumerate(zip(batch, texts, strict=True)):
            yield _written(output, text, None if expected is None else expected[number], top)


@dataclass(frozen=True)
class _Rows:
    """Log-probabilities over the mark's vocabulary at some positions of one text: (m,), (m, V)."""

    positions: NDArray[np.int64]
    logprobs: torch.Tensor


@dataclass(frozen=True)
class _Sight:
    """A model with its vocabulary laid over the mark's.

    onto: the mark's id for each of its own, -1 for none; None where the vocabularies are one.
    """

    model: Model
    mark: Watermark
    tokenizer: Tokenizer
    own: Tokenizer
    onto: NDArray[np.int64] | None
    spelled: list[bytes | None]
    own_spelled: list[bytes | None]

    @classmethod
    def of(cls, model: Model, mark: Watermark, tokenizer: Tokenizer) -> _Sight:
        own = Tokenizer.wrap(model.tokenizer)
        if own.digest == tokenizer.digest:
            return cls(model, mark, tokenizer, own, None, [], [])
        spelled, own_spelled = tokenizer.spellings(), own.spellings()
        ids = {token: index for index, token in enumerate(spelled) if token}
        onto = np.array([ids.get(token, -1) if token else -1 for token in own_spelled], dtype=np.int64)
        if not (onto >= 0).any():
            raise SuspectUnusable(f"{model.source} shares no token with the mark's vocabulary")
        return cls(model, mark, tokenizer, own, onto, spelled, own_spelled)

    def rows(self, batch: Sequence[Output], texts: Sequence[NDArray[np.int64]]) -> list[_Rows]:
        """The model's log-probabilities of every text of a batch."""
        import torch

        prefixes = [self._prefix(output) for output in batch]
        if self.onto is None:
            bodies = [text.tolist() for text in texts]
        else:
            bodies = self.own.encode([_as_text(o, self.tokenizer) for o in batch])
        room = self._room()
        rows = [(p[-(room // 2) :], b) for p, b in zip(prefixes, bodies, strict=True)]
        rows = [(p, b[: room - len(p)]) for p, b in rows]
        longest = max(len(p) + len(b) for p, b in rows)
        ids = torch.zeros((len(rows), max(1, longest)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, (prefix, body) in enumerate(rows):
            ids[line, : len(prefix) + len(body)] = torch.tensor(prefix + body, dtype=torch.long)
            mask[line, : len(prefix) + len(body)] = 1
        with torch.inference_mode():
            logits = self.model.model(input_ids=ids, attention_mask=mask).logits
        found = []
        for line, (prefix, body) in enumerate(rows):
            start = max(1, len(prefix))
            scored = logits[line, start - 1 : len(prefix) + len(body) - 1].float()
            at = np.arange(start - len(prefix), len(body), dtype=np.int64)
            found.append(self._onto_mark(at, torch.log_softmax(scored, dim=-1), body, texts[line]))
        return found

    def _prefix(self, output: Output) -> list[int]:
        """The prompt as this model would be asked, in its tokens; a lone start token where there is none."""
        tokenizer = self.model.tokenizer
        if self.onto is None and output.prompt_token_ids is not None:
            return list(output.prompt_token_ids)
        text = output.prompt
        if text is None and output.prompt_token_ids is not None:
            text = self.tokenizer.texts([output.prompt_token_ids])[0]
        if text is None:
            return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        turns = output.messages or ({"role": "user", "content": text},)
        asked = self.model.templated(Prompt(output.id, text, turns))
        special = not getattr(tokenizer, "chat_template", None)
        ids: list[int] = tokenizer(asked, add_special_tokens=special)["input_ids"]
        return ids

    def _room(self) -> int:
        return int(getattr(self.model.model.config.get_text_config(), "max_position_embeddings", 0) or 2**20)

    def _onto_mark(
        self, at: NDArray[np.int64], logprobs: torch.Tensor, body: list[int], text: NDArray[np.int64]
    ) -> _Rows:
        """Rows over the mark's vocabulary, special tokens left out, at the positions both tokenizations share."""
        import torch

        width = self.mark.binding.logits_width if self.mark.binding else self.tokenizer.size
        if self.onto is not None:
            ours = _starts([self.spelled[i] for i in text.tolist()])
            theirs = _starts([self.own_spelled[i] for i in body])
            at, here = _shared(ours, theirs, at)
            rows = torch.full((len(here), width), -torch.inf)
            known = np.flatnonzero(self.onto >= 0)
            known = known[known < logprobs.shape[1]]
            rows[:, torch.from_numpy(self.onto[known])] = logprobs[torch.from_numpy(here)][:, torch.from_numpy(known)]
            logprobs = rows
        elif logprobs.shape[1] != width:
            raise SuspectUnusable(
                f"{self.model.source} has {logprobs.shape[1]} logits, the mark was made for {width}",
                hint="same tokenizer, other width: was the embedding resized? pass the model as it is served",
            )
        special = [i for i in self.mark.special_ids if i < width]
        logprobs[:, special] = -torch.inf
        return _Rows(at, logprobs)


def _reading(output: Output, text: NDArray[np.int64], seen: _Rows, expected: _Rows | None, top: int) -> Reading:
    """The candidates that either side finds likeliest, with both log-probabilities."""
    import torch

    at, mine, other = seen.positions, np.arange(len(seen.positions)), None
    suspect, reference = seen.logprobs, None
    if expected is not None:
        at, mine, theirs = np.intersect1d(seen.positions, expected.positions, return_indices=True)
        suspect, reference = suspect[torch.from_numpy(mine)], expected.logprobs[torch.from_numpy(theirs)]
    ranked = suspect if reference is None else torch.maximum(suspect, reference)
    if torch.isnan(ranked).any():
        raise SuspectUnusable(
            f"text {output.id!r}: a model gives log-probabilities that are not numbers",
            hint="is the model whole, and was it loaded in a precision that it can bear?",
        )
    tokens = ranked.topk(min(top, ranked.shape[1]), dim=1).indices if len(at) else torch.zeros((0, 1), dtype=torch.long)
    kept = suspect.gather(1, tokens)
    other = None if reference is None else reference.gather(1, tokens)
    ids = tokens.numpy().astype(np.int32)
    unknown = np.isneginf(kept.numpy()) if other is None else np.isneginf(kept.numpy()) | np.isneginf(other.numpy())
    return Reading(
        output=output,
        token_ids=text,
        positions=at,
        tokens=np.where(unknown, -1, ids),
        suspect=kept.numpy(),
        reference=None if other is None else other.numpy(),
        chosen=text[at].astype(np.int32),
    )


def _listed(
    output: Output,
    text: NDArray[np.int64],
    ids: dict[bytes, int],
    spelled: list[bytes | None],
    expected: _Rows | None,
) -> Reading:
    """The tokens that an endpoint listed, at the positions where its tokens begin with ours."""
    if output.logprobs is None:
        raise SuspectUnusable(
            f"answer {output.id!r} came without log-probabilities",
            hint="ask for them with `wmark probe --logprobs 5`, or test the text alone",
        )
    theirs = _starts([entry.token for entry in output.logprobs])
    ours = _starts([spelled[i] for i in text.tolist()])
    at, here = _shared(ours, theirs, np.arange(len(output.logprobs), dtype=np.int64))
    line: dict[int, int] = {}
    if expected is not None:
        line = {int(p): n for n, p in enumerate(expected.positions)}
        known = np.array([p in line for p in at.tolist()], dtype=bool)
        at, here = at[known], here[known]
    entries = [output.logprobs[i] for i in here.tolist()]
    rows = [dict([*entry.top, (entry.token, entry.logprob)]) for entry in entries]
    mapped = [{ids[token]: value for token, value in row.items() if token in ids} for row in rows]
    width = max((len(row) for row in mapped), default=1) or 1
    tokens = np.full((len(at), width), -1, dtype=np.int32)
    suspect = np.full((len(at), width), -np.inf, dtype=np.float32)
    for number, row in enumerate(mapped):
        tokens[number, : len(row)] = list(row)
        suspect[number, : len(row)] = list(row.values())
    reference = None
    if expected is not None:
        wanted = expected.logprobs.numpy()[[line[int(p)] for p in at.tolist()]] if len(at) else np.empty((0, 1))
        reference = np.take_along_axis(wanted, np.maximum(tokens, 0), axis=1).astype(np.float32) if len(at) else None
        reference = np.empty((0, width), dtype=np.float32) if reference is None else reference
        tokens = np.where(np.isneginf(reference), -1, tokens)
    chosen = np.array([ids.get(entry.token, -1) for entry in entries], dtype=np.int32)
    return Reading(output, text, at, tokens, suspect, reference, chosen)


def _written(output: Output, text: NDArray[np.int64], expected: _Rows | None, top: int) -> Reading:
    import torch

    if expected is None:
        at = np.arange(len(text), dtype=np.int64)
        return Reading(output, text, at, text[:, None].astype(np.int32), None, None, text.astype(np.int32))
    at, chosen = expected.positions, text[expected.positions].astype(np.int32)
    tokens = expected.logprobs.topk(min(top, expected.logprobs.shape[1]), dim=1).indices.numpy().astype(np.int32)
    missing = ~(tokens == chosen[:, None]).any(axis=1)
    tokens[missing, -1] = chosen[missing]
    reference = expected.logprobs.gather(1, torch.from_numpy(tokens.astype(np.int64))).numpy()
    return Reading(output, text, at, np.where(np.isneginf(reference), -1, tokens), None, reference, chosen)


def _batches(outputs: Iterable[Output], mark: Watermark) -> Iterator[tuple[Output, ...]]:
    width = mark.binding.logits_width if mark.binding else 0
    stream, size = iter(outputs), max(1, min(_BATCH, _LOGITS // max(1, width)))
    while batch := tuple(islice(stream, size)):
        yield batch


def _texts(batch: Sequence[Output], tokenizer: Tokenizer) -> list[NDArray[np.int64]]:
    """Each text in the mark's tokens."""
    encoded = iter(tokenizer.encode([o.text or "" for o in batch if o.token_ids is None]))
    rows = [o.token_ids if o.token_ids is not None else next(encoded) for o in batch]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def _as_text(output: Output, tokenizer: Tokenizer) -> str:
    if output.token_ids is not None:
        return tokenizer.texts([output.token_ids])[0]
    if output.text is None:
        raise OutputsInvalid(f"answer {output.id!r} has neither text nor token ids")
    return output.text


def _starts(tokens: Sequence[bytes | None]) -> NDArray[np.int64]:
    """The byte at which each token begins; tokens that stand for no bytes (special ones) take none."""
    lengths = np.array([len(token or b"") for token in tokens], dtype=np.int64)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if len(lengths) else lengths


def _shared(
    ours: NDArray[np.int64], theirs: NDArray[np.int64], at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(our positions, indices into `at`) where a token of each tokenization begins at the same byte."""
    _, mine, other = np.intersect1d(ours, theirs[at], return_indices=True)
    return mine.astype(np.int64), other.astype(np.int64)
