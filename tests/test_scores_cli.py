"""`wmark scores` as a person meets it: what it prints, where, and with which exit code."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_endpoint import fake
from test_cli import wmark

from watermark.errors import OutputsInvalid
from watermark.keys import decoy_keys
from watermark.probe.score_replies import plain_rows
from watermark.scores.direction import Direction
from watermark.scores.table import Table, read_table, write_table
from watermark.scoring.case import Case
from watermark.scoring.evidence import ScoreEvidence
from watermark.scoring.ledger import read_score_ledger, served_inputs
from watermark.scoring.mark import ScoreWatermark
from watermark.scoring.tables import predictions_of, predictions_table, truth_of
from watermark.scoring.watch import ScoreWatch

COMMANDS = ("keygen", "generate", "tune", "calibrate", "plan", "probe", "detect", "attribute")
SUSPECT = ("--inputs", "x.csv", "--answers", "suspect.csv", "--clean", "clean.csv")


def told(*arguments, cwd):
    """The command in this process: faster, and as exact about what goes where."""
    from wmark_cli.main import run

    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    argv, where, code = sys.argv, os.getcwd(), 0
    sys.argv = ["wmark", *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = argv
        os.chdir(where)
        signal.signal(signal.SIGINT, before)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    assert "unexpected" not in err.getvalue(), err.getvalue()
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def under_our_key(path):
    """The same mark under the tests' own key, so that they find the same every time."""
    mark = ScoreWatermark.load(path).rekeyed(next(iter(decoy_keys(b"the tests' own key", 1))))
    path.unlink()
    mark.save(path)


