"""Attacks on evidence: each is refused, with a sentence that names what is wrong.

An attacker of the first kind changes a file and leaves the rest. One of the second kind seals the bundle again, as if
it had been so from the start: what catches him is the log, the plan, a time stamp, or a signature he cannot make.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import casework
import numpy as np
import pytest
from casework import edit, events_of, lines_of, public_of, rechain, redacted_anew, refused, resealed, signing_key
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.bundle import bundle, custody, note_test, redact, sign, stamp, verify_bundle
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


# One flipped byte.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "redacted"])
def test_every_flipped_byte_of_every_file_is_caught(kind, bag, tmp_path, monkeypatch):
    """All of them, one after another. Digests of the other files, which are as they were, are remembered."""
    bag = bag if kind == "whole" else redact(bag, tmp_path / "R.bag", [1, 2])
    index = alone.read_json(bag, "data/case.json")
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
                lambda: alone.check_custody(bag, index),
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
            verify_bundle(bag, signers=[public_of(signer)])
        stem = Path(name).name.split(".")[0]
        assert stem in str(refused.value) or "signatures" in str(refused.value), (name, str(refused.value))
        (bag / name).write_bytes(content)
    frame = b"".join(archive(bag, list(files)))
    for place in [*rng.integers(0, len(frame), 25), *range(14), *range(len(frame) - 22, len(frame))]:
        (tmp_path / "Z.zip").write_bytes(frame[:place] + bytes([frame[place] ^ 0x01]) + frame[place + 1 :])
        with pytest.raises(ReportInvalid, match=r"\w"):
            verify_bundle(tmp_path / "Z.zip")


# Responses.


def test_a_swapped_response_is_refused(bag):
    lines = lines_of(bag / "data/answers.jsonl")
    (bag / "data/answers.jsonl").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    refused(bag, "data/answers.jsonl is not the file in the manifest")
    refused(resealed(bag), "response 1 of data/answers.jsonl is not the one that was tested; it was swapped")


def test_a_response_swapped_before_the_test_is_refused_by_the_log(case, tmp_path):
    lines = [json.loads(line) for line in lines_of(case.file("answers.jsonl"))]
    lines[2]["text"] = lines[3]["text"] + " ba ca da"
    told = _tested_again(case, tmp_path, lines)
    with pytest.raises(
        BundleInvalid, match=r"response 3 \('q2'\) is not the one whose hash the log holds; it was swapped"
    ):
        bundle(tmp_path / "evidence.json", tmp_path / "B.bag", **told)


def test_a_dropped_unfavourable_response_is_refused(bag, case, tmp_path):
    lines = lines_of(bag / "data/answers.jsonl")
    (bag / "data/answers.jsonl").write_bytes(b"".join(lines[:3] + lines[4:]))
    refused(resealed(bag), "response 4 of data/answers.jsonl is not the one that was tested")
    kept = [json.loads(line) for number, line in enumerate(lines) if number != 3]
    told = _tested_again(case, tmp_path, kept)
    with pytest.raises(
        BundleInvalid, match="the query log holds an answer 'q3' that the responses lack; it was dropped"
    ):
        bundle(tmp_path / "evidence.json", tmp_path / "B.bag", **told)
    log = log_path(tmp_path / "answers.jsonl")
    log.write_bytes(b"".join(line for number, line in enumerate(lines_of(log)) if number != 4))
    with pytest.raises(BundleInvalid, match="line 5: a line before it is missing, moved or changed"):
        bundle(tmp_path / "evidence.json", tmp_path / "D.bag", **told)


def test_a_dropped_response_and_its_log_line_leave_a_planned_probe_without_answer(case, tmp_path):
    kept = [json.loads(line) for number, line in enumerate(lines_of(case.file("answers.jsonl"))) if number != 3]
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
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    refused(bag, "data/answers.log.jsonl is not the file in the manifest")
    refused(resealed(bag), "line 3: a line before it is missing, moved or changed")


def test_a_log_with_another_first_question_is_refused_by_custody(bag):
    """The log's chain is made anew with earlier times; its head is not the one that custody took over."""
    path = bag / "data/answers.log.jsonl"
    entries = [json.loads(line) for line in lines_of(path)]
    for entry in entries[1:]:
        entry["time_sent"] = entry["time_sent"].replace("2026-03-02", "2026-04-02")
    rechain(path, entries)
    refused(resealed(bag), "the evidence gives 2026-03-02.* for the first question, the query log 2026-04-02")
    with pytest.raises(alone.Wrong, match="the query log does not end where custody took it over"):
        alone.check_custody(bag, alone.read_json(bag, "data/case.json"))


def test_a_back_dated_plan_is_refused(case, bag, tmp_path, authority):
    edit(bag / "data/plan.json", lambda plan: plan.update(created="2025-01-01T00:00:00+00:00"))
    refused(resealed(bag), "the plan does not match its digest; it was changed after it was written")
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


