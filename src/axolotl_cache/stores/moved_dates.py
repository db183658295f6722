"""Expiry dates that uses have moved, and that the file does not have yet."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from axolotl_cache.stores import rows
from axolotl_cache.stores.base import Record
from axolotl_cache.stores.rows import to_bytes


class _Moved(NamedTuple):
    version: int
    expires_at: float
    in_file: float


class MovedDates:
    """What `postpone` was told, by key. Used under its owner's mutex."""

    def __init__(self) -> None:
        self._moved: dict[str, _Moved] = {}

    def __bool__(self) -> bool:
        return bool(self._moved)

    def note(self, key: str, record: Record, expires_at: float) -> bool:
        """Note a later expiry of a copy; return whether the file should learn of it now.

        It should once it is behind by more than half of the record's time, so that there are two writes in
        that time at the most, and another process never finds the entry expired earlier than that.
        """
        before = self.of(key, record.version)
        in_file = record.expires_at if before is None else self._moved[key].in_file
        if in_file is None or record.sliding_seconds is None:
            return False
        self._moved[key] = _Moved(record.version, expires_at, in_file)
        return expires_at - in_file > record.sliding_seconds / 2

    def of(self, key: str, version: int) -> float | None:
        """Return the expiry that was noted for that version of `key`."""
        moved = self._moved.get(key)
        return moved.expires_at if moved is not None and moved.version == version else None

    def write(self, db: sqlite3.Connection, scope: bytes) -> None:
        """Write all of them down. In a transaction; `clear` once it is committed."""
        for key, moved in self._moved.items():
            rows.postpone(db, scope, to_bytes(key), moved.version, moved.expires_at)

    def pending(self) -> list[tuple[str, int, float]]:
        """Return key, version and expiry of all of them, to be written down elsewhere."""
        return [(key, moved.version, moved.expires_at) for key, moved in self._moved.items()]

    def clear(self) -> None:
        """Forget them: they are written down, or not this process's to write."""
        self._moved.clear()
