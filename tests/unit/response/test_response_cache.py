from __future__ import annotations

import asyncio
import dataclasses
import math
import subprocess
import sys
import threading
from collections.abc import MutableMapping
from functools import partial

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.errors import StoreError


def test_the_everyday_use_works_word_for_word(tmp_path):
    from axolotl.inference import SmartInferenceCache as FromAxolotl

    assert FromAxolotl is SmartInferenceCache
    computed = []

    def answer(user_input):
        cache_key = cache_manager.generate_key(user_input)
        if cache_manager.contains(cache_key):
            return cache_manager.get(cache_key)
        result = user_input.upper()
        computed.append(user_input)
        cache_manager.set(cache_key, result)
        return result

    path = str(tmp_path / "inference_cache")
    cache_manager = FromAxolotl(capacity=2000, timeout=1800, persistence_path=path)
    assert [answer("a"), answer("b"), answer("a")] == ["A", "B", "A"]
    cache_manager.close()
    cache_manager = FromAxolotl(capacity=2000, timeout=1800, persistence_path=path)
    assert answer("b") == "B"
    assert computed == ["a", "b"]
    cache_manager.close()


def test_it_is_a_mutable_mapping(make):
    cache = make()
    assert isinstance(cache, MutableMapping)
    cache["a"] = 1
    cache.update({"b": [2]}, c=None)
    assert (cache["a"], cache["b"], cache["c"]) == (1, [2], None)
    assert list(cache) == ["a", "b", "c"]
    assert dict(cache.items()) == {"a": 1, "b": [2], "c": None}
    assert (len(cache), cache.maxsize, cache.currsize) == (3, 3, 3)
    assert cache.setdefault("a", 5) == 1
    assert cache.pop("a") == 1
    assert cache.pop("a", "gone") == "gone"
    with pytest.raises(KeyError, match="'a'"):
        cache["a"]
    with pytest.raises(KeyError, match="'a'"):
        del cache["a"]
    with pytest.raises(KeyError):
        cache.pop("a")
    del cache["b"]
    assert cache.popitem() == ("c", None)
    assert not cache
    cache["d"] = 1
    cache.clear()
    assert len(cache) == 0
    assert cache.get("d") is None
    assert cache.get("d", 7) == 7


def test_two_caches_are_equal_when_they_are_one(make):
    cache = make()
    assert cache == cache
    assert cache != SmartInferenceCache()
    assert len({cache, cache}) == 1


def test_a_stored_none_is_a_hit(make):
    cache = make()
    cache["a"] = None
    assert cache.get("a", "default") is None
    assert cache.lookup("a").value is None
    assert cache.get_or_compute("a", lambda: 1) is None


def test_the_least_recently_used_goes(make):
    cache = make(3)
    for key in "abc":
        cache[key] = key
    cache.get("a")
    assert "b" in cache  # looking whether it is there is not using it
    cache["d"] = "d"
    assert list(cache) == ["c", "a", "d"]
    assert cache.stats().evictions == 1
    assert cache.why_missing("b") == "evicted, to keep to the bounds, 0.0 s ago"


def test_an_entry_is_served_until_its_time_is_up(make, clock):
    cache = make(timeout=100)
    cache["a"] = 1
    cache.set("b", 2, ttl=10)
    cache.set("c", 3, ttl=math.inf)
    clock.advance(10)
    assert [cache.get(k) for k in "abc"] == [1, None, 3]
    clock.advance(89.9)
    assert cache["a"] == 1
    assert cache.age("a") == pytest.approx(99.9)
    clock.advance(0.1)
    assert "a" not in cache
    assert list(cache) == ["c"]
    clock.advance(1e9)
    assert cache["c"] == 3
    assert cache.why_missing("a") == f"expired {1e9:.1f} s ago"
    assert cache.age("a") is None
    assert cache.stats().expirations == 2


def test_no_timeout_is_for_ever(make, clock):
    cache = make(timeout=None)
    cache["a"] = 1
    clock.advance(1e9)
    assert cache["a"] == 1
    assert cache.lookup("a").expires_at is None


def test_a_ttl_of_0_keeps_nothing(make):
    cache = make()
    cache["a"] = "old"
    cache.set("a", "new", ttl=0)
    assert "a" not in cache
    assert cache.get_or_compute("b", lambda: "computed", ttl=0) == "computed"
    assert "b" not in cache


@pytest.mark.parametrize("ttl", [-1, math.nan])
def test_an_impossible_ttl_is_refused(make, ttl):
    with pytest.raises(ValueError, match="ttl"):
        make().set("a", 1, ttl=ttl)


