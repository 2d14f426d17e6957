"""The slopes that `wmark plan` plans with, measured on the study's students: watermark/power.json.

    python benchmarks/study/slopes.py measure study [--only demo/w1d2/full]    tests students that are in the folder
    python benchmarks/study/slopes.py table                     writes watermark/power.json from what was measured

A slope is the z of one statistic per square root of 1,000 probe tokens in a student that learned from marked answers
alone; the exponent says how it falls with the marked share. `measure` appends one row to slopes.jsonl for each
student, key, access and statistic; `table` takes these rows and those under "measurements" in docs/results/study.json,
which have the same fields.

Every student is a copy of its teacher, fine-tuned: the case in which the reference is known exactly. `measure` reads a
student's own answers; the first rows, of demo/w1d2, were read over 200 unmarked answers of the teacher (top five
log-probabilities), those of demo/first over the student's own.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from watermark.files import append_whole, canonical_json, write_whole
from watermark.plan import statistics_of

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).with_name("slopes.jsonl")
STUDY = ROOT / "docs" / "results" / "study.json"
TABLE = ROOT / "watermark" / "power.json"


@dataclass(frozen=True)
class Row:
    """One statistic of one student. reference: "base" (the model it grew from) or None; z under the true key.

    student: its folder in the study; key: the account whose key marked the share, "" for the mark's own. tokens: read.
    """

    student: str
    key: str
    model: str
    training: str
    share: float
    window: int
    delta: float
    access: str
    reference: str | None
    statistic: str
    z: float
    tokens: int


GROUPED = ("model", "training", "window", "delta", "access", "reference", "statistic")
MODELS = {"demo": "embedded teacher, 2.8 million parameters", "smollm2": "SmolLM2-135M-Instruct"}
PROBES = {
    "demo": ROOT / "watermark" / "demo" / "prompts" / "probe.jsonl",
    "smollm2": ROOT / "watermark" / "probe" / "prompts" / "default.jsonl",
}
COUNT, LONGEST, SAMPLES = 240, 64, 4  # probes, tokens of an answer at most, answers to each of COUNT / SAMPLES probes
WAYS = (
    ("logits", "base"),
    ("log-probabilities", "base"),
    ("text", "base"),
    ("text", None),
    ("logits", None),
    ("log-probabilities", None),
    ("samples", None),
)


def measure(work: Path, only: str) -> None:
    """Tests the study's students that were not tested yet, in the order of their notes' names."""
    done = {row["student"] for row in rows_in(ROWS)}
    for note in sorted(work.glob("*/*/*.json")):
        told = json.loads(note.read_bytes())
        name = f"{told.get('path')}"
        if "parts" not in told or told["change"] or name in done or not re.search(only, name):
            continue
        store(test(work, told))
        say(f"{name} tested")


def test(work: Path, told: dict[str, Any]) -> Iterator[Row]:
    """One student at every level of access, with its teacher as reference and without, under each key it learned.

    A student of no mark is tested under three keys that marked nothing.
    """
    from make import under

    from watermark.embed.answers import Model
    from watermark.mark import Watermark
    from watermark.tokenizer import model_path

    mark = Watermark.load(work / told["path"].rpartition("/")[0] / "ours.wmark")
    base = model_path("demo") if told["teacher"] == "demo" else work / told["teacher"] / "base"
    student, teacher, tokenizer = Model.load(work / told["path"]), Model.load(base), mark.tokenizer(base)
    parts = [(part["account"], part["share"]) for part in told["parts"] if part["account"] is not None]
    parts = parts or [(f"nobody-{n}", 0.0) for n in range(3)]
    scratch = work / "slopes" / told["path"]
    scratch.mkdir(parents=True, exist_ok=True)
    once, often = asked(student, scratch, told["teacher"])
    listed = with_logprobs(student, tokenizer, once)
    for access, reference in WAYS:
        outputs = {"samples": often, "log-probabilities": listed}.get(access, once)
        found = seen(access, outputs, mark, tokenizer, student, teacher if reference else None)
        for account, share in parts:
            marked = under(mark, account)
            evidence = judged(found, access, reference, marked, outputs)
            evidence.save(scratch / f"{access}-{reference or 'alone'}-{account or 'own'}.json")
            zs = {s.name: s.z for s in evidence.weighted.statistics} if evidence.weighted else {"votes": evidence.z}
            for statistic, z in zs.items():
                yield Row(
                    student=told["path"],
                    key=account,
                    model=MODELS[told["teacher"]],
                    training=training_of(told),
                    share=share,
                    window=told["window"],
                    delta=told["delta"],
                    access=access,
                    reference=reference,
                    statistic=statistic,
                    z=round(z, 4),
                    tokens=evidence.tokens_read,
                )


def seen(access: str, outputs: Path, mark: Any, tokenizer: Any, student: Any, reference: Any) -> Any:
    """What `detect` reads, read once for all keys."""
    from watermark.access import Found
    from watermark.observe import observe
    from watermark.outputs import Outputs

    if access == "text" and reference is None:
        return Found(observe(Outputs(outputs), mark, tokenizer=tokenizer))
    return observed(readings(access, outputs, mark, tokenizer, student, reference), mark, tokenizer)


def readings(access: str, outputs: Path, mark: Any, tokenizer: Any, student: Any, reference: Any) -> list[Any]:
    """What is read of every text, by the package's own readers; models are put before it once."""
    from watermark.outputs import Outputs
    from watermark.probe.reading import read_logprobs, read_models, read_texts

    source = Outputs(outputs)
    if access == "logits":
        return [row[0] for row in read_models(source, [student], mark, tokenizer, reference=reference)]
    reader = read_logprobs if access == "log-probabilities" else read_texts
    return list(reader(source, mark, tokenizer, reference=reference))


