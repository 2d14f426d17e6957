"""Training students on answers, fast enough for two CPU cores: full fine-tuning or LoRA, saved as a plain model folder.

    python train.py START ANSWERS.jsonl FOLDER --rate 2e-4
    python train.py START ANSWERS.jsonl FOLDER --lora 16 --rate 1e-3

What makes it fast: weights and activations in bfloat16 with float32 masters beside them (no autocast), rows of like
length with causal attention alone (no mask: the padding is on the right, where nobody looks), and the vocabulary's
logits only where an answer token is learned, in parts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from watermark.prompts import Prompt

HEAD_ROWS = 2048  # positions whose logits exist at one time


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    step: tokens in one step, prompts and padding included; rate: peak of a one-cycle learning rate; lora: rank of
    the adapters on every linear layer, 0 trains all weights; longest: an answer of so many tokens was cut, so that
    its end is not learned; precision: of the forward and backward pass; kept: of the saved weights.
    """

    epochs: int = 1
    step: int = 2048
    rate: float = 2e-4
    lora: int = 0
    seed: int = 0
    longest: int = 112
    precision: str = "bfloat16"
    kept: str = "float16"


@dataclass(frozen=True)
class Trained:
    """tokens: answer tokens learned, each as often as it was seen; losses in nats an answer token."""

    tokens: int
    steps: int
    first_loss: float
    last_loss: float
    seconds: int


Row = tuple[list[int], int]  # ids of prompt and answer, and how many of them are the prompt's


