"""Words that point back: "it", "that order", "the other one", 它, 那个订单, 第二个."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from axolotl_cache.language.numerals import chinese_value

Way = Literal["it", "one", "noun", "nth", "last", "previous", "other", "former", "latter", "all"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase that points back, and how it chooses."""

    start: int
    end: int
    way: Way
    kinds: tuple[str, ...]
    """What its noun may name, the likeliest first; empty if it has none."""
    nth: int = 0
    """From 1, for "nth"."""


NOUNS: dict[str, tuple[str, ...]] = {
    "order": ("order",),
    "purchase": ("order",),
    "package": ("tracking", "order"),
    "parcel": ("tracking", "order"),
    "shipment": ("tracking", "order"),
    "tracking number": ("tracking",),
    "tracking": ("tracking",),
    "reservation": ("reservation",),
    "booking": ("reservation",),
    "trip": ("reservation", "flight"),
    "itinerary": ("reservation",),
    "flight": ("flight", "reservation"),
    "card": ("card",),
    "credit card": ("card",),
    "debit card": ("card",),
    "account": ("account",),
    "user id": ("user",),
    "username": ("user",),
    "product": ("product",),
    "item": ("product",),
    "article": ("product",),
    "model": ("product",),
    "link": ("url",),
    "website": ("url",),
    "page": ("url",),
    "url": ("url",),
    "email": ("email",),
    "e-mail": ("email",),
    "email address": ("email",),
    "address": ("email",),
    "phone": ("phone",),
    "phone number": ("phone",),
    "number": ("phone", "tracking", "order", "reservation", "account", "card"),
    "date": ("date",),
    "day": ("date",),
    "amount": ("amount",),
    "sum": ("amount",),
    "charge": ("amount",),
    "payment": ("amount",),
}
HAN_NOUNS: dict[str, tuple[str, ...]] = {
    "订单": ("order",),
    "訂單": ("order",),
    "单": ("order",),
    "单子": ("order",),
    "包裹": ("tracking", "order"),
    "快递": ("tracking", "order"),
    "货": ("tracking", "order"),
    "运单": ("tracking",),
    "快递单": ("tracking",),
    "预订": ("reservation",),
    "预定": ("reservation",),
    "预约": ("reservation",),
    "行程": ("reservation", "flight"),
    "航班": ("flight", "reservation"),
    "飞机": ("flight", "reservation"),
    "信用卡": ("card",),
    "银行卡": ("card",),
    "储蓄卡": ("card",),
    "卡": ("card",),
    "账号": ("account",),
    "账户": ("account",),
    "帐号": ("account",),
    "帐户": ("account",),
    "会员号": ("user",),
    "商品": ("product",),
    "产品": ("product",),
    "东西": ("product", "order"),
    "链接": ("url",),
    "网址": ("url",),
    "网页": ("url",),
    "页面": ("url",),
    "邮箱": ("email",),
    "电话": ("phone",),
    "手机号": ("phone",),
    "号码": ("phone", "tracking", "order", "reservation", "account", "card"),
    "日期": ("date",),
    "金额": ("amount",),
    "钱": ("amount",),
    "费用": ("amount",),
    "款": ("amount",),
}
# A noun without "that" before it is definite often enough in Chinese, but not these.
_NOT_BARE = frozenset(
    {"单", "货", "卡", "款", "钱", "东西", "费用", "飞机", "电话", "金额", "日期", "邮箱", "快递"}
)
_NTH = {
    word: n
    for n, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th"), 1
    )
    for word in words.split()
}
_ENDS = r"(?=\s*(?:[,.?!;:)\"']|$|\b(?:please|too|also|as|instead|and|or|is|was|has|have|had|will|should|can|could|would|to|for|from|as well|then|now|did|does|got|came|arrived|needs?)\b))"


