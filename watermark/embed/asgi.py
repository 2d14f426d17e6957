"""Score marks in a JSON API: ASGI middleware that rewrites the scores of an answer on its way out.

    app.add_middleware(ScoreMarking, mark=mark, paths=["/score"], inputs="rows", answers="probabilities")

An answer that cannot be marked does not leave: the client gets a 500, the log says why. Added before compression, so
that it sees plain JSON; marking runs in the event loop, some 20 microseconds a row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import numpy as np

from watermark.embed.calls import ScoreMark
from watermark.errors import EmbeddingRefused, OutputsInvalid, WatermarkError
from watermark.scores import perturb

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

METHODS = ("POST", "PUT", "PATCH")
_ACCOUNTS = 1024  # whose marks are kept ready
_STALE = {b"content-length", b"etag", b"content-md5", b"digest", b"content-digest"}
_WITHHELD = b'{"error":"the answer could not be marked and was withheld"}'
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What an `account` function sees: the path, headers by lower-case name, and the body as parsed."""

    path: str
    headers: dict[str, str]
    body: Any


class ScoreMarking:
    """Middleware around `app` that marks the scores in its JSON answers to POST, PUT and PATCH.

    paths: exact ones or patterns ("/models/*/score"). inputs: where the input rows are in the request: a dotted name
    ("data.rows", "" for the whole body) or a function of the body; rows are lists of numbers, objects by column name,
    an object of columns, or one row alone. answers: where the scores are in the response, a dotted name that reaches
    into each element of a list ("results.score"); a number, a list of K, or an object by class name for each row.
    classes: the classes' names in the mark's order, for such objects; under a mark of labels, what is answered.
    account: from a Request, whose mark serves it, None for the deployment's. digits, top: rounding and truncation,
    after the mark; the app itself must answer in full. Other paths, methods, errors and non-JSON pass untouched.
    Raises EmbeddingRefused for options that do not fit the mark.
    """

    def __init__(
        self,
        app: App,
        mark: ScoreMark,
        *,
        paths: Sequence[str],
        inputs: str | Callable[[Any], Any],
        answers: str,
        classes: Sequence[str] | None = None,
        account: Callable[[Request], str | None] | None = None,
        digits: int | None = None,
        top: int | None = None,
    ) -> None:
        if isinstance(paths, str) or not paths:
            raise ValueError("paths is a list of one path or more, such as ['/score']")
        if account is not None and not hasattr(mark, "account"):
            raise EmbeddingRefused("this mark has no accounts", hint="pass a ScoreWatermark with a share for accounts")
        _check(mark, classes, digits, top)
        self.app, self.paths, self.inputs, self.account = app, tuple(paths), inputs, account
        self._mark, self._places = mark, [name for name in answers.split(".") if name]
        self._classes, self._digits, self._top = None if classes is None else tuple(classes), digits, top
        self._of_account = lru_cache(_ACCOUNTS)(lambda name: mark.account(name))  # type: ignore[attr-defined]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in METHODS or not self._serves(scope["path"]):
            await self.app(scope, receive, send)
            return
        body, replay = await _read(receive)
        answer = _Held(send, lambda found: self._rewritten(scope, body, found))
        await self.app(scope, replay, answer)

    def _serves(self, path: str) -> bool:
        plain = path.rstrip("/") or "/"
        return any(fnmatchcase(plain, pattern.rstrip("/") or "/") for pattern in self.paths)

    def _rewritten(self, scope: MutableMapping[str, Any], asked: bytes, found: bytes) -> bytes | None:
        """The marked body, or None where that fails, whatever the reason; the log has it."""
        try:
            if not found:
                raise OutputsInvalid("its body is compressed, empty or a file; add the middleware before compression")
            return self._marked(scope, json.loads(asked), json.loads(found))
        except WatermarkError as error:
            _log.error("answer on %s withheld: %s", scope["path"], error)
        except (ValueError, RecursionError) as error:
            _log.error("answer on %s withheld, request or response is not as described: %s", scope["path"], error)
        except Exception:
            _log.exception("answer on %s withheld", scope["path"])
        return None

    def _marked(self, scope: MutableMapping[str, Any], asked: Any, answered: Any) -> bytes:
        inputs = self.inputs(asked) if callable(self.inputs) else _at(asked, [n for n in self.inputs.split(".") if n])
        rows, alone = _rows(inputs)
        places = _at(answered, self._places)
        clean = _vectors([places] if alone and not _nested(places) else places, self._classes)
        where = clean if self._mark.scheme.output == "embeddings" else rows
        moved = self._cut(self._mark_for(scope, asked).tilt(clean, where))
        scores = self._named(moved, places, alone and not _nested(places))
        whole = _put(answered, self._places, scores)
        return json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    def _mark_for(self, scope: MutableMapping[str, Any], asked: Any) -> ScoreMark:
        if self.account is None:
            return self._mark
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        name = self.account(Request(scope["path"], headers, asked))
        return self._mark if name is None else self._of_account(name)

    def _cut(self, moved: np.ndarray) -> np.ndarray:
        """Truncated and rounded, after the mark."""
        output = self._mark.scheme.output
        if output == "labels":
            return moved
        if self._top is not None:
            moved = perturb.truncated(moved, self._top)
        if self._digits is None:
            return moved
        return perturb.rounded(moved, self._digits) if output == "probabilities" else np.round(moved, self._digits)

    def _named(self, moved: np.ndarray, places: Any, alone: bool) -> Any:
        """Scores in the response's own shape."""
        if self._mark.scheme.output == "labels":
            labels = [int(label) for label in moved]
            found: list[Any] = labels if self._classes is None else [self._classes[label] for label in labels]
        else:
            found = moved.tolist()
            rows = [places] if alone else places
            found = [
                {name: score[self._classes.index(name)] for name in row}
                if isinstance(row, dict) and self._classes is not None
                else score
                for row, score in zip(rows, found, strict=True)
            ]
        return found[0] if alone else found


