"""Fences and leases in the engine: who finds which blocks, who waits for whom, what is freed."""

import pytest
import torch

from axolotl_cache.engine.engine import Engine
from axolotl_cache.prefix import Fence, Lease, PrefixTree
from axolotl_cache.request import Sampling

ONE = Sampling(max_new_tokens=1)
TOKENS = [5 + (7 * n) % 400 for n in range(300)]


@pytest.fixture
def engine(tiny_model, tmp_path_factory):
    return Engine(
        tiny_model,
        device=torch.device("cpu"),
        context_length_tokens=2048,
        end_tokens=frozenset(),
        max_cache_bytes=10**8,
        step_tokens=64,
        memo=tmp_path_factory.getbasetemp() / "exactness-of-fences",
    )


def found(engine, *fences, tokens=TOKENS) -> int:
    generation = engine.generate(tokens, ONE, namespace="n", fences=tuple(fences))
    list(generation)
    return generation.cached_tokens


def test_what_stands_behind_a_fence_is_found_by_its_name_alone(engine):
    assert found(engine, Fence(100, "a")) == 0
    assert found(engine, Fence(100, "b")) == 96  # the block with the fence in it is behind it
    assert found(engine) == 96
    assert found(engine, Fence(100, "a")) == 288
    assert found(engine, Fence(70, "a")) == 64
    assert found(engine, Fence(100, "a"), Fence(200, "c")) == 192


def test_a_fenced_prompt_does_not_wait_for_another_that_computes_the_same(engine):
    def running(*names) -> int:
        generations = [
            engine.generate(TOKENS, ONE, namespace=f"n {names}", fences=(Fence(0, name),)) for name in names
        ]
        engine.step()
        engine.step()
        at_once = engine.running_requests
        for generation in generations:
            list(generation)
        return at_once

    assert running("a", "b") == 2
    assert running("c", "c") == 1  # the control: of one name, the second waits for the first


def test_what_is_behind_a_fence_is_forgotten_by_its_name(engine):
    found(engine, Fence(100, "a"), Fence(200, "b"))
    found(engine, Fence(100, "c"))
    assert engine.clear_fenced("b") == 3
    assert found(engine, Fence(100, "a"), Fence(200, "b")) == 192
    assert engine.clear_fenced("a") == 6
    assert found(engine, Fence(100, "c")) == 288
    assert engine.clear_fenced("unknown") == 0


def test_where_a_prompt_differs_never_tells_what_is_behind_anothers_fence(engine):
    found(engine, Fence(96, "a"))
    other = [*TOKENS[:100], 3, *TOKENS[101:]]
    for fences, told in (((), False), ((Fence(96, "b"),), False), ((Fence(96, "a"),), True)):
        generation = engine.generate(other, ONE, namespace="n", fences=fences)
        generation.close()
        match = engine._cache.tree.match(other, namespace="n", fences=fences)
        assert (match.difference is not None) is told
        engine._cache.tree.release(match)


def test_a_lease_holds_against_what_is_newer_and_its_end_frees(engine):
    lease = Lease()
    list(engine.generate(TOKENS, ONE, namespace="n", lease=lease))
    tree = engine._cache.tree
    list(engine.generate([9, *TOKENS], ONE, namespace="n"))
    tree.shrink_to(tree.stats.held_bytes // 2)
    assert tree.peek(TOKENS, namespace="n") == 288  # the newer ones went
    assert tree.peek([9, *TOKENS], namespace="n") < 288
    held = tree.stats.held_bytes
    assert engine.end(lease) == held
    assert tree.peek(TOKENS, namespace="n") == 0
    assert engine.end(lease) == 0
    tree.check_invariants()


def test_a_lease_that_is_ended_leaves_what_others_hold_or_go_on_from(engine):
    mine, other = Lease(shared_tokens=64), Lease(shared_tokens=64)
    list(engine.generate(TOKENS, ONE, namespace="n", lease=mine))
    list(engine.generate([*TOKENS[:130], 7], ONE, namespace="n", lease=other))
    engine.end(mine)
    tree = engine._cache.tree
    assert tree.peek(TOKENS, namespace="n") == 128
    engine.end(other)
    assert tree.peek(TOKENS, namespace="n") == 64
    assert tree.stats.leased_bytes == 0
    tree.check_invariants()


def test_many_branches_of_one_conversation_keep_the_newest():
    tree = PrefixTree(block_size=1, max_bytes=1000)
    lease = Lease()

    class One:
        nbytes = 1

    for branch in range(20):
        tree.insert([1, 2, branch], lambda _: One(), 1, namespace="n", lease=lease)
        tree.check_invariants()
    assert len(lease.tips) == 8
    assert tree.stats.leased_bytes == 2 + 8
