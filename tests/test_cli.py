"""The command line as a person meets it: what it prints, where, and with which exit code."""

import base64
import dataclasses
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny_model
from wmark_cli import doctor

from watermark import Evidence, Watermark, read_ledger

COMMANDS = (
    "keygen", "generate", "prompts", "plan", "probe", "score", "detect", "calibrate", "attribute", "report", "verify",
    "demo", "doctor",
)  # fmt: skip


def wmark(*arguments, cwd, **options):
    """Runs the command as a user would; the result's words never hold a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "wmark_cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A folder where one session has run: keygen, generate, detect, report."""
    folder = tmp_path_factory.mktemp("case")
    tiny_model(folder / "model")
    prompts = [json.dumps({"id": f"q{i}", "prompt": f"question {i}"}) for i in range(24)]
    (folder / "ask.jsonl").write_text("\n".join(prompts) + "\n")
    run = lambda *a: wmark(*a, cwd=folder)  # noqa: E731
    assert run("keygen", "ours.wmark", "--model", "model", "--profile", "ours.profile.json").returncode == 0
    served = run(
        "generate", "model", "--mark", "ours.wmark", "--prompts", "ask.jsonl", "--output", "answers.jsonl",
        "--ledger", "ledger.jsonl", "--max-new-tokens", 60, "--batch", 12,
    )  # fmt: skip
    assert served.returncode == 0, served.stderr
    found = run("detect", "answers.jsonl", "--mark", "ours.wmark", "--output", "evidence.json", "--report", "r.html")
    assert found.returncode == 0, found.stderr
    return folder


def detect(case, outputs, *more, **options):
    return wmark("detect", outputs, "--mark", "ours.wmark", *more, cwd=case, **options)


def test_help_names_every_command_and_each_has_an_example(tmp_path):
    shown = wmark("--help", cwd=tmp_path).stdout
    for command in COMMANDS:
        assert f"  {command}" in shown
        assert "Example: wmark " + command in " ".join(wmark(command, "--help", cwd=tmp_path).stdout.split())


def test_version_is_printed(tmp_path):
    assert wmark("--version", cwd=tmp_path).stdout.startswith("wmark ")


def test_completion_script_completes_our_commands(tmp_path):
    command = Path(sys.executable).with_name("wmark")
    quiet = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run([command, "--show-completion", "bash"], capture_output=True, text=True, env=quiet)
    assert "complete -o default -F _wmark_completion wmark" in shown.stdout
    asked = os.environ | {"_WMARK_COMPLETE": "complete_bash", "COMP_WORDS": "wmark de", "COMP_CWORD": "1"}
    offered = subprocess.run([command], capture_output=True, text=True, env=asked)
    assert set(offered.stdout.split()) == {"detect", "demo"}


def test_a_session_reads_like_this(case):
    shown = detect(case, "answers.jsonl").stdout
    assert "verdict       evidence found (level 0.001)" in shown
    assert "exact binomial" in shown
    assert "decoy keys    0 of 999 reach as many (rank p 0.001)" in shown
    assert "read          24 answers" in shown


def test_data_goes_to_stdout_and_words_to_stderr(case):
    done = detect(case, "answers.jsonl", "--json")
    evidence = Evidence.from_json(json.loads(done.stdout))
    assert evidence.verdict == "evidence found"
    assert Evidence.load(case / "evidence.json").log10_p == evidence.log10_p


def test_verify_recomputes_and_an_edited_byte_exits_3(case, tmp_path):
    done = wmark(
        "verify", "evidence.json", "--outputs", "answers.jsonl", "--mark", "ours.wmark", "--report", "r.html", cwd=case
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "1. digest", "2. arithmetic", "3. outputs", "4. mark", "5. recomputed", "6. page",
    ]  # fmt: skip
    edited = tmp_path / "answers.jsonl"
    edited.write_text((case / "answers.jsonl").read_text().replace("question 3", "question 4", 1))
    refused = wmark("verify", "evidence.json", "--outputs", edited, "--mark", "ours.wmark", cwd=case)
    assert refused.returncode == 3
    assert "a byte differs" in refused.stderr
    stored = json.loads((case / "evidence.json").read_text())
    stored["log10_p"] -= 1
    (tmp_path / "e.json").write_text(json.dumps(stored))
    assert wmark("verify", tmp_path / "e.json", cwd=case).returncode == 3


