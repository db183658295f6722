"""Counters that only grow, of what no time series is kept: by tenant, by reason, by currency."""

from __future__ import annotations

from collections import Counter
from typing import Final

from axolotl_cache.observe.record import Record

MOST_TENANTS: Final = 1000
OTHERS: Final = "(others)"
"""Where tenants beyond `MOST_TENANTS` are counted, so that a label's values are bounded."""

_MISS_CODES: Final = {
    "never": "never_seen",
    "expired": "expired",
    "evicted": "evicted",
    "invalidated": "invalidated",
    "sampled": "sampled",
    "the request": "bypassed",
    "the stored": "too_old",
    "this same": "reported_wrong",
}
MISS_CODES: Final = (*_MISS_CODES.values(), "other")


class TenantTally:
    """What one tenant asked for: few numbers, as there may be many tenants."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "failures",
        "prompt_tokens",
        "requests",
        "saved_tokens",
    )

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.saved_tokens = 0

    def add(self, record: Record) -> None:
        """Count one request."""
        if record.status != "ok":
            self.failures[record.status] += 1
            return
        self.requests[record.served] += 1
        self.prompt_tokens += record.prompt_tokens
        self.cached_tokens += record.cached_tokens
        self.completion_tokens += record.completion_tokens
        self.saved_tokens += record.saved_tokens


class Counters:
    """All of them. Not safe for threads by itself: the observer's lock guards it."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.tenants: dict[str, TenantTally] = {}
        self.saved_money: dict[str, float] = {}
        """By currency."""
        self.response_queried_tokens = 0
        """Prompt tokens of requests that the response cache was asked for."""
        self.prefix_queried_tokens = 0
        """Prompt tokens of requests that the prefix cache was asked for."""
        self.unaligned_tokens = 0
        """Prompt tokens that agreed with something cached, and were computed, as their block did not."""
        self.response_misses: Counter[str] = Counter()
        """By one of `MISS_CODES`."""
        self.not_stored = 0

    def add(self, record: Record) -> None:
        """Count one request. Cost: 3 us."""
        if record.tenant:
            self._of(record.tenant).add(record)
        if record.status != "ok":
            self.failures[record.status] += 1
            return
        if record.saved_money is not None:
            money = self.saved_money
            money[record.currency] = money.get(record.currency, 0.0) + record.saved_money
        if record.key:
            self.response_queried_tokens += record.prompt_tokens
        if record.response_miss is not None and record.key:
            self.response_misses[miss_code(record.response_miss.reason)] += 1
        miss = record.prefix_miss
        if miss is not None and miss.first_difference_tokens is not None:
            self.prefix_queried_tokens += record.prompt_tokens
            self.unaligned_tokens += max(miss.first_difference_tokens - record.cached_tokens, 0)
        if record.not_stored is not None:
            self.not_stored += 1

    def _of(self, tenant: str) -> TenantTally:
        found = self.tenants.get(tenant)
        if found is None:
            name = tenant if len(self.tenants) < MOST_TENANTS else OTHERS
            found = self.tenants.setdefault(name, TenantTally())
        return found


def miss_code(reason: str) -> str:
    """Return the code of a reason of the response cache, one of `MISS_CODES`."""
    for beginning, code in _MISS_CODES.items():
        if reason.startswith(beginning):
            return code
    return "other"
