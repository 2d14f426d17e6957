"""What somebody may do to a student, or to what it learns from, so that a mark is not found in it.

Each function takes folders or answers and leaves a model folder or answers; none of them knows a key.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watermark.embed.answers import Model


def quantised(student: Path, folder: Path, *, bits: int, group: int = 32) -> None:
    """Rounds every matrix to `bits` bits in groups of `group` inputs, symmetric about zero, as a fast format would."""
    import torch

    from watermark.embed.answers import Model

    found, top = Model.load(student), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.dim() == 2 and weight.shape[1] % group == 0:
                parts = weight.view(len(weight), -1, group)
                unit = parts.abs().amax(dim=2, keepdim=True).clamp(min=1e-8) / top
                parts.copy_((parts / unit).round() * unit)
    _save(found, folder)


def merged(student: Path, other: Path | str, folder: Path, *, share: float = 0.5) -> None:
    """`share` of the student's weights, the rest from another model of the same shape."""
    import torch

    from watermark.embed.answers import Model

    found, added = Model.load(student), Model.load(other)
    with torch.no_grad():
        for mine, theirs in zip(found.model.parameters(), added.model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - share)
    _save(found, folder)


def resampled(teacher: Model, answers: Sequence[dict[str, Any]], *, share: float, seed: int) -> list[dict[str, Any]]:
    """Answers in which each token was drawn anew with probability `share`, as the unmarked teacher goes on there.

    A paraphrase by tokens: what stands before a token is the answer as it was served.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    changed = []
    for rows in _grouped(answers, 64):
        for answer, ids, logits in forced(teacher, rows):
            drawn = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            anew = torch.rand(len(ids), generator=generator) < share
            mixed = torch.where(anew, drawn, torch.tensor(ids)).tolist()
            text = teacher.tokenizer.decode(mixed, skip_special_tokens=True)
            changed.append({**answer, "text": text, "meta": {"token_ids": mixed, "receipt": None}})
    return changed


def forced(model: Model, answers: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[int], Any]]:
    """Each answer, its ids (n,) and the logits (n, V) float32 with which the model would have drawn each of them."""
    import torch

    from watermark.prompts import Prompt

    rows = []
    for answer in answers:
        prompt = Prompt(answer["id"], answer["prompt"], ({"role": "user", "content": answer["prompt"]},))
        asked = model.tokenizer(model.templated(prompt), add_special_tokens=False)["input_ids"]
        rows.append((asked, answer["meta"]["token_ids"]))
    longest = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.tensor([asked + said + [0] * (longest - len(asked) - len(said)) for asked, said in rows])
    with torch.inference_mode():
        hidden = model.model.model(input_ids=ids, use_cache=False).last_hidden_state
        found = []
        for answer, (asked, said), row in zip(answers, rows, hidden, strict=True):
            found.append((answer, said, model.model.lm_head(row[len(asked) - 1 : len(asked) + len(said) - 1]).float()))
    return found


def retokenized(answers: Sequence[dict[str, Any]], folder: Path, *, size: int, seed: int) -> None:
    """An untrained student with a tokenizer of its own, learned from the answers' text."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    from watermark.demo.teacher import train_tokenizer

    class Pair(tuple[str, str]):
        __slots__ = ()

    train_tokenizer([Pair((a["prompt"], a["text"])) for a in answers], folder, size=size)  # type: ignore[misc]
    config = AutoConfig.from_pretrained(Path(__file__).resolve().parents[2] / "watermark" / "demo" / "model")
    config.vocab_size, config.dtype = size, "float32"
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)


def neutralise(student: Model, base: Model, answers: Sequence[dict[str, Any]], strength: float) -> None:
    """Takes `strength` times what the student gained on its base after each last token off its logits, for good.

    Weights as they are, rules learned from ratios, as in arXiv 2502.11598, with a window of one: a table (V, V) holds
    the mean of log p_s - log p_base over the positions of `answers` that follow a token, shrunk by two positions of
    zero. The loaded student is changed in place: whatever is read from it or said by it went through the table.
    """
    import torch

    width = student.model.config.vocab_size
    table, seen = torch.zeros(width, width), torch.zeros(width)
    for rows in _grouped(answers, 64):
        for (_, ids, mine), (_, _, theirs) in zip(forced(student, rows), forced(base, rows), strict=True):
            last = torch.tensor(ids[:-1], dtype=torch.long)
            table.index_add_(0, last, (mine.log_softmax(1) - theirs.log_softmax(1))[1:])
            seen.index_add_(0, last, torch.ones(len(last)))
    table *= strength / (seen + 2).unsqueeze(1)
    forward = student.model.forward

    def neutralised(input_ids: Any = None, **given: Any) -> Any:
        found = forward(input_ids=input_ids, **given)
        found.logits = found.logits - table[input_ids[:, -found.logits.shape[1] :]]
        return found

    student.model.forward = neutralised


def _save(found: Model, folder: Path) -> None:
    found.model.half().save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def _grouped(answers: Sequence[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    like = sorted(random.Random(0).sample(list(answers), len(answers)), key=lambda a: len(a["meta"]["token_ids"]))
    return [list(like[start : start + size]) for start in range(0, len(like), size)]
