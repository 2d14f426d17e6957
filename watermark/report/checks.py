"""What every part of `verify` shares: a check that held, and when two numbers are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from watermark.errors import ReportInvalid

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Check:
    """One thing that was recomputed and held."""

    name: str
    detail: str


def require(name: str, stated: Any, computed: Any) -> None:
    """Raises ReportInvalid, naming both values, unless they are close."""
    if not close(stated, computed):
        raise ReportInvalid(f"{name} is stated as {stated}, recomputed it is {computed}")


def close(stated: Any, computed: Any) -> bool:
    """Equal, numbers to a relative 1e-6: other machines' libraries differ in the last digits."""
    if isinstance(computed, bool) or isinstance(stated, bool) or computed is None or stated is None:
        return stated is computed
    if isinstance(computed, (int, float)) and isinstance(stated, (int, float)):
        return math.isclose(stated, computed, rel_tol=TOLERANCE, abs_tol=1e-9)
    if isinstance(computed, (list, tuple)) and isinstance(stated, (list, tuple)):
        return len(stated) == len(computed) and all(map(close, stated, computed))
    if isinstance(computed, dict) and isinstance(stated, dict):
        return stated.keys() == computed.keys() and all(close(stated[k], computed[k]) for k in computed)
    return bool(stated == computed)