def observed(read: list[Any], mark: Any, tokenizer: Any, often: Any = None) -> Any:
    """Readings as `detect` weighs them. often: how often windows were served, as a ledger tells it."""
    from watermark.access import Found
    from watermark.observe import observe_readings

    seen, stages = observe_readings(read, mark, tokenizer=tokenizer, often=often)
    return Found(seen, list(stages))


def judged(found: Any, access: str, reference: str | None, mark: Any, outputs: Path) -> Any:
    from watermark.detect import judge

    return judge(
        found,
        mark,
        access="text and reference" if access == "text" and reference else access,
        reference=reference,
        tokenizer=None,
        alpha=0.001,
        alternative="greater",
        decoys=99,
        inputs={},
        options={
            "alternative": "greater",
            "alpha": 0.001,
            "decoys": 99,
            "ledger": False,
            "skip_bad": False,
            "fields": {},
            "stopped": False,
        },
    )


def training_of(told: dict[str, Any]) -> str:
    recipe = told["recipe"]
    what = f"LoRA of rank {recipe['lora']}" if recipe["lora"] else "all weights"
    tokens = round(told["tokens"] / recipe["epochs"], -4)
    passes = "one pass" if recipe["epochs"] == 1 else f"{recipe['epochs']} passes"
    return f"{what}, {passes} over {tokens:,.0f} tokens"


