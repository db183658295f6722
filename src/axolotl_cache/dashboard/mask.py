"""The attention mask of what was computed, as ranges: the pages draw it."""

from __future__ import annotations

from typing import Any

from axolotl_cache.prefix.packing import Packing, pack


def mask_of_one(prompt_tokens: int, cached_tokens: int, block_size: int) -> dict[str, Any] | None:
    """Return the mask of a request that reused so many leading tokens; None if there is nothing to draw.

    Args:
        prompt_tokens: length of its prompt.
        cached_tokens: how many of them came from the prefix cache.
        block_size: tokens in a block; 0 if it is not known.
    """
    if not block_size or prompt_tokens < 1 or cached_tokens >= prompt_tokens:
        return None
    # Which tokens they are does not matter for who sees whom: positions stand for them.
    tokens = range(prompt_tokens)
    return to_json(pack([tokens], block_size=block_size, cached=[tokens[:cached_tokens]]))


def to_json(packing: Packing) -> dict[str, Any]:
    """Return a packing as JSON: ranges are pairs of first and end."""
    return {
        "rows": packing.rows,
        "columns": packing.columns,
        "cells": packing.cells,
        "block_size": packing.block_size,
        "blocks": [
            {
                "columns": _pair(block.columns),
                "first_token": block.first_token,
                "is_reused": bool(block.reused_by),
            }
            for block in packing.blocks
        ],
        "rests": [
            {
                "rows": _pair(rest.rows),
                "columns": _pair(rest.columns),
                "reused": [_pair(each) for each in rest.reused],
            }
            for rest in packing.rests
        ],
    }


def _pair(of: range) -> list[int]:
    return [of.start, of.stop]
