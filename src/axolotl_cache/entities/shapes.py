"""Codes that need no word before them, as their shape says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from axolotl_cache.entities.found import Found

_EDGE = r"(?<![A-Za-z0-9_.#/@-])"
_END = r"(?![A-Za-z0-9_@]|-\w)"
_SHAPES = (
    ("user", re.compile(rf"{_EDGE}[a-z]{{2,20}}_[a-z]{{2,20}}_\d{{3,6}}{_END}", re.IGNORECASE | re.ASCII)),
    ("tracking", re.compile(rf"{_EDGE}1Z[0-9A-Z]{{16}}{_END}", re.IGNORECASE | re.ASCII)),
    ("tracking", re.compile(rf"{_EDGE}(?:SF|YT|JDV?[A-C]|JT|ZTO|STO|YD)\d{{10,15}}{_END}", re.ASCII)),
    ("order", re.compile(rf"{_EDGE}(?:ORD|ORDER|PO)-?\d[\dA-Z-]{{2,24}}{_END}", re.ASCII)),
    ("product", re.compile(rf"{_EDGE}SKU[-_]?(?P<id>[A-Z0-9][A-Z0-9-]{{2,24}}){_END}", re.ASCII)),
)
_POSTAL = re.compile(rf"{_EDGE}[A-Z]{{2}}\d{{9}}[A-Z]{{2}}{_END}", re.ASCII)
_IBAN = re.compile(rf"{_EDGE}[A-Z]{{2}}\d\d(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{_END}", re.ASCII)
_HASH = re.compile(r"(?<![\w#&/])#\s?(?P<id>[A-Za-z]{0,4}-?\d[\dA-Za-z-]{2,24})(?![\w-])", re.ASCII)
_OTHER_HASH = re.compile(
    r"(?:\b(?:ticket|issue|case|room|gate|pr|bug|page|section|question|option|step|colou?r|hex|apartment|apt|suite|unit|"
    r"level|number|no|seat|channel|chapter|background|claim|incident|job|build|commit|task|item|table|invoice)s?\.?|工单|问题|第)\s{0,2}$",
    re.IGNORECASE,
)
_LOCATOR = re.compile(rf"{_EDGE}(?=[A-Z]{{0,5}}\d)(?=\d{{0,5}}[A-Z])[A-Z0-9]{{6}}{_END}", re.ASCII)
_NOT_A_LOCATOR = re.compile(r"[A-Z]{1,4}\d{2,5}|\d+[A-Z]{1,3}|[A-Z]+\d", re.ASCII)
_FLIGHT_LIKE = re.compile(rf"{_EDGE}(?P<line>[A-Z]{{2,3}}|[A-Z]\d|\d[A-Z])\d{{2,4}}{_END}", re.ASCII)


def shaped(text: str) -> Iterator[Found]:
    """Yield the codes that their shape alone gives away."""
    for kind, pattern in _SHAPES:
        for match in pattern.finditer(text):
            value = match["id"] if kind == "product" else match.group()
            yield Found(kind, value.lower() if kind == "user" else value.upper(), match.start(), match.end())
    for match in _POSTAL.finditer(text):
        if has_postal_check(match.group()):
            yield Found("tracking", match.group(), match.start(), match.end())
    for match in _IBAN.finditer(text):
        value = match.group().replace(" ", "")
        if is_iban(value):
            yield Found("account", value, match.start(), match.end())


def hashed(text: str) -> Iterator[Found]:
    """Yield what only a "#" announces: an order, unless the word before says otherwise."""
    if "#" not in text:
        return
    for match in _HASH.finditer(text):
        value = match["id"]
        before = text[max(0, match.start() - 16) : match.start()]
        if sum(character.isdigit() for character in value) < 3 or _OTHER_HASH.search(before):
            continue
        yield Found("order", value.upper(), match.start(), match.end())


def locators(text: str) -> Iterator[Found]:
    """Yield record locators of airlines that stand alone: six capitals and digits, well mixed."""
    for match in _LOCATOR.finditer(text):
        if not _NOT_A_LOCATOR.fullmatch(match.group()):
            yield Found("reservation", match.group(), match.start(), match.end())


def flights_of(text: str, airlines: frozenset[str]) -> Iterator[Found]:
    """Yield flights of airlines that the same text has named with the word "flight".

    Args:
        text: folded.
        airlines: letters that stand before the numbers of its other flights.
    """
    for match in _FLIGHT_LIKE.finditer(text):
        if match["line"] in airlines:
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
