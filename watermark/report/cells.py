"""Evidence recomputed from its cells: without the key all laws and all decoys, with it every total of ours too."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from watermark.assess import stacked, statistics_in, weighted
from watermark.errors import ReportInvalid
from watermark.inforce import InForce, check_over_cells
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import Observations, load_cells
from watermark.observe.readings import digest_of
from watermark.observe.text import VOTES
from watermark.report.checks import Check, close
from watermark.schemes import scheme_from_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.evidence import Evidence, Weighted


def check_cells(found: Evidence, path: Path, mark: Watermark | None, keys: InForce | None = None) -> Check:
    """Recomputes counts, decoys and every statistic from a file of cells; raises ReportInvalid.

    Decoy keys are drawn from the public digest of the cells, so that all but our own key's totals need no secret:
    without `mark` those are taken as stated, and what follows from them is computed again. keys: all that were tested.
    """
    seen = _loaded(found, path)
    scheme = scheme_from_json(found.mark["scheme"])
    asked = mark or Watermark(scheme, next(iter(decoy_keys(b"any key will do", 1))))
    try:
        decoys = _decoys(seen, asked, len(found.decoys.totals))
        own = None if mark is None else mark.totals(seen.windows, seen.choices, stacked(seen), [mark.key])[0]
    except ValueError as error:
        raise ReportInvalid(f"{path} cannot hold the cells of this evidence: {error}") from None
    _votes(found, seen, decoys[:, 0], None if own is None else int(own[0]))
    if found.weighted is not None:
        _statistics(found, found.weighted, seen, decoys[:, 1:], None if own is None else own[1:])
    if found.keys is not None:
        check_over_cells(found, seen, keys)
    named = ["votes"] if found.weighted is None else ["votes", *(s.name for s in found.weighted.statistics)]
    under = f"under {len(decoys)} decoy keys" + ("" if mark is None else " and our key")
    return Check("recomputed", f"{len(seen):,} cells, totals of {len(named)} statistics {under}, all as stated")


def _loaded(found: Evidence, path: Path) -> Observations:
    """The cells as observations; their digest must be the stated one."""
    windows, choices, weights, digest = load_cells(path)
    if found.access == "text":
        digest = digest_of(windows, choices, {})
    if digest != found.observations:
        raise ReportInvalid(
            f"{path} holds other cells: their digest is {digest[:16]}…, stated is {found.observations[:16]}…"
        )
    if VOTES not in weights:
        raise ReportInvalid(f"{path} holds no votes")
    return Observations(
        windows=windows,
        choices=choices,
        documents=np.zeros(len(choices), dtype=np.int64),
        names=(),
        tokens=np.empty(0, dtype=np.int64),
        skipped={},
        prompts_known=0,
        samples=(),
        digest=digest,
        weights=weights,
    )


def _decoys(seen: Observations, mark: Watermark, count: int) -> NDArray[np.int64]:
    """(m, 1 + S) totals under the decoy keys that the digest gives."""
    keys, weights = decoy_keys(bytes.fromhex(seen.digest), count), stacked(seen)
    parts: list[NDArray[np.int64]] = []
    while some := list(islice(keys, mark.keys_at_once(len(seen)))):
        parts.append(mark.totals(seen.windows, seen.choices, weights, some))
    return np.concatenate(parts)


def _votes(found: Evidence, seen: Observations, decoys: NDArray[np.int64], own: int | None) -> None:
    votes = seen.weights[VOTES]
    if found.access == "text" and not (votes == 1).all():
        raise ReportInvalid("every cell of text has one vote, and in the file of cells some have another number")
    if not np.isin(votes, (0, 1)).all() or int(votes.sum()) != found.cells:
        raise ReportInvalid(f"the cells hold {int(votes.sum())} votes, stated are {found.cells}")
    _same_decoys(VOTES, found.decoys.totals, decoys)
    if own is not None and own != found.green:
        raise ReportInvalid(f"{found.green} green cells are stated, the key gives {own}")


def _statistics(
    found: Evidence,
    deep: Weighted,
    seen: Observations,
    decoys: NDArray[np.int64],
    own: NDArray[np.int64] | None,
) -> None:
    names = statistics_in(seen)
    if list(names) != [s.name for s in deep.statistics]:
        raise ReportInvalid("the cells bear weights of other statistics than the evidence")
    for name, column in zip(names, decoys.T):
        _same_decoys(name, deep.decoy_totals[name], column)
    again = weighted(
        seen,
        np.array([s.total for s in deep.statistics]) if own is None else own,
        decoys,
        gamma=found.law,
        access=deep.access,
        reference=deep.reference,
        alternative=found.alternative,  # type: ignore[arg-type]
    )
    for statistic, computed in zip(deep.statistics, again.statistics):
        _same(statistic.name, dataclasses.asdict(statistic), dataclasses.asdict(computed))
    _same("the mean e-value", _own_fields(deep), _own_fields(again))


def _own_fields(deep: Weighted) -> dict[str, object]:
    return {"log10_e": deep.log10_e, "log10_p": deep.log10_p, "rank_pvalue": deep.rank_pvalue}


def _same(what: str, stated: dict[str, object], computed: dict[str, object]) -> None:
    for name, value in computed.items():
        if not close(stated[name], value):
            raise ReportInvalid(f"{what}: {name} is stated as {stated[name]}, recomputed it is {value}")


def _same_decoys(name: str, stated: list[int], computed: NDArray[np.int64]) -> None:
    differing = np.flatnonzero(np.asarray(stated) != computed)
    if len(differing):
        first = int(differing[0])
        raise ReportInvalid(
            f"{name}: decoy {first} is stated to total {stated[first]}, recomputed it is {computed[first]}"
        )
