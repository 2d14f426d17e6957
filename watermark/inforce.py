"""All keys of a set at once: a suspect is read once and tested under each, and one p-value speaks for them together.

A holder of many keys who shows the best of them would be wrong as often as there are keys. So every key of the set
is tested, and the evidence lists them all: what was published of the set (`keyring.commitments`) shows that none was
left out. Under the null that the outputs are independent of all these keys,

- exact tails: p = N min p_i, at most 1 (Bonferroni);
- e-values, where weights were read or where one stopped when content: E = the mean of E_i, p = 1/E by Markov's
  inequality, again an e-value (and of e-processes an e-process) whatever the dependence (Vovk and Wang 2021).

A revoked key counts among the N and can carry nothing, p_i = 1 and E_i = 0: whoever has it can plant text. So nothing
is gained by revoking keys after they were looked at. Which key stands foremost is chosen by the outcome; its counts,
curve and rank describe it, and are not corrected.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.access import Found
from watermark.assess import anytime, stacked, statistics_in, tallied, totals_of, votes_anytime
from watermark.errors import KeyUnusable, ReportInvalid
from watermark.keyring.commitments import Commitments, Committed, heads
from watermark.keyring.keyset import KeySet
from watermark.observe.text import VOTES
from watermark.stats.combine import mean_evalue
from watermark.stats.graded import sum_of
from watermark.timestamps import moment

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.evidence import Evidence
    from watermark.mark import Watermark
    from watermark.observe import Observations
    from watermark.plan import Plan
    from watermark.stats.laws import Alternative, Law

BONFERRONI = "Bonferroni over exact tails"
AVERAGE = "mean of e-values"


def bonferroni(log10_p: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """log10 of N min p_i along an axis, at most 0. log10_p: 0 for a key that can carry nothing."""
    found = np.asarray(log10_p, dtype=np.float64)
    corrected: NDArray[np.float64] = np.minimum(0.0, found.min(axis=axis) + math.log10(found.shape[axis]))
    return corrected


def averaged(log10_e: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """log10 of 1 / mean of E_i along an axis, at most 0. log10_e: -inf for a key that can carry nothing."""
    return np.minimum(0.0, -mean_evalue(log10_e, axis=axis))


@dataclass(frozen=True)
class InForce:
    """The keys of a set, each with its mark. described: what is public of the set, without the keys."""

    marks: tuple[Watermark, ...]
    keys: tuple[Committed, ...]
    name: str
    profile: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, keys: KeySet) -> InForce:
        public = keys.commitments()
        marks = tuple(keys.watermark(epoch) for epoch in keys.epochs)
        return cls(marks, tuple(public.keys), keys.name, public.mark)

    def planned(self, plan: Plan) -> Watermark:
        """The one mark that a plan named before anything was asked. Raises KeyUnusable if it is none of these."""
        for mark in self.marks:
            if mark.key.commitment == plan.mark["commitment"]:
                return mark
        raise KeyUnusable(
            f"the plan names the key {plan.mark['kid']}, which is none of the {len(self.marks)} of set {self.name}",
            hint="pass the set whose key was planned for",
        )

    def tested(
        self, found: Found, *, access: str, alpha: float, alternative: Alternative, stopped: bool
    ) -> tuple[Watermark, Found, dict[str, Any]]:
        """(mark of the foremost key, what was read, what `Evidence.keys` holds). The observations are read already."""
        seen, stages = found.seen, None if found.stages is None else list(found.stages)
        law = self.marks[0].scheme.null
        names = (VOTES, *statistics_in(seen))
        totals = totals_of(seen, self.marks[0], [m.key for m in self.marks])
        each: list[dict[str, Any]] = [
            dataclasses.asdict(key) | {"totals": dict(zip(names, map(int, row), strict=True))}
            for key, row in zip(self.keys, totals, strict=True)
        ]
        if stopped and access == "text":
            for entry, mark in zip(each, self.marks, strict=True):
                votes = tallied(seen, mark)
                run = votes_anytime(seen.tokens, votes, alpha=alpha, law=law, alternative=alternative)
                entry["log10_e"] = run.log10_e
        elif stopped and stages is not None:
            for entry, mark in zip(each, self.marks, strict=True):
                run = anytime(stages, mark, alpha=alpha, gamma=law, alternative=alternative)
                entry["log10_e"] = run.log10_e
        elif access == "text":
            n = len(seen)
            for entry in each:
                entry["log10_p"] = law.log10_pvalue(entry["totals"][VOTES], n, alternative=alternative) + 0.0
        else:
            for entry, log10_e in zip(each, evalues(found.in_memory, totals[:, 1:], law, alternative), strict=True):
                entry["log10_e"] = float(log10_e) + 0.0
        described: dict[str, Any] = {
            "set": self.name,
            "head": heads(self.name, self.profile, list(self.keys))[-1],
            "tested": len(each),
            "each": each,
        } | together(each)
        mark = self.marks[[key.kid for key in self.keys].index(described["foremost"])]
        return mark, replace(found, stages=None if stages is None else iter(stages)), described

    def restricted(self, found: Evidence) -> InForce:
        """The keys that some evidence lists, as it lists them. Raises ReportInvalid if this set has others."""
        stated = [committed(entry) for entry in (found.keys or {}).get("each", [])]
        for place, key in enumerate(stated):
            ours = self.keys[place] if place < len(self.keys) else None
            if ours is None or (ours.kid, ours.commitment, ours.epoch) != (key.kid, key.commitment, key.epoch):
                raise ReportInvalid(f"key {key.kid} of the evidence is not key {place + 1} of the set {self.name}")
        return replace(self, marks=self.marks[: len(stated)], keys=tuple(stated))


def evalues(seen: Observations, totals: NDArray[np.int64], law: Law, alternative: Alternative) -> NDArray[np.float64]:
    """(N,) log10 of each key's mean e-value over the weighted statistics. totals: (N, S)."""
    laws = [sum_of(seen.weights[name], law) for name in statistics_in(seen)]
    found = [each.log10_evalue(column, alternative=alternative) for each, column in zip(laws, totals.T, strict=True)]
    return mean_evalue(np.stack(found), axis=0)


