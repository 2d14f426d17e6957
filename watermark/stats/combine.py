"""Many tests, one answer: Holm for p-values, the mean for e-values, max-T for totals ranked among decoys."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]


def holm(log10_p: ArrayLike) -> Floats:
    """Holm's adjusted p-values (1979), log10 in and out, same order; rejecting those <= α keeps the chance of
    any false rejection at α whatever the dependence.

    log10_p: (k,), each at most 0, -inf allowed. With p sorted upwards the adjusted p_(i) is the largest of
    (k - j + 1) p_(j) over j <= i, at most 1. Raises ValueError on NaN, on a positive logarithm, on other shapes.
    """
    found = np.asarray(log10_p, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"Holm adjusts one line of p-values, found an array of shape {found.shape}")
    if np.isnan(found).any() or (found > 0).any():
        raise ValueError("a p-value's log10 must be 0 or below, found NaN or a positive one; pass log10, not p")
    order = np.argsort(found, kind="stable")
    factors = np.log10(np.arange(len(found), 0, -1.0))
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(0.0, np.maximum.accumulate(found[order] + factors))
    return adjusted


def mean_evalue(log10_e: ArrayLike, axis: int = -1) -> Floats:
    """log10 of the mean of e-values along `axis`: again an e-value under any dependence (Vovk and Wang 2021).

    log10_e: any shape with at least one along `axis`; -inf is an e-value of 0. The result lacks that axis, so
    for (k,) it has shape () and float() reads it. Raises ValueError on NaN or nothing to average.
    """
    found = np.asarray(log10_e, dtype=np.float64)
    if found.ndim == 0 or not found.shape[axis]:
        raise ValueError("a mean needs at least one e-value")
    if np.isnan(found).any():
        raise ValueError("e-values must be numbers; found NaN")
    with np.errstate(divide="ignore"):
        total = logsumexp(found * math.log(10), axis=axis) - math.log(found.shape[axis])
    return np.asarray(total / math.log(10))


def max_t(observed: ArrayLike, null: ArrayLike) -> Floats:
    """Single-step max-T p-values (Westfall and Young 1993): each total against the decoys' largest, ties against us.

    observed: (k,) standardised totals of k hypotheses (z: they must be comparable). null: (m, k), row i what
    decoy i would have given in all k. p_j = (1 + #{i: max_l null[i, l] >= observed[j]}) / (1 + m): the chance that
    any p_j is <= α is at most α if the observed row is exchangeable with the decoys'. Never below 1/(1 + m).
    Raises ValueError on NaN, without decoys, or if the shapes do not fit.
    """
    seen, decoys = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if seen.ndim != 1 or decoys.ndim != 2 or decoys.shape[1:] != seen.shape:
        raise ValueError(f"max-T needs totals (k,) and decoy totals (m, k), found {seen.shape} and {decoys.shape}")
    if not decoys.size:
        raise ValueError("max-T needs at least one decoy and one hypothesis")
    if np.isnan(seen).any() or np.isnan(decoys).any():
        raise ValueError("totals must be numbers; found NaN")
    largest = np.sort(decoys.max(axis=1))
    beaten = len(largest) - np.searchsorted(largest, seen, side="left")
    ranks: Floats = (1 + beaten) / (1 + len(largest))
    return ranks
