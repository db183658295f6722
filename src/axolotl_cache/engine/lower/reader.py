"""Blocks on their way out of the store: the thread that loads them, and what that takes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from axolotl_cache.clock import Clock
from axolotl_cache.engine.lower.block import CODEC, BlockFormat, BlockName
from axolotl_cache.engine.lower.cost import LoadCost
from axolotl_cache.engine.lower.fetch import Fetch, Tensors
from axolotl_cache.engine.lower.outage import Outage
from axolotl_cache.engine.lower.shelf import Shelf
from axolotl_cache.engine.lower.writer import BlockWriter

_REFRESH_SECONDS: Final = 1.0
"""How often other processes' changes are looked for, while somebody asks."""
_IDLE_SECONDS: Final = 5.0
"""Nobody asked for so long: what is known is too old to say that a block is not there."""
_WAIT_SECONDS: Final = 0.02
"""What the first who asks after that waits for the news, at most: what twenty tokens take to compute."""
_MEASURED_SECONDS: Final = 60.0
"""A measurement this old is taken again, so that one bad minute of a disk does not turn it off for good."""
_PROBE_STEP: Final = 7919
"""A prime: probes go over all stored blocks, and not over those that happen to be in the page cache."""


class BlockReader:
    """Loads blocks from a shelf, or from the queue of those that are still to be written."""

    def __init__(
        self, shelf: Shelf, writer: BlockWriter, block_format: BlockFormat, outage: Outage, clock: Clock
    ) -> None:
        self._shelf = shelf
        self._writer = writer
        self._format = block_format
        self._outage = outage
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "kv-tier-read")
        self._lock = threading.Lock()
        self._loads: list[Fetch] = []
        self._cost = LoadCost()
        self._reading_since: float | None = None
        self._free_at = 0.0
        self._refreshed_at = -math.inf
        self._refreshing = False
        self._refreshed = threading.Event()
        self._probes = 0
        self._probing = False
        self.loaded_blocks = 0
        self.damaged_blocks = 0
        self.failed_reads = 0
        self.load_seconds = 0.0

    def open(self) -> None:
        """Find out what is stored, now, and begin to find out what loading it costs."""
        self._refresh()
        self._probe_soon()

    def available(self) -> bool:
        """Whether loads are worth trying now.

        Has the index refreshed in the background now and then. The first who asks after a while of silence
        waits for that, at most 20 ms: without, an idle machine would compute what another one has stored.
        """
        if self._outage.active():
            return False
        age = self._clock() - self._refreshed_at
        if not self._refreshing and not 0 <= age < _REFRESH_SECONDS:
            self._refreshing = True
            self._refreshed.clear()
            if self._submit(self._refresh) and not 0 <= age < _IDLE_SECONDS:
                self._refreshed.wait(_WAIT_SECONDS)
        return True

    def begin(self, fetch: Fetch) -> None:
        """Queue a load."""
        with self._lock:
            self._loads.append(fetch)
        if not fetch.names or not self._submit(partial(self._load_all, fetch)):
            self._end(fetch)

    def expected_seconds(self, blocks: int) -> float:
        """Return what loading so many blocks now is expected to take, behind the loads that wait already."""
        if self._outage.active():
            return math.inf
        measured = self._cost.measured_at_seconds
        if measured is None or time.perf_counter() - measured > _MEASURED_SECONDS:
            self._probe_soon()
        with self._lock:
            ahead = sum(f.remaining for f in self._loads)
        expected = self._cost.seconds((ahead + blocks) * self._format.block_bytes)
        since = self._reading_since
        if since is not None:  # one that takes longer than blocks do: so may all of them
            expected += max(0.0, time.perf_counter() - since - self._cost.seconds(self._format.block_bytes))
        return expected

    def close(self, timeout_seconds: float) -> bool:
        """End all loads; return whether the thread has ended, too."""
        with self._lock:
            for fetch in self._loads:
                fetch.cancel()
        idle = threading.Event()
        ended = not self._submit(idle.set) or idle.wait(timeout_seconds)
        self._thread.shutdown(wait=ended, cancel_futures=True)
        return ended

    def _submit(self, job: Callable[[], None]) -> bool:
        try:
            self._thread.submit(job)
        except RuntimeError:  # closed, or the interpreter is going down
            return False
        return True

    def _load_all(self, fetch: Fetch) -> None:
        started = time.perf_counter()
        read = stored = 0
        try:
            for name in fetch.names:
                if fetch.done():
                    break
                self._reading_since = time.perf_counter()
                tensors, from_store = self._load(name)
                if tensors is None:
                    break
                read += from_store
                if not fetch.add(tensors):
                    break
                stored += from_store
        except Exception as error:
            self._failed(error)
        finally:
            self._reading_since = None
            self._note(fetch, started, read, stored)
            self._free_at = time.perf_counter()
            self._end(fetch)

    def _note(self, fetch: Fetch, started: float, read: int, stored: int) -> None:
        """Learn what a load took, also where it came too late; keep what it brought from being forgotten."""
        if read:
            self.load_seconds += time.perf_counter() - started
            self._learn(fetch.asked_at_seconds, started, read)
        if stored:
            self.loaded_blocks += stored
            self._writer.touch([name.key for name in fetch.names[: len(fetch.blocks())]])

    def _load(self, name: BlockName) -> tuple[Tensors | None, bool]:
        """Return a block, or None, and whether it came from the store."""
        waiting = self._writer.waiting(name.key)
        if waiting is not None:
            return (waiting.on_host() if waiting.name == name else None), False
        record = self._shelf.get(name.key)
        self._outage.over()
        if record is None:
            return None, True
        live = record.is_live(self._clock())
        tensors = self._format.decode(name, record.payload) if live and record.codec == CODEC else None
        if tensors is None:
            self.damaged_blocks += live
            self._shelf.discard(name.key, record.version)
        return tensors, True

    def _refresh(self) -> None:
        try:
            self._shelf.refresh()
        except Exception as error:
            self._failed(error)
        self._refreshed_at = self._clock()
        self._refreshing = False
        self._refreshed.set()

    def _probe_soon(self) -> None:
        if not self._probing and len(self._shelf):
            self._probing = True
            self._submit(partial(self._probe, time.perf_counter()))

    def _probe(self, asked_at: float) -> None:
        """Read a block that nobody asked for, to know what it takes."""
        started = time.perf_counter()
        try:
            key = self._shelf.sample(self._probes * _PROBE_STEP)
            if key is not None and self._shelf.get(key) is not None:
                self._learn(asked_at, started, 1)
                self._outage.over()
        except Exception as error:
            self._failed(error)
        self._probes += 1
        self._free_at = time.perf_counter()
        self._probing = False

    def _learn(self, asked_at: float, started: float, blocks: int) -> None:
        now = time.perf_counter()
        self._cost.learn(
            # not what it waited for the loads before: those are counted when it is asked for
            start_seconds=started - max(asked_at, self._free_at),
            read_seconds=now - started,
            nbytes=blocks * self._format.block_bytes,
            now_seconds=now,
        )

    def _failed(self, error: Exception) -> None:
        # Not only StoreError: whatever it is, the thread goes on, and no request learns of it.
        self.failed_reads += 1
        self._outage.failed(error)

    def _end(self, fetch: Fetch) -> None:
        fetch.cancel()
        with self._lock:
            self._loads.remove(fetch)
