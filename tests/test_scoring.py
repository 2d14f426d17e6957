"""Scores, from a mark to evidence: answers as they come, cases, plans, accounts, calibration."""

import itertools
import json
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from scorebench import bench, boosted, inputs, scores

from watermark.errors import (
    EmbeddingRefused,
    KeyUnusable,
    MarkInvalid,
    OutputsInvalid,
    PlanMismatch,
    ProfileMismatch,
    ReportInvalid,
    SuspectUnusable,
    TooFewObservations,
)
from watermark.keys import Key, decoy_keys
from watermark.probe.scores import CallableScorer, ask_scores
from watermark.report.scores import verify_scores
from watermark.scores import Basis, Direction, table
from watermark.scoring.answers import suspect_answers
from watermark.scoring.attribute import ScoreAttribution, attribute_scores
from watermark.scoring.calibrate import calibrate_scores, least_cosine, power_at
from watermark.scoring.case import Case, read_case
from watermark.scoring.detect import detect_scores, look_points, refuse_labels_alone
from watermark.scoring.evidence import ScoreEvidence
from watermark.scoring.mark import ScoreWatermark, load_basis, save_basis, save_score_profile
from watermark.scoring.plan import before_asking_scores, plan_scores, read_score_plan
from watermark.scoring.surrogates import train
from watermark.stats.sphere import log10_pvalue

TWO, FIVE = Direction(), Direction(channels=5)
KEYS = list(decoy_keys(b"a test's keys are the same each time"[:32], 4))  # power is measured, not drawn anew


@pytest.fixture(scope="module")
def world():
    thief, a, probes, b, predictions = bench()
    mark = ScoreWatermark.generate(thief, epsilon=0.05, size=100).rekeyed(KEYS[0])
    return mark, thief, a, probes, b, predictions


@pytest.fixture(scope="module")
def exposed(world):
    """Answers at the probes of a student of marked scores, and of one of unmarked scores."""
    mark, thief, a, probes, *_ = world
    return boosted(thief, mark.tilt(a, thief))(probes), boosted(thief, a)(probes)


@pytest.fixture(scope="module")
def found(world, exposed):
    mark, _, _, probes, b, predictions = world
    return detect_scores(mark, probes, exposed[0], b, surrogates=predictions, controls={"control": exposed[1]})


def test_a_student_of_marked_scores_is_found_and_a_control_is_not(found):
    assert found.verdict == "evidence found"
    assert found.log10_p < -12
    assert found.carried.low > 0.2
    assert found.carried.high < 1.1
    assert found.controls[0].log10_p > -3
    assert found.tests[0].rank_pvalue == 1 / 1000
    assert any("no plan was fixed" in note for note in found.notes)
    assert any("10^-12" in note for note in found.notes)


def test_another_key_finds_nothing_and_says_what_it_would_have_found(world, exposed):
    mark, _, _, probes, b, predictions = world
    other = detect_scores(mark.rekeyed(KEYS[1]), probes, exposed[0], b, surrogates=predictions)
    assert other.log10_p > -3
    assert other.verdict in ("no evidence found", "inconclusive")
    assert 0 < other.carried.detectable < 1


def test_evidence_survives_its_file_and_shows_a_change(found, tmp_path):
    found.save(tmp_path / "e.json")
    assert ScoreEvidence.load(tmp_path / "e.json") == found
    stored = json.loads((tmp_path / "e.json").read_text())
    stored["log10_p"] = -99.0
    (tmp_path / "e.json").write_text(json.dumps(stored))
    with pytest.raises(ReportInvalid, match="does not match its digest"):
        ScoreEvidence.load(tmp_path / "e.json")


def test_no_secret_is_in_evidence_profile_repr_or_error(world, found, tmp_path):
    mark = world[0]
    save_score_profile(mark, tmp_path / "p.json")
    secret = mark.key._export()[0].hex()
    for text in (json.dumps(found.to_json()), (tmp_path / "p.json").read_text(), repr(mark), repr(mark._marker)):
        assert secret not in text


