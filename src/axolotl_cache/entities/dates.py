"""Dates with a day and a month. Days that depend on today ("tomorrow", 周五) have no form of their own."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator

from axolotl_cache.entities.found import Found
from axolotl_cache.language.months import MONTHS
from axolotl_cache.language.numerals import chinese_value

_ONES = "first second third fourth fifth sixth seventh eighth ninth".split()
_ORDINALS = {word: n for n, word in enumerate(_ONES, 1)}
_ORDINALS |= {
    word: n
    for n, word in enumerate(
        "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth "
        "twentieth".split(),
        10,
    )
}
_ORDINALS |= {f"twenty-{word}": 20 + n for n, word in enumerate(_ONES, 1)} | {
    "thirtieth": 30,
    "thirty-first": 31,
}
_MONTH = rf"(?P<month>{'|'.join(sorted(MONTHS, key=len, reverse=True))})\.?"
_DAY = rf"(?P<day>[0-3]?\d(?:st|nd|rd|th)?|{'|'.join(sorted(_ORDINALS, key=len, reverse=True))})"
_YEAR = r"(?:,?\s{1,2}(?P<year>(?:19|20)\d\d)(?!\d|:))?"
_ENGLISH = (
    re.compile(rf"(?<![A-Za-z]){_MONTH}[ -](?:the )?{_DAY}(?![\w%:]|[.,]\d){_YEAR}", re.IGNORECASE),
    re.compile(
        rf"(?<![\w.,:/-]){_DAY}(?: of)?[ -]?{_MONTH}(?![A-Za-z]){_YEAR}(?:-(?P<year2>(?:19|20)\d\d)\b)?",
        re.IGNORECASE,
    ),
)
_WHOLE = re.compile(
    r"(?<![\w.,/-])((?:19|20)\d\d)([-/.])([01]?\d)\2([0-3]?\d)(?!\d|[-/.]\d|[A-Za-z_](?<!T))", re.ASCII
)
_COMPACT = re.compile(r"(?<![\w.,/-])([0-3]?\d)([/.-])([0-3]?\d)\2((?:19|20)\d\d)(?![\w/-]|\.\d)", re.ASCII)
_SHORT = re.compile(
    r"(?:\b(?:on|by|since|from|until|till|before|after|due|dated|date|to|and|for)\s{1,2}|日期\s?(?:是|为|:)?\s?)"
    r"(?P<m>[01]?\d)(?P<s>[/-])(?P<d>[0-3]?\d)(?![\w/:%-]|[.,]\d| (?:cups?|inch|of|lbs?|star|full)\b)",
    re.IGNORECASE | re.ASCII,
)
_HAN = re.compile(
    r"(?:(?P<y>(?:19|20)\d\d|[一二][零〇九一二三四五六七八]{3})\s?年\s?)?(?<!\d)"
    r"(?P<m>[01]?\d|[一二三四五六七八九十]{1,2})\s?月\s?"
    r"(?P<d>[0-3]?\d|[一二三四五六七八九十廿卅]{1,3})\s?[日号號](?![楼樓线線机機房门門店桌位院馆厅])"
)
_SUBJECT = re.compile(r"\b(?:i|you|we|they|he|she|it|that|which|who|there|also|to|not)\s+$", re.IGNORECASE)
_LEADS = re.compile(
    r"(?:^|[,(]\s*|\b(?:on|by|from|to|until|since|for|before|after|and|of|the|this|next|between|is|was|till|departing|returning|through))\s*$",
    re.IGNORECASE,
)


def dates(text: str) -> Iterator[Found]:
    """Yield dates as "2024-05-20", or "05-20" without a year. 05/06/2024 is read with the month first."""
    for match in _WHOLE.finditer(text):
        yield from _found(match, match[1], match[3], match[4])
    for match in _COMPACT.finditer(text):
        month, day = int(match[1]), int(match[3])
        if month > 12 or match[2] == ".":
            month, day = day, month
        yield from _found(match, match[4], month, day)
    for number, pattern in enumerate(_ENGLISH):
        for match in pattern.finditer(text):
            if not _is_a_month(text, match):
                continue
            year = match["year"] or (match["year2"] if number else None)
            day = match["day"].lower()
            yield from _found(
                match, year, MONTHS[match["month"].lower()], _ORDINALS.get(day) or day.rstrip("sthndr")
            )
    for match in _SHORT.finditer(text):
        yield from _found(match, None, match["m"], match["d"], match.start("m"))
    if "月" in text:
        for match in _HAN.finditer(text):
            yield from _found(
                match, match["y"] and _digits(match["y"]), _digits(match["m"]), _digits(match["d"])
            )


def _is_a_month(text: str, match: re.Match[str]) -> bool:
    """Return whether "may", "march" and the like mean the month."""
    month = match["month"]
    if month.lower() not in {"may", "march", "mar", "dec", "sep", "jan", "jun"} or month[0].isupper():
        return not (
            month.lower() == "may" and month == "May" and _SUBJECT.search(text[: match.start()][-12:])
        )
    before = text[max(0, match.start() - 16) : match.start()]
    return not _SUBJECT.search(before) and (bool(_LEADS.search(before)) or match["day"][-1].isalpha())


def _found(
    match: re.Match[str], year: str | int | None, month: str | int, day: str | int, start: int | None = None
) -> Iterator[Found]:
    month, day = int(month), int(day)
    # 2024 stands in for any leap year.
    if 1 <= month <= 12 and 1 <= day <= monthrange(int(year or 2024), month)[1]:
        value = f"{month:02}-{day:02}"
        yield Found(
            "date",
            f"{year}-{value}" if year else value,
            match.start() if start is None else start,
            match.end(),
        )


def _digits(text: str) -> int:
    return int(text) if text.isdigit() else chinese_value(text)
