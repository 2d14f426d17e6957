"""Where masters are kept: each place gives the bytes that the file gives, and what it refuses is said in words."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import subprocess
from pathlib import Path

import keyring
import numpy as np
import pytest
from keyring.backend import KeyringBackend
from keyring_tools import BINDING, a_key, age_by_hand, fixed_set, holds, identity, write_private

from watermark.errors import ExtraMissing, KeyUnusable
from watermark.keyring import FileProvider, KeyringProvider, MacProvider, drawn, kms, pkcs11, unlock
from watermark.keyring.sealing import Identity, Passphrase
from watermark.keyring.unlock import new_passphrase, secret_for
from watermark.keys import hkdf, hkdf_extract
from watermark.mark import Watermark
from watermark.schemes import GreenList

MASTER = a_key(b"a master")
SECRET = MASTER._export()[0]
PHRASE = "correct horse battery"
LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")


class Memory(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


class Locked(Memory):
    def get_password(self, service, username):
        raise keyring.errors.KeyringLocked(f"cannot unlock {username}")


@pytest.fixture
def memory():
    before, found = keyring.get_keyring(), Memory()
    keyring.set_keyring(found)
    yield found
    keyring.set_keyring(before)


class Refused(Exception):
    """As botocore's ClientError: it quotes what was asked."""


class FakeKms:
    """GenerateMac of AWS KMS, API version 2014-11-01: parameters, limits, refusals and the shape of the answer.

    A key of spec HMAC_256 and usage GENERATE_VERIFY_MAC computes HMAC_SHA_256 and nothing else.
    """

    ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    def __init__(self, material: bytes, *, usage: str = "GENERATE_VERIFY_MAC") -> None:
        assert len(material) == 32
        self._material, self._usage, self.asked = material, usage, []

    def generate_mac(self, *, KeyId, MacAlgorithm, Message, GrantTokens=(), DryRun=False):
        self.asked.append(Message)
        if KeyId not in (self.ARN, self.ARN.split("/")[1], "alias/wmark"):
            raise Refused(f"NotFoundException: {KeyId}")
        if not isinstance(Message, bytes) or not 1 <= len(Message) <= 4096:
            raise Refused("ValidationException: Message must have between 1 and 4096 bytes")
        if self._usage != "GENERATE_VERIFY_MAC":
            raise Refused(f"InvalidKeyUsageException on {Message!r}")
        if MacAlgorithm != "HMAC_SHA_256":
            raise Refused("InvalidKeyUsageException")
        mac = hmac.digest(self._material, Message, hashlib.sha256)
        return {"Mac": mac, "MacAlgorithm": MacAlgorithm, "KeyId": self.ARN, "ResponseMetadata": {}}


def test_a_provider_s_key_is_the_master_s_subkey():
    provider = FileProvider(MASTER)
    assert drawn(provider, epoch="2027") == MASTER.subkey(epoch="2027")
    assert drawn(provider, epoch="2027", tenant="acme") == MASTER.subkey(epoch="2027", tenant="acme")
    assert provider.derive(b"label", 100) == hkdf(SECRET, info=b"label", length=100)
    with pytest.raises(KeyUnusable, match="name an epoch, a tenant or both"):
        drawn(provider)


def test_a_mark_works_with_a_provider_s_key_as_with_any():
    """The keyed function's words come from what the provider derived; a file's own key stays as it was."""
    plain = Watermark(GreenList(), MASTER.subkey(epoch="e"), BINDING, "2026-01-01T00:00:00+00:00")
    kept = drawn(kms(FakeKms(hkdf_extract(SECRET)), "alias/wmark"), epoch="e")
    made = Watermark(GreenList(), kept, BINDING, plain.created)
    assert made == plain
    assert made.profile() == plain.profile()
    cells = np.arange(200).reshape(100, 2), np.arange(100)
    assert (made.score(*cells) == plain.score(*cells)).all()


def test_a_short_answer_of_a_provider_is_refused():
    class Short:
        def derive(self, label: bytes, n: int) -> bytes:
            return bytes(n - 1)

    with pytest.raises(KeyUnusable, match="gave 55 bytes, asked for were 56"):
        drawn(Short(), epoch="e")


# ---- the operating system's keyring


