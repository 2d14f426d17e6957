"""wmark scores probe: ask a scoring suspect, an address or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .options import (
    Authority,
    Concurrency,
    DepartingQuestions,
    JsonOut,
    MaxRequests,
    Quiet,
    Rate,
    Retries,
    StopAt,
    named,
)
from .score_options import Classes, Columns, listed

if TYPE_CHECKING:
    from watermark.scores.table import Table
    from watermark.scoring.watch import ScoreWatch


def probe(
    suspect: Annotated[str, typer.Argument(help="http(s)://host[:port]/path that takes POST, or model.onnx.")],
    inputs: Annotated[Path, typer.Option(help="What to ask: CSV, Parquet, or a ledger of scores.")],
    output: Annotated[
        Path, typer.Option(help="Answers go here, CSV or Parquet, a row for each input; an existing run goes on.")
    ],
    body: Annotated[str, typer.Option(help="Member of the JSON body that holds the rows; '' for none.")] = "inputs",
    rows: Annotated[str, typer.Option(help="How rows are written: lists, objects, or split (MLflow).")] = "lists",
    path: Annotated[
        str, typer.Option(help="Where the scores stand in the reply, e.g. predictions.*.scores; of ONNX, the output.")
    ] = "",
    columns: Columns = None,
    classes: Classes = None,
    header_env: Annotated[
        list[str] | None, typer.Option(help="HEADER=VARIABLE: a header whose value is in the environment; repeatable.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in one request.")] = 64,
    concurrency: Concurrency = 4,
    rate: Rate = None,
    retries: Retries = 5,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a reply.")] = 60.0,
    max_requests: MaxRequests = None,
    twice: Annotated[int, typer.Option(min=0, help="So many inputs are asked twice at the start.")] = 5,
    stop_at: StopAt = None,
    mark: Annotated[Path | None, typer.Option(help="The watermark file to watch for, with --stop-at.")] = None,
    clean: Annotated[Path | None, typer.Option(help="The owner's clean answers, with --stop-at.")] = None,
    surrogates: Annotated[
        Path | None, typer.Option(help="Surrogates' predictions, with --stop-at; see `wmark scores detect`.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The plan these inputs are asked under; the query log's first line names it.")
    ] = None,
    exploratory: DepartingQuestions = False,
    authority: Authority = None,
    json: JsonOut = False,
    quiet: Quiet = False,
) -> None:
    """Ask a suspect for its scores, keep them and a log of every request; a stopped run goes on.

    Example: wmark scores probe https://api.example.org/v1/score --inputs x.csv --output suspect.csv
    --body instances --path predictions --header-env Authorization=THEIR_TOKEN
    Example: wmark scores probe model.onnx --inputs x.csv --output suspect.csv
    """
    if len({stop_at is None, mark is None, clean is None}) > 1 or (surrogates is not None and mark is None):
        raise typer.BadParameter("--stop-at LEVEL, --mark FILE and --clean FILE go together, --surrogates with them")
    if stop_at is not None and not 0 < stop_at < 1:
        raise typer.BadParameter(f"--stop-at is a level between 0 and 1, found {stop_at}")
    if plan is None and (exploratory or authority):
        raise typer.BadParameter("--exploratory and --authority go with --plan")
    from dataclasses import asdict

    from watermark.probe import Limits
    from watermark.probe.scores import Form, ask_scores, open_scorer
    from watermark.scoring.ledger import is_score_ledger, served_inputs
    from watermark.scoring.tables import read_columns

    whole = served_inputs(inputs) if is_score_ledger(inputs) else read_columns(inputs)
    asked = _chosen(whole, listed(columns), inputs)
    watch = None if mark is None else watching(mark, whole, clean, surrogates, stop_at, listed(classes))
    said = None if plan is None else noted(plan, output, mark, stop_at, exploratory, authority or [])
    done = ask_scores(
        open_scorer(
            suspect,
            form=Form(body, rows, path),  # type: ignore[arg-type]
            headers=named(header_env or []),
            timeout=timeout,
        ),
        asked,
        output,
        batch=batch,
        classes=listed(classes),
        limits=Limits(concurrency, rate, retries, max_requests=max_requests),
        twice=twice,
        stop=watch,
        plan=said,
        progress=console.progress(len(asked), quiet=quiet),
    )
    console.clear()
    for line in done.words():
        console.say(line)
    if watch is not None:
        console.say(f"e-process: log10 E = {watch.log10_e:.2f}; test these answers with `--stopped`")
    console.say(f"answers in {output}, every request in {output.name}.log.jsonl")
    if json:
        console.emit(asdict(done) | ({} if watch is None else {"log10_e": watch.log10_e}))
    if done.ended == "some unanswered":
        raise typer.Exit(1)


def noted(
    plan: Path, output: Path, mark: Path | None, stop_at: float | None, exploratory: bool, authorities: list[Path]
) -> dict[str, Any]:
    """What the query log says of the plan."""
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.plan import before_asking_scores, read_score_dated

    used = None if mark is None else ScoreWatermark.load(mark)
    dated = read_score_dated(plan, authorities=authorities)
    return before_asking_scores(dated, output=output, mark=used, stop_at=stop_at, exploratory=exploratory)


def watching(
    mark: Path,
    inputs: Table,
    clean: Path | None,
    surrogates: Path | None,
    level: float | None,
    classes: tuple[str, ...],
) -> ScoreWatch:
    """The e-process that ends the run once it has seen enough."""
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.tables import answers_of, predictions_of, read_columns
    from watermark.scoring.watch import ScoreWatch

    used = ScoreWatermark.load(mark)
    return ScoreWatch(
        used,
        inputs,
        answers_of(read_columns(str(clean))),
        alpha=level or 0.0,
        surrogates=None if surrogates is None else predictions_of(read_columns(surrogates), used.scheme),
        labels=classes,
    )


def _chosen(whole: Table, columns: tuple[str, ...], path: Path) -> Table:
    """The columns that the suspect is shown."""
    from watermark.errors import ProfileMismatch
    from watermark.scores.table import Table

    absent = [name for name in columns if name not in whole.columns]
    if absent:
        raise ProfileMismatch(
            f"{path} has no column {', '.join(absent)}", hint=f"its columns are {', '.join(whole.names)}"
        )
    return Table({name: whole.columns[name] for name in columns}) if columns else whole
