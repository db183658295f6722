"""Attention in tiles that stand at fixed places in the prompt, so that a call's borders change no bit.

An attention kernel rounds by the shape it is given: how many queries come at once, and how many keys they
see. With a prefix reused, both differ from a cold prompt's. Here each tile of 32 queries is computed for
itself, over the keys up to the end of its own tile and no others: its shape follows from its place in the
prompt alone, wherever the call begins or ends.

Source of the problem: docs/design/exactness.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

TILE_TOKENS: Final = 32
_NAME: Final = "axolotl_cache_tiles"
_CHANGES_RESULTS: Final = ("position_bias", "softcap", "s_aux", "sinks")


def tile_end(tokens: int) -> int:
    """Return where the tile ends that token number `tokens` (counted from 1) stands in."""
    return -(-tokens // TILE_TOKENS) * TILE_TOKENS


@contextmanager
def tiled_attention(config: Any) -> Iterator[None]:
    """Make a model attend in tiles inside this block.

    Args:
        config: the model's configuration, whose attention implementation is "sdpa".
    """
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def supports_tiles(config: Any) -> bool:
    """Return whether a model's attention is the plain one that tiles can stand in for."""
    return bool(config.get_text_config()._attn_implementation == "sdpa")


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of one sequence's queries, (1, rows, heads, head_dim).

    Args:
        module: the layer.
        query: (1, heads, rows, head_dim); the first row stands at the start of a tile.
        key: (1, kv_heads, keys, head_dim), up to the end of the last row's tile.
        value: like `key`.
        attention_mask: True where a row may look, (1, 1, rows, keys).
        scaling: factor of the scores.
        more: what other kinds of attention are given; what would change the result is refused.
    """
    unknown = [name for name in _CHANGES_RESULTS if more.get(name) is not None]
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)} can't be tiled")
    heads, rows = query.shape[1:3]
    kv_heads, keys = key.shape[1:3]
    start = keys - tile_end(rows)
    missing = keys - start - rows
    if missing:  # the last tile is always whole; what its extra rows give is thrown away
        query = torch.nn.functional.pad(query, (0, 0, 0, missing))
        attention_mask = torch.nn.functional.pad(attention_mask, (0, 0, 0, missing), value=True)
    # The heads that share keys and values become rows of one product, instead of copies of the keys.
    group = heads // kv_heads
    query = query.view(1, kv_heads, group, rows + missing, -1)
    out = torch.empty(1, rows + missing, heads, value.shape[-1], dtype=query.dtype, device=query.device)
    for at in range(0, rows + missing, TILE_TOKENS):
        stop = at + TILE_TOKENS
        seen = start + stop
        tile = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, :, at:stop].reshape(1, kv_heads, group * TILE_TOKENS, -1),
            key[:, :, :seen],
            value[:, :, :seen],
            attn_mask=attention_mask[:, :, at:stop, :seen].repeat(1, 1, group, 1),
            scale=scaling,
        )
        tile = tile.view(1, kv_heads, group, TILE_TOKENS, -1).permute(0, 3, 1, 2, 4)
        out[:, at:stop] = tile.reshape(1, TILE_TOKENS, heads, -1)
    return out[:, :rows], None


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    mask: torch.Tensor | None = sdpa_mask(*args, **(kwargs | {"allow_is_causal_skip": False}))
    return mask


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, _mask)
