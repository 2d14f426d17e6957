"""wmark detect: does a suspect depend on our key?"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, marks
from .options import Authority, DepartingRun, Fields, HeldTo, Quiet, Served, SkipBad, Tokenizer, named
from .score import Engine, advise, scaled, source_of

if TYPE_CHECKING:
    from watermark.evidence import Evidence
    from watermark.plan import Dated


class Alternative(enum.StrEnum):
    greater = "greater"
    less = "less"
    two_sided = "two-sided"


def detect(
    mark: Annotated[Path, typer.Option(help="The watermark file, or a key set: then every key of it is tested.")],
    outputs: Annotated[
        str | None,
        typer.Argument(
            help="The suspect's outputs: JSON Lines (.gz, .zst), Parquet, or a folder; with --work also an address "
            "(s3://…). With --suspect they are the texts put before it; without them it is asked our prompts first."
        ),
    ] = None,
    suspect: Annotated[str | None, typer.Option(help="An open model: read its log-probabilities.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A model to subtract, best the one the suspect grew from.")
    ] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="NAME=MODEL, put through the same code; may be repeated.")
    ] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Read the log-probabilities that the suspect gave to its own answers.")
    ] = False,
    samples: Annotated[bool, typer.Option("--samples", help="Many answers to each prompt: count them.")] = False,
    clean: Annotated[Path | None, typer.Option(help="Unmarked text that says which windows are frequent.")] = None,
    tokenizer: Tokenizer = None,
    ledger: Served = None,
    profile: Annotated[Path | None, typer.Option(help="Refuse unless this published profile is the mark's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the evidence here, as JSON.")] = None,
    cells: Annotated[
        Path | None, typer.Option(help="Write what was read here, so that `wmark verify` can recompute it.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report page here, as HTML.")] = None,
    decoys: Annotated[int, typer.Option(min=99, help="Decoy keys to rank among.")] = 999,
    alpha: Annotated[
        float | None, typer.Option(help="The level, chosen before looking; by default the plan's, else 0.001.")
    ] = None,
    alternative: Annotated[Alternative, typer.Option(help="Which way the suspect may lean.")] = Alternative.greater,
    stopped: Annotated[
        bool, typer.Option("--stopped", help="The answers were collected until the e-process was content: it decides.")
    ] = False,
    plan: HeldTo = None,
    exploratory: DepartingRun = False,
    authority: Authority = None,
    calibration: Annotated[Path | None, typer.Option(help="Control students, for a dose: `wmark calibrate`.")] = None,
    ambient: Annotated[
        Path | None, typer.Option(help="Evidence of a model exposed as the public is; its dose stands beside.")
    ] = None,
    skip_bad: SkipBad = False,
    field: Fields = None,
    work: Annotated[
        str | None,
        typer.Option(help="Read text in blocks into this folder: in bounded memory, resumable, after `wmark score`."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --work: processes of this machine.")] = 1,
    engine: Annotated[Engine, typer.Option(help="With --work: ray, for a Ray cluster.")] = Engine.local,
    address: Annotated[str | None, typer.Option(help="With --engine ray: the cluster's address.")] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 10 if evidence was found, 20 if inconclusive.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Test whether a suspect depends on our key: from its text, its log-probabilities, or the model itself.

    Example: wmark detect suspect.jsonl --mark ours.wmark --output evidence.json --report report.html
    Example: wmark detect --mark ours.wmark --suspect ./model --reference ./base --output evidence.json
    Example: wmark detect suspect.parquet --mark ours.wmark --work case --workers 8 --output evidence.json
    """
    if alpha is not None and not 0 < alpha < 1:
        raise typer.BadParameter(f"--alpha must lie between 0 and 1, found {alpha}")
    if ((exploratory or authority) and plan is None) or (ambient is not None and calibration is None):
        raise typer.BadParameter("--exploratory and --authority go with --plan, and --ambient with --calibration")
    if suspect is None and ((outputs is None and work is None) or control):
        raise typer.BadParameter("pass the suspect's OUTPUTS, or --suspect MODEL; --control goes with --suspect")
    if work is not None and (suspect or reference or logprobs or samples or cells or (plan and outputs is None)):
        raise typer.BadParameter(
            "--work is for text: without --suspect, --reference, --logprobs, --samples, --cells; --plan needs OUTPUTS"
        )
    scale = scaled(work, workers, engine, address)
    if (suspect is not None) + logprobs + samples > 1:
        raise typer.BadParameter("choose one of --suspect, --logprobs and --samples")
    from watermark.detect import detect as run
    from watermark.engines import check_against
    from watermark.keyring import KeySet
    from watermark.mark import load_profile

    fixed = None if plan is None else marks.planned(plan, authority)
    used, progress = marks.opened(mark), console.progress(quiet=quiet)
    if profile is not None:
        if isinstance(used, KeySet):
            raise typer.BadParameter("a profile is of one key; a set is held to what was published by `wmark verify`")
        published = load_profile(profile)
        check_against(used, published)
        used.check_profile(published)
    if outputs is None and scale is None:
        outputs = asked(str(suspect), beside=output, planned=fixed, exploratory=exploratory, progress=progress)
    source = None if outputs is None else source_of(outputs, skip_bad=skip_bad, fields=named(field or []))
    if outputs is not None and scale is None and not quiet:
        advise(Path(outputs))
    evidence = run(
        source,
        used,
        tokenizer=used.tokenizer(tokenizer),
        ledger=ledger,
        suspect=suspect,
        reference=reference,
        controls=named(control or []),
        logprobs=logprobs,
        samples=samples,
        clean=clean,
        cells=cells,
        decoys=decoys,
        alpha=alpha or (0.001 if fixed is None else fixed.plan.level),
        alternative=alternative.value,
        stopped=stopped,
        plan=fixed,
        exploratory=exploratory,
        calibration=calibration,
        ambient=ambient,
        scale=scale,
        progress=progress,
    )
    console.clear()
    if outputs is not None:
        recorded(Path(outputs), evidence)
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
        print(summary(evidence))
    if exit_code:
        raise typer.Exit({"evidence found": 10, "inconclusive": 20}.get(evidence.verdict, 0))


