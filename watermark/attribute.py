"""attribute(): whose answers a suspect learned from. One set of observations, scored under every account's key.

An account is named only when its p-value, corrected for all accounts that were tried, is at most alpha; never for
standing first. The keys of innocent accounts know nothing of the suspect whatever it learned from others, so the
chance that any innocent one is named is at most alpha, however many others are rightly named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from watermark import prf
from watermark.accounts import check_names
from watermark.errors import AccountsInvalid, ReportInvalid, TooFewObservations
from watermark.keys import Key, decoy_keys
from watermark.observe import MINIMUM_CELLS
from watermark.sealed import Kept, Refusal
from watermark.stats.combine import holm, max_t
from watermark.stats.graded import sum_of
from watermark.stats.many import upper_tails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark
    from watermark.observe import Observations
    from watermark.stats.weighted import SumLaw

    Say = Callable[[str, int], None]

FORMAT = "wmark-attribution/1"
VOTES = "votes"
NULL = (
    "the suspect's outputs are statistically independent of the account's key, given the shared key and all other "
    "accounts' keys; then each distinct cell (window, token) in a window of account keys is green under it with "
    "probability gamma, independently of the others"
)
GRADED_NULL = (
    "the suspect's outputs are statistically independent of the account's key, given the shared key and all other "
    "accounts' keys; then the score of each distinct cell (window, token) in a window of account keys has the law of "
    "the mark's scheme, independently of the others"
)
NOTES = (
    "The correction covers the accounts and epochs tried here and no others: name all whose answers the suspect may "
    "have had, closed accounts too, before looking.",
    "Exposure to an account's answers does not say who passed them on: answers are published and resold, and "
    "credentials are shared.",
    "An account with a small share of what the suspect learned is not found; that none was found clears nobody.",
)
_REFUSAL = Refusal(ReportInvalid, "an attribution", other="pass the file that `wmark attribute --output` wrote")


@dataclass(frozen=True)
class Exposure:
    """What the answers say of one account and epoch. kid: of its key. totals: green weight by statistic.

    score: the largest z over the statistics. log10_p: of this account alone, corrected for their number;
    log10_p_holm: corrected for all accounts, which the verdict goes by. max_t_pvalue: the share of decoy panels whose
    best key did as well, None without decoys.
    """

    account: str
    epoch: str
    kid: str
    totals: dict[str, int]
    score: float
    log10_p: float
    log10_p_holm: float
    max_t_pvalue: float | None
    verdict: Literal["exposure found", "none found"]


@dataclass(frozen=True)
class Decoys:
    """Panels of decoy keys, as many in each as there are hypotheses. largest: the best score of each panel."""

    panels: int
    seed: str
    largest: list[float]


@dataclass(frozen=True)
class Attribution(Kept):
    """What `attribute` found. exposures: of every account, best score first. hypotheses: how many there are.

    found: names of those with log10_p_holm <= log10(alpha). runner_up: the best of the others; the second best if
    none was found; gap: by how much score the one before it is ahead. cells: distinct ones in windows of account
    keys; effective_cells: as many equal weights would vary as steadily. Account names are in it.
    """

    format: ClassVar[str] = FORMAT
    refusal: ClassVar[Refusal] = _REFUSAL
    noun: ClassVar[str] = "attribution"

    verdict: str
    alpha: float
    hypotheses: int
    found: list[str]
    runner_up: str | None
    gap: float | None
    statistic: str
    score: Literal["z"]
    method: str
    null: str
    cells: int
    effective_cells: float
    gamma: float
    exposures: list[Exposure]
    decoys: Decoys | None
    observations: str
    mark: dict[str, Any]
    notes: list[str]
    software: dict[str, str]
    created: str

    @classmethod
    def built(cls, body: dict[str, Any]) -> Attribution:
        drawn = body["decoys"]
        exposures = [Exposure(**each) for each in body["exposures"]]
        return cls(**body | {"exposures": exposures, "decoys": drawn and Decoys(**drawn)})


def attribute(
    observations: Observations,
    mark: Watermark,
    accounts: Iterable[str],
    *,
    epochs: Sequence[str] = ("",),
    alpha: float = 0.01,
    statistic: str | None = None,
    decoys: int = 99,
    progress: Say | None = None,
) -> Attribution:
    """Which accounts' answers the observations depend on.

    observations: read with the mark of any account (`observe(outputs, mark.account(name))`), for all share their
    windows. mark: the one that accounts are drawn from. accounts: every name that comes into question, closed ones
    too; epochs: each account is tried in each. alpha: the chance that any innocent account is named. statistic: one
    of the observations' weights; by default "votes" if there are no others, else the best of the others, corrected
    for their number (on real students this named 20 of 20 accounts of 5 % each where the mean of e-values named 13).
    decoys: panels of as many decoy keys as there are hypotheses, for max-T; its finest p-value is 1 / (1 + decoys).

    Raises MarkInvalid for a mark without accounts, AccountsInvalid for unusable names, TooFewObservations under 50
    cells, ValueError for an unknown statistic or an alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    if decoys < 0:
        raise ValueError(f"decoys must be 0 or more, found {decoys}")
    say = progress or (lambda word, count: None)
    asked = _asked(list(accounts), list(epochs))
    keys = [mark.account(name, epoch=epoch).key for name, epoch in asked]
    cells = _Cells.of(observations, mark.account(asked[0][0]), statistic)
    totals = np.concatenate(list(cells.totals(keys, say, "keys scored")))
    scores, log10_p = cells.scores(totals), cells.log10_pvalues(totals)
    adjusted = holm(log10_p)
    drawn = _decoys(cells, observations.digest, len(keys), decoys, say)
    ranks = [None] * len(keys) if drawn is None else _ranks(scores, drawn)
    exposures = [
        Exposure(
            account=name,
            epoch=epoch,
            kid=key.kid,
            totals={statistic: int(total) for statistic, total in zip(cells.names, row, strict=True)},
            score=float(scores[i]),
            log10_p=float(log10_p[i]) + 0.0,
            log10_p_holm=float(adjusted[i]) + 0.0,
            max_t_pvalue=ranks[i],
            verdict="exposure found" if adjusted[i] <= math.log10(alpha) else "none found",
        )
        for i, ((name, epoch), key, row) in enumerate(zip(asked, keys, totals, strict=True))
    ]
    return _attribution(exposures, cells, drawn, observations, mark, alpha)


