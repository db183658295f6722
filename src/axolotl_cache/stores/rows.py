"""What stands in the database, row by row: statements, and the digest that tells damage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from axolotl_cache.stores.base import Record, Stamp, entry_bytes
from axolotl_cache.stores.blobs import LARGE_BYTES

Value = bytes | str | int | float | None

_COLUMNS = (
    "version, codec, created_at, expires_at, sliding, tags, kind, cost, rank, size, payload_digest,"
    " checksum, "
)
_REMEMBERED_REMOVALS = 1000
_REMEMBERED_SECONDS = 60.0


class Gone(NamedTuple):
    """A row that was deleted; its file, if it had one, is still to be."""

    scope: bytes
    key: bytes
    version: int
    size: int
    counted: int


class Row(NamedTuple):
    """A record as it stands there, damaged or not."""

    version: int
    codec: str
    created_at: float
    expires_at: float | None
    sliding: float | None
    tags: str
    kind: str
    cost: str
    rank: int
    size: int
    payload_digest: bytes
    checksum: bytes
    payload: bytes | None
    """None: in a file of its own, or not asked for."""

    def record(self, scope: bytes, key: bytes, payload: bytes | None) -> Record | None:
        """Return the record with that payload, or None if anything of it is not as it was written."""
        # damage shows as any type
        if not isinstance(payload, bytes) or _digest(payload) != self.payload_digest:
            return None
        record = self.head(scope, key)
        return None if record is None else replace(record, payload=payload)

    def head(self, scope: bytes, key: bytes) -> Record | None:
        """Return the record without its payload, or None if it is not as it was written."""
        try:
            record = Record(
                b"",
                self.codec,
                self.created_at,
                self.expires_at,
                tuple(json.loads(self.tags)),
                self.version,
                self.sliding,
                self.kind,
                self.cost,
            )
            return record if checksum(scope, key, record, self.payload_digest) == self.checksum else None
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


def checksum(scope: bytes, key: bytes, record: Record, payload_digest: bytes) -> bytes:
    """Digest of everything that decides what is served, to whom, and until when. Cost: 2 us.

    The payload is in it by its own digest, so that moving a date does not mean reading the payload.
    """
    told = repr(
        (
            scope,
            key,
            record.version,
            record.codec,
            *map(_number, (record.created_at, record.expires_at, record.sliding_seconds)),
            record.tags,
            record.kind,
            record.cost,
            payload_digest,
        )
    )
    return _digest(told.encode("utf-8", "backslashreplace"))


def _number(seconds: float | None) -> float | None:
    """SQLite gives back 100.0 for 100."""
    return None if seconds is None else float(seconds)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def select(db: sqlite3.Connection, scope: bytes, key: bytes, *, payload: bool = True) -> Row | None:
    """Return the row of a key, with or without its payload."""
    columns = _COLUMNS + ("payload" if payload else "NULL")
    statement = f"SELECT {columns} FROM entries WHERE scope = ? AND key = ?"  # noqa: S608 - our own text
    row = db.execute(statement, (scope, key)).fetchone()
    return None if row is None else Row(*row)


def select_stamp(db: sqlite3.Connection, scope: bytes, key: bytes) -> Stamp | None:
    """Return version and expiry of a key's row. Cost: 5 us."""
    row = db.execute(
        "SELECT version, expires_at FROM entries WHERE scope = ? AND key = ?", (scope, key)
    ).fetchone()
    return None if row is None else Stamp(*row)


