"""The store in memory, as one that threads share: the near side where nothing is kept on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import RLock
from typing import Final

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.stores.base import Departure, Record, Stamp
from axolotl_cache.stores.memory import MemoryStore
from axolotl_cache.stores.policies import Policy

_REMEMBERED: Final = 1000


class LocalStore:
    """Records in this process's memory, with a lock, and a memory for what was removed on purpose.

    Args:
        capacity: most entries.
        policy: who goes first; its own.
        max_bytes: most bytes; None is no bound.
    """

    def __init__(self, capacity: int, *, policy: Policy, max_bytes: int | None) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.damaged = 0
        self.erasures = 0
        self._records = MemoryStore(capacity, policy=policy, max_bytes=max_bytes)
        self._removed: OrderedDict[str, float] = OrderedDict()
        self._lock = RLock()

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return self._records.size_bytes

    def __len__(self) -> int:
        return len(self._records)

    def generation(self) -> int:
        """Return always the same: nobody else has it."""
        return 0

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not."""
        return self._records.get(key)

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        return self._records.version(key)

    def stamp(self, key: str) -> Stamp | None:
        """Return version and expiry as they are now."""
        record = self._records.get(key)
        return None if record is None else Stamp(record.version, record.expires_at)

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, if that is recent."""
        return self._removed.get(key)

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys, or those with a tag, the lowest rank first."""
        with self._lock:
            return self._records.keys(tag=tag)

    def touch(self, key: str) -> None:
        """Note that `key` was used just now."""
        with self._lock:
            self._records.touch(key)

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record` expire at `expires_at` instead."""
        with self._lock:
            self._records.postpone(key, record, expires_at)

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`; return what had to go."""
        with self._lock:
            self._removed.pop(key, None)
            return self._records.put(key, record, now)

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        with self._lock:
            return self._records.discard(key, version)

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given."""
        with self._lock:
            gone = self._records.remove(now, keys=keys, tag=tag, created_before=created_before)
            self._removed.update(dict.fromkeys(gone, now))
            while len(self._removed) > _REMEMBERED:
                self._removed.popitem(last=False)
            return gone

    def expire(self, now: float) -> list[str]:
        """Remove everything expired and return its keys."""
        with self._lock:
            return self._records.expire(now)

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag; None is everything."""
        with self._lock:
            before = self._records.size_bytes
            gone = self._records.remove(0.0, tag=tag)
            self._removed.clear()
            self.erasures += 1
            return ErasureReport(len(gone), 0, before - self._records.size_bytes)

    def check_invariants(self) -> None:
        """Raise AssertionError where the bookkeeping is off; for tests."""
        self._records.check_invariants()

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            self._records.close()

    def forget_after_fork(self) -> None:
        """In a forked child: no other thread is there to give the lock back."""
        self._lock = RLock()
