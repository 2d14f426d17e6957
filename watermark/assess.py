"""Weighted cells to evidence: each statistic's p-values, their mean of e-values, its rank, and the e-process.

Three answers to one question, each valid by itself under the same null (docs/validity.md): the rank among decoy
keys (exact, no finer than 1 in m + 1), a tail (exact lattice, or Chernoff's bound, as labelled), and e-values,
whose mean over the statistics is an e-value again: 1/E is a p-value at any depth and needs no correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from watermark.evidence import Anytime, Control, Growth, Statistic, Weighted
from watermark.observe.stages import stage_ends
from watermark.observe.text import VOTES, Observations
from watermark.stats.anytime import EProcess, Looks
from watermark.stats.combine import mean_evalue
from watermark.stats.graded import count_of, sum_of
from watermark.stats.rank import rank_pvalue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.keys import Key
    from watermark.mark import Watermark
    from watermark.observe import Stage
    from watermark.observe.stages import Look
    from watermark.observe.weights import Cells
    from watermark.scale.streamed import Streamed
    from watermark.stats.laws import Alternative, Law
    from watermark.stats.weighted import SumLaw

    Seen: TypeAlias = Observations | Streamed


def statistics_in(seen: Seen | Cells) -> tuple[str, ...]:
    """The weighted statistics of some observations, in their pre-registered order; votes stand apart."""
    return tuple(name for name in seen.weights if name != VOTES)


@dataclass(frozen=True)
class Tally:
    """The votes of a suspect under one mark. cells, green: (documents,) of every answer, those cells alone that were
    first counted there, and their total score. first: scores of the first cells, as many as are on display."""

    cells: NDArray[np.int64]
    green: NDArray[np.int64]
    first: NDArray[np.int64]


def parts_of(seen: Seen) -> Iterable[Observations | Cells]:
    """The cells in reading order: in one part where they lie in memory, else in many."""
    return (seen,) if isinstance(seen, Observations) else seen.chunks()


def tallied(seen: Seen, mark: Watermark) -> Tally:
    """The votes under the mark's key."""
    shown = 1 + max((int(sample.cells.max(initial=-1)) for sample in seen.samples), default=-1)
    cells, green = np.zeros((2, len(seen.names)), dtype=np.int64)
    first: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for part in parts_of(seen):
        scores = mark.score(part.windows, part.choices)
        if (wanted := shown - sum(map(len, first))) > 0:
            first.append(scores[:wanted].copy())  # a view would keep all scores of the part
        voted = part.weights[VOTES] != 0
        documents = part.documents[voted]
        low = int(documents.min(initial=len(cells)))
        for sums, weights in ((cells, None), (green, scores[voted])):
            found = np.bincount(documents - low, weights=weights)
            sums[low : low + len(found)] += found.astype(np.int64)
    return Tally(cells, green, np.concatenate(first))


def totals_of(seen: Seen, mark: Watermark, keys: Sequence[Key]) -> NDArray[np.int64]:
    """(m, 1 + S) totals under each key: of the votes, then of every weighted statistic."""
    found = np.zeros((len(keys), len(seen.weights)), dtype=np.int64)
    for part in parts_of(seen):
        found += mark.totals(part.windows, part.choices, stacked(part), keys)
    return found


def stacked(seen: Observations | Cells) -> NDArray[np.int32]:
    """(1 + S, n): votes first, then every weighted statistic."""
    return np.stack([seen.weights[name] for name in (VOTES, *statistics_in(seen))])


def weighted(
    seen: Observations,
    totals: NDArray[np.int64],
    decoys: NDArray[np.int64],
    *,
    gamma: float | Law,
    access: str,
    reference: str | None,
    alternative: Alternative,
) -> Weighted:
    """The weighted statistics together. totals: (S,) under the key; decoys: (m, S) under keys that marked nothing.

    gamma: chance of a green bit, or the law of one score.
    """
    names = statistics_in(seen)
    laws = [sum_of(seen.weights[name], gamma) for name in names]
    columns = np.concatenate([totals[None], decoys]).T
    evalues = np.stack([law.log10_evalue(column, alternative=alternative) for law, column in zip(laws, columns)])
    together = mean_evalue(evalues, axis=0)
    return Weighted(
        access=access,
        reference=reference,
        log10_e=float(together[0]) + 0.0,
        log10_p=min(0.0, -float(together[0])) + 0.0,
        rank_pvalue=rank_pvalue(float(together[0]), together[1:]),
        statistics=[
            _statistic(name, law, int(total), column[1:], float(evalue[0]), alternative)
            for name, law, total, column, evalue in zip(names, laws, totals, columns, evalues)
        ],
        decoy_totals={name: [int(t) for t in column[1:]] for name, column in zip(names, columns)},
    )


def _statistic(
    name: str, law: SumLaw, total: int, decoys: NDArray[np.int64], log10_e: float, alternative: Alternative
) -> Statistic:
    tail = law.tail(total, alternative=alternative)
    return Statistic(
        name=name,
        cells=int((law.weights != 0).sum()),
        effective_cells=law.effective_cells,
        total=total,
        mean=law.mean,
        sd=law.sd,
        z=law.z(total),
        log10_p=tail.log10_p + 0.0,
        tail=tail.method,
        log10_chernoff=law.log10_chernoff(total, alternative=alternative) + 0.0,
        log10_e=log10_e + 0.0,
        rank_pvalue=directed_rank(total, decoys, law.mean, alternative),
    )


