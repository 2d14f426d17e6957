"""Students of answers that engines marked: are they found by `wmark detect`, and are honest students not?

    python benchmarks/engine_students.py --work students                 # everything
    python benchmarks/engine_students.py --work students --only vllm     # cases whose name holds a word

A case is an engine's own configuration. The embedded teacher answers by that engine's own rule: transformers' marks
through its generate(), vLLM's and SGLang's by their samplers' arithmetic (`draw` of the schemes, held to the engines'
own samplers by tests/conformance), their rule for repeated windows included. Students learn from 100,000 tokens, all of
them or a fifth marked; honest students from as many unmarked ones. Then the user's own path, each step a command:
`wmark profile import`, `wmark detect` on what the student answers, and `wmark detect --suspect --reference`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "study"))
from make import PROMPTS, Answer, Teacher, chosen, read, taken
from train import Recipe, train

from watermark.files import append_whole, canonical_json, write_whole

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.prompts import Prompt

TOKENS, SERVED, PROBES = 100_000, 1500, 250
HONEST = 1
SHARES = (1.0, 0.0, 0.2)  # of the tokens learned, marked; the honest students learn as many, none of them marked
FIRST = ("hf-kgw", "vllm-w4", "sglang-w4")
REMARKS = "## Remarks"
RECIPE = Recipe(epochs=2, step=1536, rate=1e-3, longest=96)  # the study's, for this teacher
WORD = 0x5DEECE66D1CE4E5B  # the engines' key: fixed, so that the run can be repeated


@dataclass(frozen=True)
class Case:
    """An engine's configuration. source: its `--from`; rule: what of it marks a teacher's answers."""

    name: str
    source: str
    config: dict[str, Any]
    rule: Callable[[Case, Watermark], Any]


def transformers_mark(case: Case, mark: Watermark) -> Any:
    """The library's own configuration, for its own generate()."""
    from transformers import SynthIDTextWatermarkingConfig, WatermarkingConfig

    return (SynthIDTextWatermarkingConfig if "keys" in case.config else WatermarkingConfig)(**case.config)


def sampled(case: Case, mark: Watermark) -> Any:
    """A configuration for generate() whose processor leaves of the logits the one token that the engine draws.

    vLLM's windows lie in the answer, with -1 before it, and one met before in the answer is not marked
    (deduplicate_contexts "single_turn"); SGLang's reach back into the prompt, and one marked before is not marked.
    """
    import torch
    from transformers.generation.configuration_utils import BaseWatermarkingConfig
    from transformers.generation.logits_process import LogitsProcessor

    prompted, width = case.source == "sglang", mark.scheme.window

    class Drawn(LogitsProcessor):  # type: ignore[misc]
        def __init__(self) -> None:
            self.start, self.seen = -1, torch.empty(0)

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            if self.start < 0:
                self.start = input_ids.shape[1]
                self.seen = torch.empty(len(input_ids), 0, width, dtype=torch.long)
            shown = input_ids if prompted else input_ids[:, self.start :]
            before = torch.full((len(shown), width), -1)
            contexts = torch.cat([before, shown], dim=1)[:, -width:]
            repeated = (self.seen == contexts[:, None]).all(dim=2).any(dim=1)
            self.seen = torch.cat([self.seen, contexts[:, None]], dim=1)
            picked = torch.from_numpy(mark.scheme.draw(scores.numpy(), contexts.numpy(), mark.key))  # type: ignore[attr-defined]
            alone = torch.full_like(scores, -torch.inf).scatter_(1, picked[:, None], 0.0)
            return torch.where(repeated[:, None], scores, alone)

    class Engine(BaseWatermarkingConfig):  # type: ignore[misc]
        def validate(self) -> None: ...

        def construct_processor(self, vocab_size: int, device: Any) -> Any:
            return Drawn()

    return Engine()


