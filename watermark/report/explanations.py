"""Other explanations of a result, each with the check that this evidence holds, and what it leaves open.

A finding is asked what else could have brought it about; none is asked what could have hidden a trace. What was checked
is read off the evidence's own fields; what is not there was not checked, and the page says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from watermark.report import weighted
from watermark.report.measured import score_trials, trials
from watermark.report.numbers import NARROW, percent, pvalue, scientific, span, two_digits
from watermark.report.planned import first_asked, interval_of, is_number, stamped
from watermark.report.shell import dated
from watermark.report.terms import places_of, terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.evidence import Evidence
    from watermark.report.measured import Trial
    from watermark.scoring.evidence import ScoreEvidence

Status = Literal["Checked, speaks against it", "Checked, stays possible", "Checked in part", "Not checked"]
AGAINST: Status = "Checked, speaks against it"
POSSIBLE: Status = "Checked, stays possible"
PART: Status = "Checked in part"
NOT: Status = "Not checked"

_COUNTED: dict[str, str] = {
    AGAINST: "checked and spoken against",
    POSSIBLE: "checked and still possible",
    PART: "checked in part",
    NOT: "not checked",
}
_PUSHED = 3.0  # standard deviations below chance at which one-sided evidence says that it should be asked two-sided
NO_COMPUTER = 24.0  # log10 of keys to be tried: at 10⁹ a second on each of a million machines, thirty years
_RETRIEVAL_OPEN = (
    "What the suspect’s service looks up by itself is not seen here: ask it with retrieval off, and over subjects on "
    "which nothing of ours could be looked up."
)


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


def explanations(evidence: Evidence) -> list[Explanation]:
    """Of text or a model's predictions: of a finding its other causes, else of its absence."""
    if evidence.verdict != "evidence found":
        return _hidden(evidence)
    return [
        _chance(evidence),
        _ambient(evidence),
        _indirect(evidence),
        _planted(evidence),
        leaked(evidence.mark, evidence.keys),
        _retrieved(evidence),
        _other_mark(evidence.mark, trials(evidence)),
        ground(evidence.log10_p, evidence.mark, evidence.plan),
        _looked(evidence.plan, alone=weighted.decided_by(evidence) == "e-process"),
    ]


def score_explanations(evidence: ScoreEvidence) -> list[Explanation]:
    """The same of scores."""
    if evidence.verdict != "evidence found":
        return _hidden_scores(evidence)
    return [
        _chance_of_scores(evidence),
        _alike(evidence),
        _asked_of_us(evidence),
        _second_hand(evidence),
        leaked(evidence.mark, None),
        _other_mark(evidence.mark, [t for test in evidence.tests for t in score_trials(evidence, test)]),
        ground(evidence.log10_p, evidence.mark, evidence.plan),
        _looked(evidence.plan, alone=evidence.stopped),
    ]


def counted(found: Sequence[Explanation]) -> str:
    """ "2 checked and spoken against, 3 checked in part, 4 not checked", of those that there are."""
    each = [(sum(e.status == status for e in found), said) for status, said in _COUNTED.items()]
    return ", ".join(f"{count} {said}" for count, said in each if count)


def _chance(evidence: Evidence) -> Explanation:
    deep, decoys = evidence.weighted, len(evidence.decoys.totals)
    rank = evidence.decoys.rank_pvalue if deep is None else deep.rank_pvalue
    return _by_chance(evidence.log10_p, f"{weighted.beaten(rank, decoys)}", evidence.alpha, evidence.plan)


def _by_chance(log10_p: float, beaten: str, alpha: float, plan: dict[str, Any] | None) -> Explanation:
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


def _ambient(evidence: Evidence) -> Explanation:
    name = "Ambient exposure"
    how = "Our marked answers were published, and reached the suspect as they reach everybody who gathers text."
    left = "Give `wmark detect` control students and a model exposed as the public is (`--calibration`, `--ambient`)."
    if (beside := _beside(evidence.dose)) is not None:
        reach, above = beside
        if above:
            told = f"{reach}; the suspect’s interval lies wholly above it."
            return Explanation(name, how, AGAINST, told, "It holds for the public text of that model’s time.")
        return Explanation(name, how, POSSIBLE, f"{reach}; the suspect’s interval reaches into it.", left)
    if _own_account(evidence.mark):
        told = "The key is that of one account alone: what other accounts published does not carry it."
        return Explanation(name, how, PART, told, "Whether this account’s answers were published, its owner can say.")
    if evidence.controls:
        passing = sum(c.log10_p <= math.log10(evidence.alpha) for c in evidence.controls)
        told = f"{passing} of {len(evidence.controls)} control models, read alike, pass the level."
        known = "Whether these met what the public met, those can say who made them."
        return Explanation(name, how, PART, told, f"{known} {left}")
    return Explanation(name, how, NOT, "No model exposed as the public is was read.", left)


