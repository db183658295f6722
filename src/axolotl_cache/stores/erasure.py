"""Erasing: rows gone from the database and its log byte by byte, and every file that no entry needs.

Deleting a row is not enough. SQLite's log holds pages as they were, and the database holds copies that its
own housekeeping left behind in unused parts of pages, `secure_delete` or not. So the one is emptied and the
other written anew.
"""

from __future__ import annotations

import sqlite3
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.errors import ErasureError, StoreError
from axolotl_cache.stores.file_locks import OPENING
from axolotl_cache.stores.rows import Gone, Value
from axolotl_cache.stores.shared_database import SharedDatabase
from axolotl_cache.stores.sweep import orphans

BUSY_SECONDS = 30.0
"""How long other processes' readers of the log are waited for; theirs take well under a millisecond."""
WRITING_SECONDS = 2.0
"""How long a large value may take that is being written when an erasure begins: after that, its writer is
taken for dead, or has to go on in memory."""
_OF_ALL = ("1", ())


class ErasableDatabase(SharedDatabase):
    """A database of which everything that has a tag can be made to vanish."""

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, so that no file holds a byte of it; None is everything.

        Notes of what was removed before go as well, and so do files that belong to no entry: those of
        writers that were killed, of migrations cut off, and databases that were set aside.

        Other processes let go of what they have in memory with their next call. Cost: the whole database
        is written anew, and until then others' writes wait.

        Raises:
            ErasureError: something could not be removed; all else is, and the error says what is left.
        """
        deadline = time.monotonic() + WRITING_SECONDS
        tally = _Tally()
        with tally.attempt("large values that are being written"):
            writing = self._blobs.being_written()
        with tally.attempt(f"entries in {self.path}"):
            where = _OF_ALL if tag is None else ("id IN (SELECT entry FROM tags WHERE tag = ?)", (tag,))
            tally.count(self._run(lambda db: self._erase_rows(db, *where)))
        self._mark.note_erasure()
        with tally.attempt(f"what this process knows of {self.path}"):
            self.generation()  # it lets go as the others do
        with tally.attempt(f"copies of removed entries in {self.path}"):
            self._run(lambda db: db.execute("VACUUM"))
        with tally.attempt(f"removed entries in the log {self.path}-wal"):
            self._empty_log()
        with tally.attempt(f"large values in {self.folder / 'blobs'}"):
            for version in self._run(lambda db: orphans(db, self._blobs)):
                tally.delete(self._blobs.path(version), is_counted=version in tally.versions)
            while time.monotonic() < deadline and any(path.exists() for path in writing):
                time.sleep(0.01)
            for path in writing:
                tally.delete(path)
        with tally.attempt(f"databases that were set aside in {self.folder}"), self._locks.held(OPENING):
            for pattern in (".damaged-*", ".new-*"):  # nobody makes one while the lock is held
                for path in sorted(self.folder.glob(self.path.name + pattern)):
                    tally.delete(path)
        return tally.report()

    @abstractmethod
    def _erase_rows(self, db: sqlite3.Connection, where: str, parameters: Sequence[Value]) -> list[Gone]:
        """Delete rows, and all notes of removed ones, as one; return what they were."""

    def _empty_log(self) -> None:
        """Copy the log into the database and cut it off, as soon as no other process is reading from it."""
        deadline = time.monotonic() + BUSY_SECONDS
        while self._run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())[0]:
            if time.monotonic() > deadline:
                raise StoreError("another process has been reading from it all the time; stop that one")
            time.sleep(0.01)


class _Tally:
    """One erasure as it goes: what is gone so far, and what would not go."""

    def __init__(self) -> None:
        self.versions: set[int] = set()
        self._entries = self._files = self._bytes = 0
        self._left: list[str] = []

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on after what fails here, and say so at the end."""
        try:
            yield
        except (StoreError, OSError) as error:
            self._left.append(f"{what}: {error}")

    def count(self, gone: Sequence[Gone]) -> None:
        self._entries += len(gone)
        self._bytes += sum(row.counted for row in gone)
        self.versions = {row.version for row in gone}

    def delete(self, path: Path, *, is_counted: bool = False) -> None:
        """Delete a file; its bytes are counted unless they were, as those of an entry."""
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self._left.append(f"{path}: {error}")
            return
        self._files += 1
        self._bytes += 0 if is_counted else size

    def report(self) -> ErasureReport:
        done = ErasureReport(self._entries, self._files, self._bytes, tuple(self._left))
        if done.left:
            raise ErasureError(done)
        return done
