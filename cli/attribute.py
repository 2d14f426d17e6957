"""wmark attribute: whose answers did a suspect learn from?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, marks
from .options import Fields, Quiet, SkipBad, Tokenizer, named

if TYPE_CHECKING:
    from watermark.access import Request
    from watermark.attribute import Attribution
    from watermark.observe import Observations

_SHOWN = 5


def attribute(
    outputs: Annotated[
        Path,
        typer.Argument(
            help="The suspect's outputs: JSON Lines (.gz, .zst), Parquet, or a folder. With --suspect, the texts put "
            "before it."
        ),
    ],
    mark: Annotated[Path, typer.Option(help="The watermark file, with accounts, that their keys are drawn from.")],
    accounts: Annotated[Path, typer.Option(help="Every account that comes into question, one name a line.")],
    suspect: Annotated[str | None, typer.Option(help="An open model: read its log-probabilities.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A model to subtract, best the one the suspect grew from.")
    ] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Read the log-probabilities in the outputs.")] = False,
    epoch: Annotated[list[str] | None, typer.Option(help="A period of account keys; may be repeated.")] = None,
    tokenizer: Tokenizer = None,
    profile: Annotated[Path | None, typer.Option(help="Refuse unless this published profile is the mark's.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the attribution here, as JSON.")] = None,
    decoys: Annotated[int, typer.Option(min=0, help="Panels of decoy keys, one key for each account.")] = 99,
    alpha: Annotated[float, typer.Option(help="The chance that any innocent account is named.")] = 0.01,
    skip_bad: SkipBad = False,
    field: Fields = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 10 if exposure was found.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the attribution as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Test which accounts' answers a suspect's outputs depend on.

    Example: wmark attribute suspect.jsonl --mark ours.wmark --accounts accounts.txt --output attribution.json
    Example: wmark attribute texts.jsonl --suspect ./model --reference ./base --mark ours.wmark --accounts accounts.txt
    """
    if not 0 < alpha < 1:
        raise typer.BadParameter(f"--alpha must lie between 0 and 1, found {alpha}")
    if suspect is not None and logprobs:
        raise typer.BadParameter("choose one of --suspect and --logprobs")
    from watermark.access import Request
    from watermark.accounts import read_accounts
    from watermark.attribute import attribute as run
    from watermark.mark import load_profile
    from watermark.outputs import Outputs

    used, names = marks.with_accounts(mark), read_accounts(accounts)
    if profile is not None:
        used.check_profile(load_profile(profile))
    show = console.progress(quiet=quiet)
    texts, one = Outputs(outputs, skip_bad=skip_bad, fields=named(field or [])), used.account(names[0])
    request = Request(texts, one, used.tokenizer(tokenizer))
    seen = observed(request, suspect=suspect, reference=reference, logprobs=logprobs, show=show)
    found = run(seen, used, names, epochs=epoch or [""], alpha=alpha, decoys=decoys, progress=show)
    console.clear()
    if output is not None:
        found.save(output)
        console.say(f"attribution written to {output}")
    if json:
        console.emit(found.to_json())
    else:
        print(summary(found))
    if exit_code:
        raise typer.Exit(10 if found.found else 0)


def observed(
    request: Request, *, suspect: str | None, reference: str | None, logprobs: bool, show: Callable[[str, int], None]
) -> Observations:
    """What is read of the suspect, by what there is to read."""
    if suspect is None and reference is None and not logprobs:
        from watermark.observe import observe

        return observe(
            request.source,
            request.mark,
            tokenizer=request.tokenizer,
            progress=lambda count: show("answers read", count),
        )
    from watermark.access import read

    access = "logits" if suspect is not None else "log-probabilities" if logprobs else "text and reference"
    return read(request, access, suspect=suspect, reference=reference, controls={}, say=show).in_memory


def summary(found: Attribution) -> str:
    """The result in a few lines: the verdict, the best accounts, the runner-up."""
    from watermark.attribute import named

    shown = found.exposures[: max(_SHOWN, min(len(found.found) + 1, 50))]
    width = max(7, *(len(named(e)) for e in shown))
    lines = [
        f"verdict       {found.verdict} (level {found.alpha:g} over all)",
        f"read          {found.cells:,} distinct cells in windows of account keys, statistic: {found.statistic}",
        "",
        f"{'account':<{width}}  {found.score:>8}  {'p alone':>9}  {'p of all':>9}  {'max-T':>6}  verdict",
    ]
    for e in shown:
        rank = "-" if e.max_t_pvalue is None else f"{e.max_t_pvalue:.3g}"
        lines.append(
            f"{named(e):<{width}}  {e.score:>8.2f}  {console.pvalue(e.log10_p):>9}  "
            f"{console.pvalue(e.log10_p_holm):>9}  {rank:>6}  {e.verdict}"
        )
    if len(found.exposures) > len(shown):
        lines.append(f"… and {len(found.exposures) - len(shown):,} more")
    if found.runner_up is not None:
        lines += ["", f"runner-up     {found.runner_up}, {found.gap:.2f} {found.score} behind the one before"]
    return "\n".join(lines)
