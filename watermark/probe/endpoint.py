"""A suspect behind an OpenAI-compatible address: what is sent, and what each response means."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, cast

from watermark.errors import OutputsInvalid
from watermark.probe.crew import Crew
from watermark.probe.pace import LONGEST_WAIT, Budget, Limits, retry_after
from watermark.probe.question import Attempt, Outcome, Question, Reply
from watermark.probe.replies import Api, BadReply, error_text, model_names, parse
from watermark.probe.wire import NoResponse, Response, Wire, api_key

_PATH = {"chat": "/chat/completions", "completions": "/completions"}
_TRANSIENT = {408, 409, 425, 429}
_VERSION = re.compile(r"[-@]\d{4}-?\d{2}-?\d{2}|@[\w.-]+")  # a date, or a revision as transformers names it
_WITHOUT = "run without --logprobs; text alone can be tested too"
_KEY = "set the key in the environment variable that --api-key-env names"
_LATER = "run the same command again later; it goes on"


@dataclass(frozen=True)
class _Verdict:
    """What a response means. pause: seconds that the endpoint asks for, None if it says nothing."""

    outcome: Outcome
    error: str | None = None
    hint: str | None = None
    reply: Reply | None = None
    pause: float | None = None


@dataclass
class Endpoint:
    """Answers come over HTTP. name: the model asked for. any_model: accept another name in the responses.

    The first name that comes back is held to: another one later is fatal, with any_model too.
    """

    wire: Wire
    name: str
    api: Api = "chat"
    any_model: bool = False
    returned: str | None = None
    _limit_field: str = field(default="max_tokens", repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(
        cls,
        address: str,
        *,
        model: str | None = None,
        api: str = "chat",
        key_env: str = "OPENAI_API_KEY",
        any_model: bool = False,
        timeout: float = 120.0,
    ) -> Endpoint:
        """At http(s)://host[:port]/v1. model: None takes the one that the endpoint lists.

        key_env: the environment variable that holds the key, if there is one. Raises OutputsInvalid.
        """
        if api not in ("chat", "completions"):
            raise OutputsInvalid(f"no such interface: {api!r}", hint="chat or completions")
        wire = Wire(address, api_key(key_env), timeout)
        return cls(wire, model or only_model(wire), cast("Api", api), any_model)

    def describe(self) -> dict[str, Any]:
        return {"kind": "endpoint", "address": self.wire.base, "api": self.api, "model": self.name}

    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Crew:
        return Crew(self.attempt, questions, limits, budget)

    def attempt(self, question: Question, number: int) -> tuple[Attempt, float | None]:
        """One request; and, if the endpoint said so, seconds to wait before any further one."""
        body, sent = self._body(question), time.time()
        try:
            response = self.wire.send(_PATH[self.api], body)
        except NoResponse as error:
            spent = 0 if error.unreached else question.most_tokens
            lost = Attempt(question, number, sent, time.time(), "retried", error=str(error), tokens=spent)
            return lost, None
        received, verdict = time.time(), self._judged(question, response, body)
        attempt = Attempt(
            question,
            number,
            sent,
            received,
            verdict.outcome,
            status=response.status,
            error=verdict.error,
            hint=verdict.hint,
            reply=verdict.reply,
            response_sha256=hashlib.sha256(response.body).hexdigest(),
            tokens=_cost(question, response.status, verdict.reply),
        )
        return attempt, verdict.pause

    def _body(self, question: Question) -> dict[str, Any]:
        draw = question.draw
        body: dict[str, Any] = {"model": self.name, "temperature": draw.temperature}
        body[self._limit_field] = draw.max_new_tokens
        if draw.top_p < 1:
            body["top_p"] = draw.top_p
        if draw.seed is not None:
            body["seed"] = draw.seed
        if self.api == "chat":
            body["messages"] = list(question.prompt.messages)
            return body | ({"logprobs": True, "top_logprobs": draw.logprobs} if draw.logprobs else {})
        body["prompt"] = question.prompt.text
        return body | ({"logprobs": draw.logprobs} if draw.logprobs else {})

    def _judged(self, question: Question, response: Response, body: dict[str, Any]) -> _Verdict:
        if response.status != 200:
            return self._failure(question, response, body)
        try:
            reply = parse(response.body, api=self.api)
        except BadReply as error:
            return _Verdict("retried", self.wire.redacted(str(error)))
        if question.draw.logprobs and not _has_top(reply):
            words = "the endpoint gives no log-probabilities, though they were asked for"
            return _Verdict("fatal", words, _WITHOUT, reply)
        wrong = self._wrong_model(reply.model)
        if wrong:
            return _Verdict("fatal", wrong, "answers kept so far are whole; ask one model at a time", reply)
        return _Verdict("answered", reply=reply)

    def _failure(self, question: Question, response: Response, body: dict[str, Any]) -> _Verdict:
        status = response.status
        said, code = error_text(response.body)
        said = self.wire.redacted(said) or "nothing"
        if 300 <= status < 400:
            to = self.wire.redacted(response.location or "another address")
            return _Verdict("fatal", f"the endpoint redirects ({status}) to {to}", "pass the address that answers")
        if status in (401, 403):
            return _Verdict("fatal", f"the endpoint refuses access ({status}): {said}", _KEY)
        if status in (404, 405):
            words = f"no such model or path ({status}): asked for {self.name!r} at {self.wire.base}, it says {said}"
            return _Verdict("fatal", words, "check --model, --api, and that the address ends in /v1")
        if question.draw.logprobs and status in (400, 422, 500, 501) and re.search("logprob|logits_all", said):
            return _Verdict("fatal", f"the endpoint gives no log-probabilities ({status}): {said}", _WITHOUT)
        if "max_completion_tokens" in said and "max_tokens" in body:
            self._limit_field = "max_completion_tokens"
            return _Verdict("retried", f"{status}: the endpoint wants max_completion_tokens; asking so")
        if status == 429 and code == "insufficient_quota":
            return _Verdict("fatal", f"the account's quota is used up (429): {said}", _LATER)
        if status in _TRANSIENT or status >= 500:
            return self._later(response, f"{'rate limit' if status == 429 else 'server error'} ({status}): {said}")
        return _Verdict("refused", f"the prompt was refused ({status}): {said}")

    def _later(self, response: Response, words: str) -> _Verdict:
        pause = retry_after(response.retry_after)
        if pause is not None and pause > LONGEST_WAIT:
            return _Verdict("fatal", f"{words}; it asks to wait {pause:,.0f} s", _LATER)
        return _Verdict("retried", words, pause=pause)

    def _wrong_model(self, returned: str | None) -> str | None:
        """What is wrong with the model's name, in words. A version of the name asked for is that model."""
        if returned is None:
            return None
        with self._lock:
            first, self.returned = self.returned, self.returned or returned
        if first is not None and returned != first:
            return f"the model's name changed in the middle of the run: first {first!r}, now {returned!r}"
        version = returned.removeprefix(self.name)
        if self.any_model or not version or (version != returned and _VERSION.fullmatch(version)):
            return None
        return f"asked for the model {self.name!r}, the answer comes from {returned!r}; --any-model accepts that"


