"""The check of score evidence: what a stranger can recompute, and every forgery that is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_evidence import MARK, Bench, bench_in

from watermark.errors import ReportInvalid
from watermark.files import canonical_json
from watermark.keys import Key
from watermark.report import load_evidence, scores_taken_as_stated, verify, verify_scores
from watermark.report.weight import weight_of_scores
from watermark.scoring.case import Case
from watermark.scoring.evidence import Carried, ScoreEvidence, Shown
from watermark.stats.sphere import log10_pvalue

pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench_in(tmp_path_factory.getbasetemp())


def resealed(found: ScoreEvidence, change: Any) -> dict[str, Any]:
    """The stored evidence after `change` worked on it, with a digest that fits: what a forger would write."""
    stored = copy.deepcopy(json.loads(json.dumps(found.to_json())))
    change(stored)
    body = {name: value for name, value in stored.items() if name != "digest"}
    return stored | {"digest": hashlib.sha256(canonical_json(body)).hexdigest()}


def setting(*path: Any, to: Any) -> Any:
    """A change: the value at a path, as a forger would put it."""

    def change(stored: Any) -> None:
        for step in path[:-1]:
            stored = stored[step]
        stored[path[-1]] = to

    return change


def removing(*path: Any) -> Any:
    def change(stored: Any) -> None:
        for step in path[:-1]:
            stored = stored[step]
        del stored[path[-1]]

    return change


def test_the_bench_gives_what_it_should(bench: Bench) -> None:
    assert bench.found.verdict == "evidence found"
    assert bench.found.log10_p < -4
    assert bench.nothing.verdict == "no evidence found"
    assert [test.part for test in bench.logged.tests] == ["deployment", "input"]
    assert bench.planned.plan is not None


@pytest.mark.parametrize("name", ["found", "nothing", "logged", "planned"])
def test_everything_recomputes(bench: Bench, name: str) -> None:
    found: ScoreEvidence = getattr(bench, name)
    assert [c.name for c in verify_scores(found)] == ["digest", "arithmetic"]
    without_key = verify_scores(found, case=bench.case(name))
    assert "decoy cosines drawn again" in without_key[-1].detail
    with_key = verify_scores(found, case=bench.case(name), mark=MARK)
    assert [c.name for c in with_key] == ["digest", "arithmetic", "mark", "recomputed"]
    assert "and our own" in with_key[-1].detail


def test_evidence_files_are_told_apart(bench: Bench, tmp_path: Path) -> None:
    bench.found.save(tmp_path / "evidence.json")
    assert load_evidence(tmp_path / "evidence.json") == bench.found
    assert verify_scores(tmp_path / "evidence.json")
    with pytest.raises(ReportInvalid, match="evidence of scores"):
        verify(bench.found)  # type: ignore[arg-type]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ReportInvalid):
        load_evidence(tmp_path / "other.json")


FORGED = [
    (setting("tests", 0, "cosine", to=0.99), "log10_p of the deployment test"),
    (setting("tests", 0, "cosine", to=2), "cosine beyond 1"),
    (setting("tests", 0, "cosine", to="0.9"), "cosine is '0.9', no number"),
    (setting("tests", 0, "cosine", to=True), "cosine is True"),
    (setting("tests", 0, "dimensions", to=4000), "4000 dimensions"),
    (setting("tests", 0, "dimensions", to=0), "0 dimensions"),
    (setting("tests", 0, "log10_p", to=-99.0), "log10_p of the deployment test"),
    (setting("tests", 0, "log10_e", to=99.0), "log10_e of the deployment test"),
    (setting("tests", 0, "rank_pvalue", to=0.5), "rank_pvalue of the deployment test"),
    (setting("tests", 0, "decoys", to=[]), "0 decoys"),
    (setting("tests", 0, "decoys", 3, to=-7.0), "cosine beyond 1"),
    (setting("tests", 0, "decoys", 3, to=None), "item 4 is None"),
    (setting("tests", 0, "part", to="account"), "they should be of"),
    (setting("tests", to=[]), "they should be of"),
    (setting("tests", to=5), "not complete|not iterable"),
    (setting("log10_p", to=-200.0), "log10_p is stated"),
    (setting("alpha", to=0.5), "reached_at|detectable of the share"),
    (setting("alpha", to=7), "alpha lies between"),
    (setting("verdict", to="no evidence found"), "verdict"),
    (setting("verdict", to="guilty"), "none of"),
    (setting("null", to="anything"), "null hypothesis"),
    (setting("alternative", to="sideways"), "alternative"),
    (setting("alternative", to="two-sided"), "log10_p of the deployment test"),
    (setting("access", to="embeddings"), "what was read"),
    (setting("queries", to=0), "0 queries"),
    (setting("queries", to=2001), "looks were after"),
    (setting("duplicates", to=-1), "-1 duplicates"),
    (setting("surrogates", to=0), "digest of the surrogates"),
    (setting("explained", to=1.5), "key-free"),
    (setting("carried", "low", to=0.7), "low of the share"),
    (setting("carried", "detectable", to=0.01), "detectable of the share"),
    (setting("carried", "deviation", to=0), "deviation of the share"),
    (setting("carried", to=None), "share carried is missing"),
    (removing("carried", "low"), "not complete"),
    (setting("looks", to=[]), "looks were after"),
    (setting("looks", 0, "answers", to=300), "not in order"),
    (setting("looks", 0, "log10_p", to=1.0), "above 1"),
    (setting("looks", -1, "log10_p", to=-99.0), "last look"),
    (setting("reached_at", to=777), "reached_at"),
    (setting("stopped", to="yes"), "stopped is 'yes'"),
    (setting("controls", 0, "log10_p", to=-9.0), "log10_p of control"),
    (setting("controls", 0, "cosine", to=-3.0), "cosine beyond 1"),
    (setting("cost", to=None), "cost is missing"),
    (setting("cost", "largest", to=0.2), "largest move"),
    (setting("cost", "flips", to=9999), "changed first classes"),
    (setting("shown", 0, "row", to=10**9), "answer shown for row"),
    (setting("shown", 0, "marked", 0, to=0.0), "moves by more"),
    (setting("seed", to="0"), "digests of what was read"),
    (setting("committed", to={}), "digests of what was read"),
    (setting("committed", "queries", to="x"), "digest of the queries"),
    (setting("committed", "basis", to="0" * 64), "the one of the stated mark"),
    (setting("mark", to={}), "scheme"),
    (setting("mark", "scheme", "parameters", "channels", to="two"), "channels"),
    (setting("mark", "scheme", "parameters", to=3), "unusable parameters"),
    (setting("mark", "basis", to=None), "basis of None"),
    (setting("mark", "basis", "size", to=10**15), "functions cannot be"),
    (setting("mark", "basis", "size", to=80), "80"),
    (setting("options", "logged", to=True), "they should be of"),
    (setting("options", "decoys", to=999), "asked for were 999"),
    (setting("options", to=[]), "options is no object"),
    (setting("plan", to={}), "the plan's status"),
    (setting("plan", to={"status": "confirmatory", "mismatches": ["the key"], "level": 0.001}), "departs"),
    (setting("plan", to={"status": "exploratory", "mismatches": [], "level": 0.5}), "level"),
    (setting("notes", to="none"), "notes is no list"),
    (setting("unheard", to=1), "unheard"),
    (removing("tests"), "tests"),
    (removing("tests", 0, "decoys"), "decoys"),
    (removing("mark", "scheme"), "scheme"),
]


@pytest.mark.parametrize("change, told", FORGED, ids=range(len(FORGED)))
def test_forged_evidence_is_refused_in_words(bench: Bench, tmp_path: Path, change: Any, told: str) -> None:
    (tmp_path / "forged.json").write_bytes(canonical_json(resealed(bench.found, change)))
    with pytest.raises(ReportInvalid, match=told):
        verify_scores(tmp_path / "forged.json")


def test_a_byte_changed_without_a_new_digest_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(canonical_json(bench.found.to_json() | {"queries": 7}))
    with pytest.raises(ReportInvalid, match="digest"):
        verify_scores(tmp_path / "e.json")


def test_an_unsealed_forgery_is_resealed_rightly(bench: Bench) -> None:
    assert resealed(bench.found, lambda stored: None) == json.loads(json.dumps(bench.found.to_json()))


def consistent(found: ScoreEvidence, decoys: list[float], cosine: float) -> ScoreEvidence:
    """A forgery whose own arithmetic holds."""
    from watermark.scoring.detect import key_test, together, verdict_of_scores

    first = key_test("deployment", cosine, found.tests[0].dimensions, np.array(decoys), "greater")
    looks = [*found.looks[:-1], replace(found.looks[-1], log10_p=first.log10_p)]
    log10_p = together([first], looks, stopped=False)
    return replace(
        found,
        tests=[first],
        looks=looks,
        log10_p=log10_p,
        verdict=verdict_of_scores(log10_p, found.alpha, found.carried),
    )


def test_our_own_cosine_needs_the_key_to_be_caught(bench: Bench) -> None:
    forged = consistent(bench.nothing, bench.nothing.tests[0].decoys, 0.9)
    assert forged.verdict == "evidence found"
    assert verify_scores(forged, case=bench.case("nothing"))
    with pytest.raises(ReportInvalid, match="our cosine of the deployment test"):
        verify_scores(forged, case=bench.case("nothing"), mark=MARK)
    assert any("--mark recomputes them" in s for s in scores_taken_as_stated(forged, case="case.npz"))


def test_decoys_need_no_key_to_be_caught(bench: Bench) -> None:
    forged = consistent(bench.found, [c / 2 for c in bench.found.tests[0].decoys], bench.found.tests[0].cosine)
    with pytest.raises(ReportInvalid, match="decoys' cosines of the deployment test: number 1"):
        verify_scores(forged, case=bench.case("found"))


def narrowed(found: ScoreEvidence) -> ScoreEvidence:
    assert found.carried is not None
    c = found.carried
    return replace(
        found,
        carried=Carried(
            c.share,
            c.share - 1.96 * c.deviation / 2,
            c.share + 1.96 * c.deviation / 2,
            c.deviation / 2,
            c.detectable / 2,
        ),
    )


CAUGHT_BY_CASE = {
    "explained": (lambda e: replace(e, explained=0.0), "explained"),
    "method": (lambda e: replace(e, method="read in the stars"), "method"),
    "duplicates": (lambda e: replace(e, duplicates=3), "duplicates"),
    "seed": (lambda e: replace(e, seed="0" * 64), "another case"),
    "queries": (lambda e: replace(e, committed=e.committed | {"queries": "0" * 64}), "digest of the queries"),
    "control": (lambda e: replace(e, controls=[]), "controls' names"),
    "suspect shown": (
        lambda e: replace(e, shown=[replace(e.shown[0], suspect=[0.5, 0.5]), *e.shown[1:]]),
        "suspect answer shown",
    ),
    "epsilon": (
        lambda e: replace(
            e,
            mark=e.mark
            | {"scheme": {**e.mark["scheme"], "parameters": {**e.mark["scheme"]["parameters"], "epsilon": 0.06}}},
        ),
        "another scheme",
    ),
}


@pytest.mark.parametrize("name", CAUGHT_BY_CASE)
def test_the_case_catches(bench: Bench, name: str) -> None:
    forge, told = CAUGHT_BY_CASE[name]
    with pytest.raises(ReportInvalid, match=told):
        verify_scores(forge(bench.found), case=bench.case("found"))  # type: ignore[no-untyped-call]


def share_moved(e: ScoreEvidence) -> ScoreEvidence:
    assert e.carried is not None
    c = e.carried
    return replace(e, carried=replace(c, share=c.share + 0.1, low=c.low + 0.1, high=c.high + 0.1))


CAUGHT_BY_KEY = {
    "share's deviation": (narrowed, "deviation of the share"),
    "share": (share_moved, "share of the share carried"),
    "look": (lambda e: replace(e, looks=[replace(e.looks[0], log10_p=-3.0), *e.looks[1:]]), "the look after 100"),
    "cost": (lambda e: replace(e, cost=replace(e.cost, root_mean_square=0.001)), "the cost"),
    "marked shown": (
        lambda e: replace(e, shown=[Shown(s.row, s.clean, s.clean, s.suspect) for s in e.shown]),
        "marked answer shown",
    ),
}


@pytest.mark.parametrize("name", CAUGHT_BY_KEY)
def test_the_key_catches(bench: Bench, name: str) -> None:
    forge, told = CAUGHT_BY_KEY[name]
    forged = forge(bench.found)  # type: ignore[no-untyped-call]
    verify_scores(forged, case=bench.case("found"))
    with pytest.raises(ReportInvalid, match=told):
        verify_scores(forged, case=bench.case("found"), mark=MARK)


def test_controls_are_checked_under_the_key(bench: Bench) -> None:

    better = replace(bench.found.controls[0], cosine=0.0, log10_p=log10_pvalue(0.0, MARK.dimensions))
    with pytest.raises(ReportInvalid, match="control control"):
        verify_scores(replace(bench.found, controls=[better]), case=bench.case("found"), mark=MARK)


def test_another_case_another_key_and_no_case_are_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ReportInvalid, match="holds another case"):
        verify_scores(bench.found, case=bench.case("nothing"))
    with pytest.raises(ReportInvalid, match="not the one tested"):
        verify_scores(bench.found, mark=MARK.rekeyed(Key.generate()))
    (tmp_path / "case.npz").write_bytes(b"PK no archive")
    with pytest.raises(ReportInvalid, match="no readable case"):
        verify_scores(bench.found, case=tmp_path / "case.npz")
    with pytest.raises(ReportInvalid):
        verify_scores(bench.found, case=tmp_path / "absent.npz")


def test_a_case_with_one_answer_changed_is_refused(bench: Bench, tmp_path: Path) -> None:
    case = Case.load(bench.case("found"))
    suspect = case.suspect.copy()
    suspect[7] = suspect[7][::-1]
    replace(case, suspect=suspect).save(tmp_path / "changed.npz")
    with pytest.raises(ReportInvalid, match="holds another case"):
        verify_scores(bench.found, case=tmp_path / "changed.npz")


def test_the_plan_is_compared(bench: Bench) -> None:
    assert verify_scores(bench.planned, plan=bench.folder / "plan.json")[-1].name == "plan"
    with pytest.raises(ReportInvalid, match="not the plan"):
        verify_scores(bench.planned, plan=bench.folder / "other.json")
    with pytest.raises(ReportInvalid, match="without a plan"):
        verify_scores(bench.found, plan=bench.folder / "plan.json")
    swapped = replace(bench.planned, committed=bench.planned.committed | {"queries": "0" * 64})
    with pytest.raises(ReportInvalid, match="the inputs: other than planned"):
        verify_scores(swapped, plan=bench.folder / "plan.json")
    with pytest.raises(ReportInvalid):
        verify_scores(bench.planned, plan=bench.folder / "absent.json")


def test_what_is_taken_as_stated_is_said(bench: Bench) -> None:
    without = scores_taken_as_stated(bench.found)
    assert any("--case" in sentence for sentence in without)
    assert any("true labels" in sentence for sentence in without)
    complete = scores_taken_as_stated(bench.nothing, case="case.npz", mark=MARK)
    assert not any("--" in sentence for sentence in complete)
    assert any("gave these answers" in sentence for sentence in complete)
    assert any("--plan" in sentence for sentence in scores_taken_as_stated(bench.planned))
    assert any("logged" in sentence for sentence in scores_taken_as_stated(bench.logged))


def test_another_page_and_a_changed_page_are_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(bench.page("nothing"), "utf-8")
    with pytest.raises(ReportInvalid, match="does not hold this evidence"):
        verify_scores(bench.found, page=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").write_text(text.replace("No evidence found", "Evidence found", 1), "utf-8")
    with pytest.raises(ReportInvalid, match="was changed"):
        verify_scores(bench.nothing, page=tmp_path / "report.html")


def schema() -> Any:
    return json.loads(resources.files("watermark.report").joinpath("score-evidence.schema.json").read_text("utf-8"))


def test_schema_accepts_our_evidence_and_rejects_an_unknown_or_missing_field(bench: Bench) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for found in (bench.found, bench.nothing, bench.logged, bench.planned):
        stored = json.loads(json.dumps(found.to_json()))
        validator.validate(stored)
        for where in (stored, stored["tests"][0], stored["mark"]["scheme"], stored["options"], stored["committed"]):
            where["surprise"] = 1
            assert not validator.is_valid(stored)
            del where["surprise"]
        for name in list(stored):
            assert not validator.is_valid({k: v for k, v in stored.items() if k != name})


def test_schema_names_every_field_of_evidence() -> None:
    names = {part.name for part in fields(ScoreEvidence)} | {"format", "digest"}
    assert set(schema()["properties"]) == names
    assert set(schema()["required"]) == names


def test_an_edited_band_of_scores_is_named(bench: Bench, tmp_path: Path) -> None:
    told = weight_of_scores(bench.found).band
    (tmp_path / "r.html").write_text(bench.page("found").replace(f"{told} for Hp", "weak support for Hp"), "utf-8")
    with pytest.raises(ReportInvalid, match="weak support for Hp"):
        verify_scores(bench.found, page=tmp_path / "r.html")
