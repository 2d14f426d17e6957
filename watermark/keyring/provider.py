"""Where a master secret is kept, and how keys are drawn from it there: a file, the OS keyring, a KMS, a PKCS#11 token.

A provider answers one question: so many bytes under a label, HKDF-SHA-256 with the master as input. `drawn` asks it for
the key of one epoch or tenant, which is an ordinary `Key`: what a Watermark works with, what is committed to, and what
is opened before an expert. The master is never committed to, never opened, and need not leave the place that keeps it.

A place that offers HMAC-SHA-256 and no HKDF is enough: if it keeps the pseudo-random key of a secret (RFC 5869,
`keys.hkdf_extract`), expanding there gives the bytes that the file gives, so a master can move without a new mark.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from watermark.errors import ExtraMissing, KeyUnusable, WatermarkError
from watermark.keys import SECRET_BYTES, STREAM_BYTES, Key, hkdf, hkdf_expand, subkey_label

SERVICE = "wmark"
_MOST = 4096  # bytes of a message: the limit of AWS KMS, the lowest there is


class KeyProvider(Protocol):
    """Keeps a master secret. derive: n bytes, the same each time, under a label; 1 <= n <= 8,160.

    Bytes under different labels look independent to anybody who lacks the master. Raises KeyUnusable where the secret
    cannot be reached.
    """

    def derive(self, label: bytes, n: int) -> bytes: ...


def drawn(provider: KeyProvider, *, epoch: str = "", tenant: str = "") -> Key:
    """The key of an epoch or a tenant: `Key.subkey` of the master, wherever the master is.

    Raises KeyUnusable without either label, for the master itself marks nothing, and as the provider does.
    """
    if not epoch and not tenant:
        raise KeyUnusable("a provider's key is drawn under a label; name an epoch, a tenant or both")
    stream = provider.derive(subkey_label(tenant, epoch), STREAM_BYTES)
    if len(stream) != STREAM_BYTES:
        raise KeyUnusable(f"the provider gave {len(stream)} bytes, asked for were {STREAM_BYTES}")
    return Key.of_stream(stream)


class FileProvider:
    """A master that was read from a file: the plain case, and the law for all others."""

    def __init__(self, master: Key) -> None:
        self._master = master

    def derive(self, label: bytes, n: int) -> bytes:
        return hkdf(self._master._export()[0], info=label, length=n)

    def __repr__(self) -> str:
        return f"FileProvider(kid={self._master.kid!r})"


class KeyringProvider:
    """A master in the operating system's keyring (macOS Keychain, Windows Credential Locker, Secret Service).

    name: of the entry under the service "wmark". It is read anew for each key and not kept.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def make(cls, name: str) -> KeyringProvider:
        """Puts a new master into the keyring. Raises KeyUnusable if the name is taken: no secret is overwritten."""
        ring = _keyring()
        if _asked(ring.get_password, name) is not None:
            raise KeyUnusable(f"the keyring has an entry {name!r} already; it is not overwritten")
        _asked(ring.set_password, name, _text(os.urandom(SECRET_BYTES)))
        return cls(name)

    def derive(self, label: bytes, n: int) -> bytes:
        found = _asked(_keyring().get_password, self.name)
        if found is None:
            raise KeyUnusable(
                f"the keyring has no entry {self.name!r} of the service {SERVICE!r}",
                hint="make one with KeyringProvider.make, as the same user",
            )
        return hkdf(_secret(found, self.name), info=label, length=n)

    def __repr__(self) -> str:
        return f"KeyringProvider({self.name!r})"