@pytest.mark.parametrize(
    "change, says",
    [({"gamma": 2.0}, "states what cannot be"), ({"cells": 0, "green": 0}, "the decoy rank is stated as"),
     ({"gamma": 0.2}, "levels and power are not those"), ({"power": 0.5}, "levels and power are not those"),
     ({"options": {}}, "does not say with which"), ({"verdict": "inconclusive"}, "does not follow"),
     ({"alternative": "larger"}, "none that is known"), ({"mark": {}}, "unknown scheme"),
     ({"green": "many"}, "states what cannot be")],
)  # fmt: skip
def test_forged_evidence_with_a_fresh_digest_is_refused_in_words(case, tmp_path, change, says):
    """Whoever edits a field can make the digest again; what follows from the counts must still follow."""
    forged = dataclasses.replace(Evidence.load(case / "evidence.json"), **change)
    forged.save(tmp_path / "e.json")
    done = wmark("verify", tmp_path / "e.json", "--outputs", "answers.jsonl", "--mark", "ours.wmark", cwd=case)
    assert done.returncode == 3
    assert says in done.stderr


def test_a_folder_in_place_of_a_file_is_an_error_in_words(case):
    (case / "folder.json").mkdir(exist_ok=True)
    assert wmark("verify", "folder.json", cwd=case).returncode == 3
    assert wmark("report", "folder.json", cwd=case).returncode == 3
    assert wmark("detect", "answers.jsonl", "--mark", "folder.json", cwd=case).returncode == 1


def test_an_unforeseen_error_shows_its_traceback_only_when_asked(monkeypatch, capsys):
    from wmark_cli import main

    def broken():
        raise RuntimeError("the moon\nfell")

    monkeypatch.setattr(main, "app", broken)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 1
    assert "unexpected RuntimeError: the moon\n" in capsys.readouterr().err
    monkeypatch.setenv("WMARK_DEBUG", "1")
    with pytest.raises(RuntimeError, match="the moon"):
        main.run()


def test_verify_checks_a_ledger(case, tmp_path):
    assert "24 records, chain unbroken" in wmark("verify", "ledger.jsonl", cwd=case).stdout
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes((case / "ledger.jsonl").read_bytes()[:-7])
    shown = wmark("verify", cut, cwd=case)
    assert "23 records, chain unbroken" in shown.stdout
    assert "was never finished; it is no record" in shown.stderr
    broken = tmp_path / "ledger.jsonl"
    broken.write_text((case / "ledger.jsonl").read_text().replace("question 3", "question 4", 1))
    refused = wmark("verify", broken, cwd=case)
    assert refused.returncode == 3
    assert "it was changed" in refused.stderr


def test_verdict_changes_the_exit_code_only_when_asked(case):
    assert detect(case, "answers.jsonl").returncode == 0
    assert detect(case, "answers.jsonl", "--exit-code").returncode == 10


def test_too_weak_a_test_is_inconclusive(case, tmp_path):
    lines = [json.dumps({"text": f"these are words number {i} of an innocent"}) for i in range(20)]
    (tmp_path / "o.jsonl").write_text("\n".join(lines))
    done = detect(case, tmp_path / "o.jsonl", "--exit-code")
    assert done.returncode == 20
    assert "inconclusive" in done.stdout


def test_ledger_filters_and_wrong_ledger_is_refused(case, tmp_path):
    done = detect(case, "answers.jsonl", "--ledger", "ledger.jsonl", "--json")
    assert "windows served in the ledger" in json.loads(done.stdout)["method"]
    wmark("keygen", tmp_path / "other.wmark", "--model", "model", cwd=case)
    refused = wmark("detect", "answers.jsonl", "--mark", tmp_path / "other.wmark", "--ledger", "ledger.jsonl", cwd=case)
    assert refused.returncode == 1
    assert "the ledger holds answers marked under kid" in refused.stderr


