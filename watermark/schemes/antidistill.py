"""Antidistillation fingerprint: green tokens gain in proportion to the chance that a student would learn them by.

arXiv 2602.03812: the change of the logits that raises most, in a student that learns from the text, the chance of
green tokens, at the same distance from the teacher. To first order it is λ p (1[green] - p(green)), p the student's
chances, p(green) their sum over green tokens: the derivative of p(green) by the student's logits. The marked model
stands in for its student unless a proxy model's logits are given. Scored as a green list is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark import prf
from watermark.schemes.gate import check_gate
from watermark.schemes.greenlist import GreenBits, check_gamma, check_window

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key
    from watermark.schemes.fused import Rows

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")


@dataclass(frozen=True)
class AntiDistill(GreenBits):
    """window: context width h in tokens. gamma: share of green tokens. strength: λ, in nats. gate: as of `GreenList`.

    A token of chance p gains λ p (1 - p(green)) if it is green and loses λ p p(green) if it is not: unlikely tokens
    stay as they are.
    """

    name: ClassVar[str] = "antidistill"
    version: ClassVar[int] = 1

    window: int = 2
    gamma: float = 0.25
    strength: float = 8.0
    gate: float = 0.0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_gamma(self.gamma)
        check_gate(self.gate)
        if not (math.isfinite(self.strength) and 0 < self.strength <= 200):
            raise ValueError(f"strength must be above 0 and at most 200, found {self.strength!r}")

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key, *, proxy: Logits | None = None) -> Logits:
        """Logits (b, V) biased under the key; contexts: (b, h) ids, oldest first.

        proxy: logits (b, V) of the model that stands in for a student, of the same kind; by default `logits`.
        Returns a new array of the same kind; -inf stays -inf.
        """
        words, student = self._words(key), logits if proxy is None else proxy
        if isinstance(logits, np.ndarray):
            return self._tilt_array(logits, np.asarray(student), np.asarray(contexts), words)
        return self._tilt_tensor(logits, student, contexts, words)

    def tilt_fused(self, logits: torch.Tensor, rows: Rows, *, proxy: torch.Tensor | None = None) -> torch.Tensor:
        """The same on a GPU, of rows that the kernels are told of (`watermark.ongpu`)."""
        from watermark.schemes import fused

        student = logits if proxy is None else proxy.to(logits.device).contiguous()
        return fused.antidistill(logits, student, rows, self._below, self.strength)

    def _tilt_array(
        self, logits: NDArray[Any], student: NDArray[Any], contexts: NDArray[Any], words: NDArray[np.uint32]
    ) -> NDArray[Any]:
        states, tilted = prf.window_states(contexts.astype(np.uint32), words), np.empty_like(logits)
        fast = prf.backend() == "numba" and logits.dtype == np.float32 == student.dtype
        if fast:
            from watermark.schemes import compiled
        for row, given, state, made in zip(logits, student, states, tilted, strict=True):
            if not (given > -np.inf).any():
                made[:] = row
            elif fast:
                compiled.taught(row, given, state, self._below, self.strength, made)
            else:
                green = prf.uniform_rows(state[None], len(row))[0] < np.uint32(self._below)
                chances = np.exp(given.astype(np.float64) - float(given.max()))
                chances /= chances.sum()
                np.add(row, (self.strength * chances * (green - chances[green].sum())).astype(row.dtype), made)
        return tilted

    def _tilt_tensor(self, logits: Any, student: Any, contexts: ArrayLike, words: NDArray[np.uint32]) -> Any:
        import torch

        from watermark.prf import tensors

        ids = torch.as_tensor(contexts, device=logits.device)
        if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64) and not logits.requires_grad:
            rows, given = logits.numpy(), student.detach().to(logits.dtype).numpy()
            return torch.from_numpy(self._tilt_array(rows, given, ids.numpy(), words))
        green = tensors.below(tensors.uniform_rows(tensors.window_states(ids, words), logits.shape[1]), self._below)
        chances = student.to(logits.device).float().softmax(-1).nan_to_num(0.0)
        share = (chances * green).sum(-1, keepdim=True)
        return logits + (self.strength * chances * (green.float() - share)).to(logits.dtype)
