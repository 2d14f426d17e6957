"""Key sets: drawn as Key.subkey has it, only ever added to, sealed so that only what should opens them does."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import traceback

import pytest
from keyring_tools import (
    BINDING,
    DAY,
    THEN,
    a_key,
    age_by_hand,
    files_under,
    fixed_set,
    holds,
    identity,
    modes,
    secrets_of,
    write_private,
)

from watermark.errors import ExtraMissing, KeyUnusable, MarkInvalid
from watermark.keyring import (
    Commitments,
    Identity,
    KeySet,
    Passphrase,
    change,
    open_keys,
    read_commitments,
    recipient_of,
    save_new,
    sealing,
    store,
)
from watermark.keyring.commitments import heads
from watermark.keyring.sealing import sealed, unsealed
from watermark.schemes import GreenList

PHRASE = Passphrase("correct horse battery")


@pytest.fixture
def kept(tmp_path):
    """A sealed set on disk: its path, identity and keys."""
    opener, recipient = identity(tmp_path)
    keys = dataclasses.replace(fixed_set(b"kept", 2), recipients=(recipient,))
    save_new(keys, tmp_path / "ours.jwks.age")
    return tmp_path / "ours.jwks.age", opener, keys


@pytest.fixture(scope="module")
def by_phrase():
    """A set sealed by a passphrase as age's specification has it, by a hand that is not ours."""
    keys = fixed_set(b"by phrase", 1)
    return keys, age_by_hand(keys.content(), PHRASE.text)


# ---- what a set is


def test_an_epochs_key_is_the_masters_subkey():
    keys = KeySet.new(GreenList(), BINDING, epoch="2027", now=THEN)
    assert keys.epochs[0].key == keys.masters[0].subkey(epoch="2027")
    assert keys.watermark(keys.epochs[0], tenant="acme").key == keys.epochs[0].key.subkey(tenant="acme")


def test_rotating_keeps_all_keys_and_ends_the_one_before():
    first = KeySet.new(GreenList(), BINDING, now=THEN)
    second = first.rotated(starts=THEN + DAY, now=THEN + 9)
    assert second.epochs[0] == dataclasses.replace(first.epochs[0], exp=THEN + DAY)
    assert [e.label for e in second.epochs] == ["2026-01-01", "2026-01-02"]
    assert second.masters == first.masters
    assert second.generation == first.generation + 1
    assert second.serving(THEN + DAY - 1) is second.epochs[0]
    assert second.serving(THEN + DAY) is second.epochs[1]
    assert [e.status(THEN + 9) for e in second.epochs] == ["active", "planned"]
    assert [e.status(THEN + DAY) for e in second.epochs] == ["retired", "active"]


def test_a_second_epoch_of_the_same_day_has_a_label_of_its_own():
    keys = KeySet.new(GreenList(), BINDING, now=THEN).rotated(now=THEN).rotated(now=THEN)
    assert [e.label for e in keys.epochs] == ["2026-01-01", "2026-01-01.2", "2026-01-01.3"]
    assert keys.serving(THEN) is keys.epochs[-1]


def test_a_fresh_master_draws_what_the_old_one_cannot():
    keys = KeySet.new(GreenList(), BINDING, now=THEN).rotated("b", fresh=True, now=THEN + 1)
    assert len(keys.masters) == 2
    assert keys.epochs[1].master == keys.masters[1].kid
    assert keys.epochs[1].key != keys.masters[0].subkey(epoch="b")
    assert KeySet.of_content(keys.content(), name="x") == keys


def test_a_revoked_key_serves_no_more_and_stays():
    keys = KeySet.new(GreenList(), BINDING, epoch="a", now=THEN).rotated("b", revoke="a", now=THEN + 5)
    assert [e.status(THEN + 5) for e in keys.epochs] == ["revoked", "active"]
    with pytest.raises(KeyUnusable, match=r"no key of the set .* is active.*b \(revoked\)"):
        keys.revoking("b").serving(THEN + 5)


