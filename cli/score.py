"""wmark score: read one shard of a suspect's outputs into a work folder, on whichever machine."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, marks
from .options import Fields, Quiet, Served, SkipBad, Tokenizer, named

if TYPE_CHECKING:
    from watermark.outputs import Outputs
    from watermark.scale import Scale

_MANY = 2 << 30  # bytes of outputs from which a work folder is worth a word


class Engine(enum.StrEnum):
    local = "local"
    ray = "ray"


def score(
    mark: Annotated[Path, typer.Option(help="The watermark file, or a key set.")],
    outputs: Annotated[
        str,
        typer.Argument(
            help="The suspect's outputs: JSON Lines (.gz, .zst), Parquet, a folder, or an address (s3://…)."
        ),
    ],
    work: Annotated[str, typer.Option(help="The work folder, or its address; all machines see the same one.")],
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n shards, from 1.")] = "1/1",
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    engine: Annotated[Engine, typer.Option(help="ray: the blocks go to a Ray cluster.")] = Engine.local,
    address: Annotated[str | None, typer.Option(help="The Ray cluster's address; else one is begun here.")] = None,
    tokenizer: Tokenizer = None,
    ledger: Served = None,
    skip_bad: SkipBad = False,
    field: Fields = None,
    quiet: Quiet = False,
) -> None:
    """Read one shard of a suspect's outputs into a work folder; when all are there, `wmark detect --work` reduces them.

    Shards may be read in any order, on any machines, and again: what is done stays done.

    Example: wmark score suspect.jsonl --mark ours.wmark --work case --shard 2/16
    """
    from watermark.scale import score as run

    used = marks.opened(mark)
    blocks = run(
        source_of(outputs, skip_bad=skip_bad, fields=named(field or [])),
        used,
        scale=scaled(work, workers, engine, address),  # type: ignore[arg-type]
        tokenizer=used.tokenizer(tokenizer),
        ledger=ledger,
        shard=parted(shard),
        progress=console.progress(quiet=quiet),
    )
    console.clear()
    console.say(f"shard {shard}: {blocks} blocks are in {work}; when all shards are, run `wmark detect --work {work}`")


def scaled(work: str | None, workers: int, engine: Engine, address: str | None) -> Scale | None:
    """The work folder and who works; None without one."""
    if work is None:
        if workers != 1 or engine != Engine.local or address is not None:
            raise typer.BadParameter("--workers, --engine and --address go with --work DIR")
        return None
    if address is not None and engine != Engine.ray:
        raise typer.BadParameter("--address is that of a Ray cluster: pass --engine ray too")
    from watermark.scale import Scale

    return Scale(work, workers=workers, engine=engine.value, address=address)


def source_of(outputs: str, *, skip_bad: bool, fields: dict[str, str]) -> Outputs:
    """The outputs, in a file, in a folder, or at an address."""
    from watermark.outputs import Outputs

    if "://" not in outputs:
        return Outputs(Path(outputs), skip_bad=skip_bad, fields=fields)
    from watermark.scale import Addressed

    return Addressed(outputs, skip_bad=skip_bad, fields=fields)  # type: ignore[arg-type]


def parted(shard: str) -> tuple[int, int]:
    """(i, n) of "i/n"."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", shard)
    if found is None or int(found[1]) > int(found[2]):
        raise typer.BadParameter(f"--shard should read i/n with i from 1 to n, found {shard!r}")
    return int(found[1]), int(found[2])


def advise(outputs: Path) -> None:
    """One sentence where outputs are large and would be read in memory."""
    files: Any = outputs.rglob("*") if outputs.is_dir() else [outputs]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size >= _MANY:
        console.say(
            f"{outputs} holds {size / 2**30:.1f} GiB: with --work DIR it is read in bounded memory, by --workers N "
            "processes, and a run that was stopped goes on; the evidence is the same"
        )
