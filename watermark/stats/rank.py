"""Monte Carlo rank: how far the true key's total stands out among keys that marked nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def rank_pvalue(observed: float, null: ArrayLike) -> float:
    """P-value of `observed` among `null`, greater is more extreme; ties count against the finding.

    observed: total under the true key. null: totals under m exchangeable decoys, shape (m,).
    (1 + b) / (1 + m) with b the number of null totals >= observed: exact in finite samples whatever the
    statistic, never zero (Phipson and Smyth 2010, equation 2). Raises ValueError if `null` is empty.
    """
    totals = np.asarray(null)
    if totals.size == 0:
        raise ValueError("a rank needs at least one decoy total")
    return (1 + int((totals >= observed).sum())) / (1 + totals.size)
