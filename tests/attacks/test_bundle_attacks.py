"""Attacks on evidence: each is refused, with a sentence that names what is wrong.

An attacker of the first kind changes a file and leaves the rest. One of the second kind seals the bundle again, as if
it had been so from the start: what catches him is the log, the plan, a time stamp, or a signature he cannot make.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
from dataclasses import replace
from pathlib import Path

import casework
import numpy as np
import pytest
from fake_endpoint import fake, good
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.accounts import Accounts
from watermark.bundle import bundle, custody, local_authority, note_test, redact, sign, stamp, timestamp, verify_bundle
from watermark.bundle import make as making
from watermark.bundle import standalone as alone
from watermark.bundle.archive import archive
from watermark.bundle.layout import files_of
from watermark.bundle.make import check
from watermark.detect import detect
from watermark.errors import BundleInvalid, OutputsInvalid, PlanMismatch, ReportInvalid
from watermark.evidence import Evidence
from watermark.files import canonical_json
from watermark.keys import decoy_keys
from watermark.plan import read_plan
from watermark.probe.log import log_path
from watermark.report.shell import embedded

pytest.importorskip("cryptography")
pytest.importorskip("rfc3161_client")
pytest.importorskip("jinja2")

GUARDED = (alone.Wrong, KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError, RecursionError)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return casework.build(tmp_path_factory.mktemp("case"), answers=8, tokens=30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return local_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return _signer(tmp_path_factory.mktemp("signer") / "signer.pem")


@pytest.fixture(scope="module")
def sealed(case, signer, authority):
    made = bundle(case.file("evidence.json"), case.file("A.bag"), **case.given())
    sign(made, signer)
    timestamp(made, authority)
    return made


@pytest.fixture
def bag(sealed, tmp_path):
    """A copy to be attacked."""
    shutil.copytree(sealed, tmp_path / "C.bag")
    return tmp_path / "C.bag"


def _signer(path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
    path.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", str(path), "-pubout", "-out", f"{path}.pub"], check=True)
    return path


def _public(signer: Path) -> Path:
    return signer.with_name(signer.name + ".pub")


def _resealed(bag: Path) -> Path:
    """What an attacker of the second kind does: new manifests, a new record of custody, no signature."""
    index = json.loads((bag / "data/case.json").read_bytes())
    found = json.loads((bag / "data/evidence.json").read_bytes())
    for name in ("attestation.dsse.json", "attestation.tsr"):
        (bag / name).unlink(missing_ok=True)
    shutil.rmtree(bag / "signers", ignore_errors=True)
    events = [line for line in custody.read(bag / "custody.jsonl")[1:] if line["event"] in ("plan", "probe", "detect")]
    events = [{k: v for k, v in event.items() if k not in ("hash", "prev", "seq")} for event in events]
    (bag / "custody.jsonl").unlink()
    making._seal(bag, found, index, events)
    return bag


def _edited(path: Path, change) -> None:
    """One JSON file, changed in place."""
    found = json.loads(path.read_bytes())
    change(found)
    path.write_bytes(json.dumps(found).encode())


def _refused(bag: Path, words: str, **options) -> None:
    """Both verifiers refuse it: the package, and the stranger's file."""
    with pytest.raises(ReportInvalid, match=words):
        verify_bundle(bag, **options)


# One flipped byte.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "redacted"])
def test_every_flipped_byte_of_every_file_is_caught(kind, bag, tmp_path, monkeypatch):
    """All of them, one after another. Digests of the other files, which are as they were, are remembered."""
    bag = bag if kind == "whole" else redact(bag, tmp_path / "R.bag", [1, 2])
    index, evidence = alone.read_json(bag, "data/case.json"), alone.read_json(bag, "data/evidence.json")
    listed, files, flipped = alone.listed_in(bag, "manifest-sha256.txt"), alone.files_of(bag), dict[Path, bytearray]()
    digests = {bag / name: alone.sha256_of(bag / name) for name in files}
    redaction = alone.index_of_removed(bag)
    monkeypatch.setattr(alone, "files_of", lambda case: files)
    monkeypatch.setattr(alone, "sha256_of", lambda p: alone.sha256(flipped[p]) if p in flipped else digests[p])
    read = alone.read
    monkeypatch.setattr(
        alone, "read", lambda folder, name, most: bytes(flipped.get(folder / name) or read(folder, name, most))
    )
    chained = alone.lines_of
    monkeypatch.setattr(
        alone,
        "lines_of",
        lambda case, name: flipped[case / name].splitlines(True) if case / name in flipped else chained(case, name),
    )

    def caught(name: str) -> bool:
        try:
            if name.startswith("data/"):
                alone.check_file(bag, name, listed[name])
                return False
            steps = [
                lambda: alone.check_contents(bag, index, redaction),
                lambda: alone.check_custody(bag, index, evidence),
                lambda: alone.check_manifests(bag),
            ]
            for step in steps if name.startswith("original/") else steps[1:]:
                step()
        except GUARDED:
            return True
        return False

    tried = 0
    for name in files:
        if kind == "redacted" and name.startswith("data/"):
            continue  # as in the whole one
        content = flipped[bag / name] = bytearray((bag / name).read_bytes())
        for place in range(len(content)):
            kept = content[place]
            content[place] ^= (0x01, 0x20, 0x80)[place % 3]
            assert caught(name), f"{name}, byte {place}"
            content[place] = kept
        assert not caught(name)
        tried += len(content)
        del flipped[bag / name]
    assert tried == sum(size for name, size in files.items() if kind == "whole" or not name.startswith("data/"))


