"""An attribution recomputed: what follows from its own numbers, and from the outputs and the key."""

from __future__ import annotations

import dataclasses
import json

import casework
import pytest
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.accounts import Accounts
from watermark.attribute import attribute
from watermark.bundle import bundle, verify_bundle
from watermark.errors import ReportInvalid
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe
from watermark.outputs import Outputs
from watermark.report.attributed import load_attribution, verify_attribution
from watermark.schemes import GreenList

NAMES = ["ada", "bob", "cy"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(folder, mark): outputs that bob's answers taught, and whose answers the attribution finds."""
    folder = tmp_path_factory.mktemp("attribution")
    tokenizer = casework.word_tokenizer(folder / "teacher")
    binding = Binding(tokenizer.digest, tokenizer.size, tokenizer.special_ids, tokenizer.source)
    key = next(iter(decoy_keys(b"attributed", 1)))
    mark = Watermark(GreenList(window=1), key, binding, casework.MADE, accounts=Accounts())
    mark.save(folder / "ours.wmark")
    texts = casework.marked(mark.account("bob"), tokenizer, 30, 40)
    (folder / "answers.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    account = mark.account("ada")
    seen = observe(Outputs(folder / "answers.jsonl"), account, tokenizer=tokenizer)
    attribute(seen, mark, ["cy", "ada", "bob"], decoys=19).save(folder / "attribution.json")
    return folder, mark


def test_an_attribution_is_made_again_from_outputs_and_key(told):
    folder, mark = told
    found = load_attribution(folder / "attribution.json")
    assert found.found == ["bob"]
    checks = {c.name: c.detail for c in verify_attribution(found, outputs=folder / "answers.jsonl", mark=mark)}
    assert checks["arithmetic"] == "of 3 accounts 1 are found by Holm's correction"
    assert "totals and p-values of 3 accounts, as stated" in checks["recomputed"]
    alone = {c.name: c.detail for c in verify_attribution(folder / "attribution.json")}
    assert "NOT CHECKED" in alone["recomputed"]


def _first(found, **changed):
    return dataclasses.replace(
        found, exposures=[dataclasses.replace(found.exposures[0], **changed), *found.exposures[1:]]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: dataclasses.replace(f, found=["ada"]), "found are said to be"),
        (lambda f: dataclasses.replace(f, hypotheses=2), "3 accounts are listed, 2 hypotheses"),
        (lambda f: dataclasses.replace(f, gap=99.0), "the gap"),
        (lambda f: dataclasses.replace(f, runner_up="nobody"), "the runner-up"),
        (lambda f: dataclasses.replace(f, exposures=f.exposures[::-1]), "order of their scores"),
        (lambda f: _first(f, log10_p=-99.0), "the corrected p-value of bob"),
        (lambda f: _first(f, verdict="none found"), "the verdict on bob"),
        (lambda f: _first(f, kid="0" * 16), "the key of bob is .* another was tested"),
        (lambda f: _first(f, totals={"votes": 1}), "bob: totals is stated as"),
        (lambda f: _first(f, score=99.0), "the gap|bob: score is stated as"),
        (lambda f: _first(f, max_t_pvalue=0.01), "bob: max_t_pvalue is stated as 0.01"),
        (lambda f: dataclasses.replace(f, cells=7), "cells does not recompute"),
        (lambda f: dataclasses.replace(f, observations="0" * 64), "gives other observations"),
    ],
)
def test_each_changed_number_is_refused(told, change, words):
    folder, mark = told
    found = load_attribution(folder / "attribution.json")
    with pytest.raises(ReportInvalid, match=words):
        verify_attribution(change(found), outputs=folder / "answers.jsonl", mark=mark)


def test_an_edited_file_and_another_key_are_refused(told, tmp_path):
    folder, mark = told
    stored = json.loads((folder / "attribution.json").read_bytes())
    (tmp_path / "edited.json").write_text(json.dumps(stored | {"alpha": 0.2}))
    with pytest.raises(ReportInvalid, match="does not match its digest"):
        verify_attribution(tmp_path / "edited.json")
    other = dataclasses.replace(mark, key=next(iter(decoy_keys(b"other", 1))))
    with pytest.raises(ReportInvalid, match="is not the one tested"):
        verify_attribution(folder / "attribution.json", mark=other)


def test_verify_reads_attributions_and_their_bundles(told, tmp_path):
    folder, _ = told
    outputs, ours = str(folder / "answers.jsonl"), str(folder / "ours.wmark")
    done = CliRunner().invoke(app, ["verify", str(folder / "attribution.json"), "--outputs", outputs, "--mark", ours])
    assert done.exit_code == 0, done.exception
    assert "5. recomputed:" in done.output
    made = bundle(folder / "attribution.json", tmp_path / "A.bag", answers=outputs)
    checks = {check.name: check.detail for check in verify_bundle(made, mark=ours)}
    assert "totals and p-values of 3 accounts" in checks["recomputed"]
