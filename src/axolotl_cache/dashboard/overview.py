"""The front page: rates, times with and without the cache, memory, what was saved."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from axolotl_cache.observe import Observer, State
from axolotl_cache.observe.histogram import Histogram
from axolotl_cache.observe.series import Slot
from axolotl_cache.observe.tally import Tally
from axolotl_cache.request import Served

POINTS: Final = 90
MOST_TENANTS: Final = 20
_HITS: Final = tuple(name.value for name in Served if name is not Served.MISS)


class Overview:
    """One look at an observer.

    Args:
        observer: what was counted.
        state: what there is now.
        span_seconds: how far back.
    """

    def __init__(self, observer: Observer, state: State, span_seconds: int) -> None:
        self._observer = observer
        self._state = state
        self._span_seconds = span_seconds

    def json(self) -> dict[str, Any]:
        """Return all of it."""
        observer = self._observer
        now = observer.clock()
        with observer.reading():
            slots = observer.series.window(self._span_seconds, now, POINTS)
            line = observer.baseline.line()
            computed = observer.baseline.computed
            counters = observer.counters
            reasons = dict(counters.response_misses)
            failures = dict(counters.failures)
            money = dict(counters.saved_money)
            tenants = [
                {
                    "tenant": name,
                    "requests": sum(tally.requests.values()),
                    "failures": sum(tally.failures.values()),
                    "hits": sum(tally.requests[hit] for hit in _HITS),
                    "prompt_tokens": tally.prompt_tokens,
                    "cached_tokens": tally.cached_tokens,
                    "saved_tokens": tally.saved_tokens,
                }
                for name, tally in counters.tenants.items()
            ]
            since_start = observer.series.totals()
        whole = _together(slots)
        tenants.sort(key=lambda each: -int(str(each["requests"])))
        return {
            "span_seconds": self._span_seconds,
            "step_seconds": slots[1].start - slots[0].start if len(slots) > 1 else self._span_seconds,
            "summary": _summary(whole, sum(slot.failures for slot in slots), line),
            "since_start": _summary(since_start, sum(failures.values()), line) | {"money": money},
            "series": [_point(slot, line) for slot in slots],
            "latency": {name: _latency(tally) for name, tally in whole.items()},
            "baseline": {"computed": computed, "line": line},
            "misses": {name: count for name, count in sorted(reasons.items(), key=lambda r: -r[1]) if count},
            "failures": failures,
            "tenants": tenants[:MOST_TENANTS],
            "tiers": [asdict(tier) for tier in self._state.tiers],
            "adjustments": [asdict(each) for each in self._state.adjustments],
            "running": self._state.running,
            "waiting": self._state.waiting,
            "exactness": self._state.exactness,
            "block_size": self._state.block_size,
            "switches": self._state.switches,
        }


def _together(slots: list[Slot]) -> dict[str, Tally]:
    whole = Slot(0.0)
    for slot in slots:
        whole.merge(slot)
    return whole.served


def _summary(served: dict[str, Tally], failures: int, line: tuple[float, float] | None) -> dict[str, Any]:
    tallies = list(served.values())
    requests = sum(tally.requests for tally in tallies)
    prompt = sum(tally.prompt_tokens for tally in tallies)
    ttft = sum(tally.ttft.sum_seconds for tally in tallies)
    total = sum(tally.total.sum_seconds for tally in tallies)
    saved = sum(tally.saved_seconds for tally in tallies)
    return {
        "requests": requests,
        "failures": failures,
        "served": {name: tally.requests for name, tally in served.items()},
        "hits": sum(tally.requests for name, tally in served.items() if name in _HITS),
        "prompt_tokens": prompt,
        "cached_tokens": sum(tally.cached_tokens for tally in tallies),
        "completion_tokens": sum(tally.completion_tokens for tally in tallies),
        "saved_tokens": sum(tally.saved_tokens for tally in tallies),
        "saved_seconds": saved,
        "saved_money": sum(tally.saved_money for tally in tallies),
        "ttft_mean_seconds": ttft / requests if requests else None,
        "ttft_mean_seconds_without": _mean_without(served, line),
        "total_mean_seconds": total / requests if requests else None,
        "total_mean_seconds_without": (total + saved) / requests if requests else None,
    }


def _mean_without(served: dict[str, Tally], line: tuple[float, float] | None) -> float | None:
    """Return the mean time to first token if all had been computed: misses as measured, hits by the line."""
    requests = sum(tally.requests for tally in served.values())
    if not requests:
        return None
    measured = served.get(Served.MISS.value)
    hits = [tally for name, tally in served.items() if name in _HITS and tally.requests]
    seconds = measured.ttft.sum_seconds if measured else 0.0
    if hits and line is None:
        return None
    if line is not None:
        seconds += sum(tally.requests * line[0] + tally.prompt_tokens * line[1] for tally in hits)
    return seconds / requests


def _point(slot: Slot, line: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "t": slot.start,
        "failures": slot.failures,
        "ttft_without": _mean_without(slot.served, line),
        "served": {
            name: {
                "requests": tally.requests,
                "prompt_tokens": tally.prompt_tokens,
                "cached_tokens": tally.cached_tokens,
                "saved_seconds": tally.saved_seconds,
                "saved_tokens": tally.saved_tokens,
                "saved_money": tally.saved_money,
                "ttft": tally.ttft.quantile(0.5),
                "total": tally.total.quantile(0.5),
            }
            for name, tally in slot.served.items()
        },
    }


def _latency(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "prompt_tokens_mean": tally.prompt_tokens / tally.requests if tally.requests else None,
        "ttft": _quantiles(tally.ttft),
        "total": _quantiles(tally.total),
        "tpot": _quantiles(tally.tpot),
        "queue": _quantiles(tally.queue),
    }


def _quantiles(histogram: Histogram) -> dict[str, float | None]:
    return {f"p{round(share * 100)}": histogram.quantile(share) for share in (0.5, 0.95, 0.99)}
