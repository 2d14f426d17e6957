"""Weights: how much each cell counts, from what a suspect shows and from a reference, never from the key.

Every test is one linear form T = Σ A[w,v] · (B[w,v] − γ); here A is made. Any A that knows nothing of the key is
exactly valid (docs/validity.md); these differ in power. With p_s, p_r the suspect's and the reference's
probability of token v in one context, and d = log p_s − log p_r:

- mass        p_s                      what green-mass tests sum (arXiv 2602.03812); without a reference
- spread      p_s (1 − p_s)            the same, where the suspect is undecided: certain tokens carry no signal
- difference  p_s − p_r, cut at ±0.02  the score test of a tilt, when sampling noise rules
- log-ratio   √p · d, d cut at ±1      p = (p_s + p_r) / 2; when unrelated drift rules
- excess      1[v written] − p_r       from text alone: observed minus expected
- tally       1[v written]             from many samples of the same prompts

Cutting is for power: drift has heavy tails, and what a short window's tilt can do to one token is small. On students
of the demo's teacher at marked shares of 5 and 20 %, z rose from 3.1 and 12.9 to 4.1 and 14.9 for the difference,
from 3.2 and 14.6 to 4.1 and 15.6 for the log-ratio.

A cell's rows are summed over all contexts of its window. Then each window is weighted by how often it occurs,
n_w / (n_w + 20), n_w the answers that hold it, in a ledger, in clean text, or else in the texts read: windows alone,
never tokens. A student can only have learned of windows that it saw; on a SmolLM2 with 5 % marked data this took z
from 3.2 to 4.3 (counts of the texts read), 4.4 (clean text), 4.9 (the ledger). "normed" divides each window by the
square root of √(|A_w|² + median |A_w|²) too, so that few windows do not carry all the variance (the whole norm, as a
toy model had it, cost a third of z on real students at window 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

NORMED = " normed"
WITH_REFERENCE = ("difference", "log-ratio")
WITHOUT_REFERENCE = ("mass", "spread")
FROM_TEXT = ("excess",)
FROM_SAMPLES = ("tally",)
UNITS = 16  # a weight's root mean square, in whole units: rounding costs a 3000th of the variance
_RARE = 1e-3  # added to both probabilities in a log-ratio: what a model says of rarer tokens is noise
_DIFFERENCE, _RATIO = 0.02, 1.0
_OFTEN = 20.0
_TEMPERATURES = np.exp(np.linspace(np.log(0.4), np.log(2.5), 41))


@dataclass(frozen=True)
class Rows:
    """Scorable positions of many answers with their candidates: n positions, k candidates each.

    windows (n, h); names (n,): of the windows; documents (n,); tokens (n, k): mark ids, -1 for none; suspect,
    reference (n, k): natural log-probabilities, or None; chosen (n,): the token that was written, -1 if unknown.
    """

    windows: NDArray[np.uint32]
    names: NDArray[np.uint64]
    documents: NDArray[np.int64]
    tokens: NDArray[np.int32]
    suspect: F32 | None
    reference: F32 | None
    chosen: NDArray[np.int32]

    def before(self, document: int) -> Rows:
        """The positions of answers before `document`; documents are in order."""
        end = int(np.searchsorted(self.documents, document))
        return Rows(
            self.windows[:end],
            self.names[:end],
            self.documents[:end],
            self.tokens[:end],
            None if self.suspect is None else self.suspect[:end],
            None if self.reference is None else self.reference[:end],
            self.chosen[:end],
        )


@dataclass(frozen=True)
class Cells:
    """Distinct cells: windows (n, h), choices (n,), documents (n,), and whole weights by statistic, (n,) each."""

    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    documents: NDArray[np.int64]
    weights: dict[str, NDArray[np.int32]]


def statistics_of(rows: Rows) -> tuple[str, ...]:
    """The pre-registered statistics that this access allows, each plain and normed."""
    alone, beside = (FROM_SAMPLES, FROM_TEXT) if rows.suspect is None else (WITHOUT_REFERENCE, WITH_REFERENCE)
    kinds: tuple[str, ...] = alone if rows.reference is None else beside
    return tuple(kind + form for kind in kinds for form in ("", NORMED))


def weigh(rows: Rows, *, often: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None) -> Cells:
    """Cells and weights from rows. often: window names (sorted), answers that hold each; by default of these."""
    fitted = refitted(rows)
    window_of, first = _in_order(rows.names)
    listed = rows.tokens >= 0
    cell, cells = _numbered(window_of[:, None] * np.int64(2**32) + rows.tokens, listed)
    owner = (cells >> 32).astype(np.int64)
    frequency = _frequency(rows.names[first], often or np.unique(rows.names, return_counts=True))[owner]
    found: dict[str, F64] = {}
    for kind in dict.fromkeys(name.removesuffix(NORMED) for name in statistics_of(rows)):
        row = np.where(listed, _row(kind, fitted, listed), 0.0)
        summed: F64 = np.bincount(cell, weights=row[listed], minlength=len(cells)).astype(np.float64)
        found[kind] = summed * frequency
        found[kind + NORMED] = _normed(summed, owner, len(first)) * frequency
    whole = {name: _whole(values) for name, values in found.items()}
    used = np.zeros(len(cells), dtype=bool)
    for values in whole.values():
        used |= values != 0
    return Cells(
        windows=rows.windows[first][owner[used]],
        choices=(cells[used] & 0xFFFFFFFF).astype(np.uint32),
        documents=rows.documents[first][owner[used]],
        weights={name: values[used] for name, values in whole.items()},
    )


def votes(rows: Rows) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """One vote for each distinct cell: the likeliest token, or the one written where no probabilities are known.

    Returns windows, choices, documents in reading order (Sander et al. 2024, arXiv 2402.14904, reading mode).
    """
    chosen = rows.chosen
    if rows.suspect is not None:
        best = np.where(rows.tokens >= 0, rows.suspect, -np.inf).argmax(axis=1)
        chosen = rows.tokens[np.arange(len(best)), best]
    at = np.flatnonzero(chosen >= 0)
    window_of, _ = _in_order(rows.names)
    _, kept = np.unique(window_of[at] * np.int64(2**32) + chosen[at], return_index=True)
    at = at[np.sort(kept)]
    return rows.windows[at], chosen[at].astype(np.uint32), rows.documents[at]


def _row(kind: str, rows: Rows, listed: NDArray[np.bool_]) -> F64:
    """A of every candidate in its own context, (n, k)."""
    if kind in (*FROM_SAMPLES, *FROM_TEXT):
        written: F64 = (rows.tokens == rows.chosen[:, None]).astype(np.float64)
        expected: F64 | float = 0.0 if rows.reference is None else np.exp(rows.reference.astype(np.float64))
        return written - expected
    assert rows.suspect is not None
    p: F64 = np.exp(rows.suspect.astype(np.float64))
    if kind in WITHOUT_REFERENCE:
        return p if kind == "mass" else p * (1 - p)
    assert rows.reference is not None
    q = np.exp(rows.reference.astype(np.float64))
    if kind == "difference":
        return np.clip(p - q, -_DIFFERENCE, _DIFFERENCE)
    ratio = np.clip(np.log(p + _RARE) - np.log(q + _RARE), -_RATIO, _RATIO)
    weighed: F64 = np.sqrt((p + q) / 2) * ratio
    return weighed


def refitted(rows: Rows) -> Rows:
    """The suspect's log-probabilities at the temperature at which they lie nearest to the reference's.

    One number for all positions, fitted without the key: the least mean Kullback-Leibler divergence over the
    candidates, each side scaled to sum to one; then the candidates get back the suspect's own share of the mass.
    """
    if rows.suspect is None or rows.reference is None or not len(rows.tokens):
        return rows
    everywhere = rows.tokens >= 0
    both = everywhere & np.isfinite(rows.suspect) & np.isfinite(rows.reference)
    known: NDArray[np.bool_] = np.asarray(both).any(axis=1).reshape(-1)
    if not known.any():
        return rows
    some = np.flatnonzero(known)[:: max(1, len(rows.tokens) // 2000)]
    listed = everywhere[some]
    s = np.where(listed, rows.suspect[some].astype(np.float64), -np.inf)
    r = np.where(listed, rows.reference[some].astype(np.float64), -np.inf)
    r = r - _logsum(r)
    p = np.exp(r)

    def distance(power: float) -> float:
        scaled = power * s
        scaled = np.maximum(scaled - _logsum(scaled), -50.0)
        return float((p * (np.maximum(r, -50.0) - scaled)).sum(axis=1).mean())

    power = min(_TEMPERATURES, key=distance)
    if distance(power) >= 0.99 * distance(1.0):  # not worth a change
        return rows
    scaled = np.where(everywhere & known[:, None], power * rows.suspect.astype(np.float64), -np.inf)
    share = _logsum(np.where(everywhere, rows.suspect.astype(np.float64), -np.inf))
    with np.errstate(invalid="ignore"):  # rows of which nothing is known stay as they were
        fitted = np.where(everywhere, scaled - _logsum(scaled) + share, -np.inf).astype(np.float32)
    fitted = np.where(known[:, None], fitted, rows.suspect)
    return Rows(rows.windows, rows.names, rows.documents, rows.tokens, fitted, rows.reference, rows.chosen)


def _logsum(values: F64) -> F64:
    top = values.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: F64 = top + np.log(np.exp(values - top).sum(axis=1, keepdims=True))
    return total


def _in_order(names: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(number of each window in order of first appearance, index of that first appearance)."""
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[which], first[order]


