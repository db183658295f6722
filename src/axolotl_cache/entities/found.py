"""What a rule is given, and what it hands back."""

from __future__ import annotations

from typing import NamedTuple

_SAME = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0x00A0: " ",
    0x2010: "-",
    0x2011: "-",
    0x2013: "-",
    0x2212: "-",
    0x2018: "'",
    0x2019: "'",
    0x0130: "I",
}
"""One width of digits, letters and signs; the last is the one letter that `lower` would make longer."""


class Text(NamedTuple):
    """A text as the rules see it; all places in it are those of the original."""

    whole: str
    """With one width of letters, digits and signs."""
    low: str
    """The same in small letters. Patterns that ignore case are several times slower than this copy."""
    has_digit: bool


class Found(NamedTuple):
    """An entity's kind, value and place."""

    kind: str
    value: str
    start: int
    end: int


def fold(text: str) -> Text:
    """Return the text in the form that the rules see."""
    whole = text if text.isascii() else text.translate(_SAME)
    return Text(whole, whole.lower(), any(map(str.isdigit, whole)))


def any_of(*words: str) -> str:
    """Return a pattern for any of some words, separated by spaces or one an argument, longest first.

    It begins with a letter at every branch, so that Python's `re` skips quickly to where one can begin.
    """
    every = {part.replace("_", " ") for each in words for part in each.split()}
    return "|".join(sorted(every, key=lambda word: (-len(word), word)))
