"""How far two sequences of tokens, or of blocks, agree."""

from __future__ import annotations

from collections.abc import Iterable


def common_length(one: Iterable[int], other: Iterable[int]) -> int:
    """Return how many leading elements are the same. Cost: O(that many)."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
