"""wmark ledger: what was served, wherever it is kept: check it, look at it, copy it, make a filter of its windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, marks
from .options import JsonOut, Quiet

if TYPE_CHECKING:
    from watermark.ledger import Selection

app = typer.Typer(
    help="The ledger of served answers: JSON Lines, SQLite, PostgreSQL by its address, Parquet.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Where = Annotated[str, typer.Argument(help="The ledger: a file, or postgresql://…")]
Kid = Annotated[list[str] | None, typer.Option(help="Only answers under this key; may be repeated.")]
Account = Annotated[list[str] | None, typer.Option(help="Only this account's answers; may be repeated; needs --mark.")]
Epoch = Annotated[str, typer.Option(help="With --account: the period of the account's key.")]
Since = Annotated[str | None, typer.Option(help="Only answers from this time on: 2026-01-31 or 2026-01-31T09:30, UTC.")]
Until = Annotated[str | None, typer.Option(help="Only answers before this time.")]


@app.command()
def verify(
    ledger: Where,
    head: Annotated[str | None, typer.Option(help="A head hash noted earlier: it must still be there.")] = None,
    json: JsonOut = False,
) -> None:
    """Check every record and the chain; exit 3 if a record was changed, moved, added or taken out.

    Example: wmark ledger verify served.sqlite --head 8f0c…
    """
    from watermark.ledger import noted_head, overview, shown, unfinished

    found = overview(ledger)
    cut = unfinished(ledger)
    if cut:
        console.say(f"the last line, {cut} bytes, was never finished; it is no record")
    noted = None if head is None else noted_head(ledger, head)
    if json:
        stated = {"ledger": shown(ledger), "verified": True, "records": found.records, "head": found.head}
        console.emit(stated | ({} if noted is None else {"records_at_noted_head": noted}))
        return
    print(f"{found.records:,} records, chain unbroken, head {found.head if found.records else 'empty'}")
    if noted is not None:
        print(f"the noted head is that after {noted:,} records: nothing before it was cut or rewritten")


@app.command()
def show(
    ledger: Where,
    mark: Annotated[Path | None, typer.Option(help="The watermark file, for --account.")] = None,
    account: Account = None,
    epoch: Epoch = "",
    kid: Kid = None,
    since: Since = None,
    until: Until = None,
    json: JsonOut = False,
) -> None:
    """Say what a ledger or a filter holds: records, tokens, keys, times. Prompts and answers are not shown.

    Example: wmark ledger show served.sqlite --since 2026-01-01 --until 2026-02-01
    """
    from dataclasses import asdict

    from watermark.ledger import overview, shown
    from watermark.ledger.filters import WindowFilter, is_filter

    if is_filter(ledger):
        _show_filter(WindowFilter(ledger), json)
        return
    found = overview(ledger, _chosen(mark, account, epoch, kid, since, until))
    if json:
        console.emit({"ledger": shown(ledger)} | asdict(found))
        return
    print(f"kept in    {found.store}, {found.mode}, made {found.created}")
    print(f"records    {found.records:,}" + ("" if found.tokens is None else f", {found.tokens:,} tokens"))
    if found.records:
        print(f"served     {found.first} to {found.last}")
    for name, count in found.kids.items():
        print(f"key        {name or 'none: served without a mark'}: {count:,}")
    print(f"head       {found.head}")


@app.command()
def export(
    ledger: Where,
    output: Annotated[str, typer.Option(help="A new file: .jsonl, .parquet, else SQLite; or an empty database.")],
    quiet: Quiet = False,
    json: JsonOut = False,
) -> None:
    """Copy a ledger, record by record with the same hashes; a copy that was stopped goes on.

    Example: wmark ledger export postgresql:///served --output served.parquet
    """
    _copy(ledger, output, quiet=quiet, json=json)


@app.command("import")
def import_(
    source: Where,
    ledger: Annotated[str, typer.Option(help="Where the records go: new, or the beginning of the same ledger.")],
    quiet: Quiet = False,
    json: JsonOut = False,
) -> None:
    """Take a ledger over into another store, where it goes on; the hashes stay the same.

    Example: wmark ledger import ledger.jsonl --ledger served.sqlite
    """
    _copy(source, ledger, quiet=quiet, json=json)


@app.command("filter")
def filter_(
    ledger: Where,
    mark: Annotated[Path, typer.Option(help="The watermark file.")],
    output: Annotated[Path, typer.Option(help="A new file for the filter.")],
    account: Account = None,
    epoch: Epoch = "",
    kid: Kid = None,
    since: Since = None,
    until: Until = None,
    bits: Annotated[int, typer.Option(min=8, max=64, help="To a window; up to 32 take 4 bytes, more take 8.")] = 64,
    quiet: Quiet = False,
    json: JsonOut = False,
) -> None:
    """Write the served windows as a sorted file that `wmark detect --ledger FILTER` maps into memory.

    It holds windows alone, no answer and no prompt; whose and which is fixed here, before looking.

    Example: wmark ledger filter served.sqlite --mark ours.wmark --output served.filter
    Example: wmark ledger filter served.sqlite --mark ours.wmark --account acme --since 2026-01-01 --output acme.filter
    """
    from watermark.mark import Watermark
    from watermark.observe import filter_ledger

    show = console.progress(quiet=quiet)
    chosen = _chosen(mark, account, epoch, kid, since, until)
    made = filter_ledger(
        ledger, Watermark.load(mark), output, chosen=chosen, bits=bits, progress=lambda count: show("records", count)
    )
    console.clear()
    console.say(f"filter written to {output}")
    _show_filter(made, json)


def _show_filter(made: Any, json: bool) -> None:
    from dataclasses import asdict

    said = made.contents
    if json:
        console.emit(asdict(said) | {"false_positives": made.false_positives})
        return
    print(f"windows    {said.count:,} of {said.window} tokens, from {said.records:,} records")
    print(f"marks      {', '.join(said.kids)}")
    print(f"bits       {said.bits}: {made.false_positives:.2g} of other windows are taken for served")
    print(f"head       {said.head or 'no record'}")


def _copy(source: str, target: str, *, quiet: bool, json: bool) -> None:
    from watermark.ledger import copy_ledger, shown

    show = console.progress(quiet=quiet)
    added = copy_ledger(source, target, progress=lambda count: show("records", count))
    console.clear()
    console.say(f"{added:,} records copied to {shown(target)}")
    if json:
        console.emit({"added": added, "from": shown(source), "to": shown(target)})


def _chosen(
    mark: Path | None,
    account: list[str] | None,
    epoch: str,
    kid: list[str] | None,
    since: str | None,
    until: str | None,
) -> Selection:
    """Which records the options name."""
    from watermark.ledger import selection

    if (account and mark is None) or (epoch and not account):
        raise typer.BadParameter("--epoch needs --account, and --account needs --mark")
    kids = list(kid or [])
    if account and mark is not None:
        shared = marks.serving(mark)
        kids += [shared.account(name, epoch=epoch).key.kid for name in account]
    return selection(kids, since, until)
