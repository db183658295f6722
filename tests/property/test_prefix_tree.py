"""Random operations on the prefix tree, against a model too simple to be wrong."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from axolotl_cache.clock import ManualClock
from axolotl_cache.errors import CapacityError
from axolotl_cache.prefix import PrefixTree, make_ranking

BLOCK = 2
TTL = 100
MAX_BLOCKS = 6

prompts = st.lists(st.integers(0, 1), max_size=9)
namespaces = st.sampled_from(["a", "b"])


@dataclass(frozen=True)
class Blob:
    prefix: tuple[int, ...]
    namespace: str
    nbytes: int = 1


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

    @rule(tokens=prompts, namespace=namespaces)
    def insert(self, tokens, namespace):
        held = self.tree.insert(
            tokens,
            lambda i: Blob(tuple(tokens[: (i + 1) * BLOCK]), namespace),
            1,
            namespace=namespace,
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

    @rule(target=matches, tokens=prompts, namespace=namespaces)
    def match(self, tokens, namespace):
        self.tree.expire()
        known = self.tree.peek(tokens, namespace=namespace)
        match = self.tree.match(tokens, namespace=namespace)
        assert match.tokens == known <= max(len(tokens) - 1, 0)
        assert match.tokens == len(match.payloads) * BLOCK
        for i, blob in enumerate(match.payloads):
            assert blob == Blob(tuple(tokens[: (i + 1) * BLOCK]), namespace)
        if (namespace, tuple(tokens[:BLOCK])) in self.pinned and len(tokens) > BLOCK:
            assert match.tokens >= BLOCK
        if match.difference is not None:
            assert match.tokens <= match.difference.position_tokens < len(tokens)
        return match

    @rule(match=consumes(matches))
    def release(self, match):
        again = self.tree.match([*_tokens(match), 9], namespace=match.namespace)
        assert again.tokens == match.tokens  # held: still there
        self.tree.release(again)
        self.tree.release(match)

    @rule(seconds=st.integers(1, TTL))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.tree.expire()

    @rule(to=st.integers(0, MAX_BLOCKS))
    def shrink(self, to):
        self.tree.shrink_to(to)

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


TreeMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestTree = TreeMachine.TestCase
LfuTreeMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestLfuTree = LfuTreeMachine.TestCase
AdaptiveTreeMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestAdaptiveTree = AdaptiveTreeMachine.TestCase
