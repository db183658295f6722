"""Tenants in one prefix tree: none holds more than its bound, and above its share while there is room only.

Which namespaces are whose, the tree is told (`name`). As long as it is told of nobody, nothing is counted
here, and the policy alone decides who goes. Pinned blocks are nobody's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from axolotl_cache.prefix.eviction import name_after
from axolotl_cache.shares import Shares

if TYPE_CHECKING:
    from axolotl_cache.prefix.tree import PrefixTree

_LOOKED_AT: Final = 32
_TIMES: Final = 4
_MOST_NAMES: Final = 10_000

_Nodes = OrderedDict[Any, None]


class TreeTenants:
    """Who loses blocks where tenants share a tree: when it is full, whoever holds most loses first.

    Of a tenant's blocks goes the oldest leaf, or where the tree has a ranking the one worth least of a few of
    the oldest; leased ones only where there are no others, or where leases hold more than their share. What
    is in use stays.

    Belongs to its tree, and to its tree's thread, but for `name`. A call costs O(log tenants).

    Args:
        tree: whose nodes are counted.
    """

    def __init__(self, tree: PrefixTree[Any]) -> None:
        self.bound_of: Callable[[str], int | None] = lambda tenant: None
        """The most bytes that a tenant may hold; None is no bound of its own."""
        self._tree = tree
        self._is_on = False
        self._names: dict[str, str] = {}
        self._owners: dict[Any, str] = {}
        self._lists: dict[str, tuple[_Nodes, _Nodes]] = {}
        """By tenant, the nodes without a lease and those with one, oldest first."""
        self._bytes: dict[str, int] = {}
        self._shares = Shares()

    def name(self, namespace: str, tenant: str) -> None:
        """Note whose a namespace is. Callable from any thread."""
        self._names[namespace] = tenant
        if len(self._names) > _MOST_NAMES:
            there = list(self._tree._roots)
            self._names = {name: self._names[name] for name in there if name in self._names}

    def held_bytes(self, tenant: str) -> int:
        """Return what a tenant holds that is not pinned."""
        return self._bytes.get(tenant, 0)

    # What happens in the tree

    def added(self, node: Any) -> None:
        """Note that a node is held now."""
        if self._is_on:
            self._count(node, self._owner_of(node.parent))

    def gone(self, node: Any) -> None:
        """Note that a node is not held any more, or is pinned."""
        owner = self._owners.pop(node, None)
        if owner is None:
            return
        for nodes in self._lists[owner]:
            nodes.pop(node, None)
        self._bytes[owner] -= node.payload.nbytes
        self._shares.set(owner, self._bytes[owner])
        if not self._bytes[owner]:
            del self._bytes[owner], self._lists[owner]

    def used(self, path: Sequence[Any]) -> None:
        """Note that a path was used just now."""
        if self._is_on:
            for node in reversed(path):
                if node in self._owners:
                    self._lists[self._owners[node]][bool(node.leases)].move_to_end(node)

    def leased(self, node: Any) -> None:
        """Note that a node has leases now and had none, or the other way round."""
        if node in self._owners:
            free, leased = self._lists[self._owners[node]]
            was, now = (free, leased) if node.leases else (leased, free)
            del was[node]
            now[node] = None

    # What the tree asks

    def make_room(self, needed_bytes: int, parent: Any, key: bytes, *, must: bool) -> bool:
        """Have tenants lose what they hold above their share, so that a block behind `parent` fits.

        Returns:
            False if it must stay outside: its tenant's bound would be passed, or its tenant is the one to
            lose, and has nothing worth less. True leaves the rest to the tree's policy.
        """
        if not self._is_on:
            if not self._names:
                return True
            self._learn()
        tree, mine = self._tree, self._owner_of(parent)
        bound = None if must else self.bound_of(mine)
        while bound is not None and self.held_bytes(mine) + needed_bytes > bound:
            if not self._take_from(mine):
                return False
        while tree.stats.held_bytes + needed_bytes > tree.max_bytes and not self._bytes.keys() <= {mine}:
            loser = self._shares.largest(mine, needed_bytes)
            worth = self._worth(parent, key) if loser == mine and not must else None
            if loser is None or not (taken := self._take_from(loser, worth)):
                return worth is None or taken is None
        return True

    def _take_from(self, owner: str, worth: float | None = None) -> bool | None:
        """Evict a leaf; False if the least is worth more than `worth`, None if none can go."""
        lists: tuple[_Nodes, ...] = self._lists.get(owner, ())
        if self._tree.are_leases_above_share(self._tree.max_bytes):
            lists = lists[::-1]
        victim = next(filter(None, map(self._least, lists)), None)
        if victim is None:
            return None
        node, least = victim
        if worth is not None and least > worth:
            return False
        self._tree._evict(node, least if self._tree._ranking is not None else None)
        return True

    def _least(self, nodes: _Nodes) -> tuple[Any, float] | None:
        """Return the leaf to go first and its worth; it is sought among the oldest."""
        tree, ranking = self._tree, self._tree._ranking
        for _ in range(_TIMES):
            seen = list(islice(nodes, _LOOKED_AT))
            free = [node for node in seen if tree._is_free(node)]
            if free and ranking is None:
                return free[0], 0.0
            if free and ranking is not None:
                now = tree._clock()
                worths = [(ranking.worth(node.uses, now), i) for i, node in enumerate(free) if node.uses]
                least, index = min(worths)
                return free[index], least
            for node in seen:  # so that others come into view
                nodes.move_to_end(node)
        return None

    def _worth(self, parent: Any, key: bytes) -> float | None:
        ranking = self._tree._ranking
        if ranking is None:
            return None
        now = self._tree._clock()
        return ranking.worth(ranking.uses_of(name_after(parent.name, key), parent, now), now)

    # Whose

    def _owner_of(self, node: Any) -> str:
        while node.parent is not None:
            owner = self._owners.get(node)
            if owner is not None:
                return owner
            node = node.parent
        return self._names.get(node.key.decode(), "")

    def _count(self, node: Any, owner: str) -> None:
        self._owners[node] = owner
        self._lists.setdefault(owner, (OrderedDict(), OrderedDict()))[bool(node.leases)][node] = None
        self._bytes[owner] = self._bytes.get(owner, 0) + node.payload.nbytes
        self._shares.set(owner, self._bytes[owner])

    def _learn(self) -> None:
        """Count what is held already. Cost: O(blocks), once."""
        self._is_on = True
        owners = {}
        for name, root in self._tree._roots.items():
            owners.update(dict.fromkeys(self._tree._walk(root), self._names.get(name, "")))
        for node in (*self._tree._recency, *self._tree._leased):
            self._count(node, owners[node])

    def check_invariants(self) -> None:
        """Raise AssertionError where what is counted is not what the tree holds. For tests."""
        if not self._is_on:
            return
        tree = self._tree
        facts = {
            "other nodes": set(self._owners) == {*tree._recency, *tree._leased},
            "bytes are off": sum(self._bytes.values()) == tree.stats.held_bytes - tree.stats.pinned_bytes,
            "lists are off": all(
                set(nodes) == {n for n, o in self._owners.items() if o == owner and bool(n.leases) == leased}
                for owner, pair in self._lists.items()
                for leased, nodes in zip((False, True), pair, strict=True)
            ),
        }
        wrong = [what for what, holds in facts.items() if not holds]
        if wrong:
            raise AssertionError(f"tenants: {'; '.join(wrong)}")
