"""The value of a written number: digits with separators, and Chinese numerals."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_DIGIT = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "廿": 20, "卅": 30}
_PLACE = {"十": 10, "百": 100, "千": 1000}
_BIG = {"万": 10_000, "亿": 100_000_000}
HAN_NUMERAL = re.compile(r"[零〇一二两三四五六七八九十百千万亿廿卅]+")


def chinese_value(numeral: str) -> int:
    """Return the value of a Chinese numeral; one without places ("二零二四") is read digit by digit."""
    if not any(c in _PLACE or c in _BIG or c in "廿卅" for c in numeral):
        return int("".join(str(_DIGIT[c]) for c in numeral))
    total = section = digit = 0
    last = 10**12
    for character in numeral:
        if character in _BIG:
            # 万亿 multiplies what stands before it; the 万 in 一亿两千万 only what has come since.
            if _BIG[character] > last:
                total = (total + section + digit) * _BIG[character]
            else:
                total += (section + digit or 1) * _BIG[character]
            last = _BIG[character]
            section = digit = 0
        elif character in _PLACE:
            section += (digit or 1) * _PLACE[character]
            digit = 0
        elif character in "廿卅":
            section += _DIGIT[character]
        else:
            digit = _DIGIT[character]
    return total + section + digit


def value_of(digits: str) -> Decimal:
    """Return the number: a comma before three digits separates thousands, any other is a decimal one."""
    if re.fullmatch(r"\d+(?:,\d{3})+(?:\.\d+)?", digits):
        return Decimal(digits.replace(",", ""))
    try:
        return Decimal(digits.replace(",", "."))
    except InvalidOperation:
        return Decimal(0)


def written(value: Decimal) -> str:
    """Return the one way in which a value is written."""
    return format(value.normalize(), "f") if value else "0"
