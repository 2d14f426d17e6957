"""Weighted evidence: its page says what was read and how sure, and strangers recompute it from the cells."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import ACCUSING, Elements, first_screen, schema, words_of

from watermark.calibrate import effect_of
from watermark.detect import detect
from watermark.errors import ReportInvalid
from watermark.evidence import Evidence
from watermark.keys import Key
from watermark.report import numbers as written
from watermark.report import page, taken_as_stated, verify
from watermark.report.explanations import explanations
from watermark.report.figures import figures
from watermark.report.reasons import AGAINST, POSSIBLE
from watermark.report.results import statistics
from watermark.report.weighted import MEANS, needed_z
from watermark.report.words import limits, summary
from watermark.stats.dose import Control, calibrate
from watermark.stats.power import power_of

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("transformers")

from weighted_evidence import Bench

DECOYS = 99
STUDENTS = [
    [0, 0.1, 0.8],
    [0, -0.5, 0.8],
    [0.01, 3.1, 0.8],
    [0.05, 9.3, 0.8],
    [0.05, 9.0, 0.8],
    [0.2, 25.0, 0.8],
    [1, 41, 0.8],
]
PLAN = {
    "digest": "ab" * 32,
    "status": "confirmatory",
    "mismatches": [],
    "created": "2026-11-01T10:00:00+00:00",
    "alpha": 0.001,
    "level": 0.001,
    "keys": 1,
    "suspects": 1,
    "stop_at": "none",
    "share": 0.05,
    "power": 0.9,
    "tokens": 1000,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def found(bench: Bench) -> Evidence:
    """A student of marked answers, read beside an unrelated model and a student of less."""
    return detect(
        bench.texts(12),
        bench.mark,
        tokenizer=bench.tokenizer,
        suspect=bench.student(0.02),
        reference=bench.base,
        controls={"unrelated": bench.other, "weaker student": bench.student(0.012)},
        cells=bench.folder / "found.npz",
        decoys=DECOYS,
    )


@pytest.fixture(scope="module")
def nothing(bench: Bench) -> Evidence:
    """A model that met no marked text."""
    return detect(
        bench.texts(40), bench.mark, tokenizer=bench.tokenizer, suspect=bench.other, reference=bench.base, decoys=DECOYS
    )


@pytest.fixture(scope="module")
def cells(bench: Bench, found: Evidence) -> Path:
    return bench.folder / "found.npz"


def with_dose(found: Evidence) -> Evidence:
    """With the dose that the stated students give, as `calibrate` writes it."""
    effect, se = effect_of(found, "log-ratio normed")
    students = [[share, theirs / error * se, se] for share, theirs, error in STUDENTS]
    told = calibrate([Control(*row) for row in students]).dose(effect, se)
    dose = {
        "statistic": "log-ratio normed",
        "method": "inversion",
        "controls": students,
        "ambient": None,
        "beyond": False,
    }
    dose |= {name: getattr(told, name) for name in ("share", "low", "high", "level", "effect", "se")}
    return dataclasses.replace(found, dose=dose)


def exploratory(found: Evidence) -> Evidence:
    return dataclasses.replace(found, plan=PLAN | {"status": "exploratory", "mismatches": ["12 probes have no answer"]})


def stopped(found: Evidence) -> Evidence:
    """The same run, had the e-process decided."""
    assert found.anytime is not None
    options = found.options | {"stopped": True}
    return dataclasses.replace(found, options=options, log10_p=min(0.0, -found.anytime.log10_e))


def every(found: Evidence, nothing: Evidence) -> list[Evidence]:
    return [found, nothing, with_dose(found), exploratory(found), stopped(found)]


def edited(found: Evidence, **changes: Any) -> Evidence:
    """With fields of its weighted part replaced."""
    assert found.weighted is not None
    return dataclasses.replace(found, weighted=dataclasses.replace(found.weighted, **changes))


def first_statistic(found: Evidence, **changes: Any) -> Evidence:
    assert found.weighted is not None
    first, *rest = found.weighted.statistics
    return edited(found, statistics=[dataclasses.replace(first, **changes), *rest])


def test_the_runs_are_what_the_tests_need(found: Evidence, nothing: Evidence) -> None:
    assert found.verdict == "evidence found"
    assert nothing.verdict != "evidence found"
    assert found.controls[0].log10_p > np.log10(found.alpha) > found.controls[1].log10_p


def test_everything_recomputes_from_cells_and_key(found: Evidence, cells: Path, bench: Bench) -> None:
    checks = verify(found, cells=cells, mark=bench.mark, outputs=bench.texts(12))
    assert [check.name for check in checks] == ["digest", "arithmetic", "outputs", "cells", "mark", "recomputed"]
    assert f"totals of 5 statistics under {DECOYS} decoy keys and our key" in checks[-1].detail


def test_a_stranger_without_the_key_recomputes_the_decoys(found: Evidence, cells: Path) -> None:
    assert verify(found, cells=cells)[-1].detail.endswith(f"under {DECOYS} decoy keys, all as stated")
    left = " ".join(taken_as_stated(found, cells=cells))
    assert "the totals under our key were taken as stated" in left
    assert "the controls were taken as stated" in left


def test_outputs_and_key_alone_are_said_not_to_suffice(found: Evidence, bench: Bench) -> None:
    checks = verify(found, outputs=bench.texts(12), mark=bench.mark)
    assert [check.name for check in checks] == ["digest", "arithmetic", "outputs", "mark"]
    left = " ".join(taken_as_stated(found, outputs=bench.texts(12), mark=bench.mark))
    assert "the model's readings are needed" in left
    assert "--cells" in left


def test_another_key_is_refused_and_so_is_its_total(found: Evidence, cells: Path, bench: Bench) -> None:
    other = bench.mark.rekeyed(Key(bytes(reversed(range(32))), kid="0123456789abcdef", salt=bytes(16)))
    with pytest.raises(ReportInvalid, match="is not the one tested"):
        verify(found, cells=cells, mark=other)
    with pytest.raises(ReportInvalid, match="green cells are stated, the key gives"):
        verify(dataclasses.replace(found, mark=other.profile()), cells=cells, mark=other)


def test_other_cells_are_refused(found: Evidence, cells: Path, tmp_path: Path) -> None:
    with np.load(cells) as held:
        arrays = dict(held)
    arrays["weight.log-ratio"] = arrays["weight.log-ratio"] + np.int32(1)
    np.savez_compressed(tmp_path / "found.npz", **arrays)
    with pytest.raises(ReportInvalid, match="a byte differs"):
        verify(found, cells=tmp_path / "found.npz")
    described = found.inputs["cells"] | {"sha256": _sha256(tmp_path / "found.npz")}
    forged = dataclasses.replace(found, inputs=found.inputs | {"cells": described})
    with pytest.raises(ReportInvalid, match="holds other cells"):
        verify(forged, cells=tmp_path / "found.npz")


def _sha256(path: Path) -> str:
    from watermark.files import sha256_of

    return sha256_of(path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"log10_e": 500.0, "log10_p": -500.0}, "log10_p is stated as"),
        ({"access": "samples"}, "the statistics were read from 'samples'"),
        ({"rank_pvalue": 0.0123}, "is no rank among"),
        ({"decoy_totals": {}}, "do not bear the same names"),
    ],
)
def test_forged_weighted_evidence_is_refused(found: Evidence, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ReportInvalid, match=says):
        verify(edited(found, **change))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"z": 99.0}, "z of difference is stated"),
        ({"rank_pvalue": 0.5}, "the decoy rank of difference"),
        ({"log10_e": 900.0}, "the mean e-value"),
        ({"tail": "normal"}, "none that is known"),
        ({"log10_p": -0.001}, "cannot lie above Chernoff"),
        ({"effective_cells": 1e12}, "effective cells"),
    ],
)
def test_a_forged_statistic_is_refused(found: Evidence, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ReportInvalid, match=says):
        verify(first_statistic(found, **change))


def test_a_headline_that_does_not_follow_is_refused(found: Evidence) -> None:
    for change in ({"log10_p": found.log10_p - 5}, {"verdict": "no evidence found"}):
        with pytest.raises(ReportInvalid, match=r"log10_p is stated|does not follow"):
            verify(dataclasses.replace(found, **change))


def test_a_forged_tail_is_seen_only_with_the_cells(found: Evidence, cells: Path) -> None:
    """Laws follow from weights, which the evidence alone does not hold: the docs say so, and this is the edge."""
    assert found.weighted is not None
    deeper = first_statistic(found, log10_p=found.weighted.statistics[0].log10_p - 1)
    verify(deeper)
    with pytest.raises(ReportInvalid, match="difference: log10_p is stated"):
        verify(deeper, cells=cells)


def test_a_forged_decoy_is_seen_with_the_cells(found: Evidence, cells: Path) -> None:
    assert found.weighted is not None
    totals = found.weighted.decoy_totals
    moved = edited(found, decoy_totals=totals | {"log-ratio": [totals["log-ratio"][0] - 1, *totals["log-ratio"][1:]]})
    with pytest.raises(ReportInvalid, match="log-ratio: decoy 0 is stated to total"):
        verify(moved, cells=cells)


def test_the_e_process_is_held_to_its_form(found: Evidence) -> None:
    assert found.anytime is not None
    steps = found.anytime.steps
    fallen = [*steps[:-1], dataclasses.replace(steps[-1], log10_e=steps[-2].log10_e - 2)]
    forged = {
        "the e-process's log10 E": {"log10_e": found.anytime.log10_e + 1},
        "where the e-process passed": {"reached_at": None},
        "do not grow in reading order": {"steps": [*steps[::-1]]},
        "it keeps a tenth": {"steps": fallen, "log10_e": fallen[-1].log10_e},
    }
    for says, change in forged.items():
        with pytest.raises(ReportInvalid, match=says):
            verify(dataclasses.replace(found, anytime=dataclasses.replace(found.anytime, **change)))
    verify(stopped(found))
    with pytest.raises(ReportInvalid, match="holds none"):
        verify(dataclasses.replace(stopped(found), anytime=None))


def test_controls_dose_and_plan_are_held_to_what_they_say(found: Evidence) -> None:
    dosed, planned = with_dose(found), dataclasses.replace(found, plan=PLAN)
    assert "the dose" in verify(dosed)[1].detail
    assert "confirmatory under its plan" in verify(planned)[1].detail
    first, *rest = found.controls
    forged = {
        "p = 1/E of control": {"controls": [dataclasses.replace(first, log10_p=-9.0), *rest]},
        "was not put through": {"controls": [dataclasses.replace(first, z={}), *rest]},
        r"the dose \(effect": {"dose": dosed.dose | {"share": 0.9}},  # type: ignore[operator]
        "the dose is not complete": {"dose": {"share": 0.9}},
        "departs from its plan": {"plan": PLAN | {"mismatches": ["another key"]}},
        "neither confirmatory nor exploratory": {"plan": PLAN | {"status": "fine"}},
        "the plan's level": {"plan": PLAN | {"level": 0.05}},
    }
    for says, change in forged.items():
        with pytest.raises(ReportInvalid, match=says):
            verify(dataclasses.replace(found, **change))


def test_that_a_dose_exceeds_the_ambient_one_follows_from_their_intervals(found: Evidence) -> None:
    """The page goes by the intervals, whatever `exceeded` says; and verify refuses a word that does not follow."""
    dosed = with_dose(found)
    assert dosed.dose is not None
    for high, above in ((dosed.dose["low"] / 2, True), (min(1.0, dosed.dose["low"] * 2), False)):
        told = {"share": high / 2, "low": 0.0, "high": high, "exceeded": above}
        honest = dataclasses.replace(dosed, dose=dosed.dose | {"ambient": told})
        forged = dataclasses.replace(dosed, dose=dosed.dose | {"ambient": told | {"exceeded": not above}})
        verify(honest)
        with pytest.raises(ReportInvalid, match="whether the dose exceeds the ambient one"):
            verify(forged)
        for evidence in (honest, forged):
            (way,) = [each for each in explanations(evidence) if each.name == "Ambient exposure"]
            assert way.status == (AGAINST if above else POSSIBLE)


def test_a_plan_is_known_by_its_digest(found: Evidence, bench: Bench, tmp_path: Path) -> None:
    from watermark.plan import plan

    (tmp_path / "probes.txt").write_text("one question\n")
    for name, decoys in (("kept", 999), ("other", 99)):
        made = plan(bench.mark, access="logits", prompts=tmp_path / "probes.txt", slope=4.0, decoys=decoys)
        made.save(tmp_path / f"{name}.json")
        if name == "kept":
            planned = dataclasses.replace(found, plan=made.stamp([], exploratory=False))
    assert verify(planned, plan=tmp_path / "kept.json")[-1].name == "plan"
    with pytest.raises(ReportInvalid, match="is not the plan of this evidence"):
        verify(planned, plan=tmp_path / "other.json")
    with pytest.raises(ReportInvalid, match="made without a plan"):
        verify(found, plan=tmp_path / "kept.json")


@pytest.mark.parametrize("access", ["samples", "text and reference"])
def test_other_readings_have_their_words_and_recompute(bench: Bench, tmp_path: Path, access: str) -> None:
    reading: dict[str, Any] = {"samples": True} if access == "samples" else {"reference": bench.base}
    path = tmp_path / "cells.npz"
    evidence = detect(bench.texts(12), bench.mark, tokenizer=bench.tokenizer, cells=path, decoys=DECOYS, **reading)
    assert evidence.access == access
    assert verify(evidence, cells=path, mark=bench.mark)[-1].name == "recomputed"
    words = words_of(page(evidence))
    assert "Was this suspect exposed to our marked text?" in words
    assert {"samples": "in many answers to each prompt", "text and reference": "which tokens the suspect wrote"}[
        access
    ] in words
    assert {"samples": "--samples", "text and reference": "--reference base"}[access] in words


def test_text_evidence_recomputes_from_its_cells_too(bench: Bench, tmp_path: Path) -> None:
    texts, path = bench.texts(12), tmp_path / "votes.npz"
    evidence = detect(texts, bench.mark, tokenizer=bench.tokenizer, cells=path, decoys=DECOYS)
    assert [c.name for c in verify(evidence, cells=path)] == ["digest", "arithmetic", "cells", "recomputed"]
    assert taken_as_stated(evidence, outputs=texts, mark=bench.mark) == []
    assert "--outputs and --mark recompute them" in taken_as_stated(evidence)[0]


def test_the_command_verifies_cells(found: Evidence, cells: Path, bench: Bench, tmp_path: Path) -> None:
    from typer.testing import CliRunner
    from wmark_cli.main import app

    found.save(tmp_path / "evidence.json")
    shutil.copy(cells, tmp_path / "found.npz")
    bench.mark.save(tmp_path / "ours.wmark")
    arguments = ["verify", f"{tmp_path}/evidence.json", "--cells", f"{tmp_path}/found.npz"]
    done = CliRunner().invoke(app, [*arguments, "--mark", f"{tmp_path}/ours.wmark", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["verified"] is True
    assert [check["name"] for check in said["checks"]][-1] == "recomputed"
    assert any("e-process only the form" in sentence for sentence in said["taken_as_stated"])


def test_found_and_sure_are_those_of_the_mean_e_value(found: Evidence) -> None:
    words = first_screen(page(found))
    assert "Its predictions over 12 texts" in words
    assert "This model’s predictions depend on our key: the suspect was exposed" in words
    assert found.weighted is not None
    assert f"(E\u00a0=\u00a0{written.evalue(found.weighted.log10_e)})" in words
    assert "the reference “base”" in words
    assert "If the suspect had never met answers marked with this key" in words
    assert f"p\u00a0=\u00a01/E\u00a0=\u00a0{written.pvalue(found.log10_p)}" in summary(found).sure
    assert "1 would pass the level: “weaker student”" in words


def test_a_negative_result_says_what_it_would_have_found(nothing: Evidence) -> None:
    words = first_screen(page(nothing))
    assert "is what chance gives" in words
    assert f"A trace that lifts one of the statistics to {needed_z(nothing):.1f} standard deviations" in words
    assert "normal approximation" in words
    planned = dataclasses.replace(nothing, plan=PLAN)
    assert "to find a share of 5.0 % marked" in first_screen(page(planned)).replace("\u00a0", " ")


def test_the_stated_power_is_that_of_the_planning_model(nothing: Evidence) -> None:
    assert nothing.weighted is not None
    count = len(nothing.weighted.statistics)
    power = power_of(needed_z(nothing), 1.0, 1.0, nothing.alpha, test="evalue", statistics=count)
    assert power == pytest.approx(nothing.power, abs=1e-6)


def test_the_statistics_have_one_table_with_labelled_tails(found: Evidence) -> None:
    table = statistics(found)
    assert found.weighted is not None
    assert [row[0] for row in table.rows] == [s.name for s in found.weighted.statistics]
    assert {row[table.columns.index("p is")] for row in table.rows} == {"exact lattice"}
    bounded = first_statistic(found, tail="Chernoff bound")
    assert statistics(bounded).rows[0][3] == "Chernoff bound"
    text = page(found)
    assert "One vote for each cell, for comparison" in text
    assert written.pvalue(found.curve[-1].log10_p) in text


def test_every_statistic_is_explained() -> None:
    from watermark.observe import weights

    kinds = (weights.WITH_REFERENCE, weights.WITHOUT_REFERENCE, weights.FROM_TEXT, weights.FROM_SAMPLES)
    assert {name for kind in kinds for name in kind} <= set(MEANS)


def test_pictures_show_suspect_controls_and_stakes(found: Evidence) -> None:
    drawn = {figure.name: figure for figure in figures(found)}
    assert list(drawn) == ["controls", "stakes", "decoys"]
    assert drawn["controls"].columns[-2:] == ("unrelated", "weaker student")
    assert len(drawn["controls"].rows) == 1 + len(found.weighted.statistics) + 1  # type: ignore[union-attr]
    assert drawn["controls"].rows[-1][3] == written.signed(found.weighted.log10_e, 2)  # type: ignore[union-attr]
    assert len(drawn["stakes"].rows) == len(found.anytime.steps)  # type: ignore[union-attr]
    assert all(len(row) == len(figure.columns) for figure in drawn.values() for row in figure.rows)
    assert [f.name for f in figures(stopped(found))] == ["stakes", "controls", "decoys"]
    assert "dose" in [f.name for f in figures(with_dose(found))]


def test_an_exploratory_run_is_said_first(found: Evidence) -> None:
    text = page(exploratory(found))
    words = first_screen(text)
    assert words.index("Exploratory: not the test that was planned") < words.index("Evidence found")
    assert "12 probes have no answer" in words
    assert "It suggests that this model’s predictions depend on our key" in words
    assert "Exploratory" not in page(found)
    assert "Confirmatory: the run that was planned" in first_screen(page(dataclasses.replace(found, plan=PLAN)))


def test_dose_stands_with_interval_method_and_ambient(found: Evidence) -> None:
    dosed = with_dose(found)
    assert dosed.dose is not None
    words = words_of(page(dosed))
    assert f"({written.percent(0.95, 0)} interval".replace("\u00a0", " ") in words
    assert "Ambient exposure was not measured" in words
    ambient = dosed.dose | {"ambient": {"share": 0.01, "low": 0.0, "high": 0.02, "exceeded": True}}
    assert "lies wholly above it" in words_of(page(dataclasses.replace(dosed, dose=ambient)))
    for odd in ({}, {"share": None, "controls": "none", "ambient": ["?"]}, {"share": 1, "low": 1, "high": 1}):
        page(dataclasses.replace(found, dose=odd))


def test_an_e_process_that_decides_speaks_for_itself(found: Evidence) -> None:
    words = first_screen(page(stopped(found)))
    assert "The stake of 1 became" in words
    assert "whenever one stopped, at most" in words


def test_weighted_pages_are_safe_accessible_and_never_accuse(found: Evidence, nothing: Evidence) -> None:
    for evidence in every(found, nothing):
        text = page(evidence)
        elements = Elements(text)
        tags = {tag for tag, _ in elements.tags}
        assert not tags & {"script", "img", "link", "iframe", "object", "form", "base"}
        assert "http" not in text.replace("http-equiv", "")
        assert not [a for _, a in elements.tags if "style" in a]
        ids = [a["id"] for _, a in elements.tags if "id" in a]
        assert len(ids) == len(set(ids))
        assert all(a.get("scope") in ("col", "row") for tag, a in elements.tags if tag == "th")
        words = words_of(text)
        assert ACCUSING.search(words) is None
        assert "theft" not in words


def test_hostile_names_stay_text(found: Evidence) -> None:
    attack = '</pre><script>alert(1)</script><b title="'
    control = dataclasses.replace(found.controls[0], name=attack)
    named = dataclasses.replace(
        edited(found, reference=attack), controls=[control], plan=PLAN | {"mismatches": [attack], attack: attack}
    )
    text = page(named)
    assert "<script" not in text
    assert "alert(1)" in text


def test_page_is_the_same_bytes_after_saving_and_loading(found: Evidence, tmp_path: Path) -> None:
    dosed = with_dose(found)
    dosed.save(tmp_path / "evidence.json")
    (tmp_path / "r.html").write_text(page(dosed), "utf-8")
    assert verify(tmp_path / "evidence.json", page=tmp_path / "r.html")[-1].name == "page"


def test_schema_accepts_weighted_evidence(found: Evidence, nothing: Evidence) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for evidence in every(found, nothing):
        jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(evidence.to_json())))


def test_commands_repeat_the_reading(found: Evidence) -> None:
    words = words_of(page(found))
    assert "wmark verify evidence.json --cells found.npz" in words
    assert "wmark verify evidence.json --cells found.npz --mark MARK.wmark" in words
    assert "--suspect SUSPECT --reference base --control unrelated=CONTROL" in words
    assert "Standard deviations (z) describe" in " ".join(limits(found))


@pytest.mark.parametrize(
    "log10_e, shown", [(-6.0, "1.0 × 10⁻⁶"), (-0.92, "0.12"), (2.914, "820"), (161.35, "2.2 × 10¹⁶¹")]
)
def test_evalues_are_written_for_people(log10_e: float, shown: str) -> None:
    assert written.evalue(log10_e).replace("\u00a0", " ") == shown
