"""One other explanation of a result, and those that any kind of evidence shares.

Each stands with the check that the evidence holds, and what that leaves open. What was checked is read off the
evidence's own fields; what is not there was not checked, and the page says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from watermark.report.numbers import NARROW, pvalue, scientific, two_digits
from watermark.report.planned import first_asked, stamped
from watermark.report.shell import dated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.report.measured import Trial

Status = Literal["Checked, speaks against it", "Checked, stays possible", "Checked in part", "Not checked"]
AGAINST: Status = "Checked, speaks against it"
POSSIBLE: Status = "Checked, stays possible"
PART: Status = "Checked in part"
NOT: Status = "Not checked"

_COUNTED: dict[str, str] = {
    AGAINST: "that a check speaks against",
    POSSIBLE: "checked and still possible",
    PART: "checked in part",
    NOT: "not checked",
}
NO_COMPUTER = 24.0  # log10 of keys to be tried: at 10⁹ a second on each of a million machines, thirty years


@dataclass(frozen=True)
class Explanation:
    """One way to such a result. how: it would come about; check: made in this evidence; left: open, and what closes it.

    status: in words, for colour is not seen by all.
    """

    name: str
    how: str
    status: Status
    check: str
    left: str


def counted(found: Sequence[Explanation]) -> str:
    """ "2 that a check speaks against, 3 checked in part, 4 not checked", of those that there are."""
    each = [(sum(e.status == status for e in found), said) for status, said in _COUNTED.items()]
    return ", ".join(f"{count} {said}" for count, said in each if count)


def by_chance(log10_p: float, beaten: str, alpha: float, plan: dict[str, Any] | None) -> Explanation:
    """plan: shares the level among keys and suspects, if it names several."""
    shared = [f"{plan[name]} {name}" for name in ("keys", "suspects") if _several(plan, name)] if plan else []
    split = f" The plan shares its level among {' and '.join(shared)}." if shared else ""
    return Explanation(
        "Chance",
        "A suspect that never met the mark scores so high by accident.",
        AGAINST,
        f"p{NARROW}={NARROW}{pvalue(log10_p)}, level {alpha:g}; {beaten}.{split}",
        f"One test in {two_digits(1 / alpha):,} passes this level by chance: whoever tested more suspects or keys "
        "than are named here must correct for them.",
    )


def _several(plan: dict[str, Any], name: str) -> bool:
    value = plan.get(name)
    return isinstance(value, int) and value > 1


def leaked(mark: dict[str, Any], keys: dict[str, Any] | None) -> Explanation:
    """keys: `Evidence.keys`, where all of a set were tested."""
    how = "Somebody else had the key, and made the mark with it."
    left = (
        "Who could read the key, and since when; what was served under a later key cannot be made with an earlier one."
    )
    if _engine(mark):
        left += " An engine’s key has 64 bits or fewer, and is no better guarded than the engine’s configuration."
    if keys is None:
        return Explanation("Key leak", how, NOT, "None: the evidence holds the key’s commitment, not who had it.", left)
    each = keys.get("each")
    revoked = sum(bool(entry.get("revoked")) for entry in each) if isinstance(each, list) else 0
    told = (
        f"{keys.get('tested')} keys were tested, {revoked} of them revoked: a revoked key counts, and can show nothing."
    )
    return Explanation("Key leak", how, PART, told, left)


def other_mark(mark: dict[str, Any], found: Sequence[Trial]) -> Explanation:
    """found: decoys that the test would have called, at each level."""
    name, how = (
        "Another mark",
        "The suspect’s maker, or another provider, marks its answers too, and that mark was taken for ours.",
    )
    wrong = [t for t in found if t.too_many]
    if wrong:
        told = (
            f"{wrong[-1].called:,} of {wrong[-1].decoys:,} decoy keys pass the level {wrong[-1].level:.4g}: more than "
            "chance allows."
        )
        return Explanation(
            name,
            how,
            POSSIBLE,
            told,
            "Something in the outputs raises many keys at once; find what, before relying on the result.",
        )
    own = found[-1] if found else None
    seen = (
        ""
        if own is None
        else f" Other keys that pass the level {own.level:.4g} on the same outputs: {own.called:,} of "
        f"{own.decoys:,}, as chance has it."
    )
    told = f"A mark under another key is no reason for ours to score.{seen}"
    if _engine(mark):
        left = (
            "Everybody who left an engine’s default key in place makes the same mark: whether this one is such a "
            "key, its import said."
        )
        return Explanation(name, how, PART, told, left)
    return Explanation(
        name, how, AGAINST, told, "Only the same key, 256 random bits, makes the same mark (see “Key leak”)."
    )


def ground(log10_p: float, mark: dict[str, Any], plan: dict[str, Any] | None) -> Explanation:
    """By how many keys would have to be tried to reach the p-value, and by what dates the key."""
    tries = -log10_p
    many = f"about {scientific(tries)}" if tries >= 6 else f"about {two_digits(10**tries):,}"
    told = f"To reach this p-value by trying keys on these outputs, {many} keys would have to be tried"
    beyond = tries >= NO_COMPUTER and not _engine(mark)
    told += ", more than all computers can." if beyond else "; a computer may do so."
    told += f" The mark states as its date: {dated(str(mark.get('created', 'none')))}."
    if plan is not None and plan.get("status") == "confirmatory":
        told += (
            (f" {stamped(plan)}, and it names the key.") if stamped(plan) else " A plan, dated by its maker, names it."
        )
    left = (
        "Dates are their writer’s word until a time stamp of the commitment, or of the plan, older than the outputs "
        "is shown."
    )
    return Explanation(
        "Key chosen to fit",
        "The key was picked or ground after the outputs were known, until it fitted them.",
        AGAINST if beyond else PART,
        told,
        left,
    )


def looked(plan: dict[str, Any] | None, *, alone: bool) -> Explanation:
    """alone: whether an e-process decides, which may be looked at."""
    name = "Choices after looking"
    how = "Texts, statistics, level or the moment to stop were chosen once the result was seen."
    free = " One may look at this e-process after every step; its value stays right." if alone else ""
    if plan is None:
        left = "Make a plan before the first question (`wmark plan`), and have it time-stamped."
        return Explanation(name, how, NOT, f"No plan came with this run.{free}", left)
    if plan.get("status") != "confirmatory" or plan.get("mismatches"):
        told = f"The run is exploratory, or departed from its plan.{free}"
        return Explanation(name, how, POSSIBLE, told, "Run again, under a plan that is kept.")
    told = f"The run kept to its plan: statistics, texts, level and stopping are those that it fixed.{free}"
    if (when := stamped(plan)) is not None and first_asked(plan) is not None:
        told += f" {when}; the first question was asked on {dated(str(first_asked(plan)))}."
        left = "That answers were left out before they were counted: the query log, in the bundle, shows it."
        return Explanation(name, how, AGAINST, told, left)
    left = "That the plan is older than the first question: a time stamp and the query log show it, not this page."
    return Explanation(name, how, PART, told, left)


def _engine(mark: dict[str, Any]) -> bool:
    """Whether an engine made the mark, by its own recipe and with a key of its own kind: "hf-kgw/lefthash"."""
    scheme = mark.get("scheme")
    return isinstance(scheme, dict) and "/" in str(scheme.get("name"))
