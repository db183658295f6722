"""What to do about a medium that fails: leave it alone for a while, and say so once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from axolotl_cache.clock import Clock

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class Outage:
    """Pauses after each failure, twice as long as after the one before, up to a minute.

    Args:
        clock: seconds.
        report: gets one line when things begin to fail.
        what: what can't be done, for the line.
    """

    def __init__(self, clock: Clock, report: Callable[[str], None], what: str) -> None:
        self._clock = clock
        self._report = report
        self._what = what
        self._failures = 0
        self._until = 0.0
        self._reported_at: float | None = None

    def active(self) -> bool:
        """Whether it is still too early to try again."""
        # A clock that was set back does not make the pause longer than it was meant.
        return self._failures > 0 and 0 < self._until - self._clock() <= _LONGEST_PAUSE_SECONDS

    def failed(self, error: BaseException) -> None:
        """Note a failure; reported if it is the first, and things had not begun to fail just before, too."""
        now = self._clock()
        pause = _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10)
        self._until = now + min(_LONGEST_PAUSE_SECONDS, pause)
        self._failures += 1
        if self._failures == 1 and not self._recently_reported(now):
            self._reported_at = now
            line = f"warning: {self._what}: {error} (going on without; it is tried again by itself)"
            with suppress(Exception):  # who can't be told, for a closed terminal, is no reason to stop
                self._report(line)

    def over(self) -> None:
        """Note that it went well."""
        self._failures = 0

    def _recently_reported(self, now: float) -> bool:
        return self._reported_at is not None and 0 <= now - self._reported_at < _LONGEST_PAUSE_SECONDS
