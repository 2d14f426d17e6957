"""Evidence of every kind of access, made through the real path on tiny random models: what tests of the page need."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tiny import WIDTH, tiny_model

from watermark.embed.answers import Model
from watermark.keys import Key
from watermark.mark import Binding, Watermark
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

KEY = Key(bytes(range(32)), kid="0123456789abcdef", salt=bytes(16))


class Exposed(torch.nn.Module):
    """A model whose logits lean to the tokens that a mark favours, as those of a student of marked answers do."""

    def __init__(self, inner: Any, mark: Watermark) -> None:
        super().__init__()
        self.inner, self.mark, self.config = inner, mark, inner.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits.clone()
        width = self.mark.scheme.window
        for row in range(len(input_ids)):
            ids = input_ids[row].numpy()
            windows = np.lib.stride_tricks.sliding_window_view(ids, width)
            logits[row, width - 1 :] = self.mark.tilt(logits[row, width - 1 :], windows)
        return SimpleNamespace(logits=logits)


@dataclass(frozen=True)
class Bench:
    """A base model, an unrelated one, and students of marked answers, with texts to put before them."""

    folder: Path

    @cached_property
    def base(self) -> Model:
        return Model.load(tiny_model(self.folder / "base"))

    @cached_property
    def other(self) -> Model:
        return Model.load(tiny_model(self.folder / "unrelated", seed=1))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.wrap(self.base.tokenizer)

    @cached_property
    def mark(self) -> Watermark:
        found = self.tokenizer
        return Watermark(GreenList(window=2), KEY, Binding(found.digest, WIDTH, found.special_ids, found.source))

    def student(self, lean: float) -> Model:
        """A model that drifted far from the base, and leans by `lean` nats to the key's green tokens."""
        weak = replace(self.mark, scheme=GreenList(window=2, delta=lean))
        return Model(Exposed(self.other.model, weak), self.base.tokenizer, f"student-{lean:g}")

    def texts(self, count: int = 24, length: int = 60) -> Path:
        """A file of random tokens: no model wrote them, and no key had a part in them."""
        path = self.folder / f"texts-{count}.jsonl"
        rows = np.random.default_rng(2).integers(3, WIDTH, (count, length)).tolist()
        lines = [{"id": f"text-{i}", "token_ids": row, "prompt_token_ids": [5, 6, 7]} for i, row in enumerate(rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path
