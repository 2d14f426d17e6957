"""More attacks on evidence: by those who own the key and the case, and seal what they have made up from the start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import casework
import numpy as np
import pytest
from casework import edit, lines_of, published, rechain, redacted_anew, refused, resealed

from watermark.bundle import (
    bundle,
    contents,
    redact,
    sign_file,
    stamp,
    verify_bundle,
    verify_file,
)
from watermark.bundle import standalone as alone
from watermark.detect import detect
from watermark.errors import BundleInvalid, PlanMismatch, ReportInvalid
from watermark.evidence import Decoys, Evidence
from watermark.files import canonical_json
from watermark.probe.log import log_path
from watermark.stats.laws import Bernoulli

pytest.importorskip("cryptography")
pytest.importorskip("rfc3161_client")
pytest.importorskip("jinja2")


def _without_page(bag):
    (bag / "data/report.html").unlink()
    edit(bag / "data/case.json", lambda index: index["files"].pop("report"))


def test_red_cells_without_a_vote_are_refused(case, tmp_path):
    """The digest of text's cells is over windows and tokens: votes of 0 in red cells leave it as it is."""
    from watermark.keys import decoy_keys
    from watermark.observe import observe, save_cells
    from watermark.outputs import Outputs

    seen = observe(Outputs(case.file("answers.jsonl")), case.mark, tokenizer=case.tokenizer)
    green = np.asarray(case.mark.score(seen.windows, seen.choices)).astype(np.int32)
    seen.weights["votes"] = green
    save_cells(seen, tmp_path / "cells.npz")
    found, count = Evidence.load(case.file("evidence.json")), int(green.sum())
    keys = list(decoy_keys(bytes.fromhex(seen.digest), 99))
    totals = case.mark.totals(seen.windows, seen.choices, green[None, :], keys)[:, 0].tolist()
    claimed = replace(
        found,
        cells=count,
        green=count,
        green_rate=1.0,
        z=0.75 * count / (count * 0.25 * 0.75) ** 0.5,
        log10_p=Bernoulli(0.25).log10_pvalue(count, count, alternative="greater"),
        decoys=Decoys(found.decoys.seed, 0.01, totals),
    )
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="every cell of text has one vote"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **case.given(), cells=tmp_path / "cells.npz")
    from watermark.report.cells import check_cells

    for mark in (None, case.mark):
        with pytest.raises(ReportInvalid, match="every cell of text has one vote"):
            check_cells(claimed, tmp_path / "cells.npz", mark)


def test_files_that_a_redaction_calls_removed_must_be_gone(bag, tmp_path):
    """Else a signed bundle's hashes are exchanged, and its responses with them, under the true signature."""
    made = redact(bag, tmp_path / "R.bag", [2])
    path = made / "data/answers.jsonl"
    lines = lines_of(path)
    lines[4] = lines[3].replace(b'"id":"q3"', b'"id":"q4"')
    path.write_bytes(b"".join(lines))
    edit(made / "data/hashes.json", lambda told: told["answers"]["lines"].__setitem__(4, alone.sha256(lines[4])))
    log = made / "data/answers.log.jsonl"
    entries = [json.loads(line) for line in lines_of(log)]
    for entry in entries:
        if entry.get("id") == "q4":
            entry["answer_sha256"] = alone.sha256(canonical_json(json.loads(lines[4])))
    edit(made / "data/redaction.json", lambda told: told["removed"].append("data/hashes.json"))
    refused(redacted_anew(made), "data/hashes.json .* removed")
    log.unlink()
    edit(made / "data/redaction.json", lambda told: told["removed"].append("data/answers.log.jsonl"))
    refused(redacted_anew(made), "data/redaction.json says that .* removed")


