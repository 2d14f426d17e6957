"""wmark generate: marked answers to a file of prompts, with a ledger."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from . import console, marks
from .options import Quiet


def generate(
    model: Annotated[
        str, typer.Argument(help="The model that answers: a folder, a .gguf file, a hub name, or 'demo'.")
    ],
    prompts: Annotated[Path, typer.Option(help="Prompts: JSON Lines {id?, prompt}, or .txt with one a line.")],
    output: Annotated[Path, typer.Option(help="Answers go here, one JSON line each; an existing run goes on.")],
    mark: Annotated[Path | None, typer.Option(help="The watermark file.")] = None,
    account: Annotated[str, typer.Option(help="Whom these answers are for, if the mark has accounts.")] = "",
    epoch: Annotated[str, typer.Option(help="With --account: the period of the account's key.")] = "",
    unmarked: Annotated[bool, typer.Option("--unmarked", help="Serve without a mark.")] = False,
    ledger: Annotated[
        str | None, typer.Option(help="Record what was served here: .jsonl, else SQLite; or postgresql://…")
    ] = None,
    hash_only: Annotated[bool, typer.Option("--hash-only", help="A new ledger keeps hashes, no text.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Answer prompts under a watermark, record them in a ledger, and go on where a stopped run was.

    Example: wmark generate demo --mark ours.wmark --prompts ask.jsonl --output answers.jsonl --ledger ledger.jsonl
    """
    if (mark is None) == (not unmarked):
        raise typer.BadParameter("pass either --mark FILE or --unmarked")
    if (epoch and not account) or (account and mark is None):
        raise typer.BadParameter("--epoch needs --account, and --account needs --mark")
    from watermark.ledger import Ledger
    from watermark.prompts import read_prompts

    asked = read_prompts(prompts)
    used = None if mark is None else marks.serving(mark)
    if used is not None and account:
        used = used.account(account, epoch=epoch)
    if used is not None and used.accounts is not None and used.shared is None:
        raise typer.BadParameter("this mark has accounts: say whom the answers are for, with --account NAME")
    with ExitStack() as stack:
        kept = None
        if ledger is not None:
            kept = stack.enter_context(Ledger(ledger, mode="hash-only" if hash_only else None))
        from watermark.embed.answers import Model, Sampling, write_answers

        made = write_answers(
            Model.load(model),
            asked,
            output,
            mark=used,
            ledger=kept,
            sampling=Sampling(max_new_tokens, temperature, top_k, top_p, batch, seed),
            progress=console.progress(len(asked), quiet=quiet),
        )
        head = kept.head if kept else None
    console.clear()
    summary = {"answers": len(asked), "made_now": made, "kid": used.key.kid if used else None, "ledger_head": head}
    console.say(
        f"{made:,} answers written to {output}" + (f", {len(asked) - made:,} were there" if made < len(asked) else "")
    )
    if json:
        console.emit(summary)
