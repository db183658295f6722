"""What does it cost to be watched: a request that is counted, a scrape, a look at the dashboard?

python benchmarks/observe.py [--quick]

Figures: `finished_us`, counting one answer (the median of the rounds), and the same with a tenant, with the
request log and with a span that goes nowhere, whose own threads work meanwhile; `off_us` is the loop without
an observer. `scrape_ms` and `overview_ms` are behind 100,000 counted requests; `memory_mb` is what is kept of
a week in which two tiers served in every slot of time.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import common
from axolotl_cache.clock import ManualClock
from axolotl_cache.dashboard import Dashboard
from axolotl_cache.observe import Call, Observer, RequestLog
from axolotl_cache.observe.exposition import exposition
from axolotl_cache.observe.traces import Traces
from axolotl_cache.request import Answer, Message, Miss, Request, Saved, Served, Usage

START = 1_700_000_000.0
CALL = Call("r", START, "/v1/chat/completions", "a-model", is_stream=True, queue_seconds=0.01)
ANSWERS = (
    Answer("text", "stop", Served.HIT_EXACT, Usage(400, 400, 50), 1e-4, 1e-4, 5.0, Saved(450, 1.2), "key"),
    Answer("text", "stop", Served.MISS, Usage(400, 0, 50), 0.3, 1.4, key="key",
           response_miss=Miss("never seen"), prefix_miss=Miss("nothing", 0)),
)  # fmt: skip


def asked(tenant: str = "") -> Request:
    """Return a request."""
    return Request(messages=(Message("user", "When do you open?"),), tenant=tenant)


def microseconds(work: Callable[[int], object], count: int, rounds: int) -> float:
    """Return the median over the rounds of the mean time of one call."""
    means = []
    for _ in range(rounds):
        started = time.perf_counter()
        for n in range(count):
            work(n)
        means.append((time.perf_counter() - started) / count * 1e6)
    return median(means)


def counting(observer: Observer | None, request: Request) -> Callable[[int], object]:
    """Return what is timed: answers of both kinds, in turn."""
    if observer is None:
        return lambda n: ANSWERS[n % 2]
    return lambda n: observer.finished(request, ANSWERS[n % 2], CALL)


def week_megabytes() -> float:
    """Return what is held of a week of a request of each kind in every slot."""
    clock = ManualClock(START)
    tracemalloc.start()
    observer = Observer(clock=clock)
    for _ in range(7 * 24 * 360):
        for answer in ANSWERS:
            observer.finished(asked(), answer, CALL)
        clock.advance(10)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / 1e6


def main() -> None:
    """Measure, and write the result."""
    options = common.arguments(__doc__)
    started = time.time()
    count, rounds = (2_000, 9) if options.quick else (20_000, 15)
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        """Takes spans, and sends nothing."""

        def export(self, spans: Any) -> SpanExportResult:
            """Take them."""
            return SpanExportResult.SUCCESS

    figures = {"off_us": microseconds(counting(None, asked()), count, rounds)}
    figures["finished_us"] = microseconds(counting(Observer(), asked()), count, rounds)
    figures["finished_with_tenant_us"] = microseconds(counting(Observer(), asked("a tenant")), count, rounds)
    with tempfile.TemporaryDirectory() as folder:
        log = RequestLog(Path(folder) / "log", secret=b"k")
        watched = Observer(log=log)
        figures["finished_with_log_us"] = microseconds(counting(watched, asked()), count, rounds)
        watched.close()
    traced = Observer(traces=Traces(Nowhere()))
    figures["finished_with_span_us"] = microseconds(counting(traced, asked()), count // 10, rounds)
    traced.close()
    busy = Observer(keeps_text=True)
    for n in range(100_000 if not options.quick else 10_000):
        busy.finished(asked(f"t{n % 50}"), ANSWERS[n % 2], CALL)
    dashboard = Dashboard(busy)
    figures["scrape_ms"] = microseconds(lambda n: exposition(busy), 20, rounds) / 1e3
    figures["overview_ms"] = microseconds(lambda n: dashboard.overview(), 20, rounds) / 1e3
    figures["memory_mb"] = week_megabytes()
    figures = {name: round(value, 2) for name, value in figures.items()}
    for name, value in figures.items():
        common.say(f"{name:<26}{value:>10}")
    common.emit(
        "observe",
        figures=figures,
        rows=[{"answers": ["hit-exact", "miss"], "count": count, "rounds": rounds}],
        seed=0,
        started=started,
        packages=["prometheus_client", "opentelemetry-sdk"],
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