@pytest.mark.parametrize(
    "step, says",
    [
        (lambda k: k.rotated("a", now=THEN + 5), "used once"),
        (lambda k: k.rotated("b", starts=THEN, now=THEN + 5), "cannot begin in the past"),
        (lambda k: k.rotated("b", starts=THEN + 9, expires=THEN + 9, now=THEN + 5), "before it begins"),
        (lambda k: k.rotated("b c", now=THEN + 5), "letters, digits"),
        (lambda k: k.rotated("b", starts=THEN + 99, now=THEN).rotated("c", now=THEN + 5), "begins later"),
        (lambda k: k.rotated("b", revoke="z", now=THEN + 5), "has no epoch 'z'; it has a"),
    ],
)
def test_times_and_labels_that_make_no_epoch_are_refused(step, says):
    with pytest.raises(KeyUnusable, match=says):
        step(KeySet.new(GreenList(), BINDING, epoch="a", now=THEN))


def test_a_set_is_a_jwk_set():
    stored = json.loads(fixed_set(b"jwk", 2).content(THEN + DAY))
    for jwk in stored["keys"]:
        assert (jwk["kty"], jwk["alg"]) == ("oct", "WM-HKDF-SHA256")
        assert len(base64.urlsafe_b64decode(jwk["k"] + "=")) == 32
        assert len(jwk["kid"]) == 16
    master, first, second = stored["keys"]
    assert (master["wm"]["role"], first["wm"]["from"]) == ("master", master["kid"])
    assert (first["nbf"], first["exp"], first["status"]) == (THEN, THEN + DAY, "retired")
    assert (second["nbf"], second.get("exp"), second["status"]) == (THEN + DAY, None, "active")


def _edited(keys, edit):
    stored = json.loads(keys.content())
    edit(stored)
    return json.dumps(stored).encode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s["keys"][1].update(k=s["keys"][2]["k"]),
        lambda s: s["keys"][1]["wm"].update(epoch="another"),
        lambda s: s["keys"][1]["wm"].update({"from": "f" * 16}),
        lambda s: s["keys"].pop(0),
        lambda s: s["keys"].append(s["keys"][1]),
        lambda s: s.update(keys=s["keys"][:1]),
        lambda s: s["keys"][1].pop("nbf"),
        lambda s: s["keys"][1].update(kty="RSA"),
        lambda s: s.update(format="wmark-keys/9"),
        lambda s: s.update(prf="another"),
    ],
)
def test_a_set_whose_keys_do_not_belong_together_is_refused_without_them(edit):
    keys = fixed_set(b"edited", 2)
    with pytest.raises(MarkInvalid) as refused:
        KeySet.of_content(_edited(keys, edit), name="ours.jwks.age")
    told = "".join(traceback.format_exception(refused.value)).encode()
    assert not any(holds(secret, told) for secret in secrets_of(keys))


def test_nothing_that_prints_a_set_prints_a_secret(caplog):
    keys = fixed_set(b"printed", 2)
    with caplog.at_level(logging.DEBUG):
        logging.warning("%s %r %s", keys, keys.epochs[0], keys.commitments())
    shown = "".join([repr(keys), str(keys), repr(keys.epochs), repr(keys.masters), repr(PHRASE), caplog.text])
    shown += json.dumps(keys.commitments().to_json()) + repr(keys.watermark(keys.epochs[0]))
    assert not any(holds(secret, shown.encode()) for secret in secrets_of(keys))
    assert PHRASE.text not in shown


# ---- sealing


def test_a_sealed_set_opens_to_what_it_was(kept):
    path, opener, keys = kept
    assert open_keys(path, opener) == keys
    assert modes(path.parent, "*.jwks.age") == {0o600}


def test_a_passphrase_opens_and_another_does_not(by_phrase, tmp_path):
    keys, content = by_phrase
    path = write_private(tmp_path / "ours.jwks.age", content)
    assert open_keys(path, PHRASE) == keys
    with pytest.raises(KeyUnusable, match=r"^the passphrase does not open ours.jwks.age$"):
        open_keys(path, Passphrase("correct horse batter?"))


