"""The account of an answer: what it took, what it saved, and what all of them came to."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from axolotl_cache.clock import Clock
from axolotl_cache.pipeline.stored import from_entry
from axolotl_cache.pipeline.totals import Totals
from axolotl_cache.request import Answer, Request, Saved, Served, Usage
from axolotl_cache.response import Entry
from axolotl_cache.response.accounts import as_cost
from axolotl_cache.response.prices import Cost, PriceTable

if TYPE_CHECKING:
    from axolotl_cache.engine.stats import EngineStats


class Account:
    """Says of each answer what it saved, and counts it.

    Args:
        prices: what answers cost.
        model_name: of the model as it was loaded, in `prices`; adapters go by their own names.
        clock: wall clock, for the age of stored answers.
    """

    def __init__(self, prices: PriceTable, model_name: str, clock: Clock) -> None:
        self.totals = Totals()
        self._prices = prices
        self._model_name = model_name
        self._clock = clock
        # Entered again where the collector of cycles ends an abandoned stream in the midst of counting.
        self._counting = threading.RLock()

    def name(self, request: Request) -> str:
        """Return the name that a request's model has in the prices."""
        return request.adapter or self._model_name

    def stored(self, entry: Entry, key: str, started: float) -> Answer:
        """Return a stored answer with its account; it was asked for at `started` (`time.perf_counter`)."""
        saved = self._prices.saved_by_answer(as_cost(entry.cost), time.perf_counter() - started)
        return from_entry(entry, key, saved, started, self._clock())

    def of_another(self, answer: Answer, request: Request, started: float, first_at: float) -> Answer:
        """Return the account of an answer that was computed for an equal request.

        Args:
            answer: as it was computed.
            request: the equal one.
            started: when that was begun, on the clock of `time.perf_counter`.
            first_at: when it had its first piece.
        """
        usage, total_seconds = answer.usage, time.perf_counter() - started
        cost = Cost(
            usage.prompt_tokens,
            usage.completion_tokens,
            answer.total_seconds,
            usage.cached_tokens,
            self.name(request),
        )
        return replace(
            answer,
            served=Served.HIT_EXACT,
            usage=Usage(usage.prompt_tokens, usage.prompt_tokens, usage.completion_tokens),
            ttft_seconds=first_at - started,
            total_seconds=total_seconds,
            saved=self._prices.saved_by_answer(cost, total_seconds),
            response_miss=None,
            semantic_miss=None,
            prefix_miss=None,
            session=None,
        )

    def saved_by_prefix(self, cached_tokens: int, stats: EngineStats, request: Request) -> Saved:
        """Return what the cached tokens of a prompt saved, at the speed of prefill measured so far."""
        seconds = cached_tokens * stats.prefill_seconds / max(stats.prefill_tokens, 1)
        return self._prices.saved_by_prefix(cached_tokens, seconds, self.name(request))

    def counted(self, answer: Answer) -> Answer:
        """Count an answer, and return it."""
        with self._counting:
            self.totals.count(answer)
        return answer

    def not_stored(self, reason: str) -> None:
        """Count one that is not stored, and that nobody had the whole of."""
        with self._counting:
            self.totals.not_stored[reason] += 1
