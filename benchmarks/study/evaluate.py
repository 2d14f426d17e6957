"""What is found in each student: every access and reference of the package, and the published tests beside them.

    python benchmarks/study/evaluate.py study [--only demo/w1d2]

One line of WORK/found.jsonl for each student, key, access and reference; lines that are there are not made again.
Models are put before the teacher's unmarked answers to probe prompts, which nobody learned from; text is what the
suspect itself answers to these prompts. The readings are `detect`'s own, read once for all keys of a student.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from baselines import published
from make import read, under
from slopes import judged, observed, readings, seen, with_logprobs

from watermark.embed.answers import Model, Sampling, write_answers
from watermark.files import append_whole, canonical_json

MANY = 8  # keys; a student of more is read in fewer ways
CANDIDATES = 1000  # accounts among which those that taught a crowd's student are sought
STRENGTHS = (0.5, 1.0, 2.0)
NOBODY = 4  # keys that marked nothing, tested in every student
_ASKED = ("probe", "probe-2")
LEDGER = ", ledger"  # ways in which windows count by how often they were served
LONGEST = {"demo": 96, "smollm2": 112}


def evaluate(work: Path, only: str) -> None:
    """Tests every student of the folder that was not tested yet, by the order of their names."""
    found = work / "found.jsonl"
    done = {row["student"] for row in map(json.loads, found.read_bytes().splitlines())} if found.exists() else set()
    for note in sorted(work.glob("*/*/*.json")):
        told = json.loads(note.read_bytes())
        if "parts" not in told or told["path"] in done or not re.search(only, told["path"]):
            continue
        rows = list(tested(work, told))
        if told["name"].startswith("crowd"):
            rows.append(attributed(work, told))
        if told["path"] in ("demo/w1d2/full-100", "demo/w1d2/full-20"):
            rows += neutralised(work, told)
        with found.open("ab", buffering=0) as stream:
            for row in rows:
                append_whole(stream, canonical_json(row) + b"\n")
        print(told["path"], flush=True)


def tested(work: Path, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All rows of one student, under each key it learned from and some that it did not."""
    from watermark.mark import Watermark
    from watermark.tokenizer import model_path

    setting = work / told["path"].rpartition("/")[0]
    mark, teacher = Watermark.load(setting / "ours.wmark"), told["teacher"]
    base = model_path("demo") if teacher == "demo" else work / teacher / "base"
    tokenizer, probes = mark.tokenizer(base), _probes(work / teacher / "probe.jsonl")
    keys = [(part["account"], part["share"]) for part in told["parts"]]
    keys += [(f"nobody-{n}", 0.0) for n in range(NOBODY)]
    marks = [under(mark, account) for account, _ in keys]
    student, models = Model.load(work / told["path"]), {"base": Model.load(base)}
    for name in ("full-0", "unrelated"):
        if (setting / f"{name}.json").exists() and told["name"] != name and told["change"] != "retokenized":
            models[name] = Model.load(setting / name)
    if teacher == "smollm2":
        models["unrelated"] = Model.load("demo")  # another family, with another vocabulary
    scratch = work / "read" / told["path"]
    scratch.mkdir(parents=True, exist_ok=True)
    own = scratch / "own.jsonl"
    write_answers(student, _prompts(probes), own, mark=None, sampling=Sampling(LONGEST[teacher], batch=120, seed=9))
    served = _served(setting / "marked.jsonl", mark, tokenizer) if teacher == "smollm2" else None
    ways: list[tuple[str, Path, str | None]] = [("text", own, None), ("text", own, "base")]
    if told["change"] != "retokenized":
        ways.append(("logits", probes, "base"))
        if served is not None:
            ways += [("logits, ledger", probes, "base"), ("logits, ledger", probes, None)]
            ways.append(("logits, ledger", _longer(work / teacher), "base"))
    if not told["change"] and len(told["parts"]) <= MANY:  # every way; the others are read in the strongest ones
        listed = with_logprobs(student, tokenizer, own)
        ways += [("log-probabilities", listed, "base"), ("logits", probes, None)]
        if served is not None:
            ways += [("log-probabilities, ledger", listed, "base"), ("logits, ledger", probes, "unrelated")]
        ways += [("logits", probes, name) for name in models if name != "base"]
    if told["change"] != "retokenized" and len(told["parts"]) <= MANY:
        for (account, share), result in zip(keys, published(student, read(probes), marks), strict=True):
            yield _row(told, account, share, "published", None, asdict(result))
    done: dict[tuple[str, Path, str | None], list[Any]] = {}
    for named, outputs, reference in ways:
        access = named.removesuffix(LEDGER)
        if access == "text" and reference is None:
            found = seen(access, outputs, mark, tokenizer, student, None)
        else:
            read_once = (access, outputs, reference)
            if reference is None and (access, outputs, "base") in done:  # the same texts before the same student
                done[read_once] = [replace(reading, reference=None) for reading in done[access, outputs, "base"]]
            if read_once not in done:
                beside = models[reference] if reference else None
                done[read_once] = readings(access, outputs, mark, tokenizer, student, beside)
            found = observed(done[read_once], mark, tokenizer, served if named.endswith(LEDGER) else None)
        for (account, share), marked in zip(keys, marks, strict=True):
            figures = _figures(judged(found, access, reference, marked, outputs))
            yield _row(told, account, share, named, reference, figures)


def _served(answers: Path, mark: Any, tokenizer: Any) -> Any:
    """How often each window stands in the marked answers that were served: what a ledger tells a provider."""
    from watermark.observe import counted_windows
    from watermark.outputs import Outputs

    return counted_windows(Outputs(answers), mark, tokenizer) if answers.exists() else None


