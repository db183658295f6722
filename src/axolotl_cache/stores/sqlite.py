"""The store on disk: one SQLite database in a folder, and a file for each large value beside it.

Several processes may have the same folder open. What is written survives the death of the process that
wrote it from the moment `put` returns (the operating system has it); after a power failure the last
writes may be missing, but what is there is whole: every record carries a checksum of all its fields.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress

from axolotl_cache.errors import StoreError
from axolotl_cache.stores import rows
from axolotl_cache.stores.base import Departure, Record
from axolotl_cache.stores.blobs import LARGE_BYTES
from axolotl_cache.stores.rows import Gone, to_bytes, to_text
from axolotl_cache.stores.shared_database import UNSTORED, SharedDatabase
from axolotl_cache.stores.sweep import check, delete_files


class SqliteStore(SharedDatabase):
    """Records in `cache.sqlite3`, large payloads in `blobs/`, both in one folder that is made if need be.

    Args:
        folder: where to keep the files; made with mode 0700, the files with 0600.
        capacity: most entries in the file, of all scopes together; what is above it at opening goes.
        scope: entries of another scope are not seen: the digest of a namespace, or nothing.

    Raises:
        StoreFormatError: the folder holds another program's database, or a later version's.
        StoreError: the folder or the database can't be made or opened.
    """

    def __init__(self, folder: str | os.PathLike[str], capacity: int, *, scope: bytes = b"") -> None:
        self.capacity = capacity
        self.damaged = 0
        self._scope = scope
        self._touched: dict[str, None] = {}
        super().__init__(folder)
        self._run(self._settle)

    # Reading

    @property
    def size_bytes(self) -> int:
        """Bytes of all payloads of this scope."""
        return self._run(lambda db: rows.totals(db, self._scope))[1]

    def __len__(self) -> int:
        return self._run(lambda db: rows.totals(db, self._scope))[0]

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not. A damaged one is dropped, counted, and None."""
        return self._run(lambda db: self._read(db, key))

    def version(self, key: str) -> int | None:
        """Return the version stored now. Cost: 5 us."""
        return self._run(lambda db: rows.select_version(db, self._scope, to_bytes(key)))

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by any process, if that is recent."""

        def read(db: sqlite3.Connection) -> float | None:
            row = db.execute(
                "SELECT at FROM removed WHERE scope = ? AND key = ?", (self._scope, to_bytes(key))
            ).fetchone()
            return None if row is None else float(row[0])

        return self._run(read)

    def keys(self) -> list[str]:
        """Return all keys of this scope, least recently used first."""

        def read(db: sqlite3.Connection) -> list[str]:
            # A disk that takes no writes has its keys in an older order, and has them still.
            with suppress(sqlite3.OperationalError):
                self._flush_touches_alone(db)
            found = db.execute("SELECT key FROM entries WHERE scope = ? ORDER BY used", (self._scope,))
            return [to_text(row[0]) for row in found.fetchall()]

        return self._run(read)

    # Writing

    def touch(self, key: str) -> None:
        """Note that `key` was used just now; reaches the file with the next write, or at `close`."""
        touched = self._touched
        touched.pop(key, None)
        touched[key] = None
        if len(touched) > 2 * self.capacity:  # a process that only reads never writes them down
            self._touched = dict.fromkeys(list(touched)[-self.capacity :])

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`, in place of what was there; return what had to go.

        Cost: about 50 us for 2 KB, 10 ms for 5 MB. Once it has returned, `kill -9` does not undo it.
        """
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

        def write(db: sqlite3.Connection) -> list[Gone]:
            with self._transaction(db):
                return rows.delete(
                    db, "scope = ? AND key = ? AND version = ?", (self._scope, to_bytes(key), version)
                )

        return bool(self._delete_by(write))

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
            with self._transaction(db):
                if keys is None:
                    gone = rows.delete(db, where, parameters)
                else:
                    gone = []
                    for key in keys:
                        gone += rows.delete(db, f"{where} AND key = ?", [*parameters, to_bytes(key)])
                rows.remember_removed(db, self._scope, [row.key for row in gone], now)
            return gone

        return self._delete_by(write)

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""

        def write(db: sqlite3.Connection) -> list[Gone]:
            if not db.execute(
                "SELECT 1 FROM entries WHERE scope = ? AND expires_at <= ? LIMIT 1", (self._scope, now)
            ).fetchone():
                return []
            with self._transaction(db):
                return rows.delete(db, "scope = ? AND expires_at <= ?", (self._scope, now))

        return self._delete_by(write)

    def check_invariants(self) -> None:
        """Raise AssertionError where totals, tags and files disagree with the entries; for tests."""
        self._run(lambda db: check(db, self._blobs, self.capacity))

    # Inside

    def _before_closing(self) -> None:
        self._run(self._flush_touches_alone)

    def _in_forked_child(self) -> None:
        self._touched = {}

    def _settle(self, db: sqlite3.Connection) -> None:
        """At opening: come down to the capacity, should the file hold more."""
        if rows.entries_held(db) > self.capacity:
            with self._transaction(db):
                # No clock is known here, so by recency alone: 0 is before every expiry.
                _, gone = self._trim(db, 0.0)
            delete_files(self._blobs, gone)

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
                return record
            if in_file and rows.select_version(db, self._scope, raw_key) != row.version:
                continue  # another process stored a new value, and deleted the old one's file meanwhile
            with self._transaction(db):
                rows.delete(db, "scope = ? AND key = ? AND version = ?", (self._scope, raw_key, row.version))
            delete_files(self._blobs, [Gone(self._scope, raw_key, row.version, row.size)])
            self.damaged += 1
            return None

    def _write(
        self, db: sqlite3.Connection, key: str, record: Record, now: float
    ) -> tuple[list[Departure], list[Gone]]:
        with self._transaction(db):
            self._flush_touches(db)
            old = rows.upsert(db, self._scope, to_bytes(key), record)
            departed, gone = self._trim(db, now)
            if len(record.payload) > LARGE_BYTES:
                self._blobs.publish(record.version)
        return departed, gone if old is None else [*gone, old]

    def _trim(self, db: sqlite3.Connection, now: float) -> tuple[list[Departure], list[Gone]]:
        """Keep to the capacity: everything expired first, then the least recently used."""
        if rows.entries_held(db) <= self.capacity:
            return [], []
        expired = rows.delete(db, "expires_at <= ?", (now,))
        excess = max(0, rows.entries_held(db) - self.capacity)
        evicted = rows.delete(db, "id IN (SELECT id FROM entries ORDER BY used LIMIT ?)", (excess,))
        # What another scope lost is nobody's business here, but for its files.
        departed = [Departure(to_text(row.key), "expired") for row in expired if row.scope == self._scope]
        departed += [Departure(to_text(row.key), "evicted") for row in evicted if row.scope == self._scope]
        return departed, expired + evicted

    def _delete_by(self, write: Callable[[sqlite3.Connection], list[Gone]]) -> list[str]:
        """Delete rows by `write`, then their files, and return their keys."""
        gone = self._run(write)
        delete_files(self._blobs, gone)
        return [to_text(row.key) for row in gone]

    def _flush_touches(self, db: sqlite3.Connection) -> None:
        if not self._touched:
            return
        touched, self._touched = list(self._touched), {}
        (last,) = db.execute("SELECT coalesce(max(used), 0) FROM entries").fetchone()
        db.executemany(
            "UPDATE entries SET used = ? WHERE scope = ? AND key = ?",
            [(last + 1 + n, self._scope, to_bytes(key)) for n, key in enumerate(touched)],
        )

    def _flush_touches_alone(self, db: sqlite3.Connection) -> None:
        if self._touched:
            with self._transaction(db):
                self._flush_touches(db)
