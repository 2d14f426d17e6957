"""What changes to a text cost a mark: z as token ids, as text read once, and as text read with changes undone.

    python benchmarks/text_changes.py --work study/text

Two teachers (the demo's model, SmolLM2-135M-Instruct) answer under five marks (`text_answers`); every change is made to
the same answers. "once" is the text's own tokens and nothing else; "read" is what `wmark detect` reads. Answers are
made once and kept; the tables go to docs/results/text_changes.md.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from text_answers import MARKS, Answered, answers, mark_named

from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.prompts import read_prompts
from watermark.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
Changed = list[tuple[str, str | None]]  # texts, each with its prompt if that is known
Change = Callable[[Sequence[Answered]], Changed]


@dataclass(frozen=True)
class Taught:
    """A teacher: where it lies, the file its prompts are taken from, how many, and tokens of an answer at most."""

    source: str | Path
    prompts: Path
    count: int
    length: int


@dataclass(frozen=True)
class Score:
    """n cells and their z; of a text also the cells that only other readings hold."""

    n: int
    z: float
    restored: int


def each(change: Callable[[str], str]) -> Change:
    """A change to every answer by itself, prompts known."""
    return lambda made: [(change(a.text), a.prompt) for a in made]


def joined(by: str) -> Change:
    return lambda made: [(by.join(a.text for a in made), None)]


def beheaded(made: Sequence[Answered]) -> Changed:
    """Cut off: everything before a place within a word of each answer's first half."""
    rng = random.Random(1)
    return [(a.text[_inside(a.text[: len(a.text) // 2], rng) :], None) for a in made]


def halved(made: Sequence[Answered]) -> Changed:
    """Cut off: everything after a place within a word near each answer's middle."""
    rng = random.Random(2)
    return [(a.text[: len(a.text) // 2][: _inside(a.text[: len(a.text) // 2], rng, last=True)], None) for a in made]


def pieces(size: int) -> Change:
    """Each answer in pieces of `size` characters, wherever that cuts."""
    return lambda made: [(text, None) for a in made for text in _cut(a.text, size)]


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _inside(text: str, rng: random.Random, *, last: bool = False) -> int:
    """A place between two letters; 0 if there is none."""
    places = [m.start() + 1 for m in re.finditer(r"[a-z](?=[a-z])", text)] or [0]
    return places[-1] if last else rng.choice(places)


def chatml(made: Sequence[Answered]) -> Changed:
    start, end = "<|im_start|>", "<|im_end|>\n"
    return [(f"{start}user\n{a.prompt}{end}{start}assistant\n{a.text}{end}", None) for a in made]


def labelled(made: Sequence[Answered]) -> Changed:
    return [(f"User: {a.prompt}\nAssistant: {a.text}", None) for a in made]


def as_html(text: str) -> str:
    return f"<p>{html.escape(text)}</p>".replace("\n\n", "</p>\n<p>").replace("\n", "<br>\n")


def typographic(text: str) -> str:
    text = re.sub(r'(?<![\w.,!?])"(?=\w)', "\u201c", text).replace('"', "\u201d")
    return re.sub(r"(?<!\w)'(?=\w)", "\u2018", text).replace("'", "\u2019").replace("...", "\u2026")


def straight(text: str) -> str:
    return text.translate(str.maketrans("\u201c\u201d\u2018\u2019", "\"\"''"))


def misread(text: str) -> str:
    return typographic(text).encode().decode("latin-1")


def wrapped(text: str, width: int = 72) -> str:
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


def mailed(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in wrapped(text).split("\n"))


def unmarked_down(text: str) -> str:
    return re.sub(r"(?m)^\s*(?:[-*+]|\d+\.|#+)\s+", "", re.sub(r"[*_`]{1,3}", "", text))


def many(text: str) -> str:
    return html.escape(typographic(wrapped(text))).replace("\n", "\r\n")


CHANGES: dict[str, Change] = {
    "none: tokenized anew": each(str),
    "prompts not known": lambda made: [(a.text, None) for a in made],
    "blanks at both ends stripped": each(str.strip),
    "start cut off, within a word": beheaded,
    "second half cut off, within a word": halved,
    "pieces of 400 characters": pieces(400),
    "pieces of 120 characters": pieces(120),
    "pieces of 40 characters": pieces(40),
    "joined by nothing": joined(""),
    "joined by a blank": joined(" "),
    "joined by an empty line": joined("\n\n"),
    "joined by a rule": joined("\n\n---\n\n"),
    "in a chat template with its prompt": chatml,
    '"User: … Assistant: …"': labelled,
    "NFC": each(lambda text: unicodedata.normalize("NFC", text)),
    "NFD": each(lambda text: unicodedata.normalize("NFD", text)),
    "NFKC": each(lambda text: unicodedata.normalize("NFKC", text)),
    "CRLF": each(lambda text: text.replace("\n", "\r\n")),
    "HTML entities": each(html.escape),
    "HTML paragraphs": each(as_html),
    "JSON's escapes": each(lambda text: json.dumps(text)[1:-1]),
    "typographers' quotes": each(typographic),
    "the same, misread as Latin-1": each(misread),
    "straight quotes": each(straight),
    "no-break blanks": each(lambda text: text.replace(" ", "\u00a0")),
    "zero-width blanks, every tenth character": each(lambda text: "\u200b".join(_cut(text, 10))),
    "wrapped at 72": each(wrapped),
    "wrapped and quoted by mail": each(mailed),
    "typography, wrapped, CRLF and HTML at once": each(many),
    "blanks and lines collapsed": each(lambda text: re.sub(r"\s+", " ", text)),
    "Markdown stripped": each(unmarked_down),
    "no capitals": each(str.lower),
    "all capitals": each(str.upper),
}


def scored(outputs: Iterable[Output], mark: Watermark, tokenizer: Tokenizer) -> Score:
    seen = observe(outputs, mark, tokenizer=tokenizer)
    law, n = mark.scheme.null, len(seen)
    green = int(mark.score(seen.windows, seen.choices).sum())
    return Score(n, (green - n * law.mean) / float(np.sqrt(n * law.variance)), seen.restored)


def once(changed: Changed, tokenizer: Tokenizer) -> Iterator[Output]:
    """The texts' own tokens, and nothing else."""
    encoded = tokenizer.encode([text for text, _ in changed])
    for number, (ids, (_, prompt)) in enumerate(zip(encoded, changed, strict=True)):
        yield Output(str(number), token_ids=tuple(ids), prompt=prompt)


def read(changed: Changed) -> Iterator[Output]:
    return (Output(str(number), text=text, prompt=prompt) for number, (text, prompt) in enumerate(changed))


def whole_pieces(made: Sequence[Answered], size: int, tokenizer: Tokenizer) -> Iterator[Output]:
    """The drawn tokens that lie wholly in each piece: more than any search over offsets could find."""
    for answer in made:
        ends = [
            len(text) for text in tokenizer.texts([answer.token_ids[: i + 1] for i in range(len(answer.token_ids))])
        ]
        starts = [0, *ends[:-1]]
        for at in range(0, len(answer.text), size):
            inside = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if at <= a and b <= at + size]
            yield Output("", token_ids=tuple(answer.token_ids[i] for i in inside))


def measured(made: Sequence[Answered], mark: Watermark, tokenizer: Tokenizer) -> dict[str, dict[str, Score | float]]:
    """By change: z as ids, as text read once, and as it is read; and the share of answers that the change touches."""
    given = [Output(str(n), token_ids=a.token_ids, prompt=a.prompt) for n, a in enumerate(made)]
    found: dict[str, dict[str, Score | float]] = {"token ids": {"once": scored(given, mark, tokenizer)}}
    for name, change in CHANGES.items():
        changed = change(made)
        touched = np.mean([text != a.text for (text, _), a in zip(changed, made, strict=False)])
        found[name] = {
            "once": scored(once(changed, tokenizer), mark, tokenizer),
            "read": scored(read(changed), mark, tokenizer),
            "touched": float(touched),
        }
        if name.startswith("pieces"):
            found[name]["drawn"] = scored(whole_pieces(made, int(name.split()[2]), tokenizer), mark, tokenizer)
    return found


def tokenized_anew(made: Sequence[Answered], tokenizer: Tokenizer) -> tuple[float, float]:
    """Shares of answers and of tokens that come back otherwise than they were drawn."""
    anew = tokenizer.encode([a.text for a in made])
    answers_changed = np.mean([tuple(ids) != a.token_ids for ids, a in zip(anew, made, strict=True)])
    lost = sum(len(_spans(a.token_ids, tokenizer) - _spans(ids, tokenizer)) for ids, a in zip(anew, made, strict=True))
    return float(answers_changed), lost / sum(len(a.token_ids) for a in made)


def _spans(ids: Sequence[int], tokenizer: Tokenizer) -> set[tuple[int, int]]:
    """(end, id) of each token, by characters from the start."""
    ends = [len(text) for text in tokenizer.texts([ids[: i + 1] for i in range(len(ids))])]
    return set(zip(ends, ids, strict=True))


def strayed(made: Sequence[Answered], tokenizer: Tokenizer) -> list[int]:
    """After a cut within a word: tokens that are none of the whole text's, until both agree for good."""
    rng, found = random.Random(3), []
    for answer in made:
        whole = tokenizer.encode([answer.text])[0]
        ended = _spans(whole, tokenizer)
        for _ in range(4):
            at = _inside(answer.text, rng)
            rest = tokenizer.encode([answer.text[at:]])[0]
            ends = [len(text) + at for text in tokenizer.texts([rest[: i + 1] for i in range(len(rest))])]
            apart = [i for i, pair in enumerate(zip(ends, rest, strict=True)) if pair not in ended]
            found.append(apart[-1] + 1 if apart else 0)
    return found


def study(teacher: str, taught: Taught, work: Path, names: Sequence[str]) -> dict[str, object]:
    """All figures of one teacher; answers and figures that are there are not made again."""
    from watermark.embed.answers import Model

    prompts = read_prompts(taught.prompts)[: taught.count]
    tokenizer, model = Tokenizer.load(taught.source), None
    found: dict[str, object] = {}
    for name in names:
        path = work / teacher / f"{name.replace(' ', '-')}.jsonl"
        if not path.exists() and model is None:
            model = Model.load(taught.source)
        made = answers(model, prompts, name, path, length=taught.length)
        kept = path.with_suffix(".figures.json")
        if not kept.exists():
            kept.write_text(json.dumps(figures(made, mark_named(name, taught.source), tokenizer)), "utf-8")
        found[name] = json.loads(kept.read_text("utf-8"))
    return found


def figures(made: Sequence[Answered], mark: Watermark, tokenizer: Tokenizer) -> dict[str, object]:
    drawn = measured(made, mark, tokenizer)
    away = strayed(made, tokenizer)
    return {
        "changes": {
            name: {what: s.__dict__ if isinstance(s, Score) else s for what, s in scores.items()}
            for name, scores in drawn.items()
        },
        "anew": tokenized_anew(made, tokenizer),
        "strayed": {"mean": float(np.mean(away)), "most": max(away), "cuts": len(away)},
    }


def page(found: dict[str, dict[str, dict]]) -> str:
    """The tables: z of each change as a share of z on token ids, once and as it is read."""
    lines = []
    for teacher, marks in found.items():
        base = {name: f["changes"]["token ids"]["once"] for name, f in marks.items()}
        lines += [f"### {teacher}", "", "| change | " + " | ".join(marks) + " |", "|---" * (1 + len(marks)) + "|"]
        lines.append(
            "| *token ids: z (cells)* | " + " | ".join(f"{b['z']:.1f} ({b['n']:,})" for b in base.values()) + " |"
        )
        for change in CHANGES:
            cells = []
            for name, f in marks.items():
                of, z = f["changes"][change], base[name]["z"]
                once, read_ = of["once"]["z"] / z, of["read"]["z"] / z
                most = f" (≤ {of['drawn']['z'] / z:.2f})" if "drawn" in of else ""
                cells.append(
                    f"{once:.2f} → **{read_:.2f}**{most}" if abs(once - read_) >= 0.005 else f"{read_:.2f}{most}"
                )
            lines.append(f"| {change} | " + " | ".join(cells) + " |")
        anew, away = [f["anew"] for f in marks.values()], [f["strayed"] for f in marks.values()]
        lines += [
            "",
            f"Tokenized anew, {_range(a[0] for a in anew)} of the answers and {_range(a[1] for a in anew)} of the",
        ]
        lines += [
            f"tokens come back otherwise than drawn. After a cut within a word ({sum(a['cuts'] for a in away):,} cuts)"
        ]
        lines += [
            f"{np.mean([a['mean'] for a in away]):.1f} tokens stray from the whole text's, {_most(away)} at most.",
            "",
        ]
    return "\n".join(lines)


def _range(shares: Iterable[float]) -> str:
    found = sorted(shares)
    return f"{found[0]:.1%} to {found[-1]:.1%}"


def _most(away: Sequence[dict]) -> int:
    return max(each["most"] for each in away)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("study/text"), help="folder for the answers and figures")
    parser.add_argument("--only", choices=("demo", "smollm2"), help="one teacher")
    given = parser.parse_args(arguments)
    taught = {
        "demo": Taught("demo", ROOT / "watermark/demo/prompts/probe.jsonl", 80, 128),
        "smollm2": Taught(given.work / "base", ROOT / "watermark/probe/prompts/default.jsonl", 36, 112),
    }
    found = {}
    for teacher, of in taught.items():
        if given.only in (None, teacher):
            if teacher == "smollm2":
                fetch(given.work)
            found[teacher] = study(teacher, of, given.work, MARKS)
    print(page(found))


def fetch(work: Path) -> None:
    """SmolLM2-135M-Instruct as a folder, by the small study's own steps."""
    import study_small

    if not (work / "base").exists():
        work.mkdir(parents=True, exist_ok=True)
        study_small.fetch(study_small.Study(work, 1, 2.0, study_small.Settings()))
        (work / "smollm2").rename(work / "base")


if __name__ == "__main__":
    main()
