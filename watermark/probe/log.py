"""The query log: every request and its outcome, one JSON line each, holding the hash of the one before.

Append-only and crash-safe, like a ledger. It holds hashes of prompts, responses and answers, and no key. The line
of a request is written before its answer is kept: an answer without its line cannot come about.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watermark import chain
from watermark.errors import LedgerInvalid
from watermark.files import canonical_json
from watermark.probe.question import Attempt

FORMAT = "wmark-probe-log/1"
_KIND = chain.Kind(FORMAT, "query log", "line", "line of a query log")


class QueryLog:
    """An open log, for one writer at a time. lines: those of earlier calls, then those written now.

    settings: what stays the same over a run, kept in the first line; another run's log is refused.
    Raises LedgerInvalid if the file is no query log, its chain is broken, or another process writes to it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._stream = chain.open_locked(path)
        try:
            self._begin(settings)
        except BaseException:
            self._stream.close()
            raise

    def request(self, attempt: Attempt, *, answer_sha256: str | None) -> dict[str, Any]:
        """Adds one request and its outcome; on return it is on disk. answer_sha256: see `answer_digest`."""
        question, reply = attempt.question, attempt.reply
        return self._write(
            {
                "seq": len(self.lines),
                "time_sent": _time(attempt.sent),
                "time_received": _time(attempt.received),
                "purpose": question.purpose,
                "id": question.id,
                "prompt_sha256": _digest(question.prompt.text),
                "attempt": attempt.number,
                "outcome": attempt.outcome,
                "status": attempt.status,
                "error": attempt.error,
                "max_new_tokens": question.draw.max_new_tokens,
                "temperature": question.draw.temperature,
                "top_p": question.draw.top_p,
                "seed": question.draw.seed,
                "logprobs": question.draw.logprobs,
                "model_asked": self.header["suspect"].get("model"),
                "model_returned": reply.model if reply else None,
                "system_fingerprint": reply.fingerprint if reply else None,
                "finish_reason": reply.finish_reason if reply else None,
                "usage": reply.usage if reply else None,
                "tokens": attempt.tokens,
                "response_sha256": attempt.response_sha256,
                "text_sha256": _digest(reply.text) if reply else None,
                "answer_sha256": answer_sha256,
                "prev": self.head,
            }
        )

    @property
    def requests(self) -> int:
        return len(self.lines)

    @property
    def tokens(self) -> int:
        return sum(line["tokens"] for line in self.lines)

    def close(self) -> None:
        self._stream.close()

    def _begin(self, settings: dict[str, Any]) -> None:
        content = self._stream.read()
        whole = chain.whole_lines(content)
        if whole == 0 and not b'{"created":'.startswith(content[:11]):
            raise LedgerInvalid(f"{self.path} is no query log; nothing was written", hint="choose another --output")
        self.header, self.lines = _split(chain.checked(self.path, content[:whole], _KIND)) if whole else ({}, [])
        self._stream.truncate(whole)
        self._stream.seek(0, os.SEEK_END)
        if not whole:
            made = datetime.now(UTC).isoformat(timespec="seconds")
            self.head = ""
            self.header = self._written({"format": FORMAT, "created": made, "run": os.urandom(8).hex()} | settings)
        self.head = (self.lines[-1] if self.lines else self.header)["hash"]
        _same(self.path, self.header, settings)

    def _write(self, body: dict[str, Any]) -> dict[str, Any]:
        line = self._written(body)
        self.lines.append(line)
        return line

    def _written(self, body: dict[str, Any]) -> dict[str, Any]:
        line = chain.append(self._stream, body)
        self.head = line["hash"]
        return line


def log_path(output: str | Path) -> Path:
    """Where the log of an answers file stands: beside it, `.log.jsonl` added to its name."""
    output = Path(output)
    return output.parent / f"{output.name}.log.jsonl"


def read_log(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(first line, lines of the requests), the chain checked. Raises LedgerInvalid naming the first wrong line.

    A last line without its end is a write that never finished; it is left out.
    """
    return _split(chain.read_chain(Path(path), _KIND))


def verify_log(path: str | Path, *, answers: str | Path | None = None) -> None:
    """Checks the chain; and, given the answers, that each stands in the log with its hash, and none is missing.

    Raises LedgerInvalid in words.
    """
    _, lines = read_log(path)
    if answers is None:
        return
    logged = {line["id"]: line["answer_sha256"] for line in lines if line["answer_sha256"]}
    try:
        kept = [json.loads(line) for line in Path(answers).read_bytes().split(b"\n") if line.strip()]
        found = {answer["id"]: answer_digest(answer) for answer in kept}
    except OSError as error:
        raise LedgerInvalid(f"{answers} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise LedgerInvalid(f"{answers} does not hold answers of `wmark probe`") from None
    check_answers(path, logged, found)
    missing = sorted(set(logged) - set(found))
    if missing:
        raise LedgerInvalid(f"{answers} lacks the answer {missing[0]!r}, which the log {path} holds")


def check_answers(path: str | Path, logged: dict[str, str], found: dict[str, str]) -> None:
    """Every answer found (id -> digest) is the one logged. Raises LedgerInvalid."""
    for id, digest in found.items():
        if id not in logged:
            raise LedgerInvalid(f"the answer {id!r} has no line in the log {path}")
        if logged[id] != digest:
            raise LedgerInvalid(f"the answer {id!r} is not the one whose hash the log {path} holds; it was changed")


def answer_digest(answer: dict[str, Any]) -> str:
    """SHA-256 over canonical JSON of an answer's line, in hex."""
    return hashlib.sha256(canonical_json(answer)).hexdigest()


def was_watched(answers: str | Path) -> bool:
    """Whether an e-process watched these answers come in and could end the run: the log beside them says so, of a
    folder any log in it."""
    logs = [log_path(answers), *sorted(Path(answers).rglob("*.log.jsonl"))]
    return any(is_log(path) and bool(read_log(path)[0].get("watched")) for path in logs)


def is_log(path: str | Path) -> bool:
    """Whether a file starts like a query log."""
    return chain.starts_as(path, _KIND)


def _split(lines: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return next(lines), list(lines)


def _same(path: Path, header: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, wanted in settings.items():
        found = header.get(name)
        if found != wanted:
            raise LedgerInvalid(
                f"{path} belongs to a run with {name} {_short(found)}, this one {_short(wanted)}; nothing was written",
                hint="choose another --output, or ask as before",
            )


def _short(value: Any) -> str:
    return canonical_json(value).decode()[:200]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
