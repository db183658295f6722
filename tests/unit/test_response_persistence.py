from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import StoreError, StoreFormatError
from axolotl_cache.stores import Record, SqliteStore, StoreWarning
from axolotl_cache.stores.blobs import BlobFolder
from axolotl_cache.stores.database import APPLICATION_ID, FORMAT_VERSION, set_aside
from axolotl_cache.stores.sweep import delete_orphans

LARGE = "x" * 300_000


def cache_in(folder, **kwargs):
    return SmartInferenceCache(kwargs.pop("capacity", 100), kwargs.pop("timeout", 1800), folder, **kwargs)


def test_everything_is_there_after_reopening(tmp_path):
    clock = ManualClock()
    values = {"text": "é\ud800", "bytes": b"\x00", "json": {"a": [1, 2.5, None]}, "large": LARGE}
    with cache_in(tmp_path, clock=clock) as cache:
        for key, value in values.items():
            cache.set(key, value, ttl=50, tags=["t"])
        cache.get("text")
    clock.advance(20)
    with cache_in(tmp_path, clock=clock) as cache:
        assert list(cache) == ["bytes", "json", "large", "text"], "recency is kept, too"
        assert {key: cache[key] for key in values} == values
        assert cache.lookup("json").tags == ("t",)
        assert cache.age("json") == 20
        stats = cache.stats()
        assert (stats.disk_hits, stats.memory_hits) == (4, 1)
    clock.advance(30)
    with cache_in(tmp_path, clock=clock) as cache:
        assert "text" not in cache
        assert len(cache) == 0
    assert list((tmp_path / "blobs").iterdir()) == []


def test_nobody_else_can_read_it(tmp_path):
    before = os.umask(0)
    try:
        with cache_in(tmp_path / "deep" / "cache") as cache:
            cache["small"] = 1
            cache["large"] = LARGE
            cache.get_or_compute("computed", lambda: 1)
            folder = tmp_path / "deep" / "cache"
            paths = [p for p in folder.rglob("*") if p.is_file()]
            assert {p.name for p in paths} >= {
                "cache.sqlite3",
                "cache.sqlite3-wal",
                "changes",
                "computing.lock",
            }
            assert {stat.S_IMODE(p.stat().st_mode) for p in paths} == {0o600}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "blobs").stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_the_capacity_holds_on_disk_and_for_a_smaller_one_later(tmp_path):
    with cache_in(tmp_path, capacity=5) as cache:
        for n in range(20):
            cache[f"k{n}"] = LARGE if n % 2 else n
        assert len(cache) == 5
        assert len(list((tmp_path / "blobs").iterdir())) == 3
    with cache_in(tmp_path, capacity=2) as cache:
        assert list(cache) == ["k18", "k19"]
        assert len(list((tmp_path / "blobs").iterdir())) == 1


def test_namespaces_in_one_folder_do_not_see_each_other(tmp_path):
    with (
        cache_in(tmp_path, namespace="a") as a,
        cache_in(tmp_path, namespace="b") as b,
        cache_in(tmp_path) as none,
    ):
        a["k"] = "of a"
        assert "k" not in b
        assert "k" not in none
        b["k"] = "of b"
        none["k"] = "of none"
        assert [c["k"] for c in (a, b, none)] == ["of a", "of b", "of none"]
        assert b.cache_clear() == 1
        assert [len(c) for c in (a, b, none)] == [1, 0, 1]
    with cache_in(tmp_path, namespace="a") as a:
        assert a["k"] == "of a"


def test_the_capacity_is_of_the_whole_folder(tmp_path):
    with (
        cache_in(tmp_path, namespace="a", capacity=3) as a,
        cache_in(tmp_path, namespace="b", capacity=3) as b,
    ):
        for n in range(3):
            a[f"k{n}"] = n
        b["k"] = 1
        assert sorted(a) == ["k1", "k2"]
        assert "k0" not in a


