"""Adapter for llama-cpp-python: `llm(prompt, temperature=1.0, logits_processor=logits_processors(mark, llm))`.

The processor comes first in llama.cpp's chain of samplers: before penalties, grammar, top-k, top-p and temperature
(llama_cpp/llama.py, `_init_sampler`, 0.3.36). llama-cpp-python itself is not imported here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.embed.rows import check_sampling, tilt_row
from watermark.errors import EmbeddingRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark

    Processor = Callable[[NDArray[np.intc], NDArray[np.single]], NDArray[np.single]]


class WatermarkLogitsProcessor:
    """`f(input_ids (t,), scores (V,)) -> scores`: the mark on the next token, from the ids so far.

    llm: the `Llama` that it serves. temperature: that of the call, 0.8 where a call names none (0.2 for chats).
    Raises ProfileMismatch if the model's logits are not of the mark's width, and EmbeddingRefused for a model with a
    draft model: llama-cpp-python shows a processor drafts that may be rejected as if they were the answer.
    """

    def __init__(self, mark: Watermark, llm: Any, *, temperature: float = 1.0) -> None:
        mark.check_width(llm.n_vocab())
        check_sampling(mark, temperature)
        if getattr(llm, "draft_model", None) is not None:
            raise EmbeddingRefused(
                "with a draft model the last ids are not known when a token is drawn",
                hint="make the Llama without draft_model",
            )
        self._mark = mark
        self._end = llm.token_eos()
        self._temperature = temperature

    def __call__(self, input_ids: NDArray[np.intc], scores: NDArray[np.single]) -> NDArray[np.single]:
        try:
            tilted: NDArray[np.single] = tilt_row(
                self._mark,
                np.asarray(input_ids).tolist(),
                np.ascontiguousarray(scores, dtype=np.float32),
                temperature=self._temperature,
            )
            return tilted
        except Exception:  # ctypes prints what is raised in a callback and goes on, unmarked: end the answer instead
            traceback.print_exc()
            return np.where(np.arange(len(scores)) == self._end, 0, -np.inf).astype(np.float32)

    def __repr__(self) -> str:
        return f"WatermarkLogitsProcessor({self._mark.scheme.name}, kid={self._mark.key.kid})"


class LogitsProcessors(list[Any]):
    """A list of processors whose `extend` returns what it made.

    `create_completion` assigns the result of `extend` when a call has a `logit_bias` (llama_cpp/llama.py, 0.3.36); of
    a plain list that is None, and the answer would be served unmarked.
    """

    def extend(self, more: Iterable[Any]) -> LogitsProcessors:  # type: ignore[override]
        return LogitsProcessors([*self, *more])

    def __call__(self, input_ids: NDArray[np.intc], scores: NDArray[np.single]) -> NDArray[np.single]:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


def logits_processors(mark: Watermark, llm: Any, *, temperature: float = 1.0) -> LogitsProcessors:
    """What a call's `logits_processor` takes. Raises ProfileMismatch and EmbeddingRefused, see above."""
    return LogitsProcessors([WatermarkLogitsProcessor(mark, llm, temperature=temperature)])
