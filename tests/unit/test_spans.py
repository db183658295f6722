"""Which keys a token attends to: all of its own and no others, in a cut that its position decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache.engine.pool import Page
from axolotl_cache.engine.spans import (
    KEY_TILE_TOKENS,
    LEAST_ROWS,
    SEGMENT_TOKENS,
    Rows,
    ordinal,
    pieces,
    spans,
)

WINDOWS = st.one_of(st.none(), st.integers(1, 1500))


def of(position, start, stop, window):
    """The spans that one token of a call sees, as (begin, end, masked)."""
    return [(s.begin, s.end, s.masked) for s in spans(start, stop, window) if s.first <= position < s.last]


@given(position=st.integers(0, 3000), before=st.integers(0, 600), after=st.integers(1, 600), window=WINDOWS)
def test_the_cut_follows_from_the_position_alone(position, before, after, window):
    in_company = of(position, max(position - before, 0), position + after, window)
    assert in_company == of(position, position, position + 1, window)


@given(position=st.integers(0, 3000), window=WINDOWS)
def test_a_token_sees_every_key_that_it_may_see_once(position, window):
    cut = of(position, position, position + 1, window)
    first = 0 if window is None else max(position - window + 1, 0)
    shown = [key for begin, end, _ in cut for key in range(begin, end)]
    assert len(shown) == len(set(shown))
    assert set(range(first, position + 1)) <= set(shown)
    for begin, end, masked in cut:
        assert first <= end - 1
        assert begin <= position
        assert masked or (first <= begin and end <= position + 1)
    assert len(shown) < position - first + 1 + SEGMENT_TOKENS + KEY_TILE_TOKENS


@given(position=st.integers(0, 3000), window=WINDOWS)
def test_ordinals_count_the_spans_from_the_first_seen(position, window):
    cut = of(position, position, position + 1, window)
    assert [ordinal(begin, position, window) for begin, _, _ in cut] == list(range(len(cut)))


@pytest.fixture
def pages():
    return [Page(index, 1) for index in range(1, 200)]


def test_a_segment_that_requests_share_is_one_piece(pages):
    segment = SEGMENT_TOKENS // 32
    parts = [
        Rows(pages[:segment] + pages[start : start + 2], SEGMENT_TOKENS + 3, SEGMENT_TOKENS + 5 + n)
        for n, start in enumerate((20, 30, 40))
    ]
    shared, *own = sorted(pieces(parts, 32), key=lambda piece: piece.begin)
    assert shared.places == tuple(page.index for page in pages[:segment])
    assert shared.rows == list(range(2 + 3 + 4))
    assert not shared.masked
    assert [piece.rows for piece in own] == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]


def test_a_segment_whose_last_page_differs_is_not_shared(pages):
    segment = SEGMENT_TOKENS // 32
    first = pages[: segment + 1]
    other = [*pages[: segment - 1], pages[50], pages[51]]
    parts = [Rows(p, SEGMENT_TOKENS, SEGMENT_TOKENS + 1) for p in (first, other)]
    assert len(pieces(parts, 32)) == 4


@given(count=st.integers(1, 700))
def test_pieces_are_filled_up_to_what_the_kernel_needs(count):
    pages = [Page(index, 1) for index in range(1, 60)]
    start = SEGMENT_TOKENS * 2
    for piece in pieces([Rows(pages, start, start + count)], 32):
        padded = piece.padded_tokens
        assert padded == 1 or padded % LEAST_ROWS == 0
        assert len(piece.rows) <= padded < 2 * len(piece.rows) + LEAST_ROWS


def test_pages_larger_than_a_key_tile_are_shown_whole():
    pages = [Page(index, 1) for index in range(1, 10)]
    (piece,) = pieces([Rows(pages, 3, 9)], 128)
    assert piece.keys == 128
    assert piece.places == (1,)
