"""verify.py, the stranger's verifier: what it knows of our other schemes, held to the package's own code."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path

import casework
import numpy as np
import pytest
from test_report_scores import bench as score_bench  # noqa: F401

from watermark.accounts import Accounts
from watermark.attribute import attribute
from watermark.bundle import bundle, verify_bundle
from watermark.bundle import standalone as alone
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Outputs
from watermark.schemes import AntiDistill, GreenList, Gumbel, Tournament, scheme_to_json
from watermark.stats import sphere
from watermark.stats.graded import LevelSum

SOURCE = Path(alone.__file__).read_text("utf-8")
SCHEMES = [
    GreenList(window=2, gamma=0.5),
    AntiDistill(window=1),
    Gumbel(window=2),
    Tournament(window=2),
    Tournament(window=1, depth=1),
    Tournament(window=3, depth=17),
]
NAMES = [f"{scheme.name}-{getattr(scheme, 'depth', scheme.window)}" for scheme in SCHEMES]


def _evidence(scheme, n: int = 0, alternative: str = "greater") -> dict:
    """The fields of evidence that say what a score's law is."""
    law = scheme.null
    return {
        "mark": {"scheme": json.loads(json.dumps(scheme_to_json(scheme))), "prf": "arx32-v1"},
        "gamma": law.mean / law.highest,
        "levels": list(law.chances) if law.highest > 1 else None,
        "cells": n,
        "alternative": alternative,
    }


def test_its_sections_are_those_that_its_first_page_names():
    named = re.findall(r"^ +(\d+\. .*?)  +\S", alone.__doc__, re.MULTILINE)
    headed = re.findall(r"^# -{100,}\n# (\d+\. [^:]*):", SOURCE, re.MULTILINE)
    assert named == headed
    assert len(headed) == 10


def test_nothing_in_it_is_left_unused():
    defined = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    names = {node.name for node in defined} - {"__init__"}
    assert {name for name in names if len(re.findall(rf"\b{name}\b", SOURCE)) < 2} == set()
    functions = [node for node in defined if isinstance(node, ast.FunctionDef)]
    for node in functions:
        read = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        given = {one.arg for one in [*node.args.args, *node.args.kwonlyargs]} - {"self", "cls"}
        assert given <= read, node.name


@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
def test_totals_under_any_key_are_the_packages_own(scheme):
    rng = np.random.default_rng(1)
    windows = rng.integers(0, 60, (400, scheme.window)).astype(np.uint32)
    choices = rng.integers(0, 70_000, 400).astype(np.uint32)
    weights = np.stack([np.ones(400, np.int32), rng.integers(-300, 900, 400).astype(np.int32)])
    keys = list(decoy_keys(b"totals", 5))
    ours = Watermark(scheme, keys[0]).totals(windows, choices, weights, keys)
    grouped, described = alone.group(windows), _evidence(scheme)["mark"]["scheme"]
    for key, row in zip(keys, ours.tolist(), strict=True):
        found = alone.totals(grouped, choices, weights.astype(np.int64), key._export()[0], described)
        assert found == row


@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
def test_the_law_of_a_score_follows_from_the_scheme_alone(scheme):
    stated = _evidence(scheme)
    law = alone.law_of(stated)
    assert law == pytest.approx(getattr(scheme.null, "chances", [1 - scheme.null.mean, scheme.null.mean]), rel=1e-12)
    assert math.fsum(law) == pytest.approx(1.0)
    with pytest.raises(alone.Wrong, match="gamma is stated as"):
        alone.law_of(stated | {"gamma": stated["gamma"] * 1.01, "levels": stated["levels"]} | _kept_levels(stated))
    if stated["levels"]:
        forged = [*stated["levels"][:-2], stated["levels"][-1], stated["levels"][-2]]
        if forged != stated["levels"]:
            with pytest.raises(alone.Wrong, match="the chance of level"):
                alone.law_of(stated | {"levels": forged})
        with pytest.raises(alone.Wrong, match="levels, those of the scheme"):
            alone.law_of(stated | {"levels": [*stated["levels"], 0.0]})


