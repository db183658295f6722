"""Values as logs write them: times, numbers and texts in many shapes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

_NEWEST_SECONDS = 1e11
"""Larger times are not seconds: milliseconds since the epoch begin at 1e12, microseconds at 1e15."""


def seconds(value: Any) -> float | None:
    """Return a time in seconds: from seconds, milliseconds, micro- or nanoseconds, or an ISO 8601 text."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return seconds(float(text))
        except ValueError:
            pass
        return _from_iso(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        return None
    found = float(value)
    while found > _NEWEST_SECONDS:
        found /= 1000
    return found


def _from_iso(text: str) -> float | None:
    head, point, rest = text.replace("Z", "+00:00").partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    # Some write seven digits behind the point, one more than datetime knows.
    text = f"{head}{point}{rest[: min(digits, 6)]}{rest[digits:]}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def count(value: Any) -> int | None:
    """Return a number of tokens, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = int(value)
    except (ValueError, OverflowError):
        return None
    return found if found >= 0 else None


def number(value: Any) -> float | None:
    """Return a finite number from 0, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if isfinite(value) and value >= 0 else None


def word(value: Any) -> str:
    """Return a name or id as text; empty for what is none."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def content(value: Any) -> str:
    """Return the text of a message: a text, a list of parts as in OpenAI's API, or nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_part(part) for part in value)
    return "" if value is None else as_json(value)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    return as_json(part)


def messages(value: Any) -> tuple[tuple[str, str], ...]:
    """Return role and text of each message; what a message has beside its text counts as text, too.

    Raises:
        ValueError: not a list of messages.
    """
    return tuple(_messages(value))


def _messages(value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError("`messages` is no list with a message in it")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError("a message has no `role`")  # noqa: TRY004 damaged input, not a wrong call
        text = content(message.get("content"))
        if message.get("tool_calls"):
            text += as_json(message["tool_calls"])
        yield message["role"], text


def tools(value: Any) -> tuple[str, ...]:
    """Return each tool as JSON; nothing for what is no list."""
    return tuple(as_json(tool) for tool in value) if isinstance(value, list) else ()


def texts(value: Any) -> tuple[str, ...]:
    """Return the texts of a list."""
    found: Iterable[Any] = value if isinstance(value, list) else ()
    return tuple(each for each in found if isinstance(each, str))


def as_json(value: Any) -> str:
    """Return JSON, in the order that the log has."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
