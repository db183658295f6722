"""What every policy must do. A new one joins by one line in `POLICIES`; what only some do has a control."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from axolotl_cache.stores.adaptive import AdaptivePolicy
from axolotl_cache.stores.policies import LfuPolicy, LruPolicy, Policy, RankedKeys, make_policy
from axolotl_cache.stores.sketch import FrequencySketch

POLICIES: dict[str, Callable[[int], Policy]] = {
    "lru": lambda capacity: make_policy("lru", capacity, Random(1)),
    "lfu": lambda capacity: make_policy("lfu", capacity, Random(1)),
    "adaptive": lambda capacity: make_policy("adaptive", capacity, Random(1)),
}


class Keys:
    """A cache of keys alone, evicting as a store does."""

    def __init__(self, policy: Policy, capacity: int) -> None:
        self.policy, self.capacity = policy, capacity
        self.held: set[str] = set()
        self.evicted: list[str] = []

    def use(self, key: str) -> bool:
        """Return whether it was a hit; if not, it is stored."""
        if key in self.held:
            self.policy.hit(key)
            return True
        self.policy.add(key)
        self.held.add(key)
        while len(self.held) > self.capacity:
            goes = self.policy.judge(self.policy.lowest(spare=key))
            self.policy.drop(goes)
            self.held.remove(goes)
            self.evicted.append(goes)
        return False


@pytest.fixture(params=POLICIES)
def make(request):
    return POLICIES[request.param]


def zipf(rnd: Random, keys: int, uses: int) -> list[str]:
    weights = [1 / (rank + 1) for rank in range(keys)]
    return [f"k{n}" for n in rnd.choices(range(keys), weights, k=uses)]


def test_who_is_known_is_kept_and_nobody_twice(make):
    keys = Keys(make(20), 20)
    for key in zipf(Random(2), 200, 3000):
        keys.use(key)
        assert len(keys.held) <= 20
        assert key in keys.held, "what was just stored is there"
    order = keys.policy.order()
    assert sorted(order) == sorted(keys.held)
    assert len(keys.policy) == 20
    assert all(key in keys.policy for key in order)


def test_the_order_is_that_of_the_ranks(make):
    keys = Keys(make(20), 20)
    for key in zipf(Random(3), 60, 1000):
        keys.use(key)
    ranks = [keys.policy.rank(key) for key in keys.policy.order()]
    assert ranks == sorted(ranks)
    assert all(0 <= rank < 2**63 for rank in ranks)
    assert keys.policy.lowest(spare="") == keys.policy.order()[0]


def test_the_lowest_is_the_spared_one_only_if_it_is_alone(make):
    policy = make(5)
    policy.add("a")
    assert policy.lowest(spare="a") == "a"
    policy.add("b")
    assert policy.lowest(spare="a") == "b"
    assert policy.lowest(spare="b") == "a"


def test_emptying_it_ends_with_nothing(make):
    policy = make(50)
    for n in range(50):
        policy.add(f"k{n}")
    for n in range(0, 50, 3):
        policy.hit(f"k{n}")
    gone = []
    while len(policy):
        gone.append(policy.judge(policy.lowest(spare="")))
        policy.drop(gone[-1])
    assert sorted(gone) == sorted(f"k{n}" for n in range(50))


def test_what_is_dropped_is_forgotten(make):
    policy = make(5)
    for key in "abc":
        policy.add(key)
    policy.drop("b")
    policy.drop("never there")
    assert "b" not in policy
    assert sorted(policy.order()) == ["a", "c"]
    policy.hit("b")
    policy.hit("never there")
    assert sorted(policy.order()) == ["a", "c"]
    policy.add("b")
    assert sorted(policy.order()) == ["a", "b", "c"]


def test_it_tells_every_rank_that_changed_and_no_other(make):
    policy = make(9)
    told: dict[str, int] = {}
    for n, key in enumerate(zipf(Random(4), 12, 500)):
        (policy.hit if key in policy and n % 2 else policy.add)(key)
        if n % 7 == 0:
            told.pop(gone := policy.order()[0], None)
            policy.drop(gone)
        if n % 5 == 0:
            told |= policy.take_changes()
    told |= policy.take_changes()
    assert told == {key: policy.rank(key) for key in policy.order()}
    assert policy.take_changes() == {}


def test_a_rank_survives_a_restart(make):
    before, after = make(9), make(9)
    for key in zipf(Random(5), 9, 300):
        before.add(key)
    after.uses = before.uses
    for key in reversed(before.order()):
        after.restore(key, before.rank(key))
    assert after.order() == before.order()
    assert after.lowest(spare="") == before.lowest(spare="")
    assert after.scale == before.scale
    after.add("new")
    assert after.lowest(spare="new") == before.lowest(spare="")


def test_entries_of_another_scale_keep_their_order(make):
    policy = make(9)
    ranks = [policy.first_rank(use) for use in range(1, 20)]
    assert ranks == sorted(ranks)
    policy.uses = 20
    for use, key in ((3, "c"), (2, "b"), (1, "a")):
        policy.restore(key, policy.first_rank(use))
    assert sorted(policy.order(), key=policy.rank) == ["a", "b", "c"]
    policy.add("d")
    assert policy.lowest(spare="") == "a"


@pytest.mark.parametrize("name", POLICIES)
def test_equal_uses_give_equal_evictions_in_every_process(name):
    program = (
        "from random import Random; from axolotl_cache.stores.policies import make_policy\n"
        f"p = make_policy({name!r}, 9, Random(1)); held = set(); r = Random(6)\n"
        "for _ in range(2000):\n"
        "    key = f'k{int(r.expovariate(0.05))}'; p.add(key); held.add(key)\n"
        "    if len(held) > 9:\n"
        "        gone = p.judge(p.lowest(key)); p.drop(gone); held.remove(gone); print(gone)\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) > 100


def hot_after_a_scan(policy: Policy, capacity: int = 100) -> float:
    """Return the share of a hot set, half the capacity, that a scan of 10 x capacity one-timers leaves."""
    rnd, keys = Random(7), Keys(policy, capacity)
    hot = [f"hot{n}" for n in range(capacity // 2)]
    for _ in range(20 * capacity):
        keys.use(rnd.choice(hot))
    for n in range(10 * capacity):
        keys.use(f"once{n}")
    return sum(key in keys.held for key in hot) / len(hot)


@pytest.mark.parametrize("name", ["lfu", "adaptive"])
def test_a_scan_leaves_what_is_often_used(name):
    assert hot_after_a_scan(POLICIES[name](100)) >= 0.9


def test_a_scan_takes_everything_from_lru():
    # the control of the test above, and the reason why there are others
    assert hot_after_a_scan(LruPolicy()) == 0


def hits_after_a_shift(policy: Policy, capacity: int = 100) -> float:
    """Return the hit rate on a new hot set, nearly as large as the cache, 20 x capacity after a shift.

    The old one was used for 50 x capacity; one use of ten is of a key that never comes again.
    """
    rnd, keys = Random(8), Keys(policy, capacity)

    def run(hot: str, uses: int) -> float:
        hits = asked = 0
        for n in range(uses):
            if n % 10 == 0:
                keys.use(f"once, {hot}, {uses}, {n}")
            else:
                asked += 1
                hits += keys.use(f"{hot}{rnd.randrange(9 * capacity // 10)}")
        return hits / asked

    run("old", 50 * capacity)
    run("new", 20 * capacity)
    return run("new", 2 * capacity)


def test_a_shift_of_what_is_hot_is_learnt(make):
    assert hits_after_a_shift(make(100)) >= 0.85


def test_who_never_forgets_does_not_learn_a_shift():
    # the control of the test above: the same counts, with a half-life that never comes
    assert hits_after_a_shift(LfuPolicy(100_000)) < 0.3


def test_the_window_grows_where_the_recent_is_wanted_and_stays_small_where_it_is_not():
    shares = {}
    for workload in ("recent", "frequent"):
        policy, rnd = AdaptivePolicy(100, Random(1)), Random(9)
        keys = Keys(policy, 100)
        often = iter(zipf(rnd, 1000, 20_000))
        for n in range(20_000):
            keys.use(f"k{n // 3 - int(rnd.expovariate(1 / 30))}" if workload == "recent" else next(often))
        shares[workload] = policy.window_share
    assert shares["recent"] > 0.5
    assert shares["frequent"] < 0.5


def test_keys_made_to_collide_get_in_by_luck_now_and_then():
    wins = 0
    for seed in range(2000):
        policy = AdaptivePolicy(10, Random(seed))
        for key in "abcde":
            policy.add(key)
        wins += policy.judge(policy.lowest(spare="e")) == policy.lowest(spare="e")
    assert 2 <= wins <= 60


def test_the_sketch_counts_and_forgets():
    sketch = FrequencySketch(1000)
    for n in range(1000):
        for _ in range(n % 5):
            sketch.add(f"k{n}")
    counts = [sketch.count(f"k{n}") for n in range(1000)]
    assert all(count >= n % 5 for n, count in enumerate(counts)), "never too low"
    assert sum(count == n % 5 for n, count in enumerate(counts)) > 980
    sketch.halve()
    assert [sketch.count(f"k{n}") for n in range(1000)] == [count // 2 for count in counts]
    for _ in range(300):
        sketch.add("often")
    assert sketch.count("often") == 255


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="one of lru, lfu, adaptive, not 'fifo'"):
        make_policy("fifo", 9, Random(1))


class Naive:
    """Every use of every key, written down; the lowest is found by looking at all of it."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.now = capacity, 0
        self.times: dict[str, list[int]] = {}

    def use(self, key: str) -> None:
        self.now += 1
        self.times.setdefault(key, []).append(self.now)

    def lowest(self) -> set[str]:
        weights = {key: self.weight(times) for key, times in self.times.items()}
        return {key for key, weight in weights.items() if weight <= min(weights.values()) * (1 + 1e-5)}


