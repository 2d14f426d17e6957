"""Every key of a set tested at once: the level holds over the set, no key can be left out, and a stranger can check."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from keyring_tools import DAY, THEN, a_key, fixed_set
from toy import BINDING, LISTED, Text, drifted, openings, read_all, seen_by, teacher

import watermark.report
from watermark import inforce
from watermark.access import Found
from watermark.bundle import note_test, standalone
from watermark.detect import detect
from watermark.errors import KeyUnusable, ReportInvalid
from watermark.evidence import Evidence
from watermark.inforce import InForce, averaged, bonferroni, evalues
from watermark.keyring import Commitments
from watermark.keys import decoy_keys
from watermark.observe import observe, observe_readings
from watermark.observe.text import VOTES
from watermark.outputs import Output
from watermark.plan import plan
from watermark.report import taken_as_stated, verify
from watermark.report.cells import check_cells

TEACHER = teacher()
BASE, SUSPECT = drifted(TEACHER, 6), dataclasses.replace(drifted(TEACHER, 5), copy=0.3)
SETS, N = 1_500, 5
ROWS, LENGTH = 40, 160


@pytest.fixture(scope="module")
def keys():
    return fixed_set(b"in force", 4, binding=BINDING)


def _outputs(ids: np.ndarray) -> list[Output]:
    return [
        Output(f"a{n}", token_ids=tuple(row[2:].tolist()), prompt_token_ids=tuple(row[:2].tolist()))
        for n, row in enumerate(ids)
    ]


@pytest.fixture(scope="module")
def innocent() -> list[Output]:
    rng = np.random.default_rng(51)
    return _outputs(SUSPECT.write(openings(ROWS, rng), LENGTH, rng))


@pytest.fixture(scope="module")
def marked(keys) -> list[Output]:
    """Answers under the third key of the set."""
    rng, mark = np.random.default_rng(52), keys.watermark(keys.epochs[2])
    return _outputs(TEACHER.write(openings(12, rng), 100, rng, mark.tilt))


@pytest.fixture(scope="module")
def found(keys, marked) -> Evidence:
    return detect(marked, keys)


@pytest.fixture(scope="module")
def readings():
    """An innocent open model over its own texts, against its base."""
    rng = np.random.default_rng(53)
    texts = [Text(row, 2) for row in SUSPECT.write(openings(10, rng), 120, rng)]
    return [read_all(text, seen_by(SUSPECT, text), seen_by(BASE, text), LISTED) for text in texts]


# ---- what is found


def test_the_marking_key_is_foremost_and_its_pvalue_is_paid_for(keys, marked, found):
    alone = detect(marked, keys.watermark(keys.epochs[2]))
    assert found.verdict == "evidence found"
    assert found.keys["foremost"] == keys.epochs[2].key.kid == found.mark["kid"]
    assert found.log10_p == pytest.approx(alone.log10_p + math.log10(4), rel=1e-12)
    assert (found.green, found.cells, found.decoys) == (alone.green, alone.cells, alone.decoys)
    assert [entry["kid"] for entry in found.keys["each"]] == [e.key.kid for e in keys.epochs]


def test_an_innocent_suspect_shows_nothing_under_any_key(keys, innocent):
    found = detect(innocent, keys)
    assert found.verdict != "evidence found"
    assert found.log10_p == min(0.0, min(e["log10_p"] for e in found.keys["each"]) + math.log10(4))


def test_the_evidence_says_how_many_keys_were_tested(found):
    assert found.keys["tested"] == 4
    assert "all 4 keys of set 0123456789abcdef tested, Bonferroni over exact tails" in found.method
    assert found.notes[-1].startswith("4 keys were tested and the p-value is corrected for all of them")


def test_what_could_have_been_found_is_what_a_corrected_test_could(keys, innocent):
    one, four = detect(innocent, keys.watermark(keys.epochs[0])), detect(innocent, keys)
    assert four.detectable_rate > one.detectable_rate
    assert four.detectable_rate == detect(innocent, keys.watermark(keys.epochs[0]), alpha=0.001 / 4).detectable_rate


def test_a_revoked_key_counts_and_shows_nothing(keys, marked):
    revoked = keys.revoking("epoch-2")
    found = detect(marked, revoked)
    assert found.verdict != "evidence found"
    assert found.keys["tested"] == 4
    assert found.keys["foremost"] != keys.epochs[2].key.kid
    assert "1 of them revoked" in found.notes[-1]
    every = keys
    for epoch in keys.epochs:
        every = every.revoking(epoch.label)
    assert detect(marked, every).log10_p == 0.0


def test_revoking_after_looking_gains_nothing(keys, marked, found):
    fewer = keys.revoking("epoch-0").revoking("epoch-1").revoking("epoch-3")
    assert detect(marked, fewer).log10_p == found.log10_p


def test_a_key_that_the_plan_named_is_tested_alone(keys, marked, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    planned = plan(keys.watermark(keys.epochs[2]), access="text", prompts=tmp_path / "p.jsonl", tokens_per_answer=10)
    found = detect(marked, keys, plan=planned, exploratory=True)
    assert found.keys is None
    assert found.log10_p == detect(marked, keys.watermark(keys.epochs[2])).log10_p
    with pytest.raises(KeyUnusable, match="none of the 4 of set"):
        detect(marked, fixed_set(b"another", 4, binding=BINDING), plan=planned)


def test_what_goes_with_one_key_is_refused_for_a_set(keys, marked, tmp_path):
    with pytest.raises(KeyUnusable, match="a ledger goes with one key, and all 4 of set"):
        detect(marked, keys, ledger=tmp_path / "ledger.jsonl")


def test_where_reading_was_stopped_the_mean_of_e_processes_decides(keys, marked):
    found = detect(marked, keys, stopped=True)
    bets = [entry["log10_e"] for entry in found.keys["each"]]
    assert found.keys["correction"] == "mean of e-values"
    assert found.log10_p == pytest.approx(-math.log10(sum(10.0**e for e in bets) / 4), rel=1e-9)
    assert max(bets) == found.anytime.log10_e
    verify(found)


def test_read_weights_are_averaged_over_keys(keys, readings):
    seen, stages = observe_readings(readings, keys.watermark(keys.epochs[0]))
    whole = InForce.of(keys)
    mark, _, over = whole.tested(Found(seen, stages), access="logits", alpha=0.01, alternative="greater", stopped=False)
    bets = np.array([entry["log10_e"] for entry in over["each"]])
    assert over["log10_p"] == min(0.0, -math.log10((10.0**bets).mean()))
    assert mark.key.kid == over["foremost"] == over["each"][int(bets.argmax())]["kid"]


# ---- what a stranger checks


def test_evidence_of_a_set_verifies_with_and_without_the_keys(keys, marked, found, tmp_path):
    _saved(tmp_path / "o.jsonl", marked)
    made = detect(tmp_path / "o.jsonl", keys, cells=tmp_path / "c.npz")
    made.save(tmp_path / "e.json")
    assert Evidence.load(tmp_path / "e.json") == made
    names = [check.name for check in verify(tmp_path / "e.json")]
    assert names == ["digest", "arithmetic"]
    checks = verify(tmp_path / "e.json", outputs=tmp_path / "o.jsonl", cells=tmp_path / "c.npz", mark=keys)
    assert [c.name for c in checks] == [
        "digest", "arithmetic", "outputs", "cells", "mark", "keys", "recomputed", "recomputed",
    ]  # fmt: skip
    assert taken_as_stated(made, outputs="o", mark=keys) == []


def test_one_opened_key_recomputes_its_own_results(keys, marked, tmp_path):
    _saved(tmp_path / "o.jsonl", marked)
    made, mark = detect(tmp_path / "o.jsonl", keys), keys.watermark(keys.epochs[2])
    assert [c.name for c in verify(made, outputs=tmp_path / "o.jsonl", mark=mark)][-1] == "recomputed"
    assert "other 3 keys were taken as stated" in taken_as_stated(made, outputs="o", mark=mark)[0]
    with pytest.raises(ReportInvalid, match="is not the one tested"):
        verify(made, mark=keys.watermark(keys.epochs[1]))


def test_a_set_that_grew_since_still_verifies(keys, marked, tmp_path):
    _saved(tmp_path / "o.jsonl", marked)
    made = detect(tmp_path / "o.jsonl", keys)
    grown = keys.rotated("next", starts=THEN + 99 * DAY, revoke="epoch-2", now=THEN + 99 * DAY)
    assert verify(made, outputs=tmp_path / "o.jsonl", mark=grown)
    with pytest.raises(ReportInvalid, match="is not key 1 of the set|not of this set"):
        verify(made, outputs=tmp_path / "o.jsonl", mark=fixed_set(b"another", 4, binding=BINDING))


def test_evidence_of_one_key_verifies_with_its_set(keys, marked):
    alone = detect(marked, keys.watermark(keys.epochs[1]))
    assert [c.name for c in verify(alone, mark=keys)] == ["digest", "arithmetic", "mark"]


def _forged(found: Evidence, **change) -> Evidence:
    return dataclasses.replace(found, keys=found.keys | change)


def _kept(found: Evidence, *places: int) -> Evidence:
    """The evidence as if only these keys had been tested, all that follows made to fit."""
    each = [found.keys["each"][place] for place in places]
    joint = inforce.together(each)
    forged = _forged(found, each=each, tested=len(each), **joint)
    return dataclasses.replace(forged, log10_p=joint["log10_p"])


@pytest.mark.parametrize("places", [(2,), (0, 1, 2), (2, 3), (1, 2, 3), (2, 1, 0, 3)])
def test_a_key_left_out_or_moved_is_seen(found, places):
    with pytest.raises(ReportInvalid, match="do not lead to the head"):
        verify(_kept(found, *places))


def test_a_second_set_with_one_key_is_not_the_published_one(keys, marked):
    """Leaving keys out means making another set, whose head was never published."""
    one = dataclasses.replace(keys, epochs=keys.epochs[2:3])
    made = detect(marked, one)
    verify(made)
    with pytest.raises(ReportInvalid, match="not those published"):
        inforce.check_published(made, keys.commitments())


@pytest.mark.parametrize(
    "change, says",
    [
        ({"tested": 3}, "3 keys are said to be tested, 4 are listed"),
        ({"log10_p": -50.0}, "log10_p is stated as"),
        ({"correction": "none"}, "correction is stated as none"),
        ({"foremost": "0" * 16}, "foremost is stated as"),
        ({"head": "0" * 64}, "do not lead to the head"),
        ({"each": []}, "not complete"),
        ({"each": None}, "not complete"),
        ({"set": "another"}, "do not lead to the head"),
    ],
)
def test_a_forged_field_is_refused_in_words(found, change, says):
    with pytest.raises(ReportInvalid, match=says):
        verify(_forged(found, **change))


def _entry(found: Evidence, place: int, **change) -> Evidence:
    each = [entry | (change if n == place else {}) for n, entry in enumerate(found.keys["each"])]
    joint = inforce.together(each)
    return dataclasses.replace(_forged(found, each=each, **joint), log10_p=joint["log10_p"])


def test_forged_results_of_a_key_are_refused_in_words(found):
    votes = found.keys["each"][0]["totals"][VOTES]
    for change, says in (
        ({"log10_p": -300.0}, "the evidence shows key"),
        ({"totals": {VOTES: votes + 1}}, "log10 p is stated as"),
        ({"commitment": "0" * 64}, "do not lead to the head"),
        ({"created": "2020-01-01T00:00:00+00:00"}, "do not lead to the head"),
        ({"nbf": 1}, "do not lead to the head"),
    ):
        with pytest.raises(ReportInvalid, match=says):
            verify(_entry(found, 0, **change))
    with pytest.raises(ReportInvalid, match="not those that the evidence shows"):
        verify(_entry(found, 2, totals={VOTES: found.green + 1}))


def test_results_of_another_kind_than_the_test_s_are_refused(found):
    each = [{k: v for k, v in entry.items() if k != "log10_p"} | {"log10_e": 9.0} for entry in found.keys["each"]]
    joint = inforce.together(each)
    forged = dataclasses.replace(_forged(found, each=each, **joint), log10_p=joint["log10_p"])
    shown = found.mark | {"kid": each[0]["kid"], "commitment": each[0]["commitment"]}
    with pytest.raises(ReportInvalid, match="not of the kind"):
        verify(dataclasses.replace(forged, mark=shown))


def test_another_key_s_stated_total_is_recomputed_from_the_cells(keys, marked, tmp_path):
    made = detect(marked, keys, cells=tmp_path / "c.npz")
    law, total = made.law, made.keys["each"][0]["totals"][VOTES] + 3
    forged = _entry(made, 0, totals={VOTES: total}, log10_p=law.log10_pvalue(total, made.cells))
    verify(forged)
    check_cells(forged, tmp_path / "c.npz", None)
    with pytest.raises(ReportInvalid, match=f"totals stated for key {keys.epochs[0].key.kid}"):
        check_cells(forged, tmp_path / "c.npz", keys.watermark(keys.epochs[2]), InForce.of(keys))


@pytest.mark.slow
def test_evidence_from_weights_verifies_from_its_cells_alone(source, tokenizer, binding, tmp_path):
    """Many answers to each prompt: e-values of all keys follow from their totals, the totals from the keys."""
    keys, rng = fixed_set(b"weights", 3, binding=binding), np.random.default_rng(54)
    ids = source.sample(60, 60, rng, tilt=keys.watermark(keys.epochs[1]).tilt)
    outputs = [Output(f"a{n}", token_ids=tuple(map(int, row)), prompt=f"question {n % 6}") for n, row in enumerate(ids)]
    made = detect(outputs, keys, tokenizer=tokenizer, samples=True, cells=tmp_path / "c.npz")
    assert made.keys["correction"] == "mean of e-values"
    assert made.keys["foremost"] == keys.epochs[1].key.kid
    verify(made, cells=tmp_path / "c.npz")
    verify(made, cells=tmp_path / "c.npz", mark=keys)
    verify(made, cells=tmp_path / "c.npz", mark=keys.watermark(keys.epochs[1]))
    forged = _entry(made, 0, log10_e=made.keys["each"][1]["log10_e"] - 0.5)
    verify(forged)
    with pytest.raises(ReportInvalid, match=f"key {keys.epochs[0].key.kid}: log10 E is stated as"):
        verify(forged, cells=tmp_path / "c.npz")


def test_published_keys_may_not_be_left_out(keys, found, tmp_path):
    published = keys.commitments()
    assert "all keys published" in inforce.check_published(found, published)
    earlier = Commitments.of(published.set, published.mark, published.keys[:3])
    assert "1 more were tested that this file does not hold" in inforce.check_published(found, earlier)
    later = keys.rotated("next", starts=4_000_000_000, now=3_900_000_000).commitments()
    assert "all keys published" in inforce.check_published(found, later)
    before = keys.rotated("next", starts=THEN + 99 * DAY, now=THEN + 99 * DAY).commitments()
    with pytest.raises(ReportInvalid, match=r"epoch next\) of the published set was there .* 4 of 5 were"):
        inforce.check_published(found, before)
    published.save(tmp_path / "c.json")
    assert verify(found, commitments=tmp_path / "c.json")[-1].name == "commitments"


def test_one_tested_key_must_be_a_published_one(keys, marked):
    alone = detect(marked, keys.watermark(keys.epochs[1]))
    said = inforce.check_published(alone, keys.commitments())
    assert "is one of 4 published" in said
    assert "3 other keys were in force, the evidence does not tell of them" in said
    planned = dataclasses.replace(alone, plan={"status": "confirmatory"})
    assert "other keys" not in inforce.check_published(planned, keys.commitments())
    other = detect(marked, keys.watermark(keys.epochs[1]).rekeyed(a_key(b"never published")))
    with pytest.raises(ReportInvalid, match="is none of the 4 published"):
        inforce.check_published(other, keys.commitments())


def test_evidence_of_a_set_fits_the_schema(found):
    schema = json.loads((Path(watermark.report.__file__).parent / "evidence.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(found.to_json())), schema)
    assert "keys" not in dataclasses.replace(found, keys=None).to_json()


# ---- the level


def _sets(name: bytes) -> list:
    return list(decoy_keys(name, SETS * N))


def test_the_level_holds_over_key_sets_where_votes_are_counted(innocent, keys, holds_level):
    """1,500 sets of five keys on the same innocent text; the best of five alone would reject too often."""
    mark = keys.watermark(keys.epochs[0])
    seen = observe(innocent, mark)
    law, n = mark.scheme.null, int((seen.weights[VOTES] != 0).sum())
    totals = mark.totals(seen.windows, seen.choices, seen.weights[VOTES], _sets(b"votes"))[:, 0]
    tail = {int(t): law.log10_pvalue(int(t), n) for t in np.unique(totals)}
    tails = np.array([tail[int(t)] for t in totals]).reshape(SETS, N)
    holds_level(bonferroni(tails), "all keys of a set, votes")
    assert (tails.min(axis=1) <= math.log10(0.05)).mean() > 0.15
    with pytest.raises(AssertionError, match="rejected at 0.05"):
        holds_level(tails.min(axis=1), "the best of five")


def test_the_level_holds_over_key_sets_where_weights_are_read(readings, keys, holds_level):
    mark = keys.watermark(keys.epochs[0])
    seen, _ = observe_readings(readings, mark)
    stack = inforce.stacked(seen)
    totals = mark.totals(seen.windows, seen.choices, stack, _sets(b"weights"))
    bets = evalues(seen, totals[:, 1:], mark.scheme.null, "greater").reshape(SETS, N)
    holds_level(averaged(bets), "all keys of a set, e-values")
    assert (10.0**bets).mean() < 1.2  # an e-value's mean is at most 1; 7,500 of them, a heavy tail


def test_the_whole_path_gives_what_the_level_was_shown_for(innocent, keys):
    """`tested` is the same arithmetic: one set through it, and through the two functions above."""
    found = detect(innocent, keys)
    assert found.log10_p == float(bonferroni([entry["log10_p"] for entry in found.keys["each"]]))


def _saved(path: Path, outputs: list[Output]) -> None:
    lines = [
        json.dumps({"id": o.id, "token_ids": list(o.token_ids), "prompt_token_ids": list(o.prompt_token_ids)})
        for o in outputs
    ]
    path.write_text("\n".join(lines) + "\n")


def test_the_page_lists_every_key_and_holds_its_evidence(found, tmp_path):
    from watermark.report.page import page as rendered
    from watermark.report.page import render

    render(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    for entry in found.keys["each"]:
        assert f'<th scope="row">{entry["kid"]}</th>' in page
        assert entry["commitment"] in page
    assert "together (Bonferroni over exact tails)" in page
    assert page.count("p over all 4 keys") == 1
    assert verify(found, page=tmp_path / "r.html")[-1].name == "page"
    assert "All keys that were tested" not in rendered(dataclasses.replace(found, keys=None))


# ---- what a bundle's own verify.py says of it, which shares no code with us


def test_the_bundle_s_verify_py_recomputes_the_pvalue_over_all_keys(keys, marked, innocent, found):
    for evidence in (found, detect(innocent, keys.revoking("epoch-3")), detect(marked, keys, stopped=True)):
        assert "all 4 keys of set 0123456789abcdef were tested" in standalone.check_arithmetic(evidence.to_json())


def test_the_bundle_s_verify_py_refuses_a_key_left_out_or_a_forged_result(found):
    entry = found.keys["each"][0]
    for forged, says in (
        (_kept(found, 2), "do not lead to the head"),
        (_kept(found, 0, 1, 2), "do not lead to the head"),
        (_forged(found, foremost=entry["kid"]), "not the foremost"),
        (_forged(found, correction="mean of e-values"), "the correction is stated as"),
        (_forged(found, log10_p=-400.0), "log10 p over all keys"),
        (_entry(found, 0, totals={VOTES: entry["totals"][VOTES] + 9}), "log10 p of key"),
    ):
        with pytest.raises(standalone.Wrong, match=says):
            standalone.check_arithmetic(forged.to_json())


def test_every_key_that_was_tried_on_logged_answers_is_recorded(found, tmp_path):
    """So that a plan for the one that did best cannot be made afterwards without it showing."""
    note_test(tmp_path / "a.jsonl", found)
    note_test(tmp_path / "a.jsonl", dataclasses.replace(found, keys=None))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl.tests.jsonl").read_text().splitlines()][1:]
    assert [line["kid"] for line in lines] == [e["kid"] for e in found.keys["each"]] + [found.mark["kid"]]
    assert [line["seq"] for line in lines] == list(range(5))
