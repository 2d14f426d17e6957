"""wmark prompts: prompts for `wmark probe` from one's own unmarked traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console


def prompts(
    traffic: Annotated[str, typer.Argument(help="A ledger, or answers or chat logs {messages} as JSON Lines.")],
    output: Annotated[Path, typer.Option(help="A new file for the prompts, {id, prompt} a line.")],
    count: Annotated[int | None, typer.Option(min=1, help="So many, drawn at random; by default all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    longest: Annotated[int, typer.Option(min=1, help="Leave out longer prompts, in characters.")] = 2000,
    skip_marked: Annotated[
        bool, typer.Option("--skip-marked", help="Leave out what was served under a mark, instead of refusing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Take prompts from unmarked traffic: what users asked, never an answer; without repeats.

    Example: wmark prompts ledger.jsonl --output ours.jsonl --count 500
    """
    from dataclasses import asdict

    from watermark.probe.traffic import gather_prompts

    done = gather_prompts(traffic, output, count=count, seed=seed, longest=longest, skip_marked=skip_marked)
    left = {name: n for name, n in asdict(done).items() if n and name not in ("read", "written")}
    console.say(f"{done.written:,} prompts written to {output}, from {done.read:,} records")
    if left:
        console.say("left out: " + ", ".join(f"{n:,} {name}" for name, n in left.items()))
    console.say("a probe sends them to the suspect: read them first, they are your users' words")
    if json:
        console.emit(asdict(done))
