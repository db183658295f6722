"""The database file: made whole or not at all, recognised before it is touched, set aside if damaged."""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path
from typing import NamedTuple

from axolotl_cache.errors import StoreError, StoreFormatError
from axolotl_cache.stores.base import new_version
from axolotl_cache.stores.migration import BUSY_SECONDS, migrate
from axolotl_cache.stores.schema import APPLICATION_ID, FORMAT_VERSION, make_draft

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


class Opened(NamedTuple):
    """A database that was opened, and what had to be done for it."""

    connection: sqlite3.Connection
    aside: Path | None
    """Where a damaged file was moved to."""
    replaced: bool
    """Whether the file is another one than before, so that whoever has the old one open should look."""


def open_database(path: Path) -> Opened:
    """Open the database at `path`, make it if it is not there, migrate it if it is of an older format.

    The caller holds the folder's opening lock, so that two processes never set the same file aside, the
    second one taking the first one's new database. Cost: about 1 ms, whatever the number of entries; a
    migration, once, about 30 us an entry.

    Raises:
        StoreFormatError: the file belongs to another program, or to a later version of this one.
        StoreError: the file can't be made or opened here.
    """
    aside, migrated = None, False
    try:
        try:
            migrated = _prepare(path)
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            aside = set_aside(path)
            _prepare(path)
            connection = _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{path}: the cache's database can't be opened: {error}. Choose another persistence_path, or "
            "None to keep everything in memory."
        ) from error
    return Opened(connection, aside, migrated or aside is not None)


def set_aside(path: Path) -> Path:
    """Rename a damaged database, its log with it, and return its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{new_version():x}")
    for suffix in ("-wal", "-shm", ""):  # the log first: left behind, it would be taken for the next one's
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


def _prepare(path: Path) -> bool:
    """See to it that a database of this format is at `path`; return whether an older one was migrated.

    Raises:
        sqlite3.DatabaseError: what is there is damaged.
    """
    if not path.exists():
        make_draft(path, lambda db: None).rename(path)
        return False
    version = _format_of(path)
    if version == FORMAT_VERSION:
        return False
    if version == 1:
        migrate(path)
        return True
    raise StoreFormatError(
        f"{path}: this cache is of format {version}, and this version of axolotl-cache reads format "
        f"{FORMAT_VERSION}. It was left untouched: upgrade, or choose another persistence_path."
    )


def _format_of(path: Path) -> int:
    """Read the header without SQLite, which would already change files beside a foreign database.

    The ids stand in the file before it gets its name and never change, so the log can't hold newer ones.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_MAGIC):
        error = sqlite3.DatabaseError("its header is not a database's")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error
    (version,) = struct.unpack_from(">I", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    if application != APPLICATION_ID:
        raise StoreFormatError(
            f"{path}: this SQLite database belongs to another program (application id {application:#x}). It "
            "was left untouched: choose another persistence_path."
        )
    return int(version)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A damaged text must come out as some text, for the checksum to find, and not as an error.
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA journal_size_limit = 16777216")
        # What is removed is overwritten with zeros, whatever SQLite was built to do by itself.
        database.execute("PRAGMA secure_delete = ON")
        database.execute("SELECT scope, entries, bytes, uses FROM totals LIMIT 1").fetchone()
        database.execute("SELECT scale FROM ranking").fetchone()
    except BaseException:
        database.close()
        raise
    return database
