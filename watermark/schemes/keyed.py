"""What schemes over the keyed function share on the way back: a cell scores what its uniform says, under a subkey.

A scheme adds `_counting`, what a uniform scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from watermark import prf

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key


class Keyed:
    """Scores and totals of a scheme. Its subkeys are drawn under its name and version."""

    name: ClassVar[str]
    version: ClassVar[int]

    window: int

    @property
    def _counting(self) -> prf.Counting:
        """What a uniform scores."""
        raise NotImplementedError

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[Any]:
        """The score of each cell (n, h), (n,): whole numbers from 0. Returns (n,)."""
        windows = np.asarray(contexts).astype(np.uint32, copy=False)
        drawn = prf.uniforms(windows, np.asarray(choices).astype(np.uint32, copy=False), self._words(key))
        return self._counting.scores(drawn)

    def totals(
        self, windows: NDArray[np.uint32], choices: NDArray[np.uint32], weights: NDArray[np.int32], keys: Sequence[Key]
    ) -> NDArray[np.int64]:
        """Weighted scores of S statistics under m keys: (n, h), (n,), (S, n) give (m, S). See `Watermark.totals`."""
        words = prf.words_of_keys(key.derive(self._label) for key in keys)
        return prf.totals(windows, choices, weights, words, self._counting)

    @property
    def _label(self) -> str:
        return f"{self.name}/{self.version}"

    def _words(self, key: Key) -> NDArray[np.uint32]:
        return _words(self._label, key)


@lru_cache(maxsize=4096)
def _words(label: str, key: Key) -> NDArray[np.uint32]:
    """The words (8,) of a key under a label; kept, since drawing them takes as long as a tilt of one row."""
    return prf.key_words(key.derive(label))