class NaiveLru(Naive):
    def weight(self, times: list[int]) -> float:
        return times[-1]


class NaiveLfu(Naive):
    def weight(self, times: list[int]) -> float:
        return sum(2.0 ** ((time - self.now) / (5 * self.capacity)) for time in times)


class AgainstNaive(RuleBasedStateMachine):
    """`lru` and `lfu` against a list of all uses."""

    CAPACITY = 4
    made: Callable[[int], Policy]
    naive: type[Naive]

    def __init__(self):
        super().__init__()
        self.policy, self.model = type(self).made(self.CAPACITY), type(self).naive(self.CAPACITY)

    @rule(key=st.sampled_from("abcdef"), again=st.integers(1, 4))
    def add(self, key, again):
        for _ in range(again):
            self.policy.add(key)
            self.model.use(key)

    @rule(key=st.sampled_from("abcdef"))
    def hit(self, key):
        self.policy.hit(key)
        if key in self.model.times:
            self.model.use(key)

    @rule(key=st.sampled_from("abcdef"))
    def drop(self, key):
        self.policy.drop(key)
        self.model.times.pop(key, None)

    @rule()
    def forget_the_lowest(self):
        if self.model.times:
            lowest = self.policy.judge(self.policy.lowest(spare=""))
            self.policy.drop(lowest)
            assert lowest in self.model.lowest()
            del self.model.times[lowest]

    @invariant()
    def agrees(self):
        assert sorted(self.policy.order()) == sorted(self.model.times)
        if self.model.times:
            assert self.policy.lowest(spare="") in self.model.lowest()