def _with_words(answer: bytes, words: bytes) -> bytes:
    """A time-stamp answer with words of anybody's in its status, which no signature covers (RFC 3161, 2.4.2)."""

    def tlv(tag: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
        return bytes([tag]) + length + content

    assert answer[:2] + answer[4:9] == bytes.fromhex("30823003020100")
    return tlv(0x30, tlv(0x30, b"\x02\x01\x00" + tlv(0x30, tlv(0x0C, words))) + answer[9:])


def test_the_time_of_a_stamp_is_the_authoritys_not_that_of_unsigned_words_beside_it(authority, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("a plan")
    token, found = stamp(path, authority=authority)
    older = b"\x18\x0f20200101000000Z\nTST info:\nTime stamp: Jan  1 00:00:00 2020 GMT\n"
    token.write_bytes(_with_words(token.read_bytes(), older))
    when, _ = alone.stamp_of(token, alone.sha256_of(path), "the stamp", [authority / "authority.pem"])
    assert when == found.time


def test_a_stamp_over_other_bytes_does_not_name_them_in_unsigned_words(authority, tmp_path):
    path, other = tmp_path / "plan.json", tmp_path / "other.json"
    path.write_text("a plan")
    other.write_text("another plan")
    token, _ = stamp(path, authority=authority)
    digest = alone.sha256_of(other)
    dumped = "    0000 - " + " ".join(digest[i : i + 2] for i in range(0, 32, 2)) + "\n"
    dumped += "    0010 - " + " ".join(digest[i : i + 2] for i in range(32, 64, 2)) + "\n"
    token.write_bytes(_with_words(token.read_bytes(), bytes.fromhex(digest) + b"\n" + dumped.encode()))
    with pytest.raises(alone.Wrong, match="is over other bytes|was not granted over"):
        alone.stamp_of(token, digest, "the stamp")


def test_a_confirmatory_claim_without_its_plan_is_refused(case, tmp_path):
    with pytest.raises(BundleInvalid, match="is called confirmatory, and its plan is not in the bundle"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"plan": None})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"alpha": 0.05}, "alpha|level"),
        ({"keys": 50}, "keys"),
        ({"share": 0.001}, "share"),
        ({"tokens": 1}, "tokens"),
        ({"status": "Confirmatory"}, "status"),
        (
            {"since": {"time": "2020-01-01T00:00:00+00:00", "by": "a time stamp", "authority": "X", "checked": True}},
            "since",
        ),
        ({"first_question": "2027-01-01T00:00:00+00:00"}, "first question"),
    ],
)
def test_what_the_evidence_says_of_its_plan_is_what_the_plan_says(changed, words, case, tmp_path):
    found = Evidence.load(case.file("evidence.json"))
    replace(found, plan=found.plan | changed).save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match=words):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **case.given())


def test_a_level_that_the_plan_does_not_give_is_refused(case, tmp_path):
    found = Evidence.load(case.file("evidence.json"))
    options = found.options | {"alpha": 0.05}
    claimed = replace(found, alpha=0.05, options=options, plan=found.plan | {"level": 0.05})
    claimed.save(tmp_path / "claimed.json")
    with pytest.raises(BundleInvalid, match="level"):
        bundle(tmp_path / "claimed.json", tmp_path / "B.bag", **case.given())


def test_a_key_or_a_plan_without_a_date_is_told_or_refused(case, bag, tmp_path):
    index, evidence = alone.read_json(bag, "data/case.json"), alone.read_json(bag, "data/evidence.json")
    undated = evidence | {"mark": evidence["mark"] | {"created": None}}
    assert "NOT CHECKED: the evidence does not say when its key was made" in alone.check_dates(bag, index, undated)
    edit(bag / "data/plan.json", lambda plan: plan.update(created=None))
    with pytest.raises(alone.Wrong, match="'None' is no time"):
        alone.check_dates(bag, index, evidence | {"plan": evidence["plan"] | {"since": None}})


def test_a_log_without_a_question_does_not_show_that_the_plan_came_first(case, tmp_path):
    told = casework.build(tmp_path / "case", answers=8, tokens=30)
    log = log_path(told.file("answers.jsonl"))
    log.write_bytes(lines_of(log)[0])
    with pytest.raises(PlanMismatch, match="the query log holds no question"):
        detect(told.file("answers.jsonl"), told.mark, tokenizer=told.tokenizer, decoys=99, plan=told.file("plan.json"))