def directed_rank(total: float, decoys: NDArray[np.int64], mean: float, alternative: str) -> float:
    """The decoy rank in the test's direction; two-sided ranks the distance from the expected total."""
    if alternative == "less":
        return rank_pvalue(-total, -np.asarray(decoys))
    if alternative == "two-sided":
        return rank_pvalue(abs(total - mean), np.abs(np.asarray(decoys) - mean))
    return rank_pvalue(total, decoys)


def anytime(
    parts: Iterable[Stage], mark: Watermark, *, alpha: float, gamma: float | Law, alternative: Alternative
) -> Anytime:
    """The e-process over stages of new cells: it may be looked at after each, and stopped when one likes."""
    return _run(list(_growth(parts, mark, gamma, alternative)), alpha)


def votes_anytime(
    tokens: NDArray[np.int64], tally: Tally, *, alpha: float, law: Law, alternative: Alternative
) -> Anytime:
    """The e-process over a text's votes in stages; its cells are distinct, so every one is new. tokens: by answer."""
    process, growth, start = EProcess(law, alternative=alternative), list[Growth](), 0
    reached = tokens.cumsum()
    for end in stage_ends(tokens):
        cells, green = int(tally.cells[start:end].sum()), int(tally.green[start:end].sum())
        won = process.take([count_of(cells, law)], [green]) if cells else process.log10_e
        growth.append(Growth(documents=end, tokens=int(reached[end - 1]), cells=cells, log10_e=won + 0.0))
        start = end
    return _run(growth, alpha)


def _run(growth: list[Growth], alpha: float) -> Anytime:
    reached = next((step for step in growth if step.log10_e >= -np.log10(alpha)), None)
    return Anytime(
        log10_e=growth[-1].log10_e if growth else 0.0,
        reached_at=None if reached is None else reached.tokens,
        steps=growth,
    )


def _growth(parts: Iterable[Stage], mark: Watermark, gamma: float | Law, alternative: Alternative) -> Iterator[Growth]:
    bettor: Bettor | None = None
    for part in parts:
        bettor = bettor or Bettor(mark, gamma, tuple(part.weights), alternative)
        found = bettor.bet(part)
        yield Growth(documents=part.documents, tokens=part.tokens, cells=len(part), log10_e=found + 0.0)


class Bettor:
    """The e-process of one mark over stages. names: the statistics bet on.

    Where weights grow with what is read, half of the stake goes to bets on new cells and half to looks at all cells;
    the mean of two e-processes is one. Bets win early and keep what they won, looks use every weight at its best.
    """

    def __init__(self, mark: Watermark, gamma: float | Law, names: tuple[str, ...], alternative: Alternative) -> None:
        self._mark, self._names, self._gamma, self._alternative = mark, names, gamma, alternative
        self.process = EProcess(gamma, statistics=len(names), alternative=alternative)
        self.looks = Looks()

    def bet(self, stage: Stage) -> float:
        """log10 E after the stage."""
        won = self.process.update(*self._weighed(stage)) if len(stage) else self.process.log10_e
        if stage.looks is None:
            return won
        for look in stage.looks:
            self.looks.update(self._evalue(look))
        return float(mean_evalue([won, self.looks.log10_e]))

    def _evalue(self, look: Look) -> float:
        """log10 of the mean e-value of the statistics, over all cells of a look."""
        weights, totals = self._weighed(look)
        laws = [sum_of(each, self._gamma) for each in weights]
        each = [law.log10_evalue(total, alternative=self._alternative) for law, total in zip(laws, totals)]
        return float(mean_evalue(np.array(each)))

    def _weighed(self, part: Stage | Look) -> tuple[list[NDArray[np.int32]], list[int]]:
        weights = [part.weights[name] for name in self._names]
        totals = self._mark.totals(part.windows, part.choices, np.stack(weights), [self._mark.key])[0]
        return weights, [int(total) for total in totals]


def control(name: str, seen: Observations, mark: Watermark, *, gamma: float | Law, alternative: Alternative) -> Control:
    """A model that should show nothing (or, a student of marked answers, something), through the same code."""
    names = statistics_in(seen)
    totals = mark.totals(seen.windows, seen.choices, stacked(seen), [mark.key])[0]
    laws = [sum_of(seen.weights[name], gamma) for name in names]
    evalues = [law.log10_evalue(total, alternative=alternative) for law, total in zip(laws, totals[1:])]
    together = float(mean_evalue(np.array(evalues), axis=0))
    votes = sum_of(seen.weights[VOTES], gamma)
    return Control(
        name=name,
        log10_e=together + 0.0,
        log10_p=min(0.0, -together) + 0.0,
        z={VOTES: votes.z(int(totals[0]))} | {n: law.z(int(t)) for n, law, t in zip(names, laws, totals[1:])},
    )
