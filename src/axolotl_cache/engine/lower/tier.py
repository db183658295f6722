"""The tier as the engine sees it: leave a block, ask for blocks, and never wait for either.

Two threads do the work, one that writes and one that reads, so that a load does not stand behind the writing
of others' blocks. The engine's thread only asks an index in memory and leaves notes. Nothing that goes wrong
here reaches a request: a block that is missing, damaged, too old or not the one that was asked for is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.lower.block import BlockFormat, BlockName
from axolotl_cache.engine.lower.fetch import Fetch
from axolotl_cache.engine.lower.outage import Outage
from axolotl_cache.engine.lower.reader import BlockReader
from axolotl_cache.engine.lower.shelf import Shelf
from axolotl_cache.engine.lower.writer import BlockWriter, WaitingBlock
from axolotl_cache.engine.pool import KVLayout
from axolotl_cache.erasure import ErasureReport
from axolotl_cache.stores import SharedStore


@dataclass(frozen=True, slots=True)
class LowerStats:
    """Counters since the start."""

    written_blocks: int
    written_bytes: int
    renewed_blocks: int
    """Written again because they are used, and half of their time was over."""
    dropped_blocks: int
    """Offered and not written: too many were waiting, the store was failing, or they were cleared."""
    loaded_blocks: int
    loaded_bytes: int
    damaged_blocks: int
    """Found, and not what they should be: each was a miss, and is removed."""
    failed_writes: int
    failed_reads: int
    load_seconds: float
    """Spent on loading, in the reading thread."""


class LowerTier:
    """Blocks of keys and values in a store that outlives the process.

    The engine calls it from its one thread; every method but `flush`, `clear` and `close` returns at once.

    Args:
        store: where blocks go; the tier's own from now on, closed with it.
        layout: the model's keys and values.
        block_size: tokens in a block.
        clock: seconds since the epoch, for TTLs and pauses.
        ttl_seconds: blocks that nobody used for this long are forgotten; None keeps them while there is room.
        max_pending_bytes: bound on the tensors that wait to be written; one block is always let in.
        report: gets one line when the store begins to fail, from any thread.
        kind: of the store, in one word, for reports and metrics.
    """

    def __init__(
        self,
        store: SharedStore,
        *,
        layout: KVLayout,
        block_size: int,
        clock: Clock = wall_clock,
        ttl_seconds: float | None = None,
        max_pending_bytes: int = 128 * 1024 * 1024,
        report: Callable[[str], None] = lambda line: None,
        kind: str = "disk",
    ) -> None:
        self.kind = kind
        self._format = BlockFormat(layout, block_size)
        self._shelf = Shelf(store, clock, ttl_seconds)
        writing = Outage(clock, report, "keys and values can't be stored")
        reading = Outage(clock, report, "stored keys and values can't be read")
        self._writer = BlockWriter(self._shelf, self._format, writing, max_pending_bytes)
        self._reader = BlockReader(self._shelf, self._writer, self._format, reading, clock)
        self._closed = False
        self._reader.open()  # so that the first request after a restart finds what is there

    @property
    def stats(self) -> LowerStats:
        """Counters since the start, as of now."""
        writer, reader, one = self._writer, self._reader, self._format.block_bytes
        return LowerStats(
            written_blocks=writer.written_blocks,
            written_bytes=writer.written_blocks * one,
            renewed_blocks=self._shelf.renewed_blocks,
            dropped_blocks=writer.dropped_blocks,
            loaded_blocks=reader.loaded_blocks,
            loaded_bytes=reader.loaded_blocks * one,
            damaged_blocks=reader.damaged_blocks + self._shelf.damaged,
            failed_writes=writer.failed_writes,
            failed_reads=reader.failed_reads,
            load_seconds=reader.load_seconds,
        )

    @property
    def held_blocks(self) -> int:
        """Blocks known to be stored."""
        return len(self._shelf)

    @property
    def held_bytes(self) -> int:
        """Bytes of what is stored, as the store counts them. May wait for a disk."""
        return self._shelf.held_bytes

    @property
    def max_bytes(self) -> int | None:
        """The store's bound; None is none."""
        return self._shelf.max_bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes of the tensors that wait to be written."""
        return self._writer.pending_bytes

    def offer(
        self,
        key: str,
        tokens: Sequence[int],
        tensors: tuple[torch.Tensor, ...],
        *,
        namespace: str = "",
        owners: tuple[str, ...] = (),
    ) -> bool:
        """Have a block written in the background, unless it is stored already.

        Args:
            key: from `chain_keys` or `next_key`.
            tokens: the block's token ids.
            tensors: its keys and values, two a group, (layers, kv_heads, block_size, dim) each, on any
                device; handed over, so nobody writes to them any more.
            namespace: digest, compared when the block is loaded, and what `clear` goes by.
            owners: what else `clear` may go by.

        Returns:
            False if it is not going to be stored: too much is waiting, or the store is failing.

        Raises:
            ValueError: this is not one block of the layout.
        """
        self._format.check(tokens, tensors)
        name = BlockName(key, tuple(tokens), namespace, owners)
        return self._writer.offer(WaitingBlock(name, tensors))

    def touch(self, keys: Sequence[str]) -> None:
        """Note, in the background, that these blocks of one prompt, first to last, were used just now.

        Blocks that are used live on, and when room is needed a prompt's last ones go first. Call it for what
        the engine found in its own memory, and behind `offer`; what `fetch` loads is noted by itself.
        """
        self._writer.touch(keys)

    def count(self, keys: Sequence[str]) -> int:
        """Return how many of the leading keys are there to be fetched. Cost: 0.1 us a key, no disk."""
        if self._closed or not self._reader.available():
            return 0
        found = 0
        for key in keys:
            if key not in self._shelf and self._writer.waiting(key) is None:
                break
            found += 1
        return found

    def fetch(
        self,
        keys: Sequence[str],
        tokens_of_blocks: Sequence[Sequence[int]],
        *,
        namespace: str = "",
        patience_seconds: float = math.inf,
        block_seconds: float = 0.0,
    ) -> Fetch:
        """Start loading blocks, in the order of their keys.

        Args:
            keys: as `count` found them.
            tokens_of_blocks: the token ids of each, compared with the stored ones.
            namespace: as they were offered with.
            patience_seconds: what the load may lose against computing before it is given up.
            block_seconds: what computing a block takes.
        """
        named = zip(keys, tokens_of_blocks, strict=True)
        names = [BlockName(key, tuple(tokens), namespace) for key, tokens in named]
        fetch = Fetch(names, patience_seconds=patience_seconds, block_seconds=block_seconds)
        self._reader.begin(fetch)
        return fetch

    def load_seconds(self, blocks: int) -> float:
        """Return what fetching so many blocks now is expected to take, as measured, behind other loads.

        Infinite while the store can't be read.
        """
        return self._reader.expected_seconds(blocks)

    def clear(self, *, namespace: str | None = None) -> int:
        """Forget all blocks (of one namespace or owner), stored or on their way; return how many were stored.

        Raises:
            StoreError: the store could not remove them.
        """
        return self._shelf.remove(namespace, first=lambda: self._writer.drop(namespace))

    def erase(self, *, namespace: str | None = None) -> ErasureReport:
        """Erase all blocks (of one namespace), stored or on their way there, from every file of the store.

        Raises:
            ErasureError: something could not be removed; all else is, and the error says what is left.
        """
        return self._shelf.erase(namespace, first=lambda: self._writer.drop(namespace))

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all that was offered before is written or dropped; return whether it is."""
        return self._writer.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Write out what is pending, and close the store. What is not written in time is dropped."""
        if self._closed:
            return
        self._closed = True
        written = self._writer.close(timeout_seconds)
        if self._reader.close(timeout_seconds) and written:  # else the store hangs, and so would this
            self._shelf.close()