class AdaptiveMachine(RuleBasedStateMachine):
    """Whatever comes, the three lists of `adaptive` hold each key once, and bear one rank each."""

    def __init__(self):
        super().__init__()
        self.policy, self.known = AdaptivePolicy(6, Random(1)), set()

    @rule(keys=st.lists(st.integers(0, 30), max_size=60))
    def use(self, keys):
        for key in keys:
            self.policy.add(str(key))
            self.known.add(str(key))
            if len(self.known) > 6:
                goes = self.policy.judge(self.policy.lowest(spare=str(key)))
                assert goes != str(key)
                self.policy.drop(goes)
                self.known.remove(goes)

    @rule(key=st.integers(0, 30))
    def hit(self, key):
        self.policy.hit(str(key))

    @rule(key=st.integers(0, 30))
    def drop(self, key):
        self.policy.drop(str(key))
        self.known.discard(str(key))

    @invariant()
    def holds(self):
        listed = [key for segment in self.policy._segments for key in segment]
        assert sorted(listed) == sorted(self.known) == sorted(self.policy._ranks)
        assert listed == self.policy.order()
        assert 0.01 <= self.policy.window_share <= 0.8


QUICK = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize(("name", "naive"), [("lru", NaiveLru), ("lfu", NaiveLfu)])
def test_any_sequence_of_uses_agrees_with_the_naive_policy(name, naive):
    machine = type(name, (AgainstNaive,), {"made": staticmethod(POLICIES[name]), "naive": naive})
    run_state_machine_as_test(machine, settings=QUICK)


def test_any_sequence_of_uses_leaves_adaptive_whole():
    run_state_machine_as_test(AdaptiveMachine, settings=QUICK)


class FirstInFirstOut(LruPolicy):
    def hit(self, key):
        pass


class CountsOnly(LfuPolicy):
    def first_rank(self, use):
        return 0


class LosesTrack(AdaptivePolicy):
    def drop(self, key):
        RankedKeys.drop(self, key)


@pytest.mark.parametrize(
    ("mistaken", "naive"), [(FirstInFirstOut, NaiveLru), (CountsOnly, NaiveLfu), (LosesTrack, None)]
)
def test_a_mistaken_policy_is_found_out(mistaken, naive, monkeypatch):
    if naive is None:
        monkeypatch.setattr(AdaptivePolicy, "drop", mistaken.drop)
        machine = AdaptiveMachine
    else:
        made = mistaken if mistaken is not FirstInFirstOut else lambda capacity: mistaken()
        machine = type("Mistaken", (AgainstNaive,), {"made": staticmethod(made), "naive": naive})
    quiet = settings(QUICK, max_examples=200, phases=[Phase.generate], print_blob=False, database=None)
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(machine, settings=quiet)
