"""wmark key: sets of keys, sealed; their epochs; and what is published of them. No secret is an option's value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    from watermark.keyring import Commitments, KeySet, Secret

app = typer.Typer(help="Make, show, rotate and commit to the keys of a mark.", no_args_is_help=True)

Keys = Annotated[Path, typer.Argument(help="The sealed key set, *.jwks.age.")]
Identity = Annotated[Path | None, typer.Option(help="Age identity or SSH private key that opens the set.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File that holds the passphrase; '-' reads standard input.")]
Entry = Annotated[str | None, typer.Option("--keyring", help="Entry of the OS keyring that holds the passphrase.")]
Json = Annotated[bool, typer.Option("--json", help="Print what is public as JSON.")]
DATING = """have it dated by an authority of your choice, with --authority ADDRESS or by hand:
  openssl ts -query -data {file} -sha256 -cert -out {file}.tsq
  curl -H 'Content-Type: application/timestamp-query' --data-binary @{file}.tsq ADDRESS > {file}.tsr
  openssl ts -verify -data {file} -in {file}.tsr -CAfile AUTHORITY.pem"""


@app.command()
def new(
    keys: Annotated[Path, typer.Argument(help="The file to write, *.jwks.age (mode 0600, never over another).")],
    model: Annotated[
        str, typer.Option(help="The model that will be marked: a folder, a .gguf file, a hub name, or 'demo'.")
    ] = "demo",
    window: Annotated[int, typer.Option(help="Context width in tokens; short ones survive distillation.")] = 2,
    gamma: Annotated[float, typer.Option(help="Share of green tokens.")] = 0.25,
    delta: Annotated[float, typer.Option(help="Logits that a green token gains.")] = 2.0,
    epoch: Annotated[str | None, typer.Option(help="Name of the first epoch, by default today's date.")] = None,
    expires: Annotated[str | None, typer.Option(help="When its key stops marking: 2027-01-31.")] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="Public key to seal to (age1…, ssh-…) or its file; may be repeated.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    entry: Annotated[
        str | None, typer.Option("--keyring", help="Make a passphrase and keep it in the OS keyring, by this name.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key set: a new master and its first epoch, sealed to recipients or by a passphrase.

    Example: wmark key new ours.jwks.age --model ./my-model --recipient ~/.ssh/id_ed25519.pub
    """
    from watermark.keyring import KeySet, recipient_of, save_new
    from watermark.keyring.dates import read_date
    from watermark.keyring.store import checked_name
    from watermark.keyring.unlock import new_passphrase, person
    from watermark.mark import Watermark
    from watermark.schemes import GreenList
    from watermark.tokenizer import Tokenizer, logits_width

    if recipient and (passphrase_file or entry):
        raise typer.BadParameter("a set is sealed to recipients or by one passphrase: name one of the two")
    try:
        scheme = GreenList(window=window, gamma=gamma, delta=delta)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    checked_name(keys)
    recipients = tuple(recipient_of(each) for each in recipient or [])
    bound = Watermark.generate(scheme, tokenizer=Tokenizer.load(model), logits_width=logits_width(model)).binding
    ends = None if expires is None else read_date(expires)
    made = KeySet.new(scheme, bound, epoch=epoch, expires=ends, recipients=recipients)
    passphrase = None
    if not recipients:
        passphrase = new_passphrase(keys.name, passphrase_file=passphrase_file, entry=entry, ask=person())
    save_new(made, keys, passphrase=passphrase)
    console.say(f"wrote {keys} (sealed; keep a copy elsewhere, and what opens it in a third place)")
    console.say("publish its commitment now: `wmark key commit` says how to have it dated")
    shown(made, json=json)


@app.command()
def show(
    keys: Keys,
    identity: Identity = None,
    passphrase_file: PassphraseFile = None,
    entry: Entry = None,
    json: Json = False,
) -> None:
    """Show each key's kid, commitment, dates and status; never a secret.

    Example: wmark key show ours.jwks.age --identity ~/.ssh/id_ed25519
    """
    from watermark.keyring import open_keys

    shown(open_keys(keys, secret(keys, identity, passphrase_file, entry)), json=json)


@app.command()
def rotate(
    keys: Keys,
    epoch: Annotated[str | None, typer.Option(help="Name of the new epoch, by default the day it begins.")] = None,
    starts: Annotated[str | None, typer.Option(help="When it begins, 2027-01-31; by default at once.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it stops marking; by default never.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Draw it from a new master: the old one may have leaked.")
    ] = False,
    revoke: Annotated[
        str | None, typer.Option(help="Epoch whose key others had: it marks no more, and shows nothing.")
    ] = None,
    identity: Identity = None,
    passphrase_file: PassphraseFile = None,
    entry: Entry = None,
    json: Json = False,
) -> None:
    """Add an epoch. Earlier ones stop marking when it begins, and stay for detection; the old file is kept beside.

    Example: wmark key rotate ours.jwks.age --starts 2027-01-01 --identity ~/.ssh/id_ed25519
    """
    from watermark.keyring import change
    from watermark.keyring.dates import read_date

    begins = None if starts is None else read_date(starts)
    ends = None if expires is None else read_date(expires)
    made = change(
        keys,
        secret(keys, identity, passphrase_file, entry),
        lambda old: old.rotated(epoch, starts=begins, expires=ends, fresh=fresh, revoke=revoke),
    )
    console.say(f"{keys} now has {len(made.epochs)} epochs; before it was {keys.name}.g{made.generation - 1}")
    console.say("publish the new commitment: `wmark key commit`")
    shown(made, json=json)


