"""Codes that a word announces: "order 67890", 订单号：67890, "booking reference QK9PLT"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from axolotl_cache.entities.found import Found

_NUMBER_WORD = r"(?:numbers?|num\b|no\b\.?|nos\b\.?|nr\b\.?|ids?\b|refs?\b\.?|references?|codes?|#|№)"


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that announce a kind."""

    kind: str
    english: str
    """A pattern for the thing itself."""
    chinese: str
    strong_only: bool = False
    """Whether the English word says nothing unless "number", "ID" or the like follows."""


_CUES = (
    Cue(
        "tracking",
        r"tracking|track|waybill|shipment|parcel|package|consignment|usps|ups|fedex|dhl",
        r"快递单?|快遞單?|运单|運單|物流单?|包裹单?|顺丰(?:快递|单)?|圆通(?:快递)?|中通(?:快递)?|申通(?:快递)?|韵达(?:快递)?|京东快递|ems单?",
    ),
    Cue(
        "user",
        r"users?|customers?|members?|membership|client|loyalty|passenger",
        r"会员卡?|會員|用户|用戶|客户|客戶",
        True,
    ),
    Cue("account", r"accounts?|acct\.?|a/c", r"(?:银行|银联)?[账帐賬帳][号户號戶]"),
    Cue(
        "reservation",
        r"reservations?|bookings?|confirmation|pnr|record locator|itinerary",
        r"预[订定约]|預[訂定約]|确认|訂位|订[座位]",
    ),
    Cue("flight", r"flights?", r"航班"),
    Cue(
        "product",
        r"sku|upc|ean|asin|products?|items?|articles?|parts?|models?",
        r"商品|货|貨|产品|產品|型|款|料|sku",
    ),
    Cue("order", r"purchase orders?|orders?|po", r"(?<![快运流訂運])(?:订单|訂單|单(?=[号號]))"),
)
_STRONG_PRODUCT = r"(?:sku|upc|ean|asin)"
_CUE_PATTERN = re.compile(
    "|".join(
        rf"(?P<{cue.kind}>(?<![A-Za-z0-9_-])(?:{cue.english})(?![A-Za-z])|(?:{cue.chinese}))" for cue in _CUES
    ),
    re.IGNORECASE,
)
_STRONG_ONLY = {"user", "product"}
_STRENGTH = re.compile(
    rf"[ -]?(?:{_NUMBER_WORD})|\s?(?:编?[号號]码?|編號|编码|代码|单号|單號|号码|id(?![A-Za-z])|名(?!称)|码|no\.?(?![A-Za-z])|#)",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"\s{0,2}(?:(?:is|was|are|were|as|of|with|being|reads|says)\s{1,2}(?:the |an? )?(?:number |id |code )?|[:=(\[\"'「【]\s{0,2}|-\s|(?:是|为|為|叫|有|:|=|\()\s{0,2}|,\s{0,2}(?=#|[A-Za-z]*\d{3})|，\s{0,2}(?=#|[A-Za-z]*\d{3}))?\s{0,2}[\"'(「【\[]?#?\s?",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38}[A-Za-z0-9])?(?![A-Za-z0-9_@]|-\w)", re.ASCII)
_FLIGHT = re.compile(
    r"(?:(?P<line>[A-Za-z]{2,3}|[A-Za-z]\d|\d[A-Za-z])[ -]?(?P<number>\d{2,4}[A-Za-z]?)|(?P<bare>\d{3,4}))(?![A-Za-z0-9_-])",
    re.ASCII,
)
_NEXT = re.compile(
    r"\s{0,2}(?:,\s{0,2}(?:and|or|&)?|and|or|&|\+|/|、|，|和|与|與|及|以及|跟|或者?|还有)\s{0,2}(?:also\s)?(?:the\s)?"
    r"(?:orders?|reservations?|bookings?|flights?|订单|预订|航班)?\s{0,2}#?",
    re.IGNORECASE,
)
_QUANTITY = re.compile(
    r"\s{0,2}(?:%|percent\b|个|件|元|块|份|笔|条|张|天|次|人|年|月|岁|小时|分钟|多|万|米|公里|美元|箱|台|套|双|公斤|"
    r"(?:dollars?|euros?|pounds?|usd|eur|gbp|cny|rmb|times?|days?|weeks?|months?|years?|hours?|minutes?|hrs?|mins?|km|miles?|"
    r"people|persons?|passengers?|pieces?|pcs|units?|points?|percent|kg|gb|mb|more|or more|am|pm)\b)",
    re.IGNORECASE,
)
_VERB_BEFORE = re.compile(
    r"\b(?:to|can i|could i|may i|i|we|you|they|please|would|will|shall|must|should|want|let me|let us|let's|'ll|'d|not|n't|never)"
    r"\s+(?:like to\s+|also\s+|just\s+)?$",
    re.IGNORECASE,
)
_NOUN_AFTER = re.compile(
    r"\s+(?!(?:is|was|has|this|does|its|as|plus|always|yes|says|shows|ships|arrives|needs|gets|seems)\b)[a-z]{2,}s\b",
    re.IGNORECASE,
)
_WORDS_NOT_CODES = frozenset(
    "please number status system office online agents thanks change cancel refund ticket really should".split()
)
_BEFORE_FLIGHT = re.compile(
    r"(?<![A-Za-z0-9_.-])(?P<code>(?:[A-Za-z]{2}|[A-Za-z]\d|\d[A-Za-z])\d{3,4})\s?(?:次|号)?\s?(?:航班|flight\b)",
    re.ASCII | re.IGNORECASE,
)


