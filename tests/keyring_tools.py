"""What the tests of keys share: identities, sets of fixed keys, and every form in which a secret might show."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
import subprocess
import sys
from pathlib import Path

from watermark.keyring import Identity, KeySet
from watermark.keyring.keyset import Epoch
from watermark.keyring.provider import FileProvider, drawn
from watermark.keys import Key, decoy_keys, hkdf
from watermark.mark import Binding
from watermark.schemes import GreenList

BINDING = Binding("0" * 64, 512, (511,))
DAY = 86_400
THEN = 1_767_225_600  # 2026-01-01, midnight UTC


def identity(folder: Path, name: str = "identity.txt") -> tuple[Identity, str]:
    """A new age identity in a file of its own, and its recipient."""
    import pyrage

    made = pyrage.x25519.Identity.generate()
    write_private(folder / name, f"# made for a test\n{made}\n".encode())
    return Identity(folder / name), str(made.to_public())


def age_by_hand(content: bytes, passphrase: str, *, log_n: int = 6) -> bytes:
    """A file sealed by a passphrase, from age-encryption.org/v1 (C2SP), with few rounds so that tests are quick."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    file_key, salt, nonce = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
    b64 = lambda raw: base64.b64encode(raw).decode().rstrip("=")  # noqa: E731
    wrap = hashlib.scrypt(
        passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=1 << log_n, r=8, p=1, dklen=32
    )
    body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
    header = f"age-encryption.org/v1\n-> scrypt {b64(salt)} {log_n}\n{b64(body)}\n---".encode()
    mac = hmac.digest(hkdf(file_key, info=b"header", length=32), header, "sha256")
    payload = hkdf(file_key, salt=nonce, info=b"payload", length=32)
    assert len(content) <= 1 << 16, "one chunk"
    chunk = ChaCha20Poly1305(payload).encrypt(bytes(11) + b"\x01", content, None)
    return header + f" {b64(mac)}\n".encode() + nonce + chunk


def write_private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def fixed_set(
    name: bytes, epochs: int, *, scheme: GreenList | None = None, binding: Binding | None = BINDING
) -> KeySet:
    """A set whose keys are the same each time."""
    master = next(iter(decoy_keys(b"master " + name, 1)))
    kept = []
    for n in range(epochs):
        label = f"epoch-{n}"
        ends = THEN + (n + 1) * DAY if n + 1 < epochs else None
        key = drawn(FileProvider(master), epoch=label)
        kept.append(Epoch(label, key, master.kid, "2026-01-01T00:00:00+00:00", THEN + n * DAY, ends))
    return KeySet("0123456789abcdef", scheme or GreenList(), binding, (master,), tuple(kept))


def secrets_of(keys: KeySet) -> list[bytes]:
    return [key._export()[0] for key in (*keys.masters, *(e.key for e in keys.epochs))]


def forms(secret: bytes) -> list[bytes]:
    """The secret raw, in hex, base64, base32, as Python and as JSON would print it."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret)[:-2],
        base64.urlsafe_b64encode(secret)[:-2],
        base64.b32encode(secret)[:40],
        repr(secret)[2:-1].encode(),
        str(list(secret)).encode(),
        ", ".join(map(str, secret)).encode(),
        str(int.from_bytes(secret, "big")).encode(),
    ]


def holds(secret: bytes, shown: bytes) -> bool:
    return any(form in shown for form in forms(secret))


def files_under(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def modes(folder: Path, pattern: str) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.glob(pattern)}


def wmark(*arguments: object, cwd: Path, env: dict[str, str] | None = None, typed: bytes | None = None):
    """Runs the command as a user would, its temporary files in the same folder."""
    (cwd / "tmp").mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WMARK_")}
    return subprocess.run(
        [sys.executable, "-m", "wmark_cli", *map(str, arguments)],
        cwd=cwd, env=clean | {"TMPDIR": str(cwd / "tmp")} | (env or {}), input=typed if typed is not None else b"",
        capture_output=True, timeout=120,
    )  # fmt: skip


def a_key(name: bytes) -> Key:
    return next(iter(decoy_keys(name, 1)))
