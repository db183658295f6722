"""How many requests are under way at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush

from axolotl_cache.profiling.record import Record


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Requests under way at a time, and how they arrive."""

    mean: float | None
    """By Little's law: arrivals a second, times seconds under way. None if the log has no durations."""
    p95: int | None
    """At 95 of 100 arrivals, at most so many were under way, the new one included."""
    peak: int | None
    requests_per_second: float | None
    """None if the log has no times."""
    span_seconds: float | None
    peak_requests_per_second: float | None
    """In the busiest minute."""
    unordered: int
    """Requests that stand behind a later one in the log."""


class ConcurrencyCounter:
    """Takes requests in the order of the log; a heap of ends tells how many are under way at each arrival."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._under_way = Counter[int]()
        self._first = self._last = 0.0
        self._seen = self._timed = self._unordered = 0
        self._busy_seconds = 0.0
        self._minute, self._in_minute, self._most_in_minute = 0.0, 0, 0

    def see(self, record: Record) -> None:
        """Count a request."""
        at = record.arrived_seconds
        if at is None:
            return
        if not self._seen:
            self._first = self._last = self._minute = at
        self._seen += 1
        self._unordered += at < self._last
        self._first, self._last = min(self._first, at), max(self._last, at)
        self._count_minute(at)
        if record.total_seconds is None:
            return
        self._timed += 1
        self._busy_seconds += record.total_seconds
        while self._ends and self._ends[0] <= at:
            heappop(self._ends)
        heappush(self._ends, at + record.total_seconds)
        self._under_way[len(self._ends)] += 1

    def _count_minute(self, at: float) -> None:
        if at - self._minute >= 60:
            self._minute, self._in_minute = at, 0
        self._in_minute += 1
        self._most_in_minute = max(self._most_in_minute, self._in_minute)

    def result(self) -> Concurrency:
        """Return what was seen."""
        span = self._last - self._first
        timed = self._timed >= max(1, self._seen // 2)
        return Concurrency(
            mean=self._busy_seconds / span if timed and span else None,
            p95=self._at(0.95) if timed else None,
            peak=max(self._under_way) if timed else None,
            requests_per_second=self._seen / span if span else None,
            span_seconds=span if self._seen else None,
            peak_requests_per_second=self._most_in_minute / 60 if span >= 60 else None,
            unordered=self._unordered,
        )

    def _at(self, share: float) -> int:
        left = share * sum(self._under_way.values())
        for level, count in sorted(self._under_way.items()):
            left -= count
            if left <= 0:
                return level
        return max(self._under_way, default=0)
