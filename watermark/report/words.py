"""What the page says in plain words: asked, found, how sure, and what it does not show.

The words are chosen for a reader in court: exposure, never more; each claim stands beside its limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watermark.detect import lift_of, reach_of
from watermark.report import weighted
from watermark.report.explanations import explanations
from watermark.report.numbers import NARROW, odds, percent, pvalue, span, two_digits
from watermark.report.planned import aimed, banner
from watermark.report.reasons import counted
from watermark.report.terms import GREEN, places_of, terms
from watermark.report.weight import in_a_word, weight_of

if TYPE_CHECKING:
    from watermark.evidence import Evidence

_MOST_CELLS = 10**9

_WAYS = (
    "our answers published on the web, a third model in between, planted text, a leaked key, text looked up or in "
    "the prompt"
)
LIMITS = (
    "The result speaks of exposure to text that carries this mark. It does not show who acted, or with what intent.",
    "A dependence on the key can come about in other ways than training on our answers (“Other explanations”). This "
    "test cannot tell these apart; dates, contracts and logs can.",
    "The p-value is how often chance alone would do at least as well. It is not the probability that the suspect is "
    "innocent, nor one minus the probability that it is not.",
    "The p-value needs a key that was fixed, and committed to in public, before the suspect's training data were "
    "gathered, and that had no part in choosing the prompts. The commitment's date is evidence from outside this "
    "page.",
    "Alpha is to be chosen before looking. Whoever tests many suspects, many keys or the same suspect again and "
    "again must correct for it, and say how often they looked.",
    GREEN.limit,
    "Absence of evidence is not evidence of absence: rewriting, filtering or heavy mixing with other text weakens "
    "the mark until no test of this size can find it.",
)

SKIPPED_BECAUSE = {
    "no full window before it": "the key looks at the tokens before; the first tokens of an answer lack them",
    "special token": "control tokens are placed by software, not chosen by a model",
    "window earlier in the same answer": "what followed it there may have been copied from the text",
    "window in the prompt": "the text may have been copied from the question",
    "cell counted before": "each cell votes once; repetition is not evidence",
    "window of another key": "a keyed bit sends this window to an account's key, or from it",
    "window that no key changes": "the engine marks it alike under every key",
    "window not in the ledger": "only windows that were served in marked answers are scored",
}


@dataclass(frozen=True)
class Summary:
    """The first screen. `next_step` is empty unless something should be done."""

    headline: str
    asked: str
    found: str
    sure: str
    power: str
    next_step: str
    does_not_show: tuple[str, ...]


def summary(evidence: Evidence) -> Summary:
    """The verdict in sentences that a reader without statistics can repeat correctly."""
    votes = weighted.decided_by(evidence) == "votes"
    sure = _sure(evidence) if votes else weighted.sure(evidence)
    return Summary(
        headline=_headline(evidence),
        asked=_asked(evidence),
        found=_found(evidence) if votes else weighted.found(evidence),
        sure=f"{sure} {in_a_word(weight_of(evidence), banner(evidence))}",
        power=_power(evidence) + aimed(evidence) if evidence.weighted is None else weighted.power(evidence),
        next_step=_next_step(evidence) if evidence.verdict == "inconclusive" else "",
        does_not_show=_does_not_show(evidence),
    )


def above(evidence: Evidence) -> str:
    """ "none of the 999 decoy keys did as well" and its kin, of votes."""
    return weighted.beaten(evidence.decoys.rank_pvalue, len(evidence.decoys.totals))


def limits(evidence: Evidence) -> tuple[str, ...]:
    """All that the page does not show."""
    said = tuple(terms(evidence).limit if limit == GREEN.limit else limit for limit in LIMITS)
    return said if weighted.decided_by(evidence) == "votes" else (*said, *weighted.LIMITS)


def notes(evidence: Evidence) -> list[str]:
    """The evidence's own notes, and what was read or not that a reader should know."""
    scored = terms(evidence).note.format(highest=evidence.law.highest)
    return [*evidence.notes, *([scored] if scored else []), *weighted.notes(evidence)]


def _headline(evidence: Evidence) -> str:
    subject = weighted.subject(evidence)
    shown = banner(evidence)
    if evidence.verdict == "evidence found" and shown is not None and shown.exploratory:
        return f"It suggests that {subject} depend on our key; a run that keeps to its plan must confirm it."
    if evidence.verdict == "evidence found":
        return (
            f"{subject[0].upper()}{subject[1:]} depend on our key: the suspect was exposed, in some way, to marked "
            "text."
        )
    if evidence.verdict == "no evidence found":
        return f"We found no evidence that {subject} depend on our key."
    return f"There is too little text to say whether {subject} depend on our key."


