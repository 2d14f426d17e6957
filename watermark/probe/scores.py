"""Asking a scoring suspect: every input gets its answer, once, whatever happens; every request stands in a log.

Beside the table of answers stand the batches as they came (`.batches.jsonl`, the truth of the run: what it holds is not
asked again) and the query log (`.log.jsonl`), the same hash chain as for text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from watermark.errors import OutputsInvalid, RunInterrupted
from watermark.files import canonical_json
from watermark.outputs import Output
from watermark.probe.answers import AnswerFile, answer_file
from watermark.probe.log import QueryLog, log_path
from watermark.probe.pace import Limits
from watermark.probe.question import Draw, Question
from watermark.probe.run import Progress, Run
from watermark.probe.score_replies import Form, as_table, kind_of, plain_rows
from watermark.probe.scorers import CallableScorer, HttpScorer, OnnxScorer, Scorer, open_scorer
from watermark.prompts import Prompt
from watermark.scores.table import Table, table, write_table

__all__ = [
    "AskedScores",
    "CallableScorer",
    "Form",
    "HttpScorer",
    "OnnxScorer",
    "Scorer",
    "Twice",
    "ask_scores",
    "batches_path",
    "open_scorer",
]

Stop = Callable[[Table], int | None]
_DRAW = Draw(max_new_tokens=1, temperature=0.0)


@dataclass(frozen=True)
class Twice:
    """Inputs that were asked twice at the start. largest: difference of two numbers; changed: labels that differ."""

    asked: int
    largest: float
    changed: int

    @property
    def words(self) -> str:
        if not self.largest and not self.changed:
            return f"the first {self.asked} inputs were asked twice: the same answers"
        if self.changed:
            return f"{self.changed} of the first {self.asked} inputs got another label when asked again"
        return (
            f"the first {self.asked} inputs were asked twice: the largest difference is {self.largest:.2g}; noise in a "
            "suspect's answers costs power, not validity"
        )


@dataclass(frozen=True)
class AskedScores:
    """What a call did. ended: "all answered", "stopped early", "out of requests" or "some unanswered".

    wanted, answered: inputs; made: of them, in this call. absent: answered ones without any number. columns: of the
    answers. requests: over the whole run; left: in the budget. twice: None where nothing was asked twice.
    """

    ended: str
    suspect: str
    wanted: int
    answered: int
    made: int
    absent: int
    columns: list[str]
    kind: str
    requests: int
    left: int | None
    twice: Twice | None
    log_head: str

    def words(self) -> list[str]:
        """The same, as lines to be read."""
        budget = "" if self.left is None else f"; left in the budget: {self.left:,}"
        lines = [
            f"{self.ended}: {self.answered:,} of {self.wanted:,} inputs, {self.made:,} asked now, of {self.suspect}",
            f"spent {self.requests:,} requests{budget}",
        ]
        if self.twice is not None:
            lines.append(self.twice.words)
        if self.absent:
            lines.append(f"{self.absent:,} inputs got no finite number; they will be left out of a test")
        if self.kind == "classes by name":
            lines.append(f"the suspect names its classes: {', '.join(self.columns)}; a test takes the mark's order")
        if self.ended in ("some unanswered", "out of requests"):
            lines.append("run the same command again to go on where it was")
        return lines


@dataclass
class _Batches:
    """Questions over the rows of a table, and what came back. stopped_at: rows that the test was content with."""

    inputs: Table
    suspect: Scorer
    size: int
    classes: tuple[str, ...] = ()
    stop: Stop | None = None
    rows: dict[int, list[Any]] = field(default_factory=dict)
    stopped_at: int | None = None

    def __post_init__(self) -> None:
        self._plain = plain_rows(self.inputs, empty=self.suspect.form.empty)

    def questions(self) -> list[Question]:
        starts = range(0, len(self.inputs), self.size)
        return [self._question("rows", start, min(start + self.size, len(self.inputs))) for start in starts]

    def checks(self, count: int) -> list[Question]:
        """The first rows twice."""
        last = min(count, len(self.inputs))
        turns = ("once", "again") if last else ()
        return [self._question("check", 0, last, f", {turn}") for turn in turns]

    def watch(self, outputs: list[Output]) -> bool:
        """As `Run` wants it: takes new batches, and says whether the test is content with the rows from the first."""
        self.take({output.id: output.text or "" for output in outputs})
        if self.stop is not None and self.stopped_at is None and (found := self.from_the_first()):
            self.stopped_at = self.stop(as_table(found, classes=self.classes))
        return self.stopped_at is not None

    def take(self, texts: dict[str, str]) -> None:
        for id, text in texts.items():
            if id.startswith("rows "):
                self.rows[int(id.split()[1].split("-")[0]) - 1] = json.loads(text)

    def from_the_first(self) -> list[Any]:
        """Answers up to the first batch that is not there yet."""
        found: list[Any] = []
        while len(found) in self.rows:
            found += self.rows[len(found)]
        return found

    def table(self) -> Table:
        """A row of answers for each input, empty where there is none or the test needed none."""
        found: list[Any] = [None] * len(self.inputs)
        for start, rows in self.rows.items():
            found[start : start + len(rows)] = rows
        if self.stopped_at is not None:
            found[self.stopped_at :] = [None] * (len(found) - self.stopped_at)
        return as_table(found, classes=self.classes)

    def _question(self, word: str, start: int, end: int, turn: str = "") -> Question:
        text = self.suspect.form.body(self.inputs.names, self._plain[start:end])
        id = f"{word} {start + 1}-{end}{turn}"
        return Question(id, start // self.size, Prompt(id, text, ({"role": "user", "content": text},)), _DRAW)


def ask_scores(
    suspect: Scorer | Callable[[Any], Any],
    inputs: Any,
    output: str | Path,
    *,
    batch: int = 64,
    classes: tuple[str, ...] = (),
    limits: Limits | None = None,
    twice: int = 5,
    stop: Stop | None = None,
    plan: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> AskedScores:
    """Asks for a score of every row of `inputs` (see `scores.table`), those without one in `output` yet.

    suspect: from `open_scorer`, or any function of a batch, see `CallableScorer`. output: .csv or .parquet, one row for
    each input, empty where there is no answer; it is written however the run ends. batch: rows in one request.
    classes: order of the columns where the suspect names its classes. twice: so many inputs are asked twice first.
    stop: shown the answers so far, from the first input on; returns how many are enough, or None. plan: what
    `scoring.plan.before_asking_scores` says of the plan they are asked under, for the log's first line. Raises
    OutputsInvalid if the suspect cannot be asked (what came before is kept), LedgerInvalid if the log does not verify
    or belongs to another run, RunInterrupted on Ctrl-C.
    """
    output, limits, inputs = Path(output), limits or Limits(), table(inputs)
    asked = _scorer(suspect)
    if batch < 1 or not len(inputs):
        raise OutputsInvalid(f"{len(inputs)} inputs in batches of {batch}; needed is at least one of each")
    if output.suffix not in (".csv", ".parquet"):
        raise OutputsInvalid(f"answers are written to .csv or .parquet, found {output.name!r}")
    made = _Batches(inputs, asked, batch, classes, stop)
    with contextlib.closing(_log(output, made, plan)) as log, answer_file(batches_path(output)) as answers:
        watch = None if stop is None else made.watch
        run = Run(asked, log, answers, limits=limits, batch=1, stop=watch, progress=_by_rows(progress, made))
        try:
            ended = _ask(run, made, twice)
        except (OutputsInvalid, RunInterrupted) as error:
            raise _in_inputs(error, answers, made) from None
        finally:
            _export(answers, made, output)
        return _summary(run, made, ended)


def batches_path(output: str | Path) -> Path:
    """Where the batches stand as they came: beside the answers, `.batches.jsonl` added to their name."""
    output = Path(output)
    return output.with_name(output.name + ".batches.jsonl")


def _scorer(suspect: Scorer | Callable[[Any], Any]) -> Scorer:
    if isinstance(suspect, (HttpScorer, CallableScorer)):
        return suspect
    return suspect if hasattr(suspect, "describe") else CallableScorer(suspect)  # type: ignore[return-value]


def _in_inputs(
    error: OutputsInvalid | RunInterrupted, answers: AnswerFile, made: _Batches
) -> OutputsInvalid | RunInterrupted:
    """The same error, which counts what is kept in inputs, not in batches."""
    made.take(_texts(answers))
    kept = sum(map(len, made.rows.values()))
    if isinstance(error, RunInterrupted):
        return RunInterrupted(f"interrupted; the answers to {kept:,} inputs are kept", hint=error.hint)
    words, _, counted = str(error).rpartition("; ")
    if not (counted.endswith("answers are kept") or counted == "no answer was had"):
        return error
    said = f"the answers to {kept:,} inputs are kept" if kept else "no answer was had"
    return OutputsInvalid(f"{words}; {said}", hint=error.hint)


def _ask(run: Run, made: _Batches, twice: int) -> str:
    checks, questions = made.checks(twice), made.questions()
    run.answers.check([*checks, *questions])
    run.recall()
    with run.interruptible():
        ended = run.probe(checks) if checks else "all answered"
        return run.probe(questions) if ended == "all answered" else ended


def _log(output: Path, made: _Batches, plan: dict[str, Any] | None) -> QueryLog:
    """The log beside the answers; the first line says what was asked of whom."""
    path = log_path(output)
    if output.exists() and output.stat().st_size and not path.exists():
        raise OutputsInvalid(
            f"{output} exists, but no query log {path.name} beside it; nothing was written",
            hint="choose another --output",
        )
    digest = hashlib.sha256(canonical_json([made.inputs.names, plain_rows(made.inputs)])).hexdigest()
    settings = {
        "suspect": made.suspect.describe(),
        "inputs": {"rows": len(made.inputs), "columns": made.inputs.names, "sha256": digest},
        "batch": made.size,
        "watched": made.stop is not None,
        "plan": plan,
    }
    return QueryLog(path, settings)


def _texts(answers: AnswerFile) -> dict[str, str]:
    """What the file of batches holds, by id."""
    lines = answers.path.read_bytes().split(b"\n")[:-1]
    return {found["id"]: found["text"] for found in map(json.loads, lines)}


def _export(answers: AnswerFile, made: _Batches, output: Path) -> None:
    made.take(_texts(answers))
    if made.rows:
        write_table(made.table(), output)


def _summary(run: Run, made: _Batches, ended: str) -> AskedScores:
    texts = _texts(run.answers)
    rows = [row for start in sorted(made.rows) for row in made.rows[start]]
    counted = rows if made.stopped_at is None else made.from_the_first()[: made.stopped_at]
    now = sum(len(made.rows[start]) for start in made.rows) - _before(run, made)
    return AskedScores(
        ended=ended,
        suspect=made.suspect.name,
        wanted=len(made.inputs),
        answered=len(counted),
        made=now,
        absent=sum(_is_absent(row) for row in counted),
        columns=made.table().names if made.rows else [],
        kind=kind_of(rows),
        requests=run.log.requests,
        left=run.budget.left["requests"],
        twice=_twice(texts),
        log_head=run.log.head,
    )


def _before(run: Run, made: _Batches) -> int:
    """Inputs that had an answer before this call: `run.made` batches came now, the last ones of the file."""
    ids = list(run.answers.done)
    earlier = ids[: len(ids) - run.made]
    starts = [int(id.split()[1].split("-")[0]) - 1 for id in earlier if id.startswith("rows ")]
    return sum(len(made.rows[start]) for start in starts)


def _is_absent(row: Any) -> bool:
    parts = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
    return all(part is None for part in parts)


def _twice(texts: dict[str, str]) -> Twice | None:
    pair = [json.loads(texts[id]) for id in sorted(texts, reverse=True) if id.startswith("check ")]
    if len(pair) != 2:
        return None
    first, second = (as_table(rows) for rows in pair)
    largest, changed = 0.0, 0
    for name in first.names:
        if name not in second.columns:
            continue
        a, b = first.columns[name], second.columns[name]
        if a.dtype.kind == "f" and b.dtype.kind == "f":
            largest = max(largest, float(np.nan_to_num(np.abs(a - b)).max(initial=0.0)))
        else:
            changed = int((a != b).sum())
    return Twice(len(first), largest, changed)


def _by_rows(progress: Progress | None, made: _Batches) -> Progress | None:
    """Counts batches as the inputs they hold."""
    if progress is None:
        return None
    total = len(made.inputs)
    return lambda word, count: progress("inputs", min(count * made.size, total))
