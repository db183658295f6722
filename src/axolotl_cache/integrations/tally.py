"""Counts that several threads add to."""

from __future__ import annotations

from collections import Counter
from threading import Lock


class Tally:
    """How often each reason came up."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def add(self, reason: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[reason] += 1

    def counts(self) -> dict[str, int]:
        """Return the counts as they are now."""
        with self._lock:
            return dict(self._counts)