def test_storing_again_starts_anew(make, clock):
    cache = make(timeout=100)
    cache.set("a", 1, tags=["t"])
    clock.advance(60)
    cache.set("a", 2)
    clock.advance(60)
    assert cache["a"] == 2
    assert cache.invalidate(tag="t") == 0


def test_lookup_tells_everything_in_one_call(make, clock):
    cache = make(timeout=100)
    cache.set("a", [1], tags=("x", "y"))
    entry = cache.lookup("a")
    assert (entry.value, entry.tags) == ([1], ("x", "y"))
    assert (entry.created_at, entry.expires_at) == (clock(), clock() + 100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.value = 2
    clock.advance(50)
    assert cache.lookup("a", max_age_seconds=49.9) is None
    assert cache.lookup("a", max_age_seconds=50) is not None
    assert cache.lookup("b") is None
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (2, 2)


def test_invalidating_by_key_tag_and_age(make, clock):
    cache = make(capacity=10)
    cache.set("a", 1, tags=["red"])
    cache.set("b", 1, tags=["red", "blue"])
    clock.advance(10)
    cache.set("c", 1, tags=["blue"])
    assert cache.invalidate("nothing") == 0
    assert cache.invalidate(tag="red", older_than_seconds=10) == 0
    assert cache.invalidate(tag="blue", older_than_seconds=5) == 1
    assert list(cache) == ["a", "c"]
    assert cache.invalidate("a", tag="blue") == 0
    assert cache.invalidate("a") == 1
    clock.advance(3)
    assert cache.why_missing("a") == "invalidated 3.0 s ago"
    assert cache.why_missing("c") is None
    assert cache.why_missing("z").startswith("never seen")
    with pytest.raises(TypeError, match="cache_clear"):
        cache.invalidate()
    assert cache.cache_clear() == 1
    assert cache.stats().invalidations == 3


def test_what_expired_is_not_counted_as_invalidated(make, clock):
    cache = make()
    cache.set("a", 1, ttl=1, tags=["t"])
    clock.advance(1)
    assert cache.invalidate(tag="t") == 0


def test_stats_count_what_happened(make):
    cache = make(capacity=2)
    cache["a"] = "12345"
    cache["b"] = "1234567"
    cache["c"] = "123"
    cache.get("c")
    cache.get("a")
    "b" in cache  # noqa: B015 - no lookup
    cache.age("b")
    cache.why_missing("b")
    stats = cache.stats()
    assert (stats.sets, stats.hits, stats.misses, stats.evictions) == (3, 1, 1, 1)
    assert (stats.memory_hits, stats.disk_hits, stats.hit_rate) == (1, 0, 0.5)
    assert (stats.entries, stats.stored_bytes, stats.memory_bytes) == (2, 412, 412)
    assert (stats.damaged, stats.store_errors) == (0, 0)
    assert SmartInferenceCache().stats().hit_rate == 0.0


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"capacity": 0}, ValueError),
        ({"capacity": 2.0}, TypeError),
        ({"capacity": True}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": -5}, ValueError),
        ({"timeout": math.nan}, ValueError),
    ],
)
def test_impossible_settings_are_refused(kwargs, error):
    with pytest.raises(error):
        SmartInferenceCache(**kwargs)


@pytest.mark.parametrize("key", [5, None, ("a",), b"a"])
def test_a_key_is_a_str(make, key):
    cache = make()
    for use in (cache.get, cache.contains, cache.lookup, lambda k: cache.set(k, 1), lambda k: cache[k]):
        with pytest.raises(TypeError, match="generate_key"):
            use(key)


def test_tags_are_several(make):
    with pytest.raises(TypeError, match="tags"):
        make().set("a", 1, tags="red")
    with pytest.raises(TypeError, match="tag is a str"):
        make().set("a", 1, tags=[1])


def test_a_closed_cache_says_so(make):
    with make() as cache:
        cache["a"] = 1
    cache.close()
    for use in (cache.get, cache.contains, lambda k: cache.set(k, 1), lambda k: len(cache), cache.invalidate):
        with pytest.raises(StoreError, match="closed"):
            use("a")


def test_the_decorator_keeps_a_functions_answers(make):
    cache = make(capacity=20)
    calls = []

    @cache.cached(ttl=50, tags=["sums"])
    def total(first, *more, scale=1):
        """Add up."""
        calls.append(first)
        return (first + sum(more)) * scale

    assert [total(1, 2, 3), total(1, 2, 3), total(1, 2, 3, scale=1), total(first=1)] == [6, 6, 6, 1]
    assert calls == [1, 1]
    assert (total.__name__, total.__doc__) == ("total", "Add up.")
    assert total.cache_key(1) in cache
    assert cache.invalidate(tag="sums") == 2
    with pytest.raises(TypeError, match=r"total.*JSON-like.*\['first'\]"):
        total(object())


