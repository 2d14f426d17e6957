"""attribute_scores(): which accounts' answers did a suspect learn from? Every account's own direction, tested exactly.

Each account's key is one more key that knows nothing of an innocent suspect, so its cosine has the exact law; Holm's
correction over all accounts holds the chance of naming any innocent one at alpha. An account is named by its p-value,
never by being first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from watermark.accounts import check_names
from watermark.errors import MarkInvalid, ReportInvalid
from watermark.scores.direction import cosine
from watermark.scoring.case import Case
from watermark.sealed import Kept, Refusal
from watermark.stats.combine import holm
from watermark.stats.sphere import log10_pvalue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scoring.mark import ScoreWatermark

SCORE_ATTRIBUTION = "wmark-score-attribution/1"
_KEPT = 20  # accounts listed beside the named ones
_REFUSAL = Refusal(ReportInvalid, "an attribution of scores", other="pass what `wmark scores attribute` wrote")


@dataclass(frozen=True)
class AccountFound:
    """One account. adjusted: log10 of Holm's p-value over all accounts; named: whether it is at or below alpha.

    tests: "account" for its direction, "input" where its logged inputs were asked; log10_p is Bonferroni over them.
    """

    account: str
    kid: str
    commitment: str
    cosine: float
    log10_p: float
    log10_p_input: float | None
    adjusted: float
    named: bool


@dataclass(frozen=True)
class ScoreAttribution(Kept):
    """accounts: the named ones and the next twenty, best first. tested: how many were tested in all."""

    format: ClassVar[str] = SCORE_ATTRIBUTION
    refusal: ClassVar[Refusal] = _REFUSAL
    noun: ClassVar[str] = "attribution"

    alpha: float
    tested: int
    named: list[str]
    runner_up: str | None
    accounts: list[AccountFound]
    method: str
    observations: str
    mark: dict[str, Any]
    created: str

    @classmethod
    def built(cls, body: dict[str, Any]) -> ScoreAttribution:
        return cls(**body | {"accounts": [AccountFound(**account) for account in body["accounts"]]})


def attribute_scores(
    mark: ScoreWatermark,
    found: Case,
    accounts: Iterable[str],
    *,
    epoch: str = "",
    logged: bool = False,
    alpha: float = 0.01,
) -> ScoreAttribution:
    """Tests every account of a deployment's mark against one suspect, read once.

    found: from `read_case`. logged: the inputs are ones that the accounts were served, so that each account's numbers
    for single inputs are tested too, if the mark has them. alpha: family-wise, over all accounts. Raises MarkInvalid
    if the mark has no part for accounts.
    """
    scheme, names = mark.scheme, list(accounts)
    if mark.shared is not None or not (scheme.account or (scheme.own and logged)):
        raise MarkInvalid(
            f"mark {mark.key.kid} gives accounts no part of its own" + (" direction" if scheme.own else ""),
            hint="make one with a share for accounts, `wmark scores keygen --account 0.2`, before it serves",
        )
    check_names(names)
    mark.check_basis(found.basis)
    keys = [mark.key.subkey(tenant=name, epoch=epoch) for name in names]
    own = without(found.residual.coefficients, scheme.matrix(mark.key, mark.basis.size))
    parts = []
    if scheme.account:
        cosines = np.array([scheme.score(own, key, part="account") for key in keys])
        parts.append([log10_pvalue(float(c), mark.dimensions) for c in cosines])
    else:
        cosines = np.zeros(len(names))
    inputs: list[float] | None = None
    if logged and scheme.own:
        inputs = [_input_pvalue(mark, found, key) for key in keys]
        parts.append(inputs)
    p = np.minimum(0.0, np.min(parts, axis=0) + np.log10(len(parts)))
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    named = [names[i] for i in order if adjusted[i] <= np.log10(alpha)]
    kept = order[: len(named) + _KEPT]
    return ScoreAttribution(
        alpha=alpha,
        tested=len(names),
        named=named,
        runner_up=next((names[i] for i in order if names[i] not in named), None),
        accounts=[
            AccountFound(
                account=names[i],
                kid=keys[i].kid,
                commitment=keys[i].commitment,
                cosine=float(cosines[i]),
                log10_p=float(p[i]) + 0.0,
                log10_p_input=None if inputs is None else inputs[i] + 0.0,
                adjusted=float(adjusted[i]) + 0.0,
                named=names[i] in named,
            )
            for i in kept
        ],
        method=f"exact law of the cosine with each account's direction, Holm over {len(names)} accounts",
        observations=found.digest,
        mark=mark.profile(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def without(coefficients: NDArray[np.float64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients less their part along the deployment's direction, which is noise to every account's.

    That direction is independent of the accounts', so what is left is as key-free towards them as before.
    """
    length = float((direction * direction).sum())
    return coefficients - direction * float((coefficients * direction).sum()) / length


def _input_pvalue(mark: ScoreWatermark, found: Case, key: Any) -> float:
    from watermark.scoring.detect import centred_rows

    rest = centred_rows(found.residual.rest, mark.scheme.zero_sum)
    observed = cosine(rest, mark.scheme.numbers(key, found.coordinates))
    return log10_pvalue(observed, len(rest) * (rest.shape[1] - mark.scheme.zero_sum))
