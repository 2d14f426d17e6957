"""Adapter for TensorRT-LLM: `SamplingParams(logits_processor=WatermarkLogitsProcessor(kid))`, with the LLM API.

    llm = LLM(model, disable_overlap_scheduler=True)   # WMARK_MARKS is set for it and its workers

A processor travels to worker processes, so that it holds a kid and no key; marks are read there, from the environment
(`watermark.embed.served`). Recipe of the call: tensorrt_llm/sampling_params.py, LogitsProcessor, 1.2: logits of shape
(…, beams, V), changed in place, and the ids so far of each beam, prompt included; on a stream of the caller's where
the TensorRT backend gives one. It comes before sampling; the request's temperature is not told, so state it here. The
overlap scheduler draws a token before the ids have the one before it, so that it has to be off.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from watermark.embed.rows import needed, tilt_rows
from watermark.embed.served import ASKED, Served

if TYPE_CHECKING:
    import torch


def _interface() -> tuple[type, ...]:
    """TensorRT-LLM's abstract class; none where it is not installed."""
    if importlib.util.find_spec("tensorrt_llm") is None:
        return ()
    return (importlib.import_module("tensorrt_llm.sampling_params").LogitsProcessor,)


class WatermarkLogitsProcessor(*_interface()):  # type: ignore[misc]
    """The mark with this kid on one request. temperature: that of its SamplingParams.

    Raises EmbeddingRefused, in the process that makes it, for a kid that is not served there.
    """

    def __init__(self, kid: str, *, temperature: float = 1.0) -> None:
        self._kid = kid
        self._temperature = temperature
        Served.from_environment().asked({ASKED: kid})

    def __call__(
        self,
        req_id: int,
        logits: torch.Tensor,
        token_ids: Sequence[Sequence[int]],
        stream_ptr: int | None,
        client_id: int | None = None,
    ) -> None:
        """Tilts logits (…, beams, V) in place."""
        mark = Served.from_environment().asked({ASKED: self._kid})
        if mark is None:
            return
        with _on(stream_ptr):
            rows = logits.view(-1, logits.shape[-1])
            histories = [[int(token) for token in ids[-needed(mark) :]] for ids in token_ids]
            rows[: len(histories)] = tilt_rows(mark, histories, rows[: len(histories)], temperature=self._temperature)


def _on(stream: int | None) -> Any:
    if stream is None:
        return contextlib.nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.ExternalStream(stream))
