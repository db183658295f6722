"""Counting what is frequent in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

P = TypeVar("P")


class FrequentItems(Generic[P]):
    """Counts items, and forgets the rare ones when there are too many.

    An item's count is at most `missed` too small, and whatever occurs more often than that is there.

    Args:
        limit: most items held at a time.

    Source: Manku and Motwani, Approximate frequency counts over data streams (VLDB 2002).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[int, int] = {}
        self._notes: dict[int, P] = {}
        self.missed = 0
        """How much a count may be too small."""

    def add(self, item: int, note: Callable[[], P]) -> int:
        """Count an item; `note` is called at its first use, and the result is kept. Returns the count."""
        count = self._found.get(item, 0) + 1
        if count == 1:
            if len(self._found) >= self._limit:
                self._forget()
            self._notes[item] = note()
        self._found[item] = count
        return count

    def _forget(self) -> None:
        while len(self._found) > self._limit // 2:
            self.missed += 1
            missed = self.missed
            self._found = {item: count for item, count in self._found.items() if count > missed}
        self._notes = {item: self._notes[item] for item in self._found}

    def count(self, item: int) -> int:
        """Return how often an item was counted; 0 if it is not held."""
        return self._found.get(item, 0)

    def note(self, item: int) -> P:
        """Return the note of an item that is held."""
        return self._notes[item]

    def __iter__(self) -> Iterator[tuple[int, int, P]]:
        """Yield item, count and note."""
        for item, count in self._found.items():
            yield item, count, self._notes[item]

    def __len__(self) -> int:
        """Items held."""
        return len(self._found)