def test_a_flipped_byte_is_named_with_its_file_in_folder_and_zip(bag, signer, tmp_path):
    rng = np.random.default_rng(5)
    files = files_of(bag)
    for name in files:
        content = (bag / name).read_bytes()
        place = int(rng.integers(len(content)))
        (bag / name).write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        with pytest.raises(ReportInvalid) as refused:
            verify_bundle(bag, signers=[_public(signer)])
        stem = Path(name).name.split(".")[0]
        assert stem in str(refused.value) or "signatures" in str(refused.value), (name, str(refused.value))
        (bag / name).write_bytes(content)
    frame = b"".join(archive(bag, list(files)))
    for place in [*rng.integers(0, len(frame), 25), *range(14), *range(len(frame) - 22, len(frame))]:
        (tmp_path / "Z.zip").write_bytes(frame[:place] + bytes([frame[place] ^ 0x01]) + frame[place + 1 :])
        with pytest.raises(ReportInvalid, match=r"\w"):
            verify_bundle(tmp_path / "Z.zip")


# Responses.


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_swapped_response_is_refused(bag):
    lines = _lines(bag / "data/answers.jsonl")
    (bag / "data/answers.jsonl").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    _refused(bag, "data/answers.jsonl is not the file in the manifest")
    _refused(_resealed(bag), "response 1 of data/answers.jsonl is not the one that was tested; it was swapped")


def test_a_response_swapped_before_the_test_is_refused_by_the_log(case, tmp_path):
    lines = [json.loads(line) for line in _lines(case.file("answers.jsonl"))]
    lines[2]["text"] = lines[3]["text"] + " ba ca da"
    told = _tested_again(case, tmp_path, lines)
    with pytest.raises(
        BundleInvalid, match=r"response 3 \('q2'\) is not the one whose hash the log holds; it was swapped"
    ):
        bundle(tmp_path / "evidence.json", tmp_path / "B.bag", **told)


def test_a_dropped_unfavourable_response_is_refused(bag, case, tmp_path):
    lines = _lines(bag / "data/answers.jsonl")
    (bag / "data/answers.jsonl").write_bytes(b"".join(lines[:3] + lines[4:]))
    _refused(_resealed(bag), "response 4 of data/answers.jsonl is not the one that was tested")
    kept = [json.loads(line) for number, line in enumerate(lines) if number != 3]
    told = _tested_again(case, tmp_path, kept)
    with pytest.raises(
        BundleInvalid, match="the query log holds an answer 'q3' that the responses lack; it was dropped"
    ):
        bundle(tmp_path / "evidence.json", tmp_path / "B.bag", **told)
    log = log_path(tmp_path / "answers.jsonl")
    log.write_bytes(b"".join(line for number, line in enumerate(_lines(log)) if number != 4))
    with pytest.raises(BundleInvalid, match="line 5: a line before it is missing, moved or changed"):
        bundle(tmp_path / "evidence.json", tmp_path / "D.bag", **told)


def test_a_dropped_response_and_its_log_line_leave_a_planned_probe_without_answer(case, tmp_path):
    kept = [json.loads(line) for number, line in enumerate(_lines(case.file("answers.jsonl"))) if number != 3]
    with pytest.raises(PlanMismatch, match="1 of the planned probes have no answer"):
        _tested_again(case, tmp_path, kept, confirmatory=True)


def test_cells_left_out_of_a_response_are_counted_by_a_stranger(bag):
    """The cells that are red under our key are dropped from the file of cells, and all numbers made anew."""
    with np.load(bag / "data/cells.npz") as stored:
        found = {name: stored[name] for name in stored.files}
    keep = np.arange(len(found["choices"])) != 5
    with (bag / "data/cells.npz").open("wb") as stream:
        np.savez_compressed(stream, **{name: values[keep] for name, values in found.items()})
    evidence = json.loads((bag / "data/evidence.json").read_bytes())
    windows, choices, _ = alone.read_cells(bag, "data/cells.npz")
    evidence["observations"] = alone.sha256(windows.astype("<u4").tobytes() + choices.astype("<u4").tobytes())
    index = json.loads((bag / "data/case.json").read_bytes())
    with pytest.raises(
        alone.Wrong, match="response 1 gives 1 cells that were not counted; none may be left out at will"
    ):
        list(alone.check_numbers(bag, index, evidence, None))


def _tested_again(case, folder: Path, answers: list[dict], confirmatory: bool = False) -> dict:
    """A test of other answers, beside the log of the true ones; returns what `bundle` is given."""
    (folder / "answers.jsonl").write_bytes(b"".join(canonical_json(answer) + b"\n" for answer in answers))
    shutil.copyfile(log_path(case.file("answers.jsonl")), log_path(folder / "answers.jsonl"))
    found = detect(
        folder / "answers.jsonl",
        case.mark,
        tokenizer=case.tokenizer,
        decoys=99,
        plan=case.file("plan.json"),
        exploratory=not confirmatory,
    )
    replace(found, created=casework.FOUND).save(folder / "evidence.json")
    return case.given() | {"answers": folder / "answers.jsonl"}


# The log and the plan.


