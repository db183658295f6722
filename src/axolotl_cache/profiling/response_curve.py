"""What a response cache would hit, by policy, entries and TTL: the store and the policies themselves, run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
    return sum(hits(trace.lookups(), entries=capacity, ttl_seconds=ttl, policy=policy, seed=seed))


def hits(
    lookups: Iterable[tuple[float, int]],
    *,
    entries: int,
    ttl_seconds: float | None,
    policy: PolicyName = "lru",
    seed: int = 0,
) -> Iterator[bool]:
    """Yield for each lookup whether the answer is there; behind a miss it is stored.

    Args:
        lookups: when, in seconds, and a number for the request.
        entries: most held.
        ttl_seconds: from when an answer was stored; None is no TTL.
        policy: of the cache.
        seed: of the adaptive policy's random choices.
    """
    store = MemoryStore(entries, policy=make_policy(policy, entries, Random(seed)))  # noqa: S311 no secret
    now = 0.0
    for at, asked in lookups:
        now = max(now, at)
        key = str(asked)
        record = store.get(key)
        if record is not None and record.is_live(now):
            store.touch(key)
            yield True
        else:
            expires = None if ttl_seconds is None else now + ttl_seconds
            store.put(key, StoredRecord(b"", "", now, expires, version=asked), now)
            yield False
    store.close()


def grid(most: int) -> Sequence[int]:
    """Return capacities from 64 entries on, doubling, up to what holds everything."""
    found = [64]
    while found[-1] < most:
        found.append(found[-1] * 2)
    return found
