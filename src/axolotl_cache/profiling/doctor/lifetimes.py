"""Answers that were there once and are gone when they are asked for again: expired, or evicted."""

from __future__ import annotations

from typing import Final

from axolotl_cache.profiling.record import Record
from axolotl_cache.profiling.sampled import SampledTrace
from axolotl_cache.profiling.stack_distance import distances, lru_curve

_HELD: Final = 300_000
_KEYS: Final = 200_000


class Lifetimes:
    """Follows answers from the request that stored them.

    Where the log says what served a request, that is believed; what can be told then is what really happened.
    Elsewhere a cache with the settings given is imagined.

    Args:
        ttl_seconds: in force, where the log has none of its own; None if it is not known.
        entries: in force; None if it is not known.
    """

    def __init__(self, *, ttl_seconds: float | None, entries: int | None) -> None:
        self._ttl = ttl_seconds
        self._entries = entries
        self._stored: dict[int, tuple[float, float | None]] = {}
        self._trace = SampledTrace(_KEYS)
        self._response_cache_seen = False
        self.requests = 0
        self.expired = 0
        """Requests whose answer was stored, and too old."""
        self.gone = 0
        """Requests whose answer was stored, not too old, and not there: evicted, or lost in a restart."""
        self.gaps: list[float] = []
        """Seconds from storing to asking, of expired answers; the first 10,000."""

    def see(self, record: Record, key: int) -> None:
        """Take a request, with the key of its answer."""
        self.requests += 1
        if not record.is_repeatable or record.arrived_seconds is None:
            return
        at = record.arrived_seconds
        self._trace.add(at, (key,), 1)
        self._response_cache_seen |= record.served == "hit-exact"
        if record.served == "hit-exact":
            return
        before = self._stored.get(key)
        ttl = record.ttl_seconds if record.ttl_seconds is not None else self._ttl
        if before is not None:
            stored_at, stored_ttl = before
            fresh = stored_ttl is None or at - stored_at < stored_ttl
            if not fresh:
                self.expired += 1
                if len(self.gaps) < 10_000:
                    self.gaps.append(at - stored_at)
            elif record.served:
                self.gone += 1
            else:  # nobody says: in a cache without a bound it is a hit, and nothing new is stored
                return
        if not record.not_stored:
            if len(self._stored) >= _HELD:
                del self._stored[next(iter(self._stored))]
            self._stored[key] = (at, ttl)

    def evicted(self) -> int:
        """Return how many requests found their answer evicted: seen in the log, or by the capacity given."""
        if self._response_cache_seen or self.gone:
            return self.gone if self._response_cache_seen else 0
        if self._entries is None:
            return 0
        curve = lru_curve(self._trace, distances(self._trace))
        return round((curve.most - curve.hit_rate(self._entries)) * self._trace.references)

    def enough_entries(self) -> int:
        """Return the entries that 95 % of the repeats need under lru."""
        return lru_curve(self._trace, distances(self._trace)).capacity_for(0.95)