@dataclass(frozen=True)
class MacProvider:
    """A master that never leaves its place: HKDF is expanded there, an HMAC-SHA-256 for each 32 bytes.

    mac: HMAC-SHA-256 of a message under the kept key; see `kms` and `pkcs11`. name: for messages, without the secret.
    """

    mac: Callable[[bytes], bytes]
    name: str = "the key service"

    def derive(self, label: bytes, n: int) -> bytes:
        if len(label) + 33 > _MOST:
            raise KeyUnusable(f"a label has at most {_MOST - 33} bytes, found {len(label)}; shorten the tenant's name")
        return hkdf_expand(self._checked, info=label, length=n)

    def _checked(self, message: bytes) -> bytes:
        try:
            code = self.mac(message)
        except WatermarkError:
            raise
        except Exception as error:  # each service has errors of its own, and what they say may quote the request
            raise KeyUnusable(
                f"{self.name} refused to compute an HMAC ({type(error).__name__})",
                hint="may these credentials use the key, and is its use GENERATE_VERIFY_MAC or signing?",
            ) from None
        if not isinstance(code, bytes) or len(code) != 32:
            raise KeyUnusable(f"{self.name} did not answer with an HMAC-SHA-256 of 32 bytes")
        return code


def kms(client: Any, key_id: str) -> MacProvider:
    """An HMAC_256 key of AWS KMS. client: `boto3.client("kms")`, or what answers `generate_mac` as it does.

    The key's usage is GENERATE_VERIFY_MAC; `kms:GenerateMac` is all that the caller needs to be allowed. Other
    services go by the same shape: Google Cloud KMS's `MacSign`, Vault's `transit/hmac`.
    """

    def mac(message: bytes) -> bytes:
        answer = client.generate_mac(KeyId=key_id, MacAlgorithm="HMAC_SHA_256", Message=message)
        if answer.get("MacAlgorithm") != "HMAC_SHA_256":
            raise KeyUnusable(f"KMS answered with {answer.get('MacAlgorithm')!r}, asked for was HMAC_SHA_256")
        return bytes(answer["Mac"])

    return MacProvider(mac, f"KMS key {key_id}")


def pkcs11(session: Any, label: str) -> MacProvider:
    """A secret key on a PKCS#11 token. session: an open one of python-pkcs11; label: of the key, CKK_GENERIC_SECRET
    or CKK_SHA256_HMAC, with CKA_SIGN. Raises KeyUnusable if the token has none of that label, or several."""
    try:
        from pkcs11 import Attribute, Mechanism, ObjectClass
    except ImportError:
        raise ExtraMissing("python-pkcs11", "hsm", "a key on a PKCS#11 token") from None
    sought = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}
    found = list(session.get_objects(sought))
    if len(found) != 1:
        raise KeyUnusable(
            f"the token has {len(found)} secret keys labelled {label!r}, needed is one",
            hint="is the session logged in? private objects are hidden before",
        )
    key = found[0]
    return MacProvider(lambda message: bytes(key.sign(message, mechanism=Mechanism.SHA256_HMAC)), f"token key {label}")


def keep_in_keyring(name: str, secret: str) -> None:
    """Puts a text, a set's passphrase, into the keyring. Raises KeyUnusable if the name is taken."""
    ring = _keyring()
    if _asked(ring.get_password, name) is not None:
        raise KeyUnusable(f"the keyring has an entry {name!r} already; it is not overwritten")
    _asked(ring.set_password, name, secret)


def from_keyring(name: str) -> str | None:
    """The text that the keyring keeps under a name, None if it has none."""
    found: str | None = _asked(_keyring().get_password, name)
    return found


def _keyring() -> Any:
    try:
        import keyring
    except ImportError:
        raise ExtraMissing("keyring", "keys", "the operating system's keyring") from None
    return keyring


def _asked(call: Callable[..., Any], *arguments: str) -> Any:
    """A call to the keyring, its errors in words and without what was passed."""
    try:
        return call(SERVICE, *arguments)
    except Exception as error:  # every backend has errors of its own
        raise KeyUnusable(
            f"the operating system's keyring cannot be used ({type(error).__name__})",
            hint="is it unlocked, and is there one on this machine? a sealed file needs none",
        ) from None


def _text(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")


def _secret(text: str, name: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != SECRET_BYTES:
        raise KeyUnusable(f"the keyring's entry {name!r} is no master secret ({SECRET_BYTES} bytes in base64url)")
    return raw
