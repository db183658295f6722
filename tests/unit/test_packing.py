"""Packing: every prompt sees exactly its own tokens, and each shared block exists once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.prefix.packing import apart, pack

A, B, C, D, E = ([n] * 4 for n in range(5))
"""Blocks of 4 tokens."""


def own_tokens(packing, prompts):
    """Return for each column the whole prefix, its own token last, that its key was computed from.

    Keys and values of a token depend on all tokens that its row saw in the layer below: so a column is worth
    what its row sees, and not only what its token is called. Cached columns are taken from their readers.
    """
    prefixes = [()] * packing.columns
    for block in packing.blocks:
        if block.computed_by is None:
            (text,) = {tuple(prompts[p][: block.first_token + len(block.columns)]) for p in block.reused_by}
            for i, column in enumerate(block.columns):
                prefixes[column] = text[: block.first_token + i + 1]
    for rest in packing.rests:
        tokens = prompts[rest.prompt][-len(rest.rows) :]
        for row, column, token in zip(rest.rows, rest.columns, tokens, strict=True):
            seen = [prefixes[c][-1] for r in packing.sees(row) for c in r if c != column]
            prefixes[column] = (*seen, token)
    return prefixes


def assert_equals_the_naive_definition(packing, prompts):
    """Row i of prompt p sees exactly p's own tokens 0 to i, each computed from p's own tokens before it."""
    prefixes = own_tokens(packing, prompts)
    mask = packing.dense()
    assert len(mask) == packing.rows
    computed = 0
    for rest in packing.rests:
        prompt = tuple(prompts[rest.prompt])
        for i, row in enumerate(rest.rows, len(prompt) - len(rest.rows)):
            assert len(mask[row]) == packing.columns
            seen = [column for column, cell in enumerate(mask[row]) if cell]
            assert sorted((prefixes[c] for c in seen), key=len) == [prompt[: n + 1] for n in range(i + 1)]
            computed += len(seen)
        assert rest.prompt_tokens == len(prompt)
    assert computed == packing.cells


def assert_sound(packing, prompts):
    """Columns and rows lie side by side; blocks, rests and counts agree with each other."""
    assert [c for block in packing.blocks for c in block.columns] == list(range(packing.columns))
    assert [r for rest in packing.rests for r in rest.rows] == list(range(packing.rows))
    assert [rest.prompt for rest in packing.rests] == list(range(len(prompts)))
    for n, block in enumerate(packing.blocks):
        assert block.first_token % packing.block_size == 0
        assert 0 < len(block.columns) <= packing.block_size
        assert block.computed_by is not None or block.reused_by
        if len(block.columns) < packing.block_size:
            assert not block.reused_by
        if block.before is not None:
            before = packing.blocks[block.before]
            assert block.before < n
            assert before.first_token + packing.block_size == block.first_token
        else:
            assert block.first_token == 0
    for rest in packing.rests:
        blocks = [packing.blocks[n] for n in rest.reused_blocks]
        assert [c for r in rest.reused for c in r] == [c for b in blocks for c in b.columns]
        assert all(one.stop != other.start for one, other in zip(rest.reused, rest.reused[1:], strict=False))
        assert all(rest.prompt in b.reused_by for b in blocks)
        assert rest.reused_tokens % packing.block_size == 0
        assert len(rest.rows) == len(rest.columns) > 0


def test_alone_is_the_full_causal_triangle():
    packing = apart([A + B + [9], A], block_size=4)
    assert packing.dense() == [bytes([1] * (i + 1) + [0] * (12 - i)) for i in range(9)] + [
        bytes([0] * 9 + [1] * (i + 1) + [0] * (3 - i)) for i in range(4)
    ]
    assert packing.cells == 9 * 10 // 2 + 4 * 5 // 2
    assert packing.reused_blocks == 0
    assert len(packing.blocks) == 4


def test_a_shared_prefix_is_computed_once_and_seen_by_both():
    first, second = A + B + [7], A + B + [8, 9]
    packing = pack([first, second], block_size=4)
    assert packing.rows == 9 + 2
    assert packing.columns == 9 + 2
    assert packing.sees(8) == (range(9),)
    assert packing.sees(9) == (range(8), range(9, 10))
    assert packing.sees(10) == (range(8), range(9, 11))
    assert packing.blocks[0].reused_by == packing.blocks[1].reused_by == (1,)
    assert packing.rests[1].reused_blocks == (0, 1)
    assert_equals_the_naive_definition(packing, [first, second])


def test_less_than_a_block_is_not_shared():
    packing = pack([[*A[:3], 7], [*A[:3], 8]], block_size=4)
    assert packing.reused_blocks == 0
    assert packing.rows == 8


def test_the_last_token_is_always_computed_and_its_block_with_it():
    packing = pack([A + B, A + B, A + B + [5]], block_size=4)
    assert [len(rest.rows) for rest in packing.rests] == [8, 4, 1]
    # The second copy of B is nobody's but its prompt's: the third prompt reuses the first one's.
    assert packing.rests[2].reused == (range(8),)
    assert [block.reused_by for block in packing.blocks] == [(1, 2), (2,), (), ()]


def test_what_is_cached_has_columns_and_no_rows_and_only_if_it_is_used():
    prompts = [A + B + C + [1], A + D + [1]]
    packing = pack(prompts, block_size=4, cached=[A + B + [3, 3], A + E, E])
    assert packing.cached_blocks == 2
    assert packing.columns == 8 + 5 + 5
    assert packing.rows == 5 + 5
    assert packing.sees(9) == (range(4), range(13, 18))
    assert packing.blocks[0].reused_by == (0, 1)
    assert_equals_the_naive_definition(packing, prompts)


def test_a_tree_with_two_branches():
    prompts = [A + B + [1], A + C + [2], A + C + D + [3], A + B + [4]]
    packing = pack(prompts, block_size=4)
    assert [len(rest.rows) for rest in packing.rests] == [9, 5, 5, 1]
    assert packing.rests[2].reused == (range(4), range(9, 13))
    assert packing.rests[3].reused == (range(8),)
    assert_sound(packing, prompts)
    assert_equals_the_naive_definition(packing, prompts)


def test_a_mask_that_lets_one_more_key_through_is_caught():
    prompts = [A + B + [1], A + B + [2, 3]]
    packing = pack(prompts, block_size=4)
    first, second = packing.rests
    leaky = replace(second, reused=(range(9),))  # the first prompt's own last token with it
    with pytest.raises(AssertionError):
        assert_equals_the_naive_definition(replace(packing, rests=(first, leaky)), prompts)


def test_a_mask_that_forgets_a_block_is_caught():
    prompts = [A + B + [1], A + B + [2, 3]]
    packing = pack(prompts, block_size=4)
    first, second = packing.rests
    blind = replace(second, reused=(range(4),))
    with pytest.raises(AssertionError):
        assert_equals_the_naive_definition(replace(packing, rests=(first, blind)), prompts)


def test_a_block_of_another_prefix_is_not_the_same_block():
    packing = pack([A + B + [1], C + B + [1]], block_size=4)
    assert packing.reused_blocks == 0


def test_what_can_not_be_packed_is_refused():
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        pack([A, []], block_size=4)
    with pytest.raises(ValueError, match="at least 1 token"):
        apart([A], block_size=0)
    with pytest.raises(IndexError):
        pack([A], block_size=4).sees(4)


def test_no_prompts_are_an_empty_mask():
    packing = pack([], block_size=4)
    assert (packing.rows, packing.columns, packing.cells, packing.dense()) == (0, 0, 0, [])


@st.composite
def trees(draw):
    """Prompts that branch off each other at any token, some equal, some the beginning of another."""
    prompts = [draw(st.lists(st.integers(0, 2), min_size=1, max_size=20))]
    for _ in range(draw(st.integers(0, 6))):
        trunk = draw(st.sampled_from(prompts))
        kept = trunk[: draw(st.integers(0, len(trunk)))]
        prompts.append(kept + draw(st.lists(st.integers(0, 2), min_size=not kept, max_size=8)))
    cut = draw(st.integers(0, len(prompts)))
    return prompts[:cut], prompts[cut:]


@given(trees(), st.integers(1, 5))
def test_random_trees_equal_the_naive_definition(tree, block_size):
    cached, prompts = tree
    packing = pack(prompts, block_size=block_size, cached=cached)
    alone = apart(prompts, block_size=block_size)
    for made in (packing, alone):
        assert_sound(made, prompts)
        assert_equals_the_naive_definition(made, prompts)
    assert alone.rows == alone.columns == sum(map(len, prompts))
    assert packing.rows <= alone.rows
    assert packing.cells <= alone.cells
    assert packing.rows == alone.rows - packing.reused_blocks * block_size


@given(trees(), st.integers(1, 5))
def test_each_prompt_reuses_as_much_as_anything_before_it_allows(tree, block_size):
    cached, prompts = tree
    packing = pack(prompts, block_size=block_size, cached=cached)
    for rest in packing.rests:
        mine = prompts[rest.prompt]
        longest = 0
        for other in (*cached, *prompts[: rest.prompt]):
            same = 0
            while same < min(len(mine) - 1, len(other)) and mine[same] == other[same]:
                same += 1
            # The block that holds a prompt's last token is shared only as far as it is whole.
            longest = max(longest, min(same, len(other)) // block_size)
        assert len(rest.reused_blocks) == longest
