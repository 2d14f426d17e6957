"""How the command line speaks: data to stdout, words to stderr, errors with a remedy, no traceback."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def say(text: str) -> None:
    """One line of words, to stderr."""
    print(text, file=sys.stderr)


def emit(value: dict[str, Any]) -> None:
    """One JSON object, to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def fail(message: str, hint: str | None = None) -> None:
    """An error and, if there is one, its remedy, to stderr."""
    say(f"wmark: error: {message}")
    if hint:
        say(f"wmark: hint: {hint}")


def progress(total: int | None = None, *, quiet: bool = False) -> Callable[[str, int], None]:
    """A function (word, count) that shows how far a long run is: in place on a terminal, else now and then."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    last = time.monotonic() if not terminal else 0.0

    def show(word: str, count: int) -> None:
        nonlocal last
        finished = total is not None and count >= total
        if quiet or (time.monotonic() - last < (0.1 if terminal else 15.0) and not (finished and terminal)):
            return
        last = time.monotonic()
        line = f"{count:,} of {total:,} {word}" if total is not None else f"{count:,} {word}"
        print(f"\r\033[K{line}" if terminal else line, end="\n" if finished or not terminal else "", file=sys.stderr)
        sys.stderr.flush()

    return show


def clear() -> None:
    """Ends a line that `progress` left open."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


def pvalue(log10_p: float) -> str:
    """A p-value for reading: 0.031, 4.2e-08, 1.0e-1234."""
    if log10_p > -4:
        return f"{10**log10_p:.3g}"
    exponent = int(log10_p // 1)
    return f"{10 ** (log10_p - exponent):.1f}e{exponent:+03d}".replace("e-0", "e-0")
