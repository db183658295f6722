"""Which requests run: the queue, who may begin, who waits for a prefix or a load, and who has ended.

Nothing is computed here: the engine asks who can go on (engine.py) and has it computed (runner.py). The rules
and their reasons: docs/design/engine.md.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import torch

from axolotl_cache.engine.cache import BlockTable, KVCache
from axolotl_cache.engine.generation import Running
from axolotl_cache.engine.pool import KVPool
from axolotl_cache.engine.stats import EngineStats
from axolotl_cache.prefix import marks

_LOOK_AHEAD: Final = 4
"""How many times the batch of waiting requests is looked at for one that can start."""
_ENOUGH_TOKENS: Final = 256
"""Prompt tokens after which their speed is taken from this run and no longer from the probe."""
_LOAD_POLL_SECONDS: Final = 0.05


class Scheduler:
    """The requests of an engine that wait and that run.

    Called by whoever has the engine's turn, one thread at a time. Meanwhile others may put requests into
    `waiting`, under the lock, and end any request by its generation's `finish_reason`.

    Args:
        lock: who holds it may put requests into `waiting`.
        pool: where requests have their keys and values.
        cache: where known prefixes are found; None finds none.
        stats: what was loaded is counted here, and a prompt's speed read.
        max_batch: requests that run at once.
        max_running_bytes: bound on the KV of running requests that is not shared; None is no bound.
        probed_seconds_per_token: what a prompt's token costs, until enough of them were computed.
    """

    def __init__(
        self,
        lock: threading.Condition,
        pool: KVPool,
        cache: KVCache | None,
        stats: EngineStats,
        *,
        max_batch: int,
        max_running_bytes: int | None,
        probed_seconds_per_token: float,
    ) -> None:
        self.waiting: deque[Running] = deque()
        """Oldest first."""
        self.running: list[Running] = []
        """Oldest first."""
        self.probed_seconds_per_token = probed_seconds_per_token
        self._lock = lock
        self._pool = pool
        self._cache = cache
        self._stats = stats
        self._max_batch = max_batch
        self.max_running_bytes = max_running_bytes

    @property
    def is_busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self.running or self.waiting)

    # Who has ended

    def sweep(self) -> None:
        """Let go of everything that has ended."""
        # Looked at once: others may be cancelling meanwhile.
        ended = [r for r in self.running if r.has_ended]
        for running in ended:
            if running.fetch is not None:
                running.fetch.cancel()
            if running.table is not None:
                self._let_go(running.table)
        self.running = [r for r in self.running if r not in ended]
        with self._lock:  # others may be sending meanwhile
            self.waiting = deque(r for r in self.waiting if not r.has_ended)

    def _let_go(self, table: BlockTable) -> None:
        if self._cache:
            self._cache.close(table)
        else:
            pages, table.pages = table.pages, []
            self._pool.release(pages)

    # Who may begin

    def admit(self) -> None:
        """Start waiting requests, oldest first, as far as there is room for them."""
        for running in list(self.waiting)[: _LOOK_AHEAD * self._max_batch]:
            if running not in self.running:  # else it was interrupted just here
                if len(self.running) >= self._max_batch:
                    break
                if self._is_computed_by_another(running):
                    continue
                if not self._fits(running):
                    break
                running.attempt(self._begin, running)
                self.running.append(running)
            self.waiting.remove(running)

    def own_bytes(self, running: Running) -> int:
        """Return the bytes that a request may come to hold, what it found in the cache not counted."""
        shared = running.table.cached_tokens if running.table else 0
        tokens = running.generation.prompt_tokens + running.new_tokens - shared
        return -(-tokens // self._pool.block_size) * self._pool.page_bytes

    def _is_computed_by_another(self, running: Running) -> bool:
        """Whether a running request is computing what this one would need next, and it will be kept."""
        if not running.reuse or self._cache is None:
            return False
        others = [other for other in self.running if other.reuse and other.namespace == running.namespace]
        if not any(other.is_prefill for other in others):
            return False
        known = self._cache.known_tokens(running.tokens, running.namespace, running.fences)
        next_block = known + self._pool.block_size
        if next_block > len(running.tokens) - 1:
            return False
        wanted, fences = running.tokens[:next_block], self._marks(running, next_block)
        same = [
            other
            for other in others
            if other.generation.prompt_tokens >= next_block
            and other.tokens[:next_block] == wanted
            and self._marks(other, next_block) == fences
        ]
        if any(other.table is not None and other.table.is_refused for other in same):
            return False  # what is not kept of one is not kept of the next
        return any(other.is_prefill for other in same)

    def _marks(self, running: Running, tokens: int) -> dict[int, bytes]:
        """Return what tells the blocks of so many leading tokens from others with the same tokens."""
        size = self._pool.block_size
        return {at: mark for at, mark in marks(running.fences, size).items() if at * size < tokens}

    def _fits(self, running: Running) -> bool:
        if self.max_running_bytes is None or not self.running:
            return True
        wanted = sum(self.own_bytes(r) for r in [*self.running, running])
        return wanted <= self.max_running_bytes

    def _begin(self, running: Running) -> None:
        if running.table is not None:  # interrupted in the midst of this
            self._let_go(running.table)
        if self._cache is None or not running.reuse:
            running.table = BlockTable(running.namespace)
            return
        table = running.table = self._cache.find(
            running.tokens, running.namespace, running.fences, running.lease
        )
        loading = self._cache.fetch(running.tokens, table, self._prefill_seconds_per_token)
        if loading:
            running.fetch, patience_seconds = loading
            running.fetch_until = time.monotonic() + patience_seconds
        running.note_found(table)

    @property
    def _prefill_seconds_per_token(self) -> float:
        if self._stats.prefill_tokens < _ENOUGH_TOKENS:
            return self.probed_seconds_per_token
        return self._stats.prefill_seconds / self._stats.prefill_tokens

    # Who can go on

    def ready(self) -> list[Running]:
        """Return the running requests that wait for no load, oldest first, each with tokens to compute."""
        ready = [running for running in self.running if self._is_loaded(running)]
        for running in ready:
            if running.computed_tokens == len(running.tokens):  # interrupted before its token was chosen
                running.computed_tokens -= 1
        return ready

    def wait_for_loads(self) -> None:
        """Wait a moment for the oldest load that is under way, if any is."""
        loading = [running.fetch for running in self.running if running.fetch is not None]
        if loading:
            loading[0].wait(_LOAD_POLL_SECONDS)

    def _is_loaded(self, running: Running) -> bool:
        """Return whether a request can go on; take over what was loaded for it."""
        if running.has_ended:
            return False
        if running.fetch is None:
            return True
        if not running.fetch.done() and time.monotonic() < running.fetch_until:
            return False
        running.fetch.cancel()
        blocks, running.fetch = running.fetch.blocks(), None
        if blocks and running.table is not None and self._cache:
            running.attempt(self._take, running, running.table, self._cache, blocks)
        return not running.has_ended

    def _take(
        self, running: Running, table: BlockTable, cache: KVCache, blocks: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        known = table.cached_tokens
        with suppress(MemoryError, torch.OutOfMemoryError):  # then it is a miss, and computed
            cache.take(running.tokens, table, blocks)
        self._stats.loaded_tokens += table.cached_tokens - known
        running.note_found(table)
