"""wmark scores: watermarks of probabilities, values and embeddings; the same verbs as for text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, score_probe, score_tests
from .options import JsonOut, Quiet
from .score_options import Classes, Columns, Kind, OutputKind, listed, numbers, stages

if TYPE_CHECKING:
    from watermark.scoring.calibrate import ScoreCalibration
    from watermark.scoring.costs import Tuning
    from watermark.scoring.mark import ScoreWatermark

app = typer.Typer(
    name="scores",
    help="Watermark scores (probabilities, values, embeddings) and find out whether a suspect learned from them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def keygen(
    mark: Annotated[Path, typer.Argument(help="The watermark file to write (secret, mode 0600).")],
    reference: Annotated[
        Path | None,
        typer.Option(help="Inputs like those that will be served, CSV or Parquet; for embeddings, clean ones."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Clean answers to them: how many channels, and the scale of values.")
    ] = None,
    output: Annotated[OutputKind, typer.Option(help="What is answered.")] = OutputKind.probabilities,
    channels: Annotated[
        int, typer.Option("--channels", "--classes", min=1, help="Classes, values or dimensions, without --answers.")
    ] = 2,
    epsilon: Annotated[
        float, typer.Option(help="The most that a probability moves; in deviations for values, lengths for embeddings.")
    ] = 0.02,
    own: Annotated[float, typer.Option(help="Share of the mark that belongs to the single input.")] = 0.0,
    account: Annotated[float, typer.Option(help="Share of the mark that belongs to the account.")] = 0.0,
    size: Annotated[int | None, typer.Option(min=8, help="Functions in the basis; by default 200.")] = None,
    kind: Annotated[Kind, typer.Option(help="Of the basis: kernel, or additive for suspects made of trees.")] = (
        Kind.kernel
    ),
    columns: Columns = None,
    master: Annotated[Path | None, typer.Option("--from", help="Draw the key from this watermark file's key.")] = None,
    tenant: Annotated[str, typer.Option(help="With --from: the account the key is for.")] = "",
    epoch: Annotated[str, typer.Option(help="With --from: the period the key is for.")] = "",
    basis: Annotated[Path | None, typer.Option(help="Also write the public basis here.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Also write the public profile here.")] = None,
    json: JsonOut = False,
) -> None:
    """Make a watermark of scores: a basis fitted on reference inputs, and a new secret key.

    Example: wmark scores keygen ours.wmark --reference inputs.csv --answers clean.csv --basis basis.json
    """
    if (tenant or epoch) != "" and master is None:
        raise typer.BadParameter("--tenant and --epoch need --from, the watermark file to draw from")
    if master is not None and not (tenant or epoch):
        raise typer.BadParameter("--from needs --tenant or --epoch; without them the key would be the same")
    if reference is None and master is None:
        raise typer.BadParameter("pass --reference, inputs like those that will be served")
    if reference is not None and master is not None:
        raise typer.BadParameter("--from keeps the scheme and the basis of its mark; leave --reference out")
    from watermark.scoring.mark import save_basis, save_score_profile
    from watermark.scoring.tables import answers_of, read_columns

    _not_there(mark, basis, profile)
    if master is not None:
        made = drawn(master, tenant, epoch)
    else:
        made = _generated(
            read_columns(str(reference), listed(columns)),
            None if answers is None else answers_of(read_columns(answers)),
            {"output": output.value, "channels": channels, "epsilon": epsilon, "own": own, "account": account},
            {"kind": kind.value} | ({} if size is None else {"size": size}),
        )
    made.save(mark)
    if basis is not None:
        save_basis(made.basis, basis)
    if profile is not None:
        save_score_profile(made, profile)
    console.say(f"wrote {mark} (secret: keep it, back it up, show it to nobody)")
    console.say(f"commitment {made.key.commitment}, basis {made.basis.digest}")
    console.say("publish both now: they are what shows that key and basis came first")
    if json:
        console.emit(made.profile())
    else:
        print(made.key.kid)


@app.command()
def generate(
    mark: Annotated[Path, typer.Option(help="The watermark file.")],
    answers: Annotated[Path, typer.Option(help="Clean answers, CSV or Parquet, row by row with the inputs.")],
    output: Annotated[Path, typer.Option(help="Marked answers go here, CSV or Parquet; the columns keep their names.")],
    inputs: Annotated[
        Path | None, typer.Option(help="The inputs they answer; for embeddings the answers themselves by default.")
    ] = None,
    digits: Annotated[int | None, typer.Option(min=1, max=12, help="Round to so many digits, after marking.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Keep so many classes, the others become zero.")] = None,
    account: Annotated[str, typer.Option(help="Whom these answers are for, if the mark has a part for accounts.")] = "",
    epoch: Annotated[str, typer.Option(help="With --account: the period of the account's key.")] = "",
    ledger: Annotated[Path | None, typer.Option(help="Record what was served here.")] = None,
    hash_only: Annotated[bool, typer.Option("--hash-only", help="A new ledger keeps hashes, no rows.")] = False,
    json: JsonOut = False,
) -> None:
    """Mark a file of answers, and record what was served.

    Example: wmark scores generate --mark ours.wmark --inputs x.csv --answers clean.csv --output marked.csv --digits 2
    """
    if (epoch and not account) or (hash_only and ledger is None):
        raise typer.BadParameter("--epoch needs --account, and --hash-only needs --ledger")
    from watermark.scores.table import write_table
    from watermark.scoring.costs import cost
    from watermark.scoring.ledger import ScoreLedger
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.tables import answers_of, read_columns, served

    _writable(output)
    used = ScoreWatermark.load(mark)
    used = used.account(account, epoch=epoch) if account else used
    if used.scheme.account and used.shared is None:
        console.say("this mark has a part for accounts; without --account these answers will name nobody")
    clean = read_columns(answers)
    asked = score_tests.inputs_or(inputs, clean, used)
    marked = served(used, clean, asked, digits=digits, top=top)
    head = None
    if ledger is not None:
        with ScoreLedger(ledger, mode="hash-only" if hash_only else None) as kept:
            head = kept.append(asked, marked, kid=used.key.kid).hash
    write_table(marked, output)
    console.say(f"{len(marked):,} answers written to {output}")
    paid = None
    if top is None and used.scheme.output in ("probabilities", "values"):
        paid = cost(used.rows(answers_of(clean)), _wide(used, answers_of(marked)))
        flips = f", {paid.flips} answers changed their first class" if used.scheme.output == "probabilities" else ""
        console.say(f"moved by at most {paid.largest:.4g}{flips}")
    if json:
        moved = None if paid is None else asdict(paid)
        console.emit({"answers": len(marked), "kid": used.key.kid, "cost": moved, "ledger_head": head})


@app.command()
def tune(
    mark: Annotated[Path, typer.Option(help="The watermark file.")],
    answers: Annotated[Path, typer.Option(help="Clean answers, row by row with the inputs.")],
    inputs: Annotated[Path, typer.Option(help="The inputs they answer.")],
    truth: Annotated[Path | None, typer.Option(help="True classes, one column: for log loss, Brier and ECE.")] = None,
    epsilons: Annotated[str, typer.Option(help="Tried, separated by commas.")] = "0.005,0.01,0.02,0.05",
    classes: Classes = None,
    json: JsonOut = False,
) -> None:
    """What the mark would cost at each epsilon, before anything is served.

    Example: wmark scores tune --mark ours.wmark --inputs x.csv --answers clean.csv --truth y.csv
    """
    from watermark.scoring.costs import tune as run
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.tables import answers_of, read_columns, truth_of

    used = ScoreWatermark.load(mark)
    known = None if truth is None else truth_of(read_columns(truth), used.scheme, labels=listed(classes))
    found = run(
        used, read_columns(inputs), answers_of(read_columns(answers)), known, epsilons=numbers(epsilons, "--epsilons")
    )
    if json:
        console.emit(asdict(found))
    else:
        print(tuned(found))


@app.command()
def calibrate(
    inputs: Annotated[Path, typer.Option(help="The owner's own inputs, CSV or Parquet; 600 rows at least.")],
    answers: Annotated[Path, typer.Option(help="Its clean answers to them.")],
    output: Annotated[OutputKind, typer.Option(help="What is answered.")] = OutputKind.probabilities,
    truth: Annotated[Path | None, typer.Option(help="True classes, one column: for the cost.")] = None,
    epsilons: Annotated[str, typer.Option(help="Tried, separated by commas.")] = "0.01,0.02,0.05",
    sizes: Annotated[str, typer.Option(help="Sizes of the basis tried.")] = "64,200",
    kinds: Annotated[str, typer.Option(help="Kinds of the basis tried.")] = "kernel,additive",
    students: Annotated[str, typer.Option(help="Kinds of students: boosted, network, forest.")] = "boosted,network",
    keys: Annotated[int, typer.Option(min=1, help="Throw-away keys for each setting.")] = 2,
    alpha: Annotated[float, typer.Option(help="The level of the test.")] = 0.001,
    power: Annotated[float, typer.Option(help="With which probability copied answers should be found.")] = 0.9,
    work: Annotated[Path | None, typer.Option(help="Keep finished trials here; a stopped run goes on.")] = None,
    classes: Classes = None,
    columns: Columns = None,
    json: JsonOut = False,
    quiet: Quiet = False,
) -> None:
    """Play the other side on your own data: which basis and epsilon find a copy of how many answers.

    Example: wmark scores calibrate --inputs x.csv --answers clean.csv --work trials.jsonl
    """
    from watermark.scoring.calibrate import calibrate_scores
    from watermark.scoring.tables import answers_of, read_columns

    clean = answers_of(read_columns(answers))
    found = calibrate_scores(
        read_columns(inputs, listed(columns)),
        clean,
        output=output.value,
        epsilons=numbers(epsilons, "--epsilons"),
        sizes=[int(size) for size in numbers(sizes, "--sizes")],
        kinds=listed(kinds),
        students=listed(students),
        keys=keys,
        alpha=alpha,
        power=power,
        truth=None if truth is None else _true(truth, clean, listed(classes)),
        work=work,
        progress=stages(quiet=quiet),
    )
    console.clear()
    if json:
        console.emit(found.to_json())
    else:
        print(calibrated(found))


for command in (score_tests.plan, score_probe.probe, score_tests.detect, score_tests.attribute):
    app.command()(command)


def drawn(master: Path, tenant: str, epoch: str) -> ScoreWatermark:
    """The master's scheme and basis under a key drawn from its key: an account's, if the mark has a part for those."""
    from watermark.scoring.mark import ScoreWatermark

    found = ScoreWatermark.load(master)
    if tenant and (found.scheme.account or found.scheme.own):
        return found.account(tenant, epoch=epoch)
    return found.rekeyed(found.key.subkey(tenant=tenant, epoch=epoch))


def tuned(found: Tuning) -> str:
    """The table of `tune`."""
    lines = [f"{found.rows:,} answers"]
    if found.log_loss is not None and found.brier is not None and found.ece is not None:
        lines.append(
            f"unmarked      log loss {found.log_loss:.4f}, Brier {found.brier:.4f}, ECE {found.ece:.4f}; below, the "
            "change from that"
        )
    lines.append("epsilon       largest      rms   flips   log loss      Brier        ECE")
    for each in found.tuned:
        paid = each.cost
        losses = "".join(f"{_change(loss):>11}" for loss in (paid.log_loss, paid.brier, paid.ece))
        lines.append(f"{each.epsilon:<11g}{paid.largest:>10.4f}{paid.root_mean_square:>9.4f}{paid.flips:>8,}{losses}")
    return "\n".join(lines)


def calibrated(found: ScoreCalibration) -> str:
    """The settings that were tried, for their weakest student each, and the best."""
    lines = [
        f"level {found.alpha:g}, power {found.power:.0%}; each setting for the kind of student that carries least",
        "basis       size  epsilon   found from     log10 p   largest   flips",
    ]
    for choice in found.choices:
        least = "none tried" if choice.smallest is None else f"{choice.smallest:,}"
        lines.append(
            f"{choice.kind:<10}{choice.size:>6}{choice.epsilon:>9g}{least:>13}{choice.log10_p:>12.1f}"
            f"{choice.cost.largest:>10.4f}{choice.cost.flips:>8,}"
        )
    if found.best is None:
        lines.append(
            "none of these finds a student of all the answers that were tried; more answers or more epsilon may"
        )
    else:
        best = found.best
        lines.append(
            f"best          --kind {best.kind} --size {best.size} --epsilon {best.epsilon:g}: found from "
            f"{best.smallest:,} learned answers on"
        )
    return "\n".join(lines)


def _generated(reference: Any, answers: Any, scheme: dict[str, Any], basis: dict[str, Any]) -> ScoreWatermark:
    from watermark.scoring.mark import ScoreWatermark

    try:
        made = ScoreWatermark.generate(reference, answers=answers, **scheme, **basis)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if answers is not None:
        made.rows(answers)
    return made


def _true(path: Path, clean: Any, classes: tuple[str, ...]) -> Any:
    from watermark.scores.direction import Direction
    from watermark.scoring.tables import read_columns, truth_of

    return truth_of(read_columns(path), Direction(channels=2 if clean.ndim == 1 else clean.shape[1]), labels=classes)


def _wide(mark: ScoreWatermark, marked: Any) -> Any:
    """Served answers beside the clean ones: (n, channels), rounding left as it is."""
    import numpy as np

    if marked.ndim == 2:
        return marked
    binary = mark.scheme.output == "probabilities"
    return np.column_stack([1 - marked, marked]) if binary else marked[:, None]


def _change(value: float | None) -> str:
    return "-" if value is None else f"{value:+.5f}"


def _not_there(*paths: Path | None) -> None:
    """Nothing is written if one of the files is there already."""
    from watermark.errors import MarkInvalid

    for path in paths:
        if path is not None and path.exists():
            raise MarkInvalid(f"{path} exists; a watermark, its basis and its profile are never overwritten",
                              hint="choose another name")  # fmt: skip


def _writable(path: Path) -> None:
    from watermark.errors import OutputsInvalid

    if path.suffix not in (".csv", ".parquet"):
        raise OutputsInvalid(f"answers are written to .csv or .parquet, found {path.name!r}")
