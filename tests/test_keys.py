"""Keys: derived as RFC 5869 has it, committed to as the docstring says, and never shown."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import logging
import pickle
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark import keys
from watermark.errors import KeyUnusable, WatermarkError
from watermark.keys import Key, decoy_keys, hkdf
from watermark.mark import Watermark, save_profile
from watermark.schemes import GreenList

SECRET, SALT, KID = bytes(range(100, 132)), bytes(range(16)), "0123456789abcdef"


@pytest.fixture
def secret_key() -> Key:
    return Key(SECRET, kid=KID, salt=SALT)


def shows_secret(shown: str | bytes) -> bool:
    """Whether `shown` holds the secret raw, in hex, in base64 or as Python or JSON would print it."""
    raw = shown if isinstance(shown, bytes) else shown.encode("utf-8", "surrogateescape")
    forms = [SECRET, SECRET.hex().encode(), SECRET.hex().upper().encode(), repr(SECRET)[2:-1].encode()]
    forms += [
        base64.b64encode(SECRET)[:-2],
        base64.urlsafe_b64encode(SECRET)[:-2],
        str(list(SECRET)).encode(),
    ]
    forms += [base64.b32encode(SECRET)[:40], str(int.from_bytes(SECRET, "big")).encode()]
    return any(form in raw for form in forms)


RFC_5869 = [  # appendix A: ikm, salt, info, length, okm
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize("secret, salt, info, length, expected", RFC_5869)
def test_hkdf_gives_the_vectors_of_rfc_5869(secret, salt, info, length, expected):
    found = hkdf(bytes.fromhex(secret), info=bytes.fromhex(info), length=length, salt=bytes.fromhex(salt))
    assert found.hex() == expected


def test_commitment_is_the_documented_hash(secret_key):
    expected = hashlib.sha256(b"wmark-commit-v1" + KID.encode() + SALT + SECRET).hexdigest()
    assert secret_key.commitment == expected


def test_commitment_binds_kid_salt_and_secret(secret_key):
    others = [
        Key(SECRET, kid="f" * 16, salt=SALT),
        Key(SECRET, kid=KID, salt=bytes(16)),
        Key(bytes(32), kid=KID, salt=SALT),
    ]
    assert len({key.commitment for key in [secret_key, *others]}) == 4


def test_scheme_subkey_is_hkdf_under_the_scheme_label(secret_key):
    info = b"wmark/v1" + b"\x00\x00\x00\x06scheme" + b"\x00\x00\x00\x0bgreenlist/1"
    assert secret_key.derive("greenlist/1") == hkdf(SECRET, info=info, length=32)


def test_nothing_printed_shows_the_secret(secret_key, binding, caplog):
    mark = Watermark(GreenList(), secret_key, binding)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("key %s, %r, in %s", secret_key, secret_key, {"mark": mark})
    shown = [repr(secret_key), str(secret_key), f"{secret_key}", f"{secret_key!a:>200}", repr([secret_key])]
    shown += [repr(mark), str(mark), json.dumps(mark.profile()), secret_key.commitment, caplog.text]
    assert KID in repr(secret_key)
    assert not any(map(shows_secret, shown))


def test_the_check_for_shown_secrets_can_fail():
    shown = [SECRET, SECRET.hex(), base64.b64encode(SECRET), repr(SECRET), f"x{list(SECRET)}"]
    assert all(map(shows_secret, shown))


@pytest.mark.parametrize(
    "secret, kid, salt",
    [
        (SECRET + b"x", KID, SALT),
        (SECRET[:-1], KID, SALT),
        (SECRET.hex(), KID, SALT),
        (bytearray(SECRET), KID, SALT),
        (SECRET, KID.upper(), SALT),
        (SECRET, KID[:-1], SALT),
        (SECRET, SECRET.hex(), SALT),
        (SECRET, KID, SECRET),
        (SECRET, KID, b""),
    ],
)
def test_malformed_part_is_refused_without_showing_the_secret(secret, kid, salt):
    with pytest.raises(KeyUnusable) as caught:
        Key(secret, kid=kid, salt=salt)
    assert not shows_secret("".join(traceback.format_exception_only(caught.value)))


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored | {"key": stored["key"][:-1]},
        lambda stored: stored | {"key": stored["key"] + "zz"},
        lambda stored: stored | {"key": [stored["key"]]},
        lambda stored: stored | {"kid": stored["key"]},
        lambda stored: stored | {"salt": stored["key"]},
        lambda stored: stored | {"salt": "00" * 16},
        lambda stored: {k: v for k, v in stored.items() if k != "kid"},
        lambda stored: stored | {"scheme": {"name": "greenlist", "version": 1, "parameters": {"gamma": 2}}},
        lambda stored: stored | {"tokenizer": {"digest": stored["key"]}},
    ],
)
def test_damaged_watermark_file_is_refused_without_showing_the_secret(change, secret_key, binding, tmp_path):
    path = tmp_path / "damaged.wmark"
    Watermark(GreenList(), secret_key, binding).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(WatermarkError) as caught:
        Watermark.load(path)
    assert not shows_secret("".join(traceback.format_exception(caught.value)))


def test_published_profile_does_not_hold_the_secret_or_the_salt(secret_key, binding, tmp_path):
    path = tmp_path / "mark.profile.json"
    save_profile(Watermark(GreenList(), secret_key, binding), path)
    assert not shows_secret(path.read_bytes())
    assert SALT.hex() not in path.read_text()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_key_is_not_pickled(secret_key, binding, protocol):
    for thing in (secret_key, Watermark(GreenList(), secret_key, binding)):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(thing, protocol)
        assert not shows_secret(str(caught.value))


def test_key_cannot_be_changed(secret_key):
    for name in ("kid", "_secret", "_salt", "anything"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(secret_key, name, "x")
    with pytest.raises(AttributeError):
        del secret_key.kid
    assert secret_key.kid == KID
    assert not hasattr(secret_key, "__dict__")


def test_copies_are_the_key_itself(secret_key):
    assert copy.copy(secret_key) is secret_key
    assert copy.deepcopy({"key": secret_key})["key"] is secret_key


def test_equality_compares_in_constant_time(secret_key, monkeypatch):
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert secret_key == Key(SECRET, kid=KID, salt=SALT)
    assert secret_key != Key(bytes(32), kid=KID, salt=SALT)
    assert compared == [(SECRET, SECRET), (SECRET, bytes(32))]


def test_equal_keys_hash_alike(secret_key):
    same = [Key(SECRET, kid=KID, salt=SALT), Key(SECRET, kid="f" * 16, salt=bytes(16))]
    for other in same:
        assert other != secret_key or hash(other) == hash(secret_key)


def test_key_is_equal_to_nothing_else(secret_key):
    assert secret_key != SECRET
    assert secret_key != SECRET.hex()


def test_generated_keys_differ():
    made = [Key.generate() for _ in range(50)]
    assert len({key.kid for key in made}) == 50
    assert len({key.commitment for key in made}) == 50
    assert len({key.derive("s") for key in made}) == 50


labels = st.tuples(st.text(max_size=6), st.text(max_size=6))


@given(st.lists(labels, min_size=2, max_size=8, unique=True))
@settings(deadline=None)
def test_no_two_pairs_of_labels_share_a_subkey(pairs):
    root = Key(SECRET, kid=KID, salt=SALT)
    made = [root.subkey(tenant=tenant, epoch=epoch) for tenant, epoch in pairs]
    assert len({key.derive("s") for key in made}) == len(pairs)
    assert len({key.kid for key in made}) == len(pairs)


def test_labels_are_length_prefixed(secret_key):
    made = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a", "b\x00c"), ("a\x00b", "c")]
    assert len({secret_key.subkey(tenant=t, epoch=e).derive("s") for t, e in made}) == len(made)


def test_without_labels_the_subkey_is_the_key(secret_key):
    assert secret_key.subkey() is secret_key
    assert secret_key.subkey(tenant="a") != secret_key


def test_subkeys_look_unrelated(secret_key):
    """Hamming distances of 256-bit strings: mean 128, standard deviation 8; a family bound of four sigma."""
    made = [secret_key.subkey(tenant=str(i)).derive("greenlist/1") for i in range(60)]
    made += [secret_key.derive(f"scheme/{i}") for i in range(60)] + [SECRET]
    bits = np.array([np.unpackbits(np.frombuffer(subkey, np.uint8)) for subkey in made]).astype(int)
    apart = np.array([(bits[i] != bits[j]).sum() for i in range(len(made)) for j in range(i)])
    assert abs(apart.mean() - 128) < 3 * 8 / np.sqrt(len(apart)) * 2
    assert apart.min() > 128 - 6 * 8


def test_decoys_are_reproducible_distinct_and_seeded():
    first = [key.derive("s") for key in decoy_keys(b"seed", 500)]
    assert first == [key.derive("s") for key in decoy_keys(b"seed", 500)]
    assert first[:20] == [key.derive("s") for key in decoy_keys(b"seed", 20)]
    other = [key.derive("s") for key in decoy_keys(b"Seed", 500)]
    assert len({*first, *other}) == 1_000


def test_decoy_is_hkdf_of_seed_and_index():
    stream = hkdf(b"seed", info=b"wmark-decoy-v1" + (7).to_bytes(8, "big"), length=48)
    expected = Key(stream[:32], kid=f"{7:016x}", salt=stream[32:])
    found = list(decoy_keys(b"seed", 8))[7]
    assert hmac.compare_digest(found.commitment, expected.commitment)


def test_watermark_file_is_private_and_never_overwritten(secret_key, binding, tmp_path):
    path = tmp_path / "a.wmark"
    mark = Watermark(GreenList(), secret_key, binding)
    mark.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Watermark.load(path) == mark
    with pytest.raises(WatermarkError, match="never overwritten"):
        mark.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        Watermark.load(path)


def test_an_engines_key_is_taken_as_it_is():
    key = Key.of_engine([15485863, -1])
    assert key.engine_words(2, "hf") == [15485863, 2**64 - 1]
    assert "15485863" not in repr(key)
    with pytest.raises(KeyUnusable, match="has 2 numbers, its recipe needs 1"):
        key.engine_words(1, "hf")
    for bad in ([], [2**64], [-(2**63) - 1]):
        with pytest.raises(KeyUnusable, match="64 bits"):
            Key.of_engine(bad)


def test_any_other_key_draws_an_engines_words_under_a_label():
    key = Key.generate()
    assert key.engine_words(3, "a") == key.engine_words(3, "a")
    assert key.engine_words(3, "a") != key.engine_words(3, "b")
    assert len(set(key.engine_words(30, "a"))) == 30
