"""What every policy of the prefix tree must do, and what only `adaptive` does, `lru` being its control."""

from __future__ import annotations

from random import Random
from typing import get_args

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.prefix import PolicyName, PrefixTree, make_ranking
from axolotl_cache.prefix.adaptive import ReuseRanking
from axolotl_cache.prefix.reuse import ReuseRates, kind_of
from axolotl_cache.profiling.simulate import BlockRequest, optimum, simulate

POLICIES = get_args(PolicyName)


class Blob:
    nbytes = 1


class Cache:
    """A tree that is used as an engine uses it: find, compute, keep, let go."""

    def __init__(self, policy: PolicyName, blocks: int) -> None:
        self.clock = ManualClock(0.0)
        self.tree = PrefixTree[Blob](
            block_size=1, max_bytes=blocks, clock=self.clock, ranking=make_ranking(policy)
        )

    def ask(self, tokens, *, pinned=False) -> int:
        match = self.tree.match([*tokens, 9], namespace="n")
        self.tree.insert(tokens, lambda index: Blob(), 1, namespace="n", pinned=pinned)
        self.tree.release(match)
        self.clock.advance(1)
        return match.tokens


def traffic(seed: int, count: int = 400) -> list[list[int]]:
    rnd = Random(seed)
    return [[rnd.randrange(3), *(rnd.randrange(6) for _ in range(rnd.randrange(6)))] for _ in range(count)]


@pytest.fixture(params=POLICIES)
def policy(request):
    return request.param


def test_the_bound_holds_and_nothing_contradicts_itself(policy):
    cache = Cache(policy, 20)
    for tokens in traffic(1):
        cache.ask(tokens)
        cache.tree.check_invariants()
    assert cache.tree.stats.evicted_blocks > 20


def test_what_is_pinned_never_goes(policy):
    cache = Cache(policy, 10)
    cache.ask([7, 7, 7], pinned=True)
    for tokens in traffic(2):
        cache.ask(tokens)
    assert cache.tree.peek([7, 7, 7, 9], namespace="n") == 3


def test_what_is_pinned_is_let_in_whatever_it_is_worth(policy):
    cache = Cache(policy, 10)
    for tokens in traffic(3):
        cache.ask(tokens)
    cache.ask([7, 7, 7], pinned=True)
    assert cache.tree.peek([7, 7, 7, 9], namespace="n") == 3


def test_what_is_in_use_never_goes(policy):
    cache = Cache(policy, 12)
    cache.ask([7, 7, 7])
    held = cache.tree.match([7, 7, 7, 9], namespace="n")
    assert held.tokens == 3
    for tokens in traffic(4):
        cache.ask(tokens)
    assert cache.tree.peek([7, 7, 7, 9], namespace="n") == 3
    cache.tree.release(held)


def test_all_can_be_evicted_and_nothing_is_left(policy):
    cache = Cache(policy, 20)
    for tokens in traffic(5):
        cache.ask(tokens)
    cache.tree.shrink_to(0)
    assert cache.tree.stats.held_blocks == 0
    cache.tree.check_invariants()


def test_an_erasure_forgets_names_as_well(policy):
    cache = Cache(policy, 20)
    for tokens in traffic(6):
        cache.ask(tokens)
    cache.tree.clear()
    assert cache.tree.stats.held_blocks == 0
    if policy != "lru":
        assert not cache.tree._ranking._known


def test_a_clock_that_goes_back_does_no_harm(policy):
    cache = Cache(policy, 15)
    for number, tokens in enumerate(traffic(7)):
        cache.clock.now_seconds = float(1000 - number)
        cache.ask(tokens)
        cache.tree.check_invariants()


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="lru, lfu, adaptive"):
        make_ranking("fifo")


def half_dead(count: int) -> list[BlockRequest]:
    """Conversations of which half end with their first prompt, in between the turns of those that go on."""
    rnd = Random(8)
    rows: list[BlockRequest] = []
    going: list[list[int]] = []
    number = 0
    for n in range(count):
        blocks = going.pop(0) if n % 4 == 0 and len(going) >= 12 else []
        for _ in range(8):
            number += 1
            blocks.append(number)
        if (len(blocks) > 8 or n % 4 == 2) and len(blocks) < 80:
            going.append(blocks)
        rows.append(BlockRequest(5.0 * n + rnd.random(), tuple(blocks), 4 * len(blocks) + 1))
    return rows


def test_adaptive_finds_what_lru_loses_to_the_dead():
    rows = half_dead(800)
    found = {
        name: simulate(rows, block_size=4, capacity_blocks=250, policy=name).hit_rate for name in POLICIES
    }
    best = optimum(rows, block_size=4, capacity_blocks=250).hit_rate
    assert found["adaptive"] > found["lru"] + 0.2 * (best - found["lru"])


def test_rates_are_those_that_were_seen():
    rates = ReuseRates()
    often, seldom = kind_of(5, 3), kind_of(1, 3)
    for n in range(200):
        rates.saw(often, 10.0 + n % 5, used=True)
        rates.saw(seldom, 10.0 + n % 5, used=n % 10 == 0)
    rates.learn([])
    assert rates.worth(often, 5.0) > 3 * rates.worth(seldom, 5.0) > 0
    assert rates.worth(often, 9.0) > rates.worth(often, 0.0), "the nearer the time, the more it is worth"
    assert rates.worth(often, 9.0) > rates.worth(often, 500.0), "and once it has passed, little"


def test_it_knows_nothing_before_it_has_seen_something():
    ranking = ReuseRanking()
    rates = ReuseRates()
    rates.learn([(kind_of(1, 1), 3.0)])
    assert not rates.is_known
    assert ranking.least(0.0, lambda leaf: True) is None
