"""The prefix tree: which leading tokens are known, in whole blocks, and what to forget first.

Every node is one block of `block_size` tokens, and holds one payload (for the engine: the keys and values
of these tokens in every layer). A path from a root is a prefix; each namespace has a root of its own, all
under one bound in bytes. Children are found by the block's own token ids and not by a hash of them, so
that no collision can ever return another prompt's payload.

Forgetting is leaf first at no cost: a path is always touched from its end to its root, so that a parent is
newer than all of its children, and the oldest node in the tree is always a leaf. Other policies than
least-recently-used rank the leaves (`eviction.py`), and may refuse what is worth less than all of them.

This module knows no tensors and takes no lock: its owner (the engine) calls it from one thread at a time.

Source: RadixAttention (Zheng et al., SGLang, 2024), section 3; block-granular as vLLM's prefix caching.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from axolotl_cache.budget import Ghosts
from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.errors import CapacityError, NamespaceMismatch
from axolotl_cache.prefix.eviction import Ranking, Uses, name_after

_TOKEN_BYTES = 4
_NEIGHBOURS_COMPARED = 64
"""How many siblings a miss is compared with to say where it differs: a bound on the cost of explaining."""


class Payload(Protocol):
    """What a node holds. Only its size matters here."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


P = TypeVar("P", bound=Payload)


@dataclass(eq=False, slots=True)
class _Node(Generic[P]):
    key: bytes
    """The block's token ids, 4 bytes each; for a root, its namespace."""
    parent: _Node[P] | None
    payload: P | None
    """None only for a root."""
    children: dict[bytes, _Node[P]] = field(default_factory=dict)
    references: int = 0
    pinned: bool = False
    used_at_seconds: float = 0.0
    name: int = 0
    """What its ranking knows it by; 0 without one."""
    uses: Uses | None = None
    """How it was used, for its ranking."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a prompt leaves everything that is cached."""

    position_tokens: int
    """Index of the first token that nothing cached agrees with."""
    cached: tuple[int, ...]
    """What the nearest cached prompt goes on with, from there to the end of its block."""
    found: tuple[int, ...]
    """What this prompt has in the same place."""


@dataclass(frozen=True, slots=True)
class PrefixMatch(Generic[P]):
    """A cached prefix, held until it is released: its blocks can't be evicted meanwhile."""

    namespace: str
    tokens: int
    """Length of the prefix in tokens, a multiple of `block_size`."""
    payloads: tuple[P, ...]
    difference: Difference | None
    """None when the prompt ended, or nothing at all is cached behind the match."""
    nodes: tuple[_Node[P], ...] = field(repr=False)


@dataclass(slots=True)
class PrefixStats:
    """Counters since the start, in tokens, blocks and bytes."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    inserted_blocks: int = 0
    evicted_blocks: int = 0
    expired_blocks: int = 0
    refused_blocks: int = 0
    """Blocks that did not fit, because everything else was pinned, in use, or worth more."""
    held_bytes: int = 0
    pinned_bytes: int = 0
    held_blocks: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the queried tokens that were found."""
        return self.hit_tokens / self.queried_tokens if self.queried_tokens else 0.0