def test_answers_without_a_line_are_refused_in_words(bag):
    (bag / "data/answers.jsonl").write_bytes(b"")
    digest = alone.sha256(b"")

    def emptied(told):
        told["answers"] |= {"sha256": digest, "lines": []}

    edit(bag / "data/hashes.json", emptied)

    def restated(found):
        found["inputs"]["outputs"]["sha256"] = digest

    edit(bag / "data/evidence.json", restated)
    found = json.loads((bag / "data/evidence.json").read_bytes())
    body = {name: value for name, value in found.items() if name != "digest"}
    rest = alone.sha256(alone.canonical({name: value for name, value in body.items() if name != "shown"}))
    edit(bag / "data/hashes.json", lambda told: told["evidence"].update(without_shown=rest))
    digest_now = alone.sha256(alone.canonical(body))
    edit(bag / "data/evidence.json", lambda e: e.update(digest=digest_now))
    edit(bag / "data/case.json", lambda index: index.update(case=digest_now))
    _without_page(bag)
    refused(resealed(bag), "the responses lack; it was dropped")
    ran = subprocess.run([sys.executable, alone.__file__, str(bag)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (3, "")


def test_a_threshold_without_that_many_signers_is_misuse(bag):
    for threshold in ("2", "0"):
        ran = subprocess.run(
            [sys.executable, alone.__file__, str(bag), "--threshold", threshold], capture_output=True, text=True
        )
        assert ran.returncode == 2, ran.stdout


def test_a_question_that_was_answered_twice_is_told(case, tmp_path):
    """A run that was cut off asks again; whoever drops an unfavourable answer and goes on does the same."""
    told = casework.build(tmp_path / "case", answers=8, tokens=30)
    log = log_path(told.file("answers.jsonl"))
    header, *lines = [json.loads(line) for line in lines_of(log)]
    rechain(log, [header, lines[0] | {"answer_sha256": "0" * 64}, *lines])
    made = bundle(told.file("evidence.json"), tmp_path / "B.bag", **told.given())
    said = dict(alone.steps(made))["query log"]
    assert "NOT CHECKED: 1 more were logged and asked for again" in said


def test_words_that_a_prompt_does_not_hold_are_told_where_they_leave_out_cells(bag):
    """`asked` in rows.jsonl is the owner's: filled with windows that he would rather not count."""
    with np.load(bag / "data/cells.npz") as stored:
        found = {name: stored[name] for name in stored.files}
    spelled = {int(i): bytes.fromhex(h) for i, h in alone.read_json(bag, "data/vocabulary.json").items()}
    gone = int(found["windows"][5, 0])
    keep = found["windows"][:, 0] != gone
    with (bag / "data/cells.npz").open("wb") as stream:
        np.savez_compressed(stream, **{name: values[keep] for name, values in found.items()})
    rows = [json.loads(line) for line in lines_of(bag / "data/rows.jsonl")]
    for row in rows:
        row["asked"] += "\n" + spelled[gone].decode().strip()
    (bag / "data/rows.jsonl").write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    evidence = json.loads((bag / "data/evidence.json").read_bytes())
    windows, choices, _ = alone.read_cells(bag, "data/cells.npz")
    evidence["observations"] = alone.sha256(windows.astype("<u4").tobytes() + choices.astype("<u4").tobytes())
    evidence["cells"] = len(choices)
    index = json.loads((bag / "data/case.json").read_bytes())
    _, told = next(alone.check_numbers(bag, index, evidence, None))
    assert f"NOT CHECKED: {np.sum(~keep)} cells were left out as prompts'" in told


def test_hashes_of_the_evidence_are_those_of_the_evidence(bag):
    """Else its owner signs one evidence, and shows another in a redacted copy of the same signed bundle."""
    edit(bag / "data/hashes.json", lambda told: told["evidence"].update(without_shown="0" * 64))
    refused(resealed(bag), "hashes of its parts")


def test_a_page_that_was_changed_is_not_taken_for_ours(bag):
    """Words in the style, and in a second place that calls itself the evidence, are seen by whoever opens the page."""
    path = bag / "data/report.html"
    text = path.read_text()
    path.write_text(text.replace("</style>", 'h1::after { content: "and there is no doubt"; }</style>', 1))
    told = next(one.detail for one in verify_bundle(resealed(bag)) if one.name == "page")
    assert "NOT CHECKED" in told
    assert "NOT CHECKED: its words" in dict(alone.steps(bag))["page"]
    path.write_text(text.replace("<h1", '<p id="evidence-json">and there is no doubt</p><h1', 1))
    refused(resealed(bag), "data/report.html does not hold this evidence|there is no doubt")
    with pytest.raises(alone.Wrong, match=r"data/report.html does not hold this evidence"):
        list(alone.steps(bag))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": None}, "inputs is no object|lacks something"),
        ({"format": None}, "is no kind of evidence|is no evidence"),
        ({"green_rate": 0.9}, "the rate of green cells is stated as 0.9"),
        ({"z": 40.0}, "z is stated as 40.0"),
        ({"cells": 10**13, "green_rate": 99e-13, "z": -1825741.858327}, "lacks something, or has it in another form"),
    ],
)
def test_evidence_with_a_changed_field_is_refused_in_words(changed, words, bag):
    found = json.loads((bag / "data/evidence.json").read_bytes()) | changed
    rest = {name: value for name, value in found.items() if name not in ("digest", "shown")}
    found["digest"] = alone.sha256(alone.canonical({n: v for n, v in found.items() if n != "digest"}))
    (bag / "data/evidence.json").write_bytes(json.dumps(found).encode())
    edit(bag / "data/case.json", lambda index: index.update(case=found["digest"]))
    parts = {"without_shown": alone.sha256(alone.canonical(rest))}
    edit(bag / "data/hashes.json", lambda told: told["evidence"].update(parts))
    _without_page(bag)
    refused(resealed(bag), words)


