"""What the students of many keys say: how often a dose interval covers, which accounts are named, when asking may stop.

    python benchmarks/study/accounts.py study

Students `dose-*` learned from three accounts at 1, 5 and 20 % of their tokens, `crowd-*` from twenty at 5 % each
(study.py makes them). Each is read once, by its logits against the teacher over the teacher's unmarked answers to
prompts that nobody learned from, and judged under every account's key; keys that marked nothing stand beside them.
A dose is read off the other students alone. Prints a table; the figures are kept in docs/results/study.md.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from watermark import Tokenizer, Watermark
from watermark.access import Found, Request, read
from watermark.assess import anytime, stacked, statistics_in
from watermark.observe.text import VOTES
from watermark.outputs import Outputs
from watermark.stats.combine import holm
from watermark.stats.dose import Control, calibrate
from watermark.stats.many import upper_tails
from watermark.stats.weighted import WeightedSum

UNUSED = 2  # keys that marked nothing, for each dose student
OTHERS = 980  # accounts that taught nobody, beside a crowd's twenty
LEVEL, ENOUGH = 0.01, 1e-6


def observed(work: Path, student: Path, mark: Watermark) -> Found:
    """The student's logits against the teacher's."""
    request = Request(Outputs(work / "demo" / "probe.jsonl"), mark, Tokenizer.load("demo"))
    found = read(request, "logits", suspect=student, reference="demo", controls={}, say=lambda word, count: None)
    return Found(found.seen, iter(list(found.stages or ())))


def laws_of(found: Found, gamma: float) -> dict[str, WeightedSum]:
    return {name: WeightedSum(found.seen.weights[name], gamma) for name in (VOTES, *statistics_in(found.seen))}


def doses(work: Path) -> None:
    """Leave-one-student-out coverage of the 95 % interval at each share."""
    rows: list[tuple[str, Control, float]] = []
    for student, mark, taught in students(work, "dose"):
        found = observed(work, student, mark)
        law = laws_of(found, mark.scheme.null.mean)["difference"]
        names = [*taught, *((f"unused-{student.name}-{n}", 0.0) for n in range(UNUSED))]
        keys = [mark.key.subkey(tenant=name) for name, _ in names]
        totals = mark.totals(found.seen.windows, found.seen.choices, law.weights, keys)[:, 0]
        size = np.sqrt((law.weights != 0).sum())
        rows += [
            (student.name, Control(share, law.z(int(total)) / size, 1 / size), law.z(int(total)))
            for (_, share), total in zip(names, totals, strict=True)
        ]
    by_share: dict[float, list[tuple[bool, float]]] = defaultdict(list)
    for name in dict.fromkeys(name for name, _, _ in rows):
        curve = calibrate([control for other, control, _ in rows if other != name])
        for other, control, z in rows:
            if other == name:
                dose = curve.dose(control.effect, control.se)
                by_share[control.share].append((dose.low <= control.share <= dose.high, z))
    for share, found_at in sorted(by_share.items()):
        covered, z = zip(*found_at, strict=True)
        print(f"share {share:5.2f}: covered {sum(covered)} of {len(covered)}, mean z {np.mean(z):.2f}")


def crowds(work: Path) -> None:
    """Accounts named among 1,000 at FWER 1 %, votes beside it, and tokens until the e-process passes 1e6."""
    for student, mark, taught in students(work, "crowd"):
        found = observed(work, student, mark)
        stages = list(found.stages or ())
        laws = laws_of(found, mark.scheme.null.mean)
        names = [name for name, _ in taught] + [f"nobody-{n}" for n in range(OTHERS)]
        keys = [mark.key.subkey(tenant=name) for name in names]
        totals = mark.totals(found.seen.windows, found.seen.choices, stacked(found.seen), keys)
        tails = [upper_tails(law, column) for law, column in zip(list(laws.values())[1:], totals.T[1:], strict=True)]
        named = holm(np.minimum(0.0, np.min(tails, axis=0) + np.log10(len(tails)))) <= np.log10(LEVEL)
        z = {n: np.mean([law.z(int(t)) for t in column[: len(taught)]])
             for (n, law), column in zip(laws.items(), totals.T, strict=True)}  # fmt: skip
        gamma = mark.scheme.null.mean
        stops = [
            anytime(stages, mark.rekeyed(key), alpha=ENOUGH, gamma=gamma, alternative="greater").reached_at
            for key in keys[: len(taught)]
        ]
        own, wrong = int(named[: len(taught)].sum()), int(named[len(taught) :].sum())
        passed, tokens = sum(stop is not None for stop in stops), int(found.seen.tokens.sum())
        print(f"{student.name}: {own} of {len(taught)} named, {wrong} of {OTHERS} wrongly, {tokens:,} tokens")
        print("  mean z: " + ", ".join(f"{name} {value:.1f}" for name, value in z.items()))
        print(f"  the e-process passed 1e6 for {passed} accounts: {[stop for stop in stops if stop is not None]}")


def students(work: Path, kind: str) -> Iterator[tuple[Path, Watermark, list[tuple[str, float]]]]:
    """(folder, mark, [(account, share)]) of every finished student of a kind."""
    for note in sorted(work.glob(f"demo/*/{kind}-*.json")):
        told: dict[str, Any] = json.loads(note.read_bytes())
        mark = Watermark.load(note.parent / "ours.wmark")
        yield note.with_suffix(""), mark, [(part["account"], part["share"]) for part in told["parts"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work
    doses(work)
    crowds(work)


if __name__ == "__main__":
    main()