def cases() -> Iterator[Case]:
    """What is asked for first, then the others."""
    key, digits = WORD, f"{WORD:016x}"
    yield Case("hf-kgw", "hf", {"hashing_key": key, "greenlist_ratio": 0.25, "bias": 2.0}, transformers_mark)
    for width in (4, 2, 1):
        yield Case(f"vllm-w{width}", "vllm", {"key": key, "context_width": width}, sampled)
        yield Case(f"sglang-w{width}", "sglang", {"key": digits, "context_window": width}, sampled)
    layers = [(key * (layer + 1)) % 2**31 for layer in range(30)]
    yield Case("hf-synthid", "hf-synthid", {"ngram_len": 5, "keys": layers}, transformers_mark)
    salted = {"hashing_key": key, "seeding_scheme": "selfhash", "context_width": 4, "bias": 2.0}
    yield Case("hf-selfhash", "hf", salted, transformers_mark)


@dataclass
class Bench:
    """A work folder. Every step is kept in a file and not made twice."""

    work: Path
    teacher: Teacher

    def prompts(self, name: str) -> list[Prompt]:
        from watermark.prompts import read_prompts

        return read_prompts(PROMPTS / f"{name}.jsonl")

    def served(self) -> list[Prompt]:
        return chosen(self.prompts("teach"), "engines", SERVED)

    def unmarked(self, number: int) -> list[Answer]:
        """One answer to each prompt; each number has a seed of its own."""
        return self.teacher.answers(self.served(), self.work / f"unmarked-{number}.jsonl", None, seed=40 + number)

    def probes(self) -> Path:
        """Unmarked answers of the teacher to prompts that nobody learned from, to be put before models."""
        path = self.work / "probes.jsonl"
        if not path.exists():
            self.teacher.answers(self.prompts("probe")[:200], path, None, seed=3)
        return path

    def mark(self, case: Case) -> Path:
        """The case's watermark file, from the engine's configuration by `wmark profile import`."""
        folder = self.work / case.name
        path, config = folder / "ours.wmark", folder / "config.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            config.touch(mode=0o600)
            config.write_text(json.dumps(case.config))
            wmark("profile", "import", config, "--from", case.source, "--mark", path, "--model", "demo")
        return path

    def marked(self, case: Case) -> list[Answer]:
        """The teacher's answers under the case's engine."""
        from watermark.mark import Watermark

        path = self.work / case.name / "marked.jsonl"
        if not path.with_suffix(".done").exists():
            mark = Watermark.load(self.mark(case))
            path.unlink(missing_ok=True)
            answer(self.teacher, self.served(), path, lambda: case.rule(case, mark), seed=7)
            write_whole(path.with_suffix(".done"), b"done\n")
        return read(path)

    def student(self, folder: Path, answers: Callable[[], list[Answer]], seed: int) -> Path:
        """A student of these answers; `folder` is there when it is finished."""
        if not folder.exists():
            draft, began = folder.with_suffix(".part"), time.process_time()
            precise = replace(RECIPE, seed=seed, precision=self.teacher.precision)
            made = train("demo", answers(), draft, precise)
            draft.rename(folder)
            say(f"{folder.name}: {made}, {time.process_time() - began:.0f} CPU seconds")
        return folder

    def honest(self, number: int) -> Path:
        return self.student(
            self.work / f"honest-{number}", lambda: taken(self.unmarked(number), TOKENS, number), number
        )

    def taught(self, case: Case, share: float) -> Path:
        """A student of which `share` of the answer tokens were marked."""

        def mixed() -> list[Answer]:
            marked = taken(self.marked(case), share * TOKENS, 1)
            return marked + (taken(self.unmarked(0), (1 - share) * TOKENS, 2) if share < 1 else [])

        return self.student(self.work / case.name / f"taught-{100 * share:g}", mixed, 0)

    def students(self, case: Case, share: float) -> list[Path]:
        """Students with this share of the case's marked tokens; of none, the honest ones."""
        return [self.taught(case, share)] if share else [self.honest(number) for number in range(HONEST)]

    def asked(self, student: Path, which: str) -> Path:
        """What a student answers, without a mark, to new prompts ("new") or to those that were served ("served")."""
        from watermark.embed.answers import Model, Sampling, write_answers

        path = student.with_name(f"{student.name}.{which}.jsonl")
        if not path.with_suffix(".done").exists():
            prompts = self.prompts("probe")[200 : 200 + PROBES] if which == "new" else self.served()[:PROBES]
            like = sorted(prompts, key=lambda prompt: len(prompt.text))
            write_answers(Model.load(student), like, path, mark=None, sampling=Sampling(96, batch=100, seed=9))
            write_whole(path.with_suffix(".done"), b"done\n")
        return path

    def evidence(self, case: Case, student: str, access: str) -> Path:
        return self.work / "evidence" / f"{case.name}.{student}.{access}.json"

    def detected(self, case: Case, student: Path, access: str) -> dict[str, Any]:
        """What `wmark detect` says; the figures of its evidence. access: as in `ACCESSES`."""
        evidence = self.evidence(case, student.name, access)
        if not evidence.exists():
            evidence.parent.mkdir(exist_ok=True)
            which, options = ACCESSES[access]
            outputs = self.probes() if which == "probes" else self.asked(student, which)
            given = [
                option.format(student=student, served=self.work / case.name / "marked.jsonl") for option in options
            ]
            said = wmark(
                "detect", outputs, "--mark", self.mark(case), "--output", evidence, "--quiet", *given, may=True
            )
            if said:
                write_whole(evidence, canonical_json({"refused": said}))
        return figures(json.loads(evidence.read_bytes()))


