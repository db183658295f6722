"""Bounds, policies and lifetimes as users of the cache see them, in memory and on disk."""

from __future__ import annotations

import asyncio
import math
import time
from decimal import Decimal

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.request import Saved
from axolotl_cache.response.lifetime import Lifetime
from axolotl_cache.response.prices import PriceTable


async def compute_plain():
    return "answer"


class TestPolicies:
    @pytest.mark.parametrize(("policy", "hot_stay"), [("lru", False), ("lfu", True), ("adaptive", True)])
    def test_the_policy_says_who_goes(self, make, policy, hot_stay):
        cache = make(20, policy=policy)
        hot = [f"hot{n}" for n in range(10)]
        for key in hot * 8:
            cache.get_or_compute(key, lambda: 1)
        for n in range(80):
            cache.get_or_compute(f"once{n}", lambda: 1)
        kept = sum(key in cache for key in hot)
        assert kept >= 9 if hot_stay else kept == 0
        assert len(cache) == 20
        assert cache.stats().evictions == 70

    @pytest.mark.parametrize("policy", ["lru", "lfu", "adaptive"])
    def test_what_was_just_stored_is_there(self, make, policy):
        cache = make(5, policy=policy)
        for n in range(200):
            cache[f"k{n % 17}"] = n
            assert cache.get(f"k{n % 17}") == n
            assert len(cache) <= 5

    def test_an_unknown_one_is_refused(self, make):
        with pytest.raises(ValueError, match="one of lru, lfu, adaptive, not 'fifo'"):
            make(policy="fifo")


class TestBytes:
    def test_they_are_bounded(self, make):
        cache = make(1000, max_bytes=10_000)
        for n in range(50):
            cache[f"k{n:02}"] = "x" * 797
            assert cache.stats().stored_bytes <= 10_000
            assert cache.stats().memory_bytes <= 10_000
        assert list(cache) == [f"k{n}" for n in range(40, 50)], "800 each, and 200 on top"
        assert cache.stats().evictions == 40
        assert cache.why_missing("k00").startswith("evicted, to keep to the bounds")

    def test_without_max_bytes_only_the_number_is(self, make):
        # the control of the test above
        cache = make(1000)
        for n in range(50):
            cache[f"k{n:02}"] = "x" * 797
        assert len(cache) == 50

    def test_what_is_too_large_is_not_kept_and_it_is_said_why(self, make):
        cache = make(1000, max_bytes=10_000)
        cache["other"] = "kept"
        cache["k"] = "old"
        assert cache.contains("k")
        cache["k"] = "x" * 10_000
        assert cache.get("k") is None, "neither the new one nor the old one, whatever was promised"
        assert cache.why_missing("k").startswith("not kept, being larger than max_bytes by itself")
        assert cache["other"] == "kept"
        assert cache.stats().too_large == 1
        assert cache.get_or_compute("k", lambda: "y" * 10_000) == "y" * 10_000, "and nobody goes without"
        cache["k"] = "small"
        assert cache["k"] == "small"

    @pytest.mark.parametrize("wrong", [0, -1, 200, 1e9, "1GB", True])
    def test_a_bound_that_can_not_be_is_refused(self, make, wrong):
        with pytest.raises(ValueError, match="max_bytes is a number of bytes, an int above 200"):
            make(max_bytes=wrong)

    def test_a_smaller_bound_later_holds_at_once(self, tmp_path, clock):
        with SmartInferenceCache(100, None, tmp_path, clock=clock) as cache:
            for n in range(10):
                cache[f"k{n}"] = "x" * 800
        with SmartInferenceCache(100, None, tmp_path, max_bytes=3000, clock=clock) as cache:
            assert list(cache) == ["k8", "k9"]


