"""One database file that threads, processes and forked children use at once: its connection, and no rows."""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TypeVar

from axolotl_cache.errors import StoreError
from axolotl_cache.paths import make_private
from axolotl_cache.stores.base import StoreWarning
from axolotl_cache.stores.blobs import BlobFolder
from axolotl_cache.stores.change_mark import ChangeMark
from axolotl_cache.stores.database import is_damage, open_database, set_aside
from axolotl_cache.stores.file_locks import OPENING, FileLocks
from axolotl_cache.stores.sweep import delete_orphans

T = TypeVar("T")

_RECHECK_SECONDS = 1.0
"""How often SQLite itself is asked for changes, for those that came without a mark."""
UNSTORED = (
    "{path}: not stored: {error}. The disk may be full or read-only, or another process holds the file."
)


class SharedDatabase:
    """`cache.sqlite3` in a folder that is made if need be, opened when it is needed.

    Knows whether anyone else has changed it, puts a damaged one aside and begins another, and closes it
    before a fork. What stands in it is its subclass's.

    Args:
        folder: where to keep the files; made with mode 0700, the files with 0600.
        mutex: held by whichever thread uses the connection.

    Raises:
        StoreFormatError: the folder holds another program's database, or a later version's.
        StoreError: the folder or the database can't be made or opened.
    """

    def __init__(self, folder: str | os.PathLike[str], mutex: RLock) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "cache.sqlite3"
        self._mutex = mutex
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._swept = False
        self.erasures = 0
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
        self._erasure = self._mark.erasure()
        self._run(lambda db: None)
        _OPEN.add(self)

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

    def close(self) -> None:
        """Close the files. Closing twice is fine."""
        with self._mutex:
            if self._closed:
                return
            with suppress(StoreError):
                self._before_closing()
            self._closed = True
            if self._database is not None:
                self._database.close()
                self._database = None
            self._locks.close()
            self._verified_mark = -1  # so that `generation` says so, too

    def __del__(self) -> None:
        # Without the last write: at interpreter exit there may be little left to work with.
        if not getattr(self, "_closed", True) and self._database is not None:
            self._database.close()

    # For subclasses

    def _opened(self, db: sqlite3.Connection) -> None:
        """Do what is to be done with every new connection."""

    def _before_closing(self) -> None:
        """Write what is still to be written."""

    def _heard_of_erasure(self) -> None:
        """Forget what may be somebody's of whom nothing is to be left."""

    def _in_forked_child(self) -> None:
        """Forget what is the parent's to write."""

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
                raise StoreError(UNSTORED.format(path=self.path, error=error)) from error

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

    # Inside

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            with self._locks.held(OPENING):
                self._database, aside, replaced = open_database(self.path)
                self._inode = self.path.stat().st_ino
                if replaced:
                    self._mark.change()  # whoever has the old one open should look for the new one at once
            self._generation += 1
            self._verified_mark = -1
            if not self._swept:
                delete_orphans(self._database, self._blobs)
                self._swept = True
            if aside is not None:
                self._warn_set_aside(aside, "found at opening")
            self._opened(self._database)
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
        erasure = self._mark.erasure()
        if erasure != self._erasure:
            self._erasure = erasure
            self.erasures += 1
            self._heard_of_erasure()
            self._generation += 1
        (data_version,) = db.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            self._data_version = data_version
            self._generation += 1
        self._verified_mark = mark
        self._recheck_at = time.monotonic() + _RECHECK_SECONDS
        return self._generation

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
            self._in_forked_child()
            self._verified_mark = -1
            self._locks.forget_after_fork()
        self._mutex.release()


_OPEN: weakref.WeakSet[SharedDatabase] = weakref.WeakSet()
_FORKING = RLock()
_held_while_forking: list[SharedDatabase] = []


def _let_go() -> None:
    _FORKING.acquire()  # one fork at a time, so that two threads never take the stores' locks crosswise
    _held_while_forking[:] = _OPEN
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
