"""Numbers: digits of any width, words, Chinese numerals, and amounts with units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from axolotl_cache.language.numerals import HAN_NUMERAL, chinese_value, value_of, written
from axolotl_cache.response.semantic.lexicon import lexicon

TAKEN = " \x00 "
"""Stands where something was found, so that nothing is found in it twice."""
_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?"
_PLAIN = re.compile(
    rf"(?<![A-Za-z0-9_.])[-+]?({_NUMBER})(k|m|bn|百万|千万|万|亿)?(?![A-Za-z0-9_%]|\.\d)", re.IGNORECASE
)
_ROMAN = {"II": 2, "III": 3, "IV": 4, "VI": 6, "VII": 7, "VIII": 8, "IX": 9}
_SCALE = {"k": 1000, "m": 10**6, "bn": 10**9, "万": 10**4, "亿": 10**8, "百万": 10**6, "千万": 10**7}


def spell_out(text: str) -> str:
    """Return the text with numbers in words as digits: "twenty-five" is "25", "三个月" is "3个月".

    "one" becomes 1 only in front of a hyphen or a unit of time, as it is a pronoun elsewhere.
    """
    text = _english_words().sub(_english_value, text)
    text = re.sub(
        r"\bhalf (?:an? |of an? )?(?=hour|day|year|month|million|dozen|mile|gallon|cup)",
        "0.5 ",
        text,
        flags=re.I,
    )
    text = re.sub(r"(?<=[a-z] )(II|III|IV|VI|VII|VIII|IX)\b", lambda m: str(_ROMAN[m[1]]), text)
    text = re.sub(r"\b(?:an? )?(?:couple|few) (?:of )?", "several ", text, flags=re.I)
    text = re.sub(r"\b(?:an? |one )?dozen\b", "12", text, flags=re.I)
    text = re.sub(r"(\d+) and 0\.5\b|(\d+) and a half\b", lambda m: f"{m[1] or m[2]}.5", text, flags=re.I)
    text = re.sub(r"(?<=\d)[- ](?=(?:hundred|thousand|million|billion)\b)", " ", text)
    text = re.sub(r"(\d[\d,.]*) (hundred|thousand|million|billion|trillion)\b", _multiplied, text, flags=re.I)
    text = re.sub(
        r"\b(\d+)(?:-|\s)(?=bed|room|day|hour|minute|week|month|year|step|person|way|door|star|seat)",
        r"\1 ",
        text,
        flags=re.I,
    )
    text = re.sub(r"(?<=\d)\s?[x×*]\s?(?=\d)", " x ", text)
    return _chinese(text) if HAN_NUMERAL.search(text) or "半" in text or "成" in text else text


def take_amounts(text: str) -> tuple[frozenset[str], str]:
    """Return the amounts with units or currencies, and the text without them.

    Values are converted within a family (24 hours are 1 day, 1 kg is 1,000 g), never between two.
    """
    found = set()

    def signed(match: re.Match[str]) -> str:
        value = value_of(match["v"]) * _SCALE.get((match["k"] or "").lower(), 1)
        found.add(f"{written(value)} {_signs()[match['s'].upper()]}")
        return TAKEN

    def united(match: re.Match[str]) -> str:
        family, factor = _units()[match["u"].lower()]
        value = value_of(match["v"]) * _SCALE.get((match["k"] or "").lower(), 1) * factor
        found.add(f"{written(value)} {family}")
        return TAKEN

    text = _signed().sub(signed, text)
    text = _united().sub(united, text)
    return frozenset(found), text


def take_numbers(text: str) -> tuple[frozenset[str], str]:
    """Return the values of the numbers that are left, and the text without them."""
    found = set()

    def plain(match: re.Match[str]) -> str:
        found.add(written(value_of(match[1]) * _SCALE.get((match[2] or "").lower(), 1)))
        return TAKEN

    def nth(match: re.Match[str]) -> str:
        if int(match[1]) <= 10:
            return match.group()
        found.add(f"{match[1]}th")
        return TAKEN

    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", nth, text)
    text = _PLAIN.sub(plain, text.replace("24/7", TAKEN + "always" + TAKEN))
    return frozenset(found), text


@cache
def _english_words() -> re.Pattern[str]:
    en = lexicon().english
    small = [word for word in en["numbers"] if word != "one"]
    tens = [word for word, value in en["numbers"].items() if 20 <= value < 100]
    big = "|".join(en["multipliers"])
    ones = "|".join([*(w for w, v in en["numbers"].items() if 0 < v < 10)])
    number = rf"(?:(?:{'|'.join(tens)})(?:[- ](?:{ones}))?|{'|'.join(small)})"
    lone = rf"one(?=[- ](?:{big}|hour|minute|second|day|week|month|year|bed|percent|step|way)s?\b)"
    return re.compile(
        rf"\b(?P<n>{number}|{lone}|an?(?= (?:{big})\b))(?P<b>(?:[- ](?:{big}))*)\b", re.IGNORECASE
    )


def _english_value(match: re.Match[str]) -> str:
    en = lexicon().english
    value = 0
    for word in re.split(r"[- ]", match["n"].lower()):
        value += en["numbers"].get(word, 1)
    for word in re.split(r"[- ]", match["b"].lower()):
        value *= en["multipliers"].get(word, 1)
    return str(value)


def _multiplied(match: re.Match[str]) -> str:
    digits = match[1].rstrip(".,")
    return written(value_of(digits) * lexicon().english["multipliers"][match[2].lower()])


def _chinese(text: str) -> str:
    zh = lexicon().chinese_data
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match.group())
        return f"\x01{chr(0xE000 + len(kept) - 1)}\x01"

    text = _not_numbers().sub(keep, text)
    text = re.sub(r"百分之([零〇一二两三四五六七八九十百千\d.]+)", lambda m: f"{_amount_in(m[1])}%", text)
    text = re.sub(r"([一二两三四五六七八九\d])成(?![为功立长就])", lambda m: f"{_amount_in(m[1])}0%", text)
    text = re.sub(
        r"([一二两三四五六七八九十\d]+)(个)?(年|月|小时|天|斤|公里|点)半",
        lambda m: f"{_amount_in(m[1])}.5{m[2] or ''}{m[3]}",
        text,
    )
    text = re.sub(
        r"([一二两三四五六七八九十\d]+)个半(?=小时|钟头|月|星期)", lambda m: f"{_amount_in(m[1])}.5个", text
    )
    text = re.sub(r"半(?=个?(?:小时|年|月|天|斤))", "0.5", text)
    classifiers = zh["classifiers"]

    def number(match: re.Match[str]) -> str:
        digits = match.group()
        after = text[match.end() : match.end() + 1]
        if len(digits) == 1 and digits not in "十百千万亿" and after and after not in classifiers:
            before = text[max(0, match.start() - 1) : match.start()]
            if before != "第" and not (before in "有为是达近约共满超" and before):
                return digits
        if digits in ("百", "千", "万", "亿") and match.start() and text[match.start() - 1].isdigit():
            return digits
        return str(chinese_value(digits))

    text = HAN_NUMERAL.sub(number, text)
    return re.sub(r"\x01(.)\x01", lambda m: kept[ord(m[1]) - 0xE000], text)


def _amount_in(text: str) -> str:
    return text if text[0].isdigit() else str(chinese_value(text))


@cache
def _not_numbers() -> re.Pattern[str]:
    zh = lexicon().chinese_data
    return re.compile("|".join(sorted([*zh["not_numbers"], *zh["vague"]], key=len, reverse=True)))


@cache
def _units() -> Mapping[str, tuple[str, Decimal]]:
    both: dict[str, Any] = lexicon().english["units"] | lexicon().chinese_data["units"]
    return {unit: (family, Decimal(factor)) for unit, (family, factor) in both.items()}


@cache
def _signs() -> Mapping[str, str]:
    return {sign.upper(): name for sign, name in lexicon().english["signs"].items()}


@cache
def _signed() -> re.Pattern[str]:
    signs = "|".join(re.escape(sign) for sign in sorted(_signs(), key=len, reverse=True))
    return re.compile(rf"(?P<s>{signs})\s?(?P<v>{_NUMBER})\s?(?P<k>k|m|bn)?(?![a-z])", re.IGNORECASE)


@cache
def _united() -> re.Pattern[str]:
    latin = [
        re.escape(unit)
        for unit in sorted(_units(), key=len, reverse=True)
        if unit[-1].isascii() and unit[-1].isalpha()
    ]
    other = [
        re.escape(unit)
        for unit in sorted(_units(), key=len, reverse=True)
        if not unit[-1].isascii() or not unit[-1].isalpha()
    ]
    unit = rf"(?P<u>(?:{'|'.join(latin)})(?![a-z0-9])|(?:{'|'.join(other)}))"
    return re.compile(rf"(?<![A-Za-z0-9_.,])(?P<v>{_NUMBER})(?P<k>k|万|亿)?[\s-]?{unit}", re.IGNORECASE)
