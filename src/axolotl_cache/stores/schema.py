"""The tables, and how a database is begun: under another name, so that it appears whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from axolotl_cache.stores.base import new_version

APPLICATION_ID = 0x41584C43
"""`AXLC`: what `file` and SQLite see in the header of a database of ours."""
FORMAT_VERSION = 2
"""Raised when a table changes its meaning."""

_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    scope BLOB NOT NULL,         -- digest of the namespace; empty for none
    key BLOB NOT NULL,
    version INTEGER NOT NULL,
    codec TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    sliding REAL,                -- seconds; NULL: uses move no date
    tags TEXT NOT NULL,          -- JSON list
    kind TEXT NOT NULL,
    cost TEXT NOT NULL,          -- JSON object, or nothing
    rank INTEGER NOT NULL,       -- the lowest goes first
    size INTEGER NOT NULL,       -- bytes of the payload
    counted INTEGER NOT NULL,    -- bytes, as max_bytes counts them
    payload_digest BLOB NOT NULL,
    checksum BLOB NOT NULL,      -- of all that decides what is served, the payload by its digest
    payload BLOB,                -- NULL: in a file of its own
    UNIQUE (scope, key)
);
CREATE INDEX entries_by_rank ON entries (rank);
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE tags (tag TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (tag, entry)) WITHOUT ROWID;
CREATE INDEX tags_by_entry ON tags (entry);
CREATE TABLE removed (
    id INTEGER PRIMARY KEY, scope BLOB NOT NULL, key BLOB NOT NULL, at REAL NOT NULL, UNIQUE (scope, key)
);
-- Kept by triggers, because counting 100,000 rows at every write takes longer than the write.
-- `uses` is how many ranks were given, of all scopes the highest: here because this row is written anyway.
CREATE TABLE totals (
    scope BLOB PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL, uses INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO totals (scope, entries, bytes) VALUES (NEW.scope, 1, NEW.counted)
    ON CONFLICT DO UPDATE SET entries = entries + 1, bytes = bytes + NEW.counted;
END;
CREATE TRIGGER entry_resized AFTER UPDATE OF counted ON entries BEGIN
    UPDATE totals SET bytes = bytes + NEW.counted - OLD.counted WHERE scope = NEW.scope;
END;
CREATE TRIGGER entry_gone AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.counted WHERE scope = OLD.scope;
    DELETE FROM tags WHERE entry = OLD.id;
END;
-- What ranks mean: a policy's, and those of two policies can't be compared.
CREATE TABLE ranking (scale TEXT NOT NULL);
INSERT INTO ranking VALUES ('lru');
"""


def make_draft(path: Path, fill: Callable[[sqlite3.Connection], None]) -> Path:
    """Make a database beside `path`, and return its name; whoever wants it renames it to `path`.

    The caller holds the folder's opening lock. Drafts of makers that were killed are swept.

    Args:
        path: what it is to become.
        fill: puts in what it begins with, in one transaction with the tables.
    """
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
            database.executescript(f"BEGIN; {_SCHEMA}")
            fill(database)
            database.execute("COMMIT")
        finally:
            database.close()
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft
