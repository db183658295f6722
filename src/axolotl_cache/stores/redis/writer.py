"""Entries on their way to the servers: a bounded queue, and the thread that empties it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from axolotl_cache.clock import Clock
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import Record, entry_bytes
from axolotl_cache.stores.redis.link import Link, StoreFullError
from axolotl_cache.stores.redis.store import Written

_LONGEST_WAIT_SECONDS: Final = 0.25
_PAUSE_WHEN_FULL_SECONDS: Final = 1.0


class Writable(Protocol):
    """Where it writes to."""

    def write(self, key: str, record: Record, now: float, *, token: int | None = None) -> Written:
        """Store a record."""

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
        self._under_way: str | None = None
        self._withdrawn = self._is_full = False
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
                if key == self._under_way:
                    self._withdrawn = True
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
                key, waiting = next(iter(self._queue.items()), (None, None))
                jobs = [job for name, job in self._jobs if name not in self._queue]
                self._jobs = [(name, job) for name, job in self._jobs if name in self._queue]
                self._under_way, self._withdrawn = key, False
            if key is not None and waiting is not None:
                pause = self._write(key, waiting)
                if pause:
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed, pause)
            for job in jobs:
                self._do(job)
            with self._changed:
                self._under_way = None
                self._changed.notify_all()

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:
            # Whatever it is, the thread goes on: what was to be done expires by itself.
            self.refused += 1

    def _write(self, key: str, waiting: Waiting) -> float:
        """Write one entry; return for how long to wait before the next."""
        now = self._clock()
        written: Written | None = None
        pause = 0.0
        if waiting.record.is_live(now):
            try:
                written = self._store.write(key, waiting.record, now, token=waiting.token)
            except StoreFullError as error:
                self._refuse(error)
                self._is_full = True
                pause = _PAUSE_WHEN_FULL_SECONDS
            except StoreError as error:
                if not self._link.is_up():
                    return _LONGEST_WAIT_SECONDS / 5  # it stays where it is, and is tried again
                self._refuse(error)
            except Exception as error:
                # Whatever it is, the thread goes on, and no request learns of it.
                self._refuse(error)
        with self._changed:
            if self._queue.get(key) is waiting:
                self._take(key)
            withdrawn = self._withdrawn
        if written is not None:
            self._is_full = False
            self.written += not written.is_fenced
            self.fenced += written.is_fenced
            if withdrawn:
                self._do(lambda: self._discard(key, waiting.record.version))
            elif self.on_written is not None:
                self.on_written(key, waiting.record, written)
        return pause

    def _discard(self, key: str, version: int) -> None:
        self._store.discard(key, version)

    def _refuse(self, error: Exception) -> None:
        self.refused += 1
        if self.refused == 1:
            self._report(f"warning: answers can't be stored in Redis: {error} (this machine goes on without)")
