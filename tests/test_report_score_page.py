"""The page of score evidence: its words, its pictures, and what a court asks, each from the evidence's own fields."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_evidence import Bench, bench_in
from test_report import HOSTILE, Elements, words_of

from watermark.report import page, render, verify_scores
from watermark.report.admissibility import score_answers
from watermark.report.certification import BLANK, certification
from watermark.report.controlled import score_controlled
from watermark.report.measured import measured_scores, score_trials
from watermark.report.reasons import NOT, PART, POSSIBLE, Explanation
from watermark.report.score_explanations import score_explanations
from watermark.report.score_figures import chance_of_finding, score_figures
from watermark.report.score_words import score_summary
from watermark.report.shell import embedded
from watermark.report.weight import NO_SUPPORT, most, weight_of_scores
from watermark.scoring.detect import detect_scores
from watermark.scoring.evidence import ScoreEvidence
from watermark.scoring.mark import ScoreWatermark
from watermark.stats.sphere import log10_pvalue

pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

ACCUSING = re.compile(r"\b(guilty|stole|stolen|steals?|thief|thieves|cheat\w*|culprit|innocence)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench_in(tmp_path_factory.getbasetemp())


def hostile(found: ScoreEvidence) -> ScoreEvidence:
    """An attack in every string that a suspect or a forger could fill."""
    return replace(
        found,
        notes=[HOSTILE],
        method=HOSTILE,
        null=HOSTILE,
        created=HOSTILE,
        software={HOSTILE: HOSTILE},
        inputs={HOSTILE: {"name": HOSTILE, "bytes": 1, "sha256": HOSTILE}},
        plan={"digest": HOSTILE, "status": HOSTILE, "level": 0.001, "mismatches": [HOSTILE]},
        mark=found.mark | {"kid": HOSTILE, "commitment": HOSTILE},
    )


@pytest.mark.parametrize("name", ["found", "nothing", "logged", "planned"])
def test_page_is_the_same_bytes_and_holds_its_evidence(bench: Bench, tmp_path: Path, name: str) -> None:
    found: ScoreEvidence = getattr(bench, name)
    render(found, tmp_path / "report.html")
    found.save(tmp_path / "evidence.json")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text == bench.page(name)
    assert ScoreEvidence.from_json(embedded(text)) == found
    assert verify_scores(tmp_path / "evidence.json", page=tmp_path / "report.html")[-1].name == "page"


@pytest.mark.parametrize("make", [hostile, lambda found: found])
def test_page_is_safe_to_open(bench: Bench, make: Any) -> None:
    text = page(make(bench.found))
    elements = Elements(text)
    assert "<script" not in text.lower()
    assert "<img" not in text
    assert "alert(1)" in text
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert not [a for _, a in elements.tags if "style" in a]
    assert not {tag for tag, _ in elements.tags} & {"script", "img", "link", "iframe", "object", "form", "base"}
    links = [v or "" for _, a in elements.tags for n, v in a.items() if n in ("src", "href", "action", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import|javascript:", text)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\r]", text)
    assert sum(a.get("id") == "evidence-json" for _, a in elements.tags) == 1
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_page_says_verdict_level_and_limits(bench: Bench) -> None:
    words = bench.words("found")
    assert (
        "Evidence found These scores depend on our key: the suspect was exposed, in some way, to marked answers."
        in words
    )
    assert f"alpha\u00a0=\u00a0{bench.found.alpha:g}".replace("\u00a0", " ") in words
    for limit in (
        "does not show who acted",
        "labels alone carries nothing",
        "several teachers",
        "key has leaked",
        "10⁻¹²",
    ):
        assert limit in words
    assert "wmark verify evidence.json --case case.npz --mark ours.wmark" in words
    assert bench.found.committed["queries"] in words
    none = bench.words("nothing")
    assert "We found no evidence that these scores depend on our key." in none
    assert "would have been found with probability 90" in none
    assert "logged ones" in bench.words("logged")
    assert "Confirmatory: the run that was planned" in bench.words("planned")


def test_inconclusive_says_what_to_do(bench: Bench) -> None:
    assert bench.nothing.carried is not None
    weak = replace(bench.nothing, verdict="inconclusive", carried=replace(bench.nothing.carried, detectable=1.0))
    step = score_summary(weak).next_step
    assert f"about {4 * weak.queries:,} in all" in step
    labels = replace(weak, carried=None, access="labels")
    assert "Ask the suspect for scores" in score_summary(labels).next_step
    assert "These labels" in score_summary(replace(labels, verdict="evidence found")).headline


def test_words_never_accuse(bench: Bench) -> None:
    for name in ("found", "nothing", "logged", "planned"):
        words = bench.words(name)
        assert ACCUSING.search(words) is None
        assert "theft" not in words
        assert not re.search(r"\bclean\b(?! answer)", re.sub(r'"clean"|clean":|--clean \w+', "", words), re.IGNORECASE)


def test_figures_have_tables_and_count_every_decoy(bench: Bench) -> None:
    drawn = score_figures(bench.logged)
    assert [f.name for f in drawn] == ["decoys-deployment", "decoys-input", "carried", "looks", "moves"]
    for figure, test in zip(drawn, bench.logged.tests):
        assert sum(int(row[2]) for row in figure.rows) == len(test.decoys)
        assert sum(float(row[3]) for row in figure.rows) == pytest.approx(len(test.decoys), rel=0.02)
    for figure in drawn:
        assert figure.rows, figure.name
        assert all(len(row) == len(figure.columns) for row in figure.rows)


def test_the_detectable_share_is_found_nine_times_in_ten(bench: Bench) -> None:
    for found in (bench.found, bench.planned):
        assert found.carried is not None
        assert chance_of_finding(found.carried.detectable, found.carried) == pytest.approx(0.9)
        assert chance_of_finding(0.0, found.carried) == pytest.approx(found.alpha)


def test_embeddings_and_values_have_their_pages() -> None:
    rng = np.random.default_rng(2)
    values, other = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    inputs = {"a": values[:, 0], "b": values[:, 1]}
    mark = ScoreWatermark.generate(inputs, answers=values[:, 0], output="values", size=20)
    found = detect_scores(mark, inputs, values[:, 0] + 0.1 * other[:, 0], values[:, 0], decoys=99)
    assert "share carried" in words_of(page(found))
    assert [c.name for c in verify_scores(found)] == ["digest", "arithmetic"]
    vectors = rng.normal(size=(400, 8))
    mark = ScoreWatermark.generate(vectors, answers=vectors, output="embeddings", size=24)
    found = detect_scores(mark, vectors, vectors + 0.1 * rng.normal(size=vectors.shape), vectors, decoys=99)
    assert found.carried is None
    assert "these embeddings depend" in words_of(page(found))
    assert [c.name for c in verify_scores(found)] == ["digest", "arithmetic"]


def explained(evidence: ScoreEvidence, name: str) -> Explanation:
    (one,) = [each for each in score_explanations(evidence) if each.name == name]
    return one


def test_the_first_screen_has_four_short_answers(bench: Bench) -> None:
    for name in ("found", "nothing"):
        text = bench.page(name)
        words = words_of(text[text.index("<body>") : text.index("<nav")])
        said = ["What was asked", "What was found", "How sure", "What it does not show"]
        places = [words.index(each) for each in said]
        assert places == sorted(places)
        assert len(words[places[0] :].split()) < 320


def test_scores_are_weighed_by_their_own_e_value(bench: Bench) -> None:
    for name in ("found", "nothing", "logged"):
        found: ScoreEvidence = getattr(bench, name)
        told = weight_of_scores(found)
        mean = np.mean([10**test.log10_e for test in found.tests])
        assert told.log10_e == pytest.approx(np.log10(mean))
        assert told.limit == most(found.log10_p)
        assert (
            f"In the words of the ENFSI scale: {'support for neither' if told.band == NO_SUPPORT else told.band}"
            in (bench.words(name))
        )
    process = replace(bench.found, stopped=True)
    assert weight_of_scores(process).log10_e == bench.found.looks[-1].log10_e
    assert weight_of_scores(process).origin == "e-process"


def test_the_decoys_of_scores_are_counted_at_each_level(bench: Bench) -> None:
    for test in bench.logged.tests:
        made = score_trials(bench.logged, test)
        assert [t.level for t in made] == [0.05, 0.01, bench.logged.alpha / 2]
        for trial in made:
            tails = [log10_pvalue(c, test.dimensions) for c in test.decoys]
            assert trial.called == sum(10**tail <= trial.level for tail in tails)
            assert not trial.too_many
    tables = score_answers(bench.logged)[2].tables
    assert [len(rows) for _, _, rows in tables] == [3, 3, 1]
    assert "28,000" in bench.words("logged")
    assert measured_scores(replace(bench.found, stopped=True))[0].what.startswith("the e-process")


def test_other_explanations_of_scores_are_checked_by_their_own_fields(bench: Bench) -> None:
    assert explained(bench.found, "Choices after looking").status == NOT
    assert explained(bench.planned, "Choices after looking").status == PART
    assert explained(bench.logged, "Our service asked at test time").status == POSSIBLE
    assert explained(bench.found, "Our service asked at test time").status == NOT
    assert "0 of 1 control models" in explained(bench.found, "Likeness without our answers").check
    assert "with 1 surrogates" in explained(bench.found, "Likeness without our answers").check
    hidden = [each.name for each in score_explanations(bench.nothing)]
    assert hidden == ["Too few answers", "Labels, mixtures, rounding", "Another key"]
    for each in score_explanations(bench.found):
        assert f"{each.name}: {each.status}" in bench.words("found")


def test_dose_controls_and_reach_of_scores_stand_in_one_place(bench: Bench) -> None:
    rows = {name: (value, meaning) for name, value, meaning in score_controlled(bench.found)}
    assert rows["Dose: share of the mark carried"][0].endswith("%")
    assert rows["Negative controls, keys"][0] == "199"
    assert rows["Could be missed"][0].startswith("below")
    assert any(name.startswith("Control “control") for name in rows)
    without = replace(bench.found, controls=[], carried=None)
    rows = {name: (value, meaning) for name, value, meaning in score_controlled(without)}
    assert rows["Control models"][0] == "none"
    assert rows["Dose: share of the mark carried"][0] == "none"
    assert rows["Could be missed"][0] == "not measured"
    assert page(without)


def test_the_certification_of_scores_is_a_blank_template(bench: Bench) -> None:
    text = certification(bench.found)
    assert f"Signature: {BLANK}" in text
    assert bench.found.digest in text
    assert bench.found.method in text


def test_every_link_leads_to_a_place_on_the_page(bench: Bench) -> None:
    tags = Elements(bench.page("found")).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    links = [a["href"] for tag, a in tags if tag == "a"]
    assert links
    assert {(link or "").removeprefix("#") for link in links} <= ids
