"""A policy and the ranks that a database keeps for it: who goes first on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from threading import RLock

from axolotl_cache.stores import rows
from axolotl_cache.stores.base import Departure
from axolotl_cache.stores.policies import Policy
from axolotl_cache.stores.rows import Gone, to_bytes, to_text

_USES_AT_ONCE = 1024
_MOST_USES = 65_536


class Ranks:
    """What was used here, until it is written down, and whom the policy names.

    The lowest rank in the file goes first. In one process that is what the policy says, exactly. Between
    processes it is so up to what the others have not written down yet; and `adaptive` has seen only what
    its own process used since it was started, which is all that its comparisons know of.

    Args:
        policy: who goes first; its own, shared with nobody.
        scope: whose keys these are.
        capacity: most entries in the file, of all scopes.
        max_bytes: most bytes in the file, of all scopes; None is no bound.
        mutex: held by whoever uses the connection.
    """

    def __init__(
        self, policy: Policy, scope: bytes, capacity: int, max_bytes: int | None, mutex: RLock
    ) -> None:
        self._policy = policy
        self._scope = scope
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._mutex = mutex
        self._used: list[str] = []

    def touch(self, key: str) -> None:
        """Note a use. Any thread may call it, without the mutex."""
        used = self._used
        used.append(key)
        # A process that only reads never writes them down.
        if len(used) >= _USES_AT_ONCE and self._mutex.acquire(blocking=False):
            try:
                self._tell_policy()
            finally:
                self._mutex.release()
        elif len(used) > _MOST_USES:
            self._used = used[_MOST_USES // 2 :]

    def forget_uses(self) -> None:
        """Forget what was noted and not written down."""
        self._used = []

    def forget_keys(self) -> None:
        """Forget all keys, and what was noted of them; ranks are found again with the rows."""
        self._used = []
        for key in self._policy.order():
            self._policy.drop(key)

    def has_news(self) -> bool:
        """Whether there is anything that the file does not have yet."""
        return bool(self._used) or self._policy.has_changes()

    def are_in(self, db: sqlite3.Connection) -> bool:
        """Whether the file's ranks are of this policy."""
        return bool(db.execute("SELECT scale = ? FROM ranking", (self._policy.scale,)).fetchone()[0])

    def convert(self, db: sqlite3.Connection) -> None:
        """Give every entry of the file a rank of this policy, in the order that they have. In a transaction.

        Needed when the policy is another than before, or the capacity, on which ranks of `lfu` depend.
        Cost: 10 us an entry.
        """
        ids = [row[0] for row in db.execute("SELECT id FROM entries ORDER BY rank, id")]
        ranks = [(self._policy.first_rank(use), entry) for use, entry in enumerate(ids, start=1)]
        db.executemany("UPDATE entries SET rank = ? WHERE id = ?", ranks)
        db.execute("UPDATE ranking SET scale = ?", (self._policy.scale,))
        db.execute("UPDATE totals SET uses = ?", (len(ids),))

    def write(self, db: sqlite3.Connection, added: str | None = None) -> None:
        """Write down what was used, and the ranks that change because `added` is stored. In a transaction.

        The rank of `added` itself, which may have no row yet, is `rank` then.
        """
        # As many numbers as there are uses, taken at once. `adaptive` may give a few more, for those that
        # change places: another process's uses can have the same ones then, which decides ties alone.
        count = len(self._used) + 1
        self._policy.uses = rows.take_uses(db, self._scope, self._policy.uses, count)
        self._tell_policy()
        if added is not None:
            self._policy.add(added)
        changes = self._policy.take_changes()
        db.executemany(
            "UPDATE entries SET rank = ? WHERE scope = ? AND key = ?",
            [(rank, self._scope, to_bytes(key)) for key, rank in changes.items() if key != added],
        )
        if len(self._policy) > 2 * self._capacity + 64:  # others' evictions are not told to the policy
            for key in self._policy.order()[: -self._capacity]:
                if key != added:
                    self._policy.drop(key)

    def rank(self, key: str) -> int:
        """Return the rank of a key that was added."""
        return self._policy.rank(key)

    def found(self, key: str, rank: int) -> None:
        """Note the rank of a row that was read."""
        if key not in self._policy and type(rank) is int and rank >= 0:  # damage shows as any type
            self._policy.restore(key, rank)

    def delete(self, db: sqlite3.Connection, where: str, parameters: Sequence[rows.Value]) -> list[Gone]:
        """Delete rows, and let go of what is noted of them. In a transaction."""
        gone = rows.delete(db, where, parameters)
        for row in gone:
            if row.scope == self._scope:
                self._policy.drop(to_text(row.key))
        return gone

    def is_over(self, db: sqlite3.Connection) -> bool:
        """Whether the file holds more than it may."""
        return not self._fits(*rows.held(db))

    def trim(self, db: sqlite3.Connection, now: float, spare: str) -> tuple[list[Departure], list[Gone]]:
        """Keep to the bounds: everything expired first, then whoever the policy names, but not `spare`.

        In a transaction. Cost: 5 us if there is nothing to do, 30 us for each that goes.
        """
        entries, counted = rows.held(db)
        if self._fits(entries, counted):
            return [], []
        expired = self.delete(db, "expires_at <= ?", (now,))
        entries, counted = entries - len(expired), counted - sum(row.counted for row in expired)
        evicted: list[Gone] = []
        # All but the last of a great many by rank alone: that is one statement.
        many = entries - self._capacity - 1
        if many > 0:
            where = (
                "id IN (SELECT id FROM entries WHERE NOT (scope = ? AND key = ?) ORDER BY rank, id LIMIT ?)"
            )
            evicted = self.delete(db, where, (self._scope, to_bytes(spare), many))
            entries, counted = rows.held(db)
        while not self._fits(entries, counted) and (victim := self._victim(db, spare)) is not None:
            gone = self.delete(db, "scope = ? AND key = ?", victim)
            if not gone:  # another process has evicted it
                self._policy.drop(to_text(victim[1]))
            evicted += gone
            entries, counted = entries - len(gone), counted - sum(row.counted for row in gone)
        # What another scope lost is nobody's business here, but for its files.
        departed = [Departure(to_text(row.key), "expired") for row in expired if row.scope == self._scope]
        departed += [Departure(to_text(row.key), "evicted") for row in evicted if row.scope == self._scope]
        return departed, expired + evicted

    def _fits(self, entries: int, counted: int) -> bool:
        return entries <= self._capacity and (self._max_bytes is None or counted <= self._max_bytes)

    def _victim(self, db: sqlite3.Connection, spare: str) -> tuple[bytes, bytes] | None:
        """Return scope and key of who goes first; None if there is nobody but `spare`."""
        lowest = rows.lowest(db, self._scope, to_bytes(spare))
        if lowest is None:
            return None
        goes = self._policy.judge(to_text(lowest[1]))
        return lowest if to_bytes(goes) == lowest[1] else (self._scope, to_bytes(goes))

    def _tell_policy(self) -> None:
        used, self._used = self._used, []
        for key in used:
            self._policy.hit(key)
