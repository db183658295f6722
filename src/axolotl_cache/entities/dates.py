"""Dates with a day and a month. Days that depend on today ("tomorrow", 周五) have no form of their own."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator

from axolotl_cache.entities.found import Found, Text, any_of
from axolotl_cache.language.months import MONTHS
from axolotl_cache.language.numerals import chinese_value

_ONES = "first second third fourth fifth sixth seventh eighth ninth"
_TEENS = (
    "tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth "
    "twentieth"
)
_ORDINALS = {word: day for day, word in enumerate(f"{_ONES} {_TEENS}".split(), 1)}
_ORDINALS |= {f"twenty-{word}": 20 + day for day, word in enumerate(_ONES.split(), 1)}
_ORDINALS |= {"thirtieth": 30, "thirty-first": 31}
_MONTH = any_of(*MONTHS)
_DAY = rf"[0-3]?\d(?:st|nd|rd|th)?|{any_of(*_ORDINALS)}"
_YEAR = r"(?:(?:,?\s{1,2}|-)(?P<year>(?:19|20)\d\d)(?!\d|:))?"
_HAS_MONTH = re.compile(_MONTH)
_BEHIND_MONTH = re.compile(rf"\.?[ -](?:the )?(?P<day>{_DAY})(?![\w%:]|[.,]\d){_YEAR}")
_BEFORE_MONTH = re.compile(rf"(?<![\w.,:/-])(?P<day>{_DAY})(?: of)?[ -]?$")
_YEAR_BEHIND = re.compile(rf"\.?(?![a-z]){_YEAR}")
_WHOLE = re.compile(
    r"((?:19|20)\d\d)(?<![\w.,/-]....)([-/.])([01]?\d)\2([0-3]?\d)(?![\d_]|[-/.]\d|[a-su-z])", re.ASCII
)
_YEAR_LAST = re.compile(r"([0-3]?\d)([/.-])([0-3]?\d)\2((?:19|20)\d\d)(?![\w/-]|\.\d)", re.ASCII)
_SHORT = re.compile(
    rf"(?:(?:{any_of('on by since until till before after due dated date')})\s{{1,2}}|日期\s?(?:是|为|:)?\s?)"
    r"(?P<month>[01]?\d)(?:/|(?<=date \d\d)-)(?P<day>[0-3]?\d)"
    r"(?![\w/:%-]|[.,]\d| (?:cups?|inch|of|lbs?|star|full)\b)",
    re.ASCII,
)
_HAN = re.compile(
    r"(?:(?P<year>(?:19|20)\d\d|[一二][零〇九一二三四五六七八]{3})\s?年\s?)?(?<!\d)"
    r"(?P<month>[01]?\d|[一二三四五六七八九十]{1,2})\s?月\s?"
    r"(?P<day>[0-3]?\d|[一二三四五六七八九十廿卅]{1,3})\s?[日号號](?![楼樓線线机機房門门店桌位院馆厅])"
)
_WORDS_TOO = frozenset({"may", "march", "mar", "dec", "sep", "jan", "jun"})
_SUBJECT = re.compile(rf"\b(?:{any_of('i you we they he she it that which who there also not')})\s+$")
_LEADS = re.compile(
    r"(?:^|[,(]\s*|\b(?:"
    + any_of(
        "on by from to until since for before after and of the this next between is was till say departing"
    )
    + r"|returning|through))\s*$"
)


def dates(text: Text) -> Iterator[Found]:
    """Yield dates as "2024-05-20", or "05-20" without a year. 05/06/2024 is read with the month first."""
    for match in _WHOLE.finditer(text.low):
        yield from _found(match[1], match[3], match[4], match.start(), match.end())
    for match in _YEAR_LAST.finditer(text.low):
        if match.start() and (
            text.low[match.start() - 1].isalnum() or text.low[match.start() - 1] in "_.,/-"
        ):
            continue
        month, day = int(match[1]), int(match[3])
        if month > 12 or match[2] == ".":
            month, day = day, month
        yield from _found(match[4], month, day, match.start(), match.end())
    yield from _english(text)
    for match in _SHORT.finditer(text.low):
        yield from _found(None, match["month"], match["day"], match.start("month"), match.end())
    if "月" in text.low:
        for match in _HAN.finditer(text.low):
            year = _digits(match["year"]) if match["year"] else None
            month, day = _digits(match["month"]), _digits(match["day"])
            yield from _found(year, month, day, match.start(), match.end())


def _english(text: Text) -> Iterator[Found]:
    low = text.low
    for name in _HAS_MONTH.finditer(low):
        if name.start() and "a" <= low[name.start() - 1] <= "z":
            continue
        month = MONTHS[name.group()]
        behind = _BEHIND_MONTH.match(low, name.end())
        if behind and _is_a_month(text, name, behind["day"]):
            yield from _found(behind["year"], month, _day(behind["day"]), name.start(), behind.end())
            continue
        before = _BEFORE_MONTH.search(low, max(0, name.start() - 20), name.start())
        year = _YEAR_BEHIND.match(low, name.end())
        if before and year:
            end = year.end() if year["year"] else name.end()
            yield from _found(year["year"], month, _day(before["day"]), before.start(), end)


def _is_a_month(text: Text, name: re.Match[str], day: str) -> bool:
    """Return whether "may", "march" and the like mean the month."""
    if name.group() not in _WORDS_TOO:
        return True
    before = text.low[max(0, name.start() - 16) : name.start()]
    if text.whole[name.start()].isupper():
        return name.group() != "may" or not _SUBJECT.search(before)
    return not _SUBJECT.search(before) and (day[-1].isalpha() or bool(_LEADS.search(before)))


def _found(year: str | int | None, month: str | int, day: str | int, start: int, end: int) -> Iterator[Found]:
    month, day = int(month), int(day)
    # 2024 stands in for any leap year.
    if 1 <= month <= 12 and 1 <= day <= monthrange(int(year or 2024), month)[1]:
        value = f"{month:02}-{day:02}"
        yield Found("date", f"{year}-{value}" if year else value, start, end)


def _day(written: str) -> int:
    return _ORDINALS.get(written) or int(written.rstrip("sthndr"))


def _digits(text: str) -> int:
    return int(text) if text.isdigit() else chinese_value(text)
