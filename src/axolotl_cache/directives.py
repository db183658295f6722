"""What stands in a `Cache-Control` header: its grammar, and nothing of its meaning."""

from __future__ import annotations

import re
from typing import Final

_LARGEST_DELTA_SECONDS: Final = 2**31
"""What a larger number counts as."""

# Commas within a quoted string separate nothing.
_ELEMENT: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_DIRECTIVE: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(.*))?", re.DOTALL)


def directives(header: str) -> dict[str, list[str | None]]:
    """Return the arguments of each directive, by its name in small letters; None for one without.

    What has no name is left out. A name with an impossible argument is not: it was meant.

    Source: RFC 9111, section 5.2.
    """
    found: dict[str, list[str | None]] = {}
    for element in _ELEMENT.findall(header):
        match = _DIRECTIVE.fullmatch(element.strip())
        if match:
            found.setdefault(match[1].lower(), []).append(match[2])
    return found


def delta_seconds(argument: str | None) -> float | None:
    """Return a number of seconds, or None for what is none; a quoted one is read, too.

    Source: RFC 9111, section 1.2.2.
    """
    digits = (argument or "").strip('"')
    if not (digits.isascii() and digits.isdigit()):
        return None
    # Not every number of digits can be converted.
    return float(_LARGEST_DELTA_SECONDS if len(digits) > 10 else min(int(digits), _LARGEST_DELTA_SECONDS))
