"""One run under way: attempts are recorded as they come, log before answer, until something ends it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from watermark.errors import OutputsInvalid, RunInterrupted
from watermark.outputs import Output, Outputs
from watermark.probe.answers import AnswerFile, to_answer, to_output
from watermark.probe.log import QueryLog, answer_digest, check_answers
from watermark.probe.pace import Budget, Limits
from watermark.probe.question import Attempt, Attempts, Draw, Question, Suspect
from watermark.prompts import Prompt

IN_A_ROW = 5  # questions without an answer, one after another, end a run; the very first ends it at once

Stop = Callable[[list[Output]], bool]
Progress = Callable[[str, int], None]


class Run:
    """Asks through `suspect`, writes to `log` and `answers`. batch: new answers between two calls of `stop`."""

    def __init__(
        self,
        suspect: Suspect,
        log: QueryLog,
        answers: AnswerFile,
        *,
        limits: Limits,
        batch: int = 16,
        stop: Stop | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.suspect, self.log, self.answers, self.limits = suspect, log, answers, limits
        self.budget = Budget(limits, requests=log.requests, tokens=log.tokens)
        self.made = self.unanswered = self.refused = 0
        self._batch, self._stop, self._progress = batch, stop, progress or (lambda word, count: None)
        self._new: list[Output] = []
        self._in_a_row = 0
        self._attempts: Attempts | None = None
        self._fatal: Attempt | None = None
        self._stopped = False

    def recall(self) -> None:
        """Checks what earlier calls left: each answer is the one logged; the model's name is held to."""
        logged = {line["id"]: line["answer_sha256"] for line in self.log.lines if line["answer_sha256"]}
        check_answers(self.log.path, logged, {id: kept.digest for id, kept in self.answers.done.items()})
        names = [line["model_returned"] for line in self.log.lines if line["outcome"] == "answered"]
        self.suspect.returned = next((name for name in names if name), None)

    def probe(self, questions: list[Question]) -> str:
        """Asks what has no answer yet; returns how it ended. Raises OutputsInvalid if the suspect fails."""
        if self.answers.done and self._stop is not None and self._stop(list(Outputs(self.answers.path))):
            return "stopped early"
        waiting = [question for question in questions if question.id not in self.answers.done]
        before = len(questions) - len(waiting)
        self._progress("answers", before)
        for _ in self._recorded(waiting):
            self._progress("answers", before + self.made)
        self._look(last=True)
        if self._stopped:
            return "stopped early"
        return self._ended(all(question.id in self.answers.done for question in questions))

    def compare(self, prompts: list[Prompt], draw: Draw) -> str | None:
        """Asks each prompt twice at temperature 0; the log gets both. Returns how it ended, None if all came."""
        greedy = replace(draw, temperature=0.0, top_p=1.0, logprobs=0)
        names = [(f"{prompt.id}~{turn}", prompt) for prompt in prompts for turn in ("once", "again")]
        questions = [Question(id, number, prompt, greedy, "consistency") for number, (id, prompt) in enumerate(names)]
        done = {line["id"] for line in self._compared()}
        for number, _ in enumerate(self._recorded([q for q in questions if q.id not in done])):
            self._progress("comparisons", number // 2)
        done = {line["id"] for line in self._compared()}
        ended = self._ended(all(question.id in done for question in questions))
        return None if ended == "all answered" else ended

    @property
    def consistency(self) -> dict[str, int] | None:
        """Prompts asked twice at temperature 0, and how many of them got two different answers."""
        texts: dict[str, set[str]] = {}
        for line in self._compared():
            texts.setdefault(line["id"].rpartition("~")[0], set()).add(line["text_sha256"])
        ids = [line["id"].rpartition("~")[0] for line in self._compared()]
        pairs = {id for id in ids if ids.count(id) > 1}
        return {"asked": len(pairs), "changed": sum(len(texts[id]) > 1 for id in pairs)} if pairs else None

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """On Ctrl-C: what has come is kept, what is in flight is logged, the rest is said."""
        try:
            yield
        except (KeyboardInterrupt, RunInterrupted):
            for attempt in self._attempts.in_flight() if self._attempts else []:
                self._record(attempt)
            raise RunInterrupted(
                f"interrupted; {len(self.answers.done):,} answers are in {self.answers.path}",
                hint="run the same command again to go on",
            ) from None
        finally:
            if self._attempts is not None:
                self._attempts.stop()

    def _compared(self) -> list[dict[str, Any]]:
        return [line for line in self.log.lines if line["purpose"] == "consistency" and line["outcome"] == "answered"]

    def _recorded(self, questions: list[Question]) -> Iterator[Attempt]:
        """Attempts, each written down before it is handed on. Raises OutputsInvalid once none is in flight."""
        if not questions:
            return
        self._attempts = attempts = self.suspect.ask(questions, self.limits, self.budget)
        for attempt in attempts:
            self._record(attempt)
            self._weigh(attempt)
            yield attempt
            if self._fatal is not None or self._look():
                attempts.stop()
        if self._fatal is not None:
            kept = len(self.answers.done)
            raise OutputsInvalid(
                f"{self._fatal.error}; " + (f"{kept:,} answers are kept" if kept else "no answer was had"),
                hint=self._fatal.hint or "run the same command again to go on",
            )

    def _record(self, attempt: Attempt) -> None:
        answer = None
        if attempt.outcome == "answered" and attempt.question.purpose == "probe":
            answer = to_answer(attempt)
        with unbroken():
            self.log.request(attempt, answer_sha256=answer_digest(answer) if answer else None)
            if answer is not None:
                self.answers.append(answer)
                self.made += 1
                if self._stop is not None:
                    self._new.append(to_output(self.answers.path, answer))

    def _weigh(self, attempt: Attempt) -> None:
        """Counts what failed, and decides whether the run can go on."""
        self._in_a_row = 0 if attempt.outcome == "answered" else self._in_a_row
        if attempt.outcome in ("unanswered", "refused"):
            self.unanswered += attempt.outcome == "unanswered"
            self.refused += attempt.outcome == "refused"
            self._in_a_row += 1
            never = attempt.outcome == "unanswered" and not self.answers.done
            if never or self._in_a_row >= IN_A_ROW:
                self._fatal = self._fatal or attempt
        if attempt.outcome == "fatal":
            self._fatal = self._fatal or attempt

    def _look(self, *, last: bool = False) -> bool:
        """Whether `stop`, shown the new answers, ends the run."""
        if self._stop is not None and not self._stopped and len(self._new) >= (1 if last else self._batch):
            shown, self._new = self._new, []
            self._stopped = bool(self._stop(shown))
        return self._stopped

    def _ended(self, complete: bool) -> str:
        if complete:
            return "all answered"
        return f"out of {self.budget.exhausted}" if self.budget.exhausted else "some unanswered"


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C waits until the block is done. It arrives in the main thread alone; elsewhere nothing is needed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(signal.SIGINT, came[0])