def test_what_cannot_be_shown_is_refused_in_words(bag, tmp_path):
    for name, content, words in (
        ("data/evidence.json", "{}", "does not say which mark was tested"),
        ("data/case.json", "{}", "is no index of a bundle: its 'case' is missing"),
        ("data/case.json", "[]", "is no JSON object"),
    ):
        (bag / name).write_text(content)
        with pytest.raises(BundleInvalid, match=words):
            contents(bag)
    with pytest.raises(BundleInvalid, match="is no file that could go into a bundle"):
        bundle(bag / "data/plan.json", tmp_path / "B.bag", answers="/")


def test_evidence_that_is_older_than_the_first_question_is_refused(case, tmp_path):
    """Dated back, it would not have to tell of the keys that were made since."""
    found = Evidence.load(case.file("evidence.json"))
    replace(found, created="2026-03-02T09:59:58+00:00").save(tmp_path / "dated.json")
    with pytest.raises(BundleInvalid, match="the evidence is of .* before the first question"):
        bundle(tmp_path / "dated.json", tmp_path / "B.bag", **case.given())


def test_a_revoked_key_that_counts_is_told(case, tmp_path):
    path = published(case, tmp_path, 1)
    told = json.loads(path.read_bytes())
    told["keys"][0]["revoked"] = True
    told["digest"] = alone.sha256(alone.canonical({n: v for n, v in told.items() if n != "digest"}))
    path.write_bytes(canonical_json(told) + b"\n")
    made = bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given(), commitments=path)
    assert "was published as revoked and counts here" in dict(alone.steps(made))["commitments"]


@pytest.mark.parametrize("times", [0, 2])
def test_a_plan_signed_by_nobody_or_by_one_key_twice_is_refused(times, case, signer, tmp_path):
    path = tmp_path / "plan.json"
    shutil.copyfile(case.file("plan.json"), path)
    signatures, _ = sign_file(path, signer)
    told = json.loads(signatures.read_bytes())
    told["signatures"] *= times
    signatures.write_bytes(canonical_json(told) + b"\n")
    with pytest.raises(BundleInvalid, match="no signature, or one key's twice"):
        verify_file(path)
    with pytest.raises(BundleInvalid, match="are none, or one key's twice"):
        bundle(case.file("evidence.json"), tmp_path / "B.bag", **case.given() | {"plan": path})


def test_a_vocabulary_with_two_numbers_for_one_word_is_no_proof_that_text_was_parted_so(bag):
    """Each word has a second number, and its owner takes whichever is green: the tokens still spell the text."""
    spelled = alone.read_json(bag, "data/vocabulary.json")
    (bag / "data/vocabulary.json").write_bytes(
        canonical_json(spelled | {str(int(i) + 1000): word for i, word in spelled.items()})
    )
    rows = [json.loads(line) for line in lines_of(bag / "data/rows.jsonl")]
    for row in rows:
        row["ids"] = [i + 1000 for i in row["ids"]]
    (bag / "data/rows.jsonl").write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    index, evidence = alone.read_json(bag, "data/case.json"), alone.read_json(bag, "data/evidence.json")
    windows, choices, _ = alone.read_cells(bag, "data/cells.npz")
    told = alone.check_rows(bag, index, evidence, np.column_stack([windows, choices]) + 1000)
    assert "NOT CHECKED: that the tokenizer spells and parts text so" in told