class TestSliding:
    def test_a_use_begins_the_time_anew(self, make, clock):
        cache = make(sliding=True)
        cache["used"] = cache["unused"] = 1
        for _ in range(5):
            clock.advance(90)
            assert cache.get("used") == 1
        assert cache.get("unused") is None
        assert cache.age("used") == 450
        assert cache.lookup("used", max_age_seconds=449) is None, "its age is that of the answer"
        clock.advance(100)
        assert "used" not in cache
        assert cache.why_missing("used") == "expired 0.0 s ago"

    def test_without_it_a_use_changes_nothing(self, make, clock):
        # the control of the test above
        cache = make()
        cache["used"] = 1
        clock.advance(90)
        assert cache.get("used") == 1
        clock.advance(10)
        assert cache.get("used") is None

    def test_an_entry_may_differ_from_its_cache(self, make, clock):
        cache, fixed = make(9, sliding=False), make(9, sliding=True)
        cache.set("sliding", 1, sliding=True)
        cache["fixed"] = 1
        fixed.set("also fixed", 1, sliding=False)
        cache.get_or_compute("computed", lambda: 1, sliding=True)
        for _ in range(2):
            clock.advance(60)
            for each, key in (
                (cache, "sliding"),
                (cache, "fixed"),
                (fixed, "also fixed"),
                (cache, "computed"),
            ):
                each.get(key)
        assert [key in cache for key in ("sliding", "fixed", "computed")] == [True, False, True]
        assert "also fixed" not in fixed

    def test_looking_is_not_using(self, make, clock):
        cache = make(sliding=True)
        cache["k"] = 1
        for _ in range(3):
            clock.advance(40)
            cache.contains("k")
            cache.age("k")
            cache.why_missing("k")
            len(cache), list(cache)
            cache._tiers._promises.withdraw()
        assert "k" not in cache

    def test_what_is_for_ever_stays_so(self, make, clock):
        cache = make(sliding=True)
        cache.set("k", 1, ttl=math.inf)
        assert cache.get("k") == 1
        assert cache.lookup("k").expires_at is None

    def test_a_use_by_a_promise_revives_nothing(self, make, clock):
        cache = make(timeout=2, sliding=True)
        cache["k"] = 1
        assert cache.contains("k")
        clock.advance(3)
        assert cache.get("k") == 1, "as promised"
        assert cache.lookup("k") is None

    def test_a_hit_writes_to_disk_twice_in_its_time_at_the_most(self, tmp_path, clock):
        with SmartInferenceCache(9, 100, tmp_path, sliding=True, clock=clock) as cache:
            cache["k"] = 1
            writes = []
            cache._tiers._disk._database.set_trace_callback(
                lambda statement: writes.append(statement) if statement.startswith("COMMIT") else None
            )
            for _ in range(1000):
                clock.advance(1)
                assert cache.get("k") == 1
            assert 10 <= len(writes) <= 20

    def test_another_process_sees_it_alive(self, tmp_path, clock):
        with (
            SmartInferenceCache(9, 100, tmp_path, sliding=True, clock=clock) as one,
            SmartInferenceCache(9, 100, tmp_path, sliding=True, clock=clock) as other,
        ):
            one["k"] = 1
            assert other["k"] == 1
            for _ in range(10):
                clock.advance(60)
                assert one.get("k") == 1
                assert len(other) == 1, "which would throw out what has expired"
            clock.advance(40)
            assert other.get("k") == 1
            for _ in range(10):
                clock.advance(60)
                assert other.get("k") == 1
            assert one.get("k") == 1

    def test_the_last_use_outlives_the_process(self, tmp_path, clock):
        with SmartInferenceCache(9, 100, tmp_path, sliding=True, clock=clock) as cache:
            cache["k"] = 1
            clock.advance(40)
            cache.get("k")
        clock.advance(90)
        with SmartInferenceCache(9, 100, tmp_path, clock=clock) as cache:
            assert cache.get("k") == 1