def test_a_mark_survives_its_file(world, tmp_path):
    mark, _, _, probes, b, _ = world
    mark.save(tmp_path / "m.wmark")
    again = ScoreWatermark.load(tmp_path / "m.wmark")
    assert np.abs(again.tilt(b, probes) - mark.tilt(b, probes)).max() < 1e-12
    assert again.profile() == mark.profile()
    assert stat.S_IMODE(os.stat(tmp_path / "m.wmark").st_mode) == 0o600
    with pytest.raises(MarkInvalid, match="never overwritten"):
        mark.save(tmp_path / "m.wmark")
    (tmp_path / "m.wmark").chmod(0o644)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        ScoreWatermark.load(tmp_path / "m.wmark")


def test_a_text_mark_and_a_score_mark_are_told_apart(world, tmp_path):
    from watermark import GreenList, Watermark

    world[0].save(tmp_path / "s.wmark")
    with pytest.raises(MarkInvalid, match="not a watermark file") as told:
        Watermark.load(tmp_path / "s.wmark")
    assert "wmark scores" in told.value.hint
    Watermark(GreenList(), Key.generate()).save(tmp_path / "t.wmark")
    with pytest.raises(MarkInvalid, match="watermark file of scores") as told:
        ScoreWatermark.load(tmp_path / "t.wmark")
    assert "wmark generate" in told.value.hint


def test_a_basis_has_a_public_file(world, tmp_path):
    basis = world[0].basis
    save_basis(basis, tmp_path / "b.json")
    assert load_basis(tmp_path / "b.json").digest == basis.digest
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(MarkInvalid, match="not a readable basis"):
        load_basis(tmp_path / "b.json")


def test_a_case_of_another_basis_is_refused(world, exposed):
    mark, thief, _, probes, b, _ = world
    other = replace(mark, basis=Basis.fit(thief, size=100, seed=1))
    case = read_case(other.scheme, other.basis, probes, exposed[0], b)
    from watermark.scoring.detect import detect_case

    with pytest.raises(ProfileMismatch, match="every cosine would be chance"):
        detect_case(mark, case)


def test_a_case_survives_its_file(world, exposed, tmp_path):
    mark, _, _, probes, b, predictions = world
    case = read_case(mark.scheme, mark.basis, probes, exposed[0], b, surrogates=predictions, controls={"c": exposed[1]})
    case.save(tmp_path / "case.npz")
    again = Case.load(tmp_path / "case.npz")
    assert again.digest == case.digest
    assert np.allclose(again.residual.coefficients, case.residual.coefficients)
    with pytest.raises(ReportInvalid, match="no readable case"):
        Case.load(tmp_path / "nothing.npz")


def test_columns_may_come_in_any_order_and_rows_twice(world, exposed):
    mark, _, _, probes, b, _ = world
    names = mark.basis.names
    frame = {name: probes[:, i] for i, name in reversed(list(enumerate(names)))}
    doubled = {name: np.r_[column, column[:7]] for name, column in frame.items()}
    case = read_case(mark.scheme, mark.basis, doubled, np.r_[exposed[0], exposed[0][:7]], np.r_[b, b[:7]])
    assert (len(case), case.duplicates) == (len(probes), 7)
    plain = read_case(mark.scheme, mark.basis, probes, exposed[0], b)
    assert np.allclose(case.residual.coefficients, plain.residual.coefficients)


def test_unanswered_inputs_are_left_out_and_counted(world, exposed):
    mark, _, _, probes, b, _ = world
    some = exposed[0].copy()
    some[5:15] = np.nan
    case = read_case(mark.scheme, mark.basis, probes, some, b)
    assert (len(case), case.unanswered) == (len(probes) - 10, 10)
    assert "10 inputs have no answer and were left out" in case.notes