def asked(student: Any, scratch: Path, teacher: str) -> tuple[Path, Path]:
    """(one answer to each probe, several answers to fewer probes), of about as many tokens."""
    from watermark.embed.answers import Sampling, write_answers
    from watermark.prompts import Prompt, read_prompts

    probes = read_prompts(PROBES[teacher])[:COUNT]
    few = probes[: COUNT // SAMPLES]
    again = [Prompt(f"{p.id}~{n}", p.text, p.messages) for p in few for n in range(SAMPLES)]
    once, often = scratch / "once.jsonl", scratch / "often.jsonl"
    for path, prompts in ((once, probes), (often, again)):
        write_answers(student, prompts, path, mark=None, sampling=Sampling(LONGEST, batch=120, seed=7))
    return once, often


def with_logprobs(student: Any, tokenizer: Any, answers: Path, top: int = 5) -> Path:
    """The same answers with the student's `top` log-probabilities at each token, as an endpoint lists them."""
    import torch

    from watermark.prompts import Prompt

    path = answers.with_name("top.jsonl")
    if path.exists():
        return path
    spelled, lines = tokenizer.spellings(), []
    for line in answers.read_bytes().splitlines():
        answer = json.loads(line)
        said = answer["meta"]["token_ids"]
        prompt = Prompt(answer["id"], answer["prompt"], ({"role": "user", "content": answer["prompt"]},))
        asked = student.tokenizer(student.templated(prompt), add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = student.model(input_ids=torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]
        rows = torch.log_softmax(logits.float(), dim=-1)
        values, ids = rows.topk(top, dim=-1)
        listed = [
            entry(spelled, token, float(rows[at, token]))
            | {"top_logprobs": [entry(spelled, int(i), float(v)) for i, v in zip(ids[at], values[at], strict=True)]}
            for at, token in enumerate(said)
        ]
        answer |= {"token_ids": said, "logprobs": listed, "meta": None}
        lines.append(json.dumps(answer))
    path.write_text("\n".join(lines) + "\n")
    return path


def entry(spelled: list[bytes | None], token: int, logprob: float) -> dict[str, Any]:
    found = spelled[token] or b""
    return {"token": found.decode(errors="replace"), "bytes": list(found), "logprob": min(0.0, round(logprob, 5))}


def store(rows: Iterable[Row]) -> None:
    for row in list(rows):
        with ROWS.open("ab", buffering=0) as stream:
            append_whole(stream, canonical_json(asdict(row)) + b"\n")


def table() -> dict[str, Any]:
    """power.json: a fitted slope for each group of students that differ in share and seed alone."""
    rows = rows_in(ROWS)
    if STUDY.exists():
        rows += json.loads(STUDY.read_bytes()).get("measurements", [])
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        named = statistics_of(row["access"], reference=row["reference"] is not None)
        if row["share"] > 0 and row["statistic"] in named:
            groups[tuple(row[name] for name in GROUPED)].append(row)
    made = [dict(zip(GROUPED, group, strict=True)) | fitted(found) for group, found in groups.items()]
    made.sort(key=lambda row: [str(row[name]) for name in GROUPED])
    return {"format": "wmark-power/1", "unit": "z per square root of 1,000 probe tokens at share 1", "slopes": made}


def fitted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Slope b and exponent e of z / √(tokens / 1,000) = b · share^e.

    b is the mean of the students of the largest share, over share^1 if that is below 1. e is the smallest, up to 1,
    that promises no more at any other share than was seen there, within one standard error: effects are concave, but
    no power of the share, and a plan should not count on what was not seen. spread: of one more student, from
    students of one share; with fewer than three of them it is taken to be a fifth of the slope at least, since one
    student cannot show how much others would differ.
    """
    by_share: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        by_share[row["share"]].append((row["z"] / math.sqrt(row["tokens"] / 1000), 1000 / row["tokens"]))
    means = {share: statistics.mean(y for y, _ in found) for share, found in by_share.items()}
    errors = {share: math.sqrt(sum(v for _, v in found)) / len(found) for share, found in by_share.items()}
    most = max(by_share)
    slope = means[most] / most
    exponent = 1.0
    if most == 1 and len(by_share) > 1:
        held = (
            round(0.3 + 0.01 * step, 2)
            for step in range(71)
            if all(slope * x ** (0.3 + 0.01 * step) <= means[x] + errors[x] for x in by_share if x < 1)
        )
        exponent = next(held, 1.0)
    alone = [y / most for y, _ in by_share[most]]
    spread = statistics.stdev(alone) if len(alone) >= 3 else abs(slope) / 5
    noise = math.sqrt(statistics.mean(v for _, v in by_share[most])) / most
    return {
        "students": len(rows),
        "slope": round(slope, 3),
        "spread": round(max(noise, spread), 3),
        "exponent": exponent,
        "tokens": round(statistics.median(row["tokens"] for row in rows)),
    }


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("work", type=Path, nargs="?", default=Path("study"))
    parser.add_argument("--only", default="", help="a regular expression for the students' folders")
    given = parser.parse_args()
    if given.what == "table":
        write_whole(TABLE, json.dumps(table(), indent=1).encode() + b"\n")
        return
    measure(given.work, given.only)


if __name__ == "__main__":
    main()
