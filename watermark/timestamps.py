"""RFC 3161 time stamps: an authority's word that some bytes existed at a moment. One token stands beside each file.

A token is kept as the authority's whole answer (`.tsr`), which `openssl ts -verify -data FILE -in FILE.tsr -CAfile
AUTHORITY.pem` reads. Authorities: one on this machine (`openssl ts`, for tests and demonstrations: its word is the
owner's own), or one whose URL the user names; nothing else ever touches the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watermark.errors import BundleInvalid, ExtraMissing, WatermarkError
from watermark.files import sha256_of, write_new

SUFFIX = ".tsr"
_MOST = 1 << 20
_SECONDS = 30
_OID_SHA256 = "2.16.840.1.101.3.4.2.1"
_SETTINGS = """\
[ tsa ]
default_tsa = here
[ here ]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/authority.pem
certs = {folder}/authority.pem
signer_key = {folder}/authority.key
signer_digest = sha256
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ordering = no
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""
_REQUEST = """\
[ req ]
distinguished_name = name
x509_extensions = stamping
prompt = no
[ name ]
CN = a time-stamp authority on this machine
[ stamping ]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True)
class Stamp:
    """What a token says. time: UTC, ISO 8601. checked: it was verified against an authority's certificate."""

    time: str
    digest: str
    authority: str
    checked: bool


def stamp(path: Path, *, authority: str | Path, output: Path | None = None) -> tuple[Path, Stamp]:
    """Has an authority stamp a file; writes the token beside it (`FILE.tsr`, or `output`) and returns both.

    authority: an https or http address, or a folder that `local_authority` made. Raises BundleInvalid if the answer is
    not for this file, WatermarkError if the authority does not answer.
    """
    target = output or stamp_beside(path)
    if not path.is_file():
        raise WatermarkError(
            f"{path} is no file or bundle that could be stamped", hint="name a plan, a file of commitments, or a bundle"
        )
    if target.exists():
        raise BundleInvalid(f"{target} is there already; a time stamp is not written over")
    answer = token(sha256_of(path), authority=authority)
    found = read_stamp(answer, sha256_of(path), name=target.name)
    write_new(target, answer, mode=0o644)
    return target, found


def token(digest: str, *, authority: str | Path) -> bytes:
    """An authority's answer for a SHA-256 in hex. Raises as `stamp` does."""
    asked = _query(bytes.fromhex(digest))
    if str(authority).startswith(("https://", "http://")):
        return _fetched(str(authority), asked)
    return _answered(Path(authority), asked)


def read_stamp(
    answer: bytes, digest: str, *, authorities: list[Path] | None = None, name: str = "the time stamp"
) -> Stamp:
    """What a token says of a SHA-256 in hex. Raises BundleInvalid if it is for other bytes, or does not verify.

    authorities: certificates in PEM of those that are trusted; without them only the token's own form is read, and
    `checked` is False.
    """
    library = _library()
    try:
        response = library.decode_timestamp_response(answer)
        info = response.tst_info
        said, when = info.message_imprint.message, info.gen_time
        granted = response.status in (0, 1) and info.message_imprint.hash_algorithm.dotted_string == _OID_SHA256
    except Exception:  # errors of many kinds, and of a library written in another language
        raise BundleInvalid(f"{name} is no readable RFC 3161 time stamp") from None
    if not granted:
        raise BundleInvalid(f"{name}: the authority did not grant a stamp over a SHA-256")
    if said.hex() != digest:
        raise BundleInvalid(f"{name} is for other bytes: it names SHA-256 {said.hex()[:16]}…, needed {digest[:16]}…")
    if authorities:
        _verify(response, bytes.fromhex(digest), authorities, name)
    told = str(info.name.value.rfc4514_string()) if info.name is not None and hasattr(info.name, "value") else "unnamed"
    return Stamp(when.astimezone(UTC).isoformat(timespec="seconds"), digest, told, bool(authorities))


