"""The demo's story: a teacher serves marked answers, a thief and an honest student learn, the test tells them apart.

Every step goes through the same public path as a user's, leaves its files, and is skipped if they are there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from watermark.demo.finished import Finished
from watermark.demo.steps import SUSPECTS
from watermark.errors import OutputsInvalid, WatermarkError
from watermark.files import canonical_json, write_whole

READ = 250  # answers put before an opened suspect
_SERVED = {
    "serve-marked": (["ours.profile.json"], ["marked.jsonl", "ledger.jsonl"]),
    "serve-unmarked": ([], ["unmarked.jsonl"]),
}
_OPENED = ("opened.json", "opened.html", "cells.npz")


@dataclass(frozen=True)
class Size:
    """How much is served, learned and asked: prompts, tokens an answer at most, passes over the data.

    temperature: of the teacher, which reads better a little below 1. probe_temperature: of the suspects; asked
    lower, a student shows more plainly what it prefers.
    """

    teach: int = 2000
    tokens: int = 96
    temperature: float = 0.8
    epochs: int = 6
    probe: int = 800
    probe_tokens: int = 56
    probe_temperature: float = 0.7
    batch: int = 300


def play(
    output: str | Path,
    *,
    share: int = 100,
    model: str = "demo",
    seed: int = 0,
    size: Size | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Plays the story in the folder `output`; returns its table as JSON values.

    share: marked share of the thief's training data, in per cent. model: the teacher. say: told each step.
    Raises WatermarkError if `output` holds a story with other settings, or a step fails.
    """
    folder, tell, used = Path(output), say or (lambda line: None), size or Size()
    began = time.monotonic()
    _settle(folder, {"share": share, "model": model, "seed": seed} | asdict(used))
    tell(f"1. the teacher ({model}) answers {used.teach:,} prompts, once with our mark and once without")
    _prepare(folder, model, seed)
    done = Finished(folder)
    _unfinished(done, folder, _SERVED)
    tell(f"2. a thief learns from answers of which {share} % are marked; an honest student from unmarked ones")
    _side_by_side(folder, [f"learn-{name}" for name in ("thief", "honest") if not (folder / name).exists()])
    tell(f"3. each suspect is asked {used.probe:,} unmarked prompts that no student was trained on")
    _unfinished(done, folder, {f"ask-{name}": ([name], [f"{name}.jsonl"]) for name in SUSPECTS})
    tell("4. the detector reads what they said; then, with their weights at hand, what they would have said")
    rows = [_test(done, folder, suspect) | _opened(done, folder, suspect, model) for suspect in SUSPECTS]
    told = {"share": share, "model": model, "suspects": rows, "seconds": round(time.monotonic() - began)}
    write_whole(folder / "story.json", json.dumps(told, indent=1).encode() + b"\n")
    tell(f"done in {told['seconds']} s; the thief's report is {folder / 'report.html'}")
    return told


