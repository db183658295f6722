"""Who goes first from the prefix tree where it is not simply the oldest: what all such rankings share.

A ranking says what a leaf is worth, and the leaf worth least goes. It looks at a few leaves at a time, going
round all of them, and keeps the least in view, so that a call costs the same however many there are.
And it decides about those who come: what is worth less than the least of them is not let in.

It remembers how blocks were used also of those that are gone, by a digest, so that a prompt that comes back
is known. Blocks that were last asked for together share one record.

Source: Beckmann, Chen and Cidon, LHD: improving cache hit rate by maximizing hit density, 2018 (ranking a
sample); Corbato, A paging experiment with the Multics system, 1968 (going round).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from operator import itemgetter
from typing import Any, Literal, Protocol

PolicyName = Literal["lru", "lfu", "adaptive"]

_LOOKED_AT = 32
_REMAINING = 32
"""Of those, so many of the least stay in view, so that before long the least of all are among them."""
_NAME_BYTES = 8
_LEAST_REMEMBERED = 4096
_REMEMBERED_PER_BLOCK = 8
"""A name and its place in the table take about 200 bytes; keys and values a thousand times that."""


@dataclass(eq=False, slots=True)
class Uses:
    """How some blocks were used that were last asked for together."""

    requests: float
    """How many asked for them, as far as that is remembered and still counts."""
    new_blocks: int
    """How many blocks the last of these asked for that were unknown."""
    used_at_seconds: float
    """When the last of these came, by the clock."""
    used_by: int
    """Which request that was, counted from the start."""
    is_open: bool = False
    """Whether their next use is waited for, to learn from."""


class Leaf(Protocol):
    """A block as a ranking sees it."""

    name: int
    uses: Uses | None
    parent: Any
    """The block in front of it; at the start of a prompt one that stands for the namespace."""


@dataclass(frozen=True, slots=True)
class Least:
    """Who goes first."""

    leaf: Any
    """The tree's own node."""
    worth: float


def name_after(before: int, key: bytes) -> int:
    """Return the name of a block behind another: a digest of all tokens up to its end.

    Two blocks of one name would be ranked alike, and nothing else: payloads are never found by it.
    """
    data = before.to_bytes(_NAME_BYTES) + key
    return int.from_bytes(blake2b(data, digest_size=_NAME_BYTES).digest())