@dataclass(frozen=True)
class _Cells:
    """The cells in windows of account keys, their weights (S, n) by statistic, and what makes scores of totals."""

    mark: Watermark
    windows: NDArray[np.uint32]
    choices: NDArray[np.uint32]
    names: tuple[str, ...]
    weights: NDArray[np.int32]
    laws: tuple[SumLaw, ...]

    @classmethod
    def of(cls, seen: Observations, account: Watermark, statistic: str | None) -> _Cells:
        names = _statistics(seen, statistic)
        weights = np.stack([seen.weights[name] for name in names])
        kept = account.owned(seen.windows) & weights.any(axis=0)
        if kept.sum() < MINIMUM_CELLS:
            raise TooFewObservations(
                f"{int(kept.sum())} distinct cells in windows of account keys, need at least {MINIMUM_CELLS}",
                hint="query the suspect for more text, and observe it with `mark.account(name)`",
            )
        weights = weights[:, kept]
        laws = tuple(sum_of(row, account.scheme.null) for row in weights)
        return cls(account, seen.windows[kept], seen.choices[kept], names, weights, laws)

    @property
    def one(self) -> bool:
        return len(self.names) == 1

    def totals(self, keys: Iterable[Key], say: Say, word: str) -> Iterator[NDArray[np.int64]]:
        """(m, S) of some thousands of keys after another."""
        stream, done = iter(keys), 0
        while some := list(islice(stream, self.mark.keys_at_once(len(self.choices)))):
            yield self.mark.totals(self.windows, self.choices, self.weights, some)
            done += len(some)
            say(word, done)

    def scores(self, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m, S) totals to (m,): the largest z of each key over the statistics."""
        found = [(column - law.mean) / law.sd for law, column in zip(self.laws, totals.T.astype(float), strict=True)]
        largest: NDArray[np.float64] = np.max(found, axis=0)
        return largest

    def log10_pvalues(self, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m,): the smallest exact lattice tail over the statistics, times their number (Bonferroni)."""
        tails = [upper_tails(law, column) for law, column in zip(self.laws, totals.T, strict=True)]
        corrected: NDArray[np.float64] = np.minimum(0.0, np.min(tails, axis=0) + math.log10(len(tails)))
        return corrected


