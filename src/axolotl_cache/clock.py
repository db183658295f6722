"""Time as an argument: caches are given a clock, tests give them one that they turn by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since the epoch. Wall-clock time, because TTLs outlive the process that set them."""

wall_clock: Clock = time.time


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_seconds: float = 1_700_000_000.0) -> None:
        self.now_seconds = now_seconds

    def __call__(self) -> float:
        """Return the current time in seconds."""
        return self.now_seconds

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds`."""
        self.now_seconds += seconds