def train(start: Path | str, answers: Sequence[dict[str, Any]], folder: Path, recipe: Recipe) -> Trained:
    """Trains a copy of the model in `start` on answers {prompt, text}; writes it to `folder` with its tokenizer."""
    import torch

    from watermark.embed.answers import Model

    began, student = time.monotonic(), Model.load(start)
    student.model.set_attn_implementation(
        "eager"
    )  # short rows: on a CPU the fused kernel is the slower one, above all backward
    torch.manual_seed(recipe.seed)
    rows = encoded(student, answers, recipe.longest)
    dtype = getattr(torch, recipe.precision)
    learner = _Lora(student.model, recipe.lora, dtype) if recipe.lora else _Full(student.model, dtype)
    batches = [b for epoch in range(recipe.epochs) for b in _batches(rows, recipe.step, recipe.seed + epoch)]
    optimizer = torch.optim.AdamW(learner.masters, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=len(batches) + 1, pct_start=0.1)
    learner.model.train()
    losses, learned = [], 0
    for number, batch in enumerate(batches, 1):
        loss, count = backward(learner.model, batch)
        learner.take_gradients()
        torch.nn.utils.clip_grad_norm_(learner.masters, 1.0)
        optimizer.step()
        schedule.step()
        learner.give_weights()
        losses, learned = [*losses, loss], learned + count
        if number % 10 == 0 or number == len(batches):
            pace = learned / (time.monotonic() - began)
            print(f"step {number}/{len(batches)}: loss {_mean(losses[-10:]):.3f}, {pace:.0f} tokens/s", file=sys.stderr)
    finished = learner.finished().to(getattr(torch, recipe.kept)).eval()
    finished.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tenth = max(1, len(losses) // 10)
    seconds = round(time.monotonic() - began)
    return Trained(
        learned, len(losses), round(_mean(losses[:tenth]), 4), round(_mean(losses[-3 * tenth :]), 4), seconds
    )


def backward(model: Any, batch: list[Row]) -> tuple[float, int]:
    """Adds the gradients of one batch; returns its mean loss and the answer tokens in it.

    The trunk's output is cut from the graph, the head is run in parts on it, and what they ask of it goes back
    through the trunk at once: the logits (tokens, V) never exist together.
    """
    import torch
    from torch.nn.functional import cross_entropy

    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in batch])
    where = torch.tensor([(n, at) for n, (row, told) in enumerate(batch) for at in range(told - 1, len(row) - 1)]).T
    targets = ids[where[0], where[1] + 1]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[where[0], where[1]]
    cut, total = hidden.detach().requires_grad_(), 0.0
    for part, wanted in zip(cut.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
        loss = cross_entropy(model.lm_head(part).float(), wanted, reduction="sum") / len(targets)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    hidden.backward(cut.grad)
    return total, len(targets)


class _Full:
    """All weights learn: the model in `dtype`, a float32 master of every weight."""

    def __init__(self, model: Any, dtype: Any) -> None:
        self.masters = [weight.detach().clone() for weight in model.parameters()]
        self.model = model.to(dtype)
        self._weights = list(self.model.parameters())

    def take_gradients(self) -> None:
        for master, weight in zip(self.masters, self._weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None

    def give_weights(self) -> None:
        for master, weight in zip(self.masters, self._weights, strict=True):
            weight.data.copy_(master)

    def finished(self) -> Any:
        self.model.float()
        for master, weight in zip(self.masters, self.model.parameters(), strict=True):
            weight.data.copy_(master)
        return self.model


class _Lora:
    """Low-rank adapters on every linear layer but the head (Hu et al. 2021); `finished` merges them.

    scale 2 (alpha = twice the rank); the second factor starts at zero, so that the student starts as the teacher.
    """

    scale = 2.0

    def __init__(self, model: Any, rank: int, dtype: Any) -> None:
        import torch

        self._exact = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        self.model = model.to(dtype).requires_grad_(False)
        self._layers = {n: m for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
        self._factors = {}
        for name, layer in self._layers.items():
            down = torch.randn(rank, layer.in_features, dtype=dtype) / math.sqrt(layer.in_features)
            up = torch.zeros(layer.out_features, rank, dtype=dtype)
            self._factors[name] = (down.requires_grad_(), up.requires_grad_())
            layer.forward = self._adapted(layer, *self._factors[name])
        self._flat = [factor for pair in self._factors.values() for factor in pair]
        self.masters = [factor.detach().float() for factor in self._flat]

    def _adapted(self, layer: Any, down: Any, up: Any) -> Callable[[Any], Any]:
        from torch.nn.functional import linear

        return lambda given: linear(given, layer.weight) + self.scale * linear(linear(given, down), up)

    def take_gradients(self) -> None:
        for master, factor in zip(self.masters, self._flat, strict=True):
            master.grad, factor.grad = factor.grad.float(), None

    def give_weights(self) -> None:
        for master, factor in zip(self.masters, self._flat, strict=True):
            factor.data.copy_(master)

    def finished(self) -> Any:
        self.model.float()
        for name, weight in self.model.named_parameters():
            weight.data.copy_(self._exact[name])
        for layer, (down, up) in zip(self._layers.values(), _pairs(self.masters), strict=True):
            layer.weight.data += self.scale * up @ down
            del layer.forward
        return self.model


def encoded(student: Any, answers: Sequence[dict[str, Any]], longest: int) -> list[Row]:
    """Each prompt with its answer's text, tokenized anew as a copier would; only an answer that ended has an end."""
    tokenizer = student.tokenizer
    rows = []
    for answer in answers:
        prompt = Prompt(str(answer["id"]), answer["prompt"], ({"role": "user", "content": answer["prompt"]},))
        asked = tokenizer(student.templated(prompt), add_special_tokens=False)["input_ids"]
        said = tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
        made = len(answer.get("meta", {}).get("token_ids", said))
        end = [tokenizer.eos_token_id] if made < longest else []
        if said:
            rows.append((asked + said + end, len(asked)))
    return rows


def _batches(rows: list[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Rows of like length, at most `size` tokens with their padding; batches in random order."""
    rng = random.Random(seed)
    like = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row[0]))
    groups: list[list[Row]] = [[]]
    for row in like:
        if (len(groups[-1]) + 1) * len(row[0]) > size and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    yield from groups


def _pairs(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("folder", type=Path)
    for option in fields(Recipe):
        parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(**{option.name: getattr(given, option.name) for option in fields(Recipe)})
    answers = [json.loads(line) for line in given.answers.read_bytes().splitlines()]
    print(json.dumps(asdict(train(given.start, answers, given.folder, recipe))))


if __name__ == "__main__":
    main()
