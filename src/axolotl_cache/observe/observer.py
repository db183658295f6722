"""The one object that every finished request is given to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.observe.baseline import Baseline
from axolotl_cache.observe.counters import Counters
from axolotl_cache.observe.recent import Recent
from axolotl_cache.observe.record import Call, Failure, Record, of_answer, of_failure
from axolotl_cache.observe.request_log import RequestLog
from axolotl_cache.observe.series import Series
from axolotl_cache.observe.state import PrefixView, Source, State
from axolotl_cache.observe.traces import Traces
from axolotl_cache.request import Answer, Request, Served


class Observer:
    """Counts finished requests, from any thread, in bounded memory; reads gauges when it is asked.

    Args:
        model: what is served, by name.
        keeps_text: whether the last prompts are kept in memory, for the dashboard's page of a request.
        log: the request log; None writes none. The observer's own from now on.
        traces: where spans go; None makes none. The observer's own from now on.
        clock: seconds since the epoch.

    Attributes:
        counters, series, recent, baseline: what was counted; to be read inside `reading`.
    """

    def __init__(
        self,
        *,
        model: str = "",
        keeps_text: bool = False,
        log: RequestLog | None = None,
        traces: Traces | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self.model = model
        self.clock = clock
        self.started_at = clock()
        self.counters = Counters()
        self.series = Series()
        self.recent = Recent(keeps_text=keeps_text)
        self.baseline = Baseline()
        self.log = log
        self._traces = traces
        self._source: Source | None = None
        self._lock = threading.Lock()

    def watch(self, source: Source) -> None:
        """Read gauges from here from now on."""
        self._source = source

    def finished(self, request: Request, answer: Answer, call: Call) -> None:
        """Count a request that was answered. Cost: about 10 us; docs/metrics.md has what was measured."""
        record = of_answer(request, answer, call)
        self._count(record, request)
        if self.log is not None:
            self.log.write(record, request, answer)
        if self._traces is not None:
            self._traces.finished(record, request, call)

    def failed(
        self,
        failure: Failure,
        call: Call,
        *,
        request: Request | None = None,
        tenant: str = "",
        detail: str = "",
    ) -> None:
        """Count a request that got no answer.

        Args:
            failure: what became of it.
            call: how it came in.
            request: what was asked, as far as it was understood.
            tenant: who asked, where there is no request.
            detail: for people, one short sentence without secrets.
        """
        record = of_failure(failure, call, request, tenant, detail, self.clock())
        self._count(record, request)
        if self.log is not None:
            self.log.write(record, request, None)
        if self._traces is not None:
            self._traces.finished(record, request, call)

    def state(self) -> State:
        """Return what there is now; nothing where nothing is watched."""
        return self._source.state() if self._source is not None else State()

    def prefixes(self, limit: int) -> list[PrefixView]:
        """Return the largest runs of the prefix tree."""
        return self._source.prefixes(limit) if self._source is not None else []

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep what was counted as it is inside this block. Requests wait: be quick."""
        with self._lock:
            yield

    def close(self) -> None:
        """Write out what waits to be written."""
        if self.log is not None:
            self.log.close()
        if self._traces is not None:
            self._traces.close()

    def _count(self, record: Record, request: Request | None) -> None:
        now = self.clock()
        with self._lock:
            self.counters.add(record)
            self.series.add(record, now)
            self.recent.add(record, request)
            if record.served in _COMPUTED:
                self.baseline.learn(record.prompt_tokens - record.cached_tokens, record.ttft_seconds)


_COMPUTED = frozenset({Served.MISS.value, Served.HIT_PREFIX.value})