def _beside(dose: dict[str, Any] | None) -> tuple[str, bool] | None:
    """(ambient dose in words, whether the suspect's lies above it), if both were measured."""
    ambient = (dose or {}).get("ambient")
    if not isinstance(ambient, dict) or not isinstance(ambient.get("exceeded"), bool):
        return None
    found = interval_of(ambient)
    if found is None:
        return None
    low, share, high = found
    return f"Ambient exposure gives a dose of {percent(share)} ({span((low, high))})", ambient["exceeded"]


def _indirect(evidence: Evidence) -> Explanation:
    check = "None can be made from outputs: a student of a student carries the same mark, more weakly."
    left = "Who taught whom is shown by training records, dates and contracts."
    if not evidence.mark.get("accounts"):
        left += " With keys for each account, `wmark attribute` says at least whose answers were passed on."
    return Explanation(
        "Indirect distillation",
        "A third model learned from our answers, and then taught the suspect.",
        NOT,
        check,
        left,
    )


def _planted(evidence: Evidence) -> Explanation:
    check = "None: text is the same whoever put it where the suspect’s makers found it."
    if "ledger" in evidence.inputs:
        check = "Only windows that we served were scored (ledger); this does not say who passed the answers on."
    left = "The ledger lists what was served, to whom and when; keys for each account narrow it to one."
    return Explanation(
        "Planted text", "Somebody put marked text where the suspect’s makers would gather it.", NOT, check, left
    )


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


def _retrieved(evidence: Evidence) -> Explanation:
    how = "Our text stood before the suspect when it answered: in the prompt, or looked up by its service."
    name = "Retrieval at test time"
    if evidence.access == "logits":
        told = (
            "The model itself was read, over texts that we chose, and only where a window came up for the first time."
        )
        return Explanation(name, how, AGAINST, told, "Nothing; no service stood between.")
    unknown = evidence.documents_read - evidence.prompts_known
    skipped = evidence.skipped.get("window in the prompt", 0)
    if not evidence.prompts_known:
        return Explanation(
            name, how, NOT, "No prompt is known, so that nothing copied from one could be left out.", _RETRIEVAL_OPEN
        )
    told = (
        f"The prompts of {evidence.prompts_known:,} answers are known; {skipped:,} tokens that could be copied from "
        "them were not scored."
    )
    if unknown:
        told += f" {unknown:,} prompts are not known."
    return Explanation(name, how, PART, told, _RETRIEVAL_OPEN)


def _other_mark(mark: dict[str, Any], found: Sequence[Trial]) -> Explanation:
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


def _looked(plan: dict[str, Any] | None, *, alone: bool) -> Explanation:
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


def _hidden(evidence: Evidence) -> list[Explanation]:
    """What may have hidden a trace."""
    named, places = terms(evidence).rate, places_of(evidence)
    if evidence.weighted is not None:
        reach = f"One of the statistics at {weighted.needed_z(evidence):.1f} standard deviations would have been found"
    elif evidence.detectable_rate is None:
        reach = f"Not even a {named} of 100 % would have been found"
    else:
        reach = f"A {named} above {percent(evidence.detectable_rate, places)} would have been found"
    power = f"{reach} with probability {percent(evidence.power, 0)}."
    enough = POSSIBLE if evidence.verdict == "inconclusive" else PART
    return [
        Explanation(
            "Too little text",
            "The trace is there, and weaker than a test of this size can see.",
            enough,
            power + _share_planned(evidence.plan),
            "Ask more questions under a new plan; a share of training text needs control students to be told.",
        ),
        Explanation(
            "Less than could be read",
            "Another access would have shown it.",
            AGAINST if evidence.access == "logits" and evidence.weighted and evidence.weighted.reference else PART,
            f"Read were {weighted.READ.get(evidence.access, evidence.access)}{_against(evidence)}.",
            "Log-probabilities, many samples of each prompt, an open model, and a reference to subtract each find "
            "more.",
        ),
        _weakened(evidence),
        _another_key(evidence),
        Explanation(
            "Read as another mark",
            "Tokenizer, window or recipe are not those that the text was served under.",
            NOT,
            "The notes say as what the text was read; that it was served so, this evidence does not hold.",
            "Hold the service’s own configuration to the published profile (`wmark profile import … --against`).",
        ),
    ]


def _weakened(evidence: Evidence) -> Explanation:
    how = "Marked text was rewritten, filtered or mixed with much other text; or outputs are pushed away from the mark."
    pushed = evidence.alternative == "greater" and evidence.z < -_PUSHED
    if evidence.alternative == "two-sided":
        told = "The test was two-sided: outputs pushed away from the mark would have been found too."
    elif pushed:
        told = (
            f"The count lies {-evidence.z:.1f} standard deviations below chance: outputs may be pushed away from the "
            "mark."
        )
    else:
        told = "The test looks to one side alone; what lies on the other does not stand out."
    left = "Rewriting and dilution look like no exposure at all, to any test of outputs."
    if pushed:
        left = "Test again on new answers, with a plan and `--alternative two-sided`."
    return Explanation("Mark weakened", how, POSSIBLE if pushed else PART, told, left)


