"""The gauges of a pipeline: read off its caches and its engine when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import axolotl_cache
from axolotl_cache.errors import StoreError
from axolotl_cache.observe.node import Resources
from axolotl_cache.observe.state import RUNNING, EngineState, NodeState, PrefixView, State, TierState

if TYPE_CHECKING:
    from axolotl_cache.engine.lower import LowerTier
    from axolotl_cache.pipeline import Pipeline

_MOST_TEXT: Final = 400


class PipelineSource:
    """Gauges of one pipeline in this process; `pipeline_source` makes it.

    Args:
        pipeline: what is watched. Nothing of it is changed.
        running: requests that are being answered; None asks the engine.
        waiting: requests that wait; None asks the engine.
        node: name of this machine; None asks the system.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        running: Callable[[], int] | None,
        waiting: Callable[[], int] | None,
        node: str | None,
    ) -> None:
        self._pipeline = pipeline
        self._running = running or (lambda: pipeline.engine.running_requests)
        self._waiting = waiting or (lambda: pipeline.engine.waiting_requests)
        self._resources = Resources(node)
        self._started = time.monotonic()

    def state(self) -> State:
        """Return what there is now. Cost: a few ms where there is a disk to ask."""
        pipeline, engine = self._pipeline, self._pipeline.engine
        tiers = (*self._response_tiers(), *self._prefix_tiers(), *self._session_tiers())
        stats = engine.stats
        running, waiting = self._running(), self._waiting()
        return State(
            tiers=tiers,
            running=running,
            waiting=waiting,
            engine=EngineState(
                stats.steps,
                stats.prefill_tokens,
                stats.decode_tokens,
                stats.prefill_seconds,
                stats.decode_seconds,
                stats.drafted_tokens,
                stats.right_drafted_tokens,
                stats.loaded_tokens,
            ),
            nodes=(self._node(tiers, running, waiting),),
            exactness=engine.exactness.mode,
            block_size=engine.block_size,
            switches={"response": pipeline.response_enabled, "prefix": pipeline.prefix_enabled},
            adjustments=engine.adjustments.last(),
            adjustment_counts=engine.adjustments.counts(),
        )

    def prefixes(self, limit: int) -> list[PrefixView]:
        """Return the largest runs of the prefix tree, their beginnings as text."""
        size, show = self._pipeline.engine.block_size, self._pipeline.renderer.show
        return [
            PrefixView(
                id=run.id,
                parent=run.parent,
                namespace=run.namespace,
                start_tokens=run.start_blocks * size,
                blocks=run.blocks,
                subtree_blocks=run.subtree_blocks,
                hits=run.hits,
                age_seconds=run.age_seconds,
                is_pinned=run.is_pinned,
                references=run.references,
                tokens=run.tokens,
                block_bytes=run.block_bytes,
                text=show(run.tokens)[:_MOST_TEXT],
            )
            for run in self._pipeline.engine.prefix_runs(limit)
        ]

    def _response_tiers(self) -> list[TierState]:
        cache = self._pipeline.response
        if cache is None:
            return []
        stats = cache.stats()
        on_disk = cache.is_persistent
        memory = TierState(
            "response_memory",
            "answers in memory",
            held_bytes=stats.memory_bytes,
            entries=stats.entries if not on_disk else 0,
            max_entries=cache.maxsize,
            evicted=0 if on_disk else stats.evictions,
            expired=0 if on_disk else stats.expirations,
        )
        if not on_disk:
            return [memory]
        disk = TierState(
            "response_disk",
            "answers on disk",
            held_bytes=stats.stored_bytes,
            entries=stats.entries,
            max_entries=cache.maxsize,
            evicted=stats.evictions,
            expired=stats.expirations,
        )
        return [memory, disk]

    def _prefix_tiers(self) -> list[TierState]:
        engine = self._pipeline.engine
        stats = engine.prefix_stats
        memory = TierState(
            "prefix_memory",
            "prefixes in memory",
            held_bytes=stats.held_bytes,
            max_bytes=engine.prefix_max_bytes,
            entries=stats.held_blocks,
            pinned_bytes=stats.pinned_bytes,
            leased_bytes=stats.leased_bytes,
            evicted=stats.evicted_blocks,
            expired=stats.expired_blocks,
            refused=stats.refused_blocks,
        )
        lower = [_lower_tier(tier) for tier in engine.lower_tiers]
        running = TierState(
            RUNNING,
            "running requests",
            # What a running request shares with the prefix cache is counted there.
            held_bytes=max(engine.held_bytes - stats.held_bytes, 0),
            max_bytes=engine.running_max_bytes,
        )
        return [memory, *lower, running]

    def _session_tiers(self) -> list[TierState]:
        step = self._pipeline.session
        if step is None or step.sessions is None:
            return []
        kept = step.sessions
        return [
            TierState(
                "session_memory",
                "what sessions are about",
                held_bytes=kept.held_bytes,
                max_bytes=kept.max_bytes,
                entries=len(kept),
                expired=kept.expired,
            )
        ]

    def _node(self, tiers: tuple[TierState, ...], running: int, waiting: int) -> NodeState:
        used = self._resources.used()
        gpu = self._pipeline.engine.device_memory_bytes
        return NodeState(
            name=self._resources.name,
            version=axolotl_cache.__version__,
            device=str(self._pipeline.engine.device),
            uptime_seconds=time.monotonic() - self._started,
            cpu_share=used.cpu_share,
            cores=used.cores,
            memory_bytes=used.memory_bytes,
            total_memory_bytes=used.total_memory_bytes,
            running=running,
            waiting=waiting,
            requests=self._pipeline.totals.requests,
            held_bytes=sum(tier.held_bytes for tier in tiers if tier.is_in_memory),
            gpu_memory_bytes=gpu[0] if gpu else None,
            gpu_total_bytes=gpu[1] if gpu else None,
        )


def _lower_tier(tier: LowerTier) -> TierState:
    name, title = f"prefix_{tier.kind}", f"prefixes on {tier.kind}"
    try:
        held_bytes = tier.held_bytes
    except StoreError:  # a server that is away must not take the figures of all else with it
        return TierState(name, title, held_bytes=0, max_bytes=tier.max_bytes, is_up=False)
    return TierState(name, title, held_bytes=held_bytes, max_bytes=tier.max_bytes, entries=tier.held_blocks)


def pipeline_source(
    pipeline: Pipeline,
    *,
    running: Callable[[], int] | None = None,
    waiting: Callable[[], int] | None = None,
    node: str | None = None,
) -> PipelineSource:
    """Return the gauges of a pipeline, for `Observer.watch`.

    Args:
        pipeline: what is watched. Nothing of it is changed.
        running: requests that are being answered; None asks the engine.
        waiting: requests that wait; None asks the engine.
        node: name of this machine; None asks the system.
    """
    return PipelineSource(pipeline, running, waiting, node)