def together(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{correction, foremost, log10_p} of the keys' own results: `log10_p` each, or else `log10_e`."""
    live = np.array([not entry["revoked"] for entry in each])
    if all("log10_p" in entry for entry in each):
        tails = np.where(live, [entry["log10_p"] for entry in each], 0.0)
        strength, correction, log10_p = -tails, BONFERRONI, bonferroni(tails)
    else:
        bets = np.where(live, [entry["log10_e"] for entry in each], -np.inf)
        strength, correction = bets, AVERAGE
        log10_p = averaged(bets)
    place = int(np.argmax(np.where(live, strength, -np.inf))) if live.any() else len(each) - 1
    return {"correction": correction, "foremost": each[place]["kid"], "log10_p": float(log10_p) + 0.0}


def method_over(keys: dict[str, Any], method: str) -> str:
    """The method's sentence, with the keys."""
    return f"{method}; all {keys['tested']} keys of set {keys['set']} tested, {keys['correction']} over them"


def note_on(keys: dict[str, Any]) -> str:
    revoked = sum(entry["revoked"] for entry in keys["each"])
    told = f" {revoked} of them revoked: counted, and able to show nothing." if revoked else ""
    return (
        f"{keys['tested']} keys were tested and the p-value is corrected for all of them; counts, curve, rank and "
        f"controls are those of the foremost, {keys['foremost']}, which was chosen by the outcome.{told}"
    )


def committed(entry: dict[str, Any]) -> Committed:
    """The public key of one entry of `Evidence.keys`. Raises KeyError, TypeError."""
    return Committed(**{f.name: entry[f.name] for f in dataclasses.fields(Committed)})


def check_keys(found: Evidence) -> str:
    """That the list of keys leads to its head, and its results to the stated p-value; needs no key.

    Raises ReportInvalid, naming what does not follow.
    """
    keys = found.keys
    assert keys is not None
    try:
        each = list(keys["each"])
        public = [committed(entry) for entry in each]
        profile = {name: found.mark[name] for name in ("scheme", "prf", "tokenizer")}
        links = heads(keys["set"], profile, public)
        joint = together(each)
        mine = next(entry for entry in each if entry["kid"] == joint["foremost"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        raise ReportInvalid("the list of tested keys is not complete") from None
    if keys.get("tested") != len(each) or len({key.kid for key in public}) < len(each):
        raise ReportInvalid(f"{keys.get('tested')} keys are said to be tested, {len(each)} are listed")
    if links[-1] != keys.get("head"):
        raise ReportInvalid("the tested keys do not lead to the head of their set: one was left out, added or changed")
    for name, value in joint.items():
        if keys.get(name) != value and not (name == "log10_p" and math.isclose(keys[name], value, rel_tol=1e-6)):
            raise ReportInvalid(f"over the keys, {name} is stated as {keys.get(name)}, recomputed it is {value}")
    if (found.mark.get("kid"), found.mark.get("commitment")) != (mine["kid"], mine["commitment"]):
        raise ReportInvalid(f"the evidence shows key {found.mark.get('kid')}, the foremost is {mine['kid']}")
    _check_foremost(found, each, mine)
    return f"log10 p = {keys['log10_p']:.3f} follows from {len(each)} keys ({keys['correction']})"


def _check_foremost(found: Evidence, each: list[dict[str, Any]], mine: dict[str, Any]) -> None:
    """Each key's own result follows from its total, and the foremost's is what the evidence shows."""
    deep, law = found.weighted, found.law
    if ("log10_p" in mine) != (found.access == "text" and not found.options.get("stopped")):
        raise ReportInvalid("the keys' results are not of the kind that this test gives")
    expected = {VOTES: found.green} | ({} if deep is None else {s.name: s.total for s in deep.statistics})
    if mine["totals"] != expected:
        raise ReportInvalid(f"the totals of key {mine['kid']} are not those that the evidence shows")
    if "log10_p" in mine:
        for entry in each:
            own = law.log10_pvalue(entry["totals"][VOTES], found.cells, alternative=found.alternative)  # type: ignore[arg-type]
            if not math.isclose(entry["log10_p"], own, rel_tol=1e-6, abs_tol=1e-9):
                raise ReportInvalid(f"key {entry['kid']}: log10 p is stated as {entry['log10_p']}, it is {own}")
        return
    shown = found.anytime if found.options.get("stopped") else deep
    if shown is None or not math.isclose(mine["log10_e"], shown.log10_e, rel_tol=1e-6, abs_tol=1e-9):
        raise ReportInvalid(f"the e-value of key {mine['kid']} is not the one that the evidence shows")


def check_published(found: Evidence, published: Commitments) -> str:
    """That every key published before the evidence was made was tested, or that the one tested is among them.

    Raises ReportInvalid, naming a key that was left out.
    """
    profile = {name: found.mark.get(name) for name in ("scheme", "prf", "tokenizer")}
    if profile != published.mark:
        raise ReportInvalid(f"the set {published.set} was published with another scheme or vocabulary")
    if found.keys is None:
        if found.mark.get("commitment") not in [key.commitment for key in published.keys]:
            raise ReportInvalid(f"key {found.mark.get('kid')} is none of the {len(published.keys)} published ones")
        others = [key for key in published.keys if moment(key.created) <= moment(found.created)]
        undisclosed = len(others) - 1 if (found.plan or {}).get("status") != "confirmatory" else 0
        told = f"; NOT CHECKED: {undisclosed} other keys were in force, the evidence does not tell of them"
        return (
            f"key {found.mark['kid']} is one of {len(published.keys)} published in set {published.set}"
            f"{told if undisclosed > 0 else ''}"
        )
    stated = [committed(entry) for entry in found.keys["each"]]
    shorter, longer = sorted((stated, published.keys), key=len)
    if heads(found.keys["set"], profile, longer)[len(shorter)] != heads(published.set, published.mark, shorter)[-1]:
        raise ReportInvalid(f"the keys tested are not those published of set {published.set}, in their order")
    late = [key for key in published.keys[len(stated) :] if moment(key.created) <= moment(found.created)]
    if late:
        raise ReportInvalid(
            f"key {late[0].kid} (epoch {late[0].epoch}) of the published set was there when the evidence was made, and "
            f"was not tested; {len(stated)} of {len(published.keys)} were"
        )
    beyond = len(stated) - len(published.keys)
    told = f"; {beyond} more were tested that this file does not hold" if beyond > 0 else ""
    return f"all keys published in set {published.set} were tested, head {published.head[:16]}…{told}"


def check_over_cells(found: Evidence, seen: Observations, keys: InForce | None) -> None:
    """From the cells: each key's e-value follows from its totals; with the keys, the totals themselves.

    Raises ReportInvalid.
    """
    each = (found.keys or {})["each"]
    names = (VOTES, *statistics_in(seen))
    stated = np.array([[entry["totals"][name] for name in names] for entry in each], dtype=np.int64)
    if keys is not None:
        marks = keys.restricted(found).marks
        own = marks[0].totals(seen.windows, seen.choices, stacked(seen), [mark.key for mark in marks])
        wrong = np.flatnonzero((own != stated).any(axis=1))
        if len(wrong):
            raise ReportInvalid(f"the totals stated for key {each[int(wrong[0])]['kid']} are not those it gives")
    if len(names) > 1 and not found.options.get("stopped"):
        again = evalues(seen, stated[:, 1:], found.law, found.alternative)  # type: ignore[arg-type]
        for entry, log10_e in zip(each, again, strict=True):
            if not math.isclose(entry["log10_e"], log10_e, rel_tol=1e-6, abs_tol=1e-9):
                raise ReportInvalid(f"key {entry['kid']}: log10 E is stated as {entry['log10_e']}, it is {log10_e}")
