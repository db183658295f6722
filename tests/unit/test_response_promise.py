"""What `contains` has just reported is there for the `get` that follows."""

from __future__ import annotations

import threading

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.response.promises import Promises
from axolotl_cache.stores import Record


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path, clock):
    path = tmp_path if request.param == "disk" else None
    with SmartInferenceCache(2, 100, path, clock=clock) as cache:
        yield cache


def fill(cache):
    for n in range(cache.maxsize):
        cache[f"filler {n}"] = n


def test_it_is_there_though_it_was_evicted(cache):
    cache["a"] = 1
    assert cache.contains("a")
    fill(cache)
    assert list(cache) == ["filler 0", "filler 1"]
    assert cache.get("a") == 1
    assert cache["a"] == 1


def test_it_is_there_though_it_expired(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.advance(9)
    assert cache.contains("a")
    clock.advance(4.9)
    assert len(cache) == 0
    assert cache.get("a") == 1


def test_a_promise_does_not_last(cache, clock):
    cache.set("a", 1, ttl=10)
    clock.advance(9)
    assert cache.contains("a")
    clock.advance(11)
    assert cache.get("a") is None


def test_an_expired_entry_gets_no_second_promise(cache, clock):
    cache.set("a", 1, ttl=10)
    assert cache.contains("a")
    clock.advance(10)
    for _ in range(100):
        assert not cache.contains("a")
        clock.advance(0.2)
    assert cache.get("a") is None


def test_removing_on_purpose_undoes_a_promise(cache):
    for remove in (
        lambda: cache.invalidate("a"),
        lambda: cache.invalidate(tag="t"),
        lambda: cache.cache_clear(),
        lambda: cache.pop("a"),
        lambda: cache.__delitem__("a"),
        lambda: cache.set("a", 2, ttl=0),
    ):
        cache.set("a", 1, tags=["t"])
        assert cache.contains("a")
        remove()
        assert cache.get("a") is None


@pytest.mark.parametrize("how", [{"key": "a"}, {"tag": "t"}, {"older_than_seconds": 1}])
def test_removing_undoes_a_promise_for_what_is_evicted_already(cache, clock, how):
    cache.set("a", 1, tags=["t"])
    clock.advance(2)
    assert cache.contains("a")
    fill(cache)
    cache.invalidate(**how)
    assert cache.get("a") is None


def test_an_overwritten_value_is_the_new_one_even_if_that_is_evicted(cache):
    cache["a"] = 1
    assert cache.contains("a")
    cache["a"] = 2
    assert cache.get("a") == 2
    fill(cache)
    assert cache.get("a") == 2


def test_what_another_process_stored_in_its_place_is_promised_too(tmp_path, clock):
    caches = [SmartInferenceCache(2, 100, tmp_path, clock=clock) for _ in range(2)]
    with caches[0] as one, caches[1] as other:
        one["a"] = "old"
        assert one.contains("a")
        other["a"] = "new"
        assert one.get("a") == "new"
        fill(other)
        assert one.get("a") == "new"


def test_a_cache_that_is_only_written_to_lets_go_of_its_promises(cache, clock):
    cache["a"] = 1
    assert cache.contains("a")
    for _ in range(3):
        clock.advance(5)
        cache["b"] = 2
    promises = cache._tiers._promises
    assert not promises._young
    assert not promises._old


def test_a_lookup_asks_for_what_is_there_now(cache):
    cache["a"] = 1
    assert cache.contains("a")
    fill(cache)
    assert cache.lookup("a") is None
    assert cache.get_or_compute("a", lambda: 3) == 3


def test_a_clock_that_is_set_back_makes_no_promise_last_for_ever(cache, clock):
    cache["a"] = 1
    clock.advance(1_000_000)
    cache.set("a", 1)
    assert cache.contains("a")
    clock.advance(-1_000_000)
    cache["b"] = cache["c"] = 0
    for _ in range(30):
        cache.get("b")
        cache.get("gone")
        clock.advance(1)
    assert cache.get("a") is None


def test_a_thread_that_read_the_clock_earlier_undoes_no_promise():
    promises, record = Promises(5.0), Record(b"1", "text", 0.0)
    promises.give("a", record, 100.0)
    promises.replace("b", record, 99.9)
    assert promises.kept("b", 99.9) is None
    promises.give("c", record, 99.9)
    assert promises.kept("a", 104.9) is record


def promises_broken(cache, rounds=400):
    """Count `contains` that were not followed by a value, while another thread evicts all the time."""
    stop = threading.Event()

    def evict():
        n = 0
        while not stop.is_set():
            cache[f"x{n % 7}"] = n
            n += 1

    thread = threading.Thread(target=evict)
    thread.start()
    broken = reported = 0
    try:
        for n in range(rounds):
            cache["a"] = n
            if cache.contains("a"):
                reported += 1
                stop.wait(0.0005)
                broken += cache.get("a") is None
    finally:
        stop.set()
        thread.join()
    return broken, reported


def test_a_thread_that_evicts_all_the_time_breaks_no_promise(tmp_path):
    with SmartInferenceCache(1) as memory, SmartInferenceCache(1, 1800, tmp_path) as disk:
        for cache in (memory, disk):
            broken, reported = promises_broken(cache)
            assert broken == 0
            assert reported > 10


def test_without_the_promise_that_thread_would_break_it():
    with SmartInferenceCache(1) as cache:
        cache._tiers._promises = Promises(0.0)
        broken, _ = promises_broken(cache)
    assert broken > 0
