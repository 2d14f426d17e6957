"""Weighted sums and the e-process in plain words: what was read, what was found, how sure, and what could be missed."""

from __future__ import annotations

from math import log10
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from watermark.report.numbers import NARROW, evalue, odds, percent, pvalue, signed
from watermark.report.planned import aimed
from watermark.stats.power import threshold_z

if TYPE_CHECKING:
    from watermark.evidence import Anytime, Control, Evidence, Weighted
    from watermark.scoring.evidence import ScoreControl

Deciding = Literal["votes", "mean e-value", "e-process"]

READ = {
    "text": "which tokens the suspect wrote",
    "text and reference": "which tokens the suspect wrote",
    "samples": "how often the suspect chose each token, in many answers to each prompt",
    "log-probabilities": "the log-probabilities that came with the suspect's answers",
    "logits": "the suspect's log-probabilities at every position of the texts",
}

MEANS = {
    "votes": "one vote for each cell: the likeliest token, or the one written",
    "mass": "the suspect's probability of the token",
    "spread": "the same where the suspect is undecided: p (1 − p)",
    "difference": "the suspect's probability less the reference's",
    "log-ratio": "√p times the log of the suspect's probability over the reference's, less its mean",
    "excess": "tokens written, less what the reference expected",
    "tally": "tokens written, counted over all samples",
}
_NORMED = " normed"

LIMITS = (
    "Standard deviations (z) describe; no p-value here is taken from a normal curve. “Exact lattice” is the exact "
    "law of the sum; “Chernoff bound” is an upper bound that stands in where the exact law is too large to compute; "
    "an e-value bounds the p-value by 1/E.",
    "One-vote counts, single statistics, controls and the rank stand beside the test that decides. Whoever picks the "
    "best of them after looking must correct for it.",
)


def decided_by(evidence: Evidence) -> Deciding:
    """The test behind the verdict: the e-process where one stopped at will, the mean e-value, or the votes."""
    if evidence.anytime is not None and evidence.options.get("stopped"):
        return "e-process"
    return "votes" if evidence.weighted is None else "mean e-value"


def subject(evidence: Evidence) -> str:
    """What is said to depend on the key, or not to."""
    return "this model’s predictions" if evidence.access == "logits" else "these outputs"


def texts(evidence: Evidence) -> str:
    """What was read: the suspect's answers, or texts that were put before it."""
    return "texts" if evidence.access == "logits" else "answers"


def meaning(name: str) -> str:
    """What a statistic sums, in a line."""
    plain = MEANS.get(name.removesuffix(_NORMED), "a weighted sum of green cells")
    return plain + "; each window scaled, so that few do not carry all" if name.endswith(_NORMED) else plain


def against(deep: Weighted) -> str:
    return f", against the reference “{deep.reference}”" if deep.reference else ""


def meanings(evidence: Evidence) -> list[tuple[str, str]]:
    """(statistic, what it sums), of those that were read."""
    deep = evidence.weighted
    return [] if deep is None else [(s.name, meaning(s.name)) for s in deep.statistics]


def notes(evidence: Evidence) -> list[str]:
    """What was assumed or left out where weights were read."""
    deep = evidence.weighted
    if deep is None:
        return []
    made = []
    if deep.reference:
        made.append(
            f"The reference “{deep.reference}” was subtracted. If it is not the model that the suspect grew from, the "
            "test is as valid, and finds less."
        )
    else:
        made.append("No reference was subtracted; with one, best the model the suspect grew from, a test finds more.")
    if evidence.access == "logits" and not evidence.controls:
        made.append("No control model was put through the same code.")
    if evidence.plan is None:
        made.append(
            "No plan came with this run: that level, texts and statistics were chosen before looking is the "
            "analyst’s word alone."
        )
    if evidence.dose is None:
        made.append("No dose was estimated: the strength of the evidence is not the share of marked training text.")
    return made


def found(evidence: Evidence) -> str:
    """What was found, by the test that decides."""
    if decided_by(evidence) == "e-process":
        assert evidence.anytime is not None
        return _grown(evidence, evidence.anytime)
    assert evidence.weighted is not None
    return _summed(evidence, evidence.weighted) + _controls(evidence)


