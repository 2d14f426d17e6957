"""The raw corpus: the writer's answers in shards, one a process, which an interrupted run takes up again.

Every instruction follows one answered example of its genre, so that the answers come short and simple.
"""

from __future__ import annotations

import collections
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from watermark.demo.subjects import instruction_sets
from watermark.demo.writer import WEIGHTS, answers, load_writer, prefix_cache


def write_corpus(work: Path, *, tokens: int, workers: int) -> None:
    """Let the writer answer until about `tokens` tokens are kept; one shard, process and thread a worker."""
    context = multiprocessing.get_context("spawn")
    share = tokens // workers
    jobs = [context.Process(target=write_shard, args=(work, share, i, workers)) for i in range(workers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise RuntimeError("a corpus worker failed; run again to resume")


def write_shard(work: Path, tokens: int, worker: int, workers: int) -> None:
    """Append one worker's batches to its shard, {"batch", "prompt", "tokens", "answer"} a line."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    folder, name = os.path.split(work / WEIGHTS)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    writer = load_writer(work / WEIGHTS)
    shard = work / f"corpus-{worker}.jsonl"
    cut_torn_line(shard)
    done, total = progress(shard)
    with torch.inference_mode(), shard.open("a", encoding="utf-8") as out:
        prefixes = {genre: prefix_cache(writer, tokenizer.encode(example(genre))) for genre in EXAMPLES}
        numbered = enumerate(batches_by_length(instruction_sets()[0], tokenizer))
        for number, batch in itertools.islice(numbered, worker, None, workers):
            if total >= tokens:
                return
            if number in done:
                continue
            written = answers(writer, prefixes[genre_of(batch[0][0])], [ids for _, ids in batch], seed=number)
            rows = [
                {"batch": number, "prompt": prompt, "tokens": len(ids), "answer": tokenizer.decode(ids)}
                for (prompt, _), ids in zip(batch, written, strict=True)
            ]
            out.write("".join(json.dumps(row) + "\n" for row in rows))
            out.flush()
            total += sum(map(len, written))
            print(f"worker {worker}: {total} tokens", flush=True)


def cut_torn_line(path: Path) -> None:
    """Drops what a killed run left of its last line; the batch it belonged to is then in part, and stays so."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)


def progress(shard: Path) -> tuple[set[int], int]:
    """The batches already in a shard and their tokens."""
    rows = read_rows(shard)
    return {row["batch"] for row in rows}, sum(row["tokens"] for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if it is absent."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def batches_by_length(
    texts: Sequence[str], tokenizer: Any, *, size: int = 128
) -> Iterator[list[tuple[str, list[int]]]]:
    """Batches of prompts of one genre and one token count, so that no padding and no mask is needed."""
    waiting = collections.defaultdict(list)
    for text in texts:
        ids = tokenizer.encode(text + ANSWER, add_special_tokens=False)
        kind = (genre_of(text), len(ids))
        waiting[kind].append((text, ids))
        if len(waiting[kind]) == size:
            yield waiting.pop(kind)
    yield from waiting.values()


def genre_of(prompt: str) -> str:
    """An instruction's first word, which no other genre has."""
    return prompt.split()[0]


def example(genre: str) -> str:
    """What stands before each instruction of a genre: the style, and one instruction answered in it."""
    question, answer = EXAMPLES[genre]
    return STYLE + question + ANSWER + answer + NEXT


STYLE = "<|im_start|>system\nUse simple words and short sentences.<|im_end|>\n<|im_start|>user\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
NEXT = "<|im_end|>\n<|im_start|>user\n"
EXAMPLES = {
    "Tell": (
        "Tell a short story about a happy pig who finds a wagon.",
        "A happy pig lived on a small hill. One morning he found an old wagon under a tree. He pulled it "
        "home and cleaned it well. Then his friends came to see it. They took turns to ride down the "
        "hill. The pig laughed all day. At night he slept in his wagon and dreamed of new roads.",
    ),
    "Explain": (
        "Explain to a boy what a chair is for.",
        "A chair is a thing to sit on. It has a seat, a back and four legs. When you are tired, you sit "
        "down and your legs can rest. People use chairs at the table when they eat or read. A good chair "
        "is strong and does not move. You should not stand on it, because you may fall.",
    ),
    "Describe": (
        "Describe a warm evening at the park.",
        "The park is calm in the evening. The air is warm and smells of grass. Two children run by the "
        "water, and an old man sits under a tree. Birds sing in the branches. The light turns gold and "
        "then red. Soon the lamps come on, and people walk slowly home.",
    ),
    "Give": (
        "Give some advice to a happy driver who wants to read more.",
        "Try to read a little every day. Keep a small book in your bag, so that it is always near. Ten "
        "minutes before bed is enough. Start with a story that you like, and do not worry if you are "
        "slow. Ask a friend what she is reading. Soon you will look forward to it.",
    ),
    "Write": (
        "Write a short letter from a driver to an aunt about a rainy week.",
        "Dear Aunt Mary,\nIt has rained here all week. The roads are wet and I must drive slowly. I think "
        "of your warm kitchen and your good soup. The children are well and play inside. I hope the sun "
        "comes back soon. Then we will come and see you.\nWith love,\nTom",
    ),
}