class Ranking(ABC):
    """Ranks the leaves of one tree, and remembers how blocks were used.

    Not thread-safe by itself, as the tree.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[int, Uses] = OrderedDict()
        """Of blocks that are not held, the one longest not asked for first."""
        self._leaves: list[Leaf] = []
        self._places: dict[Leaf, int] = {}
        self._hand = 0
        self._in_view: list[Leaf] = []
        self._next: tuple[Leaf, float] | None = None
        """The parent of what went last, where it was used alike, and what that was worth."""
        self._held = 0
        self._requests = 0

    @abstractmethod
    def worth(self, uses: Uses, now_seconds: float) -> float:
        """Return what blocks are worth that were so used; only the order matters."""

    def _carried(self, uses: Uses) -> float:
        """Return how much the requests up to now count beside a new one."""
        return uses.requests

    def _used(self, before: Uses | None, after: Uses) -> None:  # noqa: B027 - not every ranking learns
        """Note a use, to learn from: `before` is None for blocks that are not known."""

    def _learn(self, now_seconds: float) -> None:  # noqa: B027
        """Called after each request."""

    # What happens in the tree

    def asked(self, held: Sequence[Leaf], behind: Iterable[int], now_seconds: float) -> None:
        """Note that a request asks for these blocks.

        Args:
            held: of the tree, from the first block of the prompt on.
            behind: names of the blocks of the prompt that are not held.
            now_seconds: when it came.

        Cost: O(blocks).
        """
        self._requests += 1
        missing = list(behind)
        new = sum(name not in self._known for name in missing)
        renewed: dict[Uses | None, Uses] = {}
        for leaf in held:
            leaf.uses = self._renewed(renewed, leaf.uses, new, now_seconds)
        for name in missing:
            self._known[name] = self._renewed(renewed, self._known.get(name), new, now_seconds)
            self._known.move_to_end(name)
        self._forget_oldest()
        self._learn(now_seconds)

    def _renewed(
        self, renewed: dict[Uses | None, Uses], before: Uses | None, new: int, now_seconds: float
    ) -> Uses:
        uses = renewed.get(before)
        if uses is None:
            carried = self._carried(before) if before else 0.0
            uses = renewed[before] = Uses(carried + 1, new, now_seconds, self._requests)
            self._used(before, uses)
        return uses

    def uses_of(self, name: int, parent: Leaf, now_seconds: float) -> Uses:
        """Return how a block that is about to be held was used: as its parent, where nobody asked for it."""
        return self._known.get(name) or parent.uses or Uses(1.0, 1, now_seconds, self._requests)

    def added(self, leaf: Leaf, now_seconds: float) -> None:
        """Note that a block is held now, as a leaf."""
        leaf.uses = self.uses_of(leaf.name, leaf.parent, now_seconds)
        self._known.pop(leaf.name, None)
        self._held += 1
        self.opened(leaf)

    def removed(self, leaf: Leaf) -> None:
        """Note that a leaf is not held any more."""
        self.covered(leaf)
        self._held -= 1
        if leaf.uses is not None:
            self._known[leaf.name] = leaf.uses
        self._forget_oldest()

    def covered(self, leaf: Leaf) -> None:
        """Note that a block is no leaf any more, or that it is pinned."""
        place = self._places.pop(leaf, None)
        if place is None:
            return
        last = self._leaves.pop()
        if last is not leaf:
            self._leaves[place] = last
            self._places[last] = place
        if self._next is not None and self._next[0] is leaf:
            self._next = None

    def opened(self, leaf: Leaf) -> None:
        """Note that a block became a leaf."""
        self._places[leaf] = len(self._leaves)
        self._leaves.append(leaf)

    def forget(self) -> None:
        """Forget the names of all blocks that are not held."""
        self._known.clear()

    def _forget_oldest(self) -> None:
        most = max(_LEAST_REMEMBERED, _REMEMBERED_PER_BLOCK * self._held)
        while len(self._known) > most:
            self._known.popitem(last=False)

    # What the tree asks

    def least(self, now_seconds: float, is_free: Callable[[Any], bool]) -> Least | None:
        """Return the leaf worth least of those looked at and its worth; None if none can go.

        Args:
            now_seconds: by the clock.
            is_free: whether a leaf may go; not, while somebody uses it.

        Cost: O(1), but where many leaves are in use.
        """
        if self._next is not None:
            leaf, bound = self._next
            if is_free(leaf) and leaf.uses and (worth := self.worth(leaf.uses, now_seconds)) <= bound:
                return Least(leaf, worth)
        self._next = None
        free = islice((leaf for leaf in self._round() if is_free(leaf)), _LOOKED_AT)
        seen = {leaf: None for leaf in self._in_view if leaf in self._places and is_free(leaf)}
        seen.update(dict.fromkeys(free))
        ranked = sorted(
            (
                (self.worth(leaf.uses, now_seconds), leaf.uses.used_at_seconds, leaf)
                for leaf in seen
                if leaf.uses
            ),
            key=itemgetter(0, 1),
        )
        self._in_view = [leaf for _, _, leaf in ranked[:_REMAINING]]
        return Least(ranked[0][2], ranked[0][0]) if ranked else None

    def _round(self) -> Iterator[Leaf]:
        """Yield every leaf once, from the hand on; it stays where the caller stops."""
        for _ in range(len(self._leaves)):
            self._hand = (self._hand + 1) % len(self._leaves)
            yield self._leaves[self._hand]

    def uncovered(self, parent: Leaf, child: Leaf, worth: float | None) -> None:
        """Note that `parent` became a leaf when `child` went, which was evicted for its `worth`, if any."""
        self.opened(parent)
        if worth is not None and parent.uses is child.uses:
            self._next = parent, worth

    # Looking around

    def check_invariants(self, leaves: Iterable[Leaf]) -> None:
        """Raise AssertionError if the ranking does not know exactly these leaves. For tests."""
        if set(self._places) != set(leaves):
            raise AssertionError("the ranking has other leaves than the tree")
        if any(self._leaves[place] is not leaf for leaf, place in self._places.items()):
            raise AssertionError("a leaf is not where it should be")
        if len(self._leaves) != len(self._places):
            raise AssertionError("the leaves and their places differ")