class TestJitter:
    def test_it_only_ever_shortens_and_the_key_alone_decides(self):
        plain, jittered = Lifetime(100), Lifetime(100, jitter=0.1)
        times = [jittered.of(f"k{n}", 0.0, ttl=None, sliding=None)[0] for n in range(1000)]
        assert plain.of("k", 0.0, ttl=None, sliding=None) == (100.0, None)
        assert all(90 < time <= 100 for time in times)
        assert 94 < sum(times) / len(times) < 96
        assert len(set(times)) > 990
        # pinned: equal in every process and version
        assert jittered.of("k", 0.0, ttl=None, sliding=None)[0] == pytest.approx(97.67978797852152, abs=1e-9)

    def test_it_holds_for_a_ttl_of_ones_own_and_for_sliding_ones(self):
        expires_at, sliding = Lifetime(None, jitter=0.5).of("k", 7.0, ttl=10, sliding=True)
        assert 12 < expires_at <= 17
        assert sliding == expires_at - 7

    def test_what_is_for_ever_has_none(self):
        assert Lifetime(None, jitter=0.5).of("k", 0.0, ttl=None, sliding=None) == (None, None)
        assert Lifetime(5, jitter=0.5).of("k", 0.0, ttl=math.inf, sliding=True) == (None, None)

    def test_entries_stored_together_do_not_expire_together(self, make, clock):
        cache = make(200, timeout=100, jitter=0.5)
        for n in range(100):
            cache[f"k{n}"] = n
        clock.advance(75)
        assert 30 < len(cache) < 70
        clock.advance(25)
        assert len(cache) == 0

    @pytest.mark.parametrize("wrong", [-0.1, 1, 2, math.nan])
    def test_a_share_that_can_not_be_is_refused(self, make, wrong):
        with pytest.raises(ValueError, match="jitter is a share of the TTL"):
            make(jitter=wrong)


class TestAccounts:
    def test_kind_and_cost_come_back(self, make):
        cost = {"prompt_tokens": 12, "completion_tokens": 3, "seconds": 0.25, "model": "é\ud800"}
        make().set("k", "value", kind="static", cost=cost)
        cache = make()
        if cache._folder is None:
            cache.set("k", "value", kind="static", cost=cost)
        entry = cache.lookup("k")
        assert (entry.kind, entry.cost) == ("static", cost)
        cache["k"] = "another"
        entry = cache.lookup("k")
        assert (entry.kind, entry.cost) == ("", None)

    def test_hits_know_what_they_saved(self, make):
        prices = PriceTable.from_mapping({"m": {"input_per_million": 1, "output_per_million": 4}}, "EUR")
        cache = make(prices=prices)
        cost = {"prompt_tokens": 1000, "completion_tokens": 500, "seconds": 2.0, "model": "m"}
        cache.set("k", 1, cost=cost)
        cache.set("other", 2, cost=cost | {"model": "unknown"})
        cache["free"] = 3
        assert cache.stats().saved == Saved()
        assert cache.lookup("k").saved == Saved(1500, 2.0, Decimal("0.003"), "EUR")
        assert cache.lookup("other").saved == Saved(1500, 2.0)
        assert cache.lookup("free").saved == Saved()
        for _ in range(2000):
            cache.get("k")
        assert cache.get("gone") is None
        saved = cache.stats().saved
        assert saved == Saved(2002 * 1500, 2002 * 2.0, 2001 * Decimal("0.003"), "EUR")

    def test_what_computing_took_is_measured(self, make):
        cache = make()
        response = {"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "choices": []}
        cache.get_or_compute("api", lambda: (time.sleep(0.02), response)[1])
        entry = cache.lookup("api")
        assert entry.cost["seconds"] >= 0.02
        assert (entry.saved.tokens, entry.cost["model"]) == (9, "m")
        asyncio.run(cache.aget_or_compute("plain", compute_plain))
        assert list(cache.lookup("plain").cost) == ["seconds"]

    def test_what_they_can_not_be_is_refused(self, make):
        cache = make()
        with pytest.raises(ValueError, match="kind is 'static', 'dynamic', 'realtime' or ''"):
            cache.set("k", 1, kind="statik")
        with pytest.raises(ValueError, match="at most 2000 characters"):
            cache.set("k", 1, cost={"model": "x" * 2000})
        with pytest.raises(TypeError, match=r"the cost\['seconds'\]"):
            cache.set("k", 1, cost={"seconds": math.inf})
        assert "k" not in cache
