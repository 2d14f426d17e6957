"""The demo's story: a teacher serves marked answers, a thief and an honest student learn, the test tells them apart.

Every step goes through the same public path as a user's, leaves its files, and is skipped if they are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watermark.errors import OutputsInvalid, WatermarkError
from watermark.files import canonical_json, write_whole

HERE = Path(__file__).parent
TEACH, PROBE = 4000, 900
ANSWER_TOKENS = 96
SUSPECTS = ("thief", "honest", "untrained")
_SETTINGS = "settings.json"


def play(
    output: str | Path,
    *,
    share: int = 100,
    model: str = "demo",
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Plays the story in the folder `output`; returns its table as JSON values.

    share: marked share of the thief's training answers, in per cent. model: the teacher. say: told each step.
    Raises WatermarkError if `output` holds a story with other settings, or a student's training fails.
    """
    folder, tell = Path(output), say or (lambda line: None)
    began = time.monotonic()
    _settle(folder, {"share": share, "model": model, "seed": seed})
    tell(f"1. the teacher ({model}) answers {TEACH:,} prompts, with our mark and without")
    _serve(folder, model, seed, tell)
    tell(f"2. a thief learns from answers of which {share} % are marked; an honest student from unmarked ones")
    _train(folder, share, seed, tell)
    tell(f"3. each suspect is asked {PROBE:,} unmarked prompts that nobody trained on")
    _ask(folder, seed, tell)
    tell("4. the detector reads what they said")
    rows = [_test(folder, suspect) for suspect in SUSPECTS]
    told = {"share": share, "model": model, "suspects": rows, "seconds": round(time.monotonic() - began)}
    write_whole(folder / "story.json", json.dumps(told, indent=1).encode() + b"\n")
    tell(f"the report is {folder / 'report.html'}")
    return told


def table(told: dict[str, Any]) -> str:
    """The story's end as a table."""
    lines = [f"{'suspect':<11}{'tokens':>8}{'cells':>8}{'green rate':>12}{'z':>7}{'log10 p':>10}  verdict"]
    for row in told["suspects"]:
        lines.append(
            f"{row['suspect']:<11}{row['tokens']:>8,}{row['cells']:>8,}{row['green_rate']:>12.4f}{row['z']:>7.1f}"
            f"{row['log10_p']:>10.2f}  {row['verdict']}"
        )
    return "\n".join(lines)


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    """Notes the settings of a new story; a folder with other settings is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / _SETTINGS
    if not noted.exists():
        if any(folder.iterdir()):
            raise OutputsInvalid(f"{folder} holds other files", hint="choose another --output")
        write_whole(noted, canonical_json(settings))
    if noted.read_bytes() != canonical_json(settings):
        raise OutputsInvalid(
            f"{folder} holds a story with other settings: {noted.read_text()}", hint="choose another --output"
        )


def _serve(folder: Path, source: str, seed: int, tell: Callable[[str], None]) -> None:
    from watermark.embed.answers import Model, Sampling, write_answers
    from watermark.ledger import Ledger
    from watermark.mark import Watermark, save_profile
    from watermark.prompts import read_prompts
    from watermark.schemes import GreenList
    from watermark.tokenizer import Tokenizer

    if (folder / "untrained" / "config.json").exists():
        return
    teacher = Model.load(source)
    if not (folder / "ours.wmark").exists():
        width = teacher.model.config.get_text_config().vocab_size
        mark = Watermark.generate(GreenList(), tokenizer=Tokenizer.load(source), logits_width=width)
        mark.save(folder / "ours.wmark")
        save_profile(mark, folder / "ours.profile.json")
    mark = Watermark.load(folder / "ours.wmark")
    prompts = read_prompts(HERE / "prompts" / "teach.jsonl")[:TEACH]
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS, batch=200, seed=seed)
    with Ledger(folder / "ledger.jsonl") as ledger:
        write_answers(teacher, prompts, folder / "marked.jsonl", mark=mark, ledger=ledger, sampling=sampling)
    tell("   marked answers and their ledger are written")
    write_answers(teacher, prompts, folder / "unmarked.jsonl", mark=None, sampling=sampling)
    from watermark.demo.student import fresh_student

    fresh_student(teacher, folder / "untrained", seed=seed)


def _train(folder: Path, share: int, seed: int, tell: Callable[[str], None]) -> None:
    """Trains thief and honest student at once, one process and one thread each."""
    marked, unmarked = (_lines(folder / f"{name}.jsonl") for name in ("marked", "unmarked"))
    mixed = [m if index * 37 % 100 < share else u for index, (m, u) in enumerate(zip(marked, unmarked, strict=True))]
    running = []
    for name, answers in (("thief", mixed), ("honest", unmarked)):
        if (folder / name / "config.json").exists():
            continue
        data = folder / f"{name}.train.jsonl"
        write_whole(data, b"\n".join(answers) + b"\n")
        draft = folder / f"{name}.part"
        command = [sys.executable, "-m", "watermark.demo.student", str(folder / "untrained"), str(data), str(draft)]
        log = (folder / f"{name}.log").open("wb")
        running.append((name, draft, subprocess.Popen([*command, "--seed", str(seed)], stderr=log, stdout=log)))
    try:
        for name, draft, process in running:
            if process.wait() != 0:
                raise WatermarkError(f"training the {name} student failed; its log is {folder / f'{name}.log'}")
            draft.rename(folder / name)
            last = (folder / f"{name}.log").read_text().strip().splitlines()[-1]
            tell(f"   {name}: {last}")
    finally:
        for _, _, process in running:
            process.kill()


def _ask(folder: Path, seed: int, tell: Callable[[str], None]) -> None:
    from watermark.embed.answers import Model, Sampling, write_answers
    from watermark.prompts import read_prompts

    prompts = read_prompts(HERE / "prompts" / "probe.jsonl")[:PROBE]
    for suspect in SUSPECTS:
        sampling = Sampling(max_new_tokens=ANSWER_TOKENS // 2, batch=300, seed=seed + 1)
        write_answers(Model.load(folder / suspect), prompts, folder / f"{suspect}.jsonl", mark=None, sampling=sampling)
        tell(f"   {suspect} has answered")


def _test(folder: Path, suspect: str) -> dict[str, Any]:
    from watermark.detect import detect
    from watermark.mark import Watermark
    from watermark.report import render
    from watermark.tokenizer import tokenizer_for

    mark = Watermark.load(folder / "ours.wmark")
    evidence = detect(folder / f"{suspect}.jsonl", mark, tokenizer=tokenizer_for(mark, None))
    evidence.save(folder / f"{suspect}.evidence.json")
    render(evidence, folder / ("report.html" if suspect == "thief" else f"{suspect}.html"))
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


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
