"""The key is looked for in everything that commands write, say, run or leave behind: it stands in none of it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import casework
import pytest
from casework import public_of
from fake_endpoint import fake, good
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.accounts import Accounts
from watermark.bundle import standalone as alone
from watermark.keys import decoy_keys

pytest.importorskip("cryptography")
pytest.importorskip("rfc3161_client")
pytest.importorskip("jinja2")


def _forms(mark) -> dict[str, list[bytes]]:
    """The secret, as it might be written: raw, hex, base64 at every offset, a JSON list; and its salt."""
    found = {}
    for name, secret in zip(("key", "salt"), mark.key._export(), strict=True):
        forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
        forms += [json.dumps(list(secret)).encode(), json.dumps(list(secret), separators=(",", ":")).encode()]
        for start in range(3):
            inner = base64.b64encode(secret[start : start + (len(secret) - start) // 3 * 3])
            forms += [inner, base64.urlsafe_b64encode(base64.b64decode(inner))]
        found[name] = forms
    return found


class _Watched:
    """Commands run in this process, with every temporary folder, subprocess and file they leave searched for secrets.

    holders: files that are there to hold a secret, and are not searched.
    """

    def __init__(self, folder: Path, monkeypatch, marks: list, holders: list[Path]) -> None:
        self.folder, self.holders = folder, {path.resolve() for path in holders}
        self.forms = [form for mark in marks for written in _forms(mark).values() for form in written]
        self.clean: set[tuple[Path, int, int]] = set()  # files that were searched, as they are
        self.kept: list[Path] = []
        self.commands: list[str] = []
        self.told = 0
        kept, commands = self.kept, self.commands

        class Kept(tempfile.TemporaryDirectory):
            """Temporary folders stay, so that they can be searched."""

            def cleanup(self):
                self._finalizer.detach()
                kept.append(Path(self.name))

            def __exit__(self, *_):
                self.cleanup()

        ran, popen = subprocess.run, subprocess.Popen
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Kept)
        monkeypatch.setattr(
            subprocess, "run", lambda *a, **k: commands.append(repr((a, k.get("env"), k.get("input")))) or ran(*a, **k)
        )
        monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: commands.append(repr(a)) or popen(*a, **k))
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("WMARK_DEBUG", "1")

    def run(self, command: list[str], code: int | None) -> str:
        """Runs one command and searches; code: the exit code it must have, None for any."""
        done = CliRunner().invoke(app, command)
        assert code is None or done.exit_code == code, (command, done.output, done.exception)
        traced = "" if done.exc_info is None else "".join(traceback.format_exception(*done.exc_info))
        said = (done.output + repr(done.exception) + traced + "".join(self.commands[self.told :])).encode()
        self.told = len(self.commands)
        assert not any(form in said for form in self.forms), command
        for path in self.folder.rglob("*"):
            if not path.is_file() or path.resolve() in self.holders:
                continue
            seen = (path, path.stat().st_mtime_ns, path.stat().st_size)
            if seen not in self.clean:
                content = path.read_bytes()
                assert not any(form in content for form in self.forms), (command, path)
                self.clean.add(seen)
        return done.output


@pytest.mark.slow
def test_the_key_shows_in_no_file_log_temporary_file_error_or_process(case, signer, authority, tmp_path, monkeypatch):
    shutil.copytree(case.folder, tmp_path / "case")
    case = replace(case, folder=tmp_path / "case")
    ours, answers = str(case.file("ours.wmark")), str(case.file("answers.jsonl"))
    bag, plan = str(tmp_path / "K.bag"), str(case.file("plan.json"))
    broken = tmp_path / "broken.wmark"
    broken.write_bytes(case.file("ours.wmark").read_bytes().replace(b'"kid"', b'"dik"'))
    broken.chmod(0o600)
    other = tmp_path / "open.wmark"
    shutil.copyfile(ours, other)
    other.chmod(0o644)
    where = ["--tokenizer", str(case.file("teacher"))]
    make = ["evidence", "bundle", str(case.file("evidence.json"))]
    watched = _Watched(tmp_path, monkeypatch, [case.mark], [case.file("ours.wmark"), broken, other])
    for command, code in (
        (["detect", answers, "--mark", ours, "--output", str(tmp_path / "e.json"), "--decoys", "99", "-q"], 0),
        ([*make, "--answers", answers, "--plan", plan, *where, "--output", bag], 0),
        ([*make, "--answers", ours, "--output", bag + "x"], 1),
        ([*make, "--control", ours, "--output", bag + "x"], 1),
        ([*make, "--control", str(signer), "--output", bag + "x"], 1),
        (["evidence", "bundle", ours, "--output", bag + "y"], 1),
        ([*make, "--profile", ours, "--output", bag + "z"], 1),
        (["evidence", "sign", bag, "--key", ours], None),
        (["evidence", "sign", bag, "--key", str(signer)], 0),
        (["evidence", "timestamp", bag, "--authority", str(authority)], 0),
        (["evidence", "show", bag], 0),
        (["evidence", "verify", bag, "--mark", ours], 0),
        (["evidence", "verify", bag, "--mark", ours, "--signer", str(public_of(signer)), "--json"], 0),
        (["evidence", "verify", bag, "--mark", str(broken)], None),
        (["evidence", "verify", bag, "--mark", str(other)], None),
        (["evidence", "verify", bag, "--signer", ours], None),
        (["evidence", "redact", bag, "--responses", "1-2", "--output", bag + "r"], 0),
        (["evidence", "verify", bag + "r", "--mark", ours], 0),
        (["verify", bag, "--mark", ours], 0),
    ):  # fmt: skip
        watched.run(command, code)
    assert watched.kept
    assert watched.commands
    ran, forms = subprocess.run, watched.forms
    ran([sys.executable, "-I", alone.__file__, bag, "--key", ours], check=True, capture_output=True)
    failed = ran([sys.executable, "-I", alone.__file__, bag, "--key", str(broken)], capture_output=True)
    assert failed.returncode == 3
    assert not any(form in failed.stdout + failed.stderr for form in forms)


@pytest.mark.slow
def test_the_key_shows_nowhere_from_plan_to_attribution(signer, authority, tmp_path, monkeypatch):
    """Every command that is given the key on the way, right and wrong, and a mark with accounts."""
    told = casework.build(tmp_path / "case", answers=8, tokens=30, planned=False)
    accounts = replace(told.mark, key=next(iter(decoy_keys(b"accounts", 1))), accounts=Accounts())
    accounts.save(tmp_path / "accounts.wmark")
    (tmp_path / "names.txt").write_text("acme\nbolt\n")
    rows = casework.marked(accounts.account("acme"), told.tokenizer, 24, 60)
    (tmp_path / "acme.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    ours, prompts, plan = str(told.file("ours.wmark")), str(told.file("prompts.jsonl")), str(tmp_path / "plan.json")
    said, bag = str(tmp_path / "said.jsonl"), str(tmp_path / "K.bag")
    marks = [told.mark, accounts, accounts.account("acme"), accounts.account("bolt")]
    watched = _Watched(tmp_path, monkeypatch, marks, [told.file("ours.wmark"), tmp_path / "accounts.wmark"])
    texts = iter(casework.marked(told.mark, told.tokenizer, 8, 60))
    ask = ["probe", "--prompts", prompts, "--concurrency", "1", "-q", "--output", said]
    planned = ["plan", "--mark", ours, "--access", "text", "--prompts", prompts, "--decoys", "99", "--slope", "9.0"]
    by = ["--accounts", str(tmp_path / "names.txt"), "--tokenizer", str(told.file("teacher")), "-q"]
    test = ["detect", said, "--mark", ours, "--plan", plan, "--decoys", "99", "-q"]
    found, whose = str(tmp_path / "e.json"), str(tmp_path / "a.json")
    with fake(
        lambda path, body, number: (200, {}, good(path, body, text=next(texts))) if "messages" in body else None
    ) as server:
        for command, code in (
            ([*planned, "--tokens-per-answer", "20", "--output", plan], 0),
            ([*planned, "--prompts", ours, "--output", plan + "x"], None),
            (["evidence", "sign", plan, "--key", str(signer)], 0),
            (["evidence", "sign", ours, "--key", str(signer)], 1),
            (["evidence", "timestamp", plan, "--authority", str(authority)], 0),
            (["evidence", "verify", plan, "--signer", str(public_of(signer))], 0),
            ([*ask, server.url, "--plan", ours], None),
            ([*ask, server.url, "--plan", plan, "--samples", "2"], 1),
            ([*ask, server.url, "--plan", plan], 0),
            ([*test, "--tokenizer", str(told.file("teacher")), "--output", found], 0),
            ([*test, "--tokenizer", ours], None),
            (["detect", ours, "--mark", ours], None),
            (["verify", found, "--outputs", said, "--mark", ours, "--plan", plan], 0),
            (["report", found, "--output", str(tmp_path / "r.html")], 0),
            (["attribute", str(tmp_path / "acme.jsonl"), "--mark", str(tmp_path / "accounts.wmark"), *by,
              "--output", whose], 0),
            (["attribute", str(tmp_path / "acme.jsonl"), "--mark", ours, *by], 1),
            (["verify", whose, "--outputs", str(tmp_path / "acme.jsonl"), "--mark", str(tmp_path / "accounts.wmark"),
              "--tokenizer", str(told.file("teacher"))], 0),
            (["report", whose, "--output", str(tmp_path / "w.html")], 0),
            (["evidence", "bundle", found, "--answers", said, "--plan", plan, "--tokenizer",
              str(told.file("teacher")), "--output", bag], 0),
            (["evidence", "bundle", found, "--commitments", ours, "--output", bag + "x"], 1),
            (["evidence", "verify", bag, "--mark", ours], 0),
        ):  # fmt: skip
            watched.run(command, code)
