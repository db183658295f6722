"""The cache against a naive model of it: any sequence of operations gives the same answers.

With persistence, with two objects on one folder taking turns (as two processes), and with reopening as an
operation. A model with a mistake in it must be found out, too: see the last test.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock

CAPACITY = 4
LARGE = "large" * 30_000
TIMEOUT = 50.0

keys = st.sampled_from(["a", "b", "c", "d", "e", "f", "\ud800"])
values = st.sampled_from(["", "text", "\ud83d\ude00", b"\x00", None, 0, 1.5, [1, {"a": []}], LARGE])
ttls = st.sampled_from([None, 0, 1, 20.5, 200, float("inf")])
tags = st.lists(st.sampled_from(["red", "blue"]), max_size=2, unique=True)


@dataclass
class Stored:
    value: object
    created_at: float
    expires_at: float
    tags: tuple[str, ...]


class Model:
    """A dict in order of use, and nothing clever."""

    def __init__(self) -> None:
        self.entries: dict[str, Stored] = {}

    def purge(self, now):
        self.entries = {k: e for k, e in self.entries.items() if now < e.expires_at}

    def use(self, key):
        self.entries[key] = self.entries.pop(key)

    def set(self, key, entry, now):
        self.entries.pop(key, None)
        if entry.expires_at <= now:
            return
        self.entries[key] = entry
        if len(self.entries) > CAPACITY:
            self.purge(now)
        while len(self.entries) > CAPACITY:
            del self.entries[next(iter(self.entries))]

    def remove(self, condition):
        gone = [k for k, e in self.entries.items() if condition(k, e)]
        for key in gone:
            del self.entries[key]
        return len(gone)


class CacheMachine(RuleBasedStateMachine):
    persistent = True
    model_class = Model

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.folder = tempfile.TemporaryDirectory()
        self.model = self.model_class()
        self.caches = [self.open()]

    def open(self):
        path = self.folder.name if self.persistent else None
        return SmartInferenceCache(CAPACITY, TIMEOUT, path, clock=self.clock)

    @initialize(second=st.booleans())
    def start(self, second):
        if second and self.persistent:
            self.caches.append(self.open())

    @property
    def cache(self):
        return self.caches[0]

    @rule()
    def take_turns(self):
        self.caches.append(self.caches.pop(0))

    @precondition(lambda self: self.persistent)
    @rule()
    def reopen(self):
        self.cache.close()
        self.caches[0] = self.open()

    @rule(key=keys, value=values, ttl=ttls, tags=tags)
    def set(self, key, value, ttl, tags):
        self.cache.set(key, value, ttl=ttl, tags=tags)
        now = self.clock()
        expires_at = now + (TIMEOUT if ttl is None else ttl)
        self.model.set(key, Stored(value, now, expires_at, tuple(tags)), now)

    @rule(key=keys)
    def get(self, key):
        self.cache._tiers._promises.withdraw()
        self.same_answer(key, self.cache.get(key, "nothing"))

    @rule(key=keys)
    def contains_then_get(self, key):
        self.model.purge(self.clock())
        if self.cache.contains(key):
            assert key in self.model.entries
            self.same_answer(key, self.cache.get(key, "nothing"))
        else:
            assert key not in self.model.entries

    @rule(key=keys)
    def lookup(self, key):
        entry = self.cache.lookup(key)
        if entry is None:
            self.same_answer(key, "nothing")
        else:
            stored = self.model.entries[key]
            assert (entry.tags, entry.created_at) == (stored.tags, stored.created_at)
            assert entry.expires_at == (None if stored.expires_at == float("inf") else stored.expires_at)
            self.same_answer(key, entry.value)

    @rule(key=keys, value=values)
    def get_or_compute(self, key, value):
        answer = self.cache.get_or_compute(key, lambda: value)
        self.model.purge(self.clock())
        now = self.clock()
        if key in self.model.entries:
            self.same_answer(key, answer)
        else:
            assert answer == value
            self.model.set(key, Stored(value, now, now + TIMEOUT, ()), now)

    @rule(key=keys)
    def invalidate_key(self, key):
        self.model.purge(self.clock())
        assert self.cache.invalidate(key) == self.model.remove(lambda k, e: k == key)
        assert self.cache.get(key, "nothing") == "nothing"

    @rule(tag=st.sampled_from(["red", "blue"]))
    def invalidate_tag(self, tag):
        self.model.purge(self.clock())
        assert self.cache.invalidate(tag=tag) == self.model.remove(lambda k, e: tag in e.tags)

    @rule(seconds=st.sampled_from([0, 5, 30]))
    def invalidate_old(self, seconds):
        self.model.purge(self.clock())
        limit = self.clock() - seconds
        assert self.cache.invalidate(older_than_seconds=seconds) == self.model.remove(
            lambda k, e: e.created_at < limit
        )

    @rule()
    def clear(self):
        self.cache.cache_clear()
        self.model.entries.clear()

    @rule(seconds=st.sampled_from([0.5, 3, 19.5, 60]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)
        for cache in self.caches:
            # promises have their own tests; here they would only hide what the cache itself does
            cache._tiers._promises.withdraw()

    def same_answer(self, key, answer):
        self.model.purge(self.clock())
        if key in self.model.entries:
            expected = self.model.entries[key].value
            assert type(answer) is type(expected)
            assert answer == expected
            self.used(key)
        else:
            assert answer == "nothing"

    def used(self, key):
        self.model.use(key)
        if len(self.caches) > 1:
            # What was used here is told to the other object when this one writes next; make it do so, as
            # the model has one order of use only.
            list(self.cache)

    # A rule and no invariant: looking writes down what was used, which should also happen late, or never.
    @rule()
    def look_at_all(self):
        for cache in self.caches:
            cache._tiers._promises.withdraw()
        self.model.purge(self.clock())
        assert sorted(self.cache) == sorted(self.model.entries)
        assert list(self.cache) == list(self.model.entries)
        assert len(self.cache) == len(self.model.entries)
        tiers = self.cache._tiers
        tiers._memory.check_invariants()
        if tiers._disk is not None:
            tiers._disk.check_invariants()

    def teardown(self):
        try:
            self.look_at_all()
        finally:
            for cache in self.caches:
                cache.close()
            self.folder.cleanup()


class MemoryMachine(CacheMachine):
    persistent = False


QUICK = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("machine", [CacheMachine, MemoryMachine])
def test_any_sequence_of_operations_agrees_with_the_model(machine):
    run_state_machine_as_test(machine, settings=QUICK)


class FirstInFirstOut(Model):
    def use(self, key):
        pass


class ForgetsToExpire(Model):
    def purge(self, now):
        pass


@pytest.mark.parametrize("mistaken", [FirstInFirstOut, ForgetsToExpire])
def test_a_mistaken_model_is_found_out(mistaken):
    machine = type("Mistaken", (MemoryMachine,), {"model_class": mistaken})
    quiet = settings(QUICK, max_examples=200, phases=[Phase.generate], print_blob=False, database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=quiet)
