"""What caches did to their own bounds, and why: the last of it, for people."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from axolotl_cache.clock import Clock, wall_clock

KEPT: Final = 64
_TOGETHER_SECONDS: Final = 60.0
"""Steps of one kind that follow each other so soon are one adjustment, with its first and its last bound."""


class Change(StrEnum):
    """What was done."""

    SHRINK = "shrink"
    """Memory ran short, and the caches made room."""
    GROW = "grow"
    """There was memory again."""
    MOVE = "move"
    """Bytes went from one cache to another, where they save more time."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One change of a bound, or several in a row."""

    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    change: Change
    what: str
    """Whose bound, as `prefix cache`; of a move who gives and who takes."""
    before_bytes: int
    after_bytes: int
    """The bound; of a move, that of the one that takes."""
    why: str
    steps: int = 1


class Adjustments:
    """The last adjustments, and how many there were. From any thread; at most 64 are kept.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: deque[Adjustment] = deque(maxlen=KEPT)
        self._counts: Counter[Change] = Counter()

    def note(self, change: Change, what: str, before_bytes: int, after_bytes: int, why: str) -> None:
        """Remember one; it goes on with the last one, if that is of the same kind and not long ago."""
        now = self._clock()
        with self._lock:
            self._counts[change] += 1
            last = self._last[-1] if self._last else None
            if last is not None and self._goes_on(last, change, what, now):
                steps = last.steps + 1
                self._last[-1] = replace(last, ended_at=now, after_bytes=after_bytes, why=why, steps=steps)
            else:
                self._last.append(Adjustment(now, now, change, what, before_bytes, after_bytes, why))

    def last(self) -> tuple[Adjustment, ...]:
        """Return those that are kept, the newest last."""
        with self._lock:
            return tuple(self._last)

    def counts(self) -> dict[str, int]:
        """Return how many steps there were of each kind since the start, of those that are not kept, too."""
        with self._lock:
            return {change.value: self._counts[change] for change in Change}

    @staticmethod
    def _goes_on(last: Adjustment, change: Change, what: str, now: float) -> bool:
        return (last.change, last.what) == (change, what) and now - last.ended_at <= _TOGETHER_SECONDS
