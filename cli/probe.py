"""wmark probe: ask a suspect, a model folder or an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, marks
from .options import Authority, Concurrency, DepartingQuestions, MaxRequests, Quiet, Rate, Retries, StopAt

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.watch import Watch


def probe(
    suspect: Annotated[
        str, typer.Argument(help="http(s)://…/v1 of an OpenAI-compatible endpoint, or a model folder, or 'demo'.")
    ],
    output: Annotated[Path, typer.Option(help="Answers go here, the query log beside them; an existing run goes on.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts: JSON Lines {id?, prompt}, or .txt; by default ours.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for; by default the one that is listed.")] = None,
    api: Annotated[str, typer.Option(help="chat, or completions.")] = "chat",
    logprobs: Annotated[int, typer.Option(min=0, max=20, help="So many top log-probabilities a token.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    concurrency: Concurrency = 4,
    rate: Rate = None,
    retries: Retries = 5,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 120.0,
    max_requests: MaxRequests = None,
    max_tokens_total: Annotated[int | None, typer.Option(min=1, help="Budget in tokens, prompts counted.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1.0)] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Send seeds made from this one.")] = None,
    consistency: Annotated[int, typer.Option(min=0, help="Ask so many prompts twice at temperature 0, last.")] = 0,
    any_model: Annotated[bool, typer.Option("--any-model", help="Accept answers under another model's name.")] = False,
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    stop_at: StopAt = None,
    mark: Annotated[
        Path | None, typer.Option(help="The watermark file to watch for, with --stop-at; or a key set, with --plan.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="A model to subtract while watching.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan these questions are asked under; the query log's first line names it.")
    ] = None,
    exploratory: DepartingQuestions = False,
    authority: Authority = None,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Ask a suspect our prompts, keep its answers and a log of every request; a stopped run goes on.

    Example: wmark probe http://localhost:8000/v1 --output suspect.jsonl --max-requests 500
    Example: wmark probe http://localhost:8000/v1 --plan plan.json --prompts probes.jsonl --output suspect.jsonl
    """
    if api not in ("chat", "completions"):
        raise typer.BadParameter("--api is chat or completions")
    if (stop_at is None) != (mark is None) or (reference is not None and mark is None):
        raise typer.BadParameter("--stop-at LEVEL and --mark FILE go together, and --reference goes with them")
    if stop_at is not None and not 0 < stop_at < 1:
        raise typer.BadParameter(f"--stop-at is a level between 0 and 1, found {stop_at}")
    if plan is None and (exploratory or authority):
        raise typer.BadParameter("--exploratory and --authority go with --plan")
    from dataclasses import asdict

    from watermark.probe import Draw, Limits, ask, default_prompts, open_suspect
    from watermark.prompts import read_prompts

    asked = read_prompts(prompts) if prompts else default_prompts(suspect)
    dated = None if plan is None else marks.planned(plan, authority)
    used = None if mark is None else marks.one(mark, dated)
    said = None
    if dated is not None:
        from watermark.plan import before_asking

        said = before_asking(
            dated,
            prompts=asked,
            output=output,
            samples=samples,
            logprobs=logprobs > 0,
            mark=used,
            stop_at=stop_at,
            exploratory=exploratory,
        )
    done = ask(
        open_suspect(suspect, model=model, api=api, key_env=api_key_env, any_model=any_model, timeout=timeout),
        asked,
        output,
        draw=Draw(max_new_tokens, temperature, top_p, seed, logprobs),
        samples=samples,
        limits=Limits(concurrency, rate, retries, max_requests=max_requests, max_tokens=max_tokens_total),
        consistency=consistency,
        stop=None if stop_at is None or used is None else watch(used, stop_at, logprobs > 0, reference),
        plan=said,
        progress=console.progress(len(asked) * samples, quiet=quiet),
    )
    console.clear()
    for line in done.words():
        console.say(line)
    console.say(f"answers in {output}, every request in {output.name}.log.jsonl")
    if json:
        console.emit(asdict(done))
    if done.ended == "some unanswered":
        raise typer.Exit(1)


def watch(mark: Watermark, level: float, logprobs: bool, reference: str | None) -> Watch:
    """The e-process that ends the run once it has seen enough."""
    from watermark.embed.answers import Model
    from watermark.watch import Watch

    tokenizer = mark.tokenizer()
    if tokenizer is None:
        raise typer.BadParameter(f"mark {mark.key.kid} is bound to no tokenizer, so that text cannot be watched for it")
    beside = None if reference is None else Model.load(reference)
    return Watch(mark, tokenizer, alpha=level, logprobs=logprobs, reference=beside)
