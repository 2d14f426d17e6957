"""wmark keygen: a new watermark file, and its public profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.schemes import Scheme


def keygen(
    mark: Annotated[Path, typer.Argument(help="The watermark file to write (secret, mode 0600).")],
    model: Annotated[
        str, typer.Option(help="The model that will be marked: a folder, a .gguf file, a hub name, or 'demo'.")
    ] = "demo",
    scheme: Annotated[str, typer.Option(help="greenlist, gumbel, tournament or antidistill.")] = "greenlist",
    window: Annotated[int, typer.Option(help="Context width in tokens; short ones survive distillation.")] = 2,
    gamma: Annotated[float | None, typer.Option(help="Share of green tokens; 0.25 unless stated.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="greenlist: logits that a green token gains; 2 unless stated.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="antidistill: nats a sure token gains; 8 unless stated.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="tournament: layers, 1 to 30; 30 unless stated.")] = None,
    gate: Annotated[float, typer.Option(help="Nats of entropy under which a token is left alone; 0 for none.")] = 0.0,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Half of the windows carry the mark of the account that is served.")
    ] = False,
    master: Annotated[Path | None, typer.Option("--from", help="Draw the key from this watermark file's key.")] = None,
    tenant: Annotated[str, typer.Option(help="With --from: the account the key is for.")] = "",
    epoch: Annotated[str, typer.Option(help="With --from: the period the key is for.")] = "",
    profile: Annotated[Path | None, typer.Option(help="Also write the public profile here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the public profile as JSON.")] = False,
) -> None:
    """Make a watermark: a scheme and a new secret key, bound to one model's vocabulary.

    Example: wmark keygen ours.wmark --model ./my-model --profile ours.profile.json
    Example: wmark keygen ours.wmark --scheme tournament --depth 20 --gate 0.3
    """
    from watermark.accounts import Accounts
    from watermark.mark import Watermark, save_profile
    from watermark.tokenizer import Tokenizer, logits_width

    stated = {"gamma": gamma, "delta": delta, "strength": strength, "depth": depth}
    chosen = scheme_of(scheme, {"window": window, "gate": gate} | {n: v for n, v in stated.items() if v is not None})
    if (tenant or epoch) != "" and master is None:
        raise typer.BadParameter("--tenant and --epoch need --from, the watermark file to draw from")
    if accounts and tenant:
        raise typer.BadParameter("--accounts makes a mark that accounts are drawn from, --tenant draws one")
    if master is not None and not (tenant or epoch):
        raise typer.BadParameter("--from needs --tenant or --epoch; without them the key would be the same")
    tokenizer = Tokenizer.load(model)
    made = Watermark.generate(chosen, tokenizer=tokenizer, logits_width=logits_width(model))
    made = replace(made, accounts=Accounts() if accounts else None)
    if master is not None:
        made = drawn(made, Watermark.load(master), tenant, epoch)
    made.save(mark)
    if profile is not None:
        save_profile(made, profile)
    console.say(f"wrote {mark} (secret: keep it, back it up, show it to nobody)")
    console.say(f"commitment {made.key.commitment}\npublish it now: it is what shows that the key came first")
    if json:
        console.emit(made.profile())
    else:
        print(made.key.kid)


def scheme_of(name: str, parameters: dict[str, Any]) -> Scheme:
    """One of our own schemes from the options that were stated. Raises BadParameter, naming those it has."""
    from dataclasses import fields

    from watermark.schemes import SCHEMES

    kind = SCHEMES.get(name)
    if kind is None:
        raise typer.BadParameter(f"--scheme is one of {', '.join(SCHEMES)}, found {name!r}")
    known = [field.name for field in fields(kind)]
    foreign = [f"--{option}" for option in parameters if option not in known]
    if foreign:
        has = ", ".join(f"--{option}" for option in known)
        raise typer.BadParameter(f"{name} has no {', '.join(foreign)}; it has {has}")
    try:
        made: Scheme = kind(**parameters)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return made


def drawn(made: Watermark, master: Watermark, tenant: str, epoch: str) -> Watermark:
    """`made` under the key that is drawn from the master's: an account's, if the master has accounts."""
    if master.accounts is None or not tenant:
        return made.rekeyed(master.key.subkey(tenant=tenant, epoch=epoch))
    if (made.scheme, made.binding) != (master.scheme, master.binding):
        raise typer.BadParameter(
            "an account shares windows with its master: give the --model, the --scheme and its options that the "
            "master was made with"
        )
    return replace(master.account(tenant, epoch=epoch), created=made.created)
