"""Into which calls of the model a prompt is cut. Pure arithmetic; hit and miss must agree on it.

Why it matters: the last bits of a token's keys and values can depend on how many tokens are computed with
it, because matrix kernels treat a few leftover rows differently from a full tile. See
docs/design/exactness.md for what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from axolotl_cache.namespace import BLOCK_SIZE_TOKENS


@dataclass(frozen=True, slots=True)
class Layout:
    """How prompts are cut into blocks and calls."""

    block_size: int
    """Tokens in a block: prefixes are reused in multiples of it."""
    call_tokens: int
    """Tokens in one call of the model at the most; a multiple of `block_size`."""
    row_multiple: int
    """The last call is filled up with padding to a multiple of this many tokens."""
    tiled: bool
    """Whether attention is computed in tiles at fixed places, see engine/attention.py."""

    def __post_init__(self) -> None:
        if self.call_tokens % self.block_size or self.block_size % self.row_multiple:
            raise ValueError(f"{self}: call_tokens, block_size and row_multiple must divide one another")


ALIGNED = Layout(block_size=BLOCK_SIZE_TOKENS, call_tokens=512, row_multiple=16, tiled=True)
"""Reuse at any block boundary; right only where the exactness probe found no difference."""

GRID = Layout(block_size=128, call_tokens=128, row_multiple=1, tiled=False)
"""Every call starts on a fixed grid and reuse only happens on it: hit and miss make the same calls."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model: tokens `start` to `stop` of the prompt, padding up to `padded_stop`."""

    start: int
    stop: int
    padded_stop: int


def prefill_calls(start: int, stop: int, layout: Layout) -> Iterator[Call]:
    """Yield the calls that compute tokens `start` to `stop`, in order.

    Args:
        start: tokens that are there already; a multiple of `layout.block_size`.
        stop: length of the prompt in tokens.
        layout: how to cut.
    """
    if start % layout.block_size:
        raise ValueError(f"{start} tokens are not whole blocks of {layout.block_size}")
    for begin in range(start, stop, layout.call_tokens):
        end = min(begin + layout.call_tokens, stop)
        rows = -(-(end - begin) // layout.row_multiple) * layout.row_multiple
        yield Call(begin, end, begin + rows)
