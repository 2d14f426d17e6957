"""Watching a suspect while it is asked: the e-process over its answers, so that asking can stop when it is content.

Valid at any time: each look adds only cells that were not bet on before. What it says when it stops is the evidence;
`detect(stopped=True)` lets it alone decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from watermark import prf
from watermark.assess import Bettor
from watermark.errors import SuspectUnusable
from watermark.observe.readings import Gathered, gather
from watermark.observe.rules import Rules
from watermark.observe.stages import Betting, Stage
from watermark.observe.text import VOTES
from watermark.schemes import canonical, summable

if TYPE_CHECKING:
    from watermark.embed.answers import Model
    from watermark.mark import Watermark
    from watermark.observe import Reading
    from watermark.outputs import Output
    from watermark.stats.laws import Alternative
    from watermark.tokenizer import Tokenizer

_ANSWERS = 16  # in one look, whatever the calls bring: a run that was stopped and goes on looks at the same places


class Watch:
    """Called with new answers, says whether the e-process has reached 1/alpha.

    logprobs: read the log-probabilities that come with the answers. reference: a model to subtract (then text alone
    is read as observed minus expected). log10_e: the e-process now.
    """

    def __init__(
        self,
        mark: Watermark,
        tokenizer: Tokenizer,
        *,
        alpha: float,
        logprobs: bool = False,
        reference: Model | None = None,
        alternative: Alternative = "greater",
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
        mark.check_tokenizer(tokenizer)
        if (logprobs or reference is not None) and not summable(mark.scheme):
            raise SuspectUnusable(
                f"marks of {mark.scheme.name} are read from text alone: its keyed function takes different windows for "
                "one, so that weights of single cells would not be independent",
                hint="leave out logprobs and reference",
            )
        self._mark, self._tokenizer, self._reference = mark, tokenizer, reference
        self._alternative, self._enough = alternative, -math.log10(alpha)
        self._logprobs, self._weighted = logprobs, logprobs or reference is not None
        self._rules = Rules(mark, tokenizer, first=self._weighted)
        self._gathered, self._betting = Gathered(), Betting()
        self._bettor: Bettor | None = None
        self._waiting: list[Output] = []
        self._tokens = 0
        self.log10_e = 0.0

    def __call__(self, answers: Iterable[Output]) -> bool:
        """Takes new answers; True once the e-process has reached 1/alpha."""
        self._waiting += answers
        while len(self._waiting) >= _ANSWERS and self.log10_e < self._enough:
            some, self._waiting = self._waiting[:_ANSWERS], self._waiting[_ANSWERS:]
            self._look(some)
        return self.log10_e >= self._enough

    def _look(self, answers: list[Output]) -> None:
        stage = self._read(answers) if self._weighted else self._voted(answers)
        if not len(stage) and not stage.looks:
            return
        if self._bettor is None:
            self._bettor = Bettor(self._mark, self._mark.scheme.null, tuple(stage.weights), self._alternative)
        self.log10_e = self._bettor.bet(stage)

    def _read(self, answers: list[Output]) -> Stage:
        gather(self._readings(answers), self._rules, self._gathered)
        read = self._gathered.finish(self._rules)
        return self._betting.stage(read.rows, reached=read.tokens.cumsum())

    def _readings(self, answers: list[Output]) -> Iterable[Reading]:
        from watermark.probe.reading import read_logprobs, read_texts

        reader = read_logprobs if self._logprobs else read_texts
        return reader(answers, self._mark, self._tokenizer, reference=self._reference)

    def _voted(self, answers: list[Output]) -> Stage:
        """One vote for each cell that no earlier answer held."""
        ids = self._rules.tokenized([(o.token_ids, o.text) for o in answers])
        prompts = self._rules.tokenized([(o.prompt_token_ids, o.prompt) for o in answers])
        self._rules.check_width(ids)
        self._tokens += sum(len(row) for row in ids)
        found = self._rules.scorable(ids, prompts, self._rules.prompt_texts(answers))
        names = prf.cell_ids(*canonical(self._mark.scheme, found.windows, found.choices))
        _, first = np.unique(names, return_index=True)
        new = first[~np.isin(names[first], self._betting.bet)]
        self._betting.bet = np.concatenate([self._betting.bet, names[new]])
        votes = {VOTES: np.ones(len(new), dtype=np.int32)}
        return Stage(len(answers), self._tokens, found.windows[new], found.choices[new], votes)
