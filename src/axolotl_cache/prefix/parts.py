"""The two that share a prefix tree: what sessions hold by their leases, and all else.

Both stand under the tree's one bound, and what one does not use the other may: their own bounds say only
who goes first once the tree is full. Each is a tenant of a memory budget (`budget.py`), with ghosts of its
own, so that what sessions lose and what all others lose is measured apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from axolotl_cache.budget import Ghosts
from axolotl_cache.prefix.tree import PrefixTree


class TreePart:
    """One of the two.

    Args:
        ghosts: of what is evicted of it.
        held_bytes: returns what it holds.
        bound: puts the new bound of it into force, and returns what came of it.
    """

    def __init__(self, ghosts: Ghosts, held_bytes: Callable[[], int], bound: Callable[[], int]) -> None:
        self.ghosts = ghosts
        self.max_bytes = 0
        self._held_bytes = held_bytes
        self._bound = bound

    @property
    def held_bytes(self) -> int:
        """Bytes held now: more than its bound, where the other leaves it room."""
        return self._held_bytes()

    def resize(self, max_bytes: int) -> int:
        """Give it another bound, and the tree one that is higher or lower by as much.

        Returns:
            The bound in force, higher where bytes are in use or pinned.
        """
        self.max_bytes = max_bytes
        self.max_bytes = self._bound()
        return self.max_bytes


class TreeParts:
    """Splits the bound of a tree between what is leased and what is not.

    Args:
        tree: what holds both; it was made with these ghosts.
        ghosts: of what is not leased.
        leased_ghosts: of what is.
        resize: bounds the tree, and returns the bound in force.
    """

    def __init__(
        self, tree: PrefixTree[Any], ghosts: Ghosts, leased_ghosts: Ghosts, resize: Callable[[int], int]
    ) -> None:
        self._tree = tree
        self._resize = resize
        self.others = TreePart(
            ghosts,
            lambda: tree.stats.held_bytes - tree.stats.leased_bytes,
            lambda: self._bound() - self.sessions.max_bytes,
        )
        self.sessions = TreePart(
            leased_ghosts,
            lambda: tree.stats.leased_bytes,
            lambda: self._bound() - self.others.max_bytes,
        )

    def _bound(self) -> int:
        """Bound the tree by what both may hold; return the bound in force."""
        both = self.others.max_bytes + self.sessions.max_bytes
        # First, so that whoever has too much gives what goes.
        self._tree.leased_share = self.sessions.max_bytes / max(1, both)
        return self._resize(both)
