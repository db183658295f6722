"""What was served over time, in bounded memory: fine for the last hour, coarser the longer ago.

As round-robin databases do it: the newest ring is counted into, and a slot that is over is added to the
coarser rings. A request costs one slot's counters, whatever span can be shown.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from axolotl_cache.observe.record import Record
from axolotl_cache.observe.tally import Tally

RINGS: Final = ((10.0, 360), (120.0, 720), (1800.0, 336))
"""Seconds a slot, and slots: an hour, a day, a week."""


@dataclass(slots=True)
class Slot:
    """One slot of time."""

    start: float
    """Seconds since the epoch."""
    served: dict[str, Tally] = field(default_factory=dict)
    failures: int = 0

    def merge(self, other: Slot) -> None:
        """Count all that another has counted."""
        self.failures += other.failures
        for name, theirs in other.served.items():
            self.of(name).merge(theirs)

    def of(self, served: str) -> Tally:
        """Return the part of one tier, made if need be."""
        found = self.served.get(served)
        if found is None:
            found = self.served[served] = Tally()
        return found


class Series:
    """Rings of slots. Not safe for threads by itself: the observer's lock guards it.

    Memory: about 4 KB a tier and slot that saw it. There are 1,416 slots: 11 MB where 2 tiers serve day and
    night for a week, and 27 MB where 5 do.

    Args:
        rings: (seconds a slot, slots) of each, finest first; each slot a whole number of the finer one's.
    """

    def __init__(self, rings: tuple[tuple[float, int], ...] = RINGS) -> None:
        self._seconds = tuple(seconds for seconds, _ in rings)
        self._rings: tuple[deque[Slot], ...] = tuple(deque(maxlen=slots) for _, slots in rings)
        self._open = Slot(0.0)
        self._open_until = 0.0
        self._before = Slot(0.0)

    def add(self, record: Record, now: float) -> None:
        """Count one request that ended now. Cost: 3 us; a slot's end, every 10 s, 100 us."""
        if now >= self._open_until:
            self._begin(now)
        if record.status != "ok":
            self._open.failures += 1
        else:
            self._open.of(record.served).add(record)

    def totals(self) -> dict[str, Tally]:
        """Return what was counted since the start, by tier. Cost: 30 us a tier."""
        whole = Slot(0.0)
        whole.merge(self._before)
        whole.merge(self._open)
        return whole.served

    def window(self, seconds: float, now: float, points: int) -> list[Slot]:
        """Return the last so many seconds as slots of equal length, oldest first, empty ones included.

        Args:
            seconds: how far back.
            now: seconds since the epoch.
            points: slots at the most; they are as long as needed.
        """
        which = next(
            (n for n, (each, ring) in enumerate(zip(self._seconds, self._rings, strict=True))
             if seconds <= each * (ring.maxlen or 0)),
            len(self._rings) - 1,
        )  # fmt: skip
        each = self._seconds[which]
        wide = each * max(1, -(-int(seconds // each) // points))
        end = (now // wide + 1) * wide
        count = max(1, round(seconds / wide))
        slots = [Slot(end - (count - n) * wide) for n in range(count)]
        first = slots[0].start
        # The coarser rings get a slot when it is over: what is still open comes from the finer ones.
        covered = 0.0
        for ring, length in list(zip(self._rings, self._seconds, strict=True))[which::-1]:
            for slot in ring:
                if slot.start >= max(covered, first):
                    slots[min(int((slot.start - first) // wide), count - 1)].merge(slot)
            if ring:
                covered = max(covered, ring[-1].start + length)
        if self._open.start >= max(first, covered) and self._open_until:
            slots[min(int((self._open.start - first) // wide), count - 1)].merge(self._open)
        return slots

    def _begin(self, now: float) -> None:
        """Close the slot that is open, and open the one that `now` falls into."""
        if self._open_until and (self._open.served or self._open.failures):
            self._rings[0].append(self._open)
            self._before.merge(self._open)
            for n in range(1, len(self._rings)):
                self._hand_on(n, now)
        each = self._seconds[0]
        self._open = Slot(now // each * each)
        self._open_until = self._open.start + each

    def _hand_on(self, n: int, now: float) -> None:
        """Add to ring `n` each whole slot of its own that is over and not there yet."""
        length, ring, finer = self._seconds[n], self._rings[n], self._rings[n - 1]
        over = now // length * length
        done = ring[-1].start + length if ring else 0.0
        due: dict[float, Slot] = {}
        for slot in reversed(finer):
            if slot.start < done:
                break
            start = slot.start // length * length
            if start < over:
                due.setdefault(start, Slot(start)).merge(slot)
        ring.extend(due[start] for start in sorted(due))