class _Held:
    """A `send` that holds back a JSON answer until it is whole, and sends what `rewrite` makes of it."""

    def __init__(self, send: Send, rewrite: Callable[[bytes], bytes | None]) -> None:
        self._send, self._rewrite = send, rewrite
        self._start: Message | None = None
        self._body, self._done = bytearray(), False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._start = message
            return
        if self._start is None or message["type"] == "http.response.debug":
            await self._send(message)
            return
        if self._done:
            return
        if message["type"] != "http.response.body":
            await self._finish(self._rewrite(b""))
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            plain = _header(self._start, b"content-encoding") in (b"", b"identity")
            await self._finish(self._rewrite(bytes(self._body) if plain else b""))

    async def _finish(self, body: bytes | None) -> None:
        assert self._start is not None
        self._done = True
        kept = [(name, value) for name, value in self._start.get("headers", []) if name.lower() not in _STALE]
        start = dict(self._start)
        if body is None:
            body, start["status"] = _WITHHELD, 500
            kept = [pair for pair in kept if pair[0].lower() not in (b"content-encoding", b"content-type")]
            kept.append((b"content-type", b"application/json"))
        start["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        start.pop("trailers", None)
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _check(mark: ScoreMark, classes: Sequence[str] | None, digits: int | None, top: int | None) -> None:
    scheme = mark.scheme
    if classes is not None and (len(classes) != scheme.channels or len(set(classes)) != len(classes)):
        raise EmbeddingRefused(f"{len(classes)} names of classes, needed are {scheme.channels} different ones")
    if digits is not None and not 1 <= digits <= 15:
        raise EmbeddingRefused(f"digits must be between 1 and 15, found {digits}")
    if top is not None and (scheme.output != "probabilities" or not 1 <= top < scheme.channels > 2):
        raise EmbeddingRefused(
            f"top={top} does not fit a mark of {scheme.channels} {scheme.output}; needed are fewer, of three or more"
        )


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """The request's whole body, and a `receive` that tells the app the same messages again."""
    messages: list[Message] = []
    while not messages or (messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False)):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.request")

    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    return body, replay


