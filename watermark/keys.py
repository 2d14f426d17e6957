"""Key: 256 secret random bits, what may be said of them in public, and the subkeys drawn from them.

The secret never shows in `repr`, logs, errors or reports; the kid and the commitment may be published.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from watermark.errors import KeyUnusable

SECRET_BYTES = 32
SALT_BYTES = 16
STREAM_BYTES = SECRET_BYTES + SALT_BYTES + 8  # what a subkey is drawn from: secret, salt, kid
_COMMIT = b"wmark-commit-v1"
_DERIVE = b"wmark/v1"
_DECOY = b"wmark-decoy-v1"
_ENGINE = b"engine"  # what the secret of an engine's key begins with; whole words follow, so it never has 32 bytes


class Key:
    """One watermark secret: 256 bits, a public kid (16 hex digits), and a salt for its commitment.

    Immutable; equality compares the secrets in constant time. Raises KeyUnusable on a malformed part.
    """

    __slots__ = ("_salt", "_secret", "kid")
    kid: str
    _salt: bytes
    _secret: bytes

    def __init__(self, secret: bytes, *, kid: str, salt: bytes) -> None:
        if not isinstance(secret, bytes) or not (len(secret) == SECRET_BYTES or secret.startswith(_ENGINE)):
            raise KeyUnusable(f"a key has {SECRET_BYTES} bytes; make one with `wmark keygen`")
        if len(kid) != 16 or any(c not in "0123456789abcdef" for c in kid):
            raise KeyUnusable("a kid has 16 lower-case hexadecimal digits")
        if len(salt) != SALT_BYTES:
            raise KeyUnusable(f"a commitment salt has {SALT_BYTES} bytes, found {len(salt)}")
        object.__setattr__(self, "_secret", secret)
        object.__setattr__(self, "_salt", salt)
        object.__setattr__(self, "kid", kid)

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's random source."""
        return cls(os.urandom(SECRET_BYTES), kid=os.urandom(8).hex(), salt=os.urandom(SALT_BYTES))

    @classmethod
    def of_engine(cls, values: Sequence[int]) -> Key:
        """The key of an engine that keeps its own: one or more 64-bit integers, taken as they are.

        Such a key guards no more than the engine's does. Raises KeyUnusable for none, or for numbers beyond 64 bits.
        """
        if not values or any(not -(2**63) <= value < 2**64 for value in values):
            raise KeyUnusable("an engine's key is one or more integers of 64 bits")
        words = b"".join((value % 2**64).to_bytes(8, "little") for value in values)
        return cls(_ENGINE + words, kid=os.urandom(8).hex(), salt=os.urandom(SALT_BYTES))

    def engine_words(self, count: int, label: str) -> list[int]:
        """`count` unsigned 64-bit integers for an engine's keyed function.

        Of an engine's own key those that were given; of any other, decoys for instance, words drawn under the label.
        Raises KeyUnusable if an engine's key has another number of words.
        """
        if not self._secret.startswith(_ENGINE) or len(self._secret) == SECRET_BYTES:
            stream = hashlib.shake_256(self.derive(label)).digest(8 * count)
        else:
            stream = self._secret[len(_ENGINE) :]
        if len(stream) != 8 * count:
            raise KeyUnusable(f"this engine's key has {len(stream) // 8} numbers, its recipe needs {count}")
        return [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]

    @property
    def commitment(self) -> str:
        """SHA-256("wmark-commit-v1" | kid | salt | key) in hex; every field has a fixed length.

        Publishing it (with a date) fixes the key; opening it later needs kid, salt and key.
        """
        return hashlib.sha256(_COMMIT + self.kid.encode() + self._salt + self._secret).hexdigest()

    def derive(self, scheme: str) -> bytes:
        """The 256-bit subkey that one scheme works with: HKDF-SHA-256 (RFC 5869) under the scheme's label."""
        return hkdf(self._secret, info=_DERIVE + _prefixed("scheme") + _prefixed(scheme), length=SECRET_BYTES)

    def subkey(self, *, tenant: str = "", epoch: str = "") -> Key:
        """The key of one tenant (API account) and epoch, drawn from this one; the key itself without either.

        Labels are length-prefixed, so no two pairs collide. kid and salt are drawn along with the secret.
        """
        if not tenant and not epoch:
            return self
        return Key.of_stream(hkdf(self._secret, info=subkey_label(tenant, epoch), length=STREAM_BYTES))

    @classmethod
    def of_stream(cls, stream: bytes) -> Key:
        """The key in 56 derived bytes: secret, salt, kid. Raises KeyUnusable for another number."""
        if len(stream) != STREAM_BYTES:
            raise KeyUnusable(f"a key is drawn from {STREAM_BYTES} bytes, found {len(stream)}")
        return cls(stream[:32], salt=stream[32:48], kid=stream[48:].hex())

    def _export(self) -> tuple[bytes, bytes]:
        """(secret, salt), for the watermark file alone."""
        return self._secret, self._salt

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key) or (self.kid, self._salt) != (other.kid, other._salt):
            return False
        return hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.kid)

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, commitment={self.commitment[:16]!r}…)"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a key cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a key cannot be changed")

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Key:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a key is not pickled; save its watermark to a file instead")


def decoy_keys(seed: bytes, count: int) -> Iterator[Key]:
    """`count` keys that marked nothing, reproducible by anyone who knows the public `seed`.

    Each is HKDF-SHA-256(seed, index). `detect` seeds with a digest of the observations, so that nobody
    can choose decoys that suit.
    """
    for index in range(count):
        stream = hkdf(seed, info=_DECOY + index.to_bytes(8, "big"), length=SECRET_BYTES + SALT_BYTES)
        secret, salt = stream[:SECRET_BYTES], stream[SECRET_BYTES:]
        yield Key(secret, kid=f"{index:016x}", salt=salt)


def hkdf(secret: bytes, *, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """HKDF with SHA-256, RFC 5869 sections 2.2 and 2.3. length: at most 8,160 bytes."""
    pseudo_random = hkdf_extract(secret, salt)
    return hkdf_expand(lambda message: hmac.digest(pseudo_random, message, "sha256"), info=info, length=length)


def hkdf_extract(secret: bytes, salt: bytes = b"") -> bytes:
    """The pseudo-random key of a secret, RFC 5869 section 2.2: 32 bytes."""
    return hmac.digest(salt or bytes(32), secret, "sha256")


def hkdf_expand(mac: Callable[[bytes], bytes], *, info: bytes, length: int) -> bytes:
    """RFC 5869 section 2.3. mac: HMAC-SHA-256 under the pseudo-random key, wherever that key is kept."""
    output, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = mac(block + info + bytes([counter]))
        output += block
    return output[:length]


def subkey_label(tenant: str, epoch: str) -> bytes:
    """The HKDF label under which the key of a tenant and epoch is drawn: every part with its length before it."""
    return _DERIVE + b"".join(_prefixed(label) for label in ("account", tenant, epoch))


def _prefixed(label: str) -> bytes:
    raw = label.encode()
    return len(raw).to_bytes(4, "big") + raw
