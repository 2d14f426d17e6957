"""A plan, or commitments, signed by themselves before there is a case: `PLAN.sig.json` beside the file.

A DSSE envelope (see `statement`) whose payload is the file's bytes; each signature holds its key or certificate as PEM
in `cert`, so that whoever has the envelope can check it. Whose key that is, he has to know.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from watermark.bundle.layout import MOST_JSON, digest_of, read_limited
from watermark.bundle.signers import by_those_named, identity_of, load_signer, read_identity, signed
from watermark.bundle.standalone import Wrong, decoded, loads
from watermark.bundle.statement import before_signing, signature_in
from watermark.errors import BundleInvalid
from watermark.files import canonical_json, write_whole
from watermark.keyring.commitments import FORMAT as COMMITMENTS
from watermark.keyring.commitments import read_commitments
from watermark.plan import FORMAT as PLAN
from watermark.plan import read_plan
from watermark.report.checks import Check
from watermark.scoring.plan import SCORE_PLAN, read_score_plan
from watermark.timestamps import read_stamp_file, stamp_beside

PAYLOAD = "application/vnd.wmark+json"
_READERS: dict[str, Any] = {PLAN: read_plan, SCORE_PLAN: read_score_plan, COMMITMENTS: read_commitments}


def signature_beside(path: Path) -> Path:
    """Where the signatures of a file stand: `.sig.json` added to its name."""
    return path.with_name(path.name + ".sig.json")


def is_signable(path: str | Path) -> bool:
    """Whether a file is a plan, or commitments: what is signed by itself."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MOST_JSON:
        return False
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") in _READERS


def sign_file(path: str | Path, key: str | Path, *, certificate: str | Path | None = None) -> tuple[Path, str]:
    """Adds a signature over a plan or commitments; returns (the file of signatures, the key's id).

    Raises BundleInvalid for other files or a key that has signed already, KeyUnusable, and what reading the file does.
    """
    path = Path(path)
    content = _checked(path)
    private = load_signer(Path(key))
    who = identity_of(private, None if certificate is None else Path(certificate))
    target = signature_beside(path)
    envelope = _envelope(path, content) if target.exists() else _begun(content)
    if who.keyid in {one["keyid"] for one in envelope["signatures"]}:
        raise BundleInvalid(f"the key {who.keyid[:16]}… has signed {path.name} already")
    made = signed(private, before_signing(content, PAYLOAD))
    envelope["signatures"].append(
        {"keyid": who.keyid, "sig": base64.b64encode(made).decode(), "cert": who.pem.decode()}
    )
    envelope["signatures"].sort(key=lambda one: str(one["keyid"]))
    write_whole(target, canonical_json(envelope) + b"\n")
    return target, who.keyid


def verify_file(
    path: str | Path,
    *,
    signers: Sequence[str | Path] = (),
    threshold: int = 1,
    authorities: Sequence[str | Path] = (),
) -> list[Check]:
    """Checks a plan or commitments: the file, its signatures, its time stamp. Raises as `verify_bundle` does."""
    path = Path(path)
    content = _checked(path)
    return [
        Check("file", f"{path.name} is as it was written, digest {loads(content, path.name)['digest'][:16]}…"),
        Check("signatures", _signatures(path, content, [Path(one) for one in signers], threshold)),
        Check("time stamp", _stamp(path, [Path(one) for one in authorities])),
    ]


def _signatures(path: Path, content: bytes, wanted: list[Path], threshold: int) -> str:
    if not signature_beside(path).exists():
        if wanted:
            raise BundleInvalid(f"{path.name} is not signed, and signatures were asked for")
        return f"NOT CHECKED: {path.name} is not signed"
    good, message = [], before_signing(content, PAYLOAD)
    for one in _envelope(path, content)["signatures"]:
        who = read_identity(str(one["cert"]).encode(), "a signer's key")
        if who.keyid != one["keyid"] or not who.verifies(signature_in(str(one["sig"])), message):
            raise BundleInvalid(f"the signature by {str(one['keyid'])[:16]}… is not good: forged, or over another file")
        good.append(who)
    told = f"{len(good)} good signatures, by " + ", ".join(f"{who.keyid[:16]}… ({who.name})" for who in good)
    return f"{told}; {by_those_named(good, wanted, threshold)}"


def _stamp(path: Path, authorities: list[Path]) -> str:
    token = stamp_beside(path)
    if not token.exists():
        if authorities:
            raise BundleInvalid(f"{path.name} bears no time stamp, and one was asked for")
        return "NOT CHECKED: there is no time stamp; the date in the file is its maker's word"
    found = read_stamp_file(token, digest_of(path), authorities=authorities)
    whose = f"by the named authority ({found.authority})" if found.checked else "NOT CHECKED: whose word (--authority)"
    return f"{path.name} existed at {found.time}; {whose}"


def _checked(path: Path) -> bytes:
    """The file's bytes, once it was read as what it says it is."""
    if not is_signable(path):
        raise BundleInvalid(
            f"{path} is neither a bundle nor a plan nor commitments; these are what is signed",
            hint="pass CASE.bag, what `wmark plan` wrote, or what `wmark key commit` wrote",
        )
    content = read_limited(path, str(path), most=MOST_JSON)
    _READERS[json.loads(content)["format"]](path)
    return content


def _begun(content: bytes) -> dict[str, Any]:
    return {"payload": base64.b64encode(content).decode(), "payloadType": PAYLOAD, "signatures": []}


def _envelope(path: Path, content: bytes) -> dict[str, Any]:
    """The envelope beside a file, over its bytes."""
    target = signature_beside(path)
    raw = read_limited(target, target.name, most=2 * MOST_JSON)
    try:
        found = loads(raw, target.name)
        held = decoded(found["payload"], "the payload")
        fields = all({"keyid", "sig", "cert"} == set(one) for one in found["signatures"])
    except (Wrong, KeyError, TypeError) as error:
        raise BundleInvalid(f"{target.name} cannot be read: {error}") from None
    if held != content:
        raise BundleInvalid(f"{target.name} is over another {path.name}; the file was changed after it was signed")
    if not fields or found["payloadType"] != PAYLOAD or canonical_json(found) + b"\n" != raw:
        raise BundleInvalid(f"{target.name} is not in its one form; it was changed")
    signers = [one["keyid"] for one in found["signatures"]]
    if not signers or len(set(signers)) < len(signers):
        raise BundleInvalid(f"{target.name} holds no signature, or one key's twice")
    return found