def _is_json(start: Message) -> bool:
    """Whether a response is one to mark: JSON, and a success."""
    kind = _header(start, b"content-type").partition(b";")[0].strip()
    return 200 <= int(start["status"]) < 300 and (kind == b"application/json" or kind.endswith(b"+json"))


def _header(start: Message, wanted: bytes) -> bytes:
    """A header's value in lower case, empty if there is none."""
    return next((bytes(value).lower() for name, value in start.get("headers", []) if name.lower() == wanted), b"")


def _at(value: Any, names: Sequence[str]) -> Any:
    """What stands under dotted names; of a list, what stands there in each element."""
    if not names:
        return value
    if isinstance(value, list):
        return [_at(one, names) for one in value]
    if not isinstance(value, dict) or names[0] not in value:
        raise OutputsInvalid(f"there is no field {names[0]!r} where the scores or the inputs should be")
    return _at(value[names[0]], names[1:])


def _put(value: Any, names: Sequence[str], new: Any) -> Any:
    """The same value with `new` under the names; a copy where it changes."""
    if not names:
        return new
    if isinstance(value, list):
        return [_put(one, names, part) for one, part in zip(value, new, strict=True)]
    return value | {names[0]: _put(value[names[0]], names[1:], new)}


def _rows(inputs: Any) -> tuple[Any, bool]:
    """Inputs as `scores.table` reads them, and whether they are one row alone."""
    if isinstance(inputs, np.ndarray) or hasattr(inputs, "columns"):
        return inputs, False
    if isinstance(inputs, dict):
        alone = not any(isinstance(column, list) for column in inputs.values())
        return ({name: [value] for name, value in inputs.items()} if alone else inputs), alone
    if not isinstance(inputs, list) or not inputs:
        raise OutputsInvalid("the request holds no input rows: needed is a list of rows, or an object")
    if not isinstance(inputs[0], list | dict):
        return _array([inputs]), True
    if isinstance(inputs[0], list):
        return _array(inputs), False
    names = inputs[0].keys()
    for number, row in enumerate(inputs):
        if not isinstance(row, dict) or row.keys() != names:
            raise OutputsInvalid(f"input row {number + 1} has other columns than the first; a missing value is null")
    return {name: [row[name] for row in inputs] for name in names}, False


def _array(rows: list[list[Any]]) -> Any:
    """Lists as an array of numbers where they are, null being missing; else of whatever they hold."""
    if any(not isinstance(row, list) or len(row) != len(rows[0]) for row in rows):
        raise OutputsInvalid("the input rows are not lists of one length")
    numeric = all(value is None or isinstance(value, int | float) for row in rows for value in row)
    return np.array(rows, dtype=np.float64 if numeric else object)


def _nested(places: Any) -> bool:
    """Whether the answer to one row is itself a list of one row: [[0.2, 0.8]], [{"a": 0.2, "b": 0.8}], or [0.8]."""
    return isinstance(places, list) and (len(places) == 1 or isinstance(places[0], list | dict))


def _vectors(places: Any, classes: Sequence[str] | None) -> np.ndarray:
    """Scores (n,) or (n, K). Raises OutputsInvalid for anything else."""
    if not isinstance(places, list):
        raise OutputsInvalid(f"the scores are {type(places).__name__}, needed is one score or list for each input row")
    if any(isinstance(row, dict) for row in places):
        if classes is None:
            raise OutputsInvalid("the scores are objects by class; the middleware was not told the `classes`")
        if any(not isinstance(row, dict) or row.keys() != set(classes) for row in places):
            raise OutputsInvalid(f"the scores' classes are not {', '.join(classes)}")
        places = [[row[name] for name in classes] for row in places]
    flat = [value for row in places for value in (row if isinstance(row, list) else [row])]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in flat):
        raise OutputsInvalid("the scores are not numbers")
    try:
        return np.array(places, dtype=np.float64)
    except ValueError:
        raise OutputsInvalid("the scores' rows are not of one length") from None
