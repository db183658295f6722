"""The prefix tree for people: runs of blocks without a branch, their sizes and hits."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_cache.clock import ManualClock
from axolotl_cache.prefix import Fence, PrefixTree
from axolotl_cache.prefix.runs import SHOWN_BLOCKS, find_runs

BLOCK = 2


class Block:
    nbytes = 10


def tree(clock=None, max_bytes=10**6) -> PrefixTree[Block]:
    return PrefixTree(block_size=BLOCK, max_bytes=max_bytes, clock=clock or ManualClock())


def keep(held, text, **options):
    held.insert([ord(c) for c in text], lambda n: Block(), 10, **({"namespace": "n"} | options))


def look_up(held, text, namespace="n"):
    held.release(held.match([ord(c) for c in text], namespace=namespace))


def shown(run):
    return "".join(map(chr, run.tokens))


def test_prompts_that_begin_alike_share_a_stem():
    held = tree()
    keep(held, "aabbccdd")
    keep(held, "aabbxxyy")
    stem, *branches = held.runs(10)
    assert (shown(stem), stem.blocks, stem.subtree_blocks, stem.parent) == ("aabb", 2, 6, None)
    assert {(shown(run), run.start_blocks, run.blocks, run.parent) for run in branches} == {
        ("ccdd", 2, 2, stem.id), ("xxyy", 2, 2, stem.id),
    }  # fmt: skip


def test_hits_and_ages_are_those_of_the_lookups():
    clock = ManualClock()
    held = tree(clock)
    keep(held, "aabbcc")
    for _ in range(3):
        look_up(held, "aabbzz")
    clock.advance(60)
    look_up(held, "aaq")
    first, second, third = held.runs(10)
    assert [(shown(r), r.hits, r.age_seconds) for r in (first, second, third)] == [
        ("aa", 4, 0.0), ("bb", 3, 60.0), ("cc", 0, 60.0),
    ]  # fmt: skip
    assert held.stats.queried_tokens == 3 * 6 + 3, "looking at the tree is no lookup"


def test_pins_namespaces_and_memory():
    held = tree()
    keep(held, "aabb", pinned=True)
    keep(held, "aabbcc")
    keep(held, "zz", namespace="other")
    runs = {shown(run): run for run in held.runs(10)}
    assert {text: (run.is_pinned, run.namespace, run.block_bytes) for text, run in runs.items()} == {
        "aabb": (True, "n", 10), "cc": (False, "n", 10), "zz": (False, "other", 10),
    }  # fmt: skip


def test_blocks_behind_a_fence_show_their_tokens_and_not_the_fences_name():
    held = tree()
    keep(held, "aabb", fences=(Fence(2, "a principal"),))
    assert [shown(run) for run in held.runs(5)] == ["aabb"]


def test_only_the_largest_and_the_hottest_are_handed_out():
    held = tree()
    for n in range(50):
        keep(held, f"a{n:02}z" + "tail" * (n % 5))
    keep(held, "hot!")
    for _ in range(5):
        look_up(held, "hot!?")
    runs = held.runs(10)
    assert len(runs) <= 10
    assert "hot!" in {shown(run) for run in runs}
    assert max(run.subtree_blocks for run in runs) == max(run.subtree_blocks for run in held.runs(10**6))


def test_a_long_run_shows_its_beginning_and_a_walk_has_its_bound():
    held = tree()
    keep(held, "ab" * 40)
    (run,) = held.runs(5)
    assert (run.blocks, len(run.tokens)) == (40, SHOWN_BLOCKS * BLOCK)
    (cut,) = held.runs(5, most_blocks=7)
    assert cut.blocks == 7


PROMPTS = st.lists(st.text("ab", min_size=2, max_size=14), max_size=12)


@settings(max_examples=40, deadline=None)
@given(PROMPTS, PROMPTS, st.integers(2, 30))
def test_runs_are_what_a_naive_count_of_blocks_gives(kept, asked, limit):
    held = tree()
    for prompt in kept:
        keep(held, prompt)
    for prompt in asked:
        look_up(held, prompt)
    blocks = {prompt[: n + 2] for prompt in kept for n in range(0, len(prompt) - 1, 2)}
    hits = {
        block: sum(prompt.startswith(block) and len(prompt) > len(block) for prompt in asked)
        for block in blocks
    }
    every = held.runs(10**6)
    assert sum(run.blocks for run in every) == len(blocks)
    assert sum(run.blocks * run.hits for run in every) == sum(hits.values())
    by_id = {run.id: run for run in every}
    for run in every:
        below = [other for other in every if other.parent == run.id]
        assert run.subtree_blocks == run.blocks + sum(other.subtree_blocks for other in below)
        assert all(other.start_blocks == run.start_blocks + run.blocks for other in below)
    some = held.runs(limit)
    assert len(some) <= limit
    assert all(run == by_id[run.id] for run in some)
    places = {run.id: n for n, run in enumerate(some)}
    assert all(run.parent is None or places[run.parent] < places[run.id] for run in some), "parents first"
    held.check_invariants()


def test_looking_while_the_tree_changes_never_fails():
    held = tree(max_bytes=2000)
    stop, failed = threading.Event(), []

    def look():
        while not stop.is_set():
            try:
                held.runs(20)
            except Exception as error:
                failed.append(error)
                return

    looker = threading.Thread(target=look)
    looker.start()
    for n in range(3000):
        keep(held, f"{n:04}abcdefgh", namespace=f"n{n % 5}")
    stop.set()
    looker.join()
    assert not failed
    assert find_runs({}, block_bytes=8, limit=3, most_blocks=10, now=0.0) == []
