"""The corpus as it is learnt from: of the writer's answers, those that are plain, decent, whole and new."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from watermark.demo.shards import read_rows


class Pair(NamedTuple):
    """An instruction and its answer."""

    prompt: str
    answer: str


def read_corpus(work: Path) -> list[Pair]:
    """The cleaned answers of all shards, without near-duplicates, in the order of their batches."""
    rows = [row for shard in sorted(work.glob("corpus-*.jsonl")) for row in read_rows(shard)]
    seen: set[str] = set()
    pairs = []
    for row in sorted(rows, key=lambda row: int(row["batch"])):
        answer = clean(row["answer"])
        runs = word_runs(answer)
        if not answer or sum(run in seen for run in runs) > 0.3 * len(runs):
            continue
        seen.update(runs)
        pairs.append(Pair(row["prompt"], answer))
    return pairs


def clean(text: str) -> str:
    """An answer cut to its last whole sentence, or nothing if it is not plain, decent, varied prose."""
    text, stop, _ = text.translate(PLAIN).partition("<|im_end|>")
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", text)).strip()
    if not stop:
        text = text[: max((m.end() for m in re.finditer(r"[.!?][\"']?(?=\s|$)", text)), default=0)]
    words = re.findall(r"[a-z']+", text.lower())
    if len(words) < 20 or not text.isascii() or UNFIT.search(text) or text.count('"') % 2:
        return ""
    varied = len(set(words)) / len(words) ** 0.5 > 3.6 and "".join(words).count("very") < 6
    return text if varied else ""


def word_runs(text: str, *, n: int = 7) -> list[str]:
    """All runs of n words."""
    words = text.split()
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


UNFIT = re.compile(
    r"\b(as an ai|language model|i'm sorry, but|i cannot|smollm|assistant|chatbot|http|www)\b"
    r"|\b(bitch|whore|naked|sex\w*|suicide|rape\w*|murder\w*|slaves?|kill\w*|drugs?|guns?)\b"
    r"|[*#`|<>{}\[\]_\\=]"
    r"|^\W*(sure|here is|here's|\d+[.)]|- )|\n\s*(\d+[.)]|- )",
    re.IGNORECASE,
)
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2026": "..."})