def test_the_keyring_keeps_a_master_that_no_other_process_sees(memory):
    made = KeyringProvider.make("ours")
    assert drawn(made, epoch="e") == drawn(KeyringProvider("ours"), epoch="e")
    assert drawn(made, epoch="e") != drawn(made, epoch="f")
    (kept,) = memory.kept.values()
    assert kept not in repr(made) + str(vars(made))
    with pytest.raises(KeyUnusable, match="not overwritten"):
        KeyringProvider.make("ours")
    assert list(memory.kept) == [("wmark", "ours")]


def test_a_keyring_that_cannot_be_used_says_so(memory):
    with pytest.raises(KeyUnusable, match="no entry 'ours'"):
        KeyringProvider("ours").derive(b"x", 1)
    memory.set_password("wmark", "ours", "no secret at all")
    with pytest.raises(KeyUnusable, match="is no master secret") as refused:
        KeyringProvider("ours").derive(b"x", 1)
    assert "no secret at all" not in str(refused.value)
    keyring.set_keyring(Locked())
    with pytest.raises(KeyUnusable, match=r"cannot be used \(KeyringLocked\)"):
        KeyringProvider("ours").derive(b"x", 1)


def test_without_the_keyring_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    with pytest.raises(ExtraMissing) as refused:
        KeyringProvider("ours").derive(b"x", 1)
    assert refused.value.hint == "pip install 'wmark[keys]'"


def test_the_keyring_can_keep_a_set_s_passphrase(memory, tmp_path):
    made = new_passphrase("ours.jwks.age", entry="ours")
    assert memory.kept == {("wmark", "ours"): made.text}
    assert len(made.text) >= 43
    assert secret_for("ours.jwks.age", by_passphrase=True, entry="ours") == made
    with pytest.raises(KeyUnusable, match="not overwritten"):
        new_passphrase("ours.jwks.age", entry="ours")
    with pytest.raises(KeyUnusable, match="no entry 'other'"):
        secret_for("ours.jwks.age", by_passphrase=True, entry="other")


# ---- where a passphrase comes from


def test_a_person_is_asked_once_to_open_and_twice_to_seal(monkeypatch):
    for name in (unlock.PASSPHRASE, unlock.PASSPHRASE_FILE, unlock.IDENTITY, unlock.ENTRY):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []
    answers = iter([PHRASE, PHRASE, PHRASE, PHRASE, "something else"])

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    assert secret_for("ours", by_passphrase=True, ask=ask) == Passphrase(PHRASE)
    assert new_passphrase("ours", ask=ask) == Passphrase(PHRASE)
    assert asked == ["Passphrase of ours: ", "New passphrase for ours: ", "The same again: "]
    with pytest.raises(KeyUnusable, match="two passphrases differ; nothing was written") as refused:
        new_passphrase("ours", ask=ask)
    assert PHRASE not in str(refused.value)


def test_sources_of_a_secret_are_tried_in_their_order(monkeypatch, tmp_path):
    write_private(tmp_path / "file", b"from the file, a line\n")
    write_private(tmp_path / "named", b"from the named file\n")
    monkeypatch.setenv(unlock.PASSPHRASE, "from the environment")
    assert secret_for("s", by_passphrase=True).text == "from the environment"
    monkeypatch.setenv(unlock.PASSPHRASE_FILE, str(tmp_path / "named"))
    assert secret_for("s", by_passphrase=True).text == "from the named file"
    assert secret_for("s", by_passphrase=True, passphrase_file=tmp_path / "file").text == "from the file, a line"
    monkeypatch.setenv(unlock.IDENTITY, "id.txt")
    assert secret_for("s", by_passphrase=False) == Identity(Path("id.txt"))
    assert secret_for("s", by_passphrase=False, identity=Path("given")) == Identity(Path("given"))
    assert secret_for("s", by_passphrase=True).text == "from the named file"


