"""What is signed: an in-toto Statement over the manifests and the evidence, in a DSSE envelope.

in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md); DSSE 1.0.2
(github.com/secure-systems-lab/dsse, protocol.md: a signature is over `DSSEv1 LEN(type) type LEN(body) body`); payload
canonical by RFC 8785.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from watermark.bundle.layout import ENVELOPE, MANIFEST, SIGNERS, TAGS, digest_of, read_tag
from watermark.bundle.signers import Identity, read_identity
from watermark.bundle.standalone import Wrong, decoded, loads
from watermark.errors import BundleInvalid, ExtraMissing
from watermark.files import canonical_json

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:wmark:distillation-detection/v1"
PROPOSITIONS = {
    "prosecution": "the suspect's outputs depend on the key: it was exposed to text, or scores, that carry this mark",
    "defence": "the suspect's outputs are statistically independent of the key with this commitment",
}


def statement(folder: Path, index: dict[str, Any], evidence: dict[str, Any], *, custody: str) -> dict[str, Any]:
    """The statement about a bundle. custody: head of the record of custody at its sealing."""
    path = f"data/{index['files']['evidence']}"
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest_of(folder / name)}} for name in (MANIFEST, TAGS, path)],
        "predicateType": PREDICATE,
        "predicate": {
            "case": index["case"],
            "sealed": index["created"],
            "propositions": PROPOSITIONS,
            "evidence": _kept(
                evidence,
                "format digest verdict alpha log10_p method null alternative access cells green observations created",
            ),
            "preregistration": evidence.get("plan"),
            "mark": _kept(evidence.get("mark") or {}, "kid commitment scheme prf tokenizer created"),
            "inputs": evidence.get("inputs"),
            "decoys": _kept(evidence.get("decoys") or {}, "seed rank_pvalue"),
            "power": _kept(evidence, "power detectable_rate"),
            "dose": evidence.get("dose"),
            "limits": evidence.get("notes", []),
            "software": evidence.get("software"),
            "custody": custody,
        },
    }


def envelope(payload: bytes, signatures: list[dict[str, str]]) -> bytes:
    """The envelope's file: canonical JSON in one line, signatures in the order of their keys."""
    held = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": sorted(signatures, key=lambda one: one["keyid"]),
    }
    return canonical_json(held) + b"\n"


def encoded(statement: dict[str, Any]) -> bytes:
    """RFC 8785 bytes of a statement."""
    try:
        import rfc8785
    except ImportError:
        raise ExtraMissing("rfc8785", "evidence", "signing") from None
    found: bytes = rfc8785.dumps(statement)
    return found


def before_signing(payload: bytes, kind: str = PAYLOAD) -> bytes:
    """DSSE's pre-authentication encoding of a payload of this kind: what a signature is over."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def read_envelope(folder: Path) -> tuple[bytes, list[dict[str, str]]]:
    """(payload, signatures) of the envelope in a folder. Raises BundleInvalid."""
    raw = read_tag(folder, ENVELOPE)
    try:
        found = loads(raw, ENVELOPE)
        payload = decoded(found["payload"], "the payload")
        signatures = [{"keyid": str(one["keyid"]), "sig": str(one["sig"])} for one in found["signatures"]]
    except (Wrong, KeyError, TypeError) as error:
        raise BundleInvalid(f"{ENVELOPE} cannot be read: {error}") from None
    if envelope(payload, signatures) != raw:
        raise BundleInvalid(f"{ENVELOPE} is not in its one form; it was changed")
    return payload, signatures


def signed_by(folder: Path) -> list[Identity]:
    """Whose good signatures the envelope bears. Raises BundleInvalid for one that is not good."""
    payload, signatures = read_envelope(folder)
    found = []
    for one in signatures:
        name = f"{SIGNERS}{one['keyid']}.pem"
        content = read_tag(folder, name)
        who = read_identity(content, name)
        if who.keyid != one["keyid"] or who.pem != content:
            raise BundleInvalid(f"{name} holds another key than its name says, or not in its one form")
        if not who.verifies(signature_in(one["sig"]), before_signing(payload)):
            raise BundleInvalid(
                f"the signature by {one['keyid'][:16]}… is not good: it is forged, or over another bundle"
            )
        found.append(who)
    return found


def signature_in(signature: str) -> bytes:
    """The bytes of a signature as an envelope holds it. Raises BundleInvalid."""
    try:
        return decoded(signature, "a signature")
    except Wrong as error:
        raise BundleInvalid(str(error)) from None


def _kept(found: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: found[name] for name in names.split() if name in found}
