"""What is fixed before the first question: the plan, signed and stamped by itself, and the keys that were published."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import casework
import pytest
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.bundle import bundle, local_authority, sign, sign_file, stamp, timestamp, verify_bundle, verify_file
from watermark.bundle import standalone as alone
from watermark.bundle.make import check
from watermark.detect import detect
from watermark.errors import BundleInvalid, PlanMismatch, WatermarkError
from watermark.evidence import Evidence
from watermark.mark import Watermark

pytest.importorskip("cryptography")
pytest.importorskip("rfc3161_client")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return casework.build(tmp_path_factory.mktemp("case"), answers=8, tokens=30)


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """The same without a plan."""
    return casework.build(tmp_path_factory.mktemp("free"), answers=8, tokens=30, planned=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return local_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    """Two keys: Ed25519, and ECDSA on P-256 with a certificate."""
    folder = tmp_path_factory.mktemp("signers")
    casework.signing_key(folder / "ed25519.pem")
    casework.signing_key(folder / "p256.pem", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    casework.certificate(folder / "p256.pem", folder / "p256.crt")
    return folder


def _plan(case, folder: Path) -> Path:
    shutil.copyfile(case.file("plan.json"), folder / "plan.json")
    return folder / "plan.json"


# The plan by itself.


def test_a_plan_is_signed_and_stamped_by_itself_and_the_bundle_takes_both(case, signers, authority, tmp_path):
    plan = _plan(case, tmp_path)
    target, keyid = sign_file(plan, signers / "ed25519.pem")
    sign_file(plan, signers / "p256.pem", certificate=signers / "p256.crt")
    with pytest.raises(BundleInvalid, match="has signed plan.json already"):
        sign_file(plan, signers / "ed25519.pem")
    told = {check.name: check.detail for check in verify_file(plan)}
    assert "NOT CHECKED: whose keys these are" in told["signatures"]
    assert "its maker's word" in told["time stamp"]
    both = [signers / "ed25519.pub", signers / "p256.crt"]
    told = {check.name: check.detail for check in verify_file(plan, signers=both, threshold=2)}
    assert "2 of them are by signers that were named" in told["signatures"]
    made = bundle(case.file("evidence.json"), tmp_path / "A.bag", **case.given() | {"plan": plan})
    assert (made / "data/plan.json.sig.json").read_bytes() == target.read_bytes()
    said = dict(check(made))
    assert keyid[:16] in said["plan"]
    assert "the query log names the plan" in said["dates"]
    assert "the plan is of 2026-03-01T12:00:00+00:00, by its own word alone" in said["dates"]


def test_a_signature_over_another_plan_is_refused(case, signers, tmp_path):
    plan = _plan(case, tmp_path)
    sign_file(plan, signers / "ed25519.pem")
    envelope = tmp_path / "plan.json.sig.json"
    kept = envelope.read_bytes()
    for change, words in (
        (lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"][:-4] + "AAA="), "not good|base64"),
        (lambda e: e["signatures"][0].update(keyid="0" * 64), "is not good"),
        (lambda e: e.update(payload="e30="), "is over another plan.json"),
        (lambda e: e.update(note="x"), "not in its one form|cannot be read"),
        (lambda e: e.update(payloadType="text/plain"), "not in its one form"),
    ):
        found = json.loads(kept)
        change(found)
        envelope.write_bytes(alone.canonical(found) + b"\n")
        if "note" in found:
            envelope.write_bytes(json.dumps(found).encode())
        with pytest.raises(BundleInvalid, match=words):
            verify_file(plan)
    found = json.loads(kept)
    found["signatures"][0]["sig"] = "A" * 86 + "=="
    envelope.write_bytes(alone.canonical(found) + b"\n")
    with pytest.raises(BundleInvalid, match="the signature of the plan by .* is not good: forged"):
        bundle(case.file("evidence.json"), tmp_path / "A.bag", **case.given() | {"plan": plan})
    envelope.unlink()
    with pytest.raises(BundleInvalid, match="is not signed, and signatures were asked for"):
        verify_file(plan, signers=[signers / "ed25519.pub"])
    with pytest.raises(BundleInvalid, match="bears no time stamp, and one was asked for"):
        verify_file(plan, authorities=[signers / "p256.crt"])
    with pytest.raises(BundleInvalid, match="neither a bundle nor a plan nor commitments"):
        sign_file(case.file("answers.jsonl"), signers / "ed25519.pem")


def test_an_ecdsa_key_signs_a_bundle_and_a_stranger_checks_it(case, signers, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    made = [bundle(case.file("evidence.json"), tmp_path / f"{n}.bag", **case.given()) for n in range(2)]
    keyids = {sign(one, signers / "p256.pem", certificate=signers / "p256.crt") for one in made}
    first, second = ((one / "attestation.dsse.json").read_bytes() for one in made)
    assert first == second  # RFC 6979
    (signed,) = keyids
    verify_bundle(made[0], signers=[signers / "p256.pub"])
    ran = subprocess.run(
        [sys.executable, "-I", alone.__file__, str(made[0]), "--signer", str(signers / "p256.pub")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert f"signatures are good, by the keys {signed[:16]}" in ran.stdout
    assert "1 of them are by signers that were named" in ran.stdout
    readme = (made[0] / "data/README.txt").read_text()
    assert "-digest sha256" in readme


def test_the_authority_of_the_plan_is_asked_for_too(case, signers, authority, tmp_path):
    """A plan that an authority of the maker's own stamped does not pass for one that the named authority did."""
    late = casework.build(tmp_path / "late", answers=8, tokens=30)
    own = local_authority(tmp_path / "own")
    stamp(late.file("plan.json"), authority=own)
    evidence = Evidence.load(late.file("evidence.json"))
    later = replace(evidence, plan=evidence.plan | {"status": "exploratory"})  # stamped today, after the answers
    later.save(tmp_path / "later.json")
    made = bundle(tmp_path / "later.json", tmp_path / "A.bag", **late.given())
    sign(made, signers / "ed25519.pem")
    timestamp(made, authority)
    verify_bundle(made, authorities=[authority / "authority.pem", own / "authority.pem"])
    with pytest.raises(BundleInvalid, match="the time stamp of the plan was not given by the named authority"):
        verify_bundle(made, authorities=[authority / "authority.pem"])


