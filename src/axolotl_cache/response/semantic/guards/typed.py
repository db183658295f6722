"""Guards over what has a normal form: numbers, ids, dates, amounts, names, languages."""

from __future__ import annotations

import re

from axolotl_cache.response.semantic.facts.model import Facts
from axolotl_cache.response.semantic.guards.veto import Veto, veto
from axolotl_cache.response.semantic.lexicon import lexicon

_OPTIONAL = frozenset({"1"})


def numbers(a: Facts, b: Facts) -> Veto | None:
    """Veto unless both have the same numbers. 1 may be missing, as "one" and "a" are not read as numbers."""
    left, right = a.numbers - b.numbers - _OPTIONAL, b.numbers - a.numbers - _OPTIONAL
    return veto("numbers", left, right) if left or right else None


def ids(a: Facts, b: Facts) -> Veto | None:
    """Veto unless both have the same identifiers; a name with digits may be written as one word or as two."""
    left = {i for i in a.ids - b.ids if not _said(i, b)}
    right = {i for i in b.ids - a.ids if not _said(i, a)}
    return veto("ids", left, right) if left or right else None


def _said(name: str, facts: Facts) -> bool:
    text = facts.text if name != name.lower() else facts.text.lower()
    return len(name) > 3 and name.replace("-", "") in text.replace(" ", "").replace("-", "")


def dates(a: Facts, b: Facts) -> Veto | None:
    """Veto unless both have the same dates and times; "tomorrow" only if both were said on the same day.

    "today" may be missing where the other text has no date at all: a question without one is asked of now.
    """
    left = {d for d in a.dates - b.dates if not _told(d, b)}
    right = {d for d in b.dates - a.dates if not _told(d, a)}
    if a.day != b.day:
        left |= {d for d in a.dates if d.startswith("relative:")}
        right |= {d for d in b.dates if d.startswith("relative:")}
    return veto("dates", left, right) if left or right else None


def _told(day: str, facts: Facts) -> bool:
    """Return whether the other text may mean the same: "today" and nothing, 3 o'clock and 3 pm."""
    if day == "relative:day+0":
        return not facts.dates
    form, _, rest = day.partition(":")
    if form not in {"clock", "time"}:
        return False
    hour, minute = map(int, rest.split(":"))
    other = "time" if form == "clock" else "clock"
    hours = (hour % 24, (hour + 12) % 24) if form == "clock" else (hour, hour % 12, hour % 12 or 12)
    forms = [f"{h:02}:{minute:02}" if other == "time" else f"{h}:{minute:02}" for h in hours]
    return any(f"{other}:{f}" in facts.dates for f in forms)


def amounts(a: Facts, b: Facts) -> Veto | None:
    """Veto unless both have the same amounts with units; a single unit ("an hour") may be missing."""
    left = {x for x in a.amounts - b.amounts if not _single(x)}
    right = {x for x in b.amounts - a.amounts if not _single(x)}
    return veto("amounts", left, right) if left or right else None


def _single(amount: str) -> bool:
    return amount in {"1 time", "60 time", "3600 time", "86400 time", "604800 time", "1 months", "12 months"}


def entities(a: Facts, b: Facts) -> Veto | None:
    """Veto if each names something that the other does not: one name stands in another's place."""
    left = {name for name in a.entities - b.entities if not _mentioned(name, b)}
    right = {name for name in b.entities - a.entities if not _mentioned(name, a)}
    if left and right:
        return veto("entities", left, right)
    return _case(a.text, b.text)


def _case(a: str, b: str) -> Veto | None:
    """Veto if a word that is another one as a name is a name in one text only: Polish, polish; US, us."""
    if not (a[:1].isupper() and b[:1].isupper()) or a.isupper() or b.isupper():
        return None  # these users do not write capitals, or nothing but capitals
    left, right = set(re.findall(r"(?<=[a-z,] )[A-Za-z]+", a)), set(re.findall(r"(?<=[a-z,] )[A-Za-z]+", b))
    for word in sorted(left - right):
        for other in sorted(right - left):
            if word.lower() == other.lower() and word.lower() in lexicon().case_matters:
                return Veto("entities", word, other)
    return None


def _mentioned(name: str, facts: Facts) -> bool:
    """Return whether the name stands in the text after all, in small letters for one."""
    return (
        all(part in facts.tokens or part in facts.content for part in name.split())
        or name in facts.text.lower()
    )


def languages(a: Facts, b: Facts) -> Veto | None:
    """Veto if the texts are in two languages, or ask for answers in two."""
    if a.answer_languages != b.answer_languages:
        return veto(
            "languages", a.answer_languages - b.answer_languages, b.answer_languages - a.answer_languages
        )
    if a.language and b.language and a.language != b.language:
        return Veto("languages", a.language, b.language)
    return None
