"""Computes what running requests wait for: cuts it into calls, runs the model, has each take its token.

Which requests those are is scheduler.py's to say. How their tokens are cut into calls stands in plan.py, and
how the model runs over pages in forward.py.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from axolotl_cache.engine.adapters import Adapters
from axolotl_cache.engine.as_generate import reusable_tokens
from axolotl_cache.engine.cache import KVCache
from axolotl_cache.engine.exactness import Exactness
from axolotl_cache.engine.forward import Chunk, Forward
from axolotl_cache.engine.generation import Running
from axolotl_cache.engine.plan import Call, next_calls
from axolotl_cache.engine.pool import Page
from axolotl_cache.engine.stateful import StatefulForward
from axolotl_cache.engine.stats import EngineStats


class Runner(ABC):
    """Goes on with requests. A request that fails ends with the error, and the others go on.

    Args:
        stats: what was computed is counted here.
        adapters: the adapters that requests may ask for.
    """

    def __init__(self, stats: EngineStats, adapters: Adapters | None) -> None:
        self._stats = stats
        self._adapters = adapters

    @abstractmethod
    def compute(self, ready: Sequence[Running]) -> None:
        """Compute one step's share of what these requests wait for, oldest first."""

    def _use_adapter_of(self, running: Running) -> None:
        if self._adapters is not None:
            self._adapters.use(running.adapter if running.adapter is not None else "")

    def _count_tokens(self, running: Running, count: int) -> None:
        """Note that the request's next `count` tokens are computed."""
        if running.is_prefill:
            self._stats.prefill_tokens += count
        else:
            self._stats.decode_tokens += count
        running.computed_tokens += count

    def _count_seconds(self, parts: Sequence[tuple[Running, int]], seconds: float) -> None:
        rows = sum(count for _, count in parts)
        decoded = sum(count for r, count in parts if r.computed_tokens > r.generation.prompt_tokens)
        self._stats.decode_seconds += seconds * decoded / rows
        self._stats.prefill_seconds += seconds * (rows - decoded) / rows