def local_authority(folder: Path) -> Path:
    """Makes a time-stamp authority in an empty folder, with `openssl`; its certificate is `authority.pem`."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "authority.pem").exists():
        return folder
    (folder / "request.cnf").write_text(_REQUEST)
    (folder / "serial").write_text("01\n")
    old = os.umask(0o077)
    try:
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", folder / "authority.key")
    finally:
        os.umask(old)
    _openssl(
        "req", "-new", "-x509", "-key", folder / "authority.key", "-days", "3650", "-sha256",
        "-config", folder / "request.cnf", "-out", folder / "authority.pem",
    )  # fmt: skip
    return folder


def stamp_beside(path: Path) -> Path:
    """Where the time stamp of a file stands: `.tsr` added to its name."""
    return path.with_name(path.name + SUFFIX)


def openssl() -> str | None:
    """Where openssl is, if it is."""
    return shutil.which("openssl")


def moment(told: str) -> datetime:
    """A time as written here, in UTC where it names no zone. Raises BundleInvalid for what is no time."""
    try:
        found = datetime.fromisoformat(told)
    except (ValueError, TypeError):
        raise BundleInvalid(f"{told!r} is no time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_stamp_file(path: Path, digest: str, *, authorities: list[Path] | None = None) -> Stamp:
    """What the token in a file says of a SHA-256 in hex. Raises as `read_stamp`."""
    return read_stamp(_read(path), digest, authorities=authorities, name=path.name)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST:
            raise BundleInvalid(f"{path} is longer than a time stamp or a certificate can be")
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{path} cannot be read: {error.strerror}") from None


def _query(digest: bytes) -> bytes:
    """A request in DER (RFC 3161, section 2.4.1) over a SHA-256 with a random nonce, asking for the certificate."""
    imprint = _tlv(0x30, _tlv(0x30, bytes.fromhex("0609608648016503040201") + b"\x05\x00") + _tlv(0x04, digest))
    nonce = _tlv(0x02, b"\x01" + os.urandom(8))
    return _tlv(0x30, b"\x02\x01\x01" + imprint + nonce + b"\x01\x01\xff")


def _tlv(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content  # all parts are shorter than 128 bytes


def _answered(folder: Path, asked: bytes) -> bytes:
    if not (folder / "authority.pem").exists():
        raise WatermarkError(
            f"{folder} is no time-stamp authority of this machine",
            hint="name an authority's address, or make one here with `wmark evidence authority FOLDER`",
        )
    with tempfile.TemporaryDirectory(prefix="wmark-") as place:
        query, answer, settings = Path(place) / "query", Path(place) / "answer", Path(place) / "settings"
        query.write_bytes(asked)
        settings.write_text(_SETTINGS.format(folder=folder.resolve()))
        _openssl("ts", "-reply", "-config", settings, "-queryfile", query, "-out", answer)
        return answer.read_bytes()


def _fetched(address: str, asked: bytes) -> bytes:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address, asked, {"Content-Type": "application/timestamp-query"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            found: bytes = answer.read(_MOST + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise WatermarkError(f"the time-stamp authority at {address} did not answer: {error}") from None
    if len(found) > _MOST:
        raise BundleInvalid(f"the answer of {address} is longer than a time stamp can be")
    return found


def _verify(response: Any, digest: bytes, authorities: list[Path], name: str) -> None:
    import rfc3161_client
    from cryptography import x509

    reason = ""
    for path in authorities:  # one by one: two authorities may bear one name
        builder = rfc3161_client.VerifierBuilder()
        try:
            found = x509.load_pem_x509_certificates(_read(path))
        except ValueError:
            raise BundleInvalid(f"{path} is no certificate in PEM") from None
        for certificate in found:
            builder = builder.add_root_certificate(certificate)
        try:
            builder.build().verify(response, digest)
        except rfc3161_client.VerificationError as error:
            reason = str(error)
            continue
        return
    raise BundleInvalid(f"{name} was not given by the named authority: {reason}")


def _openssl(*arguments: str | Path) -> None:
    found = openssl()
    if found is None:
        raise WatermarkError("openssl is needed for a time-stamp authority on this machine", hint="install openssl")
    ran = subprocess.run([found, *map(str, arguments)], capture_output=True)
    if ran.returncode != 0:
        last = ran.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no reason given"]
        raise WatermarkError(f"openssl {arguments[0]} failed: {last[0]}")


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError:
        raise ExtraMissing("rfc3161-client", "evidence", "reading time stamps") from None
    return rfc3161_client
