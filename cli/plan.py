"""wmark plan: before the first question, how much to ask, and what will be done with the answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, marks

if TYPE_CHECKING:
    from watermark.estimate import Estimate
    from watermark.plan import Plan


def plan(
    mark: Annotated[Path, typer.Option(help="The watermark file, or a key set; the plan is about one of its keys.")],
    access: Annotated[str, typer.Option(help="What will be read: text, samples, log-probabilities or logits.")],
    output: Annotated[Path, typer.Option(help="Write the plan here; it is not written over.")],
    prompts: Annotated[
        Path | None, typer.Option(help="The probes: JSON Lines {id?, prompt}, or .txt; by default ours.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The model that will be subtracted.")] = None,
    share: Annotated[float, typer.Option(help="Marked share of the training data to be found.")] = 0.05,
    power: Annotated[float, typer.Option(help="With which probability.")] = 0.9,
    alpha: Annotated[float, typer.Option(help="The level, over all keys and suspects.")] = 0.001,
    tokens_per_answer: Annotated[int, typer.Option(min=1, help="Tokens that an answer will have at least.")] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    keys: Annotated[int, typer.Option(min=1, help="Keys that will be tested.")] = 1,
    suspects: Annotated[int, typer.Option(min=1, help="Suspects that will be tested.")] = 1,
    alternative: Annotated[str, typer.Option(help="greater, less or two-sided.")] = "greater",
    decoys: Annotated[int, typer.Option(min=99, help="Decoy keys to rank among.")] = 999,
    stop_at: Annotated[str, typer.Option(help="none: ask all probes; e-process: stop when it is content.")] = "none",
    ledger: Annotated[bool, typer.Option("--ledger", help="Only windows served in a ledger will be scored.")] = False,
    clean: Annotated[Path | None, typer.Option(help="Unmarked text that will say which windows are frequent.")] = None,
    slope: Annotated[
        float | None, typer.Option(help="z per root of 1,000 tokens of your own student of marked text alone.")
    ] = None,
    slope_se: Annotated[float, typer.Option(min=0.0, help="Standard error of --slope.")] = 0.0,
    exponent: Annotated[float, typer.Option(help="Of the share, 1 is cautious; with --slope.")] = 1.0,
    key_epoch: Annotated[str | None, typer.Option(help="Of a key set: the epoch that will be tested alone.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """How many prompts it takes to find a share, and a plan of the test that the evidence can be held to.

    Example: wmark plan --mark ours.wmark --access logits --reference ./base --share 0.05 --output plan.json
    """
    from watermark.plan import plan as made_for

    used = marks.one(mark, epoch=key_epoch)
    try:
        made = made_for(
            used,
            access=access,  # type: ignore[arg-type]
            prompts=prompts,
            reference=reference,
            share=share,
            power=power,
            alpha=alpha,
            tokens_per_answer=tokens_per_answer,
            samples=samples,
            keys=keys,
            suspects=suspects,
            alternative=alternative,  # type: ignore[arg-type]
            decoys=decoys,
            stop_at=stop_at,  # type: ignore[arg-type]
            ledger=ledger,
            clean=clean,
            slope=slope,
            slope_se=slope_se,
            exponent=exponent,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    made.save(output)
    console.say(f"plan written to {output}, digest {made.digest}; its date is your word until it is stamped:")
    console.say(f"  wmark evidence timestamp {output} --authority ADDRESS    before anything is asked")
    if json:
        console.emit(made.to_json())
    else:
        print(summary(made))


def summary(plan: Plan) -> str:
    """The plan in a few lines."""
    against = f", against {plan.reference['name']}" if plan.reference else ""
    split = f" ({plan.alpha:g} over {plan.keys} keys and {plan.suspects} suspects)" if plan.level != plan.alpha else ""
    lines = [
        f"to find       {plan.share:.3g} of the training data marked, with probability {plan.power:.0%}, at level "
        f"{plan.level:g}{split}",
        f"access        {plan.access}{against}; {', '.join(plan.statistics)}",
        f"probes        {plan.probes.name}: {plan.probes.count:,} prompts, {plan.probes.answers:,} answers, "
        f"{plan.probes.tokens:,} tokens at {plan.probes.tokens_per_answer} an answer",
        *(line for estimate in plan.estimates for line in _estimate_lines(plan, estimate)),
        *_ending(plan),
    ]
    return "\n".join(lines)


def _estimate_lines(plan: Plan, estimate: Estimate) -> list[str]:
    slope = estimate.slope
    if estimate.tokens is None:
        needed = "no number of tokens is enough: the slope is not surely above 0"
    else:
        answers = -(-estimate.tokens // plan.probes.tokens_per_answer)
        prompts = -(-answers // plan.probes.samples)
        needed = f"{estimate.tokens:,} tokens, that is {prompts:,} prompts"
    smallest = (
        "even a student of marked text alone could be missed"
        if estimate.smallest_share is None
        else f"a share of {estimate.smallest_share:.2g} would be found so surely"
    )
    return [
        f"needed        {needed}",
        f"              with these probes: power {estimate.power:.2f}{_missed(plan, estimate)}; {smallest}",
        f"              by {slope.statistic}, slope {slope.slope:.3g} ± {slope.spread:.2g}, share to the power "
        f"{slope.exponent:.2g}",
        f"              as measured on {slope.students} student(s) of: {slope.model}; {slope.training}; window "
        f"{slope.window}, delta {slope.delta:g}",
        *_beyond(estimate),
    ]


def _missed(plan: Plan, estimate: Estimate) -> str:
    if estimate.power >= plan.power:
        return ""
    return ", too few" if estimate.power >= 0.5 else ", which would most likely miss it"


def _beyond(estimate: Estimate) -> list[str]:
    """A warning where the slope is used far beyond the size it was measured at."""
    measured, needed = estimate.slope.tokens, estimate.tokens
    if measured is None or needed is None or needed <= 2 * measured:
        return []
    return [
        f"              measured with {measured:,} tokens: answers of one kind repeat their windows, so that so many "
        "more may find less than this"
    ]


def _ending(plan: Plan) -> list[str]:
    if plan.alternative == "less":
        return ["needed        not known: students of marked answers lean to green; nobody was measured leaning to red"]
    if not plan.estimates:
        return [
            "needed        not known: no slope was measured for this window, delta and access; pass --slope from a "
            "control student of your own"
        ]
    lines = ["              other models, data and training differ; a control student of your own tells more (--slope)"]
    if plan.stop_at == "e-process":
        lines.append("              an e-process needs somewhat more than the fixed test that this was computed for")
    if 1 / (plan.decoys + 1) > plan.level:
        lines.append(f"              the rank among {plan.decoys} decoys cannot fall to {plan.level:g} by itself")
    return lines