def test_rounded_answers_cost_little(world, exposed, found):
    mark, _, _, probes, b, predictions = world
    rounded = detect_scores(mark, probes, np.round(exposed[0], 2), b, surrogates=predictions)
    assert rounded.log10_p < 0.8 * found.log10_p


def test_labels_alone_of_a_student_of_scores_are_tested(world, exposed):
    mark, _, _, probes, b, predictions = world
    evidence = detect_scores(mark, probes, (exposed[0] > 0.5).astype(float), b, surrogates=predictions)
    assert evidence.access == "labels"
    assert evidence.carried is None
    assert evidence.log10_p < -1.5


def test_labels_served_without_dither_are_refused_with_the_reason(world):
    with pytest.raises(EmbeddingRefused, match="never changes the argmax"):
        refuse_labels_alone(world[0])
    refuse_labels_alone(replace(world[0], scheme=Direction("labels")))


def test_dither_reaches_a_student_of_labels_alone(world):
    mark, thief, a, probes, b, predictions = world
    mark = replace(mark, scheme=Direction("labels", epsilon=0.15))
    labels = mark.tilt(a, thief)
    flips = (labels != (a > 0.5)).mean()
    assert 0 < flips < 0.15
    from sklearn.ensemble import HistGradientBoostingClassifier

    student = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(thief, labels)
    evidence = detect_scores(mark, probes, student.predict_proba(probes)[:, 1], b, surrogates=predictions)
    assert evidence.log10_p < -3


def test_numbers_of_logged_inputs_reach_a_student_that_memorises(world):
    from sklearn.neighbors import KNeighborsRegressor

    mark, thief, a, *_ = world
    mark = replace(mark, scheme=Direction(epsilon=0.02, own=0.3))
    student = KNeighborsRegressor(1).fit(thief, mark.tilt(a, thief))
    logged = detect_scores(mark, thief, student.predict(thief), a, logged=True)
    assert [test.part for test in logged.tests] == ["deployment", "input"]
    assert logged.tests[1].log10_p < -50
    assert logged.log10_p == pytest.approx(min(t.log10_p for t in logged.tests) + np.log10(2))
    assert any("logged ones" in note for note in logged.notes)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda q, b: (np.full_like(q, 0.4), b), "answers every input alike"),
        (lambda q, b: (b.copy(), b), "the clean answers themselves"),
    ],
)
def test_a_suspect_that_cannot_be_tested_is_named(world, exposed, change, says):
    mark, _, _, probes, b, _ = world
    answers, clean = change(exposed[0], b)
    with pytest.raises(SuspectUnusable, match=says):
        detect_scores(mark, probes, answers, clean)


def test_too_few_answers_for_the_basis_are_refused(world, exposed):
    mark, _, _, probes, b, _ = world
    with pytest.raises(TooFewObservations, match="at least 50"):
        detect_scores(mark, probes[:40], exposed[0][:40], b[:40])


def test_rows_must_match(world, exposed):
    mark, _, _, probes, b, predictions = world
    with pytest.raises(OutputsInvalid, match="the clean answers have 10 rows, the inputs 4000"):
        read_case(mark.scheme, mark.basis, probes, exposed[0], b[:10])
    with pytest.raises(OutputsInvalid, match="the surrogates' predictions have 5 rows"):
        read_case(mark.scheme, mark.basis, probes, exposed[0], b, surrogates=predictions[:5])


def test_percentages_cut_and_rounded_answers_are_read_and_said():
    p = np.array([[70.0, 20.0, 10.0, 0.0, 0.0]] * 60)
    read = suspect_answers(p, FIVE)
    assert np.allclose(read.values.sum(axis=1), 1)
    assert "answers were read as percentages" in read.notes
    cut = suspect_answers(np.array([[0.7, 0.2, np.nan, np.nan, np.nan]] * 3), FIVE)
    assert np.allclose(cut.values[0], [0.7, 0.2, 0.1 / 3, 0.1 / 3, 0.1 / 3])
    assert "name only some classes" in cut.notes[0]
    rounded = suspect_answers(np.array([[0.33, 0.33, 0.33, 0.0, 0.0]] * 3), FIVE)
    assert "scaled to sum to one" in rounded.notes[0]


@pytest.mark.parametrize(
    "answers, scheme, says",
    [
        (np.array([[0.4, 0.4, 0.4, 0.4, 0.4]] * 9), FIVE, "do not sum to one"),
        (np.array([3.0, -2.0, 1.0]), TWO, "are no probabilities"),
        (np.array([[0.2, 0.3, 0.5]] * 3), FIVE, "3 columns, the mark was made for 5 classes"),
        (np.array([np.inf, 0.2]), TWO, "1 answers are infinite"),
        (table({"a": ["yes", "no", "perhaps"]}), TWO, "3 labels, the mark was made for 2 classes"),
        (table({"a": ["x", "y"], "b": [1.0, 2.0]}), TWO, "holds words among 2 columns"),
    ],
)
def test_answers_that_cannot_be_read_are_named(answers, scheme, says):
    with pytest.raises(OutputsInvalid, match=says):
        suspect_answers(answers, scheme)


def test_named_labels_are_read_in_the_order_given():
    read = suspect_answers(table({"a": ["yes", "no", ""]}), TWO, labels=("no", "yes"))
    assert read.shows == "labels"
    assert read.values[:2].tolist() == [[0, 1], [1, 0]]
    assert read.answered.tolist() == [True, True, False]
    with pytest.raises(OutputsInvalid, match="none of no, maybe"):
        suspect_answers(table({"a": ["yes", "no"]}), TWO, labels=("no", "maybe"))


def test_a_plan_holds_a_run_to_key_basis_and_inputs(world, exposed, tmp_path):
    mark, _, _, probes, b, predictions = world
    plan = plan_scores(mark, probes, b, surrogates=predictions, alpha=0.01, suspects=2)
    plan.save(tmp_path / "plan.json")
    plan = read_score_plan(tmp_path / "plan.json")
    kept = detect_scores(mark, probes, exposed[0], b, surrogates=predictions, plan=plan)
    assert kept.plan["status"] == "confirmatory"
    assert kept.alpha == 0.005
    assert not any("no plan" in note for note in kept.notes)
    with pytest.raises(PlanMismatch, match="not written over"):
        plan.save(tmp_path / "plan.json")


def test_a_plan_of_scores_is_older_than_the_first_question_or_the_run_is_exploratory(world, exposed, tmp_path):
    """By the log that names it; another log, another plan, or a plan that is younger, is refused by name."""
    mark, _, _, probes, b, predictions = world
    plan = plan_scores(mark, probes, b, surrogates=predictions)
    runs = (tmp_path / f"said-{number}.csv" for number in itertools.count())

    def tested(said: dict | None, **options):
        path = next(runs)
        scorer = CallableScorer(lambda rows: exposed[0][: len(rows)])
        ask_scores(scorer, table(probes[:8]), path, twice=0, plan=said)
        return detect_scores(
            mark,
            probes,
            exposed[0],
            b,
            surrogates=predictions,
            plan=plan,
            files={"answers": path},
            decoys=99,
            **options,
        )

    named = before_asking_scores(plan, output=tmp_path / "said-0.csv")
    kept = tested(named)
    assert (kept.plan["status"], kept.plan["named_in_log"]) == ("confirmatory", True)
    assert kept.plan["since"]["by"] == "its maker's word"
    with pytest.raises(PlanMismatch, match="the query log names no plan, and this one bears no time stamp"):
        tested(None)
    with pytest.raises(PlanMismatch, match="asked under another plan"):
        tested(named | {"digest": "0" * 64})
    young = replace(plan, created="2999-01-01T00:00:00+00:00")
    with pytest.raises(PlanMismatch, match="which is yet to come"):
        before_asking_scores(young, output=tmp_path / "other.csv")
    loose = tested(None, exploratory=True)
    assert (loose.plan["status"], len(loose.plan["by_dates"])) == ("exploratory", 1)
    with pytest.raises(PlanMismatch, match="stopping rule is e-process, planned none; level is 0.5, planned 0.001"):
        before_asking_scores(plan, output=tmp_path / "other.csv", stop_at=0.5)
    plan.save(tmp_path / "plan.json")
    assert verify_scores(loose, plan=tmp_path / "plan.json")[-1].name == "plan"


def test_an_accuser_who_picks_afterwards_is_refused(world, exposed):
    """Another key, other inputs, another basis, other surrogates: each is named; exploratory runs say so."""
    mark, thief, _, probes, b, predictions = world
    plan = plan_scores(mark, probes, b, surrogates=predictions)
    every = {
        "the key": (mark.rekeyed(Key.generate()), slice(None), predictions),
        "the inputs": (mark, slice(0, 3000), predictions),
        "the surrogates": (mark, slice(None), None),
        "the basis": (replace(mark, basis=Basis.fit(thief, size=100, seed=2)), slice(None), predictions),
    }
    for what, (used, rows, owners) in every.items():
        some = None if owners is None else owners[rows]
        with pytest.raises(PlanMismatch, match=what):
            detect_scores(used, probes[rows], exposed[0][rows], b[rows], surrogates=some, plan=plan)
    loose = detect_scores(mark, probes[:3000], exposed[0][:3000], b[:3000], plan=plan, exploratory=True)
    assert loose.plan["status"] == "exploratory"
    assert len(loose.plan["mismatches"]) == 3
    with pytest.raises(PlanMismatch, match="no such stop"):
        detect_scores(mark, probes, exposed[0], b, surrogates=predictions, plan=plan, stopped=True)


def test_after_early_stopping_the_e_process_decides(world, exposed):
    mark, _, _, probes, b, predictions = world
    evidence = detect_scores(mark, probes, exposed[0], b, surrogates=predictions, stopped=True)
    assert evidence.log10_p == pytest.approx(-evidence.looks[-1].log10_e)
    assert evidence.log10_p > evidence.tests[0].log10_p
    assert evidence.reached_at is not None
    assert "e-process" in evidence.method


def test_looks_grow_to_all_answers():
    assert look_points(20_000, 200)[0] == 200
    assert look_points(20_000, 200)[-1] == 20_000
    assert look_points(90, 20) == [90]


def test_accounts_are_named_by_their_own_direction(world):
    mark, thief, a, probes, b, predictions = world
    mark = replace(mark, scheme=Direction(epsilon=0.1, account=0.4))
    half = len(thief) // 2
    marked = np.r_[mark.account("ann").tilt(a[:half], thief[:half]), mark.account("bob").tilt(a[half:], thief[half:])]
    case = read_case(mark.scheme, mark.basis, probes, boosted(thief, marked)(probes), b, surrogates=predictions)
    names = ["ann", "bob", *(f"other-{i}" for i in range(98))]
    told = attribute_scores(mark, case, names, alpha=0.01)
    assert "ann" in told.named
    assert not [name for name in told.named if name.startswith("other")]
    assert told.runner_up is not None
    assert told.accounts[0].adjusted == pytest.approx(told.accounts[0].log10_p + 2)
    one = detect_scores(mark.account("ann"), probes, boosted(thief, marked)(probes), b, surrogates=predictions)
    assert one.tests[0].part == "account"


def test_an_attribution_survives_its_file(world, exposed, tmp_path):
    mark, _, _, probes, b, _ = world
    shared = replace(mark, scheme=Direction(epsilon=0.05, account=0.4))
    case = read_case(shared.scheme, shared.basis, probes, exposed[1], b)
    told = attribute_scores(shared, case, [f"a{i}" for i in range(50)])
    assert told.named == []
    told.save(tmp_path / "a.json")
    assert ScoreAttribution.load(tmp_path / "a.json") == told
    with pytest.raises(MarkInvalid, match="no part of its own"):
        attribute_scores(mark, case, ["a"])


def test_a_mark_without_parts_has_no_accounts(world):
    with pytest.raises(MarkInvalid, match="no part that accounts could own"):
        world[0].account("ann")


def test_two_accounts_differ_only_in_their_own_part(world):
    mark, probes = world[0], world[3]
    mark = replace(mark, scheme=Direction(epsilon=0.05, account=0.2))
    one, two = mark.account("ann").marks(probes), mark.account("bob").marks(probes)
    assert 0.6 < np.corrcoef(one[:, 0], two[:, 0])[0, 1] < 0.95
    assert mark.account("ann").key != mark.account("bob").key


def test_five_classes_and_values_are_found():
    thief, probes = inputs(5000, 11), inputs(3000, 12)
    p, q = scores(thief, 5), scores(probes, 5)
    mark = ScoreWatermark.generate(thief, answers=p, epsilon=0.05, size=60).rekeyed(KEYS[2])
    assert mark.scheme.channels == 5
    marked = mark.tilt(p, thief)
    said = np.column_stack([boosted(thief, marked[:, c], rounds=60)(probes) for c in range(5)])
    assert detect_scores(mark, probes, said, q).log10_p < -6
    values, clean = 10 + 3 * np.log(p[:, 0] + 0.05), 10 + 3 * np.log(q[:, 0] + 0.05)
    mark = ScoreWatermark.generate(thief, answers=values, output="values", epsilon=0.1, size=60).rekeyed(KEYS[3])
    said = boosted(thief, mark.tilt(values, thief))(probes)
    predictions = train(inputs(3000, 13), _values(13), scheme=mark.scheme, kinds=("boosted",)).predict(probes)
    evidence = detect_scores(mark, probes, said, clean, surrogates=predictions)
    assert evidence.log10_p < -4
    assert evidence.cost.largest == pytest.approx(0.1 * values.std(), rel=1e-6)


def test_surrogates_need_rows_and_know_their_columns():
    with pytest.raises(TooFewObservations, match="needed are 200"):
        train(inputs(50, 1), scores(inputs(50, 1)))
    made = train(inputs(400, 1), scores(inputs(400, 1)), kinds=("linear",))
    assert made.predict(inputs(9, 2)).shape == (9, 1, 2)
    with pytest.raises(OutputsInvalid, match="no column x9"):
        made.predict({f"x{i}": np.zeros(3) for i in range(9)})


def test_calibration_prefers_what_finds_the_smallest_copy(tmp_path):
    x = inputs(3000, 21)
    options = {
        "epsilons": (0.01, 0.1), "sizes": (40,), "kinds": ("kernel",), "students": ("boosted",), "keys": 1,
    }  # fmt: skip
    work = tmp_path / "trials.jsonl"
    found = calibrate_scores(x, scores(x)[:, 1], **options, work=work)
    assert found.best.epsilon == 0.1
    assert found.best.smallest <= 1500
    assert found.best.cost.flips == 0
    lines = work.read_text().splitlines()
    assert len(lines) == 6
    assert calibrate_scores(x, scores(x)[:, 1], **options, work=work) == found  # nothing is tried again
    assert work.read_text().splitlines() == lines
    with pytest.raises(TooFewObservations, match="needed are 600"):
        calibrate_scores(x[:100], scores(x[:100])[:, 1])


def test_power_is_that_of_the_level():
    least = least_cosine(200, 0.001)
    assert log10_pvalue(least, 200) == pytest.approx(-3, abs=1e-6)
    assert power_at(least, 200, 0.001) == pytest.approx(0.5)
    assert power_at(0.0, 200, 0.001) < 0.002


def _values(seed):
    return 10 + 3 * np.log(scores(inputs(3000, seed), 5)[:, 0] + 0.05)


def test_a_marker_is_not_pickled(world):
    import pickle

    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(world[0]._marker)


