"""Kinds of the user's own, by pattern, and why none of them can take for ever.

Python's `re` tries every way in which a pattern can match, and has no time limit: `(a+)+b` takes years on
fifty letters. So a pattern is checked before it is used. A repeat without an end ends after `MAX_REPEATS`,
and the number of ways in which the pattern can be tried at one place is bounded by `MAX_WAYS`: the time is
then linear in the text, whatever stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_REPEATS = 64
"""An identifier longer than this is none."""
MAX_WAYS = MAX_REPEATS * MAX_REPEATS
MAX_HARD_TEXT = 4_000
"""Characters in which a pattern with more than `MAX_REPEATS` ways is looked for: each may take 50 us."""
MAX_PATTERN = 500
"""Characters."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|\{\d*,\}|[*+]|.", re.DOTALL)
_QUANTIFIABLE_END = re.compile(r"[*+?}]$")


class OwnKind:
    r"""A kind of entity that a user adds, as `OwnKind("ticket", r"TCK-\d{4,8}")`.

    A match is taken only where no letter, digit or underscore of ASCII touches it. Its first group, if it has
    one, is the value. Letters of the value become capitals, unless `case_sensitive`.

    Args:
        name: small letters, digits and `_`, beginning with a letter; none of the built-in kinds.
        pattern: a regular expression of Python.
        case_sensitive: whether `ab-1` and `AB-1` are two things.

    Raises:
        ValueError: the name or the pattern can't be used; the message says why, and what to write instead.
    """

    def __init__(self, name: str, pattern: str, *, case_sensitive: bool = False) -> None:
        from axolotl_cache.entities.model import BUILT_IN

        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} can't name a kind of entity: write small letters, digits and _, at most 32 of them"
            )
        if name in BUILT_IN:
            raise ValueError(f"the kind {name!r} is built in: choose another name")
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"the kind {name!r} needs a regular expression, not {pattern!r}")
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"the pattern of {name!r} is longer than {MAX_PATTERN} characters")
        self.name = name
        self.pattern = pattern
        self.case_sensitive = case_sensitive
        self._compiled, ways = _compiled(name, pattern, re.NOFLAG if case_sensitive else re.IGNORECASE)
        self._is_hard = ways > MAX_REPEATS

    def find(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield (value, start, end) for each match. Cost: at most linear in the text."""
        for match in self._compiled.finditer(text, 0, MAX_HARD_TEXT if self._is_hard else len(text)):
            group = 1 if self._compiled.groups else 0
            value = match[group]
            if not value or not value.strip():
                continue
            value = " ".join(value.split())
            yield (value if self.case_sensitive else value.upper()), match.start(group), match.end(group)


def _compiled(name: str, pattern: str, flags: re.RegexFlag) -> tuple[re.Pattern[str], int]:
    """Return the pattern in its bounded form, and in how many ways it can be tried at one place."""
    try:
        re.compile(pattern)
        bounded = re.compile(rf"(?<![A-Za-z0-9_])(?:{_bounded(pattern)})(?![A-Za-z0-9_])", flags)
        tree = _parse(bounded.pattern, int(flags))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern of {name!r} is no regular expression: {error}") from None
    if bounded.match(""):
        raise ValueError(f"the pattern of {name!r} matches nothing at all, so it would match everywhere")
    ways = _ways(tree)
    if ways > MAX_WAYS:
        raise ValueError(
            f"the pattern of {name!r} can be tried in more than {MAX_WAYS:,} ways at one place, which takes "
            "too long: write no repeat inside a repeat, no | inside a repeat unless each side begins with "
            r"another character, and bounds like \d{4,10} in place of \d+"
        )
    return bounded, ways


def _parse(pattern: str, flags: int) -> Any:
    # Private, and the only way to see a pattern as Python itself reads it: what was public is deprecated.
    from re import _parser  # type: ignore[attr-defined]

    return _parser.parse(pattern, flags)


def _bounded(pattern: str) -> str:
    """Return the pattern with an end to every repeat that has none."""
    if re.search(r"\(\?[a-z]*x", pattern):
        raise re.error("the flag x is not allowed here")
    parts: list[str] = []
    for match in _PART.finditer(pattern):
        part = match.group()
        # A + after a quantifier makes it possessive.
        before = parts[-1] if parts else ""
        if part == "+" and not (len(before) > 1 and before.startswith("{")) and before not in {"?"}:
            part = f"{{1,{MAX_REPEATS}}}"
        elif part == "*":
            part = f"{{0,{MAX_REPEATS}}}"
        elif part.startswith("{") and part.endswith(",}"):
            least = int(part[1:-2] or 0)
            part = f"{{{least},{least + MAX_REPEATS}}}"
        parts.append(part)
    return "".join(parts)


def _ways(tree: Iterable[Any]) -> int:
    """Return a bound on the ways to match at one place; never more than one above `MAX_WAYS`."""
    ways = 1
    for operation, argument in tree:
        ways = min(ways * _ways_of(str(operation), argument), MAX_WAYS + 1)
    return ways


def _ways_of(operation: str, argument: Any) -> int:
    if operation in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
        return _ways_of_repeat(*argument)
    if operation == "BRANCH":
        sides = argument[1]
        first = [
            chr(side[0][1]).lower() if len(side) and str(side[0][0]) == "LITERAL" else "" for side in sides
        ]
        apart = "" not in first and len(set(first)) == len(first)
        return max(map(_ways, sides)) if apart else sum(map(_ways, sides))
    inside = {
        "SUBPATTERN": lambda: argument[-1],
        "ASSERT": lambda: argument[1],
        "ASSERT_NOT": lambda: argument[1],
        "ATOMIC_GROUP": lambda: argument,
    }.get(operation)
    if inside:
        return _ways(inside())
    return MAX_WAYS + 1 if operation == "GROUPREF_EXISTS" else 1


def _ways_of_repeat(least: int, most: int, part: Any) -> int:
    inner = _ways(part)
    # With one way each, only how often is open. Else every repeat multiplies.
    if inner == 1:
        return int(most) - int(least) + 1
    return MAX_WAYS + 1 if most > 12 else min(sum(inner**n for n in range(least, most + 1)), MAX_WAYS + 1)
