"""What every adapter does: logits of the next token, tilted by the last ids, a pure function of mark, ids and logits.

Engines differ in how they show ids and logits; an adapter reads both and calls `tilt_rows`, so that there is one way to
be wrong and one set of golden vectors (`watermark.conformance`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import ongpu
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
    return _warm(logits, [temperature], lambda given: mark.tilt(given, contexts, **met))


def tilt_each(marks: Sequence[Watermark], histories: Any, logits: Any, temperatures: Sequence[float]) -> Any:
    """As `tilt_rows`, each row under a mark and a temperature of its own. On a GPU all marks that differ in nothing but
    their own key, those of accounts for instance, are one call.

    histories: lists of ids, or a tensor (b, t), filled up with -1 on the left.
    """
    groups: list[list[int]] = []
    together: list[bool] = []  # whether a group takes every mark that is alike
    for row, mark in enumerate(marks):
        check_sampling(mark, temperatures[row])
        for group, open_to_all in zip(groups, together, strict=True):
            first = group[0]
            same = mark is marks[first] and temperatures[row] == temperatures[first]
            if same or (open_to_all and ongpu.alike(mark, marks[first])):
                group.append(row)
                break
        else:
            groups.append([row])
            together.append(ongpu.takes(mark, logits))
    if len(groups) == 1:
        return _tilt_group(marks, histories, logits, temperatures)
    made = logits.copy() if isinstance(logits, np.ndarray) else logits.clone()
    for group in groups:
        at = group if isinstance(logits, np.ndarray) else ongpu.sent(group, logits.device)
        ids = [histories[row] for row in group] if isinstance(histories, Sequence) else histories[at]
        some = [marks[row] for row in group]
        made[at] = _tilt_group(some, ids, logits[at], [temperatures[row] for row in group])
    return made


def _tilt_group(marks: Sequence[Watermark], histories: Any, logits: Any, temperatures: Sequence[float]) -> Any:
    """Rows of one mark and temperature, or on a GPU of any that are alike."""
    first = marks[0]
    window, listed = first.scheme.window, isinstance(histories, Sequence)
    if not ongpu.takes(first, logits):
        lists = histories if listed else [[each for each in row if each >= 0] for row in histories.tolist()]
        return tilt_rows(first, lists, logits, temperature=temperatures[0])
    first.check_width(logits.shape[-1])
    distinct = {id(mark): mark for mark in marks}
    places = {mark: place for place, mark in enumerate(distinct)}
    given: dict[str, Any] = {"which": [places[id(mark)] for mark in marks]}
    if marks_once(first.scheme):
        given["met"] = first.met(histories) if listed else ongpu.stood_before(histories, window)
    contexts, keyed = contexts_of(histories, window) if listed else _last(histories, window), list(distinct.values())
    return _warm(logits, temperatures, lambda rows: ongpu.tilt(keyed, rows, contexts, **given))


def _warm(logits: Any, temperatures: Sequence[float], tilt: Callable[[Any], Any]) -> Any:
    """Logits (b, V) tilted as they are after the temperature, one for all rows or one each, and as they were before it;
    what the tilt leaves alone keeps its bits."""
    divided = [1.0 if each < GREEDY else each for each in temperatures]
    if all(each == 1.0 for each in divided):
        return tilt(logits)
    by: Any = divided[0] if len(divided) == 1 else ongpu.sent(divided, logits.device).to(logits.dtype)[:, None]
    scaled = logits / by
    tilted = tilt(scaled)
    if isinstance(logits, np.ndarray):
        return np.where(tilted == scaled, logits, (tilted * by).astype(logits.dtype))
    return (tilted * by).where(tilted != scaled, logits)


def _last(ids: Any, window: int) -> Any:
    """The last `window` ids of each row of a tensor (b, t), filled up with -1 on the left."""
    kept = ids[:, -window:]
    if kept.shape[1] == window:
        return kept
    made = ids.new_full((len(ids), window), -1)
    made[:, window - kept.shape[1] :] = kept
    return made


def tilt_row(mark: Watermark, ids: Sequence[int], logits: Any, *, temperature: float = 1.0) -> Any:
    """`tilt_rows` for one row: logits (V,) of the token after `ids`, of which the last `needed` are read."""
    last = [int(token) for token in ids[-needed(mark) :]]
    return tilt_rows(mark, [last], logits[None], temperature=temperature)[0]
