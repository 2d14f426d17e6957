"""Answers for `text_changes`: two teachers, each under five marks, made once and kept as JSON Lines with their ids.

Marks: our green list at windows 1, 2 and 4; transformers' own WatermarkingConfig (KGW, left hash); and vLLM's Gumbel
sampler, drawn here as that engine draws (vllm 0.33.0, vllm/v1/watermarking/gumbel.py: the largest of
logit - log(-log u), and a plain draw after a window that stood earlier in the answer).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.keys import Key, decoy_keys
from watermark.mark import Binding, Watermark
from watermark.schemes import GreenList, Scheme
from watermark.tokenizer import Tokenizer, logits_width

if TYPE_CHECKING:
    from watermark.embed.answers import Model
    from watermark.prompts import Prompt

HASHING_KEY, GUMBEL_KEY = 71_993_881, 0x5DEECE66D2B79F13
MARKS = ("green list 1", "green list 2", "green list 4", "HF KGW left hash", "vLLM Gumbel 4")
BATCH, TOP = 40, 1024  # Gumbel draws among the likeliest tokens only: hashes of a whole vocabulary are slow


@dataclass(frozen=True)
class Answered:
    """One answer as it was drawn. text: its ids decoded, special tokens left out."""

    prompt: str
    token_ids: tuple[int, ...]
    text: str


def mark_named(name: str, source: str | Path) -> Watermark:
    """One of MARKS under a fixed key, bound to the teacher's tokenizer."""
    from watermark.schemes.engines import ENGINES

    read = Tokenizer.load(source)
    width = logits_width(source) or read.size
    binding = Binding(read.digest, width, read.special_ids, str(source))
    if name.startswith("green list"):
        scheme: Scheme = GreenList(window=int(name[-1]), delta=2.0)
        return Watermark(scheme, next(decoy_keys(name.encode(), 1)), binding)
    if name.startswith("HF"):
        scheme = ENGINES["hf-kgw/lefthash"](vocabulary=width, gamma=0.25, delta=2.0)
        return Watermark(scheme, Key.of_engine((HASHING_KEY,)), binding)
    return Watermark(ENGINES["vllm-gumbel/single"](window=4), Key.of_engine((GUMBEL_KEY,)), binding)


def answers(model: Model, prompts: Sequence[Prompt], name: str, path: Path, *, length: int) -> list[Answered]:
    """The answers in `path`, made there if there is none; marked as the engine of `name` marks."""
    if not path.exists():
        made: list[Answered] = []
        for start in range(0, len(prompts), BATCH):
            made += _batch(model, prompts[start : start + BATCH], name, start, length)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(a.__dict__) + "\n" for a in made), "utf-8")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [Answered(row["prompt"], tuple(row["token_ids"]), row["text"]) for row in rows]


def _batch(model: Model, prompts: Sequence[Prompt], name: str, seed: int, length: int) -> list[Answered]:
    import torch

    given = model.tokenizer(
        [model.templated(prompt) for prompt in prompts],
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    )
    width = model.model.config.get_text_config().vocab_size
    start = given["input_ids"].shape[1]
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        rows = model.model.generate(
            **given,
            max_new_tokens=length,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            pad_token_id=model.tokenizer.pad_token_id,
            **_marked(name, model.source, width, start),
        )
    made = []
    for prompt, row in zip(prompts, rows[:, start:].tolist(), strict=True):
        ids = model._cut(row)
        text = model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        made.append(Answered(prompt.text, tuple(ids), text))
    return made


def _marked(name: str, source: str, width: int, start: int) -> dict[str, Any]:
    """The arguments of `generate` that make the mark."""
    if name.startswith("green list"):
        from watermark.embed.transformers import Embedder

        return {"watermarking_config": Embedder(mark_named(name, source)).config}
    if name.startswith("HF"):
        from transformers import WatermarkingConfig

        return {"watermarking_config": WatermarkingConfig(greenlist_ratio=0.25, bias=2.0, hashing_key=HASHING_KEY)}
    return {"logits_processor": [_gumbel(start)]}


def _gumbel(start: int, window: int = 4) -> Callable[[Any, Any], Any]:
    """Leaves one token to draw: the largest logit - log(-log u); nothing is forced after a window met before."""
    import torch

    from watermark.schemes.engines.vllm import uniforms, words_of

    def process(ids: Any, scores: Any) -> Any:
        kept = scores.clone()
        for row, said in enumerate(ids.tolist()):
            context, met = said[-window:], said[start:]
            earlier = {tuple(met[i : i + window]) for i in range(len(met) - window)}
            if tuple(context) in earlier:
                continue
            best = scores[row].topk(min(TOP, scores.shape[-1]))
            tokens = best.indices.numpy()
            u = uniforms(words_of(np.tile(context, (len(tokens), 1)), tokens, GUMBEL_KEY))
            drawn = int(tokens[int(np.argmax(best.values.numpy() - np.log(-np.log(u))))])
            kept[row] = -torch.inf
            kept[row, drawn] = 0.0
        return kept

    return process
