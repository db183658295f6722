"""The simulator: against counts by hand, against brute force, and against the laws that every cache obeys."""

from dataclasses import replace
from itertools import product
from random import Random

import pytest

from axolotl_cache.profiling.simulate import (
    BlockRequest,
    capacity_for,
    distinct_blocks,
    optimum,
    simulate,
)

POLICIES = ("lru", "lfu", "adaptive")


def prompts(*rows: tuple[int, ...], tail: int = 1) -> list[BlockRequest]:
    """Requests a second apart, of whole blocks of 4 tokens and `tail` tokens more."""
    return [BlockRequest(float(n), row, 4 * len(row) + tail) for n, row in enumerate(rows)]


def conversations(count: int, seed: int) -> list[BlockRequest]:
    """Requests of sessions that go on, begin and end at random, behind one common block."""
    rnd = Random(seed)
    sessions: list[list[int]] = []
    rows, number = [], 1
    for n in range(count):
        if sessions and rnd.random() < 0.5:
            blocks = sessions[min(int(rnd.expovariate(0.3)), len(sessions) - 1)]
        else:
            blocks = [0]
            sessions.insert(0, blocks)
        for _ in range(rnd.randint(1, 4)):
            blocks.append(number)
            number += 1
        rows.append(BlockRequest(3.0 * n, tuple(blocks), 4 * len(blocks) + rnd.randint(0, 3)))
    return rows


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_asked_for_before_is_found(policy):
    done = simulate(prompts((1, 2), (1, 2, 3), (4,)), block_size=4, capacity_blocks=9, policy=policy)
    assert (done.hit_tokens, done.prompt_tokens, done.requests) == (8, 9 + 13 + 5, 3)
    assert done.hit_rate == 8 / 27


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_token_is_never_found(policy):
    done = simulate(prompts((1, 2), (1, 2), tail=0), block_size=4, capacity_blocks=9, policy=policy)
    assert done.hit_tokens == 4
    assert optimum(prompts((1, 2), (1, 2), tail=0), block_size=4, capacity_blocks=9).hit_tokens == 4


def test_a_block_that_is_not_whole_is_not_kept():
    done = simulate([BlockRequest(0, (1, 2), 7), BlockRequest(1, (1, 2), 7)], block_size=4, capacity_blocks=9)
    assert done.hit_tokens == 4


def test_the_oldest_leaf_goes_first():
    rows = prompts((1, 2), (1, 3), (1, 4), (1, 2))
    assert simulate(rows, block_size=4, capacity_blocks=3).hit_tokens == 3 * 4
    assert simulate(rows, block_size=4, capacity_blocks=4).hit_tokens == 4 * 4


def test_what_nobody_asks_for_in_its_ttl_goes():
    rows = [BlockRequest(0, (1,), 5), BlockRequest(60, (1,), 5), BlockRequest(200, (1,), 5)]
    assert simulate(rows, block_size=4, capacity_blocks=9, ttl_seconds=100).hit_tokens == 4


@pytest.mark.parametrize("capacity", [1, 2, 3, 4])
def test_the_optimum_is_the_best_of_all_ways_to_choose(capacity):
    rnd = Random(capacity)
    for _ in range(25):
        rows = prompts(*(rnd.choice([(1, 2), (1, 3), (1,), (4, 5), (4,), (6,)]) for _ in range(8)))
        best = _best(rows, capacity)
        assert optimum(rows, block_size=4, capacity_blocks=capacity).hit_tokens == best
        for policy in POLICIES:
            done = simulate(rows, block_size=4, capacity_blocks=capacity, policy=policy)
            assert done.hit_tokens <= best


def _best(rows: list[BlockRequest], capacity: int) -> int:
    """Try after each request everything that might be kept: sets of blocks with what stands before them."""
    before = {2: 1, 3: 1, 5: 4}
    found = {frozenset[int](): 0}
    for row in rows:
        later: dict[frozenset[int], int] = {}
        for held, tokens in found.items():
            known = next((n for n, block in enumerate(row.blocks) if block not in held), len(row.blocks))
            there = sorted(held | set(row.blocks))
            for choice in product((False, True), repeat=len(there)):
                kept = frozenset(block for block, stays in zip(there, choice, strict=True) if stays)
                if len(kept) <= capacity and all(before.get(block, block) in kept for block in kept):
                    later[kept] = max(later.get(kept, 0), tokens + 4 * known)
        found = later
    return max(found.values())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.4])
def test_no_policy_beats_the_optimum_or_holds_too_much(policy, fraction):
    rows = conversations(300, seed=5)
    capacity = capacity_for(fraction, rows, 4)
    done = simulate(rows, block_size=4, capacity_blocks=capacity, policy=policy)
    assert 0 < done.hit_tokens <= optimum(rows, block_size=4, capacity_blocks=capacity).hit_tokens


@pytest.mark.parametrize("policy", POLICIES)
def test_with_room_for_all_every_policy_finds_all_there_is(policy):
    rows = conversations(200, seed=6)
    capacity = distinct_blocks(rows, 4)
    done = simulate(rows, block_size=4, capacity_blocks=capacity, policy=policy)
    assert done.hit_tokens == optimum(rows, block_size=4, capacity_blocks=capacity).hit_tokens
    assert done.evicted_blocks == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_requests_give_equal_results(policy):
    rows = conversations(150, seed=7)
    once, again = (simulate(rows, block_size=4, capacity_blocks=40, policy=policy) for _ in range(2))
    assert once == again


def test_a_wrong_block_size_is_refused():
    with pytest.raises(ValueError, match="is the block size right"):
        simulate([BlockRequest(0, (1, 2), 64)], block_size=16, capacity_blocks=2)


def test_what_is_being_computed_is_waited_for_and_not_evicted():
    # The second comes while the first computes what it needs; the third comes while both hold all the room.
    first, second = (BlockRequest(at, (1, 2), 3 * 32 - 1, 10.0) for at in (0.0, 1.0))
    third, fourth = BlockRequest(2.0, (7, 8), 3 * 32 - 1), BlockRequest(30.0, (1, 2), 3 * 32 - 1)
    overlapping = simulate([first, second, third, fourth], block_size=32, capacity_blocks=2)
    assert overlapping.hit_tokens == 2 * 2 * 32
    one_by_one = [replace(each, takes_seconds=0.0) for each in (first, second, third, fourth)]
    assert simulate(one_by_one, block_size=32, capacity_blocks=2).hit_tokens == 2 * 32
