"""The prefix cache over the block pool: what is found for a prompt, what is kept of it, what must go.

Tiers from fast to slow: the pool's own memory, found through the prefix tree, and below it any number of
lower tiers (the host's memory for a GPU, a disk). A block is offered to the lower tiers when it joins the
tree, and loaded from there when measurements say that this is faster than computing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from axolotl_cache.budget import Ghosts
from axolotl_cache.clock import Clock
from axolotl_cache.engine.lower import Fetch, LowerTier, chain_keys, patience_seconds, worth_loading
from axolotl_cache.engine.memory import PressureGovernor
from axolotl_cache.engine.pool import KVPool, Page
from axolotl_cache.erasure import ErasureReport, erased_in_all
from axolotl_cache.prefix import (
    Difference,
    Fences,
    Lease,
    PolicyName,
    PrefixMatch,
    PrefixStats,
    PrefixTree,
    TreeParts,
    label,
    make_ranking,
    marks,
    names_before,
)


@dataclass(slots=True)
class BlockTable:
    """The pages of one running request, and its hold on what it shares."""

    namespace: str
    pages: list[Page] = field(default_factory=list)
    kept_blocks: int = 0
    """Leading blocks that joined the tree, were refused by it, or came from it."""
    cached_tokens: int = 0
    """Tokens that were found."""
    difference: Difference | None = None
    match: PrefixMatch[Page] | None = None
    keys: list[str] = field(default_factory=list)
    """Names of the leading blocks in the lower tiers."""
    is_refused: bool = False
    """Whether the tree had no room for the last blocks that were to join it."""
    fences: Fences = ()
    lease: Lease | None = None
    """What its blocks are held under behind its end; it counts as in use until then."""


class KVCache:
    """Keys and values of known prefixes. Called from the engine's thread alone.

    Args:
        pool: where they are.
        max_bytes: bound on what is held for reuse.
        ttl_seconds: unpinned blocks that nobody used for this long are forgotten.
        policy: who goes first.
        clock: wall clock.
        lower: slower tiers, fastest first.
        numerics: what else decides about the bits: blocks in lower tiers may come from another machine, or
            from before an update.
        governor: lowers the bound while the machine is short of memory.
    """

    def __init__(
        self,
        pool: KVPool,
        *,
        max_bytes: int,
        ttl_seconds: float | None,
        clock: Clock,
        policy: PolicyName = "lru",
        lower: Sequence[LowerTier] = (),
        numerics: str = "",
        governor: PressureGovernor | None = None,
    ) -> None:
        self._pool = pool
        self._max_bytes = max_bytes
        self._lower = lower
        self._numerics = numerics
        self._governor = governor
        self.ghosts = Ghosts()
        """Blocks that were evicted lately; remembers none until a budget wants it to."""
        self.leased_ghosts = Ghosts()
        """The same of blocks that sessions held."""
        self.tree: PrefixTree[Page] = PrefixTree(
            block_size=pool.block_size,
            max_bytes=max_bytes,
            ttl_seconds=ttl_seconds,
            clock=clock,
            discard=lambda page: pool.release([page]),
            ranking=make_ranking(policy),
            ghosts=self.ghosts,
            leased_ghosts=self.leased_ghosts,
        )
        self.parts = TreeParts(self.tree, self.ghosts, self.leased_ghosts, self.resize)
        """What sessions hold and what all others do, to share one bound with other caches."""

    @property
    def stats(self) -> PrefixStats:
        """Counters, live."""
        return self.tree.stats

    def known_tokens(self, tokens: Sequence[int], namespace: str, fences: Fences = ()) -> int:
        """Return how many leading tokens are in the tree now, without counting or holding them."""
        return self.tree.peek(tokens, namespace=namespace, fences=fences)

    def find(
        self, tokens: Sequence[int], namespace: str, fences: Fences = (), lease: Lease | None = None
    ) -> BlockTable:
        """Return a block table with the longest cached prefix of `tokens`, held until `close`.

        Args:
            tokens: prompt ids.
            namespace: whose blocks may be used.
            fences: what the prompt may pass.
            lease: goes on to what is found, and to what is kept later.
        """
        match = self.tree.match(tokens, namespace=namespace, fences=fences)
        pages = [self._pool.retain(page) for page in match.payloads]
        table = BlockTable(namespace, pages, len(pages), match.tokens, match.difference, match, fences=fences)
        if lease is not None:
            table.lease = lease
            lease.users += 1
            self.tree.lease(lease, match)
        if self._lower:
            whole = (len(tokens) - 1) // self._pool.block_size * self._pool.block_size
            table.keys = self._keys_below(tokens[:whole], table)
            for tier in self._lower:
                tier.touch(table.keys[: len(pages)])
        return table

    def fetch(
        self, tokens: Sequence[int], table: BlockTable, prefill_seconds_per_token: float
    ) -> tuple[Fetch, float] | None:
        """Begin to load the blocks behind the match, if that is expected to be faster than computing them.

        It ends by itself when it turns out slower than computing by more than its patience; what it brought
        by then is good. A load that would not begin within that, behind others, is not begun.

        Returns:
            The load, and the seconds after which it is of no use in any case.
        """
        size, found = self._pool.block_size, len(table.pages)
        keys = table.keys[found:]
        for tier in self._lower:
            blocks = tier.count(keys)
            block_seconds = size * prefill_seconds_per_token
            patience = patience_seconds(blocks * block_seconds)
            is_soon = blocks > 0 and tier.load_seconds(0) < patience
            expected = tier.load_seconds(blocks)
            if is_soon and worth_loading(blocks, expected, prefill_seconds_per_token, size):
                contents = [tokens[at * size : (at + 1) * size] for at in range(found, found + blocks)]
                fetch = tier.fetch(
                    keys[:blocks],
                    contents,
                    namespace=self._below(table.namespace),
                    patience_seconds=patience,
                    block_seconds=block_seconds,
                )
                return fetch, blocks * block_seconds + patience
        return None

    def take(
        self, tokens: Sequence[int], table: BlockTable, blocks: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        """Put loaded blocks behind those that `table` has.

        If it fails, `table.cached_tokens` says what is there; pages behind that are room for what comes.
        """
        found = len(table.pages)
        table.pages += self._pool.allocate(len(blocks))
        for page, tensors in zip(table.pages[found:], blocks, strict=True):
            self._pool.fill(page, tensors)
        whole = len(table.pages) * self._pool.block_size
        self.stats.hit_tokens += whole - table.cached_tokens
        table.cached_tokens = whole
        self.keep(tokens[:whole], table)

    def keep(self, tokens: Sequence[int], table: BlockTable, *, pinned: bool = False) -> None:
        """Let the whole blocks of `tokens`, which are all computed, join the tree.

        Where another request was faster, its pages take the place of ours: the bits are the same.

        Raises:
            CapacityError: they are to be pinned and do not fit.
        """
        new: list[int] = []
        table.is_refused = True  # until it turns out that it is not

        def join(index: int) -> Page:
            new.append(index)
            return self._pool.retain(table.pages[index])

        held = self.tree.insert(
            tokens,
            join,
            self._pool.page_bytes,
            namespace=table.namespace,
            pinned=pinned,
            fences=table.fences,
            lease=table.lease,
        )
        for index, page in enumerate(held):
            mine = table.pages[index]
            if mine is not page:
                table.pages[index] = self._pool.retain(page)
                self._pool.release([mine])
        table.kept_blocks = len(tokens) // self._pool.block_size
        table.is_refused = len(held) < table.kept_blocks
        if self._lower:
            self._offer(tokens, table, new)

    def _offer(self, tokens: Sequence[int], table: BlockTable, new: Sequence[int]) -> None:
        size = self._pool.block_size
        if table.kept_blocks > len(table.keys):
            table.keys = self._keys_below(tokens, table)
        for tier in self._lower:
            for index in new:
                key = table.keys[index]
                if not tier.count([key]):
                    block = tokens[index * size : (index + 1) * size]
                    copied = self._pool.read(table.pages[index])
                    owners = tuple(map(label, names_before(table.fences, (index + 1) * size)))
                    tier.offer(key, block, copied, namespace=self._below(table.namespace), owners=owners)
            tier.touch(table.keys[: table.kept_blocks])

    def _keys_below(self, tokens: Sequence[int], table: BlockTable) -> list[str]:
        size = self._pool.block_size
        return chain_keys(self._below(table.namespace), tokens, size, marks(table.fences, size))

    def _below(self, namespace: str) -> str:
        """Return the name that a namespace has in the lower tiers."""
        return f"{namespace}:{self._numerics}"

    def give_back(self, table: BlockTable, tokens: int) -> None:
        """Let go of the pages behind so many leading tokens, whole blocks, which will be computed anew."""
        blocks = tokens // self._pool.block_size
        table.pages, unused = table.pages[:blocks], table.pages[blocks:]
        self._pool.release(unused)
        table.kept_blocks = min(table.kept_blocks, blocks)
        self.stats.hit_tokens -= max(table.cached_tokens - tokens, 0)
        table.cached_tokens = min(table.cached_tokens, tokens)

    def close(self, table: BlockTable) -> None:
        """Let go of a request's pages and of what it held. Closing twice is fine."""
        match, table.match = table.match, None  # first, so that an interrupt in between can't do it twice
        if match is not None:
            self.tree.release(match)
        pages, table.pages = table.pages, []
        self._pool.release(pages)
        lease, table.lease = table.lease, None
        if lease is not None:
            lease.users -= 1
            if lease.is_over:
                self.tree.end(lease)

    def give_way(self, pages: int) -> None:
        """Evict, oldest first, until so many pages of the pool are free, or nothing more can go."""
        while self._pool.free_pages < pages:
            # One by one: a block whose page a running request holds as well frees nothing.
            if not self.tree.shrink_to(self.stats.held_bytes - 1):
                return

    def heed_pressure(self) -> None:
        """Shrink while the machine is short of memory, and grow back after. Cheap: call it at every step."""
        if self._governor is None:
            return
        allowed = self._governor.allowed_bytes(self._pool.used_bytes, self._max_bytes)
        if allowed < self.tree.max_bytes and self.tree.shrink_to(allowed):
            self._pool.trim()
        # What is in use goes later: until then the bound stays at what is held, so that this is asked again.
        self.tree.max_bytes = max(allowed, self.stats.held_bytes)

    def clear(self, namespace: str | None) -> int:
        """Forget all blocks (of one namespace), in every tier; return how many were in the tree."""
        for tier in self._lower:
            tier.clear(namespace=None if namespace is None else self._below(namespace))
        return self.tree.clear(namespace=namespace)

    def clear_fenced(self, name: str) -> int:
        """Forget all blocks behind fences of this name, in every tier; return how many were in the tree.

        Raises:
            StoreError: a lower tier could not; memory has forgotten them all the same.
        """
        removed = self.tree.clear_fenced(name)
        for tier in self._lower:
            tier.clear(namespace=label(name))
        return removed

    def erase_fenced(self, name: str) -> ErasureReport:
        """Erase all blocks behind fences of this name, in every tier.

        Raises:
            ErasureError: a lower tier could not; memory has let go all the same.
        """
        before = self.stats.held_bytes
        blocks = self.tree.clear_fenced(name)
        done = ErasureReport(blocks, 0, before - self.stats.held_bytes)
        below = (partial(tier.erase, namespace=label(name)) for tier in self._lower)
        return erased_in_all([lambda: done, *below])

    @property
    def lower(self) -> Sequence[LowerTier]:
        """The tiers below the pool's memory, fastest first."""
        return self._lower

    @property
    def held_bytes(self) -> int:
        """Bytes held for reuse."""
        return self.stats.held_bytes

    def resize(self, max_bytes: int) -> int:
        """Hold at most so much for reuse from now on, and let go of what is more.

        Returns:
            The bound in force, higher where more is in use or pinned. Lack of memory may lower it further.
        """
        self.tree.shrink_to(max_bytes)
        self._max_bytes = max(max_bytes, self.held_bytes)
        self.tree.max_bytes = self._max_bytes
        self.heed_pressure()
        return self._max_bytes

    @property
    def has_lower_tiers(self) -> bool:
        """Whether there are tiers below the pool's memory."""
        return bool(self._lower)

    def erase(self, namespace: str | None) -> ErasureReport:
        """Erase the blocks of one namespace, in every tier; or of all, but for pinned ones in memory.

        Raises:
            ErasureError: a lower tier could not; memory has let go all the same.
        """
        before = self.stats.held_bytes
        blocks = self.tree.clear(namespace=namespace, pinned=namespace is not None)
        in_use = self.tree.blocks_in_use(namespace=namespace)
        left = (f"{in_use} blocks of keys and values that running requests use",) if in_use else ()
        done = ErasureReport(blocks, 0, before - self.stats.held_bytes, left)
        below = None if namespace is None else self._below(namespace)
        return erased_in_all([lambda: done, *(partial(tier.erase, namespace=below) for tier in self._lower)])

    def shut(self) -> None:
        """Write out what waits to be written to the lower tiers."""
        for tier in self._lower:
            tier.close()
