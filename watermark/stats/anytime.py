"""Look as often as you like: an e-process over chunks of new cells, with a floor under what was won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .graded import sum_of
from .laws import Alternative, Law
from .weighted import SumLaw, signed

Floats = NDArray[np.float64]
_LOG10 = math.log(10)
_GRID = 0.05 * np.sqrt(2.0) ** np.arange(17)  # λ sd of a chunk: 0.05, 0.07, ..., 12.8
_BOLDEST = 12.8  # the adaptive bet's bound, as λ sd


@dataclass
class EProcess:
    """Wealth F_t of a bettor against H0 (every green bit is Bernoulli(gamma), whatever was read), chunk by chunk.

    gamma: chance of a green bit, or the law of one score. statistics: how many weightings of the same cells are
    bet on. alternative: the side bet on. keep: the share of the highest F so far that is never staked, 0 <= keep < 1.

    Per statistic: half the money lies in equal parts on fixed bets, λ_t = ±c / sd_t with c = 0.05 ... 12.8 by
    factors of √2 (within 4 % of the best rate for any steady z per chunk in between), and is never moved; half
    follows one predictable bet, λ_t = Σ past (S - mean) / (Σ past variance + one average chunk's), which starts
    as the mixture does. A bet's wealth is Π exp(λ_t (S_t - mean_t) - ψ_t(λ_t)), which has mean 1 given the past,
    since λ_t and the weights are known before the chunk's bits are. M_t, the mean over bets and statistics, is
    so a martingale under H0, although the statistics share their bits: a mean needs no independence.

    The ratchet (drawdown control: Grossman and Zhou 1993). Let R_t = M_t / M_{t-1} and f_t = keep · max_{s<t} F_s.

        F_0 = 1,   F_t = f_t + (F_{t-1} - f_t) R_t

    1. F is a martingale: f_t and F_{t-1} are known before R_t, and E[R_t | past] = 1, so E[F_t | past] = F_{t-1}.
    2. F_t >= keep · max_{s<=t} F_s. True at t = 0. If it holds at t - 1, then F_{t-1} - f_t >= 0, and R_t >= 0
       gives F_t >= f_t = keep · max_{s<t} F_s; and if F_t is itself the maximum, F_t >= keep · F_t.
    So F is a nonnegative martingale from 1: P(sup_t F_t >= 1/α) <= α (Ville 1939), at any stopping rule; and
    chunks without signal, however many, never cost more than a factor 1/keep. (After very many, little is left
    above the floor, and a signal that comes back is noticed late: stop when enough is won.)

    The caller's duty: each chunk holds cells (window, token) that no earlier chunk held, and nobody chose its
    cells or weights by their own bits.
    """

    gamma: float | Law
    statistics: int = 1
    alternative: Alternative = "greater"
    keep: float = 0.1
    history: list[float] = field(default_factory=list, init=False)
    """log10 F after each chunk."""

    def __post_init__(self) -> None:
        if isinstance(self.gamma, (int, float)) and not 0 < self.gamma < 1:
            raise ValueError(f"gamma must lie between 0 and 1, found {self.gamma}")
        if self.statistics < 1:
            raise ValueError(f"an e-process needs at least one statistic, found {self.statistics}")
        if not 0 <= self.keep < 1:
            raise ValueError(f"keep must be at least 0 and below 1, found {self.keep}")
        bets = signed(_GRID, self.alternative)
        self._bettors = [_Bettor(bets, self.alternative) for _ in range(self.statistics)]
        self._log_peak = 0.0
        self._log_staked = math.log1p(-self.keep)  # log(F - keep · max F), carried so that it never cancels

    @property
    def log10_e(self) -> float:
        """log10 of the wealth now: an e-value at any time, and so 10^-log10_e a p-value. 0 before any chunk."""
        return self.history[-1] if self.history else 0.0

    @property
    def log10_peak(self) -> float:
        """log10 of the highest wealth so far; 10^-log10_peak is an anytime p-value by Ville's inequality."""
        return self._log_peak / _LOG10

    def update(self, weights: Sequence[NDArray[np.int32]], totals: Sequence[int]) -> float:
        """Takes one chunk and returns log10 F after it.

        weights: one (n,) integer array per statistic, over new cells (0 where unused). totals: the weighted score
        Σ k B of each. A statistic without weight in this chunk stands still. Raises ValueError, and changes
        nothing, on NaN, on a total that its weights cannot give, or on the wrong number of statistics.
        """
        if len(weights) != self.statistics or len(totals) != self.statistics:
            raise ValueError(
                f"found {len(weights)} weightings and {len(totals)} totals, this e-process bets on {self.statistics}"
            )
        return self.take([sum_of(each, self.gamma) for each in weights], totals)

    def take(self, laws: Sequence[SumLaw], totals: Sequence[int]) -> float:
        """As `update`, of a chunk whose totals have these laws."""
        for law, total in zip(laws, totals):
            if not math.isfinite(total) or int(total) != total or not law.lowest <= total <= law.highest:
                raise ValueError(f"a total must be a whole number from {law.lowest} to {law.highest}, found {total}")
        before = self._log_mixture()
        for bettor, law, total in zip(self._bettors, laws, totals):
            if law.sd:
                bettor.play(law, total - law.mean)
        self._log_staked += self._log_mixture() - before
        log_wealth = float(np.logaddexp(self._log_kept(), self._log_staked))
        if log_wealth > self._log_peak:
            self._log_peak = log_wealth
            self._log_staked = log_wealth + math.log1p(-self.keep)
        self.history.append(log_wealth / _LOG10)
        return self.history[-1]

    def _log_kept(self) -> float:
        return self._log_peak + math.log(self.keep) if self.keep else -math.inf

    def _log_mixture(self) -> float:
        """log M."""
        return float(np.logaddexp.reduce([each.log_wealth for each in self._bettors])) - math.log(self.statistics)


@dataclass
class Looks:
    """Looks at everything read so far, at places fixed beforehand: V_t = Σ w_j E_j over the looks up to t.

    E_j is any e-value of look j, over cells and weights that may all have been used before; w_j was fixed, Σ w_j = 1.
    For any stopping time τ, E[V_τ] = Σ w_j E[E_j 1(j <= τ)] <= Σ w_j E[E_j] <= 1, and V never falls, so its supremum
    is its end and P(sup V >= 1/α) <= α by Markov's inequality. Nothing is asked of how the E_j depend on each other:
    unlike a bet, a look may use a coin again. Twelve looks share three quarters in equal parts, the rest has the last
    quarter as w_j = 1/(4 k (k + 1)), k = 1, 2, ...

    The caller's duty: where look j is made depends on nothing that depends on the key.
    """

    log10_e: float = -math.inf
    count: int = 0

    def update(self, log10_evalue: float) -> float:
        """Takes the e-value of the next look; returns log10 V."""
        if math.isnan(log10_evalue):
            raise ValueError("an e-value must be a number, found NaN")
        late = self.count - 11
        share = 1 / 16 if self.count < 12 else 1 / (4 * late * (late + 1))
        self.count += 1
        self.log10_e = float(np.logaddexp(self.log10_e * _LOG10, log10_evalue * _LOG10 + math.log(share)) / _LOG10)
        return self.log10_e


class _Bettor:
    """The bets on one statistic. log_fixed: (c,) log wealth of each fixed bet; log_adaptive: of the predictable."""

    def __init__(self, bets: Floats, alternative: Alternative) -> None:
        self.bets, self.alternative = bets, alternative
        self.log_fixed = np.zeros(len(bets))
        self.log_adaptive = 0.0
        self.excess = self.variance = 0.0
        self.chunks = 0

    @property
    def log_wealth(self) -> float:
        return float(np.logaddexp(self._log_mean_fixed(), self.log_adaptive)) - math.log(2)

    def play(self, law: SumLaw, excess: float) -> None:
        """One chunk: its law and its total above the mean."""
        first, bet = self.chunks == 0, self._predicted(law.sd)
        bets = self.bets / law.sd
        self.log_fixed = self.log_fixed + bets * excess - law.log_mgf(bets)
        self.log_adaptive = self._log_mean_fixed() if first else self.log_adaptive + _gain(law, bet, excess)
        self.excess, self.variance, self.chunks = self.excess + excess, self.variance + law.variance, self.chunks + 1

    def _predicted(self, sd: float) -> float:
        """λ from past chunks alone: for a tilted law E(S - mean) is about λ · variance, whatever the chunk's size."""
        if not self.chunks:
            return 0.0
        bet = self.excess / (self.variance * (1 + 1 / self.chunks))
        low = 0.0 if self.alternative == "greater" else -_BOLDEST / sd
        high = 0.0 if self.alternative == "less" else _BOLDEST / sd
        return min(max(bet, low), high)

    def _log_mean_fixed(self) -> float:
        return float(np.logaddexp.reduce(self.log_fixed)) - math.log(len(self.log_fixed))


def _gain(law: SumLaw, bet: float, excess: float) -> float:
    return bet * excess - float(law.log_mgf(bet))
