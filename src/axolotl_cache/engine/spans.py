"""Which spans of keys a token attends to, and which of a call's tokens attend to the same one. Pure.

The keys in front of a token are cut where its position says: whole segments first, then the rest, shown up to
the end of the token's own key tile. Attention over each span is computed by itself and the results are merged
(engine/merging.py), so that a segment behind which many requests stand is read once for all of them, and yet
every token's own result is the same whoever shares it. How the cut follows from the position alone:
docs/design/exactness.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from axolotl_cache.engine.pool import SCRAP, Page

SEGMENT_TOKENS: Final = 256
"""Keys of a whole segment. Short ones are shared more often, long ones leave less to merge."""
KEY_TILE_TOKENS: Final = 64
"""Behind the last whole segment, keys are shown up to a multiple of this, masked behind the token itself."""
LEAST_ROWS: Final = 4
"""Query rows come in multiples of this: where the kernel has fewer left, it rounds otherwise."""

_FEW_TOKENS: Final = 32
"""Pieces of up to this many tokens are filled up to a power of two, so that many make few batches."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of one request that a call computes: they stand at positions `start` to `stop`."""

    pages: Sequence[Page]
    """The request's, at least up to `stop`."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Span:
    """Keys of one request, and the tokens of a call that see some or all of them."""

    begin: int
    """First key, a multiple of `SEGMENT_TOKENS`."""
    end: int
    first: int
    """The first token's position; the tokens stand behind one another."""
    last: int
    masked: bool
    """Whether the tokens see only some of the keys."""


@dataclass(slots=True)
class Piece:
    """A span of keys with all tokens of a call that attend to it, of one request or of many."""

    keys: int
    masked: bool
    begin: int
    places: tuple[int, ...]
    """The pages with the keys."""
    rows: list[int] = field(default_factory=list)
    """Which rows of the call the tokens are."""
    positions: list[int] = field(default_factory=list)

    @property
    def padded_tokens(self) -> int:
        """Tokens after filling up."""
        count = len(self.rows)
        if count == 1:
            return 1
        if count <= _FEW_TOKENS:
            return max(LEAST_ROWS, 1 << (count - 1).bit_length())
        return -(-count // LEAST_ROWS) * LEAST_ROWS


def spans(start: int, stop: int, window: int | None = None, tile: int = KEY_TILE_TOKENS) -> Iterator[Span]:
    """Yield what the tokens at positions `start` to `stop` attend to.

    Args:
        start: the first token.
        stop: behind the last one.
        window: keys that a token sees at the most, itself included; None for all.
        tile: keys behind the last whole segment are shown up to a multiple of this.
    """
    for begin in range(_first_segment(start, window), stop, SEGMENT_TOKENS):
        end = begin + SEGMENT_TOKENS
        # The tokens behind this segment; while they go on, it leaves the window.
        whole_until = stop if window is None else min(stop, begin + window)
        seen_until = stop if window is None else min(stop, end + window - 1)
        first = max(start, end)
        if first < whole_until:
            yield Span(begin, end, first, whole_until, masked=False)
        first = max(first, whole_until)
        if first < seen_until:
            yield Span(begin, end, first, seen_until, masked=True)
        # The tokens in it.
        at = max(start, begin)
        while at < min(stop, end):
            shown = (at // tile + 1) * tile
            last = min(stop, shown)
            yield Span(begin, shown, at, last, masked=True)
            at = last


def ordinal(begin: int, position: int, window: int | None = None) -> int:
    """Return the how-manieth of the spans that a token sees is the one that begins at `begin`."""
    return (begin - _first_segment(position, window)) // SEGMENT_TOKENS


def _first_segment(position: int, window: int | None) -> int:
    seen = 0 if window is None else max(position - window + 1, 0)
    return seen // SEGMENT_TOKENS * SEGMENT_TOKENS


def slices(parts: Sequence[Rows], most: int, window: int | None = None) -> Iterator[list[Rows]]:
    """Cut a call's tokens into slices that attend to at most `most` spans, all tokens' spans counted.

    Every slice has at least one token. The results of a slice's spans are held until they are merged.
    """
    slice_: list[Rows] = []
    left = most
    for part in parts:
        begin = part.start
        each = ordinal(part.stop - 1, part.stop - 1, window) + 1  # no token of the part sees more
        while begin < part.stop:
            tokens = min(part.stop - begin, left // each)
            if tokens == 0 and slice_:
                yield slice_
                slice_, left = [], most
                continue
            tokens = max(tokens, 1)
            slice_.append(Rows(part.pages, begin, begin + tokens))
            begin, left = begin + tokens, left - tokens * each
    if slice_:
        yield slice_


def pieces(
    parts: Sequence[Rows], block_size: int, window: int | None = None, first_row: int = 0
) -> list[Piece]:
    """Return what a call's tokens attend to, each span of shared pages once.

    Args:
        parts: the requests' tokens, in the order of the call's rows.
        block_size: tokens in a page.
        window: keys that a token sees at the most; None for all.
        first_row: the call's row of the first token.
    """
    found: dict[tuple[object, ...], Piece] = {}
    row, tile = first_row, max(KEY_TILE_TOKENS, block_size)
    for part in parts:
        ahead = row - part.start  # position + ahead is the row
        for span in spans(part.start, part.stop, window, tile):
            keys = span.end - span.begin
            places = [p.index for p in part.pages[span.begin // block_size : -(-span.end // block_size)]]
            places += [SCRAP] * (-(-keys // block_size) - len(places))
            key = (span.begin, span.masked, *places)
            piece = found.get(key)
            if piece is None:
                piece = found[key] = Piece(keys, span.masked, span.begin, tuple(places))
            piece.rows.extend(range(span.first + ahead, span.last + ahead))
            piece.positions.extend(range(span.first, span.last))
        row += part.stop - part.start
    return list(found.values())
