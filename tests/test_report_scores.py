"""The page and the check of score evidence: what a stranger can recompute, and every forgery that is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass, field, fields, replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from watermark.errors import ReportInvalid
from watermark.files import canonical_json
from watermark.keys import Key
from watermark.report import (
    load_evidence,
    page,
    render,
    scores_taken_as_stated,
    verify,
    verify_scores,
)
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
from watermark.scores.basis import Basis
from watermark.scores.direction import Direction
from watermark.scoring.case import Case
from watermark.scoring.detect import detect_scores
from watermark.scoring.evidence import Carried, ScoreEvidence, Shown
from watermark.scoring.mark import ScoreWatermark
from watermark.scoring.plan import plan_scores
from watermark.stats.sphere import log10_pvalue

pytest.importorskip("sklearn")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\u202e'
COLUMNS = ["age", "income", HOSTILE, "debt"]
ACCUSING = re.compile(r"\b(guilty|stole|stolen|steals?|thief|thieves|cheat\w*|culprit|innocence)\b", re.IGNORECASE)
MARK = ScoreWatermark(
    Direction(epsilon=0.05, own=0.2),
    Basis.fit(dict(zip(COLUMNS, np.random.default_rng(0).normal(size=(4, 1000)))), size=40),
    Key(bytes(range(32)), kid="0123456789abcdef", salt=bytes(16)),
    created="2026-01-01T00:00:00+00:00",
)


@dataclass(frozen=True)
class Bench:
    """A teacher, whoever learned from it, and what was asked. found: a student of marked answers, nothing: of
    unmarked ones, logged: asked what it was served, planned: found again under a plan.
    """

    folder: Path
    found: ScoreEvidence
    nothing: ScoreEvidence
    logged: ScoreEvidence
    planned: ScoreEvidence

    pages: dict[str, str] = field(default_factory=dict)

    def case(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def page(self, name: str) -> str:
        """Rendered once."""
        if name not in self.pages:
            self.pages[name] = page(getattr(self, name))
        return self.pages[name]

    def words(self, name: str) -> str:
        return words_of(self.page(name))


def columns(x: Any) -> dict[str, Any]:
    return {name: x[:, i] for i, name in enumerate(COLUMNS)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """3,000 rows, a boosted teacher and boosted students: a few seconds."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    folder, rng = tmp_path_factory.mktemp("scores"), np.random.default_rng(1)

    def asked(n: int) -> Any:
        return rng.normal(size=(n, 4))

    def labels(x: Any) -> Any:
        f = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 0.7 * x[:, 3]
        return (rng.random(len(x)) < 1 / (1 + np.exp(-1.5 * f))).astype(int)

    def student(x: Any, answers: Any, seed: int) -> Any:
        fitted = HistGradientBoostingRegressor(max_iter=120, random_state=seed).fit(x, answers)
        return lambda inputs: fitted.predict(inputs).clip(0, 1)

    x = asked(3000)
    teacher = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(x, labels(x))

    def clean(inputs: Any) -> Any:
        return teacher.predict_proba(inputs)[:, 1]

    served, others, fresh = asked(3000), asked(3000), asked(2000)
    learned = student(served, MARK.tilt(clean(served), columns(served)), 1)
    unmarked = student(served, clean(served), 2)
    surrogate = student(others, clean(others), 3)
    control = {f"control {HOSTILE}": student(x, clean(x), 4)(fresh)}

    def detected(name: str, suspect: Any, inputs: Any, **options: Any) -> ScoreEvidence:
        return detect_scores(
            MARK,
            columns(inputs),
            suspect(inputs),
            clean(inputs),
            surrogates=surrogate(inputs)[:, None],
            decoys=199,
            case=folder / f"{name}.npz",
            **options,
        )

    plan = plan_scores(MARK, columns(fresh), clean(fresh), surrogates=surrogate(fresh)[:, None], alpha=0.01)
    plan.save(folder / "plan.json")
    other = plan_scores(MARK, columns(served), clean(served), surrogates=surrogate(served)[:, None])
    other.save(folder / "other.json")
    return Bench(
        folder,
        found=detected("found", learned, fresh, controls=control, truth=labels(fresh)),
        nothing=detected("nothing", unmarked, fresh, controls=control),
        logged=detected("logged", learned, served, logged=True),
        planned=detected("planned", learned, fresh, plan=plan),
    )


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


class Elements(HTMLParser):
    """What a browser would see: every element with its attributes, and every piece of text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def words_of(text: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Elements(text).texts))


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
    from watermark.stats.sphere import log10_pvalue

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


@pytest.mark.parametrize("name", ["found", "nothing", "logged", "planned"])
def test_page_is_the_same_bytes_and_holds_its_evidence(bench: Bench, tmp_path: Path, name: str) -> None:
    found: ScoreEvidence = getattr(bench, name)
    render(found, tmp_path / "report.html")
    found.save(tmp_path / "evidence.json")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text == bench.page(name)
    assert ScoreEvidence.from_json(embedded(text)) == found
    assert verify_scores(tmp_path / "evidence.json", page=tmp_path / "report.html")[-1].name == "page"


def test_another_page_and_a_changed_page_are_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(bench.page("nothing"), "utf-8")
    with pytest.raises(ReportInvalid, match="does not hold this evidence"):
        verify_scores(bench.found, page=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").write_text(text.replace("No evidence found", "Evidence found", 1), "utf-8")
    with pytest.raises(ReportInvalid, match="was changed"):
        verify_scores(bench.nothing, page=tmp_path / "report.html")


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


def test_an_edited_band_of_scores_is_named(bench: Bench, tmp_path: Path) -> None:
    told = weight_of_scores(bench.found).band
    (tmp_path / "r.html").write_text(bench.page("found").replace(f"{told} for Hp", "weak support for Hp"), "utf-8")
    with pytest.raises(ReportInvalid, match="weak support for Hp"):
        verify_scores(bench.found, page=tmp_path / "r.html")


def test_every_link_leads_to_a_place_on_the_page(bench: Bench) -> None:
    tags = Elements(bench.page("found")).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    links = [a["href"] for tag, a in tags if tag == "a"]
    assert links
    assert {(link or "").removeprefix("#") for link in links} <= ids