def test_a_reordered_log_is_refused(bag):
    path = bag / "data/answers.log.jsonl"
    lines = _lines(path)
    path.write_bytes(b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    _refused(bag, "data/answers.log.jsonl is not the file in the manifest")
    _refused(_resealed(bag), "line 3: a line before it is missing, moved or changed")


def test_a_log_with_another_first_question_is_refused_by_custody(bag):
    """The log's chain is made anew with earlier times; its head is not the one that custody took over."""
    path = bag / "data/answers.log.jsonl"
    entries = [json.loads(line) for line in _lines(path)]
    previous, made = "", []
    for entry in entries:
        body = {name: value for name, value in entry.items() if name != "hash"}
        if "prev" in body:
            body |= {"prev": previous, "time_sent": body["time_sent"].replace("2026-03-02", "2026-04-02")}
        previous = alone.sha256(alone.canonical(body))
        made.append(alone.canonical(body | {"hash": previous}) + b"\n")
    path.write_bytes(b"".join(made))
    _refused(_resealed(bag), "the evidence gives 2026-03-02.* for the first question, the query log 2026-04-02")
    index, evidence = alone.read_json(bag, "data/case.json"), alone.read_json(bag, "data/evidence.json")
    with pytest.raises(alone.Wrong, match="the query log does not end where custody took it over"):
        alone.check_custody(bag, index, evidence)


def test_a_back_dated_plan_is_refused(case, bag, tmp_path, authority):
    _edited(bag / "data/plan.json", lambda plan: plan.update(created="2025-01-01T00:00:00+00:00"))
    _refused(_resealed(bag), "the plan does not match its digest; it was changed after it was written")
    older = replace(read_plan(case.file("plan.json")), created="2025-01-01T00:00:00+00:00")
    older.save(tmp_path / "older.json")
    with pytest.raises(BundleInvalid, match="the plan in the bundle is not the one that the evidence was made under"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"plan": tmp_path / "older.json"})


def test_a_plan_made_after_the_answers_cannot_be_confirmatory(tmp_path, authority):
    late = casework.build(tmp_path / "late", plan_made="2026-03-02T12:00:00+00:00", exploratory=True)
    with pytest.raises(PlanMismatch, match="the first question was asked at .*, the plan made later"):
        detect(late.file("answers.jsonl"), late.mark, tokenizer=late.tokenizer, decoys=99, plan=late.file("plan.json"))
    found = Evidence.load(late.file("evidence.json"))
    claimed = replace(found, plan=found.plan | {"status": "confirmatory", "mismatches": []})
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="the plan is younger .* the run cannot be called confirmatory"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **late.given())
    dated = casework.build(tmp_path / "dated")  # its plan says that it is older; a time stamp says when it was there
    stamp(dated.file("plan.json"), authority=authority)
    with pytest.raises(BundleInvalid, match="the plan is younger .* by a time stamp .* cannot be called confirmatory"):
        bundle(dated.file("evidence.json"), tmp_path / "D.bag", **dated.given())


def _chained(path: Path, entries: list[dict]) -> None:
    """The lines of a chained file, each hash made anew."""
    previous, made = "", []
    for number, entry in enumerate(entries):
        body = {name: value for name, value in entry.items() if name != "hash"}
        body |= {"prev": previous, "seq": number - 1} if number else {}
        previous = alone.sha256(alone.canonical(body))
        made.append(alone.canonical(body | {"hash": previous}) + b"\n")
    path.write_bytes(b"".join(made))


def test_a_log_reordered_to_look_later_still_tells_of_its_earliest_question(tmp_path):
    """Its chain is made anew with the earliest question last, and the plan dated between the two."""
    told = casework.build(tmp_path / "case", plan_made="2026-03-02T10:00:05+00:00", exploratory=True)
    log = log_path(told.file("answers.jsonl"))
    header, *lines = [json.loads(line) for line in _lines(log)]
    _chained(log, [header, *lines[5:], *lines[:5]])
    with pytest.raises(PlanMismatch, match="the first question was asked at 2026-03-02T10:00:00"):
        detect(told.file("answers.jsonl"), told.mark, tokenizer=told.tokenizer, decoys=99, plan=told.file("plan.json"))
    found = Evidence.load(told.file("evidence.json"))
    claimed = replace(found, plan=found.plan | {"status": "confirmatory", "mismatches": []})
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="the plan is younger .* than the first question .2026-03-02T10:00:00"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **told.given())
    _chained(log, [header | {"created": "2026-03-02T10:00:08+00:00"}, *lines])
    with pytest.raises(BundleInvalid, match="the query log was begun at .*, after its first question"):
        bundle(told.file("evidence.json"), tmp_path / "C.bag", **told.given())


def test_a_back_dated_plan_that_no_log_and_no_stamp_vouches_for_is_refused(tmp_path):
    """Made after the questions, dated before them, with a digest that fits: nothing in the file itself is wrong."""
    told = casework.build(tmp_path / "case", exploratory=True)  # its log names no plan
    with pytest.raises(PlanMismatch, match="the query log names no plan, and this one bears no time stamp"):
        detect(told.file("answers.jsonl"), told.mark, tokenizer=told.tokenizer, decoys=99, plan=told.file("plan.json"))
    found = Evidence.load(told.file("evidence.json"))
    claimed = replace(found, plan=found.plan | {"status": "confirmatory", "mismatches": []})
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="its date is its maker's word alone, and the run cannot be called"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **told.given())


