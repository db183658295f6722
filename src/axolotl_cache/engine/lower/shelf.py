"""A store of blocks together with an index in memory that says, without asking the store, what is in it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final

from axolotl_cache.clock import Clock
from axolotl_cache.engine.lower.block import CODEC, BlockName
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.stores import Record, SharedStore, new_version

_EXPIRE_SECONDS: Final = 60.0


class Shelf:
    """Blocks as bytes by key. Asking whether one is there costs a dict lookup; all else may wait for a disk.

    Two locks. `_changing` is held while the store is changed, so that the store and the index take changes in
    one order. `_lock`, only ever taken inside it and only for moments, guards the index.

    Args:
        store: where the bytes are.
        clock: seconds since the epoch.
        ttl_seconds: blocks that nobody used for this long are forgotten.
    """

    def __init__(self, store: SharedStore, clock: Clock, ttl_seconds: float | None) -> None:
        self._store = store
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._changing = threading.Lock()
        self._lock = threading.Lock()
        # Stored keys, each with the time from which on a use should renew it
        self._index: dict[str, float] = {}
        self._generation: int | None = None
        self._expire_at = -math.inf
        self._damaged_before = store.damaged
        self.renewed_blocks = 0

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def held_bytes(self) -> int:
        """Bytes that the store holds, as it counts them. May wait for a disk."""
        return self._store.size_bytes

    @property
    def max_bytes(self) -> int | None:
        """The store's bound; None is none."""
        return self._store.max_bytes

    @property
    def damaged(self) -> int:
        """Records that the store found damaged, and dropped."""
        return self._store.damaged - self._damaged_before

    def refresh(self) -> None:
        """Take over other processes' changes, and let go of what has expired. Cost: O(blocks) if any came.

        Raises:
            StoreError: the index is as it was.
        """
        with self._changing:
            now = self._clock()
            if not 0 <= now - self._expire_at < _EXPIRE_SECONDS:
                self._expire_at = now
                with suppress(
                    StoreError
                ):  # a disk that takes no changes can be read, and expiry is seen then
                    self._drop(self._store.expire(now))
            generation = self._store.generation()
            if generation == self._generation:
                return
            stored = self._store.keys()
            with self._lock:
                # 0: when it is to be renewed is found out when it is used
                self._index = {key: self._index.get(key, 0.0) for key in stored}
            self._generation = generation

    def put(self, name: BlockName, payload: bytes, *, wanted: Callable[[], bool]) -> bool:
        """Store a block, unless it is not wanted any more; return whether it was.

        Raises:
            StoreError: nothing was stored.
        """
        with self._changing:
            if not wanted():
                return False
            now = self._clock()
            tags = (*([name.namespace] if name.namespace else []), *name.owners)
            self._write(name.key, Record(payload, CODEC, now, self._expiry(now), tags), now)
            return True

    def get(self, key: str) -> Record | None:
        """Return a stored record, expired or not.

        Raises:
            StoreError: the store failed; the index does not know the key any more.
        """
        try:
            record = self._store.get(key)
        except BaseException:
            self._drop([key])  # it may be this one that can't be read
            raise
        with self._lock:
            if record is None:
                self._index.pop(key, None)
            elif key in self._index:
                self._index[key] = self._renewal(record)
        return record

    def discard(self, key: str, version: int) -> None:
        """Remove what turned out to be no good."""
        self._drop([key])
        with suppress(StoreError):  # unknown to the index, it is as good as gone
            self._store.discard(key, version)

    def use(self, key: str) -> None:
        """Note a use: the block becomes the most recently used, and its time begins anew once half is over.

        Raises:
            StoreError: it could not be renewed.
        """
        renew_at = self._index.get(key)
        if renew_at is None:
            return
        if self._clock() >= renew_at:
            self._renew(key)
        self._store.touch(key)

    def remove(self, namespace: str | None, *, first: Callable[[], object]) -> int:
        """Remove everything (of one namespace) on purpose, and return how much; `first` runs before, alone.

        Raises:
            StoreError: nothing was removed.
        """
        with self._changing:
            first()
            gone = self._store.remove(self._clock(), tag=namespace)
            self._drop(gone)
            return len(gone)

    def erase(self, namespace: str | None, *, first: Callable[[], object]) -> ErasureReport:
        """Erase everything (of one namespace), as `SharedStore.erase`; `first` runs before, alone.

        Raises:
            ErasureError: something could not be removed; all else is.
        """
        try:
            with self._changing:
                self._generation = None
                first()
                return self._store.erase(namespace)
        finally:
            with suppress(StoreError):  # whatever became of it, the index is what the store has
                self.refresh()

    def sample(self, number: int) -> str | None:
        """Return some stored key, another one for another number; None if there is none."""
        with self._lock:
            return next(islice(self._index, number % len(self._index), None)) if self._index else None

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _renew(self, key: str) -> None:
        """Write a block again, with all its time before it; a store has no way to change only that."""
        with self._changing:
            now = self._clock()
            record = self.get(key)
            if record is None or now < self._renewal(record) or not record.is_live(now):
                return
            self._write(key, replace(record, expires_at=self._expiry(now), version=new_version()), now)
            self.renewed_blocks += 1

    def _write(self, key: str, record: Record, now: float) -> None:
        departed = self._store.put(key, record, now)
        with self._lock:
            self._index[key] = self._renewal(record)
        self._drop([gone.key for gone in departed])

    def _expiry(self, now: float) -> float | None:
        return None if self._ttl_seconds is None else now + self._ttl_seconds

    def _renewal(self, record: Record) -> float:
        if record.expires_at is None:
            return math.inf
        return record.expires_at - (self._ttl_seconds or 0.0) / 2

    def _drop(self, keys: list[str]) -> None:
        with self._lock:
            for key in keys:
                self._index.pop(key, None)
