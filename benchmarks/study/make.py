"""What students learn from: a teacher's answers, marked under one key or under none, and mixtures of them by tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.files import write_whole

if TYPE_CHECKING:
    from watermark.embed.answers import Model
    from watermark.mark import Watermark
    from watermark.prompts import Prompt

PROMPTS = Path(__file__).resolve().parents[2] / "watermark" / "demo" / "prompts"
Answer = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A share of the training tokens. account: whose key marked it, "" for the mark's own key, None for no mark."""

    account: str | None
    share: float


@dataclass
class Teacher:
    """A model that serves answers; loaded when first needed. precision: bfloat16 where the processor has it."""

    source: Path | str
    longest: int = 96
    batch: int = 128
    precision: str = "float32"
    _model: Model | None = None

    @property
    def model(self) -> Model:
        import torch

        from watermark.embed.answers import Model

        if self._model is None:
            loaded = Model.load(self.source)
            self._model = dataclasses.replace(loaded, model=loaded.model.to(getattr(torch, self.precision)))
        return self._model

    def answers(
        self, prompts: Sequence[Prompt], path: Path, mark: Watermark | None, *, seed: int, top_k: int = 0
    ) -> list[Answer]:
        """Answers to `prompts` at temperature 1, through `write_answers`; kept in `path` and not made twice."""
        from watermark.embed.answers import Sampling, write_answers

        done = path.with_suffix(".done")
        if not done.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            like = sorted(prompts, key=lambda prompt: len(prompt.text))  # prompts of like length: little padding
            sampling = Sampling(self.longest, batch=self.batch, seed=seed, top_k=top_k)
            write_answers(self.model, like, path, mark=mark, sampling=sampling)
            write_whole(done, f"{len(like)} answers\n".encode())
        return read(path)


def the_mark(path: Path, source: Path | str, *, window: int, delta: float) -> Watermark:
    """The mark in `path`, made there if there is none."""
    from watermark.mark import Watermark, save_profile
    from watermark.schemes import GreenList
    from watermark.tokenizer import Tokenizer, logits_width

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scheme = GreenList(window=window, delta=delta)
        made = Watermark.generate(scheme, tokenizer=Tokenizer.load(source), logits_width=logits_width(source))
        made.save(path)
        save_profile(made, path.with_suffix(".profile.json"))
    return Watermark.load(path)


def under(mark: Watermark, account: str | None) -> Watermark | None:
    """The mark that serves an account: under its own key for "", under none for None."""
    return None if account is None else mark.rekeyed(mark.key.subkey(tenant=account))


def chosen(prompts: Sequence[Prompt], name: str, count: int | None = None) -> list[Prompt]:
    """`count` of the prompts in an order of their own for each name; the same name chooses the same prompts."""
    rng = random.Random(hashlib.sha256(name.encode()).digest())
    return rng.sample(list(prompts), len(prompts) if count is None else min(count, len(prompts)))


def taken(answers: Sequence[Answer], tokens: float, seed: int) -> list[Answer]:
    """Answers in random order until `tokens` are reached. Raises ValueError if there are too few."""
    found, total = [], 0
    for answer in random.Random(seed).sample(list(answers), len(answers)):
        if total >= tokens:
            return found
        found.append(answer)
        total += length(answer)
    if total < 0.98 * tokens:
        raise ValueError(f"the answers have {total} tokens, needed are {tokens:.0f}")
    return found


def length(answer: Answer) -> int:
    return len(answer["meta"]["token_ids"])


def read(path: Path) -> list[Answer]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
