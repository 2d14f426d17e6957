"""Green list: each (window, token) is green with probability gamma, and green tokens gain delta in the logits.

Kirchenbauer et al. 2023 (arXiv 2301.10226, algorithm 2), with an independent Bernoulli(gamma) draw for each cell
in place of a permuted list of fixed size, so that the number of green tokens is exactly binomial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark import prf
from watermark.schemes.gate import check_gate
from watermark.schemes.keyed import Keyed
from watermark.stats.laws import Bernoulli

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key
    from watermark.schemes.fused import Rows

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")
WIDTHS = range(1, 9)


def check_window(window: object) -> None:
    """Raises ValueError unless `window` is a whole number from 1 to 8."""
    if type(window) is not int or window not in WIDTHS:
        raise ValueError(f"window must be a whole number from 1 to {WIDTHS[-1]}, found {window!r}")


def check_gamma(gamma: float) -> None:
    """Raises ValueError unless `gamma` lies between 0.001 and 0.999."""
    if not 0.001 <= gamma <= 0.999:
        raise ValueError(f"gamma must lie between 0.001 and 0.999, found {gamma!r}")


class GreenBits(Keyed):
    """What schemes with green tokens share on the way back: a cell scores 1 where its uniform is under gamma."""

    gamma: float

    @property
    def null(self) -> Bernoulli:
        """Bernoulli with the green probability that the keyed function really has."""
        return Bernoulli(self._below / 2**32)

    @property
    def _below(self) -> int:
        return prf.threshold(self.gamma)

    @property
    def _counting(self) -> prf.Counting:
        return prf.Counting(self._below)


@dataclass(frozen=True)
class GreenList(GreenBits):
    """window: context width h in tokens. gamma: share of green tokens. delta: logits gained, in nats.

    gate: nats of entropy under which a row is left alone, 0 for none.

    Distillation is found with short windows: at h = 4 a student shows no trace in a million tokens, at h = 1 or
    2 it does (Sander et al. 2024; arXiv 2502.11598).
    """

    name: ClassVar[str] = "greenlist"
    version: ClassVar[int] = 1

    window: int = 2
    gamma: float = 0.25
    delta: float = 2.0
    gate: float = 0.0

    def __post_init__(self) -> None:
        check_window(self.window)
        check_gamma(self.gamma)
        check_gate(self.gate)
        if not (math.isfinite(self.delta) and 0 < self.delta <= 50):
            raise ValueError(f"delta must be above 0 and at most 50, found {self.delta!r}")

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key) -> Logits:
        """Adds delta to every green token. logits: (b, V); contexts: (b, h) ids, oldest first.

        Returns a new array of the same kind; -inf stays -inf.
        """
        words = self._words(key)
        if isinstance(logits, np.ndarray):
            return self._tilt_array(logits, np.asarray(contexts), words)
        return self._tilt_tensor(logits, contexts, words)

    def tilt_fused(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The same on a GPU, of rows that the kernels are told of (`watermark.ongpu`)."""
        from watermark.schemes import fused

        return fused.green(logits, rows, self._below, self.delta)

    def _tilt_array(self, logits: NDArray[Any], contexts: NDArray[Any], words: NDArray[np.uint32]) -> NDArray[Any]:
        states = prf.window_states(contexts.astype(np.uint32), words)
        if logits.dtype == np.float32 and prf.backend() == "numba":
            from watermark.schemes import compiled

            return compiled.tilt_rows(logits, states, below=self._below, delta=self.delta)
        tilted = logits.copy()
        for row, state in zip(tilted, states, strict=True):
            green = prf.uniform_rows(state[None], len(row))[0] < np.uint32(self._below)
            row += logits.dtype.type(self.delta) * green
        return tilted

    def _tilt_tensor(self, logits: Any, contexts: ArrayLike, words: NDArray[np.uint32]) -> Any:
        import torch

        from watermark.prf import tensors

        ids = torch.as_tensor(contexts, device=logits.device)
        if logits.device.type == "cpu" and logits.dtype == torch.float32 and not logits.requires_grad:
            return torch.from_numpy(self._tilt_array(logits.numpy(), ids.numpy(), words))
        states = tensors.window_states(ids, words)
        tilted = logits.clone()
        step = 1 if logits.device.type == "cpu" else len(tilted)  # on a CPU temporaries should fit its cache
        for rows, some in zip(tilted.split(step), states.split(step), strict=True):
            rows += self.delta * tensors.below(tensors.uniform_rows(some, rows.shape[1]), self._below)
        return tilted