def test_a_plan_swapped_after_the_first_question_is_refused(case, tmp_path):
    """The log's first line names the plan that was there; another, dated as early, is not it."""
    other = casework.build(tmp_path / "other", answers=8, tokens=30, plan_made="2026-02-01T00:00:00+00:00")
    with pytest.raises(PlanMismatch, match="the questions were asked under another plan"):
        detect(case.file("answers.jsonl"), case.mark, tokenizer=case.tokenizer, decoys=99, plan=other.file("plan.json"))
    found = Evidence.load(case.file("evidence.json"))
    replace(found, plan=Evidence.load(other.file("evidence.json")).plan).save(tmp_path / "swapped.json")
    with pytest.raises(BundleInvalid, match="plans were swapped, and the run cannot be called confirmatory"):
        bundle(tmp_path / "swapped.json", tmp_path / "B.bag", **case.given() | {"plan": other.file("plan.json")})


# Keys.


@pytest.mark.slow
def test_a_key_ground_to_fit_the_answers_is_refused(tmp_path, authority):
    told = casework.build(tmp_path / "case", key=b"nobody's", planned=False)
    innocent = casework.build(tmp_path / "other", key=b"the true key", planned=False)
    shutil.copyfile(innocent.file("answers.jsonl"), told.file("answers.jsonl"))
    shutil.copyfile(log_path(innocent.file("answers.jsonl")), log_path(told.file("answers.jsonl")))
    from watermark.observe import observe
    from watermark.outputs import Outputs

    seen = observe(Outputs(told.file("answers.jsonl")), told.mark, tokenizer=told.tokenizer)
    tried = list(decoy_keys(b"ground", 400))
    totals = told.mark.totals(seen.windows, seen.choices, np.ones(len(seen), np.int32), tried)[:, 0]
    best = replace(told.mark, key=tried[int(totals.argmax())], created="2026-03-04T00:00:00+00:00")
    found = detect(told.file("answers.jsonl"), best, tokenizer=told.tokenizer, decoys=99, alpha=0.01)
    assert found.verdict == "evidence found"  # the count alone cannot tell that 400 keys were tried
    replace(found, created=casework.FOUND).save(tmp_path / "ground.json")
    given = {"answers": told.file("answers.jsonl"), "tokenizer": told.tokenizer}
    with pytest.raises(BundleInvalid, match="the key is younger .* it could have been chosen to fit the answers"):
        bundle(tmp_path / "ground.json", tmp_path / "B.bag", **given)
    dated = replace(found, mark=found.mark | {"created": casework.MADE}, created=casework.FOUND)
    dated.save(tmp_path / "dated.json")
    (tmp_path / "commitment").write_text(best.key.commitment)
    token, _ = stamp(tmp_path / "commitment", authority=authority)
    with pytest.raises(BundleInvalid, match="the key is younger .* by a time stamp of"):
        bundle(tmp_path / "dated.json", tmp_path / "B.bag", **given, commitment_token=token)
    (tmp_path / "other-commitment").write_text(told.mark.key.commitment)
    token, _ = stamp(tmp_path / "other-commitment", authority=authority)
    with pytest.raises(BundleInvalid, match="the time stamp of the key is over other bytes"):
        bundle(tmp_path / "dated.json", tmp_path / "B.bag", **given, commitment_token=token)
    planned = casework.build(tmp_path / "planned", key=b"the true key")
    with pytest.raises(PlanMismatch, match="key is"):
        detect(planned.file("answers.jsonl"), best, tokenizer=told.tokenizer, decoys=99, plan=planned.file("plan.json"))


def test_a_second_undisclosed_key_is_refused(tmp_path):
    told = casework.build(tmp_path / "case")
    evidence = Evidence.load(told.file("evidence.json"))
    second = replace(told.mark, key=next(iter(decoy_keys(b"second", 1))))
    note_test(
        told.file("answers.jsonl"), detect(told.file("answers.jsonl"), second, tokenizer=told.tokenizer, decoys=99)
    )
    note_test(told.file("answers.jsonl"), evidence)
    with pytest.raises(BundleInvalid, match="2 keys were tried on these answers, the plan allows 1"):
        bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given())
    record = told.file("answers.jsonl.tests.jsonl")
    record.write_bytes(b"".join(_lines(record)[:1] + _lines(record)[2:]))
    with pytest.raises(BundleInvalid, match="a line before it is missing, moved or changed"):
        bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given())


def test_counts_under_a_second_key_in_the_first_ones_name_are_refused(case, bag, tmp_path):
    other = replace(case.mark, key=next(iter(decoy_keys(b"second", 1))))
    found = detect(case.file("answers.jsonl"), other, tokenizer=case.tokenizer, decoys=99)
    mixed = replace(found, mark=case.mark.profile(), created=casework.FOUND)
    mixed.save(tmp_path / "mixed.json")
    made = bundle(tmp_path / "mixed.json", tmp_path / "M.bag", **case.given() | {"plan": None})
    _refused(made, r"votes: \d+ is stated under our key, recomputed it is \d+", mark=case.file("ours.wmark"))
    other.save(tmp_path / "other.wmark")
    _refused(bag, "the key opens the commitment .* it is another key", mark=tmp_path / "other.wmark")


# Signatures.


