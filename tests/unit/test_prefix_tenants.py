"""Tenants in one prefix tree: bounds of their own, and who loses blocks where there is no room."""

from dataclasses import dataclass

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.prefix import Lease, PrefixTree, make_ranking

BLOCK = 4
BYTES = 10


@dataclass(frozen=True)
class Blob:
    nbytes: int = BYTES


@pytest.fixture(params=["lru", "lfu", "adaptive"])
def tree(request):
    tree = PrefixTree(
        block_size=BLOCK, max_bytes=12 * BYTES, clock=ManualClock(), ranking=make_ranking(request.param)
    )
    tree.tenants.name("a", "ann")
    tree.tenants.name("b", "bob")
    return tree


def ask(tree, namespace, number, blocks=2, lease=None):
    """Ask for a prompt, and keep it, as the engine does; return the tokens found."""
    tokens = [number] * (blocks * BLOCK) + [0]
    match = tree.match(tokens, namespace=namespace)
    tree.release(match)
    tree.insert(tokens, lambda i: Blob(), BYTES, namespace=namespace, lease=lease)
    tree.check_invariants()
    return match.tokens


def test_who_floods_a_full_tree_loses_their_own(tree):
    ask(tree, "b", 1)
    ask(tree, "b", 2)
    for number in range(50):
        ask(tree, "a", number)
    assert (ask(tree, "b", 1), ask(tree, "b", 2)) == (8, 8)
    assert tree.tenants.held_bytes("ann") <= 8 * BYTES


def test_negative_control_without_tenants_the_flood_takes_all():
    tree = PrefixTree(block_size=BLOCK, max_bytes=12 * BYTES, clock=ManualClock())
    ask(tree, "b", 1)
    for number in range(50):
        ask(tree, "a", number)
    assert ask(tree, "b", 1) == 0


def test_a_newcomer_gets_room_from_who_holds_most():
    tree = PrefixTree(block_size=BLOCK, max_bytes=12 * BYTES, clock=ManualClock())
    for number in range(6):
        ask(tree, "a", number)  # before there are tenants: what is held then is counted, too
    tree.tenants.name("a", "ann")
    tree.tenants.name("b", "bob")
    for number in range(20):
        ask(tree, "b", number)
    assert tree.tenants.held_bytes("bob") == tree.tenants.held_bytes("ann") == 6 * BYTES


def test_all_namespaces_of_a_tenant_count_together(tree):
    tree.tenants.name("a2", "ann")
    ask(tree, "b", 1)
    for number in range(20):
        ask(tree, "a" if number % 2 else "a2", number)
    assert ask(tree, "b", 1) == 8


def test_a_bound_of_its_own_holds_where_there_is_room(tree):
    tree.tenants.bound_of = {"ann": 4 * BYTES}.get
    for number in range(10):
        ask(tree, "a", number)
        assert tree.tenants.held_bytes("ann") <= 4 * BYTES
    ask(tree, "a", 99, blocks=6)
    assert tree.tenants.held_bytes("ann") == 4 * BYTES


def test_leases_are_no_way_around_a_share():
    tree = PrefixTree(block_size=BLOCK, max_bytes=12 * BYTES, clock=ManualClock())
    tree.tenants.name("a", "ann")
    tree.tenants.name("b", "bob")
    for number in range(6):
        ask(tree, "a", number, lease=Lease())
    for number in range(3):
        ask(tree, "b", number)
    assert tree.tenants.held_bytes("bob") == 6 * BYTES
    assert [tree.peek([n] * 8 + [0], namespace="b") for n in range(3)] == [8, 8, 8]


def test_what_is_in_use_stays(tree):
    held = [tree.match([n] * 9, namespace="a") for n in range(6) if ask(tree, "a", n) == 0]
    ask(tree, "b", 1)
    assert [match.tokens for match in held] == [8] * 6
    assert all(tree.peek([n] * 9, namespace="a") == 8 for n in range(6))
    for match in held:
        tree.release(match)


def test_pinned_blocks_are_nobodys(tree):
    tree.insert([7] * 8, lambda i: Blob(), BYTES, namespace="a", pinned=True)
    assert tree.tenants.held_bytes("ann") == 0
    for number in range(20):
        ask(tree, "a", number)
        ask(tree, "b", number)
    assert tree.peek([7] * 9, namespace="a") == 8
    assert tree.tenants.held_bytes("bob") == tree.tenants.held_bytes("ann") == 5 * BYTES
