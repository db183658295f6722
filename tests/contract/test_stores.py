"""What every store must do. A new store joins by one line in `STORES`, and in `SHARED` if it is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axolotl_cache.stores import Departure, MemoryStore, Record, SharedStore, SqliteStore, Store

LARGE = 300_000
NOW = 1_700_000_000.0

STORES: dict[str, Callable[[Path, int], Store]] = {
    "memory": lambda folder, capacity: MemoryStore(capacity),
    "sqlite": lambda folder, capacity: SqliteStore(folder, capacity),
}
SHARED: dict[str, Callable[[Path, int], SharedStore]] = {
    "sqlite": lambda folder, capacity: SqliteStore(folder, capacity),
}


def factory_of(make: Callable[[Path, int], Store], folder: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def factory(capacity: int = 10) -> Store:
        made.append(make(folder / str(len(made)), capacity))
        return made[-1]

    yield factory
    for store in made:
        store.check_invariants()
        store.close()


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    yield from factory_of(STORES[request.param], tmp_path)


@pytest.fixture(params=SHARED)
def make_shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., SharedStore]]:
    yield from factory_of(SHARED[request.param], tmp_path)


def record(
    text: str = "x", *, ttl: float | None = None, created: float = NOW, tags: tuple[str, ...] = ()
) -> Record:
    return Record(text.encode(), "text", created, None if ttl is None else created + ttl, tags)


def test_what_is_put_comes_back_whole(make):
    store = make()
    put = Record(bytes(range(256)), "any name", NOW, NOW + 0.1, ("a", "b"))
    assert store.put("k", put, NOW) == []
    assert store.get("k") == put
    assert store.version("k") == put.version
    assert store.get("other") is None
    assert store.version("other") is None


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, LARGE])
def test_every_size_comes_back(make, size):
    store = make()
    payload = b"\x00\xff" * (size // 2) + b"z" * (size % 2)
    store.put("k", Record(payload, "b", NOW), NOW)
    assert store.get("k").payload == payload
    assert store.size_bytes == size


@pytest.mark.parametrize(
    "key", ["", "a b", "\x00", "ключ", "键", "\ud800", "\ud83d\ude00", "😀", "k" * 10_000]
)
def test_every_str_is_a_key(make, key):
    store = make()
    store.put(key, record(), NOW)
    assert store.keys() == [key]
    assert store.get(key) is not None


def test_two_lone_surrogates_are_not_the_character_they_would_make(make):
    store = make()
    store.put("\ud83d\ude00", record("halves"), NOW)
    assert store.get("😀") is None


def test_a_later_put_replaces(make):
    store = make()
    first, second = record("first", tags=("t",)), record("second" * LARGE)
    store.put("k", first, NOW)
    store.put("k", second, NOW)
    assert store.get("k") == second
    assert len(store) == 1
    assert store.size_bytes == len(second.payload)
    assert store.remove(NOW, tag="t") == []


def test_the_capacity_is_hard_and_the_least_recently_used_goes(make):
    store = make(3)
    for key in "abc":
        store.put(key, record(), NOW)
    store.touch("a")
    assert store.put("d", record(), NOW) == [Departure("b", "evicted")]
    assert store.keys() == ["c", "a", "d"]
    store.touch("never there")
    assert store.put("e", record(), NOW) == [Departure("c", "evicted")]
    assert len(store) == 3


def test_getting_is_not_using(make):
    store = make(2)
    store.put("a", record(), NOW)
    store.put("b", record(), NOW)
    store.get("a")
    assert store.put("c", record(), NOW) == [Departure("a", "evicted")]


def test_putting_again_is_using(make):
    store = make(2)
    for key in "aba":
        store.put(key, record(), NOW)
    assert store.put("c", record(), NOW) == [Departure("b", "evicted")]


def test_what_has_expired_goes_before_what_is_used(make):
    store = make(3)
    store.put("live", record(), NOW)
    store.put("short", record(ttl=5), NOW)
    store.put("long", record(ttl=50), NOW)
    assert store.put("d", record(), NOW + 5) == [Departure("short", "expired")]
    assert store.keys() == ["live", "long", "d"]


def test_an_expired_record_is_returned_until_something_removes_it(make):
    store = make()
    store.put("k", record(ttl=5), NOW)
    assert not store.get("k").is_live(NOW + 5)
    assert len(store) == 1
    assert store.expire(NOW + 4.999) == []
    assert store.expire(NOW + 5) == ["k"]
    assert store.get("k") is None


def test_a_longer_ttl_put_later_wins(make):
    store = make()
    store.put("k", record(ttl=5), NOW)
    store.put("k", record(ttl=50), NOW)
    assert store.expire(NOW + 6) == []


def test_removing_by_key_tag_and_age(make):
    store = make()
    store.put("a", record(tags=("red", "old")), NOW)
    store.put("b", record(tags=("red",), created=NOW + 10), NOW)
    store.put("c", record(created=NOW + 10), NOW)
    assert store.remove(NOW, tag="red", created_before=NOW + 10) == ["a"]
    assert store.remove(NOW, keys=["a", "c", "nothing"]) == ["c"]
    assert store.remove(NOW, keys=["b"], tag="green") == []
    assert store.remove(NOW) == ["b"]
    assert len(store) == store.size_bytes == 0


def test_what_was_removed_on_purpose_is_remembered_until_it_is_put_again(make_shared):
    store = make_shared(1)
    store.put("a", record(), NOW)
    store.remove(NOW + 1, keys=["a"])
    assert store.removed_at("a") == NOW + 1
    store.put("a", record(), NOW)
    assert store.removed_at("a") is None
    store.put("b", record(), NOW)
    assert store.removed_at("a") is None, "an eviction is no removal on purpose"


def test_discarding_takes_that_version_only(make):
    store = make()
    old, new = record("old"), record("new")
    store.put("k", old, NOW)
    store.put("k", new, NOW)
    assert not store.discard("k", old.version)
    assert store.get("k") == new
    assert store.discard("k", new.version)
    assert not store.discard("k", new.version)


def test_discarding_is_no_removal_on_purpose(make_shared):
    store, put = make_shared(), record()
    store.put("k", put, NOW)
    assert store.discard("k", put.version)
    assert store.removed_at("k") is None


def test_its_own_changes_do_not_change_the_generation(make_shared):
    store = make_shared(2)
    before = store.generation()
    for key in "abc":
        store.put(key, record(), NOW)
    store.remove(NOW)
    assert store.generation() == before


@pytest.mark.parametrize("kind", STORES)
def test_closing_twice_is_fine(kind, tmp_path):
    store = STORES[kind](tmp_path, 1)
    store.close()
    store.close()
