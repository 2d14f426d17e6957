"""Which scheme to serve under: what each costs in quality, how it is found in text, and in a student of its answers.

    python benchmarks/schemes.py run WORK [--only gumbel] [--prompts 560] [--tokens 40000] [--probes 120]
    python benchmarks/schemes.py table WORK              writes docs/results/schemes.json and prints the tables

The embedded teacher serves answers under each scheme, a copy of it learns from them (study/train.py), and both are read
as the study reads its own. What is in WORK is not made again, so that a run which was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "study"))

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.schemes import Scheme

BLOCK = 1000  # tokens of one test of text
KEYS, ASKED = 6, 14  # keys under which quality is measured, and prompts of each: a block and some
LONGEST = 96
RESULTS = ROOT / "docs" / "results" / "schemes.json"


@dataclass(frozen=True)
class Size:
    """prompts: marked answers of each scheme; tokens: learned by a student; probes: texts read."""

    prompts: int = 560
    tokens: int = 40_000
    probes: int = 120


def schemes() -> dict[str, Scheme]:
    """What is compared, by its name in the tables; window 1, where students learn most, and 2."""
    from watermark.schemes import AntiDistill, GreenList, Gumbel, Tournament

    return {
        "greenlist δ 2": GreenList(window=1),
        "gumbel": Gumbel(window=1),
        "tournament": Tournament(window=1),
        "antidistill λ 8": AntiDistill(window=1),
        "greenlist δ 1": GreenList(window=1, delta=1.0),
        "antidistill λ 4": AntiDistill(window=1, strength=4.0),
        "antidistill λ 16": AntiDistill(window=1, strength=16.0),
        "greenlist δ 2, gate 1": GreenList(window=1, gate=1.0),
        "tournament, 10 layers": Tournament(window=1, depth=10),
        "gumbel, window 2": Gumbel(window=2),
        "tournament, window 2": Tournament(window=2),
        "greenlist δ 2, window 2": GreenList(window=2),
    }


TAUGHT = {  # share of marked tokens each student learns
    "greenlist δ 2": (1.0, 0.2),
    "gumbel": (1.0, 0.2),
    "tournament": (1.0,),
    "antidistill λ 16": (1.0,),
    "greenlist δ 1": (1.0,),
    "gumbel, window 2": (1.0,),
}


class Work:
    """A folder of marks, answers and students, and the teacher, loaded once."""

    def __init__(self, folder: Path, size: Size) -> None:
        from make import Teacher

        self.folder, self.size = folder, size
        self.teacher = Teacher("demo", LONGEST)

    def mark(self, name: str, number: int = 0) -> Watermark:
        """The mark of one scheme; its keys follow from the name, so that the figures can be made again."""
        from watermark.keys import decoy_keys
        from watermark.mark import Binding, Watermark
        from watermark.tokenizer import Tokenizer, logits_width, model_path

        tokenizer = Tokenizer.load(str(model_path("demo")))
        bound = Binding(tokenizer.digest, logits_width("demo"), tokenizer.special_ids, "demo")
        key = list(decoy_keys(f"schemes/{name}".encode(), KEYS + 1))[number]
        return Watermark(schemes()[name], key, bound)

    def answers(self, name: str | None) -> list[dict[str, Any]]:
        """The teacher's answers to the teaching prompts under a scheme, or without a mark."""
        from make import PROMPTS, chosen

        from watermark.prompts import read_prompts

        prompts = chosen(read_prompts(PROMPTS / "teach.jsonl"), "schemes")[: self.size.prompts]
        path = self.folder / slug(name or "unmarked") / "answers.jsonl"
        return self.teacher.answers(prompts, path, self.mark(name) if name else None, seed=1)

    def short(self, name: str | None, number: int) -> list[dict[str, Any]]:
        """Answers to a few prompts, other ones for each key."""
        from make import PROMPTS, chosen

        from watermark.prompts import read_prompts

        prompts = chosen(read_prompts(PROMPTS / "teach.jsonl"), "quality")[ASKED * (number - 1) : ASKED * number]
        path = self.folder / slug(name or "unmarked") / f"short-{number}.jsonl"
        return self.teacher.answers(prompts, path, self.mark(name, number) if name else None, seed=10 + number)

    def probes(self) -> Path:
        """The teacher's unmarked answers to the probe prompts, which nobody learns from."""
        from make import PROMPTS

        from watermark.prompts import read_prompts

        path = self.folder / "probe.jsonl"
        self.teacher.answers(read_prompts(PROMPTS / "probe.jsonl")[: self.size.probes], path, None, seed=3)
        return path

    def student(self, name: str | None, share: float) -> Path:
        """A copy of the teacher that learned from so large a share of marked tokens, the rest unmarked."""
        from make import taken
        from train import Recipe, train

        folder = self.folder / slug(name or "unmarked") / f"student-{100 * share:g}"
        if not folder.exists():
            learned = []
            if name and share:
                learned += taken(self.answers(name), share * self.size.tokens, 5)
            if share < 1:
                learned += taken(self.answers(None), (1 - share) * self.size.tokens, 6)
            draft = folder.with_suffix(".part")
            train("demo", learned, draft, Recipe(epochs=2, step=1536, rate=1e-3, longest=LONGEST, precision="float32"))
            draft.rename(folder)
        return folder