def test_a_log_reordered_to_look_later_still_tells_of_its_earliest_question(tmp_path):
    """Its chain is made anew with the earliest question last, and the plan dated between the two."""
    told = casework.build(tmp_path / "case", plan_made="2026-03-02T10:00:05+00:00", exploratory=True)
    log = log_path(told.file("answers.jsonl"))
    header, *lines = [json.loads(line) for line in lines_of(log)]
    rechain(log, [header, *lines[5:], *lines[:5]])
    with pytest.raises(PlanMismatch, match="the first question was asked at 2026-03-02T10:00:00"):
        detect(told.file("answers.jsonl"), told.mark, tokenizer=told.tokenizer, decoys=99, plan=told.file("plan.json"))
    found = Evidence.load(told.file("evidence.json"))
    claimed = replace(found, plan=found.plan | {"status": "confirmatory", "mismatches": []})
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="the plan is younger .* than the first question .2026-03-02T10:00:00"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **told.given())
    rechain(log, [header | {"created": "2026-03-02T10:00:08+00:00"}, *lines])
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
    record.write_bytes(b"".join(lines_of(record)[:1] + lines_of(record)[2:]))
    with pytest.raises(BundleInvalid, match="a line before it is missing, moved or changed"):
        bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given())


def test_counts_under_a_second_key_in_the_first_ones_name_are_refused(case, bag, tmp_path):
    other = replace(case.mark, key=next(iter(decoy_keys(b"second", 1))))
    found = detect(case.file("answers.jsonl"), other, tokenizer=case.tokenizer, decoys=99)
    mixed = replace(found, mark=case.mark.profile(), created=casework.FOUND)
    mixed.save(tmp_path / "mixed.json")
    made = bundle(tmp_path / "mixed.json", tmp_path / "M.bag", **case.given() | {"plan": None})
    refused(made, r"votes: \d+ is stated under our key, recomputed it is \d+", mark=case.file("ours.wmark"))
    other.save(tmp_path / "other.wmark")
    refused(bag, "the key opens the commitment .* it is another key", mark=tmp_path / "other.wmark")


# Signatures.


def test_forged_signatures_are_refused(bag, signer, tmp_path):
    forger = signing_key(tmp_path / "forger.pem")
    shutil.copytree(bag, tmp_path / "forged")
    (tmp_path / "forged/data/README.txt").write_text("Nothing was found.")
    resealed(tmp_path / "forged")
    sign(tmp_path / "forged", forger)
    refused(tmp_path / "forged", "0 of the signers that were named have signed", signers=[public_of(signer)])
    envelope = json.loads((tmp_path / "forged/attestation.dsse.json").read_bytes())
    true = json.loads((bag / "attestation.dsse.json").read_bytes())
    envelope["signatures"][0]["keyid"] = true["signatures"][0]["keyid"]  # the forger's, in the true signer's name
    _put_envelope(tmp_path / "forged", envelope, bag / "signers")
    refused(tmp_path / "forged", "the signature by .* is not good")
    envelope["signatures"] = true["signatures"]  # the true one, of another bundle
    _put_envelope(tmp_path / "forged", envelope, bag / "signers")
    refused(tmp_path / "forged", "the signature by .* is not good")
    ran = subprocess.run([sys.executable, alone.__file__, str(tmp_path / "forged")], capture_output=True, text=True)
    assert "is not good: forged, or over another bundle" in ran.stdout
    _put_envelope(tmp_path / "forged", true, bag / "signers")  # payload and all
    refused(tmp_path / "forged", "the signed statement is about another manifest|is about another tagmanifest")


def _put_envelope(bag: Path, envelope: dict, signers: Path) -> None:
    """Puts an envelope and its signers in place, and into the record of custody, as if it had been so."""
    shutil.rmtree(bag / "signers")
    shutil.copytree(signers, bag / "signers")
    (bag / "attestation.dsse.json").write_bytes(canonical_json(envelope) + b"\n")
    header, *_ = custody.read(bag / "custody.jsonl")
    events = [event for event in events_of(bag) if event["event"] != "sign"]
    keyid = envelope["signatures"][0]["keyid"]
    signed = {"event": "sign", "time": "", "keyid": keyid, "sha256": alone.sha256_of(bag / "attestation.dsse.json")}
    signed["signer"] = alone.sha256_of(bag / f"signers/{keyid}.pem")
    (bag / "custody.jsonl").unlink()
    custody.begin(bag / "custody.jsonl", header["case"], [*events, signed])


def test_a_removed_signature_or_time_stamp_is_missed(bag):
    (bag / "attestation.tsr").unlink()
    refused(bag, "attestation.tsr is gone, its event is in custody.jsonl")
    (bag / "attestation.dsse.json").unlink()
    refused(bag, "attestation.dsse.json is gone, its event is in custody.jsonl")


