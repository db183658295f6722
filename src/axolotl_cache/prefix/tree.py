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

import json
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic

from axolotl_cache.budget import Ghosts
from axolotl_cache.clock import Clock, wall_clock
from axolotl_cache.errors import CapacityError, NamespaceMismatch
from axolotl_cache.prefix.agreement import common_length
from axolotl_cache.prefix.eviction import Ranking, name_after
from axolotl_cache.prefix.fence import Fence, marks
from axolotl_cache.prefix.lease import MOST_BRANCHES, Lease
from axolotl_cache.prefix.match import Difference, PrefixMatch, PrefixStats
from axolotl_cache.prefix.node import Node, P
from axolotl_cache.prefix.runs import Run, find_runs
from axolotl_cache.prefix.tenants import TreeTenants

_TOKEN_BYTES = 4
_LEASED_LOOKED_AT = 512
"""Leased blocks, the oldest, among which a ranking looks for the end to go: a bound on the cost."""
_NEIGHBOURS_COMPARED = 64
"""How many siblings a miss is compared with to say where it differs: a bound on the cost of explaining."""


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
        leased_ghosts: is told the same of leased blocks, where they are to be counted apart.
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
        leased_ghosts: Ghosts | None = None,
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
        self.leased_share = 1.0
        """Leased blocks go last as long as they hold at most this share of the bound, and first above it.
        What either does not use is the other's: nothing is evicted before all is full."""
        self._ghosts = ghosts
        self._leased_ghosts = leased_ghosts or ghosts
        self._has_names = ranking is not None or ghosts is not None
        self._roots: dict[str, Node[P]] = {}
        self._recency: OrderedDict[Node[P], None] = OrderedDict()
        """Every node that is neither pinned nor leased, oldest first."""
        self._leased: OrderedDict[Node[P], None] = OrderedDict()
        """Every leased node that is not pinned, oldest first."""
        self.tenants = TreeTenants(self)

    # Looking up

    def match(self, tokens: Sequence[int], *, namespace: str, fences: Sequence[Fence] = ()) -> PrefixMatch[P]:
        """Return the longest cached prefix of `tokens`, and hold it until `release`.

        Cost: O(len(tokens)). Changes: recency, reference counts, counters; forgets what has expired.

        Args:
            tokens: prompt ids, T of them.
            namespace: digest of the namespace whose blocks may be used.
            fences: what this prompt may pass.

        Returns:
            k * block_size tokens, at the most T - 1: the last token is always computed, for its logits.
        """
        self.expire()
        keys = self._keys(tokens[: max(len(tokens) - 1, 0)], fences)
        node = self._roots.get(namespace)
        path: list[Node[P]] = []
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
            held.hits += 1
        matched = len(path) * self.block_size
        self.stats.queried_tokens += len(tokens)
        self.stats.hit_tokens += matched
        return PrefixMatch(
            namespace=namespace,
            tokens=matched,
            payloads=tuple(n.payload for n in path if n.payload is not None),
            difference=self._difference(node, tokens, matched, fences) if node else None,
            nodes=tuple(path),
        )

    def _asked(self, path: Sequence[Node[P]], missing: Sequence[int]) -> None:
        if self._ghosts is not None and self._leased_ghosts is not None:
            for name in missing:
                if not (self._ghosts.missed(name) or self._leased_ghosts.missed(name)):
                    break  # those behind it would not have been found, either
        if self._ranking is not None:
            self._ranking.asked(path, missing, self._clock())

    def peek(self, tokens: Sequence[int], *, namespace: str, fences: Sequence[Fence] = ()) -> int:
        """Return how many tokens `match` would find now. Changes nothing.

        Cost: O(tokens found).
        """
        node, found = self._roots.get(namespace), 0
        last = max(len(tokens) - 1, 0)
        behind = marks(fences, self.block_size)
        while node and found + self.block_size <= last:
            block = array("I", tokens[found : found + self.block_size]).tobytes()
            node = node.children.get(block + behind.get(found // self.block_size, b""))
            found += self.block_size if node else 0
        return found

    def release(self, match: PrefixMatch[P]) -> None:
        """Let go of a match; its blocks may be evicted from now on."""
        for node in match.nodes:
            if node.references < 1:
                raise ValueError("this match was released before")
            node.references -= 1

    def _difference(
        self, node: Node[P], tokens: Sequence[int], matched: int, fences: Sequence[Fence]
    ) -> Difference | None:
        found = tuple(tokens[matched : matched + self.block_size])
        mark = marks(fences, self.block_size).get(matched // self.block_size, b"")
        size = self.block_size * _TOKEN_BYTES
        if not found:
            return None
        nearest: Difference | None = None
        for _, key in zip(range(_NEIGHBOURS_COMPARED), reversed(node.children), strict=False):
            if key[size:] != mark:  # behind another fence: what stands there is not told
                continue
            cached = tuple(memoryview(key[:size]).cast("I"))
            same = common_length(cached, found)
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
        fences: Sequence[Fence] = (),
        lease: Lease | None = None,
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
            fences: only for prompts that have them, too.
            lease: goes on to the last of these blocks.

        Returns:
            The payloads of the prompt's leading blocks that are held now, old ones and new.

        Raises:
            CapacityError: pinned blocks do not fit.
            NamespaceMismatch: a payload is not of the announced size, so of another model.
        """
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = Node(namespace.encode(), None, None)
            if self._has_names:
                root.name = _root_name(namespace)
        root.references += 1  # making room may take its last block away: the root must stay
        keys = self._keys(tokens, fences)
        path: list[Node[P]] = []
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
            if lease is not None:
                self._extend(lease, path)
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
        parent: Node[P],
        key: bytes,
        index: int,
        make_payload: Callable[[int], P],
        payload_bytes: int,
    ) -> Node[P]:
        payload = make_payload(index)
        if payload.nbytes != payload_bytes:
            raise NamespaceMismatch(
                f"a block of {payload.nbytes:,} bytes was offered where {payload_bytes:,} were announced; "
                "blocks of two models can't share a namespace"
            )
        node = Node(key, parent, payload)
        if self._has_names:
            node.name = name_after(parent.name, key)
        if self._ranking is not None:
            self._ranking.covered(parent)
            self._ranking.added(node, self._clock())
        parent.children[key] = node
        self._recency[node] = None
        self.tenants.added(node)
        self.stats.inserted_blocks += 1
        self.stats.held_blocks += 1
        self.stats.held_bytes += payload_bytes
        return node

    def _pin(self, path: Iterable[Node[P]]) -> None:
        for node in path:
            if not node.pinned and node.payload is not None:
                self._unlist(node)
                node.pinned = True
                self.stats.pinned_bytes += node.payload.nbytes
                if self._ranking is not None:
                    self._ranking.covered(node)

    def _touch(self, path: Sequence[Node[P]]) -> None:
        now = self._clock()
        for node in reversed(path):
            node.used_at_seconds = now
            if not node.pinned:
                (self._leased if node.leases else self._recency).move_to_end(node)
        self.tenants.used(path)

    # Leasing

    def lease(self, lease: Lease, match: PrefixMatch[P]) -> None:
        """Let a lease go on to the last block of a match. Cost: O(blocks)."""
        self._extend(lease, match.nodes)

    def end(self, lease: Lease) -> int:
        """End a lease, and forget the blocks that nobody else has a lease on or is using; return the bytes.

        Of these stay, without a lease, its `shared_tokens` and what other prompts go on from. While the lease
        is in use, nothing is forgotten: it is then ended again.
        """
        lease.is_over = True
        before = self.stats.held_bytes
        if not lease.users:
            kept_blocks = lease.shared_tokens // self.block_size
            for tip in list(lease.tips):
                self._give_up(lease, tip, kept_blocks=kept_blocks)
        return before - self.stats.held_bytes

    def _extend(self, lease: Lease, path: Sequence[Node[P]]) -> None:
        """Let a lease go on to the end of a path from a root, which has just been touched."""
        if not path:
            return
        tip = path[-1]
        if tip in lease.tips:
            lease.tips[tip] = lease.tips.pop(tip)
            return
        passed = 0
        for node in reversed(path):  # from here on, `passed` tips of this lease were at or below
            if node.tip_of and lease in node.tip_of:
                self._untip(lease, node)
                passed += 1
            self._count_lease(node, 1 - passed)
            if not node.pinned:
                self._leased.move_to_end(node)
        self._tip(lease, tip)
        if len(lease.tips) > MOST_BRANCHES:
            self._give_up(lease, next(iter(lease.tips)))

    def _give_up(self, lease: Lease, tip: Node[P], *, kept_blocks: int | None = None) -> None:
        """Take a lease off the blocks that lead to a tip; forget those behind `kept_blocks`, if given."""
        self._untip(lease, tip)
        up = list(self._up(tip))
        for behind, node in enumerate(up):
            self._count_lease(node, -1)
            index = len(up) - 1 - behind
            if kept_blocks is not None and index >= kept_blocks and not node.leases and self._is_free(node):
                self._remove(node)

    def _count_lease(self, node: Node[P], change: int) -> None:
        """Note that so many tips more, or fewer, are at a node or below; what it is listed under follows."""
        was, node.leases = node.leases, node.leases + change
        if bool(was) == bool(node.leases) or node.pinned or node.payload is None:
            return
        # To the end in either list, called from a path's end to its root: parents stay newer than children.
        if node.leases:
            del self._recency[node]
            self._leased[node] = None
            if self._ranking is not None:
                self._ranking.covered(node)
            self.stats.leased_bytes += node.payload.nbytes
        else:
            del self._leased[node]
            self._recency[node] = None
            if self._ranking is not None and self._is_leaf(node):
                self._ranking.opened(node)
            node.used_at_seconds = self._clock()
            self.stats.leased_bytes -= node.payload.nbytes
        self.tenants.leased(node)

    @staticmethod
    def _tip(lease: Lease, node: Node[P]) -> None:
        if node.tip_of is None:
            node.tip_of = set()
        node.tip_of.add(lease)
        lease.tips[node] = None

    @staticmethod
    def _untip(lease: Lease, node: Node[P]) -> None:
        if node.tip_of is not None:
            node.tip_of.discard(lease)
            node.tip_of = node.tip_of or None
        del lease.tips[node]

    @staticmethod
    def _up(node: Node[P]) -> Iterator[Node[P]]:
        """Yield a node and those above it, the root left out."""
        at: Node[P] | None = node
        while at is not None and at.payload is not None:
            yield at
            at = at.parent

    def _retreat(self, node: Node[P]) -> None:
        """Let the leases that end at a node, which is going, end at its parent."""
        for lease in list(node.tip_of or ()):
            self._untip(lease, node)
            parent = node.parent
            if parent is None or parent.payload is None:
                continue
            if parent.tip_of and lease in parent.tip_of:
                for above in self._up(parent):
                    self._count_lease(above, -1)
            else:
                self._tip(lease, parent)
                lease.tips = {parent: None} | lease.tips  # it was the oldest end, or this would not go

    # Forgetting

    def expire(self) -> int:
        """Forget unpinned blocks that nobody used for `ttl_seconds`; return how many."""
        if self.ttl_seconds is None:
            return 0
        deadline = self._clock() - self.ttl_seconds
        expired = 0
        while (node := self._oldest(self._recency)) is not None and node.used_at_seconds <= deadline:
            self._remove(node)
            expired += 1
        self.stats.expired_blocks += expired
        return expired

    def shrink_to(self, max_bytes: int) -> int:
        """Evict, oldest leaf first or as the ranking says, until at most `max_bytes` are held.

        What is pinned or in use stays, and leased blocks within their share go only when there are no others.

        Returns:
            The bytes freed.
        """
        before = self.stats.held_bytes
        while self.stats.held_bytes > max_bytes and self._evict_one(max_bytes):
            pass
        return before - self.stats.held_bytes

    def are_leases_above_share(self, max_bytes: int) -> bool:
        """Return whether leased blocks are those to go first, if at most `max_bytes` are to be held."""
        return self.stats.leased_bytes > self.leased_share * max_bytes

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
        for ghosts in (self._ghosts, self._leased_ghosts):
            if ghosts is not None:
                ghosts.forget()
        return removed

    def clear_fenced(self, name: str) -> int:
        """Forget every block behind a fence of this name, of all namespaces, that is not in use.

        Cost: O(blocks held).

        Returns:
            The number of blocks forgotten.
        """
        removed = 0
        for root in list(self._roots.values()):
            for node in [n for n in self._walk(root) if name in self._names(n)]:
                behind = [*self._walk(node), node]
                for each in behind:
                    if each.references == 0 and not each.children:
                        self._remove(each)
                        removed += 1
        return removed

    def _names(self, node: Node[P]) -> list[str]:
        mark = node.key[self.block_size * _TOKEN_BYTES :]
        return list(json.loads(mark)) if mark else []

    def blocks_in_use(self, *, namespace: str | None = None) -> int:
        """Return how many blocks (of one namespace) somebody holds. Cost: O(blocks)."""
        roots = [root for name, root in self._roots.items() if namespace in (None, name)]
        return sum(node.references > 0 for root in roots for node in self._walk(root))

    def _make_room(self, needed_bytes: int, parent: Node[P], key: bytes, *, must: bool) -> bool:
        """Evict until a block behind `parent` fits; False if it does not, or what is held is worth more."""
        if not self.tenants.make_room(needed_bytes, parent, key, must=must):
            return False
        most = self.max_bytes - needed_bytes
        worth: float | None = None
        if self._ranking is not None and self.stats.held_bytes > most >= 0 and not must:
            now = self._clock()
            uses = self._ranking.uses_of(name_after(parent.name, key), parent, now)
            worth = self._ranking.worth(uses, now)
        while self.stats.held_bytes > most and self._evict_one(most, at_most=worth):
            pass
        return self.stats.held_bytes <= most

    def _evict_one(self, max_bytes: int, *, at_most: float | None = None) -> bool:
        """Evict a block; False if none can go, or all that may go first are worth more than `at_most`."""
        if self.are_leases_above_share(max_bytes) and self._evict_leased(at_most):
            return True
        if self._ranking is not None:
            least = self._ranking.least(self._clock(), self._is_free)
            if least is not None and at_most is not None and least.worth > at_most:
                return False
            if least is not None:
                self._evict(least.leaf, least.worth)
                return True
        elif (oldest := self._oldest(self._recency)) is not None:
            self._evict(oldest)
            return True
        return self._evict_leased()

    def _evict_leased(self, at_most: float | None = None) -> bool:
        """Evict the end of a lease: of the sessions idle longest, the one worth least. As `_evict_one`."""
        ranking, node = self._ranking, self._oldest(self._leased)
        if ranking is not None and node is not None:
            now = self._clock()
            seen = islice(self._leased, _LEASED_LOOKED_AT)
            ends = [end for end in seen if end.uses is not None and self._is_free(end)]
            worths = [ranking.worth(end.uses, now) for end in ends if end.uses is not None]
            least = min(worths, default=None)
            if least is not None and at_most is not None and least > at_most:
                return False
            node = node if least is None else ends[worths.index(least)]
        if node is not None:
            self._evict(node)
        return node is not None

    def _evict(self, node: Node[P], worth: float | None = None) -> None:
        ghosts = self._leased_ghosts if node.leases else self._ghosts
        if ghosts is not None and node.payload is not None:
            ghosts.evicted(node.name, node.payload.nbytes, 1.0)
        self._remove(node, worth)
        self.stats.evicted_blocks += 1

    def _oldest(self, nodes: Iterable[Node[P]]) -> Node[P] | None:
        """Return the first that may go. Looked for anew each time: a copy would cost O(n) for each."""
        return next(filter(self._is_free, nodes), None)

    @staticmethod
    def _is_free(node: Node[P]) -> bool:
        if node.references or node.children or node.pinned:
            return False
        return not (node.tip_of and any(lease.users for lease in node.tip_of))

    def _remove(self, node: Node[P], worth: float | None = None) -> None:
        if node.parent is None or node.payload is None:
            raise ValueError("a root can't be removed")
        self._retreat(node)
        del node.parent.children[node.key]
        if self._ranking is not None:
            self._ranking.removed(node)
            if self._is_leaf(node.parent):
                self._ranking.uncovered(node.parent, node, worth)
        if node.pinned:
            self.stats.pinned_bytes -= node.payload.nbytes
        else:
            self._unlist(node)
        self.stats.held_blocks -= 1
        self.stats.held_bytes -= node.payload.nbytes
        self._discard(node.payload)
        if node.parent.parent is None:
            self._drop_if_empty(node.parent)

    def _unlist(self, node: Node[P]) -> None:
        self.tenants.gone(node)
        if node.leases and node.payload is not None:
            del self._leased[node]
            self.stats.leased_bytes -= node.payload.nbytes
        else:
            del self._recency[node]

    def _drop_if_empty(self, root: Node[P]) -> None:
        if not root.children and not root.references:
            del self._roots[root.key.decode()]

    @staticmethod
    def _is_leaf(node: Node[P]) -> bool:
        """Whether a ranking knows it: what hangs on it, a pin or a lease keep it from going first."""
        return node.parent is not None and not (node.children or node.pinned or node.leases)

    # Looking around

    def runs(self, limit: int, *, most_blocks: int = 100_000) -> list[Run]:
        """Return the largest runs of blocks without a branch in them, and those that were hit most often.

        Changes nothing, and may be called from any thread at any time: each list of children is copied in one
        step, so that a tree that changes meanwhile gives a picture of about now.
        Cost: O(blocks), 0.5 us each, of `most_blocks` at the most: what lies beyond is not seen.

        Args:
            limit: runs at the most, about; a run comes with all those in front of it, which come before it.
            most_blocks: bound on the cost.
        """
        return find_runs(
            self._roots,
            block_bytes=self.block_size * _TOKEN_BYTES,
            limit=limit,
            most_blocks=most_blocks,
            now=self._clock(),
        )

    def _keys(self, tokens: Sequence[int], fences: Sequence[Fence] = ()) -> list[bytes]:
        whole = len(tokens) // self.block_size * self.block_size
        raw = array("I", tokens[:whole]).tobytes()
        step = self.block_size * _TOKEN_BYTES
        keys = [raw[i : i + step] for i in range(0, len(raw), step)]
        for index, mark in marks(fences, self.block_size).items():
            if index < len(keys):
                keys[index] += mark
        return keys

    def _walk(self, root: Node[P]) -> Iterator[Node[P]]:
        """Yield the nodes below `root`, children before their parents."""
        order: list[Node[P]] = []
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
        self._check_leases(nodes)
        self.tenants.check_invariants()
        order = {node: i for i, node in enumerate((*self._recency, *self._leased))}
        for node in nodes:
            _require(node.references >= 0, "negative reference count")
            _require(len(node.key) >= self.block_size * _TOKEN_BYTES, "a node is not one whole block")
            for key, child in node.children.items():
                _require(child.parent is node and child.key == key, "a child does not know its parent")
                _require(node.pinned or not child.pinned, "a pinned block hangs from one that is not")
                _require(node.references >= child.references or node.pinned, "a held block's parent is free")
                if not node.pinned:
                    _require(order[node] > order[child], "a parent is older than its child")
        _require(all(root.children for root in self._roots.values()), "an empty root was left behind")
        if self._ranking is not None:
            self._ranking.check_invariants(n for n in nodes if self._is_leaf(n))

    def _check_leases(self, nodes: Sequence[Node[P]]) -> None:
        unpinned = [n for n in nodes if not n.pinned]
        _require(set(self._recency) == {n for n in unpinned if not n.leases}, "recency list is off")
        _require(set(self._leased) == {n for n in unpinned if n.leases}, "list of leased blocks is off")
        leased = sum(n.payload.nbytes for n in self._leased if n.payload)
        _require(leased == self.stats.leased_bytes, "leased bytes are off")
        tips: Counter[Node[P]] = Counter()
        for node in nodes:
            for lease in node.tip_of or ():
                _require(node in lease.tips, "a lease does not know its tip")
                tips.update(self._up(node))
        for node in nodes:
            _require(node.leases == tips[node], f"{node.leases} leases counted, {tips[node]} found")


def _root_name(namespace: str) -> int:
    return name_after(0, namespace.encode())


def _names(before: int, keys: Iterable[bytes]) -> Iterator[int]:
    """Yield the names of successive blocks behind one of name `before`."""
    for key in keys:
        before = name_after(before, key)
        yield before


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
