"""The LRU curve against a cache that is simulated step by step, and the sample against the whole."""

from collections import OrderedDict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.profiling.sampled import SampledTrace
from axolotl_cache.profiling.stack_distance import Recency, distances, lru_curve

chains = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True), min_size=1, max_size=60)


def naive_hits(requests, capacity):
    """Look up all blocks of a request, then touch them from the last to the first."""
    held, hits = OrderedDict(), 0
    for blocks in requests:
        hits += sum(block in held for block in blocks)
        for block in reversed(blocks):
            held.pop(block, None)
            held[block] = None
            while len(held) > capacity:
                held.popitem(last=False)
    return hits


def trace_of(requests, limit=10**9):
    trace = SampledTrace(limit)
    for at, blocks in enumerate(requests):
        trace.add(float(at), blocks, len(blocks))
    return trace


@given(chains, st.integers(5, 14))
def test_the_curve_is_what_a_cache_of_that_capacity_hits(requests, capacity):
    trace = trace_of(requests)
    curve = lru_curve(trace, distances(trace))
    assert round(curve.hit_rate(capacity) * trace.references) == naive_hits(requests, capacity)


def test_a_distance_counts_blocks_and_not_uses_over_many_buckets():
    recency, order = Recency(), []
    rng = Random(3)
    for _ in range(12_000):
        block = rng.randrange(3_000)
        expected = len(order) - 1 - order.index(block) if block in order[-400:] else None
        if expected is not None:
            assert recency.distance(block) == expected
        recency.use(block)
        if block in order:
            order.remove(block)
        order.append(block)


def zipf_requests(rng, count):
    """Prefixes that everybody shares, conversations of some, and tails that come once."""
    fresh = 10**6
    for _ in range(count):
        chain = [0, 1]
        group = min(int(rng.paretovariate(0.6)), 4_000)
        chain += [10 + group * 4 + depth for depth in range(4)]
        fresh += 1
        yield [*chain, fresh]


def test_a_sample_is_as_far_off_as_it_says():
    rng = Random(1)
    requests = list(zipf_requests(rng, 20_000))
    exact, sampled = trace_of(requests), trace_of(requests, limit=12_000)
    whole = lru_curve(exact, distances(exact))
    part = lru_curve(sampled, distances(sampled))
    assert sampled.rate <= 1 / 8
    assert len(sampled) <= 12_000
    for capacity in (200, 1_000, 5_000, 20_000):
        assert abs(part.hit_rate(capacity) - whole.hit_rate(capacity)) <= part.error(capacity) + 0.005
    assert whole.error(1_000) == 0


def test_a_block_that_all_have_does_not_fill_the_sample():
    sampled = SampledTrace(500)
    for number in range(5_000):
        sampled.add(0.0, [0, 10 + number], 2)
    curve = lru_curve(sampled, distances(sampled))
    assert sampled.rate > 1 / 64
    assert curve.hit_rate(100) == pytest.approx(0.5, abs=0.05)


def test_the_smallest_capacity_that_is_enough():
    requests = [[n % 10] for n in range(200)]
    trace = trace_of(requests)
    curve = lru_curve(trace, distances(trace))
    assert curve.capacity_for(0.95) == 10
    assert curve.hit_rate(9) == 0
    assert curve.hit_rate(10) == curve.most == pytest.approx(0.95)
