"""Words that point back: "it", "that order", "the other one", 它, 那个订单, 第二个."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from axolotl_cache.entities.found import any_of
from axolotl_cache.entities.nouns import CHINESE, DEFINITE_ALONE, ENGLISH
from axolotl_cache.language.numerals import chinese_value

Way = Literal["it", "one", "noun", "nth", "last", "previous", "other", "former", "latter", "both", "all"]

_NTH = {
    word: nth
    for nth, words in enumerate(("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th"), 1)
    for word in words.split()
}
_ENDS = (
    r"(?=\s*(?:[,.?!;:)\"']|$|\b(?:"
    + any_of(
        "please too also as instead and or is was has have had will should can could would to for from now"
    )
    + r"|then|did|does|got|came|arrived|needs?)\b))"
)
_THE = "(?:the|that|this|my|your|our|same|said)"
_ENGLISH_WAYS: tuple[tuple[Way, str], ...] = (
    ("both", "(?:both(?: of)?(?: (?:these|those|my|the))?|(?:these|those|the|my) two) {noun}s"),
    ("both", "both(?: of)? (?:them|these|those)|both(?! [a-z]+s\\b)"),
    ("all", "all(?: of)? (?:them|these|those)(?: {noun}s)?"),
    ("nth", f"(?:{_THE} )?(?:very )?{{nth}} (?:one|{{noun}})"),
    ("nth", f"the {{nth}}{_ENDS}"),
    ("last", f"{_THE} (?:last|latest|newest) (?:one|{{noun}})|the last{_ENDS}"),
    ("previous", f"{_THE} (?:previous|earlier) (?:one|{{noun}})|the previous{_ENDS}"),
    ("other", f"{_THE} other (?:one|{{noun}})|the other{_ENDS}"),
    ("former", f"the former(?: one| {{noun}}|{_ENDS})"),
    ("latter", f"the latter(?: one| {{noun}}|{_ENDS})"),
    ("all", "(?:the|my|these|those) (?:same )?{noun}s"),
    (
        "noun",
        f"{_THE} (?:same |very |whole )?{{noun}}(?! (?:method|option|insurance)|(?<=day) (?:after|before))",
    ),
    ("one", "that one|this one|the same one"),
    ("all", "(?:them|those|these)(?! (?:[a-z]+ )?[a-z]+s\\b)"),
    ("it", "(?:it|its|it's)(?!')"),
)
_PIECE = "[个個张張笔份件条单款]"
_CHINESE_WAYS: tuple[tuple[Way, str], ...] = (
    ("both", f"(?:这|那|上述)?(?:两|二|2){_PIECE}(?:都|全)?{{noun}}?"),
    ("all", "它们"),
    ("nth", f"第{{nth}}{_PIECE}{{noun}}?"),
    ("former", "前者"),
    ("latter", "后者"),
    ("other", f"(?:另外?那?一?|其他那?){_PIECE}{{noun}}?"),
    ("last", f"最后(?:那|一)?一?{_PIECE}{{noun}}?"),
    ("previous", f"(?:上|前|之前)那?一?{_PIECE}{{noun}}?"),
    ("noun", "(?:[这那該该此](?:[个個张張笔份件条款些])?|上面(?:的|那个)?|上述|同一?个|我的){noun}"),
    ("noun", "(?:刚才|之前)(?:的|那个|说的){noun}"),
    ("noun", "(?P<unit>[这那此]一?单)"),
    ("one", f"[这那]一?{_PIECE}"),
    ("it", "它|牠"),
    (
        "noun",
        "(?<![下新别他的什么哪些几个一如何怎多少无查])(?P<bare>"
        + "|".join(sorted(DEFINITE_ALONE))
        + ")(?![号编量数总的价])",
    ),
)


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


class Phrases:
    """Finds phrases that point back.

    Args:
        own: names of the user's own kinds; each is an English noun of its own, with spaces for `_`.
    """

    def __init__(self, own: Sequence[str] = ()) -> None:
        english = dict(ENGLISH) | {name.replace("_", " "): (name,) for name in own}
        self._english = _Finder(_ENGLISH_WAYS, english, "|".join(_NTH), r"(?<![a-z])(?:{})(?![a-z])")
        self._chinese = _Finder(_CHINESE_WAYS, CHINESE, r"[一二三四五六七八九十]|\d{1,2}", "{}")

    def find(self, low: str) -> Iterator[Phrase]:
        """Yield the phrases of a folded text in small letters, English ones first. Cost: linear."""
        for phrase in self._english.find(low):
            if not (phrase.way == "it" and _says_nothing(low, phrase)):
                yield phrase
        if not low.isascii():
            yield from self._chinese.find(low)


@lru_cache(maxsize=16)
def phrases_of(own: tuple[str, ...]) -> Phrases:
    """Return the finder for these own kinds. Making one takes 20 ms, and conversations are many."""
    return Phrases(own)


class _Finder:
    """All ways of one language in one pattern."""

    def __init__(
        self, ways: Sequence[tuple[Way, str]], nouns: Mapping[str, tuple[str, ...]], nth: str, frame: str
    ) -> None:
        noun = "|".join(re.escape(each) for each in sorted(nouns, key=len, reverse=True))
        self._ways = [way for way, _ in ways]
        self._nouns = nouns
        self._pattern = re.compile(
            frame.format(
                "|".join(
                    f"(?P<w{at}>{template.replace('{noun}', f'(?:{noun})').replace('{nth}', f'(?:{nth})')})"
                    for at, (_, template) in enumerate(ways)
                )
            )
        )
        self._noun = re.compile(rf"({noun})s?$")
        self._nth = re.compile(nth)

    def find(self, low: str) -> Iterator[Phrase]:
        for match in self._pattern.finditer(low):
            way = self._ways[int(str(match.lastgroup)[1:])]
            phrase = match.group()
            noun = self._noun.search(phrase)
            nth = self._nth.search(phrase) if way == "nth" else None
            yield Phrase(
                match.start(),
                match.end(),
                way,
                self._nouns[noun[1]] if noun else (),
                _count(nth.group()) if nth else 0,
            )


def _count(word: str) -> int:
    if word in _NTH:
        return _NTH[word]
    return int(word) if word.isdigit() else chinese_value(word)


_ADJECTIVES = any_of(
    "nice great good fine ok okay possible impossible important helpful better best true raining easier hard",
    "difficult necessary urgent like that just_that too_bad a_pity a_shame allowed normal",
    "alright time cheaper faster",
)
_EMPTY_AFTER = re.compile(
    r"\s*(?:(?:'s|is|was|will be|would be|'d be|has been|might be|seems?|looks?|sounds?|feels?)\s+"
    r"(?:\w+\s+){0,2}?"
    rf"(?:{_ADJECTIVES})\b|(?:'s|is|was)\s+(?:the|an?|just|only|me|my)\b"
    r"|(?:would (?:really |also )?)?"
    r"(?:help|seem|appear|turn out|happen|depend|matter|make sense|mean)s?\b"
    r"|doesn't matter|(?:'s| is| was) because\b| is but\b)"
)
_EMPTY_BEFORE = re.compile(
    r"\b(?:got|here|appreciate|that is|that's|make|made|leave|mean|believe|hate|love|get|worth|take) $"
)
_EMPTY_ASKED = re.compile(rf"(?:is|was|would|will|be) it (?:be |also |still )?(?:{_ADJECTIVES})\b")


def _says_nothing(low: str, phrase: Phrase) -> bool:
    """Return whether "it" stands for nothing, as in "it would be nice"."""
    return bool(
        _EMPTY_AFTER.match(low, phrase.start + 2)
        or _EMPTY_BEFORE.search(low, max(0, phrase.start - 16), phrase.start)
        or _EMPTY_ASKED.search(low, max(0, phrase.start - 6), phrase.end + 24)
    )