@pytest.mark.slow
def test_what_is_sealed_by_a_passphrase_here_costs_a_guesser_a_second():
    """scrypt with 2^18 rounds at the least: 256 MB and most of a second for each guess, and for us, as it should."""
    content = sealed(b"content", passphrase=PHRASE)
    assert int(content.splitlines()[1].split()[3]) >= 18
    assert unsealed(content, PHRASE, name="x") == b"content"


def test_an_identity_for_a_passphrase_and_the_reverse_are_told_apart(by_phrase, kept, tmp_path):
    path, opener, _ = kept
    with pytest.raises(KeyUnusable, match="sealed to recipients, given is a passphrase"):
        open_keys(path, PHRASE)
    with pytest.raises(KeyUnusable, match="sealed by a passphrase, given is an identity"):
        open_keys(write_private(tmp_path / "p.jwks.age", by_phrase[1]), opener)


def test_a_stranger_s_identity_does_not_open_it(kept, tmp_path):
    path, _, _ = kept
    other, _ = identity(tmp_path, "other.txt")
    with pytest.raises(KeyUnusable, match="other.txt does not open ours.jwks.age"):
        open_keys(path, other)


def test_each_of_several_recipients_opens_it(tmp_path):
    (one, first), (two, second) = identity(tmp_path, "1.txt"), identity(tmp_path, "2.txt")
    keys = dataclasses.replace(fixed_set(b"several", 1), recipients=(first, second))
    save_new(keys, tmp_path / "ours.jwks.age")
    assert open_keys(tmp_path / "ours.jwks.age", one) == open_keys(tmp_path / "ours.jwks.age", two) == keys


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_an_ssh_key_seals_and_opens(tmp_path, kind):
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "id"], check=True)
    recipient = recipient_of(str(tmp_path / "id.pub"))
    keys = dataclasses.replace(fixed_set(b"ssh", 1), recipients=(recipient,))
    save_new(keys, tmp_path / "ours.jwks.age")
    assert open_keys(tmp_path / "ours.jwks.age", Identity(tmp_path / "id")) == keys
    assert len(recipient.split()) == 2  # the comment, a name and a machine, is not kept


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_ssh_keys_that_cannot_be_used_are_refused_in_words(kept, tmp_path):
    path, _, _ = kept
    for kind, phrase, name in (("ed25519", "abc", "locked"), ("ecdsa", "", "curve")):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", tmp_path / name], check=True)
    with pytest.raises(KeyUnusable, match="a passphrase of its own"):
        open_keys(path, Identity(tmp_path / "locked"))
    with pytest.raises(KeyUnusable, match="holds no usable identity"):
        open_keys(path, Identity(tmp_path / "curve"))
    with pytest.raises(KeyUnusable, match="should hold one public key"):
        recipient_of(str(tmp_path / "curve.pub"))
    with pytest.raises(KeyUnusable, match="age1xyz… cannot be used as a recipient"):
        recipient_of("age1xyz")


def test_a_private_key_is_no_recipient_and_is_not_repeated(tmp_path):
    opener, _ = identity(tmp_path)
    line = opener.path.read_text().splitlines()[1]
    with pytest.raises(KeyUnusable, match="private key") as refused:
        recipient_of(line)
    assert line[16:] not in str(refused.value)


def test_every_flipped_byte_of_a_sealed_set_is_refused_in_words(kept):
    """The header, its MAC and each chunk are authenticated; only a grease stanza's wording is not ours to judge."""
    path, opener, keys = kept
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        forged = bytearray(whole)
        forged[place] ^= 1
        with pytest.raises(KeyUnusable, match="not sealed with age|does not open|changed or cut short"):
            KeySet.of_content(unsealed(bytes(forged), opener, name="x"), name="x")
    assert open_keys(path, opener) == keys


