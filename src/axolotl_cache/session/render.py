"""How a record stands in a prompt, and where.

Behind the system message's own text, which more requests share than any record, and before the conversation:
the order of what changes least. In the system message itself, as many templates know only one, and at its
place only. Without a system message it stands before the first user message, because a system message of ours
would take the place of the one that the template puts in by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from axolotl_cache.request import Message

LONGEST_RECORD_CHARACTERS: Final = 8_000


def record_text(name: str, content: Mapping[str, Any] | str) -> str:
    """Return the text of a record: a line that says of what, and a line for each value.

    Equal records give equal texts, in every process.

    Raises:
        TypeError: a value is nothing that JSON knows.
    """
    if isinstance(content, str):
        lines = content.splitlines()
    else:
        lines = [f"{_line(key)}: {_value(value)}" for key, value in content.items()]
    return "\n".join([f"Record of {name}:", *(line for line in lines if line.strip())])


def digest(text: str) -> str:
    """Return 32 hexadecimal digits that stand for a record's text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=b"axc-record").hexdigest()


def place(messages: Sequence[Message], texts: Sequence[str]) -> tuple[Message, ...]:
    """Return a conversation with records in it, in this order; without records, as it is."""
    if not texts:
        return tuple(messages)
    index = last_system(messages)
    if index is not None:
        message = messages[index]
        joined = replace(message, content="\n\n".join([message.content, *texts]))
    else:
        index = next((i for i, m in enumerate(messages) if m.role == "user"), 0)
        message = messages[index]
        joined = replace(message, content="\n\n".join([*texts, message.content]))
    return (*messages[:index], joined, *messages[index + 1 :])


def last_system(messages: Sequence[Message]) -> int | None:
    """Return the index of the last of the system messages at the beginning; None if there is none."""
    last = None
    for index, message in enumerate(messages):
        if message.role not in {"system", "developer"}:
            break
        last = index
    return last


def without_special(text: str, special: Sequence[str]) -> str:
    """Return a text in which no special token is written out: a record is data, and ends no message."""
    for token in special:
        if token:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _line(value)
    return json.dumps(value, ensure_ascii=False, default=_json)


def _json(value: Any) -> str:
    # Dates and decimal numbers, as databases return them, say themselves what they are.
    if type(value).__module__ in {"datetime", "decimal", "uuid"}:
        return str(value)
    raise TypeError(f"a record holds texts, numbers, lists and dicts; {type(value).__name__} is none of them")


def _line(text: Any) -> str:
    return " ".join(str(text).split())