def cued(text: str) -> Iterator[Found]:
    """Yield the codes that a word announces, and those that are listed after one."""
    for match in _BEFORE_FLIGHT.finditer(text):
        yield Found("flight", match["code"].upper(), match.start("code"), match.end("code"))
    for cue in _CUE_PATTERN.finditer(text):
        kind = str(cue.lastgroup)
        strength = _STRENGTH.match(text, cue.end())
        strong = (
            bool(strength)
            or re.fullmatch(_STRONG_PRODUCT + "|pnr|confirmation", cue.group(), re.IGNORECASE) is not None
        )
        if kind in _STRONG_ONLY and not strong:
            continue
        end = strength.end() if strength else cue.end()
        yield from _listed(text, kind, cue, end, strong)


def _listed(text: str, kind: str, cue: re.Match[str], at: int, strong: bool) -> Iterator[Found]:
    link = _LINK.match(text, at)
    at = link.end() if link else at
    marked = strong or text[at - 1 : at] == "#"
    found = _code(text, kind, cue, at, marked)
    while found:
        yield found
        more = _NEXT.match(text, found.end)
        if not more:
            return
        before = found
        found = _code(text, kind, cue, more.end(), marked)
        if found and not _alike(before.value, found.value):
            return


def _alike(one: str, other: str) -> bool:
    """Return whether two codes could be of one list."""
    return one.isdigit() == other.isdigit() and abs(len(one) - len(other)) <= 2


def _code(text: str, kind: str, cue: re.Match[str], at: int, strong: bool) -> Found | None:
    if kind == "flight":
        match = _FLIGHT.match(text, at)
        if not match or (match["bare"] and _QUANTITY.match(text, match.end())):
            return None
        value = match["bare"] or (match["line"] + match["number"])
        return Found(kind, value.upper(), match.start(), match.end())
    match = _CODE.match(text, at)
    if not match or not _is_code(text, kind, cue, match, strong):
        return None
    value = match.group()
    if kind == "product" and value[:3].upper() == "SKU" and len(value) > 4:
        value = value[3:].lstrip("-_")
    return Found(kind, value.lower() if kind == "user" else value.upper(), match.start(), match.end())


def _is_code(text: str, kind: str, cue: re.Match[str], match: re.Match[str], strong: bool) -> bool:
    value = match.group()
    digits = sum(character.isdigit() for character in value)
    if not digits:
        return (
            kind == "reservation"
            and len(value) == 6
            and value.isupper()
            and value.lower() not in _WORDS_NOT_CODES
            and (strong or not cue.group().isupper())
        )
    if digits < len(value):
        mixed = digits >= 2 or (strong and len(value) >= 3) or (kind == "reservation" and len(value) == 6)
        return mixed and not re.fullmatch(
            r"\d+(?:st|nd|rd|th|x|k|am|pm|h|kg|gb|mb|-\w+)", value, re.IGNORECASE
        )
    if (
        digits < 3
        or re.match(r"[.,:/]\d", text[match.end() : match.end() + 2])
        or _QUANTITY.match(text, match.end())
    ):
        return False
    if strong:
        return True
    if digits < 5 and re.search(
        r"\b(?:is|was|are|were|of|with|as)\s+$|,\s*$", text[max(0, match.start() - 6) : match.start()], re.I
    ):
        return False
    before = text[max(0, cue.start() - 24) : cue.start()]
    return not (_VERB_BEFORE.search(before) and _NOUN_AFTER.match(text, match.end()))
