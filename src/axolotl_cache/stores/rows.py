"""What stands in the database, row by row: statements, and the digest that tells damage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from axolotl_cache.stores.base import Record
from axolotl_cache.stores.blobs import LARGE_BYTES

Value = bytes | str | int | float | None

_REMEMBERED_REMOVALS = 1000
_REMEMBERED_SECONDS = 60.0


class Gone(NamedTuple):
    """A row that was deleted; its file, if it had one, is still to be."""

    scope: bytes
    key: bytes
    version: int
    size: int


class Row(NamedTuple):
    """A record as it stands there, damaged or not."""

    version: int
    codec: str
    created_at: float
    expires_at: float | None
    tags: str
    size: int
    checksum: bytes
    payload: bytes | None
    """None: in a file of its own."""

    def record(self, scope: bytes, key: bytes, payload: bytes | None) -> Record | None:
        """Return the record with that payload, or None if anything of it is not as it was written."""
        try:
            tags = tuple(json.loads(self.tags))
            record = Record(payload, self.codec, self.created_at, self.expires_at, tags, self.version)  # type: ignore[arg-type]
            return record if checksum(scope, key, record) == self.checksum else None
        except (ValueError, TypeError):
            return None  # damage shows as any type and any text


def to_bytes(key: str) -> bytes:
    """Return a key as the database has it; any str will do, lone surrogates too."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, as generate_key makes it, not {type(key).__name__}")
    return key.encode("utf-8", "surrogatepass")


def to_text(key: bytes) -> str:
    """Undo `to_bytes`."""
    return key.decode("utf-8", "surrogatepass")


def checksum(scope: bytes, key: bytes, record: Record) -> bytes:
    """Digest of everything that decides what is served, to whom, and until when. Cost: 3 us for 2 KB."""
    told = repr((scope, key, record.version, record.codec, record.created_at, record.expires_at, record.tags))
    digest = blake2b(told.encode("utf-8", "backslashreplace"), digest_size=16)
    digest.update(record.payload)
    return digest.digest()


def select(db: sqlite3.Connection, scope: bytes, key: bytes) -> Row | None:
    """Return the row of a key."""
    row = db.execute(
        "SELECT version, codec, created_at, expires_at, tags, size, checksum, payload FROM entries"
        " WHERE scope = ? AND key = ?",
        (scope, key),
    ).fetchone()
    return None if row is None else Row(*row)


def select_version(db: sqlite3.Connection, scope: bytes, key: bytes) -> int | None:
    """Return the version of a key's row."""
    row = db.execute("SELECT version FROM entries WHERE scope = ? AND key = ?", (scope, key)).fetchone()
    return None if row is None else int(row[0])


def upsert(db: sqlite3.Connection, scope: bytes, key: bytes, record: Record) -> Gone | None:
    """Write a record as the most recently used; return what stood there."""
    old = db.execute(
        "SELECT scope, key, version, size FROM entries WHERE scope = ? AND key = ?", (scope, key)
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
            scope,
            key,
            record.version,
            record.codec,
            record.created_at,
            record.expires_at,
            json.dumps(record.tags),
            len(record.payload),
            checksum(scope, key, record),
            None if len(record.payload) > LARGE_BYTES else record.payload,
        ),
    ).fetchone()
    if old is not None:
        db.execute("DELETE FROM tags WHERE entry = ?", (entry,))
    if record.tags:
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, entry) for tag in record.tags])
    db.execute("DELETE FROM removed WHERE scope = ? AND key = ?", (scope, key))
    return None if old is None else Gone(*old)


def delete(db: sqlite3.Connection, where: str, parameters: Sequence[Value]) -> list[Gone]:
    """Delete rows, and return what they were. `where` is program text; values go as parameters."""
    statement = f"DELETE FROM entries WHERE {where} RETURNING scope, key, version, size"  # noqa: S608
    return [Gone(*row) for row in db.execute(statement, parameters).fetchall()]


def totals(db: sqlite3.Connection, scope: bytes) -> tuple[int, int]:
    """Return entries and payload bytes of a scope."""
    row = db.execute("SELECT entries, bytes FROM totals WHERE scope = ?", (scope,)).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def entries_held(db: sqlite3.Connection) -> int:
    """Return the number of entries of all scopes."""
    return int(db.execute("SELECT coalesce(sum(entries), 0) FROM totals").fetchone()[0])


def remember_removed(db: sqlite3.Connection, scope: bytes, keys: Iterable[bytes], now: float) -> None:
    """Note that these were removed on purpose, and forget what was noted long ago."""
    db.executemany(
        "INSERT OR REPLACE INTO removed (scope, key, at) VALUES (?, ?, ?)",
        [(scope, key, now) for key in keys],
    )
    db.execute(
        "DELETE FROM removed WHERE at < ? AND id <= (SELECT max(id) FROM removed) - ?",
        (now - _REMEMBERED_SECONDS, _REMEMBERED_REMOVALS),
    )
