"""Sizes and times as people write them, read into bytes and seconds and written back."""

from __future__ import annotations

import re
from decimal import Decimal
from math import isfinite
from typing import Final

SIZE_UNITS: Final = {
    "TB": 10**12,
    "TiB": 2**40,
    "GB": 10**9,
    "GiB": 2**30,
    "MB": 10**6,
    "MiB": 2**20,
    "KB": 10**3,
    "KiB": 2**10,
    "B": 1,
}
TIME_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}

LARGEST_SIZE_BYTES: Final = 2**63 - 1
"""What a file system or a database can count."""
LONGEST_DURATION_SECONDS: Final = 100 * 365 * 86_400
"""100 years: more is a mistake in the unit."""

_FOLDED_SIZE_UNITS = {unit.lower(): factor for unit, factor in SIZE_UNITS.items()}
_NUMBER = r"\d+(?:\.\d+)?"
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE | re.ASCII)
# Each unit at most once and the largest first, so that "1h30m" reads and a slip as "30m1h" does not.
_DURATION = re.compile(r"\s*".join(rf"(?:({_NUMBER})\s*{unit})?" for unit in TIME_UNITS), re.ASCII)
_PLAIN = re.compile(_NUMBER, re.ASCII)


def parse_size(value: int | str) -> int:
    """Return a size in bytes.

    Args:
        value: "2GB" (10^9 bytes), "512MiB" (2^20 bytes), "1.5 GB", or a whole number of bytes. Case does
            not matter; parts of a byte are dropped.

    Raises:
        ValueError: not a size, or more than `LARGEST_SIZE_BYTES`.
    """
    text = "" if isinstance(value, bool) or not isinstance(value, int | str) else str(value).strip()
    match = _SIZE.fullmatch(text)
    number, unit = match.groups() if match else ("", "")
    factor = _FOLDED_SIZE_UNITS.get(unit.lower() or "b")
    if not number or factor is None or (not unit and "." in number):
        raise ValueError(
            f"{value!r} is not a size: write a number and one of {', '.join(SIZE_UNITS)}, or whole bytes"
        )
    size_bytes = int(Decimal(number) * factor)
    if size_bytes > LARGEST_SIZE_BYTES:
        raise ValueError(f"{value!r} is more than any machine holds ({LARGEST_SIZE_BYTES} bytes)")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Return the shortest exact text that `parse_size` reads back: "2GB", "512MiB", "1234567B"."""
    for unit, factor in SIZE_UNITS.items():
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def parse_duration(value: float | str) -> float:
    """Return a time in seconds.

    Args:
        value: "48h", "1h30m", "2d 12h", "0.5s" (units d, h, m, s), or a plain number of seconds.

    Raises:
        ValueError: not a time, or more than `LONGEST_DURATION_SECONDS`.
    """
    text = value.strip() if isinstance(value, str) else _decimal_text(value)
    if _PLAIN.fullmatch(text):
        text += "s"
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{value!r} is not a time: write seconds, or d, h, m and s as in 48h or 1h30m")
    parts = zip(match.groups(), TIME_UNITS.values(), strict=True)
    seconds = float(sum((Decimal(number) * factor for number, factor in parts if number), Decimal(0)))
    if seconds > LONGEST_DURATION_SECONDS:
        raise ValueError(f"{value!r} is more than 100 years")
    return seconds


def format_duration(seconds: float) -> str:
    """Return an exact text that `parse_duration` reads back: "48h" is "2d", 5400 is "1h30m"."""
    rest = Decimal(_decimal_text(seconds))
    text = ""
    for unit, factor in TIME_UNITS.items():
        count, rest = divmod(rest, factor) if unit != "s" else (rest, Decimal(0))
        if count:
            text += f"{count.normalize():f}{unit}"
    return text or "0s"


def _decimal_text(number: float) -> str:
    """Return all the digits of a number and no exponent; what is no finite number becomes empty."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
        return ""
    return f"{Decimal(repr(number)):f}"
