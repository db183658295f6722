"""Blocks on their way into the store: a bounded queue, and the thread that empties it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch

from axolotl_cache.engine.lower.block import BlockFormat, BlockName
from axolotl_cache.engine.lower.fetch import Tensors
from axolotl_cache.engine.lower.outage import Outage
from axolotl_cache.engine.lower.shelf import Shelf


@dataclass(eq=False, slots=True)
class WaitingBlock:
    """A block handed over, and not yet written."""

    name: BlockName
    tensors: Tensors
    ready: torch.cuda.Event | None = field(init=False, default=None)
    """On a GPU: what must have happened there before another thread may read the tensors."""

    def __post_init__(self) -> None:
        device = self.tensors[0].device
        if device.type == "cuda":
            self.ready = torch.cuda.current_stream(device).record_event()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors)

    def on_host(self) -> Tensors:
        """Return the tensors on the CPU; from a GPU, copied beside the model's own work and not behind it."""
        if self.ready is None:
            return tuple(t.cpu() for t in self.tensors)
        stream = torch.cuda.Stream(self.tensors[0].device)  # type: ignore[no-untyped-call]
        stream.wait_event(self.ready)
        with torch.cuda.stream(stream):
            copies = tuple(
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
                for t in self.tensors
            )
        stream.synchronize()
        return copies


class BlockWriter:
    """Writes blocks to a shelf, one after another, in a thread of its own."""

    def __init__(
        self, shelf: Shelf, block_format: BlockFormat, outage: Outage, max_pending_bytes: int
    ) -> None:
        self._shelf = shelf
        self._format = block_format
        self._outage = outage
        self._max_pending_bytes = max_pending_bytes
        self._thread = ThreadPoolExecutor(1, "kv-tier-write")
        self._lock = threading.Lock()
        self._waiting: dict[str, WaitingBlock] = {}
        self.pending_bytes = 0
        self.written_blocks = 0
        self.dropped_blocks = 0
        self.failed_writes = 0

    def offer(self, block: WaitingBlock) -> bool:
        """Queue a block; False, and counted, when too much is waiting or the store is being left alone."""
        if block.name.key in self._shelf:
            return True
        with self._lock:
            if block.name.key in self._waiting:
                return True
            paused = self._outage.active()  # in the lock: what a failure finds waiting here, it drops
            full = self.pending_bytes > 0 and self.pending_bytes + block.nbytes > self._max_pending_bytes
            if paused or full:
                self.dropped_blocks += 1
                return False
            self._waiting[block.name.key] = block
            self.pending_bytes += block.nbytes
        if self._submit(self._write_next) is None:
            self.drop()
            return False
        return True

    def waiting(self, key: str) -> WaitingBlock | None:
        """Return a block that is still to be written."""
        return self._waiting.get(key)

    def touch(self, keys: Sequence[str]) -> None:
        """Note the use of one prompt's blocks, behind what is being written."""
        if keys and not self._outage.active():
            self._submit(partial(self._touch, tuple(keys)))

    def drop(self, namespace: str | None = None) -> int:
        """Give up what waits (of one namespace or owner); return how many blocks that were."""
        with self._lock:
            waiting = self._waiting.items()
            keys = [k for k, b in waiting if namespace in (None, b.name.namespace, *b.name.owners)]
            for key in keys:
                self._take(key)
            self.dropped_blocks += len(keys)
            return len(keys)

    def flush(self, timeout_seconds: float | None) -> bool:
        """Wait until everything offered before is written or dropped; return whether it is."""
        last = self._submit(lambda: None)
        with suppress(FutureTimeout):
            if last is not None:
                last.result(timeout_seconds)
            return True
        return False

    def close(self, timeout_seconds: float) -> bool:
        """Write what waits, and drop what is not written in time; return whether the thread has ended."""
        ended = self.flush(timeout_seconds)
        self.drop()
        self._thread.shutdown(wait=ended, cancel_futures=True)
        return ended

    def _submit(self, job: Callable[[], None]) -> Future[None] | None:
        try:
            return self._thread.submit(job)
        except RuntimeError:  # closed, or the interpreter is going down
            return None

    def _write_next(self) -> None:
        with self._lock:
            block = next(iter(self._waiting.values()), None)
        if block is None:
            return
        key = block.name.key
        try:
            payload = self._format.encode(block.name, block.on_host())
            stored = self._shelf.put(block.name, payload, wanted=lambda: self._waiting.get(key) is block)
        except Exception as error:
            # Not only StoreError: whatever it is, the thread goes on, and no request learns of it.
            self.failed_writes += 1
            self._outage.failed(error)
            self.drop()
            return
        with self._lock:
            if self._waiting.get(key) is block:  # else it was cleared, and may have been offered again
                self._take(key)
        if stored:
            self.written_blocks += 1
            self._outage.over()

    def _touch(self, keys: tuple[str, ...]) -> None:
        try:
            # The last first: a prompt's first blocks are of use to more prompts, and should go last.
            for key in reversed(keys):
                self._shelf.use(key)
        except Exception as error:
            self.failed_writes += 1
            self._outage.failed(error)

    def _take(self, key: str) -> None:
        """Take a block off the queue; the caller holds the lock."""
        block = self._waiting.pop(key, None)
        if block is not None:
            self.pending_bytes -= block.nbytes
