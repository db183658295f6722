"""Into which calls a step is cut: everyone goes on, and on the grid hit and miss make the same calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.plan import (
    ALONE,
    GRID,
    Layout,
    Part,
    Work,
    invariant,
    next_calls,
)

FREE = invariant(2)


def prompt(pending, start=0, adapter=""):
    return Work(start, start + pending, prompt_tokens=start + pending, adapter=adapter)


def decoding(length, adapter=""):
    return Work(length, length + 1, prompt_tokens=length - 3, adapter=adapter)


works = st.lists(
    st.one_of(
        st.builds(prompt, st.integers(1, 2000), st.integers(0, 3).map(lambda n: n * 128)),
        st.builds(decoding, st.integers(4, 3000)),
    ),
    min_size=1,
    max_size=20,
)


@given(running=works, layout=st.sampled_from([FREE, GRID, ALONE]), strict=st.booleans())
def test_no_request_gets_two_parts_or_more_than_it_waits_for(running, layout, strict):
    calls = next_calls(running, layout, 512, strict=strict)
    parts = [part for call in calls for part in call]
    assert len({part.request for part in parts}) == len(parts)
    assert all(0 < part.tokens <= running[part.request].pending for part in parts)
    assert calls


@given(running=works, layout=st.sampled_from([FREE, GRID, ALONE]))
def test_every_decoding_request_goes_on_in_every_step(running, layout):
    got = {part.request for call in next_calls(running, layout, 512) for part in call}
    assert {i for i, work in enumerate(running) if work.is_decode} <= got


@given(running=works)
def test_a_step_keeps_to_its_budget(running):
    parts = [part for call in next_calls(running, FREE, 512) for part in call]
    assert sum(part.tokens for part in parts) <= 512


@given(running=works)
def test_on_the_grid_a_prompts_call_ends_on_it_or_with_the_prompt_and_is_its_own(running):
    for call in next_calls(running, GRID, 512):
        if all(running[part.request].is_decode for part in call):
            continue
        (part,) = call
        work = running[part.request]
        stop = work.start + part.tokens
        assert stop == work.stop or stop % GRID.grid_tokens == 0
        assert part.tokens <= GRID.grid_tokens


@given(blocks=st.integers(0, 10), length=st.integers(1, 2000))
def test_on_the_grid_a_hit_makes_the_very_calls_that_end_a_miss(blocks, length):
    def calls(start):
        made = []
        while start < length:
            ((part,),) = next_calls([Work(start, length, length)], GRID, 512)
            made.append((start, part.tokens))
            start += part.tokens
        return made

    hit = calls(min(blocks * GRID.block_size, (length - 1) // GRID.block_size * GRID.block_size))
    miss = calls(0)
    assert miss[len(miss) - len(hit) :] == hit


def test_strict_computes_each_answer_alone():
    running = [decoding(10), decoding(20), decoding(30)]
    assert len(next_calls(running, GRID, 512)) == 1
    assert len(next_calls(running, GRID, 512, strict=True)) == 3
    assert len(next_calls(running, ALONE, 512)) == 3
    assert len(next_calls(running, FREE, 512, strict=True)) == 1  # the company changes nothing there


def test_a_long_prompt_leaves_room_for_short_ones_behind_it():
    (call,) = next_calls([prompt(5000), prompt(300), prompt(40)], FREE, 512)
    shares = {part.request: part.tokens for part in call}
    assert shares == {0: 256, 2: 40, 1: 216}


@pytest.mark.parametrize("step_tokens", [1, 8, 20, 512])
def test_prompts_go_on_however_many_decode_and_the_oldest_does_not_wait_for_shorter_ones(step_tokens):
    running = [*[decoding(10)] * 20, prompt(1000), prompt(30)]
    (call,) = next_calls(running, FREE, step_tokens)
    shares = {part.request: part.tokens for part in call}
    left = max(step_tokens - 20, min(32, step_tokens))
    assert shares[20] >= (left + 1) // 2
    assert sum(shares.values()) == 20 + left


def test_one_adapter_a_call():
    running = [decoding(10, "one"), decoding(20), prompt(50, adapter="one")]
    assert next_calls(running, FREE, 512) == [(Part(0, 1), Part(2, 50)), (Part(1, 1),)]


def test_refuses_blocks_that_do_not_fill_the_grid():
    with pytest.raises(ValueError, match="grid"):
        Layout(block_size=48, grid_tokens=128)
