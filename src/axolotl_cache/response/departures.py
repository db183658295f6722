"""Why something is not there: a bounded memory of what went, when, and what for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

Reason = Literal["expired", "evicted", "too large", "invalidated", "removed", "lost"]

_WORDS: dict[Reason, str] = {
    "expired": "expired",
    "evicted": "evicted, to keep to the bounds,",
    "too large": "not kept, being larger than max_bytes by itself,",
    "invalidated": "invalidated",
    "removed": "removed by another process",
    "lost": "evicted by another process, or damaged on disk, and found missing",
}


class Departures:
    """The last few thousand entries that went. Used under its owner's lock."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._gone: OrderedDict[str, tuple[Reason, float]] = OrderedDict()

    def note(self, key: str, reason: Reason, at: float) -> None:
        """Remember that `key` went at `at`, in seconds since the epoch."""
        self._gone.pop(key, None)
        self._gone[key] = (reason, at)
        if len(self._gone) > self._most:
            self._gone.popitem(last=False)

    def forget(self, key: str) -> None:
        """It is there again."""
        self._gone.pop(key, None)

    def clear(self) -> None:
        """Remember nothing any more."""
        self._gone.clear()

    def explain(self, key: str, now: float) -> str | None:
        """Return one phrase, as `expired 12.3 s ago`, or None if nothing is remembered."""
        if key not in self._gone:
            return None
        reason, at = self._gone[key]
        return f"{_WORDS[reason]} {max(0.0, now - at):.1f} s ago"