def _asked(accounts: list[str], epochs: list[str]) -> list[tuple[str, str]]:
    check_names(accounts)
    if not epochs or len(set(epochs)) < len(epochs):
        raise AccountsInvalid("epochs are named once each, and at least one is needed")
    return [(name, epoch) for epoch in epochs for name in accounts]


def _statistics(seen: Observations, statistic: str | None) -> tuple[str, ...]:
    if statistic is None:
        return tuple(name for name in seen.weights if name != VOTES) or (VOTES,)
    if statistic not in seen.weights:
        raise ValueError(f"statistic should be one of {', '.join(seen.weights)}, found {statistic!r}")
    return (statistic,)


def _decoys(cells: _Cells, digest: str, size: int, panels: int, say: Say) -> NDArray[np.float64] | None:
    """Scores of (panels, size) keys that marked nothing, on the same cells; None without panels."""
    if not panels:
        return None
    keys = decoy_keys(bytes.fromhex(digest), panels * size)
    scores = [cells.scores(totals) for totals in cells.totals(keys, say, "decoy keys scored")]
    return np.concatenate(scores).reshape(panels, size)


def _ranks(scores: NDArray[np.float64], drawn: NDArray[np.float64]) -> list[float | None]:
    return [float(p) for p in max_t(scores, drawn)]


def _attribution(
    exposures: list[Exposure],
    cells: _Cells,
    drawn: NDArray[np.float64] | None,
    seen: Observations,
    mark: Watermark,
    alpha: float,
) -> Attribution:
    ordered = sorted(exposures, key=lambda e: (-e.score, e.log10_p, e.account, e.epoch))
    found = [named(e) for e in ordered if e.verdict == "exposure found"]
    second, gap = runner_up(ordered, len(found))
    tail = (
        "exact lattice tail"
        if cells.one
        else f"smallest exact lattice tail of {len(cells.names)}, times {len(cells.names)},"
    )
    return Attribution(
        verdict=_verdict(found, len(ordered)),
        alpha=alpha,
        hypotheses=len(ordered),
        found=found,
        runner_up=second,
        gap=gap,
        statistic=", ".join(cells.names),
        score="z",
        method=f"{tail} under each account's key, Holm's correction over all of them; max-T over panels of decoy keys",
        null=NULL if mark.scheme.null.highest == 1 else GRADED_NULL,
        cells=len(cells.choices),
        effective_cells=cells.laws[0].effective_cells,
        gamma=mark.scheme.null.mean / mark.scheme.null.highest,
        exposures=ordered,
        decoys=None if drawn is None else Decoys(len(drawn), seen.digest, [float(s) for s in drawn.max(axis=1)]),
        observations=seen.digest,
        mark=mark.profile(),
        notes=list(NOTES),
        software=_software(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def named(exposure: Exposure) -> str:
    """An account as it is shown: its name, and its epoch where there is one."""
    return f"{exposure.account} ({exposure.epoch})" if exposure.epoch else exposure.account


def _verdict(found: list[str], hypotheses: int) -> str:
    if found:
        return f"exposure found to the answers of {len(found)} of {hypotheses} accounts: {', '.join(found)}"
    return f"none found: no exposure to the answers of any of {hypotheses} accounts"


def runner_up(ordered: list[Exposure], found: int) -> tuple[str | None, float | None]:
    """(the first after the `found` ones, or the second; by how much score the one before it is ahead); None if none.

    ordered: best first.
    """
    place = max(1, found)
    if place >= len(ordered):
        return None, None
    return named(ordered[place]), ordered[place - 1].score - ordered[place].score


def _software() -> dict[str, str]:
    found = {"prf": prf.RECIPE, "prf backend": prf.backend()}
    for name in ("wmark", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
