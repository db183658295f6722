"""Dates, times, weekdays, months, years, quarters and relative days, in one form each."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from axolotl_cache.language.months import MONTHS
from axolotl_cache.response.semantic.facts.numbers import TAKEN
from axolotl_cache.response.semantic.lexicon import lexicon

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]]
_WEEKDAY = {c: i for i, c in enumerate("一二三四五六", 1)} | {"日": 7, "天": 7}


def take_weekdays(text: str) -> tuple[frozenset[str], str]:
    """Return Chinese weekdays and relative days in both languages, and the text without them.

    Before numerals become digits: 周三 is no number.
    """
    found = set()

    def weekday(match: re.Match[str]) -> str:
        prefix = {"上": "-1", "下": "+1", "这": "+0", "本": "+0"}.get(match[1] or "", "")
        found.add(f"weekday:{_WEEKDAY[match[2]]}{prefix and ' week' + prefix}")
        return TAKEN

    def relative(match: re.Match[str]) -> str:
        word = match.group().lower()
        known = lexicon().english["relative"] | lexicon().chinese_data["relative"]
        found.add(f"relative:{known[word]}")
        return TAKEN

    text = re.sub(r"([上下这本])?个?(?:周|星期|礼拜)([一二三四五六日天])", weekday, text)
    text = _relative().sub(relative, text)
    return frozenset(found), text


def take_dates(text: str) -> tuple[frozenset[str], str]:
    """Return the dates and times, and the text without them. Numbers must stand in digits."""
    found = set()
    for pattern, form in _rules():

        def put(match: re.Match[str], form: Callable[[re.Match[str]], str | None] = form) -> str:
            normal = form(match)
            if normal is None:
                return match.group()
            found.update(normal.split("|"))
            return TAKEN

        text = pattern.sub(put, text)
    return frozenset(found), text


def take_years(text: str) -> tuple[frozenset[str], str]:
    """Return bare years, and the text without them: after amounts, as "2000 dollars" is no year."""
    found: set[str] = set()

    def year(match: re.Match[str]) -> str:
        found.add(f"year:{match[1]}")
        return TAKEN

    text = re.sub(r"(?<![A-Za-z0-9_.,#-])((?:19|20)\d\d)(?![A-Za-z0-9_%]|[.,]\d)", year, text)
    return frozenset(found), text


@cache
def _relative() -> re.Pattern[str]:
    en, zh = lexicon().english["relative"], lexicon().chinese_data["relative"]
    latin = "|".join(sorted(map(re.escape, en), key=len, reverse=True))
    han = "|".join(sorted(map(re.escape, zh), key=len, reverse=True))
    return re.compile(rf"\b(?:{latin})\b|(?<!之)(?:{han})", re.IGNORECASE)


@cache
def _rules() -> tuple[Rule, ...]:
    en = lexicon().english
    months, days = MONTHS, en["weekdays"]
    month = rf"(?P<month>{'|'.join(sorted(months, key=len, reverse=True))})\.?"
    sure_month = (
        rf"(?P<month>{'|'.join(sorted(set(months) - set(en['months_also_words']), key=len, reverse=True))})"
    )
    also_month = rf"(?P<month>{'|'.join(m.capitalize() for m in en['months_also_words'])})"
    sure_day = "|".join(sorted(set(days) - set(en["weekdays_also_words"]), key=len, reverse=True))
    also_day = "|".join(d.capitalize() for d in en["weekdays_also_words"])
    ordinal = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    year = r"(?:,?\s+(?P<year>(?:19|20)\d\d))?"
    any_case = re.IGNORECASE

    def day(match: re.Match[str]) -> str | None:
        parts = match.groupdict()
        number = months[parts["month"].lower()]
        normal = f"day:{number}-{int(parts['day'])}"
        return f"{normal}|year:{parts['year']}" if parts.get("year") else normal

    def only_month(match: re.Match[str]) -> str:
        parts = match.groupdict()
        normal = f"month:{months[parts['month'].lower()]}"
        return f"{normal}|year:{parts['year']}" if parts.get("year") else normal

    def whole(match: re.Match[str]) -> str:
        return f"day:{int(match[2])}-{int(match[3])}|year:{match[1]}"

    def clock(match: re.Match[str]) -> str | None:
        parts = match.groupdict()
        hour, minute = int(parts["h"]), int(parts.get("m") or 0)
        half = (parts.get("half") or "").lower().replace(".", "")
        if half in {"pm", "下午", "晚上", "傍晚"} and hour < 12:
            hour += 12
        if half in {"am", "凌晨", "上午", "早上", "清晨"} and hour == 12:
            hour = 0
        if half == "中午" and hour < 3:
            hour += 12
        if hour > 24 or minute > 59:
            return None
        known = bool(half) or hour > 12 or (parts.get("m") is not None and len(parts["h"]) == 2)
        return f"time:{hour % 24:02}:{minute:02}" if known else f"clock:{hour}:{minute:02}"

    def chinese_clock(match: re.Match[str]) -> str | None:
        return clock(match)

    return (
        (re.compile(r"(?<!\d)((?:19|20)\d\d)[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), whole),
        (re.compile(r"((?:19|20)\d\d)年(\d{1,2})月(\d{1,2})[日号]?"), whole),
        (
            re.compile(r"(?P<y>(?:19|20)\d\d)年(\d{1,2})月(?:份)?"),
            lambda m: f"month:{int(m[2])}|year:{m['y']}",
        ),
        (re.compile(r"((?:19|20)\d\d)年"), lambda m: f"year:{m[1]}"),
        (re.compile(r"(?<!\d)(\d{1,2})月(\d{1,2})[日号]?"), lambda m: f"day:{int(m[1])}-{int(m[2])}"),
        (re.compile(r"(?<![\d个])(\d{1,2})月(?:份)?"), lambda m: f"month:{int(m[1])}"),
        (
            re.compile(r"(?<!\d)(\d{1,2})[号](?!楼|线|机|房|门|店|桌|位|电)"),
            lambda m: f"monthday:{int(m[1])}",
        ),
        (re.compile(r"(?<!\d)(\d{1,2})[/](\d{1,2})(?:/(\d{2,4}))?(?!\d)"), lambda m: f"slashed:{m.group()}"),
        (re.compile(rf"\b{month}\s+{ordinal}\b(?!:){year}", any_case), day),
        (re.compile(rf"\b(?:the )?{ordinal}(?: of)?\s+{month}\b{year}", any_case), day),
        (re.compile(rf"\b{month}\s+(?P<year>(?:19|20)\d\d)\b", any_case), only_month),
        (re.compile(rf"\b{sure_month}\b", any_case), only_month),
        (
            re.compile(
                r"\b(?:(?:in|since|until|by|of|from|to|this|next|last|late|early|mid|during|and)[ -])"
                rf"{also_month}\b"
            ),
            only_month,
        ),
        (
            re.compile(rf"\b({sure_day})\b", any_case),
            lambda m: f"weekday:{days[m[1].lower()]}",
        ),
        (re.compile(rf"\b({also_day})\b(?=[ ,.?!]|$)"), lambda m: f"weekday:{days[m[1].lower()]}"),
        (re.compile(r"\bQ([1-4])\b|\b(first|second|third|fourth) quarter\b", any_case), _quarter),
        (re.compile(r"第?([1-4])季度"), lambda m: f"quarter:{m[1]}"),
        (re.compile(r"\b(?P<h>\d{1,2})(?:[:.](?P<m>\d\d))?\s?(?P<half>[ap]\.?m\b\.?)", any_case), clock),
        (re.compile(r"(?<![\d:])(?P<h>\d{1,2}):(?P<m>\d\d)(?![\d:])"), clock),
        (re.compile(r"\b(?P<h>\d{1,2}) ?o'?clock\b", any_case), clock),
        (re.compile(r"\b(noon|midday)\b", any_case), lambda _: "time:12:00"),
        (re.compile(r"\bmidnight\b", any_case), lambda _: "time:00:00"),
        (re.compile(r"(?P<half>上午|下午|凌晨|早上|晚上|中午|清晨|傍晚)?(?P<h>\d{1,2})\.5点"), _half_past),
        (
            re.compile(
                r"(?P<half>上午|下午|凌晨|早上|晚上|中午|清晨|傍晚)?(?P<h>\d{1,2})点(?:钟|整)?(?P<m>\d{1,2})?分?"
            ),
            chinese_clock,
        ),
        (
            re.compile(r"\b(summer|winter|autumn)\b|(夏天|夏季|冬天|冬季|秋天|秋季|春天|春季)", any_case),
            _season,
        ),
    )


def _half_past(match: re.Match[str]) -> str:
    hour = int(match["h"]) + (12 if match["half"] in {"下午", "晚上", "傍晚"} and int(match["h"]) < 12 else 0)
    return f"time:{hour:02}:30" if match["half"] else f"clock:{hour}:30"


def _quarter(match: re.Match[str]) -> str:
    words = {"first": 1, "second": 2, "third": 3, "fourth": 4}
    return f"quarter:{match[1] or words[match[2].lower()]}"


def _season(match: re.Match[str]) -> str:
    word = match.group().lower()
    return "season:" + {"夏": "summer", "冬": "winter", "秋": "autumn", "春": "spring"}.get(word[0], word)
