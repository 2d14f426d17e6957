"""wmark demo: a teacher, a thief, an honest student, and what the test says of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console
from .options import Quiet

SHARES = (5, 20, 100)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    share: Annotated[
        int, typer.Option(help="Marked share of the thief's training data, in per cent: 5, 20 or 100.")
    ] = 100,
    model: Annotated[str, typer.Option(help="The teacher: 'demo', a model folder or a .gguf file.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Play the whole story: serve marked answers, train a thief on them and an honest student not, test both.

    Example: wmark demo --share 100
    """
    if share not in SHARES:
        raise typer.BadParameter(f"--share should be 5, 20 or 100, found {share}")
    from watermark.demo.story import play, table

    told = play(output, share=share, model=model, seed=seed, say=(lambda line: None) if quiet else console.say)
    if json:
        console.emit(told)
    else:
        print(table(told))
