"""The threads that ask: bounded, paced, retrying; what they bring back is read by one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from watermark.probe.pace import Budget, Limits, Pace
from watermark.probe.question import Attempt, Question

RETRIES_UNREACHED = 2  # for a server that never answered anything: it is down, or the address is wrong

NOT_AWAITED = "stopped before the answer came"


class Crew:
    """Iterate to receive attempts as they come. `stop` begins no further question; those in flight still come.

    No thread goes on before the attempt it brought was dealt with, that is, before the next is asked for: a run that
    is to end has not gone ahead, and a kill loses no more than `concurrency` answers.

    attempt: (question, number of the attempt) -> (what came of it, seconds of pause asked for).
    Threads are daemons: an interrupted program does not wait for a slow suspect.
    """

    def __init__(
        self,
        attempt: Callable[[Question, int], tuple[Attempt, float | None]],
        questions: list[Question],
        limits: Limits,
        budget: Budget,
    ) -> None:
        self._attempt, self._limits, self._budget = attempt, limits, budget
        self._waiting = deque(questions)
        self._came: deque[tuple[Attempt | None, threading.Event]] = deque()
        self._arrivals = threading.Semaphore(0)
        self._stopping = threading.Event()
        self._pace = Pace(limits.rate)
        self._lock = threading.Lock()
        self._flying: dict[str, Attempt] = {}
        self._reached = self._abandoned = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(min(limits.concurrency, len(questions)))
        ]

    def __iter__(self) -> Iterator[Attempt]:
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        try:
            while working:
                self._arrivals.acquire()
                attempt, dealt_with = self._came.popleft()
                if attempt is None:
                    working -= 1
                else:
                    yield attempt
                dealt_with.set()
        finally:
            self._stopping.set()
            self._abandoned = True

    def stop(self) -> None:
        self._stopping.set()

    def in_flight(self) -> list[Attempt]:
        """What came and was not read; then what was sent and is not back, its outcome "interrupted"."""
        self._stopping.set()
        self._abandoned = True
        with self._lock:
            return [attempt for attempt, _ in self._came if attempt is not None] + list(self._flying.values())

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    question = self._waiting.popleft()
                except IndexError:
                    return
                self._ask(question)
        finally:
            self._came.append((None, threading.Event()))
            self._arrivals.release()

    def _ask(self, question: Question) -> None:
        number = 0
        while self._budget.take(question.most_tokens, self._stopping):
            if not self._pace.wait(self._stopping):
                self._budget.give_back(question.most_tokens)
                return
            number += 1
            attempt, pause = self._asked(question, number)
            wait = self._limits.wait_before(number + 1) if attempt.outcome == "retried" else None
            if wait is not None and number > self._retries():
                attempt, wait = replace(attempt, outcome="unanswered"), None
            self._budget.settle(question.most_tokens, attempt.tokens)
            if attempt.outcome == "fatal":
                self._stopping.set()
            if pause is not None:
                self._pace.pause(pause)
            self._bring(attempt)
            if wait is None or (pause is None and self._stopping.wait(wait)):
                return

    def _asked(self, question: Question, number: int) -> tuple[Attempt, float | None]:
        now = time.time()
        with self._lock:
            self._flying[question.id] = Attempt(question, number, now, now, "interrupted", error=NOT_AWAITED)
        try:
            attempt, pause = self._attempt(question, number)
        except Exception as error:  # a thread has nobody to raise to
            words = f"unexpected {type(error).__name__}"
            return Attempt(question, number, now, time.time(), "fatal", error=words), None
        self._reached = self._reached or attempt.status is not None
        return attempt, pause

    def _retries(self) -> int:
        return self._limits.retries if self._reached else min(self._limits.retries, RETRIES_UNREACHED)

    def _bring(self, attempt: Attempt) -> None:
        dealt_with = threading.Event()
        with self._lock:
            self._came.append((attempt, dealt_with))
            del self._flying[attempt.question.id]
        self._arrivals.release()
        while not dealt_with.wait(0.2) and not self._abandoned:
            pass
