"""Two propositions and what the evidence weighs between them: an e-value, and its words on the scale of experts.

An e-value is what a stake of 1 became in a bet against Hd whose terms were fixed beforehand; its mean under Hd is at
most 1. It is no probability of either proposition, and nothing here makes one of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark.report.numbers import NARROW, evalue, pvalue
from watermark.report.weighted import decided_by
from watermark.stats.combine import mean_evalue

if TYPE_CHECKING:
    from watermark.evidence import Evidence
    from watermark.report.planned import Banner
    from watermark.scoring.evidence import ScoreEvidence

Origin = Literal["calibrated", "mean e-value", "e-process"]

NO_SUPPORT = "no support"
BANDS = (
    (math.log10(2), "weak support"),
    (1.0, "moderate support"),
    (2.0, "moderately strong support"),
    (3.0, "strong support"),
    (4.0, "very strong support"),
    (6.0, "extremely strong support"),
)
RANGES = ("2 to 10", "10 to 100", "100 to 1,000", "1,000 to 10,000", "10,000 to 1,000,000", "1,000,000 and above")
SCALE = "Verbal equivalents of the ENFSI Guideline for Evaluative Reporting in Forensic Science (2015)"
WHAT_IT_IS = (
    "E is what a stake of 1 became in a bet against Hd whose terms were fixed before its outcome could be seen. If "
    "Hd is true it is 1 or less on average, so that it reaches 1,000 at most once in 1,000 such tests. It is read "
    "here as a cautious likelihood ratio of Hp against Hd. It is not the probability of either proposition: for that "
    "one would have to add how likely exposure was before this evidence, which is not for this page to say."
)
_ORIGINS: dict[str, str] = {
    "calibrated": "E is made from the p-value by a rule that never exaggerates (Vovk and Wang 2021: E is the mean of "
    "κ p^(κ − 1) over κ from 0 to 1), so it is smaller than 1/p; with x = −ln p it is (eˣ − 1 − x)/x².",
    "mean e-value": "E is the mean of likelihood ratios against Hd, over statistics and strengths of exposure "
    "that were fixed beforehand; such a mean is an e-value again, however they depend on each other.",
    "e-process": "E is the stake at the end of a run of bets on new text, each fixed by what came before; one may stop "
    "such a run at any time.",
}
_SERIES = 1e-3  # below this x the formula cancels and its series is exact to the last digit


@dataclass(frozen=True)
class Weight:
    """log10_e: of the e-value against Hd, -inf for 0. origin: how it came about. log10_p: the p-value beside it.

    limit: log10 of the most that any likelihood ratio could be by the p-value alone, None where no such bound is.
    """

    log10_e: float
    origin: Origin
    log10_p: float
    limit: float | None = None

    @property
    def band(self) -> str:
        return band(self.log10_e)


@dataclass(frozen=True)
class Weighing:
    """The section of a page. scale: (range of E, words, whether it is this one) of the whole table; caveat: or ""."""

    hp: str
    hd: str
    value: str
    band: str
    sentence: str
    origin: str
    limit: str
    caveat: str
    scale: list[tuple[str, str, bool]]


def calibrated(log10_p: float) -> float:
    """log10 of the e-value (e^x - 1 - x) / x^2 of a p-value, x = -ln p: the mean of kappa p^(kappa - 1) over kappa.

    Vovk and Wang 2021 (Annals of Statistics 49, section 2: every kappa in (0, 1) gives a calibrator, and so does their
    mean). Its mean over a uniform p is 1; it lies between 1/2 at p = 1 and 1/p. Raises ValueError for a p above 1.
    """
    if not log10_p <= 0:
        raise ValueError(f"a p-value's log10 must be 0 or below, found {log10_p}")
    x = -log10_p * math.log(10)
    if x < _SERIES:
        return math.log10(0.5 + x / 6 + x * x / 24)
    if math.isinf(x):
        return math.inf
    return (x - 2 * math.log(x) + math.log1p(-(1 + x) * math.exp(-x))) / math.log(10)


def most(log10_p: float) -> float | None:
    """log10 of 1 / (-e p ln p), above which no likelihood ratio against Hd is to be had from p; None for p >= 1/e.

    Sellke, Bayarri and Berger 2001 (The American Statistician 55, section 3.2): an upper bound over alternatives under
    which small p-values are likelier. No lower bound, hence no evidence by itself.
    """
    x = -log10_p * math.log(10)
    return None if x <= 1 or math.isinf(x) else (x - 1 - math.log(x)) / math.log(10)


def band(log10_e: float) -> str:
    """The verbal equivalent of a likelihood ratio; under 2 none, for an e-value below 1 does not speak for Hd.

    ENFSI Guideline for Evaluative Reporting 2015: from 2 weak, 10 moderate, 100 moderately strong, 1,000 strong,
    10,000 very strong, 1,000,000 extremely strong. A bound belongs to the stronger band. Raises ValueError on NaN.
    """
    if math.isnan(log10_e):
        raise ValueError("a likelihood ratio must be a number, found NaN")
    return next((words for least, words in reversed(BANDS) if log10_e >= least), NO_SUPPORT)


def weight_of(evidence: Evidence) -> Weight:
    """What evidence of text or of a model weighs: its own e-value where it has one, else one made from its p-value."""
    deciding, p = decided_by(evidence), evidence.log10_p
    if deciding == "votes":
        return from_pvalue(p)
    if evidence.keys is not None:
        return Weight(_over_keys(evidence.keys["each"]), deciding, p)
    found = evidence.anytime if deciding == "e-process" else evidence.weighted
    return Weight(0.0 if found is None else found.log10_e, deciding, p)


def weight_of_scores(evidence: ScoreEvidence) -> Weight:
    """Of scores: the e-process if it decides, else the mean of the tests' e-values."""
    if evidence.stopped:
        return Weight(evidence.looks[-1].log10_e if evidence.looks else 0.0, "e-process", evidence.log10_p)
    mean = float(mean_evalue([test.log10_e for test in evidence.tests]))
    return Weight(mean, "mean e-value", evidence.log10_p, most(evidence.log10_p))


