"""A policy whose ranks are on the servers: what was used here, until it is written down."""

from __future__ import annotations

from collections.abc import Collection

from axolotl_cache.stores.policies import Policy, RankedKeys

_MOST_USES = 65_536


class Uses:
    """Notes uses from any thread; all else is called under the store's lock.

    Args:
        policy: who goes first; its own.
        capacity: most entries, of all scopes.
    """

    def __init__(self, policy: Policy, capacity: int) -> None:
        self.policy = policy
        self._capacity = capacity
        self._used: list[str] = []
        self._ranks: dict[str, int] = {}
        self._found: list[tuple[str, float]] = []

    @property
    def are_judged(self) -> bool:
        """Whether the policy may name another than who has the lowest rank: then each eviction asks it."""
        return getattr(type(self.policy), "judge", None) is not RankedKeys.judge

    def touch(self, key: str) -> None:
        """Note a use."""
        self._used.append(key)
        if len(self._used) > _MOST_USES:
            self._used = self._used[_MOST_USES // 2 :]

    def has_news(self) -> bool:
        """Whether there is anything that the servers do not have yet."""
        return bool(self._used) or bool(self._ranks) or self.policy.has_changes()

    def take_ranks(self, added: Collection[str] = ()) -> dict[str, int]:
        """Return the ranks that have changed, those of `added` left out."""
        found, self._found = self._found, []
        for key, rank in found:
            if key not in self.policy:
                self.policy.restore(key, int(rank))
        used, self._used = self._used, []
        for key in used:
            self.policy.hit(key)
        for key in added:
            self.policy.add(key)
        self._ranks |= self.policy.take_changes()
        for key in added:
            self._ranks.pop(key, None)
        ranks, self._ranks = self._ranks, {}
        if len(self.policy) > 2 * self._capacity + 64:  # others' evictions are not told to the policy
            for key in self.policy.order()[: -self._capacity]:
                if key not in added:
                    self.policy.drop(key)
        return ranks

    def give_back(self, ranks: dict[str, int]) -> None:
        """They could not be written down."""
        self._ranks = ranks | self._ranks

    def found(self, key: str, rank: float | None) -> None:
        """Note the rank of an entry that was read. Any thread may call it."""
        if rank is not None and len(self._found) < _MOST_USES and key not in self.policy:
            self._found.append((key, rank))

    def forget_keys(self) -> None:
        """Forget all keys: they may be somebody's of whom nothing is to be left."""
        self._used, self._ranks, self._found = [], {}, []
        for key in self.policy.order():
            self.policy.drop(key)