def sure(evidence: Evidence) -> str:
    """How often chance alone would do as well."""
    equals = f"{NARROW}={NARROW}"
    reached = "goes beyond" if evidence.verdict == "evidence found" else "does not reach"
    level = odds(log10(evidence.alpha)).removeprefix("about ")
    bar = f"It {reached} the level set for this test: {level} (alpha{equals}{evidence.alpha:g})."
    process = decided_by(evidence) == "e-process"
    whose = "An e-process" if process else "A mean e-value"
    if evidence.log10_p >= 0:
        return f"{whose} that ends at 1 or below is what chance gives (p{equals}1). {bar}"
    when = "a stake would ever grow this much, whenever one stopped," if process else "evidence this strong would occur"
    return (
        f"If the suspect had never met answers marked with this key, {when} at most {odds(evidence.log10_p)} such "
        f"tests (p{equals}1/E{equals}{pvalue(evidence.log10_p)}; a bound, with nothing approximated). {bar}"
    )


def power(evidence: Evidence) -> str:
    """What the test would have found; a normal approximation, and said to be one."""
    assert evidence.weighted is not None
    text = (
        f"A trace that lifts one of the statistics to {needed_z(evidence):.1f} standard deviations on average would "
        f"have been found with probability {percent(evidence.power, 0)} (normal approximation, for this sentence "
        "alone); a weaker one could have been missed."
    )
    if decided_by(evidence) == "e-process":
        text += " That holds for a test of fixed size; the e-process pays for the freedom to stop, and needs more."
    planned = aimed(evidence)
    if evidence.dose is None and not planned:
        text += " Which share of marked training text that means, only control students of known share can tell."
    return text + planned


def needed_z(evidence: Evidence) -> float:
    """The expected z of one statistic that the mean e-value finds with the stated power."""
    assert evidence.weighted is not None
    count, two_sided = len(evidence.weighted.statistics), evidence.alternative == "two-sided"
    bar = threshold_z(evidence.alpha, test="evalue", statistics=count, two_sided=two_sided)
    return bar + NormalDist().inv_cdf(evidence.power)


def rank_of(evidence: Evidence) -> float:
    """The decoy rank that goes with the evidence: of the mean e-value where weights were read, else of the votes."""
    return evidence.decoys.rank_pvalue if evidence.weighted is None else evidence.weighted.rank_pvalue


def passes(control: Control | ScoreControl, alpha: float) -> bool:
    """Whether a control, tested as the suspect was, reaches the level."""
    return control.log10_p <= log10(alpha)


def beaten(rank: float, decoys: int) -> str:
    """ "none of the 999 decoy keys did as well" and its kin."""
    as_well = round(rank * (1 + decoys)) - 1
    if as_well == 0:
        return f"none of the {decoys:,} decoy keys did as well"
    return f"{as_well:,} of the {decoys:,} decoy keys did at least as well"


def _summed(evidence: Evidence, deep: Weighted) -> str:
    scores = [s.z for s in deep.statistics]
    low, high = (signed(value, 1) for value in (min(scores), max(scores)))
    lie = low if low == high else f"between {low} and {high}"
    return (
        f"What was read: {READ.get(evidence.access, evidence.access)}{against(deep)}. {len(scores)} weighted sums say "
        f"how far the suspect leans to the tokens that our key favours: {lie} standard deviations from chance, which "
        f"is 0. Put to the same text, {beaten(deep.rank_pvalue, len(evidence.decoys.totals))}."
    )


def _controls(evidence: Evidence) -> str:
    """Which controls the same test finds too: what they mean is for whoever knows how they were made."""
    if not evidence.controls:
        return ""
    passing = [f"“{c.name}”" for c in evidence.controls if passes(c, evidence.alpha)]
    count = len(evidence.controls)
    whole = f"the {count} control models" if count > 1 else "the one control model"
    if not passing:
        return f" Of {whole} read in the same way, none passes the level."
    return f" Of {whole} read in the same way, {len(passing)} would pass the level: {', '.join(passing)}."


def _grown(evidence: Evidence, running: Anytime) -> str:
    bar = evalue(-log10(evidence.alpha))
    passed = (
        f"never passed 1/alpha = {bar}"
        if running.reached_at is None
        else f"passed 1/alpha = {bar} after {running.reached_at:,} tokens"
    )
    beside = f"{against(evidence.weighted)}" if evidence.weighted else ""
    return (
        f"What was read: {READ.get(evidence.access, evidence.access)}{beside}. It was read in {len(running.steps)} "
        "stages, each a bet on cells that no earlier one had used. The stake of 1 became E = "
        f"{evalue(running.log10_e)} after {evidence.tokens_read:,} tokens; it {passed}."
    )
