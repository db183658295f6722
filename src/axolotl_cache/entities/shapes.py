"""Codes that need no word before them, as their shape says what they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from axolotl_cache.entities.found import Found, Text, any_of

_END = r"(?![A-Za-z0-9_@]|-\w)"
_NOT_BEFORE = frozenset("_.#/@-")
_SHAPES = (
    ("user", re.compile(rf"[a-z]{{2,20}}_[a-z]{{2,20}}_\d{{3,6}}{_END}", re.ASCII), True),
    ("tracking", re.compile(rf"1z[0-9a-z]{{16}}{_END}", re.ASCII), True),
    ("tracking", re.compile(rf"(?:SF|YT|JD|JDV[A-C]|JT|ZTO|STO|YD)\d{{10,15}}{_END}", re.ASCII), False),
    ("order", re.compile(rf"(?:ORD|ORDER|PO)-?\d[\dA-Z-]{{2,24}}{_END}", re.ASCII), False),
    ("product", re.compile(rf"SKU[-_]?(?P<id>[A-Z0-9][A-Z0-9-]{{2,24}}){_END}", re.ASCII), False),
    ("post", re.compile(rf"[A-Z]{{2}}\d{{9}}[A-Z]{{2}}{_END}", re.ASCII), False),
    (
        "iban",
        re.compile(rf"[A-Z]{{2}}\d\d(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{_END}", re.ASCII),
        False,
    ),
)
"""Kind, pattern, and whether it is of small letters."""
_WORD = re.compile(r"[A-Za-z0-9_-]{4,}", re.ASCII)
_HASH = re.compile(r"#(?P<id>[A-Za-z]{0,4}-?\d[\dA-Za-z-]{2,24})(?![\w-])", re.ASCII)
_NUMBERED = any_of(
    "ticket issue case room gate pr bug page section question option step color colour hex apartment",
    "apt suite unit level number no seat channel chapter background claim incident job build commit task",
    "item table invoice",
)
_OTHER_HASH = re.compile(rf"(?:\b(?:{_NUMBERED})s?\.?|工单|问题|第)\s{{0,2}}$")
_LOCATOR = re.compile(rf"(?=[A-Z]{{0,5}}\d)(?=\d{{0,5}}[A-Z])[A-Z0-9]{{6}}{_END}", re.ASCII)
_LISTED = re.compile(rf"(?:,|,? and|,? or|和|、|或) ?(?P<code>[A-Z]{{6}}){_END}", re.ASCII)
_NOT_A_LOCATOR = re.compile(r"[A-Z]{1,4}\d{2,5}|\d+[A-Z]{1,3}|[A-Z]+\d", re.ASCII)
_FLIGHT_LIKE = re.compile(rf"(?P<line>[A-Z]{{2,3}}|[A-Z]\d|\d[A-Z])\d{{2,4}}{_END}", re.ASCII)


def shaped(text: Text) -> Iterator[Found]:
    """Yield the codes that their shape alone gives away."""
    for start in _starts(text):
        for kind, pattern, small in _SHAPES:
            match = pattern.match(text.low if small else text.whole, start)
            if match:
                found = _shaped(kind, match)
                if found:
                    yield found
                    break


def _shaped(kind: str, match: re.Match[str]) -> Found | None:
    value = match.group()
    if kind == "post":
        return Found("tracking", value, match.start(), match.end()) if has_postal_check(value) else None
    if kind == "iban":
        value = value.replace(" ", "")
        return Found("account", value, match.start(), match.end()) if is_iban(value) else None
    if kind == "product":
        value = match["id"]
    return Found(kind, value if kind == "user" else value.upper(), match.start(), match.end())


def _starts(text: Text) -> Iterator[int]:
    """Yield where words of letters and digits begin that no sign of something longer touches."""
    whole = text.whole
    for word in _WORD.finditer(whole):
        if not word.group().isalpha():
            start = word.start()
            if whole[start] not in "-_" and not (start and whole[start - 1] in _NOT_BEFORE):
                yield start


def hashed(text: Text) -> Iterator[Found]:
    """Yield what only a "#" announces: an order, unless the word before says otherwise."""
    if "#" not in text.low:
        return
    for match in _HASH.finditer(text.whole):
        value, start = match["id"], match.start()
        before = text.low[start - 1 : start]
        if (
            sum(map(str.isdigit, value)) < 3
            or before in {"#", "&", "/", "_"}
            or (before.isascii() and before.isalnum())
        ):
            continue
        if not _OTHER_HASH.search(text.low, max(0, start - 16), start):
            yield Found("order", value.upper(), start, match.end())


def locators(text: Text) -> Iterator[Found]:
    """Yield record locators of airlines that stand alone: six capitals and digits, well mixed."""
    for start in _starts(text):
        match = _LOCATOR.match(text.whole, start)
        if match and not _NOT_A_LOCATOR.fullmatch(match.group()):
            yield Found("reservation", match.group(), match.start(), match.end())
            listed = _LISTED.match(text.whole, match.end())
            if listed:
                yield Found("reservation", listed["code"], listed.start("code"), listed.end("code"))


def flights_of(text: Text, airlines: Collection[str]) -> Iterator[Found]:
    """Yield flights of airlines that have been named with the word "flight".

    Args:
        text: folded.
        airlines: letters that stand before the numbers of their other flights.
    """
    for start in _starts(text):
        match = _FLIGHT_LIKE.match(text.whole, start)
        if match and match["line"] in airlines:
            yield Found("flight", match.group(), match.start(), match.end())


def airline(flight: str) -> str:
    """Return the letters before a flight's number; empty if there are none."""
    match = re.match(r"[A-Z]{2,3}(?=\d)|[A-Z]\d(?=\d{3})|\d[A-Z](?=\d)", flight)
    return match.group() if match else ""


def has_postal_check(code: str) -> bool:
    """Return whether the ninth digit of a postal code of 13 characters is right (UPU standard S10)."""
    total = sum(
        int(digit) * weight for digit, weight in zip(code[2:10], (8, 6, 4, 2, 3, 5, 9, 7), strict=True)
    )
    return {10: 0, 11: 5}.get(11 - total % 11, 11 - total % 11) == int(code[10])


def is_iban(code: str) -> bool:
    """Return whether the check digits of an international account number are right (ISO 13616)."""
    return 15 <= len(code) <= 34 and int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1
