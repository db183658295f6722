"""The store in this process's memory: the first tier of every cache."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable

from axolotl_cache.stores.base import Departure, Record


class MemoryStore:
    """Records in an ordered dict, least recently used first. Nothing outlives the process.

    Has no lock of its own: whoever changes it holds one, and renews that one in a forked child.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size_bytes = 0
        self._records: OrderedDict[str, Record] = OrderedDict()
        # (expires_at, version, key), some of records gone meanwhile: cheaper than removing from the middle
        self._deadlines: list[tuple[float, int, str]] = []

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not, or None."""
        return self._records.get(key)

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        record = self._records.get(key)
        return None if record is None else record.version

    def touch(self, key: str) -> None:
        """Note that `key` was used just now."""
        try:
            self._records.move_to_end(key)
        except KeyError:
            return

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key` as the most recently used; return what had to go. Cost: O(log entries)."""
        self._drop(key)
        self._records[key] = record
        self.size_bytes += len(record.payload)
        if record.expires_at is not None:
            heapq.heappush(self._deadlines, (record.expires_at, record.version, key))
            if len(self._deadlines) > 2 * len(self._records) + 64:
                self._rebuild_deadlines()
        if len(self._records) <= self.capacity:
            return []
        departed = [Departure(gone, "expired") for gone in self.expire(now)]
        while len(self._records) > self.capacity:
            oldest = next(iter(self._records))
            self._drop(oldest)
            departed.append(Departure(oldest, "evicted"))
        return departed

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        if self.version(key) != version:
            return False
        self._drop(key)
        return True

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove what meets every condition given, and return its keys. Cost: O(entries) without `keys`."""
        chosen = [
            key
            for key in (list(self._records) if keys is None else dict.fromkeys(keys))
            if (record := self._records.get(key)) is not None
            and (tag is None or tag in record.tags)
            and (created_before is None or record.created_at < created_before)
        ]
        for key in chosen:
            self._drop(key)
        return chosen

    def expire(self, now: float) -> list[str]:
        """Remove everything expired and return its keys. Cost: O(expired * log entries)."""
        gone: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, version, key = heapq.heappop(self._deadlines)
            if self.discard(key, version):
                gone.append(key)
        return gone

    def keys(self) -> list[str]:
        """Return all keys, least recently used first."""
        return list(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Drop everything."""
        self._records.clear()
        self._deadlines.clear()
        self.size_bytes = 0

    def check_invariants(self) -> None:
        """Raise AssertionError where the bookkeeping disagrees with the records; for tests."""
        records = self._records
        facts = {
            "more entries than the capacity": len(records) <= self.capacity,
            "size_bytes is off": self.size_bytes == sum(len(r.payload) for r in records.values()),
            "a deadline is missing": {(r.version, k) for k, r in records.items() if r.expires_at is not None}
            <= {(version, key) for _, version, key in self._deadlines},
        }
        wrong = [what for what, holds in facts.items() if not holds]
        if wrong:
            raise AssertionError("; ".join(wrong))

    def _drop(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is not None:
            self.size_bytes -= len(record.payload)

    def _rebuild_deadlines(self) -> None:
        self._deadlines = [
            (r.expires_at, r.version, k) for k, r in self._records.items() if r.expires_at is not None
        ]
        heapq.heapify(self._deadlines)
