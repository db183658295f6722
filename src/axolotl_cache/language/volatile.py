"""What changes from request to request and means little: times, dates, ids. Found, named and masked."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_MONTHS: Final = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_CLOCK: Final = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[ap]\.?m\b\.?)?"
_ZONE: Final = r"(?:\s?(?:z|utc|gmt|[a-z]{3,4}t)\b|\s?[+-]\d{2}:?\d{2})?"
_DATE: Final = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{4}年\d{1,2}月\d{1,2}日"
    rf"|(?:{_MONTHS})\.?\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{4}}|\d{{1,2}}(?:st|nd|rd|th)?\s(?:{_MONTHS})\.?,?\s\d{{4}}"
)
_SINCE_EPOCH: Final = r"\b1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?\b"
_TIME: Final = rf"(?:{_DATE})(?:[t,\s]\s?(?:at\s)?{_CLOCK})?{_ZONE}|\b{_CLOCK}{_ZONE}|{_SINCE_EPOCH}"
_ID: Final = (
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b(?=[0-9a-z_-]*\d)(?:req|request|trace|span|run|sess|session|chatcmpl|call|msg|conv|id)[-_][0-9a-z_-]{6,}\b"
    r"|\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b"
)
_VOLATILE: Final = re.compile(rf"(?P<time>{_TIME})|(?P<id>{_ID})", re.IGNORECASE)
_SOME: Final = re.compile(r"\d")


def masked(text: str, kind: str = "") -> str:
    """Return the text with times and dates as `<time>`, and ids as `<id>`; or with those of one kind only."""
    return _masked(text, kind) if _SOME.search(text) else text


# System prompts come with every request; of 10,000 characters, masking one takes milliseconds.
@lru_cache(maxsize=256)
def _masked(text: str, kind: str) -> str:
    def mask(match: re.Match[str]) -> str:
        return f"<{match.lastgroup}>" if kind in ("", match.lastgroup) else match[0]

    # All that is volatile stands on one line, and has a digit in it: most lines need no look.
    lines = text.split("\n")
    return "\n".join(_VOLATILE.sub(mask, line) if _SOME.search(line) else line for line in lines)


def kinds_in(text: str) -> frozenset[str]:
    """Return which kinds of volatile content a text has: `time`, `id`."""
    return frozenset(match.lastgroup or "" for match in _VOLATILE.finditer(text))


def first_of(text: str, kind: str) -> str:
    """Return the first volatile piece of a kind; empty if there is none."""
    return next((match[0] for match in _VOLATILE.finditer(text) if match.lastgroup == kind), "")
