"""The store on Redis or Valkey: one that any number of machines share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Final, Literal

import redis

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import Departure, Record, Stamp, entry_bytes, new_version
from axolotl_cache.stores.moved_dates import MovedDates
from axolotl_cache.stores.policies import LruPolicy, Policy, RankedKeys
from axolotl_cache.stores.redis import scripts
from axolotl_cache.stores.redis.check import check
from axolotl_cache.stores.redis.commands import Commands
from axolotl_cache.stores.redis.entry import Row, at, decode, encode, lives_ms, row_text, tag_digest
from axolotl_cache.stores.redis.files import left_in_files
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.space import CLUSTER_PARTITIONS, Space
from axolotl_cache.stores.redis.uses import Uses

Reason = Literal["expired", "evicted"]

_LEARN_SECONDS: Final = 1.0
_MANY: Final = 4000
"""Keys that one call of a script is given at the most: Lua unpacks no more than some thousands."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    departed: tuple[Departure, ...]
    copies: int
    """Servers that are known to have it, the primary included."""
    is_acknowledged: bool
    """Whether those are as many as were asked for."""
    is_fenced: bool = False
    """It came too late, and was not stored: another has computed the entry meanwhile."""


class RedisStore:
    """Records on servers that others use at the same time.

    It keeps what every store promises, its bounds over all scopes, with these limits: in a Cluster the bounds
    and the order of eviction hold in each of 64 partitions; `generation` asks the servers; and a server that
    may evict keys of its own accord can forget anything at any time.

    Args:
        link: the way to the servers; the store's own from now on, closed with it.
        capacity: most entries, of all scopes together.
        space: tells stores on the same servers apart.
        scope: entries of another scope are not seen.
        policy: who goes first; its own, shared with nobody. None: `lru`.
        max_bytes: most bytes, as `entry_bytes` counts them, of all scopes together; None is no bound.
        within_seconds: how long calls go on trying while the servers fail.
    """

    def __init__(
        self,
        link: Link,
        capacity: int,
        *,
        space: str,
        scope: bytes = b"",
        policy: Policy | None = None,
        max_bytes: int | None = None,
        within_seconds: float = 0.0,
    ) -> None:
        self.link = link
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.damaged = 0
        self.erasures = 0
        self.acknowledged = self.unacknowledged = 0
        self._name, self._scope = space, scope
        self.commands = Commands(link, within_seconds)
        self._mutex = RLock()
        self._uses = Uses(LruPolicy() if policy is None else policy, capacity)
        self._moved = MovedDates()
        self._generation = 0
        # Of each partition, the number that stood there when it was last heard of
        self._changes: dict[int, bytes] = {}
        self._erased: dict[int, bytes] = {}
        self._learnt_at = -_LEARN_SECONDS
        self._nonce = 0
        self._closed = False

    # Reading

    @property
    def space(self) -> Space:
        """The names of its keys.

        Raises:
            StoreError: the servers were never reached, so that it is not known how keys are spread.
        """
        layout = self.commands.layout()
        return Space(self._name, self._scope, CLUSTER_PARTITIONS if layout.kind == "cluster" else 1)

    @property
    def size_bytes(self) -> int:
        """Bytes of this scope, as `entry_bytes` counts them."""
        return self._total("b")

    def __len__(self) -> int:
        return self._total("n")

    def get(self, key: str, *, lookup: bool = False) -> Record | None:
        """Return the record, expired or not. A damaged one is dropped, counted, and None.

        Cost: one round trip.

        Args:
            key: what to look for.
            lookup: a request is waiting: one try, with little time.
        """
        space = self.space
        member = space.member(key)
        place, index = self._where(space, member)
        row = None
        for _ in range(2):

            def read(client: redis.Redis) -> list[Any]:
                pipe: Any = client.pipeline(transaction=False)
                pipe.get(place + member).hget(index[1], member).zscore(index[2], member)
                replies: list[Any] = pipe.execute()
                return replies

            content, told, rank = self.commands.run(index[0], read, lookup=lookup)
            row = Row.parse(told)
            if content is None or row is None:
                return None
            record = decode(member, content)
            if record is not None and record.version == row.version:
                with self._mutex:
                    self._uses.found(key, rank)
                    moved = self._moved.of(key, record.version)
                return at(record, row.expires_at if moved is None else moved)
            if record is None:
                break  # else it was replaced between the two answers
        if row is not None and record is None:
            self.discard(key, row.version)
            self.damaged += 1
        return None

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        stamp = self.stamp(key)
        return None if stamp is None else stamp.version

    def stamp(self, key: str, *, lookup: bool = False) -> Stamp | None:
        """Return version and expiry as they are now. Cost: one round trip."""
        space = self.space
        member = space.member(key)
        rows = self._where(space, member)[1][1]
        row = Row.parse(self.commands.run(rows, lambda client: client.hget(rows, member), lookup=lookup))
        if row is None:
            return None
        moved = self._moved.of(key, row.version)
        return row.stamp if moved is None else Stamp(row.version, moved)

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by anyone, if that is recent."""
        space = self.space
        member = space.member(key)
        gone = self._where(space, member)[1][5]
        at_seconds: Any = self.commands.run(gone, lambda client: client.zscore(gone, member))
        return None if at_seconds is None else float(at_seconds)

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys of this scope, or those with a tag, the lowest rank first.

        Cost: O(entries of all scopes).
        """
        with self._mutex:
            self._write_notes()
        space, found = self.space, []
        for partition in range(space.partitions):
            _, _, ranks, _, tags, _ = space.index(partition)
            ranked = self.commands.run(ranks, partial(_zrange, ranks))
            if tag is not None:
                tagged = set(self.commands.run(tags, partial(_tagged, tags, tag_digest(tag).encode())))
                ranked = [(member, rank) for member, rank in ranked if member in tagged]
            found += ranked
        if space.partitions > 1:
            found.sort(key=lambda pair: pair[1])
        keys = (space.key(member) for member, _ in found)
        return [key for key in keys if key is not None]

    def generation(self) -> int:
        """Return a number that has changed if anyone but this object has changed the store since.

        Cost: one round trip; in a Cluster one for each partition.
        """
        space = self.space
        for partition in range(space.partitions):
            meta = space.index(partition)[0]
            changes, erased = self.commands.run(meta, partial(_hmget, meta))
            with self._mutex:
                if self._erased.setdefault(partition, erased or b"") not in (erased or b"", b""):
                    self.erasures += 1
                    self._uses.forget_keys()
                self._erased[partition] = erased or b""
                self._heard(partition, changes or b"")
                self._changes[partition] = changes or b""
        return self._generation

    # Writing

    def touch(self, key: str) -> None:
        """Note that `key` was used just now; reaches the servers with the next write, or at `close`."""
        self._uses.touch(key)

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead.

        Reaches the servers with the next write, at `close`, or now if they are behind by more than half of
        `sliding_seconds`.
        """
        with self._mutex:
            if self._moved.note(key, record, expires_at):
                self._write_notes()

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`, in place of what was there; return what had to go."""
        return list(self.write(key, record, now).departed)

    def write(self, key: str, record: Record, now: float, *, token: int | None = None) -> Written:
        """Do as `put`, and return what became of it. Cost: 2 round trips, and one to the slowest replica.

        Args:
            key: where.
            record: what.
            now: seconds since the epoch.
            token: of the lease under which it was computed: refused if a later one was given since.
        """
        if self.max_bytes is not None and entry_bytes(key, record) > self.max_bytes:
            self._remove(now, keys=[key])
            return Written((Departure(key, "too large"),), 0, False)
        with self._mutex:
            space, member = self.space, self.space.member(key)
            self._write_notes(added=key)
            reply, copies = self._put(space, member, key, record, now, token)
            if reply == [b"fenced"]:
                return Written((), 0, False, is_fenced=True)
            before, expired, evicted, lowest = reply
            self._changed(space.partition(member), before)
            if lowest:
                evicted += self._evict_by_policy(space, member, lowest)
            departed = [
                *self._departed(space, expired, "expired"),
                *self._departed(space, evicted, "evicted"),
            ]
        is_acknowledged = copies >= self.link.copies
        self.acknowledged += is_acknowledged
        self.unacknowledged += not is_acknowledged
        return Written(tuple(departed), copies, is_acknowledged)

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        return bool(self._remove(0.0, keys=[key], version=version)[0])

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given. Cost: O(removed), without tag O(entries)."""
        return self._remove(now, keys=keys, tag=tag, created_before=created_before, remember=True)[0]

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""
        return self._remove(now, expired=True)[0]

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, from the memory of the servers; None is everything.

        Returns:
            What was removed. `left` names the servers that write files, which may hold copies until they are
            written anew.

        Raises:
            StoreError: a server could not be reached; nothing is known of what it has.
        """
        _, entries, counted = self._remove(0.0, tag=tag, everywhere=True)
        with self._mutex:
            self._uses.forget_keys()
        return ErasureReport(entries, 0, counted, left_in_files(self.link))

    def run_script(self, text: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """Run a script on keys beside the entries, once, with the patience of a request.

        Raises:
            StoreError: it could not be run.
        """
        return self.commands.script(text, keys, arguments, lookup=True)[0]

    def name_of(self, key: str) -> str:
        """Return the name that a key has on the servers."""
        return key

    def key_of(self, name: str) -> str | None:
        """Undo `name_of`."""
        return name

    def hide(self, text: str) -> str:
        """Return a tag or a key as it may stand in an announcement."""
        return text

    def show(self, hidden: str) -> str:
        """Undo `hide`."""
        return hidden

    @property
    def redis(self) -> RedisStore:
        """Where it is kept: here."""
        return self

    def close(self) -> None:
        """Write down what was used, and let go of the servers. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            with self._mutex, suppress(StoreError):  # what was used is all that is lost
                if self.link.is_up():
                    self._write_notes()
        finally:
            self.link.close()

    def forget_after_fork(self) -> None:
        """In a forked child: locks and connections are the parent's."""
        self._mutex = RLock()
        self.link.forget_after_fork()

    def check_invariants(self) -> None:
        """Raise AssertionError where index and entries disagree; for tests."""
        check(self.commands, self.space, self.capacity, self.max_bytes)

    # Inside

    def _where(self, space: Space, member: bytes) -> tuple[bytes, list[bytes]]:
        partition = space.partition(member)
        return space.place(partition), space.index(partition)

    def _total(self, field: str) -> int:
        space = self.space
        total = 0
        for partition in range(space.partitions):
            meta = space.index(partition)[0]
            name = f"{field}:{space.scope_text}"
            total += int(self.commands.run(meta, partial(_hget, meta, name)) or 0)
        return total

    def _put(
        self, space: Space, member: bytes, key: str, record: Record, now: float, token: int | None
    ) -> tuple[Any, int]:
        policy = self._uses.policy
        place, index = self._where(space, member)
        bound = "" if self.max_bytes is None else self.max_bytes // space.partitions
        arguments = (
            *(
                place,
                self._new_nonce(),
                member,
                row_text(key, record),
                encode(member, record),
                lives_ms(record, now),
            ),
            *(
                policy.rank(key),
                policy.uses,
                repr(float(now)),
                max(1, self.capacity // space.partitions),
                bound,
            ),
            *(int(_judges(policy)), "" if token is None else token),
        )
        return self.commands.script(scripts.PUT, [*index, space.fence(member)], arguments, acknowledge=True)

    def _evict_by_policy(self, space: Space, spare: bytes, lowest: bytes) -> list[bytes]:
        """Evict whom the policy names in place of who has the lowest rank, until the bounds hold."""
        partition, evicted = space.partition(spare), []
        capacity = max(1, self.capacity // space.partitions)
        bound = None if self.max_bytes is None else self.max_bytes // space.partitions
        meta, _, ranks, *_ = space.index(partition)
        while True:
            key = space.key(lowest)
            victim = lowest if key is None else space.member(self._uses.policy.judge(key))
            if space.partition(victim) != partition or victim == spare:
                victim = lowest
            evicted += self._remove_members(space, partition, [victim])
            self._uses.policy.drop(space.key(victim) or "")

            def look(client: redis.Redis) -> list[Any]:
                pipe: Any = client.pipeline(transaction=False)
                pipe.hmget(meta, "n", "b").zrange(ranks, 0, 1)
                replies: list[Any] = pipe.execute()
                return replies

            (entries, counted), two = self.commands.run(meta, look)
            others = [each for each in two if each != spare]
            fits = int(entries or 0) <= capacity and (bound is None or int(counted or 0) <= bound)
            if fits or not others:
                return evicted
            lowest = others[0]

    def _remove_members(self, space: Space, partition: int, members: Sequence[bytes]) -> list[bytes]:
        _, removed = self._remove_in(space, partition, scope="*", members=members)
        return removed

    def _remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        everywhere: bool = False,
        **conditions: Any,
    ) -> tuple[list[str], int, int]:
        """Remove by script; return the keys of this scope, and entries and bytes of all."""
        space = self.space
        named: dict[int, list[bytes]] | None = None
        if keys is not None:
            named = {}
            for key in dict.fromkeys(keys):
                member = space.member(key)
                named.setdefault(space.partition(member), []).append(member)
        gone: list[bytes] = []
        counted = 0
        with self._mutex:
            if self._moved:
                self._write_notes()
            for partition in range(space.partitions) if named is None else named:
                members = None if named is None else named[partition]
                few = (
                    [None]
                    if members is None
                    else [members[i : i + _MANY] for i in range(0, len(members), _MANY)]
                )
                for some in few:
                    freed, removed = self._remove_in(
                        space,
                        partition,
                        scope="*" if everywhere else space.scope_text,
                        members=some,
                        now=now,
                        erase=everywhere,
                        **conditions,
                    )
                    counted += freed
                    gone += removed
            found = [key for key in map(space.key, gone) if key is not None]
            for key in found:
                self._uses.policy.drop(key)
        return found, len(gone), counted

    def _remove_in(
        self,
        space: Space,
        partition: int,
        *,
        scope: str,
        members: Sequence[bytes] | None = None,
        now: float = 0.0,
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
        reply, _ = self.commands.script(
            scripts.REMOVE, space.index(partition), arguments, acknowledge=remember or erase
        )
        before, has_changed, freed, removed = reply
        if has_changed:
            self._changed(partition, before)
        return freed, removed

    def _write_notes(self, added: str | None = None) -> None:
        """Write down ranks and dates that have changed, that of `added` left out. Holds the mutex."""
        if added is not None or self._uses.has_news():
            self._learn_uses()
        ranks = self._uses.take_ranks(added)
        dates = self._moved.pending()
        if not ranks and not dates:
            return
        space = self.space
        notes: dict[int, tuple[list[Any], list[Any]]] = {}
        for key, rank in ranks.items():
            member = space.member(key)
            notes.setdefault(space.partition(member), ([], []))[0].extend((member, rank))
        for key, version, expires_at in dates:
            member = space.member(key)
            later = (member, f"{version:x}", repr(float(expires_at)))
            notes.setdefault(space.partition(member), ([], []))[1].extend(later)
        try:
            for partition, (ranked, dated) in notes.items():
                for start in range(0, max(1, len(ranked)), 2 * _MANY):
                    some = ranked[start : start + 2 * _MANY]
                    head = (space.place(partition), self._new_nonce(), self._uses.policy.uses, len(some) // 2)
                    self.commands.script(scripts.NOTE, space.index(partition), (*head, *some))
                for start in range(0, len(dated), 3 * _MANY):
                    head = (space.place(partition), self._new_nonce(), self._uses.policy.uses, 0)
                    self.commands.script(
                        scripts.NOTE, space.index(partition), (*head, *dated[start : start + 3 * _MANY])
                    )
        except BaseException:
            self._uses.give_back(ranks)
            raise
        self._moved.clear()

    def _learn_uses(self) -> None:
        """Let this machine's ranks go on where those of the others are. At most once a second."""
        now = time.monotonic()
        if now - self._learnt_at < _LEARN_SECONDS:
            return
        space = self.space
        policy = self._uses.policy
        for partition in range(space.partitions):
            meta = space.index(partition)[0]
            policy.uses = max(policy.uses, int(self.commands.run(meta, partial(_hget, meta, "uses")) or 0))
        self._learnt_at = now

    def _new_nonce(self) -> int:
        """Return where the count of changes begins if there is none: nowhere that it was before."""
        self._nonce = new_version() >> 16
        return self._nonce

    def _changed(self, partition: int, before: bytes) -> None:
        """Note a change of our own, and whether anyone has made another before it. Holds the mutex."""
        if not (
            self._changes.get(partition) == b"" and int(before) == self._nonce
        ):  # else it began with this
            self._heard(partition, before)
        self._changes[partition] = str(int(before) + 1).encode()

    def _heard(self, partition: int, changes: bytes) -> None:
        known = self._changes.get(partition)
        if known is not None and known != changes:
            self._generation += 1

    def _departed(self, space: Space, members: Iterable[bytes], reason: Reason) -> list[Departure]:
        keys = [key for key in map(space.key, members) if key is not None]
        for key in keys:
            self._uses.policy.drop(key)
        return [Departure(key, reason) for key in keys]


def _hget(name: bytes, field: str, client: redis.Redis) -> Any:
    return client.hget(name, field)


def _hmget(name: bytes, client: redis.Redis) -> Any:
    return client.hmget(name, "changes", "erasures")


def _zrange(name: bytes, client: redis.Redis) -> Any:
    return client.zrange(name, 0, -1, withscores=True)


def _tagged(name: bytes, digest: bytes, client: redis.Redis) -> Any:
    found: Any = client.zrangebylex(name, b"[" + digest, b"(" + digest + b"\xff")
    return [each[len(digest) :] for each in found]


def _judges(policy: Policy) -> bool:
    """Whether it may name another than who has the lowest rank: then each eviction asks it."""
    return getattr(type(policy), "judge", None) is not RankedKeys.judge
