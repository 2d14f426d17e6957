"""wmark verify: recompute evidence, or check the chain of a ledger or a query log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console


def verify(
    subject: Annotated[Path, typer.Argument(help="An evidence file, a ledger, or a query log.")],
    outputs: Annotated[Path | None, typer.Option(help="The suspect's outputs that were tested.")] = None,
    mark: Annotated[Path | None, typer.Option(help="The watermark file: recomputes every count and decoy.")] = None,
    cells: Annotated[
        Path | None, typer.Option(help="What was read of the suspect (detect --cells): needs no model, and no key.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The teacher's tokenizer; by default where the mark was made.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="The ledger that filtered, if one did.")] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan that the evidence says it was made under.")] = None,
    report: Annotated[Path | None, typer.Option(help="The page that should hold this evidence.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Recompute everything that can be recomputed; exit 3 if anything does not hold.

    Example: wmark verify evidence.json --outputs suspect.jsonl --mark ours.wmark --report report.html
    Example: wmark verify evidence.json --cells cells.npz --mark ours.wmark
    """
    from watermark.ledger import is_ledger, read_ledger, unfinished
    from watermark.probe.log import is_log, read_log, verify_log

    left: list[str] = []
    if is_ledger(subject):
        records = list(read_ledger(subject))
        checks = [
            ("ledger", f"{len(records):,} records, chain unbroken, head {records[-1].hash if records else 'empty'}")
        ]
        if unfinished(subject):
            console.say(f"the last line, {unfinished(subject)} bytes, was never finished; it is no record")
    elif is_log(subject):
        verify_log(subject, answers=outputs)
        header, requests = read_log(subject)
        asked = (requests[-1] if requests else header)["hash"]
        checks = [("query log", f"{len(requests):,} requests, chain unbroken, head {asked}")]
        if outputs is not None:
            checks.append(("outputs", f"every answer of {outputs.name} is the one that was logged"))
    else:
        from watermark.mark import Watermark
        from watermark.report import taken_as_stated
        from watermark.report import verify as run

        used = None if mark is None else Watermark.load(mark)
        text = None if used is None or outputs is None else used.tokenizer(tokenizer)
        found = run(
            subject, outputs=outputs, mark=used, cells=cells, tokenizer=text, ledger=ledger, plan=plan, page=report
        )
        checks = [(check.name, check.detail) for check in found]
        left = taken_as_stated(subject, outputs=outputs, mark=used, cells=cells)
    if json:
        listed = [{"name": name, "detail": detail} for name, detail in checks]
        console.emit({"verified": True, "checks": listed, "taken_as_stated": left})
        return
    for number, (name, detail) in enumerate(checks, 1):
        print(f"{number}. {name}: {detail}")
    for sentence in left:
        console.say(sentence)
