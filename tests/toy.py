"""A toy language model in numpy that can copy from its context: fast enough for thousands of keys.

A trigram softmax over 256 tokens. With an induction head it gives some of its probability to the token that followed
the last time its context stood in the same text, prompt included: what an innocent model does with text it is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from watermark.assess import stacked
from watermark.keys import Key
from watermark.ledger import Record
from watermark.mark import Binding, Watermark
from watermark.observe import Observations, Reading
from watermark.observe.text import VOTES
from watermark.outputs import Output
from watermark.schemes import GreenList
from watermark.stats.combine import mean_evalue
from watermark.stats.weighted import WeightedSum

VOCABULARY = 256
SPECIAL = VOCABULARY - 1  # never said
BINDING = Binding("toy", VOCABULARY, (SPECIAL,))
LISTED = 32  # candidates kept at a position where all are read

Tilt = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Toy:
    """near, far (V, V): logits by the last token and the one before. copy: the induction head's share; it matches
    `match` tokens. temperature: of what it says when it does not copy."""

    near: np.ndarray
    far: np.ndarray
    copy: float = 0.0
    match: int = 2
    temperature: float = 1.0

    def logits(self, contexts: np.ndarray) -> np.ndarray:
        """(n, V) from the last two tokens (n, 2), without the head."""
        return (self.near[contexts[:, 1]] + self.far[contexts[:, 0]]) / np.float32(self.temperature)

    def logprobs(self, contexts: np.ndarray, copied: np.ndarray) -> np.ndarray:
        """(n, V); copied (n,): what the head would copy, -1 for nothing."""
        logits = self.logits(contexts)
        logits = logits - logits.max(axis=1, keepdims=True)
        found = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = np.flatnonzero(copied >= 0)
        if self.copy and len(at):
            found[at] += np.float32(np.log1p(-self.copy))
            there = found[at, copied[at]]
            found[at, copied[at]] = np.logaddexp(there, np.float32(np.log(self.copy)))
        return found

    def read(self, text: np.ndarray) -> np.ndarray:
        """(L - 2, V): log-probabilities of every token of one text (L,) from the third on."""
        copied = np.full(len(text) - 2, -1)
        last: dict[tuple[int, ...], int] = {}
        for place in range(self.match, len(text)):
            context = tuple(text[place - self.match : place].tolist())
            if place >= 2:
                copied[place - 2] = last.get(context, -1)
            last[context] = int(text[place])
        return self.logprobs(np.stack([text[:-2], text[1:-1]], axis=1), copied)

    def write(self, prompts: np.ndarray, steps: int, rng: np.random.Generator, tilt: Tilt | None = None) -> np.ndarray:
        """(rows, P + steps): prompts (rows, P >= 2) and what the model says after them."""
        ids = np.concatenate([prompts, np.zeros((len(prompts), steps), dtype=np.int64)], axis=1)
        for place in range(prompts.shape[1], ids.shape[1]):
            copied = self._copied(ids[:, :place]) if self.copy else np.full(len(ids), -1)
            found = self.logprobs(ids[:, place - 2 : place], copied)
            if tilt is not None:
                found = tilt(found, ids[:, place - 2 : place])
            noise = -np.log(rng.standard_exponential(found.shape, dtype=np.float32) + np.float32(1e-30))
            ids[:, place] = (found + noise).argmax(axis=1)
        return ids

    def _copied(self, ids: np.ndarray) -> np.ndarray:
        """What followed the last earlier occurrence of each row's last `match` tokens; -1 for never."""
        end = ids.shape[1]
        starts = end - self.match  # places where a match may begin, the last one left out
        if starts < 1:
            return np.full(len(ids), -1)
        same = np.ones((len(ids), starts), dtype=bool)
        for step in range(self.match):
            same &= ids[:, step : starts + step] == ids[:, end - self.match + step, None]
        last = starts - 1 - same[:, ::-1].argmax(axis=1)
        return np.where(same.any(axis=1), ids[np.arange(len(ids)), last + self.match], -1)


def teacher(seed: int = 1, *, near: float = 1.7, far: float = 1.0, common: float = 1.6) -> Toy:
    """Random tables, some tokens common everywhere: some 2.8 nats a token, and pairs that come back as in real text."""
    rng = np.random.default_rng(seed)
    tables = [rng.normal(0, scale, (VOCABULARY, VOCABULARY)).astype(np.float32) for scale in (near, far)]
    tables[0] += rng.normal(0, common, VOCABULARY).astype(np.float32)
    tables[0][:, SPECIAL] = -np.inf
    return Toy(tables[0], tables[1])


def drifted(toy: Toy, seed: int, much: float = 0.4) -> Toy:
    """A model that grew from `toy` and met no mark."""
    rng = np.random.default_rng(seed)
    moved = [t + rng.normal(0, much, t.shape).astype(np.float32) for t in (toy.near, toy.far)]
    return Toy(moved[0], moved[1], toy.copy, toy.match, toy.temperature)


