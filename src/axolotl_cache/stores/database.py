"""The database file: made whole or not at all, recognised before it is touched, set aside if damaged."""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from pathlib import Path

from axolotl_cache.errors import StoreError, StoreFormatError
from axolotl_cache.stores.base import new_version

APPLICATION_ID = 0x41584C43
"""`AXLC`: what `file` and SQLite see in the header of a database of ours."""
FORMAT_VERSION = 1
"""Raised when a table changes its meaning."""
BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction; those take well under a millisecond."""

_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    scope BLOB NOT NULL,         -- digest of the namespace; empty for none
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    codec TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    tags TEXT NOT NULL,          -- JSON list
    used INTEGER NOT NULL,       -- recency: higher is later
    size INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    payload BLOB,                -- NULL: in a file of its own
    UNIQUE (scope, key)
);
CREATE INDEX entries_by_use ON entries (used);
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE tags (tag TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (tag, entry)) WITHOUT ROWID;
CREATE INDEX tags_by_entry ON tags (entry);
CREATE TABLE removed (
    id INTEGER PRIMARY KEY, scope BLOB NOT NULL, key BLOB NOT NULL, at REAL NOT NULL, UNIQUE (scope, key)
);
-- Kept by triggers, because counting 100,000 rows at every write takes longer than the write.
CREATE TABLE totals (scope BLOB PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO totals VALUES (NEW.scope, 1, NEW.size)
    ON CONFLICT DO UPDATE SET entries = entries + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER entry_resized AFTER UPDATE OF size ON entries BEGIN
    UPDATE totals SET bytes = bytes + NEW.size - OLD.size WHERE scope = NEW.scope;
END;
CREATE TRIGGER entry_gone AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size WHERE scope = OLD.scope;
    DELETE FROM tags WHERE entry = OLD.id;
END;
"""

_MAGIC = b"SQLite format 3\x00"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error says that the file is not what a database should be.

    A missing table counts: the file is made whole, so one that lacks a table was damaged or cut off.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    return code & 0xFF in _DAMAGE or str(error).startswith("no such table")


def open_database(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """Open the database at `path`, and make it first if it is not there.

    The caller holds the folder's opening lock, so that two processes never set the same file aside, the
    second one taking the first one's new database. Cost: about 1 ms, whatever the number of entries.

    Returns:
        The connection, and where a damaged file was moved to, or None.

    Raises:
        StoreFormatError: the file belongs to another program, or to a later version of this one.
        StoreError: the file can't be made or opened here.
    """
    aside = None
    try:
        if path.exists() and not _is_ours(path):
            aside = set_aside(path)
        if not path.exists():
            _create(path)
        try:
            return _connect(path), aside
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        aside = set_aside(path)
        _create(path)
        return _connect(path), aside
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{path}: the cache's database can't be opened: {error}. Choose another persistence_path, or "
            "None to keep everything in memory."
        ) from error


def set_aside(path: Path) -> Path:
    """Rename a damaged database, its log with it, and return its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{new_version():x}")
    for suffix in ("-wal", "-shm", ""):  # the log first: left behind, it would be taken for the next one's
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


def _is_ours(path: Path) -> bool:
    """Read the header without SQLite, which would already change files beside a foreign database.

    The ids stand in the file before it gets its name and never change, so the log can't hold newer ones.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        return False
    (version,) = struct.unpack_from(">I", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{path}: this SQLite database belongs to another program (application id {application:#x}). It "
            "was left untouched: choose another persistence_path."
        )
    if version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path}: this cache is of format {version}, and this version of axolotl-cache reads format "
            f"{FORMAT_VERSION}. It was left untouched: upgrade, or choose another persistence_path."
        )
    return True


def _create(path: Path) -> None:
    """Make an empty database under another name, then rename it: it appears whole or not at all."""
    # The caller holds the opening lock, so whoever made these was killed.
    for left_behind in path.parent.glob(f"{path.name}.new-*"):
        left_behind.unlink(missing_ok=True)
    draft = path.with_name(f"{path.name}.new-{new_version():x}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        database = sqlite3.connect(draft, isolation_level=None)
        try:
            # SQLite's own default, said aloud: with 8 KB pages small writes took a third longer
            database.execute("PRAGMA page_size = 4096")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        finally:
            database.close()
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A damaged text must come out as some text, for the checksum to find, and not as an error.
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA journal_size_limit = 16777216")
        database.execute("SELECT scope, entries, bytes FROM totals LIMIT 1").fetchone()
    except BaseException:
        database.close()
        raise
    return database
