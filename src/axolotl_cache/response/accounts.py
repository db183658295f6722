"""What an entry carries beside its value: its kind, and what making it took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
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
    """What hits have saved. Noting one costs an append; they are added up now and then, and when asked."""

    def __init__(self) -> None:
        self._noted: list[str] = []
        self._by_model: dict[str, Cost] = {}
        self._lock = Lock()

    def note(self, cost: str) -> None:
        """Note a hit on an entry with this cost, as it is stored."""
        self._noted.append(cost)
        if len(self._noted) >= _NOTES_AT_ONCE:
            self._add_up()

    def total(self, prices: PriceTable) -> Saved:
        """Return what all hits together saved."""
        self._add_up()
        with self._lock:
            each = [prices.saved_by_answer(cost, 0.0) for cost in self._by_model.values()]
        money = [saved.money for saved in each if saved.money is not None]
        return Saved(
            tokens=sum(saved.tokens for saved in each),
            seconds=sum(saved.seconds for saved in each),
            money=sum(money, Decimal(0)) if money else None,
            currency=prices.currency if money else "",
        )

    def forget_after_fork(self) -> None:
        """In a forked child: the lock may have been held by a thread that is not there."""
        self._lock = Lock()

    def _add_up(self) -> None:
        with self._lock:
            count = len(self._noted)
            noted = self._noted[:count]
            del self._noted[:count]  # others may have noted more meanwhile
            for text in noted:
                new = as_cost(decode_cost(text))
                old = self._by_model.get(new.model, Cost(0, 0, 0.0))
                self._by_model[new.model] = Cost(
                    old.prompt_tokens + new.prompt_tokens,
                    old.completion_tokens + new.completion_tokens,
                    old.seconds + new.seconds,
                    old.cached_tokens + new.cached_tokens,
                    new.model,
                )