def _kept_levels(stated: dict) -> dict:
    """Of bits the chances follow from gamma: they are stated as levels, so that gamma alone is wrong."""
    return {} if stated["levels"] else {"levels": [1 - stated["gamma"], stated["gamma"]]}


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("scheme", [Gumbel(), Tournament(), Tournament(depth=3)], ids=lambda s: f"{s.name}-{s.window}")
def test_graded_tails_agree_with_the_package(scheme, alternative):
    law = scheme.null
    for n in (12, 900):
        for z in (-3.0, 0.3, 5.0, 14.0):
            total = round(n * law.mean + z * math.sqrt(n * law.variance))
            if not 0 <= total <= n * law.highest:
                continue
            found = alone.counted(_evidence(scheme, n, alternative), total)
            expected = law.log10_pvalue(total, n, alternative=alternative)
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-9), (n, z)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_weighted_graded_sums_agree_with_the_package(alternative):
    rng = np.random.default_rng(2)
    for scheme in (Gumbel(), Tournament(depth=5)):
        weights = np.round(rng.normal(0, 20, 150) + rng.choice([0, 30], 150)).astype(np.int32)
        ours, law = alone.Sum.of(weights, scheme.null.chances), LevelSum(weights, scheme.null)
        for z in (-3.0, 0.0, 6.0):
            total = round(law.mean + z * law.sd)
            casework.check_law(ours, law, total, alternative)


def test_a_total_beyond_what_scores_can_give_is_impossible():
    law = Gumbel().null
    most = 10 * law.highest
    assert alone.counted(_evidence(Gumbel(), 10), most) == pytest.approx(law.log10_pvalue(most, 10), rel=1e-9)
    assert alone.counted(_evidence(Gumbel(), 10), 0) == 0.0


# A whole case under each scheme.


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme", [Gumbel(window=1), Tournament(window=1), AntiDistill(window=1)], ids=lambda s: s.name
)
def test_every_number_of_a_case_is_made_again(scheme, tmp_path):
    pytest.importorskip("rfc3161_client")
    case = casework.build(tmp_path / "case", scheme=scheme)
    found = Evidence.load(case.file("evidence.json"))
    assert found.verdict == "evidence found"
    made = bundle(case.file("evidence.json"), tmp_path / "A.bag", **case.given())
    told = dict(alone.steps(made, key=case.file("ours.wmark")))
    assert "NOT CHECKED" not in told["arithmetic"] + told["decoy keys"] + told["our key"]
    assert told["cells"].count("NOT CHECKED") == 1  # how a tokenizer parts text, numpy cannot know
    assert "under 99 decoy keys are as stated" in told["decoy keys"]
    verify_bundle(made, mark=case.file("ours.wmark"))
    index, evidence = alone.read_json(made, "data/case.json"), alone.read_json(made, "data/evidence.json")
    for change, words in (
        ({"green": found.green + 1}, "the rate of green cells is stated as|is stated under our key"),
        ({"log10_p": found.log10_p - 0.01}, "log10 p is stated as"),
    ):
        with pytest.raises(alone.Wrong, match=words):
            _numbers(made, index, evidence | change, case.file("ours.wmark"))
    evidence["decoys"]["totals"][7] += 1
    with pytest.raises(alone.Wrong, match="decoy key 7 is stated to total"):
        list(alone.check_numbers(made, index, evidence, None))


def _numbers(made: Path, index: dict, evidence: dict, key: Path) -> None:
    alone.check_arithmetic(evidence)
    list(alone.check_numbers(made, index, evidence, key))