def people(rows, seed):
    """Inputs of two kinds, with some missing, and a model's clean answers to them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).round(4)
    x[rng.random(rows) < 0.05, 3] = np.nan
    city = np.array(["Köln", "Oslo", "Rome"])[rng.integers(0, 3, rows)]
    p = 1 / (1 + np.exp(-(x[:, 0] + 0.7 * x[:, 1] * x[:, 2] + 0.6 * (city == "Rome"))))
    inputs = Table({"age": x[:, 0], "income": x[:, 1], "debt": x[:, 2], "score": x[:, 3], "city": city})
    return inputs, Table({"good": 1 - p, "bad": p}), (rng.random(rows) < p) * 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A deployment with a mark: its reference inputs, fresh probes, and what two suspects answer to those."""
    path = tmp_path_factory.mktemp("scores")
    for name, rows, seed in (("own", 600, 1), ("", 900, 2)):
        inputs, clean, truth = people(rows, seed)
        write_table(inputs, path / f"{name}x.csv")
        write_table(clean, path / f"{name}clean.csv")
        write_table(Table({"truth": truth}), path / f"{name}y.csv")
    made = told(
        "scores", "keygen", "ours.wmark", "--reference", "ownx.csv", "--answers", "ownclean.csv", "--size", 40,
        "--basis", "basis.json", "--profile", "profile.json", cwd=path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    under_our_key(path / "ours.wmark")
    assert marked(path, "--output", "suspect.csv", "--digits", 2).returncode == 0
    noise = np.random.default_rng(3).normal(0, 0.01, 900)
    bad = read_table(path / "clean.csv").columns["bad"]
    write_table(Table({"p": np.clip(bad + noise, 0, 1)}), path / "other.csv")
    return path


def marked(folder, *more):
    return told(
        "scores", "generate", "--mark", "ours.wmark", "--inputs", "x.csv", "--answers", "clean.csv", *more, cwd=folder
    )


def detect(folder, *more, given=SUSPECT):
    return told("scores", "detect", "--mark", "ours.wmark", *given, *more, cwd=folder)


def instead(option, file):
    """The suspect's files with one of them replaced."""
    return [file if before == option else word for before, word in zip(("", *SUSPECT), SUSPECT)]


def test_help_names_every_command_and_each_has_an_example(tmp_path):
    shown = told("scores", "--help", cwd=tmp_path).stdout
    for command in COMMANDS:
        assert f"  {command}" in shown
        helped = " ".join(told("scores", command, "--help", cwd=tmp_path).stdout.split())
        assert f"Example: wmark scores {command}" in helped
    assert "  scores " in wmark("--help", cwd=tmp_path).stdout


def test_help_of_scores_loads_nothing_heavy():
    code = "from wmark_cli.main import app\ntry: app(['scores', 'detect', '--help'])\nexcept SystemExit: pass\n"
    shown = code + "import sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True)
    loaded = set(done.stdout.split("\n")[-2].split())
    assert not loaded & {"numpy", "scipy", "torch", "watermark", "rich"}


def test_keygen_prints_a_commitment_and_nothing_secret(folder, tmp_path):
    done = wmark(
        "scores", "keygen", "m.wmark", "--reference", folder / "ownx.csv", "--classes", 3, "--size", 16,
        "--kind", "additive", "--columns", "debt,age", "--profile", "p.json", "--basis", "b.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mark = ScoreWatermark.load(tmp_path / "m.wmark")
    assert done.stdout == mark.key.kid + "\n"
    assert done.stderr.splitlines() == [
        "wrote m.wmark (secret: keep it, back it up, show it to nobody)",
        f"commitment {mark.key.commitment}, basis {mark.basis.digest}",
        "publish both now: they are what shows that key and basis came first",
    ]
    assert (mark.scheme.channels, mark.basis.size, mark.basis.kind) == (3, 16, "additive")
    assert mark.basis.names == ["debt", "age"]
    assert (tmp_path / "m.wmark").stat().st_mode & 0o777 == 0o600
    secret = json.loads((tmp_path / "m.wmark").read_text())["key"]
    assert secret not in done.stderr + (tmp_path / "p.json").read_text() + (tmp_path / "b.json").read_text()


def test_keygen_overwrites_nothing_and_writes_nothing_half(folder, tmp_path):
    before = (folder / "ours.wmark").read_bytes()
    refused = told("scores", "keygen", "ours.wmark", "--reference", "ownx.csv", "--size", 16, cwd=folder)
    assert (refused.returncode, "never overwritten" in refused.stderr) == (1, True)
    assert (folder / "ours.wmark").read_bytes() == before
    (tmp_path / "basis.json").write_text("mine")
    refused = told(
        "scores", "keygen", "new.wmark", "--reference", folder / "ownx.csv", "--size", 16, "--basis", "basis.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert refused.returncode == 1
    assert not (tmp_path / "new.wmark").exists()


def test_keygen_draws_an_accounts_mark_from_the_deployments(folder, tmp_path):
    done = told(
        "scores", "keygen", "main.wmark", "--reference", folder / "ownx.csv", "--size", 16, "--account", 0.2, "--own",
        0.1, "--epsilon", 0.03, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = told("scores", "keygen", "acme.wmark", "--from", "main.wmark", "--tenant", "acme", "--json", cwd=tmp_path)
    main, acme = ScoreWatermark.load(tmp_path / "main.wmark"), ScoreWatermark.load(tmp_path / "acme.wmark")
    assert (main.scheme.account, main.scheme.own, main.scheme.epsilon) == (0.2, 0.1, 0.03)
    assert acme.key == main.account("acme").key
    assert acme.basis.digest == main.basis.digest
    profile = json.loads(drawn.stdout)
    assert (profile["kid"], profile["shared"]["kid"]) == (acme.key.kid, main.key.kid)
    assert told("scores", "keygen", "e.wmark", "--from", "main.wmark", "--epoch", "2026", cwd=tmp_path).returncode == 0
    assert ScoreWatermark.load(tmp_path / "e.wmark").key == main.key.subkey(epoch="2026")


@pytest.mark.parametrize(
    "options, says",
    [
        ((), "pass --reference"),
        (("--reference", "ownx.csv", "--tenant", "a"), "need --from"),
        (("--from", "ours.wmark"), "the key would be the same"),
        (("--from", "ours.wmark", "--epoch", "2", "--reference", "ownx.csv"), "leave --reference out"),
        (("--reference", "ownx.csv", "--size", 16, "--epsilon", 0.7), "epsilon must be above 0"),
        (("--reference", "ownx.csv", "--size", 16, "--output", "values"), "whose deviation is its scale"),
    ],
)
def test_misuse_of_keygen_exits_2_in_words(folder, options, says):
    done = told("scores", "keygen", "never.wmark", *options, cwd=folder)
    assert (done.returncode, says in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert not (folder / "never.wmark").exists()


@pytest.mark.parametrize(
    "options, says",
    [
        (("--reference", "ownx.csv", "--size", 100), "600 reference inputs for a basis of 100 functions, needed are"),
        (("--reference", "nothing.csv"), "nothing.csv cannot be read"),
        (("--reference", "ownx.csv", "--columns", "age,rent"), "has no column rent"),
        (("--reference", "ownx.csv", "--size", 16, "--answers", "ownx.csv"), "column city should hold numbers"),
        (("--reference", "ownx.csv", "--size", 16, "--answers", "percent.csv"), "is no distribution"),
    ],
)
def test_reference_inputs_that_will_not_do_exit_1_in_words(folder, options, says):
    write_table(Table({"p": read_table(folder / "ownclean.csv").columns["bad"] * 100}), folder / "percent.csv")
    done = told("scores", "keygen", "never.wmark", *options, cwd=folder)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
    assert not (folder / "never.wmark").exists()


def test_generate_marks_within_epsilon_and_keeps_names_and_argmax(folder, tmp_path):
    done = marked(folder, "--output", tmp_path / "m.parquet", "--json")
    clean, found = read_table(folder / "clean.csv"), read_table(tmp_path / "m.parquet")
    assert found.names == clean.names == ["good", "bad"]
    moved = np.abs(found.columns["bad"] - clean.columns["bad"])
    assert 0.015 < moved.max() <= 0.02 + 1e-12
    assert done.stderr.splitlines()[-1] == f"moved by at most {moved.max():.4g}, 0 answers changed their first class"
    assert json.loads(done.stdout)["cost"]["flips"] == 0
    rounded = read_table(folder / "suspect.csv").numbers(clean.names)
    np.testing.assert_array_equal(rounded, np.round(rounded, 2))
    np.testing.assert_array_equal(rounded.argmax(axis=1), clean.numbers(clean.names).argmax(axis=1))


def test_generate_keeps_the_likeliest_classes_alone(folder, tmp_path):
    assert marked(folder, "--output", tmp_path / "m.csv", "--top", 1).returncode == 0
    assert ((read_table(tmp_path / "m.csv").numbers(["good", "bad"]) > 0).sum(axis=1) == 1).all()
    refused = marked(folder, "--output", tmp_path / "n.csv", "--top", 3)
    assert (refused.returncode, "the likeliest 3 of 2 columns" in refused.stderr) == (1, True)
    assert not (tmp_path / "n.csv").exists()


def test_generate_records_what_was_served_and_verify_knows_the_ledger(folder, tmp_path):
    for mode in ((), ("--hash-only",)):
        ledger = tmp_path / f"served{len(mode)}.jsonl"
        for _ in range(2):
            assert marked(folder, "--output", tmp_path / "m.csv", "--ledger", ledger, *mode).returncode == 0
        records = list(read_score_ledger(ledger))
        assert [(r.rows, r.kid, r.inputs is None) for r in records] == [
            (900, ScoreWatermark.load(folder / "ours.wmark").key.kid, bool(mode))
        ] * 2
        checked = told("verify", ledger, cwd=tmp_path)
        assert checked.stdout == (
            f"1. ledger of scores: 2 records of 1,800 answers, chain unbroken, head {records[-1].hash}\n"
        )
    inputs = read_table(folder / "x.csv")
    assert served_inputs(tmp_path / "served0.jsonl").names == inputs.names
    edited = tmp_path / "served0.jsonl"
    edited.write_bytes(edited.read_bytes().replace(b"Rome", b"Bern", 1))
    refused = told("verify", edited, cwd=tmp_path)
    assert (refused.returncode, "line 2: the record does not match its hash" in refused.stderr) == (3, True)


def test_an_accounts_answers_differ_from_the_deployments(folder, tmp_path):
    refused = marked(folder, "--output", tmp_path / "m.csv", "--account", "acme")
    assert (refused.returncode, "no part that accounts could own" in refused.stderr) == (1, True)
    assert "--account 0.2" in refused.stderr


def test_tune_prints_what_each_epsilon_costs(folder):
    options = ("--mark", "ours.wmark", "--inputs", "x.csv", "--answers", "clean.csv", "--truth", "y.csv")
    done = told("scores", "tune", *options, cwd=folder)
    lines = done.stdout.splitlines()
    assert lines[0] == "900 answers"
    assert re.fullmatch(r"unmarked      log loss 0\.\d{4}, Brier 0\.\d{4}, ECE 0\.\d{4}; below, .*", lines[1])
    assert lines[2].split() == ["epsilon", "largest", "rms", "flips", "log", "loss", "Brier", "ECE"]
    assert [line.split()[0] for line in lines[3:]] == ["0.005", "0.01", "0.02", "0.05"]
    found = json.loads(told("scores", "tune", *options, "--epsilons", "0.01,0.1", "--json", cwd=folder).stdout)
    small, large = (each["cost"] for each in found["tuned"])
    assert small["largest"] <= 0.01 + 1e-12 < large["largest"] <= 0.1 + 1e-12
    assert small["flips"] == large["flips"] == 0
    assert large["log_loss"] > abs(small["log_loss"])
    clean, truth = (
        read_table(folder / "clean.csv").numbers(["good", "bad"]),
        read_table(folder / "y.csv").columns["truth"],
    )
    assert found["log_loss"] == pytest.approx(-np.log(clean[np.arange(900), truth.astype(int)]).mean())
    for epsilons, code, says in (("much", 2, "takes numbers"), ("0.7", 1, "epsilon must be above 0 and at most 0.5")):
        refused = told("scores", "tune", *options, "--epsilons", epsilons, cwd=folder)
        assert (refused.returncode, says in " ".join(refused.stderr.split())) == (code, True)


def test_a_session_reads_like_this(folder, tmp_path):
    done = detect(
        folder, "--control", "other=other.csv", "--truth", "y.csv", "--output", tmp_path / "e.json", "--case",
        tmp_path / "case.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert names == [
        "verdict", "p-value", "method", "cosine", "carried", "e-process", "read", "taken away", "control", "cost",
        "power",
    ]  # fmt: skip
    lines = dict(zip(names, done.stdout.splitlines()))
    assert lines["verdict"] == "verdict       evidence found (level 0.001)"
    assert re.fullmatch(r"p-value       \d\.\de-\d\d   log10 p = -\d\d\.\d\d", lines["p-value"])
    assert "with the deployment's direction in 40 dimensions" in lines["cosine"]
    assert "rank p 0.001 among 999 decoys" in lines["cosine"]
    assert re.search(r"of our mark \(95 % 0\.\d\d to 1\.\d\d\)", lines["carried"])
    assert lines["read"] == "read          900 answers as probabilities"
    assert re.search(r"other: cosine -?0\.\d{3}, p ", lines["control"])
    assert "0 argmax flips; log loss" in lines["cost"]
    assert done.stderr.splitlines()[:2] == [
        f"what was read is in {tmp_path / 'case.npz'}: inputs and answers, no key",
        f"evidence written to {tmp_path / 'e.json'}",
    ]
    assert "\nnote: no plan was fixed before the suspect was asked" in done.stderr
    evidence = ScoreEvidence.load(tmp_path / "e.json")
    assert set(evidence.inputs) == {"answers", "clean", "inputs", "truth", "control other"}
    assert len(Case.load(tmp_path / "case.npz")) == 900


def test_detect_prints_evidence_as_json_and_exits_by_verdict(folder):
    found = detect(folder, "--json", "--exit-code", "--decoys", 99)
    assert found.returncode == 10
    assert ScoreEvidence.from_json(json.loads(found.stdout)).verdict == "evidence found"
    other = detect(folder, "--exit-code", "--decoys", 99, given=instead("--answers", "other.csv"))
    assert other.returncode in (0, 20)
    assert "verdict       evidence found" not in other.stdout


def test_options_of_detect_reach_the_test(folder):
    done = detect(folder, "--alternative", "less", "--alpha", 0.05, "--decoys", 199, "--stopped", "--logged", "--json")
    evidence = ScoreEvidence.from_json(json.loads(done.stdout))
    assert (evidence.alternative, evidence.alpha, evidence.stopped) == ("less", 0.05, True)
    assert evidence.options == {"logged": False, "decoys": 199}  # this mark has no part for single inputs
    assert evidence.verdict != "evidence found"


def test_columns_in_another_order_are_the_same_inputs(folder):
    inputs = read_table(folder / "x.csv")
    write_table(Table(dict(reversed(list(inputs.columns.items())))), folder / "turned.csv")
    usual, turned = (
        json.loads(detect(folder, "--json", "--decoys", 99, given=given).stdout)
        for given in (SUSPECT, instead("--inputs", "turned.csv"))
    )
    assert turned["log10_p"] == usual["log10_p"]
    assert turned["committed"] == usual["committed"]


def broken_inputs(folder):
    inputs = dict(read_table(folder / "x.csv").columns)
    return {
        "missing": {name: column for name, column in inputs.items() if name != "debt"},
        "renamed": {("debts" if name == "debt" else name): column for name, column in inputs.items()},
        "words": inputs | {"debt": np.array([f"about {value}" for value in inputs["debt"]])},
        "numbers": inputs | {"city": np.arange(900.0)},
        "infinite": inputs | {"debt": np.where(np.arange(900) == 3, np.inf, inputs["debt"])},
        "short": {name: column[:899] for name, column in inputs.items()},
    }


@pytest.mark.parametrize(
    "what, says, hint",
    [
        ("missing", "the inputs have no column debt; the mark was made for age, income, debt", "found are age, income"),
        ("renamed", "the inputs have no column debt", "debts"),
        ("words", "column debt holds words, the mark was made for numbers", None),
        ("numbers", "column city holds numbers, the mark was made for categories", None),
        ("infinite", "column debt holds 1 infinities, the first in row 4", None),
        ("short", "answers have 900 rows, the inputs 899", None),
    ],
)
def test_inputs_that_are_not_the_marks_are_refused_in_words(folder, tmp_path, what, says, hint):
    write_table(Table(broken_inputs(folder)[what]), folder / "broken.csv")
    output = tmp_path / "e.json"
    done = detect(folder, "--output", output, given=instead("--inputs", "broken.csv"))
    assert done.returncode == 1
    assert done.stderr.startswith("wmark: error: ")
    assert says in done.stderr
    assert hint is None or hint in done.stderr.partition("wmark: hint: ")[2]
    assert not output.exists()
    assert marked(folder, "--output", tmp_path / "m.csv", "--inputs", "broken.csv").returncode == 1
    assert not (tmp_path / "m.csv").exists()


def broken_answers(folder):
    bad = read_table(folder / "suspect.csv").columns["bad"]
    word = np.array(["bad" if p > 0.5 else "good" for p in bad])
    return {
        "unsummed": {"good": 1 - bad, "bad": bad * 1.3},
        "constant": {"p": np.full(900, 0.3)},
        "logits": {"z": np.log(np.clip(bad, 0.01, 0.99) / (1 - np.clip(bad, 0.01, 0.99)))},
        "infinite": {"p": np.where(np.arange(900) == 3, np.inf, bad)},
        "wide": {"a": bad / 2, "b": bad / 2, "c": 1 - bad},
        "mixed": {"p": bad, "said": word},
        "strange": {"said": np.array(["a", "b", "c"] * 300)},
        "empty": {"p": np.full(900, np.nan)},
        "short": {"p": bad[:100]},
    }


@pytest.mark.parametrize(
    "what, says, hint",
    [
        ("unsummed", "answers do not sum to one; row", "one distribution a row"),
        ("constant", "the suspect answers every input alike", None),
        ("logits", "answers are no probabilities; row", "not logits"),
        ("infinite", "column p holds 1 infinities, the first in row 4", None),
        ("wide", "answers have 3 columns, the mark was made for 2 classes", "one column for each class"),
        ("mixed", "the answers' column said holds words among 2 columns", None),
        ("strange", "the answers hold 3 labels, the mark was made for 2 classes", "--classes"),
        ("empty", "0 answers on a basis of 40 functions", "more inputs"),
        ("short", "the suspect's answers have 100 rows, the inputs 900", None),
    ],
)
def test_answers_that_cannot_be_tested_are_refused_in_words(folder, tmp_path, what, says, hint):
    write_table(Table(broken_answers(folder)[what]), folder / "broken.csv")
    done = detect(folder, "--output", tmp_path / "e.json", given=instead("--answers", "broken.csv"))
    assert done.returncode == 1
    assert done.stderr.startswith("wmark: error: ")
    assert says in done.stderr
    assert hint is None or hint in done.stderr.partition("wmark: hint: ")[2]
    assert not (tmp_path / "e.json").exists()


@pytest.mark.parametrize(
    "change, note",
    [
        (lambda p: {"p": p * 100}, "answers were read as percentages"),
        (
            lambda p: {"good": (1 - p).round(1), "bad": (p * 0.999).round(3)},
            "rounded answers were scaled to sum to one",
        ),
        (lambda p: {"p": np.where(np.arange(900) < 7, np.nan, p)}, "7 inputs have no answer and were left out"),
        (lambda p: {"said": np.where((p * 100) % 3 < 1, "bad", "good")}, "the suspect shows labels alone"),
    ],
)
def test_answers_of_other_shapes_are_read_and_said_so(folder, change, note):
    write_table(Table(change(read_table(folder / "suspect.csv").columns["bad"])), folder / "odd.csv")
    done = detect(folder, "--decoys", 99, "--classes", "good,bad", given=instead("--answers", "odd.csv"))
    assert done.returncode == 0, done.stderr
    assert note in done.stderr


def test_fewer_answers_than_the_basis_needs_are_refused(folder):
    for name in ("x", "clean", "suspect"):
        write_table(read_table(folder / f"{name}.csv").rows(slice(40)), folder / f"few-{name}.csv")
    few = ("--inputs", "few-x.csv", "--answers", "few-suspect.csv", "--clean", "few-clean.csv")
    done = detect(folder, given=few)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "wmark: error: 40 answers on a basis of 40 functions, needed are at least 50",
            "wmark: hint: ask the suspect for more inputs, or make a mark with a smaller basis",
        ],
    )


def test_a_mark_or_basis_of_another_version_or_kind_is_refused(folder, tmp_path):
    stored = (folder / "ours.wmark").read_text()
    for change, says in (
        (("wmark-basis/1", "wmark-basis/9"), "its format is 'wmark-basis/9', needed is 'wmark-basis/1'"),
        (("wmark-score-watermark/1", "wmark-score-watermark/9"), "needed is 'wmark-score-watermark/1'"),
        (("wmark-score-watermark/1", "wmark-watermark/2"), "a mark of text is used with `wmark generate`"),
    ):
        other = tmp_path / "other.wmark"
        other.write_text(stored.replace(*change))
        other.chmod(0o600)
        done = told("scores", "detect", "--mark", other, *SUSPECT, cwd=folder)
        assert (done.returncode, says in done.stderr) == (1, True), done.stderr
        other.unlink()
    profile = told("scores", "detect", "--mark", "profile.json", *SUSPECT, cwd=folder)
    assert (profile.returncode, "public profile; the watermark file with the key" in profile.stderr) == (1, True)
    text = told("detect", "x.csv", "--mark", "ours.wmark", cwd=folder)
    assert (text.returncode, "a mark of scores is used with `wmark scores`" in text.stderr) == (1, True)


def test_clean_answers_passed_as_the_suspects_are_noticed(folder):
    done = detect(folder, given=instead("--answers", "clean.csv"))
    assert (done.returncode, "did you pass one file twice?" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "options, says",
    [
        (("--alpha", 2), "--alpha must lie between 0 and 1"),
        (("--exploratory",), "--exploratory goes with --plan"),
        (("--train-on", "ownx.csv"), "--train-on INPUTS and --train-answers CLEAN go together"),
        (("--keep-surrogates", "s.csv"), "--keep-surrogates goes with --train-on"),
        (("--control", "other.csv"), "should read name=value"),
        (("--epoch", "1"), "--epoch with --account"),
    ],
)
def test_misuse_of_detect_exits_2_in_words(folder, options, says):
    done = detect(folder, *options)
    assert (done.returncode, says in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_verify_and_report_know_evidence_of_scores(folder, tmp_path):
    made = detect(
        folder, "--decoys", 99, "--output", tmp_path / "e.json", "--case", tmp_path / "case.npz", "--report",
        tmp_path / "r.html",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    again = told("report", "e.json", "--output", "again.html", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "report written to again.html\n")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "r.html").read_bytes()
    options = ("--case", "case.npz", "--mark", folder / "ours.wmark", "--report", "r.html")
    done = told("verify", "e.json", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0].split(" ", 1)[1] for line in done.stdout.splitlines()] == [
        "digest", "arithmetic", "mark", "recomputed", "page",
    ]  # fmt: skip
    shown = json.loads(told("verify", "e.json", *options, "--json", cwd=tmp_path).stdout)
    assert shown["verified"] is True
    assert shown["taken_as_stated"]
    misused = told("verify", "e.json", "--outputs", "case.npz", cwd=tmp_path)
    assert (misused.returncode, "--case, --mark, --plan and --report alone" in " ".join(misused.stderr.split())) == (
        2,
        True,
    )
    stored = json.loads((tmp_path / "e.json").read_text())
    (tmp_path / "e.json").write_text(json.dumps(stored | {"log10_p": -99.0}))
    refused = told("verify", "e.json", cwd=tmp_path)
    assert (refused.returncode, "does not match its digest" in refused.stderr) == (3, True)


def test_a_plan_holds_a_run_to_its_inputs_and_surrogates(folder, tmp_path):
    surrogates = np.random.default_rng(5).normal(read_table(folder / "clean.csv").columns["bad"], 0.02)
    write_table(Table({"s0": surrogates, "s1": surrogates**2}), folder / "surrogates.csv")
    planned = told(
        "scores", "plan", "--mark", "ours.wmark", "--inputs", "x.csv", "--clean", "clean.csv", "--surrogates",
        "surrogates.csv", "--output", tmp_path / "plan.json", "--suspects", 2, cwd=folder,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[:2] == [
        "to ask        900 distinct inputs",
        "level         0.0005 (0.001 over 1 keys and 2 suspects), greater, stopping: none",
    ]
    assert re.match(r"found from    a cosine of 0\.\d{3} on, in 40 dimensions", planned.stdout.splitlines()[2])
    held = detect(folder, "--plan", tmp_path / "plan.json", "--surrogates", "surrogates.csv", "--decoys", 99)
    assert "plan          confirmatory" in held.stdout
    assert "verdict       evidence found (level 0.0005)" in held.stdout
    assert "2 surrogates" in held.stdout
    refused = detect(folder, "--plan", tmp_path / "plan.json")
    assert (refused.returncode, "the surrogates' predictions" in refused.stderr) == (1, True)
    assert "pass --exploratory" in refused.stderr
    explored = detect(folder, "--plan", tmp_path / "plan.json", "--exploratory", "--decoys", 99)
    assert "plan          exploratory; the surrogates' predictions" in explored.stdout
    twice = told(
        "scores", "plan", "--mark", "ours.wmark", "--inputs", "x.csv", "--clean", "clean.csv", "--output",
        tmp_path / "plan.json", cwd=folder,
    )  # fmt: skip
    assert (twice.returncode, "a plan is not written over" in twice.stderr) == (1, True)


def test_surrogates_are_trained_on_the_owners_data_and_kept(folder, tmp_path):
    kept = tmp_path / "s.csv"
    train = ("--train-on", "ownx.csv", "--train-answers", "ownclean.csv", "--keep-surrogates", kept)
    train += ("--train-kinds", "linear,boosted")
    trained = detect(folder, *train, "--json", "--decoys", 99)
    assert trained.returncode == 0, trained.stderr
    assert f"the surrogates' predictions are in {kept}" in trained.stderr
    given = detect(folder, "--surrogates", kept, "--json", "--decoys", 99)
    evidence = json.loads(trained.stdout)
    assert evidence["surrogates"] == 2
    assert json.loads(given.stdout)["log10_p"] == evidence["log10_p"]
    refused = detect(folder, *train[:-1], "magic")
    assert (refused.returncode, "boosted, network, forest or linear" in " ".join(refused.stderr.split())) == (2, True)


def answering(folder, file="suspect.csv", column="bad"):
    """An endpoint that answers as a table says."""
    inputs, answers = read_table(folder / "x.csv"), read_table(folder / file).columns[column]
    said = {json.dumps(row): float(p) for row, p in zip(plain_rows(inputs), answers)}
    return lambda path, body, number: (200, {}, {"scores": [said[json.dumps(row)] for row in body["rows"]]})


def test_probe_then_detect_reads_like_this(folder, tmp_path):
    with fake(answering(folder)) as server:
        done = told(
            "scores", "probe", server.url, "--inputs", "x.csv", "--output", tmp_path / "a.csv", "--body", "rows",
            "--batch", 300, cwd=folder,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        f"all answered: 900 of 900 inputs, 900 asked now, of {server.url}",
        "spent 5 requests",
        "the first 5 inputs were asked twice: the same answers",
        f"answers in {tmp_path / 'a.csv'}, every request in a.csv.log.jsonl",
    ]
    checked = told("verify", "a.csv.log.jsonl", "--outputs", "a.csv.batches.jsonl", cwd=tmp_path)
    assert (checked.returncode, "5 requests, chain unbroken" in checked.stdout) == (0, True), checked.stderr
    found = detect(folder, "--decoys", 99, given=instead("--answers", tmp_path / "a.csv"))
    assert "verdict       evidence found" in found.stdout


def test_probe_stops_when_the_e_process_is_content_and_detect_agrees(folder, tmp_path):
    with fake(answering(folder)) as server:
        done = told(
            "scores", "probe", server.url, "--inputs", "x.csv", "--output", tmp_path / "a.csv", "--body", "rows",
            "--batch", 30, "--concurrency", 1, "--stop-at", 0.01, "--mark", "ours.wmark", "--clean", "clean.csv",
            "--json", cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked = sum(len(body["rows"]) for body in server.requests)
    summary = json.loads(done.stdout)
    assert summary["ended"] == "stopped early"
    assert summary["answered"] <= asked < 900
    assert summary["log10_e"] >= 2
    found = detect(
        folder, "--stopped", "--alpha", 0.01, "--json", "--decoys", 99,
        given=instead("--answers", tmp_path / "a.csv"),
    )  # fmt: skip
    evidence = json.loads(found.stdout)
    assert evidence["queries"] == summary["answered"]
    assert evidence["looks"][-1]["log10_e"] == pytest.approx(summary["log10_e"], rel=1e-9)
    assert (evidence["verdict"], evidence["log10_p"]) == ("evidence found", pytest.approx(-summary["log10_e"]))


def test_a_run_that_stopped_early_keeps_to_a_plan_that_let_it(folder, tmp_path):
    plan = ("scores", "plan", "--mark", "ours.wmark", "--inputs", "x.csv", "--clean", "clean.csv", "--output")
    for name, more in (("stops.json", ("--stop-at", "e-process")), ("asks-all.json", ())):
        assert told(*plan, tmp_path / name, *more, cwd=folder).returncode == 0
    answers = read_table(folder / "suspect.csv").numbers(["good", "bad"])
    answers[100:] = np.nan
    write_table(Table({"good": answers[:, 0], "bad": answers[:, 1]}), folder / "stopped.csv")
    given = instead("--answers", "stopped.csv")
    held = detect(folder, "--stopped", "--plan", tmp_path / "stops.json", "--decoys", 99, given=given)
    assert held.returncode == 0, held.stderr
    assert "plan          confirmatory" in held.stdout
    assert "read          100 answers as probabilities\n" in held.stdout
    refused = detect(folder, "--stopped", "--plan", tmp_path / "asks-all.json", given=given)
    assert (refused.returncode, "planned was no such stop" in refused.stderr) == (1, True)


def test_labels_that_carry_no_mark_are_not_tested(folder):
    done = detect(folder, "--only-labels")
    assert (done.returncode, "has seen nothing of the key" in done.stderr) == (1, True)
    assert "--output labels" in done.stderr


def test_probe_of_an_innocent_suspect_goes_on_to_the_end(folder, tmp_path):
    with fake(answering(folder, "other.csv", "p")) as server:
        done = told(
            "scores", "probe", server.url, "--inputs", "x.csv", "--output", tmp_path / "a.csv", "--body", "rows",
            "--batch", 100, "--stop-at", 0.0001, "--mark", "ours.wmark", "--clean", "clean.csv", cwd=folder,
        )  # fmt: skip
    assert (done.returncode, "all answered: 900 of 900" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize(
    "suspect, options, code, says",
    [
        ("http://127.0.0.1:9/score", ("--retries", 0), 1, "nothing answers at http://127.0.0.1:9/score"),
        ("model.pkl", (), 1, "is a pickle; opening one runs whatever code it holds"),
        ("model.joblib", (), 1, "export the model to ONNX"),
        ("model.txt", (), 1, "neither an address nor an ONNX file"),
        ("http://u:secret@h/s", (), 1, "an address with a user, password or query"),
        ("http://127.0.0.1:9/s", ("--header-env", "X-Key=NOT_SET_ANYWHERE"), 1, "NOT_SET_ANYWHERE, for the header"),
        ("http://127.0.0.1:9/s", ("--rows", "columns"), 1, "rows are written as lists, objects, split"),
        ("http://127.0.0.1:9/s", ("--columns", "rent"), 1, "has no column rent"),
        ("http://127.0.0.1:9/s", ("--stop-at", 0.1), 2, "go together"),
    ],
)
def test_probe_says_what_cannot_be_asked(folder, tmp_path, suspect, options, code, says):
    done = told("scores", "probe", suspect, "--inputs", "x.csv", "--output", tmp_path / "a.csv", *options, cwd=folder)
    assert (done.returncode, says in " ".join(done.stderr.split())) == (code, True), done.stderr
    assert "secret@" not in done.stderr
    assert not (tmp_path / "a.csv").exists()


def test_logged_inputs_come_from_the_ledger_and_name_the_account(folder, tmp_path):
    run = lambda *words: told("scores", *words, cwd=tmp_path)  # noqa: E731
    made = run("keygen", "m.wmark", "--reference", folder / "ownx.csv", "--size", 32, "--account", 0.3, "--own", 0.3)
    assert made.returncode == 0, made.stderr
    under_our_key(tmp_path / "m.wmark")
    files = ("--inputs", folder / "x.csv", "--answers", folder / "clean.csv")
    served = run(
        "generate", "--mark", "m.wmark", *files, "--output", "served.csv", "--account", "acme", "--ledger", "l"
    )
    assert served.returncode == 0, served.stderr
    given = ("--mark", "m.wmark", "--inputs", "l", "--answers", "served.csv", "--clean", folder / "clean.csv")
    found = json.loads(run("detect", *given, "--logged", "--account", "acme", "--decoys", 99, "--json").stdout)
    assert [test["part"] for test in found["tests"]] == ["account", "input"]
    assert max(test["log10_p"] for test in found["tests"]) < -2
    assert found["log10_p"] < -6
    (tmp_path / "names.txt").write_text("globex\nacme\ninitech\n")
    named = run("attribute", *given, "--logged", "--accounts", "names.txt", "--output", "a.json")
    assert named.returncode == 0, named.stderr
    assert named.stdout.splitlines()[0] == "named         acme (of 3 accounts, level 0.01)"
    assert json.loads((tmp_path / "a.json").read_text())["named"] == ["acme"]


def test_embeddings_are_their_own_inputs(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.tanh(rng.normal(size=(900, 6)) @ rng.normal(size=(6, 6)) / 2)
    for name, rows in (("ref", slice(450)), ("e", slice(450, None))):
        write_table(Table({f"e{i}": vectors[rows, i] for i in range(6)}), tmp_path / f"{name}.csv")
    run = lambda *words: told("scores", *words, cwd=tmp_path)  # noqa: E731
    assert run("keygen", "m.wmark", "--reference", "ref.csv", "--answers", "ref.csv", "--output", "embeddings",
               "--epsilon", 0.05).returncode == 0  # fmt: skip
    assert run("generate", "--mark", "m.wmark", "--answers", "e.csv", "--output", "marked.csv").returncode == 0
    done = run("detect", "--mark", "m.wmark", "--answers", "marked.csv", "--clean", "e.csv", "--decoys", 99)
    assert done.returncode == 0, done.stderr
    assert "verdict       evidence found" in done.stdout
    assert "450 answers as embeddings" in done.stdout


def test_values_need_inputs_and_round_to_digits(folder, tmp_path):
    price = read_table(folder / "ownx.csv").columns["income"] * 1000
    write_table(Table({"price": price}), tmp_path / "price.csv")
    run = lambda *words: told("scores", *words, cwd=tmp_path)  # noqa: E731
    made = run("keygen", "m.wmark", "--reference", folder / "ownx.csv", "--answers", "price.csv", "--output", "values",
               "--size", 16)  # fmt: skip
    assert made.returncode == 0, made.stderr
    missing = run("generate", "--mark", "m.wmark", "--answers", "price.csv", "--output", "m.csv")
    assert (missing.returncode, "a mark of values needs --inputs" in " ".join(missing.stderr.split())) == (2, True)
    done = run("generate", "--mark", "m.wmark", "--answers", "price.csv", "--inputs", folder / "ownx.csv", "--output",
               "m.csv", "--digits", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = read_table(tmp_path / "m.csv").columns["price"]
    assert (np.round(found, 1) == found).all()
    assert 0 < np.abs(found - price).max() <= 0.02 * price.std() + 0.06
    assert "first class" not in done.stderr


def test_surrogates_are_laid_out_one_after_the_other():
    predictions = np.random.default_rng(0).dirichlet(np.ones(3), (5, 2))
    found = predictions_table(predictions)
    assert found.names == ["s0_c0", "s0_c1", "s0_c2", "s1_c0", "s1_c1", "s1_c2"]
    np.testing.assert_array_equal(predictions_of(found, Direction(channels=3)), predictions)
    with pytest.raises(OutputsInvalid, match="have 5 columns, which is no multiple of 3 channels"):
        predictions_of(found.without(["s1_c2"]), Direction(channels=3))
    both = predictions_table(np.stack([1 - predictions[..., 0], predictions[..., 0]], axis=-1))
    second = both.without(["s0_c0", "s1_c0"])
    for layout in (both, second):  # of two classes, both or the second
        np.testing.assert_allclose(predictions_of(layout, Direction())[..., 1], predictions[..., 0])


def test_true_classes_are_numbers_or_names():
    scheme = Direction(channels=2)
    named = Table({"y": np.array(["yes", "no", "yes"])})
    assert truth_of(named, scheme).tolist() == [1, 0, 1]
    assert truth_of(named, scheme, labels=("yes", "no")).tolist() == [0, 1, 0]
    assert truth_of(Table({"y": np.array([0.0, 1.0])}), scheme).tolist() == [0, 1]
    for labels, says in ((("yes", "never"), "the true class 'no' is none of yes, never"), (("a",), "is none of a")):
        with pytest.raises(OutputsInvalid, match=says):
            truth_of(named, scheme, labels=labels)
    with pytest.raises(OutputsInvalid, match="should be one column, found 2"):
        truth_of(Table({"a": np.zeros(2), "b": np.zeros(2)}), scheme)


def test_a_watch_goes_past_answers_that_say_nothing_yet(folder):
    mark, inputs = ScoreWatermark.load(folder / "ours.wmark"), read_table(folder / "x.csv")
    clean = read_table(folder / "clean.csv").columns["bad"]
    said = read_table(folder / "suspect.csv").columns["bad"].copy()
    said[:100] = clean[:100]
    watch = ScoreWatch(mark, inputs, clean, alpha=1e-9)
    assert watch(Table({"p": said[:120]})) is None
    assert (watch.looks, watch.log10_e) == ([100], 0.0)
    watch(Table({"p": said}))
    assert watch.looks[:3] == [100, 150, 225]
    assert watch.log10_e > 1
    with pytest.raises(OutputsInvalid, match="the level must lie between 0 and 1"):
        ScoreWatch(mark, inputs, clean, alpha=1.0)
    with pytest.raises(OutputsInvalid, match="3 clean answers for 900 inputs"):
        ScoreWatch(mark, inputs, clean[:3], alpha=0.01)


@pytest.mark.slow
def test_calibrate_finds_a_setting_and_goes_on_where_it_was(folder, tmp_path):
    options = (
        "--inputs", "x.csv", "--answers", "clean.csv", "--truth", "y.csv", "--epsilons", "0.05,0.2", "--sizes",
        "16,900", "--kinds", "additive", "--students", "boosted", "--keys", 1, "--work", tmp_path / "work.jsonl",
    )  # fmt: skip
    done = told("scores", "calibrate", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "level 0.001, power 90%; each setting for the kind of student that carries least"
    assert [line.split()[:3] for line in lines[2:4]] == [["additive", "16", "0.05"], ["additive", "16", "0.2"]]
    tried = (tmp_path / "work.jsonl").read_text()
    again = json.loads(told("scores", "calibrate", *options, "--json", cwd=folder).stdout)
    assert len(again["trials"]) == len(tried.splitlines()) == 6
    assert (tmp_path / "work.jsonl").read_text() == tried
