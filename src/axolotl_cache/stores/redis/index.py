"""The entries of one store and what is known of them, partition by partition, by script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import redis

from axolotl_cache.stores.base import new_version
from axolotl_cache.stores.redis import scripts
from axolotl_cache.stores.redis.commands import Commands
from axolotl_cache.stores.redis.entry import tag_digest
from axolotl_cache.stores.redis.space import CLUSTER_PARTITIONS, Space

_MANY: Final = 4000
"""Names that one call of a script is given at the most: Lua unpacks no more than some thousands."""


class Putting(NamedTuple):
    """An entry that is to be put."""

    member: bytes
    row: str
    payload: bytes
    lives_ms: int
    rank: int
    token: int | None
    """Fencing token; None: there is no lease."""


class Put(NamedTuple):
    """What became of an entry that was put."""

    copies: int = 0
    expired: Sequence[bytes] = ()
    evicted: Sequence[bytes] = ()
    lowest: bytes | None = None
    """Who has the lowest rank, where the policy is to say who goes."""
    is_fenced: bool = False


class Index:
    """Names of entries in, names out; all but reading is called under the store's lock.

    Args:
        commands: the way to the servers.
        name: tells stores on the same servers apart.
        scope: whose entries are meant where nothing else is said.
        capacity: most entries, of all scopes; in a Cluster its share holds in each partition.
        max_bytes: most bytes, likewise; None is no bound.
    """

    def __init__(
        self, commands: Commands, name: str, scope: bytes, capacity: int, max_bytes: int | None
    ) -> None:
        self.commands = commands
        self.generation = 0
        """Has changed if anyone else has changed something, as far as was heard."""
        self.erasures = 0
        self._name, self._scope = name, scope
        self._capacity, self._max_bytes = capacity, max_bytes
        # Of each partition, the numbers that stood there when it was last heard of
        self._changes: dict[int, bytes] = {}
        self._erased: dict[int, bytes] = {}
        self._nonce = 0

    @property
    def space(self) -> Space:
        """The names of the keys.

        Raises:
            StoreError: the servers were never reached, so that it is not known how keys are spread.
        """
        layout = self.commands.layout()
        return Space(self._name, self._scope, CLUSTER_PARTITIONS if layout.kind == "cluster" else 1)

    # Reading

    def read(self, member: bytes, *, lookup: bool) -> tuple[bytes | None, bytes | None, float | None]:
        """Return an entry's bytes, row and rank. Cost: one round trip."""
        space = self.space
        partition = space.partition(member)
        place, (_, rows, ranks, *_others) = space.place(partition), space.index(partition)

        def read(client: redis.Redis) -> Any:
            pipe: Any = client.pipeline(transaction=False)
            return pipe.get(place + member).hget(rows, member).zscore(ranks, member).execute()

        content, row, rank = self.commands.run(rows, read, lookup=lookup)
        return content, row, rank

    def row(self, member: bytes, *, lookup: bool) -> bytes | None:
        """Return an entry's row."""
        rows = self._of(member)[1]
        row: bytes | None = self.commands.run(rows, lambda client: client.hget(rows, member), lookup=lookup)
        return row

    def removed_at(self, member: bytes, *, lookup: bool) -> float | None:
        """When an entry was last removed on purpose."""
        gone = self._of(member)[5]
        at: float | None = self.commands.run(gone, lambda client: client.zscore(gone, member), lookup=lookup)
        return at

    def by_rank(self, tag: str | None = None) -> list[bytes]:
        """Return all entries of all scopes, or those with a tag, the lowest rank first."""
        space = self.space
        found: list[tuple[bytes, float]] = []
        for partition in range(space.partitions):
            _, _, ranks, _, tags, _ = space.index(partition)
            ranked = self.commands.run(ranks, partial(_all_with_scores, ranks))
            if tag is not None:
                tagged = set(self.commands.run(tags, partial(_tagged, tags, tag_digest(tag).encode())))
                ranked = [(member, rank) for member, rank in ranked if member in tagged]
            found += ranked
        return [member for member, _ in sorted(found, key=lambda pair: pair[1])]

    def tagged(self, tag: str) -> list[bytes]:
        """Return all entries of all scopes with a tag, for a request. Cost: a round trip to each server."""
        space, layout = self.space, self.commands.layout()
        asked: dict[Any, list[bytes]] = {}
        for partition in range(space.partitions):
            name = space.index(partition)[4]
            asked.setdefault(layout.primary(name), []).append(name)
        read = partial(_tagged_in, tag_digest(tag).encode())
        found: list[bytes] = []
        for names in asked.values():
            found += self.commands.run(names[0], partial(read, names), lookup=True)
        return found

    def total(self, field: str, *, highest: bool = False) -> int:
        """Return the sum, or the highest, of a number of all partitions."""
        space = self.space
        numbers = [
            int(self.commands.run(meta, partial(_field, meta, field)) or 0)
            for meta in (space.index(partition)[0] for partition in range(space.partitions))
        ]
        return max(numbers) if highest else sum(numbers)

    def look(self) -> bool:
        """Look for changes of others; return whether there was an erasure among them."""
        space, before = self.space, self.erasures
        for partition in range(space.partitions):
            meta = space.index(partition)[0]
            changes, erased = (each or b"" for each in self.commands.run(meta, partial(_marks, meta)))
            if self._erased.get(partition, b"") not in (b"", erased):
                self.erasures += 1
            self._erased[partition] = erased
            self._heard(partition, changes)
            self._changes[partition] = changes
        return self.erasures != before

    # Changing

    def put(self, entries: Sequence[Putting], *, uses: int, now: float, judged: bool) -> list[Put]:
        """Store entries, in their order, and evict what is above the bounds.

        Cost: one round trip to each server that is to have one.

        Args:
            entries: what, each under another name.
            uses: number of uses so far.
            now: seconds since the epoch.
            judged: whether the policy is asked who goes: then nobody does yet.

        Raises:
            StoreError: one of them was not stored. Others may be; to store all again does no harm.
        """
        space, nonce = self.space, self._new_nonce()
        capacity, bound = self._bounds(space)
        calls = []
        for each in entries:
            partition = space.partition(each.member)
            arguments = (
                *(space.place(partition), nonce, each.member, each.row, each.payload, each.lives_ms),
                *(each.rank, uses, repr(float(now)), capacity, "" if bound is None else bound, int(judged)),
                "" if each.token is None else each.token,
            )
            calls.append(([*space.index(partition), space.fence(each.member)], arguments))
        replies = self.commands.scripts(scripts.PUT, calls, acknowledge=True)
        return [
            self._put(space.partition(each.member), reply, copies)
            for each, (reply, copies) in zip(entries, replies, strict=True)
        ]

    def next_to_evict(self, spare: bytes) -> bytes | None:
        """Return who has the lowest rank where `spare` is, if there is more than there may be."""
        space = self.space
        meta, _, ranks, *_others = self._of(spare)
        capacity, bound = self._bounds(space)

        def look(client: redis.Redis) -> Any:
            pipe: Any = client.pipeline(transaction=False)
            return pipe.hmget(meta, "n", "b").zrange(ranks, 0, 1).execute()

        (entries, counted), lowest = self.commands.run(meta, look)
        fits = int(entries or 0) <= capacity and (bound is None or int(counted or 0) <= bound)
        return None if fits else next((each for each in lowest if each != spare), None)

    def remove(
        self,
        now: float,
        *,
        members: Iterable[bytes] | None = None,
        everywhere: bool = False,
        erase: bool = False,
        **conditions: Any,
    ) -> tuple[list[bytes], int]:
        """Remove what meets every condition; return the names, and the bytes that they counted.

        Args:
            now: seconds since the epoch.
            members: only these.
            everywhere: of all scopes.
            erase: also what is remembered of removals; and others are to let go of what they have.
            conditions: see `_remove_in`.
        """
        space = self.space
        named: dict[int, list[bytes]] = {}
        for member in members or ():
            named.setdefault(space.partition(member), []).append(member)
        gone: list[bytes] = []
        counted = 0
        for partition in range(space.partitions) if members is None else named:
            mine = named.get(partition, [])
            some = [None] if members is None else [mine[at : at + _MANY] for at in range(0, len(mine), _MANY)]
            for few in some:
                freed, removed = self._remove_in(
                    space,
                    partition,
                    few,
                    now,
                    "*" if everywhere else space.scope_text,
                    erase=erase,
                    **conditions,
                )
                counted += freed
                gone += removed
        return gone, counted

    def note(
        self, ranks: Mapping[bytes, int], dates: Iterable[tuple[bytes, int, float]], *, uses: int
    ) -> None:
        """Write down ranks, and dates that uses have moved: entry, version and expiry each."""
        space = self.space
        ranked: dict[int, list[Any]] = {}
        dated: dict[int, list[Any]] = {}
        for member, rank in ranks.items():
            ranked.setdefault(space.partition(member), []).extend((member, rank))
        for member, version, expires_at in dates:
            later = (member, f"{version:x}", repr(float(expires_at)))
            dated.setdefault(space.partition(member), []).extend(later)
        calls = []
        for notes, width in ((ranked, 2), (dated, 3)):
            for partition, flat in notes.items():
                for start in range(0, len(flat), width * _MANY):
                    some = flat[start : start + width * _MANY]
                    pairs = len(some) // 2 if width == 2 else 0
                    arguments = (space.place(partition), self._new_nonce(), uses, pairs, *some)
                    calls.append((space.index(partition), arguments))
        self.commands.scripts(scripts.NOTE, calls)

    # Inside

    def _put(self, partition: int, reply: Any, copies: int) -> Put:
        if reply == [b"fenced"]:
            return Put(is_fenced=True)
        before, expired, evicted, lowest = reply
        self._changed(partition, before)
        return Put(copies, expired, evicted, lowest)

    def _of(self, member: bytes) -> list[bytes]:
        space = self.space
        return space.index(space.partition(member))

    def _bounds(self, space: Space) -> tuple[int, int | None]:
        bound = None if self._max_bytes is None else self._max_bytes // space.partitions
        return max(1, self._capacity // space.partitions), bound

    def _remove_in(
        self,
        space: Space,
        partition: int,
        members: Sequence[bytes] | None,
        now: float,
        scope: str,
        *,
        tag: str | None = None,
        created_before: float | None = None,
        version: int | None = None,
        expired: bool = False,
        remember: bool = False,
        erase: bool = False,
    ) -> tuple[int, list[bytes]]:
        arguments = (
            *(space.place(partition), self._new_nonce(), scope, repr(float(now)), int(remember)),
            "" if tag is None else tag_digest(tag),
            "" if created_before is None else repr(float(created_before)),
            "" if version is None else f"{version:x}",
            *(int(expired), int(members is not None), int(erase), *(members or ())),
        )
        keys = space.index(partition)
        reply, _ = self.commands.script(scripts.REMOVE, keys, arguments, acknowledge=remember or erase)
        before, has_changed, freed, removed = reply
        if has_changed:
            self._changed(partition, before)
        return freed, removed

    def _new_nonce(self) -> int:
        """Return where the count of changes begins if there is none: nowhere that it was before."""
        self._nonce = new_version() >> 16
        return self._nonce

    def _changed(self, partition: int, before: bytes) -> None:
        """Note a change of our own, and whether anyone has made another before it."""
        if self._changes.get(partition) != b"" or int(before) != self._nonce:  # else it began with this one
            self._heard(partition, before)
        self._changes[partition] = str(int(before) + 1).encode()

    def _heard(self, partition: int, changes: bytes) -> None:
        known = self._changes.get(partition)
        if known is not None and known != changes:
            self.generation += 1


def _field(name: bytes, field: str, client: redis.Redis) -> Any:
    return client.hget(name, field)


def _marks(name: bytes, client: redis.Redis) -> Any:
    return client.hmget(name, "changes", "erasures")


def _all_with_scores(name: bytes, client: redis.Redis) -> Any:
    return client.zrange(name, 0, -1, withscores=True)


def _tagged_in(digest: bytes, names: Sequence[bytes], client: redis.Redis) -> list[bytes]:
    pipe: Any = client.pipeline(transaction=False)
    for name in names:
        pipe.zrangebylex(name, b"[" + digest, b"(" + digest + b"\xff")
    return [each[len(digest) :] for found in pipe.execute() for each in found]


def _tagged(name: bytes, digest: bytes, client: redis.Redis) -> Any:
    found: Any = client.zrangebylex(name, b"[" + digest, b"(" + digest + b"\xff")
    return [each[len(digest) :] for each in found]