def test_the_decorator_tells_functions_and_versions_apart(make):
    cache = make(capacity=20)
    keys = set()
    for version in ("", "2"):

        @cache.cached(version=version)
        def one(a=0):
            return a

        @cache.cached(version=version)
        def two(a=0):
            return a

        keys |= {one.cache_key(), two.cache_key(), two.cache_key(1)}
    assert len(keys) == 6


class Greeter:
    def __init__(self, greeting):
        self.greeting = greeting

    def greet(self, name):
        return f"{self.greeting}, {name}"


def test_the_decorator_refuses_what_its_key_would_not_tell_apart(make):
    cache = make()
    for function in (Greeter("Hello").greet, partial(print, "Hello"), "Hello".count):
        with pytest.raises(TypeError, match="can't be told from those of another object"):
            cache.cached()(function)
    hello, bye = (cache.cached(version=word)(Greeter(word).greet) for word in ("Hello", "Bye"))
    assert [hello("Ann"), bye("Ann"), hello("Ann")] == ["Hello, Ann", "Bye, Ann", "Hello, Ann"]
    assert cache.cached()(math.sqrt)(4.0) == 2.0


def test_two_scripts_in_one_folder_do_not_get_each_others_answers(tmp_path):
    for name in ("one", "two"):
        script = tmp_path / f"{name}.py"
        script.write_text(
            "from axolotl_cache import SmartInferenceCache\n"
            f"with SmartInferenceCache(9, 99, {str(tmp_path / 'cache')!r}) as cache:\n"
            f"    answer = cache.cached()(lambda: {name!r})\n"
            "    print(answer(), answer())\n"
        )
        printed = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
        assert printed == f"{name} {name}\n"


def test_popping_with_a_default_never_fails(make):
    cache = make(capacity=1)
    cache["a"] = 1
    assert "a" in cache
    cache["b"] = 2
    assert cache.pop("a", None) == 1, "promised, though it was evicted"
    assert cache.pop("a", None) is None


def test_what_is_noted_about_keys_is_bounded(make):
    cache = make(capacity=5)
    for n in range(50):
        cache[f"k{n}"] = n
        cache.contains(f"k{n}")
        cache.get(f"k{n}")
    tiers = cache._tiers
    assert len(tiers._checked) <= 10
    assert tiers._disk is None or len(tiers._disk._ranks._used) <= 1024
    assert len(tiers._memory._used) <= 256


def test_a_process_that_only_reads_notes_a_bounded_number_of_uses(tmp_path):
    with SmartInferenceCache(50, 99, tmp_path) as writer, SmartInferenceCache(5, 99, tmp_path) as reader:
        for n in range(50):
            writer[f"k{n}"] = n
        for _ in range(50):
            assert [reader.get(f"k{n}") for n in range(50)] == list(range(50))
        ranks = reader._tiers._disk._ranks
        assert ranks._used[-5:] == [f"k{n}" for n in range(45, 50)]
        assert len(ranks._used) <= 1024
        assert len(ranks._policy) <= 50


def test_the_decorator_keeps_a_coroutine_functions_answers(make):
    cache = make()
    calls = []

    @cache.cached()
    async def double(x):
        calls.append(x)
        await asyncio.sleep(0)
        return x * 2

    async def main():
        return await asyncio.gather(*(double(4) for _ in range(5)))

    assert asyncio.run(main()) == [8] * 5
    assert calls == [4]


def test_threads_do_not_disturb_each_other(make):
    cache = make(capacity=50, timeout=None)
    wrong = []

    def work(seed):
        for n in range(300):
            key = f"k{(n * seed) % 80}"
            cache.set(key, [key, n], tags=[f"t{n % 3}"])
            value = cache.get(key)
            if value is not None and value[0] != key:
                wrong.append((key, value))
            if n % 50 == 0:
                cache.invalidate(tag="t0")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache) <= 50
    stats = cache.stats()
    assert stats.hits + stats.misses == stats.sets == 1200
    assert stats.store_errors == 0
    tiers = cache._tiers
    tiers._memory.check_invariants()
    if tiers._disk is not None:
        tiers._disk.check_invariants()
    if tiers._disk is not None:
        served = {key: tiers._memory.get(key) for key in tiers._checked & set(tiers._memory.keys())}
        assert served
        assert served == {key: tiers._disk.get(key) for key in served}, "what memory serves is on disk"
