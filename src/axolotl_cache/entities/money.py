"""Amounts of money."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from axolotl_cache.entities.found import Found
from axolotl_cache.language.numerals import HAN_NUMERAL, chinese_value, value_of, written

_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,4})?|\d{1,15}(?:[.,]\d{1,2})?)(?![\d,.]*\d)"
_SIGNS = {
    "$": "USD",
    "US$": "USD",
    "A$": "AUD",
    "C$": "CAD",
    "HK$": "HKD",
    "S$": "SGD",
    "€": "EUR",
    "£": "GBP",
} | {
    "¥": "CNY",
    "￥": "CNY",
    "RMB": "CNY",
    "₹": "INR",
    "₩": "KRW",
}
_CODES = "USD EUR GBP CNY RMB JPY HKD INR AUD CAD CHF SGD KRW TWD NZD SEK NOK DKK PLN BRL MXN AED THB".split()
_WORDS = {
    "dollars": "USD",
    "dollar": "USD",
    "us dollars": "USD",
    "bucks": "USD",
    "euros": "EUR",
    "euro": "EUR",
    "pounds": "GBP",
    "pound": "GBP",
    "quid": "GBP",
    "yuan": "CNY",
    "yen": "JPY",
    "rupees": "INR",
    "francs": "CHF",
} | {code.lower(): {"RMB": "CNY"}.get(code, code) for code in _CODES}
_HAN_WORDS = {
    "元人民币": "CNY",
    "块钱": "CNY",
    "人民币": "CNY",
    "美元": "USD",
    "美金": "USD",
    "美刀": "USD",
    "欧元": "EUR",
    "歐元": "EUR",
    "英镑": "GBP",
    "英鎊": "GBP",
    "日元": "JPY",
    "港币": "HKD",
    "港元": "HKD",
    "韩元": "KRW",
    "台币": "TWD",
    "新台币": "TWD",
    "元": "CNY",
    "圆": "CNY",
    "块": "CNY",
    "塊": "CNY",
}
_SCALE = {
    "k": 10**3,
    "thousand": 10**3,
    "m": 10**6,
    "mn": 10**6,
    "million": 10**6,
    "bn": 10**9,
    "billion": 10**9,
} | {
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "千": 10**3,
    "百": 100,
}
_SCALED = r"(?:\s?(?P<scale>k|m|mn|bn|thousand|million|billion|万|萬|亿)(?![A-Za-z]))?"


def _any(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_SIGNED = re.compile(
    rf"(?<![A-Za-z0-9])(?P<sign>{_any(_SIGNS)}|(?:{'|'.join(_CODES)})(?=[ \d]))\s?(?P<number>{_NUMBER}){_SCALED}(?!\w*%)",
    re.IGNORECASE,
)
_UNITED = re.compile(
    rf"(?<![A-Za-z0-9.,_#-])(?P<number>{_NUMBER}){_SCALED}[ -]?"
    rf"(?P<unit>(?:{_any(_WORDS)})(?![A-Za-z0-9])|{_any(_HAN_WORDS)})",
    re.IGNORECASE,
)
_HAN = re.compile(rf"(?P<number>[零〇一二两三四五六七八九十百千万亿]{{1,16}})(?P<unit>{_any(_HAN_WORDS)})")
_PIECES = re.compile(r"[一-鿿]")
_AFTER_MONEY = frozenset("的了吗呢以左上不就也都才还吧是可能够多整行吧太买给算")
_WEIGHT = re.compile(
    r"\b(?:weigh\w*|los[et]\w*|gain\w*|lift\w*|heav\w+|kilos?|kg|flour|sugar|meat)\b", re.IGNORECASE
)


def amounts(text: str) -> Iterator[Found]:
    """Yield amounts as "49.9 USD". A bare $ is read as US, ¥ as Chinese."""
    for match in _SIGNED.finditer(text):
        sign = match["sign"].upper()
        yield _found(match, value_of(match["number"]), _SIGNS.get(sign, sign))
    for match in _UNITED.finditer(text):
        unit = match["unit"].lower()
        value = value_of(match["number"])
        if unit in {"pound", "pounds"} and _WEIGHT.search(text, max(0, match.start() - 40), match.end() + 30):
            continue
        if unit in {"块", "塊"} and value < 10 and _is_of_pieces(text, match.end()):
            continue
        yield _found(match, value, _WORDS.get(unit) or _HAN_WORDS[unit])
    if not HAN_NUMERAL.search(text):
        return
    for match in _HAN.finditer(text):
        value = Decimal(chinese_value(match["number"]))
        unit = match["unit"]
        if unit in {"块", "塊"} and value < 10 and _is_of_pieces(text, match.end()):
            continue
        if (
            unit == "元"
            and _PIECES.match(text, match.end())
            and re.match("[一二三]?次|化|素|旦|宵", text[match.end() :][:2])
        ):
            continue
        if value > 0 and match["number"][0] not in "百千万亿零〇":
            yield Found("amount", f"{written(value)} {_HAN_WORDS[unit]}", match.start(), match.end())


def _found(match: re.Match[str], value: Decimal, currency: str) -> Found:
    value *= _SCALE.get((match["scale"] or "").lower(), 1)
    return Found(
        "amount", f"{written(value)} {'CNY' if currency == 'RMB' else currency}", match.start(), match.end()
    )


def _is_of_pieces(text: str, at: int) -> bool:
    """Return whether a noun follows, as in 三块蛋糕: three pieces, no money."""
    return bool(_PIECES.match(text, at)) and text[at] not in _AFTER_MONEY
