"""What was counted, as Prometheus reads it. The only module that needs prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

import axolotl_cache
from axolotl_cache.observe.counters import MISS_CODES, TenantTally
from axolotl_cache.observe.histogram import BOUNDS_SECONDS, Histogram
from axolotl_cache.observe.observer import Observer
from axolotl_cache.observe.record import Failure
from axolotl_cache.observe.state import State
from axolotl_cache.request import Served

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
PREFIX: Final = "axolotl_cache_"
_MISS: Final = Served.MISS.value
_SHOWN_BOUNDS: Final = tuple(
    n for n, bound in enumerate(BOUNDS_SECONDS) if f"{bound:e}"[:3] in {"1.0", "2.5", "5.0"} and bound <= 250
)
"""Every third bound or so: a bucket is a time series, and Prometheus keeps each."""


def exposition(observer: Observer) -> bytes:
    """Return all metrics, those of every tenant included, in the text format 0.0.4. For operators only.

    Cost: about 5 ms.
    """
    return _text(_Collector(observer))


def tenant_exposition(observer: Observer, tenant: str) -> bytes:
    """Return what one tenant may know: its own counters, and nothing of anyone else's."""
    return _text(_TenantCollector(observer, tenant))


def _text(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


class _TenantCollector(Collector):
    """The families of one tenant."""

    def __init__(self, observer: Observer, tenant: str) -> None:
        self._observer = observer
        self._tenant = tenant

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        with self._observer.reading():
            tally = self._observer.counters.tenants.get(self._tenant)
            return list(_tenants({} if tally is None else {self._tenant: tally}))


class _Collector(Collector):
    """All families, made anew at each scrape from the observer's counters and its source's gauges."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        state = self._observer.state()  # may wait for a disk: not while requests wait for us
        with self._observer.reading():
            counted = [*self._counted(), *_tenants(self._observer.counters.tenants)]
        return [*counted, *self._gauges(state), *_engine(state)]

    def _counted(self) -> Iterator[Metric]:
        counters = self._observer.counters
        totals = self._observer.series.totals()
        served = {name.value: totals.get(name.value) for name in Served}
        yield _counter(
            "requests", "Requests that were answered, by where the answer came from.", "served",
            {name: tally.requests if tally else 0 for name, tally in served.items()},
        )  # fmt: skip
        yield _counter(
            "request_failures", "Requests that got no answer, by what became of them.", "reason",
            {failure.value: counters.failures[failure.value] for failure in Failure},
        )  # fmt: skip
        there = [tally for tally in served.values() if tally]
        hits = {n.removeprefix("hit-"): t.cached_tokens if t else 0 for n, t in served.items() if n != _MISS}
        yield _counter(
            "queried_tokens", "Prompt tokens of requests that a cache was asked for.", "tier",
            {"exact": counters.response_queried_tokens, "prefix": counters.prefix_queried_tokens},
        )  # fmt: skip
        yield _counter(
            "hit_tokens", "Those of them that it had.", "tier",
            hits,
        )  # fmt: skip
        yield _plain(
            "unaligned_shared_tokens",
            "Prompt tokens that agreed with something cached, in a block that as a whole did not.",
            counters.unaligned_tokens,
        )
        yield _counter(
            "response_misses", "Requests that the response cache could not answer, by reason.", "reason",
            {code: counters.response_misses[code] for code in MISS_CODES},
        )  # fmt: skip
        yield _plain("not_stored", "Answers that were computed and not stored.", counters.not_stored)
        yield _plain(
            "prompt_tokens", "Prompt tokens of answered requests.", sum(t.prompt_tokens for t in there)
        )
        yield _plain(
            "generation_tokens", "Tokens of answers, stored ones included.",
            sum(t.completion_tokens for t in there),
        )  # fmt: skip
        yield _counter(
            "saved_tokens", "Tokens of prompts and answers that were not computed.", "served",
            {name: tally.saved_tokens if tally else 0 for name, tally in served.items()},
        )  # fmt: skip
        yield _counter(
            "saved_seconds", "Seconds of computing that were saved; behind a prefix, an estimate.", "served",
            {name: tally.saved_seconds if tally else 0.0 for name, tally in served.items()},
        )  # fmt: skip
        yield _counter(
            "saved_money", "Money that was saved, at the prices given.", "currency", counters.saved_money
        )
        for name, help_text, which in (
            ("time_to_first_token_seconds", "Time to first token, the queue included.", "ttft"),
            ("e2e_request_latency_seconds", "Time to the end of the answer, the queue included.", "total"),
            ("time_per_output_token_seconds", "Time per output token behind the first.", "tpot"),
            ("request_queue_time_seconds", "Time before a request began.", "queue"),
        ):  # fmt: skip
            yield _histogram(name, help_text, {n: getattr(t, which) for n, t in served.items() if t})
        log = self._observer.log
        yield _plain(
            "request_log_dropped", "Lines of the request log that were left out, the disk being too slow.",
            log.dropped if log else 0,
        )  # fmt: skip

    def _gauges(self, state: State) -> Iterator[Metric]:
        yield _gauge("num_requests_running", "Requests that are being answered.", "", {"": state.running})
        yield _gauge("num_requests_waiting", "Requests that wait.", "", {"": state.waiting})
        tiers = state.tiers
        bounded = [t for t in tiers if t.max_bytes is not None]
        yield _gauge(
            "tier_up", "Whether a tier could be asked.", "tier", {t.name: int(t.is_up) for t in tiers}
        )
        yield _gauge("tier_bytes", "Bytes held.", "tier", {t.name: t.held_bytes for t in tiers if t.is_up})
        yield _gauge("tier_max_bytes", "Bound on them.", "tier", {t.name: t.max_bytes or 0 for t in bounded})
        yield _gauge("tier_pinned_bytes", "Bytes that are never evicted.", "tier",
                     {t.name: t.pinned_bytes for t in tiers})  # fmt: skip
        yield _gauge("tier_leased_bytes", "Bytes that sessions hold.", "tier",
                     {t.name: t.leased_bytes for t in tiers})  # fmt: skip
        yield _gauge("tier_entries", "Answers, or blocks of keys and values, held.", "tier",
                     {t.name: t.entries for t in tiers})  # fmt: skip
        yield _gauge("tier_max_entries", "Bound on them.", "tier",
                     {t.name: t.max_entries for t in tiers if t.max_entries is not None})  # fmt: skip
        yield _counter("evictions", "Entries that went as there was no room.", "tier",
                       {t.name: t.evicted for t in tiers})  # fmt: skip
        yield _counter("expirations", "Entries that went as their time was up.", "tier",
                       {t.name: t.expired for t in tiers})  # fmt: skip
        yield _counter("refused_entries", "Entries for which there was no room.", "tier",
                       {t.name: t.refused for t in tiers})  # fmt: skip
        yield _counter("memory_adjustments", "Steps by which caches changed their own bounds.", "change",
                       state.adjustment_counts)  # fmt: skip
        yield _gauge("tier_enabled", "Whether the kill switch leaves a tier on.", "tier",
                     {name: int(on) for name, on in state.switches.items()})  # fmt: skip
        yield _gauge("process_resident_memory_bytes", "Memory of the process.", "node",
                     {n.name: n.memory_bytes for n in state.nodes if n.memory_bytes is not None})  # fmt: skip
        yield _gauge("start_time_seconds", "When counting began, seconds since the epoch.", "",
                     {"": self._observer.started_at})  # fmt: skip
        info = GaugeMetricFamily(
            PREFIX + "info",
            "What is served; always 1.",
            labels=["version", "model_name", "exactness", "block_size"],
        )
        info.add_metric(
            [axolotl_cache.__version__, self._observer.model, state.exactness, str(state.block_size)], 1
        )
        yield info


def _engine(state: State) -> Iterator[Metric]:
    engine = state.engine
    if engine is None:
        return
    yield _plain("engine_steps", "Passes of the model.", engine.steps)
    yield _counter("engine_computed_tokens", "Tokens that went through the model.", "phase",
                   {"prefill": engine.prefill_tokens, "decode": engine.decode_tokens})  # fmt: skip
    yield _counter("engine_seconds", "Seconds of computing.", "phase",
                   {"prefill": engine.prefill_seconds, "decode": engine.decode_seconds})  # fmt: skip
    yield _plain("engine_loaded_tokens", "Tokens whose keys and values came from a tier below memory.",
                 engine.loaded_tokens)  # fmt: skip
    yield _plain(
        "engine_drafted_tokens", "Tokens computed on the chance of being next.", engine.drafted_tokens
    )
    yield _plain("engine_accepted_draft_tokens", "Those of them that were.", engine.right_drafted_tokens)


def _tenants(tenants: dict[str, TenantTally]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        PREFIX + "tenant_requests", "Answered requests of a tenant.", labels=["tenant", "served"]
    )
    failures = CounterMetricFamily(
        PREFIX + "tenant_request_failures",
        "Requests of a tenant without an answer.",
        labels=["tenant", "reason"],
    )
    tokens = CounterMetricFamily(
        PREFIX + "tenant_tokens",
        "Tokens of a tenant: of prompts, those of them that were cached, of answers, and saved.",
        labels=["tenant", "kind"],
    )
    for name, tally in tenants.items():
        for served, count in tally.requests.items():
            requests.add_metric([name, served], count)
        for reason, count in tally.failures.items():
            failures.add_metric([name, reason], count)
        kinds = {
            "prompt": tally.prompt_tokens,
            "cached": tally.cached_tokens,
            "completion": tally.completion_tokens,
            "saved": tally.saved_tokens,
        }
        for kind, count in kinds.items():
            tokens.add_metric([name, kind], count)
    yield from (requests, failures, tokens)


def _plain(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, help_text, value=value)


def _counter(name: str, help_text: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, help_text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _gauge(name: str, help_text: str, label: str, values: dict[str, int] | dict[str, float]) -> Metric:
    if not label:
        return GaugeMetricFamily(PREFIX + name, help_text, value=values[""])
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=[label])
    for value, amount in values.items():
        family.add_metric([value], amount)
    return family


def _histogram(name: str, help_text: str, histograms: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, help_text, labels=["served"])
    for served, histogram in histograms.items():
        buckets: list[tuple[str, float]] = []
        done, total = 0, 0
        for place in _SHOWN_BOUNDS:
            total += sum(histogram.counts[done : place + 1])
            done = place + 1
            buckets.append((repr(BOUNDS_SECONDS[place]), total))
        buckets.append(("+Inf", histogram.count))
        family.add_metric([served], buckets, histogram.sum_seconds)
    return family
