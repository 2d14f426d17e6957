"""wmark key as a person meets it, and that no secret ever shows: not in words, files, logs or the process list."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from keyring_tools import (
    age_by_hand,
    files_under,
    fixed_set,
    holds,
    identity,
    modes,
    secrets_of,
    wmark,
    write_private,
)
from tiny import tiny_model
from typer.testing import CliRunner
from wmark_cli.main import app, run

from watermark.evidence import Evidence
from watermark.keyring import open_keys
from watermark.mark import Watermark

PHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A folder with a set of two epochs, sealed to an identity, and what each command said on the way."""
    folder = tmp_path_factory.mktemp("keys")
    tiny_model(folder / "model")
    opener, recipient = identity(folder)
    env, said = {"WMARK_IDENTITY": "identity.txt"}, []

    def ran(*arguments, **options):
        done = wmark(*arguments, cwd=folder, env=env, **options)
        said.append(done)
        return done

    made = ran("key", "new", "ours.jwks.age", "--model", "model", "--epoch", "first", "--recipient", recipient)
    assert made.returncode == 0, made.stderr
    (folder / "ask.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(24)))
    served = ran("generate", "model", "--mark", "ours.jwks.age", "--prompts", "ask.jsonl", "--output", "answers.jsonl",
                 "--max-new-tokens", 60, "--batch", 12)  # fmt: skip
    assert served.returncode == 0, served.stderr
    assert ran("key", "rotate", "ours.jwks.age", "--epoch", "second").returncode == 0
    return folder, opener, ran, said


def _secrets(folder: Path, opener) -> list[bytes]:
    keys = open_keys(folder / "ours.jwks.age", opener)
    return [*secrets_of(keys), opener.path.read_bytes().splitlines()[1], PHRASE.encode()]


def test_a_session_reads_like_this(case):
    folder, opener, ran, _ = case
    keys = open_keys(folder / "ours.jwks.age", opener)
    lines = ran("key", "show", "ours.jwks.age").stdout.decode().splitlines()
    assert lines[0] == f"set {keys.name}"
    for line, epoch, status in zip(lines[1:], keys.epochs, ("retired", "active"), strict=True):
        assert re.fullmatch(
            rf"{epoch.key.kid}  {epoch.label} +{status} +\S+ to (\S+|no end) +{epoch.key.commitment}", line
        )
    shown = json.loads(ran("key", "show", "ours.jwks.age", "--json").stdout)
    assert set(shown["keys"][0]) == {"kid", "epoch", "status", "nbf", "exp", "commitment"}
    assert shown["head"] == keys.commitments().head


def test_files_that_hold_keys_are_0600_and_never_written_over(case):
    folder, _, ran, _ = case
    assert modes(folder, "ours.jwks.age*") == {0o600}
    again = ran("key", "new", "ours.jwks.age", "--model", "model", "--recipient", "identity.pub")
    assert again.returncode == 1
    assert ran("key", "mark", "ours.jwks.age", "once.wmark").returncode == 0
    assert ran("key", "mark", "ours.jwks.age", "once.wmark").returncode == 1
    assert modes(folder, "once.wmark") == {0o600}


@pytest.mark.slow
def test_a_suspect_is_tested_under_every_key_and_the_evidence_verifies(case):
    folder, opener, ran, _ = case
    done = ran("detect", "answers.jsonl", "--mark", "ours.jwks.age", "--output", "evidence.json", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    keys = open_keys(folder / "ours.jwks.age", opener)
    shown = done.stdout.decode()
    assert "verdict       evidence found" in shown
    assert f"over all 2 of set {keys.name} (Bonferroni over exact tails); below: {keys.epochs[0].key.kid}" in shown
    assert ran("key", "export-commitment", "ours.jwks.age", "published.json").returncode == 0
    checked = ran("verify", "evidence.json", "--outputs", "answers.jsonl", "--mark", "ours.jwks.age", "--report",
                  "r.html", "--commitments", "published.json")  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert [line.split(":")[0][3:] for line in checked.stdout.decode().splitlines()] == [
        "digest", "arithmetic", "outputs", "mark", "keys", "commitments", "recomputed", "page",
    ]  # fmt: skip
    assert ran("key", "mark", "ours.jwks.age", "first.wmark", "--epoch", "first").returncode == 0
    one = ran("verify", "evidence.json", "--outputs", "answers.jsonl", "--mark", "first.wmark")
    assert one.returncode == 0, one.stderr
    assert b"other 1 keys were taken as stated" in one.stderr
    assert Evidence.load(folder / "evidence.json").keys["tested"] == 2


def test_marks_of_an_epoch_and_of_a_tenant_are_drawn_from_it(case):
    folder, opener, ran, _ = case
    keys = open_keys(folder / "ours.jwks.age", opener)
    assert ran("key", "mark", "ours.jwks.age", "a.wmark", "--epoch", "first").returncode == 0
    assert ran("key", "mark", "ours.jwks.age", "b.wmark", "--epoch", "first", "--tenant", "acme").returncode == 0
    assert Watermark.load(folder / "a.wmark").key == keys.epochs[0].key
    assert Watermark.load(folder / "b.wmark").key == keys.epochs[0].key.subkey(tenant="acme")


def test_a_sealed_set_in_place_of_a_mark_says_what_to_do(case):
    _, _, ran, _ = case
    done = ran("plan", "plan.json", "--mark", "ours.jwks.age")
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_every_command_takes_a_set_or_says_in_one_sentence_what_to_do(case, monkeypatch):
    folder, opener, ran, _ = case
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WMARK_IDENTITY", "identity.txt")
    keys = open_keys(folder / "ours.jwks.age", opener)
    (folder / "names.txt").write_text("acme\nbolt\n")
    (folder / "few.jsonl").write_bytes(b"".join((folder / "ask.jsonl").read_bytes().splitlines(keepends=True)[:2]))
    mark, several = ["--mark", "ours.jwks.age"], "and this takes one"
    planned = ["plan", *mark, "--access", "text", "--prompts", "few.jsonl"]
    for arguments, words in (
        ([*planned, "--output", "p.json"], several),
        ([*planned, "--key-epoch", "none", "--output", "p.json"], "no epoch 'none'"),
        (["probe", "model", *mark, "--stop-at", "0.01", "--output", "said.jsonl"], several),
        (["attribute", "answers.jsonl", *mark, "--accounts", "names.txt"], "have no accounts"),
        (["evidence", "verify", ".", *mark], "verified with the key that it shows"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1, (arguments, done.output)
        assert words in str(done.exception), (arguments, done.exception)
        if words == several:
            assert "ours.jwks.age holds 2 keys (first, second)" in str(done.exception)
            assert "wmark key mark" in done.exception.hint
    ended = [*planned, "--key-epoch", "first", "--stop-at", "e-process", "--alpha", "0.01", "--output", "e.json"]
    assert ran(*ended).returncode == 0
    made = json.loads((folder / "e.json").read_bytes())
    assert made["mark"]["commitment"] == keys.epoch("first").key.commitment
    watched = ["probe", "model", *mark, "--stop-at", 0.01, "--plan", "e.json", "--prompts", "few.jsonl"]
    done = ran(*watched, "--max-new-tokens", 4, "--output", "watched.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    first = json.loads((folder / "watched.jsonl.log.jsonl").read_bytes().splitlines()[0])
    assert first["plan"]["digest"] == made["digest"]


def test_words_name_what_is_wrong(case, tmp_path, monkeypatch, capsys):
    folder, opener, _, _ = case
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WMARK_IDENTITY", str(opener.path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    other, _ = identity(tmp_path)
    for arguments, says in (
        (("key", "show", "ours.jwks.age", "--identity", other.path), "does not open ours.jwks.age"),
        (("key", "show", "nothing.jwks.age"), "cannot be read: No such file"),
        (("key", "show", "ask.jsonl"), "can be read by others"),
        (("key", "rotate", "ours.jwks.age", "--epoch", "first"), "a label is used once"),
        (("key", "rotate", "ours.jwks.age", "--starts", "soon"), "a date reads 2027-01-31"),
        (("key", "rotate", "ours.jwks.age", "--starts", "2020-01-01"), "cannot begin in the past"),
        (("key", "new", "ours.json", "--model", "model"), "ends in .jwks.age"),
        (("key", "new", "n.jwks.age", "--model", "model"), "needs recipients or a passphrase"),
        (("key", "new", "n.jwks.age", "--model", "model", "--recipient", "identity.txt"), "should hold one public key"),
    ):
        monkeypatch.setattr(sys, "argv", ["wmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 1, arguments
        assert says in capsys.readouterr().err, arguments


def test_no_command_takes_a_secret_as_an_option():
    """Every option of `wmark key` names a file, an entry, a date or a public key."""
    import typer.main
    from wmark_cli.key import app

    taken = {
        name.lstrip("-")
        for command in typer.main.get_command(app).commands.values()
        for parameter in command.params
        for name in parameter.opts
    }
    assert taken == {
        "keys", "output", "model", "window", "gamma", "delta", "epoch", "expires", "recipient", "passphrase-file",
        "keyring", "json", "identity", "starts", "fresh", "revoke", "earlier", "tenant", "authority",
    }  # fmt: skip


def test_no_secret_shows_after_any_command(case):
    """Every word said, and every file but the watermark files, which are there to hold a key, and the identity."""
    folder, opener, ran, said = case
    ran("key", "commit", "ours.jwks.age", "dated.json")
    ran("detect", "answers.jsonl", "--mark", "ours.jwks.age", "--output", "evidence-of-set.json", "--decoys", 99)
    ran("key", "rotate", "ours.jwks.age", "--fresh", "--json")
    secrets = _secrets(folder, opener)
    for done in said:
        assert not any(holds(secret, done.stdout + done.stderr) for secret in secrets)
        assert b"Traceback" not in done.stderr
    kept = [path for path in files_under(folder) if path.suffix != ".wmark" and path.name != "identity.txt"]
    assert {"ours.jwks.age", "ours.jwks.age.g1", "evidence-of-set.json", "dated.json"} <= {path.name for path in kept}
    for path in kept:
        assert not any(holds(secret, path.read_bytes()) for secret in secrets), path
    assert files_under(folder / "tmp") == []


def test_no_secret_shows_in_a_traceback_that_was_asked_for(case):
    folder, opener, _, _ = case
    done = wmark("key", "show", "ours.jwks.age", cwd=folder, env={"WMARK_IDENTITY": "model", "WMARK_DEBUG": "1"})
    assert done.returncode == 1
    assert not any(holds(secret, done.stdout + done.stderr) for secret in _secrets(folder, opener))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no process list to read here")
def test_no_secret_shows_in_the_process_list(tmp_path):
    """Watched from outside while a command runs with its passphrase on standard input."""
    keys = fixed_set(b"watched", 1)
    write_private(tmp_path / "ours.jwks.age", age_by_hand(keys.content(), PHRASE))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WMARK_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "wmark_cli", "key", "show", "ours.jwks.age", "--passphrase-file", "-"],
        cwd=tmp_path, env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    seen, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            for name in ("cmdline", "environ"):
                try:
                    seen.append(Path(f"/proc/{running.pid}/{name}").read_bytes())
                except OSError:
                    return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = running.communicate(PHRASE.encode() + b"\n", timeout=120)
    stop.set()
    watcher.join()
    assert running.returncode == 0, err
    assert keys.epochs[0].key.kid.encode() in out
    assert any(b"wmark_cli" in each for each in seen)
    for secret in (PHRASE.encode(), *secrets_of(keys)):
        assert not any(holds(secret, each) for each in seen)


@pytest.mark.parametrize("way", ["file", "stdin", "environment", "environment file"])
def test_a_passphrase_comes_from_a_file_standard_input_or_the_environment(tmp_path, way):
    write_private(tmp_path / "ours.jwks.age", age_by_hand(fixed_set(b"ways", 1).content(), PHRASE))
    write_private(tmp_path / "phrase", PHRASE.encode() + b"\n")
    options, env, typed = {
        "file": (("--passphrase-file", "phrase"), {}, b""),
        "stdin": (("--passphrase-file", "-"), {}, PHRASE.encode() + b"\n"),
        "environment": ((), {"WMARK_PASSPHRASE": PHRASE}, b""),
        "environment file": ((), {"WMARK_PASSPHRASE_FILE": "phrase"}, b""),
    }[way]
    done = wmark("key", "show", "ours.jwks.age", *options, cwd=tmp_path, env=env, typed=typed)
    assert done.returncode == 0, done.stderr
    assert PHRASE.encode() not in done.stdout + done.stderr


def test_without_a_passphrase_one_sentence_says_where_it_is_looked_for(tmp_path):
    write_private(tmp_path / "ours.jwks.age", age_by_hand(fixed_set(b"ways", 1).content(), PHRASE))
    done = wmark("key", "show", "ours.jwks.age", cwd=tmp_path)
    assert done.returncode == 1
    assert b"is sealed by a passphrase, and none was given" in done.stderr
    assert b"WMARK_PASSPHRASE" in done.stderr
    (tmp_path / "open").write_text(PHRASE)
    (tmp_path / "open").chmod(0o644)
    refused = wmark("key", "show", "ours.jwks.age", "--passphrase-file", "open", cwd=tmp_path)
    assert b"holds a passphrase and can be read by others (mode 0644)" in refused.stderr
    assert PHRASE.encode() not in refused.stderr


def test_doctor_warns_of_a_set_that_others_can_read(tmp_path):
    (tmp_path / "ours.jwks.age").write_bytes(b"sealed")
    (tmp_path / "ours.jwks.age").chmod(0o644)
    assert b"ours.jwks.age can be read by others" in wmark("doctor", cwd=tmp_path).stderr


@pytest.mark.slow
def test_a_new_set_is_sealed_by_a_passphrase_that_was_piped_in(tmp_path):
    tiny_model(tmp_path / "model")
    done = wmark("key", "new", "ours.jwks.age", "--model", "model", "--passphrase-file", "-", cwd=tmp_path,
                 typed=PHRASE.encode())  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"-> scrypt " in (tmp_path / "ours.jwks.age").read_bytes()[:200]
    assert not holds(
        PHRASE.encode(), b"".join(p.read_bytes() for p in files_under(tmp_path)) + done.stdout + done.stderr
    )


# ---- a date for a commitment


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_a_commitment_is_dated_by_an_authority_and_checked_by_openssl_alone(case, tmp_path):
    from watermark.timestamps import local_authority

    folder, _, ran, _ = case
    local_authority(tmp_path / "authority")
    done = ran("key", "commit", "ours.jwks.age", "stamped.json", "--authority", tmp_path / "authority")
    assert done.returncode == 0, done.stderr
    check = re.search(r"openssl (ts -verify .*)AUTHORITY.pem", done.stderr.decode())[1].split()
    assert openssl(*check, tmp_path / "authority" / "authority.pem", cwd=folder) == 0
    (folder / "stamped.json").write_bytes((folder / "stamped.json").read_bytes() + b" ")
    assert openssl(*check, tmp_path / "authority" / "authority.pem", cwd=folder) != 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_without_an_authority_the_commands_that_are_printed_work(case, tmp_path):
    from watermark.timestamps import _SETTINGS, local_authority

    folder, _, ran, _ = case
    told = ran("key", "commit", "ours.jwks.age", "by-hand.json").stderr.decode()
    asks, checks = (re.search(rf"openssl (ts -{what} .*)", told)[1].split() for what in ("query", "verify"))
    assert openssl(*asks, cwd=folder) == 0
    place = local_authority(tmp_path / "authority")
    (tmp_path / "settings").write_text(_SETTINGS.format(folder=place))
    answer = ("-queryfile", "by-hand.json.tsq", "-out", "by-hand.json.tsr")
    assert openssl("ts", "-reply", "-config", tmp_path / "settings", *answer, cwd=folder) == 0
    assert openssl(*checks[:-1], place / "authority.pem", cwd=folder) == 0


def openssl(*arguments: object, cwd: Path) -> int:
    return subprocess.run(["openssl", *map(str, arguments)], cwd=cwd, capture_output=True).returncode


def test_what_is_not_sealed_with_age_is_no_key_set(tmp_path):
    path = tmp_path / "ours.jwks.age"
    path.write_bytes(b"\x00\x01 nothing")
    path.chmod(0o600)
    done = CliRunner().invoke(app, ["key", "show", str(path)])
    assert done.exit_code == 1
    assert "is no key set: it is not sealed with age" in str(done.exception)
