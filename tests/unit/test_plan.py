"""Hit and miss must agree on how a prompt is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.plan import ALIGNED, GRID, Call, Layout, prefill_calls

layouts = st.sampled_from([ALIGNED, GRID, Layout(16, 64, 16, tiled=True)])


@given(layout=layouts, blocks=st.integers(0, 40), length=st.integers(1, 3000))
def test_calls_cover_exactly_what_is_missing(layout, blocks, length):
    start = min(blocks * layout.block_size, (length - 1) // layout.block_size * layout.block_size)
    calls = list(prefill_calls(start, length, layout))
    assert calls[0].start == start
    assert calls[-1].stop == length
    for before, after in pairwise(calls):
        assert before.stop == after.start == before.padded_stop
    for call in calls:
        assert 0 < call.stop - call.start <= layout.call_tokens
        assert 0 <= call.padded_stop - call.stop < layout.row_multiple
        assert (call.padded_stop - call.start) % layout.row_multiple == 0


@given(blocks=st.integers(0, 20), length=st.integers(1, 3000))
def test_on_the_grid_a_hit_makes_the_very_calls_that_end_a_miss(blocks, length):
    start = min(blocks * GRID.block_size, (length - 1) // GRID.block_size * GRID.block_size)
    hit, miss = (list(prefill_calls(s, length, GRID)) for s in (start, 0))
    assert miss[len(miss) - len(hit) :] == hit


def test_pads_only_the_last_call():
    assert list(prefill_calls(32, 600, ALIGNED)) == [Call(32, 544, 544), Call(544, 600, 608)]


def test_refuses_a_start_that_is_not_on_a_block():
    with pytest.raises(ValueError, match="whole blocks"):
        list(prefill_calls(33, 100, ALIGNED))
