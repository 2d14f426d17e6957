"""wmark verify: recompute evidence of text or of scores, or check the chain of a ledger or a query log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console, marks
from .options import Tokenizer


def verify(
    subject: Annotated[
        str, typer.Argument(help="An evidence file, an attribution, a bundle, a ledger, or a query log.")
    ],
    outputs: Annotated[Path | None, typer.Option(help="The suspect's outputs that were tested.")] = None,
    mark: Annotated[
        Path | None, typer.Option(help="The watermark file or the key set: recomputes every count and decoy.")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(help="What was read of the suspect (detect --cells): needs no model, and no key.")
    ] = None,
    case: Annotated[
        Path | None, typer.Option(help="Of scores: what was read (scores detect --case); needs no key.")
    ] = None,
    tokenizer: Tokenizer = None,
    ledger: Annotated[str | None, typer.Option(help="The ledger or filter that filtered, if one did.")] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan that the evidence says it was made under.")] = None,
    commitments: Annotated[
        Path | None, typer.Option(help="What was published of the keys: none may have been left out.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="The page that should hold this evidence.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Recompute everything that can be recomputed; exit 3 if anything does not hold.

    Example: wmark verify evidence.json --outputs suspect.jsonl --mark ours.wmark --report report.html
    Example: wmark verify evidence.json --cells cells.npz --mark ours.wmark
    Example: wmark verify score-evidence.json --case case.npz --mark ours.wmark
    Example: wmark verify CASE.bag --mark ours.wmark
    """
    from watermark.ledger import is_ledger

    left: list[str] = []
    path = Path(subject)
    _refuse_empty(path)
    if is_ledger(subject):
        checks = of_ledger(subject)
    elif (found := of_chain(path, outputs)) is not None:
        checks = found
    elif _is_bundle(path):
        if any(given is not None for given in (outputs, cells, case, ledger, plan, report)):
            raise typer.BadParameter(
                "a bundle holds what it is checked with; of options it takes --mark and --tokenizer"
            )
        checks = of_bundle(path, mark=mark, tokenizer=tokenizer)
    elif _is_attribution(path):
        if any(given is not None for given in (cells, case, ledger, plan)):
            raise typer.BadParameter("an attribution is recomputed from --outputs, --mark, --tokenizer and --report")
        checks = of_attribution(path, outputs=outputs, mark=mark, tokenizer=tokenizer, report=report)
    elif case is not None or _is_of_scores(path):
        if outputs is not None or cells is not None or tokenizer is not None or ledger is not None:
            raise typer.BadParameter("evidence of scores is recomputed from --case, --mark, --plan and --report alone")
        checks, left = of_scores(path, case=case, mark=mark, plan=plan, report=report)
    else:
        from watermark.report import taken_as_stated
        from watermark.report import verify as run

        used = None if mark is None else marks.opened(mark)
        text = None if used is None or outputs is None else used.tokenizer(tokenizer)
        done = run(
            path,
            outputs=outputs,
            mark=used,
            cells=cells,
            tokenizer=text,
            ledger=ledger,
            plan=plan,
            commitments=commitments,
            page=report,
        )
        checks = [(check.name, check.detail) for check in done]
        left = taken_as_stated(path, outputs=outputs, mark=used, cells=cells)
    if json:
        listed = [{"name": name, "detail": detail} for name, detail in checks]
        console.emit({"verified": True, "checks": listed, "taken_as_stated": left})
        return
    for number, (name, detail) in enumerate(checks, 1):
        print(f"{number}. {name}: {detail}")
    for sentence in left:
        console.say(sentence)


def _refuse_empty(subject: Path) -> None:
    """Raises ReportInvalid for a file without content: it could have been anything."""
    if subject.is_file() and not subject.stat().st_size:
        from watermark.errors import ReportInvalid

        raise ReportInvalid(
            f"{subject} is empty; there is nothing to verify",
            hint="pass evidence (`wmark detect --output`), an attribution, a bundle, a ledger, or a query log",
        )


def of_ledger(subject: str) -> list[tuple[str, str]]:
    """The checks of a ledger of answers. Nothing but its own room is loaded: a gateway asks this every minute."""
    from watermark.ledger import overview, unfinished

    found = overview(subject)
    if unfinished(subject):
        console.say(f"the last line, {unfinished(subject)} bytes, was never finished; it is no record")
    head = found.head if found.records else "empty"
    return [("ledger", f"{found.records:,} records, chain unbroken, head {head}")]


def of_chain(subject: Path, outputs: Path | None) -> list[tuple[str, str]] | None:
    """The checks of a query log or a ledger of scores; None if it is neither."""
    from watermark.ledger import unfinished
    from watermark.probe.log import is_log, read_log, verify_log
    from watermark.scoring.ledger import is_score_ledger, read_score_ledger

    if is_log(subject):
        verify_log(subject, answers=outputs)
        header, requests = read_log(subject)
        asked = (requests[-1] if requests else header)["hash"]
        checks = [("query log", f"{len(requests):,} requests, chain unbroken, head {asked}")]
        if outputs is not None:
            checks.append(("outputs", f"every answer of {outputs.name} is the one that was logged"))
        return checks
    if is_score_ledger(subject):
        kept = list(read_score_ledger(subject))
        rows, head = sum(record.rows for record in kept), kept[-1].hash if kept else "empty"
        if unfinished(subject):
            console.say(f"the last line, {unfinished(subject)} bytes, was never finished; it is no record")
        return [("ledger of scores", f"{len(kept):,} records of {rows:,} answers, chain unbroken, head {head}")]
    return None


def of_bundle(subject: Path, *, mark: Path | None, tokenizer: str | None) -> list[tuple[str, str]]:
    """The checks of a bundle."""
    from watermark.bundle import verify_bundle

    console.say("`wmark evidence verify` also checks who signed (--signer), and who stamped (--authority)")
    return [(check.name, check.detail) for check in verify_bundle(subject, mark=mark, tokenizer=tokenizer)]


def of_attribution(
    subject: Path, *, outputs: Path | None, mark: Path | None, tokenizer: str | None, report: Path | None
) -> list[tuple[str, str]]:
    """The checks of an attribution."""
    from watermark.mark import Watermark
    from watermark.report.attributed import verify_attribution

    opened = None if mark is None else Watermark.load(mark)
    named = verify_attribution(subject, outputs=outputs, mark=opened, tokenizer=tokenizer, page=report)
    return [(check.name, check.detail) for check in named]


def _is_bundle(subject: Path) -> bool:
    from watermark.bundle import is_bundle

    return is_bundle(subject)


def _is_attribution(subject: Path) -> bool:
    from watermark.attribute import FORMAT
    from watermark.scoring.tables import format_of

    return format_of(subject) == FORMAT


def _is_of_scores(subject: Path) -> bool:
    from watermark.scoring.evidence import SCORE_EVIDENCE
    from watermark.scoring.tables import format_of

    return format_of(subject) == SCORE_EVIDENCE


def of_scores(
    subject: Path, *, case: Path | None, mark: Path | None, plan: Path | None, report: Path | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """Evidence of scores: what was recomputed, and what is taken as stated."""
    from watermark.report.scores import scores_taken_as_stated, verify_scores
    from watermark.scoring.mark import ScoreWatermark

    used = None if mark is None else ScoreWatermark.load(mark)
    found = verify_scores(subject, case=case, mark=used, plan=plan, page=report)
    left = scores_taken_as_stated(subject, case=case, mark=used, plan=plan)
    return [(check.name, check.detail) for check in found], left