class TestTwoObjectsOnOneFolder:
    """As two processes see it; tests/integration has real ones."""

    @pytest.fixture
    def two(self, tmp_path):
        with cache_in(tmp_path) as one, cache_in(tmp_path) as other:
            yield one, other

    def test_each_sees_what_the_other_stores_overwrites_and_removes(self, two):
        one, other = two
        for value in range(50):
            one["k"] = value
            assert other["k"] == value
            assert one["k"] == value
            other["k"] = -value
            assert one["k"] == -value
            assert one.invalidate("k") == 1
            assert "k" not in other
            assert other.why_missing("k").startswith("removed by another process")

    def test_clearing_clears_the_others_memory(self, two):
        one, other = two
        one["k"] = 1
        assert other["k"] == 1
        one.cache_clear()
        assert other.get("k") is None

    def test_what_the_other_removed_is_not_counted_again(self, two):
        one, other = two
        one.set("k", 1, tags=["t"])
        other.cache_clear()
        assert one.invalidate("k") == one.invalidate(tag="t") == one.cache_clear() == 0

    def test_what_the_other_evicts_was_promised_here(self, tmp_path):
        with cache_in(tmp_path, capacity=1) as one, cache_in(tmp_path, capacity=1) as other:
            one["k"] = 1
            assert one.contains("k")
            other["l"] = 2
            assert one.get("k") == 1
            assert one.why_missing("k").startswith("evicted by another process, or damaged")

    def test_what_the_other_removes_on_purpose_is_not_served_though_promised(self, two):
        one, other = two
        one["k"] = 1
        assert one.contains("k")
        other.invalidate("k")
        assert one.get("k") is None

    def test_a_hit_here_counts_as_use_when_this_one_evicts(self, tmp_path):
        with cache_in(tmp_path, capacity=2) as one, cache_in(tmp_path, capacity=2) as other:
            one["a"] = 1
            other["b"] = 1
            one.get("a")
            one["c"] = 1
            assert sorted(other) == ["a", "c"]

    def test_a_change_that_left_no_mark_is_seen_within_a_second(self, two, tmp_path):
        one, _ = two
        one["k"] = 1
        foreign = sqlite3.connect(tmp_path / "cache.sqlite3")
        foreign.execute("DELETE FROM entries")
        foreign.commit()
        foreign.close()
        deadline = time.monotonic() + 5
        while "k" in one and time.monotonic() < deadline:
            time.sleep(0.05)
        assert one.lookup("k") is None


def damage(folder, change):
    """Change bytes of a stored row behind the cache's back."""
    database = sqlite3.connect(folder / "cache.sqlite3")
    database.execute(change)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET payload = x'00' || substr(payload, 2)",
        "UPDATE entries SET payload = substr(payload, 2)",
        "UPDATE entries SET payload = 'text'",
        "UPDATE entries SET payload = 5",
        "UPDATE entries SET payload = NULL",
        "UPDATE entries SET codec = 'json'",
        "UPDATE entries SET codec = CAST(x'ff' AS TEXT)",
        "UPDATE entries SET created_at = created_at + 1",
        "UPDATE entries SET expires_at = NULL",
        "UPDATE entries SET expires_at = 'never'",
        "UPDATE entries SET sliding = 100.0",
        "UPDATE entries SET sliding = 'x'",
        "UPDATE entries SET kind = 'static'",
        "UPDATE entries SET cost = '{}'",
        "UPDATE entries SET payload_digest = x'00'",
        "UPDATE entries SET version = version + 1",
        "UPDATE entries SET tags = 'x'",
        "UPDATE entries SET tags = '5'",
        "UPDATE entries SET checksum = x''",
        "UPDATE entries SET key = x'6b32'",
    ],
)
def test_a_damaged_row_is_a_miss_and_is_dropped(tmp_path, change):
    with cache_in(tmp_path) as cache:
        cache["k"] = "some value"
    damage(tmp_path, change)
    key = "k2" if "key" in change else "k"
    with cache_in(tmp_path) as cache:
        assert cache.get(key) is None
        assert cache.stats().damaged == 1
        assert len(cache) == 0
        cache[key] = "new"
        assert cache[key] == "new"