@pytest.mark.parametrize("content, says", [(b"two\nlines of it\n", "is one line"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_that_is_no_passphrase_is_refused_without_it(tmp_path, content, says):
    path = write_private(tmp_path / "phrase", content)
    with pytest.raises(KeyUnusable, match=says) as refused:
        secret_for("s", by_passphrase=True, passphrase_file=path)
    assert "lines of it" not in str(refused.value)


# ---- services that compute an HMAC and never give the key away


def test_kms_gives_what_the_file_gives_and_is_asked_for_macs_alone():
    service = FakeKms(hkdf_extract(SECRET))
    provider = kms(service, FakeKms.ARN)
    assert drawn(provider, epoch="2027", tenant="acme") == MASTER.subkey(epoch="2027", tenant="acme")
    assert provider.derive(b"label", 77) == hkdf(SECRET, info=b"label", length=77)
    assert len(service.asked) == 2 + 3  # one for each 32 bytes
    assert not any(holds(SECRET, message) for message in service.asked)


def test_what_a_service_refuses_is_said_without_what_was_asked():
    for provider in (
        kms(FakeKms(hkdf_extract(SECRET)), "alias/another"),
        kms(FakeKms(hkdf_extract(SECRET), usage="ENCRYPT_DECRYPT"), "alias/wmark"),
    ):
        with pytest.raises(KeyUnusable, match=r"refused to compute an HMAC \(Refused\)") as refused:
            drawn(provider, epoch="a very private label")
        assert "private label" not in str(refused.value) + str(refused.value.__cause__)


@pytest.mark.parametrize("mac", [lambda m: b"short", lambda m: "a" * 32, lambda m: None])
def test_an_answer_that_is_no_hmac_is_refused(mac):
    with pytest.raises(KeyUnusable, match="did not answer with an HMAC-SHA-256"):
        drawn(MacProvider(mac), epoch="e")


def test_another_algorithm_s_answer_is_refused():
    class Other(FakeKms):
        def generate_mac(self, **asked):
            return super().generate_mac(**asked) | {"MacAlgorithm": "HMAC_SHA_512"}

    with pytest.raises(KeyUnusable, match="answered with 'HMAC_SHA_512'"):
        drawn(kms(Other(hkdf_extract(SECRET)), "alias/wmark"), epoch="e")


def test_a_label_too_long_for_a_service_is_refused_before_it_is_asked():
    service = FakeKms(hkdf_extract(SECRET))
    with pytest.raises(KeyUnusable, match="shorten the tenant's name"):
        drawn(kms(service, "alias/wmark"), tenant="x" * 5000)
    assert service.asked == []


# ---- a real PKCS#11 token, in software


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A SoftHSM token that keeps the pseudo-random key of our master, and one session on it."""
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("no SoftHSM here (Debian: apt-get install softhsm2)")
    api = pytest.importorskip("pkcs11")
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "wmark", "--pin", "1234", "--so-pin", "5678"],
        check=True, capture_output=True,
    )  # fmt: skip
    with api.lib(library).get_token(token_label="wmark").open(user_pin="1234", rw=True) as session:
        session.create_object(
            {
                api.Attribute.CLASS: api.ObjectClass.SECRET_KEY,
                api.Attribute.KEY_TYPE: api.KeyType.GENERIC_SECRET,
                api.Attribute.LABEL: "master",
                api.Attribute.VALUE: hkdf_extract(SECRET),
                api.Attribute.SIGN: True,
                api.Attribute.SENSITIVE: True,
                api.Attribute.EXTRACTABLE: False,
                api.Attribute.TOKEN: True,
            }
        )
        yield session
    del os.environ["SOFTHSM2_CONF"]


def test_a_token_gives_what_the_file_gives_and_keeps_its_key(token):
    import pkcs11 as api

    assert drawn(pkcs11(token, "master"), epoch="2027", tenant="acme") == MASTER.subkey(epoch="2027", tenant="acme")
    (kept,) = token.get_objects({api.Attribute.LABEL: "master"})
    with pytest.raises(api.exceptions.AttributeSensitive):
        kept[api.Attribute.VALUE]


def test_a_label_that_the_token_lacks_is_named(token):
    with pytest.raises(KeyUnusable, match="has 0 secret keys labelled 'another', needed is one"):
        pkcs11(token, "another")


def test_without_the_pkcs11_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pkcs11", None)
    with pytest.raises(ExtraMissing) as refused:
        pkcs11(None, "master")
    assert refused.value.hint == "pip install 'wmark[hsm]'"


def test_a_set_drawn_by_hand_opens_with_the_secret_that_a_source_gave(tmp_path, monkeypatch):
    """From the keyring's entry to the keys: what `wmark key show --keyring` does."""
    from watermark.keyring import open_keys

    keys = fixed_set(b"entry", 1)
    write_private(tmp_path / "s.jwks.age", age_by_hand(keys.content(), PHRASE))
    monkeypatch.setenv(unlock.PASSPHRASE, PHRASE)
    assert open_keys(tmp_path / "s.jwks.age", secret_for("s", by_passphrase=True)) == keys
    opener, _ = identity(tmp_path)
    with pytest.raises(KeyUnusable, match="given is an identity"):
        open_keys(tmp_path / "s.jwks.age", opener)
