"""One bound for several caches: never exceeded, and bytes go where they save most, also when that changes."""

from random import Random

import pytest

from axolotl_cache.budget import Claim, Ghosts, MemoryBudget
from axolotl_cache.prefix import Lease, PrefixTree, TreeParts, make_ranking
from axolotl_cache.stores.base import Record, entry_bytes
from axolotl_cache.stores.memory import MemoryStore


class Page:
    nbytes = 1000


class Prefixes:
    """A real prefix tree as a tenant: a prompt that is not found costs `seconds` a block."""

    def __init__(self, seconds: float) -> None:
        self.ghosts = Ghosts()
        self.ghosts.seconds_each = seconds
        self.tree = PrefixTree[Page](block_size=1, max_bytes=1, ghosts=self.ghosts)

    @property
    def held_bytes(self) -> int:
        return self.tree.stats.held_bytes

    def resize(self, max_bytes: int) -> int:
        self.tree.shrink_to(max_bytes)
        self.tree.max_bytes = max(max_bytes, self.held_bytes)
        return self.tree.max_bytes

    def ask(self, number: int) -> int:
        tokens = [number, 1, 2, 3]
        match = self.tree.match([*tokens, 9], namespace="n")
        self.tree.insert(tokens, lambda index: Page(), Page.nbytes, namespace="n")
        self.tree.release(match)
        return match.tokens