def slug(name: str) -> str:
    """A folder's name: "greenlist δ 2" -> "greenlist-delta-2"."""
    return re.sub(r"[^a-z0-9]+", "-", name.replace("δ", "delta").replace("λ", "lambda").lower()).strip("-")


def quality(work: Work, name: str) -> dict[str, float]:
    """What a mark does to text, under several keys, each with prompts of its own; beside unmarked answers to all.

    nats: -log p a token under the unmarked teacher, se: of the difference from unmarked text, from key to key. kl: of
    one step under the key. distinct_2: distinct pairs of tokens over all. z, log10_p: of 1,000 tokens under the key,
    medians over keys.
    """
    marked, plain = ([work.short(n, k) for k in range(1, KEYS + 1)] for n in (name, None))
    nats, before = (np.array([_nats(work, some) for some in each]) for each in (marked, plain))
    tested = [_block(work.mark(name, k), some) for k, some in enumerate(marked, 1)]
    innocent = [_block(work.mark(name, k), some) for k, some in enumerate(plain, 1)]
    return {
        "nats": float(nats.mean()),
        "nats_unmarked": float(before.mean()),
        "se": float((nats - before).std(ddof=1) / math.sqrt(KEYS)),
        "kl": float(np.mean([_divergence(work, work.mark(name, k), plain[k - 1][:4]) for k in range(1, KEYS + 1)])),
        "distinct_2": float(np.mean([_distinct(some, 2) for some in marked])),
        "distinct_2_unmarked": float(np.mean([_distinct(some, 2) for some in plain])),
        "z": float(np.median([z for z, _ in tested])),
        "log10_p": float(np.median([p for _, p in tested])),
        "z_unmarked": float(np.median([z for z, _ in innocent])),
    }


