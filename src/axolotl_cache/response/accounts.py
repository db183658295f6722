"""What an entry carries beside its value: its kind, and what making it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from threading import Lock
from typing import Any, Final

from axolotl_cache.request import Saved
from axolotl_cache.response import strict_json
from axolotl_cache.response.prices import Cost, PriceTable

KINDS: Final = ("", "static", "dynamic", "realtime")
MOST_CHARACTERS: Final = 2000
_NOTES_AT_ONCE: Final = 1024


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


def as_cost(cost: Mapping[str, Any] | None) -> Cost:
    """Return what was given to `set`, or measured, as a `Cost`; what it does not say counts as nothing."""
    said = cost or {}
    model = said.get("model")
    return Cost(
        prompt_tokens=int(_number(said, "prompt_tokens")),
        completion_tokens=int(_number(said, "completion_tokens")),
        seconds=_number(said, "seconds"),
        cached_tokens=int(_number(said, "cached_tokens")),
        model=model if isinstance(model, str) else "",
    )


def measured(value: Any, seconds: float) -> dict[str, Any]:
    """Return what computing `value` took: the seconds, and the tokens where it is an API's response."""
    usage = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(usage, dict):
        return {"seconds": seconds}
    model = value.get("model")
    return asdict(Cost.from_usage(usage, seconds=seconds, model=model if isinstance(model, str) else ""))


def _number(cost: Mapping[str, Any], name: str) -> float:
    value = cost.get(name, 0)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


class Savings:
    """What hits have saved. Noting one costs an append; they are added up now and then, and when asked.

    Args:
        prices: of the models that the entries' costs name; no name is kept.
    """

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices
        self._noted: list[str] = []
        self._total = Saved()
        self._lock = Lock()

    def note(self, cost: str) -> None:
        """Note a hit on an entry with this cost, as it is stored."""
        self._noted.append(cost)
        if len(self._noted) >= _NOTES_AT_ONCE:
            self.add_up()

    def add_up(self) -> Saved:
        """Return what all hits so far saved together, and forget which they were."""
        with self._lock:
            count = len(self._noted)
            noted = self._noted[:count]
            del self._noted[:count]  # others may have noted more meanwhile
            for text in noted:
                self._total += self._prices.saved_by_answer(as_cost(decode_cost(text)), 0.0)
            return self._total

    def forget_after_fork(self) -> None:
        """In a forked child: the lock may have been held by a thread that is not there."""
        self._lock = Lock()