ACCESSES: dict[str, tuple[str, list[str]]] = {
    "text": ("new", []),
    "text, served prompts": ("served", []),
    "weights, base": ("probes", ["--suspect", "{student}", "--reference", "demo", "--clean", "{served}"]),
}


def answer(teacher: Teacher, prompts: Sequence[Prompt], path: Path, rule: Callable[[], Any], *, seed: int) -> None:
    """One marked answer to each prompt, as `write_answers` keeps them. rule: a new one for each batch has no memory."""
    from watermark.embed.answers import Sampling, batch_seed

    sampling = Sampling(teacher.longest, batch=teacher.batch, seed=seed)
    like = sorted(prompts, key=lambda prompt: len(prompt.text))
    with path.open("ab", buffering=0) as stream:
        for start in range(0, len(like), sampling.batch):
            batch = like[start : start + sampling.batch]
            rows = teacher.model.answer(batch, sampling, config=rule(), seed=batch_seed(seed, start))
            for prompt, ids in zip(batch, rows, strict=True):
                text = teacher.model.tokenizer.decode(ids, skip_special_tokens=True)
                meta = {"token_ids": ids, "receipt": None}
                told = {"id": prompt.id, "prompt": prompt.text, "text": text, "meta": meta}
                append_whole(stream, canonical_json(told) + b"\n")


