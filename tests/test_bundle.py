"""A bundle: the same bytes from the same inputs, sealed, signed and stamped, and checked with strangers' tools."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import casework
import numpy as np
import pytest
import typer
from scipy.stats import binom
from test_report_scores import bench as score_bench  # noqa: F401
from typer.testing import CliRunner
from wmark_cli.evidence import numbers
from wmark_cli.main import app

from watermark import prf
from watermark.bundle import bundle, contents, is_bundle, local_authority, note_test, redact, sign, stamp, timestamp
from watermark.bundle import standalone as alone
from watermark.bundle.make import check, record_path
from watermark.bundle.signers import load_identity, load_signer
from watermark.bundle.verify import verify_bundle
from watermark.errors import BundleInvalid, ExtraMissing, KeyUnusable, WatermarkError
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.probe.log import log_path
from watermark.stats.laws import Bernoulli
from watermark.stats.weighted import WeightedSum
from watermark.timestamps import read_stamp

pytest.importorskip("cryptography")
pytest.importorskip("rfc3161_client")
pytest.importorskip("jinja2")

SOURCE = Path(alone.__file__)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return casework.build(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def sealed(case):
    return bundle(case.file("evidence.json"), case.file("A.bag"), **case.given())


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Three signing keys: PEM, PEM with a certificate, OpenSSH; with what shows whose they are."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path_factory.mktemp("keys")
    forms = (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH)
    for number, form in enumerate(forms):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)
        path = folder / f"signer-{number}"
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        path.chmod(0o600)
        shown = {"encoding": serialization.Encoding.PEM, "format": serialization.PublicFormat.SubjectPublicKeyInfo}
        if number == 2:
            shown = {"encoding": serialization.Encoding.OpenSSH, "format": serialization.PublicFormat.OpenSSH}
        (folder / f"signer-{number}.pub").write_bytes(key.public_key().public_bytes(**shown))
    casework.certificate(folder / "signer-1", folder / "signer-1.crt")
    return folder


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return local_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signed(sealed, keys, authority, tmp_path_factory):
    """A copy that is signed by all three and stamped."""
    target = tmp_path_factory.mktemp("signed") / "S.bag"
    shutil.copytree(sealed, target)
    sign(target, keys / "signer-0")
    sign(target, keys / "signer-1", certificate=keys / "signer-1.crt")
    sign(target, keys / "signer-2")
    timestamp(target, authority)
    return target


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _details(checks) -> dict[str, str]:
    return {check.name: check.detail for check in checks}


# The same inputs give the same bytes.


def test_same_inputs_give_the_same_folder_and_the_same_zip(case, sealed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.umask(0o077)
    try:
        again = bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given())
    finally:
        os.umask(0o022)
    assert _tree(again) == _tree(sealed)
    zips = [bundle(case.file("evidence.json"), tmp_path / name, **case.given()) for name in ("A.zip", "B.zip")]
    assert zips[0].read_bytes() == zips[1].read_bytes()
    shutil.unpack_archive(zips[0], tmp_path / "unpacked")
    assert _tree(tmp_path / "unpacked") == _tree(sealed)


def test_a_sealing_time_comes_from_the_evidence_or_from_source_date_epoch(case, sealed, tmp_path, monkeypatch):
    assert contents(sealed)[0]["created"] == casework.FOUND
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    index, _, _ = contents(bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given()))
    assert index["created"] == "2027-01-15T08:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(BundleInvalid, match="whole seconds since 1970"):
        bundle(case.file("evidence.json"), tmp_path / "C.bag", **case.given())


def test_a_signature_repeats_to_the_byte_whatever_the_order_of_signers(sealed, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    for name, order in (("one", (0, 2)), ("two", (0, 2)), ("three", (2, 0))):
        shutil.copytree(sealed, tmp_path / name)
        for number in order:
            sign(tmp_path / name, keys / f"signer-{number}")
    assert _tree(tmp_path / "one") == _tree(tmp_path / "two")
    one, three = _tree(tmp_path / "one"), _tree(tmp_path / "three")
    assert {name for name in one if one[name] != three[name]} == {"custody.jsonl"}  # who came first is told there


def test_nothing_is_left_behind_and_nothing_is_written_over(case, sealed, tmp_path):
    with pytest.raises(WatermarkError, match="is there already"):
        bundle(case.file("evidence.json"), sealed, **case.given())
    with pytest.raises(BundleInvalid, match="other file of responses|not the file that was tested"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"answers": case.file("prompts.jsonl")})
    assert list(tmp_path.iterdir()) == []


# Strangers' tools.


def _commands(readme: str) -> list[str]:
    return [line.strip() for line in readme.splitlines() if line.startswith("     ")]


def test_instructions_in_the_readme_work_as_they_stand(signed, keys, authority, case, tmp_path):
    pem = subprocess.run(
        ["openssl", "pkey", "-in", str(keys / "signer-0"), "-pubout"], capture_output=True, check=True
    ).stdout
    (tmp_path / "SIGNER.pem").write_bytes(pem)
    keyid = load_identity(tmp_path / "SIGNER.pem").keyid
    places = {
        "/tmp/": f"{tmp_path}/",
        "KEYID": keyid,
        "AUTHORITY.pem": str(authority / "authority.pem"),
        "SIGNER.pem": str(tmp_path / "SIGNER.pem"),
        "ours.wmark": str(case.file("ours.wmark")),
        "python3": f"{sys.executable} -I",
    }
    commands = _commands((signed / "data/README.txt").read_text())
    assert [command.split()[0] for command in commands] == [
        "sha256sum", "sed", "printf", "cat", "sed", "openssl", "openssl", "python3", "python3",
    ]  # fmt: skip
    said = []
    for command in commands:
        for word, place in places.items():
            command = command.replace(word, place)
        ran = subprocess.run(command, shell=True, cwd=signed, capture_output=True, text=True)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        said.append(ran.stdout)
    assert said[0].count(": OK") == len(_tree(signed / "data")) + 3
    assert "Signature Verified Successfully" in said[5]
    assert "Verification: OK" in said[6]
    assert "1 of them are by signers that were named" in said[7]
    assert "the named authority gave it" in said[7]
    assert "under it 171 of 376 cells are green" in said[8]
    assert _tree(signed).keys() == {*_tree(signed)}  # and they left the bundle as it was
    verify_bundle(signed)


def test_verify_py_imports_the_standard_library_and_numpy_alone():
    named = set()
    for node in ast.walk(ast.parse(SOURCE.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            named.add((node.module or "").split(".")[0])
    assert named - set(sys.stdlib_module_names) == {"numpy"}


def test_verify_py_in_a_bundle_is_the_file_that_is_tested_here(sealed):
    assert (sealed / "data/verify.py").read_bytes() == SOURCE.read_bytes()


def test_verify_py_says_what_does_not_hold_and_exits_3(signed, tmp_path):
    shutil.copytree(signed, tmp_path / "C.bag")
    (tmp_path / "C.bag/data/plan.json").unlink()
    ran = subprocess.run([sys.executable, "-I", str(SOURCE), str(tmp_path / "C.bag")], capture_output=True, text=True)
    assert ran.returncode == 3
    assert "data/plan.json stands in the manifest, but not in the bundle; it was dropped" in ran.stdout


# The second implementation agrees with the first.


def test_binomial_tails_agree_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(200):
        n, p = int(rng.integers(1, 3000)), float(rng.uniform(0.02, 0.9))
        successes = int(rng.integers(0, n + 1))
        for alternative, law in (
            ("greater", binom.logsf(successes - 1, n, p)),
            ("less", binom.logcdf(successes, n, p)),
        ):
            found = alone.binomial(successes, n, p, alternative) * np.log(10)
            if law > -500:
                assert found == pytest.approx(law, rel=1e-8, abs=1e-12)
        both = Bernoulli(p).log10_pvalue(successes, n, alternative="two-sided")
        assert alone.binomial(successes, n, p, "two-sided") == pytest.approx(both, rel=1e-8, abs=1e-12)
    assert alone.binomial(60_000, 200_000, 0.25, "greater") == pytest.approx(
        Bernoulli(0.25).log10_pvalue(60_000, 200_000), rel=1e-9
    )


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_lattice_tails_bounds_and_evalues_agree_with_the_package(alternative):
    rng = np.random.default_rng(2)
    for spread in (1, 40, 300):
        for n in (60, 400):
            weights = np.round(rng.normal(0, spread, n) + rng.choice([0, spread], n)).astype(np.int32)
            gamma = float(rng.choice([0.25, 0.5]))
            ours, law = alone.Sum.of(weights, [1 - gamma, gamma]), WeightedSum(weights, gamma)
            for z in (-4.0, 0.0, 9.0):
                total = round(law.mean + z * law.sd)
                if not law.lowest <= total <= law.highest:
                    continue
                casework.check_law(ours, law, total, alternative)


def test_the_keyed_function_agrees_for_all_widths():
    rng = np.random.default_rng(3)
    for width in range(1, 9):
        windows = rng.integers(0, 2**32, (50, width), dtype=np.uint64).astype(np.uint32)
        tokens = rng.integers(0, 2**32, 50, dtype=np.uint64).astype(np.uint32)
        words = rng.integers(0, 2**32, 8, dtype=np.uint64).astype(np.uint32)
        found = alone.drawn(alone.absorbed(windows, words), tokens)
        assert (found == prf.uniforms(windows, tokens, words)).all()


def test_decoys_and_subkeys_agree():
    seed = hashlib.sha256(b"seed").digest()
    for number, key in enumerate(decoy_keys(seed, 3)):
        secret, _ = key._export()
        assert alone.decoy(seed, number) == secret
        assert (alone.subkey(secret) == prf.key_words(key.derive("greenlist/1"))).all()


def test_every_number_is_made_again_from_responses_and_key(signed, case, keys, authority):
    found = _details(
        verify_bundle(
            signed,
            mark=case.file("ours.wmark"),
            signers=[keys / "signer-0.pub", keys / "signer-1.crt", keys / "signer-2.pub"],
            threshold=3,
            authorities=[authority / "authority.pem"],
        )
    )
    evidence = Evidence.load(case.file("evidence.json"))
    assert f"under it {evidence.green} of {evidence.cells} cells are green" in found["our key"]
    assert "12 responses are spelt by their tokens and give 376 of 376 cells" in found["cells"]
    assert "under 99 decoy keys are as stated" in found["decoy keys"]
    assert "CN=An Expert" in found["signatures"]
    assert "3 of them are by signers that were named, 3 needed" in found["signatures"]
    assert not any("NOT CHECKED" in detail for detail in found.values())


def test_decoy_totals_stand_in_a_table(sealed, case):
    rows = list(csv.reader((sealed / "data/decoys.csv").open()))
    totals = Evidence.load(case.file("evidence.json")).decoys.totals
    assert rows[0] == ["decoy key", "totals"]
    assert [int(row[1]) for row in rows[1:]] == totals


# Signatures.


def test_a_threshold_of_named_signers_is_needed(sealed, keys, tmp_path):
    shutil.copytree(sealed, tmp_path / "C.bag")
    sign(tmp_path / "C.bag", keys / "signer-0")
    everyone = [keys / f"signer-{number}.pub" for number in range(3)]
    verify_bundle(tmp_path / "C.bag", signers=everyone, threshold=1)
    with pytest.raises(BundleInvalid, match="1 of the signers that were named have signed, 2 are needed"):
        verify_bundle(tmp_path / "C.bag", signers=everyone, threshold=2)
    with pytest.raises(BundleInvalid, match="0 of the signers that were named"):
        verify_bundle(tmp_path / "C.bag", signers=everyone[1:])
    with pytest.raises(BundleInvalid, match="2 signatures of 1 named signers cannot be"):
        verify_bundle(tmp_path / "C.bag", signers=everyone[:1], threshold=2)
    with pytest.raises(BundleInvalid, match="has signed this bundle already"):
        sign(tmp_path / "C.bag", keys / "signer-0")
    with pytest.raises(BundleInvalid, match="not signed, and signatures were asked for"):
        verify_bundle(sealed, signers=everyone)


def test_signing_keys_of_other_kinds_are_refused_in_words(keys, tmp_path, sealed):
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", str(tmp_path / "ec")],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "ec").chmod(0o600)
    with pytest.raises(KeyUnusable, match="a key of another kind; what signs here is Ed25519, or ECDSA on P-256"):
        load_signer(tmp_path / "ec")
    shutil.copyfile(keys / "signer-0", tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        load_signer(tmp_path / "open")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(KeyUnusable, match="cannot be read as a private key"):
        load_signer(tmp_path / "text")
    with pytest.raises(KeyUnusable, match="is for the key"):
        sign(sealed, keys / "signer-0", certificate=keys / "signer-1.crt")


def test_an_encrypted_signing_key_takes_its_password_from_the_environment(tmp_path, monkeypatch, keys):
    command = ["openssl", "pkey", "-in", str(keys / "signer-0"), "-aes256", "-passout", "pass:open sesame", "-out"]
    subprocess.run([*command, str(tmp_path / "sealed.pem")], check=True, capture_output=True)
    (tmp_path / "sealed.pem").chmod(0o600)
    with pytest.raises(KeyUnusable, match="no password was given"):
        load_signer(tmp_path / "sealed.pem")
    monkeypatch.setenv("WMARK_SIGNER_PASSWORD", "open")
    with pytest.raises(KeyUnusable, match="wrong password"):
        load_signer(tmp_path / "sealed.pem")
    monkeypatch.setenv("WMARK_SIGNER_PASSWORD", "open sesame")
    assert load_signer(tmp_path / "sealed.pem").public_key() == load_signer(keys / "signer-0").public_key()


def test_the_payload_is_canonical_and_its_subjects_are_the_files(signed):
    envelope = json.loads((signed / "attestation.dsse.json").read_bytes())
    payload = alone.decoded(envelope["payload"], "payload")
    import rfc8785

    statement = json.loads(payload)
    assert rfc8785.dumps(statement) == payload
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"].endswith("distillation-detection/v1")
    for subject in statement["subject"]:
        assert alone.sha256_of(signed / subject["name"]) == subject["digest"]["sha256"]


# Time stamps.


def test_a_time_stamp_is_for_one_file_by_one_authority(tmp_path, authority):
    (tmp_path / "plan.json").write_bytes(b"a plan")
    token, found = stamp(tmp_path / "plan.json", authority=authority)
    assert token.name == "plan.json.tsr"
    assert not found.checked
    digest = hashlib.sha256(b"a plan").hexdigest()
    assert read_stamp(token.read_bytes(), digest, authorities=[authority / "authority.pem"]).checked
    with pytest.raises(BundleInvalid, match="is for other bytes"):
        read_stamp(token.read_bytes(), hashlib.sha256(b"another").hexdigest())
    other = local_authority(tmp_path / "other")
    with pytest.raises(BundleInvalid, match="was not given by the named authority"):
        read_stamp(token.read_bytes(), digest, authorities=[other / "authority.pem"])
    with pytest.raises(BundleInvalid, match="no readable RFC 3161 time stamp"):
        read_stamp(b"\x30\x00", digest)
    with pytest.raises(BundleInvalid, match="is there already"):
        stamp(tmp_path / "plan.json", authority=authority)


def test_an_authority_is_asked_over_http_only_where_it_is_named(tmp_path, authority):
    import http.server
    import threading

    from watermark.timestamps import _answered

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(_answered(authority, asked))

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (tmp_path / "commitment").write_bytes(b"c")
        _, found = stamp(tmp_path / "commitment", authority=f"http://127.0.0.1:{server.server_port}/")
        assert found.authority == "CN=a time-stamp authority on this machine"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(WatermarkError, match="did not answer"):
        stamp(tmp_path / "commitment", authority=f"http://127.0.0.1:{server.server_port}/", output=tmp_path / "x")


def test_stamping_comes_after_signing(sealed, signed, keys, authority, tmp_path):
    shutil.copytree(sealed, tmp_path / "C.bag")
    with pytest.raises(BundleInvalid, match="not signed"):
        timestamp(tmp_path / "C.bag", authority)
    shutil.copytree(signed, tmp_path / "D.bag")
    with pytest.raises(BundleInvalid, match="bears a time stamp"):
        sign(tmp_path / "D.bag", keys / "signer-0")
    with pytest.raises(BundleInvalid, match="is there already"):
        timestamp(tmp_path / "D.bag", authority)
    with pytest.raises(BundleInvalid, match="bears no time stamp, and one was asked for"):
        verify_bundle(sealed, authorities=[authority / "authority.pem"])


def test_a_zip_is_signed_and_stamped_as_a_folder_is(case, keys, authority, tmp_path):
    made = bundle(case.file("evidence.json"), tmp_path / "C.zip", **case.given())
    assert is_bundle(made)
    sign(made, keys / "signer-2")
    timestamp(made, authority)
    found = _details(verify_bundle(made, mark=case.file("ours.wmark"), signers=[keys / "signer-2.pub"]))
    assert "every total is as stated" in found["our key"]
    assert [path.name for path in tmp_path.iterdir()] == ["C.zip"]


# Custody, plan, dates.


def test_custody_runs_from_the_first_question_to_the_time_stamp(signed, case):
    events = [json.loads(line) for line in (signed / "custody.jsonl").read_bytes().splitlines()[1:]]
    assert [event["event"] for event in events] == [
        "plan", "probe", "detect", "bundle", "sign", "sign", "sign", "timestamp",
    ]  # fmt: skip
    last = json.loads(log_path(case.file("answers.jsonl")).read_bytes().splitlines()[-1])
    assert events[1]["head"] == last["hash"]
    assert events[1]["time"].startswith("2026-03-02T10:00")


def test_a_confirmatory_run_needs_a_log_that_is_younger_than_its_plan(case, tmp_path):
    alone_ = tmp_path / "answers.jsonl"
    shutil.copyfile(case.file("answers.jsonl"), alone_)
    with pytest.raises(BundleInvalid, match="no query log shows that its plan is older"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"answers": alone_})


def test_an_exploratory_run_says_that_its_plan_is_younger(tmp_path):
    late = casework.build(tmp_path / "case", plan_made="2026-03-02T12:00:00+00:00", exploratory=True)
    made = bundle(late.file("evidence.json"), tmp_path / "B.bag", **late.given())
    assert "the plan is younger" in dict(check(made))["dates"]


def test_time_stamps_of_plan_and_commitment_outweigh_their_own_word(case, authority, tmp_path):
    (tmp_path / "commitment").write_text(case.mark.key.commitment)
    token, found = stamp(tmp_path / "commitment", authority=authority)
    with pytest.raises(BundleInvalid, match=f"the key is younger .{re.escape(found.time)}, by a time stamp"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given(), commitment_token=token)
    plan_token, _ = stamp(case.file("plan.json"), authority=authority, output=tmp_path / "plan.tsr")
    with pytest.raises(BundleInvalid, match="the plan is younger .* cannot be called confirmatory"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given(), plan_token=plan_token)


def test_every_test_of_the_answers_is_told(tmp_path):
    told = casework.build(tmp_path / "case")
    evidence = Evidence.load(told.file("evidence.json"))
    note_test(told.file("answers.jsonl"), replace(evidence, alpha=0.002))
    made = bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given())
    assert "2 tests of these answers were recorded, under 1 keys" in dict(check(made))["keys tried"]
    record_path(told.file("answers.jsonl")).unlink()
    note_test(told.file("answers.jsonl"), replace(evidence, alpha=0.002))
    other = bundle(told.file("evidence.json"), tmp_path / "C.bag", **told.given())
    assert "1 tests of these answers were recorded, under 1 keys; this one is not" in dict(check(other))["keys tried"]
    record_path(told.file("answers.jsonl")).unlink()
    silent = bundle(told.file("evidence.json"), tmp_path / "D.bag", **told.given())
    assert "NOT CHECKED: no record of tests is in the bundle" in dict(check(silent))["keys tried"]


# Redaction.


def test_redaction_leaves_hashes_and_signatures_that_verify(signed, keys, authority, case, tmp_path):
    gone = [json.loads(line)["text"] for n, line in enumerate(case.file("answers.jsonl").open(), 1) if n in (3, 7)]
    made = redact(signed, tmp_path / "R.bag", [7, 3])
    found = _details(
        verify_bundle(
            made,
            mark=case.file("ours.wmark"),
            signers=[keys / "signer-0.pub"],
            authorities=[authority / "authority.pem"],
        )
    )
    assert "2 are redacted, their hashes stand" in found["responses"]
    assert "12 answers are the logged ones (2 redacted)" in found["query log"]
    assert "1 of them are by signers that were named" in found["signatures"]
    assert "by the named authority" in found["time stamp"]
    everything = b"".join(_tree(made).values())
    assert not any(text.encode() in everything or text[:40].encode() in everything for text in gone)
    lines = (made / "data/answers.jsonl").read_bytes().splitlines(keepends=True)
    first = case.file("answers.jsonl").read_bytes().splitlines(keepends=True)
    assert lines[0] == first[0]
    assert json.loads(lines[2]) == {"id": "q2", "redacted": hashlib.sha256(first[2]).hexdigest()}
    with pytest.raises(BundleInvalid, match="redacted before"):
        redact(made, tmp_path / "again", [1])
    with pytest.raises(WatermarkError, match="numbered from 1 to 12"):
        redact(signed, tmp_path / "again", [13])


def test_a_redacted_bundle_may_be_signed_again(signed, keys, tmp_path):
    made = redact(signed, tmp_path / "R.bag", [1])
    sign(made, keys / "signer-0")
    assert "1 good signatures" in _details(verify_bundle(made))["signatures"]


def test_a_hash_only_bundle_holds_no_text(case, tmp_path):
    made = bundle(case.file("evidence.json"), tmp_path / "H.bag", **case.given(), hash_only=True)
    texts = [json.loads(line)["text"] for line in case.file("answers.jsonl").open()]
    everything = b"".join(_tree(made).values())
    assert not any(text[:24].encode() in everything for text in texts)
    found = _details(verify_bundle(made))
    assert "12 are redacted, their hashes stand" in found["responses"]
    again = bundle(case.file("evidence.json"), tmp_path / "I.bag", **case.given(), hash_only=True)
    assert _tree(made) == _tree(again)


# Other kinds of evidence, and what cannot be checked.


def test_token_ids_need_no_tokenizer(tmp_path):
    told = casework.build(tmp_path / "case", planned=False)
    ids = [
        list(ids)
        for ids in told.tokenizer.encode([json.loads(line)["text"] for line in told.file("answers.jsonl").open()])
    ]
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "token_ids": row}) + "\n" for n, row in enumerate(ids)))
    from watermark.detect import detect

    detect(path, told.mark, decoys=99).save(tmp_path / "evidence.json")
    made = bundle(tmp_path / "evidence.json", tmp_path / "B.bag", answers=path)
    assert "12 responses are spelt by their tokens" in dict(alone.steps(made, key=told.file("ours.wmark")))["cells"]


def test_text_without_a_tokenizer_is_said_to_be_unchecked(case, tmp_path):
    given = case.given() | {"tokenizer": None}
    made = bundle(case.file("evidence.json"), tmp_path / "B.bag", **given)
    assert "NOT CHECKED: the cells are not in the bundle" in dict(check(made))["cells"]
    assert "no tokenizer was given" in contents(made)[0]["notes"][0]
    found = _details(verify_bundle(made, mark=case.file("ours.wmark")))
    assert "376 cells, 171 green and 99 decoys, all as stated" in found["recomputed"]


def test_bundle_refuses_a_profile_of_another_key_and_a_watermark_file(case, tmp_path):
    other = casework.build(tmp_path / "other", answers=4, key=b"another key", planned=False)
    with pytest.raises(BundleInvalid, match="another key was published than tested"):
        bundle(
            case.file("evidence.json"),
            tmp_path / "B.bag",
            **case.given() | {"profile": other.file("ours.profile.json")},
        )
    with pytest.raises(BundleInvalid, match="holds a secret key"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"profile": case.file("ours.wmark")})


def test_missing_extras_are_named(sealed, keys, monkeypatch, tmp_path):
    shutil.copytree(sealed, tmp_path / "C.bag")
    monkeypatch.setitem(sys.modules, "rfc8785", None)
    with pytest.raises(ExtraMissing, match="rfc8785"):
        sign(tmp_path / "C.bag", keys / "signer-0")


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    """(folder, key's file): evidence read from a student's log-probabilities, with its cells."""
    pytest.importorskip("transformers")
    from weighted_evidence import Bench

    from watermark.detect import detect

    folder = tmp_path_factory.mktemp("weighed")
    bench = Bench(folder)
    mark = replace(bench.mark, created=casework.MADE)
    mark.save(folder / "ours.wmark")
    detect(
        bench.texts(),
        mark,
        tokenizer=bench.tokenizer,
        suspect=bench.student(1.0),
        reference=bench.base,
        cells=folder / "cells.npz",
        decoys=99,
    ).save(folder / "evidence.json")
    made = bundle(
        folder / "evidence.json", folder / "W.bag", answers=folder / "texts-24.jsonl", cells=folder / "cells.npz"
    )
    return made, folder / "ours.wmark"


@pytest.mark.slow
def test_weighted_totals_laws_and_ranks_are_made_again(weighed):
    made, key = weighed
    found = dict(alone.steps(made, key=key))
    deep = Evidence.load(made / "data/evidence.json").weighted
    assert f"{len(deep.statistics)} statistics: mean, sd, e-value and tail follow" in found["laws"]
    assert "by Chernoff's bound alone" not in found["laws"]
    assert f"totals of {len(deep.statistics) + 1} statistics under 99 decoy keys are as stated" in found["decoy keys"]
    assert "every total is as stated" in found["our key"]
    assert "recomputed" in _details(verify_bundle(made, mark=key))
    rows = list(csv.reader((made / "data/decoys.csv").open()))
    assert rows[0] == ["decoy key", "totals", *deep.decoy_totals]


def _numbers(made: Path, index: dict, evidence: dict, key: Path) -> None:
    alone.check_arithmetic(evidence)
    list(alone.check_numbers(made, index, evidence, key))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("log10_p", -30.0, r"log10 p of .* is stated as -30.0"),
        ("sd", 1.0, "z of|the sd of"),
        ("mean", 0.0, "z of|the mean of"),
        ("log10_e", 40.0, "the mean e-value|the e-value of"),
        ("log10_chernoff", -31.0, "Chernoff's bound of"),
        ("total", 1, "z of|is stated under our key"),
    ],
)
def test_a_changed_weighted_number_is_refused(weighed, field, value, words):
    made, key = weighed
    index, evidence = alone.read_json(made, "data/case.json"), alone.read_json(made, "data/evidence.json")
    evidence["weighted"]["statistics"][0][field] = value
    with pytest.raises(alone.Wrong, match=words):
        _numbers(made, index, evidence, key)


def test_a_changed_decoy_total_is_refused(weighed):
    made, _ = weighed
    index, evidence = alone.read_json(made, "data/case.json"), alone.read_json(made, "data/evidence.json")
    evidence["decoys"]["totals"][41] += 1
    with pytest.raises(alone.Wrong, match="votes: decoy key 41 is stated to total"):
        list(alone.check_numbers(made, index, evidence, None))


@pytest.mark.slow
def test_evidence_of_scores_goes_into_a_bundle_and_is_recomputed(score_bench, tmp_path):  # noqa: F811
    score_bench.found.save(tmp_path / "evidence.json")
    made = bundle(tmp_path / "evidence.json", tmp_path / "S.bag", cells=score_bench.case("found"))
    assert "cosines are as stated, `wmark evidence verify" in dict(alone.steps(made))["arithmetic"]
    found = _details(verify_bundle(made))
    assert "data/report.html holds this evidence" in found["page"]
    assert {"case", "decoys"} & set(found) or "recomputed" in " ".join(found)


# The command line.


def _run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_responses_are_named_by_numbers_and_ranges():
    assert numbers("3, 7,10-12") == [3, 7, 10, 11, 12]
    for told in ("", "x", "3-", "-3", "1-99999999999", "²"):
        with pytest.raises(typer.BadParameter, match="should read 3,7|names more"):
            numbers(told)


def test_a_session_reads_like_a_terminal(case, keys, tmp_path):
    bag, made = tmp_path / "C.bag", _run("evidence", "authority", tmp_path / "authority")
    assert "authority.pem" in made.output
    given = [
        "--answers",
        case.file("answers.jsonl"),
        "--plan",
        case.file("plan.json"),
        "--tokenizer",
        case.file("teacher"),
    ]
    assert "bundle written to" in _run("evidence", "bundle", case.file("evidence.json"), *given, "--output", bag).output
    assert "signed by the key" in _run("evidence", "sign", bag, "--key", keys / "signer-0").output
    assert "by the authority's word" in _run("evidence", "timestamp", bag, "--authority", tmp_path / "authority").output
    shown = _run("evidence", "show", bag)
    assert "verdict       evidence found" in shown.output
    assert "signed by     " in shown.output
    done = _run("evidence", "verify", bag, "--signer", keys / "signer-0.pub", "--json")
    assert json.loads(done.stdout)["verified"] is True
    assert " 1. files: " in _run("evidence", "verify", bag).output
    refused = _run("verify", bag, "--outputs", case.file("answers.jsonl"))
    assert refused.exit_code == 2
    assert "redacted copy" in _run("evidence", "redact", bag, "--responses", "2", "--output", tmp_path / "R.bag").output
