"""From format 1 to this one: copied into a new database, which takes the old one's place."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

from axolotl_cache.stores import rows
from axolotl_cache.stores.base import Record
from axolotl_cache.stores.blobs import BlobFolder
from axolotl_cache.stores.schema import make_draft

BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction; those take well under a millisecond."""


def migrate(path: Path) -> None:
    """Put a database of this format in the place of one of format 1. The caller holds the opening lock.

    Everything that the old one holds whole is in the new one; a damaged record is left out. Large values
    stay in the files that they are in. Cost: about 30 us an entry, and reading every large value once.

    Killed at any instant, it leaves the old database or the new one, each complete:

    1. The old one's write lock is taken, and kept to the end.
    2. A draft is filled.
    3. The log is copied into the old file, so that this is whole without it, and the log's name removed: it
       would be taken for the new database's.
    4. The draft takes the old file's name.
    5. The old file, which has no name now, loses a table. A process of the older version that still has it
       open and wants to write is waiting for the lock; it must fail then rather than write what nobody
       will read. Opening the folder anew, it finds a later format, and goes on in memory.

    Between 3 and 4 are two calls of the system. If this process is killed just there, and only then, such
    a process may go on for a second with a log that has no name: what it stores in that time is lost.

    Raises:
        sqlite3.Error: the old one is damaged, or busy for 10 seconds; it is unchanged.
    """
    blobs = BlobFolder(path.parent / "blobs")
    with closing(_connect(path)) as old, closing(_connect(path)) as beside:
        old.execute("BEGIN IMMEDIATE")
        draft = make_draft(path, lambda new: _copy(old, new, blobs))
        try:
            _empty_log(beside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        old.execute("DROP TABLE totals")
        old.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return database


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, blobs: BlobFolder) -> None:
    found = old.execute(
        "SELECT used, checksum, scope, key, version, payload, codec, created_at, expires_at, tags"
        " FROM entries"
    )
    highest = 0
    for used, checksum, scope, key, version, inside, *told in found:
        try:
            payload = blobs.read(version) if inside is None else inside
            codec, created_at, expires_at, tags = told
            record = Record(payload or b"", codec, created_at, expires_at, tuple(json.loads(tags)), version)
            whole = payload is not None and checksum == _checksum(scope, key, record)
        except (ValueError, TypeError):
            continue  # damage shows as any type and any text
        if whole:
            rows.upsert(new, scope, key, record, rank=used)
            highest = max(highest, used)
    new.execute("UPDATE totals SET uses = ?", (highest,))
    new.executemany(
        "INSERT INTO removed (scope, key, at) VALUES (?, ?, ?)",
        old.execute("SELECT scope, key, at FROM removed ORDER BY id"),
    )


def _checksum(scope: bytes, key: bytes, record: Record) -> bytes:
    """Digest of a record as format 1 had it."""
    told = repr((scope, key, record.version, record.codec, record.created_at, record.expires_at, record.tags))
    digest = blake2b(told.encode("utf-8", "backslashreplace"), digest_size=16)
    digest.update(record.payload)
    return digest.digest()


def _empty_log(beside: sqlite3.Connection) -> None:
    """Copy the whole log into the file. Another connection holds the write lock, so that it can't grow."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        _, frames, copied = beside.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if frames == copied:
            return
        if time.monotonic() > deadline:  # a reader has been in the middle of something all that time
            raise sqlite3.OperationalError("another process is reading from it")
        time.sleep(0.01)
