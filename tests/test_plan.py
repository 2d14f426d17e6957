"""plan(): what to ask is computed from slopes; a run that is not the one planned is refused, mismatch by mismatch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from tiny import tiny_model
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark import beforehand
from watermark.detect import detect
from watermark.embed.answers import Model
from watermark.errors import BundleInvalid, PlanMismatch
from watermark.estimate import measured_slopes
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.outputs import Output
from watermark.plan import Dated, before_asking, check, model_named, plan, read_dated, read_plan
from watermark.probe.log import QueryLog, log_path
from watermark.probe.question import Attempt, Draw, Question
from watermark.prompts import Prompt
from watermark.schemes import GreenList

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Probes, as JSON Lines and as text."""
    made = tmp_path_factory.mktemp("plan")
    questions = [f"What is {n} good for?" for n in range(COUNT)]
    rows = [json.dumps({"id": f"q{n}", "prompt": text}) for n, text in enumerate(questions)]
    (made / "probes.jsonl").write_text("\n".join(rows) + "\n")
    (made / "probes.txt").write_text("\n".join(reversed(questions)) + "\n")
    return made


@pytest.fixture(scope="module")
def planned(mark, folder):
    return plan(mark, access="text", prompts=folder / "probes.jsonl", tokens_per_answer=30, slope=4.0)


@pytest.fixture(scope="module")
def answers(source, mark) -> list[Output]:
    """One innocent answer to each probe."""
    ids = source.sample(COUNT, 40, np.random.default_rng(5), window=2)
    return [
        Output(f"a{n}", token_ids=tuple(row), prompt=f"What is {n} good for?") for n, row in enumerate(ids.tolist())
    ]


def asked(folder: Path, answers: list[Output], under=None, **said) -> Path:
    """The answers as `wmark probe --plan` leaves them, with their log; under: the plan that its first line names."""
    path = folder / "answers.jsonl"
    rows = [{"token_ids": output.token_ids, "prompt": output.prompt} for output in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [Prompt(output.id, output.prompt, ()) for output in answers]
    note = None if under is None else before_asking(under, prompts=prompts, output=path)
    log = QueryLog(log_path(path), {"suspect": {"model": "m"}, "plan": note} | said)
    for prompt in prompts:
        sent = datetime.now(UTC).timestamp() + 1
        log.request(Attempt(Question(prompt.id, 0, prompt, Draw()), 1, sent, sent + 1, "answered"), answer_sha256=None)
    log.close()
    return path


def _differing(planned, mark, answers, /, **changed) -> list[str]:
    """check() of a run that is the planned one but for `changed`."""
    options = {
        "mark": mark,
        "access": planned.access,
        "reference": None,
        "alpha": planned.level,
        "alternative": "greater",
        "decoys": 999,
        "stopped": False,
        "ledger": False,
        "clean": None,
        "prompts": [output.prompt for output in answers],
        "statistics": planned.statistics,
        "tokens": planned.tokens,
    }
    return check(planned, **options | changed)


def test_tokens_needed_follow_from_the_slope(mark, folder):
    """The closed form for an exact test: (z_alpha + z_power)² / slope², the share to the exponent."""
    for share, exponent, suspects in ((1.0, 1.0, 1), (0.05, 1.0, 1), (0.05, 0.5, 1), (0.05, 1.0, 20)):
        made = plan(
            mark, access="text", prompts=folder / "probes.jsonl", share=share, suspects=suspects, slope=9.0,
            exponent=exponent,
        )  # fmt: skip
        z = norm.isf(0.001 / suspects) + norm.ppf(0.9)
        (found,) = made.estimates
        assert found.tokens == math.ceil(1000 * (z / (9.0 * share**exponent)) ** 2)
        assert made.tokens == min(COUNT * 100, found.tokens)


def test_every_option_of_the_aim_changes_what_is_needed(mark, folder):
    def needed(**options):
        return plan(
            mark, **{"access": "text", "prompts": folder / "probes.jsonl", "slope": 9.0} | options
        ).estimates[0].tokens  # fmt: skip

    usual = needed()
    for harder in (
        {"share": 0.01}, {"power": 0.99}, {"alpha": 1e-6}, {"keys": 10}, {"suspects": 10}, {"slope": 5.0},
        {"slope_se": 2.0}, {"alternative": "two-sided"}, {"stop_at": "e-process"}, {"access": "logits"},
    ):  # fmt: skip
        assert needed(**harder) > usual, harder
    assert needed(exponent=0.7) < usual
    assert needed(slope=1.0, slope_se=1.0) is None


def test_level_is_shared_among_keys_and_suspects(mark, folder):
    made = plan(mark, access="text", prompts=folder / "probes.jsonl", keys=4, suspects=5, alpha=0.02, slope=9.0)
    assert made.level == pytest.approx(0.001)
    assert _differing(made, mark, [], alpha=0.02, prompts=[])[0] == (
        "alpha is 0.02, planned 0.001 (0.02 over 4 keys and 5 suspects)"
    )


def test_power_with_these_probes_is_what_simulated_tests_find(mark, folder):
    made = plan(
        mark, access="text", prompts=folder / "probes.jsonl", tokens_per_answer=500, alpha=0.01, share=0.3, slope=3.0
    )
    z = np.random.default_rng(0).normal(3.0 * 0.3 * math.sqrt(COUNT * 500 / 1000), 1.0, 20_000)
    assert made.estimates[0].power == pytest.approx((z >= norm.isf(0.01)).mean(), abs=0.012)


def test_plan_survives_its_file_and_shows_every_change(planned, tmp_path):
    planned.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == planned
    stored = json.loads((tmp_path / "plan.json").read_bytes())
    changes = [("share", 0.5), ("alpha", 0.05), ("level", 0.05), ("created", "2020-01-01T00:00:00+00:00"), ("keys", 2)]
    for name, value in changes:
        (tmp_path / "other.json").write_text(json.dumps(stored | {name: value}))
        with pytest.raises(PlanMismatch, match="does not match its digest; it was changed after it was written"):
            read_plan(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a plan"),
        ('{"format": "wmark-plan/9"}', "its format should be wmark-plan/1"),
        ('{"format": "wmark-plan/1", "alpha": 0.1}', "is not a complete plan"),
    ],
)
def test_malformed_plans_are_refused_in_words(content, words, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(PlanMismatch, match=words):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(PlanMismatch, match="cannot be read"):
        read_plan(tmp_path / "missing.json")


def test_a_plan_is_not_written_over(planned, tmp_path):
    planned.save(tmp_path / "plan.json")
    with pytest.raises(PlanMismatch, match="is not written over"):
        planned.save(tmp_path / "plan.json")


def test_plan_holds_the_commitment_and_no_secret(planned, mark):
    written = json.dumps(planned.to_json())
    assert mark.key.commitment in written
    assert not any(part.hex() in written for part in mark.key._export())


def test_the_planned_run_has_no_mismatch(planned, mark, answers):
    assert _differing(planned, mark, answers) == []
    assert _differing(planned, mark, answers[::-1]) == []


def test_order_and_format_of_the_probes_make_no_difference(mark, folder, answers):
    for name in ("probes.jsonl", "probes.txt"):
        made = plan(mark, access="text", prompts=folder / name, slope=9.0, tokens_per_answer=10)
        assert _differing(made, mark, answers) == []


def test_every_departure_is_named(planned, mark, answers, tmp_path):
    (tmp_path / "clean.jsonl").write_text('{"text": "a"}\n')
    stranger = dataclasses.replace(answers[0], prompt="What else?")
    for changed, words in (
        ({"mark": mark.rekeyed(mark.key.subkey(tenant="another"))}, "key is "),
        ({"access": "samples"}, "access is samples, planned text"),
        ({"reference": "demo"}, "reference is demo"),
        ({"alpha": 0.01}, "alpha is 0.01, planned 0.001"),
        ({"alternative": "two-sided"}, "alternative is two-sided, planned greater"),
        ({"decoys": 99}, "decoys is 99, planned 999"),
        ({"stopped": True}, "stopping rule is e-process, planned none"),
        ({"ledger": True}, "ledger as a filter is True, planned False"),
        ({"clean": tmp_path / "clean.jsonl"}, "clean text is clean.jsonl"),
        ({"statistics": ["mass"]}, "statistics is mass, planned votes"),
        ({"tokens": planned.tokens - 1}, "tokens were read, planned at least"),
        ({"prompts": [a.prompt for a in answers[1:]]}, "1 of the planned probes have no answer"),
        ({"prompts": [a.prompt for a in [*answers, stranger]]}, "1 of the prompts that were answered are not among"),
        ({"prompts": [a.prompt for a in [*answers, answers[3]]]}, f"there are {COUNT + 1} answers, planned {COUNT}"),
        ({"prompts": [a.prompt for a in answers] + [None]}, "1 answers came without their prompt"),
    ):
        found = _differing(planned, mark, answers, **changed)
        assert any(words in one for one in found), (changed, found)


def test_an_eprocess_may_end_early_and_no_other_test_may(mark, folder, answers):
    made = plan(mark, access="text", prompts=folder / "probes.jsonl", slope=9.0, stop_at="e-process")
    few = {"prompts": [output.prompt for output in answers[:5]], "tokens": 200}
    assert _differing(made, mark, answers, stopped=True, **few) == []
    assert _differing(made, mark, answers, **few) == ["stopping rule is none, planned e-process"]


def test_models_are_known_by_their_weights_not_their_names(mark, folder, tmp_path):
    for seed, name in enumerate(("base", "other")):
        tiny_model(tmp_path / name, seed=seed)
    made = plan(mark, access="logits", prompts=folder / "probes.jsonl", reference=str(tmp_path / "base"), slope=9.0)
    assert made.reference == model_named(tmp_path / "base") == model_named(Model.load(tmp_path / "base"))
    assert _differing(made, mark, [], reference=tmp_path / "base", prompts=[])[0].startswith(f"{COUNT} of the planned")
    (tmp_path / "base").rename(tmp_path / "renamed")
    assert not any("reference" in m for m in _differing(made, mark, [], reference=tmp_path / "renamed", prompts=[]))
    assert "reference is other" in _differing(made, mark, [], reference=tmp_path / "other", prompts=[])[0]
    assert "reference is none" in _differing(made, mark, [], reference=None, prompts=[])[0]


def test_detect_keeps_to_its_plan(planned, mark, answers, tokenizer, tmp_path):
    planned.save(tmp_path / "plan.json")
    path = asked(tmp_path, answers, tmp_path / "plan.json")
    found = detect(path, mark, tokenizer=tokenizer, plan=tmp_path / "plan.json")
    assert found.plan["status"] == "confirmatory"
    assert found.plan["named_in_log"]
    assert found.plan["since"]["by"] == "its maker's word"
    assert (found.plan["digest"], found.plan["mismatches"]) == (planned.digest, [])
    assert found.plan["level"] == found.alpha
    found.save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json").plan == found.plan
    free = detect(iter(answers), mark, tokenizer=tokenizer)
    assert free.plan is None
    assert free.log10_p == found.log10_p


def test_detect_refuses_another_run_unless_it_is_called_exploratory(planned, mark, answers, tokenizer, tmp_path):
    run = {"tokenizer": tokenizer, "plan": planned, "alpha": 0.01, "decoys": 99}
    path = asked(tmp_path, answers, planned)
    with pytest.raises(PlanMismatch, match="decoys is 99, planned 999; alpha is 0.01, planned 0.001") as caught:
        detect(path, mark, **run)
    assert "--exploratory" in str(caught.value.hint)
    found = detect(path, mark, exploratory=True, **run)
    assert found.plan["status"] == "exploratory"
    assert found.plan["mismatches"] == ["decoys is 99, planned 999", "alpha is 0.01, planned 0.001"]
    with pytest.raises(ValueError, match="pass plan"):
        detect(answers, mark, exploratory=True)


def test_a_run_is_refused_before_anything_is_read(planned, mark, tokenizer, answers):
    told = []
    with pytest.raises(PlanMismatch):
        detect(answers[1:], mark, tokenizer=tokenizer, plan=planned, progress=lambda word, count: told.append(word))
    assert told == []


def test_too_few_tokens_are_seen_before_a_p_value_is(mark, folder, answers, tokenizer, tmp_path):
    made = plan(mark, access="text", prompts=folder / "probes.jsonl", slope=0.5, tokens_per_answer=400)
    told = []
    path = asked(tmp_path, answers, made)
    with pytest.raises(PlanMismatch, match="tokens were read, planned at least 9,600"):
        detect(path, mark, tokenizer=tokenizer, plan=made, progress=lambda word, count: told.append(word))
    assert set(told) == {"answers read"}


def _log(path: Path, sent: list[float], **header) -> Path:
    """A query log of questions sent at these times, its lines in this order."""
    log = QueryLog(log_path(path), {"suspect": {"model": "m"}, "created": "2017-01-01T00:00:00+00:00"} | header)
    for place, when in enumerate(sent):
        question = Question(f"q{place}", place, Prompt(f"q{place}", "What?", ()), Draw())
        log.request(Attempt(question, 1, when, when + 1, "answered"), answer_sha256=None)
    log.close()
    return path


def test_a_plan_younger_than_the_first_question_cannot_be_confirmatory(tmp_path, planned, mark, answers, tokenizer):
    path = _log(tmp_path / "answers.jsonl", [1_500_000_900.0, 1_500_000_000.0])
    path.write_text("".join(json.dumps({"token_ids": a.token_ids, "prompt": a.prompt}) + "\n" for a in answers))
    assert beforehand.asked(path).first.startswith("2017-07-14T02:40:00")  # the earliest, in whichever line it stands
    with pytest.raises(
        PlanMismatch, match="the first question was asked at 2017-07-14T02:40:00.*, the plan made later"
    ):
        detect(path, mark, plan=planned)
    found = detect(path, mark, tokenizer=tokenizer, plan=planned, exploratory=True)
    assert found.plan["status"] == "exploratory"
    assert "the query log names no plan, and this one bears no time stamp" in found.plan["mismatches"][-1]


def test_a_back_dated_plan_is_refused_unless_the_log_names_it_or_a_stamp_dates_it(tmp_path, planned, mark, answers):
    """Made after the first question, with a date before it: nothing in the plan itself can tell."""
    dated = dataclasses.replace(planned, created="2016-01-01T00:00:00+00:00")
    path = _log(tmp_path / "answers.jsonl", [1_500_000_000.0])
    said = beforehand.asked(path)
    by_word, early, late = (
        beforehand.Since(dated.created),
        beforehand.Since("2017-07-01T00:00:00+00:00", "an authority"),
        beforehand.Since("2018-01-01T00:00:00+00:00", "an authority"),
    )
    assert "only its maker says that it came first" in beforehand.departures(dated.digest, by_word, said)[0]
    assert beforehand.departures(dated.digest, early, said) == []
    assert "made later, at 2018-01-01T00:00:00+00:00, by a time stamp" in beforehand.departures("", late, said)[0]
    named = beforehand.Asked(said.began, said.first, {"digest": dated.digest, "mismatches": []})
    assert beforehand.departures(dated.digest, by_word, named) == []
    assert "asked under another plan" in beforehand.departures(planned.digest, early, named)[0]
    assert "no query log" in beforehand.departures(dated.digest, early, None)[0]
    strange = dataclasses.replace(said, began="2018-01-01T00:00:00+00:00")
    assert "was begun at 2018" in beforehand.departures(dated.digest, early, strange)[0]


def test_without_a_query_log_no_run_is_confirmatory(planned, mark, answers, tokenizer):
    with pytest.raises(PlanMismatch, match="no query log stands beside the answers"):
        detect(answers, mark, tokenizer=tokenizer, plan=planned)


def test_a_plan_swapped_after_the_first_question_is_refused(planned, mark, folder, answers, tokenizer, tmp_path):
    path = asked(tmp_path, answers, planned)
    other = plan(mark, access="text", prompts=folder / "probes.jsonl", tokens_per_answer=30, slope=4.1)
    swapped = dataclasses.replace(other, created=planned.created)
    with pytest.raises(PlanMismatch, match="the questions were asked under another plan"):
        detect(path, mark, tokenizer=tokenizer, plan=swapped)
    prompts = [Prompt(output.id, output.prompt, ()) for output in answers]
    with pytest.raises(PlanMismatch, match="the questions were asked under another plan"):
        before_asking(swapped, prompts=prompts, output=path)
    assert before_asking(planned, prompts=prompts, output=path)["mismatches"] == []


def test_questions_that_were_not_planned_are_named_before_they_are_asked(planned, mark, folder, answers, tmp_path):
    prompts = [Prompt(output.id, output.prompt, ()) for output in answers]
    other = Watermark(mark.scheme, next(iter(decoy_keys(b"other", 1))), mark.binding)
    for changed, words in (
        ({"prompts": prompts[1:]}, "1 of the planned probes are not among the prompts"),
        ({"prompts": [*prompts, Prompt("x", "Who?", ())]}, "1 of the prompts are not among the planned probes"),
        ({"samples": 2}, "answers to each prompt is 2, planned 1"),
        ({"mark": other}, "key is"),
        ({"stop_at": 0.01}, "stopping rule is e-process, planned none; level is 0.01, planned 0.001"),
        ({"now": datetime(2020, 1, 1, tzinfo=UTC)}, "by its maker's word, which is yet to come"),
    ):
        options = {"prompts": prompts, "output": tmp_path / "a.jsonl"} | changed
        with pytest.raises(PlanMismatch, match=words):
            before_asking(planned, **options)
        assert words.split(";")[0] in before_asking(planned, exploratory=True, **options)["mismatches"][0]
    with pytest.raises(PlanMismatch, match="access is text, without log-probabilities, planned log-probabilities"):
        before_asking(
            plan(mark, access="log-probabilities", prompts=folder / "probes.jsonl", reference="demo"),
            prompts=prompts,
            output=tmp_path / "a.jsonl",
        )


def test_what_was_asked_as_exploratory_stays_so(planned, mark, answers, tokenizer, tmp_path):
    prompts = [Prompt(output.id, output.prompt, ()) for output in answers]
    note = before_asking(planned, prompts=prompts, output=tmp_path / "answers.jsonl", samples=3, exploratory=True)
    path = asked(tmp_path, answers, None, plan=note)
    with pytest.raises(PlanMismatch, match="asked as exploratory: answers to each prompt is 3, planned 1"):
        detect(path, mark, tokenizer=tokenizer, plan=planned)


def test_a_stamped_plan_has_the_date_of_its_stamp(planned, tmp_path):
    pytest.importorskip("rfc3161_client")
    from watermark.timestamps import local_authority, stamp

    planned.save(tmp_path / "plan.json")
    assert read_dated(tmp_path / "plan.json").since.by == "its maker's word"
    with pytest.raises(PlanMismatch, match="bears no time stamp, and an authority was named"):
        read_dated(tmp_path / "plan.json", authorities=[tmp_path / "authority.pem"])
    stamp(tmp_path / "plan.json", authority=local_authority(tmp_path / "authority"))
    found = read_dated(tmp_path / "plan.json")
    assert (found.since.by, found.since.checked) == ("a time stamp", False)
    assert found.since.time >= planned.created
    checked = read_dated(tmp_path / "plan.json", authorities=[tmp_path / "authority/authority.pem"])
    assert checked.since.checked
    local_authority(tmp_path / "strange")
    with pytest.raises(BundleInvalid, match="was not given by the named authority"):
        read_dated(tmp_path / "plan.json", authorities=[tmp_path / "strange/authority.pem"])
    dataclasses.replace(planned, created="2020-01-01T00:00:00+00:00").save(tmp_path / "older.json")
    (tmp_path / "plan.json.tsr").rename(tmp_path / "older.json.tsr")
    with pytest.raises(BundleInvalid, match="is for other bytes"):
        read_dated(tmp_path / "older.json")


def test_measured_slopes_are_used_where_none_is_given(mark, folder):
    narrow = Watermark(GreenList(window=1), mark.key, mark.binding)
    made = plan(narrow, access="logits", prompts=folder / "probes.jsonl", reference="demo")
    assert made.estimates
    assert made.estimates[0].slope in measured_slopes()
    assert plan(narrow, access="logits", prompts=folder / "probes.jsonl", alternative="less").estimates == []


@pytest.mark.parametrize(
    "options",
    [
        {"access": "weights"}, {"alternative": "more"}, {"stop_at": "never"}, {"alpha": 0.0}, {"power": 1.0},
        {"share": 0.0}, {"share": 1.5}, {"decoys": 9}, {"keys": 0}, {"suspects": 0}, {"samples": 0},
        {"slope": math.nan}, {"slope": 3.0, "exponent": 2.0},
    ],
)  # fmt: skip
def test_options_that_make_no_test_are_refused(options, mark, folder):
    with pytest.raises(ValueError, match=r"must|needed|numbers from 1|finite"):
        plan(mark, **{"access": "text", "prompts": folder / "probes.jsonl"} | options)


def test_command_writes_a_plan_and_says_what_it_finds(mark, folder, tmp_path):
    narrow = Watermark(GreenList(window=1), mark.key, mark.binding)
    narrow.save(tmp_path / "ours.wmark")
    run = ["plan", "--mark", str(tmp_path / "ours.wmark"), "--prompts", str(folder / "probes.jsonl")]
    where = ["--output", str(tmp_path / "plan.json")]
    done = CliRunner().invoke(app, [*run, "--access", "logits", "--reference", "demo", "--share", "0.2", *where])
    assert done.exit_code == 0, done.output
    made = read_plan(tmp_path / "plan.json")
    assert made.digest in done.stderr
    for words in ("to find       0.2 of the training data", "needed        ", "as measured on", "differ; a control"):
        assert words in done.stdout
    assert made.probes.sha256 == hashlib.sha256((folder / "probes.jsonl").read_bytes()).hexdigest()
    again = CliRunner().invoke(app, [*run, "--access", "logits", *where])
    assert isinstance(again.exception, PlanMismatch)
    own = ["--access", "text", "--slope", "0.1", "--slope-se", "0.5", "--output", str(tmp_path / "own.json")]
    nothing = CliRunner().invoke(app, [*run, *own])
    assert "no number of tokens is enough" in nothing.stdout
    assert "power 0.00, which would most likely miss it" in nothing.stdout
    less = [*run, "--access", "text", "--alternative", "less", "--output", str(tmp_path / "less.json")]
    assert "nobody was measured leaning to red" in CliRunner().invoke(app, less).stdout
    assert CliRunner().invoke(app, [*run, "--access", "mind", *where]).exit_code == 2


def test_texts_put_before_an_open_model_need_a_plan_with_a_stamp(mark, folder, answers, tokenizer, tmp_path):
    tiny_model(tmp_path / "model", seed=3)
    made = plan(mark, access="logits", prompts=folder / "probes.jsonl", tokens_per_answer=30, slope=9.0)
    run = {"tokenizer": tokenizer, "suspect": tmp_path / "model", "decoys": made.decoys}
    with pytest.raises(PlanMismatch, match="bears no time stamp: only its maker says that it came first"):
        detect(answers, mark, plan=made, **run)
    early = beforehand.Since("2026-01-05T09:00:00+00:00", "an authority", checked=True)
    found = detect(answers, mark, plan=Dated(dataclasses.replace(made, created=early.time), early), **run)
    assert (found.plan["status"], found.plan["mismatches"]) == ("confirmatory", [])
    assert found.plan["first_question"] is not None
    assert not found.plan["named_in_log"]
    late = beforehand.Since("2100-01-01T00:00:00+00:00", "an authority")
    with pytest.raises(PlanMismatch, match="made later, at 2100"):
        detect(answers, mark, plan=Dated(made, late), **run)


@pytest.mark.parametrize("created", [None, 5, "soon"])
def test_a_plan_whose_date_is_no_time_is_refused_in_words(planned, folder, tmp_path, created):
    dataclasses.replace(planned, created=created).save(tmp_path / "plan.json")
    with pytest.raises(BundleInvalid, match="is no time"):
        before_asking(tmp_path / "plan.json", prompts=_probes(folder), output=tmp_path / "answers.jsonl")


def test_a_plan_dated_without_a_zone_is_read_as_utc(planned, folder, tmp_path):
    dataclasses.replace(planned, created="2026-03-01T12:00:00").save(tmp_path / "plan.json")
    for now, words in ((11, "which is yet to come"), (13, None)):
        said = before_asking(
            tmp_path / "plan.json",
            prompts=_probes(folder),
            output=tmp_path / "answers.jsonl",
            exploratory=True,
            now=datetime(2026, 3, 1, now, tzinfo=UTC),
        )
        assert [words in told for told in said["mismatches"]] == ([True] if words else [])


def _probes(folder: Path) -> list[Prompt]:
    from watermark.prompts import read_prompts

    return read_prompts(folder / "probes.jsonl")
