"""The store on disk: one SQLite database in a folder, and a file for each large value beside it.

Several processes may have the same folder open. What is written survives the death of the process that
wrote it from the moment `put` returns (the operating system has it); after a power failure the last
writes may be missing, but what is there is whole: every record carries a checksum of all its fields.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import RLock

from axolotl_cache.errors import StoreError
from axolotl_cache.stores import rows
from axolotl_cache.stores.base import Departure, Record, Stamp, entry_bytes
from axolotl_cache.stores.blobs import LARGE_BYTES
from axolotl_cache.stores.erasure import ErasableDatabase
from axolotl_cache.stores.moved_dates import MovedDates
from axolotl_cache.stores.policies import LruPolicy, Policy
from axolotl_cache.stores.ranks import Ranks
from axolotl_cache.stores.rows import Gone, to_bytes, to_text
from axolotl_cache.stores.shared_database import UNSTORED
from axolotl_cache.stores.sweep import check, delete_files


class SqliteStore(ErasableDatabase):
    """Records in `cache.sqlite3`, large payloads in `blobs/`, both in one folder that is made if need be.

    Args:
        folder: where to keep the files; made with mode 0700, the files with 0600.
        capacity: most entries in the file, of all scopes together; what is above it at opening goes.
        scope: entries of another scope are not seen: the digest of a namespace, or nothing.
        policy: who goes first; its own, shared with nobody. None: `lru`.
        max_bytes: most bytes in the file, as `entry_bytes` counts them, of all scopes together; None is no
            bound. The files can be larger: SQLite keeps pages that it does not need now, and has a log.

    Raises:
        StoreFormatError: the folder holds another program's database, or a later version's.
        StoreError: the folder or the database can't be made or opened.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        capacity: int,
        *,
        scope: bytes = b"",
        policy: Policy | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.damaged = 0
        self._scope = scope
        self._mutex = RLock()
        policy = LruPolicy() if policy is None else policy
        self._ranks = Ranks(policy, scope, capacity, max_bytes, self._mutex)
        self._moved = MovedDates()
        super().__init__(folder, self._mutex)

    # Reading

    @property
    def size_bytes(self) -> int:
        """Bytes of this scope, as `entry_bytes` counts them."""
        return self._run(lambda db: rows.totals(db, self._scope))[1]

    def __len__(self) -> int:
        return self._run(lambda db: rows.totals(db, self._scope))[0]

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not. A damaged one is dropped, counted, and None."""
        return self._run(lambda db: self._read(db, key))

    def version(self, key: str) -> int | None:
        """Return the version stored now. Cost: 5 us."""
        stamp = self.stamp(key)
        return None if stamp is None else stamp.version

    def stamp(self, key: str) -> Stamp | None:
        """Return version and expiry as they are now. Cost: 5 us."""

        def read(db: sqlite3.Connection) -> Stamp | None:
            stamp = rows.select_stamp(db, self._scope, to_bytes(key))
            moved = None if stamp is None else self._moved.of(key, stamp.version)
            if stamp is not None and moved is not None:
                return Stamp(stamp.version, moved)
            return stamp

        return self._run(read)

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by any process, if that is recent."""

        def read(db: sqlite3.Connection) -> float | None:
            row = db.execute(
                "SELECT at FROM removed WHERE scope = ? AND key = ?", (self._scope, to_bytes(key))
            ).fetchone()
            return None if row is None else float(row[0])

        return self._run(read)

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys of this scope, or those with a tag, the lowest rank first."""
        tagged = "" if tag is None else " AND id IN (SELECT entry FROM tags WHERE tag = ?)"
        query = f"SELECT key FROM entries WHERE scope = ?{tagged} ORDER BY rank, id"  # noqa: S608 - our own words
        parameters = (self._scope,) if tag is None else (self._scope, tag)

        def read(db: sqlite3.Connection) -> list[str]:
            # A disk that takes no writes has its keys in an older order, and has them still.
            with suppress(sqlite3.OperationalError):
                self._write_notes(db)
            return [to_text(row[0]) for row in db.execute(query, parameters).fetchall()]

        return self._run(read)

    # Writing

    def touch(self, key: str) -> None:
        """Note that `key` was used just now; reaches the file with the next write, or at `close`."""
        self._ranks.touch(key)

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead.

        Reaches the file with the next write, at `close`, or now if the file is behind by more than half of
        `sliding_seconds`.
        """

        def note(db: sqlite3.Connection) -> None:
            if self._moved.note(key, record, expires_at):
                self._write_notes(db)

        self._run(note)

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`, in place of what was there; return what had to go.

        Cost: about 50 us for 2 KB, 10 ms for 5 MB. Once it has returned, `kill -9` does not undo it.
        """
        if self.max_bytes is not None and entry_bytes(key, record) > self.max_bytes:
            self._delete_by(
                lambda db: self._ranks.delete(db, "scope = ? AND key = ?", (self._scope, to_bytes(key)))
            )
            return [Departure(key, "too large")]
        large = len(record.payload) > LARGE_BYTES
        if large:
            try:
                self._blobs.write(record.version, record.payload)
            except OSError as error:
                raise StoreError(UNSTORED.format(path=self.path, error=error)) from error
        try:
            departed, gone = self._run(lambda db: self._write(db, key, record, now))
        except BaseException:
            if large:
                with suppress(OSError):
                    self._blobs.delete(record.version)
            raise
        delete_files(self._blobs, gone)
        return departed

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        where, parameters = "scope = ? AND key = ? AND version = ?", (self._scope, to_bytes(key), version)
        return bool(self._delete_by(lambda db: self._ranks.delete(db, where, parameters)))

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given; every process that has the file sees it."""
        conditions: list[str] = ["scope = ?"]
        parameters: list[rows.Value] = [self._scope]
        if tag is not None:
            conditions.append("id IN (SELECT entry FROM tags WHERE tag = ?)")
            parameters.append(tag)
        if created_before is not None:
            conditions.append("created_at < ?")
            parameters.append(created_before)
        where = " AND ".join(conditions)

        def write(db: sqlite3.Connection) -> list[Gone]:
            if keys is None:
                gone = self._ranks.delete(db, where, parameters)
            else:
                gone = []
                for key in keys:
                    gone += self._ranks.delete(db, f"{where} AND key = ?", [*parameters, to_bytes(key)])
            rows.remember_removed(db, self._scope, [row.key for row in gone], now)
            return gone

        return self._delete_by(write)

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""
        where, parameters = "scope = ? AND expires_at <= ?", (self._scope, now)
        look = f"SELECT 1 FROM entries WHERE {where} LIMIT 1"  # noqa: S608 - our own text
        if self._run(lambda db: db.execute(look, parameters).fetchone()) is None:
            return []
        return self._delete_by(lambda db: self._ranks.delete(db, where, parameters))

    def check_invariants(self) -> None:
        """Raise AssertionError where totals, tags and files disagree with the entries; for tests."""
        self._run(lambda db: check(db, self._blobs, self.capacity, self.max_bytes))

    # Inside

    def _opened(self, db: sqlite3.Connection) -> None:
        """Come down to the bounds, should the file hold more, and to this policy's ranks."""
        gone: list[Gone] = []
        if not self._ranks.are_in(db) or self._ranks.is_over(db):
            with self._writing(db):
                if not self._ranks.are_in(db):
                    self._ranks.convert(db)
                # No clock is known here, so by rank alone: 0 is before every expiry.
                _, gone = self._ranks.trim(db, 0.0, spare="")
        delete_files(self._blobs, gone)

    def _before_closing(self) -> None:
        self._run(self._write_notes)

    def _in_forked_child(self) -> None:
        self._ranks.forget_uses()
        self._moved.clear()

    @contextmanager
    def _writing(self, db: sqlite3.Connection) -> Iterator[None]:
        """Write as one, and first of all the dates that uses have moved."""
        with self._transaction(db):
            self._moved.write(db, self._scope)
            yield
        self._moved.clear()

    def _write_notes(self, db: sqlite3.Connection) -> None:
        if self._moved or self._ranks.has_news():
            with self._writing(db):
                self._ranks.write(db)

    def _read(self, db: sqlite3.Connection, key: str) -> Record | None:
        raw_key = to_bytes(key)
        while True:
            row = rows.select(db, self._scope, raw_key)
            if row is None:
                return None
            in_file = row.payload is None
            record = row.record(
                self._scope, raw_key, self._blobs.read(row.version) if in_file else row.payload
            )
            if record is not None:
                self._ranks.found(key, row.rank)
                moved = self._moved.of(key, record.version)
                return record if moved is None else replace(record, expires_at=moved)
            stamp = rows.select_stamp(db, self._scope, raw_key)
            if in_file and (stamp is None or stamp.version != row.version):
                continue  # another process stored a new value, and deleted the old one's file meanwhile
            with self._writing(db):
                where = "scope = ? AND key = ? AND version = ?"
                gone = self._ranks.delete(db, where, (self._scope, raw_key, row.version))
            delete_files(self._blobs, gone)
            self.damaged += 1
            return None

    def _write(
        self, db: sqlite3.Connection, key: str, record: Record, now: float
    ) -> tuple[list[Departure], list[Gone]]:
        with self._writing(db):
            self._ranks.write(db, added=key)
            old = rows.upsert(db, self._scope, to_bytes(key), record, rank=self._ranks.rank(key))
            departed, gone = self._ranks.trim(db, now, spare=key)
            if len(record.payload) > LARGE_BYTES:
                self._blobs.publish(record.version)
        return departed, gone if old is None else [*gone, old]

    def _erase_rows(self, db: sqlite3.Connection, where: str, parameters: Sequence[rows.Value]) -> list[Gone]:
        with self._writing(db):
            self._ranks.write(db)
            db.execute("DELETE FROM removed")  # keys may be anybody's words
            return self._ranks.delete(db, where, parameters)

    def _heard_of_erasure(self) -> None:
        self._ranks.forget_keys()

    def _delete_by(self, write: Callable[[sqlite3.Connection], list[Gone]]) -> list[str]:
        """Delete rows by `write`, as one, then their files, and return their keys."""

        def work(db: sqlite3.Connection) -> list[Gone]:
            with self._writing(db):
                return write(db)

        gone = self._run(work)
        delete_files(self._blobs, gone)
        return [to_text(row.key) for row in gone]