def upsert(db: sqlite3.Connection, scope: bytes, key: bytes, record: Record, *, rank: int) -> Gone | None:
    """Write a record; return what stood there."""
    old = db.execute(
        "SELECT scope, key, version, size, counted FROM entries WHERE scope = ? AND key = ?", (scope, key)
    ).fetchone()
    payload_digest = _digest(record.payload)
    (entry,) = db.execute(
        "INSERT INTO entries (scope, key, version, codec, created_at, expires_at, sliding, tags, kind, cost,"
        " rank, size, counted, payload_digest, checksum, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (scope, key) DO UPDATE SET version = excluded.version, codec = excluded.codec,"
        " created_at = excluded.created_at, expires_at = excluded.expires_at, sliding = excluded.sliding,"
        " tags = excluded.tags, kind = excluded.kind, cost = excluded.cost, rank = excluded.rank,"
        " size = excluded.size, counted = excluded.counted, payload_digest = excluded.payload_digest,"
        " checksum = excluded.checksum, payload = excluded.payload RETURNING id",
        (
            scope,
            key,
            record.version,
            record.codec,
            record.created_at,
            record.expires_at,
            record.sliding_seconds,
            json.dumps(record.tags),
            record.kind,
            record.cost,
            rank,
            len(record.payload),
            entry_bytes(to_text(key), record),
            payload_digest,
            checksum(scope, key, record, payload_digest),
            None if len(record.payload) > LARGE_BYTES else record.payload,
        ),
    ).fetchone()
    if old is not None:
        db.execute("DELETE FROM tags WHERE entry = ?", (entry,))
    if record.tags:
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, entry) for tag in record.tags])
    db.execute("DELETE FROM removed WHERE scope = ? AND key = ?", (scope, key))
    return None if old is None else Gone(*old)


def postpone(db: sqlite3.Connection, scope: bytes, key: bytes, version: int, expires_at: float) -> None:
    """Move the expiry of a row to a later time, if it has that version and is not damaged."""
    row = select(db, scope, key, payload=False)
    head = None if row is None or row.version != version else row.head(scope, key)
    # A damaged row is left as it is: a new checksum would make it look whole.
    if row is None or head is None or head.expires_at is None or head.expires_at >= expires_at:
        return
    moved = replace(head, expires_at=expires_at)
    db.execute(
        "UPDATE entries SET expires_at = ?, checksum = ? WHERE scope = ? AND key = ?",
        (expires_at, checksum(scope, key, moved, row.payload_digest), scope, key),
    )


def delete(db: sqlite3.Connection, where: str, parameters: Sequence[Value]) -> list[Gone]:
    """Delete rows, and return what they were. `where` is program text; values go as parameters."""
    statement = f"DELETE FROM entries WHERE {where} RETURNING scope, key, version, size, counted"  # noqa: S608
    return [Gone(*row) for row in db.execute(statement, parameters).fetchall()]


def totals(db: sqlite3.Connection, scope: bytes) -> tuple[int, int]:
    """Return entries and bytes of a scope."""
    row = db.execute("SELECT entries, bytes FROM totals WHERE scope = ?", (scope,)).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def held(db: sqlite3.Connection) -> tuple[int, int]:
    """Return entries and bytes of all scopes."""
    entries, counted = db.execute(
        "SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM totals"
    ).fetchone()
    return int(entries), int(counted)


def lowest(db: sqlite3.Connection, scope: bytes, spare: bytes) -> tuple[bytes, bytes] | None:
    """Return scope and key of the lowest rank of all scopes; not that of `spare` in `scope`."""
    row = db.execute(
        "SELECT scope, key FROM entries WHERE NOT (scope = ? AND key = ?) ORDER BY rank, id LIMIT 1",
        (scope, spare),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def take_uses(db: sqlite3.Connection, scope: bytes, given: int, count: int) -> int:
    """Take `count` numbers for uses, above `given` and all that others took; return the one before them."""
    found = db.execute(
        "UPDATE totals SET uses = max(?, (SELECT max(uses) FROM totals)) + ? WHERE scope = ? RETURNING uses",
        (given, count, scope),
    ).fetchone()
    if found is None:  # the scope has no row yet
        found = db.execute(
            "INSERT INTO totals SELECT ?, 0, 0, max(?, coalesce(max(uses), 0)) + ? FROM totals"
            " RETURNING uses",
            (scope, given, count),
        ).fetchone()
    return int(found[0]) - count


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