def _another_key(evidence: Evidence) -> Explanation:
    name, how = (
        "Another key",
        "The suspect met text that was served under another key, of an account or an earlier time.",
    )
    if evidence.keys is not None:
        told = f"All {evidence.keys.get('tested')} keys of the set were tested."
        return Explanation(
            name, how, AGAINST, told, "That the set lists every key there was, its published commitments show."
        )
    return Explanation(
        name,
        how,
        NOT,
        "One key was tested.",
        "Test a set: `wmark detect --mark KEYS.jwks.age` tries all keys in force, corrected.",
    )


def _share_planned(plan: dict[str, Any] | None) -> str:
    share = (plan or {}).get("share")
    if share is None or not is_number(share) or (plan or {}).get("status") != "confirmatory":
        return ""
    return f" The plan was made for a share of {percent(float(share))} of marked training text."


def _against(evidence: Evidence) -> str:
    return "" if evidence.weighted is None else weighted.against(evidence.weighted)


def _own_account(mark: dict[str, Any]) -> bool:
    accounts = mark.get("accounts")
    return isinstance(accounts, dict) and accounts.get("shared") is not None


def _engine(mark: dict[str, Any]) -> bool:
    """Whether an engine made the mark, by its own recipe and with a key of its own kind: "hf-kgw/lefthash"."""
    scheme = mark.get("scheme")
    return isinstance(scheme, dict) and "/" in str(scheme.get("name"))


def _chance_of_scores(evidence: ScoreEvidence) -> Explanation:
    first = evidence.tests[0]
    beaten = weighted.beaten(first.rank_pvalue, len(first.decoys))
    return _by_chance(evidence.log10_p, beaten, evidence.alpha, evidence.plan)


def _alike(evidence: ScoreEvidence) -> Explanation:
    name, how = (
        "Likeness without our answers",
        "The suspect was trained on the same data, or does the same task equally well.",
    )
    told = (
        f"What needs no key was taken away ({percent(evidence.explained)} of how it differs from us), with "
        f"{evidence.surrogates} surrogates of our own. A key’s direction is independent of all likeness: "
        f"{_controls(evidence)}"
    )
    return Explanation(name, how, AGAINST, told, "Nothing, if the key had no part in the inputs and in the surrogates.")


def _controls(evidence: ScoreEvidence) -> str:
    if not evidence.controls:
        return "no control model was read to show it."
    passing = sum(c.log10_p <= math.log10(evidence.alpha) for c in evidence.controls)
    return f"{passing} of {len(evidence.controls)} control models pass the level."


def _asked_of_us(evidence: ScoreEvidence) -> Explanation:
    name, how = "Our service asked at test time", "The suspect passes questions on to us, or keeps our answers to them."
    left = "Our own log shows whether these inputs were asked of us; use inputs that nobody was served."
    if evidence.options.get("logged") is True:
        return Explanation(name, how, POSSIBLE, "The inputs are logged ones, which an account was served.", left)
    return Explanation(
        name, how, NOT, "None: the evidence does not hold whether these inputs were ever asked of us.", left
    )


def _second_hand(evidence: ScoreEvidence) -> Explanation:
    how = (
        "A third model, or a data set, learned from our answers and taught the suspect; or somebody put it in its way."
    )
    told = "None can be made from scores: what was passed on carries the same mark."
    left = "Training records, dates and contracts; keys for each account say whose answers were passed on."
    return Explanation("Indirect or planted", how, NOT, told, left)


def _hidden_scores(evidence: ScoreEvidence) -> list[Explanation]:
    carried = evidence.carried
    reach = "How weak a trace would have been found is not measured here."
    if carried is not None and math.isfinite(carried.detectable):
        reach = f"A share of {percent(carried.detectable, 0)} of the mark would have been found with probability 90 %."
    return [
        Explanation(
            "Too few answers",
            "The trace is there, and weaker than a test of this size can see.",
            POSSIBLE if evidence.verdict == "inconclusive" else PART,
            reach,
            "Ask more inputs under a new plan; surrogates trained on our own answers sharpen the test.",
        ),
        Explanation(
            "Labels, mixtures, rounding",
            "The suspect learned from first classes alone, or from several teachers and true labels.",
            NOT,
            "None: such training leaves little or nothing of a mark that keeps the first class.",
            "Ask for scores where labels were given.",
        ),
        Explanation(
            "Another key",
            "The suspect met answers that were moved along another account’s direction.",
            NOT,
            "One key was tested.",
            "`wmark scores attribute` tries every account, corrected.",
        ),
    ]