# Scores and attributions.


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_tails_and_evalues_of_a_cosine_agree_with_the_package(alternative):
    for size in (2, 3, 12, 256, 5000):
        for z in (-40.0, -3.0, -0.5, 0.0, 0.01, 1.0, 2.2, 4.0, 9.0, 60.0):
            c = max(-0.999999, min(0.999999, z / math.sqrt(size)))
            tail = sphere.log10_pvalue(c, size, alternative=alternative)
            assert alone.cosine_tail(c, size, alternative) == pytest.approx(tail, rel=1e-8, abs=1e-10), (size, c)
            evalue = float(sphere.log10_evalue(c, size, alternative=alternative))
            assert alone.cosine_evalue(c, size, alternative) == pytest.approx(evalue, rel=1e-9, abs=1e-9), (size, c)


@pytest.mark.slow
def test_evidence_of_scores_follows_from_its_cosines(score_bench):  # noqa: F811
    told = alone.check_arithmetic(score_bench.found.to_json())
    assert "NOT CHECKED: cosines are as stated" in told
    assert "the verdict “evidence found” follows" in told
    found = json.loads(json.dumps(score_bench.found.to_json()))
    for path, value, words in (
        (("tests", 0, "cosine"), found["tests"][0]["cosine"] * 0.99, "log10 p of the deployment test"),
        (("tests", 0, "log10_e"), 1.0, "log10 E of the deployment test"),
        (("tests", 0, "rank_pvalue"), 0.5, "the rank of the deployment test"),
        (("log10_p",), -99.0, "log10 p is stated as"),
        (("verdict",), "no evidence found", "does not follow from"),
    ):
        forged = json.loads(json.dumps(found))
        place = forged
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(alone.Wrong, match=words):
            alone.check_arithmetic(forged)


def a_master():
    """The key of `casework.build` by default."""
    return next(iter(decoy_keys(b"a case", 1)))


@pytest.fixture(scope="module")
def attributed(tmp_path_factory):
    """An attribution over four accounts, of answers marked for one of them."""
    case = casework.build(tmp_path_factory.mktemp("attributed"), planned=False)
    mark = Watermark(case.mark.scheme, case.mark.key, case.mark.binding, case.mark.created, accounts=Accounts(0.9))
    own = mark.account("acme")
    path = case.folder / "acme.jsonl"
    rows = casework.marked(own, case.tokenizer, 12, 60)
    path.write_text("".join(json.dumps({"id": f"a{n}", "text": text}) + "\n" for n, text in enumerate(rows)))
    seen = observe(Outputs(path), own, tokenizer=case.tokenizer)
    return attribute(seen, mark, ["acme", "bolt", "cord", "dune"], decoys=19)


def test_an_attribution_follows_from_its_totals(attributed):
    assert attributed.found == ["acme"]
    found = json.loads(json.dumps(attributed.to_json()))
    told = alone.check_arithmetic(found)
    assert f"p-values of 4 accounts follow from their totals in {attributed.cells} cells" in told
    assert "1 are found by Holm's correction" in told
    for name, value, words in (
        ("totals", {"votes": 1}, "the score of acme"),
        ("log10_p", -50.0, "log10 p of acme"),
        ("log10_p_holm", -50.0, "the corrected p-value of acme"),
        ("verdict", "none found", "the verdict on acme"),
    ):
        forged = json.loads(json.dumps(found))
        forged["exposures"][0][name] = value
        with pytest.raises(alone.Wrong, match=words):
            alone.check_arithmetic(forged)
    secret, _ = a_master()._export()
    assert alone.check_accounts(found, secret) == "4 keys are those that names and epochs give"
    found["exposures"][1]["kid"] = "0" * 16
    with pytest.raises(alone.Wrong, match="stated is 0{16}: another was tested"):
        alone.check_accounts(found, secret)
    with pytest.raises(alone.Wrong, match="5 accounts are said to be tested, 4 are listed"):
        alone.check_arithmetic(found | {"hypotheses": 5})
    with pytest.raises(alone.Wrong, match="named as found"):
        alone.check_arithmetic(found | {"found": []})
