"""Asking a suspect: every prompt gets its answers, once, whatever happens; every request stands in the log.

The answers file is the truth of a run: what it holds is not asked again. Ctrl-C waits for a line to be whole;
kill -9 at any moment loses at most what was in flight, which is asked again.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from watermark.errors import OutputsInvalid
from watermark.probe.answers import answer_file
from watermark.probe.log import QueryLog, log_path
from watermark.probe.pace import Limits
from watermark.probe.question import Draw, Question, Suspect
from watermark.probe.run import Progress, Run, Stop
from watermark.prompts import Prompt, read_prompts


@dataclass(frozen=True)
class Asked:
    """What a call did. ended: "all answered", "stopped early", "out of requests" or "out of tokens".

    answers: in the file now; made: of them, in this call. unanswered, refused: questions of this call that got no
    answer, after all retries or because the endpoint would not. empty, cut: answers without text, and those that
    reached the longest length. requests, tokens: over the whole run. left: what the budget still allows.
    fingerprints: distinct system fingerprints seen. consistency: None, or {"asked": n, "changed": m}.
    """

    ended: str
    wanted: int
    answers: int
    made: int
    unanswered: int
    refused: int
    empty: int
    cut: int
    requests: int
    tokens: int
    left: dict[str, int | None]
    model: str | None
    fingerprints: int
    consistency: dict[str, int] | None
    log_head: str

    def words(self) -> list[str]:
        """The same, as lines to be read."""
        left = [f"{count:,} {unit}" for unit, count in self.left.items() if count is not None]
        lines = [
            f"{self.ended}: {self.answers:,} of {self.wanted:,} answers, {self.made:,} made now, from {self.model}",
            f"spent {self.requests:,} requests, {self.tokens:,} tokens"
            + (f"; left in the budget: {', '.join(left)}" if left else ""),
        ]
        for count, what in (
            (self.unanswered, "questions got no answer; run the same command again to ask them again"),
            (self.refused, "prompts were refused"),
            (self.empty, "answers are empty"),
            (self.cut, "answers were cut at the longest length"),
        ):
            lines += [f"{count:,} {what}"] if count else []
        if self.fingerprints > 1:
            lines.append(f"{self.fingerprints} system fingerprints: the suspect changed during the run")
        if self.consistency is not None:
            asked, changed = self.consistency["asked"], self.consistency["changed"]
            lines.append(f"{changed} of {asked} prompts got another answer when asked again at temperature 0")
        return lines


def ask(
    suspect: Suspect,
    prompts: list[Prompt],
    output: str | Path,
    *,
    draw: Draw | None = None,
    samples: int = 1,
    limits: Limits | None = None,
    consistency: int = 0,
    batch: int = 16,
    stop: Stop | None = None,
    plan: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Asked:
    """Asks each prompt `samples` times, those without an answer in `output` yet; the log stands beside it.

    stop: called with the answers already there, then after every `batch` new ones with those; True ends the run.
    consistency: so many prompts are asked twice at temperature 0 in the end; their answers are only compared.
    plan: what `plan.before_asking` says of the plan that the questions are asked under; the log's first line keeps it.
    Raises OutputsInvalid if the suspect cannot be asked (what came before is kept), LedgerInvalid if the log does
    not verify or belongs to a run with other settings, RunInterrupted on Ctrl-C.
    """
    draw, limits, output = draw or Draw(), limits or Limits(), Path(output)
    questions = _questions(prompts, draw, samples)
    settings = {"suspect": suspect.describe(), "draw": asdict(draw), "watched": stop is not None, "plan": plan}
    with contextlib.closing(_fresh_log(output, settings)) as log, answer_file(output) as answers:
        run = Run(suspect, log, answers, limits=limits, batch=batch, stop=stop, progress=progress)
        answers.check(questions)
        run.recall()
        with run.interruptible():
            ended = run.probe(questions)
            if ended == "all answered" and consistency:
                ended = run.compare(prompts[:consistency], draw) or ended
        return _summary(run, ended, questions)


def _summary(run: Run, ended: str, questions: list[Question]) -> Asked:
    kept = [run.answers.done[question.id] for question in questions if question.id in run.answers.done]
    fingerprints = {line["system_fingerprint"] for line in run.log.lines} - {None}
    return Asked(
        ended=ended,
        wanted=len(questions),
        answers=len(kept),
        made=run.made,
        unanswered=run.unanswered,
        refused=run.refused,
        empty=sum(answer.empty for answer in kept),
        cut=sum(answer.cut for answer in kept),
        requests=run.log.requests,
        tokens=run.log.tokens,
        left=run.budget.left,
        model=run.suspect.returned or run.suspect.name,
        fingerprints=len(fingerprints),
        consistency=run.consistency,
        log_head=run.log.head,
    )


def open_suspect(
    source: str,
    *,
    model: str | None = None,
    api: str = "chat",
    key_env: str = "OPENAI_API_KEY",
    any_model: bool = False,
    timeout: float = 120.0,
) -> Suspect:
    """What `source` names: an address http(s)://…, or a model as `watermark.embed.answers.Model.load` takes it.

    The options are those of Endpoint.open; a model that is here has a name and an interface already.
    Raises OutputsInvalid.
    """
    if source.startswith(("http://", "https://")):
        from watermark.probe.endpoint import Endpoint

        return Endpoint.open(source, model=model, api=api, key_env=key_env, any_model=any_model, timeout=timeout)
    if model is not None or api != "chat" or any_model:
        raise OutputsInvalid(
            f"{source} is no address; --model, --api and --any-model are for those",
            hint="pass http(s)://host[:port]/v1",
        )
    from watermark.probe.local import LocalModel

    return LocalModel.open(source)


def default_prompts(source: str) -> list[Prompt]:
    """Unmarked prompts that ship with the package: stories for the demo's model, which knows nothing else."""
    here = Path(__file__).parent
    demo = here.parent / "demo"
    small = source == "demo" or Path(source).resolve() == (demo / "model").resolve()
    return read_prompts(demo / "prompts" / "probe.jsonl" if small else here / "prompts" / "default.jsonl")


def _questions(prompts: list[Prompt], draw: Draw, samples: int) -> list[Question]:
    """First sample of every prompt, then the second of every prompt: more of them extend a run."""
    made, total = [], len(prompts)
    for sample in range(samples):
        for place, prompt in enumerate(prompts):
            id, number = prompt.id if sample == 0 else f"{prompt.id}#{sample + 1}", sample * total + place
            made.append(Question(id, number, prompt, _seeded(draw, number)))
    if len({question.id for question in made}) < len(made):
        raise OutputsInvalid("two prompts would share an id once samples are numbered", hint="rename ids with '#'")
    return made


def _seeded(draw: Draw, number: int) -> Draw:
    return draw if draw.seed is None else replace(draw, seed=(draw.seed * 1_000_003 + number) % 2**31)


def _fresh_log(output: Path, settings: dict[str, Any]) -> QueryLog:
    path = log_path(output)
    if output.exists() and output.stat().st_size and not path.exists():
        raise OutputsInvalid(
            f"{output} exists, but no query log {path.name} beside it; nothing was written",
            hint="choose another --output",
        )
    return QueryLog(path, settings)
