"""README.txt of a bundle: for a stranger who has a shell, and nothing of ours."""

from __future__ import annotations

from typing import Any

_TEXT = """\
EVIDENCE IN A BUNDLE

Case      {case}
Kind      {kind}
Verdict   {verdict}
Sealed    {sealed} (its own word; a time stamp, if there is one, is an authority's)

The question was whether a suspect's outputs depend on a secret key with which answers of a protected model were
marked. If the suspect never met such answers, the key is one more random number to it, and nothing depends on it.
"Evidence found" means exposure to marked text or scores; it does not say how they were come by, by whom, or that rules
were broken. Start with data/report.html, which opens in any browser and fetches nothing.

WHAT IS HERE
  bagit.txt, bag-info.txt, manifest-sha256.txt, tagmanifest-sha256.txt   a BagIt 1.0 bag (RFC 8493)
  attestation.dsse.json, signers/    who vouches: an in-toto statement on the manifests in a DSSE envelope
  attestation.tsr                    when that existed: an RFC 3161 time stamp over attestation.dsse.json
  custody.jsonl                      what was done with the case, each event chained to the one before
{files}
CHECK IT WITHOUT OUR PROGRAM. All commands run in the folder of the bundle (unzip a zip first).

1. No file was changed, dropped or swapped:

     sha256sum -c tagmanifest-sha256.txt manifest-sha256.txt

2. Who signed. KEYID is a file in signers/ without its .pem; of a certificate take the public key first, with
   openssl x509 -pubkey -noout -in signers/KEYID.pem. Whose keys these are, ask the signers themselves.

     sed 's/.*"payload":"\\([^"]*\\)".*/\\1/' attestation.dsse.json | base64 -d > /tmp/payload
     printf 'DSSEv1 28 application/vnd.in-toto+json %d ' $(wc -c < /tmp/payload) > /tmp/signed
     cat /tmp/payload >> /tmp/signed
     sed 's/.*"keyid":"KEYID","sig":"\\([^"]*\\)".*/\\1/' attestation.dsse.json | base64 -d > /tmp/signature
     openssl pkeyutl -verify -pubin -inkey signers/KEYID.pem -rawin -in /tmp/signed -sigfile /tmp/signature

   That is for Ed25519; for a key of ECDSA add: -digest sha256
   The statement, /tmp/payload, names the digests of both manifests; compare with: sha256sum *manifest-sha256.txt

3. When. AUTHORITY.pem is the certificate of the time-stamp authority, from the authority itself:

     openssl ts -verify -data attestation.dsse.json -in attestation.tsr -CAfile AUTHORITY.pem

   Stamps of data/plan.json and data/commitments.json, where they are here, lie beside these files as .tsr and are
   checked in the same way; they say that plan and keys were there before the first question in data/answers.log.jsonl.

4. The numbers, with Python 3.11 and numpy. verify.py shares no code with the program that made this bundle; take it
   from a source of your own, or read it.

     python3 data/verify.py . --signer SIGNER.pem --authority AUTHORITY.pem

   Whoever is given the secret key (a file *.wmark; give it to a neutral expert alone) also counts again under it:

     python3 data/verify.py . --key ours.wmark

WHAT CANNOT BE CHECKED FROM HERE
  That the responses came from the suspect: the query log binds them to the questions, not to who answered.
  That the key was fixed before: the commitment's date is its owner's word, unless a time stamp of it is here; and a key
  that was never published may have been tried too.
  Times in custody.jsonl after the last signature: these lines bind what they name, their times are their writer's word.
{notes}"""

_ROLES = {
    "evidence": "the result: counts, law, p-value, ranks, limits",
    "report": "the same as a page",
    "answers": "the suspect's responses, as they were tested",
    "log": "every question, when it was asked, and the hash of what came back",
    "detections": "every test that was made of these responses",
    "plan": "what was fixed before the first question",
    "plan_token": "a time stamp over the plan",
    "plan_signature": "who signed the plan by itself, when it was made",
    "commitments": "what was published of the set of keys, before",
    "commitments_token": "a time stamp over what was published",
    "profile": "the mark without its secret: scheme, commitment, vocabulary",
    "commitment_token": "a time stamp over the commitment's 64 hexadecimal digits",
    "cells": "what was read of the suspect, cell by cell",
    "rows": "the responses in tokens",
    "vocabulary": "how these tokens are spelt",
    "hashes": "hashes of each response, so that some can be left out and the others still checked",
    "decoys": "totals under keys that marked nothing",
    "software": "versions of what was used",
    "verifier": "checks all this with numpy alone",
    "readme": "this text",
}


def readme(evidence: dict[str, Any], index: dict[str, Any]) -> str:
    """The text for one bundle."""
    listed = [(f"data/{name}", _ROLES[role]) for role, name in index["files"].items()]
    listed += [(f"data/{name}", "a control") for name in index["controls"]]
    return _TEXT.format(
        case=index["case"],
        kind=evidence["format"],
        verdict=evidence.get("verdict", "not stated"),
        sealed=index["created"],
        files="".join(f"  {name:<34} {what}\n" for name, what in sorted(listed)),
        notes="".join(f"  {note}.\n" for note in index["notes"]),
    )
