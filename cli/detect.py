"""wmark detect: do a suspect's outputs depend on our key?"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console

if TYPE_CHECKING:
    from watermark.evidence import Evidence


class Alternative(enum.StrEnum):
    greater = "greater"
    less = "less"
    two_sided = "two-sided"


def detect(
    outputs: Annotated[
        Path, typer.Argument(help="The suspect's outputs: JSON Lines (.gz, .zst), Parquet, or a folder.")
    ],
    mark: Annotated[Path, typer.Option(help="The watermark file.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="The teacher's tokenizer; by default where the mark was made.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Score only windows that were served.")] = None,
    profile: Annotated[Path | None, typer.Option(help="Refuse unless this published profile is the mark's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the evidence here, as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report page here, as HTML.")] = None,
    decoys: Annotated[int, typer.Option(min=99, help="Decoy keys to rank among.")] = 999,
    alpha: Annotated[float, typer.Option(help="The level, chosen before looking.")] = 0.001,
    alternative: Annotated[Alternative, typer.Option(help="Which way the suspect may lean.")] = Alternative.greater,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count bad records and leave them out.")] = False,
    field: Annotated[list[str] | None, typer.Option(help="ours=theirs, e.g. text=response; may be repeated.")] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 10 if evidence was found, 20 if inconclusive.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Test whether a suspect's outputs depend on our key.

    Example: wmark detect suspect.jsonl --mark ours.wmark --output evidence.json --report report.html
    """
    if not 0 < alpha < 1:
        raise typer.BadParameter(f"--alpha must lie between 0 and 1, found {alpha}")
    from watermark.detect import detect as run
    from watermark.mark import Watermark, load_profile
    from watermark.outputs import Outputs

    used = Watermark.load(mark)
    if profile is not None:
        used.check_profile(load_profile(profile))
    evidence = run(
        Outputs(outputs, skip_bad=skip_bad, fields=named(field or [])),
        used,
        tokenizer=used.tokenizer(tokenizer),
        ledger=ledger,
        decoys=decoys,
        alpha=alpha,
        alternative=alternative.value,
        progress=console.progress(quiet=quiet),
    )
    console.clear()
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


def named(pairs: list[str]) -> dict[str, str]:
    """{ours: theirs} from "ours=theirs" options."""
    for pair in pairs:
        if pair.count("=") != 1 or pair.startswith("=") or pair.endswith("="):
            raise typer.BadParameter(f"--field should read ours=theirs, found {pair!r}")
    return dict(pair.split("=") for pair in pairs)


def summary(evidence: Evidence) -> str:
    """The result in a few lines."""
    low, high = evidence.green_rate_interval
    better = sum(total >= evidence.green for total in evidence.decoys.totals)
    lines = [
        f"verdict       {evidence.verdict} (level {evidence.alpha:g})",
        f"p-value       {console.pvalue(evidence.log10_p)}   log10 p = {evidence.log10_p:.2f}, exact binomial",
        f"green cells   {evidence.green:,} of {evidence.cells:,} = {evidence.green_rate:.4f} "
        f"(95 % {low:.4f} to {high:.4f}), expected {evidence.gamma:.4f}",
        f"decoy keys    {better} of {len(evidence.decoys.totals)} reach as many "
        f"(rank p {evidence.decoys.rank_pvalue:.4g})",
        f"read          {evidence.documents_read:,} answers, {evidence.tokens_read:,} tokens",
    ]
    if evidence.bad_records:
        lines.append(f"left out      {evidence.bad_records:,} bad records")
    if evidence.verdict != "evidence found" and evidence.detectable_rate is not None:
        lines.append(
            f"power         a green rate of {evidence.detectable_rate:.4f} would have been found with probability "
            f"{evidence.power:.0%}"
        )
    return "\n".join(lines)
