"""Measuring a workload with the cache off and on, so that the two can be compared."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import Answer, Request, Served


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


STORED = tuple(tier for tier in Served if tier.is_stored)
"""Tiers whose answers took no computing."""


@dataclass(slots=True)
class Side:
    """One side of a comparison: what each request came to, in the order of the workload."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time for all requests, one after another."""
        return sum(a.total_seconds for a in self.answers)

    @property
    def requests_per_second(self) -> float:
        """Throughput of one request after another."""
        return len(self.answers) / self.seconds

    @property
    def mean_latency_seconds(self) -> float:
        """Mean time from request to the end of the answer."""
        return fmean(a.total_seconds for a in self.answers)

    @property
    def p95_latency_seconds(self) -> float:
        """95 of 100 requests were at least this quick."""
        return percentile([a.total_seconds for a in self.answers], 0.95)

    @property
    def median_ttft_seconds(self) -> float:
        """Median time to first token."""
        return median(a.ttft_seconds for a in self.answers)

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that went through the model."""
        return sum(a.usage.computed_tokens for a in self.answers)

    @property
    def decode_tokens(self) -> int:
        """Answer tokens that went through the model."""
        return sum(a.usage.completion_tokens for a in self.answers if a.served not in STORED)

    @property
    def served(self) -> Counter[Served]:
        """How many answers each tier gave."""
        return Counter(a.served for a in self.answers)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A workload measured with the cache off and on."""

    off: Side
    on: Side

    @property
    def identical(self) -> int:
        """Answers that are equal, text and finish reason, on both sides."""
        return sum(
            (a.text, a.finish_reason) == (b.text, b.finish_reason)
            for a, b in zip(self.off.answers, self.on.answers, strict=True)
        )

    @property
    def response_hit_rate(self) -> float:
        """Share of the requests that the response cache answered."""
        return sum(self.on.served[tier] for tier in STORED) / len(self.on.answers)

    @property
    def throughput_ratio(self) -> float:
        """Requests per second, on over off."""
        return self.on.requests_per_second / self.off.requests_per_second

    @property
    def response_ceiling(self) -> float:
        """What throughput could grow by if response hits took no time and nothing else changed.

        1 / (1 - hit rate), each request weighted by what it costs with the cache off.
        """
        pairs = zip(self.off.answers, self.on.answers, strict=True)
        missed = sum(off.total_seconds for off, on in pairs if on.served not in STORED)
        return self.off.seconds / missed if missed else math.inf


def table(comparison: Comparison) -> str:
    """Return a comparison for people: off, on, and what changed."""
    off, on = comparison.off, comparison.on
    count = len(on.answers)
    rows = [
        ("throughput, requests/s", off.requests_per_second, on.requests_per_second, "{:.2f}"),
        (
            "time to first token, median, ms",
            off.median_ttft_seconds * 1e3,
            on.median_ttft_seconds * 1e3,
            "{:.0f}",
        ),
        ("latency, mean, ms", off.mean_latency_seconds * 1e3, on.mean_latency_seconds * 1e3, "{:.0f}"),
        ("latency, p95, ms", off.p95_latency_seconds * 1e3, on.p95_latency_seconds * 1e3, "{:.0f}"),
        ("prefill tokens computed", off.prefill_tokens, on.prefill_tokens, "{:,}"),
        ("decode tokens computed", off.decode_tokens, on.decode_tokens, "{:,}"),
    ]
    lines = [f"{'':<34}{'cache off':>12}{'cache on':>12}{'change':>12}"]
    for name, before, after, style in rows:
        change = f"{after / before:.2f} x" if before else ""
        lines.append(f"{name:<34}{style.format(before):>12}{style.format(after):>12}{change:>12}")
    served = on.served
    lines += [
        f"{'response hits':<34}{'':>12}{f'{served[Served.HIT_EXACT]} of {count}':>12}",
        *(
            [f"{'in other words':<34}{'':>12}{f'{served[Served.HIT_SEMANTIC]} of {count}':>12}"]
            if served[Served.HIT_SEMANTIC]
            else []
        ),
        *(
            [f"{'from the session':<34}{'':>12}{f'{served[Served.HIT_SESSION]} of {count}':>12}"]
            if served[Served.HIT_SESSION]
            else []
        ),
        f"{'prefix hits':<34}{'':>12}{f'{served[Served.HIT_PREFIX]} of {count}':>12}",
        f"{'answers identical':<34}{'':>12}{f'{comparison.identical} of {count}':>12}",
    ]
    not_stored = Counter(answer.not_stored for answer in on.answers if answer.not_stored)
    lines += [f"not stored: {count}, {reason}" for reason, count in not_stored.items()]
    if any(served[tier] for tier in STORED):
        lines.append(
            f"Response hits alone could give at most {comparison.response_ceiling:.2f} x throughput here; "
            f"with the prefix cache it is {comparison.throughput_ratio:.2f} x."
        )
    return "\n".join(lines)


def figures(comparison: Comparison) -> dict[str, float]:
    """Return a comparison for programs; seconds, tokens and ratios."""
    off, on = comparison.off, comparison.on
    return {
        "requests": len(on.answers),
        "requests_per_second_off": off.requests_per_second,
        "requests_per_second_on": on.requests_per_second,
        "throughput_on_over_off": comparison.throughput_ratio,
        "response_ceiling": comparison.response_ceiling,
        "ttft_median_seconds_off": off.median_ttft_seconds,
        "ttft_median_seconds_on": on.median_ttft_seconds,
        "mean_latency_seconds_off": off.mean_latency_seconds,
        "mean_latency_seconds_on": on.mean_latency_seconds,
        "p95_latency_seconds_off": off.p95_latency_seconds,
        "p95_latency_seconds_on": on.p95_latency_seconds,
        "prefill_tokens_off": off.prefill_tokens,
        "prefill_tokens_on": on.prefill_tokens,
        "decode_tokens_off": off.decode_tokens,
        "decode_tokens_on": on.decode_tokens,
        "hit_rate": comparison.response_hit_rate,
        "prefix_hits": on.served[Served.HIT_PREFIX],
        "identical": comparison.identical,
    }


def run_side(
    pipeline: Pipeline, requests: Sequence[Request], *, caching: bool, done: Callable[[], object]
) -> Side:
    """Answer the requests one after another, with the pipeline's caches on or off."""
    side = Side()
    for request in requests:
        side.answers.append(_answer(pipeline, request, caching))
        done()
    return side


def compare(pipeline: Pipeline, requests: Sequence[Request], *, done: Callable[[], object]) -> Comparison:
    """Answer each request with the cache off and on, the sides taking turns to go first.

    Taking turns spreads what the machine does besides over both sides. The side without cache reads and
    stores nothing.
    """
    off, on = Side(), Side()
    for number, request in enumerate(requests):
        for caching in (False, True) if number % 2 else (True, False):
            (on if caching else off).answers.append(_answer(pipeline, request, caching))
            done()
    return Comparison(off, on)


def _answer(pipeline: Pipeline, request: Request, caching: bool) -> Answer:
    before = pipeline.response_enabled, pipeline.prefix_enabled
    if not caching:
        pipeline.response_enabled = pipeline.prefix_enabled = False
    started = time.perf_counter()
    try:
        answer = pipeline.answer(request)
        # Keeping the answer is part of what it costs.
        return replace(answer, total_seconds=time.perf_counter() - started)
    finally:
        pipeline.response_enabled, pipeline.prefix_enabled = before