def attributed(work: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Which of 1,000 accounts a crowd's student learned from: mean e-values, Holm at 1 %, from open weights."""
    from watermark.assess import stacked
    from watermark.mark import Watermark
    from watermark.stats.combine import holm, mean_evalue
    from watermark.stats.weighted import WeightedSum
    from watermark.tokenizer import model_path

    mark, base = Watermark.load(work / told["path"].rpartition("/")[0] / "ours.wmark"), model_path("demo")
    probes = _probes(work / told["teacher"] / "probe.jsonl")
    student = Model.load(work / told["path"])
    observed = seen("logits", probes, mark, mark.tokenizer(base), student, Model.load(base)).seen
    weights, names = stacked(observed)[1:], [name for name in observed.weights if name != "votes"]
    accounts = [part["account"] for part in told["parts"]]
    accounts += [f"candidate-{n}" for n in range(CANDIDATES - len(accounts))]
    keys = [mark.key.subkey(tenant=account) for account in accounts]
    totals = mark.totals(observed.windows, observed.choices, weights, keys)
    laws = [WeightedSum(row, mark.scheme.null.mean) for row in weights]
    evalues = [law.log10_evalue(column) for law, column in zip(laws, totals.T, strict=True)]
    level, taught = -mean_evalue(np.stack(evalues), axis=0), len(told["parts"])
    named = holm(np.minimum(level, 0)) <= -2
    tails = [law.log10_pvalue(int(total)) for law, total in zip(laws[2:3] * len(keys), totals[:, 2], strict=True)]
    alone = holm(np.array(tails)) <= -2
    z = {name: [round(law.z(int(t)), 2) for t in column[:taught]] for name, law, column in zip(names, laws, totals.T)}
    return {
        "student": told["path"],
        "access": "attribution",
        "candidates": len(keys),
        "taught": taught,
        "found": int(named[:taught].sum()),
        "false": int(named[taught:].sum()),
        "statistic": names[2],
        "found_alone": int(alone[:taught].sum()),
        "false_alone": int(alone[taught:].sum()),
        "z": z,
    }


def neutralised(work: Path, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A student whose logits lose what it gained, at three strengths, against its base."""
    from attack import neutralise

    from watermark.mark import Watermark
    from watermark.tokenizer import model_path

    mark, base = Watermark.load(work / told["path"].rpartition("/")[0] / "ours.wmark"), Model.load("demo")
    tokenizer, probes = mark.tokenizer(model_path("demo")), _probes(work / told["teacher"] / "probe.jsonl")
    for strength in STRENGTHS:
        student = Model.load(work / told["path"])
        neutralise(student, base, read(work / told["teacher"] / "unmarked.jsonl")[:800], strength)
        observed = seen("logits", probes, mark, tokenizer, student, base)
        found = _figures(judged(observed, "logits", "base", mark, probes))
        changed = {
            **told,
            "path": f"{told['path']}-neutralised-{strength:g}",
            "change": "neutralised",
            "amount": strength,
        }
        yield _row(changed, "", told["parts"][0]["share"], "logits", "base", found)


def _figures(evidence: Any) -> dict[str, Any]:
    """What the tables need of one evidence."""
    figures = {"tokens": evidence.tokens_read, "votes_z": round(evidence.z, 3), "log10_p": round(evidence.log10_p, 2)}
    if evidence.weighted:
        figures["z"] = {s.name: round(s.z, 3) for s in evidence.weighted.statistics}
        figures["exact"] = {s.name: round(s.log10_p, 2) for s in evidence.weighted.statistics}
        figures["log10_e"] = round(evidence.weighted.log10_e, 2)
    if evidence.anytime:
        figures["anytime"] = {
            "log10_e": round(evidence.anytime.log10_e, 2),
            "passed": {str(level): _passed(evidence.anytime.steps, level) for level in (3, 6)},
        }
    return figures


def _passed(steps: Any, level: int) -> int | None:
    """Tokens read when the e-process first reached 10^level."""
    return next((step.tokens for step in steps if step.log10_e >= level), None)


def _row(
    told: dict[str, Any], account: str, share: float, access: str, reference: str | None, figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "student": told["path"],
        "change": told["change"],
        "amount": told["amount"],
        "key": account,
        "share": share,
        "access": access,
        "reference": reference,
        **figures,
    }


def _probes(path: Path) -> Path:
    """The first probe texts, at most 200 and at most 20,000 tokens, as outputs that can be read."""
    texts = path.with_name("probe.texts.jsonl")
    if not texts.exists():
        kept, tokens = [], 0
        for answer in read(path)[:200]:
            tokens += len(answer["meta"]["token_ids"])
            if tokens > 20_000:
                break
            kept.append(answer)
        texts.write_text("".join(json.dumps(answer) + "\n" for answer in kept))
    return texts


def _longer(folder: Path) -> Path:
    """All probe texts that there are, for reading on."""
    texts = folder / "probe.longer.jsonl"
    answers = [answer for path in sorted(folder.glob("probe*.jsonl")) if path.stem in _ASKED for answer in read(path)]
    texts.write_text("".join(json.dumps(answer | {"id": str(number)}) + "\n" for number, answer in enumerate(answers)))
    return texts


def _prompts(probes: Path) -> list[Any]:
    from watermark.prompts import Prompt

    return [Prompt(a["id"], a["prompt"], ({"role": "user", "content": a["prompt"]},)) for a in read(probes)]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="", help="only the students whose path this pattern finds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    evaluate(given.work, given.only)


if __name__ == "__main__":
    main()
