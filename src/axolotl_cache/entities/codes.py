"""Codes that a word announces: "order 67890", 订单号67890, "booking reference QK9PLT"."""

from __future__ import annotations

import re
from collections.abc import Iterator

from axolotl_cache.entities.cues import (
    CUE,
    FAR_LINK,
    GOES_ON,
    KIND_OF,
    LINK,
    NEXT,
    NO_LOCATOR,
    NOT_BEFORE_HAN_ORDER,
    NOUN_BEHIND,
    NUMBER,
    ONLY_WITH_NUMBER,
    QUANTITY,
    SURE,
    VERB_BEFORE,
)
from axolotl_cache.entities.found import Found, Text

_CODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38}[A-Za-z0-9])?(?![A-Za-z0-9_@]|-\w)", re.ASCII)
_AIRLINE = r"[A-Za-z]{2,3}|[A-Za-z]\d|\d[A-Za-z]"
_FLIGHT = re.compile(
    rf"(?:(?P<line>{_AIRLINE})[ -]?(?P<number>\d{{2,4}}[A-Za-z]?)|(?P<bare>\d{{3,4}}))(?![A-Za-z0-9_-])",
    re.ASCII,
)
_BEFORE_FLIGHT = re.compile(rf"(?<![A-Za-z0-9_.-])(?P<code>(?:{_AIRLINE})\d{{3,4}})\s?[次号]?\s?$", re.ASCII)
_BEFORE_ORDER = re.compile(
    r"(?<![A-Za-z0-9_#-])(?<!\d[.,])(?P<code>[A-Za-z]{0,3}\d{5,18})\s?(?:[这那](?:个|一|笔)?|号|的)?\s?$",
    re.ASCII,
)
_COUNTED = re.compile(r"\d+(?:st|nd|rd|th|x|k|am|pm|h|kg|gb|mb|-[a-z]+)")
_LOOSE = re.compile(r"(?:\b(?:is|was|are|were|of|with|as)\s+|,\s*)$")


def cued(text: Text) -> Iterator[Found]:
    """Yield the codes that a word announces, and those that are listed after one."""
    low = text.low
    for cue in CUE.finditer(low):
        word = cue.group()
        kind = KIND_OF[word]
        if not _stands_alone(low, cue):
            continue
        if kind == "flight" or word in {"订单", "訂單"}:
            pattern = _BEFORE_FLIGHT if kind == "flight" else _BEFORE_ORDER
            before = pattern.search(text.whole, max(0, cue.start() - 24), cue.start())
            if before:
                yield Found(kind, before["code"].upper(), before.start("code"), before.end("code"))
        number = NUMBER.match(low, cue.end())
        if word in {"单", "單"} and (
            not number or low[cue.start() - 1 : cue.start()] in NOT_BEFORE_HAN_ORDER
        ):
            continue
        sure = number is not None or word in SURE or _is_canonical(text, cue, kind)
        if sure or kind not in ONLY_WITH_NUMBER:
            yield from _listed(text, kind, cue, number.end() if number else cue.end(), sure)


def _is_canonical(text: Text, cue: re.Match[str], kind: str) -> bool:
    """Return whether the whole text is a kind and a code, as `Entity.canonical` writes them."""
    return not cue.start() and cue.group() == kind and bool(_CODE.fullmatch(text.whole, cue.end() + 1))


def _stands_alone(low: str, cue: re.Match[str]) -> bool:
    if not cue.group()[0].isascii():
        return True
    before, after = low[cue.start() - 1 : cue.start()] if cue.start() else "", low[cue.end() : cue.end() + 1]
    return not (before.isascii() and (before.isalnum() or before in {"_", "-"})) and not (
        after.isascii() and after.isalpha()
    )


def _listed(text: Text, kind: str, cue: re.Match[str], at: int, sure: bool) -> Iterator[Found]:
    link = (FAR_LINK.match(text.low, at) if sure else None) or LINK.match(text.low, at)
    at = link.end() if link else at
    sure = sure or text.low[at - 1 : at] == "#"
    found = _code(text, kind, cue, at, sure)
    while found:
        yield found
        more = NEXT.match(text.low, found.end)
        before = found
        found = _code(text, kind, cue, more.end(), sure) if more else None
        if found and not _alike(before.value, found.value):
            return


def _alike(one: str, other: str) -> bool:
    """Return whether two codes could be of one list."""
    return one.isdigit() == other.isdigit() and abs(len(one) - len(other)) <= 2


def _code(text: Text, kind: str, cue: re.Match[str], at: int, sure: bool) -> Found | None:
    if kind == "flight":
        flight = _FLIGHT.match(text.whole, at)
        if not flight or (flight["bare"] and QUANTITY.match(text.low, flight.end())):
            return None
        value = flight["bare"] or (flight["line"] + flight["number"])
        if GOES_ON.match(text.low, flight.end()) or (" " in flight.group() and not value.isupper()):
            return None
        return Found(kind, value.upper(), flight.start(), flight.end())
    match = _CODE.match(text.whole, at)
    if not match or not _is_code(text, kind, cue, match, sure):
        return None
    value, start = match.group(), match.start()
    if text.low[start - 1 : start] == "#":
        start -= 1
    if kind == "product" and value[:3].upper() == "SKU" and len(value) > 4:
        value = value[3:].lstrip("-_")
    return Found(kind, value.lower() if kind == "user" else value.upper(), start, match.end())


def _is_code(text: Text, kind: str, cue: re.Match[str], match: re.Match[str], sure: bool) -> bool:
    value = match.group()
    digits = sum(map(str.isdigit, value))
    if not digits:
        in_capitals = text.whole[cue.start() : cue.end()].isupper()
        is_locator = kind == "reservation" and len(value) == 6 and value.isupper()
        return is_locator and value.lower() not in NO_LOCATOR and (sure or not in_capitals)
    if digits < len(value):
        if sure:
            return digits >= 2 or len(value) >= 3
        return (digits >= 2 or (kind == "reservation" and len(value) == 6)) and not _COUNTED.fullmatch(
            value.lower()
        )
    if digits < 3 or GOES_ON.match(text.low, match.end()) or QUANTITY.match(text.low, match.end()):
        return False
    return sure or not _counts_something(text.low, cue, match, digits)


def _counts_something(low: str, cue: re.Match[str], match: re.Match[str], digits: int) -> bool:
    """Return whether bare digits are a number of things: "I want to order 5000 flyers"."""
    if digits < 5 and _LOOSE.search(low, max(0, match.start() - 6), match.start()):
        return True
    as_verb = VERB_BEFORE.search(low, max(0, cue.start() - 24), cue.start())
    return bool(as_verb and NOUN_BEHIND.match(low, match.end()))
