"""What an entry carries beside its value: its kind, and what making it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from axolotl_cache.response import strict_json

KINDS: Final = ("", "static", "dynamic", "realtime")
MOST_CHARACTERS: Final = 2000


def checked_kind(kind: str) -> str:
    """Return `kind` if there is such a kind.

    Raises:
        ValueError: there is not; the message names those that there are.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is 'static', 'dynamic', 'realtime' or '', not {kind!r}")
    return kind


def encode_cost(cost: Mapping[str, Any] | None) -> str:
    """Return a JSON object, or nothing for None.

    Raises:
        TypeError: something in it is not JSON.
        ValueError: it is above 2,000 characters.
    """
    if cost is None:
        return ""
    strict_json.to_bytes(dict(cost), "the cost")
    text = json.dumps(dict(cost), separators=(",", ":"))
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"cost is a small account, of at most {MOST_CHARACTERS} characters of JSON, and this one has "
            f"{len(text)}: keep what is larger in the value"
        )
    return text


def decode_cost(text: str) -> Mapping[str, Any] | None:
    """Undo `encode_cost`."""
    if not text:
        return None
    cost: Mapping[str, Any] = json.loads(text)
    return cost