def test_wrong_key_finds_nothing(case, tmp_path):
    wmark("keygen", tmp_path / "other.wmark", "--model", "model", cwd=case)
    done = wmark("detect", "answers.jsonl", "--mark", tmp_path / "other.wmark", "--json", cwd=case)
    assert json.loads(done.stdout)["log10_p"] > -4


BAD = {
    "empty": (b"", "holds no outputs: it is empty"),
    "binary": (bytes(range(256)) * 8, "is a binary file"),
    "truncated": (b'{"text": "whole"}\n{"text": "cut', "line 2: not a JSON object (the line has no end"),
    "latin-1": ('{"text": "caf\u00e9"}\n'.encode("latin-1"), "line 1: not UTF-8 (byte 0xe9 at column 14)"),
    "unknown field": (b'{"txt": "hello"}\n', "did you mean 'text'?"),
    "prompt alone": (b'{"id": "1", "prompt": "hello?"}\n', "found a prompt but no response"),
    "a list": (b"[1, 2]\n", "needed a JSON object, found list"),
    "too little": (b'{"text": "few words"}\n', "need at least 50"),
    "damaged gzip": (gzip.compress(b'{"text": "hello"}\n' * 99)[:-20], "damaged or cut short"),
    "ids of another": (b'{"token_ids": [1, 2, 999999]}\n', "beyond the mark's 400 logits"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_outputs_get_a_clear_error(case, tmp_path, name):
    content, expected = BAD[name]
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(content)
    done = detect(case, path, "--output", tmp_path / "evidence.json")
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.startswith("wmark: error: ")
    assert path.read_bytes() == content
    assert not (tmp_path / "evidence.json").exists()


def test_bad_lines_are_left_out_and_counted_when_asked(case, tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_bytes((case / "answers.jsonl").read_bytes() + b'{"text": "cut')
    assert detect(case, path).returncode == 1
    assert "left out      1 bad records" in detect(case, path, "--skip-bad").stdout


def test_other_field_names_are_mapped(case, tmp_path):
    rows = [json.loads(line) for line in (case / "answers.jsonl").read_text().splitlines()]
    path = tmp_path / "o.jsonl"
    path.write_text("\n".join(json.dumps({"response": r["text"], "model": "x"}) for r in rows))
    assert "unknown field 'response'" in detect(case, path).stderr
    assert detect(case, path, "--field", "text=response").returncode == 0
    assert detect(case, path, "--field", "response").returncode == 2


def test_missing_files_are_named(case):
    assert "no outputs at nothing.jsonl" in detect(case, "nothing.jsonl").stderr
    done = wmark("detect", "answers.jsonl", "--mark", "nothing.wmark", cwd=case)
    assert "no watermark file at nothing.wmark" in done.stderr
    assert "hint: make one with `wmark keygen`" in done.stderr


def test_profile_in_place_of_the_mark_is_explained(case):
    done = wmark("detect", "answers.jsonl", "--mark", "ours.profile.json", cwd=case)
    assert "is a public profile; the watermark file with the key is needed" in done.stderr


def test_profile_mismatch_is_refused(case, tmp_path):
    wmark("keygen", tmp_path / "o.wmark", "--model", "model", "--profile", tmp_path / "o.profile.json", cwd=case)
    refused = detect(case, "answers.jsonl", "--profile", tmp_path / "o.profile.json")
    assert refused.returncode == 1
    assert "commitment" in refused.stderr
    assert detect(case, "answers.jsonl", "--profile", "ours.profile.json").returncode == 0


def test_another_tokenizer_is_refused(case, tmp_path):
    from tiny import tiny_tokenizer

    tiny_tokenizer(300).save_pretrained(tmp_path / "other")
    done = detect(case, "answers.jsonl", "--tokenizer", tmp_path / "other")
    assert done.returncode == 1
    assert "scores would be chance" in done.stderr


def test_a_key_others_can_read_is_refused(case, tmp_path):
    loose = tmp_path / "loose.wmark"
    loose.write_bytes((case / "ours.wmark").read_bytes())
    loose.chmod(0o644)
    done = wmark("detect", "answers.jsonl", "--mark", loose, cwd=case)
    assert done.returncode == 1
    assert f"chmod 600 {loose}" in done.stderr
    assert f"{loose.name} can be read by others" in wmark("doctor", tmp_path, cwd=case).stderr


def test_a_watermark_file_is_never_overwritten_and_is_0600(case):
    kept = (case / "ours.wmark").read_bytes()
    done = wmark("keygen", "ours.wmark", "--model", "model", cwd=case)
    assert done.returncode == 1
    assert "never overwritten" in done.stderr
    assert (case / "ours.wmark").read_bytes() == kept
    assert (case / "ours.wmark").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_half_evidence(case, tmp_path):
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = detect(case, "answers.jsonl", "--output", tmp_path / "e.json", preexec_fn=small_files)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].startswith(("wmark: error", "wmark: hint"))
    assert list(tmp_path.iterdir()) == []


def test_misuse_exits_2(case):
    for arguments in (
        ("detect", "answers.jsonl"),
        ("detect", "answers.jsonl", "--mark", "ours.wmark", "--alpha", "2"),
        ("detect", "answers.jsonl", "--mark", "ours.wmark", "--decoys", "3"),
        ("generate", "model", "--prompts", "ask.jsonl", "--output", "x.jsonl"),
        ("keygen", "x.wmark", "--gamma", "1.5"),
        ("keygen", "x.wmark", "--tenant", "a"),
        ("demo", "--share", "7"),
        ("nonsense",),
    ):
        assert wmark(*arguments, cwd=case).returncode == 2, arguments


def test_generate_goes_on_and_refuses_another_mark(case, tmp_path):
    options = ("--prompts", "ask.jsonl", "--output", "answers.jsonl", "--max-new-tokens", 60, "--batch", 12)
    before = (case / "answers.jsonl").read_bytes()
    done = wmark("generate", "model", "--mark", "ours.wmark", *options, "--json", cwd=case)
    assert json.loads(done.stdout)["made_now"] == 0
    refused = wmark("generate", "model", "--unmarked", *options, cwd=case)
    assert refused.returncode == 1
    assert "choose another --output" in refused.stderr
    assert (case / "answers.jsonl").read_bytes() == before


def test_interrupted_generate_says_so_and_goes_on(case, tmp_path):
    many = [json.dumps({"prompt": f"q {i}"}) for i in range(3000)]
    (tmp_path / "ask.jsonl").write_text("\n".join(many))
    command = [sys.executable, "-m", "wmark_cli", "generate", "model", "--mark", "ours.wmark", "--batch", "4",
               "--prompts", str(tmp_path / "ask.jsonl"), "--output", str(tmp_path / "a.jsonl"),
               "--ledger", str(tmp_path / "l.jsonl"), "--max-new-tokens", "10"]  # fmt: skip
    running = subprocess.Popen(command, cwd=case, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "a.jsonl").exists() and (tmp_path / "a.jsonl").stat().st_size > 5000:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    words = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "Traceback" not in words
    assert "run the same command again to go on" in words
    assert len(list(read_ledger(tmp_path / "l.jsonl"))) > 0


def test_key_for_a_tenant_is_drawn_from_the_master(case, tmp_path):
    drawn = [tmp_path / f"{i}.wmark" for i in range(3)]
    for path, tenant in zip(drawn, ("acme", "acme", "zeta"), strict=True):
        done = wmark("keygen", path, "--model", "model", "--from", "ours.wmark", "--tenant", tenant, cwd=case)
        assert done.returncode == 0, done.stderr
    first, same, other = (Watermark.load(path).key for path in drawn)
    assert first == same
    assert first != other
    assert first != Watermark.load(case / "ours.wmark").key


def test_every_detect_option_changes_something(case):
    plain = json.loads(detect(case, "answers.jsonl", "--json").stdout)
    for options, field in (
        (("--decoys", "150"), "decoys"),
        (("--alpha", "0.01"), "alpha"),
        (("--alternative", "two-sided"), "log10_p"),
        (("--ledger", "ledger.jsonl"), "inputs"),
        (("--skip-bad",), "options"),
    ):
        changed = json.loads(detect(case, "answers.jsonl", "--json", *options).stdout)
        assert changed[field] != plain[field], options


def test_the_key_never_appears_in_anything_printed_or_written(case):
    secret = Watermark.load(case / "ours.wmark").key._export()[0]
    printed = [
        detect(case, "answers.jsonl", "--json"),
        wmark("doctor", "--json", cwd=case),
        wmark("verify", "evidence.json", "--mark", "ours.wmark", cwd=case),
        wmark("report", "evidence.json", "--output", "again.html", cwd=case),
    ]
    seen = "".join(done.stdout + done.stderr for done in printed).encode()
    seen += b"".join(p.read_bytes() for p in case.rglob("*") if p.is_file() and p.name != "ours.wmark")
    for form in (secret, secret.hex().encode(), base64.b64encode(secret), json.dumps(list(secret)).encode()):
        assert form not in seen


def test_report_writes_the_same_page_as_detect(case):
    wmark("report", "evidence.json", "--output", "again.html", cwd=case)
    assert (case / "again.html").read_bytes() == (case / "r.html").read_bytes()


def test_doctor_warns_of_another_watermark_package(case, tmp_path):
    (tmp_path / "watermark-2.6.0.dist-info").mkdir()
    done = wmark("doctor", cwd=case, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "another distribution, watermark-2.6.0, also installs a package 'watermark'" in done.stderr
    helped = wmark("--help", cwd=case, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "watermark-2.6.0" in helped.stderr


def test_doctor_names_what_the_keyed_function_runs_on(case):
    machine = json.loads(wmark("doctor", "--json", cwd=case, env=os.environ | {"OMP_NUM_THREADS": "3"}).stdout)
    assert machine["prf_machine"]["backend"] == machine["prf_backend"]
    assert machine["prf_machine"]["threads"] == 3
    assert (machine["prf_machine"]["kernels"] is None) == (machine["prf_machine"]["device"] is None)
    there = {"backend": "numba", "threads": 2, "vector_bits": 512, "device": "cuda", "kernels": "triton"}
    assert doctor.running(**there).endswith("large totals on cuda, and tilts of logits there, in triton")
    plain = wmark("doctor", cwd=case, env=os.environ | {"WMARK_NUMBA": "0", "OMP_NUM_THREADS": "1"})
    assert "arx32-v1, on numpy, 1 thread; with numba (pip install 'wmark[fast]')" in plain.stdout


def test_a_prompt_is_one_line_whatever_characters_it_holds(tmp_path):
    """Only a line feed ends a line: U+2028 and U+0085 stand inside JSON strings as they are."""
    from watermark.prompts import read_prompts

    path = tmp_path / "p.jsonl"
    path.write_bytes('{"prompt": "one\u2028two\u0085three"}\r\n{"prompt": "b"}\n'.encode())
    assert [prompt.text for prompt in read_prompts(path)] == ["one\u2028two\u0085three", "b"]


def test_prompts_that_cannot_be_read_are_named(case, tmp_path):
    for content, expected in (
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"promt": "b"}\n', "line 2: no field 'prompt'"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', "stands twice"),
        ("plain words\n", "name a plain text file .txt"),
    ):
        (tmp_path / "p.jsonl").write_text(content)
        done = wmark(
            "generate", "model", "--unmarked", "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "a.jsonl",
            cwd=case,
        )  # fmt: skip
        assert done.returncode == 1
        assert expected in done.stderr
        assert not Path(tmp_path / "a.jsonl").exists()


def test_a_path_that_is_not_there_is_named_at_once(case):
    done = wmark("keygen", "x.wmark", "--model", "./nowhere/model", cwd=case)
    assert done.returncode == 1
    assert "no model folder at './nowhere/model'" in done.stderr


def test_a_folder_that_is_no_model_is_named(case, tmp_path):
    done = wmark(
        "generate", tmp_path, "--unmarked", "--prompts", "ask.jsonl", "--output", tmp_path / "a.jsonl", cwd=case,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "no model could be loaded" in done.stderr