class PagedRunner(Runner):
    """For models of which keys and values are all that is kept: many requests in a call, over pages.

    Args:
        forward: the model, over a pool with the blocks of `exactness`.
        cache: what is computed is kept here for others; None keeps nothing.
        exactness: how the model must be computed.
        stats: what was computed is counted here.
        adapters: the adapters that requests may ask for.
        step_tokens: tokens that one step computes at the most.
        strict: also where a token's company can change its bits ("grid"), compute answers as if alone.
    """

    def __init__(
        self,
        forward: Forward,
        cache: KVCache | None,
        exactness: Exactness,
        stats: EngineStats,
        *,
        adapters: Adapters | None,
        step_tokens: int,
        strict: bool,
    ) -> None:
        super().__init__(stats, adapters)
        self._forward = forward
        self._pool = forward.pool
        self._cache = cache
        self._exactness = exactness
        self._step_tokens = step_tokens
        self._strict = strict

    def compute(self, ready: Sequence[Running]) -> None:
        """Go one token forward with all that decode, and with prompts as far as a step goes."""
        decoding = [running for running in ready if running.work.is_decode]
        for running in decoding:
            running.make_draft(len(decoding))
        layout = self._exactness.layout
        if layout.whole:
            for running in ready:
                if running.is_prefill:
                    self._reuse_less(running)
        work = [r.work for r in ready]
        for call in next_calls(work, layout, self._step_tokens, strict=self._strict):
            self._compute_call(ready, call)

    def _reuse_less(self, running: Running) -> None:
        """Let go of found blocks behind which the call would round otherwise than a whole prompt's."""
        found, table = running.computed_tokens, running.table
        good = reusable_tokens(running.generation.prompt_tokens, found, self._pool.block_size)
        if table is not None and good < found:
            if self._cache is not None:
                self._cache.give_back(table, good)
            running.note_found(table)

    def _compute_call(self, ready: Sequence[Running], call: Call) -> None:
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
                part[0].attempt(self._compute_parts, [part])

    def _compute_parts(self, parts: Sequence[tuple[Running, int]]) -> None:
        self._use_adapter_of(parts[0][0])
        started = time.perf_counter()
        chunks = [self._chunk(running, count) for running, count in parts]
        logits = self._forward.run(chunks, self._exactness.layout)
        for (running, count), behind in zip(parts, logits, strict=True):
            running.attempt(self._go_on, running, count, behind)
        self._count_seconds(parts, time.perf_counter() - started)

    def _chunk(self, running: Running, count: int) -> Chunk:
        table, start = running.table, running.computed_tokens
        if table is None:
            raise RuntimeError("this request was not let in")
        missing = -(-(start + count) // self._pool.block_size) - len(table.pages)
        if missing > 0:
            table.pages += self._allocate(missing)
        tokens = (running.tokens[start : start + count] + running.draft)[:count]
        behind_all = start + count >= len(running.tokens) and running.new_tokens > 0
        return Chunk(table.pages, start, tokens, wanted=1 + len(running.draft) if behind_all else 0)

    def _allocate(self, pages: int) -> list[Page]:
        try:
            return self._pool.allocate(pages)
        except MemoryError:
            if self._cache is None:
                raise
            self._cache.give_way(pages)  # an answer is worth more than what others may ask for
        return self._pool.allocate(pages)

    def _go_on(self, running: Running, count: int, logits: torch.Tensor) -> None:
        """Take over what was computed: `count` tokens, and logits behind the last of them."""
        table = running.table
        kept_blocks = table.kept_blocks if table else 0
        if len(logits) == 0:
            self._count_tokens(running, count)
        else:
            self._choose(running, count, logits)
        is_new_block = self._keepable_tokens(running) // self._pool.block_size > kept_blocks
        if is_new_block and running.reuse:
            self._keep(running)
        if running.new_tokens == 0 and running.computed_tokens == len(running.tokens):
            self._keep(running, pinned=True)
            running.generation.finish_reason = "length"

    def _choose(self, running: Running, count: int, logits: torch.Tensor) -> None:
        """Choose a token behind each of the last ones, as long as they turn out to be the right ones."""
        draft, running.draft = running.draft, []
        self._count_tokens(running, count - len(draft))
        running.accept(running.sampler.choose(logits[0]))
        self._stats.drafted_tokens += len(draft)
        for drafted, behind in zip(draft, logits[1:], strict=True):
            if running.has_ended or drafted != running.tokens[-1]:
                return
            self._count_tokens(running, 1)
            self._stats.right_drafted_tokens += 1
            running.accept(running.sampler.choose(behind))

    def _keepable_tokens(self, running: Running) -> int:
        """Return how many leading tokens others may reuse.

        What was decoded equals what a prompt would give only where results do not depend on the company.
        """
        bounds = [running.computed_tokens]
        if self._exactness.mode != "invariant":
            bounds.append(running.generation.prompt_tokens)
        if running.kept_tokens is not None:
            bounds.append(running.kept_tokens)
        return min(bounds)

    def _keep(self, running: Running, *, pinned: bool = False) -> None:
        if self._cache is None or running.table is None:
            return
        whole = self._keepable_tokens(running) // self._pool.block_size * self._pool.block_size
        try:
            self._cache.keep(running.tokens[:whole], running.table, pinned=pinned)
        except (MemoryError, torch.OutOfMemoryError):
            if pinned:
                raise
            self._cache.stats.refused_blocks += 1  # an answer is worth more than what could be kept of it


class StatefulRunner(Runner):
    """For models that keep more than keys and values: each request alone, from its own state.

    Args:
        forward: the model.
        stats: what was computed is counted here.
        adapters: the adapters that requests may ask for.
        keeps_state: False where the state that the model hands back is not all of it: everything is computed
            anew for each token, which takes the longer the longer the text.
    """

    def __init__(
        self,
        forward: StatefulForward,
        stats: EngineStats,
        adapters: Adapters | None,
        *,
        keeps_state: bool = True,
    ) -> None:
        super().__init__(stats, adapters)
        self._forward = forward
        self._keeps_state = keeps_state

    def compute(self, ready: Sequence[Running]) -> None:
        """Go one token forward with every request; a prompt is computed at once."""
        for running in ready:
            running.attempt(self._compute_one, running)

    def _compute_one(self, running: Running) -> None:
        self._use_adapter_of(running)
        started, count = time.perf_counter(), len(running.tokens) - running.computed_tokens
        state = running.state if self._keeps_state else {}
        logits = self._forward.run(running.tokens, running.computed_tokens, state)
        self._count_tokens(running, count)
        running.accept(running.sampler.choose(logits))
        self._count_seconds([(running, count)], time.perf_counter() - started)
