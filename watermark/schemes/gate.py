"""The entropy gate: rows whose next token is nearly certain are left alone, with any scheme of our own.

A biased row costs quality where the model hardly has a choice, and shows next to nothing there (Lee et al. 2023,
arXiv 2305.15060, gate detection too; here detection scores all cells, for whoever reads text has no entropies).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_gate(gate: object) -> None:
    """Raises ValueError unless `gate` is an entropy: 0 or more nats, at most 10."""
    if not isinstance(gate, (int, float)) or isinstance(gate, bool) or not 0 <= gate <= 10:
        raise ValueError(f"gate must be an entropy from 0 to 10 nats, found {gate!r}")


def entropies(logits: Any) -> NDArray[np.float64]:
    """Entropy of each row's next token in nats: logits (b, V), numpy or torch; -inf is a chance of zero. Returns (b,).

    A row without any finite logit has entropy 0.
    """
    if not isinstance(logits, np.ndarray):
        entropy: NDArray[np.float64] = entropies_there(logits).cpu().double().numpy()
        return entropy
    rows = logits.astype(np.float64)
    below = rows - np.where(np.isfinite(rows), rows, -1e300).max(axis=-1, keepdims=True)
    chances = np.exp(below)
    total = chances.sum(axis=-1)
    spread = (np.where(chances > 0, below, 0.0) * chances).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.where(total > 0, np.log(total) - spread / total, 0.0)
    return found


def entropies_there(logits: Any) -> Any:
    """The same where the rows lie, a tensor (b,): on a device that has no float64, in float32."""
    logs = (logits.float() if logits.device.type == "mps" else logits.double()).log_softmax(-1)
    found = -(logs.exp() * logs.masked_fill(logs == -math.inf, 0.0)).sum(-1)
    return found.nan_to_num(0.0)
