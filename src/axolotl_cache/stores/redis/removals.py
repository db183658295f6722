"""What was removed on this machine and is still to be passed on, and what may have to be said again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import inf, nextafter
from threading import Lock
from typing import Final

from axolotl_cache.clock import Clock
from axolotl_cache.stores.base import Record

SAID_AGAIN_SECONDS: Final = 3600.0
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed: what meets every condition, of what there was at that time."""

    at: float
    keys: tuple[str, ...] | None = None
    tag: str | None = None
    created_before: float | None = None
    is_erasure: bool = False

    def later(self) -> Removal:
        """Return what is to be removed when it is done later: not what was stored since."""
        latest = nextafter(self.at, inf)
        return replace(
            self, created_before=latest if self.created_before is None else min(latest, self.created_before)
        )

    def covers(self, key: str, record: Record) -> bool:
        """Whether a record is of those that were removed."""
        before = self.at if self.created_before is None else min(self.at, self.created_before)
        return (
            (self.keys is None or key in self.keys)
            and (self.tag is None or self.tag in record.tags)
            and (record.created_at < before or (self.created_before is None and record.created_at == before))
        )


class Removals:
    """Removals by this process, until all have heard of them, and for an hour after.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._waiting: deque[Removal] = deque(maxlen=_MOST)
        self._said: deque[Removal] = deque(maxlen=_MOST)

    @property
    def waiting(self) -> int:
        """How many are still to be passed on."""
        return len(self._waiting)

    def add(self, removal: Removal) -> None:
        """Note one that is to be passed on."""
        with self._lock:
            self._waiting.append(removal)

    def passed_on(self, removal: Removal) -> None:
        """Note that it was."""
        with self._lock:
            if removal in self._waiting:
                self._waiting.remove(removal)
            self._said.append(removal)

    def to_pass_on(self) -> list[Removal]:
        """Return those that wait, the oldest first."""
        with self._lock:
            return list(self._waiting)

    def covers(self, key: str, record: Record) -> bool:
        """Whether a record from the servers is one that they should not have any more."""
        return bool(self._waiting) and any(each.covers(key, record) for each in self.to_pass_on())

    def say_again(self) -> None:
        """The servers may have lost some: pass on once more what they may not have done, nor others heard."""
        with self._lock:
            oldest = self._clock() - SAID_AGAIN_SECONDS
            self._waiting.extendleft(reversed([each for each in self._said if each.at >= oldest]))
            self._said.clear()
