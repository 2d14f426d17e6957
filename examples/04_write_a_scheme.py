"""A scheme is one file with three members; the contract says whether they agree."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watermark import check_scheme, prf
from watermark.stats.laws import Bernoulli


@dataclass(frozen=True)
class PushPull:
    """Half of the vocabulary gains, the other half loses, by the last token alone."""

    name: ClassVar[str] = "pushpull"
    version: ClassVar[int] = 1
    null: ClassVar[Bernoulli] = Bernoulli(0.5)
    window: int = 1

    def tilt(self, logits, contexts, key):
        ids = np.arange(logits.shape[-1])
        green = np.stack([self.score(np.repeat(c[None], len(ids), 0), ids, key) for c in np.asarray(contexts)])
        return logits + (2 * green - 1 if isinstance(logits, np.ndarray) else logits.new_tensor(2 * green - 1))

    def score(self, contexts, choices, key):
        return (prf.uniforms(contexts, choices, prf.key_words(key.derive("pushpull/1"))) < 2**31).astype(np.int8)


check_scheme(PushPull())