def table(told: dict[str, Any]) -> str:
    """The story's end as a table."""
    lines = [
        f"{'':<10}|{'from its text alone':^45}|{'from its weights':^33}",
        f"{'suspect':<10}|{'tokens':>8}{'green rate':>12}{'z':>7}{'log10 p':>9}  verdict "
        f"|{'tokens':>8}{'z':>7}{'log10 p':>9}  verdict",
    ]
    for row in told["suspects"]:
        opened, found = row["opened"], "found" if row["verdict"] == "evidence found" else "-"
        lines.append(
            f"{row['suspect']:<10}|{row['tokens']:>8,}{row['green_rate']:>12.4f}{row['z']:>7.1f}{row['log10_p']:>9.2f}"
            f"  {found:<7} |{opened['tokens']:>8,}{opened['z']:>7.1f}{opened['log10_p']:>9.2f}"
            f"  {'found' if opened['verdict'] == 'evidence found' else '-'}"
        )
    return "\n".join(lines)


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    """Notes the settings of a new story; a folder with other settings is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / "settings.json"
    if not noted.exists():
        if any(folder.iterdir()):
            raise OutputsInvalid(f"{folder} holds other files", hint="choose another --output")
        write_whole(noted, canonical_json(settings))
    if noted.read_bytes() != canonical_json(settings):
        raise OutputsInvalid(
            f"{folder} holds a story with other settings: {noted.read_text('utf-8')}",
            hint="choose another --output, or remove the folder",
        )


def _prepare(folder: Path, source: str, seed: int) -> None:
    """The mark, its profile, and a student that has learned nothing yet."""
    from watermark.demo.student import fresh_student
    from watermark.embed.answers import Model
    from watermark.mark import Watermark, save_profile
    from watermark.schemes import GreenList
    from watermark.tokenizer import Tokenizer

    if (folder / "untrained").exists():
        return
    teacher = Model.load(source)
    if not (folder / "ours.wmark").exists():
        width = teacher.model.config.get_text_config().vocab_size
        mark = Watermark.generate(GreenList(), tokenizer=Tokenizer.wrap(teacher.tokenizer), logits_width=width)
        mark.save(folder / "ours.wmark")
    if not (folder / "ours.profile.json").exists():
        save_profile(Watermark.load(folder / "ours.wmark"), folder / "ours.profile.json")
    fresh_student(teacher, folder / "untrained.part", seed=seed)
    (folder / "untrained.part").rename(folder / "untrained")


def _unfinished(done: Finished, folder: Path, steps: dict[str, tuple[list[str], list[str]]]) -> None:
    """Runs those of the steps that are not finished, and notes them. steps: name -> (what it reads, what it writes)."""
    settings = folder / "settings.json"
    paths = {step: ([settings, *(folder / name for name in reads)], writes) for step, (reads, writes) in steps.items()}
    left = [step for step, (reads, writes) in paths.items() if not done.told(step, reads=reads, writes=writes)]
    _side_by_side(folder, left)
    for step in left:
        reads, writes = paths[step]
        done.note(step, reads=reads, writes=writes)


def _side_by_side(folder: Path, steps: list[str]) -> None:
    """Runs steps in processes of one thread each, at most as many as there are cores; logs in the folder."""
    (folder / "logs").mkdir(exist_ok=True)
    waiting, running = list(steps), dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, os.cpu_count() or 1):
                step = waiting.pop(0)
                running[step] = _started(folder, step)
            time.sleep(0.05)
            for step in [step for step, process in running.items() if process.poll() is not None]:
                if running.pop(step).returncode != 0:
                    raise WatermarkError(f"the step {step} failed; its log is {folder / 'logs' / step}.log")
    finally:
        for process in running.values():
            process.kill()


def _started(folder: Path, step: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "watermark.demo.steps", step, str(folder)]
    with (folder / "logs" / f"{step}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _test(done: Finished, folder: Path, suspect: str) -> dict[str, Any]:
    """From its text alone: the row's figures; made again only if something changed."""
    page = "report.html" if suspect == "thief" else f"{suspect}.html"
    reads = [folder / name for name in ("ours.profile.json", "untrained", f"{suspect}.jsonl")]
    writes = [f"{suspect}.evidence.json", page]
    return done.once(f"test-{suspect}", lambda: _tested(folder, suspect, page), reads=reads, writes=writes)


def _tested(folder: Path, suspect: str, page: str) -> dict[str, Any]:
    from watermark.detect import detect
    from watermark.mark import Watermark
    from watermark.report import render
    from watermark.tokenizer import Tokenizer

    mark = Watermark.load(folder / "ours.wmark")
    evidence = detect(folder / f"{suspect}.jsonl", mark, tokenizer=Tokenizer.load(folder / "untrained"))
    evidence.save(folder / f"{suspect}.evidence.json")
    render(evidence, folder / page)
    return {
        "suspect": suspect,
        "tokens": evidence.tokens_read,
        "cells": evidence.cells,
        "green_rate": evidence.green_rate,
        "z": evidence.z,
        "log10_p": evidence.log10_p,
        "rank_p": evidence.decoys.rank_pvalue,
        "verdict": evidence.verdict,
    }


def _opened(done: Finished, folder: Path, suspect: str, teacher: str) -> dict[str, Any]:
    """With its weights at hand: the row's figures; made again only if something changed."""
    from watermark.tokenizer import model_path

    here = [folder / name for name in ("ours.profile.json", "untrained", f"{suspect}.jsonl", suspect)]
    reads, writes = [*here, model_path(teacher)], [f"{suspect}.{kind}" for kind in _OPENED]
    return done.once(f"open-{suspect}", lambda: _read_open(folder, suspect, teacher), reads=reads, writes=writes)


def _read_open(folder: Path, suspect: str, teacher: str) -> dict[str, Any]:
    """The same suspect with its weights at hand, read over the first of its own answers, against the teacher."""
    from watermark.detect import detect
    from watermark.mark import Watermark
    from watermark.outputs import Outputs
    from watermark.report import render
    from watermark.tokenizer import Tokenizer

    evidence = detect(
        list(islice(Outputs(folder / f"{suspect}.jsonl"), READ)),
        Watermark.load(folder / "ours.wmark"),
        tokenizer=Tokenizer.load(folder / "untrained"),
        suspect=folder / suspect,
        reference=teacher,
        cells=folder / f"{suspect}.cells.npz",
    )
    evidence.save(folder / f"{suspect}.opened.json")
    render(evidence, folder / f"{suspect}.opened.html")
    deep = evidence.weighted
    assert deep is not None
    found = {"tokens": evidence.tokens_read, "log10_p": evidence.log10_p, "verdict": evidence.verdict}
    return {"opened": found | {"z": max(s.z for s in deep.statistics), "rank_p": deep.rank_pvalue}}