class PrefixTree(Generic[P]):
    """Longest-prefix lookup over whole blocks, with a hard bound in bytes.

    Args:
        block_size: tokens in a block.
        max_bytes: bound on the sum of the payloads' `nbytes`; never exceeded, not even for a moment. It may
            be changed: less takes effect with `shrink_to`.
        ttl_seconds: unpinned blocks that nobody used for this long are forgotten; None keeps them.
        clock: returns seconds.
        discard: is given each payload that the tree lets go of.
        ranking: says which leaf goes first, and who is let in; None is least recently used first, and all.
        ghosts: is told which blocks are evicted, and which of those are asked for after all. What having one
            again would save counts as 1: only the owner knows seconds.
    """

    def __init__(
        self,
        *,
        block_size: int,
        max_bytes: int,
        ttl_seconds: float | None = None,
        clock: Clock = wall_clock,
        discard: Callable[[P], None] = lambda payload: None,
        ranking: Ranking | None = None,
        ghosts: Ghosts | None = None,
    ) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; a block holds at least 1 token")
        self.block_size = block_size
        self.max_bytes = max_bytes
        self.ttl_seconds = ttl_seconds
        self.stats = PrefixStats()
        self._clock = clock
        self._discard = discard
        self._ranking = ranking
        self._ghosts = ghosts
        self._has_names = ranking is not None or ghosts is not None
        self._roots: dict[str, _Node[P]] = {}
        self._recency: OrderedDict[_Node[P], None] = OrderedDict()
        """Every unpinned node, oldest first."""

    # Looking up

    def match(self, tokens: Sequence[int], *, namespace: str) -> PrefixMatch[P]:
        """Return the longest cached prefix of `tokens`, and hold it until `release`.

        Cost: O(len(tokens)). Changes: recency, reference counts, counters; forgets what has expired.

        Args:
            tokens: prompt ids, T of them.
            namespace: digest of the namespace whose blocks may be used.

        Returns:
            k * block_size tokens, at the most T - 1: the last token is always computed, for its logits.
        """
        self.expire()
        keys = self._keys(tokens[: max(len(tokens) - 1, 0)])
        node = self._roots.get(namespace)
        path: list[_Node[P]] = []
        for key in keys:
            child = node.children.get(key) if node else None
            if child is None:
                break
            path.append(child)
            node = child
        self._touch(path)
        if self._has_names:
            last = path[-1].name if path else _root_name(namespace)
            self._asked(path, list(_names(last, keys[len(path) :])))
        for held in path:
            held.references += 1
        matched = len(path) * self.block_size
        self.stats.queried_tokens += len(tokens)
        self.stats.hit_tokens += matched
        return PrefixMatch(
            namespace=namespace,
            tokens=matched,
            payloads=tuple(n.payload for n in path if n.payload is not None),
            difference=self._difference(node, tokens, matched) if node else None,
            nodes=tuple(path),
        )

    def _asked(self, path: Sequence[_Node[P]], missing: Sequence[int]) -> None:
        if self._ghosts is not None:
            for name in missing:
                if not self._ghosts.missed(name):  # those behind it would not have been found, either
                    break
        if self._ranking is not None:
            self._ranking.asked(path, missing, self._clock())

    def peek(self, tokens: Sequence[int], *, namespace: str) -> int:
        """Return how many tokens `match` would find now. Changes nothing.

        Cost: O(tokens found).
        """
        node, found = self._roots.get(namespace), 0
        last = max(len(tokens) - 1, 0)
        while node and found + self.block_size <= last:
            node = node.children.get(array("I", tokens[found : found + self.block_size]).tobytes())
            found += self.block_size if node else 0
        return found

    def release(self, match: PrefixMatch[P]) -> None:
        """Let go of a match; its blocks may be evicted from now on."""
        for node in match.nodes:
            if node.references < 1:
                raise ValueError("this match was released before")
            node.references -= 1

    def _difference(self, node: _Node[P], tokens: Sequence[int], matched: int) -> Difference | None:
        found = tuple(tokens[matched : matched + self.block_size])
        if not found:
            return None
        nearest: Difference | None = None
        for _, key in zip(range(_NEIGHBOURS_COMPARED), reversed(node.children), strict=False):
            cached = tuple(memoryview(key).cast("I"))
            same = _common_length(cached, found)
            if same == len(found):  # the prompt ends inside a block that is known
                return None
            if nearest is None or same > nearest.position_tokens - matched:
                nearest = Difference(matched + same, cached[same:], found[same:])
        return nearest

    # Keeping

    def insert(
        self,
        tokens: Sequence[int],
        make_payload: Callable[[int], P],
        payload_bytes: int,
        *,
        namespace: str,
        pinned: bool = False,
    ) -> list[P]:
        """Keep the whole blocks of `tokens` that are not kept yet.

        A block goes in only with all those before it, and only if it fits: where nothing more can be
        evicted, the rest of the prompt is left out and counted as refused.

        Cost: O(len(tokens)) and one `make_payload` for each block that is really added.
        Changes: recency, evicts as needed.

        Args:
            tokens: ids from the start of the prompt.
            make_payload: called with a block's index in the prompt, gives what to hold for it.
            payload_bytes: what each payload will hold; room is made before it exists.
            namespace: digest of the namespace that the payloads belong to.
            pinned: never evict and never expire these blocks (and so none before them).

        Returns:
            The payloads of the prompt's leading blocks that are held now, old ones and new.

        Raises:
            CapacityError: pinned blocks do not fit.
            NamespaceMismatch: a payload is not of the announced size, so of another model.
        """
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = _Node(namespace.encode(), None, None)
            if self._has_names:
                root.name = _root_name(namespace)
        root.references += 1  # making room may take its last block away: the root must stay
        keys = self._keys(tokens)
        path: list[_Node[P]] = []
        try:
            for index, key in enumerate(keys):
                parent = path[-1] if path else root
                node = parent.children.get(key)
                if node is None and self._make_room(payload_bytes, parent, key, must=pinned):
                    node = self._add(parent, key, index, make_payload, payload_bytes)
                if node is None:
                    break
                node.references += 1  # so that making room for the next block can't evict this one
                path.append(node)
        finally:
            for node in path:
                node.references -= 1
            self._touch(path)
            root.references -= 1
            self._drop_if_empty(root)
        left_out = len(keys) - len(path)
        if pinned and left_out:
            raise CapacityError(
                f"the {len(keys)} blocks to pin hold {len(keys) * payload_bytes:,} bytes, and only "
                f"{len(path)} of them fit below the bound of {self.max_bytes:,}: raise max_cache_size (and "
                "max_memory_usage, if that is less) or lower prefix_length"
            )
        self.stats.refused_blocks += left_out
        if pinned:
            self._pin(path)
        return [n.payload for n in path if n.payload is not None]

    def _add(
        self,
        parent: _Node[P],
        key: bytes,
        index: int,
        make_payload: Callable[[int], P],
        payload_bytes: int,
    ) -> _Node[P]:
        payload = make_payload(index)
        if payload.nbytes != payload_bytes:
            raise NamespaceMismatch(
                f"a block of {payload.nbytes:,} bytes was offered where {payload_bytes:,} were announced; "
                "blocks of two models can't share a namespace"
            )
        node = _Node(key, parent, payload)
        if self._has_names:
            node.name = name_after(parent.name, key)
        if self._ranking is not None:
            self._ranking.covered(parent)
            self._ranking.added(node, self._clock())
        parent.children[key] = node
        self._recency[node] = None
        self.stats.inserted_blocks += 1
        self.stats.held_blocks += 1
        self.stats.held_bytes += payload_bytes
        return node

    def _pin(self, path: Iterable[_Node[P]]) -> None:
        for node in path:
            if not node.pinned and node.payload is not None:
                node.pinned = True
                del self._recency[node]
                self.stats.pinned_bytes += node.payload.nbytes
                if self._ranking is not None:
                    self._ranking.covered(node)

    def _touch(self, path: Sequence[_Node[P]]) -> None:
        now = self._clock()
        for node in reversed(path):
            node.used_at_seconds = now
            if not node.pinned:
                self._recency.move_to_end(node)

    # Forgetting

    def expire(self) -> int:
        """Forget unpinned blocks that nobody used for `ttl_seconds`; return how many."""
        if self.ttl_seconds is None:
            return 0
        deadline = self._clock() - self.ttl_seconds
        expired = 0
        for node in self._oldest_first():
            if node.used_at_seconds > deadline:
                break
            if self._is_free(node):
                self._remove(node)
                expired += 1
        self.stats.expired_blocks += expired
        return expired

    def shrink_to(self, max_bytes: int) -> int:
        """Evict, oldest leaf first or as the ranking says, until at most `max_bytes` are held.

        What is pinned or in use stays.

        Returns:
            The bytes freed.
        """
        before = self.stats.held_bytes
        if self._ranking is not None:
            while self.stats.held_bytes > max_bytes and self._evict_least(self._ranking):
                pass
            return before - self.stats.held_bytes
        for node in self._oldest_first():
            if self.stats.held_bytes <= max_bytes:
                break
            if self._is_free(node):
                self._evict(node)
        return before - self.stats.held_bytes

    def clear(self, *, namespace: str | None = None, pinned: bool = True) -> int:
        """Forget every block (of one namespace, if given) that is not in use.

        Args:
            namespace: whose; None is everybody's.
            pinned: whether pinned ones go, too.

        Returns:
            The number of blocks forgotten.
        """
        roots = list(self._roots) if namespace is None else [namespace] if namespace in self._roots else []
        removed = 0
        for name in roots:
            for node in list(self._walk(self._roots[name])):
                if node.references == 0 and not node.children and (pinned or not node.pinned):
                    self._remove(node)
                    removed += 1
        if self._ranking is not None:
            self._ranking.forget()
        if self._ghosts is not None:
            self._ghosts.forget()
        return removed

    def blocks_in_use(self, *, namespace: str | None = None) -> int:
        """Return how many blocks (of one namespace) somebody holds. Cost: O(blocks)."""
        roots = [root for name, root in self._roots.items() if namespace in (None, name)]
        return sum(node.references > 0 for root in roots for node in self._walk(root))

    def _make_room(self, needed_bytes: int, parent: _Node[P], key: bytes, *, must: bool) -> bool:
        """Evict until a block behind `parent` fits; False if it does not, or what is held is worth more."""
        most = self.max_bytes - needed_bytes
        ranking = self._ranking
        if self.stats.held_bytes > most and ranking is None:
            self.shrink_to(most)
        elif self.stats.held_bytes > most and ranking is not None:
            now = self._clock()
            uses = ranking.uses_of(name_after(parent.name, key), parent, now)
            worth = None if must or most < 0 else ranking.worth(uses, now)
            while self.stats.held_bytes > most and self._evict_least(ranking, at_most=worth):
                pass
        return self.stats.held_bytes <= most

    def _evict_least(self, ranking: Ranking, *, at_most: float | None = None) -> bool:
        """Evict the leaf worth least; False if none can go, or it is worth more than `at_most`."""
        least = ranking.least(self._clock())
        if least is None or (at_most is not None and least.worth > at_most):
            return False
        node: _Node[P] = least.leaf
        self._evict(node, least.worth)
        return True

    def _evict(self, node: _Node[P], worth: float | None = None) -> None:
        if self._ghosts is not None and node.payload is not None:
            self._ghosts.evicted(node.name, node.payload.nbytes, 1.0)
        self._remove(node, worth)
        self.stats.evicted_blocks += 1

    def _oldest_first(self) -> Iterator[_Node[P]]:
        # A copy would cost O(n) for each block evicted; instead look again after each removal.
        while self._recency:
            for node in self._recency:
                if self._is_free(node):
                    break
            else:
                return
            yield node
            if node in self._recency:  # the caller left it: it is done
                return

    @staticmethod
    def _is_free(node: _Node[P]) -> bool:
        return node.references == 0 and not node.children and not node.pinned

    def _remove(self, node: _Node[P], worth: float | None = None) -> None:
        if node.parent is None or node.payload is None:
            raise ValueError("a root can't be removed")
        del node.parent.children[node.key]
        if self._ranking is not None:
            self._ranking.removed(node)
            if self._is_leaf(node.parent):
                self._ranking.uncovered(node.parent, node, worth)
        if node.pinned:
            self.stats.pinned_bytes -= node.payload.nbytes
        else:
            del self._recency[node]
        self.stats.held_blocks -= 1
        self.stats.held_bytes -= node.payload.nbytes
        self._discard(node.payload)
        if node.parent.parent is None:
            self._drop_if_empty(node.parent)

    def _drop_if_empty(self, root: _Node[P]) -> None:
        if not root.children and not root.references:
            del self._roots[root.key.decode()]

    @staticmethod
    def _is_leaf(node: _Node[P]) -> bool:
        return node.parent is not None and not node.children and not node.pinned

    # Looking around

    def _keys(self, tokens: Sequence[int]) -> list[bytes]:
        whole = len(tokens) // self.block_size * self.block_size
        raw = array("I", tokens[:whole]).tobytes()
        step = self.block_size * _TOKEN_BYTES
        return [raw[i : i + step] for i in range(0, len(raw), step)]

    def _walk(self, root: _Node[P]) -> Iterator[_Node[P]]:
        """Yield the nodes below `root`, children before their parents."""
        order: list[_Node[P]] = []
        stack = list(root.children.values())
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(node.children.values())
        return reversed(order)

    def check_invariants(self) -> None:
        """Raise AssertionError if the tree contradicts itself. For tests: O(blocks)."""
        nodes = [n for root in self._roots.values() for n in self._walk(root)]
        held = sum(n.payload.nbytes for n in nodes if n.payload)
        _require(held == self.stats.held_bytes, f"counted {self.stats.held_bytes} bytes, found {held}")
        _require(held <= self.max_bytes, f"{held} bytes held, the bound is {self.max_bytes}")
        _require(len(nodes) == self.stats.held_blocks, "block count is off")
        pinned = sum(n.payload.nbytes for n in nodes if n.pinned and n.payload)
        _require(pinned == self.stats.pinned_bytes, "pinned bytes are off")
        _require(set(self._recency) == {n for n in nodes if not n.pinned}, "recency list is off")
        order = {node: i for i, node in enumerate(self._recency)}
        for node in nodes:
            _require(node.references >= 0, "negative reference count")
            _require(len(node.key) == self.block_size * _TOKEN_BYTES, "a node is not one whole block")
            for key, child in node.children.items():
                _require(child.parent is node and child.key == key, "a child does not know its parent")
                _require(node.pinned or not child.pinned, "a pinned block hangs from one that is not")
                _require(node.references >= child.references or node.pinned, "a held block's parent is free")
                if not node.pinned:
                    _require(order[node] > order[child], "a parent is older than its child")
        _require(all(root.children for root in self._roots.values()), "an empty root was left behind")
        if self._ranking is not None:
            self._ranking.check_invariants(n for n in nodes if self._is_leaf(n))


def _root_name(namespace: str) -> int:
    return name_after(0, namespace.encode())


def _names(before: int, keys: Iterable[bytes]) -> Iterator[int]:
    """Yield the names of successive blocks behind one of name `before`."""
    for key in keys:
        before = name_after(before, key)
        yield before


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
