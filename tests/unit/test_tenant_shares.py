"""Tenants in one response cache: bounds of their own, and who loses where there is no room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_cache import SmartInferenceCache
from axolotl_cache.response import owner_tags
from axolotl_cache.shares import Shares


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def tags(tenant):
    return owner_tags(tenant=tenant)


@pytest.fixture(params=["memory", "disk"])
def make(request, tmp_path):
    """Make caches of one folder, or in memory."""
    opened = []

    def make(**options):
        path = tmp_path / "cache" if request.param == "disk" else None
        opened.append(SmartInferenceCache(persistence_path=path, **options))
        return opened[-1]

    yield make
    for cache in opened:
        cache.close()


def held(cache):
    return {name: sum(key.startswith(name) for key in cache) for name in ("ann", "bob", "cem")}


def test_who_floods_a_full_cache_loses_their_own(make):
    cache = make(capacity=10)
    for number in range(3):
        cache.set(f"bob {number}", "x", tags=tags("bob"))
    for number in range(50):
        cache.set(f"ann {number}", "x", tags=tags("ann"))
    assert held(cache) == {"ann": 7, "bob": 3, "cem": 0}
    assert "ann 49" in cache
    assert cache.stats().evictions == 43


def test_a_newcomer_gets_room_from_who_holds_most(make):
    cache = make(capacity=12)
    for number in range(9):
        cache.set(f"ann {number}", "x", tags=tags("ann"))
    for number in range(3):
        cache.set(f"bob {number}", "x", tags=tags("bob"))
    for number in range(20):
        cache.set(f"cem {number}", "x", tags=tags("cem"))
    assert held(cache) == {"ann": 5, "bob": 3, "cem": 4}


def test_of_a_tenants_entries_the_policys_lowest_goes(make):
    cache = make(capacity=4)
    cache.set("bob", "x", tags=tags("bob"))
    for number in range(3):
        cache.set(f"ann {number}", "x", tags=tags("ann"))
    assert cache.get("ann 0") == "x"
    cache.set("ann 3", "x", tags=tags("ann"))
    assert sorted(cache) == ["ann 0", "ann 2", "ann 3", "bob"]


def test_without_tenants_the_policy_alone_decides(make):
    cache = make(capacity=2)
    for number in range(4):
        cache.set(f"{number}", "x", tags=["own"])
    assert sorted(cache) == ["2", "3"]
    assert not cache._tiers._tenants.is_on


def test_a_bound_of_its_own_holds_where_there_is_room(make):
    cache = make(capacity=100)
    cache.bound_tenants({"ann": 1000}.get)
    for number in range(20):
        cache.set(f"ann {number:02}", "x" * 20, tags=tags("ann"))
        cache.set(f"bob {number:02}", "x" * 20, tags=tags("bob"))
        assert cache.tenant_bytes("ann") <= 1000
    assert held(cache) == {"ann": 4, "bob": 20, "cem": 0}
    assert "ann 19" in cache


def test_what_is_beyond_the_bound_by_itself_is_not_kept(make):
    cache = make(capacity=100)
    cache.bound_tenants({"ann": 1000}.get)
    cache.set("ann", "small", tags=tags("ann"))
    assert not cache.set("ann", "x" * 2000, tags=tags("ann"))
    assert "ann" not in cache
    assert "not kept" in cache.why_missing("ann")
    assert cache.tenant_bytes("ann") == 0


def test_bytes_are_shared_as_entries_are(make):
    cache = make(capacity=1000, max_bytes=10_000)
    cache.set("bob", "x" * 1000, tags=tags("bob"))
    for number in range(30):
        cache.set(f"ann {number}", "x" * 1000, tags=tags("ann"))
    assert "bob" in cache
    assert "ann 29" in cache


def test_what_was_stored_in_an_earlier_life_counts(tmp_path):
    clock = Clock()
    with SmartInferenceCache(10, persistence_path=tmp_path, clock=clock) as cache:
        for number in range(6):
            cache.set(f"ann {number}", "x", tags=tags("ann"))
        for number in range(4):
            cache.set(f"bob {number}", "x", tags=tags("bob"))
    with SmartInferenceCache(10, persistence_path=tmp_path, clock=clock) as cache:
        for number in range(6, 9):
            cache.set(f"bob {number}", "x", tags=tags("bob"))
        assert held(cache) == {"ann": 5, "bob": 5, "cem": 0}


def test_what_another_process_stores_counts_soon(tmp_path):
    clock = Clock()
    with (
        SmartInferenceCache(10, persistence_path=tmp_path, clock=clock) as mine,
        SmartInferenceCache(10, persistence_path=tmp_path, clock=clock) as theirs,
    ):
        mine.set("bob 0", "x", tags=tags("bob"))
        for number in range(9):
            theirs.set(f"ann {number}", "x", tags=tags("ann"))
        clock.now += 2
        for number in range(1, 4):
            mine.set(f"bob {number}", "x", tags=tags("bob"))
        assert held(mine) == {"ann": 6, "bob": 4, "cem": 0}


@pytest.mark.parametrize("policy", ["lru", "lfu", "adaptive"])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["set", "get", "remove", "erase", "later"]),
            st.sampled_from(["", "ann", "bob", "cem"]),
            st.integers(0, 8),
        ),
        max_size=60,
    )
)
def test_what_is_counted_is_what_is_stored(policy, steps):
    clock = Clock()
    bounds = {"cem": 700}
    with SmartInferenceCache(12, timeout=50, policy=policy, max_bytes=4000, clock=clock) as cache:
        cache.bound_tenants(bounds.get)
        for step, tenant, number in steps:
            key = f"{tenant} {number}"
            if step == "set":
                cache.set(key, "x" * 40 * number, tags=tags(tenant))
            elif step == "get":
                cache.get(key)
            elif step == "remove":
                cache.pop(key, None)
            elif step == "erase" and tenant:
                cache.erase(tenant=tenant)
            else:
                clock.now += 7
            shares, memory = cache._tiers._tenants, cache._tiers._memory
            memory.check_invariants()
            if shares.is_on and step == "set":
                shares.check_invariants(list(memory._records.items()))
            assert shares.held_bytes("cem") <= 700


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=200))
def test_the_largest_is_the_largest(changes):
    shares, model = Shares(), {}
    for owner, share in changes:
        shares.set(owner, share)
        model[owner] = share
        most = max(model.values())
        largest = shares.largest("", 0)
        assert (largest is None and most == 0) or model[largest] == most
        assert len(shares) == sum(map(bool, model.values()))