def test_an_undamaged_row_is_a_hit(tmp_path):
    # the control of the test above: writing the same bytes again is no damage
    with cache_in(tmp_path) as cache:
        cache["k"] = "some value"
    damage(tmp_path, "UPDATE entries SET payload = payload, tags = tags")
    with cache_in(tmp_path) as cache:
        assert cache["k"] == "some value"
        assert cache.stats().damaged == 0


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_a_damaged_file_of_a_large_value_is_a_miss(tmp_path, how):
    with cache_in(tmp_path) as cache:
        cache["k"] = LARGE
        (file,) = (tmp_path / "blobs").iterdir()
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    {"cut": lambda: os.truncate(file, 9), "flip": lambda: file.write_bytes(content), "gone": file.unlink}[
        how
    ]()
    with cache_in(tmp_path) as cache:
        assert cache.get("k") is None
        assert cache.stats().damaged == 1
        assert list((tmp_path / "blobs").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, "header", "middle"])
def test_a_damaged_database_is_set_aside(tmp_path, content):
    with cache_in(tmp_path) as cache:
        for n in range(50):
            cache[f"k{n}"] = "value" * 100
    path = tmp_path / "cache.sqlite3"
    whole = path.read_bytes()
    if content == "header":
        content = b"\x00" * 100 + whole[100:]
    elif content == "middle":
        content = whole[:4096] + os.urandom(len(whole) - 4096)
    path.write_bytes(content)

    def use():
        cache = cache_in(tmp_path)
        assert cache.get("k1") is None
        cache["new"] = 1
        return cache

    with pytest.warns(StoreWarning, match="set aside as cache.sqlite3.damaged-"):
        cache = use()
    assert cache["new"] == 1
    assert len(cache) == 1
    cache.close()
    (aside,) = tmp_path.glob("cache.sqlite3.damaged-*")
    assert aside.read_bytes() == content
    with cache_in(tmp_path) as cache:
        assert cache["new"] == 1


def test_damage_found_while_running_costs_entries_and_no_request(tmp_path):
    cache = cache_in(tmp_path)
    for n in range(200):
        cache[f"k{n}"] = "value" * 100
    cache._tiers._disk._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cache._tiers._disk._database.execute("PRAGMA cache_size = 0")
    path = tmp_path / "cache.sqlite3"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(200):
            assert cache.get(f"k{n}") in (None, "value" * 100)
            cache[f"new{n}"] = n
    assert any("set aside" in str(w.message) for w in caught)
    assert cache["new199"] == 199
    cache.close()