class Answers:
    """A real memory store as a tenant: an answer that is not found costs `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.ghosts = Ghosts()
        self.store = MemoryStore(
            10_000, max_bytes=1000, ghosts=self.ghosts, saved_seconds=lambda record: seconds
        )

    @property
    def held_bytes(self) -> int:
        return self.store.size_bytes

    def resize(self, max_bytes: int) -> int:
        self.store.max_bytes = max_bytes
        self.store.shrink(0.0)
        return max_bytes

    def ask(self, number: int) -> bool:
        key = f"k{number}"
        if self.store.get(key) is not None:
            self.store.touch(key)
            return True
        self.ghosts.missed(key)
        self.store.put(key, Record(b"a" * 3700, "raw", 0.0), 0.0)
        return False


def shared(prefixes: Prefixes, answers: Answers, total: int = 640_000) -> MemoryBudget:
    return MemoryBudget([Claim("kv", prefixes, total // 2), Claim("answers", answers, total // 2)])


def drive(budget, prefixes, answers, *, kv_keys, answer_keys, rounds=150, seed=0):
    """Ask both for keys at random, and look after each round; the sums must hold all along."""
    rnd = Random(seed)
    for _ in range(rounds):
        for _ in range(40):
            prefixes.ask(rnd.randrange(kv_keys))
            answers.ask(rnd.randrange(answer_keys))
            assert prefixes.held_bytes + answers.held_bytes <= budget.max_bytes
        budget.look()
        assert sum(budget.bounds().values()) <= budget.max_bytes
        prefixes.tree.check_invariants()
    answers.store.check_invariants()
    return budget.bounds()


def test_bytes_go_to_whom_they_save_most_and_come_back_when_that_changes():
    prefixes, answers = Prefixes(seconds=0.25), Answers(seconds=1.0)
    budget = shared(prefixes, answers)
    first = drive(budget, prefixes, answers, kv_keys=140, answer_keys=20)
    assert first["kv"] > 0.8 * budget.max_bytes
    second = drive(budget, prefixes, answers, kv_keys=20, answer_keys=140)
    assert second["answers"] > 0.8 * budget.max_bytes


def test_of_two_that_want_all_the_one_that_saves_more_gets_more():
    prefixes, answers = Prefixes(seconds=2.5), Answers(seconds=0.1)
    bounds = drive(
        budget := shared(prefixes, answers), prefixes, answers, kv_keys=400, answer_keys=400, rounds=100
    )
    assert bounds["kv"] > 0.8 * budget.max_bytes
    assert bounds["answers"] >= budget.max_bytes // 16, "everybody keeps enough to show what it is good for"


def test_equals_stay_equal():
    prefixes, answers = Prefixes(seconds=0.25), Answers(seconds=1.0)
    budget = shared(prefixes, answers)
    bounds = drive(budget, prefixes, answers, kv_keys=120, answer_keys=120)
    assert 0.3 < bounds["kv"] / budget.max_bytes < 0.7


def test_one_that_fits_loses_nothing_for_good():
    """Its ghosts are silent while it fits; a step that it should have kept comes back."""
    prefixes, answers = Prefixes(seconds=0.25), Answers(seconds=0.01)
    budget = shared(prefixes, answers)
    drive(budget, prefixes, answers, kv_keys=75, answer_keys=4000, rounds=200)
    rnd = Random(3)
    found = sum(prefixes.ask(rnd.randrange(75)) for _ in range(500))
    assert found > 0.9 * 500 * 4


def test_what_is_in_use_is_not_given_away():
    prefixes, answers = Prefixes(seconds=0.01), Answers(seconds=1.0)
    budget = shared(prefixes, answers)
    for number in range(80):
        prefixes.ask(number)
    held = [prefixes.tree.match([n, 1, 2, 3, 9], namespace="n") for n in range(80)]
    bounds = drive(budget, prefixes, answers, kv_keys=80, answer_keys=400, rounds=40)
    assert bounds["kv"] >= sum(match.tokens for match in held) * Page.nbytes
    for match in held:
        prefixes.tree.release(match)


def test_nobody_gets_more_than_its_most():
    prefixes, answers = Prefixes(seconds=2.5), Answers(seconds=0.1)
    claims = [Claim("kv", prefixes, 320_000, most_bytes=340_000), Claim("answers", answers, 320_000)]
    bounds = drive(MemoryBudget(claims), prefixes, answers, kv_keys=400, answer_keys=400, rounds=60)
    assert bounds["kv"] <= 340_000


def test_a_move_is_reported():
    moves = []
    prefixes, answers = Prefixes(seconds=2.5), Answers(seconds=0.1)
    claims = [Claim("kv", prefixes, 320_000), Claim("answers", answers, 320_000)]
    drive(MemoryBudget(claims, report=moves.append), prefixes, answers, kv_keys=400, answer_keys=9, rounds=9)
    assert {(move.giver, move.taker) for move in moves} == {("answers", "kv")}
    assert all(move.moved_bytes <= 10_000 for move in moves)


def test_ghosts_are_bounded_and_count_once():
    ghosts = Ghosts(reach_bytes=30)
    for name in "abcd":
        ghosts.evicted(name, 10, 2.0)
    assert not ghosts.missed("a"), "the oldest is forgotten"
    assert ghosts.missed("b")
    assert not ghosts.missed("b")
    assert ghosts.lost_seconds == 2.0
    ghosts.forget()
    assert not ghosts.missed("c")


def test_a_budget_needs_caches_that_begin_with_something():
    with pytest.raises(ValueError, match="at least one"):
        MemoryBudget([])
    with pytest.raises(ValueError, match="begins with some bytes"):
        MemoryBudget([Claim("kv", Prefixes(1.0), 0)])


def test_the_sizes_in_these_tests_are_equal():
    assert entry_bytes("k10", Record(b"a" * 3700, "raw", 0.0)) == pytest.approx(4 * Page.nbytes, rel=0.05)


# Sessions: a part of the prefix tree, with a bound of its own


class Conversations:
    """A real tree whose bound is split: what is leased beside what is not."""

    def __init__(self, *, knows_sessions: bool = True) -> None:
        ghosts, leased = Ghosts(), Ghosts()
        self.tree = PrefixTree[Page](block_size=1, max_bytes=1, ghosts=ghosts, leased_ghosts=leased)
        self.parts = TreeParts(self.tree, ghosts, leased, self.resize)
        self.knows_sessions = knows_sessions
        self.leases: dict[int, Lease] = {}

    def resize(self, max_bytes: int) -> int:
        if not self.knows_sessions:  # as if leases went last, whatever they are good for
            self.tree.leased_share = 1.0
        self.tree.shrink_to(max_bytes)
        self.tree.max_bytes = max(max_bytes, self.tree.stats.held_bytes)
        return self.tree.max_bytes

    def ask(self, tokens, session=None) -> int:
        """Compute a prompt; return how many of its blocks had to be."""
        lease = None if session is None else self.leases.setdefault(session, Lease())
        match = self.tree.match([*tokens, 9], namespace="n")
        self.tree.insert(tokens, lambda index: Page(), Page.nbytes, namespace="n", lease=lease)
        self.tree.release(match)
        return len(tokens) - match.tokens

    def claims(self, each: int, most: int | None = None) -> list[Claim]:
        return [
            Claim("kv", self.parts.others, each, most_bytes=most, within="kv"),
            Claim("sessions", self.parts.sessions, each, most_bytes=most, within="kv"),
        ]


def dead_sessions(tree: Conversations, budget: MemoryBudget, rounds: int = 120) -> int:
    """Sessions of one turn, none of which comes back, beside prompts that do; blocks computed of these."""
    rnd, computed, new = Random(5), 0, 0
    for done in range(rounds):
        for _ in range(20):
            new += 1
            tree.ask([1_000_000 + 4 * new + n for n in range(4)], session=new)
            number = rnd.randrange(40)
            again = tree.ask([number, 1, 2, 3])
            computed += again if done >= rounds // 2 else 0
        budget.look()
        tree.tree.check_invariants()
        assert tree.tree.stats.held_bytes <= budget.max_bytes
    return computed


def test_sessions_that_never_come_back_give_way_to_what_does():
    tree = Conversations()
    budget = MemoryBudget(tree.claims(100 * Page.nbytes))
    asked = 120 // 2 * 20 * 4
    computed = dead_sessions(tree, budget)
    assert computed < 0.2 * asked
    assert budget.bounds()["kv"] > 1.5 * budget.bounds()["sessions"]


def test_control_leases_that_always_go_last_starve_everybody_else():
    tree = Conversations(knows_sessions=False)
    computed = dead_sessions(tree, MemoryBudget(tree.claims(100 * Page.nbytes)))
    assert computed > 0.8 * 120 // 2 * 20 * 4


def test_sessions_that_come_back_get_what_prompts_asked_once_hold():
    tree = Conversations()
    budget = MemoryBudget(tree.claims(100 * Page.nbytes))
    rnd, computed, asked = Random(6), 0, 0
    for done in range(150):
        for _ in range(20):
            session = rnd.randrange(40)
            found = tree.ask([7_000 + session, 1, 2, 3], session=session)
            if done >= 100:
                computed, asked = computed + found, asked + 4
            tree.ask([1_000_000 + 4 * rnd.randrange(10**6) + n for n in range(4)])
        budget.look()
    assert computed < 0.1 * asked
    assert budget.bounds()["sessions"] > 1.5 * budget.bounds()["kv"]
    assert sum(budget.bounds().values()) <= budget.max_bytes


def test_what_sessions_do_not_use_is_everybodys():
    tree = Conversations()
    budget = MemoryBudget(tree.claims(100 * Page.nbytes))
    for number in range(50):
        tree.ask([number, 1, 2, 3])
    assert tree.tree.stats.held_bytes == budget.max_bytes == 200 * Page.nbytes
    for session in range(25):
        tree.ask([5_000 + session, 1, 2, 3], session=session)
    assert tree.tree.stats.leased_bytes == 100 * Page.nbytes
    for session in range(99, 105):
        tree.ask([6_000 + session, 1, 2, 3], session=session)
    assert tree.tree.stats.leased_bytes <= 104 * Page.nbytes, "from here on sessions take from sessions"
    assert tree.ask([6_104, 1, 2, 3], session=104) == 0
    assert tree.ask([5_000, 1, 2, 3], session=0) == 4, "the one idle longest went"


def test_keys_and_values_stay_below_their_bound_together_and_answers_give_and_take():
    tree, answers = Conversations(), Answers(seconds=0.001)
    total = 200 * Page.nbytes
    claims = [*tree.claims(total // 2, most=total), Claim("answers", answers, total // 4)]
    budget = MemoryBudget(claims)
    rnd = Random(7)
    for _ in range(100):
        for _ in range(20):
            tree.ask([rnd.randrange(300), 1, 2, 3])
            session = rnd.randrange(300)
            tree.ask([7_000 + session, 1, 2, 3], session=session)
            answers.ask(rnd.randrange(300))
            assert tree.tree.stats.held_bytes + answers.held_bytes <= budget.max_bytes
        budget.look()
        bounds = budget.bounds()
        assert bounds["kv"] + bounds["sessions"] <= total
        assert sum(bounds.values()) <= budget.max_bytes
    assert tree.tree.max_bytes == bounds["kv"] + bounds["sessions"]


def test_a_policy_says_which_session_goes_first():
    """One that came back often outlives one of a single turn that was used after it; not with `lru`."""
    left = {}
    for policy in ("lru", "lfu"):
        tree = PrefixTree[Page](block_size=1, max_bytes=8 * Page.nbytes, ranking=make_ranking(policy))
        tree.leased_share = 0.5
        often, once = Lease(), Lease()
        for _ in range(9):
            tree.release(tree.match([1, 2, 3, 4, 9], namespace="n"))
            tree.insert([1, 2, 3, 4], lambda index: Page(), Page.nbytes, namespace="n", lease=often)
        tree.release(tree.match([5, 6, 7, 8, 9], namespace="n"))
        tree.insert([5, 6, 7, 8], lambda index: Page(), Page.nbytes, namespace="n", lease=once)
        tree.shrink_to(4 * Page.nbytes)
        tree.check_invariants()
        left[policy] = tree.peek([1, 2, 3, 4, 9], namespace="n"), tree.peek([5, 6, 7, 8, 9], namespace="n")
    assert left == {"lru": (0, 4), "lfu": (4, 0)}