def test_a_truncated_set_is_refused_in_words(kept):
    path, opener, _ = kept
    whole = path.read_bytes()
    for length in (0, 10, 60, len(whole) // 2, len(whole) - 1):
        with pytest.raises(KeyUnusable, match="not sealed with age|changed or cut short|does not open"):
            unsealed(whole[:length], opener, name="x")


def test_files_that_others_can_read_are_refused(kept):
    path, opener, _ = kept
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="mode 0640") as refused:
        open_keys(path, opener)
    assert refused.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    opener.path.chmod(0o644)
    with pytest.raises(KeyUnusable, match=r"identity.txt holds an identity and can be read by others \(mode 0644\)"):
        open_keys(path, opener)


def test_a_short_passphrase_is_refused_without_it():
    with pytest.raises(KeyUnusable, match="has 5 characters, needed are 12") as refused:
        Passphrase("sesam")
    assert "sesam" not in str(refused.value)


def test_a_set_is_sealed_one_way_or_not_at_all(tmp_path):
    keys = fixed_set(b"neither", 1)
    for options in ({}, {"recipients": ("age1x",), "passphrase": PHRASE}):
        with pytest.raises(KeyUnusable, match="name one of the two"):
            sealed(keys.content(), **options)
    with pytest.raises(KeyUnusable, match="name one of the two"):
        save_new(keys, tmp_path / "ours.jwks.age")
    assert files_under(tmp_path) == []


def test_without_pyrage_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyrage", None)
    with pytest.raises(ExtraMissing) as refused:
        sealed(b"x", passphrase=PHRASE)
    assert refused.value.hint == "pip install 'wmark[keys]'"


# ---- on disk


def test_a_set_is_never_written_over(kept):
    path, opener, keys = kept
    with pytest.raises(KeyUnusable, match="never overwritten"):
        save_new(dataclasses.replace(fixed_set(b"other", 1), recipients=keys.recipients), path)
    assert open_keys(path, opener) == keys
    with pytest.raises(KeyUnusable, match=r"ends in \.jwks\.age"):
        save_new(keys, path.with_name("ours.json"))


def test_rotating_on_disk_keeps_the_file_before(kept):
    path, opener, keys = kept
    before = path.read_bytes()
    changed = change(path, opener, lambda old: old.rotated("next"))
    assert open_keys(path, opener) == changed
    assert len(changed.epochs) == 3
    assert changed.recipients == keys.recipients
    assert path.with_name("ours.jwks.age.g1").read_bytes() == before
    assert modes(path.parent, "ours.*") == {0o600}
    change(path, opener, lambda old: old.rotated("after"))
    assert {p.name for p in path.parent.glob("ours*")} == {"ours.jwks.age", "ours.jwks.age.g1", "ours.jwks.age.g2"}


def test_a_set_sealed_by_a_passphrase_is_sealed_by_it_again(by_phrase, tmp_path, monkeypatch):
    _, content = by_phrase
    path, asked = write_private(tmp_path / "ours.jwks.age", content), []
    monkeypatch.setattr(store, "sealed", lambda c, **how: asked.append(how) or sealed(c, recipients=(RECIPIENT,)))
    change(path, PHRASE, lambda old: old.rotated("next"))
    assert asked == [{"recipients": (), "passphrase": PHRASE}]