def _numbered(codes: NDArray[np.int64], listed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(number of the cell of each listed entry, codes of the cells)."""
    cells, cell = np.unique(codes[listed], return_inverse=True)
    return cell, cells


def _normed(summed: F64, owner: NDArray[np.int64], windows: int) -> F64:
    """A_w / (|A_w|² + median |A_w|²)^(1/4), the median over windows that carry any weight."""
    square = np.bincount(owner, weights=summed**2, minlength=windows)
    carrying = square[square > 0]
    if not len(carrying):
        return summed
    normed: F64 = summed / (square + np.median(carrying))[owner] ** 0.25
    return normed


def _frequency(names: NDArray[np.uint64], often: tuple[NDArray[np.uint64], NDArray[np.int64]]) -> F64:
    """n_w / (n_w + 20) for each window; 0 for those that do not occur."""
    known, counts = often
    at = np.minimum(np.searchsorted(known, names), max(0, len(known) - 1))
    found = np.where(known[at] == names, counts[at], 0) if len(known) else np.zeros(len(names))
    frequency: F64 = found / (found + _OFTEN)
    return frequency


def _whole(values: F64) -> NDArray[np.int32]:
    """Weights as whole numbers, their root mean square at 16 units; all zero stays so."""
    size = np.abs(values)
    carrying = values[size > 1e-9 * size.max(initial=0.0)]  # what is left where sums cancel is no weight
    if not len(carrying):
        return np.zeros(len(values), dtype=np.int32)
    unit = np.sqrt(np.mean(carrying**2)) / UNITS
    whole: NDArray[np.int32] = np.rint(np.clip(values / unit, -(2**20), 2**20)).astype(np.int32)
    return whole
