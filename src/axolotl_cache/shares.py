"""Who holds how much of something bounded, and who holds most.

Source: Ghodsi et al., Dominant resource fairness, 2011 (one number for several bounds: the share of the one
that is used most).
"""

from __future__ import annotations

import heapq
from typing import Final

_ROUNDING: Final = 1e-9
"""Sums of the same parts in another order are equal."""


class Shares:
    """The shares of several owners. Not thread-safe. A change costs O(log owners) over time."""

    def __init__(self) -> None:
        self._held: dict[str, float] = {}
        # (-share, owner), some of them out of date: found when they come up
        self._heap: list[tuple[float, str]] = []

    def of(self, owner: str) -> float:
        """Return what an owner holds."""
        return self._held.get(owner, 0.0)

    def set(self, owner: str, share: float) -> None:
        """Note what an owner holds now; 0 forgets it."""
        if share <= 0:
            self._held.pop(owner, None)
            return
        self._held[owner] = share
        heapq.heappush(self._heap, (-share, owner))
        if len(self._heap) > 2 * len(self._held) + 64:
            self._heap = [(-share, owner) for owner, share in self._held.items()]
            heapq.heapify(self._heap)

    def largest(self, asking: str, wanted: float) -> str | None:
        """Return who would hold most if `asking` had `wanted` more; of equals, whoever asks.

        Returns:
            Somebody who holds something; None if nobody does.
        """
        while self._heap and self._held.get(self._heap[0][1]) != -self._heap[0][0]:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        most, owner = -self._heap[0][0], self._heap[0][1]
        is_asking = asking in self._held and self._held[asking] + wanted >= most - _ROUNDING
        return asking if is_asking else owner

    def __contains__(self, owner: object) -> bool:
        return owner in self._held

    def __len__(self) -> int:
        return len(self._held)
