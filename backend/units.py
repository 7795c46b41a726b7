"""Numbers as a person reads them: two significant digits, in the unit that fits. The same text in every language.

What is not known is a dash, never 0.
"""

from __future__ import annotations

from decimal import Decimal

UNKNOWN = "–"
GIB = 2**30
"""What makers of graphics cards and of memory call a GB."""


def digits(value: float) -> str:
    """Two significant digits, without an exponent or trailing zeros: 47.8 → 48, 119.7 → 120, 0.0504 → 0.05."""
    return format(Decimal(f"{value:.1e}").normalize() + 0, "f")


def seconds(value: float | None) -> str:
    """A time: 0.2 s, 47 s, 1 min 40 s, 12 min, 2 h."""
    if value is None:
        return UNKNOWN
    if value < 0.0995:
        return f"{digits(value * 1000)} ms"
    if value < 99.5:
        return f"{digits(value)} s"
    if value < 595:
        return _pair(round(value / 10) * 10, 60, "min", "s")
    if value < 3570:
        return f"{round(value / 60)} min"
    return _pair(round(value / 600) * 10, 60, "h", "min")


def _pair(count: int, base: int, large: str, small: str) -> str:
    whole, rest = divmod(count, base)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def size(count: float | None) -> str:
    """Bytes in decimal units, as in the published tables."""
    if count is None:
        return UNKNOWN
    rounded = float(f"{count:.1e}")
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if rounded >= unit:
            return f"{digits(rounded / unit)} {name}"
    return f"{digits(rounded)} B"


def card_size(count: float) -> str:
    """Bytes of a card's memory, in the GB that cards are sold by."""
    return f"{digits(count / GIB)} GB"


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{digits(value)} %"
