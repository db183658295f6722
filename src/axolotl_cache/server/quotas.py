"""How much a tenant may ask for, by the minute: buckets that fill at an even rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from axolotl_cache.server.keys import Tenant
from axolotl_cache.server.refusal import Refusal


class Bucket:
    """Holds a minute's worth at the most, and is filled evenly.

    Args:
        per_minute: how much.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "level", "per_minute")

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self.level = per_minute
        self._at = now

    def fill(self, now: float) -> None:
        """Add what came since the last time."""
        self.level = min(self.level + (now - self._at) * self.per_minute / 60, self.per_minute)
        self._at = now

    def seconds_until(self, level: float) -> float:
        """Return when it will hold so much, if nothing is taken meanwhile."""
        return max(level - self.level, 0) * 60 / self.per_minute


class Quotas:
    """The buckets of all tenants.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}

    def take(self, tenant: Tenant) -> None:
        """Count one request.

        Raises:
            Refusal: 429, and when it may be sent again.
        """
        if tenant.requests_per_minute is None and tenant.tokens_per_minute is None:
            return
        now = self._clock()
        requests = _bucket(self._requests, tenant.name, tenant.requests_per_minute, now)
        tokens = _bucket(self._tokens, tenant.name, tenant.tokens_per_minute, now)
        if requests is not None and requests.level < 1:
            raise _exceeded("requests", requests.per_minute, requests.seconds_until(1))
        # What a request takes is known when it is done: it may begin while anything is left.
        if tokens is not None and tokens.level <= 0:
            raise _exceeded("tokens", tokens.per_minute, tokens.seconds_until(1))
        if requests is not None:
            requests.level -= 1

    def charge(self, tenant: Tenant, tokens: int) -> None:
        """Count tokens that were computed; more than are there is a debt."""
        bucket = _bucket(self._tokens, tenant.name, tenant.tokens_per_minute, self._clock())
        if bucket is not None:
            bucket.level -= tokens


def _bucket(buckets: dict[str, Bucket], name: str, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    bucket = buckets.get(name)
    if bucket is None or bucket.per_minute != per_minute:
        bucket = buckets[name] = Bucket(per_minute, now)
    bucket.fill(now)
    return bucket


def _exceeded(what: str, per_minute: float, seconds: float) -> Refusal:
    wait = max(1, math.ceil(seconds))
    return Refusal(
        429,
        f"this key's {per_minute:g} {what} a minute are used up; try again in {wait} s",
        code="rate_limit_exceeded",
        headers={"retry-after": str(wait)},
    )
