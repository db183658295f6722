"""What a look at the prefix tree finds, and what all looks together have counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from axolotl_cache.prefix.node import Node, P


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a prompt leaves everything that is cached."""

    position_tokens: int
    """Index of the first token that nothing cached agrees with."""
    cached: tuple[int, ...]
    """What the nearest cached prompt goes on with, from there to the end of its block."""
    found: tuple[int, ...]
    """What this prompt has in the same place."""


@dataclass(frozen=True, slots=True)
class PrefixMatch(Generic[P]):
    """A cached prefix, held until it is released: its blocks can't be evicted meanwhile."""

    namespace: str
    tokens: int
    """Length of the prefix in tokens, a multiple of `block_size`."""
    payloads: tuple[P, ...]
    difference: Difference | None
    """None when the prompt ended, or nothing at all is cached behind the match."""
    nodes: tuple[Node[P], ...] = field(repr=False)


@dataclass(slots=True)
class PrefixStats:
    """Counters since the start, in tokens, blocks and bytes."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    inserted_blocks: int = 0
    evicted_blocks: int = 0
    expired_blocks: int = 0
    refused_blocks: int = 0
    """Blocks that did not fit, because everything else was pinned, in use, or worth more."""
    held_bytes: int = 0
    pinned_bytes: int = 0
    leased_bytes: int = 0
    """Held under leases, and not pinned."""
    held_blocks: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the queried tokens that were found."""
        return self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0