@app.command(name="export-commitment")
def export_commitment(
    keys: Keys,
    output: Annotated[Path, typer.Argument(help="The public file to write, as JSON.")],
    earlier: Annotated[
        Path | None, typer.Option(help="A file published before: refuse unless all its keys are in this one.")
    ] = None,
    identity: Identity = None,
    passphrase_file: PassphraseFile = None,
    entry: Entry = None,
) -> None:
    """Write what may be published: every key's commitment, chained in order. The same set gives the same bytes.

    Example: wmark key export-commitment ours.jwks.age ours.commitments.json --identity ~/.ssh/id_ed25519
    """
    written(keys, output, earlier, secret(keys, identity, passphrase_file, entry))


@app.command()
def commit(
    keys: Keys,
    output: Annotated[Path, typer.Argument(help="The public file to write, as JSON.")],
    authority: Annotated[
        str | None,
        typer.Option(help="Time-stamp authority: its address, or a folder of `wmark evidence authority`."),
    ] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="A file published before: refuse unless all its keys are in this one.")
    ] = None,
    identity: Identity = None,
    passphrase_file: PassphraseFile = None,
    entry: Entry = None,
) -> None:
    """Write the commitments and have them dated (RFC 3161): the authority's reply is OUTPUT.tsr.

    Example: wmark key commit ours.jwks.age ours.commitments.json --authority https://AUTHORITY
    """
    written(keys, output, earlier, secret(keys, identity, passphrase_file, entry))
    if authority is None:
        console.say(DATING.format(file=output))
        return
    from watermark.timestamps import stamp

    reply, dated = stamp(output, authority=authority)
    console.say(f"dated {dated.time} by {dated.authority}: {reply}")
    console.say(f"anybody can check it: openssl ts -verify -data {output} -in {reply} -CAfile AUTHORITY.pem")


@app.command()
def mark(
    keys: Keys,
    output: Annotated[Path, typer.Argument(help="The watermark file to write (secret, mode 0600).")],
    epoch: Annotated[str | None, typer.Option(help="Epoch, by label or kid; by default the active one.")] = None,
    tenant: Annotated[str, typer.Option(help="Draw the key of this tenant from the epoch's.")] = "",
    identity: Identity = None,
    passphrase_file: PassphraseFile = None,
    entry: Entry = None,
) -> None:
    """Write the watermark file of one epoch, for a server that reads those. It says nothing of other epochs.

    Example: wmark key mark ours.jwks.age ours.wmark --identity ~/.ssh/id_ed25519
    """
    from watermark.keyring import open_keys

    found = open_keys(keys, secret(keys, identity, passphrase_file, entry))
    made = found.watermark(found.serving() if epoch is None else found.epoch(epoch), tenant=tenant)
    made.save(output)
    console.say(f"wrote {output} (secret and not sealed: where it lies, the key lies)")
    print(made.key.kid)


def secret(keys: Path, identity: Path | None, passphrase_file: Path | None, entry: str | None) -> Secret:
    """What opens the set, from where the options say, the environment, or a person."""
    from watermark.keyring import sealed_by_passphrase
    from watermark.keyring.unlock import person, secret_for

    return secret_for(
        keys.name,
        by_passphrase=sealed_by_passphrase(keys),
        identity=identity,
        passphrase_file=passphrase_file,
        entry=entry,
        ask=person(),
    )


def written(keys: Path, output: Path, earlier: Path | None, opener: Secret) -> Commitments:
    from watermark.keyring import open_keys, read_commitments

    made = open_keys(keys, opener).commitments()
    if earlier is not None:
        made.check_extends(read_commitments(earlier))
    made.save(output)
    console.say(f"wrote {output}: {len(made.keys)} keys, head {made.head}")
    return made


def shown(keys: KeySet, *, json: bool) -> None:
    """What is public of a set: as JSON, or a line for each key."""
    from watermark.keyring.dates import now, told

    at = now()
    rows: list[dict[str, Any]] = [
        {
            "kid": e.key.kid,
            "epoch": e.label,
            "status": e.status(at),
            "nbf": told(e.nbf),
            "exp": None if e.exp is None else told(e.exp),
            "commitment": e.key.commitment,
        }
        for e in keys.epochs
    ]
    if json:
        console.emit({"set": keys.name, "head": keys.commitments().head, "keys": rows})
        return
    print(f"set {keys.name}")
    for row in rows:
        print(
            f"{row['kid']}  {row['epoch']:<12} {row['status']:<8} {row['nbf']} to {row['exp'] or 'no end':<25} "
            f"{row['commitment']}"
        )
