"""An attribution recomputed: what follows from its own numbers, and from the outputs and the key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import casework
import pytest
from test_report import ACCUSING, Elements, words_of
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
from watermark.report import page
from watermark.report.attributed import load_attribution, verify_attribution
from watermark.report.attribution_page import STUDY, accounts, answers, figures
from watermark.report.weight import band, calibrated, shown
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


def _alone(found):
    """The same of one account, had no other been tried."""
    best = dataclasses.replace(found.exposures[0], log10_p_holm=found.exposures[0].log10_p)
    return dataclasses.replace(found, exposures=[best], hypotheses=1, runner_up=None, gap=None)


def test_of_one_account_there_is_no_runner_up_and_no_gap(told):
    found = _alone(load_attribution(told[0] / "attribution.json"))
    verify_attribution(found)
    with pytest.raises(ReportInvalid, match="the gap is stated as 9.0, recomputed it is None"):
        verify_attribution(dataclasses.replace(found, gap=9.0))


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
    assert checks["page"] == "data/report.html holds this evidence, and is what this version renders"


@pytest.fixture(scope="module")
def pages(told):
    """(attribution that finds bob, one in which he was not tried) and the words of both pages."""
    folder, mark = told
    account = mark.account("ada")
    seen = observe(Outputs(folder / "answers.jsonl"), account, tokenizer=account.tokenizer())
    without = attribute(seen, mark, ["ada", "cy"], decoys=19)
    found = load_attribution(folder / "attribution.json")
    return {"found": (found, page(found)), "none": (without, page(without))}


def test_the_page_answers_first_what_was_asked_found_how_sure_and_what_it_does_not_show(pages):
    for name, verdict in (("found", "Exposure found"), ("none", "None found")):
        words = words_of(pages[name][1])
        places = [
            words.index(each)
            for each in (
                verdict,
                "What was asked",
                "What was found",
                "How sure",
                "What it does not show",
                "Account by account",
                "Two propositions",
                "Dose, controls and limits",
                "Error rates and standards",
                "How to recompute",
            )
        ]
        assert places == sorted(places)
        assert "does not show who passed them on, who acted, or with what intent" in words
        assert ACCUSING.search(words) is None
    assert "These outputs depend on the keys of 1 of 3 accounts: “bob”." in words_of(pages["found"][1])
    assert "We found no dependence on the key of any of 2 accounts" in words_of(pages["none"][1])


def test_an_account_is_weighed_by_its_corrected_p_value(pages):
    found, text = pages["found"]
    rows = {row[0]: row for row in accounts(found).rows}
    best = found.exposures[0]
    assert rows["bob"][5] == shown(calibrated(best.log10_p_holm))
    assert rows["bob"][6] == band(calibrated(best.log10_p_holm))
    assert rows["ada"][6] == "no support"
    assert f"The findings provide {band(calibrated(best.log10_p_holm))} for Hp" in words_of(text)


def test_every_account_that_is_found_stands_in_the_table(pages):
    found, _ = pages["found"]
    many = [dataclasses.replace(found.exposures[0], account=f"a{n}", score=9 - n / 100) for n in range(40)]
    crowd = dataclasses.replace(found, exposures=many, hypotheses=40, found=[e.account for e in many[:30]])
    assert [row[0] for row in accounts(crowd).rows] == [e.account for e in many[:35]]
    assert "5 accounts with lower scores are in the evidence below" in accounts(crowd).note


def test_panels_of_decoys_are_counted_against_the_least_that_is_named(pages):
    found, text = pages["found"]
    (caption, _, rows) = answers(found)[2].tables[0]
    assert rows[0][2] == str(sum(best >= found.exposures[0].score for best in found.decoys.largest))
    assert caption in text
    assert answers(pages["none"][0])[2].tables == []


def test_the_study_that_is_named_says_so():
    count, where = STUDY
    text = re.sub(r"\s+", " ", (Path(__file__).parents[1] / where).read_text("utf-8"))
    assert f"of {count:,} accounts that taught nobody none is" in text


def test_a_page_without_panels_of_decoys_has_no_picture(pages):
    bare = dataclasses.replace(pages["found"][0], decoys=None)
    assert figures(bare) == []
    assert "Accounts among keys" not in page(bare)


def test_the_page_is_the_same_bytes_after_saving_and_held_to_its_evidence(pages, tmp_path):
    found, text = pages["found"]
    found.save(tmp_path / "a.json")
    assert page(load_attribution(tmp_path / "a.json")) == text
    (tmp_path / "r.html").write_text(text, "utf-8")
    arguments = ["verify", str(tmp_path / "a.json"), "--report", str(tmp_path / "r.html")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    assert "page: r.html is what this evidence renders to" in done.output
    (tmp_path / "r.html").write_text(text.replace("“bob”", "“ada”"), "utf-8")
    with pytest.raises(ReportInvalid, match="ada"):
        verify_attribution(tmp_path / "a.json", page=tmp_path / "r.html")


def test_the_command_writes_the_page_and_a_template(told, tmp_path):
    folder, _ = told
    made = ["--output", str(tmp_path / "r.html"), "--certification", str(tmp_path / "c.md")]
    done = CliRunner().invoke(app, ["report", str(folder / "attribution.json"), *made])
    assert done.exit_code == 0, done.exception
    found = load_attribution(folder / "attribution.json")
    assert (tmp_path / "r.html").read_text("utf-8") == page(found)
    assert found.digest in (tmp_path / "c.md").read_text("utf-8")


def test_an_account_s_name_stays_text(pages):
    found, _ = pages["found"]
    attack = '</td><script>alert(1)</script><img src=x onerror="alert(2)">\u202e`'
    named = dataclasses.replace(
        found, exposures=[dataclasses.replace(found.exposures[0], account=attack)], found=[attack]
    )
    text = page(named)
    assert "<script" not in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert not [name for _, attributes in Elements(text).tags for name in attributes if name.startswith("on")]


def test_a_bundled_page_of_other_words_is_not_called_the_same(told, pages, tmp_path):
    from watermark.bundle.verify import _page

    found, text = pages["found"]
    path = tmp_path / "report.html"
    for new, says in (
        (text.replace('<td class="text">', '<td class="text" >'), "NOT CHECKED: its style and drawings"),
        (text.replace("Not checked</span>", "Checked, speaks against it</span>"), "NOT CHECKED: its words are not all"),
    ):
        path.write_text(new, "utf-8")
        assert new != text
        assert says in _page(found, {"report": path}).detail


def test_every_link_leads_to_a_place_on_the_page(pages):
    tags = Elements(pages["found"][1]).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    links = [a["href"] for tag, a in tags if tag == "a"]
    assert links
    assert {(link or "").removeprefix("#") for link in links} <= ids
