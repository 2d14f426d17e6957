"""Other explanations of what text or a model's predictions show, each with the check that this evidence holds.

A finding is asked what else could have brought it about; none is asked what could have hidden a trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watermark.report import weighted
from watermark.report.measured import trials
from watermark.report.numbers import percent, span
from watermark.report.planned import ambient_of, interval_of, is_number
from watermark.report.reasons import (
    AGAINST,
    NOT,
    PART,
    POSSIBLE,
    Explanation,
    by_chance,
    ground,
    leaked,
    looked,
    other_mark,
)
from watermark.report.terms import places_of, terms

if TYPE_CHECKING:
    from watermark.evidence import Evidence

_PUSHED = 3.0  # standard deviations below chance at which one-sided evidence says that it should be asked two-sided
_RETRIEVAL_OPEN = (
    "What the suspect’s service looks up by itself is not seen here: ask it with retrieval off, and over subjects on "
    "which nothing of ours could be looked up."
)


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
        other_mark(evidence.mark, trials(evidence)),
        ground(evidence.log10_p, evidence.mark, evidence.plan),
        looked(evidence.plan, alone=weighted.decided_by(evidence) == "e-process"),
    ]


def _chance(evidence: Evidence) -> Explanation:
    beaten = weighted.beaten(weighted.rank_of(evidence), len(evidence.decoys.totals))
    return by_chance(evidence.log10_p, beaten, evidence.alpha, evidence.plan)


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
        passing = sum(weighted.passes(c, evidence.alpha) for c in evidence.controls)
        told = f"{passing} of {len(evidence.controls)} control models, read alike, pass the level."
        known = "Whether these met what the public met, those can say who made them."
        return Explanation(name, how, PART, told, f"{known} {left}")
    return Explanation(name, how, NOT, "No model exposed as the public is was read.", left)


def _beside(dose: dict[str, Any] | None) -> tuple[str, bool] | None:
    """(ambient dose in words, whether the suspect's interval lies wholly above it), if both were estimated."""
    own, beside = interval_of(dose), ambient_of(dose)
    if own is None or beside is None:
        return None
    low, share, high = beside
    return f"Ambient exposure gives a dose of {percent(share)} ({span((low, high))})", own[0] > high


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
