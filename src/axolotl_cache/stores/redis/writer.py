"""Entries on their way to the servers: a bounded queue, and the thread that empties it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from axolotl_cache.clock import Clock
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import Record, entry_bytes
from axolotl_cache.stores.redis.link import Link, StoreFullError
from axolotl_cache.stores.redis.puts import Entry, Written

_AWAY_SECONDS: Final = 0.05
_PAUSE_WHEN_FULL_SECONDS: Final = 1.0
_MOST_AT_ONCE: Final = 64
_MOST_BYTES_AT_ONCE: Final = 4 * 1024 * 1024


class Writable(Protocol):
    """Where it writes to."""

    def write_all(self, entries: Sequence[Entry], now: float) -> list[Written]:
        """Store records; return what became of each."""

    def discard(self, key: str, version: int) -> bool:
        """Remove a record if it still has that version."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry to be written."""

    record: Record
    nbytes: int
    token: int | None = None


class Writer:
    """Writes in the order of arrival, and goes on trying for as long as the servers are away.

    What waits is written together, up to 64 entries or 4 MB: one wait for the replicas serves all of them.

    What is replaced while it waits is not written. When the queue is full, what comes is dropped, and
    counted: it is still in the tiers of this machine.

    Args:
        store: where to.
        link: tells when the servers are there again.
        clock: seconds since the epoch.
        max_bytes: bound on what waits.
        report: gets one line when entries begin to be dropped.
        on_written: told of each entry that was written; for tests and benchmarks.
    """

    def __init__(
        self,
        store: Writable,
        link: Link,
        clock: Clock,
        *,
        max_bytes: int,
        report: Callable[[str], None],
        on_written: Callable[[str, Record, Written], None] | None = None,
    ) -> None:
        self._store = store
        self._link = link
        self._clock = clock
        self._max_bytes = max_bytes
        self._report = report
        self.on_written = on_written
        self.written = self.dropped = self.fenced = self.refused = 0
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: OrderedDict[str, Waiting] = OrderedDict()
        self._jobs: list[tuple[str, Callable[[], None]]] = []
        self._under_way: dict[str, Waiting] = {}
        self._withdrawn: set[str] = set()
        self._is_full = False
        self._at_once = _MOST_AT_ONCE
        self.pending_bytes = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, key: str, record: Record, token: int | None = None) -> None:
        """Have an entry written. Never waits."""
        nbytes = entry_bytes(key, record)
        with self._changed:
            self._take(key)
            if self._closed or (self._queue and self.pending_bytes + nbytes > self._max_bytes):
                self.dropped += 1
                return
            self._queue[key] = Waiting(record, nbytes, token)
            self.pending_bytes += nbytes
            self._wake()

    def __contains__(self, key: str) -> bool:
        return key in self._queue

    def then(self, key: str, job: Callable[[], None]) -> None:
        """Have something done once `key` is written, if it waits. It may fail; nobody learns of it."""
        with self._changed:
            self._jobs.append((key, job))
            self._wake()

    def drop(self, matches: Callable[[str, Record], bool]) -> None:
        """Give up what matches, and remove it again if it is being written just now."""
        with self._changed:
            for key in [key for key, each in self._queue.items() if matches(key, each.record)]:
                if self._under_way.get(key) is self._queue[key]:
                    self._withdrawn.add(key)
                else:
                    self._take(key)

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing waits any more; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._jobs, timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Write what waits; what is not written in time is dropped."""
        if self._link.is_up() and not self._is_full:
            self.flush(timeout_seconds)
        with self._changed:
            self._closed = True
            self.dropped += len(self._queue)
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)

    def forget_after_fork(self) -> None:
        """In a forked child: what waits is the parent's to write."""
        self._begin()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="redis-write", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _take(self, key: str) -> None:
        waiting = self._queue.pop(key, None)
        if waiting is not None:
            self.pending_bytes -= waiting.nbytes

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._jobs or self._closed)
                if self._closed:
                    return
                batch = self._under_way = self._next()
                jobs = [job for name, job in self._jobs if name not in self._queue]
                self._jobs = [(name, job) for name, job in self._jobs if name in self._queue]
                self._withdrawn = set()
            pause = self._write(batch) if batch else 0.0
            if pause:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause)
            for job in jobs:
                self._do(job)
            with self._changed:
                self._under_way = {}
                self._changed.notify_all()

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:
            # Whatever it is, the thread goes on: what was to be done expires by itself.
            self.refused += 1

    def _next(self) -> dict[str, Waiting]:
        """Return what is written next, at once."""
        batch: dict[str, Waiting] = {}
        nbytes = 0
        for key, waiting in self._queue.items():
            nbytes += waiting.nbytes
            if batch and (len(batch) >= self._at_once or nbytes > _MOST_BYTES_AT_ONCE):
                break
            batch[key] = waiting
        return batch

    def _write(self, batch: dict[str, Waiting]) -> float:
        """Write entries; return for how long to wait before the next."""
        now = self._clock()
        live = {key: each for key, each in batch.items() if each.record.is_live(now)}
        entries = [Entry(key, each.record, each.token) for key, each in live.items()]
        written: list[Written] = []
        pause = 0.0
        try:
            written = self._store.write_all(entries, now) if entries else []
        except Exception as error:
            # Whatever it is, the thread goes on, and no request learns of it.
            if isinstance(error, StoreError) and not self._link.is_up():
                self._keep(batch)
                return _AWAY_SECONDS
            if len(entries) > 1:
                self._at_once = 1  # which of them it is, each shows by itself
                self._keep(batch)
                return 0.0
            self._refuse(error)
            self._is_full = isinstance(error, StoreFullError)
            pause = _PAUSE_WHEN_FULL_SECONDS if self._is_full else 0.0
        else:
            self._is_full = False
            self._at_once = min(2 * self._at_once, _MOST_AT_ONCE)
        with self._changed:
            for key, waiting in batch.items():
                if self._queue.get(key) is waiting:
                    self._take(key)
            withdrawn = self._withdrawn
        for (key, waiting), outcome in zip(live.items(), written, strict=False):
            self._note(key, waiting.record, outcome, key in withdrawn)
        return pause

    def _keep(self, batch: dict[str, Waiting]) -> None:
        """They stay where they are, to be tried again, but for those that were given up meanwhile."""
        with self._changed:
            for key in self._withdrawn:
                if self._queue.get(key) is batch[key]:
                    self._take(key)
                version = batch[key].record.version
                self._jobs.append((key, partial(self._discard, key, version)))  # it may have been written

    def _note(self, key: str, record: Record, written: Written, is_withdrawn: bool) -> None:
        self.written += not written.is_fenced
        self.fenced += written.is_fenced
        if is_withdrawn:
            self._do(lambda: self._discard(key, record.version))
        elif self.on_written is not None:
            self.on_written(key, record, written)

    def _discard(self, key: str, version: int) -> None:
        self._store.discard(key, version)

    def _refuse(self, error: Exception) -> None:
        self.refused += 1
        if self.refused == 1:
            self._report(f"warning: answers can't be stored in Redis: {error} (this machine goes on without)")
