"""What a rule hands back, and the text that the rules see."""

from __future__ import annotations

from typing import NamedTuple

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0xA0: " ",
    0x2010: "-",
    0x2011: "-",
    0x2013: "-",
    0x2212: "-",
    0x2019: "'",
}


class Found(NamedTuple):
    """An entity's kind, value and place."""

    kind: str
    value: str
    start: int
    end: int


def fold(text: str) -> str:
    """Return the text with one width of digits, letters and signs. Its length does not change."""
    return text if text.isascii() else text.translate(_WIDE)
