"""What came of the requests that one tier served."""

from __future__ import annotations

from axolotl_cache.observe.histogram import Histogram
from axolotl_cache.observe.record import Record


class Tally:
    """Counters and histograms; of a slot of time, or since the start."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "prompt_tokens",
        "queue",
        "requests",
        "saved_money",
        "saved_seconds",
        "saved_tokens",
        "total",
        "tpot",
        "ttft",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.saved_tokens = 0
        self.saved_seconds = 0.0
        self.saved_money = 0.0
        self.ttft = Histogram()
        self.total = Histogram()
        self.tpot = Histogram()
        self.queue = Histogram()

    def add(self, record: Record) -> None:
        """Count one request. Cost: 2 us."""
        self.requests += 1
        self.prompt_tokens += record.prompt_tokens
        self.cached_tokens += record.cached_tokens
        self.completion_tokens += record.completion_tokens
        self.saved_tokens += record.saved_tokens
        self.saved_seconds += record.saved_seconds
        if record.saved_money is not None:
            self.saved_money += record.saved_money
        self.ttft.add(record.ttft_seconds)
        self.total.add(record.total_seconds)
        self.queue.add(record.queue_seconds)
        tpot = record.tpot_seconds
        if tpot is not None:
            self.tpot.add(tpot)

    def merge(self, other: Tally) -> None:
        """Count all that another has counted."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.saved_tokens += other.saved_tokens
        self.saved_seconds += other.saved_seconds
        self.saved_money += other.saved_money
        self.ttft.merge(other.ttft)
        self.total.merge(other.total)
        self.tpot.merge(other.tpot)
        self.queue.merge(other.queue)
