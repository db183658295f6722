"""A node of the prefix tree: one block of tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from axolotl_cache.prefix.eviction import Uses
from axolotl_cache.prefix.lease import Lease


class Payload(Protocol):
    """What a node holds. Only its size matters here."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


P = TypeVar("P", bound=Payload)


@dataclass(eq=False, slots=True)
class Node(Generic[P]):
    """A block in its place in the tree, and what is known of its uses."""

    key: bytes
    """The block's token ids, 4 bytes each, and behind them the fences in it; for a root, its namespace."""
    parent: Node[P] | None
    payload: P | None
    """None only for a root."""
    children: dict[bytes, Node[P]] = field(default_factory=dict)
    references: int = 0
    hits: int = 0
    """How often it was part of a match."""
    pinned: bool = False
    used_at_seconds: float = 0.0
    name: int = 0
    """What its ranking knows it by; 0 without one."""
    uses: Uses | None = None
    """How it was used, for its ranking."""
    leases: int = 0
    """How many tips of leases are here or below."""
    tip_of: set[Lease] | None = None
