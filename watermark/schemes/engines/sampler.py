"""What engines share that sample under a key, and bias no logits: their tokens are scored, never produced here."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from watermark.errors import EmbeddingRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

Made = TypeVar("Made")


class Sampler:
    """The part of the contract that a sampler cannot keep: there is no bias that could be added to logits."""

    name: ClassVar[str]
    recipe: ClassVar[str]

    def tilt(self, logits: Made, contexts: Any, key: Any) -> Made:
        """Raises EmbeddingRefused."""
        raise EmbeddingRefused(
            f"{self.recipe} is an engine's own way to sample, not a bias on logits; it is scored here, not produced",
            hint="let the engine make the mark, or choose the scheme `greenlist`",
        )


def first_level(gamma: float, *, offset: Fraction, scale: int) -> int:
    """The smallest whole number w with (w + offset) / scale >= 1 - gamma, in exact arithmetic."""
    return max(0, math.ceil((1 - Fraction(gamma)) * scale - offset))


def check_window(window: object, largest: int) -> None:
    """Raises ValueError unless `window` is a whole number from 1 to `largest`."""
    if type(window) is not int or not 1 <= window <= largest:
        raise ValueError(f"window must be a whole number from 1 to {largest}, found {window!r}")


def check_gamma(gamma: object) -> None:
    """Raises ValueError unless `gamma` lies between 0.001 and 0.999."""
    if not isinstance(gamma, float) or not 0.001 <= gamma <= 0.999:
        raise ValueError(f"gamma must lie between 0.001 and 0.999, found {gamma!r}")


def most(ones: NDArray[Any], first: NDArray[Any], depth: int) -> NDArray[np.int64]:
    """1 where more than half of a cell's `depth` bits are ones; a tie goes to the bit of the first layer.

    An odd function of the bits about one half: where two layers of a key should agree by chance, on every cell, the
    number of ones spreads more and its mean stays, and so does the share of such cells.
    """
    found: NDArray[np.int64] = (2 * ones + first > depth).astype(np.int64)
    return found


def share_of_most(depth: int, p: float) -> float:
    """The probability that `most` says 1 of `depth` independent bits that are ones with probability p.

    Of the ties, exactly half have a one in the first layer.
    """
    terms = [math.comb(depth, k) * p**k * (1 - p) ** (depth - k) for k in range(depth + 1)]
    return math.fsum(terms[depth // 2 + 1 :]) + (0.0 if depth % 2 else terms[depth // 2] / 2)


def check_depth(depth: object, deepest: int) -> None:
    """Raises ValueError unless `depth` is a whole number from 1 to `deepest`."""
    if type(depth) is not int or not 1 <= depth <= deepest:
        raise ValueError(f"depth must be a whole number from 1 to {deepest}, found {depth!r}")
