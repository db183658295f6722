"""What goes first: `lru`, `lfu` and `adaptive` behind one interface, without clock, I/O or records.

A policy gives every entry a rank, and the lowest goes first. Ranks are plain numbers, so that a store on
disk can keep them beside its rows, and eviction there needs no list of all entries in memory.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from math import exp2, log2
from random import Random
from typing import Literal, Protocol, get_args

PolicyName = Literal["lru", "lfu", "adaptive"]


class Policy(Protocol):
    """Who goes first. Knows keys, and how often and in which order they were used.

    Uses are counted, not timed: `uses` rises with every rank that is given, so that equal calls give equal
    ranks. Whoever holds it sees to it that one thread at a time calls it.
    """

    uses: int
    """How many ranks were given so far; a store on disk raises it to what other processes have given."""

    @property
    def scale(self) -> str:
        """Names what ranks mean: those of two scales can't be compared."""

    def add(self, key: str) -> None:
        """Note that `key` was stored, anew or in place of what it had. Counts as a use."""

    def hit(self, key: str) -> None:
        """Note that `key` was used. One that is not known is ignored."""

    def drop(self, key: str) -> None:
        """Forget `key`; one that is not known is fine."""

    def restore(self, key: str, rank: int) -> None:
        """Take up a key that is not known with the rank that it had in an earlier life."""

    def rank(self, key: str) -> int:
        """Return the rank of a key that is known. From 0, below 2**63."""

    def first_rank(self, use: int) -> int:
        """Return the rank of a key whose one and only use was the `use`-th."""

    def lowest(self, spare: str) -> str:
        """Return the known key of the lowest rank, and `spare` only if there is no other."""

    def judge(self, lowest: str) -> str:
        """Return who goes where `lowest` has the lowest rank: `lowest`, or another one in its place.

        Raises:
            KeyError: never; `lowest` may be a key that is not known.
        """

    def order(self) -> list[str]:
        """Return all known keys, lowest rank first. Cost: O(keys * log keys)."""

    def take_changes(self) -> dict[str, int]:
        """Return the ranks that changed since the last call."""

    def has_changes(self) -> bool:
        """Whether `take_changes` would return any."""

    def __contains__(self, key: object) -> bool:
        """Whether `key` is known."""

    def __len__(self) -> int:
        """Return the number of known keys."""