def test_evidence_whose_questions_were_asked_under_another_plan_is_refused(case, tmp_path):
    other = casework.build(tmp_path / "other", answers=8, tokens=30, plan_made="2026-03-01T11:00:00+00:00")
    found = Evidence.load(case.file("evidence.json"))
    stated = Evidence.load(other.file("evidence.json")).plan
    replace(found, plan=stated).save(tmp_path / "swapped.json")
    given = case.given() | {"plan": other.file("plan.json")}
    with pytest.raises(BundleInvalid, match="plans were swapped, and the run cannot be called confirmatory"):
        bundle(tmp_path / "swapped.json", tmp_path / "A.bag", **given)
    with pytest.raises(PlanMismatch, match="the questions were asked under another plan"):
        detect(case.file("answers.jsonl"), case.mark, tokenizer=case.tokenizer, plan=other.file("plan.json"), decoys=99)


# The keys that were published.


def test_the_bundle_carries_what_was_published_and_counts_the_keys_in_force(case, free, tmp_path):
    one = bundle(
        free.file("evidence.json"), tmp_path / "A.bag", **free.given() | {"plan": None},
        commitments=casework.published(free, tmp_path, 1),
    )  # fmt: skip
    assert "1 of 1 keys in force were tested" in dict(check(one))["commitments"]
    planned = bundle(
        case.file("evidence.json"),
        tmp_path / "B.bag",
        **case.given(),
        commitments=casework.published(case, tmp_path, 3),
    )
    told = dict(check(planned))
    assert "1 of 3 keys in force were tested, the one that the plan named beforehand" in told["commitments"]
    assert "custody" in told
    assert "commitments, plan, probe" in told["custody"]
    verify_bundle(planned, mark=case.file("ours.wmark"))


def test_a_second_key_in_force_that_is_not_disclosed_is_named(free, tmp_path):
    with pytest.raises(BundleInvalid, match=r"3 keys were in force, and the evidence tells of 1: key 0{16} \(epoch"):
        bundle(
            free.file("evidence.json"), tmp_path / "A.bag", **free.given() | {"plan": None},
            commitments=casework.published(free, tmp_path, 3),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"own": False}, "is none of the 2 published ones: it was not committed to"),
        ({"created": "2026-03-04T00:00:00+00:00"}, "published with another date"),
    ],
)
def test_a_key_that_was_not_committed_to_before_is_refused(change, words, free, tmp_path):
    with pytest.raises(BundleInvalid, match=words):
        bundle(
            free.file("evidence.json"), tmp_path / "A.bag", **free.given() | {"plan": None},
            commitments=casework.published(free, tmp_path, 2, **change),
        )  # fmt: skip