def test_labels_that_were_served_alone_are_not_tested(world, exposed):
    mark, _, _, probes, b, _ = world
    with pytest.raises(EmbeddingRefused, match="seen nothing of the key"):
        detect_scores(mark, probes, exposed[0], b, served="labels")


def test_a_stopped_run_is_held_to_the_planned_inputs_up_to_its_look(world, exposed):
    mark, _, _, probes, b, predictions = world
    plan = plan_scores(mark, probes, b, surrogates=predictions, stopping="e-process")
    count = look_points(len(probes), mark.basis.size)[3]
    some = slice(count)
    kept = detect_scores(
        mark, probes[some], exposed[0][some], b[some], surrogates=predictions[some], plan=plan, stopped=True
    )
    assert kept.plan["status"] == "confirmatory"
    with pytest.raises(PlanMismatch, match="the inputs: other than planned"):
        detect_scores(
            mark, probes[1:][some], exposed[0][1:][some], b[1:][some], surrogates=predictions[1:][some], plan=plan,
            stopped=True,
        )  # fmt: skip
    off = slice(count + 5)  # between two looks
    with pytest.raises(PlanMismatch, match="the inputs: other than planned"):
        detect_scores(mark, probes[off], exposed[0][off], b[off], surrogates=predictions[off], plan=plan, stopped=True)


def test_after_early_stopping_only_fixed_looks_bet(world, exposed):
    mark, _, _, probes, b, _ = world
    count = look_points(len(probes), mark.basis.size)[3] + 5
    evidence = detect_scores(mark, probes[:count], exposed[0][:count], b[:count], stopped=True)
    assert evidence.looks[-1].answers == count
    assert evidence.looks[-1].log10_e == evidence.looks[-2].log10_e


def test_a_plan_minds_logged_inputs_alpha_and_unanswered_ones(world, exposed):
    mark, _, _, probes, b, _ = world
    plan = plan_scores(mark, probes, b, logged=True)
    with pytest.raises(PlanMismatch, match="logged inputs or fresh ones: other than planned"):
        detect_scores(mark, probes, exposed[0], b, plan=plan)
    plan = plan_scores(mark, probes, b, alpha=0.01)
    with pytest.raises(PlanMismatch, match="alpha is 0.001, planned was 0.01"):
        detect_scores(mark, probes, exposed[0], b, plan=plan, alpha=0.001)
    silent = exposed[0].copy()
    silent[:9] = np.nan
    assert detect_scores(mark, probes, silent, b, plan=plan).plan["status"] == "confirmatory"


def test_truth_is_that_of_the_rows_that_were_kept(world, exposed):
    mark, _, _, probes, b, _ = world
    truth = (np.random.default_rng(0).random(len(b)) < b).astype(int)
    silent = exposed[0].copy()
    silent[:9] = np.nan
    evidence = detect_scores(mark, probes, silent, b, truth=truth)
    assert evidence.cost.log_loss is not None
    with pytest.raises(OutputsInvalid, match="3 true answers for 4000 inputs"):
        detect_scores(mark, probes, silent, b, truth=truth[:3])


def test_a_first_look_that_cannot_be_read_is_left_out():
    """Embeddings of many dimensions need more answers than the first look has."""
    rng = np.random.default_rng(4)
    x = inputs(1500, 41)
    e = np.tanh((x - x.mean(axis=0)) / x.std(axis=0) @ rng.normal(size=(10, 64))) + 0.01 * rng.normal(size=(1500, 64))
    mark = ScoreWatermark.generate(e, output="embeddings", channels=64, epsilon=0.2).rekeyed(KEYS[1])
    said = mark.tilt(e, e) @ np.linalg.qr(rng.normal(size=(64, 64)))[0] + 0.01 * rng.normal(size=e.shape)
    evidence = detect_scores(mark, e, said, e)
    assert evidence.log10_p < -6
    assert evidence.looks[0].answers > 100
    assert "linear in the clean embedding" in evidence.method
