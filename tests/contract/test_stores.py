"""What every store must do. A new store joins by one line in `STORES`, and in `SHARED` if it is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from axolotl_cache.stores import (
    OVERHEAD_BYTES,
    Departure,
    MemoryStore,
    Record,
    SharedStore,
    SqliteStore,
    Store,
    entry_bytes,
    make_policy,
    open_disk,
)
from axolotl_cache.stores.base import Stamp

LARGE = 300_000
NOW = 1_700_000_000.0


def sealed(folder: Path, capacity: int, **options) -> SharedStore:
    pytest.importorskip("cryptography")
    given = {"scope": b"", "policy": make_policy("lru", capacity, Random(1)), "max_bytes": None} | options
    return open_disk(folder, capacity, encryption_key=bytes(32), **given).store


SERVERS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _valkey(request: pytest.FixtureRequest) -> None:
    """One server for all of them: a folder that a store is given is its name there."""
    given = getattr(request.node, "callspec", None)
    kinds = [] if given is None else list(given.params.values())
    if any(isinstance(kind, str) and kind.endswith("redis") for kind in kinds):
        SERVERS["url"] = request.getfixturevalue("valkey").url


def on_redis(folder: Path, capacity: int, **options) -> SharedStore:
    from axolotl_cache.stores.redis.address import parse_address
    from axolotl_cache.stores.redis.link import Link
    from axolotl_cache.stores.redis.store import RedisStore

    link = Link(parse_address(SERVERS["url"]))
    return RedisStore(link, capacity, space=str(folder), within_seconds=5, **options)


def sealed_on_redis(folder: Path, capacity: int, *, scope: bytes = b"", **options) -> SharedStore:
    pytest.importorskip("cryptography")
    from axolotl_cache.stores.sealed import SealedStore
    from axolotl_cache.stores.sealing import Sealer

    sealer = Sealer(bytes(32))
    inner = on_redis(folder, capacity, scope=sealer.scope(scope), **options)
    return SealedStore(inner, sealer, scope=sealer.scope(scope))


STORES: dict[str, Callable[..., Store]] = {
    "memory": lambda folder, capacity, **options: MemoryStore(capacity, **options),
    "sqlite": SqliteStore,
    "sealed": sealed,
    "redis": on_redis,
    "sealed redis": sealed_on_redis,
}
SHARED: dict[str, Callable[..., SharedStore]] = {
    kind: make for kind, make in STORES.items() if kind != "memory"
}
COUNTING_WHAT_IS_GIVEN = [kind for kind in STORES if "sealed" not in kind]  # those count what is stored


def factory_of(make: Callable[..., Store], folder: Path) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def factory(capacity: int = 10, **options) -> Store:
        made.append(make(folder / str(len(made)), capacity, **options))
        return made[-1]

    yield factory
    for store in made:
        getattr(store, "_inner", store).check_invariants()
        store.close()


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    yield from factory_of(STORES[request.param], tmp_path)


@pytest.fixture(params=COUNTING_WHAT_IS_GIVEN)
def make_counting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
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
    put = Record(
        bytes(range(256)),
        "any name",
        NOW,
        NOW + 0.1,
        ("a", "b"),
        sliding_seconds=0.1,
        kind="k",
        cost='{"a":1}',
    )
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
    assert store.size_bytes >= OVERHEAD_BYTES + len("k") + size


def test_an_entry_counts_for_what_is_given(make_counting):
    store, put = make_counting(), record("x" * 1000, tags=("t",))
    store.put("k", put, NOW)
    assert store.size_bytes == entry_bytes("k", put) == OVERHEAD_BYTES + len("k") + 1000 + len("t")


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
    assert store.size_bytes < 2 * entry_bytes("k", second)
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
    assert store.keys(tag="red") == ["a", "b"]
    assert store.keys(tag="old") == ["a"]
    assert store.keys(tag="green") == []
    assert store.remove(NOW, tag="red", created_before=NOW + 10) == ["a"]
    assert store.keys(tag="red") == ["b"]
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


def test_an_entry_counts_with_all_that_it_says():
    put = Record(b"12345", "text", NOW, None, ("ab", "ü"), kind="static", cost="{}")
    assert entry_bytes("ключ", put) == 200 + 5 + 8 + 2 + 2 + 6 + 2


def test_the_bytes_are_bounded_and_the_least_recently_used_goes(make_counting):
    store = make_counting(100, max_bytes=3 * 1201)
    for key in "abc":
        assert store.put(key, record("x" * 1000), NOW) == []
    store.touch("a")
    assert store.put("d", record("x" * 1000), NOW) == [Departure("b", "evicted")]
    assert store.put("e", record("x" * 2000), NOW) == [Departure("c", "evicted"), Departure("a", "evicted")]
    assert store.size_bytes <= store.max_bytes
    assert store.put("d", record("y" * 1201), NOW) == [], "what it replaces makes room first"
    assert store.put("d", record("y" * 1202), NOW) == [Departure("e", "evicted")]
    assert store.keys() == ["d"]


def test_without_a_bound_of_bytes_there_is_none(make):
    # the control of the test above
    store = make(100)
    for key in "abcde":
        assert store.put(key, record("x" * LARGE), NOW) == []
    assert len(store) == 5


def test_what_is_too_large_by_itself_is_not_kept_and_takes_the_old_value_with_it(make_counting):
    store = make_counting(100, max_bytes=5 * LARGE)
    store.put("other", record(), NOW)
    store.put("k", record("old"), NOW)
    largest = 5 * LARGE - OVERHEAD_BYTES - len("k")
    assert store.put("k", record("x" * (largest + 1)), NOW) == [Departure("k", "too large")]
    assert store.keys() == ["other"]
    assert store.put("k", record("x" * largest), NOW) == [Departure("other", "evicted")]
    assert store.keys() == ["k"]


def test_what_has_expired_goes_before_what_is_used_for_bytes_too(make_counting):
    store = make_counting(100, max_bytes=2 * 1201)
    store.put("a", record("x" * 1000), NOW)
    store.put("b", record("x" * 1000, ttl=5), NOW)
    assert store.put("c", record("x" * 1000), NOW + 5) == [Departure("b", "expired")]


def sliding(seconds: float = 100) -> Record:
    return Record(b"x", "text", NOW, NOW + seconds, sliding_seconds=seconds)


def test_a_postponed_expiry_is_the_one_that_counts(make):
    store, put = make(2), sliding()
    store.put("k", put, NOW)
    store.postpone("k", put, NOW + 130)
    assert store.get("k").expires_at == NOW + 130
    assert store.expire(NOW + 129) == []
    store.put("l", record(), NOW)
    assert store.put("m", record(), NOW + 129) == [Departure("k", "evicted")], "not expired"
    store.put("k", put, NOW)
    store.postpone("k", put, NOW + 130)
    assert store.expire(NOW + 130) == ["k"]


def test_a_record_that_was_replaced_is_not_postponed(make):
    store, old = make(), sliding()
    store.put("k", old, NOW)
    store.put("k", sliding(), NOW)
    store.postpone("k", old, NOW + 1000)
    store.postpone("never there", old, NOW + 1000)
    assert store.get("k").expires_at == NOW + 100
    assert store.expire(NOW + 100) == ["k"]


@pytest.mark.parametrize("kind", SHARED)
def test_a_postponed_expiry_is_written_at_half_its_time_or_with_the_next_write(kind, tmp_path):
    store, other, put = SHARED[kind](tmp_path, 10), SHARED[kind](tmp_path, 10), sliding()
    store.put("k", put, NOW)

    def told() -> float:
        return other.stamp("k").expires_at - NOW - 100

    for later in (20, 50):
        store.postpone("k", put, NOW + 100 + later)
        assert told() == 0
        assert store.stamp("k") == Stamp(put.version, NOW + 100 + later)
    store.postpone("k", put, NOW + 151)
    assert told() == 51
    store.postpone("k", store.get("k"), NOW + 160)
    assert told() == 51
    store.put("l", record(), NOW)
    assert told() == 60
    assert other.get("k").expires_at == NOW + 160, "its checksum moved with it"
    store.postpone("k", store.get("k"), NOW + 170)
    store.close()
    assert told() == 70
    other.close()


@pytest.mark.parametrize("policy", ["lru", "lfu", "adaptive"])
def test_every_policy_keeps_to_the_bounds_and_knows_whom_it_keeps(make, policy):
    store = make(20, policy=make_policy(policy, 20, Random(1)), max_bytes=20 * 300)
    rnd, departed, stored = Random(3), [], 0
    for _ in range(400):
        key = f"k{int(rnd.expovariate(0.03))}"
        if store.get(key) is None:
            departed += store.put(key, record("x" * rnd.randrange(200)), NOW)
            stored += 1
        else:
            store.touch(key)
        assert len(store) <= 20
        assert store.get(key) is not None, "what was just stored is there"
    assert len(store) == stored - len(departed)
    assert {reason for _, reason in departed} == {"evicted"}
    assert len(set(store.keys())) == len(store)


@pytest.mark.parametrize(("policy", "kept"), [("lru", 0), ("lfu", 10), ("adaptive", 10)])
def test_a_scan_leaves_the_hot_to_those_who_count(make, policy, kept):
    store = make(20, policy=make_policy(policy, 20, Random(1)))
    hot = [f"hot{n}" for n in range(10)]
    for key in hot * 10:
        if store.get(key) is None:
            store.put(key, record(), NOW)
        store.touch(key)
    for n in range(60):
        store.put(f"once{n}", record(), NOW)
    assert sum(store.get(key) is not None for key in hot) >= kept * 0.9
    if not kept:
        assert all(store.get(key) is None for key in hot)


@pytest.mark.parametrize("policy", ["lru", "lfu", "adaptive"])
def test_memory_and_disk_evict_the_same(policy, tmp_path):
    def make():
        return make_policy(policy, 20, Random(1))

    memory, disk = MemoryStore(20, policy=make()), SqliteStore(tmp_path, 20, policy=make())
    rnd = Random(4)
    for _ in range(1000):
        key = f"k{int(rnd.expovariate(0.03))}"
        if memory.get(key) is None:
            put = record()
            assert memory.put(key, put, NOW) == disk.put(key, put, NOW)
        else:
            memory.touch(key)
            disk.touch(key)
    assert memory.keys() == disk.keys()
    disk.close()


@pytest.mark.parametrize("policy", ["lfu", "adaptive"])
def test_what_was_learnt_outlives_the_process(policy, tmp_path):
    def opened():
        return SqliteStore(tmp_path, 20, policy=make_policy(policy, 20, Random(1)))

    store = opened()
    for key in [f"hot{n}" for n in range(10)] * 5:
        if store.get(key) is None:
            store.put(key, record(), NOW)
        store.touch(key)
    store.close()
    store = opened()
    for n in range(60):
        store.put(f"once{n}", record(), NOW)
    kept = [key for key in store.keys() if key.startswith("hot")]  # noqa: SIM118 - a store is no dict
    assert len(kept) >= 7
    store.close()


def test_another_policy_takes_the_order_over(tmp_path):
    def opened(policy: str, capacity: int = 5) -> SqliteStore:
        return SqliteStore(tmp_path, capacity, policy=make_policy(policy, capacity, Random(1)))

    store = opened("lru")
    for key in "abcde":
        store.put(key, record(), NOW)
    store.close()
    for policy, capacity in [("lfu", 5), ("adaptive", 5), ("lfu", 500), ("lru", 5)]:
        store = opened(policy, capacity)
        assert store.keys() == list("abcde"), policy
        store.close()
    store = opened("lfu")
    assert store.put("f", record(), NOW) == [Departure("a", "evicted")]
    store.close()


@pytest.mark.parametrize("kind", STORES)
def test_closing_twice_is_fine(kind, tmp_path):
    store = STORES[kind](tmp_path, 1)
    store.close()
    store.close()


@pytest.mark.parametrize("kind", SHARED)
def test_erasing_reaches_all_scopes_and_others_learn_of_it(kind, tmp_path):
    stores = [SHARED[kind](tmp_path, 10, scope=scope) for scope in (b"one", b"two")]
    seen = []
    for store in stores:
        store.put("theirs", record(tags=("ada",)), NOW)
        store.put("others", record(tags=("bob",)), NOW)
        store.put("gone", record(), NOW)
        store.remove(NOW, keys=["gone"])
        store.generation()
        seen.append(store.erasures)
    report = stores[0].erase("ada")
    assert (report.entries, report.left) == (2, ())
    for store, before in zip(stores, seen, strict=True):
        store.generation()
        assert store.erasures != before
        assert store.keys() == ["others"]
        assert store.removed_at("gone") is None
        before = store.erasures
        store.put("more", record(), NOW)
        store.generation()
        assert store.erasures == before, "storing is no erasure"
        getattr(store, "_inner", store).check_invariants()
    assert stores[1].erase(None).entries == 4
    assert [store.keys() for store in stores] == [[], []]
    for store in stores:
        store.close()
