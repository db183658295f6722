"""What a response cache would hit, by policy, entries and TTL: the store and the policies themselves, run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Final, get_args

from axolotl_cache.profiling.sampled import SampledTrace
from axolotl_cache.stores.base import Record as StoredRecord
from axolotl_cache.stores.memory import MemoryStore
from axolotl_cache.stores.policies import PolicyName, make_policy

POLICIES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)


def response_hit_rate(
    trace: SampledTrace,
    *,
    entries: float,
    ttl_seconds: float | None,
    policy: PolicyName = "lru",
    seed: int = 0,
) -> float:
    """Return the share of all requests that a response cache answers, from 0 to 1.

    Args:
        trace: one key a request; keys of answers that may not be stored are not asked for.
        entries: most held, in front of the whole trace; `inf` is no bound.
        ttl_seconds: from when an answer was stored, as `entry_timeout`; None is no TTL.
        policy: of the cache.
        seed: of the adaptive policy's random choices.
    """
    if not trace.requests:
        return 0.0
    hits = (
        _hits_unbounded(trace, ttl_seconds)
        if math.isinf(entries)
        else _hits(trace, max(1, round(entries * trace.rate)), ttl_seconds, policy, seed)
    )
    # What the sample has too few of are keys that everybody asks for (see stack_distance).
    missing = 0.0 if trace.is_exact else trace.references * trace.rate - _asked(trace)
    return min(1.0, max(0.0, (hits + missing) / (trace.requests * trace.rate)))


def _asked(trace: SampledTrace) -> int:
    return sum(1 for _ in trace.lookups())


def _hits_unbounded(trace: SampledTrace, ttl_seconds: float | None) -> int:
    stored: dict[int, float] = {}
    limit = math.inf if ttl_seconds is None else ttl_seconds
    hits = 0
    for now, key in trace.lookups():
        at = stored.get(key)
        if at is not None and now - at < limit:
            hits += 1
        else:
            stored[key] = now
    return hits


def _hits(trace: SampledTrace, capacity: int, ttl: float | None, policy: PolicyName, seed: int) -> int:
    store = MemoryStore(capacity, policy=make_policy(policy, capacity, Random(seed)))  # noqa: S311 no secret
    hits = 0
    now = 0.0
    for at, block in trace.lookups():
        now = max(now, at)
        key = str(block)
        record = store.get(key)
        if record is not None and record.is_live(now):
            store.touch(key)
            hits += 1
        else:
            expires = None if ttl is None else now + ttl
            store.put(key, StoredRecord(b"", "", now, expires, version=block), now)
    store.close()
    return hits


def grid(most: int) -> Sequence[int]:
    """Return capacities from 64 entries on, doubling, up to what holds everything."""
    found = [64]
    while found[-1] < most:
        found.append(found[-1] * 2)
    return found
