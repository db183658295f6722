"""Erasure: no byte of an owner's is left in any file of the folder, nor in memory; all else stays."""

from __future__ import annotations

import gc
import os
import random
import sqlite3
import threading
import warnings
from types import FunctionType, ModuleType

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.erasure import ErasureReport, erased_in_all
from axolotl_cache.errors import ErasureError, StoreError
from axolotl_cache.response import owner_tags
from axolotl_cache.stores import SqliteStore, StoreWarning, database, erasure
from axolotl_cache.stores.blobs import BlobFolder

CANARY = "yellow-canary"
LARGE_BYTES = 150_000
OWNERS = {"tenant": CANARY, "user": CANARY, "session": CANARY}


def files_with(folder, text=CANARY):
    """Return the names of all files below `folder` in whose bytes or names `text` stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(p.name for p in files if text.encode() in p.read_bytes() or text in p.name)


def texts_within(thing):
    """Return every str and bytes that can be reached from an object, whatever holds it."""
    seen, found, todo = set(), [], [thing]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if isinstance(each, str | bytes):
            found.append(each if isinstance(each, bytes) else each.encode("utf-8", "surrogatepass"))
        todo.extend(gc.get_referents(each))
    return found


def knows(cache, text=CANARY):
    return any(text.encode() in each for each in texts_within(cache))


def filled(folder, rnd, owner, *, namespace=None, capacity=90):
    """Store an owner's entries among others', overwrite, invalidate and evict some, and return the cache."""
    cache = SmartInferenceCache(capacity, None, folder, namespace=namespace)
    kind, name = owner
    for n in range(300):
        theirs = n % 3 == 0
        text = CANARY if theirs else "sparrow"
        value = text * rnd.choice([1, 9, 70, 300])
        if n % 40 in {0, 1}:
            value = text * (LARGE_BYTES // len(text))
        tags = [*(owner_tags(**{kind: name}) if theirs else owner_tags(**{kind: "other"})), text]
        cache.set(f"{text} {rnd.randrange(60)}", value, tags=tags, cost={"model": text})
        cache.get(f"{text} {rnd.randrange(60)}")
        if n % 11 == 0:
            cache.invalidate(f"{text} {rnd.randrange(60)}")
    cache.set(f"{CANARY} large", CANARY * 10_000, tags=owner_tags(**{kind: name}))
    return cache


def of_the_owner(cache):
    return [key for key in cache if CANARY in key]


@pytest.mark.parametrize("kind", OWNERS)
def test_no_byte_is_left_in_any_file_and_all_else_is(tmp_path, kind):
    rnd = random.Random(kind)
    with (
        filled(tmp_path, rnd, (kind, CANARY), capacity=300) as cache,
        filled(tmp_path, rnd, (kind, CANARY), capacity=300, namespace="another") as other,
    ):
        # the control: it is there, in the database, its log and large values
        before = files_with(tmp_path)
        assert {"cache.sqlite3-wal"} < {*before}
        assert any(len(name) == 16 for name in before)
        theirs = len(of_the_owner(cache)) + len(of_the_owner(other))
        assert of_the_owner(cache)
        assert of_the_owner(other)
        kept = {key: cache[key] for key in cache if key not in of_the_owner(cache)}
        kept_by_other = {key: other[key] for key in other if key not in of_the_owner(other)}

        report = cache.erase(**{kind: CANARY})

        assert files_with(tmp_path) == []
        assert report.entries == theirs
        assert report.files >= 1
        assert report.bytes > LARGE_BYTES
        assert report.left == ()
        assert {key: cache[key] for key in cache} == kept
        assert {key: other[key] for key in other} == kept_by_other
        assert kept
        assert kept_by_other
        cache._tiers._disk.check_invariants()
        assert cache.erase(**{kind: CANARY}).entries == 0
        cache.set("later", CANARY, tags=owner_tags(**{kind: CANARY}))
        assert cache["later"] == CANARY
    assert files_with(tmp_path) == ["cache.sqlite3"]


def test_memory_lets_go_also_that_of_others_who_share_the_folder(tmp_path):
    rnd = random.Random(1)
    with (
        filled(tmp_path, rnd, ("user", CANARY)) as cache,
        SmartInferenceCache(60, None, tmp_path) as other,
        SmartInferenceCache(60, None, tmp_path, namespace="another") as stranger,
    ):
        stranger.set(CANARY, CANARY, tags=owner_tags(user=CANARY))
        promised = of_the_owner(cache)[0]
        for each in (cache, other):
            assert each.contains(promised)
            assert CANARY in each[promised]
        assert [knows(each) for each in (cache, other, stranger)] == [True] * 3  # the control

        cache.erase(user=CANARY)

        assert not knows(cache)
        for each in (other, stranger):
            assert each.get("something else") is None  # one call, about anything
            assert each._tiers._memory.keys() == []
            assert not knows(each, CANARY * 2)
        assert other.get(promised) is None
        assert promised not in stranger


@pytest.mark.parametrize("call", ["contains", "get", "lookup", "age", "why_missing"])
def test_each_call_heeds_an_erasure_elsewhere(tmp_path, call):
    with SmartInferenceCache(60, None, tmp_path) as cache, SmartInferenceCache(60, None, tmp_path) as other:
        cache.set("k", CANARY, tags=owner_tags(session=CANARY))
        assert other.contains("k")
        assert knows(other)
        cache.erase(session=CANARY)
        assert not getattr(other, call)("k") or call == "why_missing"
        assert not knows(other)


def test_a_cache_in_memory_lets_go_and_keeps_the_rest():
    with filled(None, random.Random(2), ("session", CANARY)) as cache:
        theirs = of_the_owner(cache)
        kept = {key: cache[key] for key in cache if key not in theirs}
        assert cache.contains(theirs[0])
        assert knows(cache)
        before = cache.stats().memory_bytes
        report = cache.erase(session=CANARY)
        assert (report.entries, report.files, report.left) == (len(theirs), 0, ())
        assert report.bytes == before - cache.stats().memory_bytes
        assert not knows(cache)
        assert {key: cache[key] for key in cache} == kept


def churned(folder, seed):
    """Write, overwrite, evict and remove rows of all sizes, so that SQLite moves many."""
    rnd = random.Random(seed)
    cache = SmartInferenceCache(300, None, folder)
    for n in range(2000):
        text = CANARY if rnd.random() < 0.3 else "sparrow"
        key = f"{text} {rnd.randrange(600)}" if n % 2 else f"{rnd.randrange(600)}"
        value = text * rnd.choice([1, 3, 15, 60, 200, 700])
        if n % 50 == 0:
            value = text * (LARGE_BYTES // len(text))
        cache.set(key, value, tags=owner_tags(user=text))
        if rnd.random() < 0.3:
            cache.invalidate(f"{rnd.randrange(600)}")
    return cache


class TestControls:
    """Each step is needed: without it, bytes are found."""

    @pytest.fixture(params=["log", "database", "large values"])
    def left_out(self, request, monkeypatch):
        if request.param == "log":
            monkeypatch.setattr(SqliteStore, "_empty_log", lambda self: None)
        elif request.param == "large values":
            monkeypatch.setattr(erasure, "orphans", lambda db, blobs: [])
        else:
            run = SqliteStore._run

            def without_vacuum(self, work):
                return None if "VACUUM" in work.__code__.co_consts else run(self, work)

            monkeypatch.setattr(SqliteStore, "_run", without_vacuum)
        return request.param

    def test_without_it_bytes_are_left(self, tmp_path, left_out):
        for seed in range(6):  # SQLite does not always leave some
            with churned(tmp_path / str(seed), seed) as cache:
                assert cache.erase(user=CANARY).entries > 20
                found = files_with(tmp_path / str(seed))
            if found:
                break
        expected = {"log": "cache.sqlite3-wal", "database": "cache.sqlite3"}.get(left_out)
        assert expected in found if expected else all(len(name) == 16 for name in found)
        assert found

    def test_with_all_of_them_none_is(self, tmp_path):
        with churned(tmp_path, 0) as cache:
            assert files_with(tmp_path) != []
            assert cache.erase(user=CANARY).entries > 20
            assert files_with(tmp_path) == []
            cache._tiers._disk.check_invariants()


def test_removed_rows_are_overwritten_at_once(tmp_path):
    with SmartInferenceCache(60, None, tmp_path) as cache:
        run = cache._tiers._disk._run
        assert run(lambda db: db.execute("PRAGMA secure_delete").fetchone()) == (1,)


def test_what_dead_writers_and_damage_left_behind_goes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "WRITING_SECONDS", 0.1)
    with SmartInferenceCache(60, None, tmp_path) as cache:
        cache.set("k", 1)
        names = [
            "cache.sqlite3.damaged-20260101T000000-1f",
            "cache.sqlite3.damaged-20260101T000000-1f-wal",
            "cache.sqlite3.new-77",
            "cache.sqlite3.new-77-wal",
            "blobs/writing-00000000000000aa",
            "blobs/00000000000000bb",
        ]
        for name in names:
            (tmp_path / name).write_text(CANARY)
        assert len(files_with(tmp_path)) == len(names)
        report = cache.erase(tenant="somebody")
        assert report == ErasureReport(0, len(names), len(names) * len(CANARY))
        assert files_with(tmp_path) == []
        assert cache["k"] == 1


def test_a_large_value_that_is_being_written_is_waited_for(tmp_path, monkeypatch):
    # its file has its name before the time is over: it belongs to a row, and stays
    with SmartInferenceCache(60, None, tmp_path) as cache:
        writing, go_on = threading.Event(), threading.Event()
        publish = BlobFolder.publish

        def slow(self, version):
            writing.set()
            assert go_on.wait(20)
            publish(self, version)

        with SmartInferenceCache(60, None, tmp_path) as other:
            monkeypatch.setattr(BlobFolder, "publish", slow)
            thread = threading.Thread(target=other.set, args=("large", "x" * LARGE_BYTES))
            thread.start()
            assert writing.wait(20)
            go_on_later = threading.Timer(0.1, go_on.set)
            go_on_later.start()
            assert cache.erase(user="u") == ErasureReport()
            thread.join()
            go_on_later.join()
        assert cache["large"] == "x" * LARGE_BYTES


def test_a_damaged_database_is_set_aside_and_deleted(tmp_path):
    with filled(tmp_path, random.Random(3), ("user", CANARY)) as cache:
        pass
    path = tmp_path / "cache.sqlite3"
    assert files_with(tmp_path)
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 3] = b"\xff" * 8192
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        with SmartInferenceCache(60, None, tmp_path) as cache:
            cache.erase(user=CANARY)
    assert files_with(tmp_path) == []


class TestWhatIsLeftIsSaid:
    def test_when_the_log_is_being_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(erasure, "BUSY_SECONDS", 0.0)
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
        with filled(tmp_path, random.Random(4), ("user", CANARY)) as cache:
            reader = sqlite3.connect(tmp_path / "cache.sqlite3", isolation_level=None)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entries").fetchone()
            with pytest.raises(ErasureError, match=r"cache\.sqlite3-wal: another process") as caught:
                cache.erase(user=CANARY)
            assert files_with(tmp_path) != []
            assert caught.value.report.entries > 0
            assert not of_the_owner(cache)
            assert not knows(cache)
            reader.close()
            assert cache.erase(user=CANARY) == ErasureReport()
            assert files_with(tmp_path) == []

    def test_when_the_database_can_not_be_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(erasure, "BUSY_SECONDS", 0.0)
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
        with filled(tmp_path, random.Random(5), ("user", CANARY)) as cache:
            writer = sqlite3.connect(tmp_path / "cache.sqlite3", isolation_level=None)
            writer.execute("BEGIN IMMEDIATE")
            with pytest.raises(ErasureError, match="0 entries and 0 files are gone") as caught:
                cache.erase(user=CANARY)
            assert f"entries in {tmp_path / 'cache.sqlite3'}" in str(caught.value)
            assert isinstance(caught.value, StoreError)
            assert cache.stats().store_errors == 1
            writer.close()
            assert of_the_owner(cache)
            assert cache.erase(user=CANARY).entries > 0
            assert files_with(tmp_path) == []

    def test_when_a_file_can_not_be_deleted(self, tmp_path):
        with SmartInferenceCache(60, None, tmp_path) as cache:
            stuck = tmp_path / "cache.sqlite3.damaged-1"
            stuck.mkdir()  # what unlink refuses, for root, too
            (tmp_path / "cache.sqlite3.damaged-2").write_text(CANARY)
            cache.set("k", CANARY, tags=owner_tags(user="u"))
            with pytest.raises(ErasureError) as caught:
                cache.erase(user="u")
            report = caught.value.report
            assert (report.entries, report.files) == (1, 1)
            assert [each for each in report.left if str(stuck) in each]
            assert files_with(tmp_path) == []

    def test_when_it_is_closed(self, tmp_path):
        cache = SmartInferenceCache(60, None, tmp_path)
        cache.close()
        with pytest.raises(StoreError, match="closed"):
            cache.erase(user="u")


def test_what_the_disk_refused_before_is_not_written_back_later(tmp_path, monkeypatch):
    clock = ManualClock()
    with SmartInferenceCache(60, None, tmp_path, clock=clock) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "put", refusing)
            with pytest.warns(StoreWarning):
                cache.set("k", CANARY, tags=owner_tags(user="u"))
            cache.set("other", "sparrow")  # warned of once a minute
        assert cache["k"] == CANARY
        assert cache.erase(user="u").entries == 1
        assert (cache.get("k"), cache.get("other")) == (None, "sparrow")
        cache.set("next", 1)
    assert files_with(tmp_path) == []


def refusing(self, key, record, now):
    raise StoreError("the disk is full")


def test_the_owner_is_one_and_named(tmp_path):
    with SmartInferenceCache(60, None, tmp_path) as cache:
        cache.set("k", 1)
        for wrong in ({}, {"user": "u", "tenant": "t"}):
            with pytest.raises(TypeError, match="Give one of tenant=, user=, session="):
                cache.erase(**wrong)
        with pytest.raises(ValueError, match="empty name"):
            cache.erase(user="")
        assert len(cache) == 1


def test_what_one_tier_can_not_do_keeps_no_other_from_its_part():
    one, two = ErasureReport(1, 2, 3, ("a",)), ErasureReport(10, 20, 30, ("a", "b"))
    assert erased_in_all([lambda: one, lambda: two]) == ErasureReport(11, 22, 33, ("a", "b"))
    assert erased_in_all([]) == ErasureReport()

    def failing():
        raise ErasureError(two)

    with pytest.raises(ErasureError, match="11 entries and 22 files are gone") as caught:
        erased_in_all([failing, lambda: one])
    assert caught.value.report.left == ("a", "b")


def test_the_files_stay_their_owners_alone(tmp_path):
    with filled(tmp_path, random.Random(6), ("user", CANARY)) as cache:
        cache.erase(user=CANARY)
        modes = {os.stat(p).st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
        assert modes == {0o600}