def figures(evidence: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of one evidence."""
    if "refused" in evidence:
        return evidence
    found = {
        "verdict": evidence["verdict"],
        "tokens": evidence["tokens_read"],
        "cells": evidence["cells"],
        "green": round(evidence["green_rate"], 4),
        "z": round(evidence["z"], 2),
        "log10_p": round(evidence["log10_p"], 2),
        "rank": evidence["decoys"]["rank_pvalue"],
    }
    if evidence.get("weighted"):
        found["z"] = max(round(s["z"], 2) for s in evidence["weighted"]["statistics"])
    return found


def written(bench: Bench, path: Path) -> None:
    """The page of everything found so far; remarks that stand in it stay."""
    rows = [row for case in cases() for share in SHARES for row in _rows(bench, case, share)]
    before = path.read_text("utf-8") if path.exists() else ""
    remarks = before[before.index(REMARKS) :] if REMARKS in before else f"{REMARKS}\n"
    versions = ", ".join(f"{name} {version(name)}" for name in ("wmark", "torch", "transformers", "numpy"))
    head = f"""# Students of answers that engines marked

`make engine-students`; {versions}; {platform.machine()}, no accelerator.

The embedded teacher's answers, marked by each engine's own rule; students learn from {TOKENS:,} answer tokens,
{RECIPE.epochs} passes. Detection is the user's own path: `wmark profile import` of the engine's configuration, then
`wmark detect`. "text": what the student answers to {PROBES} prompts that nobody learned from; "text, served prompts":
to {PROBES} of those that it learned; "weights, base": its log-probabilities over 200 unmarked answers, the teacher
subtracted, windows weighed by how often they were served. log10 p is exact for text, that of the mean e-value for
weights (z there is the best of four statistics).

| engine | marked share | read | tokens | z | log10 p | verdict |
|---|--:|---|--:|--:|--:|---|
"""
    write_whole(path, (head + "".join(rows) + "\n" + _varied(bench) + remarks).encode())


def _rows(bench: Bench, case: Case, share: float) -> Iterator[str]:
    for name in [f"taught-{100 * share:g}"] if share else [f"honest-{number}" for number in range(HONEST)]:
        for access in ACCESSES:
            path = bench.evidence(case, name, access)
            if path.exists():
                f = figures(json.loads(path.read_bytes()))
                learned = f"{100 * share:g} %" if share else f"none ({name})"
                said = f["verdict"] if "verdict" in f else f"refused: {f['refused']}"
                numbers = f"{f['tokens']:,} | {f['z']:.1f} | {f['log10_p']:.1f}" if "verdict" in f else " | | "
                yield f"| {case.name} | {learned} | {access} | {numbers} | {said} |\n"


def _varied(bench: Bench) -> str:
    """How many answers to one prompt differ under one key, where they were drawn."""
    lines = [
        f"| {case.name} | {told['distinct']:.1f} | {told['distinct_2']:.3f} |\n"
        for case in cases()
        if (bench.work / case.name / "variety.jsonl").exists()
        for told in [told_apart(read(bench.work / case.name / "variety.jsonl"))]
    ]
    if not lines:
        return ""
    head = (
        "Eight answers to each of 16 prompts under one key: how many differ, and the share of distinct token pairs.\n"
    )
    return head + "\n| engine | distinct of 8 | distinct-2 |\n|---|--:|--:|\n" + "".join(lines) + "\n"


def vary(bench: Bench, case: Case) -> None:
    """Eight answers to each of 16 prompts under one key."""
    from watermark.mark import Watermark

    path = bench.work / case.name / "variety.jsonl"
    if path.exists():
        return
    mark, some, draft = Watermark.load(bench.mark(case)), bench.served()[:16], path.with_suffix(".part")
    draft.unlink(missing_ok=True)
    for seed in range(8):
        answer(bench.teacher, some, draft, lambda: case.rule(case, mark), seed=100 + seed)
    draft.rename(path)


def told_apart(answers: Sequence[Answer]) -> dict[str, float]:
    texts: dict[str, set[str]] = {}
    for told in answers:
        texts.setdefault(told["id"], set()).add(told["text"])
    pairs = [pair for told in answers for pair in zip(told["meta"]["token_ids"], told["meta"]["token_ids"][1:])]
    return {
        "distinct": sum(map(len, texts.values())) / len(texts),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
    }


def wmark(*arguments: object, may: bool = False) -> str:
    """Runs the command line; returns "" or, where it `may` refuse, what it said."""
    command = [str(Path(sys.executable).with_name("wmark")), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode and not may:
        raise SystemExit(f"wmark {' '.join(map(str, arguments))}: {ran.stderr}")
    return ran.stderr.strip().splitlines()[0] if ran.returncode else ""


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("engine-students"))
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--page", type=Path, help="where the page goes; by default into the work folder")
    parser.add_argument("--tables", action="store_true", help="make nothing more, write the page of what was found")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    precision = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
    bench = Bench(given.work, Teacher("demo", precision=precision))
    wanted = [case for case in cases() if given.only in case.name]
    for first, access, share in product((True, False), ACCESSES, SHARES):
        for case in wanted:
            if (case.name in FIRST) == first and not given.tables:
                for student in bench.students(case, share):
                    say(f"{case.name}, {student.name}, {access}: {bench.detected(case, student, access)}")
    for case in [] if given.tables else wanted:
        vary(bench, case)
    written(bench, given.page or given.work / "page.md")


if __name__ == "__main__":
    main()
