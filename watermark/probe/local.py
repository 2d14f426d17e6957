"""A suspect on this machine: a model folder, answered by `watermark.embed.answers`, a batch at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watermark.embed.answers import Model, Sampling
from watermark.errors import OutputsInvalid
from watermark.files import canonical_json, sha256_of
from watermark.probe.pace import Budget, Limits
from watermark.probe.question import Attempt, Question, Reply
from watermark.tokenizer import model_path


@dataclass
class LocalModel:
    """name: where the model was loaded from. batch: prompts answered at once."""

    model: Model
    name: str
    batch: int = 32
    returned: str | None = None

    @classmethod
    def open(cls, source: str | Path, *, batch: int = 32) -> LocalModel:
        """From a model folder, a .gguf file, "demo", or a hub name. Raises OutputsInvalid."""
        return cls(Model.load(source), str(source), batch)

    def describe(self) -> dict[str, Any]:
        """With the SHA-256 of the model's files, if they are here."""
        path = model_path(self.name)
        return {"kind": "model", "model": self.name, "sha256": sha256_of(path) if path.exists() else None}

    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Batches:
        if any(question.draw.logprobs for question in questions):
            raise OutputsInvalid(
                "a model that is here has all its logits, better than top log-probabilities",
                hint="leave out --logprobs, and read the logits with `wmark detect --suspect`",
            )
        return Batches(self, questions, budget)


@dataclass
class Batches:
    """Attempts of a model that is here; they never fail half-way."""

    suspect: LocalModel
    questions: list[Question]
    budget: Budget
    _stopped: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Attempt]:
        waiting = list(self.questions)
        while waiting and not self._stopped:
            batch = self._affordable(waiting[: self.suspect.batch])
            if not batch:
                return
            yield from self._answered(batch)
            waiting = waiting[len(batch) :]

    def stop(self) -> None:
        self._stopped = True

    def in_flight(self) -> list[Attempt]:
        return []

    def _affordable(self, batch: list[Question]) -> list[Question]:
        """Questions of one way of drawing, from the first on, for which the budget suffices."""
        same = [question for question in batch if _same_draw(question, batch[0])]
        taken = []
        for question in same:
            if not self.budget.take_now(question.most_tokens):
                break
            taken.append(question)
        return taken

    def _answered(self, batch: list[Question]) -> Iterator[Attempt]:
        draw, model = batch[0].draw, self.suspect.model
        sampling = Sampling(draw.max_new_tokens, draw.temperature, top_p=draw.top_p, batch=len(batch))
        sent = time.time()
        rows = model.answer([question.prompt for question in batch], sampling, seed=draw.seed or 0)
        received = time.time()
        for question, ids in zip(batch, rows, strict=True):
            text = model.tokenizer.decode(ids, skip_special_tokens=True)
            asked = len(model.tokenizer(model.templated(question.prompt))["input_ids"])
            usage = {"prompt": asked, "completion": len(ids)}
            finish = "length" if len(ids) == draw.max_new_tokens else "stop"
            reply = Reply(text, finish, self.suspect.name, usage=usage, token_ids=ids)
            self.budget.settle(question.most_tokens, sum(usage.values()))
            yield Attempt(
                question,
                1,
                sent,
                received,
                "answered",
                reply=reply,
                response_sha256=hashlib.sha256(canonical_json(ids)).hexdigest(),
                tokens=sum(usage.values()),
            )


def _same_draw(one: Question, other: Question) -> bool:
    first, second = one.draw, other.draw
    return (first.max_new_tokens, first.temperature, first.top_p) == (
        second.max_new_tokens,
        second.temperature,
        second.top_p,
    )
