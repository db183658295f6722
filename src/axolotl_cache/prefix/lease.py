"""Leases: blocks that are somebody's for a while, and go after those that are nobody's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

MOST_BRANCHES: Final = 8
"""How many ends of a conversation, after edits, one lease keeps; the oldest is given up for another."""


@dataclass(eq=False, slots=True)
class Lease:
    """A hold on the blocks of one session, softer than a pin.

    Leased blocks have no TTL. As long as all leases together hold no more than their share of the tree
    (`leased_share`), they are evicted only when no other block is left to evict; above it they go first.
    Those go first whose lease was used least recently (with a ranking: is worth least), from the end of the
    conversation backwards. Those of a lease that is in use are not evicted at all. The tree (tree.py) keeps
    it up to date; its owner ends it.

    Attributes:
        shared_tokens: leading tokens that are not the session's own: they stay, without the lease, when it
            ends.
        is_over: it was ended while it was in use; it is ended once more when that is over.
    """

    shared_tokens: int = 0
    is_over: bool = False
    users: int = 0
    """Requests under way that go on with it."""
    tips: dict[Any, None] = field(default_factory=dict, repr=False)
    """The deepest blocks, as the tree's own nodes; the one used last stands last."""

    @property
    def is_held(self) -> bool:
        """Whether any block is held under it."""
        return bool(self.tips)
