"""How numbers are written for people: percentages, powers of ten, and a p-value as odds.

Superscripts are Unicode, not markup: copied out of the page, 10⁻⁹³ must not become 10-93.
"""

from __future__ import annotations

import math

NARROW = "\u00a0"  # a space that does not break: "30.4 %" stays on one line
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(gamma: float, cells: int) -> int:
    """How many decimals of a percentage are worth printing: one standard error shows in the last."""
    error = 100 * math.sqrt(gamma * (1 - gamma) / cells)
    return max(1, min(4, math.ceil(-math.log10(error))))


def percent(rate: float, places: int = 1) -> str:
    """0.3043 -> "30.4 %"."""
    return f"{100 * rate:.{places}f}{NARROW}%"


def span(interval: tuple[float, float], places: int = 1) -> str:
    """(0.2988, 0.3097) -> "29.9 % to 31.0 %"."""
    return f"{percent(interval[0], places)} to {percent(interval[1], places)}"


def pvalue(log10_p: float) -> str:
    """ "0.28", "0.0012", and below 0.0001 "8.3 × 10⁻⁹⁴"."""
    return f"{10**log10_p:.2g}" if log10_p > -4 else scientific(log10_p)


def pvalue_of(p: float) -> str:
    """A p-value that is a plain number, such as a rank among decoys."""
    return pvalue(math.log10(p))


def scientific(log10: float) -> str:
    """10^-93.08 -> "8.3 × 10⁻⁹⁴"; a mantissa that rounds to ten moves into the exponent."""
    exponent = math.floor(log10)
    mantissa = round(10 ** (log10 - exponent), 1)
    if mantissa >= 10:
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f}{NARROW}×{NARROW}10{str(exponent).translate(_RAISED)}"


def odds(log10_p: float) -> str:
    """A p-value in words: "about 28 times in 100", "about once in 1,600", "about once in 1.2 × 10⁹³"."""
    if log10_p > -2:
        times = round(100 * 10**log10_p)
        return "about 1 time in 100" if times == 1 else f"about {times} times in 100"
    if log10_p > -6:
        return f"about once in {two_digits(10**-log10_p):,}"
    return f"about once in {scientific(-log10_p)}"


def signed(number: float, places: int) -> str:
    """-93.08 -> "−93.08", with a minus sign that does not break from its number."""
    return f"{number:.{places}f}".replace("-", "−")


def two_digits(count: float) -> int:
    """The count rounded to two significant digits."""
    return int(float(f"{count:.2g}"))


def evalue(log10_e: float) -> str:
    """An e-value: "0.14", "820", and beyond 10,000 or below 0.0001 as a power of ten."""
    if -4 < log10_e < 4:
        value = 10**log10_e
        return f"{two_digits(value):,}" if value >= 100 else f"{value:.2g}"
    return scientific(log10_e)
