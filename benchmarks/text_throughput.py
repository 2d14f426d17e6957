"""Tokens read in a second: from text and from token ids to a p-value, beside the tokenizer alone and a plain copy.

Text: answers of 400 to 2,500 characters (with prompts of 100 to 400) in JSON Lines on disk, read by `observe` and
scored under one key. Beside it the tokenizer alone over the same texts in memory, by `encode_batch_fast` in threads and
in processes on the same cores; the faster of both is the measure. "new words": a tokenizer that has met no word yet;
"known": the same file again. `detect` adds the evidence with its rank among decoy keys. Ids: answers of 500 tokens that
follow a Zipf law, as arrays, tuples, Parquet and JSON Lines. All are timed in each repeat; ratios are taken within it.

    python benchmarks/text_throughput.py
    python benchmarks/text_throughput.py --tokenizer demo --tokenizer MODEL --text BOOKS.txt.gz --characters 10e6
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "true"

import numpy as np
from detector_throughput import zipf_answers

from watermark import prf
from watermark.detect import detect
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe
from watermark.outputs import Ids, Output, Outputs
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

CORES = 2
_BATCH = 1024


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock, and of all processes' CPU."""

    wall: float
    cpu: float


def cost(work: Callable[[], Any]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    aside = work()  # CPU seconds of other processes, where there are any
    return Cost(time.perf_counter() - wall, time.process_time() - cpu + (aside if isinstance(aside, float) else 0.0))


def library_text() -> str:
    """The modules of the installed Python, which stand on every machine."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n".join(path.read_text("utf-8", errors="ignore") for path in modules)


def read_text(path: Path, *, wrapped: bool) -> str:
    """A file's text; its paragraphs as one line each, as a model writes them, unless it stays `wrapped`."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return text if wrapped else "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def answers_of(text: str, characters: int, *, seed: int = 0) -> list[dict[str, str]]:
    rng, found, at = random.Random(seed), [], 0
    text = text[:characters]
    while at < len(text):
        end = at + rng.randint(400, 2500)
        asked = rng.randrange(len(text))
        prompt = text[asked : asked + rng.randint(100, 400)]
        found.append({"id": str(len(found)), "prompt": prompt, "text": text[at:end]})
        at = end
    return found


def _encode(backend: Any, texts: list[str]) -> int:
    parts = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return sum(len(each) for part in parts for each in backend.encode_batch_fast(part, add_special_tokens=False))


def _worker(described: str) -> None:
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    globals()["_backend"] = tokenizers.Tokenizer.from_str(described)


def _alone(texts: list[str]) -> float:
    started = time.process_time()
    _encode(globals()["_backend"], texts)
    return time.process_time() - started


def timed_text(source: str, answers: list[dict[str, str]], folder: Path, repeats: int, decoys: int) -> dict[str, Any]:
    """Medians and ranges for one tokenizer and one set of answers."""
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    texts = [answer[name] for answer in answers for name in ("text", "prompt") if name in answer]
    tokenizer = Tokenizer.load(source)
    binding = Binding(tokenizer.digest, tokenizer.size, tokenizer.special_ids, tokenizer.source)
    mark = Watermark(GreenList(window=1, gamma=0.25), next(iter(decoy_keys(b"throughput", 1))), binding)
    tokens = _encode(tokenizer._backend, texts)
    halves = [texts[n::CORES] for n in range(CORES)]
    rows = []
    with ProcessPoolExecutor(CORES, get_context("spawn"), _worker, (tokenizer._backend.to_str(),)) as pool:
        list(pool.map(_alone, [half[:50] for half in halves]))
        detect(path, mark, tokenizer=Tokenizer.load(source), decoys=decoys)  # compiled once
        for _ in range(repeats):
            fresh, again = Tokenizer.load(source), Tokenizer.load(source)  # opening the file is neither side's
            rows.append(
                {
                    "threads": cost(lambda: _encode(tokenizer._backend, texts)),
                    "processes": cost(lambda: sum(pool.map(_alone, halves))),
                    "new words": cost(lambda fresh=fresh: p_value(Outputs(path), mark, fresh)),
                    "known": cost(lambda fresh=fresh: p_value(Outputs(path), mark, fresh)),
                    "detect": cost(lambda again=again: detect(path, mark, tokenizer=again, decoys=decoys)),
                }
            )
    return {"tokens": tokens, "answers": len(answers)} | summary(rows, tokens)


def p_value(source: Any, mark: Watermark, tokenizer: Tokenizer | None = None) -> str:
    """log10 p of the count of green cells, as text: nothing that `cost` would take for seconds."""
    seen = observe(source, mark, tokenizer=tokenizer)
    green = int(mark.score(seen.windows, seen.choices).sum())
    return str(mark.scheme.null.log10_pvalue(green, len(seen)))


def summary(rows: list[dict[str, Cost]], tokens: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        alone = [min(getattr(row["threads"], clock), getattr(row["processes"], clock)) for row in rows]
        for name in rows[0]:
            seconds = [getattr(row[name], clock) for row in rows]
            ratios = [base / mine for base, mine in zip(alone, seconds, strict=True)]
            found[f"{name}, {clock}"] = {
                "tokens per second": tokens / statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
    return found


def timed_ids(count: int, vocabulary: int, folder: Path, repeats: int, window: int) -> dict[str, Any]:
    """Tokens per CPU-second from ids in memory and on disk."""
    import pyarrow
    import pyarrow.parquet

    ids = zipf_answers(count, vocabulary, 2).astype(np.uint32)
    offsets = np.arange(0, ids.size + 1, ids.shape[1]).astype(np.int32)
    names, lists = [str(n) for n in range(len(ids))], pyarrow.ListArray.from_arrays(offsets, ids.ravel())
    columns = {"id": names, "token_ids": lists}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "ids.parquet")
    with (folder / "ids.jsonl").open("w") as stream:
        stream.writelines(json.dumps({"id": str(n), "token_ids": row.tolist()}) + "\n" for n, row in enumerate(ids))
    mark = Watermark(GreenList(window=window, gamma=0.25), next(iter(decoy_keys(b"throughput", 1))))
    arrays = [Output(str(n), token_ids=Ids(row)) for n, row in enumerate(ids)]
    tuples = [Output(str(n), token_ids=tuple(row.tolist())) for n, row in enumerate(ids)]
    ways: dict[str, Callable[[], Any]] = {
        "arrays in memory": lambda: p_value(arrays, mark),
        "tuples in memory": lambda: p_value(tuples, mark),
        "Parquet": lambda: p_value(Outputs(folder / "ids.parquet"), mark),
        "JSON Lines": lambda: p_value(Outputs(folder / "ids.jsonl"), mark),
        "json.loads alone": lambda: [json.loads(line) for line in (folder / "ids.jsonl").open("rb")],
        "copy of the ids": lambda: ids.copy(),
    }
    for work in ways.values():
        work()  # compiled once
    rows = [{name: ids.size / cost(work).cpu for name, work in ways.items()} for _ in range(repeats)]
    return {
        name: {
            "tokens per second": statistics.median(row[name] for row in rows),
            "range": [min(row[name] for row in rows), max(row[name] for row in rows)],
        }
        for name in ways
    }


def measured(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    text = "\n".join(read_text(path, wrapped=given.wrapped) for path in given.text) if given.text else library_text()
    answers = answers_of(text, int(given.characters))
    with tempfile.TemporaryDirectory() as folder:
        for source in given.tokenizer or ["demo"]:
            for prompts in (False, True):
                chosen = answers if prompts else [{k: v for k, v in a.items() if k != "prompt"} for a in answers]
                name = f"{Path(source).name}, {'with' if prompts else 'without'} prompts"
                yield name, timed_text(source, chosen, Path(folder), given.repeats, given.decoys)
        for window in (1, 2):
            yield f"ids, window {window}", timed_ids(given.ids, 128_256, Path(folder), given.repeats, window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", action="append", help="a model folder, or 'demo'; may be given again")
    parser.add_argument("--text", type=Path, action="append", help="a text, .gz or plain; by default Python's library")
    parser.add_argument("--wrapped", action="store_true", help="leave the lines of the text as they are")
    parser.add_argument("--characters", type=float, default=5e6)
    parser.add_argument("--ids", type=int, default=4_000_000)
    parser.add_argument("--decoys", type=int, default=99)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.json:
        print(json.dumps(dict(measured(given))))
        return
    print(f"{CORES} cores, backend {prf.backend()}, {given.repeats} repeats, medians (range)")
    for name, found in measured(given):
        print("\n" + name, *(f"{found[kind]:,} {kind}" for kind in ("tokens", "answers") if kind in found), sep=", ")
        for way, figures in found.items():
            if isinstance(figures, dict):
                low, high = figures["range"]
                beside = f"({low:,.0f}–{high:,.0f})"
                if "ratio" in figures:
                    beside = f"ratio {figures['ratio']:.2f} ({low:.2f}–{high:.2f})"
                print(f"  {way:<18} {figures['tokens per second']:>14,.0f} tokens/s  {beside}")


if __name__ == "__main__":
    main()
