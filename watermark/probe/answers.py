"""The answers file of a probe: outputs JSON Lines, the truth of the run. A line is appended whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watermark.errors import OutputsInvalid
from watermark.files import append_whole, canonical_json
from watermark.outputs import Output, Outputs
from watermark.probe.log import answer_digest
from watermark.probe.question import Attempt, Question
from watermark.prompts import Prompt

_START = b'{"id":"'


@dataclass(frozen=True)
class Kept:
    """What is remembered of an answer that is on disk."""

    prompt: str | list[dict[str, str]]
    digest: str
    empty: bool
    cut: bool

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Kept:
        cut = answer["meta"]["finish_reason"] == "length"
        return cls(answer["prompt"], answer_digest(answer), not answer["text"].strip(), cut)


@dataclass
class AnswerFile:
    """done: by id, in the order of the file. Its writer holds the lock of the query log beside it."""

    path: Path
    stream: io.FileIO
    done: dict[str, Kept]

    def append(self, answer: dict[str, Any]) -> None:
        """One line, whole and flushed; if the disk is full the line is taken back."""
        append_whole(self.stream, canonical_json(answer) + b"\n")
        self.done[answer["id"]] = Kept.of(answer)

    def check(self, questions: list[Question]) -> None:
        """Refuses a file that answers another prompt under an id of ours."""
        for question in questions:
            if question.id in self.done and self.done[question.id].prompt != _asked(question.prompt):
                raise OutputsInvalid(
                    f"{self.path} holds an answer to another prompt under the id {question.id!r}; nothing was written",
                    hint="choose another --output, or give the prompts ids of their own",
                )


@contextlib.contextmanager
def answer_file(path: Path) -> Iterator[AnswerFile]:
    """Opens or makes the file; a line that a crash cut short is dropped, its prompt will be asked again."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputsInvalid(f"{path} cannot be written: {error.strerror}") from None
    with io.FileIO(descriptor, "r+") as stream:
        done, whole = {}, 0
        for number, line in enumerate(io.BufferedReader(io.FileIO(descriptor, "r", closefd=False)), 1):
            if line.endswith(b"\n"):
                answer = _parsed(path, line[:-1], number)
                done[answer["id"]] = Kept.of(answer)
                whole += len(line)
            elif not line.startswith(_START[: len(line)]):
                raise _foreign(path, number)
        stream.truncate(whole)
        stream.seek(0, os.SEEK_END)
        yield AnswerFile(path, stream, done)


def to_answer(attempt: Attempt) -> dict[str, Any]:
    """The line of an attempt that was answered: {id, prompt, text, logprobs?, meta}. A chat's prompt is its turns."""
    question, reply = attempt.question, attempt.reply
    if reply is None:
        raise ValueError("an attempt without a reply has no answer")
    meta: dict[str, Any] = {
        "attempt": attempt.number,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "response_sha256": attempt.response_sha256,
        "seed": question.draw.seed,
        "usage": reply.usage,
    }
    if reply.token_ids is not None:
        meta["token_ids"] = reply.token_ids
    if reply.mended:
        meta["mended"] = True
    answer = {"id": question.id, "prompt": _asked(question.prompt), "text": reply.text, "meta": meta}
    return answer | ({"logprobs": reply.logprobs} if reply.logprobs is not None else {})


def to_output(path: Path, answer: dict[str, Any]) -> Output:
    """An answer's line exactly as it will be read from its file, by the same reader."""
    return Outputs(path)._output(answer, f"{path}, answer {answer['id']}", 0)


def _asked(prompt: Prompt) -> str | list[dict[str, str]]:
    """As text where it is one turn of the user's, else all turns."""
    alone = len(prompt.messages) == 1 and prompt.messages[0]["role"] == "user"
    return prompt.text if alone else list(prompt.messages)


def _parsed(path: Path, line: bytes, number: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
        good = all(isinstance(answer[name], str) for name in ("id", "text")) and "prompt" in answer
        good = good and {"finish_reason", "response_sha256"} <= set(answer["meta"]) and canonical_json(answer) == line
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise _foreign(path, number)
    return answer


def _foreign(path: Path, number: int) -> OutputsInvalid:
    return OutputsInvalid(
        f"{path}, line {number}: not an answer of `wmark probe`; nothing was written", hint="choose another --output"
    )
