"""Watching a scoring suspect while it is asked, so that asking can stop when the e-process is content.

Looks fall after fixed numbers of distinct answers, in the order of the inputs, so that `detect_scores(stopped=True)`
of the answers up to the last look makes the same looks and finds the same e-value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from watermark.errors import OutputsInvalid, SuspectUnusable, TooFewObservations
from watermark.scores import keyed
from watermark.scoring.answers import suspect_answers
from watermark.scoring.case import look_points, read_case
from watermark.scoring.detect import zero_sum_frame
from watermark.stats.sphere import DirectionProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores.table import Table
    from watermark.scoring.mark import ScoreWatermark
    from watermark.stats.laws import Alternative


class ScoreWatch:
    """Called with the answers so far, says how many are enough, or None. inputs, clean: the owner's, row by row.

    surrogates: predictions (n, S, channels) that the test will take away too. log10_e: the e-process now; looks:
    distinct answers at each look so far. Raises OutputsInvalid for a level that is none, or rows that do not match.
    """

    def __init__(
        self,
        mark: ScoreWatermark,
        inputs: Table,
        clean: NDArray[np.float64],
        *,
        alpha: float,
        surrogates: NDArray[np.float64] | None = None,
        labels: tuple[str, ...] = (),
        alternative: Alternative = "greater",
    ) -> None:
        if not 0 < alpha < 1:
            raise OutputsInvalid(f"the level must lie between 0 and 1, found {alpha}")
        if len(clean) != len(inputs):
            raise OutputsInvalid(f"{len(clean)} clean answers for {len(inputs)} inputs; there should be one for each")
        self._mark, self._inputs, self._clean, self._labels = mark, inputs, clean, labels
        self._surrogates = surrogates
        self._enough = -math.log10(alpha)
        self._first = np.zeros(len(inputs), dtype=bool)
        self._first[keyed.distinct(mark.basis.coordinates(inputs))] = True
        self._points = look_points(len(inputs) * 2, mark.basis.size)[:-1]
        self._process = DirectionProcess(mark.dimensions, alternative=alternative)
        self._direction = mark.scheme.matrix(mark.key, mark.basis.size, part=mark.part)
        width = mark.scheme.width
        self._frame = zero_sum_frame(width) if mark.scheme.zero_sum else np.eye(width)
        self.looks: list[int] = []

    @property
    def log10_e(self) -> float:
        return self._process.log10_e

    def __call__(self, answers: Table) -> int | None:
        """answers: of the first rows of the inputs, in order. Looks as often as there are answers for."""
        said = suspect_answers(answers, self._mark.scheme, labels=self._labels)
        useful = np.cumsum(self._first[: len(answers)] & said.answered)
        while len(self.looks) < len(self._points) and len(useful) and useful[-1] >= self._points[len(self.looks)]:
            point = self._points[len(self.looks)]
            rows = int(np.searchsorted(useful, point)) + 1
            self._look(answers, rows)
            self.looks.append(point)
            if self.log10_e >= self._enough:
                return rows
        return None

    def _look(self, answers: Table, rows: int) -> None:
        some = slice(rows)
        found = read_case(
            self._mark.scheme,
            self._mark.basis,
            self._inputs.rows(some),
            answers.rows(some),
            self._clean[some],
            surrogates=None if self._surrogates is None else self._surrogates[some],
            labels=self._labels,
        )
        try:
            read = found.residual
        except (SuspectUnusable, TooFewObservations):
            return  # nothing yet that could depend on a key, or too little; a test says so if it stays like that
        vector, direction = read.coefficients @ self._frame, self._direction @ self._frame
        self._process.update(vector.ravel(), direction.ravel())
