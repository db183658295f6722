"""What the prefix tree finds, keeps and forgets."""

from dataclasses import dataclass

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import CapacityError, NamespaceMismatch
from axolotl_cache.prefix import PrefixTree

BLOCK = 4
BYTES = 10


@dataclass(frozen=True)
class Blob:
    name: str
    nbytes: int = BYTES


def make_tree(blocks: int = 100, **options) -> PrefixTree[Blob]:
    return PrefixTree(block_size=BLOCK, max_bytes=blocks * BYTES, **options)


def keep(tree: PrefixTree[Blob], tokens, namespace="a", **options) -> list[Blob]:
    return tree.insert(tokens, lambda i: Blob(f"{namespace}{i}"), BYTES, namespace=namespace, **options)


def matched(tree: PrefixTree[Blob], tokens, namespace="a") -> int:
    match = tree.match(tokens, namespace=namespace)
    tree.release(match)
    return match.tokens


def test_finds_the_longest_prefix_in_whole_blocks():
    tree = make_tree()
    keep(tree, range(10))
    assert matched(tree, range(10)) == 8
    assert matched(tree, [*range(7), 99, 98, 97]) == 4
    assert matched(tree, [99, *range(9)]) == 0


def test_always_leaves_the_last_token_to_compute():
    tree = make_tree()
    keep(tree, range(8))
    assert matched(tree, range(8)) == 4
    assert matched(tree, range(9)) == 8
    assert matched(tree, [0]) == 0
    assert matched(tree, []) == 0


def test_payloads_come_in_order_and_are_shared_not_remade():
    tree = make_tree()
    first = keep(tree, range(8))
    again = keep(tree, [*range(8), 50, 51, 52, 53])
    assert again[:2] == first
    assert again[0] is first[0]
    match = tree.match([*range(8), 50, 51, 52, 53, 54], namespace="a")
    assert [p.name for p in match.payloads] == ["a0", "a1", "a2"]


def test_namespaces_see_nothing_of_each_other():
    tree = make_tree()
    keep(tree, range(8), namespace="a")
    assert matched(tree, range(9), namespace="b") == 0
    assert matched(tree, range(9), namespace="a") == 8


def test_the_same_block_after_another_prefix_is_another_block():
    tree = make_tree()
    keep(tree, [1, 1, 1, 1, 2, 2, 2, 2])
    assert matched(tree, [3, 3, 3, 3, 2, 2, 2, 2, 0]) == 0


def test_evicts_the_least_recently_used_leaf_first():
    tree = make_tree(blocks=3)
    keep(tree, [*range(4), *range(10, 14)])
    keep(tree, [*range(4), *range(20, 24)])
    matched(tree, [*range(4), *range(10, 14), 0])
    keep(tree, range(30, 34))
    assert matched(tree, [*range(4), *range(10, 14), 0]) == 8
    assert matched(tree, [*range(4), *range(20, 24), 0]) == 4
    assert tree.stats.evicted_blocks == 1
    tree.check_invariants()


def test_what_is_held_is_not_evicted():
    tree = make_tree(blocks=2)
    keep(tree, range(8))
    match = tree.match(range(9), namespace="a")
    assert keep(tree, range(50, 54)) == []
    assert tree.stats.refused_blocks == 1
    tree.release(match)
    assert len(keep(tree, range(50, 54))) == 1
    with pytest.raises(ValueError, match="released before"):
        tree.release(match)


def test_a_prompt_longer_than_the_bound_is_kept_as_far_as_it_fits():
    tree = make_tree(blocks=2)
    assert len(keep(tree, range(20))) == 2
    assert tree.stats.held_bytes == 2 * BYTES
    tree.check_invariants()


def test_pinned_blocks_outlive_pressure_and_time():
    clock = ManualClock()
    tree = make_tree(blocks=3, ttl_seconds=60, clock=clock)
    keep(tree, range(8), pinned=True)
    for start in range(100, 200, 4):
        keep(tree, range(start, start + 4))
        tree.check_invariants()
    clock.advance(3600)
    assert matched(tree, range(9)) == 8
    assert tree.stats.pinned_bytes == 2 * BYTES


def test_pins_that_do_not_fit_are_an_error_that_says_what_to_change():
    tree = make_tree(blocks=2)
    with pytest.raises(CapacityError, match="max_cache_size"):
        keep(tree, range(12), pinned=True)
    tree.check_invariants()
    assert tree.stats.pinned_bytes == 0


def test_expires_after_the_ttl_since_last_use():
    clock = ManualClock()
    tree = make_tree(ttl_seconds=60, clock=clock)
    keep(tree, range(8))
    clock.advance(59)
    assert matched(tree, range(9)) == 8
    clock.advance(59)
    assert matched(tree, range(9)) == 8
    clock.advance(60)
    assert matched(tree, range(9)) == 0
    assert tree.stats.expired_blocks == 2
    assert tree.stats.held_bytes == 0


