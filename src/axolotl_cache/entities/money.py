"""Amounts of money."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from axolotl_cache.entities.found import Found, Text
from axolotl_cache.language.numerals import chinese_value, value_of, written

_END = r"(?!\d|[.,]\d)"
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,6}}(?:\.\d{{1,4}})?|\d{{1,15}}(?:[.,]\d{{1,2}})?){_END}"
_REST = rf"(?:\d{{0,2}}(?:,\d{{3}}){{1,6}}(?:\.\d{{1,4}})?|\d{{0,14}}(?:[.,]\d{{1,2}})?){_END}"
_SIGNS = {
    "$": "USD",
    "us$": "USD",
    "a$": "AUD",
    "c$": "CAD",
    "hk$": "HKD",
    "s$": "SGD",
    "€": "EUR",
    "£": "GBP",
} | {
    "¥": "CNY",
    "￥": "CNY",
    "₹": "INR",
    "₩": "KRW",
}
_CODES = {
    code.lower(): code
    for code in (
        *("USD", "EUR", "GBP", "CNY", "JPY", "HKD", "INR", "AUD", "CAD", "CHF", "SGD"),
        *("KRW", "TWD", "NZD", "SEK", "NOK", "DKK", "PLN", "BRL", "MXN", "AED", "THB"),
    )
} | {"rmb": "CNY"}
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
} | _CODES
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
_SCALED = r"(?:\s?(?P<scale>k|m|mn|bn|thousand|million|billion|万|萬|亿)(?![a-z]))?"


def _any(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_SIGNED = re.compile(
    rf"(?P<sign>{_any(_SIGNS)}|(?:{_any(_CODES)})(?=[ \d]))\s?(?P<number>{_NUMBER}){_SCALED}"
    r"(?!\w*[%^$\\_{])",
)
_UNITED = re.compile(
    rf"\d(?<![a-z0-9.,_#-].)(?P<rest>{_REST}){_SCALED}[ -]?"
    rf"(?P<unit>(?:{_any(_WORDS)})(?![a-z0-9])|{_any(_HAN_WORDS)})"
)
_HAN = re.compile(rf"(?P<number>[零〇一二两三四五六七八九十百千万亿]{{1,16}})(?P<unit>{_any(_HAN_WORDS)})")
_AFTER_MONEY = frozenset("的了吗呢以左上不就也都才还吧是可能够多整行太买给算")
_NOT_MONEY = re.compile("[一二三]?次|化|素|旦|宵|件|音")
_WEIGHT = re.compile(r"\b(?:weigh|los[et]|gain|lift|heav|kilo|kg|flour|sugar|meat)")


def amounts(text: Text) -> Iterator[Found]:
    """Yield amounts as "49.9 USD". A bare $ is read as that of the United States, ¥ as Chinese."""
    low = text.low
    for match in _SIGNED.finditer(low):
        before = low[match.start() - 1 : match.start()]
        if not (before.isascii() and before.isalnum()):
            currency = _SIGNS.get(match["sign"]) or _CODES[match["sign"]]
            yield _found(match, match["number"], currency)
    for match in _UNITED.finditer(low):
        number = low[match.start() : match.end("rest")]
        if not _is_something_else(low, match, value_of(number)):
            yield _found(match, number, _WORDS.get(match["unit"]) or _HAN_WORDS[match["unit"]])
    for match in _HAN.finditer(low):
        value = Decimal(chinese_value(match["number"]))
        if (
            value > 0
            and match["number"][0] not in "百千万亿零〇"
            and not _is_something_else(low, match, value)
        ):
            yield Found("amount", f"{written(value)} {_HAN_WORDS[match['unit']]}", match.start(), match.end())


def _is_something_else(low: str, match: re.Match[str], value: Decimal) -> bool:
    """Return whether a unit is none of money here: pounds of weight, 三块蛋糕 (three pieces), 一元二次."""
    unit, after = match["unit"], low[match.end() : match.end() + 1]
    if unit in {"pound", "pounds"}:
        return bool(_WEIGHT.search(low, max(0, match.start() - 40), match.end() + 30))
    if unit in {"块", "塊"}:
        return value < 10 and "一" <= after <= "鿿" and after not in _AFTER_MONEY
    return unit == "元" and bool(_NOT_MONEY.match(low, match.end()))


def _found(match: re.Match[str], number: str, currency: str) -> Found:
    value = value_of(number) * _SCALE.get(match["scale"] or "", 1)
    return Found("amount", f"{written(value)} {currency}", match.start(), match.end())