def test_forged_signatures_are_refused(bag, signer, tmp_path):
    forger = _signer(tmp_path / "forger.pem")
    shutil.copytree(bag, tmp_path / "forged")
    (tmp_path / "forged/data/README.txt").write_text("Nothing was found.")
    _resealed(tmp_path / "forged")
    sign(tmp_path / "forged", forger)
    _refused(tmp_path / "forged", "0 of the signers that were named have signed", signers=[_public(signer)])
    envelope = json.loads((tmp_path / "forged/attestation.dsse.json").read_bytes())
    true = json.loads((bag / "attestation.dsse.json").read_bytes())
    envelope["signatures"][0]["keyid"] = true["signatures"][0]["keyid"]  # the forger's, in the true signer's name
    _put_envelope(tmp_path / "forged", envelope, bag / "signers")
    _refused(tmp_path / "forged", "the signature by .* is not good")
    envelope["signatures"] = true["signatures"]  # the true one, of another bundle
    _put_envelope(tmp_path / "forged", envelope, bag / "signers")
    _refused(tmp_path / "forged", "the signature by .* is not good")
    ran = subprocess.run([sys.executable, alone.__file__, str(tmp_path / "forged")], capture_output=True, text=True)
    assert "is not good: forged, or over another bundle" in ran.stdout
    _put_envelope(tmp_path / "forged", true, bag / "signers")  # payload and all
    _refused(tmp_path / "forged", "the signed statement is about another manifest|is about another tagmanifest")


def _put_envelope(bag: Path, envelope: dict, signers: Path) -> None:
    """Puts an envelope and its signers in place, and into the record of custody, as if it had been so."""
    shutil.rmtree(bag / "signers")
    shutil.copytree(signers, bag / "signers")
    (bag / "attestation.dsse.json").write_bytes(canonical_json(envelope) + b"\n")
    lines = custody.read(bag / "custody.jsonl")
    events = [{k: v for k, v in line.items() if k not in ("hash", "prev", "seq")} for line in lines[1:]]
    events = [event for event in events if event["event"] != "sign"]
    keyid = envelope["signatures"][0]["keyid"]
    signed = {"event": "sign", "time": "", "keyid": keyid, "sha256": alone.sha256_of(bag / "attestation.dsse.json")}
    signed["signer"] = alone.sha256_of(bag / f"signers/{keyid}.pem")
    (bag / "custody.jsonl").unlink()
    custody.begin(bag / "custody.jsonl", lines[0]["case"], [*events, signed])


def test_a_removed_signature_or_time_stamp_is_missed(bag):
    (bag / "attestation.tsr").unlink()
    _refused(bag, "attestation.tsr is gone, its event is in custody.jsonl")
    (bag / "attestation.dsse.json").unlink()
    _refused(bag, "attestation.dsse.json is gone, its event is in custody.jsonl")


def test_a_time_stamp_over_another_envelope_is_refused(bag, authority, tmp_path):
    (tmp_path / "other").write_bytes(b"other bytes")
    token, _ = stamp(tmp_path / "other", authority=authority)
    shutil.copyfile(token, bag / "attestation.tsr")
    _refused(bag, "attestation.tsr is not the one that custody.jsonl tells of")
    custody.add(bag / "custody.jsonl", {"event": "timestamp", "time": "", "sha256": alone.sha256_of(token)})
    _refused(bag, "attestation.tsr is for other bytes|the time stamp is over other bytes")
    with pytest.raises(alone.Wrong, match="the time stamp is over other bytes"):
        alone.check_stamp(bag, None)


def test_a_redaction_that_changes_more_than_it_says_is_refused(bag, tmp_path):
    made = redact(bag, tmp_path / "R.bag", [2])
    _edited(made / "data/redaction.json", lambda told: told["changed"].append("data/plan.json"))
    _refused(_sealed_again(made), "data/redaction.json says that files were changed in which nothing can be redacted")
    made = redact(bag, tmp_path / "S.bag", [2])
    _edited(made / "data/evidence.json", lambda found: found.update(verdict="no evidence found"))
    _refused(_sealed_again(made), "does not match the hashes of its parts")
    made = redact(bag, tmp_path / "T.bag", [2])
    (made / "data/plan.json").unlink()
    _refused(_sealed_again(made), "data/plan.json stands in data/case.json, but not in the bundle; it was dropped")


def _sealed_again(made: Path) -> Path:
    index = json.loads((made / "data/case.json").read_bytes())
    found = json.loads((made / "data/evidence.json").read_bytes())
    making._write_manifests(made, found, index["created"])
    lines = custody.read(made / "custody.jsonl")
    events = [{k: v for k, v in line.items() if k not in ("hash", "prev", "seq")} for line in lines[1:]]
    events[-1]["tagmanifest"] = alone.sha256_of(made / "tagmanifest-sha256.txt")
    (made / "custody.jsonl").unlink()
    custody.begin(made / "custody.jsonl", index["case"], events)
    return made


