"""A folder of format 1, committed as it was written then, is served by this version; killed or not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from hashlib import blake2b
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import StoreFormatError
from axolotl_cache.stores import StoreWarning, migration
from axolotl_cache.stores.database import open_database

FORMAT_1 = Path(__file__).parents[1] / "data" / "format-1"
MANY = 4000


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FORMAT_1, tmp_path / "cache"))


def format_of(folder: Path) -> int:
    return int.from_bytes((folder / "cache.sqlite3").read_bytes()[60:64])


def opened(folder: Path, **options) -> SmartInferenceCache:
    return SmartInferenceCache(options.pop("capacity", 100_000), None, folder, clock=ManualClock(), **options)


def test_the_fixture_is_of_format_1():
    assert format_of(FORMAT_1) == 1
    database = sqlite3.connect(f"file:{FORMAT_1 / 'cache.sqlite3'}?immutable=1", uri=True)
    columns = [row[1] for row in database.execute("PRAGMA table_info(entries)")]
    assert "used" in columns
    assert "rank" not in columns
    database.close()


def test_everything_whole_is_there_and_nothing_else(folder):
    with opened(folder) as cache, opened(folder, namespace="of June") as june:
        assert format_of(folder) == 2
        assert list(cache) == ["bytes", "json", "large", "text"], "in the order of their use"
        assert cache["text"] == "é\ud800"
        assert cache["bytes"] == b"\x00\xff"
        assert cache["json"] == {"a": [1, 2.5, None]}
        assert cache["large"] == "x" * 100_001
        assert june["text"] == "of June"
        assert cache.get("damaged") is None
        text = cache.lookup("text")
        assert (text.tags, text.expires_at - text.created_at) == (("red", "blue"), 50)
        assert cache.lookup("bytes").expires_at is None
        assert cache._tiers._disk.removed_at("gone") == ManualClock()()
        assert cache.invalidate(tag="red") == 2
        cache["new"] = 1
        cache._tiers._disk.check_invariants()
    with opened(folder, capacity=3) as cache:
        assert list(cache) == ["bytes", "new"], "three in the folder, the one of June included"
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == [
        "cache.sqlite3",
        "changes",
        "opening.lock",
    ]


def test_what_stands_in_the_log_only_is_migrated_too(folder):
    late = sqlite3.connect(folder / "cache.sqlite3", isolation_level=None)
    late.execute("PRAGMA wal_autocheckpoint = 0")
    add_rows(late, 50)
    assert (folder / "cache.sqlite3-wal").stat().st_size > 10_000
    with opened(folder) as cache:
        assert len(cache) == 54
        assert cache["many 7"] == value_of(7)
    late.close()
    with opened(folder) as cache:
        assert len(cache) == 54


def test_a_late_writer_of_the_older_version_fails_and_harms_nothing(folder):
    late = sqlite3.connect(folder / "cache.sqlite3", isolation_level=None)
    late.execute("SELECT * FROM totals").fetchall()
    with opened(folder) as cache:
        cache["before"] = 1
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            add_rows(late, 1)
        if late.in_transaction:
            late.execute("ROLLBACK")
        late.close()  # the last one to have the old file open: it must not take the new one's log along
        cache["after"] = 2
        assert (folder / "cache.sqlite3-wal").exists()
        assert cache.lookup("before").value == 1
    with opened(folder) as cache:
        assert (cache["before"], cache["after"]) == (1, 2)
        cache._tiers._disk.check_invariants()


def test_a_writer_in_the_middle_of_something_is_waited_for(folder, monkeypatch):
    late = sqlite3.connect(folder / "cache.sqlite3", isolation_level=None, check_same_thread=False)
    late.execute("BEGIN IMMEDIATE")
    add_rows(late, 1, transaction=False)
    timer = threading.Timer(0.2, late.execute, ["COMMIT"])
    timer.start()
    with opened(folder) as cache:
        assert cache["many 0"] == value_of(0)
    timer.join()
    late.close()


def test_two_that_open_it_at_once_migrate_it_once(folder, monkeypatch):
    migrations = []
    whole = migration.migrate
    monkeypatch.setattr(
        "axolotl_cache.stores.database.migrate", lambda path: (migrations.append(path), whole(path))
    )
    found = []

    def use():
        with opened(folder) as cache:
            found.append(cache["text"])

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["é\ud800"] * 4
    assert len(migrations) == 1


def test_a_damaged_one_is_set_aside(folder):
    path = folder / "cache.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))
    with pytest.warns(StoreWarning, match="set aside as cache.sqlite3.damaged-"):
        cache = opened(folder)
    with cache:
        assert len(cache) == 0
        cache["new"] = 1
    assert not list(folder.glob("*.new-*"))


def test_a_migration_that_fails_leaves_the_old_one(folder, monkeypatch):
    def full(*arguments):
        raise OSError("disk full")

    before = (folder / "cache.sqlite3").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(migration, "_copy", full)
        with pytest.raises(Exception, match="disk full"):
            opened(folder)
    assert (folder / "cache.sqlite3").read_bytes() == before
    assert not list(folder.glob("*.new-*"))
    with opened(folder) as cache:
        assert len(cache) == 4


@pytest.mark.parametrize("version", [0, 3, 77])
def test_a_format_that_is_not_known_is_left_untouched(folder, version):
    path = folder / "cache.sqlite3"
    content = bytearray(path.read_bytes())
    content[60:64] = version.to_bytes(4)
    path.write_bytes(content)
    with pytest.raises(StoreFormatError, match=f"of format {version}.*left untouched"):
        opened(folder)
    assert path.read_bytes() == content


def value_of(n: int) -> str:
    return f"{n}:" + "x" * 1000


def add_rows(database: sqlite3.Connection, count: int, *, transaction: bool = True) -> None:
    """Write rows as format 1 had them."""
    now = ManualClock()()
    rows = []
    for n in range(count):
        key, payload = f"many {n}".encode(), value_of(n).encode()
        told = repr((b"", key, n, "text", now, None, ()))
        checksum = blake2b(told.encode() + payload, digest_size=16).digest()
        rows.append((key, n, now, 1000 + n, len(payload), checksum, payload))
    if transaction:
        database.execute("BEGIN IMMEDIATE")
    database.executemany(
        "INSERT INTO entries (scope, key, version, codec, created_at, tags, used, size, checksum, payload)"
        " VALUES (x'', ?, ?, 'text', ?, '[]', ?, ?, ?, ?)",
        rows,
    )
    if transaction:
        database.execute("COMMIT")


OPENER = """
    import sys
    from axolotl_cache.stores import SqliteStore
    print("ready", flush=True)
    sys.stdin.readline()
    store = SqliteStore(sys.argv[1], 100_000)
    print("open", flush=True)
    sys.stdin.readline()