def openings(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Two random tokens for each row."""
    return rng.integers(0, SPECIAL, (rows, 2))


def mark_of(key: Key, *, window: int = 2, delta: float = 3.0) -> Watermark:
    return Watermark(GreenList(window=window, delta=delta), key, BINDING)


def record(mark: Watermark, ids: list[int]) -> Record:
    """What a ledger keeps of an answer, as far as rules ask for it."""
    return Record(0, "", "", mark.key.kid, {}, "", "", "", ids, "", "")


def tilted_by(marks: list[Watermark], rows: int) -> Tilt:
    """A tilt for many marks at once, `rows` consecutive rows under each."""

    def tilt(logits: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        width = marks[0].scheme.window
        parts = [
            mark.tilt(logits[n * rows : (n + 1) * rows], contexts[n * rows : (n + 1) * rows, -width:])
            for n, mark in enumerate(marks)
        ]
        return np.concatenate(parts)

    return tilt


@dataclass(frozen=True, eq=False)
class Text:
    """An answer in its prompt's context: ids (L,), of which the first `given` are the prompt; given is at least 2."""

    ids: np.ndarray
    given: int

    @property
    def output(self) -> Output:
        return Output(
            "", token_ids=tuple(self.answer.tolist()), prompt_token_ids=tuple(self.ids[: self.given].tolist())
        )

    @property
    def answer(self) -> np.ndarray:
        return self.ids[self.given :]


def reading(text: Text, suspect: np.ndarray | None, reference: np.ndarray | None, tokens: np.ndarray) -> Reading:
    """A Reading of all positions of the answer. suspect, reference (n, V); tokens (n, k)."""
    answer = text.answer
    return Reading(
        output=text.output,
        token_ids=answer.astype(np.int64),
        positions=np.arange(len(answer), dtype=np.int64),
        tokens=tokens.astype(np.int32),
        suspect=None if suspect is None else np.take_along_axis(suspect, tokens, axis=1).astype(np.float32),
        reference=None if reference is None else np.take_along_axis(reference, tokens, axis=1).astype(np.float32),
        chosen=answer.astype(np.int32),
    )


@lru_cache(maxsize=256)
def seen_by(toy: Toy | None, text: Text) -> np.ndarray | None:
    """(n, V) log-probabilities at the answer's tokens."""
    return None if toy is None else toy.read(text.ids)[text.given - 2 :]


def read_all(text: Text, suspect: np.ndarray, reference: np.ndarray | None, listed: int = LISTED) -> Reading:
    """An open model: the candidates that either side finds likeliest."""
    ranked = suspect if reference is None else np.maximum(suspect, reference)
    return reading(text, suspect, reference, _likeliest(ranked, listed))


def read_top(text: Text, suspect: np.ndarray, reference: np.ndarray | None, k: int, *, own: bool) -> Reading:
    """An endpoint's list of k; with the token that was written, if the answer is the suspect's own."""
    tokens = _likeliest(suspect, k)
    if own:
        written = np.where((tokens == text.answer[:, None]).any(axis=1), -1, text.answer)[:, None]
        tokens = np.concatenate([tokens, written], axis=1)
    found = reading(text, suspect, reference, np.maximum(tokens, 0))
    unlisted = tokens < 0
    found.tokens[unlisted] = -1
    return found


def read_written(text: Text, reference: np.ndarray | None) -> Reading:
    """Text alone, or text and what a reference expected."""
    if reference is None:
        return reading(text, None, None, text.answer[:, None])
    tokens = _likeliest(reference, LISTED)
    missing = ~(tokens == text.answer[:, None]).any(axis=1)
    tokens[missing, -1] = text.answer[missing]
    return reading(text, None, reference, tokens)


def _likeliest(logprobs: np.ndarray, k: int) -> np.ndarray:
    return np.argpartition(-logprobs, k - 1, axis=1)[:, :k]


def judged(seen: Observations, mark: Watermark, *, exact: bool = True) -> dict[str, float]:
    """log10 p by name: "votes" (binomial), "1/E" (the headline), "Chernoff NAME" and "exact NAME" per statistic.

    exact tails are looked up where z passes 1.2; below no test of level 0.05 rejects (tests/calibration checks that on
    every reading it shares), and 0 stands for them.
    """
    gamma, names = mark.scheme.null.mean, [name for name in seen.weights if name != VOTES]
    totals = mark.totals(seen.windows, seen.choices, stacked(seen), [mark.key])[0]
    voted = int((seen.weights[VOTES] != 0).sum())
    found = {"votes": mark.scheme.null.log10_pvalue(int(totals[0]), voted)}
    evalues = []
    for name, total in zip(names, totals[1:].tolist()):
        law = WeightedSum(seen.weights[name], gamma)
        evalues.append(float(law.log10_evalue(total)))
        found["Chernoff " + name] = law.log10_chernoff(total)
        if exact:
            found["exact " + name] = law.log10_pvalue(total) if law.z(total) > 1.2 else 0.0
    if names:
        found["1/E"] = min(0.0, -float(mean_evalue(np.array(evalues))))
    return found