RECIPIENT = "age17dudfpta55wtddzcqckd0a53tn3jmz7rdmsrjuu6zq23y3g9aupqa5lx0m"
STEPS = ("os.open", "os.fdopen", "os.fsync", "os.link", "os.replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_rotation_loses_nothing(kept, monkeypatch, step, after):
    """Stopped before or after each step on disk: the set opens, old or new, and the next rotation goes on."""
    path, opener, keys = kept
    real, name = getattr(os, step[3:]), step[3:]

    def stopping(*arguments, **options):
        if after:
            real(*arguments, **options)
        raise KeyboardInterrupt

    def rotating(old):
        monkeypatch.setattr(os, name, stopping)  # the set is read by now
        return old.rotated("next")

    with pytest.raises(KeyboardInterrupt):
        change(path, opener, rotating)
    monkeypatch.undo()
    found = open_keys(path, opener)
    assert {e.key for e in keys.epochs} <= {e.key for e in found.epochs}
    for leftover in files_under(path.parent):
        assert not any(holds(secret, leftover.read_bytes()) for secret in secrets_of(found))
    again = change(path, opener, lambda old: old.rotated("afterwards"))
    assert {e.key for e in found.epochs} < {e.key for e in again.epochs}


def test_a_set_that_another_process_changes_is_left_alone(kept):
    path, opener, _ = kept

    def meanwhile(old):
        with pytest.raises(KeyUnusable, match="being changed by another process"):
            change(path, opener, lambda now: now.rotated("second"))
        return old.rotated("first")

    assert [e.label for e in change(path, opener, meanwhile).epochs][-1] == "first"


def test_a_kept_generation_of_another_set_is_not_taken_for_ours(kept):
    path, opener, keys = kept
    path.with_name("ours.jwks.age.g1").write_bytes(b"another file")
    with pytest.raises(KeyUnusable, match="is another file"):
        change(path, opener, lambda old: old.rotated("next"))
    assert open_keys(path, opener) == keys


# ---- commitments


def test_commitments_hold_every_key_in_order_and_no_secret(kept, tmp_path):
    _, _, keys = kept
    public = keys.commitments()
    public.save(tmp_path / "c.json")
    assert read_commitments(tmp_path / "c.json") == public
    assert [key.commitment for key in public.keys] == [e.key.commitment for e in keys.epochs]
    assert not any(holds(secret, (tmp_path / "c.json").read_bytes()) for secret in secrets_of(keys))
    assert keys.commitments().published() == (tmp_path / "c.json").read_bytes()
    with pytest.raises(MarkInvalid, match="not written over"):
        public.save(tmp_path / "c.json")


def test_a_later_publication_extends_an_earlier_one():
    keys = fixed_set(b"chain", 2)
    later = keys.rotated("next", starts=THEN + 9 * DAY, revoke="epoch-0", now=THEN + 9 * DAY)
    later.commitments().check_extends(keys.commitments())
    with pytest.raises(MarkInvalid, match="does not hold the 3 keys"):
        keys.commitments().check_extends(later.commitments())


def test_a_key_left_out_put_in_or_moved_breaks_the_chain(tmp_path):
    keys = fixed_set(b"chain", 3)
    published = keys.commitments()
    first, second, third = published.keys
    extra = dataclasses.replace(third, kid=a_key(b"extra").kid, commitment=a_key(b"extra").commitment)
    for changed in ([first, third], [first, extra, second, third], [second, first, third]):
        forged = Commitments.of(published.set, published.mark, changed)
        with pytest.raises(MarkInvalid, match="does not hold the 3 keys"):
            forged.check_extends(published)
        dataclasses.replace(published, keys=changed).save(tmp_path / f"{len(changed)}{changed[0].epoch}.json")
        with pytest.raises(MarkInvalid, match="does not lead to the head"):
            read_commitments(tmp_path / f"{len(changed)}{changed[0].epoch}.json")


def test_another_scheme_is_another_set():
    keys = fixed_set(b"chain", 1)
    other = dataclasses.replace(keys, scheme=GreenList(gamma=0.5))
    with pytest.raises(MarkInvalid, match="differ in name, scheme"):
        other.commitments().check_extends(keys.commitments())
    assert heads(keys.name, other.profile(), [])[0] != heads(keys.name, keys.profile(), [])[0]


def test_the_sealing_room_names_no_secret_in_its_errors(kept, tmp_path):
    path, _, keys = kept
    other, _ = identity(tmp_path, "other.txt")
    try:
        open_keys(path, other)
    except KeyUnusable as error:
        told = "".join(traceback.format_exception(error)) + str(error.hint)
    assert other.path.read_text().splitlines()[1] not in told
    assert not any(holds(secret, told.encode()) for secret in secrets_of(keys))
    assert sealing.__doc__