def from_pvalue(log10_p: float) -> Weight:
    """A bare p-value as a weight: a cautious e-value, and the most that could be claimed."""
    return Weight(calibrated(min(0.0, log10_p)), "calibrated", log10_p, most(log10_p))


def weighing(weight: Weight, *, what: str, mark: str, plan: Banner | None = None, keys: int = 1) -> Weighing:
    """The section, in words. what: is said to depend on the key ("these outputs"); mark: what the suspect met then.

    keys: how many were tested together; of more than one the propositions speak of all.
    """
    caveat = ""
    if plan is not None and plan.exploratory:
        caveat = "The run departed from its plan, or was exploratory: if terms were set after looking, E is too large."
    which, none = ("this key", "this key is one more random key")
    if keys > 1:
        which, none = f"one of these {keys} keys", "each of these keys is one more random key"
    hp = f"{what[0].upper()}{what[1:]} depend on {which}: the suspect was exposed, in whatever way, to {mark}."
    hd = f"They do not: to the suspect {none}."
    value = shown(weight.log10_e)
    return Weighing(
        hp,
        hd,
        value,
        weight.band,
        _sentence(weight),
        _ORIGINS[weight.origin],
        _limit(weight),
        caveat,
        [("below 2", f"{NO_SUPPORT} for either over the other", weight.band == NO_SUPPORT)]
        + [(span, words, words == weight.band) for span, (_, words) in zip(RANGES, BANDS, strict=True)],
    )


def shown(log10_e: float) -> str:
    """E for people; 0 is written as such."""
    return "0" if log10_e == -math.inf else evalue(log10_e)


def in_a_word(weight: Weight, plan: Banner | None = None) -> str:
    """For the first screen: the band, with E."""
    told = f"(E{NARROW}={NARROW}{shown(weight.log10_e)})"
    if weight.band == NO_SUPPORT:
        return f"In the words of the ENFSI scale: support for neither proposition {told}."
    unless = ", unless something was chosen after looking" if plan is not None and plan.exploratory else ""
    return f"In the words of the ENFSI scale: {weight.band} for dependence on our key {told}{unless}."


def _sentence(weight: Weight) -> str:
    if weight.band == NO_SUPPORT:
        return (
            "The findings do not support one proposition over the other. They do not support Hd either: exposure too "
            "weak for this test to see would look the same."
        )
    beyond = " Larger numbers would add nothing: what is then to be asked is not chance." if weight.log10_e >= 6 else ""
    return (
        f"The findings provide {weight.band} for Hp relative to Hd.{beyond} How the dependence came about, Hp leaves "
        "open: see the other explanations."
    )


def _limit(weight: Weight) -> str:
    if weight.limit is None:
        return ""
    return (
        f"By the p-value alone ({pvalue(weight.log10_p)}) no likelihood ratio above {shown(weight.limit)} can be "
        "claimed: an upper bound, 1/(−e p ln p) (Sellke, Bayarri and Berger 2001), given for comparison."
    )


def _over_keys(each: list[dict[str, Any]]) -> float:
    """log10 of the mean over the keys' e-values; a revoked key's is 0."""
    bets = [-math.inf if entry.get("revoked") else float(entry["log10_e"]) for entry in each]
    return float(mean_evalue(np.array(bets)))
