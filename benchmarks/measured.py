"""A day sent to a desk with some of its tiers on: what came of it, and what it took."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import loops
from accounts import Computed, novelty
from common import make_engine
from helpdesk import Asked, Mix, Parts, day
from switched import MAX_CACHE_BYTES, Desk, Side, SwitchedEngine

LATENCIES = (
    "mean_latency_seconds",
    "p95_latency_seconds",
    "p99_latency_seconds",
    "median_ttft_seconds",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A day with some of the tiers on."""

    side: Side
    run: loops.Run
    computed: Computed
    prefill_seconds: float
    decode_seconds: float
    pinned_tokens: int
    pin_seconds: float

    @property
    def texts(self) -> list[str]:
        """The answers."""
        return [reply.answer.text for reply in self.run.replies]

    @property
    def utilisation(self) -> float:
        """Share of the engine's time that went into tokens that nobody had computed before."""
        prefill = self.prefill_seconds * self.computed.new_prefill / max(self.computed.prefill, 1)
        decode = self.decode_seconds * self.computed.new_decode / max(self.computed.decode, 1)
        return (prefill + decode) / (self.prefill_seconds + self.decode_seconds)

    @property
    def hits(self) -> list[bool]:
        """Of which requests the answer was stored, or under way for another."""
        return [reply.answer.served.is_stored for reply in self.run.replies]

    def cost(self, seconds: tuple[float, float]) -> float:
        """Return what was computed, in seconds: tokens at so many seconds of prefill and of decode each."""
        return self.computed.prefill * seconds[0] + self.computed.decode * seconds[1]

    @property
    def seconds_a_token(self) -> tuple[float, float]:
        """What a token of prefill and one of decode took."""
        return self.prefill_seconds / self.computed.prefill, self.decode_seconds / self.computed.decode


class Bench:
    """Days, and the desk that answers them."""

    def __init__(self, loaded: Any, parts: Parts, seed: int) -> None:
        self._seed = seed
        engine = make_engine(loaded, max_cache_bytes=MAX_CACHE_BYTES, ignore_end=True, kind=SwitchedEngine)
        self.desk = Desk(loaded, engine, parts.records)
        self._parts = parts

    def day(self, mix: Mix) -> list[Asked]:
        """Return the requests of a day; the same for the same mix."""
        renderer = self.desk.renderer
        return day(
            self._parts,
            mix,
            random.Random(self._seed),  # noqa: S311 - a workload, not a secret
            lambda text: renderer.tokens(text, is_plain=False),
            renderer.show,
        )

    def measure(
        self, asked: Sequence[Asked], new_tokens: int, side: Side, at: Sequence[float] | None = None
    ) -> Measured:
        """Send a day with these tiers on; at these times, or as fast as it is answered."""
        engine = self.desk.engine
        requests = self.desk.requests(asked, new_tokens, with_sessions="session" in side)
        opened = self.desk.open(side, list(dict.fromkeys(each.system for each in asked)))
        before = replace(engine.stats)
        engine.sent.clear()
        try:
            pipeline = opened.pipeline
            run = loops.closed(pipeline, requests) if at is None else loops.opened(pipeline, requests, at)
        finally:
            opened.close()
        return Measured(
            side,
            run,
            novelty((sent.prompt, sent.generation) for sent in engine.sent),
            engine.stats.prefill_seconds - before.prefill_seconds,
            engine.stats.decode_seconds - before.decode_seconds,
            opened.pinned_tokens,
            opened.pin_seconds,
        )


def row_of(measured: Measured, off: Measured, price: tuple[float, float]) -> dict[str, Any]:
    """Return a day's account.

    Args:
        measured: the day.
        off: the same without cache.
        price: seconds that a token of prefill and one of decode take there.
    """
    from axolotl_cache.measure import percentile

    replies = measured.run.replies
    latency = [reply.seconds for reply in replies]
    return {
        "side": "+".join(sorted(measured.side)) or "off",
        "requests": len(replies),
        "seconds": measured.run.seconds,
        "requests_per_second": measured.run.requests_per_second,
        "over_off": measured.run.requests_per_second / off.run.requests_per_second,
        "mean_latency_seconds": fmean(latency),
        "p95_latency_seconds": percentile(latency, 0.95),
        "p99_latency_seconds": percentile(latency, 0.99),
        "median_ttft_seconds": median(reply.answer.ttft_seconds for reply in replies),
        "prefill_tokens": measured.computed.prefill,
        "decode_tokens": measured.computed.decode,
        "prefill_seconds": measured.prefill_seconds,
        "decode_seconds": measured.decode_seconds,
        "cost_reduction": 1 - measured.cost(price) / off.cost(price),
        "utilisation": measured.utilisation,
        "hit_rate": sum(measured.hits) / len(replies),
        "pinned_tokens": measured.pinned_tokens,
        "pin_seconds": measured.pin_seconds,
        "identical": same(off, measured),
    }


def same(one: Measured, other: Measured) -> int:
    """Return how many answers are the same."""
    return sum(a == b for a, b in zip(one.texts, other.texts, strict=True))


def cost_of(off: Measured, price: tuple[float, float], chosen: Sequence[bool]) -> float:
    """Return which part of what a day costs without cache goes to the chosen requests."""
    costs = [
        reply.answer.usage.prompt_tokens * price[0] + reply.answer.usage.completion_tokens * price[1]
        for reply in off.run.replies
    ]
    return sum(cost for cost, is_chosen in zip(costs, chosen, strict=True) if is_chosen) / sum(costs)