@pytest.mark.parametrize("pragma", [f"user_version = {FORMAT_VERSION + 1}", "application_id = 77"])
def test_a_foreign_or_later_format_is_left_untouched(tmp_path, pragma):
    with cache_in(tmp_path) as cache:
        cache["k"] = 1
    path = tmp_path / "cache.sqlite3"
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA {pragma}")
    database.close()
    before, names = path.read_bytes(), sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(StoreFormatError, match="left untouched"):
        cache_in(tmp_path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_the_format_is_marked(tmp_path):
    cache_in(tmp_path).close()
    database = sqlite3.connect(tmp_path / "cache.sqlite3")
    assert database.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert database.execute("PRAGMA user_version").fetchone()[0] == FORMAT_VERSION
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()


def test_a_path_that_can_not_be_a_folder_is_refused_at_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give a folder"):
        cache_in(tmp_path / "file")
    with pytest.raises(StoreError, match="Choose another persistence_path"):
        cache_in(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match="Choose another persistence_path"):
        cache_in("/proc/nowhere")


def test_a_folder_that_is_taken_away_is_begun_again(tmp_path):
    with cache_in(tmp_path / "cache") as cache:
        cache["k"] = 1
        shutil.rmtree(tmp_path / "cache")
        cache._tiers._disk._recheck_at = 0.0
        assert cache.lookup("k") is None
        cache["l"] = LARGE
    with cache_in(tmp_path / "cache") as cache:
        assert cache["l"] == LARGE


class TestADiskThatRefuses:
    @pytest.fixture
    def cache(self, tmp_path):
        with cache_in(tmp_path) as cache:
            cache["old"] = "on disk"
            cache["k"] = "old value"
            yield cache

    @staticmethod
    def refuse(cache, refused=True):
        # As a read-only medium answers: every write fails, reading goes on.
        cache._tiers._disk._database.execute(f"PRAGMA query_only = {int(refused)}")

    def test_a_full_disk_keeps_serving_from_memory(self, cache):
        database = cache._tiers._disk._database
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.warns(StoreWarning, match="goes on in memory.*full"):
            cache.update({f"k{n}": "v" * 5000 for n in range(50)})
        assert cache["k49"] == "v" * 5000
        assert cache.stats().store_errors > 30
        assert cache["old"] == "on disk"

    def test_it_is_said_once_and_counted_every_time(self, cache):
        self.refuse(cache)
        with pytest.warns(StoreWarning) as caught:
            cache.update(a=1, b=LARGE)
        assert len(caught) == 1
        assert cache.stats().store_errors == 2
        assert (cache["a"], cache["b"]) == (1, LARGE)
        assert cache.lookup("a").value == 1
        assert sorted(cache) == ["a", "b", "k", "old"]
        assert len(cache) == 4
        assert list((cache._folder / "blobs").iterdir()) == []

    def test_an_old_value_on_disk_is_not_served_for_the_new_one(self, cache, tmp_path):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache["k"] = "new value"
        assert cache["k"] == "new value"
        with cache_in(tmp_path) as other:
            other["unrelated"] = 1  # makes this one look at the disk again
        assert cache["k"] == "new value"
        cache._tiers._memory.remove(0.0, keys=["k"])  # as if evicted from memory
        assert cache.lookup("k") is None
        self.refuse(cache, False)
        cache["another"] = 1
        with cache_in(tmp_path) as other:
            assert other.lookup("k") is None, "the old value goes as soon as the disk takes writes"

    def test_a_value_is_not_undone_by_a_disk_that_could_not_even_be_asked(self, cache, monkeypatch, tmp_path):
        disk = cache._tiers._disk

        def no_answer():
            raise StoreError("no file can be opened")

        with monkeypatch.context() as patch:
            patch.setattr(disk, "generation", no_answer)
            with pytest.warns(StoreWarning):
                cache["k"] = "new value"
        disk._database.close()
        disk._database = None  # as a fork does; opening it again makes every copy in memory be compared
        assert [cache.get("k"), cache.lookup("k").value] == ["new value"] * 2
        cache["another"] = 1
        with cache_in(tmp_path) as other:
            assert other["k"] == "new value"

    def test_what_was_refused_is_on_disk_once_it_takes_writes(self, cache, tmp_path):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache.update(k="new value", added=LARGE)
        self.refuse(cache, False)
        cache["another"] = 1
        assert cache._tiers._unsaved == {}
        with cache_in(tmp_path) as other:
            assert (other["k"], other["added"]) == ("new value", LARGE)
            other["unrelated"] = 1
        assert (cache["k"], cache["added"]) == ("new value", LARGE)

    def test_what_was_refused_is_on_disk_after_closing(self, tmp_path):
        with cache_in(tmp_path) as cache:
            cache["k"] = "old value"
            self.refuse(cache)
            with pytest.warns(StoreWarning):
                cache["k"] = "new value"
            self.refuse(cache, False)
        with cache_in(tmp_path) as cache:
            assert cache["k"] == "new value"

    def test_what_another_process_stored_meanwhile_stays(self, cache, tmp_path):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache.update(k="refused", l="refused")
        with pytest.raises(StoreError):
            cache.invalidate("old")
        with cache_in(tmp_path) as other:
            other.update(k="theirs", old="theirs")
        self.refuse(cache, False)
        cache["another"] = 1
        with cache_in(tmp_path) as other:
            assert (other["k"], other["old"], other["l"]) == ("theirs", "theirs", "refused")
        assert (cache["k"], cache["old"], cache["l"]) == ("theirs", "theirs", "refused")

    def test_what_another_process_removed_meanwhile_does_not_come_back(self, cache, tmp_path):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache["k"] = "refused"
        with cache_in(tmp_path) as other:
            assert other.invalidate("k") == 1
        self.refuse(cache, False)
        cache["another"] = 1
        assert cache.get("k") is None
        with cache_in(tmp_path) as other:
            assert "k" not in other

    def test_what_it_refused_never_evicts_what_was_stored_since(self, tmp_path):
        with cache_in(tmp_path, capacity=2) as cache:
            self.refuse(cache)
            with pytest.warns(StoreWarning):
                cache.update(a=1, b=2)
            self.refuse(cache, False)
            cache["c"] = 3
            assert sorted(cache) == ["b", "c"]
            assert (cache["b"], cache["c"]) == (2, 3)

    def test_a_removal_brings_the_rest_to_disk_too(self, cache, tmp_path):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache.update(k="new value", old="new value")
        self.refuse(cache, False)
        assert cache.invalidate("k") == 1
        with cache_in(tmp_path) as other:
            assert "k" not in other
            assert other["old"] == "new value"
            other["k"] = "theirs"
        assert cache["k"] == "theirs"

    def test_what_it_remembers_of_refusals_is_bounded(self, tmp_path):
        with cache_in(tmp_path, capacity=5) as cache:
            cache["kept on disk"] = "old value"
            self.refuse(cache)
            with pytest.warns(StoreWarning):
                cache.update({"kept on disk": "new value"} | {f"k{n}": n for n in range(100)})
            assert len(cache._tiers._unsaved) <= 20
            assert cache.lookup("kept on disk") is None
            assert cache["k99"] == 99

    def test_a_ttl_of_0_fails_no_request(self, cache):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            cache.set("k", "unkept", ttl=0)
        assert cache.lookup("k") is None
        assert cache.stats().store_errors == 1
        assert cache.get_or_compute("c", lambda: 5, ttl=0) == 5
        assert cache.stats().store_errors == 1, "there was nothing to remove"

    def test_braces_in_the_path_are_no_trouble(self, tmp_path, monkeypatch):
        def full(self, version, payload):
            raise OSError("disk full")

        monkeypatch.setattr(BlobFolder, "write", full)
        with (
            cache_in(tmp_path / "{user} {}") as cache,
            pytest.warns(StoreWarning, match=r"\{user\}.*disk full"),
        ):
            cache["k"] = LARGE

    def test_removing_is_not_said_to_be_done(self, cache):
        self.refuse(cache)
        with pytest.raises(StoreError):
            cache.invalidate("k")
        assert cache.lookup("k") is None, "but here it is not served any more"
        with pytest.raises(StoreError):
            cache.cache_clear()

    def test_get_or_compute_goes_on(self, cache):
        self.refuse(cache)
        with pytest.warns(StoreWarning):
            assert cache.get_or_compute("c", lambda: 5) == 5
        assert cache.get_or_compute("c", lambda: 6) == 5


def test_files_of_dead_writers_are_swept_at_start(tmp_path):
    with cache_in(tmp_path) as cache:
        cache["k"] = LARGE
    blobs = BlobFolder(tmp_path / "blobs")
    blobs.write(1, b"orphan")
    blobs.publish(1)
    blobs.write(2, b"being written now")
    blobs.write(3, b"abandoned")
    abandoned = tmp_path / "blobs" / f"writing-{3:016x}"
    os.utime(abandoned, (0, 0))
    with cache_in(tmp_path) as cache:
        assert len(list((tmp_path / "blobs").iterdir())) == 2
        assert (tmp_path / "blobs" / f"writing-{2:016x}").exists()
        assert not abandoned.exists()
        assert cache["k"] == LARGE


class _Interrupted:
    """A connection whose user presses Ctrl-C as soon as it has the write lock."""

    def __init__(self, database):
        self.database = database

    def __getattr__(self, name):
        return getattr(self.database, name)

    def execute(self, statement, *parameters):
        result = self.database.execute(statement, *parameters)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt
        return result


def test_ctrl_c_leaves_no_write_lock_behind(tmp_path):
    with cache_in(tmp_path) as cache:
        disk = cache._tiers._disk
        database = disk._database
        (tmp_path / "blobs" / f"{1:016x}").write_bytes(b"an orphan, for the sweep to look into")
        for interrupted in (lambda: cache.set("k", 1), lambda: delete_orphans(disk._database, disk._blobs)):
            disk._database = _Interrupted(database)
            with pytest.raises(KeyboardInterrupt):
                interrupted()
            disk._database = database
            assert not database.in_transaction
        cache["k"] = 2
        assert cache["k"] == 2


def test_a_hit_in_memory_does_not_wait_for_a_write_even_when_the_recheck_is_due(tmp_path):
    with cache_in(tmp_path) as cache, ThreadPoolExecutor(1) as pool:
        cache["k"] = 1
        disk = cache._tiers._disk
        with disk._mutex:  # as a thread that writes
            disk._recheck_at = 0.0
            assert pool.submit(cache.get, "k").result(timeout=10) == 1
            assert disk._recheck_at == 0.0
        assert cache.get("k") == 1
        assert disk._recheck_at > 0.0, "and is made up for"


def test_setting_a_database_aside_is_seen_by_the_others_at_once(tmp_path):
    one, other = SqliteStore(tmp_path, 9), SqliteStore(tmp_path, 9)
    try:
        for trouble in ("found while running", "found at opening"):
            other.put("k", Record(b"x", "text", 0.0), 0.0)
            before = other.generation()
            if trouble == "found while running":
                with pytest.warns(StoreWarning, match="set aside"):
                    one._set_aside(sqlite3.DatabaseError(trouble))
                assert one.get("k") is None
            else:
                (tmp_path / "cache.sqlite3").write_bytes(b"damaged" * 1000)
                one._database.close()
                one._database = None
                with pytest.warns(StoreWarning, match="set aside"):
                    one.get("k")
            assert other.generation() != before
            other.put("l", Record(b"y", "text", 0.0), 0.0)
            assert one.get("l").payload == b"y"
    finally:
        one.close()
        other.close()


def test_a_log_is_never_left_to_the_next_database(tmp_path, monkeypatch):
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"cache.sqlite3{suffix}").write_bytes(b"damaged")
    whole, renamed = Path.rename, []

    def killed_in_the_middle(self, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(self.name)
        return whole(self, target)

    monkeypatch.setattr(Path, "rename", killed_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        set_aside(tmp_path / "cache.sqlite3")
    assert (tmp_path / "cache.sqlite3").exists()


def test_drafts_of_creators_that_were_killed_are_swept(tmp_path):
    for name in ("cache.sqlite3.new-1", "cache.sqlite3.new-1-wal"):
        (tmp_path / name).write_bytes(b"")
    cache_in(tmp_path).close()
    assert not list(tmp_path.glob("cache.sqlite3.new-*"))


def test_a_cache_that_is_dropped_leaves_no_file_open(tmp_path):
    def use():
        cache = cache_in(tmp_path)
        cache.get_or_compute("k", lambda: LARGE)

    use()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_opening_does_not_read_the_entries(tmp_path):
    n = 20_000
    store = SqliteStore(tmp_path, n)
    record = Record(b"x" * 200, "text", 0.0)
    database = store._database
    database.execute("BEGIN")
    database.executemany(
        "INSERT INTO entries (scope, key, version, codec, created_at, tags, kind, cost, rank, size, counted,"
        " payload_digest, checksum, payload)"
        " VALUES (x'', ?, ?, 'text', 0.0, '[]', '', '', ?, 200, 405, x'', x'', ?)",
        ((f"k{i}".encode(), i, i, record.payload) for i in range(n)),
    )
    database.execute("COMMIT")
    store.close()
    started = time.perf_counter()
    with cache_in(tmp_path, capacity=n, timeout=None) as cache:
        cache["new"] = "x"
        assert cache["new"] == "x"
        assert time.perf_counter() - started < 0.5
        assert cache.stats().entries == n


def test_imports_are_light():
    code = (
        "import sys; from axolotl_cache import SmartInferenceCache as C; c = C(); c['a'] = [1]; c['a'];"
        "heavy = {'torch', 'numpy', 'safetensors', 'pydantic', 'asyncio', 'sqlite3', 'concurrent.futures'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"
