"""The engine: token ids in, token ids out, many requests at once, over the prefix cache.

Every step is one pass of the model over the next tokens of all running requests. Whoever waits for a token
runs the step, for everybody; there is no thread of the engine's own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.engine.adapters import Adapter, Adapters
from axolotl_cache.engine.cache import BlockTable, KVCache
from axolotl_cache.engine.exactness import Exactness, probe
from axolotl_cache.engine.forward import Chunk, Forward
from axolotl_cache.engine.generation import Generation, Running
from axolotl_cache.engine.lower import LowerTier
from axolotl_cache.engine.memory import PressureGovernor
from axolotl_cache.engine.plan import Call, next_calls
from axolotl_cache.engine.pool import KVLayout, KVPool, read_layout
from axolotl_cache.engine.sampling import Sampler
from axolotl_cache.engine.stateful import StatefulForward
from axolotl_cache.errors import RequestError
from axolotl_cache.namespace import BLOCK_SIZE_TOKENS
from axolotl_cache.prefix import PrefixStats
from axolotl_cache.request import Sampling

_DEFAULT_NEW_TOKENS: Final = 512
_LOOK_AHEAD: Final = 4
"""How many times the batch of waiting requests is looked at for one that can start."""
_ENOUGH_TOKENS: Final = 256
"""Prompt tokens after which their speed is taken from this run and no longer from the probe."""
_LOAD_POLL_SECONDS: Final = 0.05


@dataclass(slots=True)
class EngineStats:
    """Counters since the start."""

    steps: int = 0
    prefill_tokens: int = 0
    """Prompt tokens that went through the model; padding is not counted."""
    decode_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    loaded_tokens: int = 0
    """Tokens whose keys and values came from a lower tier."""


class Engine:
    """Generates with a Hugging Face causal LM, many requests at once, reusing the KV of known prefixes.

    Where `exactness.mode` is "invariant", an answer is the same bits whatever is cached and whatever else
    is computed with it; what the other modes promise is in docs/design/engine.md.

    Args:
        model: the model, in eval mode.
        device: where its inputs go.
        context_length_tokens: positions it knows.
        end_tokens: ids that end an answer.
        max_cache_bytes: bound on the KV held for reuse; 0 turns the prefix cache off.
        ttl_seconds: unpinned KV that nobody used for this long is forgotten.
        max_batch: requests that run at once.
        max_running_bytes: bound on the KV of running requests that is not shared; a request waits until it
            fits, and one always runs. None is no bound but `max_batch`.
        step_tokens: tokens that one step computes at the most.
        strict: also where a token's company can change its bits ("grid"), compute answers as if alone.
        adapters: the adapters that requests may ask for.
        lower: makes the slower tiers of the cache, fastest first, for a layout and block size.
        governor: lowers `max_cache_bytes` while the machine is short of memory.
        memo: folder where the exactness probe's result is remembered.
        clock: wall clock, for TTLs.
        report: gets one line before something takes its time.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device,
        context_length_tokens: int,
        end_tokens: frozenset[int],
        max_cache_bytes: int,
        ttl_seconds: float | None = None,
        max_batch: int = 32,
        max_running_bytes: int | None = None,
        step_tokens: int = 512,
        strict: bool = False,
        adapters: Adapters | None = None,
        lower: Callable[[KVLayout, int], Sequence[LowerTier]] = lambda layout, block_size: (),
        governor: PressureGovernor | None = None,
        memo: Path | None = None,
        clock: Clock = wall_clock,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.context_length_tokens = context_length_tokens
        self.end_tokens = end_tokens
        self.stats = EngineStats()
        self._device = device
        self._max_batch = max_batch
        self._max_running_bytes = max_running_bytes
        self._step_tokens = step_tokens
        self._strict = strict
        self._adapters = adapters
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._changed = threading.Condition()
        self._stepping = False
        self._in_background = False
        self.exactness = Exactness("none", "the model keeps more than keys and values of each token")
        self._cache: KVCache | None = None
        self._forward: Forward | None = None
        self._stateful = StatefulForward(model, device)
        kv = read_layout(model, device)
        if kv is None:
            return
        forward = Forward(model, KVPool(kv, BLOCK_SIZE_TOKENS), context_length_tokens)
        self.exactness = probe(forward, memo, report)
        # Another pool, as the mode decides the block size, and the probe's is larger than need be.
        self._pool = KVPool(kv, self.exactness.layout.block_size)
        self._forward = Forward(model, self._pool, context_length_tokens)
        if max_cache_bytes:
            self._cache = KVCache(
                self._pool,
                max_bytes=max_cache_bytes,
                ttl_seconds=ttl_seconds,
                clock=clock,
                lower=lower(kv, self.block_size),
                numerics=self.exactness.numerics,
                governor=governor,
            )

    @property
    def can_reuse(self) -> bool:
        """False for models whose state is more than keys and values: they run, uncached."""
        return self._forward is not None

    @property
    def block_size(self) -> int:
        """Tokens in a block: prefixes are reused in multiples of it."""
        return self.exactness.layout.block_size

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes; 0 if the model can't reuse prefixes."""
        return self._pool.page_bytes // self.block_size if self._forward else 0

    @property
    def prefix_stats(self) -> PrefixStats:
        """Counters of the prefix cache, live."""
        return self._cache.stats if self._cache else PrefixStats()

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values that are held now, for reuse and by running requests."""
        return self._pool.used_bytes if self._forward else 0

    @property
    def running_requests(self) -> int:
        """Requests that are being computed."""
        return len(self._running)

    @property
    def waiting_requests(self) -> int:
        """Requests that are sent and not begun."""
        return len(self._waiting)

    # What callers do

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        *,
        namespace: str,
        reuse: bool = True,
        end_tokens: frozenset[int] = frozenset(),
        adapter: Adapter | None = None,
    ) -> Generation:
        """Queue a request; it is computed while anyone iterates a generation of this engine.

        Args:
            tokens: prompt ids, at least one.
            sampling: how to choose tokens.
            namespace: digest of the namespace whose KV may be used and added to; another for each adapter.
            reuse: False computes as if nothing were cached, and keeps nothing.
            end_tokens: further ids that end this answer.
            adapter: computes with this adapter; None with the model as it was given.

        Raises:
            RequestError: the prompt is empty or too long, or the sampling settings mean nothing.
        """
        if not tokens:
            raise RequestError("the prompt is empty; send at least one token")
        new_tokens = self.check_length(len(tokens), sampling.max_new_tokens)
        sampler = Sampler(sampling, tokens, self._device)
        return self._send(
            Running(
                Generation(len(tokens), _advance=self._advance, _cancel=self._cancel),
                tokens=list(tokens),
                new_tokens=new_tokens,
                end_tokens=self.end_tokens | end_tokens,
                sampler=sampler,
                namespace=namespace,
                reuse=reuse and self._cache is not None,
                adapter=adapter,
            )
        )

    def pin(self, tokens: Sequence[int], *, namespace: str, adapter: Adapter | None = None) -> int:
        """Compute the whole blocks of `tokens` now and keep them for good; return the tokens pinned.

        Raises:
            CapacityError: they do not fit below the bound; nothing is pinned then.
        """
        whole = list(tokens[: len(tokens) // self.block_size * self.block_size])
        if not whole or self._cache is None:
            return 0
        self.check_length(len(whole), 0)
        computing = self._send(
            Running(
                Generation(len(whole), _advance=self._advance, _cancel=self._cancel),
                tokens=whole,
                new_tokens=0,
                end_tokens=frozenset(),
                sampler=Sampler(Sampling(), whole, self._device),
                namespace=namespace,
                reuse=True,
                adapter=adapter,
            )
        )
        list(computing)
        return len(whole)

    def step(self) -> bool:
        """Go one token forward with everything that runs; return whether anything was left to do."""
        with self._turn():
            busy = bool(self._running or self._waiting)
            if busy:
                self._step()
            return busy

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Let one thread run the steps inside this block, so that those who iterate only wait.

        For many threads with a request each: torch keeps threads of its own for every thread that computes.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._work_until, args=(stop,), name="engine", daemon=True)
        with self._turn():
            self._in_background = True
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                stop.set()
                self._changed.notify_all()
            thread.join()
            with self._turn():
                self._in_background = False

    def _work_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._changed:
                while not (self._running or self._waiting or stop.is_set()):
                    self._changed.wait()
            self.step()

    def cancel_all(self) -> None:
        """Cancel everything that runs or waits; frees at once, or when the step that runs now is over."""
        with self._changed:
            requests = [*self._waiting, *self._running]
        for running in requests:
            running.generation.close()

    def clear(self, *, namespace: str | None = None) -> int:
        """Forget all KV (of one namespace) that is not in use, pinned included; return the blocks forgotten.

        Raises:
            StoreError: a lower tier could not forget it.
        """
        with self._turn():
            return self._cache.clear(namespace) if self._cache else 0

    def close(self) -> None:
        """Cancel what runs, and write out what waits to be written to lower tiers."""
        self.cancel_all()
        with self._turn():
            self._sweep()
            if self._cache:
                self._cache.shut()

    def check_length(self, prompt_tokens: int, new_tokens: int | None) -> int:
        """Return how many tokens may be generated behind a prompt.

        Args:
            prompt_tokens: length of the prompt.
            new_tokens: how many are wanted; None is what the context leaves, up to a default.

        Raises:
            RequestError: there is no room for them.
        """
        if new_tokens is None:
            new_tokens = max(min(_DEFAULT_NEW_TOKENS, self.context_length_tokens - prompt_tokens), 1)
        if prompt_tokens + new_tokens > self.context_length_tokens:
            raise RequestError(
                f"the prompt has {prompt_tokens:,} tokens and {new_tokens:,} more may be generated, but the "
                f"model knows only {self.context_length_tokens:,} positions; shorten the prompt or lower "
                "max_new_tokens"
            )
        return new_tokens

    # Who runs the next step

    def _send(self, running: Running) -> Generation:
        with self._changed:
            self._waiting.append(running)
            self._changed.notify_all()
        return running.generation

    def _advance(self, generation: Generation, seen: int) -> None:
        """Return when `generation` has more than `seen` tokens, or has ended, or a step was run for it."""
        with self._changed:
            while self._stepping or self._in_background:
                if len(generation.tokens) > seen or generation.finish_reason or generation.error:
                    return
                self._changed.wait()
            self._stepping = True
        try:
            self._step()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._changed:
            self._stepping = False
            self._changed.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._changed:
            while self._stepping:
                self._changed.wait()
            self._stepping = True
        try:
            yield
        finally:
            self._pass_on()

    def _cancel(self, generation: Generation) -> None:
        with self._changed:
            if generation.finish_reason:
                return
            generation.finish_reason = "cancelled"
            if not self._stepping:  # else whoever runs the step frees it at its end
                self._sweep()
            self._changed.notify_all()

    # One step

    def _step(self) -> None:
        self.stats.steps += 1
        self._sweep()
        if self._cache:
            self._cache.heed_pressure()
        self._admit()
        ready = [running for running in self._running if self._is_loaded(running)]
        for running in ready:
            if running.computed_tokens == len(running.tokens):  # interrupted before its token was chosen
                running.computed_tokens -= 1
        if self._forward is None:
            for running in ready:
                self._guarded(running, self._compute_stateful, running)
        else:
            layout = self.exactness.layout
            calls = next_calls([r.work for r in ready], layout, self._step_tokens, strict=self._strict)
            for call in calls:
                self._compute(ready, call)
        if not ready:
            self._wait_for_loads()
        self._sweep()

    def _sweep(self) -> None:
        """Let go of everything that has ended."""
        # Looked at once: others may be cancelling meanwhile.
        ended = [r for r in self._running if r.has_ended]
        for running in ended:
            if running.fetch is not None:
                running.fetch.cancel()
            if running.table is not None:
                self._let_go(running.table)
        self._running = [r for r in self._running if r not in ended]
        with self._changed:  # others may be sending meanwhile
            self._waiting = deque(r for r in self._waiting if not r.has_ended)

    def _let_go(self, table: BlockTable) -> None:
        if self._cache:
            self._cache.close(table)
        elif self._forward:
            pages, table.pages = table.pages, []
            self._pool.release(pages)

    def _admit(self) -> None:
        """Start waiting requests, oldest first, as far as there is room for them."""
        for running in list(self._waiting)[: _LOOK_AHEAD * self._max_batch]:
            if running not in self._running:  # else it was interrupted just here
                if len(self._running) >= self._max_batch:
                    break
                if self._is_computed_by_another(running):
                    continue
                if not self._fits(running):
                    break
                self._guarded(running, self._begin, running)
                self._running.append(running)
            self._waiting.remove(running)

    def _is_computed_by_another(self, running: Running) -> bool:
        """Whether a running request is computing a block that this one would need next."""
        if not running.reuse or self._cache is None:
            return False
        others = [
            other
            for other in self._running
            if other.reuse
            and other.namespace == running.namespace
            and other.computed_tokens < other.generation.prompt_tokens
        ]
        if not others:
            return False
        known = self._cache.known_tokens(running.tokens, running.namespace)
        next_block = known + self.block_size
        if next_block > len(running.tokens) - 1:
            return False
        wanted = running.tokens[:next_block]
        return any(
            other.generation.prompt_tokens >= next_block and other.tokens[:next_block] == wanted
            for other in others
        )

    def _fits(self, running: Running) -> bool:
        if self._max_running_bytes is None or not self._running or self._forward is None:
            return True
        wanted = sum(self._own_bytes(r) for r in [*self._running, running])
        return wanted <= self._max_running_bytes

    def _own_bytes(self, running: Running) -> int:
        """Return the bytes that a request may come to hold, what it found in the cache not counted."""
        shared = running.table.cached_tokens if running.table else 0
        tokens = running.generation.prompt_tokens + running.new_tokens - shared
        return -(-tokens // self.block_size) * self._pool.page_bytes

    def _begin(self, running: Running) -> None:
        if running.table is not None:  # interrupted in the midst of this
            self._let_go(running.table)
        if self._cache is None or not running.reuse:
            running.table = BlockTable(running.namespace)
            return
        table = running.table = self._cache.find(running.tokens, running.namespace)
        loading = self._cache.fetch(running.tokens, table, self._prefill_seconds_per_token)
        if loading:
            running.fetch, patience_seconds = loading
            running.fetch_until = time.monotonic() + patience_seconds
        self._note_found(running, table)

    @property
    def _prefill_seconds_per_token(self) -> float:
        if self.stats.prefill_tokens < _ENOUGH_TOKENS:
            return self.exactness.prefill_seconds_per_token
        return self.stats.prefill_seconds / self.stats.prefill_tokens

    def _note_found(self, running: Running, table: BlockTable) -> None:
        running.computed_tokens = running.generation.cached_tokens = table.cached_tokens
        running.generation.difference = table.difference

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
            self._cache.take(running.tokens, running.table, blocks)
            self.stats.loaded_tokens += len(blocks) * self.block_size
            self._note_found(running, running.table)
        return True

    def _wait_for_loads(self) -> None:
        loading = [running.fetch for running in self._running if running.fetch is not None]
        if loading:
            loading[0].wait(_LOAD_POLL_SECONDS)

    @staticmethod
    def _guarded(running: Running, work: Callable[..., None], *arguments: object) -> None:
        """Do something for a request; if it fails, it fails for this one and not for the others."""
        try:
            work(*arguments)
        except Exception as error:  # whatever it is, it is raised to whoever reads this request
            running.generation.error = error

    def _compute(self, ready: Sequence[Running], call: Call) -> None:
        parts = [(ready[part.request], part.tokens) for part in call]
        parts = [(running, count) for running, count in parts if not running.has_ended]
        if not parts:
            return
        try:
            self._compute_parts(parts)
        except Exception as error:  # one bad request must not take the others with it
            if len(parts) == 1:
                parts[0][0].generation.error = error
                return
            for part in parts:
                self._guarded(part[0], self._compute_parts, [part])

    def _compute_parts(self, parts: Sequence[tuple[Running, int]]) -> None:
        if self._forward is None:
            raise RuntimeError("this model has no pages")
        self._use_adapter_of(parts[0][0])
        started = time.perf_counter()
        chunks = [self._chunk(running, count) for running, count in parts]
        logits = self._forward.run(chunks, self.exactness.layout)
        for (running, count), last in zip(parts, logits, strict=True):
            was_decode = running.work.is_decode
            running.computed_tokens += count
            if was_decode:
                self.stats.decode_tokens += count
            else:
                self.stats.prefill_tokens += count
            self._guarded(running, self._go_on, running, last)
        self._count_seconds(parts, time.perf_counter() - started)

    def _use_adapter_of(self, running: Running) -> None:
        if self._adapters is not None:
            self._adapters.use(running.adapter if running.adapter is not None else "")

    def _chunk(self, running: Running, count: int) -> Chunk:
        table, start = running.table, running.computed_tokens
        if table is None:
            raise RuntimeError("this request was not let in")
        missing = -(-(start + count) // self.block_size) - len(table.pages)
        if missing > 0:
            table.pages += self._pool.allocate(missing)
        is_last = start + count == len(running.tokens) and running.new_tokens > 0
        return Chunk(table.pages, start, running.tokens[start : start + count], wants_logits=is_last)

    def _go_on(self, running: Running, logits: torch.Tensor | None) -> None:
        table = running.table
        is_new_block = (
            table is not None and self._keepable_tokens(running) // self.block_size > table.kept_blocks
        )
        if logits is not None:
            running.accept(running.sampler.choose(logits))
        if is_new_block and running.reuse:
            self._keep(running)
        if running.new_tokens == 0 and running.computed_tokens == len(running.tokens):
            self._keep(running, pinned=True)
            running.generation.finish_reason = "length"

    def _keepable_tokens(self, running: Running) -> int:
        """Return how many leading tokens others may reuse.

        What was decoded equals what a prompt would give only where results do not depend on the company.
        """
        if self.exactness.mode == "invariant":
            return running.computed_tokens
        return min(running.computed_tokens, running.generation.prompt_tokens)

    def _keep(self, running: Running, *, pinned: bool = False) -> None:
        if self._cache is None or running.table is None:
            return
        whole = self._keepable_tokens(running) // self.block_size * self.block_size
        try:
            self._cache.keep(running.tokens[:whole], running.table, pinned=pinned)
        except (MemoryError, torch.OutOfMemoryError):
            if pinned:
                raise
            self._cache.stats.refused_blocks += 1  # an answer is worth more than what could be kept of it

    def _count_seconds(self, parts: Sequence[tuple[Running, int]], seconds: float) -> None:
        rows = sum(count for _, count in parts)
        decoded = sum(count for r, count in parts if r.computed_tokens > r.generation.prompt_tokens)
        self.stats.decode_seconds += seconds * decoded / rows
        self.stats.prefill_seconds += seconds * (rows - decoded) / rows

    def _compute_stateful(self, running: Running) -> None:
        self._use_adapter_of(running)
        started, count = time.perf_counter(), len(running.tokens) - running.computed_tokens
        logits = self._stateful.run(running.tokens, running.computed_tokens, running.state)
        if running.work.is_decode:
            self.stats.decode_tokens += count
        else:
            self.stats.prefill_tokens += count
        running.computed_tokens += count
        running.accept(running.sampler.choose(logits))
        self._count_seconds([(running, count)], time.perf_counter() - started)
