"""The law of a cosine with a secret direction: a uniform unit vector u in R^D against any fixed a.

If u is uniform on the sphere and independent of a, then cos(a, u)^2 ~ Beta(1/2, (D-1)/2) with a random sign, whatever a
is (Sablayrolles et al. 2020, arXiv 2002.00937, section 3.2; Muirhead 1982, theorem 1.5.7). That is the one null of all
tests of scores. Nothing here is an approximation.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from watermark.stats.laws import Alternative

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_LOG10 = math.log(10)
_DEEP = 1e-250  # below this the incomplete beta function is about to underflow
_KAPPAS = 7  # concentrations in the mixture, from one standard deviation on, each twice the last


def log10_pvalue(cosine: float, dimensions: int, *, alternative: Alternative = "greater") -> float:
    """log10 P(cos(a, u) >= cosine) for u uniform on the sphere of R^D.

    "less" takes the other side, "two-sided" both: P(|cos| >= |cosine|). Raises ValueError for fewer than two
    dimensions or a cosine outside [-1, 1].
    """
    c = _checked(cosine, dimensions)
    if alternative == "two-sided":
        return min(0.0, _upper(abs(c), dimensions) + math.log10(2))
    return _upper(-c if alternative == "less" else c, dimensions)


def log10_evalue(cosines: ArrayLike, dimensions: int, *, alternative: Alternative = "greater") -> NDArray[np.float64]:
    """log10 of e-values for cosines (...,) with a uniform direction in R^D; elementwise.

    A mixture of likelihood ratios of von Mises-Fisher laws around a against the uniform one:
    exp(kappa c) / M_D(kappa), whose mean over u is 1 by the definition of M_D (Mardia and Jupp 2000, equation 9.3.4),
    over a fixed grid of kappa; both signs for "two-sided", each with half the weight.
    """
    c = np.asarray(cosines, dtype=np.float64)
    if dimensions < 2:
        raise ValueError(f"a direction needs at least 2 dimensions, found {dimensions}")
    kappas = math.sqrt(dimensions) * 2.0 ** np.arange(_KAPPAS)
    norms = np.array([_log_mean(kappa, dimensions) for kappa in kappas])
    signs = {"greater": (1.0,), "less": (-1.0,), "two-sided": (1.0, -1.0)}[alternative]
    terms = np.stack([sign * c[..., None] * kappas - norms for sign in signs], axis=-1)
    flat = terms.reshape(*c.shape, -1)
    top = flat.max(axis=-1, keepdims=True)
    found = top[..., 0] + np.log(np.exp(flat - top).mean(axis=-1))
    return np.asarray(found / _LOG10, dtype=np.float64)


class DirectionProcess:
    """An e-process over batches: the evidence after each, valid whenever one stops.

    Each batch's vector is cut down to what is orthogonal to all batches before it. Given its cosines with those, u's
    part in what remains is again uniform there, so every cosine has its exact law and the product of e-values is a
    test martingale under the null. dimensions: of u, before any batch. bets: (cosine, dimensions left) of each.
    """

    def __init__(self, dimensions: int, *, alternative: Alternative = "greater") -> None:
        if dimensions < 2:
            raise ValueError(f"a direction needs at least 2 dimensions, found {dimensions}")
        self.dimensions, self.alternative = dimensions, alternative
        self.log10_e, self.history = 0.0, list[float]()
        self.bets = list[tuple[float, int]]()
        self._seen: list[NDArray[np.float64]] = []

    def update(self, vector: ArrayLike, direction: ArrayLike) -> float:
        """Bets on one batch. vector: (D,), what was read; direction: (D,), the key's. Returns log10 E after it.

        A batch that adds nothing new, or leaves fewer than two dimensions, leaves the evidence as it is.
        """
        a, u = np.asarray(vector, dtype=np.float64), np.asarray(direction, dtype=np.float64)
        length = np.linalg.norm(a)
        for _ in range(2):  # twice is enough (Kahan)
            for seen in self._seen:
                a = a - (seen @ a) * seen
        left = u.copy()
        for seen in self._seen:
            left = left - (seen @ left) * seen
        size, remaining = np.linalg.norm(a), self.dimensions - len(self._seen)
        if remaining >= 2 and length > 0 and size > 1e-9 * length:
            a = a / size
            cosine = float(a @ left / np.linalg.norm(left))
            self.bets.append((cosine, remaining))
            self.log10_e += float(log10_evalue(cosine, remaining, alternative=self.alternative))
            self._seen.append(a)
        self.history.append(self.log10_e)
        return self.log10_e


def effective_dimensions(covariance: ArrayLike) -> float:
    """(tr S)^2 / tr S^2: as many equal directions vary as evenly. covariance: (B, B)."""
    values = np.linalg.eigvalsh(np.asarray(covariance, dtype=np.float64))
    return float(values.sum() ** 2 / (values**2).sum())


def _checked(cosine: float, dimensions: int) -> float:
    if dimensions < 2:
        raise ValueError(f"a direction needs at least 2 dimensions, found {dimensions}")
    if not abs(cosine) <= 1 + 1e-9:
        raise ValueError(f"a cosine lies between -1 and 1, found {cosine}")
    return min(1.0, max(-1.0, float(cosine)))


def _upper(c: float, dimensions: int) -> float:
    """log10 P(cos >= c)."""
    from scipy.special import betainc, betaln, hyp2f1

    a, x = (dimensions - 1) / 2, max(1 - c * c, 2.0**-52)  # no cosine is known more closely than that
    half = 0.5 * float(betainc(a, 0.5, x))  # P(cos >= |c|)
    if c < 0:
        return float(np.log1p(-half) / _LOG10)
    if half > _DEEP:
        return math.log10(half)
    # DLMF 8.17.8: I_x(a, b) = x^a (1-x)^b / (a B(a, b)) F(a + b, 1; a + 1; x)
    tail = a * math.log(x) + 0.5 * math.log(c * c) - math.log(a) - float(betaln(a, 0.5))
    return (tail + math.log(float(hyp2f1(a + 0.5, 1.0, a + 1.0, x))) + math.log(0.5)) / _LOG10


@lru_cache(maxsize=4096)
def _log_mean(kappa: float, dimensions: int) -> float:
    """log M_D(kappa), the mean of exp(kappa cos) over the sphere: 0F1(; D/2; kappa^2/4), summed in logarithms."""
    from scipy.special import gammaln, logsumexp

    terms = np.arange(int(2 * kappa) + 200)
    logs = 2 * terms * math.log(kappa / 2) - gammaln(terms + 1) - gammaln(terms + dimensions / 2)
    return float(logsumexp(logs) + gammaln(dimensions / 2))
