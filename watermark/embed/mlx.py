"""Adapter for mlx-lm: `generate(model, tokenizer, prompt, logits_processors=[WatermarkLogitsProcessor(mark)])`.

The processor sees the ids so far, prompt included, and raw logits, before the sampler's temperature, top-p and min-p
(mlx_lm/generate.py, 0.32); in a batch each sequence has its own list, so that each can have its own mark or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.embed.rows import check_sampling, tilt_row

if TYPE_CHECKING:
    from watermark.mark import Watermark


class WatermarkLogitsProcessor:
    """`f(tokens (t,), logits (1, V)) -> logits`, both mx.array; the logits' precision is kept.

    temperature: that of the sampler (`make_sampler(temp=…)`), so that the tilt is one of what is sampled. Logits go
    through float32 and back: MLX has no numpy view of bfloat16. Raises ProfileMismatch if V is not the mark's width,
    at the first token.
    """

    def __init__(self, mark: Watermark, *, temperature: float = 1.0) -> None:
        check_sampling(mark, temperature)
        self._mark = mark
        self._temperature = temperature

    def __call__(self, tokens: Any, logits: Any) -> Any:
        import mlx.core as mx  # type: ignore[import-not-found]

        ids = np.array(tokens).tolist()
        row = np.array(logits.astype(mx.float32))[0]
        return mx.array(tilt_row(self._mark, ids, row, temperature=self._temperature))[None].astype(logits.dtype)

    def __repr__(self) -> str:
        return f"WatermarkLogitsProcessor({self._mark.scheme.name}, kid={self._mark.key.kid})"
