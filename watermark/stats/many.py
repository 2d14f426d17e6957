"""Upper tails of many totals under one law: one Fourier transform for all but the smallest, asked for one by one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .weighted import SumLaw

_LEAST = 1e-4  # down to here the transform's absolute error of 1e-13 is nothing beside the tail
_ALIASED = -14.0  # log10 of the mass that may wrap around
_NEGLIGIBLE = 36.0  # a characteristic function below e^-36 = 2e-16 is left out
_WIDEST = 1 << 22
_MOST_FACTORS = 1 << 26


def upper_tails(law: SumLaw, totals: ArrayLike) -> NDArray[np.float64]:
    """log10 P(S >= total) of each of m totals under `law`, shape (m,); as `law.log10_pvalue`, to 1e-9 relative in p.

    The whole distribution is inverted at once from its characteristic function; for tails under 1e-4, and where the
    lattice is too wide for that, the law is asked about each distinct total.
    """
    found = np.asarray(totals, dtype=np.int64)
    values, back = np.unique(found, return_inverse=True)
    tails = np.zeros(len(values))
    table = _table(law)
    if table is not None:
        start, unit, survival = table
        tails = survival[np.clip(-(-values // unit) - start, 0, len(survival) - 1)]
    far = tails < _LEAST
    tails[~far] = np.log10(tails[~far])
    tails[far] = [law.log10_pvalue(int(value)) for value in values[far]]
    return tails[back]


def _table(law: SumLaw) -> tuple[int, int, NDArray[np.float64]] | None:
    """(start, unit, survival): survival[i] = P(S >= (start + i) unit); None if the lattice is too wide."""
    weights, counts = np.unique(law.weights[law.weights != 0].astype(np.int64), return_counts=True)
    if not len(weights):
        return None
    unit = int(np.gcd.reduce(weights))
    size = _size(law, unit)
    if size is None:
        return None
    places = weights // unit
    kept = np.flatnonzero(law.decay(size, places, counts.astype(np.float64)) < _NEGLIGIBLE)
    if len(kept) * len(places) > _MOST_FACTORS:
        return None
    phi = np.zeros(size // 2 + 1, dtype=np.complex128)
    for part in np.array_split(kept, 1 + len(kept) * len(places) // (1 << 20)):
        phi[part] = np.exp(law.log_factors(size, places, part) @ counts)
    start = round(law.mean / unit) - size // 2
    masses = np.roll(np.fft.irfft(phi.conj(), size), -(start % size))
    survival = np.cumsum(masses[::-1])[::-1]
    return start, unit, np.clip(survival, 0.0, 1.0)


def _size(law: SumLaw, unit: int) -> int | None:
    """Points of the grid: a power of two, so wide around the mean that what lies outside is nothing."""
    size = 64
    while size <= _WIDEST:
        half = size // 2 * unit
        if size >= 64 * law.sd / unit or 2 * half > law.highest - law.lowest:
            above, below = math.floor(law.mean) + half - 2 * unit, math.ceil(law.mean) - half + 2 * unit
            outside = max(
                law.log10_chernoff(above) if above <= law.highest else -math.inf,
                law.log10_chernoff(below, alternative="less") if below >= law.lowest else -math.inf,
            )
            if outside < _ALIASED:
                return size
        size *= 2
    return None
