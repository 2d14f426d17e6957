"""What a court and an opposing expert ask: error rates, other explanations, controls, a certification; each from the
evidence's own fields."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import ACCUSING, HOSTILE, Elements, evidence_of, hostile, words_of

from watermark.errors import ReportInvalid
from watermark.evidence import Control, Evidence
from watermark.report import measured as rates
from watermark.report import page, verify
from watermark.report.admissibility import answers
from watermark.report.certification import BLANK, certification, render_certification
from watermark.report.controlled import controlled
from watermark.report.explanations import explanations
from watermark.report.measured import E_VALUES, Trial, trials
from watermark.report.reasons import AGAINST, NO_COMPUTER, NOT, PART, POSSIBLE, Explanation, counted
from watermark.report.weight import weight_of
from watermark.stats.graded import Levels
from watermark.stats.laws import Bernoulli, binomial_interval

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

DOCUMENT = Path(__file__).parents[1] / "docs" / "results" / "calibration.md"
ROWS = {
    "text, a base model subtracted": "text + base",
    "text, an unrelated model subtracted": "text + unrelated",
    "samples": "samples",
    "samples, a base model subtracted": "samples + base",
    "samples, an unrelated model subtracted": "samples + unrelated",
    "the likeliest token’s log-probability": "top 1",
    "log-probabilities of five tokens": "top 5",
    "log-probabilities of five tokens, a base model subtracted": "top 5 + base",
    "log-probabilities of five tokens, an unrelated model subtracted": "top 5 + unrelated",
    "an open model’s predictions": "logits",
    "an open model’s predictions, a base model subtracted": "logits + base",
    "an open model’s predictions, an unrelated model subtracted": "logits + unrelated",
}
STAMP = {
    "since": {"time": "2026-05-01T00:00:00+00:00", "by": "a time stamp", "authority": "Example TSA", "checked": True},
    "first_question": "2026-05-02T00:00:00+00:00",
    "named_in_log": True,
}
PLAN: dict[str, Any] = {
    "digest": "ab" * 32,
    "status": "confirmatory",
    "mismatches": [],
    "created": "2026-05-01T00:00:00+00:00",
    "level": 0.001,
    "keys": 1,
    "suspects": 3,
}


@pytest.fixture(scope="module")
def found() -> Evidence:
    return evidence_of("evidence found")


def named(evidence: Evidence, name: str) -> Explanation:
    (one,) = [each for each in explanations(evidence) if each.name == name]
    return one


# --- error rates


def test_measured_rates_are_those_of_the_document() -> None:
    """Every figure that the page claims as measured stands in docs/results/calibration.md."""
    text = DOCUMENT.read_text("utf-8")
    table = text[text.index("nothing marked        runs") : text.index("prompts or texts marked  runs")]
    for each in [one for kind in E_VALUES.values() for one in kind]:
        (line,) = re.findall(rf"^{re.escape(ROWS[each.what])}  +(\d+.*)$", table, re.MULTILINE)
        runs, *values = line.split()
        assert (int(runs), tuple(map(float, values[6:9]))) == (each.runs, each.rates), each.what
    spelt = " / ".join(f"{rate:.4f}" for rate in rates.TEXTS.rates)
    assert f"All runs together: {spelt} at 0.05 / 0.01 / 0.001" in text
    assert f"{rates.TEXTS.runs:,} runs, each a new random key" in text
    joined = " / ".join(f"{rate:.4f}" for rate in rates.ALL_E_VALUES.rates)
    assert joined in text
    assert f"(1/E: {rates.ALL_E_VALUES.runs:,}" in text
    flat = re.sub(r"\s+", " ", text)
    assert f"{rates.STAGES.runs:,} keys over the real stages" in flat
    assert f"passed 20 in {rates.STAGES.rates[0]} and 100 in none" in flat
    scores = "{:.4f}, {:.4f} and {:.4f}".format(*rates.SCORES.rates)
    assert f"All {rates.SCORES.runs:,} runs: {scores} at 0.05, 0.01 and 0.001" in flat
    first, second, _ = rates.SCORE_STAGES.rates
    assert f"passed 20, 100 and 1,000 in {first}, {second} and none of {rates.SCORE_STAGES.runs:,} runs" in flat


def test_every_weighted_access_has_its_measured_rates() -> None:
    from watermark.report.weighted import READ

    assert set(E_VALUES) == set(READ) - {"text"}


@pytest.mark.parametrize("law", [Bernoulli(0.25), Levels((0.5, 0.2, 0.2, 0.1))])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_all_totals_at_once_have_their_exact_p_values(law: Any, alternative: Any) -> None:
    n = 60
    totals = tuple(range(n * law.highest + 1))
    exact = [law.log10_pvalue(total, n, alternative=alternative) for total in totals]
    assert rates._tails(law, n, totals, alternative) == pytest.approx(exact, abs=1e-8)


def test_totals_that_cannot_be_stand_at_the_end() -> None:
    law = Bernoulli(0.25)
    assert rates._tails(law, 60, (-5, 10**9), "greater") == rates._tails(law, 60, (0, 60), "greater")


def test_the_decoys_are_counted_at_each_level(found: Evidence) -> None:
    made = trials(found)
    assert [t.level for t in made] == [0.05, 0.01, found.alpha]
    for trial in made:
        tails = [found.law.log10_pvalue(total, found.cells) for total in found.decoys.totals]
        assert trial.called == sum(tail <= math.log10(trial.level) for tail in tails)
        assert trial.interval == binomial_interval(trial.called, len(tails))
    told = answers(found)[2].tables[0]
    assert told[2][0][2] == f"{made[0].called} of 99"


def test_decoys_that_are_called_too_often_are_said_first(found: Evidence) -> None:
    """A third of the keys beyond 1 %: whatever did that, the result is not to be relied on."""
    totals = [found.cells if i % 3 == 0 else total for i, total in enumerate(found.decoys.totals)]
    odd = dataclasses.replace(found, decoys=dataclasses.replace(found.decoys, totals=totals))
    assert any(trial.too_many for trial in trials(odd))
    assert "more than chance explains" in answers(odd)[0].text
    assert named(odd, "Another mark").status == POSSIBLE
    assert not any(trial.too_many for trial in trials(found))
    assert "no more of them than chance allows" in answers(found)[0].text


def test_a_warning_of_too_many_decoys_is_rare_by_chance() -> None:
    """One in 1,000 or fewer at each level: it must not cry out on honest pages."""
    for level in (0.05, 0.01, 0.001):
        calls = np.random.default_rng(8).binomial(999, level, 4000)
        each = {count: Trial(level, 999, int(count), (0, 1)).too_many for count in set(calls.tolist())}
        assert np.mean([each[count] for count in calls.tolist()]) <= 0.003


def test_the_five_questions_are_answered_with_what_is_missing(found: Evidence) -> None:
    told = answers(found)
    assert len(told) == 5
    assert all(each.question.endswith("?") and each.text for each in told)
    assert "no peer review that its authors know of" in told[1].text
    assert "know of no court" in told[4].text
    assert "No plan came with this run" in told[3].text
    assert "No accreditation" in told[3].text
    planned = answers(dataclasses.replace(found, plan=PLAN))
    assert "A plan fixed what could be chosen" in planned[3].text


def test_another_scheme_is_said_to_be_measured_elsewhere(found: Evidence) -> None:
    for name, where in (("gumbel", "docs/results/schemes.md"), ("hf-kgw/lefthash", "docs/results/engine_levels.md")):
        scheme = found.mark["scheme"] | {"name": name}
        text = answers(dataclasses.replace(found, mark=found.mark | {"scheme": scheme}))[2].text
        assert where in text
        assert (DOCUMENT.parents[2] / where).exists()
    assert "measured apart" not in answers(found)[2].text


# --- other explanations


def test_every_explanation_of_the_issue_is_there_with_a_check_and_what_it_leaves(found: Evidence) -> None:
    told = explanations(found)
    assert [each.name for each in told] == [
        "Chance",
        "Ambient exposure",
        "Indirect distillation",
        "Planted text",
        "Key leak",
        "Retrieval at test time",
        "Another mark",
        "Key chosen to fit",
        "Choices after looking",
    ]
    assert all(each.status in (AGAINST, POSSIBLE, PART, NOT) and each.check and each.left for each in told)
    words = words_of(page(found))
    for each in told:
        assert f"{each.name}: {each.status}" in words
    assert counted(told) in words


def test_ambient_exposure_is_checked_by_a_dose_beside_it(found: Evidence) -> None:
    assert named(found, "Ambient exposure").status == NOT
    for low, status in ((0.1, AGAINST), (0.015, POSSIBLE)):
        ambient = {"share": 0.01, "low": 0.0, "high": 0.02}
        dosed = dataclasses.replace(found, dose={"share": 0.2, "low": low, "high": 0.3, "ambient": ambient})
        assert named(dosed, "Ambient exposure").status == status
        assert "0.0\u00a0% to 2.0\u00a0%" in named(dosed, "Ambient exposure").check
    with_control = dataclasses.replace(found, controls=[Control("other", 0.0, 0.0, {})])
    assert named(with_control, "Ambient exposure").status == PART
    assert "0 of 1 control models" in named(with_control, "Ambient exposure").check
    account = found.mark | {"accounts": {"share": 0.5, "shared": {"kid": "x", "commitment": "y"}}}
    assert named(dataclasses.replace(found, mark=account), "Ambient exposure").status == PART


def test_retrieval_is_checked_by_what_is_known_of_prompts(found: Evidence) -> None:
    known = named(found, "Retrieval at test time")
    assert known.status == PART
    assert f"The prompts of {found.prompts_known} answers are known" in known.check
    none = named(dataclasses.replace(found, prompts_known=0), "Retrieval at test time")
    assert none.status == NOT
    some = named(dataclasses.replace(found, prompts_known=found.documents_read - 7), "Retrieval at test time")
    assert "7 prompts are not known" in some.check
    read = named(dataclasses.replace(found, access="logits"), "Retrieval at test time")
    assert read.status == AGAINST


def test_how_many_keys_had_to_be_tried_follows_from_the_p_value(found: Evidence) -> None:
    few = named(dataclasses.replace(found, log10_p=-3.3), "Key chosen to fit")
    assert "about 2,000 keys would have to be tried; a computer may do so" in few.check
    assert few.status == PART
    many = named(dataclasses.replace(found, log10_p=-NO_COMPUTER - 1), "Key chosen to fit")
    assert "more than all computers can" in many.check
    assert many.status == AGAINST
    engine = found.mark | {"scheme": found.mark["scheme"] | {"name": "hf-kgw/lefthash"}}
    narrow = named(dataclasses.replace(found, log10_p=-90.0, mark=engine), "Key chosen to fit")
    assert narrow.status == PART, "an engine's key has 64 bits"


def test_a_plan_is_worth_what_dates_it(found: Evidence) -> None:
    assert named(found, "Choices after looking").status == NOT
    kept = named(dataclasses.replace(found, plan=PLAN), "Choices after looking")
    assert kept.status == PART
    departed = dataclasses.replace(found, plan=PLAN | {"status": "exploratory", "mismatches": ["another level"]})
    assert named(departed, "Choices after looking").status == POSSIBLE
    stamped = dataclasses.replace(found, plan=PLAN | STAMP)
    told = named(stamped, "Choices after looking")
    assert told.status == AGAINST
    assert "A time stamp by Example TSA dates the plan to 2026-05-01" in told.check
    unchecked = PLAN | STAMP | {"since": STAMP["since"] | {"checked": False}}  # type: ignore[operator]
    assert "not held to a named authority" in named(dataclasses.replace(found, plan=unchecked), told.name).check
    word = PLAN | STAMP | {"since": {"time": "2026-05-01T00:00:00+00:00", "by": "its maker's word", "authority": None}}
    assert named(dataclasses.replace(found, plan=word), told.name).status == PART
    assert "its maker’s word" in words_of(page(dataclasses.replace(found, plan=word)))
    assert "3 suspects" in named(stamped, "Chance").check


def test_revoked_keys_are_counted_as_a_check_of_leaks(found: Evidence) -> None:
    assert named(found, "Key leak").status == NOT
    keys = {"tested": 4, "each": [{"revoked": True}, {"revoked": False}]}
    told = named(dataclasses.replace(found, keys=keys), "Key leak")
    assert told.status == PART
    assert "4 keys were tested, 1 of them revoked" in told.check


def test_of_nothing_found_is_asked_what_may_have_hidden_it() -> None:
    none = evidence_of("no evidence found")
    told = explanations(none)
    assert [each.name for each in told] == [
        "Too little text",
        "Less than could be read",
        "Mark weakened",
        "Another key",
        "Read as another mark",
    ]
    assert "What may have hidden a trace" in words_of(page(none))
    assert named(evidence_of("inconclusive"), "Too little text").status == POSSIBLE
    assert named(dataclasses.replace(none, z=-4.2), "Mark weakened").status == POSSIBLE
    assert named(dataclasses.replace(none, z=-4.2, alternative="two-sided"), "Mark weakened").status == PART
    assert named(dataclasses.replace(none, keys={"tested": 3, "each": []}), "Another key").status == AGAINST


def test_the_status_is_said_in_words_and_not_by_colour_alone(found: Evidence) -> None:
    for each in explanations(found):
        assert each.status.startswith(("Checked", "Not checked"))
    styled = [
        a["class"] or ""
        for tag, a in Elements(page(found)).tags
        if tag == "span" and "status" in (a.get("class") or "")
    ]
    assert len(styled) == len(explanations(found))


# --- dose, controls, limits


def test_what_is_missing_of_dose_and_controls_says_how_to_get_it(found: Evidence) -> None:
    rows = {name: (value, meaning) for name, value, meaning in controlled(found, "power")}
    for name, how in (("Dose", "wmark calibrate"), ("Ambient dose", "--ambient"), ("Control models", "same questions")):
        assert rows[name][0] == "none"
        assert how in rows[name][1]
    assert rows["Positive controls"][0] == "none"
    assert rows["Negative controls, students"][0] == "none"
    assert rows["Negative controls, keys"][0] == "99"
    assert rows["Could be missed"][1] == "power"


def test_controls_of_known_share_are_positive_and_negative_ones(found: Evidence) -> None:
    dose = {
        "share": 0.2, "low": 0.1, "high": 0.3, "ambient": {"share": 0.01, "low": 0.0, "high": 0.02, "exceeded": True},
        "controls": [[0, -0.1, 0.1], [0, 0.05, 0.1], [0.05, 0.9, 0.1], [1, 4.0, 0.1]],
    }  # fmt: skip
    dosed = dataclasses.replace(found, dose=dose, controls=[Control("a", 9.0, -9.0, {}), Control("b", 0.0, 0.0, {})])
    rows = {name: (value, meaning) for name, value, meaning in controlled(dosed, "power")}
    assert rows["Dose"][0] == "20.0\u00a0%"
    assert rows["Positive controls"][0] == "2"
    assert "5\u00a0%, 100\u00a0%; z from 9.0 to 40.0" in rows["Positive controls"][1]
    assert rows["Negative controls, students"][0] == "2"
    assert "z from −1.0 to 0.5" in rows["Negative controls, students"][1]
    assert rows["Control “a”"][1].startswith("passes the level")
    assert rows["Control “b”"][1].startswith("does not pass the level")
    assert "Control “a”" in words_of(page(dosed))


def test_dose_controls_and_limits_stand_in_one_place(found: Evidence) -> None:
    text = page(found)
    section = text[text.index('<section id="controls">') :]
    section = section[: section.index("</section>")]
    assert "Positive controls" in section
    assert "<h3>Limits</h3>" in section
    assert text.count("<h3>Limits</h3>") == 1


# --- the certification


def test_the_certification_is_never_signed(found: Evidence) -> None:
    text = certification(found)
    for blank in ("Signature: ", "Name: ", "Executed on: ", "At: ", "I, "):
        assert f"{blank}{BLANK}" in text
    assert "Template, not signed" in text
    assert "adapted by a lawyer" in text
    for rule in ("902(11)", "902(13)", "902(14)", "28 U.S.C. § 1746"):
        assert rule in text
    dates = re.findall(r"\d{4}-\d\d-\d\d", text)
    assert set(dates) == {found.created[:10]}


def test_the_certification_holds_the_facts_of_the_evidence_and_no_verdict(found: Evidence, tmp_path: Path) -> None:
    file = {"name": "an|swers<b>.jsonl", "bytes": 12, "sha256": "c" * 64}
    given = dataclasses.replace(found, inputs={"outputs": file})
    text = certification(given)
    for fact in (given.digest, "c" * 64, given.software["numpy"], given.method, given.mark["commitment"]):
        assert fact in text
    assert "an\\|swers&lt;b&gt;.jsonl" in text
    assert found.verdict not in text
    assert ACCUSING.search(text) is None
    given.save(tmp_path / "e.json")
    render_certification(Evidence.load(tmp_path / "e.json"), tmp_path / "c.md")
    assert (tmp_path / "c.md").read_bytes().decode() == text


def test_hostile_names_do_not_leave_their_cell() -> None:
    text = certification(hostile())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 5}
    assert "\u202e" not in text
    assert "<script" not in text


# --- the page is held to its evidence


_rendered = cache(lambda: page(evidence_of("evidence found")))


def _edited(tmp_path: Path, old: str, new: str) -> Path:
    text = _rendered()
    assert old in text
    (tmp_path / "r.html").write_text(text.replace(old, new), "utf-8")
    return tmp_path / "r.html"


@pytest.mark.slow
def test_an_edited_weight_count_or_status_is_named(found: Evidence, tmp_path: Path) -> None:
    assert verify(found, page=_edited(tmp_path, "<body>", "<body>"))[-1].name == "page"
    called = f"{trials(found)[0].called} of 99"
    forged = {
        (f"{weight_of(found).band} for Hp", "certainty for Hp"): "certainty for Hp",
        (f"<td>{called}</td>", "<td>0 of 9,999</td>"): "0 of 9,999",
        ("Not checked</span>", "Checked, speaks against it</span>"): "Checked, speaks against it",
    }
    for (old, new), said in forged.items():
        with pytest.raises(ReportInvalid, match=re.escape(said)) as refused:
            verify(found, page=_edited(tmp_path, old, new))
        assert "this evidence gives" in str(refused.value)


def test_the_heading_of_an_edit_is_named(found: Evidence, tmp_path: Path) -> None:
    path = _edited(tmp_path, "no support for either over the other", "support for the alternative")
    with pytest.raises(ReportInvalid, match="under 'Two propositions, and what the evidence weighs'"):
        verify(found, page=path)


def test_a_page_with_words_left_out_or_added_is_refused(found: Evidence, tmp_path: Path) -> None:
    for old, new in (("<h3>Limits</h3>", ""), ("</footer>", "<p>All is proved.</p></footer>")):
        with pytest.raises(ReportInvalid, match="it says"):
            verify(found, page=_edited(tmp_path, old, new))


def test_a_page_of_other_bytes_and_the_same_words_is_refused_as_such(found: Evidence, tmp_path: Path) -> None:
    with pytest.raises(ReportInvalid, match="its bytes are others"):
        verify(found, page=_edited(tmp_path, '<td class="text">', '<td class="text" >'))


def test_the_words_of_an_edit_are_shown_harmless(found: Evidence, tmp_path: Path) -> None:
    path = _edited(tmp_path, "<h3>Limits</h3>", "<h3>\u202e" + "x" * 500 + "</h3>")
    with pytest.raises(ReportInvalid) as refused:
        verify(found, page=path)
    assert "\u202e" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_backticks_of_a_suspect_become_no_markup(found: Evidence) -> None:
    control = Control(f"`{HOSTILE}`", 0.0, 0.0, {})
    text = page(dataclasses.replace(found, controls=[control]))
    assert "<script" not in text
    assert "<img" not in text


def test_new_words_never_accuse(found: Evidence) -> None:
    for evidence in (found, evidence_of("no evidence found"), dataclasses.replace(found, plan=PLAN | STAMP)):
        for each in explanations(evidence):
            assert ACCUSING.search(" ".join(dataclasses.astuple(each))) is None
        for answer in answers(evidence):
            assert ACCUSING.search(answer.text) is None
