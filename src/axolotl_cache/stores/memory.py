"""The store in this process's memory: the first tier of every cache."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace

from axolotl_cache.budget import Ghosts
from axolotl_cache.stores.base import Departure, Record, entry_bytes
from axolotl_cache.stores.policies import LruPolicy, Policy

_USES_AT_ONCE = 256
"""So that far less than one hit in a hundred is the one that tells the policy."""


class MemoryStore:
    """Records in a dict, and a policy that says who goes first. Nothing outlives the process.

    Uses are collected and told to the policy together, at the next change or when there are 256, so that a
    hit costs one append whatever the policy.

    Has no lock of its own: whoever changes it holds one, and renews that one in a forked child.

    Args:
        capacity: most entries held.
        policy: who goes first; its own, shared with nobody. None: `lru`.
        max_bytes: most bytes held, as `entry_bytes` counts them; None is no bound. It may be changed: less
            takes effect with `shrink`.
        ghosts: is told what is evicted, and what having it again would save by `saved_seconds`.
        saved_seconds: of a record.
    """

    def __init__(
        self,
        capacity: int,
        *,
        policy: Policy | None = None,
        max_bytes: int | None = None,
        ghosts: Ghosts | None = None,
        saved_seconds: Callable[[Record], float] = lambda record: 1.0,
    ) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.ghosts = ghosts
        self._saved_seconds = saved_seconds
        self._policy = LruPolicy() if policy is None else policy
        self._records: dict[str, Record] = {}
        self.get: Callable[[str], Record | None] = self._records.get
        """Returns the record, expired or not, or None; the dict's own, as every hit asks it twice."""
        self._used: list[str] = []
        # (expires_at, version, key), some of records gone meanwhile: cheaper than removing from the middle
        self._deadlines: list[tuple[float, int, str]] = []

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        record = self._records.get(key)
        return None if record is None else record.version

    def rank(self, key: str) -> int:
        """Return its rank as of the last `tell_uses`, the lowest going first; -1 for a key not here."""
        return self._policy.rank(key) if key in self._policy else -1

    def touch(self, key: str) -> None:
        """Note that `key` was used just now."""
        self._used.append(key)
        if len(self._used) >= _USES_AT_ONCE:
            self.tell_uses()

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead."""
        if self.version(key) == record.version:
            later = self._records[key] = replace(record, expires_at=expires_at)
            self._note_deadline(key, later)

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`; return what had to go. Cost: O(log entries)."""
        size = entry_bytes(key, record)
        self.tell_uses()
        if self.max_bytes is not None and size > self.max_bytes:
            self._drop(key)
            return [Departure(key, "too large")]
        old = self._records.get(key)
        if old is not None:
            self.size_bytes -= entry_bytes(key, old)
        self._records[key] = record
        self.size_bytes += size
        self._policy.add(key)
        self._note_deadline(key, record)
        if not self._is_over():
            return []
        departed = [Departure(gone, "expired") for gone in self.expire(now)]
        while self._is_over():
            departed.append(self._evict(self._policy.judge(self._policy.lowest(spare=key))))
        return departed

    def shrink(self, now: float) -> list[Departure]:
        """Let go of what is more than `max_bytes` allows; return what had to go."""
        self.tell_uses()
        departed = [Departure(gone, "expired") for gone in self.expire(now)] if self._is_over() else []
        while self._records and self._is_over():
            departed.append(self._evict(self._policy.judge(self._policy.lowest(spare=""))))
        return departed

    def _evict(self, key: str) -> Departure:
        record = self._records.get(key)
        if record is not None and self.ghosts is not None:
            self.ghosts.evicted(key, entry_bytes(key, record), self._saved_seconds(record))
        self._drop(key)
        return Departure(key, "evicted")

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
        self.tell_uses()
        for key in chosen:
            self._drop(key)
        if chosen and keys is None:  # so that no list names them any more
            self._renew_deadlines()
        return chosen

    def expire(self, now: float) -> list[str]:
        """Remove everything expired and return its keys. Cost: O(expired * log entries)."""
        gone: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, version, key = heapq.heappop(self._deadlines)
            record = self._records.get(key)
            if record is not None and record.version == version and not record.is_live(now):
                self._drop(key)
                gone.append(key)
        return gone

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys, or those with a tag, the lowest rank first. Cost: O(entries)."""
        self.tell_uses()
        order = self._policy.order()
        return order if tag is None else [key for key in order if tag in self._records[key].tags]

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        """Drop everything."""
        for key in list(self._records):
            self._drop(key)
        self._deadlines.clear()
        self._used.clear()

    def check_invariants(self) -> None:
        """Raise AssertionError where the bookkeeping disagrees with the records; for tests."""
        records = self._records
        facts = {
            "more entries than the capacity": len(records) <= self.capacity,
            "more bytes than max_bytes": self.max_bytes is None or self.size_bytes <= self.max_bytes,
            "size_bytes is off": self.size_bytes == sum(entry_bytes(k, r) for k, r in records.items()),
            "the policy knows others": sorted(self._policy.order()) == sorted(records),
            "a deadline is missing": {
                (r.expires_at, r.version, k) for k, r in records.items() if r.expires_at is not None
            }
            <= set(self._deadlines),
        }
        wrong = [what for what, holds in facts.items() if not holds]
        if wrong:
            raise AssertionError("; ".join(wrong))

    def _is_over(self) -> bool:
        return len(self._records) > self.capacity or (
            self.max_bytes is not None and self.size_bytes > self.max_bytes
        )

    def _drop(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is not None:
            self.size_bytes -= entry_bytes(key, record)
            self._policy.drop(key)

    def tell_uses(self) -> None:
        """Let the policy know of all uses up to now."""
        used, self._used = self._used, []
        for key in used:
            self._policy.hit(key)

    def _note_deadline(self, key: str, record: Record) -> None:
        if record.expires_at is None:
            return
        heapq.heappush(self._deadlines, (record.expires_at, record.version, key))
        if len(self._deadlines) > 2 * len(self._records) + 64:
            self._renew_deadlines()

    def _renew_deadlines(self) -> None:
        self._deadlines = [
            (r.expires_at, r.version, k) for k, r in self._records.items() if r.expires_at is not None
        ]
        heapq.heapify(self._deadlines)