# Files.


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../outside.txt", "would unpack to '../outside.txt', outside"),
        ("/etc/outside.txt", "outside of a bundle's folder"),
        ("data/../../outside.txt", "outside of a bundle's folder"),
        ("data\\..\\outside.txt", "outside of a bundle's folder"),
        ("C:outside.txt", "outside of a bundle's folder"),
        (".hidden", "outside of a bundle's folder"),
        ("data/a/b/c/d/e", "outside of a bundle's folder"),
    ],
)
def test_paths_that_lead_out_of_a_zip_are_refused(name, words, tmp_path, sealed):
    path = tmp_path / "deep" / "Z.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as made:
        for inside in files_of(sealed):
            made.write(sealed / inside, inside)
        made.writestr(name, b"x")
    _refused(path, re.escape(words) if "'" in words else words)
    assert not list(tmp_path.rglob("outside.txt"))
    ran = subprocess.run([sys.executable, alone.__file__, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 3
    assert "outside of a bundle's folder" in ran.stdout
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "Z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made, made.open("data/answers.jsonl", "w") as stream:
        for _ in range(256):
            stream.write(bytes(1 << 20))
    _refused(path, "is compressed; a bundle's zip stores its files as they are")
    with zipfile.ZipFile(path, "w") as made:
        for number in range(3):
            made.writestr(f"data/{number}", b"x" * 100_000)
    content = bytearray(path.read_bytes())
    first = content.find(b"PK\x01\x02")
    for start in [found.start() for found in re.finditer(b"PK\x01\x02", bytes(content))]:
        content[start + 42 : start + 46] = struct.pack("<I", 0)  # all three entries share one body
        content[start + 20 : start + 28] = struct.pack("<II", 900_000, 900_000)
    assert first > 0
    path.write_bytes(bytes(content))
    _refused(path, "unpacks to more than it holds|not a bundle's zip")
    with zipfile.ZipFile(path, "w") as made:
        for number in range(3000):
            made.writestr(f"data/{number}", b"")
    _refused(path, "more than 2,000 files")


def test_other_frames_of_a_zip_are_refused(sealed, tmp_path):
    frame = b"".join(archive(sealed, list(files_of(sealed))))
    for content, words in (
        (frame + b"x", "goes on after its end|not a bundle's zip"),
        (b"x" + frame, "not the zip that its files give|not a bundle's zip"),
        (frame[:-1], "not a bundle's zip"),
        (b"PK", "not a bundle's zip"),
    ):
        (tmp_path / "Z.zip").write_bytes(content)
        _refused(tmp_path / "Z.zip", words)
    with zipfile.ZipFile(tmp_path / "W.zip", "w") as made:
        for name in files_of(sealed):
            made.write(sealed / name, name)
    _refused(tmp_path / "W.zip", "not the zip that its files give; its frame was changed")
    twice = tmp_path / "T.zip"
    with zipfile.ZipFile(twice, "w") as made:
        made.writestr("data/a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("data/a", b"2")
    _refused(twice, "stands twice")


def test_links_and_special_files_are_refused(bag, case, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    shutil.copyfile(bag / "data/plan.json", tmp_path / "plan.json")
    (bag / "data/plan.json").unlink()
    (bag / "data/plan.json").symlink_to(tmp_path / "plan.json")
    _refused(bag, "data/plan.json is a symbolic link")
    with pytest.raises(alone.Wrong, match="data/plan.json is a symbolic link"):
        alone.check_manifests(bag)
    (bag / "data/plan.json").unlink()
    os.mkfifo(bag / "data/plan.json")
    _refused(bag, "data/plan.json is no plain file")
    (tmp_path / "link.bag").symlink_to(bag)
    _refused(tmp_path / "link.bag", "is a symbolic link")
    (tmp_path / "answers.jsonl").symlink_to(case.file("answers.jsonl"))
    with pytest.raises(BundleInvalid, match="no file that could go into a bundle"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"answers": tmp_path / "answers.jsonl"})
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as made:
        entry = zipfile.ZipInfo("data/link")
        entry.external_attr = 0o120777 << 16
        made.writestr(entry, "/etc/passwd")
    (tmp_path / "L.zip").write_bytes(link.getvalue())
    _refused(tmp_path / "L.zip", "data/link is a symbolic link")


def test_files_that_belong_to_nothing_are_refused(bag):
    (bag / "notes.txt").write_bytes(b"x")
    _refused(bag, "notes.txt belongs to no part of a bundle")
    (bag / "notes.txt").unlink()
    (bag / "data/extra.json").write_bytes(b"{}")
    _refused(bag, "data/extra.json stands in the bundle, but not in its manifest")
    _refused(_resealed(bag), "data/extra.json is not in data/case.json; it was slipped in")


def _hostile_case(folder: Path, text: str):
    return casework.build(folder, answers=6, planned=False, said=text)


def test_hostile_text_stays_text(tmp_path, capsys):
    hostile = "</pre><script>alert(1)</script>\x1b]0;owned\x07\u202e<img src=x onerror=alert(2)>{{7*7}}"
    told = _hostile_case(tmp_path / "case", hostile)
    made = bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given() | {"plan": None})
    page = (made / "data/report.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{7*7}}" in page or "49" not in embedded(page)["documents"][0]["id"]
    for checked in (verify_bundle(made, mark=told.file("ours.wmark")), [*check(made)]):
        assert "\x1b" not in str(checked)
    ran = CliRunner().invoke(app, ["evidence", "show", str(made)])
    assert ran.exit_code == 0
    assert "\x1b" not in ran.output
    for name in ("README.txt", "case.json", "software.json"):
        assert b"script" not in (made / "data" / name).read_bytes().lower()


def test_a_line_of_four_gigabytes_is_refused_in_little_memory(bag, case, tmp_path):
    big = tmp_path / "answers.jsonl"
    with big.open("wb") as stream:
        stream.write(b'{"id":"q0","text":"')
        stream.truncate(4 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleInvalid, match="answers.jsonl, line 1 is longer than 64 MiB"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"answers": big})
    with pytest.raises(OutputsInvalid, match="longer than 64 MiB"):
        detect(big, case.mark, tokenizer=case.tokenizer)
    for name in ("answers.jsonl", "evidence.json", "case.json", "answers.log.jsonl"):
        shutil.copyfile(bag / "data" / name, tmp_path / "kept")
        os.truncate(bag / "data" / name, 4 << 30)
        _refused(bag, "bag-info.txt states another number of files or bytes")
        with pytest.raises(alone.Wrong, match="more than the|longer than"):
            alone.read_json(bag, f"data/{name}") if name.endswith("e.json") else list(
                alone.lines_of(bag, f"data/{name}")
            )
        shutil.copyfile(tmp_path / "kept", bag / "data" / name)
    verdict = CliRunner().invoke(app, ["verify", str(big)])
    assert verdict.exit_code != 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def test_json_that_is_nested_too_deep_is_refused(bag):
    (bag / "data/plan.json").write_bytes(b"[" * 200_000)
    _refused(_resealed(bag), "data/plan.json is not JSON|nested")
    (bag / "data/evidence.json").write_bytes(b'{"digest":"0","a":' + b"[" * 200_000)
    making._write_manifests(bag, {"digest": "0"}, casework.FOUND)
    _refused(bag, "data/evidence.json is not JSON")


# The key.


def _forms(mark) -> dict[str, list[bytes]]:
    """The secret, as it might be written: raw, hex, base64 at every offset, a JSON list; and its salt."""
    found = {}
    for name, secret in zip(("key", "salt"), mark.key._export(), strict=True):
        forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
        forms += [json.dumps(list(secret)).encode(), json.dumps(list(secret), separators=(",", ":")).encode()]
        for start in range(3):
            inner = base64.b64encode(secret[start : start + (len(secret) - start) // 3 * 3])
            forms += [inner, base64.urlsafe_b64encode(base64.b64decode(inner))]
        found[name] = forms
    return found


class _Watched:
    """Commands run in this process, with every temporary folder, subprocess and file they leave searched for secrets.

    holders: files that are there to hold a secret, and are not searched.
    """

    def __init__(self, folder: Path, monkeypatch, marks: list, holders: list[Path]) -> None:
        self.folder, self.holders = folder, {path.resolve() for path in holders}
        self.forms = [form for mark in marks for written in _forms(mark).values() for form in written]
        self.clean: set[tuple[Path, int, int]] = set()  # files that were searched, as they are
        self.kept: list[Path] = []
        self.commands: list[str] = []
        self.told = 0
        kept, commands = self.kept, self.commands

        class Kept(tempfile.TemporaryDirectory):
            """Temporary folders stay, so that they can be searched."""

            def cleanup(self):
                self._finalizer.detach()
                kept.append(Path(self.name))

            def __exit__(self, *_):
                self.cleanup()

        ran, popen = subprocess.run, subprocess.Popen
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Kept)
        monkeypatch.setattr(
            subprocess, "run", lambda *a, **k: commands.append(repr((a, k.get("env"), k.get("input")))) or ran(*a, **k)
        )
        monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: commands.append(repr(a)) or popen(*a, **k))
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("WMARK_DEBUG", "1")

    def run(self, command: list[str], code: int | None) -> str:
        """Runs one command and searches; code: the exit code it must have, None for any."""
        done = CliRunner().invoke(app, command)
        assert code is None or done.exit_code == code, (command, done.output, done.exception)
        traced = "" if done.exc_info is None else "".join(traceback.format_exception(*done.exc_info))
        said = (done.output + repr(done.exception) + traced + "".join(self.commands[self.told :])).encode()
        self.told = len(self.commands)
        assert not any(form in said for form in self.forms), command
        for path in self.folder.rglob("*"):
            if not path.is_file() or path.resolve() in self.holders:
                continue
            seen = (path, path.stat().st_mtime_ns, path.stat().st_size)
            if seen not in self.clean:
                content = path.read_bytes()
                assert not any(form in content for form in self.forms), (command, path)
                self.clean.add(seen)
        return done.output


@pytest.mark.slow
def test_the_key_shows_in_no_file_log_temporary_file_error_or_process(case, signer, authority, tmp_path, monkeypatch):
    shutil.copytree(case.folder, tmp_path / "case")
    case = replace(case, folder=tmp_path / "case")
    ours, answers = str(case.file("ours.wmark")), str(case.file("answers.jsonl"))
    bag, plan = str(tmp_path / "K.bag"), str(case.file("plan.json"))
    broken = tmp_path / "broken.wmark"
    broken.write_bytes(case.file("ours.wmark").read_bytes().replace(b'"kid"', b'"dik"'))
    broken.chmod(0o600)
    other = tmp_path / "open.wmark"
    shutil.copyfile(ours, other)
    other.chmod(0o644)
    where = ["--tokenizer", str(case.file("teacher"))]
    make = ["evidence", "bundle", str(case.file("evidence.json"))]
    watched = _Watched(tmp_path, monkeypatch, [case.mark], [case.file("ours.wmark"), broken, other])
    for command, code in (
        (["detect", answers, "--mark", ours, "--output", str(tmp_path / "e.json"), "--decoys", "99", "-q"], 0),
        ([*make, "--answers", answers, "--plan", plan, *where, "--output", bag], 0),
        ([*make, "--answers", ours, "--output", bag + "x"], 1),
        ([*make, "--control", ours, "--output", bag + "x"], 1),
        ([*make, "--control", str(signer), "--output", bag + "x"], 1),
        (["evidence", "bundle", ours, "--output", bag + "y"], 1),
        ([*make, "--profile", ours, "--output", bag + "z"], 1),
        (["evidence", "sign", bag, "--key", ours], None),
        (["evidence", "sign", bag, "--key", str(signer)], 0),
        (["evidence", "timestamp", bag, "--authority", str(authority)], 0),
        (["evidence", "show", bag], 0),
        (["evidence", "verify", bag, "--mark", ours], 0),
        (["evidence", "verify", bag, "--mark", ours, "--signer", str(_public(signer)), "--json"], 0),
        (["evidence", "verify", bag, "--mark", str(broken)], None),
        (["evidence", "verify", bag, "--mark", str(other)], None),
        (["evidence", "verify", bag, "--signer", ours], None),
        (["evidence", "redact", bag, "--responses", "1-2", "--output", bag + "r"], 0),
        (["evidence", "verify", bag + "r", "--mark", ours], 0),
        (["verify", bag, "--mark", ours], 0),
    ):  # fmt: skip
        watched.run(command, code)
    assert watched.kept
    assert watched.commands
    ran, forms = subprocess.run, watched.forms
    ran([sys.executable, "-I", alone.__file__, bag, "--key", ours], check=True, capture_output=True)
    failed = ran([sys.executable, "-I", alone.__file__, bag, "--key", str(broken)], capture_output=True)
    assert failed.returncode == 3
    assert not any(form in failed.stdout + failed.stderr for form in forms)


@pytest.mark.slow
def test_the_key_shows_nowhere_from_plan_to_attribution(signer, authority, tmp_path, monkeypatch):
    """Every command that is given the key on the way, right and wrong, and a mark with accounts."""
    told = casework.build(tmp_path / "case", answers=8, tokens=30, planned=False)
    accounts = replace(told.mark, key=next(iter(decoy_keys(b"accounts", 1))), accounts=Accounts())
    accounts.save(tmp_path / "accounts.wmark")
    (tmp_path / "names.txt").write_text("acme\nbolt\n")
    rows = casework.marked(accounts.account("acme"), told.tokenizer, 24, 60)
    (tmp_path / "acme.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    ours, prompts, plan = str(told.file("ours.wmark")), str(told.file("prompts.jsonl")), str(tmp_path / "plan.json")
    said, bag = str(tmp_path / "said.jsonl"), str(tmp_path / "K.bag")
    marks = [told.mark, accounts, accounts.account("acme"), accounts.account("bolt")]
    watched = _Watched(tmp_path, monkeypatch, marks, [told.file("ours.wmark"), tmp_path / "accounts.wmark"])
    texts = iter(casework.marked(told.mark, told.tokenizer, 8, 60))
    ask = ["probe", "--prompts", prompts, "--concurrency", "1", "-q", "--output", said]
    planned = ["plan", "--mark", ours, "--access", "text", "--prompts", prompts, "--decoys", "99", "--slope", "9.0"]
    by = ["--accounts", str(tmp_path / "names.txt"), "--tokenizer", str(told.file("teacher")), "-q"]
    test = ["detect", said, "--mark", ours, "--plan", plan, "--decoys", "99", "-q"]
    found, whose = str(tmp_path / "e.json"), str(tmp_path / "a.json")
    with fake(
        lambda path, body, number: (200, {}, good(path, body, text=next(texts))) if "messages" in body else None
    ) as server:
        for command, code in (
            ([*planned, "--tokens-per-answer", "20", "--output", plan], 0),
            ([*planned, "--prompts", ours, "--output", plan + "x"], None),
            (["evidence", "sign", plan, "--key", str(signer)], 0),
            (["evidence", "sign", ours, "--key", str(signer)], 1),
            (["evidence", "timestamp", plan, "--authority", str(authority)], 0),
            (["evidence", "verify", plan, "--signer", str(_public(signer))], 0),
            ([*ask, server.url, "--plan", ours], None),
            ([*ask, server.url, "--plan", plan, "--samples", "2"], 1),
            ([*ask, server.url, "--plan", plan], 0),
            ([*test, "--tokenizer", str(told.file("teacher")), "--output", found], 0),
            ([*test, "--tokenizer", ours], None),
            (["detect", ours, "--mark", ours], None),
            (["verify", found, "--outputs", said, "--mark", ours, "--plan", plan], 0),
            (["report", found, "--output", str(tmp_path / "r.html")], 0),
            (["attribute", str(tmp_path / "acme.jsonl"), "--mark", str(tmp_path / "accounts.wmark"), *by,
              "--output", whose], 0),
            (["attribute", str(tmp_path / "acme.jsonl"), "--mark", ours, *by], 1),
            (["verify", whose, "--outputs", str(tmp_path / "acme.jsonl"), "--mark", str(tmp_path / "accounts.wmark"),
              "--tokenizer", str(told.file("teacher"))], 0),
            (["report", whose, "--output", str(tmp_path / "w.html")], 0),
            (["evidence", "bundle", found, "--answers", said, "--plan", plan, "--tokenizer",
              str(told.file("teacher")), "--output", bag], 0),
            (["evidence", "bundle", found, "--commitments", ours, "--output", bag + "x"], 1),
            (["evidence", "verify", bag, "--mark", ours], 0),
        ):  # fmt: skip
            watched.run(command, code)
