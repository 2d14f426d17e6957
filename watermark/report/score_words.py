"""What a score page says in plain words: asked, found, how sure, and what it does not show.

The words are chosen for a reader in court: exposure, never more; each claim stands beside its limits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from watermark.report.numbers import NARROW, evalue, odds, percent, pvalue, signed, two_digits
from watermark.report.planned import Banner, banner
from watermark.report.reasons import counted
from watermark.report.score_explanations import score_explanations
from watermark.report.weight import in_a_word, weight_of_scores
from watermark.report.weighted import beaten
from watermark.report.words import Summary
from watermark.scoring.detect import INCONCLUSIVE_SHARE, SCORE_POWER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.scoring.evidence import ScoreEvidence

PART_NAMES = {
    "deployment": "the deployment's direction",
    "account": "the account's own direction",
    "input": "the numbers of single inputs",
}
_MOST_ANSWERS = 10**8

LIMITS = (
    "The result speaks of descent from answers that carry this mark. It does not show who acted, or with what "
    "intent; contracts, dates and logs can.",
    "A dependence on the key can come about in several ways (“Other explanations”). This test cannot tell these apart.",
    "The p-value is how often chance alone would do at least as well. It is not the probability that the suspect is "
    "innocent, nor one minus the probability that it is not.",
    "The p-value needs a key, a basis and inputs that were fixed without looking at the suspect's answers. Key, "
    "basis, inputs and our own answers are named by digest below; that the digests are older than the answers is "
    "evidence from outside this page.",
    "The basis is public, the key is not. Whoever has the key can move any answers along it: once the key has "
    "leaked, a finding says nothing of where it came from.",
    "Below 10⁻¹² other explanations, such as a leaked key or a mix-up of files, are likelier than chance; smaller "
    "numbers add nothing to the case.",
    "Alpha is to be chosen before looking. Whoever tests many suspects, many keys or the same suspect again and "
    "again must correct for it, and say how often they looked.",
    "Absence of evidence is not evidence of absence. A suspect that learned from labels alone carries nothing of a "
    "mark that keeps the first class. Averaging over several teachers, or true labels mixed in, dilutes the mark "
    "until no test of this size can find it.",
    "The share carried measures how strongly the suspect's answers move along the mark. It is not the share of its "
    "training data that was ours.",
)
LOGGED = (
    "The inputs are logged ones, which an account was served. The test holds if the account chose them without "
    "regard to the marked part of earlier answers; where it may have, fresh inputs are to be tested."
)


def score_summary(evidence: ScoreEvidence) -> Summary:
    """The verdict in sentences that a reader without statistics can repeat correctly."""
    return Summary(
        headline=_headline(evidence),
        asked=_asked(evidence),
        found=_found(evidence),
        sure=f"{_sure(evidence)} {in_a_word(weight_of_scores(evidence), score_banner(evidence))}",
        power=_power(evidence),
        next_step=_next_step(evidence) if evidence.verdict == "inconclusive" else "",
        does_not_show=_does_not_show(evidence),
    )


def score_limits(evidence: ScoreEvidence) -> tuple[str, ...]:
    """All that the page does not show."""
    return (*LIMITS, LOGGED) if evidence.options.get("logged") is True else LIMITS


def score_banner(evidence: ScoreEvidence) -> Banner | None:
    """What must be read before the verdict: whether the run kept to its plan. None without one."""
    shown = banner(evidence)
    if shown is None or shown.exploratory:
        return shown
    what = "its key, basis, inputs, our own answers, level and stopping were fixed"
    return replace(shown, text=shown.text.replace("its statistics, texts, level and stopping were fixed", what))


def subject(evidence: ScoreEvidence) -> str:
    """What is said to depend on the key, or not to."""
    return {"labels": "these labels", "embeddings": "these embeddings"}.get(evidence.access, "these scores")


def per_channel(answer: Sequence[float]) -> Sequence[float]:
    """An answer without what its other half repeats: the second class of two, else all that is kept of it."""
    return answer[1:] if len(answer) == 2 and math.isclose(sum(answer), 1, abs_tol=1e-6) else answer


def share_of(value: float) -> str:
    """A share of the mark, which may be negative: "−6 %"."""
    return percent(value, 0).replace("-", "−")


def short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"


def _headline(evidence: ScoreEvidence) -> str:
    what, shown = subject(evidence), score_banner(evidence)
    if evidence.verdict == "evidence found" and shown is not None and shown.exploratory:
        return f"It suggests that {what} depend on our key; a run that keeps to its plan must confirm it."
    if evidence.verdict == "evidence found":
        return (
            f"{what[0].upper()}{what[1:]} depend on our key: the suspect was exposed, in some way, to marked answers."
        )
    if evidence.verdict == "no evidence found":
        return f"We found no evidence that {what} depend on our key."
    return f"This test is too weak to say whether {what} depend on our key."


def _asked(evidence: ScoreEvidence) -> str:
    return (
        f"Whether the suspect learned from answers that carry our secret mark. Its answers ({evidence.access}) to "
        f"{evidence.queries:,} inputs were read. Marked answers are moved a little in a direction that only our key "
        "knows; to a model that never met them it is one random direction like any other."
    )


def _found(evidence: ScoreEvidence) -> str:
    first = evidence.tests[0]
    chance = 1 / math.sqrt(first.dimensions)
    text = (
        f"From the suspect's {evidence.queries:,} answers everything that needs no key was taken away. What is left "
        f"has a cosine of {signed(first.cosine, 3)} with our key's secret direction, in {first.dimensions:,} "
        f"dimensions; chance gives 0 give or take {chance:.2g}. Put to the same answers, "
        f"{beaten(first.rank_pvalue, len(first.decoys))}."
    )
    for test in evidence.tests[1:]:
        text += (
            f" With the key's numbers of these single inputs it has a cosine of {signed(test.cosine, 3)} (chance: 0 "
            f"give or take {1 / math.sqrt(test.dimensions):.2g})."
        )
    if evidence.carried is not None:
        c = evidence.carried
        text += (
            f" The suspect carries {share_of(c.share)} of the mark (95{NARROW}% interval {share_of(c.low)} to "
            f"{share_of(c.high)})."
        )
    return text


def _sure(evidence: ScoreEvidence) -> str:
    reached = "goes beyond" if evidence.verdict == "evidence found" else "does not reach"
    level = odds(math.log10(evidence.alpha)).removeprefix("about ")
    equals = f"{NARROW}={NARROW}"
    text = (
        "If the suspect's answers had nothing to do with this key, a result at least this strong would occur "
        f"{odds(evidence.log10_p)} such tests (p{equals}{pvalue(evidence.log10_p)}). It {reached} the level set for "
        f"this test: {level} (alpha{equals}{evidence.alpha:g})."
    )
    if evidence.stopped:
        grown = evidence.looks[-1].log10_e
        text += (
            f" Answers were collected until an e-process was content; it alone decides: E{equals}{evalue(grown)}, p = "
            "1/E."
        )
    if evidence.log10_p < -12:
        text += (
            " At such odds chance is no explanation; whether the key leaked, or files were mixed up, is to be asked."
        )
    return text


def _power(evidence: ScoreEvidence) -> str:
    if evidence.carried is None:
        return f"How weak a trace this test would have found is not measured for {evidence.access}."
    reach = evidence.carried.detectable
    found = f"would have been found with probability {percent(SCORE_POWER, 0)} (normal approximation)"
    if reach > 1:
        return f"Even a suspect that carries all of the mark could have been missed: {share_of(reach)} of it {found}."
    return f"A suspect that carries {share_of(reach)} of the mark {found}; a weaker trace could have been missed."


def _next_step(evidence: ScoreEvidence) -> str:
    if evidence.carried is None and evidence.access == "labels":
        return "Ask the suspect for scores, if it gives them: a label says far less than a probability does."
    if evidence.carried is None:
        return "Ask the suspect for more inputs, and test all of them once."
    wanted = evidence.queries * (evidence.carried.detectable / INCONCLUSIVE_SHARE) ** 2
    again = "Then test the whole collection once. Adding answers until the result pleases would make the p-value wrong."
    if evidence.stopped:
        again = "The e-process goes on where it stands."
    return (
        f"Ask the suspect for more inputs: about {two_digits(min(wanted, _MOST_ANSWERS)):,} in all would let a share "
        f"of {percent(INCONCLUSIVE_SHARE, 0)} be found with probability {percent(SCORE_POWER, 0)}, as far as what is "
        f"found grows with the square root of their number; surrogates trained on our own answers help too. {again}"
    )


def _does_not_show(evidence: ScoreEvidence) -> tuple[str, ...]:
    innocent = "The p-value is not the probability that the suspect is innocent."
    committed = "All of this rests on a key, a basis and inputs that were fixed before the suspect was asked."
    ways = score_explanations(evidence)
    if evidence.verdict == "evidence found":
        return (
            "It shows exposure to marked answers. It does not show who acted, or with what intent.",
            "It does not show in which way: our service asked at test time, a third model in between, answers passed "
            f"on, a leaked key would look alike. Other explanations: {counted(ways)}.",
            innocent,
            committed,
        )
    return (
        "It does not show that the suspect was never exposed: a trace too weak for this test may be there.",
        f"Reasons why a trace may have been missed: {counted(ways)}. It says nothing about other keys, other models "
        "or other versions of the suspect.",
        "Had evidence been found, it would show exposure; it does not show who acted, or with what intent.",
        innocent,
        committed,
    )