def _asked(evidence: Evidence) -> str:
    read = f"{evidence.documents_read:,} {weighted.texts(evidence)} ({evidence.tokens_read:,} tokens)"
    read = f"Its predictions over {read} were read" if evidence.access == "logits" else f"Its {read} were read"
    return (
        f"Whether the suspect was exposed to text that carries our secret mark. {read}. To a model that never met "
        "such text our key is one random key like any other."
    )


def _found(evidence: Evidence) -> str:
    places = places_of(evidence)
    rate, chance = percent(evidence.green_rate, places), percent(evidence.gamma, places)
    if evidence.levels is not None:
        return (
            f"Our key gives each token a score from 0 to {evidence.law.highest}, high where it favours the token. The "
            f"{evidence.cells:,} scored tokens reach {rate} of the highest score on average (95{NARROW}% interval "
            f"{span(evidence.green_rate_interval, places)}); chance gives {chance}. Put to the same text, "
            f"{above(evidence)}."
        )
    return (
        f"{rate} of the {evidence.cells:,} scored tokens are ones our key favours, called green (95{NARROW}% interval "
        f"{span(evidence.green_rate_interval, places)}); chance gives {chance}. Put to the same text, "
        f"{above(evidence)}."
    )


def _sure(evidence: Evidence) -> str:
    reached = "goes beyond" if evidence.verdict == "evidence found" else "does not reach"
    level = odds(math.log10(evidence.alpha)).removeprefix("about ")
    equals = f"{NARROW}={NARROW}"
    return (
        "If the suspect had never met answers marked with this key, a result at least this strong would occur "
        f"{odds(evidence.log10_p)} such tests (p{equals}{pvalue(evidence.log10_p)}). It {reached} the level set for "
        f"this test: {level} (alpha{equals}{evidence.alpha:g})."
    )


def _power(evidence: Evidence) -> str:
    if evidence.detectable_rate is None:
        return f"With this little text, even a {terms(evidence).rate} of 100 % would not have been found."
    places = places_of(evidence)
    one_sided = "" if evidence.alternative == "greater" else " (computed for the upper-tail test at the same level)"
    return (
        f"A {terms(evidence).rate} above {percent(evidence.detectable_rate, places)} would have been found with "
        f"probability {percent(evidence.power, 0)}{one_sided}; a weaker trace could have been missed."
    )


def _next_step(evidence: Evidence) -> str:
    needed = cells_needed(evidence)
    tokens = two_digits(needed * evidence.tokens_read / evidence.cells)
    rate, power = percent(evidence.gamma + lift_of(evidence.law)), percent(evidence.power, 0)
    begun = "Read the suspect over more text" if evidence.access == "logits" else "Collect more of the suspect's text"
    text = (
        f"{begun}: about {two_digits(needed):,} scored tokens in all (some {tokens:,} tokens of "
        f"{weighted.texts(evidence)}, {evidence.tokens_read:,} were read) let a {terms(evidence).rate} of {rate} be "
        f"found with probability {power}. "
    )
    if weighted.decided_by(evidence) == "e-process":
        return text + "The e-process goes on where it stands: that one looked before does it no harm."
    return text + (
        "Then test the whole collection once. Adding text until the result pleases would make the p-value wrong."
    )


def cells_needed(evidence: Evidence) -> int:
    """The fewest cells, to about one in sixteen, that would have made the test conclusive either way."""
    cells = evidence.cells
    while cells < _MOST_CELLS and not _conclusive(evidence, cells):
        cells += 1 + cells // 16
    return cells


def _conclusive(evidence: Evidence, cells: int) -> bool:
    reach = reach_of(evidence.law, cells, evidence.level)
    return reach is not None and reach <= evidence.gamma + lift_of(evidence.law)


def _does_not_show(evidence: Evidence) -> tuple[str, ...]:
    innocent = "The p-value is not the probability that the suspect is innocent."
    committed = "All of this rests on a key that was committed to before these outputs existed."
    ways = explanations(evidence)
    if evidence.verdict == "evidence found":
        much = "" if evidence.dose is not None else ", nor how much was used"
        return (
            f"It shows exposure to marked text. It does not show who acted, or with what intent{much}.",
            f"It does not show in which way: {_WAYS} would look alike. Of {len(ways)} other explanations: "
            f"{counted(ways)}.",
            innocent,
            committed,
        )
    return (
        "It does not show that the suspect was never exposed: a trace too weak for this test may be there.",
        f"Reasons why a trace may have been missed: {counted(ways)}. It says nothing about other models or other "
        "versions of the suspect.",
        "Had evidence been found, it would show exposure; it does not show who acted, or with what intent.",
        innocent,
        committed,
    )