def test_a_commitment_younger_than_the_first_question_is_refused(free, authority, tmp_path):
    """By its own date, and by its stamp whatever its own date says."""
    published = casework.published(free, tmp_path, 1)
    stamp(published, authority=authority)  # today, long after the answers
    given = free.given() | {"plan": None}
    with pytest.raises(BundleInvalid, match="the commitment of a tested key is younger .* by a time stamp of"):
        bundle(free.file("evidence.json"), tmp_path / "A.bag", **given, commitments=published)
    late = casework.build(tmp_path / "late", answers=8, tokens=30, planned=False, mark_made="2026-03-02T11:00:00+00:00")
    published = casework.published(late, tmp_path / "late", 1, created="2026-03-02T11:00:00+00:00")
    with pytest.raises(BundleInvalid, match="the key is younger .* it could have been chosen to fit the answers"):
        bundle(late.file("evidence.json"), tmp_path / "B.bag", **late.given() | {"plan": None}, commitments=published)


def test_commitments_that_were_changed_are_refused(free, tmp_path):
    made = bundle(
        free.file("evidence.json"), tmp_path / "A.bag", **free.given() | {"plan": None},
        commitments=casework.published(free, tmp_path, 1),
    )  # fmt: skip
    index, evidence = alone.read_json(made, "data/case.json"), alone.read_json(made, "data/evidence.json")
    kept = alone.read_json(made, "data/commitments.json")
    body = {name: value for name, value in kept.items() if name != "digest"}
    for change, words in (
        ({"set": "f" * 16}, "do not lead to their head"),
        ({"keys": []}, "do not lead to their head"),
        ({"mark": body["mark"] | {"prf": "other"}, "keys": body["keys"]}, "do not lead to their head"),
        (None, "do not match their digest"),
    ):
        found = body | (change or {"set": "f" * 16})
        found["digest"] = alone.sha256(alone.canonical(found)) if change else kept["digest"]
        (made / "data/commitments.json").write_bytes(alone.canonical(found) + b"\n")
        with pytest.raises(alone.Wrong, match=words):
            alone.check_commitments(made, index, evidence)


# The command line.


def test_a_session_from_plan_to_bundle_reads_like_a_terminal(case, signers, authority, tmp_path):
    plan = _plan(case, tmp_path)
    for command, code, words in (
        (["evidence", "sign", str(plan), "--key", str(signers / "ed25519.pem")], 0, "plan.json.sig.json"),
        (["evidence", "timestamp", str(plan), "--authority", str(authority)], 0, "the time stamp is"),
        (["evidence", "verify", str(plan), "--signer", str(signers / "ed25519.pub")], 0, "2. signatures: 1 good"),
        (
            ["evidence", "verify", str(plan), "--authority", str(authority / "authority.pem")],
            0,
            "by the named authority",
        ),
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == code, (command, done.output, done.exception)
        assert words in done.output + done.stderr
    missing = CliRunner().invoke(
        app, ["evidence", "timestamp", str(tmp_path / "no.json"), "--authority", str(authority)]
    )
    assert isinstance(missing.exception, WatermarkError)
    assert "name a plan, a file of commitments, or a bundle" in str(missing.exception.hint)


# What to do, where something is missing.


def test_what_is_wrong_comes_with_what_to_do(case, signers, tmp_path):
    made = bundle(case.file("evidence.json"), tmp_path / "A.bag", **case.given())
    (made / "bag-info.txt").unlink()
    with pytest.raises(BundleInvalid, match="bag-info.txt is missing") as refused:
        verify_bundle(made)
    assert "its owner makes it anew with `wmark evidence bundle`" in str(refused.value.hint)
    (tmp_path / "empty.json").write_bytes(b"")
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "empty.json")])
    assert "is empty; there is nothing to verify" in str(done.exception)
    assert "an attribution, a bundle, a ledger, or a query log" in done.exception.hint
    plan = tmp_path / "plan.wmark"
    shutil.copyfile(case.file("plan.json"), plan)
    plan.chmod(0o600)
    with pytest.raises(WatermarkError, match="is not a watermark file: its format is 'wmark-plan/1'") as other:
        Watermark.load(plan)
    assert "that is a plan; pass the file that `wmark keygen` wrote" in str(other.value.hint)
    plan.write_text('{"format": "x"}')
    with pytest.raises(WatermarkError) as unknown:
        Watermark.load(plan)
    assert "wmark keygen" in str(unknown.value.hint)
