"""What each tenant holds of a response cache: at most its bound, and above its share while there is room.

Whose an entry is, its tag `tenant:NAME` says. As long as there is none, nothing is counted here, and the
policy alone decides who goes. Not on the way of a hit: only who stores something comes here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from axolotl_cache.shares import Shares
from axolotl_cache.stores import MemoryStore, Record, SharedStore, entry_bytes

_TAG: Final = "tenant:"
_LEARN_EVERY_SECONDS: Final = 1.0


def tenant_of(tags: Iterable[str]) -> str:
    """Return whose an entry with these tags is; "" for nobody's."""
    return next((tag[len(_TAG) :] for tag in tags if tag.startswith(_TAG)), "")


@dataclass(slots=True)
class _Tenant:
    keys: dict[str, int] = field(default_factory=dict)
    """Bytes by key."""
    held_bytes: int = 0
    heap: list[tuple[int, str]] = field(default_factory=list)
    """(rank, key), some of them out of date."""


class TenantShares:
    """Who goes where tenants share a cache: when it is full, whoever holds most above its share loses first.

    Shares are equal, of entries or of bytes, whichever a tenant has more of; who is beyond a bound of its
    own loses first of all. Of a tenant's entries goes the one that the policy ranks lowest.

    Not thread-safe by itself. A call costs O(log entries) for each entry that goes, over time; the first one
    of a tenant reads what is stored already, and so does the first one after another process's change, at
    most once a second.

    Args:
        memory: whose policy ranks; what it does not know was not used since the start, and goes first.
        disk: behind it, where that holds what is stored.
    """

    def __init__(self, memory: MemoryStore, disk: SharedStore | None) -> None:
        self.bound_of: Callable[[str], int | None] = lambda tenant: None
        """The most bytes that a tenant may hold; None is no bound of its own."""
        self.is_on = False
        """Whether there are tenants."""
        self._memory = memory
        self._disk = disk
        self._rank_of = memory.rank
        self._learnt_at = -_LEARN_EVERY_SECONDS
        self._generation = -1
        self._tenants: dict[str, _Tenant] = {}
        self._owners: dict[str, str] = {}
        self._shares = Shares()
        self._bounds: tuple[int, int | None] = (1, None)
        self._bytes = 0

    def held_bytes(self, tenant: str) -> int:
        """Return what a tenant holds, as far as it is known here."""
        held = self._tenants.get(tenant)
        return 0 if held is None else held.held_bytes

    def concern(self, record: Record, now: float) -> bool:
        """Whether a record that is to be stored needs room among tenants; if so, what is stored is known.

        Raises:
            StoreError: the disk can't be asked.
        """
        if not self.is_on and not tenant_of(record.tags):
            return False
        if self._disk is None:
            if self._generation:
                self._generation = 0
                self._learn(self._memory)
        elif not 0 <= now - self._learnt_at < _LEARN_EVERY_SECONDS:
            self._learnt_at = now
            generation = self._disk.generation()
            if generation != self._generation:
                self._generation = generation
                self._learn(self._disk)
        self.is_on = True
        return True

    def _learn(self, store: MemoryStore | SharedStore) -> None:
        there = store.keys()
        self.forget(self._owners.keys() - set(there))
        for key in there:
            if key not in self._owners and (record := store.get(key)) is not None:
                self.note(key, record)

    def note(self, key: str, record: Record) -> None:
        """Count an entry that is stored, in place of what was there."""
        self.forget([key])
        name, size = tenant_of(record.tags), entry_bytes(key, record)
        tenant = self._tenants.setdefault(name, _Tenant())
        tenant.keys[key] = size
        tenant.held_bytes += size
        heapq.heappush(tenant.heap, (self._rank_of(key), key))
        if len(tenant.heap) > 2 * len(tenant.keys) + 64:
            tenant.heap = [(self._rank_of(key), key) for key in tenant.keys]
            heapq.heapify(tenant.heap)
        self._owners[key] = name
        self._bytes += size
        self._weigh(name)

    def forget(self, keys: Iterable[str] | None) -> None:
        """Count these no more; None is everything."""
        if keys is None:
            self._tenants.clear()
            self._owners.clear()
            self._shares = Shares()
            self._bytes = 0
            self._generation, self._learnt_at = -1, -_LEARN_EVERY_SECONDS
            return
        for key in keys:
            name = self._owners.pop(key, None)
            if name is None:
                continue
            tenant = self._tenants[name]
            size = tenant.keys.pop(key)
            tenant.held_bytes -= size
            self._bytes -= size
            if not tenant.keys:
                del self._tenants[name]
            self._weigh(name)

    def fits(self, key: str, record: Record) -> bool:
        """Whether a record is within its tenant's own bound, all by itself."""
        bound = self.bound_of(tenant_of(record.tags))
        return bound is None or entry_bytes(key, record) <= bound

    def in_the_way(self, key: str, record: Record) -> Iterator[str]:
        """Yield the keys that must go before a record, which fits, is stored; each is counted no more."""
        store = self._memory if self._disk is None else self._disk
        capacity, max_bytes = store.capacity, store.max_bytes
        if (capacity, max_bytes) != self._bounds:
            self._bounds = capacity, max_bytes
            for name in self._tenants:
                self._weigh(name)
        self._memory.tell_uses()
        self.forget([key])
        name, size = tenant_of(record.tags), entry_bytes(key, record)
        bound = self.bound_of(name)
        while bound is not None and self.held_bytes(name) + size > bound:
            yield self._take_lowest(name)
        wanted = max(1 / capacity, size / max_bytes if max_bytes else 0.0)
        while len(self._owners) + 1 > capacity or (max_bytes is not None and self._bytes + size > max_bytes):
            if self._tenants.keys() <= {name}:  # nobody else: the policy's matter
                return
            loser = self._shares.largest(name, wanted)
            if loser is None:
                return
            yield self._take_lowest(loser)

    def _take_lowest(self, name: str) -> str:
        tenant = self._tenants[name]
        while True:
            rank, key = tenant.heap[0]
            now = self._rank_of(key) if key in tenant.keys else None
            if now is None:
                heapq.heappop(tenant.heap)
            elif now != rank:
                heapq.heapreplace(tenant.heap, (now, key))
            else:
                self.forget([key])
                return key

    def _weigh(self, name: str) -> None:
        tenant = self._tenants.get(name)
        if tenant is None:
            self._shares.set(name, 0.0)
            return
        capacity, max_bytes = self._bounds
        by_bytes = tenant.held_bytes / max_bytes if max_bytes else 0.0
        self._shares.set(name, max(len(tenant.keys) / capacity, by_bytes))

    def check_invariants(self, entries: Sequence[tuple[str, Record]]) -> None:
        """Raise AssertionError where what is counted is not these entries. For tests."""
        mine = {key: (name, self._tenants[name].keys[key]) for key, name in self._owners.items()}
        theirs = {key: (tenant_of(record.tags), entry_bytes(key, record)) for key, record in entries}
        if mine != theirs:
            raise AssertionError(f"{len(mine)} entries are counted, and {len(theirs)} stored")
        if self._bytes != sum(size for _, size in mine.values()):
            raise AssertionError("the bytes of all are off")