def _block(mark: Watermark, answers: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """z and log10 p of the first 1,000 tokens of some answers."""
    from watermark.observe import observe
    from watermark.outputs import Output

    outputs, left, law = [], BLOCK, mark.scheme.null
    for answer in answers:
        ids = tuple(answer["meta"]["token_ids"][:left])
        outputs, left = [*outputs, Output(answer["id"], token_ids=ids)], left - len(ids)
    seen = observe([each for each in outputs if each.token_ids], mark)
    total, n = int(mark.score(seen.windows, seen.choices).sum()), len(seen)
    return (total - n * law.mean) / math.sqrt(n * law.variance), law.log10_pvalue(total, n)


def distilled(work: Work, name: str, share: float) -> dict[str, Any]:
    """What a student shows: its own answers as text, and its log-probabilities against its base's. share 0: honest."""
    from slopes import judged, seen

    from watermark.embed.answers import Model, Sampling, write_answers
    from watermark.prompts import read_prompts
    from watermark.tokenizer import model_path

    folder = work.student(name if share else None, share)
    probes, mark = work.probes(), work.mark(name)
    model, base, tokenizer = Model.load(folder), Model.load("demo"), mark.tokenizer(model_path("demo"))
    own = folder / "own.jsonl"
    write_answers(model, read_prompts(probes), own, mark=None, sampling=Sampling(LONGEST, batch=128, seed=9))
    found: dict[str, Any] = {}
    for access, outputs, reference in (("text", own, None), ("text", own, base), ("logits", probes, base)):
        read = seen(access, outputs, mark, tokenizer, model, reference)
        named = "text and reference" if access == "text" and reference else access
        evidence = judged(read, named, "base" if reference else None, mark, outputs)
        found[named] = {
            "log10_p": evidence.log10_p,
            "tokens": evidence.tokens_read,
            "z": {"votes": evidence.z}
            | ({s.name: s.z for s in evidence.weighted.statistics} if evidence.weighted else {}),
        }
    return found


def run(work: Work, only: str, part: str) -> None:
    """All rows that are not in WORK/rows.jsonl yet."""
    for name in schemes() if part != "students" else ():
        if re.search(only, name):
            _once(work, name, "quality", partial(quality, work, name))
    for share in (1.0, 0.2) if part != "quality" else ():
        for name, shares in TAUGHT.items():
            if share in shares and re.search(only, name):
                _once(work, name, f"student {share:g}", partial(distilled, work, name, share))
    for name in TAUGHT if part != "quality" else ():
        if re.search(only, name):
            _once(work, name, "honest student", partial(distilled, work, name, 0.0))


def _once(work: Work, name: str, what: str, make: Any) -> None:
    from watermark.files import append_whole, canonical_json

    if (name, what) in {(row["scheme"], row["what"]) for row in rows_in(work.folder)}:
        return
    began = time.process_time()
    row = {"scheme": name, "what": what, "found": make(), "cpu": round(time.process_time() - began, 1)}
    with (work.folder / "rows.jsonl").open("ab", buffering=0) as stream:
        append_whole(stream, canonical_json(row) + b"\n")
    print(f"{datetime.now(UTC):%H:%M:%S} {name}: {what}, {row['cpu']} CPU s", file=sys.stderr, flush=True)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _forced(work: Work, answers: Sequence[dict[str, Any]]) -> Iterator[Any]:
    from attack import forced

    for start in range(0, len(answers), 32):
        yield from forced(work.teacher.model, list(answers[start : start + 32]))


def _nats(work: Work, answers: Sequence[dict[str, Any]]) -> float:
    """-log p a token of some answers under the unmarked teacher."""
    import torch

    found = []
    for _, ids, logits in _forced(work, answers):
        logs = logits[: len(ids)].float().log_softmax(-1)
        found += (-logs[torch.arange(len(ids)), torch.tensor(list(ids))]).tolist()
    return float(np.mean(found))


def _divergence(work: Work, mark: Watermark, answers: Sequence[dict[str, Any]]) -> float:
    """KL(marked || unmarked) of one step under the key, in nats, over the contexts of unmarked answers."""
    h, found = mark.scheme.window, []
    for _, ids, logits in _forced(work, answers):
        contexts = np.array([ids[at - h : at] for at in range(h, len(ids))])
        if not len(contexts):
            continue
        rows = logits[h : len(ids)].float().numpy()
        met = np.array([bool(mark.met(np.array([ids[:at]]))[0]) for at in range(h, len(ids))])
        before, after = _log_chances(rows), _log_chances(mark.tilt(rows, contexts, met=met))
        with np.errstate(invalid="ignore"):
            terms = np.where(np.isfinite(after), np.exp(after) * (after - before), 0.0)
        found += terms.sum(axis=1).tolist()
    return float(np.mean(found))


def _log_chances(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = rows.astype(float) - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _distinct(answers: Sequence[dict[str, Any]], n: int) -> float:
    """Distinct n-grams over all n-grams of the answers' first 1,000 tokens."""
    grams: list[tuple[int, ...]] = []
    for answer in answers:
        ids = answer["meta"]["token_ids"]
        grams += [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    return len(set(grams[:BLOCK])) / len(grams[:BLOCK])


def table(folder: Path) -> None:
    """Writes docs/results/schemes.json and prints the tables of docs/results/schemes.md."""
    from watermark.files import write_whole

    rows = rows_in(folder)
    write_whole(RESULTS, (json.dumps(rows, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode())
    of = {(row["scheme"], row["what"]): row["found"] for row in rows}
    _header("scheme", "perplexity, times", "KL, nats", "distinct pairs (unmarked)", "z in 1,000 tokens", "log₁₀ p")
    for name in schemes():
        if (name, "quality") in of:
            q = of[name, "quality"]
            ratio = math.exp(q["nats"] - q["nats_unmarked"])
            print(
                f"| {name} | {ratio:.2f} ± {ratio * q['se']:.2f} | {q['kl']:.2f} | {q['distinct_2']:.2f} "
                f"({q['distinct_2_unmarked']:.2f}) | {q['z']:.1f} | {q['log10_p']:.1f} |"
            )
    _header("scheme", "share", "text: z", "text and base: log₁₀ p", "weights: best z", "weights: log₁₀ p")
    for name, what in of:
        if "student" in what:
            found, share = of[name, what], {"honest student": "0"}.get(what, what.removeprefix("student "))
            deep = found["logits"]
            best = max(value for key, value in deep["z"].items() if key != "votes")
            print(
                f"| {name} | {100 * float(share):g} % | {found['text']['z']['votes']:.1f} | "
                f"{found['text and reference']['log10_p']:.1f} | {best:.1f} | {deep['log10_p']:.1f} |"
            )


def _header(*names: str) -> None:
    print("\n| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="", help="the schemes whose name this pattern finds")
    parser.add_argument("--part", choices=("all", "quality", "students"), default="all")
    parser.add_argument("--prompts", type=int, default=Size.prompts)
    parser.add_argument("--tokens", type=int, default=Size.tokens)
    parser.add_argument("--probes", type=int, default=Size.probes)
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.command == "table":
        table(given.work)
        return
    import torch

    torch.set_num_threads(1)
    run(Work(given.work, Size(given.prompts, given.tokens, given.probes)), given.only, given.part)


if __name__ == "__main__":
    main()
