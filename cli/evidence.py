"""wmark evidence: a case in one bundle that a stranger can check: sealed, signed, time-stamped, shown, redacted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from . import console
from .options import Tokenizer

app = typer.Typer(
    name="evidence",
    help="Seal a case into one bundle, sign it, have it time-stamped, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Case = Annotated[Path, typer.Argument(help="The bundle: a folder CASE.bag, or its zip.")]


@app.command()
def bundle(
    evidence: Annotated[Path, typer.Argument(help="The evidence that `wmark detect --output` wrote.")],
    output: Annotated[Path, typer.Option(help="The bundle to write: CASE.bag, or CASE.bag.zip.")],
    answers: Annotated[Path | None, typer.Option(help="The suspect's responses, as they were tested.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Their query log; by default the one that stands beside them.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan that the evidence names.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="The mark's published profile; it must be the one tested.")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(help="What was read: detect's --cells, or of scores the --case.")
    ] = None,
    control: Annotated[
        list[Path] | None, typer.Option(help="Evidence of a control, to be kept with it; may be repeated.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The teacher's tokenizer: a stranger can then follow text to its cells.")
    ] = None,
    commitments: Annotated[
        Path | None, typer.Option(help="What was published of the key set (`wmark key commit`); its .tsr beside it.")
    ] = None,
    commitment_token: Annotated[
        Path | None, typer.Option(help="A time stamp over the key's commitment (its 64 hexadecimal digits).")
    ] = None,
    plan_token: Annotated[
        Path | None, typer.Option(help="A time stamp over the plan; by default PLAN.tsr beside it.")
    ] = None,
    hash_only: Annotated[
        bool, typer.Option("--hash-only", help="Keep hashes in place of the responses, for privacy.")
    ] = False,
) -> None:
    """Seal evidence, and all that it rests on, into one folder or zip; the same inputs give the same bytes.

    Example: wmark evidence bundle evidence.json --answers suspect.jsonl --plan plan.json --output CASE.bag
    """
    from watermark.bundle import bundle as make
    from watermark.tokenizer import Tokenizer

    made = make(
        evidence,
        output,
        answers=answers,
        log=log,
        plan=plan,
        profile=profile,
        cells=cells,
        controls=control or [],
        tokenizer=None if tokenizer is None else Tokenizer.load(tokenizer),
        commitments=commitments,
        commitment_token=commitment_token,
        plan_token=plan_token,
        hash_only=hash_only,
    )
    console.say(f"bundle written to {made}; sign it with `wmark evidence sign {made} --key SIGNER.pem`")


@app.command()
def sign(
    case: Annotated[Path, typer.Argument(help="The bundle; or a plan, or commitments, to be signed by themselves.")],
    key: Annotated[
        Path, typer.Option(help="Your signing key: Ed25519 or ECDSA on P-256, in PEM or OpenSSH's form, mode 0600.")
    ],
    certificate: Annotated[Path | None, typer.Option(help="An X.509 certificate of that key, in PEM.")] = None,
) -> None:
    """Sign a bundle or a plan; several may, each with a key of their own. WMARK_SIGNER_PASSWORD holds a password.

    Example: wmark evidence sign CASE.bag --key signer.pem
    Example: wmark evidence sign plan.json --key signer.pem
    """
    from watermark.bundle import is_bundle, sign_file
    from watermark.bundle import sign as run

    if not is_bundle(case) and case.is_file():
        written, keyid = sign_file(case, key, certificate=certificate)
        console.say(f"signed by the key {keyid}; the signatures are in {written}")
        return
    console.say(f"signed by the key {run(case, key, certificate=certificate)}")


@app.command()
def timestamp(
    subject: Annotated[Path, typer.Argument(help="A signed bundle, or any file: a plan, a commitment.")],
    authority: Annotated[str, typer.Option(help="An RFC 3161 authority's address, or a folder `authority` made.")],
) -> None:
    """Have a time-stamp authority say when a bundle's signatures, or a file, existed.

    Example: wmark evidence timestamp CASE.bag --authority https://authority.example/tsr
    Example: wmark evidence timestamp plan.json --authority ./authority
    """
    from watermark.bundle import is_bundle, stamp
    from watermark.bundle import timestamp as run

    if is_bundle(subject):
        console.say(f"{subject} existed at {run(subject, authority).time}, by the authority's word")
        return
    written, found = stamp(subject, authority=authority)
    console.say(f"{subject} existed at {found.time}, by the authority's word; the time stamp is {written}")


@app.command()
def authority(
    folder: Annotated[Path, typer.Argument(help="A new folder for its key and certificate.")],
) -> None:
    """Make a time-stamp authority on this machine, with openssl: for tests and demonstrations.

    Its word is yours alone; what is to convince others is stamped by an authority of theirs.

    Example: wmark evidence authority ./authority
    """
    from watermark.bundle import local_authority

    console.say(f"its certificate is {local_authority(folder) / 'authority.pem'}")


@app.command()
def show(case: Case, json: Annotated[bool, typer.Option("--json", help="Print the index as JSON.")] = False) -> None:
    """What is in a bundle, in a few lines; nothing but the signatures is checked.

    Example: wmark evidence show CASE.bag
    """
    from watermark.bundle import contents

    index, found, signed = contents(case)
    if json:
        console.emit({"index": index, "verdict": found.get("verdict"), "signed_by": signed})
        return
    print(f"case          {index['case']}")
    print(f"verdict       {found.get('verdict')}")
    if found.get("log10_p") is not None:
        print(f"p-value       {console.pvalue(found['log10_p'])}")
    print(f"key           {found['mark'].get('kid')}, commitment {found['mark'].get('commitment')}")
    print(f"sealed        {index['created']}")
    for name, path in index["files"].items():
        print(f"  {name:<18}data/{path}")
    for path in index["controls"]:
        print(f"  {'control':<18}data/{path}")
    for who in signed or ["nobody"]:
        print(f"signed by     {who}")
    for note in index["notes"]:
        print(f"note          {note}")


@app.command()
def redact(
    case: Case,
    responses: Annotated[str, typer.Option(help="Numbers of responses from 1, and ranges: 3,7 or 10-20.")],
    output: Annotated[Path, typer.Option(help="The redacted copy to write.")],
) -> None:
    """Copy a bundle without the text of some responses; hashes and signatures stand, and the copy says what is missing.

    Example: wmark evidence redact CASE.bag --responses 3,7 --output CASE.redacted.bag
    """
    from watermark.bundle import redact as run

    console.say(f"redacted copy written to {run(case, output, numbers(responses))}")


@app.command()
def verify(
    case: Annotated[Path, typer.Argument(help="The bundle; or a plan, or commitments, with what stands beside it.")],
    mark: Annotated[
        Path | None, typer.Option(help="The watermark file: the key is opened, and counts made again.")
    ] = None,
    tokenizer: Tokenizer = None,
    signer: Annotated[
        list[Path] | None, typer.Option(help="Public key (PEM, OpenSSH) or certificate of a signer; may be repeated.")
    ] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many of the named signers must have signed.")] = 1,
    authority: Annotated[
        list[Path] | None, typer.Option(help="Certificate of a trusted time-stamp authority; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check a bundle in numbered steps, each with what was checked; exit 3 if anything does not hold.

    Example: wmark evidence verify CASE.bag --signer expert.pem --authority authority.pem
    Example: wmark evidence verify plan.json --signer expert.pem --authority authority.pem
    """
    from watermark.bundle import is_signable, verify_bundle, verify_file

    if is_signable(case):
        checks = verify_file(case, signers=signer or [], threshold=threshold, authorities=authority or [])
    else:
        checks = verify_bundle(
            case,
            mark=mark,
            tokenizer=tokenizer,
            signers=signer or [],
            threshold=threshold,
            authorities=authority or [],
        )
    left = [f"{check.name}: {check.detail}" for check in checks if "NOT CHECKED" in check.detail]
    if json:
        listed = [{"name": check.name, "detail": check.detail} for check in checks]
        console.emit({"verified": True, "checks": listed, "taken_as_stated": left})
        return
    for number, check in enumerate(checks, 1):
        print(f"{number:>2}. {check.name}: {check.detail}")
    console.say(f"{len(left)} steps say what was not checked" if left else "everything holds")


def numbers(told: str) -> list[int]:
    """[3, 7, 10, 11, 12] from "3,7,10-12"."""
    found: list[int] = []
    for part in told.split(","):
        said = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if said is None:
            raise typer.BadParameter(f"--responses should read 3,7 or 10-20, found {told!r}")
        start, end = int(said[1]), int(said[2] or said[1])
        if end - start > 10_000_000:
            raise typer.BadParameter(f"{part.strip()} names more responses than a bundle holds")
        found += range(start, end + 1)
    return found
