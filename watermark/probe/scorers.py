"""Suspects that score inputs: behind an HTTP address, in an ONNX file, or any Python callable. No pickle is opened."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from watermark.errors import ExtraMissing, OutputsInvalid, WatermarkError
from watermark.files import sha256_of
from watermark.probe.crew import Crew
from watermark.probe.pace import LONGEST_WAIT, Budget, Limits, retry_after
from watermark.probe.question import Attempt, Attempts, Outcome, Question, Reply
from watermark.probe.replies import error_text
from watermark.probe.score_replies import BadScores, Form, cleaned, kind_of
from watermark.probe.wire import NoResponse, Response, Wire, is_loopback
from watermark.scores.table import Table

_TRANSIENT = {408, 409, 425, 429}
_PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill")
_LATER = "run the same command again later; it goes on"
_FORMS = "say how with --body, --rows and --path; `wmark scores probe --help` has examples"


class Scorer(Protocol):
    """A suspect that scores. A question's prompt is the body of a request: rows as `form` writes them."""

    name: str
    returned: str | None
    form: Form

    def describe(self) -> dict[str, Any]: ...
    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Attempts: ...


def open_scorer(
    source: str,
    *,
    form: Form | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Scorer:
    """What `source` names: http(s)://… or a file .onnx.

    headers: for HTTP, {name: environment variable that holds the value}. form: see there; of an ONNX file its `path`
    names the output that is read. Raises OutputsInvalid; a pickled model is not opened.
    """
    if source.startswith(("http://", "https://")):
        return HttpScorer.open(source, form=form, headers=headers, timeout=timeout)
    if headers:
        raise OutputsInvalid(f"{source} is no address; headers are for those", hint="pass http(s)://host[:port]/path")
    suffix = Path(source).suffix.lower()
    if suffix in _PICKLES:
        raise OutputsInvalid(
            f"{source} is a pickle; opening one runs whatever code it holds, so it is not opened",
            hint="export the model to ONNX (skl2onnx), or load it yourself, from skops for instance, and pass its "
            "predict_proba to watermark.probe.scores.ask_scores",
        )
    if suffix == ".onnx":
        return OnnxScorer.open(source, output=form.path if form else "")
    raise OutputsInvalid(
        f"{source} is neither an address nor an ONNX file",
        hint="pass http(s)://host[:port]/path, or model.onnx; any other model can be asked from Python",
    )


@dataclass(frozen=True)
class _Door(Wire):
    """A way to one address, with headers of its own. headers: (name, value) pairs, never shown."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except OutputsInvalid as error:
            raise OutputsInvalid(str(error), hint="pass http(s)://host[:port]/path") from None
        if self.headers and self.base.startswith("http://") and not is_loopback(self.base):
            raise OutputsInvalid(
                "headers that may hold a secret would travel unencrypted; nothing was sent", hint="use https://"
            )

    def post(self, body: str) -> Response:
        """POSTs a body that is JSON already. Raises NoResponse; any status is a response."""
        headers = {"Accept": "application/json", "User-Agent": "wmark", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base, body.encode(), headers | dict(self.headers))
        try:
            return self._opened(request, time.monotonic() + self.timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._explained(error) from None

    def redacted(self, text: str) -> str:
        for _, value in self.headers:
            for secret in (value, *value.split()[1:]):
                text = text.replace(secret, "[header]") if len(secret) > 3 else text
        return super().redacted(text)


@dataclass
class HttpScorer:
    """Scores come over HTTP: one POST of JSON for each batch."""

    wire: _Door
    name: str
    form: Form = field(default_factory=Form)
    returned: str | None = None
    _kind: str = field(default="null", repr=False)
    _answered: bool = field(default=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(
        cls,
        address: str,
        *,
        form: Form | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> HttpScorer:
        """At http(s)://host[:port]/path. headers: {name: environment variable}. Raises OutputsInvalid."""
        held = tuple((name, _secret(name, variable)) for name, variable in (headers or {}).items())
        return cls(_Door(address, None, timeout, headers=held), address, form or Form())

    def describe(self) -> dict[str, Any]:
        form = {"body": self.form.field, "rows": self.form.layout, "path": self.form.path}
        names = [name for name, _ in self.wire.headers]
        return {"kind": "scoring endpoint", "address": self.wire.base, "headers": names} | form

    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Attempts:
        return Crew(self.attempt, questions, limits, budget)

    def attempt(self, question: Question, number: int) -> tuple[Attempt, float | None]:
        """One request; and, if the endpoint said so, seconds to wait before any further one."""
        sent = time.time()
        try:
            response = self.wire.post(question.prompt.text)
        except NoResponse as error:
            return Attempt(question, number, sent, time.time(), "retried", error=str(error)), None
        judged = self._judged(question, response)
        attempt = Attempt(
            question,
            number,
            sent,
            time.time(),
            judged.outcome,
            status=response.status,
            error=judged.error,
            hint=judged.hint,
            reply=judged.reply,
            response_sha256=hashlib.sha256(response.body).hexdigest(),
        )
        return attempt, judged.pause

    def _judged(self, question: Question, response: Response) -> _Judged:
        if response.status != 200:
            return self._failure(response)
        try:
            reply = json.loads(response.body)
        except ValueError:
            return _Judged("retried", "the reply is not JSON: " + self.wire.redacted(_start(response.body)))
        try:
            rows = self.form.scores(reply, rows_asked(question))
        except BadScores as error:
            return _Judged("fatal", self.wire.redacted(str(error)), _FORMS)
        with self._lock:
            wrong = changed(self._kind, rows)
            self._kind = self._kind if self._kind != "null" else kind_of(rows)
            self._answered = True
        if wrong:
            return _Judged("fatal", wrong, "answers kept so far are whole; is it one model?")
        return _Judged("answered", reply=reply_of(rows))

    def _failure(self, response: Response) -> _Judged:
        status = response.status
        said = self.wire.redacted(error_text(response.body)[0]) or "nothing"
        if 300 <= status < 400:
            to = self.wire.redacted(response.location or "another address")
            return _Judged("fatal", f"the endpoint redirects ({status}) to {to}", "pass the address that answers")
        if status in (401, 403):
            words = "name the variable that holds the key: --header-env Authorization=VARIABLE"
            return _Judged("fatal", f"the endpoint refuses access ({status}): {said}", words)
        if status in (404, 405):
            words = f"nothing takes POST at {self.wire.base} ({status}): {said}"
            return _Judged("fatal", words, "pass the whole address, with its path")
        if status == 413:
            return _Judged("fatal", f"the batch is too large for the endpoint (413): {said}", "use a smaller --batch")
        if status in _TRANSIENT or status >= 500:
            words = f"{'rate limit' if status == 429 else 'server error'} ({status}): {said}"
            pause = retry_after(response.retry_after)
            if pause is not None and pause > LONGEST_WAIT:
                return _Judged("fatal", f"{words}; it asks to wait {pause:,.0f} s", _LATER)
            return _Judged("retried", words, pause=pause)
        words = f"the endpoint does not take the inputs ({status}): {said}"
        return _Judged("refused" if self._answered else "fatal", words, _FORMS)


@dataclass(frozen=True)
class _Judged:
    """What a response means. pause: seconds that the endpoint asks for."""

    outcome: Outcome
    error: str | None = None
    hint: str | None = None
    reply: Reply | None = None
    pause: float | None = None


@dataclass
class CallableScorer:
    """Any Python function of a batch, in this process; one call at a time.

    function: takes an array (n, d), or a pandas frame where a column holds words; returns scores (n,) or (n, C), or
    labels. name: what the log calls it.
    """

    function: Callable[[Any], Any]
    name: str = "a function"
    returned: str | None = None
    form: Form = field(default_factory=lambda: Form("", "split", empty=""))
    _kind: str = field(default="null", repr=False)

    def describe(self) -> dict[str, Any]:
        return {"kind": "function", "name": self.name}

    def ask(self, questions: list[Question], limits: Limits, budget: Budget) -> Attempts:
        return Crew(self.attempt, questions, replace(limits, concurrency=1), budget)

    def attempt(self, question: Question, number: int) -> tuple[Attempt, float | None]:
        sent, hint = time.time(), None
        asked = table_asked(question)
        try:
            rows = cleaned(self.answers(asked), len(asked))
            wrong = changed(self._kind, rows)
        except BadScores as error:
            wrong = str(error)
        except WatermarkError as error:
            wrong, hint = str(error), error.hint or "name the columns that the suspect takes, in its order"
        except Exception as error:  # whatever the suspect raises
            wrong = f"the suspect raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if wrong:
            return Attempt(question, number, sent, time.time(), "fatal", error=wrong, hint=hint), None
        self._kind = self._kind if self._kind != "null" else kind_of(rows)
        reply = reply_of(rows)
        digest = hashlib.sha256(reply.text.encode()).hexdigest()
        attempt = Attempt(
            question, number, sent, time.time(), "answered", status=200, reply=reply, response_sha256=digest
        )
        return attempt, None

    def answers(self, asked: Table) -> Any:
        """What the suspect says to a batch."""
        if all(column.dtype.kind == "f" for column in asked.columns.values()):
            return self.function(asked.numbers(asked.names))
        try:
            import pandas
        except ImportError:
            raise ExtraMissing("pandas", "dev", "passing columns of words to a function") from None
        return self.function(pandas.DataFrame({n: _objects(column) for n, column in asked.columns.items()}))


@dataclass
class OnnxScorer(CallableScorer):
    """A model in an ONNX file, run by onnxruntime on the CPU. output: which of its outputs is read."""

    path: Path = Path()
    output: str = ""

    @classmethod
    def open(cls, path: str | Path, *, output: str = "") -> OnnxScorer:
        """output: by its name; the last one without (probabilities, in what skl2onnx writes). Raises OutputsInvalid."""
        path = Path(path)
        session = _session(path)
        outputs = [found.name for found in session.get_outputs()]
        if output and output not in outputs:
            raise OutputsInvalid(f"{path} has no output {output!r}", hint=f"--path is one of {', '.join(outputs)}")
        chosen = output or outputs[-1]
        return cls(_Fed(session, chosen), str(path), path=path, output=chosen)

    def describe(self) -> dict[str, Any]:
        return {"kind": "ONNX file", "file": self.path.name, "sha256": sha256_of(self.path), "output": self.output}

    def answers(self, asked: Table) -> Any:
        return self.function(asked)


@dataclass(frozen=True)
class _Fed:
    """An ONNX session as a function of a table: columns side by side in one input, or each in the input of its name."""

    session: Any
    output: str

    def __call__(self, asked: Table) -> Any:
        wanted = self.session.get_inputs()
        fixed = wanted[0].shape[0] if wanted[0].shape and isinstance(wanted[0].shape[0], int) else None
        parts = [asked] if fixed is None else _pieces(asked, fixed)
        found = [self._run(part, wanted) for part in parts]
        return [row for part in found for row in part][: len(asked)]

    def _run(self, asked: Table, wanted: list[Any]) -> list[Any]:
        if len(wanted) == 1 and (len(wanted[0].shape) == 2 or len(asked.names) > 1):
            fed = {wanted[0].name: _typed(asked.numbers(asked.names), wanted[0].type)}
        else:
            absent = [found.name for found in wanted if found.name not in asked.columns]
            if absent:
                raise BadScores(
                    f"the model takes inputs {', '.join(found.name for found in wanted)}; no column is called "
                    f"{absent[0]}"
                )
            fed = {
                found.name: _typed(asked.columns[found.name], found.type).reshape(-1, *[1] * (len(found.shape) - 1))
                for found in wanted
            }
        answered = self.session.run([self.output], fed)[0]
        return list(answered.tolist() if hasattr(answered, "tolist") else answered)


def rows_asked(question: Question) -> int:
    """How many inputs a question holds: its id is "rows A-B" or "check A-B, turn"."""
    first, last = question.id.split(",")[0].split()[1].split("-")
    return int(last) - int(first) + 1


def table_asked(question: Question) -> Table:
    """The inputs of a question whose prompt has the split layout."""
    held = json.loads(question.prompt.text)
    columns = zip(*held["data"], strict=True)
    return Table(dict(zip(held["columns"], (_column(list(column)) for column in columns), strict=True)))


def reply_of(rows: list[Any]) -> Reply:
    return Reply(json.dumps(rows, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def changed(before: str, rows: list[Any]) -> str | None:
    """What is wrong with rows after others of kind `before`, in words; None if they go together."""
    now = kind_of(rows)
    if now == "null":
        return "no answer of the batch is a finite number" if before == "null" else None
    return None if before in ("null", now) else f"the suspect's answers changed from {before} to {now}"


def _secret(name: str, variable: str) -> str:
    """The value of a header, from the environment. Raises OutputsInvalid without showing it."""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise OutputsInvalid(
            f"the environment variable {variable}, for the header {name}, is not set",
            hint=f"export {variable}=…; a bearer token is written 'Bearer …'",
        )
    if not (value + name).isascii() or not (value + name).isprintable() or ":" in name:
        raise OutputsInvalid(f"the header {name}, from {variable}, holds characters that no header may carry")
    return value


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ExtraMissing("onnxruntime", "onnx", "asking an ONNX file") from None
    if not path.is_file():
        raise OutputsInvalid(f"there is no file {path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, and its protobuf reader's
        raise OutputsInvalid(f"{path} is no ONNX model that can be run: {' '.join(str(error).split())[:200]}") from None


def _pieces(asked: Table, size: int) -> list[Table]:
    """Pieces of exactly `size` rows for a model of a fixed batch; the last is filled up with its last row."""
    count = math.ceil(len(asked) / size) * size
    rows = np.minimum(np.arange(count), len(asked) - 1)
    return [asked.rows(rows[start : start + size]) for start in range(0, count, size)]


def _typed(values: Any, kind: str) -> Any:
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64,
             "tensor(int32)": np.int32, "tensor(bool)": np.bool_}  # fmt: skip
    if kind == "tensor(string)":
        return np.asarray([_word(value) for value in values.ravel()], dtype=object).reshape(values.shape)
    if kind not in types:
        raise BadScores(f"the model takes {kind}, which this version does not write")
    if values.dtype.kind != "f":
        raise BadScores(f"the model takes numbers ({kind}) where a column holds words")
    if types[kind] not in (np.float32, np.float64) and np.isnan(values).any():
        raise BadScores(f"the model takes whole numbers ({kind}) where a column misses some")
    return np.ascontiguousarray(values.astype(types[kind]))


def _word(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    return "" if value != value else repr(int(value)) if float(value).is_integer() else repr(float(value))


def _objects(column: Any) -> Any:
    return column if column.dtype.kind == "f" else [str(value) or None for value in column]


def _column(values: list[Any]) -> Any:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _start(body: bytes) -> str:
    return body[:80].decode("utf-8", "replace")
