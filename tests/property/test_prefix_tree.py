"""Random operations on the prefix tree, against a model too simple to be wrong."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import CapacityError
from axolotl_cache.prefix import Fence, Lease, PrefixTree, make_ranking

BLOCK = 2
TTL = 100
MAX_BLOCKS = 6

prompts = st.lists(st.integers(0, 1), max_size=9)
namespaces = st.sampled_from(["a", "b"])
fences = st.lists(st.builds(Fence, st.integers(0, 8), st.sampled_from(["x", "y"])), max_size=2).map(
    lambda found: tuple(sorted(found, key=lambda fence: fence.position_tokens))
)


@dataclass(frozen=True)
class Blob:
    prefix: tuple[int, ...]
    namespace: str
    fenced: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """The blocks up to here that have fences in them."""
    nbytes: int = 1


def blob(tokens, index, namespace, fences) -> Blob:
    blocks = sorted({fence.position_tokens // BLOCK for fence in fences})
    fenced = tuple(
        (at, tuple(f.name for f in fences if f.position_tokens // BLOCK == at))
        for at in blocks
        if at <= index
    )
    return Blob(tuple(tokens[: (index + 1) * BLOCK]), namespace, fenced)


class TreeMachine(RuleBasedStateMachine):
    """The model: whatever is found was put there, for exactly these tokens, in this namespace."""

    policy = "lru"
    matches = Bundle("matches")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.tree = PrefixTree[Blob](
            block_size=BLOCK,
            max_bytes=MAX_BLOCKS,
            ttl_seconds=TTL,
            clock=self.clock,
            ranking=make_ranking(self.policy),
        )
        self.pinned: set[tuple[str, tuple[int, ...]]] = set()
        self.leases = [Lease() for _ in range(3)]

    @rule(tokens=prompts, namespace=namespaces, fences=fences, lease=st.none() | st.integers(0, 2))
    def insert(self, tokens, namespace, fences, lease):
        held = self.tree.insert(
            tokens,
            lambda i: blob(tokens, i, namespace, fences),
            1,
            namespace=namespace,
            fences=fences,
            lease=None if lease is None else self.leases[lease],
        )
        assert [b.prefix for b in held] == [tuple(tokens[: (i + 1) * BLOCK]) for i in range(len(held))]

    @rule(tokens=st.lists(st.integers(0, 1), min_size=BLOCK, max_size=BLOCK), namespace=namespaces)
    def pin(self, tokens, namespace):
        if len(self.pinned | {(namespace, tuple(tokens))}) > 2:
            return
        try:
            self.tree.insert(
                tokens, lambda _: Blob(tuple(tokens), namespace), 1, namespace=namespace, pinned=True
            )
        except CapacityError:
            assert self.tree.stats.held_blocks == self.tree.max_bytes  # all in use: nothing could make room
        else:
            self.pinned.add((namespace, tuple(tokens)))

    @rule(target=matches, tokens=prompts, namespace=namespaces, fences=fences)
    def match(self, tokens, namespace, fences):
        self.tree.expire()
        known = self.tree.peek(tokens, namespace=namespace, fences=fences)
        match = self.tree.match(tokens, namespace=namespace, fences=fences)
        assert match.tokens == known <= max(len(tokens) - 1, 0)
        assert match.tokens == len(match.payloads) * BLOCK
        for i, found in enumerate(match.payloads):
            assert found == blob(tokens, i, namespace, fences)
        is_open = not fences or fences[0].position_tokens >= BLOCK
        if (namespace, tuple(tokens[:BLOCK])) in self.pinned and len(tokens) > BLOCK and is_open:
            assert match.tokens >= BLOCK
        if match.difference is not None:
            assert match.tokens <= match.difference.position_tokens < len(tokens)
        return match

    @rule(match=consumes(matches))
    def release(self, match):
        again = self.tree.match([*_tokens(match), 9], namespace=match.namespace, fences=_fences(match))
        assert again.tokens == match.tokens  # held: still there
        self.tree.release(again)
        self.tree.release(match)

    @rule(seconds=st.integers(1, TTL))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.tree.expire()

    @rule(number=st.integers(0, 2))
    def end(self, number):
        """A session ends: nothing is held under its lease, and another one begins."""
        lease = self.leases[number]
        self.tree.end(lease)
        assert not lease.is_held
        self.leases[number] = Lease()

    @rule(number=st.integers(0, 2))
    def use(self, number):
        """A turn of a session is under way: what its lease holds can't be evicted meanwhile."""
        lease = self.leases[number]
        lease.users += 1
        before = list(lease.tips)
        self.tree.shrink_to(0)
        assert list(lease.tips) == before
        lease.users -= 1

    @rule(name=st.sampled_from(["x", "y"]))
    def clear_fenced(self, name):
        self.tree.clear_fenced(name)

    @rule(to=st.integers(0, MAX_BLOCKS))
    def shrink(self, to):
        stats, most = self.tree.stats, self.tree.leased_share * to
        leased, others = stats.leased_bytes, stats.held_bytes - stats.leased_bytes
        self.tree.shrink_to(to)
        if stats.leased_bytes < leased and stats.leased_bytes + 1 <= most:
            # The last that went was within their share: then nothing else could go.
            assert not any(self.tree._is_free(node) for node in self.tree._recency)
        if stats.held_bytes - stats.leased_bytes < others and stats.leased_bytes > most:
            assert not any(self.tree._is_free(node) for node in self.tree._leased)

    @rule(share=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    def split(self, share):
        self.tree.leased_share = share

    @rule(to=st.integers(1, MAX_BLOCKS))
    def bound(self, to):
        """A lower bound, as far as what is held allows, or a higher one."""
        self.tree.shrink_to(to)
        self.tree.max_bytes = max(to, self.tree.stats.held_bytes)

    @invariant()
    def sound(self):
        self.tree.check_invariants()


def _tokens(match) -> tuple[int, ...]:
    return match.payloads[-1].prefix if match.payloads else ()


def _fences(match) -> tuple[Fence, ...]:
    fenced = match.payloads[-1].fenced if match.payloads else ()
    return tuple(Fence(at * BLOCK, name) for at, names in fenced for name in names)


class LfuTreeMachine(TreeMachine):
    policy = "lfu"


class AdaptiveTreeMachine(TreeMachine):
    policy = "adaptive"

    def __init__(self):
        super().__init__()
        for n in range(40):  # so that it has learned something, and ranks by it
            match = self.tree.match([n % 8, n % 2, 9], namespace="a")
            self.tree.release(match)
            self.clock.advance(2)


class TenantTreeMachine(TreeMachine):
    """Two tenants, one of which may hold little."""

    bound_blocks = 3

    def __init__(self):
        super().__init__()
        self.tree.tenants.name("a", "ann")
        self.tree.tenants.name("b", "bob")
        self.tree.tenants.bound_of = {"bob": self.bound_blocks}.get

    @invariant()
    def within_its_bound(self):
        assert self.tree.tenants.held_bytes("bob") <= self.bound_blocks


class AdaptiveTenantTreeMachine(TenantTreeMachine):
    policy = "adaptive"


TreeMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestTree = TreeMachine.TestCase
LfuTreeMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestLfuTree = LfuTreeMachine.TestCase
AdaptiveTreeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestAdaptiveTree = AdaptiveTreeMachine.TestCase
TenantTreeMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestTenantTree = TenantTreeMachine.TestCase
AdaptiveTenantTreeMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestAdaptiveTenantTree = AdaptiveTenantTreeMachine.TestCase
