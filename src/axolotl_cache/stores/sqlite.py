"""The store on disk: one SQLite database in a folder, and a file for each large value beside it.

Several processes may have the same folder open. What is written survives the death of the process that
wrote it from the moment `put` returns (the operating system has it); after a power failure the last
writes may be missing, but what is there is whole: every record carries a checksum of all its fields.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import NamedTuple, TypeVar

from axolotl_cache.errors import StoreError
from axolotl_cache.paths import make_private
from axolotl_cache.stores.base import Departure, Record, StoreWarning
from axolotl_cache.stores.blobs import LARGE_BYTES, BlobFolder
from axolotl_cache.stores.change_mark import ChangeMark
from axolotl_cache.stores.database import is_damage, open_database, set_aside
from axolotl_cache.stores.file_locks import OPENING, FileLocks

T = TypeVar("T")
_Value = bytes | str | int | float | None


class _Gone(NamedTuple):
    """A row that was deleted; its file, if it had one, is still to be."""

    scope: bytes
    key: bytes
    version: int
    size: int


_RECHECK_SECONDS = 1.0
"""How often SQLite itself is asked for changes, for those that came without a mark."""
_REMEMBERED_REMOVALS = 1000
_REMEMBERED_SECONDS = 60.0
_UNSTORED = (
    "{path}: not stored: {error}. The disk may be full or read-only, or another process holds the file."
)


class SqliteStore:
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
        self.folder = Path(folder)
        self.path = self.folder / "cache.sqlite3"
        self._scope = scope
        self._mutex = RLock()
        self._touched: dict[str, None] = {}
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._swept = False
        self._generation = 0
        self._data_version = 0
        self._inode = 0
        self._verified_mark = -1
        self._recheck_at = 0.0
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(
                f"{self.folder}: persistence_path is a file; give a folder, it is made if need be"
            )
        try:
            self._open_folder()
        except OSError as error:
            raise StoreError(
                f"{self.folder}: can't be made or written: {error}. Choose another persistence_path, or None "
                "to keep everything in memory."
            ) from error
        self._run(self._settle)
        _OPEN_STORES.add(self)

    # Reading

    @property
    def size_bytes(self) -> int:
        """Bytes of all payloads of this scope."""
        return self._totals()[1]

    def __len__(self) -> int:
        return self._totals()[0]

    def generation(self) -> int:
        """Return a number that has changed if another process or object has changed the file since.

        Cost: 0.15 us as long as nobody has, 5 us if somebody has, and once a second. Waits for another
        thread's write only if the mark says that somebody has.
        """
        if self._mark.read() != self._verified_mark:
            return self._run(self._verify)
        # The recheck is a precaution, and can wait until the connection is free.
        if time.monotonic() < self._recheck_at or not self._mutex.acquire(blocking=False):
            return self._generation
        try:
            return self._run(self._verify)
        finally:
            self._mutex.release()

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not. A damaged one is dropped, counted, and None."""
        return self._run(lambda db: self._read(db, key))

    def version(self, key: str) -> int | None:
        """Return the version stored now. Cost: 5 us."""

        def read(db: sqlite3.Connection) -> int | None:
            row = db.execute(
                "SELECT version FROM entries WHERE scope = ? AND key = ?", (self._scope, _bytes(key))
            ).fetchone()
            return None if row is None else int(row[0])

        return self._run(read)

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by any process, if that is recent."""

        def read(db: sqlite3.Connection) -> float | None:
            row = db.execute(
                "SELECT at FROM removed WHERE scope = ? AND key = ?", (self._scope, _bytes(key))
            ).fetchone()
            return None if row is None else float(row[0])

        return self._run(read)

    def keys(self) -> list[str]:
        """Return all keys of this scope, least recently used first."""

        def read(db: sqlite3.Connection) -> list[str]:
            # A disk that takes no writes has its keys in an older order, and has them still.
            with suppress(sqlite3.OperationalError):
                self._flush_touches_alone(db)
            rows = db.execute("SELECT key FROM entries WHERE scope = ? ORDER BY used", (self._scope,))
            return [_text(row[0]) for row in rows.fetchall()]

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
                raise StoreError(_UNSTORED.format(path=self.path, error=error)) from error
        try:
            departed, gone = self._run(lambda db: self._write(db, key, record, now))
        except BaseException:
            if large:
                with suppress(OSError):
                    self._blobs.delete(record.version)
            raise
        self._delete_files(gone)
        return departed

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""

        def write(db: sqlite3.Connection) -> list[_Gone]:
            with self._transaction(db):
                return self._delete(
                    db, "scope = ? AND key = ? AND version = ?", (self._scope, _bytes(key), version)
                )

        gone = self._run(write)
        self._delete_files(gone)
        return bool(gone)

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
        parameters: list[_Value] = [self._scope]
        if tag is not None:
            conditions.append("id IN (SELECT entry FROM tags WHERE tag = ?)")
            parameters.append(tag)
        if created_before is not None:
            conditions.append("created_at < ?")
            parameters.append(created_before)
        where = " AND ".join(conditions)

        def write(db: sqlite3.Connection) -> list[_Gone]:
            with self._transaction(db):
                if keys is None:
                    gone = self._delete(db, where, parameters)
                else:
                    gone = []
                    for key in keys:
                        gone += self._delete(db, f"{where} AND key = ?", [*parameters, _bytes(key)])
                self._remember_removed(db, [row.key for row in gone], now)
            return gone

        gone = self._run(write)
        self._delete_files(gone)
        return [_text(row.key) for row in gone]

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""

        def write(db: sqlite3.Connection) -> list[_Gone]:
            if not db.execute(
                "SELECT 1 FROM entries WHERE scope = ? AND expires_at <= ? LIMIT 1", (self._scope, now)
            ).fetchone():
                return []
            with self._transaction(db):
                return self._delete(db, "scope = ? AND expires_at <= ?", (self._scope, now))

        gone = self._run(write)
        self._delete_files(gone)
        return [_text(row.key) for row in gone]

    def close(self) -> None:
        """Write what recency is still to be written, and close the files."""
        with self._mutex:
            if self._closed:
                return
            with suppress(StoreError):
                self._run(self._flush_touches_alone)
            self._closed = True
            if self._database is not None:
                self._database.close()
                self._database = None
            self._locks.close()
            self._verified_mark = -1  # so that `generation` says so, too

    def __del__(self) -> None:
        # Without the flush: at interpreter exit there may be little left to work with.
        if not getattr(self, "_closed", True) and self._database is not None:
            self._database.close()

    def check_invariants(self) -> None:
        """Raise AssertionError where totals, tags and files disagree with the entries; for tests."""
        self._run(self._check)

    # Inside: the connection

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` with the connection; a damaged file is set aside and the work done with a new one."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.path}: this cache is closed")
            try:
                try:
                    return work(self._connected())
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                    self._set_aside(error)
                    return work(self._connected())
            except (sqlite3.Error, OSError) as error:
                raise StoreError(_UNSTORED.format(path=self.path, error=error)) from error

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            with self._locks.held(OPENING):
                self._database, aside = open_database(self.path)
                self._inode = self.path.stat().st_ino
                if aside is not None:
                    self._mark.change()  # whoever has the old one open should look for the new one at once
            self._generation += 1
            self._verified_mark = -1
            if not self._swept:
                self._sweep_files(self._database)
                self._swept = True
            if aside is not None:
                self._warn_set_aside(aside, "its header is not a database's")
        return self._database

    def _open_folder(self) -> None:
        make_private(self.folder)
        self._locks = FileLocks(self.folder / "opening.lock")
        self._mark = ChangeMark(self.folder / "changes")
        self._blobs = BlobFolder(self.folder / "blobs")

    def _set_aside(self, error: sqlite3.Error) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        with self._locks.held(OPENING):
            # another process may have put a new one there already; that one is sound
            if self.path.exists() and self.path.stat().st_ino == self._inode:
                aside = set_aside(self.path)
                self._mark.change()
                self._warn_set_aside(aside, str(error))

    def _warn_set_aside(self, aside: Path, reason: str) -> None:
        warnings.warn(
            f"{self.path}: the cache's database was damaged ({reason}). It was set aside as {aside.name}, "
            "and a new, empty one begun; delete the old one when nobody wants to look at it.",
            StoreWarning,
            stacklevel=2,
        )

    def _verify(self, db: sqlite3.Connection) -> int:
        """Find out whether anyone else has committed; see `generation`."""
        mark = self._mark.read()  # before asking SQLite: what comes after it leaves another mark
        try:
            replaced = self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            replaced = True
        if replaced:
            db.close()
            self._database = None
            self._open_folder()
            mark = self._mark.read()
            db = self._connected()
        (data_version,) = db.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self._generation += 1
        self._verified_mark = mark
        self._recheck_at = time.monotonic() + _RECHECK_SECONDS
        return self._generation

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        """Write as one; other processes learn of it once it is committed."""
        try:
            db.execute("BEGIN IMMEDIATE")  # inside, as Ctrl-C may come right after it
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._mark.change()
        # Verified here, so that this process's own writes don't send its readers to the mutex. It is
        # committed by now: what goes wrong here is for the next reader to find.
        with suppress(sqlite3.Error, OSError, StoreError):
            self._verify(db)

    # Inside: rows

    def _totals(self) -> tuple[int, int]:
        def read(db: sqlite3.Connection) -> tuple[int, int]:
            row = db.execute("SELECT entries, bytes FROM totals WHERE scope = ?", (self._scope,)).fetchone()
            return (0, 0) if row is None else (int(row[0]), int(row[1]))

        return self._run(read)

    def _read(self, db: sqlite3.Connection, key: str) -> Record | None:
        raw_key = _bytes(key)
        while True:
            row = db.execute(
                "SELECT version, codec, created_at, expires_at, tags, size, checksum, payload FROM entries"
                " WHERE scope = ? AND key = ?",
                (self._scope, raw_key),
            ).fetchone()
            if row is None:
                return None
            version, codec, created_at, expires_at, tags, size, checksum, payload = row
            in_file = payload is None
            if in_file:
                payload = self._blobs.read(version)
            try:
                record = Record(payload, codec, created_at, expires_at, tuple(json.loads(tags)), version)
                if _checksum(self._scope, raw_key, record) == checksum:
                    return record
            except (ValueError, TypeError):
                pass  # damage shows as any type and any text
            if in_file and self._changed(db, raw_key, version):
                continue  # another process stored a new value, and deleted the old one's file meanwhile
            with self._transaction(db):
                self._delete(db, "scope = ? AND key = ? AND version = ?", (self._scope, raw_key, version))
            self._delete_files([_Gone(self._scope, raw_key, version, size)])
            self.damaged += 1
            return None

    def _changed(self, db: sqlite3.Connection, raw_key: bytes, version: int) -> bool:
        row = db.execute(
            "SELECT version FROM entries WHERE scope = ? AND key = ?", (self._scope, raw_key)
        ).fetchone()
        return row is None or row[0] != version

    def _write(
        self, db: sqlite3.Connection, key: str, record: Record, now: float
    ) -> tuple[list[Departure], list[_Gone]]:
        raw_key = _bytes(key)
        large = len(record.payload) > LARGE_BYTES
        with self._transaction(db):
            self._flush_touches(db)
            old = db.execute(
                "SELECT version, size FROM entries WHERE scope = ? AND key = ?", (self._scope, raw_key)
            ).fetchone()
            (entry,) = db.execute(
                "INSERT INTO entries (scope, key, version, codec, created_at, expires_at, tags, used, size,"
                " checksum, payload) VALUES (?, ?, ?, ?, ?, ?, ?,"
                " (SELECT coalesce(max(used), 0) + 1 FROM entries), ?, ?, ?)"
                " ON CONFLICT (scope, key) DO UPDATE SET version = excluded.version, codec = excluded.codec,"
                " created_at = excluded.created_at, expires_at = excluded.expires_at, tags = excluded.tags,"
                " used = excluded.used, size = excluded.size, checksum = excluded.checksum,"
                " payload = excluded.payload RETURNING id",
                (
                    self._scope,
                    raw_key,
                    record.version,
                    record.codec,
                    record.created_at,
                    record.expires_at,
                    json.dumps(record.tags),
                    len(record.payload),
                    _checksum(self._scope, raw_key, record),
                    None if large else record.payload,
                ),
            ).fetchone()
            if old is not None:
                db.execute("DELETE FROM tags WHERE entry = ?", (entry,))
            if record.tags:
                db.executemany(
                    "INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, entry) for tag in record.tags]
                )
            db.execute("DELETE FROM removed WHERE scope = ? AND key = ?", (self._scope, raw_key))
            departed, gone = self._trim(db, now)
            if large:
                self._blobs.publish(record.version)
        if old is not None:
            gone.append(_Gone(self._scope, raw_key, *old))
        return departed, gone

    def _trim(self, db: sqlite3.Connection, now: float) -> tuple[list[Departure], list[_Gone]]:
        """Keep to the capacity: everything expired first, then the least recently used."""
        if self._excess(db) <= 0:
            return [], []
        expired = self._delete(db, "expires_at <= ?", (now,))
        evicted = self._delete(
            db, "id IN (SELECT id FROM entries ORDER BY used LIMIT ?)", (max(0, self._excess(db)),)
        )
        # What another scope lost is nobody's business here, but for its files.
        departed = [Departure(_text(row.key), "expired") for row in expired if row.scope == self._scope]
        departed += [Departure(_text(row.key), "evicted") for row in evicted if row.scope == self._scope]
        return departed, expired + evicted

    def _excess(self, db: sqlite3.Connection) -> int:
        (held,) = db.execute("SELECT coalesce(sum(entries), 0) FROM totals").fetchone()
        return int(held) - self.capacity

    @staticmethod
    def _delete(db: sqlite3.Connection, where: str, parameters: Sequence[_Value]) -> list[_Gone]:
        # `where` is put together from this module's own text alone; values go as parameters
        statement = f"DELETE FROM entries WHERE {where} RETURNING scope, key, version, size"  # noqa: S608
        return [_Gone(*row) for row in db.execute(statement, parameters).fetchall()]

    def _remember_removed(self, db: sqlite3.Connection, keys: list[bytes], now: float) -> None:
        db.executemany(
            "INSERT OR REPLACE INTO removed (scope, key, at) VALUES (?, ?, ?)",
            [(self._scope, key, now) for key in keys],
        )
        db.execute(
            "DELETE FROM removed WHERE at < ? AND id <= (SELECT max(id) FROM removed) - ?",
            (now - _REMEMBERED_SECONDS, _REMEMBERED_REMOVALS),
        )

    def _flush_touches(self, db: sqlite3.Connection) -> None:
        if not self._touched:
            return
        touched, self._touched = list(self._touched), {}
        (last,) = db.execute("SELECT coalesce(max(used), 0) FROM entries").fetchone()
        db.executemany(
            "UPDATE entries SET used = ? WHERE scope = ? AND key = ?",
            [(last + 1 + n, self._scope, _bytes(key)) for n, key in enumerate(touched)],
        )

    def _flush_touches_alone(self, db: sqlite3.Connection) -> None:
        if self._touched:
            with self._transaction(db):
                self._flush_touches(db)

    # Inside: files

    def _settle(self, db: sqlite3.Connection) -> None:
        """At opening: come down to the capacity, should the file hold more."""
        if self._excess(db) > 0:
            with self._transaction(db):
                # No clock is known here, so by recency alone: 0 is before every expiry.
                _, gone = self._trim(db, 0.0)
            self._delete_files(gone)

    def _sweep_files(self, db: sqlite3.Connection) -> None:
        """Delete the large values of processes that died between a file and its row."""
        self._blobs.delete_abandoned()
        versions = self._blobs.versions()
        if not versions:
            return
        try:
            db.execute("BEGIN IMMEDIATE")  # files get their names under this lock: none can appear now
            known = {
                row[0] for row in db.execute("SELECT version FROM entries WHERE size > ?", (LARGE_BYTES,))
            }
            orphans = [version for version in versions if version not in known]
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        for version in orphans:
            self._blobs.delete(version)

    def _delete_files(self, gone: Iterable[_Gone]) -> None:
        for row in gone:
            if row.size > LARGE_BYTES:
                # One that can't be deleted now is an orphan that the next start sweeps.
                with suppress(OSError):
                    self._blobs.delete(row.version)

    def _check(self, db: sqlite3.Connection) -> None:
        def one(statement: str) -> object:
            return db.execute(statement).fetchone()[0]

        facts = {
            "SQLite finds damage": one("PRAGMA integrity_check") == "ok",
            "more entries than the capacity": self._excess(db) <= 0,
            "totals are off": one(
                "SELECT count(*) FROM"
                " (SELECT scope, count(*) AS n, sum(size) AS b FROM entries GROUP BY scope) e"
                " JOIN totals t ON t.scope = e.scope WHERE t.entries != e.n OR t.bytes != e.b"
            )
            == 0
            and one("SELECT coalesce(sum(entries), 0) FROM totals") == one("SELECT count(*) FROM entries"),
            "tags of no entry": one("SELECT count(*) FROM tags WHERE entry NOT IN (SELECT id FROM entries)")
            == 0,
            "two entries of one recency": one("SELECT count(*) - count(DISTINCT used) FROM entries") == 0,
            "files and rows differ": set(self._blobs.versions())
            == {r[0] for r in db.execute("SELECT version FROM entries WHERE size > ?", (LARGE_BYTES,))},
        }
        wrong = [what for what, holds in facts.items() if not holds]
        if wrong:
            raise AssertionError("; ".join(wrong))

    def _before_fork(self) -> None:
        """Let go of the connection; parent and child each open another when they need it.

        A child must not touch a connection of its parent's, nor open the same file while it has one: SQLite
        keeps account of a process's locks in its memory, and the copy speaks of locks that the child lacks.
        """
        self._mutex.acquire()
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _after_fork(self, *, in_child: bool) -> None:
        if in_child:
            self._touched = {}
            self._verified_mark = -1
            self._locks.forget_after_fork()
        self._mutex.release()


def _bytes(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, as generate_key makes it, not {type(key).__name__}")
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _checksum(scope: bytes, key: bytes, record: Record) -> bytes:
    """Digest of everything that decides what is served, to whom, and until when. Cost: 3 us for 2 KB."""
    told = repr((scope, key, record.version, record.codec, record.created_at, record.expires_at, record.tags))
    digest = blake2b(told.encode("utf-8", "backslashreplace"), digest_size=16)
    digest.update(record.payload)
    return digest.digest()


_OPEN_STORES: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_FORKING = RLock()
_held_while_forking: list[SqliteStore] = []


def _let_go() -> None:
    _FORKING.acquire()  # one fork at a time, so that two threads never take the stores' locks crosswise
    _held_while_forking[:] = _OPEN_STORES
    for store in _held_while_forking:
        store._before_fork()


def _go_on(*, in_child: bool) -> None:
    for store in _held_while_forking:
        store._after_fork(in_child=in_child)
    _held_while_forking.clear()
    _FORKING.release()


os.register_at_fork(
    before=_let_go,
    after_in_parent=lambda: _go_on(in_child=False),
    after_in_child=lambda: _go_on(in_child=True),
)
