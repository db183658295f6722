"""The policy `adaptive` for the prefix tree: what will least likely be used again soon goes, or stays out."""

from __future__ import annotations

from collections import deque

from axolotl_cache.prefix.eviction import Ranking, Uses
from axolotl_cache.prefix.reuse import Kind, ReuseRates, kind_of

_LEAST_WATCHED = 4096
_WATCHED_PER_LEAF = 8
"""Uses whose follow-up is waited for: a request makes some three, and what is watched less long than it could
be held would seem never to be used again."""
_LEARN_EVERY = 32
"""Requests after which rates are made anew, but for one in"""
_WATCHED_PER_REQUEST = 64
"""uses that are watched, so that learning costs the same for each request however many there are."""
_HALF_LIFE_REQUESTS = 8000
"""What was seen counts half after so many requests: conversations' habits change over hours."""


class ReuseRanking(Ranking):
    """Learns while it runs how soon which blocks are used again, and keeps those of the highest rate.

    Blocks that are gone, and those that were never let in, are watched as well, so that it sees what keeping
    them would have given. Until it knows anything it is least recently used first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rates = ReuseRates()
        self._watched: deque[Uses] = deque()
        self._learned_at = 0

    def worth(self, uses: Uses, now_seconds: float) -> float:
        """Return the uses a second to be expected of keeping it."""
        age_seconds = max(0.0, now_seconds - uses.used_at_seconds)
        if not self._rates.is_known:
            return -age_seconds
        return self._rates.worth(_kind(uses), age_seconds)

    def _used(self, before: Uses | None, after: Uses) -> None:
        if before is not None and before.is_open:
            before.is_open = False
            age_seconds = max(0.0, after.used_at_seconds - before.used_at_seconds)
            self._rates.saw(_kind(before), age_seconds, used=True)
        after.is_open = True
        self._watched.append(after)
        while len(self._watched) > max(_LEAST_WATCHED, _WATCHED_PER_LEAF * len(self._leaves)):
            oldest = self._watched.popleft()
            if oldest.is_open:
                oldest.is_open = False
                age_seconds = max(0.0, after.used_at_seconds - oldest.used_at_seconds)
                self._rates.saw(_kind(oldest), age_seconds, used=False)

    def _learn(self, now_seconds: float) -> None:
        since = self._requests - self._learned_at
        if since >= max(_LEARN_EVERY, len(self._watched) // _WATCHED_PER_REQUEST):
            self._learned_at = self._requests
            ages = [(_kind(u), max(0.0, now_seconds - u.used_at_seconds)) for u in self._watched if u.is_open]
            self._rates.learn(ages)
            self._rates.fade(0.5 ** (since / _HALF_LIFE_REQUESTS))


def _kind(uses: Uses) -> Kind:
    return kind_of(uses.requests, uses.new_blocks)
