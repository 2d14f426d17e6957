"""wmark scores plan, detect, attribute: does a suspect carry our direction, and whose answers did it learn from?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .detect import Alternative
from .options import DepartingRun, HeldTo, JsonOut, Quiet, named
from .score_options import Classes, listed, stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores.direction import Direction
    from watermark.scores.table import Table
    from watermark.scoring.attribute import ScoreAttribution
    from watermark.scoring.evidence import ScoreEvidence
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.plan import ScorePlan

KINDS = "boosted,boosted,network,network,network"
Mark = Annotated[Path, typer.Option(help="The watermark file.")]
Clean = Annotated[Path, typer.Option(help="The owner's unmarked answers to the inputs.")]
Inputs = Annotated[
    Path | None,
    typer.Option(help="The inputs, CSV, Parquet or a ledger of scores; for embeddings the clean ones by default."),
]
Given = Annotated[
    Path | None,
    typer.Option(
        "--surrogates",
        help="Predictions of models that the owner trained on clean answers: columns surrogate by surrogate, each with "
        "its classes in the mark's order (of two classes the second may do).",
    ),
]
TrainOn = Annotated[
    Path | None, typer.Option(help="Train surrogates on these inputs: the owner's own, or logged ones.")
]
TrainAnswers = Annotated[Path | None, typer.Option(help="The owner's clean answers to --train-on.")]
Keep = Annotated[
    Path | None, typer.Option(help="Write the trained surrogates' predictions here, to be passed as --surrogates.")
]
Kinds = Annotated[
    str,
    typer.Option(
        "--train-kinds", help="Surrogates to train: boosted, network, forest or linear; of one kind, averaged."
    ),
]
Account = Annotated[str, typer.Option(help="Test this account's part of the mark.")]
Epoch = Annotated[str, typer.Option(help="With --account: the period of the account's key.")]


def detect(
    mark: Mark,
    answers: Annotated[Path, typer.Option(help="The suspect's answers: CSV or Parquet, row by row with the inputs.")],
    clean: Clean,
    inputs: Inputs = None,
    surrogates: Given = None,
    train_on: TrainOn = None,
    train_answers: TrainAnswers = None,
    train_kinds: Kinds = KINDS,
    keep_surrogates: Keep = None,
    control: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, another model's answers to the same inputs; may be repeated.")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="True classes, one column: for the mark's cost alone.")] = None,
    only_labels: Annotated[
        bool, typer.Option("--only-labels", help="Nobody was ever served more than labels; refused without dither.")
    ] = False,
    logged: Annotated[
        bool,
        typer.Option("--logged", help="The inputs were served (to --account): also test the part of single inputs."),
    ] = False,
    account: Account = "",
    epoch: Epoch = "",
    classes: Classes = None,
    alpha: Annotated[
        float | None, typer.Option(help="The level, chosen before looking; by default the plan's, else 0.001.")
    ] = None,
    alternative: Annotated[Alternative, typer.Option(help="Which way the suspect may lean.")] = Alternative.greater,
    decoys: Annotated[int, typer.Option(min=99, help="Decoy keys to rank among.")] = 999,
    stopped: Annotated[
        bool,
        typer.Option("--stopped", help="The answers were collected until the e-process was content: it alone decides."),
    ] = False,
    plan: HeldTo = None,
    exploratory: DepartingRun = False,
    case: Annotated[
        Path | None, typer.Option(help="Write what was read here, so that `wmark verify` can recompute it.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the evidence here, as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report page here, as HTML.")] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 10 if evidence was found, 20 if inconclusive.")
    ] = False,
    json: JsonOut = False,
    quiet: Quiet = False,
) -> None:
    """Test whether a suspect's scores carry our direction: exact, whatever the suspect is.

    Example: wmark scores detect --mark ours.wmark --inputs x.csv --answers suspect.csv --clean clean.csv
    Example: wmark scores detect --mark ours.wmark --inputs x.csv --answers suspect.csv --clean clean.csv
    --train-on own.csv --train-answers own-clean.csv --output evidence.json --case case.npz --report report.html
    """
    if alpha is not None and not 0 < alpha < 1:
        raise typer.BadParameter(f"--alpha must lie between 0 and 1, found {alpha}")
    if (exploratory and plan is None) or (epoch and not account):
        raise typer.BadParameter("--exploratory goes with --plan, and --epoch with --account")
    _check_training(surrogates, train_on, train_answers, keep_surrogates)
    from watermark.scoring.detect import detect_scores
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.plan import read_score_dated
    from watermark.scoring.tables import answered_rows, read_columns, truth_of

    fixed = None if plan is None else read_score_dated(plan)
    used, say, labels = ScoreWatermark.load(mark), stages(quiet=quiet), listed(classes)
    used = used.account(account, epoch=epoch) if account else used
    others = {name: Path(path) for name, path in named(control or []).items()}
    owner, said = read_columns(clean), read_columns(answers)
    asked = inputs_or(inputs, owner, used)
    owners = _predictions(used.scheme, asked, surrogates, train_on, train_answers, train_kinds, keep_surrogates, say)
    known = None if truth is None else truth_of(read_columns(truth), used.scheme, labels=labels)
    some = slice(answered_rows(said) if stopped else None)
    files = {"answers": answers, "clean": clean, "inputs": inputs, "surrogates": surrogates, "truth": truth}
    evidence = detect_scores(
        used,
        asked.rows(some),
        said.rows(some),
        owner.rows(some),
        surrogates=None if owners is None else owners[some],
        controls={name: read_columns(path).rows(some) for name, path in others.items()},
        labels=labels,
        truth=None if known is None else known[some],
        served="labels" if only_labels else "scores",
        logged=logged,
        alpha=alpha,
        alternative=alternative.value,
        decoys=decoys,
        stopped=stopped,
        plan=fixed,
        exploratory=exploratory,
        files={name: path for name, path in files.items() if path is not None}
        | {f"control {name}": path for name, path in others.items()},
        case=case,
        progress=say,
    )
    console.clear()
    if case is not None:
        console.say(f"what was read is in {case}: inputs and answers, no key")
    if output is not None:
        evidence.save(output)
        console.say(f"evidence written to {output}")
    if report is not None:
        from watermark.report import render

        render(evidence, report)
        console.say(f"report written to {report}")
    if json:
        console.emit(evidence.to_json())
    else:
        for note in evidence.notes:
            console.say(f"note: {note}")
        print(summary(evidence))
    if exit_code:
        raise typer.Exit({"evidence found": 10, "inconclusive": 20}.get(evidence.verdict, 0))


def plan(
    mark: Mark,
    clean: Clean,
    output: Annotated[Path, typer.Option(help="Write the plan here; it is not written over.")],
    inputs: Inputs = None,
    surrogates: Given = None,
    train_on: TrainOn = None,
    train_answers: TrainAnswers = None,
    train_kinds: Kinds = KINDS,
    keep_surrogates: Keep = None,
    logged: Annotated[bool, typer.Option("--logged", help="The inputs are ones that were served.")] = False,
    account: Account = "",
    epoch: Epoch = "",
    alpha: Annotated[float, typer.Option(help="The level, over all keys and suspects.")] = 0.001,
    keys: Annotated[int, typer.Option(min=1, help="Keys that will be tested.")] = 1,
    suspects: Annotated[int, typer.Option(min=1, help="Suspects that will be tested.")] = 1,
    alternative: Annotated[Alternative, typer.Option(help="Which way the suspect may lean.")] = Alternative.greater,
    stop_at: Annotated[str, typer.Option(help="none: ask all inputs; e-process: stop when it is content.")] = "none",
    cosine: Annotated[
        list[float] | None, typer.Option(help="Say how surely a cosine of this size would be found; may be repeated.")
    ] = None,
    json: JsonOut = False,
    quiet: Quiet = False,
) -> None:
    """Fix key, basis, inputs and clean answers before the suspect is asked; the evidence can be held to it.

    Example: wmark scores plan --mark ours.wmark --inputs x.csv --clean clean.csv --output plan.json
    """
    _check_training(surrogates, train_on, train_answers, keep_surrogates)
    if train_on is not None and keep_surrogates is None:
        raise typer.BadParameter(
            "a plan holds the surrogates' predictions by digest: keep them, --keep-surrogates FILE"
        )
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.plan import plan_scores
    from watermark.scoring.tables import read_columns

    used, say = ScoreWatermark.load(mark), stages(quiet=quiet)
    used = used.account(account, epoch=epoch) if account else used
    owner = read_columns(clean)
    asked = inputs_or(inputs, owner, used)
    made = plan_scores(
        used,
        asked,
        owner,
        surrogates=_predictions(
            used.scheme, asked, surrogates, train_on, train_answers, train_kinds, keep_surrogates, say
        ),
        logged=logged,
        alpha=alpha,
        keys=keys,
        suspects=suspects,
        alternative=alternative.value,
        stopping=stop_at,
    )
    console.clear()
    made.save(output)
    console.say(f"plan written to {output}, digest {made.digest}; its date is your word until it is stamped:")
    console.say(f"  wmark evidence timestamp {output} --authority ADDRESS    before anything is asked")
    if json:
        console.emit(made.to_json())
    else:
        print(planned(made, used, cosine or [0.2, 0.3, 0.5]))


def attribute(
    mark: Annotated[Path, typer.Option(help="The deployment's watermark file, with a part for accounts.")],
    answers: Annotated[Path, typer.Option(help="The suspect's answers, row by row with the inputs.")],
    clean: Clean,
    accounts: Annotated[Path, typer.Option(help="Account names, one a line.")],
    inputs: Inputs = None,
    surrogates: Given = None,
    train_on: TrainOn = None,
    train_answers: TrainAnswers = None,
    train_kinds: Kinds = KINDS,
    logged: Annotated[bool, typer.Option("--logged", help="The inputs are ones that the accounts were served.")] = (
        False
    ),
    epoch: Annotated[str, typer.Option(help="The period of the accounts' keys.")] = "",
    classes: Classes = None,
    alpha: Annotated[float, typer.Option(help="Chance of naming any account that is innocent, over all.")] = 0.01,
    output: Annotated[Path | None, typer.Option(help="Write the attribution here, as JSON.")] = None,
    json: JsonOut = False,
    quiet: Quiet = False,
) -> None:
    """Say from which accounts' answers a suspect learned.

    Example: wmark scores attribute --mark ours.wmark --inputs x.csv --answers suspect.csv --clean clean.csv
    --accounts names.txt
    """
    if not 0 < alpha < 1:
        raise typer.BadParameter(f"--alpha must lie between 0 and 1, found {alpha}")
    _check_training(surrogates, train_on, train_answers, None)
    from watermark.accounts import read_accounts
    from watermark.scoring.attribute import attribute_scores
    from watermark.scoring.case import read_case
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.tables import read_columns

    used, say = ScoreWatermark.load(mark), stages(quiet=quiet)
    owner = read_columns(clean)
    asked = inputs_or(inputs, owner, used)
    case = read_case(
        used.scheme,
        used.basis,
        asked,
        read_columns(answers),
        owner,
        surrogates=_predictions(used.scheme, asked, surrogates, train_on, train_answers, train_kinds, None, say),
        labels=listed(classes),
    )
    found = attribute_scores(used, case, read_accounts(accounts), epoch=epoch, logged=logged, alpha=alpha)
    console.clear()
    if output is not None:
        found.save(output)
        console.say(f"attribution written to {output}")
    if json:
        console.emit(found.to_json())
    else:
        print(attributed(found))


def inputs_or(path: Path | None, clean: Table, mark: ScoreWatermark) -> Table:
    """The inputs in a file, or served ones from a ledger; of embeddings, the clean ones are the inputs."""
    from watermark.scoring.ledger import is_score_ledger, served_inputs
    from watermark.scoring.tables import read_columns

    if path is None:
        if mark.scheme.output != "embeddings":
            raise typer.BadParameter(f"a mark of {mark.scheme.output} needs --inputs")
        return clean
    return served_inputs(path) if is_score_ledger(path) else read_columns(path)


def summary(evidence: ScoreEvidence) -> str:
    """The result in a few lines."""
    lines = [
        f"verdict       {evidence.verdict} (level {evidence.alpha:g})",
        f"p-value       {console.pvalue(evidence.log10_p)}   log10 p = {evidence.log10_p:.2f}",
        f"method        {evidence.method}",
        *_test_lines(evidence),
    ]
    carried = evidence.carried
    if carried is not None:
        lines.append(f"carried       {carried.share:.2f} of our mark (95 % {carried.low:.2f} to {carried.high:.2f})")
    if evidence.looks:
        reached = "" if evidence.reached_at is None else f", passed 1/alpha after {evidence.reached_at:,} answers"
        lines.append(f"e-process     log10 E = {evidence.looks[-1].log10_e:.2f}{reached}")
    lines.append(f"read          {evidence.queries:,} answers as {evidence.access}{_left_out(evidence)}")
    lines.append(
        f"taken away    {evidence.explained:.0%} of what sets the suspect apart from our clean answers, as key-free; "
        f"{evidence.surrogates} surrogates"
    )
    if evidence.plan is not None:
        lines.append(
            f"plan          {evidence.plan['status']}" + "".join(f"; {m}" for m in evidence.plan["mismatches"])
        )
    for control in evidence.controls:
        lines.append(f"control       {control.name}: cosine {control.cosine:.3f}, p {console.pvalue(control.log10_p)}")
    lines += _cost_lines(evidence)
    if carried is not None:
        lines.append(
            f"power         a suspect with {carried.detectable:.2g} of our mark is found with probability 90 %, roughly"
        )
    return "\n".join(lines)


def planned(made: ScorePlan, mark: ScoreWatermark, cosines: list[float]) -> str:
    """The plan in a few lines, with the power of a few cosines at its level."""
    from watermark.scoring.calibrate import least_cosine, power_at

    split = f" ({made.alpha:g} over {made.keys} keys and {made.suspects} suspects)" if made.level != made.alpha else ""
    least = least_cosine(mark.dimensions, made.level)
    return "\n".join(
        [
            f"to ask        {made.count:,} distinct inputs{', which were served' if made.logged else ''}",
            f"level         {made.level:g}{split}, {made.alternative}, stopping: {made.stopping}",
            f"found from    a cosine of {least:.3f} on, in {mark.dimensions} dimensions",
            *(
                f"power         {power_at(cosine, mark.dimensions, made.level):.2f} for a mean cosine of {cosine:g}"
                for cosine in cosines
            ),
            "              the cosine grows with what was learned and with the number of inputs: "
            "`wmark scores calibrate` measures it on your own data",
        ]
    )


def attributed(found: ScoreAttribution) -> str:
    """The accounts that were named, then those that come next."""
    if found.named:
        lines = [f"named         {', '.join(found.named)} (of {found.tested:,} accounts, level {found.alpha:g})"]
    else:
        lines = [f"named         nobody (of {found.tested:,} accounts, level {found.alpha:g})"]
    for account in found.accounts[: len(found.named) + 3]:
        lines.append(
            f"account       {account.account}: p {console.pvalue(account.adjusted)} after Holm, "
            f"p {console.pvalue(account.log10_p)} alone, cosine {account.cosine:.3f}"
        )
    lines.append(f"method        {found.method}")
    return "\n".join(lines)


def _test_lines(evidence: ScoreEvidence) -> list[str]:
    return [
        f"cosine        {test.cosine:.4f} with the {test.part}'s "
        f"{'numbers' if test.part == 'input' else 'direction'} in {test.dimensions:,} dimensions, p "
        f"{console.pvalue(test.log10_p)}; rank p {test.rank_pvalue:.4g} among {len(test.decoys)} decoys"
        for test in evidence.tests
    ]


def _left_out(evidence: ScoreEvidence) -> str:
    parts = [
        f"{count:,} {what}"
        for count, what in ((evidence.duplicates, "repeated inputs"), (evidence.unanswered, "without an answer"))
        if count
    ]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _cost_lines(evidence: ScoreEvidence) -> list[str]:
    paid = evidence.cost
    if paid is None:
        return []
    line = f"cost          our answers move by at most {paid.largest:.4g} (rms {paid.root_mean_square:.4g}), "
    line += f"{paid.flips} argmax flips"
    if paid.log_loss is not None and paid.brier is not None and paid.ece is not None:
        line += f"; log loss {paid.log_loss:+.5f}, Brier {paid.brier:+.5f}, ECE {paid.ece:+.5f}"
    return [line]


def _check_training(
    surrogates: Path | None, train_on: Path | None, train_answers: Path | None, keep: Path | None
) -> None:
    if (train_on is None) != (train_answers is None):
        raise typer.BadParameter("--train-on INPUTS and --train-answers CLEAN go together")
    if surrogates is not None and train_on is not None:
        raise typer.BadParameter("pass --surrogates, or have them trained with --train-on, not both")
    if keep is not None and train_on is None:
        raise typer.BadParameter("--keep-surrogates goes with --train-on")


def _predictions(
    scheme: Direction,
    asked: Table,
    given: Path | None,
    train_on: Path | None,
    train_answers: Path | None,
    kinds: str,
    keep: Path | None,
    say: Any,
) -> NDArray[Any] | None:
    """Surrogates' predictions from a file, or of surrogates that are trained now; None without either."""
    from watermark.scoring.tables import answers_of, predictions_of, predictions_table, read_columns

    if given is not None:
        return predictions_of(read_columns(given), scheme)
    if train_on is None:
        return None
    from watermark.scores.table import write_table
    from watermark.scoring.surrogates import train

    owner = answers_of(read_columns(str(train_answers)))
    names = [name for name in read_columns(train_on).names if name in asked.columns]
    try:
        fitted = train(read_columns(train_on, names), owner, scheme=scheme, seed=0, kinds=listed(kinds), progress=say)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = fitted.predict(asked)
    if keep is not None:
        write_table(predictions_table(found), keep)
        console.say(f"the surrogates' predictions are in {keep}; pass them as --surrogates")
    return found