def test_a_time_stamp_over_another_envelope_is_refused(bag, authority, tmp_path):
    (tmp_path / "other").write_bytes(b"other bytes")
    token, _ = stamp(tmp_path / "other", authority=authority)
    shutil.copyfile(token, bag / "attestation.tsr")
    refused(bag, "attestation.tsr is not the one that custody.jsonl tells of")
    custody.add(bag / "custody.jsonl", {"event": "timestamp", "time": "", "sha256": alone.sha256_of(token)})
    refused(bag, "attestation.tsr is for other bytes|the time stamp is over other bytes")
    with pytest.raises(alone.Wrong, match="the time stamp is over other bytes"):
        alone.check_stamp(bag, None)


def test_a_redaction_that_changes_more_than_it_says_is_refused(bag, tmp_path):
    made = redact(bag, tmp_path / "R.bag", [2])
    edit(made / "data/redaction.json", lambda told: told["changed"].append("data/plan.json"))
    refused(redacted_anew(made), "data/redaction.json says that files were changed in which nothing can be redacted")
    made = redact(bag, tmp_path / "S.bag", [2])
    edit(made / "data/evidence.json", lambda found: found.update(verdict="no evidence found"))
    refused(redacted_anew(made), "does not match the hashes of its parts")
    made = redact(bag, tmp_path / "T.bag", [2])
    (made / "data/plan.json").unlink()
    refused(redacted_anew(made), "data/plan.json stands in data/case.json, but not in the bundle; it was dropped")


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
    refused(path, re.escape(words) if "'" in words else words)
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
    refused(path, "is compressed; a bundle's zip stores its files as they are")
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
    refused(path, "unpacks to more than it holds|not a bundle's zip")
    with zipfile.ZipFile(path, "w") as made:
        for number in range(3000):
            made.writestr(f"data/{number}", b"")
    refused(path, "more than 2,000 files")


def test_other_frames_of_a_zip_are_refused(sealed, tmp_path):
    frame = b"".join(archive(sealed, list(files_of(sealed))))
    for content, words in (
        (frame + b"x", "goes on after its end|not a bundle's zip"),
        (b"x" + frame, "not the zip that its files give|not a bundle's zip"),
        (frame[:-1], "not a bundle's zip"),
        (b"PK", "not a bundle's zip"),
    ):
        (tmp_path / "Z.zip").write_bytes(content)
        refused(tmp_path / "Z.zip", words)
    with zipfile.ZipFile(tmp_path / "W.zip", "w") as made:
        for name in files_of(sealed):
            made.write(sealed / name, name)
    refused(tmp_path / "W.zip", "not the zip that its files give; its frame was changed")
    twice = tmp_path / "T.zip"
    with zipfile.ZipFile(twice, "w") as made:
        made.writestr("data/a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("data/a", b"2")
    refused(twice, "stands twice")


def test_links_and_special_files_are_refused(bag, case, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    shutil.copyfile(bag / "data/plan.json", tmp_path / "plan.json")
    (bag / "data/plan.json").unlink()
    (bag / "data/plan.json").symlink_to(tmp_path / "plan.json")
    refused(bag, "data/plan.json is a symbolic link")
    with pytest.raises(alone.Wrong, match="data/plan.json is a symbolic link"):
        alone.check_manifests(bag)
    (bag / "data/plan.json").unlink()
    os.mkfifo(bag / "data/plan.json")
    refused(bag, "data/plan.json is no plain file")
    (tmp_path / "link.bag").symlink_to(bag)
    refused(tmp_path / "link.bag", "is a symbolic link")
    (tmp_path / "answers.jsonl").symlink_to(case.file("answers.jsonl"))
    with pytest.raises(BundleInvalid, match="no file that could go into a bundle"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"answers": tmp_path / "answers.jsonl"})
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as made:
        entry = zipfile.ZipInfo("data/link")
        entry.external_attr = 0o120777 << 16
        made.writestr(entry, "/etc/passwd")
    (tmp_path / "L.zip").write_bytes(link.getvalue())
    refused(tmp_path / "L.zip", "data/link is a symbolic link")


def test_files_that_belong_to_nothing_are_refused(bag):
    (bag / "notes.txt").write_bytes(b"x")
    refused(bag, "notes.txt belongs to no part of a bundle")
    (bag / "notes.txt").unlink()
    (bag / "data/extra.json").write_bytes(b"{}")
    refused(bag, "data/extra.json stands in the bundle, but not in its manifest")
    refused(resealed(bag), "data/extra.json is not in data/case.json; it was slipped in")


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
        refused(bag, "bag-info.txt states another number of files or bytes")
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
    refused(resealed(bag), "data/plan.json is not JSON|nested")
    (bag / "data/evidence.json").write_bytes(b'{"digest":"0","a":' + b"[" * 200_000)
    making._write_manifests(bag, {"digest": "0"}, casework.FOUND)
    refused(bag, "data/evidence.json is not JSON")
