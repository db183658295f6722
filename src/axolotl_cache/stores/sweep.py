"""Files and rows that belong together: what is left over goes, and tests ask whether all agrees."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress

from axolotl_cache.stores.blobs import LARGE_BYTES, BlobFolder
from axolotl_cache.stores.rows import Gone, held


def delete_orphans(db: sqlite3.Connection, blobs: BlobFolder) -> None:
    """Delete the large values of processes that died between a file and its row."""
    blobs.delete_abandoned()
    for version in orphans(db, blobs):
        blobs.delete(version)


def orphans(db: sqlite3.Connection, blobs: BlobFolder) -> list[int]:
    """Return the versions that have a file and no row."""
    versions = blobs.versions()
    if not versions:
        return []
    try:
        db.execute("BEGIN IMMEDIATE")  # files get their names under this lock: none can appear now
        known = _versions_in_files(db)
        return [version for version in versions if version not in known]
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def delete_files(blobs: BlobFolder, gone: Iterable[Gone]) -> None:
    """Delete the files of rows that are gone."""
    for row in gone:
        if row.size > LARGE_BYTES:
            # One that can't be deleted now is an orphan that the next start sweeps.
            with suppress(OSError):
                blobs.delete(row.version)


def check(db: sqlite3.Connection, blobs: BlobFolder, capacity: int, max_bytes: int | None) -> None:
    """Raise AssertionError where totals, tags and files disagree with the entries; for tests."""
    entries, counted = held(db)

    def one(statement: str) -> object:
        return db.execute(statement).fetchone()[0]

    facts = {
        "SQLite finds damage": one("PRAGMA integrity_check") == "ok",
        "more entries than the capacity": entries <= capacity,
        "more bytes than max_bytes": max_bytes is None or counted <= max_bytes,
        "totals are off": one(
            "SELECT count(*) FROM"
            " (SELECT scope, count(*) AS n, sum(counted) AS b FROM entries GROUP BY scope) e"
            " JOIN totals t ON t.scope = e.scope WHERE t.entries != e.n OR t.bytes != e.b"
        )
        == 0
        and entries == one("SELECT count(*) FROM entries"),
        "tags of no entry": one("SELECT count(*) FROM tags WHERE entry NOT IN (SELECT id FROM entries)") == 0,
        "ranks above what was given": one("SELECT scale FROM ranking") != "lru"
        or one("SELECT count(*) FROM entries WHERE rank > (SELECT max(uses) FROM totals)") == 0,
        "files and rows differ": set(blobs.versions()) == _versions_in_files(db),
    }
    wrong = [what for what, holds in facts.items() if not holds]
    if wrong:
        raise AssertionError("; ".join(wrong))


def _versions_in_files(db: sqlite3.Connection) -> set[int]:
    return {row[0] for row in db.execute("SELECT version FROM entries WHERE size > ?", (LARGE_BYTES,))}