def asked(suspect: str, *, beside: Path | None, planned: Dated | None, exploratory: bool, progress: Any) -> str:
    """The suspect's own answers to our prompts, made now unless they are there; kept beside the evidence."""
    from watermark.plan import before_asking
    from watermark.probe import ask, default_prompts, open_suspect

    path, prompts = (beside or Path("evidence.json")).with_suffix(".answers.jsonl"), default_prompts(suspect)
    said = None
    if planned is not None:
        said = before_asking(planned, prompts=prompts, output=path, exploratory=exploratory)
    ask(open_suspect(suspect), prompts, path, plan=said, progress=progress)
    console.say(f"the suspect's answers are in {path}")
    return str(path)


def recorded(answers: Path, evidence: Evidence) -> None:
    """Notes the test beside answers that have a query log: every key that is tried on them is told in a bundle."""
    from watermark.bundle import note_test
    from watermark.probe.log import is_log, log_path

    if is_log(log_path(answers)):
        try:
            note_test(answers, evidence)
        except OSError as error:
            console.say(f"the test could not be recorded beside {answers.name}: {error.strerror}")


def summary(evidence: Evidence) -> str:
    """The result in a few lines."""
    low, high = evidence.green_rate_interval
    better = sum(total >= evidence.green for total in evidence.decoys.totals)
    lines = [f"verdict       {evidence.verdict} (level {evidence.alpha:g})", *key_lines(evidence)]
    lines += weighted_lines(evidence)
    if evidence.weighted is None and evidence.log10_p is not None:
        lines.append(
            f"p-value       {console.pvalue(evidence.log10_p)}   log10 p = {evidence.log10_p:.2f}, exact "
            + ("binomial" if evidence.levels is None else "law of the total score")
        )
    counted = f"green cells   {evidence.green:,} of {evidence.cells:,}"
    if evidence.levels is not None:
        counted = f"total score   {evidence.green:,} of {evidence.cells * evidence.law.highest:,}"
    lines += [
        f"{counted} = {evidence.green_rate:.4f} (95 % {low:.4f} to {high:.4f}), expected {evidence.gamma:.4f}",
        f"decoy keys    {better} of {len(evidence.decoys.totals)} reach as many "
        f"(rank p {evidence.decoys.rank_pvalue:.4g})",
        f"read          {evidence.documents_read:,} answers, {evidence.tokens_read:,} tokens",
    ]
    if evidence.plan is not None:
        dated = evidence.plan["since"]
        lines.append(
            f"plan          {evidence.plan['status']}, of {dated['time']} by {dated['by']}"
            + "".join(f"; {m}" for m in evidence.plan["mismatches"])
        )
    if evidence.dose is not None:
        lines.append(
            f"dose          marked share of the training about {evidence.dose['share']:.1%} "
            f"(95 % {evidence.dose['low']:.1%} to {evidence.dose['high']:.1%}), by {len(evidence.dose['controls'])} "
            "control students"
        )
    for control in evidence.controls:
        lines.append(f"control       {control.name}: p {console.pvalue(control.log10_p)}")
    if evidence.bad_records:
        lines.append(f"left out      {evidence.bad_records:,} bad records")
    if evidence.verdict != "evidence found" and evidence.detectable_rate is not None:
        rate = "green rate" if evidence.levels is None else "mean score"
        lines.append(
            f"power         a {rate} of {evidence.detectable_rate:.4f} would have been found with probability "
            f"{evidence.power:.0%}"
        )
    return "\n".join(lines)


def key_lines(evidence: Evidence) -> list[str]:
    """Where every key of a set was tested: the p-value of all together, and whose numbers follow."""
    keys = evidence.keys
    if keys is None:
        return []
    return [
        f"keys          p {console.pvalue(evidence.log10_p)} over all {keys['tested']} of set {keys['set']} "
        f"({keys['correction']}); below: {keys['foremost']}, the foremost"
    ]


def weighted_lines(evidence: Evidence) -> list[str]:
    """What the weighted statistics say, if any were read, and the e-process."""
    lines, deep, running = [], evidence.weighted, evidence.anytime
    if deep is not None:
        against = f", against {deep.reference}" if deep.reference else ""
        lines.append(
            f"p-value       {console.pvalue(deep.log10_p)}   log10 E = {deep.log10_e:.2f}, mean of e-values "
            f"({deep.access}{against}; rank p {deep.rank_pvalue:.4g})"
        )
        for found in deep.statistics:
            lines.append(
                f"  {found.name:<19} z {found.z:6.2f}   p {console.pvalue(found.log10_p):>9} {found.tail}, "
                f"rank p {found.rank_pvalue:.4g}"
            )
    if running is not None:
        reached = f", passed 1/alpha after {running.reached_at:,} tokens" if running.reached_at is not None else ""
        lines.append(f"e-process     log10 E = {running.log10_e:.2f}{reached}")
    return lines