def only_model(wire: Wire) -> str:
    """The one model that an endpoint lists. Raises OutputsInvalid if there is none, or a choice to make."""
    try:
        response = wire.send("/models")
    except NoResponse as error:
        raise OutputsInvalid(str(error), hint="is it running? check the address") from None
    if response.status in (401, 403):
        said = wire.redacted(error_text(response.body)[0])
        raise OutputsInvalid(f"the endpoint refuses access ({response.status}): {said}", hint=_KEY)
    try:
        names = model_names(response.body) if response.status == 200 else []
    except BadReply:
        names = []
    if len(names) != 1:
        shown = wire.redacted(", ".join(names[:5])) + (", …" if len(names) > 5 else "")
        listed = f"lists {len(names)} models ({shown})" if names else f"lists no model ({response.status})"
        raise OutputsInvalid(f"{wire.base} {listed}; one has to be named", hint="pass --model NAME")
    return names[0]


def _has_top(reply: Reply) -> bool:
    """Whether log-probabilities came: with at least one alternative a token, unless the answer is empty."""
    if reply.logprobs is None:
        return False
    return all(entry["top_logprobs"] for entry in reply.logprobs) and bool(reply.logprobs or not reply.text)


def _cost(question: Question, status: int, reply: Reply | None) -> int:
    """Tokens as the suspect counts them; without its count, the most that it can have been."""
    if status != 200:
        return 0
    return sum(reply.usage.values()) if reply and reply.usage else question.most_tokens