class RankedKeys:
    """What all policies share: ranks by key, and which of them changed."""

    def __init__(self) -> None:
        self.uses = 0
        self._ranks: OrderedDict[str, int] = OrderedDict()
        self._changed: set[str] = set()

    def rank(self, key: str) -> int:
        """Return the rank of a key that is known."""
        return self._ranks[key]

    def judge(self, lowest: str) -> str:
        """Return who goes: by these policies, whoever has the lowest rank."""
        return lowest

    def drop(self, key: str) -> None:
        """Forget `key`."""
        self._ranks.pop(key, None)
        self._changed.discard(key)

    def order(self) -> list[str]:
        """Return all known keys, lowest rank first."""
        return sorted(self._ranks, key=self._ranks.__getitem__)

    def take_changes(self) -> dict[str, int]:
        """Return the ranks that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {key: self._ranks[key] for key in changed}

    def has_changes(self) -> bool:
        """Whether `take_changes` would return any."""
        return bool(self._changed)

    def __contains__(self, key: object) -> bool:
        return key in self._ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def _give(self, key: str, rank: int) -> None:
        self._ranks[key] = rank
        self._changed.add(key)

    def _next_use(self) -> int:
        self.uses += 1
        return self.uses


class LruPolicy(RankedKeys):
    """Least recently used first: the rank is the number of the last use. Each call costs O(1)."""

    scale = "lru"

    def add(self, key: str) -> None:
        """Note that `key` was stored."""
        # Without helpers, here only: 256 of these at once are what the slowest hits in memory consist of.
        self.uses += 1
        self._ranks[key] = self.uses
        self._ranks.move_to_end(key)
        self._changed.add(key)

    def hit(self, key: str) -> None:
        """Note that `key` was used."""
        if key in self._ranks:
            self.add(key)

    def restore(self, key: str, rank: int) -> None:
        """Take up a key with the rank that it had; until it is used, it goes before all others here."""
        self._ranks[key] = rank
        self._ranks.move_to_end(key, last=False)

    def first_rank(self, use: int) -> int:
        """Return the rank of a key whose one use was the `use`-th."""
        return use

    def lowest(self, spare: str) -> str:
        """Return the key that has gone unused longest."""
        return next((key for key in self._ranks if key != spare), spare)

    def order(self) -> list[str]:
        """Return all known keys, least recently used first. Cost: O(keys)."""
        return list(self._ranks)


class LfuPolicy(RankedKeys):
    """Least frequently used first, where a use counts half once 5 x capacity others have followed.

    Forgetting is what keeps yesterday's favourites from staying for ever. Halving all counts from time to
    time would change every rank at once, on disk every row. So weights grow instead of shrinking: a use
    that comes a half-life later weighs twice as much. The rank is the logarithm (base 2) of the sum of
    a key's weights: it changes only when the key is used, and orders keys as the halved counts would.

    A call costs O(1), `lowest` O(log keys) over time.

    Args:
        capacity: most entries held.

    Source: Lee et al., LRFU: a spectrum of policies that subsumes the LRU and LFU policies, 2001 (the
    weights); Cormode et al., Forward decay: a practical time decay model for streaming systems, 2009 (why
    growing weights do what shrinking ones would).
    """

    USES_PER_ENTRY = 5
    _POINT = 1 << 24
    """Ranks are fixed-point numbers: 24 bits behind the point tell 2**24 uses from one more."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._half_life = self.USES_PER_ENTRY * capacity
        # (rank, key), some of them out of date: ranks only rise, so a stale one is found when it comes up
        self._heap: list[tuple[int, str]] = []

    @property
    def scale(self) -> str:
        """Ranks of two half-lives can't be compared."""
        return f"lfu {self._half_life}"

    def add(self, key: str) -> None:
        """Note that `key` was stored; one that is known keeps what it has."""
        if key in self._ranks:
            self.hit(key)
        else:
            self.restore(key, self.first_rank(self._next_use()))
            self._changed.add(key)

    def hit(self, key: str) -> None:
        """Note that `key` was used."""
        before = self._ranks.get(key)
        if before is None:
            return
        weight = self.first_rank(self._next_use())
        apart = abs(weight - before) / self._POINT
        # log2(2**a + 2**b), without the powers that no number could hold
        self._give(key, max(weight, before) + int(self._POINT * log2(1 + exp2(-min(apart, 64.0)))))

    def restore(self, key: str, rank: int) -> None:
        """Take up a key with the rank that it had."""
        self._ranks[key] = rank
        heapq.heappush(self._heap, (rank, key))
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [(rank, key) for key, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def first_rank(self, use: int) -> int:
        """Return the weight of the `use`-th use."""
        return use * self._POINT // self._half_life

    def lowest(self, spare: str) -> str:
        """Return the key that was used least, lately."""
        heap, spared = self._heap, []
        while heap:
            rank, key = heap[0]
            now = self._ranks.get(key)
            if now is None:
                heapq.heappop(heap)
            elif now != rank:
                heapq.heapreplace(heap, (now, key))
            elif key == spare:
                spared.append(heapq.heappop(heap))
            else:
                break
        lowest = heap[0][1] if heap else spare
        for each in spared:
            heapq.heappush(heap, each)
        return lowest


def make_policy(name: PolicyName, capacity: int, random: Random) -> Policy:
    """Return a new policy.

    Args:
        name: `lru`, `lfu` or `adaptive`.
        capacity: most entries held.
        random: decides, now and then, where `adaptive` has no better reason.

    Raises:
        ValueError: there is no such policy.
    """
    if name == "lru":
        return LruPolicy()
    if name == "lfu":
        return LfuPolicy(capacity)
    if name == "adaptive":
        from axolotl_cache.stores.adaptive import AdaptivePolicy

        return AdaptivePolicy(capacity, random)
    raise ValueError(f"policy is one of {', '.join(get_args(PolicyName))}, not {name!r}")
