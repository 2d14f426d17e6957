"""What the front page shows is what happens."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from scorebench import boosted, inputs, scores

from watermark.scores import table, write_table

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_the_session_runs_as_written(tmp_path):
    sessions = re.findall(r"test_readme\.py runs these lines -->\n```console\n(.*?)```", README, re.DOTALL)
    prompts = [json.dumps({"prompt": f"Describe the harbour on day {n}."}) for n in range(40)]
    (tmp_path / "ask.jsonl").write_text("\n".join(prompts))
    scored(tmp_path)
    lines = [line.removeprefix("$ ") for session in sessions for line in session.splitlines()]
    assert len(lines) == 16
    for line in lines:
        command = [sys.executable, "-m", "wmark_cli", *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (line, done.stderr)
    for page in ("report.html", "open.html", "risk.html"):
        assert (tmp_path / page).stat().st_size > 10_000


def scored(folder):
    """The files of the scores' session: the owner's inputs and answers, and a suspect that learned something else."""
    names = [f"x{i}" for i in range(10)]
    own, asked, probes = inputs(2500, 31), inputs(500, 32), inputs(1200, 33)
    for name, rows in (("ours", own), ("asked", asked), ("probes", probes)):
        write_table(table(rows, names), folder / f"{name}.csv")
    for name, rows in (("scores", asked), ("clean", probes)):
        write_table(table({"p": scores(rows)[:, 1]}), folder / f"{name}.csv")
    write_table(table({"p": boosted(own, scores(own)[:, 1], rounds=40)(probes)}), folder / "said.csv")


def test_front_page_names_the_two_commands_and_its_limits():
    assert "\nmake demo" in README
    assert "\nmake test" in README
    assert "A p-value is not the probability that the suspect is innocent" in README


def test_every_file_the_front_page_names_is_there():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`(docs/[\w./-]+|CONTRIBUTING\.md)`|\]\((docs/[\w./-]+)\)", README):
        assert (root / (name[0] or name[1])).exists(), name
