"""Writes that go to the servers together: each is acknowledged for what it has, and for nothing else."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

pytest.importorskip("redis")

from axolotl_cache import SmartInferenceCache
from axolotl_cache.errors import StoreError
from axolotl_cache.stores import Record
from axolotl_cache.stores.redis.address import parse_address
from axolotl_cache.stores.redis.lease import Leases
from axolotl_cache.stores.redis.link import Link
from axolotl_cache.stores.redis.puts import Entry
from axolotl_cache.stores.redis.store import RedisStore
from axolotl_cache.stores.redis.tier import SharedTier


def soon(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


def entry(key: str, size: int = 10, token: int | None = None) -> Entry:
    return Entry(key, Record(b"v" * size, "text", time.time()), token)


def store_on(url: str, *, copies: int = 1, capacity: int = 1000, **options) -> RedisStore:
    link = Link(parse_address(url), copies=copies, patient_seconds=5)
    return RedisStore(link, capacity, space=uuid4().hex, within_seconds=5, **options)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each call brought to the servers."""
    counts: list[int] = []
    write_all = RedisStore.write_all

    def counting(self, entries, now):
        counts.append(len(entries))
        return write_all(self, entries, now)

    monkeypatch.setattr(RedisStore, "write_all", counting)
    return counts


def test_what_was_written_together_has_the_copies_that_it_is_said_to_have(servers):
    with servers.deployment("replicas") as deployment:
        store = store_on(deployment.url, copies=3)
        names = [f"k{number}" for number in range(20)]
        assert store.link.wait_up(10)
        written = store.write_all([entry(name) for name in names], time.time())
        assert [(each.copies, each.is_acknowledged) for each in written] == [(3, True)] * 20
        for replica in deployment.nodes[1:]:
            assert (
                replica.client().exists(*[store.space.place(0) + store.space.member(n) for n in names]) == 20
            )
        deployment.nodes[1].send(signal.SIGSTOP)
        late = store.write_all([entry(f"l{number}") for number in range(20)], time.time())
        assert [(each.copies, each.is_acknowledged) for each in late] == [(2, False)] * 20
        assert store.get("l19") is not None, "it is stored, and not acknowledged"
        assert (store.acknowledged, store.unacknowledged) == (20, 20)
        store.close()


def test_of_several_each_is_answered_for_itself(valkey):
    store = store_on(valkey.url, max_bytes=10_000)
    assert store.link.wait_up(10)
    first, second = (Leases(store, lambda key: key) for _ in range(2))
    assert first.take("fenced")
    token = first.token("fenced")
    first.free("fenced")
    assert second.take("fenced")
    entries = [entry("a"), entry("fenced", token=token), entry("large", 20_000), entry("b")]
    a, fenced, large, b = store.write_all(entries, time.time())
    assert (a.is_acknowledged, b.is_acknowledged) == (True, True)
    assert (fenced.is_fenced, fenced.is_acknowledged, fenced.copies) == (True, False, 0)
    assert (large.is_acknowledged, [each.reason for each in large.departed]) == (False, ["too large"])
    assert sorted(store.keys()) == ["a", "b"]
    assert (store.acknowledged, store.unacknowledged) == (2, 0)
    store.check_invariants()
    for each in (first, second):
        each.close()
    store.close()


def test_bounds_hold_after_several(valkey):
    store = store_on(valkey.url, capacity=5)
    written = store.write_all([entry(str(number)) for number in range(12)], time.time())
    assert store.keys() == ["7", "8", "9", "10", "11"]
    assert [each.key for one in written for each in one.departed] == [str(number) for number in range(7)]
    store.check_invariants()
    store.close()


def test_what_waits_is_written_together(valkey, sent):
    cache = SmartInferenceCache(1000, namespace=uuid4().hex, shared=SharedTier(valkey.url))
    with cache.shared.writer._changed:  # the thread that writes waits
        for number in range(100):
            cache.set(str(number), "v")
    assert cache.shared.flush(10)
    assert sent[-2:] == [64, 36]
    assert cache.stats().shared.acknowledged == 100
    cache.close()


def test_one_that_is_refused_keeps_the_others_not_from_being_written(valkey, monkeypatch):
    cache = SmartInferenceCache(1000, namespace=uuid4().hex, shared=SharedTier(valkey.url, lookup_seconds=2))
    write_all, sizes = RedisStore.write_all, []

    def refusing(self, entries, now):
        sizes.append(len(entries))
        if any(each.key == "b" for each in entries):
            raise StoreError("refused")
        return write_all(self, entries, now)

    monkeypatch.setattr(RedisStore, "write_all", refusing)
    with cache.shared.writer._changed:
        for key in "abcd":
            cache.set(key, "v")
    assert cache.shared.flush(20)
    stats = cache.stats().shared
    assert (sizes[0], stats.refused, stats.acknowledged) == (4, 1, 3)
    assert sorted(cache.shared.redis.keys()) == ["a", "c", "d"]
    assert cache.get("b") == "v", "this machine has it"
    cache.close()


def test_what_is_removed_while_it_is_written_is_not_there_afterwards(valkey, monkeypatch):
    cache = SmartInferenceCache(1000, namespace=uuid4().hex, shared=SharedTier(valkey.url, lookup_seconds=2))
    write_all, removed = RedisStore.write_all, []

    def removing(self, entries, now):
        if not removed:
            removed.append(cache.shared.writer.drop(lambda key, record: key == "b"))
        return write_all(self, entries, now)

    monkeypatch.setattr(RedisStore, "write_all", removing)
    with cache.shared.writer._changed:
        for key in "abc":
            cache.set(key, "v")
    assert cache.shared.flush(10)
    assert sorted(cache.shared.redis.keys()) == ["a", "c"]
    cache.close()


@pytest.mark.slow
def test_in_a_cluster_only_those_whose_replicas_are_late_are_not_acknowledged(servers):
    with servers.deployment("cluster") as deployment:
        store = store_on(deployment.url, copies=3)
        assert store.link.wait_up(10)
        names = [f"k{number}" for number in range(60)]
        soon(lambda: store.write("up", *entry("up")[1:2], time.time()).is_acknowledged)
        slow = deployment.nodes[0].port
        for replica in (deployment.nodes[3], deployment.nodes[6]):  # of the first primary
            replica.send(signal.SIGSTOP)
        written = store.write_all([entry(name) for name in names], time.time())
        layout, space = store.link.layout, store.space
        for name, each in zip(names, written, strict=True):
            host = layout.primary(space.index(space.partition(space.member(name)))[0])
            assert each.is_acknowledged is (host.port != slow), name
            assert each.copies == (1 if host.port == slow else 3)
        assert all(store.get(name) for name in names)
        store.close()
