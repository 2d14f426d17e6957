"""Keys that sign a case, Ed25519 or ECDSA on P-256: PEM or OpenSSH, and whom a signature is of: PEM, SSH line, X.509.

A key's id is the SHA-256 of its public key in DER (SubjectPublicKeyInfo), in hex: `openssl pkey -pubin -outform DER |
sha256sum` gives it, from a certificate `openssl x509 -pubkey -noout` before it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.bundle.layout import read_limited
from watermark.errors import BundleInvalid, ExtraMissing, KeyUnusable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    Private = Ed25519PrivateKey | EllipticCurvePrivateKey
    Public = Ed25519PublicKey | EllipticCurvePublicKey

_MOST = 1 << 16
_NEEDED = "what signs here is Ed25519, or ECDSA on P-256"
_MAKE = (
    "make one with `openssl genpkey -algorithm ed25519 -out signer.pem`, `openssl genpkey -algorithm EC -pkeyopt "
    "ec_paramgen_curve:P-256 -out signer.pem` or `ssh-keygen -t ed25519`"
)


@dataclass(frozen=True)
class Identity:
    """A public key, and the PEM that shows it: the key alone, or a certificate, whose holder is then `name`."""

    keyid: str
    pem: bytes
    name: str

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this is the key's signature of the message."""
        from cryptography.exceptions import InvalidSignature

        public: Any = _public(self.pem, "the signer's file")
        try:
            public.verify(signature, message, *([] if _is_ed25519(public) else [_ecdsa()]))
        except InvalidSignature:
            return False
        return True


def signed(key: Private, message: bytes) -> bytes:
    """The key's signature of a message: the same bytes each time, also of ECDSA (RFC 6979) where the library can."""
    from cryptography.exceptions import UnsupportedAlgorithm

    if _is_ed25519(key):
        return key.sign(message)  # type: ignore[call-arg, return-value, unused-ignore]
    other: Any = key
    try:
        found: bytes = other.sign(message, _ecdsa(repeats=True))
    except (UnsupportedAlgorithm, TypeError):
        found = other.sign(message, _ecdsa())
    return found


def load_signer(path: Path, *, password: bytes | None = None) -> Private:
    """A private key from a PEM (PKCS#8) or OpenSSH file. Raises KeyUnusable.

    password: of an encrypted file; by default what WMARK_SIGNER_PASSWORD holds. It is never taken from a command line.
    """
    _library()
    from cryptography.hazmat.primitives import serialization

    content = _private(path)
    given = password if password is not None else (os.environ.get("WMARK_SIGNER_PASSWORD", "").encode() or None)
    ssh = b"OPENSSH PRIVATE KEY" in content
    read: Any = serialization.load_ssh_private_key if ssh else serialization.load_pem_private_key
    encrypted = b"ENCRYPTED" in content
    try:
        key = read(content, password=given if encrypted or ssh else None)
    except TypeError:
        raise KeyUnusable(
            f"{path} is encrypted, and no password was given", hint="put it into WMARK_SIGNER_PASSWORD"
        ) from None
    except Exception:  # the library's errors may quote what they read
        raise KeyUnusable(f"{path} cannot be read as a private key: another format, or a wrong password") from None
    if not _signs(key):
        raise KeyUnusable(f"{path} holds a key of another kind; {_NEEDED}", hint=_MAKE)
    found: Private = key
    return found


def identity_of(key: Private, certificate: Path | None = None) -> Identity:
    """Whom signatures under this key belong to. Raises KeyUnusable for a certificate of another key."""
    own = _identity(_public_pem(key.public_key()))
    if certificate is None:
        return own
    shown = load_identity(certificate)
    if shown.keyid != own.keyid:
        raise KeyUnusable(
            f"{certificate} is for the key {shown.keyid[:16]}…, the signing key is {own.keyid[:16]}…",
            hint="pass the certificate that was issued for this key",
        )
    return shown


def by_those_named(good: Sequence[Identity], wanted: Sequence[Path], threshold: int) -> str:
    """How many of the good signatures are by signers that were named, in words for the end of a sentence.

    wanted: their public keys or certificates. Raises BundleInvalid if fewer than `threshold` of them have signed.
    """
    if not wanted:
        return "NOT CHECKED: whose keys these are (--signer)"
    named = {load_identity(path).keyid for path in wanted} & {who.keyid for who in good}
    if len(named) < threshold:
        raise BundleInvalid(f"{len(named)} of the signers that were named have signed, {threshold} are needed")
    return f"{len(named)} of them are by signers that were named, {threshold} needed"


def load_identity(path: Path) -> Identity:
    """From a public key in PEM, an OpenSSH public key line, or an X.509 certificate in PEM. Raises BundleInvalid."""
    _library()
    content = read_limited(path, str(path), most=_MOST)
    if content.startswith((b"ssh-", b"ecdsa-")):
        from cryptography.hazmat.primitives import serialization

        try:
            public = serialization.load_ssh_public_key(content)
        except Exception:  # errors of many kinds
            raise BundleInvalid(f"{path} is no readable SSH public key") from None
        if not _signs(public):
            raise BundleInvalid(f"{path} holds a key of another kind; {_NEEDED}")
        return _identity(_public_pem(public))
    return read_identity(content, str(path))


def read_identity(content: bytes, name: str) -> Identity:
    """From PEM as it stands in a bundle, which has one form. Raises BundleInvalid."""
    _library()
    return _identity(content, name)


def _identity(pem: bytes, name: str = "the key") -> Identity:
    from cryptography.hazmat.primitives import serialization

    public = _public(pem, name)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    keyid = hashlib.sha256(der).hexdigest()
    if b"BEGIN CERTIFICATE" not in pem:
        return Identity(keyid, _public_pem(public), "a key without a certificate")
    from cryptography import x509

    found = x509.load_pem_x509_certificate(pem)
    return Identity(keyid, found.public_bytes(serialization.Encoding.PEM), found.subject.rfc4514_string())


def _public(pem: bytes, name: str) -> Public:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        if b"BEGIN CERTIFICATE" in pem:
            public: Any = x509.load_pem_x509_certificate(pem).public_key()
        else:
            public = serialization.load_pem_public_key(pem)
    except Exception:  # errors of many kinds
        raise BundleInvalid(f"{name} is no readable public key or certificate") from None
    if not _signs(public):
        raise BundleInvalid(f"{name} holds a key of another kind; {_NEEDED}")
    found: Public = public
    return found


def _signs(key: Any) -> bool:
    """Whether a key, private or public, is of a kind that signs here."""
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = isinstance(key, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)) and key.curve.name
    return _is_ed25519(key) or curve == "secp256r1"


def _is_ed25519(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    return isinstance(key, (Ed25519PrivateKey, Ed25519PublicKey))


def _ecdsa(*, repeats: bool = False) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return ec.ECDSA(SHA256(), deterministic_signing=True) if repeats else ec.ECDSA(SHA256())


def _public_pem(public: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    found: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _private(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = read_limited(path, str(path), most=_MOST)
    except OSError as error:
        raise KeyUnusable(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise KeyUnusable(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    return content


def _library() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError:
        raise ExtraMissing("cryptography", "evidence", "signing and checking signatures") from None
