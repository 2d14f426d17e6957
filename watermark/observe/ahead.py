"""How much is read at once: batches made ready in a second thread, and what lies in memory left out of collection."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_AHEAD = 2  # batches that may wait for the one that is used
Given = TypeVar("Given")
Ready = TypeVar("Ready")


def ahead(batches: Iterable[Given], work: Callable[[Given], Ready]) -> Iterator[Ready]:
    """work(batch) of each in turn, done in a second thread while those before are used.

    The batches themselves are taken in the thread of the caller. An error is raised where it would be without the
    second thread: that of a batch before that of the source behind it.
    """
    waiting: deque[Future[Ready]] = deque()
    failed: Exception | None = None
    source = iter(batches)
    second = ThreadPoolExecutor(1)
    try:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                break
            except Exception as error:
                failed = error
                break
            waiting.append(second.submit(work, batch))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failed is not None:
            raise failed
    finally:
        second.shutdown(cancel_futures=True)


@contextmanager
def settled() -> Iterator[None]:
    """Within, Python's collector looks at new objects alone.

    Reading makes many short-lived objects, and every so often these set off a walk over all there are: with torch and
    numba loaded a third of a second each, in which half a million tokens could be read. Nothing is done where objects
    are left out already (`gc.freeze`) or nothing is collected at all: that is the caller's own choice.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
