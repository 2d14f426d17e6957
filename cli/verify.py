"""wmark verify: recompute evidence, or check a ledger's chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console


def verify(
    subject: Annotated[Path, typer.Argument(help="An evidence file, or a ledger.")],
    outputs: Annotated[Path | None, typer.Option(help="The suspect's outputs that were tested.")] = None,
    mark: Annotated[Path | None, typer.Option(help="The watermark file: recomputes every count and decoy.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The teacher's tokenizer; by default where the mark was made.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="The ledger that filtered, if one did.")] = None,
    report: Annotated[Path | None, typer.Option(help="The page that should hold this evidence.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Recompute everything that can be recomputed; exit 3 if anything does not hold.

    Example: wmark verify evidence.json --outputs suspect.jsonl --mark ours.wmark --report report.html
    """
    from watermark.ledger import is_ledger, read_ledger, unfinished

    if is_ledger(subject):
        records = list(read_ledger(subject))
        checks = [
            ("ledger", f"{len(records):,} records, chain unbroken, head {records[-1].hash if records else 'empty'}")
        ]
        if unfinished(subject):
            console.say(f"the last line, {unfinished(subject)} bytes, was never finished; it is no record")
    else:
        from watermark.mark import Watermark
        from watermark.report import verify as run

        used = None if mark is None else Watermark.load(mark)
        text = None if used is None or outputs is None else used.tokenizer(tokenizer)
        found = run(subject, outputs=outputs, mark=used, tokenizer=text, ledger=ledger, page=report)
        checks = [(check.name, check.detail) for check in found]
    if json:
        console.emit({"verified": True, "checks": [{"name": n, "detail": d} for n, d in checks]})
        return
    for number, (name, detail) in enumerate(checks, 1):
        print(f"{number}. {name}: {detail}")
    if mark is None and not is_ledger(subject):
        console.say("the counts themselves were taken as stated; --outputs and --mark recompute them")