def test_says_where_a_prompt_differs_and_from_what():
    tree = make_tree()
    keep(tree, [0, 1, 2, 3, 4, 5, 6, 7])
    keep(tree, [0, 1, 2, 3, 4, 9, 9, 9])
    match = tree.match([0, 1, 2, 3, 4, 5, 60, 70, 80], namespace="a")
    assert match.difference is not None
    assert match.difference.position_tokens == 6
    assert match.difference.cached == (6, 7)
    assert match.difference.found == (60, 70)
    assert tree.match([0, 1, 2, 3, 4, 5], namespace="a").difference is None


def test_refuses_a_payload_of_another_size():
    tree = make_tree()
    with pytest.raises(NamespaceMismatch):
        tree.insert(range(4), lambda i: Blob("x", nbytes=BYTES + 1), BYTES, namespace="a")
    tree.check_invariants()


def test_a_payload_that_fails_to_be_made_leaves_the_tree_sound():
    tree = make_tree()

    def fails_at_the_second(index: int) -> Blob:
        if index == 1:
            raise MemoryError
        return Blob(str(index))

    with pytest.raises(MemoryError):
        tree.insert(range(12), fails_at_the_second, BYTES, namespace="a")
    tree.check_invariants()
    assert matched(tree, range(12)) == 4


def test_clear_forgets_all_but_what_is_in_use():
    tree = make_tree()
    keep(tree, range(8), namespace="a")
    keep(tree, range(8), namespace="b", pinned=True)
    held = tree.match(range(5), namespace="a")
    assert tree.clear(namespace="b") == 2
    assert tree.clear() == 1
    assert tree.stats.held_blocks == 1
    tree.release(held)
    assert tree.clear() == 1
    tree.check_invariants()


def test_peek_says_what_a_match_would_find_and_changes_nothing():
    clock = ManualClock()
    tree = make_tree(blocks=3, ttl_seconds=60, clock=clock)
    keep(tree, [*range(4), *range(10, 14)])
    keep(tree, range(20, 24))
    clock.advance(59)
    assert tree.peek([*range(4), *range(10, 14), 0], namespace="a") == 8
    assert tree.peek([*range(4), *range(10, 14)], namespace="a") == 4
    assert tree.peek(range(20, 25), namespace="b") == 0
    assert tree.peek([], namespace="a") == tree.peek([0], namespace="a") == 0
    assert tree.stats.queried_tokens == 0
    keep(tree, range(30, 34))  # the one that was looked at is still the oldest
    assert tree.peek([*range(4), *range(10, 14), 0], namespace="a") == 4
    clock.advance(2)
    tree.expire()
    assert tree.stats.held_blocks == 1


def test_whoever_made_the_payloads_gets_them_back_once():
    gone: list[Blob] = []
    clock = ManualClock()
    tree = make_tree(blocks=2, ttl_seconds=60, clock=clock, discard=gone.append)
    held = keep(tree, range(8))
    keep(tree, range(50, 54))
    assert gone == [held[1]]
    clock.advance(61)
    tree.expire()
    keep(tree, range(8), namespace="b")
    tree.clear()
    assert [blob.name for blob in gone] == ["a1", "a0", "a0", "b1", "b0"]
    assert tree.stats.held_bytes == 0


def test_making_room_for_a_prompt_may_take_the_last_other_block_of_its_namespace():
    tree = make_tree(blocks=1)
    keep(tree, range(4))
    keep(tree, range(10, 14))
    assert matched(tree, range(10, 15)) == 4
    assert matched(tree, range(5)) == 0
    tree.check_invariants()


def test_a_lower_bound_takes_effect_when_the_tree_is_shrunk_to_it():
    tree = make_tree(blocks=4)
    keep(tree, range(16))
    held = tree.match(range(9), namespace="a")
    tree.max_bytes = BYTES
    assert tree.shrink_to(BYTES) == 2 * BYTES
    assert tree.stats.held_blocks == 2  # in use
    assert keep(tree, range(50, 54)) == []
    tree.release(held)
    assert len(keep(tree, range(50, 54))) == 1
    assert tree.stats.held_bytes == BYTES
    tree.check_invariants()
    tree.max_bytes = 4 * BYTES
    assert len(keep(tree, range(60, 72))) == 3
    tree.check_invariants()


def test_the_invariant_check_can_fail():
    tree = make_tree()
    keep(tree, range(8))
    tree.stats.held_bytes += 1
    with pytest.raises(AssertionError, match="bytes"):
        tree.check_invariants()
