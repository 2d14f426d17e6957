"""A case in one folder or zip, that a stranger can check: `CASE.bag/`.

    CASE.bag/
      bagit.txt  bag-info.txt  manifest-sha256.txt  tagmanifest-sha256.txt     a bag: BagIt 1.0 (RFC 8493)
      data/   evidence.json  answers.jsonl  answers.log.jsonl  plan.json  profile.json  commitments.json  cells.npz
              rows.jsonl  vocabulary.json  hashes.json  decoys.csv  controls/  software.json  report.html  verify.py
              README.txt
      custody.jsonl  attestation.dsse.json  signers/KEYID.pem  attestation.tsr  what came after the sealing

What holds what: the manifest every file of data/, the tag manifest the manifest, custody.jsonl the tag manifest, the
envelope and the time stamp; the envelope signs both manifests and the evidence, the time stamp is over the envelope.
All have one form to the byte, so that any byte that differs is seen. A key's secret never enters any of it.
"""

from watermark.bundle.make import bundle, note_test, redact, sign, timestamp
from watermark.bundle.plans import is_signable, sign_file, verify_file
from watermark.bundle.verify import contents, is_bundle, verify_bundle
from watermark.timestamps import Stamp, local_authority, stamp

__all__ = [
    "Stamp",
    "bundle",
    "contents",
    "is_bundle",
    "is_signable",
    "local_authority",
    "note_test",
    "redact",
    "sign",
    "sign_file",
    "stamp",
    "timestamp",
    "verify_bundle",
    "verify_file",
]
