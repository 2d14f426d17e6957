"""How fast and how far: bounded concurrency, a rate, back-off, and a budget in requests and tokens."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 600.0


@dataclass(frozen=True)
class Limits:
    """concurrency: requests in flight at once. rate: requests a minute, None for no limit.

    retries: further attempts after the first. backoff: seconds before the first retry, doubled at each, up to a
    minute, then drawn between half and whole so that clients do not return in step.
    max_requests, max_tokens: over the whole run, earlier calls on the same output counted; None for no limit.
    """

    concurrency: int = 4
    rate: float | None = None
    retries: int = 5
    backoff: float = 1.0
    max_requests: int | None = None
    max_tokens: int | None = None

    def wait_before(self, attempt: int) -> float:
        """Seconds before `attempt` (2 for the first retry)."""
        whole = min(self.backoff * 2.0 ** (attempt - 2), 60.0)
        return whole * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date (RFC 9110, section 10.2.3). None if it says nothing."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None


class Pace:
    """Spaces requests evenly at `rate` a minute, and holds all of them back when the suspect asks for a pause."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 60.0 / rate if rate else 0.0
        self._next = self._held = 0.0
        self._lock = threading.Lock()

    def wait(self, stopping: threading.Event) -> bool:
        """Returns when the next request may go, True; or False at once when `stopping` is set."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._gap
        while (left := max(turn, self._hold()) - time.monotonic()) > 0:
            if stopping.wait(left):
                return False
        return not stopping.is_set()

    def pause(self, seconds: float) -> None:
        """No request goes for that long."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)

    def _hold(self) -> float:
        with self._lock:
            return self._held


class Budget:
    """What may still be spent. Every request reserves the most it can cost, and settles what it did cost."""

    def __init__(self, limits: Limits, *, requests: int = 0, tokens: int = 0) -> None:
        self.requests, self.tokens, self.reserved = requests, tokens, 0
        self._max_requests, self._max_tokens = limits.max_requests, limits.max_tokens
        self._changed = threading.Condition()  # re-entrant: its lock is an RLock
        self.exhausted: str | None = None

    def take_now(self, most_tokens: int) -> bool:
        """Whether a request may go at once."""
        with self._changed:
            if self._max_requests is not None and self.requests >= self._max_requests:
                self.exhausted = self.exhausted or "requests"
            elif self._max_tokens is not None and self.tokens + self.reserved + most_tokens > self._max_tokens:
                self.exhausted = self.exhausted or ("tokens" if self.reserved == 0 else None)
            else:
                self.requests += 1
                self.reserved += most_tokens
                return True
        return False

    def take(self, most_tokens: int, stopping: threading.Event) -> bool:
        """Whether a request may go; waits for those in flight where their settling may make room."""
        with self._changed:
            while not stopping.is_set():
                if self.take_now(most_tokens):
                    return True
                if self.exhausted:
                    return False
                self._changed.wait(0.5)
        return False

    def settle(self, most_tokens: int, tokens: int) -> None:
        """A request that reserved `most_tokens` has cost `tokens`."""
        with self._changed:
            self.reserved -= most_tokens
            self.tokens += tokens
            self._changed.notify_all()

    def give_back(self, most_tokens: int) -> None:
        """A request that was taken and never sent."""
        with self._changed:
            self.requests -= 1
        self.settle(most_tokens, 0)

    @property
    def left(self) -> dict[str, int | None]:
        """Requests and tokens that may still be spent; None where there is no limit."""
        return {
            "requests": None if self._max_requests is None else max(0, self._max_requests - self.requests),
            "tokens": None if self._max_tokens is None else max(0, self._max_tokens - self.tokens),
        }
