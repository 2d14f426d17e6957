"""What is asked and what came of it: a question, one attempt at it, the reply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from watermark.errors import OutputsInvalid
from watermark.probe.pace import Budget, Limits
from watermark.prompts import Prompt

Purpose = Literal["probe", "consistency"]
Outcome = Literal["answered", "retried", "unanswered", "refused", "fatal", "interrupted"]


@dataclass(frozen=True)
class Draw:
    """How an answer is drawn. seed: None sends none; else every answer gets a seed of its own, made from it.

    logprobs: ask for that many top log-probabilities at each token; 0 asks for none.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int = 0

    def __post_init__(self) -> None:
        for name, good in (
            ("max_new_tokens", self.max_new_tokens >= 1),
            ("temperature", 0 <= self.temperature < float("inf")),
            ("top_p", 0 < self.top_p <= 1),
            ("logprobs", self.logprobs >= 0),
        ):
            if not good:
                raise OutputsInvalid(f"{name} cannot be {getattr(self, name)}")


@dataclass(frozen=True)
class Question:
    """One answer that is wanted. number: its place in the whole run, from 0."""

    id: str
    number: int
    prompt: Prompt
    draw: Draw
    purpose: Purpose = "probe"

    @property
    def most_tokens(self) -> int:
        """The most tokens that asking can cost: a token has a byte at least, a chat template adds a few."""
        turns = sum(len(message["content"].encode("utf-8", "surrogatepass")) + 16 for message in self.prompt.messages)
        return self.draw.max_new_tokens + turns + 16


@dataclass(frozen=True)
class Reply:
    """An answer as the suspect gave it. logprobs: in OpenAI's chat form, one entry a token, or None.

    usage: tokens as the suspect counted them, {"prompt": n, "completion": m}, or None. mended: broken characters
    (halves of surrogate pairs) were replaced in the text. token_ids: only from a model that we run ourselves.
    """

    text: str
    finish_reason: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    usage: dict[str, int] | None = None
    logprobs: list[dict[str, Any]] | None = None
    token_ids: list[int] | None = None
    mended: bool = False


@dataclass(frozen=True)
class Attempt:
    """One request and its outcome. sent, received: seconds since 1970. number: 1 for the first try.

    error: in words, None if answered. tokens: what it counts in the budget. response_sha256: of the raw body.
    """

    question: Question
    number: int
    sent: float
    received: float
    outcome: Outcome
    status: int | None = None
    error: str | None = None
    reply: Reply | None = None
    response_sha256: str | None = None
    tokens: int = 0
    hint: str | None = None


class Attempts(Protocol):
    """A run of attempts in progress. After `stop` no question is begun; those in flight still come."""

    def __iter__(self) -> Iterator[Attempt]: ...
    def stop(self) -> None: ...
    def in_flight(self) -> list[Attempt]: ...


class Suspect(Protocol):
    """Something that answers. name: the model as it is asked for; returned: as the answers name it, once known."""

    name: str
    returned: str | None

    def describe(self) -> dict[str, Any]: ...
    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Attempts: ...