"""


def kill_while_migrating(source: Path, folder: Path, rounds: int) -> dict[str, int]:
    """Kill a process that opens a folder of format 1, again and again, and look what is there then.

    Returns:
        How many were killed before the new database had its name, and how many after.
    """
    killed = {"before": 0, "after": 0}
    rnd = random.Random(rounds)
    for _ in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        opener = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OPENER), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        opener.stdout.readline()
        opener.stdin.write("go\n")
        opener.stdin.flush()
        time.sleep(rnd.uniform(0, 0.4))
        opener.send_signal(signal.SIGKILL)
        opener.wait()
        opener.stdin.close()
        opener.stdout.close()
        killed["before" if format_of(folder) == 1 else "after"] += 1
        with opened(folder) as cache:
            assert len(cache) == MANY + 4, "entries were lost"
            for n in rnd.sample(range(MANY), 200):
                assert cache.get(f"many {n}") == value_of(n), "an entry was lost, or is torn"
            assert cache["large"] == "x" * 100_001
            assert cache.stats().damaged == 0
            cache._tiers._disk.check_invariants()
        assert not list(folder.glob("*.new-*"))
    return killed


@pytest.fixture
def many(folder):
    database = sqlite3.connect(folder / "cache.sqlite3", isolation_level=None)
    add_rows(database, MANY)
    database.close()
    return folder


@pytest.mark.slow
def test_killed_at_any_instant_it_loses_nothing(many, tmp_path):
    killed = kill_while_migrating(many, tmp_path / "killed", 60)
    assert min(killed.values()) >= 3, "the kills must come before and after"


@pytest.mark.slow
def test_the_kill_test_would_find_a_migration_that_loses_entries(many, tmp_path):
    # the control: a folder whose rows do not fit their checksums, which a migration leaves out
    database = sqlite3.connect(many / "cache.sqlite3", isolation_level=None)
    database.execute("UPDATE entries SET created_at = created_at + 1 WHERE version = 5")
    database.close()
    with pytest.raises(AssertionError, match="entries were lost"):
        kill_while_migrating(many, tmp_path / "killed", 1)


def test_between_the_logs_end_and_the_rename_the_old_one_is_whole(folder, monkeypatch):
    # killed exactly there: the log's name is gone, the new name is not given yet
    late = sqlite3.connect(folder / "cache.sqlite3", isolation_level=None)
    late.execute("PRAGMA wal_autocheckpoint = 0")
    add_rows(late, 50)  # which are in the log and nowhere else

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            open_database(folder / "cache.sqlite3")
    assert not (folder / "cache.sqlite3-wal").exists()
    with opened(folder) as cache:
        assert len(cache) == 54
        assert cache["many 49"] == value_of(49)
    late.close()
