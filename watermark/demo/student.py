"""Students: small language models trained on somebody's answers, from a fresh initialisation."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGNORED = -100
LONGEST = 192


@dataclass(frozen=True)
class Training:
    """How a student is trained. rate: peak of a one-cycle learning rate; batch: answers in one step."""

    epochs: int = 6
    batch: int = 16
    rate: float = 4e-3
    seed: int = 0


def fresh_student(teacher: Any, folder: Path, *, seed: int = 0) -> None:
    """Writes an untrained student with the teacher's vocabulary. teacher: embed.answers.Model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = teacher.tokenizer
    config = LlamaConfig(
        vocab_size=teacher.model.config.get_text_config().vocab_size,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(start: Path, answers: Path, folder: Path, training: Training) -> float:
    """Trains the student in `start` on answers {prompt, text}; writes it to `folder`, returns its last loss."""
    import torch

    from watermark.embed.answers import Model

    student = Model.load(start)
    rows = _rows(student, [json.loads(line) for line in answers.read_bytes().splitlines()])
    torch.manual_seed(training.seed)
    steps = math.ceil(len(rows) / training.batch) * training.epochs
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=training.rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.rate, total_steps=steps, pct_start=0.1)
    student.model.train()
    loss, done, began = 0.0, 0, time.monotonic()
    for epoch in range(training.epochs):
        total = 0.0
        for batch in _batches(rows, training.batch, seed=training.seed + epoch):
            found = student.model(**batch).loss
            optimizer.zero_grad(set_to_none=True)
            found.backward()
            torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, done = total + found.item(), done + 1
        loss = total / max(1, steps // training.epochs)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    student.model.eval().save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return loss


def _rows(student: Any, answers: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of each prompt with its answer; only the answer and its end are learned."""
    from watermark.prompts import Prompt

    tokenizer = student.tokenizer
    rows = []
    for answer in answers:
        prompt = Prompt(answer["id"], answer["prompt"], ({"role": "user", "content": answer["prompt"]},))
        asked = tokenizer(student.templated(prompt), add_special_tokens=False)["input_ids"]
        said = tokenizer(answer["text"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        ids, labels = asked + said, [IGNORED] * len(asked) + said
        rows.append((ids[:LONGEST], labels[:LONGEST]))
    return rows


def _batches(rows: list[tuple[list[int], list[int]]], size: int, *, seed: int) -> list[dict[str, Any]]:
    """Batches of answers of like length, in random order, padded on the right."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(rows), generator=generator).tolist()
    like = sorted(shuffled, key=lambda i: len(rows[i][0]))
    groups = [like[start : start + size] for start in range(0, len(like), size)]
    order = torch.randperm(len(groups), generator=generator).tolist()
    return [_padded([rows[i] for i in groups[g]]) for g in order]


def _padded(rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    import torch

    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
    }
