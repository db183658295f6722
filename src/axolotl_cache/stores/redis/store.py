"""The store on Redis or Valkey: one that any number of machines share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from threading import RLock
from typing import Any

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import Departure, Record, Stamp, entry_bytes
from axolotl_cache.stores.moved_dates import MovedDates
from axolotl_cache.stores.policies import LruPolicy, Policy
from axolotl_cache.stores.redis.check import check
from axolotl_cache.stores.redis.commands import Commands
from axolotl_cache.stores.redis.entry import Row, at, decode
from axolotl_cache.stores.redis.files import left_in_files
from axolotl_cache.stores.redis.index import Index
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.puts import Entry, Puts, Written
from axolotl_cache.stores.redis.space import Space
from axolotl_cache.stores.redis.uses import Uses


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
        self.acknowledged = self.unacknowledged = 0
        self.commands = Commands(link, within_seconds)
        self._index = Index(self.commands, space, scope, capacity, max_bytes)
        # Held while something is changed; a lookup never waits for it.
        self._changing = RLock()
        self._uses = Uses(LruPolicy() if policy is None else policy, capacity)
        self._moved = MovedDates()
        self._puts = Puts(self._index, self._uses, self._moved)
        self._closed = False

    # Reading

    @property
    def space(self) -> Space:
        """The names of its keys.

        Raises:
            StoreError: the servers were never reached, so that it is not known how keys are spread.
        """
        return self._index.space

    @property
    def erasures(self) -> int:
        """Has changed, once `generation` was asked, if anyone has erased something since."""
        return self._index.erasures

    @property
    def size_bytes(self) -> int:
        """Bytes of this scope, as `entry_bytes` counts them."""
        return self._index.total(f"b:{self.space.scope_text}")

    def __len__(self) -> int:
        return self._index.total(f"n:{self.space.scope_text}")

    def get(self, key: str, *, lookup: bool = False) -> Record | None:
        """Return the record, expired or not. A damaged one is dropped, counted, and None.

        Cost: one round trip.

        Args:
            key: what to look for.
            lookup: a request is waiting: one try, with little time.
        """
        member = self.space.member(key)
        for _ in range(2):  # again if it was replaced between the two answers
            content, told, rank = self._index.read(member, lookup=lookup)
            row = Row.parse(told)
            if content is None or row is None:
                return None
            record = decode(member, content)
            if record is None:
                self.discard(key, row.version)
                self.damaged += 1
                return None
            if record.version == row.version:
                self._uses.found(key, rank)
                moved = self._moved.of(key, record.version)
                return at(record, row.expires_at if moved is None else moved)
        return None

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        stamp = self.stamp(key)
        return None if stamp is None else stamp.version

    def stamp(self, key: str, *, lookup: bool = False) -> Stamp | None:
        """Return version and expiry as they are now. Cost: one round trip."""
        row = Row.parse(self._index.row(self.space.member(key), lookup=lookup))
        if row is None:
            return None
        moved = self._moved.of(key, row.version)
        return row.stamp if moved is None else Stamp(row.version, moved)

    def removed_at(self, key: str, *, lookup: bool = False) -> float | None:
        """When `key` was last removed on purpose, by anyone, if that is recent."""
        return self._index.removed_at(self.space.member(key), lookup=lookup)

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys of this scope, or those with a tag, the lowest rank first.

        Cost: O(entries of all scopes).
        """
        with self._changing:
            self._puts.write_notes()
        return self._keys_of(self._index.by_rank(tag))

    def tagged(self, tag: str) -> list[str]:
        """Return the keys of this scope with a tag, for a request that waits.

        Cost: a round trip to each server; nothing is written.
        """
        return self._keys_of(self._index.tagged(tag))

    def generation(self) -> int:
        """Return a number that has changed if anyone but this object has changed the store since.

        Cost: one round trip; in a Cluster one for each partition.
        """
        with self._changing:
            if self._index.look():
                self._uses.forget_keys()
            return self._index.generation

    # Writing

    def touch(self, key: str) -> None:
        """Note that `key` was used just now; reaches the servers with the next write, or at `close`."""
        self._uses.touch(key)

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead.

        Reaches the servers with the next write, at `close`, or now if they are behind by more than half of
        `sliding_seconds`.
        """
        with self._changing:
            if self._moved.note(key, record, expires_at):
                self._puts.write_notes()

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`, in place of what was there; return what had to go."""
        return list(self.write(key, record, now).departed)

    def write(self, key: str, record: Record, now: float, *, token: int | None = None) -> Written:
        """Do as `put`, and return what became of it."""
        return self.write_all([Entry(key, record, token)], now)[0]

    def write_all(self, entries: Sequence[Entry], now: float) -> list[Written]:
        """Store entries in their order, and return what became of each.

        Cost: 2 round trips to each server that is to have one, and one to its slowest replica, however many
        entries there are. While a policy judges who goes, all are stored before any has to go.

        Args:
            entries: each under another key.
            now: seconds since the epoch.

        Raises:
            StoreError: one of them was not stored. Others may be; to store all again does no harm.
        """
        fitting = [each for each in entries if self._fits(each)]
        with self._changing:
            if len(fitting) < len(entries):
                self._remove(now, keys=[each.key for each in entries if not self._fits(each)])
            written = self._puts.put(fitting, now) if fitting else []
        self.acknowledged += sum(each.is_acknowledged for each in written)
        self.unacknowledged += sum(not (each.is_acknowledged or each.is_fenced) for each in written)
        rest = iter(written)
        return [
            next(rest) if self._fits(each) else Written((Departure(each.key, "too large"),))
            for each in entries
        ]

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        return bool(self._remove(0.0, keys=[key], version=version))

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given. Cost: O(removed), without tag O(entries)."""
        return self._remove(now, keys=keys, tag=tag, created_before=created_before, remember=True)

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""
        return self._remove(now, expired=True)

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, from the memory of the servers; None is everything.

        Returns:
            What was removed. `left` names the servers that write files, which may hold copies until they are
            written anew.

        Raises:
            StoreError: a server could not be reached; nothing is known of what it has.
        """
        with self._changing:
            gone, counted = self._index.remove(0.0, everywhere=True, erase=True, tag=tag)
            self._uses.forget_keys()
        return ErasureReport(len(gone), 0, counted, left_in_files(self.link))

    def run_script(self, text: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """Run a script on keys beside the entries, once, with the patience of a request.

        Raises:
            StoreError: it could not be run.
        """
        return self.commands.script(text, keys, arguments, lookup=True)[0]

    # What a sealed one does differently

    @property
    def redis(self) -> RedisStore:
        """Where it is kept: here."""
        return self

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

    # Around it

    def close(self) -> None:
        """Write down what was used, and let go of the servers. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            with self._changing, suppress(StoreError):  # what was used is all that is lost
                if self.link.is_up():
                    self._puts.write_notes()
        finally:
            self.link.close()

    def forget_after_fork(self) -> None:
        """In a forked child: locks and connections are the parent's."""
        self._changing = RLock()
        self.link.forget_after_fork()

    def check_invariants(self) -> None:
        """Raise AssertionError where index and entries disagree; for tests."""
        check(self.commands, self.space, self.capacity, self.max_bytes)

    # Inside: holding `_changing`, but for the first

    def _remove(self, now: float, *, keys: Iterable[str] | None = None, **conditions: Any) -> list[str]:
        space = self.space
        members = None if keys is None else [space.member(key) for key in dict.fromkeys(keys)]
        with self._changing:
            if self._moved:
                self._puts.write_notes()
            gone = self._keys_of(self._index.remove(now, members=members, **conditions)[0])
            for key in gone:
                self._uses.policy.drop(key)
            return gone

    def _fits(self, entry: Entry) -> bool:
        return self.max_bytes is None or entry_bytes(entry.key, entry.record) <= self.max_bytes

    def _keys_of(self, members: Iterable[bytes]) -> list[str]:
        return [key for key in map(self.space.key, members) if key is not None]
