"""What was published before, on the same models and texts: argmax votes, and green mass with Hoeffding's bound.

Sander et al. 2024 (arXiv 2402.14904, reading mode): the predicted token at each position whose window has not stood
earlier in the same text, each (window, token) once, against the binomial law. Xu et al. 2026 (ADFP, arXiv 2602.03812):
the mean probability g of the green tokens over n distinct windows, p = exp(-2 n (g - gamma)^2) for g > gamma.
Prompts' windows and special tokens are left out of both, as in the package's own test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from attack import forced

if TYPE_CHECKING:
    from watermark.embed.answers import Model
    from watermark.mark import Watermark


@dataclass(frozen=True)
class Published:
    """z of each test and its log10 p as published; z of the mass is of its Hoeffding p, under a normal law."""

    argmax_votes: int
    argmax_z: float
    argmax_log10_p: float
    mass_windows: int
    mass: float
    mass_log10_p: float


def published(suspect: Model, texts: Sequence[dict[str, Any]], marks: Sequence[Watermark]) -> list[Published]:
    """Both tests of one suspect under each mark, over the same texts {prompt, meta.token_ids}."""
    h = marks[0].scheme.window
    votes: dict[tuple[tuple[int, ...], int], None] = {}
    windows: dict[tuple[int, ...], int] = {}
    heard: list[Any] = []
    for start in range(0, len(texts), 32):
        for answer, ids, logits in forced(suspect, texts[start : start + 32]):
            asked = suspect.tokenizer(answer["prompt"], add_special_tokens=False)["input_ids"]
            seen = {tuple(asked[at : at + h]) for at in range(len(asked) - h + 1)}
            for at in range(h, len(ids)):
                window = tuple(ids[at - h : at])
                if window in seen or set(window) & set(marks[0].special_ids):
                    continue
                seen.add(window)
                votes[window, int(logits[at].argmax())] = None
                if window not in windows:
                    windows[window] = len(heard)
                    heard.append(logits[at].softmax(0).numpy())
    cells = np.array([window for window, _ in votes]), np.array([token for _, token in votes])
    distinct, mass = np.array(list(windows)), np.stack(heard)
    return [_tested(mark, cells, distinct, mass) for mark in marks]


def _tested(mark: Watermark, cells: tuple[Any, Any], windows: Any, mass: Any) -> Published:
    law, n = mark.scheme.null, len(cells[1])
    green = int(mark.score(*cells).sum())
    vocabulary, total = np.arange(mass.shape[1]), 0.0
    for window, row in zip(windows, mass, strict=True):
        total += float(row[mark.score(np.broadcast_to(window, (len(vocabulary), len(window))), vocabulary) > 0].sum())
    lift = total / len(windows) - law.mean
    hoeffding = -2 * len(windows) * max(0.0, lift) ** 2 / math.log(10)
    return Published(
        argmax_votes=n,
        argmax_z=round((green - n * law.mean) / math.sqrt(n * law.variance), 3),
        argmax_log10_p=round(law.log10_pvalue(green, n), 3),
        mass_windows=len(windows),
        mass=round(total / len(windows), 5),
        mass_log10_p=round(hoeffding, 3),
    )
