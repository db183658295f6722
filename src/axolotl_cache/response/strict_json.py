"""JSON without loss: what is written here comes back equal, and unequal inputs give unequal texts.

Python's `json` turns tuples into lists and non-str keys into strings, writes NaN, and with `ensure_ascii`
joins two lone surrogates into one character. Each would make two different questions one, so each is
refused or avoided.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

_MOST_LEVELS = 200

_in_order = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_sorted = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def to_bytes(value: Any, what: str, *, sort_keys: bool = False) -> bytes:
    """Return `value` as JSON in UTF-8. Cost: O(size).

    Args:
        value: dicts with str keys, lists, str, int, finite float, bool, None; no subclasses of them.
        what: what to call it in an error.
        sort_keys: order of keys does not matter (for a key) or is to be kept (for a value).

    Raises:
        TypeError: there is anything else in it; the message says where, and what to do.
    """
    _check(value, what, 0)
    try:
        text = (_sorted if sort_keys else _in_order).encode(value)
    except ValueError as error:  # an integer of more digits than Python converts
        raise TypeError(f"{what}: {error}") from None
    return text.encode("utf-8", "surrogatepass")


def from_bytes(payload: bytes) -> Any:
    """Return the value that `to_bytes` was given, built anew."""
    return json.loads(payload.decode("utf-8", "surrogatepass"))


def _check(value: Any, where: str, level: int) -> None:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return
    if level > _MOST_LEVELS:
        raise TypeError(
            f"{where[:200]}: more than {_MOST_LEVELS} levels, or a structure that contains itself"
        )
    if kind is list:
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", level + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(
                    f"{where}: the key {key!r} is {_named(type(key))}; JSON has str keys only: convert it"
                )
            _check(item, f"{where}[{key!r}]", level + 1)
    elif kind is float:
        if not isfinite(value):
            raise TypeError(f"{where}: {value} is not JSON; use None or a string in its place")
    else:
        raise TypeError(f"{where}: {_named(kind)} is not JSON; {_advice(kind)}")


def _advice(kind: type) -> str:
    if issubclass(kind, tuple | set | frozenset):
        return "make it a list"
    for plain in (bool, int, float, str, dict, list):
        if issubclass(kind, plain):
            return f"it would come back as {_named(plain)}: convert it first, with {plain.__name__}(...)"
    if hasattr(kind, "model_dump"):
        return "use its model_dump(mode='json')"
    if hasattr(kind, "__dataclass_fields__"):
        return "use dataclasses.asdict(...)"
    return "use str, int, float, bool, None, lists and dicts of them"


def _named(kind: type) -> str:
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
