"""What every adapter does: logits of the next token, tilted by the last ids, a pure function of mark, ids and logits.

Engines differ in how they show ids and logits; an adapter reads both and calls `tilt_rows`, so that there is one way to
be wrong and one set of golden vectors (`watermark.conformance`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import EmbeddingRefused
from watermark.mark import contexts_of
from watermark.schemes import marks_once

if TYPE_CHECKING:
    from watermark.mark import Watermark

GREEDY = 1e-5  # temperatures below it are greedy decoding in vLLM; nothing is divided by them


def needed(mark: Watermark) -> int:
    """How many of the last ids an adapter has to tell: a window, or all of them for a scheme that marks once."""
    return sys.maxsize if marks_once(mark.scheme) else mark.scheme.window


def check_sampling(mark: Watermark, temperature: float) -> None:
    """Raises EmbeddingRefused for greedy decoding under a scheme that stands in for the sampler."""
    if temperature < GREEDY and marks_once(mark.scheme):
        raise EmbeddingRefused(
            f"{mark.scheme.name} stands in for the sampler, and greedy decoding draws nothing",
            hint="sample at a temperature above 0, or make a mark with `--scheme greenlist`",
        )


def tilt_rows(mark: Watermark, histories: Sequence[Sequence[int]], logits: Any, *, temperature: float = 1.0) -> Any:
    """Logits (b, V) of each row's next token, numpy or torch, with the mark; a new array of the same kind.

    histories: each row's ids so far, prompt and answer, or at least the last `needed` of them; a row with fewer than h
    stays as it is. temperature: what the engine divides by after this, so that the tilt is that of the distribution
    which is sampled; 0 is greedy decoding. What the mark leaves alone keeps its bits at any temperature. Raises
    ProfileMismatch if V is not the mark's width, EmbeddingRefused where the scheme needs sampling and there is none.
    """
    check_sampling(mark, temperature)
    contexts = contexts_of(histories, mark.scheme.window)
    met = {"met": mark.met(histories)} if marks_once(mark.scheme) else {}
    if temperature < GREEDY or temperature == 1.0:
        return mark.tilt(logits, contexts, **met)
    scaled = logits / temperature
    tilted = mark.tilt(scaled, contexts, **met)
    if isinstance(logits, np.ndarray):
        return np.where(tilted == scaled, logits, (tilted * temperature).astype(logits.dtype))
    return (tilted * temperature).where(tilted != scaled, logits)


def tilt_row(mark: Watermark, ids: Sequence[int], logits: Any, *, temperature: float = 1.0) -> Any:
    """`tilt_rows` for one row: logits (V,) of the token after `ids`, of which the last `needed` are read."""
    last = [int(token) for token in ids[-needed(mark) :]]
    return tilt_rows(mark, [last], logits[None], temperature=temperature)[0]