class Phrases:
    """Finds phrases that point back.

    Args:
        own: names of the user's own kinds; each is a noun of its own.
    """

    def __init__(self, own: Sequence[str] = ()) -> None:
        self._nouns = NOUNS | {name.replace("_", " "): (name,) for name in own}
        noun = "|".join(re.escape(each) for each in sorted(self._nouns, key=len, reverse=True))
        han = "|".join(sorted(HAN_NOUNS, key=len, reverse=True))
        nth = "|".join(_NTH)
        self._english = re.compile(
            r"(?<![A-Za-z])(?:"
            rf"(?:(?P<all>both(?: of)?(?: (?:them|these|those|my|the))*|all(?: of)? (?:them|these|those)|(?:these|those|the) two)(?: (?P<alln>{noun})s)?)"
            rf"|(?:(?:the|that|this|my|your|our) )?(?:very )?(?P<nth>{nth}) (?:one|(?P<nthn>{noun}))(?![A-Za-z])"
            rf"|the (?P<bare>{nth}){_ENDS}"
            rf"|(?:the|my|this|that) (?P<which>last|latest|newest|previous|earlier|other|former|latter) (?:one|(?P<whichn>{noun}))(?![A-Za-z])"
            rf"|the (?P<lone>last|previous|other|former|latter){_ENDS}"
            rf"|(?:the|that|this|my|your|same|said|these|those) (?:same |very |whole )?(?P<noun>{noun})(?P<plural>s)?(?![A-Za-z])"
            r"|(?P<one>that one|this one|the same one)(?![A-Za-z])"
            r"|(?P<them>them|those|these)(?![A-Za-z]| [a-z]+s\b)"
            r"|(?P<it>it|its|it's)(?![A-Za-z'])"
            r")",
            re.IGNORECASE,
        )
        self._han = re.compile(
            r"(?P<all>(?:这|那|上述)?(?:两|二|2)[个張张笔个单份件](?:都|全)?|它们|他们俩|都)(?P<alln>"
            + han
            + r")?"
            rf"|第(?P<nth>[一二三四五六七八九十]|\d{{1,2}})[个張张笔份件条单款](?P<nthn>{han})?"
            rf"|(?P<former>前者)|(?P<latter>后者)"
            rf"|(?P<other>另外?那?一?[个张笔份件条单款]|另外那[个张笔份件条单款]|其他那?[个张])(?P<othern>{han})?"
            rf"|(?P<last>最后(?:那|一)?一?[个张笔份件条单款])(?P<lastn>{han})?"
            rf"|(?P<previous>(?:上|前|之前)那?一?[个张笔份件条单款])(?P<previousn>{han})?"
            rf"|(?P<this>[这那該该此][个張张笔份件条款些]?|上面(?:的|那个)?|上述|刚才(?:的|那个|说的)|之前(?:的|那个|说的)|同一?个|我的)(?P<noun>{han})"
            rf"|(?P<one>[这那](?:一)?[个張张笔份件条单款])"
            rf"|(?P<it>它|牠|此单)"
            rf"|(?<![下新别他的什么哪些几个一如何怎多少无个查])(?P<barenoun>{han})(?![号编量数总的价])",
        )

    def find(self, text: str) -> Iterator[Phrase]:
        """Yield the phrases of a folded text from left to right. Cost: linear."""
        for match in self._english.finditer(text):
            phrase = self._read(match)
            if phrase and not (phrase.way == "it" and _says_nothing(text, match)):
                yield phrase
        if text.isascii():
            return
        for match in self._han.finditer(text):
            phrase = _read_han(match)
            if phrase:
                yield phrase

    def _read(self, match: re.Match[str]) -> Phrase | None:
        found = match.groupdict()

        def phrase(way: Way, noun: str | None = None, nth: int = 0) -> Phrase:
            return Phrase(match.start(), match.end(), way, self._nouns.get((noun or "").lower(), ()), nth)

        if found["all"] or found["them"]:
            return phrase("all", found["alln"])
        if found["nth"]:
            return phrase("nth", found["nthn"], _NTH[found["nth"].lower()])
        if found["bare"]:
            return phrase("nth", None, _NTH[found["bare"].lower()])
        which = (found["which"] or found["lone"] or "").lower()
        if which:
            ways: dict[str, Way] = {
                "last": "last",
                "latest": "last",
                "newest": "last",
                "previous": "previous",
                "earlier": "previous",
                "other": "other",
                "former": "former",
                "latter": "latter",
            }
            return phrase(ways[which], found["whichn"])
        if found["noun"]:
            return phrase("all" if found["plural"] else "noun", found["noun"])
        return phrase("one" if found["one"] else "it")


def _read_han(match: re.Match[str]) -> Phrase | None:
    found = match.groupdict()

    def phrase(way: Way, noun: str | None = None, nth: int = 0) -> Phrase:
        return Phrase(match.start(), match.end(), way, HAN_NOUNS.get(noun or "", ()), nth)

    if found["all"]:
        return None if found["all"] == "都" else phrase("all", found["alln"])
    if found["nth"]:
        nth = found["nth"]
        return phrase("nth", found["nthn"], int(nth) if nth.isdigit() else chinese_value(nth))
    for way in ("former", "latter"):
        if found[way]:
            return phrase(way)
    for way in ("other", "last", "previous"):
        if found[way]:
            return phrase(way, found[f"{way}n"] or ("单" if found[way].endswith("单") else None))
    if found["noun"]:
        return phrase("noun", found["noun"])
    if found["one"]:
        return phrase("noun", "单") if found["one"].endswith("单") else phrase("one")
    if found["it"]:
        return phrase("it")
    return None if found["barenoun"] in _NOT_BARE else phrase("noun", found["barenoun"])


_EMPTY_AFTER = re.compile(
    r"\s*(?:(?:'s|is|was|will be|would be|'d be|has been|might be|seems?|looks?|sounds?|feels?)\s+(?:\w+\s+){0,2}?"
    r"(?:nice|great|good|fine|ok|okay|possible|impossible|important|helpful|better|best|clear|true|raining|late|early|time|easier|hard|"
    r"difficult|necessary|urgent|like|that|just that|too bad|a pity|a shame|about)\b"
    r"|(?:seems|appears|turns out|happens|depends|doesn't matter|matters|makes sense|helps)\b)",
    re.IGNORECASE,
)
_EMPTY_BEFORE = re.compile(
    r"\b(?:(?:is|was|would|will) (?=it (?:be |also )?(?:possible|ok|okay|fine|better|true|allowed|necessary|normal|easier|alright)\b)"
    r"|got|that's|appreciate|that is|make|made|leave|mean|believe|hate|love|get|worth|take) $",
    re.IGNORECASE,
)
_POSSIBLE = re.compile(
    r"\b(?:is|was|would|will|be) it (?:be |also |still )?(?:possible|ok|okay|fine|better|true|allowed|necessary|normal|easier|alright)\b",
    re.IGNORECASE,
)


def _says_nothing(text: str, match: re.Match[str]) -> bool:
    """Return whether "it" stands for nothing, as in "it would be nice"."""
    before = text[max(0, match.start() - 16) : match.start()]
    after = text[match.start("it") + 2 : match.end() + 48]
    if _POSSIBLE.search(text, max(0, match.start() - 8), match.end() + 24):
        return True
    return bool(_EMPTY_AFTER.match(after) or _EMPTY_BEFORE.search(before))
