"""One computation, however many wait for it: threads, tasks, and processes that share a folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import RLock, get_ident
from typing import Protocol

from axolotl_cache.errors import StoreError
from axolotl_cache.stores import Record
from axolotl_cache.stores.file_locks import FileLocks, offset_of

_FIRST_POLL_SECONDS = 0.001
_LAST_POLL_SECONDS = 0.05

STREAM_WAIT_SECONDS = 30.0
"""How long a process waits for a stream that another one reads, perhaps slowly: then it asks for its own."""


class Leases(Protocol):
    """What keeps other machines from computing the same key."""

    def take_lease(self, key: str) -> bool | None:
        """Take it; False if another machine has it, None if nobody can tell now."""

    def free_lease(self, key: str) -> None:
        """Give it back. Never waits."""


class Flight:
    """A computation under way. Its leader computes; the others wait for what comes of it."""

    def __init__(self, key: str, *, in_task: bool) -> None:
        self.key = key
        self.in_task = in_task
        self.thread = get_ident()
        self._outcome: Future[Record | None] = Future()
        # running, for a future that runs can't be cancelled: one waiting task must not end all others' wait
        self._outcome.set_running_or_notify_cancel()

    def land(self, record: Record | None) -> None:
        """Tell those who wait what came of it; None: nothing, and one of them may try."""
        self._outcome.set_result(record)

    def wait(self) -> Record | None:
        """Block until it has landed."""
        return self._outcome.result()

    async def wait_in_task(self) -> Record | None:
        """Wait in a task until it has landed."""
        return await asyncio.wrap_future(self._outcome)


_LEADING: ContextVar[tuple[Flight, ...]] = ContextVar("axolotl_cache_leading", default=())
"""What the running code is computing; tasks and `asyncio.to_thread` started by it inherit it."""


class Flights:
    """The computations under way in this process for one cache, and the locks that keep other processes out.

    Args:
        lock_file: shared with the other processes; None where there are none to share with.
        scope: keys of another scope are other keys.
        report: told of a lock that can't be had; then only this process's threads and tasks share.
        leases: keep other machines out; None where there are none.
    """

    def __init__(
        self,
        lock_file: Path | None,
        *,
        scope: bytes,
        report: Callable[[StoreError], None],
        leases: Leases | None = None,
    ) -> None:
        self._scope = scope.hex()
        self._report = report
        # Reentrant: the garbage collector may close a coroutine that leads, whatever its thread is doing.
        self._lock = RLock()
        self._flying: dict[str, Flight] = {}
        self._between_processes = None if lock_file is None else FileLocks(lock_file)
        self._between_machines = leases

    def join(self, key: str, *, in_task: bool) -> tuple[Flight, bool]:
        """Return the flight for `key`, and whether the caller leads it: then it must call `lead`.

        Raises:
            RuntimeError: waiting would never end, as the caller itself is what is waited for.
        """
        with self._lock:
            flight = self._flying.get(key)
            if flight is None:
                flight = self._flying[key] = Flight(key, in_task=in_task)
                return flight, True
        if flight in _LEADING.get():
            raise RuntimeError(
                f"computing the value of {key!r} asked for {key!r} itself, which would wait for ever: "
                "compute it from something else, or under another key"
            )
        if flight.in_task and not in_task and flight.thread == get_ident():
            raise RuntimeError(
                f"{key!r} is being computed by a task of this thread's event loop, which waiting here would "
                "stop: use `await aget_or_compute(...)`"
            )
        return flight, False

    @contextmanager
    def lead(self, flight: Flight) -> Iterator[list[Record]]:
        """Be the only one, in any process, to compute; append the record to the list that is given.

        Leaving without a record, by an error or otherwise, lets one of those who wait take over.
        """
        with self._flown(flight) as outcome, self._alone(flight.key):
            yield outcome

    @asynccontextmanager
    async def lead_in_task(self, flight: Flight) -> AsyncIterator[list[Record]]:
        """The same for a task: waits for other processes without blocking the event loop."""
        with self._flown(flight) as outcome:
            locks = self._between_processes
            if locks is None:
                async with self._only_machine_in_task(flight.key):
                    yield outcome
                return
            offset, delay = offset_of(self._scope + flight.key), _FIRST_POLL_SECONDS
            try:
                while not locks.try_acquire(offset):
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LAST_POLL_SECONDS)
            except OSError as error:
                self._report(_unlocked(error))
            try:
                async with self._only_machine_in_task(flight.key):
                    yield outcome
            finally:
                with suppress(OSError):  # what could not be taken may not be freed either
                    locks.release(offset)

    @contextmanager
    def alone(self, key: str, is_wanted: Callable[[], bool]) -> Iterator[None]:
        """Keep other processes and machines from streaming `key` as well, once they are done with it.

        Waits for them for `STREAM_WAIT_SECONDS` at the most, and while it is wanted; then nobody is kept out.
        The threads of this process must have agreed beforehand who asks.
        """
        deadline, delay = time.monotonic() + STREAM_WAIT_SECONDS, _FIRST_POLL_SECONDS
        with ExitStack() as held:
            for take, free in self._gates(key):
                while (taken := take()) is False and is_wanted() and time.monotonic() < deadline:
                    time.sleep(delay)
                    delay = min(delay * 2, _LAST_POLL_SECONDS)
                if taken:
                    held.callback(free)
            yield

    @asynccontextmanager
    async def alone_in_task(self, key: str) -> AsyncIterator[None]:
        """The same for a task, which waits without blocking the event loop."""
        deadline, delay = time.monotonic() + STREAM_WAIT_SECONDS, _FIRST_POLL_SECONDS
        with ExitStack() as held:
            for take, free in self._gates(key):
                while (taken := await asyncio.to_thread(take)) is False and time.monotonic() < deadline:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LAST_POLL_SECONDS)
                if taken:
                    held.callback(free)
            yield

    def close(self) -> None:
        """Give back the lock file."""
        if self._between_processes is not None:
            self._between_processes.close()

    def forget_after_fork(self) -> None:
        """In a forked child: the threads that lead are the parent's, and so are their locks."""
        self._lock = RLock()
        self._flying = {}
        if self._between_processes is not None:
            self._between_processes.forget_after_fork()

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        locks = self._between_processes
        if locks is None:
            with self._only_machine(key):
                yield
            return
        offset = offset_of(self._scope + key)
        try:
            locks.acquire(offset)
        except OSError as error:
            self._report(_unlocked(error))
        try:
            with self._only_machine(key):
                yield
        finally:
            with suppress(OSError):
                locks.release(offset)

    @contextmanager
    def _only_machine(self, key: str) -> Iterator[None]:
        leases, delay = self._between_machines, _FIRST_POLL_SECONDS
        if leases is None:
            yield
            return
        # None, and it goes on alone: servers that can't be asked keep nobody waiting.
        while leases.take_lease(key) is False:
            time.sleep(delay)
            delay = min(delay * 2, _LAST_POLL_SECONDS)
        try:
            yield
        finally:
            leases.free_lease(key)

    @asynccontextmanager
    async def _only_machine_in_task(self, key: str) -> AsyncIterator[None]:
        leases, delay = self._between_machines, _FIRST_POLL_SECONDS
        if leases is None:
            yield
            return
        while await asyncio.to_thread(leases.take_lease, key) is False:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_POLL_SECONDS)
        try:
            yield
        finally:
            leases.free_lease(key)

    def _gates(self, key: str) -> Iterator[tuple[Callable[[], bool | None], Callable[[], None]]]:
        """Yield what takes and what frees the lock between processes, and the lease between machines."""
        locks, leases = self._between_processes, self._between_machines
        if locks is not None:
            offset = offset_of(self._scope + key)

            def take() -> bool | None:
                try:
                    return locks.try_acquire(offset)
                except OSError as error:
                    self._report(_unlocked(error))
                    return None

            def free() -> None:
                with suppress(OSError):
                    locks.release(offset)

            yield take, free
        if leases is not None:
            yield lambda: leases.take_lease(key), lambda: leases.free_lease(key)

    @contextmanager
    def _flown(self, flight: Flight) -> Iterator[list[Record]]:
        outcome: list[Record] = []
        token = _LEADING.set((*_LEADING.get(), flight))
        try:
            yield outcome
        finally:
            with self._lock:
                # in a child forked meanwhile there may be none, or another
                if self._flying.get(flight.key) is flight:
                    del self._flying[flight.key]
            flight.land(outcome[0] if outcome else None)
            # A coroutine may be closed in another context than it ran in, where there is nothing to reset.
            with suppress(ValueError):
                _LEADING.reset(token)


def _unlocked(error: OSError) -> StoreError:
    return StoreError(f"other processes can't be kept from computing the same key: {error}")
