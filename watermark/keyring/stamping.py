"""A time-stamp request (RFC 3161, section 2.4.1) for a file's SHA-256, written without any library.

The request holds the digest and nothing else of the file; `openssl ts -query` prints it. Who sends it to which
authority is the user's choice, and nothing is sent here.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from watermark.errors import MarkInvalid
from watermark.files import write_new

_SHA256 = bytes.fromhex("300d06096086480165030402010500")  # AlgorithmIdentifier {id-sha256, NULL}
_VERSION, _CERTIFICATE = bytes.fromhex("020101"), bytes.fromhex("0101ff")
INSTRUCTIONS = """have it dated: send {query} to an authority of your choice, and keep the reply beside the file,
  curl -H 'Content-Type: application/timestamp-query' --data-binary @{query} AUTHORITY > {reply}
and check it with the authority's certificate, as anybody can:
  openssl ts -verify -data {file} -in {reply} -CAfile AUTHORITY.pem"""


def request_for(content: bytes, *, nonce: int | None = None) -> bytes:
    """TimeStampReq in DER: version 1, SHA-256 of the content, a nonce of 63 bits, and the certificate asked for."""
    drawn = int.from_bytes(os.urandom(8), "big") >> 1 if nonce is None else nonce
    imprint = _der(0x30, _SHA256 + _der(0x04, hashlib.sha256(content).digest()))
    number = drawn.to_bytes(drawn.bit_length() // 8 + 1, "big")
    return _der(0x30, _VERSION + imprint + _der(0x02, number) + _CERTIFICATE)


def write_request(content: bytes, beside: Path) -> Path:
    """Writes the request as `beside` with .tsq after its name. Raises MarkInvalid if that exists."""
    path = beside.with_name(beside.name + ".tsq")
    try:
        write_new(path, request_for(content))
    except FileExistsError:
        raise MarkInvalid(f"{path} exists; a request is not written over", hint="move it away, or use it") from None
    return path


def _der(tag: int, content: bytes) -> bytes:
    """One DER element of under 128 bytes."""
    assert len(content) < 128
    return bytes([tag, len(content)]) + content
