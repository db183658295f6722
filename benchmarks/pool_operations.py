"""Random operations on the block pool and the prefix tree, as the engine uses them, against a naive model.

Every token's place in a page is marked with the tokens that lead to it, so that a page found for other
tokens, moved wrongly or given away too early shows. What the tree should hold is worked out by a model that
is too simple to be wrong: a list in order of use, looked through from its beginning.

    python benchmarks/pool_operations.py [--quick]
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from axolotl_cache.engine.cache import BlockTable, KVCache
from axolotl_cache.engine.pool import KVLayout, KVPool, LayerGroup, Page
from axolotl_cache.errors import CapacityError

BLOCK = 4
BLOCKS_HELD = 24
RUNNING = 5
TTL_SECONDS = 100.0
NAMESPACES = ("a", "b")
LAYOUT = KVLayout(
    (LayerGroup((0, 2), 2, 1, 2), LayerGroup((1,), 1, 3, 3)), torch.float32, torch.device("cpu")
)
"""Two shapes, as models with mixed layers have them."""

Key = tuple[str, tuple[int, ...]]
"""A block: its namespace, and all tokens up to its end."""


class Violation(AssertionError):
    """Something is not as it has to be."""


def require(condition: bool, message: str) -> None:
    """Raise Violation unless `condition` holds."""
    if not condition:
        raise Violation(message)


@dataclass(slots=True)
class Entry:
    """A block that the naive model holds."""

    used_at_seconds: float
    references: int = 0
    pinned: bool = False


class NaiveTree:
    """What the tree should hold: blocks in a dictionary, the least recently used first."""

    def __init__(self) -> None:
        self.max_blocks = BLOCKS_HELD
        self.entries: dict[Key, Entry] = {}

    def find(self, namespace: str, tokens: Sequence[int], now: float) -> list[Key]:
        """Return the blocks of the longest prefix, held, touched."""
        self.expire(now)
        path: list[Key] = []
        for key in keys_of(namespace, tokens[: max(len(tokens) - 1, 0)]):
            if key not in self.entries:
                break
            path.append(key)
        self._touch(path, now)
        for key in path:
            self.entries[key].references += 1
        return path

    def release(self, path: Iterable[Key]) -> None:
        """Let go of what `find` gave."""
        for key in path:
            self.entries[key].references -= 1

    def keep(self, namespace: str, tokens: Sequence[int], now: float, *, pinned: bool = False) -> bool:
        """Add blocks as far as they fit; return whether all did."""
        keys = keys_of(namespace, tokens)
        path: list[Key] = []
        for key in keys:
            if key not in self.entries:
                if len(self.entries) >= self.max_blocks:
                    self.shrink(self.max_blocks - 1)
                if len(self.entries) >= self.max_blocks:
                    break
                self.entries[key] = Entry(now)
            self.entries[key].references += 1
            path.append(key)
        self.release(path)
        self._touch(path, now)
        fits = len(path) == len(keys)
        if pinned and fits:
            for key in path:
                self.entries[key].pinned = True
        return fits

    def shrink(self, blocks: int) -> None:
        """Forget until at most so many are left, or nothing more can go."""
        while len(self.entries) > blocks:
            oldest = self._oldest()
            if oldest is None:
                return
            del self.entries[oldest]

    def expire(self, now: float) -> None:
        """Forget what nobody used for its time."""
        while True:
            oldest = self._oldest()
            if oldest is None or self.entries[oldest].used_at_seconds > now - TTL_SECONDS:
                return
            del self.entries[oldest]

    def clear(self, namespace: str | None) -> int:
        """Forget all that is not in use, pinned or not; return how many."""
        before = len(self.entries)
        for key in sorted(self.entries, key=lambda k: -len(k[1])):  # the last blocks of prompts first
            if key[0] in (namespace, namespace or key[0]) and self._is_free(key, pinned_too=True):
                del self.entries[key]
        return before - len(self.entries)

    def _oldest(self) -> Key | None:
        return next((key for key in self.entries if self._is_free(key)), None)

    def _is_free(self, key: Key, *, pinned_too: bool = False) -> bool:
        entry, (namespace, tokens) = self.entries[key], key
        return (
            not entry.references
            and (pinned_too or not entry.pinned)
            and not any(
                other[0] == namespace
                and len(other[1]) == len(tokens) + BLOCK
                and other[1][: len(tokens)] == tokens
                for other in self.entries
            )
        )

    def _touch(self, path: Sequence[Key], now: float) -> None:
        for key in reversed(path):
            entry = self.entries.pop(key)
            entry.used_at_seconds = now
            self.entries[key] = entry


def keys_of(namespace: str, tokens: Sequence[int]) -> list[Key]:
    """Return the whole blocks of `tokens`."""
    return [(namespace, tuple(tokens[:end])) for end in range(BLOCK, len(tokens) + 1, BLOCK)]


@dataclass(eq=False, slots=True)
class Request:
    """A running request: the real one, and what the naive model knows of it."""

    tokens: list[int]
    table: BlockTable
    held: list[Key]
    computed: int = field(default=0)
    """Tokens whose places are marked."""


class Machine:
    """Runs random operations on the real thing and on the naive one, and compares.

    Args:
        rng: chooses.
        pool: makes the pool; another one is for controls.
    """

    def __init__(self, rng: random.Random, pool: Callable[[KVLayout, int], KVPool] = KVPool) -> None:
        self._rng = rng
        self._seconds = 1000.0
        self._pool = pool(LAYOUT, BLOCK)
        self._allowed = BLOCKS_HELD
        self._cache = KVCache(
            self._pool,
            max_bytes=BLOCKS_HELD * self._pool.page_bytes,
            ttl_seconds=TTL_SECONDS,
            clock=lambda: self._seconds,
            governor=self,  # type: ignore[arg-type]  # all that is asked of one is below
        )
        self._naive = NaiveTree()
        self._requests: list[Request] = []
        self._marks: dict[Key, float] = {}

    def allowed_bytes(self, held_bytes: int, bound_bytes: int) -> int:
        """Stand in for the governor: return what may be held now."""
        return min(bound_bytes, self._allowed * self._pool.page_bytes)

    def violations(self, operations: int, report: Callable[[str], None]) -> int:
        """Do so many operations; return after how many something was wrong."""
        weights: dict[Callable[[], None], int] = {
            self._start: 30,
            self._load: 6,
            self._grow: 40,
            self._keep: 25,
            self._close: 25,
            self._pin: 1,
            self._clear: 1,
            self._shrink: 3,
            self._trim: 6,
            self._press: 3,
            self._wait: 6,
        }
        wrong = 0
        for operation in self._rng.choices([*weights], [*weights.values()], k=operations):
            try:
                operation()
                self._check()
            except Exception as error:  # whatever it is: none of these operations may fail
                wrong += 1
                report(f"{operation.__name__}: {type(error).__name__}: {error}")
        return wrong

    # Operations

    def _prompt(self) -> list[int]:
        # Few different blocks, so that much is shared, and some tokens that fill none.
        blocks = [self._rng.choice((1, 1, 2, 3)) for _ in range(self._rng.randint(0, 6))]
        return [t for b in blocks for t in [b] * BLOCK] + [9] * self._rng.randint(1, BLOCK)

    def _start(self) -> None:
        if len(self._requests) < RUNNING:
            self._requests.append(self._find(self._prompt(), self._rng.choice(NAMESPACES)))

    def _find(self, tokens: list[int], namespace: str) -> Request:
        known = self._cache.known_tokens(tokens, namespace)
        table = self._cache.find(tokens, namespace)
        request = Request(tokens, table, self._naive.find(namespace, tokens, self._seconds))
        found = len(request.held) * BLOCK
        require(table.cached_tokens == found, f"{table.cached_tokens} tokens found instead of {found}")
        require(found <= known, "more was found than was known")  # less: it expired just now
        require(len(table.pages) * BLOCK == found, "not a page for each block")
        request.computed = found
        self._check_contents(request)
        return request

    def _load(self) -> None:
        """Put blocks from a slower tier behind what was just found."""
        if len(self._requests) == RUNNING:
            return
        request = self._find(self._prompt(), self._rng.choice(NAMESPACES))
        self._requests.append(request)
        table, found = request.table, len(request.table.pages)
        whole = self._rng.randint(found, (len(request.tokens) - 1) // BLOCK)
        blocks = [self._contents(request, index) for index in range(found, whole)]
        if blocks:
            self._cache.take(request.tokens, table, blocks)
            self._naive.keep(table.namespace, request.tokens[: whole * BLOCK], self._seconds)
            request.computed = whole * BLOCK
            require(table.cached_tokens == request.computed, "loaded tokens are not counted as cached")

    def _grow(self) -> None:
        """Compute some of what waits, or choose a token, as decoding does."""
        if not self._requests:
            return
        request = self._rng.choice(self._requests)
        if request.computed == len(request.tokens):
            request.tokens.append(self._rng.choice((1, 2, 3)))
        self._compute(request, self._rng.randint(request.computed + 1, len(request.tokens)))

    def _compute(self, request: Request, stop: int) -> None:
        table = request.table
        missing = -(-stop // BLOCK) - len(table.pages)
        if missing > 0:
            table.pages += self._pool.allocate(missing)
        for position in range(request.computed, stop):
            page = table.pages[position // BLOCK]
            require(page.references == 1, "a page that is written to is shared")
            mark = self._mark(request, position)
            for layer in self._pool.layers:
                for which, tensor in enumerate(self._pool.tensors(layer)):
                    tensor[:, page.index, position % BLOCK] = mark + 2 * layer + which
        request.computed = stop

    def _keep(self) -> None:
        if self._requests:
            request = self._rng.choice(self._requests)
            whole = request.computed // BLOCK * BLOCK
            self._cache.keep(request.tokens[:whole], request.table)
            self._naive.keep(request.table.namespace, request.tokens[:whole], self._seconds)

    def _close(self) -> None:
        if self._requests:
            request = self._requests.pop(self._rng.randrange(len(self._requests)))
            self._check_contents(request)
            self._cache.close(request.table)
            self._cache.close(request.table)
            self._naive.release(request.held)

    def _pin(self) -> None:
        tokens = [self._rng.choice((1, 2, 3))] * BLOCK * self._rng.randint(1, 2)
        request = self._find(tokens, self._rng.choice(NAMESPACES))
        self._requests.append(request)
        self._compute(request, len(tokens))
        namespace = request.table.namespace
        fits = self._naive.keep(namespace, tokens, self._seconds, pinned=True)
        try:
            self._cache.keep(tokens, request.table, pinned=True)
        except CapacityError:
            require(not fits, "a pin that fits was refused")
        else:
            require(fits, "a pin that does not fit was taken")

    def _clear(self) -> None:
        namespace = self._rng.choice((None, *NAMESPACES))
        removed = self._naive.clear(namespace)
        require(self._cache.clear(namespace) == removed, f"cleared something else than {removed} blocks")

    def _shrink(self) -> None:
        blocks = self._rng.randint(0, BLOCKS_HELD)
        self._cache.tree.shrink_to(blocks * self._pool.page_bytes)
        self._naive.shrink(blocks)

    def _trim(self) -> None:
        freed = self._pool.trim()
        require(freed >= 0, "memory was given back that was not there")
        require(self._pool.capacity_pages == 1 + self._pool.used_pages, "unused memory was kept")

    def _press(self) -> None:
        """Let others take memory, or give it back."""
        self._allowed = self._rng.choice((BLOCKS_HELD, BLOCKS_HELD, self._rng.randint(0, BLOCKS_HELD)))

    def _wait(self) -> None:
        self._seconds += self._rng.uniform(0, TTL_SECONDS / 2)
        self._cache.tree.expire()
        self._naive.expire(self._seconds)

    # What has to hold

    def _check(self) -> None:
        self._cache.heed_pressure()  # the engine does so in every step
        self._naive.shrink(self._allowed)
        self._naive.max_blocks = max(self._allowed, len(self._naive.entries))
        self._pool.check_invariants()
        self._cache.tree.check_invariants()
        self._check_tree()
        self._check_references()

    def _check_tree(self) -> None:
        stats, naive = self._cache.stats, self._naive.entries
        require(stats.held_blocks == len(naive), f"{stats.held_blocks} blocks held instead of {len(naive)}")
        require(stats.held_bytes <= BLOCKS_HELD * self._pool.page_bytes, "more is held than the bound")
        pinned = sum(entry.pinned for entry in naive.values()) * self._pool.page_bytes
        require(stats.pinned_bytes == pinned, f"{stats.pinned_bytes} bytes pinned instead of {pinned}")
        for namespace, tokens in naive:
            known = self._cache.known_tokens([*tokens, 0], namespace)
            require(known >= len(tokens), "a block that should be held is not")

    def _check_references(self) -> None:
        pages = self._pool._used.values()
        holders = Counter(id(page) for request in self._requests for page in request.table.pages)
        require(set(holders) <= {id(page) for page in pages}, "a request's page is taken for free")
        # What a request does not hold, the tree does, once each.
        in_tree = [page.references - holders[id(page)] for page in pages]
        require(all(count in (0, 1) for count in in_tree), "a page is held by nobody, or twice by the tree")
        held = self._cache.stats.held_blocks
        require(sum(in_tree) == held, f"the tree holds {held} blocks and {sum(in_tree)} pages")

    def _check_contents(self, request: Request) -> None:
        """Compare every place that a request's tokens have in its pages."""
        whole, rest = divmod(request.computed, BLOCK)
        for index, page in enumerate(request.table.pages[: whole + bool(rest)]):
            tokens = rest if index == whole else BLOCK
            for found, wanted in zip(self._pool.read(page), self._contents(request, index), strict=True):
                same = torch.equal(found[:, :, :tokens], wanted[:, :, :tokens])
                require(same, f"block {index} holds other tokens' keys and values")

    def _contents(self, request: Request, index: int) -> list[torch.Tensor]:
        """Return what a block should hold, as the pool reads it."""
        last = min((index + 1) * BLOCK, len(request.tokens))
        marks = [self._mark(request, at) for at in range(index * BLOCK, last)]
        row = torch.tensor(marks + [0.0] * (BLOCK - len(marks)))
        found = []
        for group in LAYOUT.groups:
            for which, dim in enumerate((group.key_dim, group.value_dim)):
                layers = [row + 2 * layer + which for layer in group.layers]
                found.append(
                    torch.stack(layers)[:, None, :, None].repeat(1, group.kv_heads, 1, dim).contiguous()
                )
        return found

    def _mark(self, request: Request, position: int) -> float:
        path = (request.table.namespace, tuple(request.tokens[: position + 1]))
        # Less than 2 ** 24, so that float32 holds it to the last bit.
        return self._marks.setdefault(path, float(len(self._marks) * 8 % 2**23 + 8))


def drive(
    operations: int,
    seed: int,
    *,
    pool: Callable[[KVLayout, int], KVPool] = KVPool,
    report: Callable[[str], None] = lambda line: None,
) -> int:
    """Do random operations, each followed by every check there is.

    Args:
        operations: how many.
        seed: of what is chosen.
        pool: makes the pool; a broken one shows that the checks can fail.
        report: is told what was wrong.

    Returns:
        After how many operations something was wrong.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    return Machine(rng, pool).violations(operations, report)


class LeakingPool(KVPool):
    """A control: every hundredth page is not given back."""

    def release(self, pages: Iterable[Page]) -> None:
        """Let go of most pages."""
        super().release([page for page in pages if page.index % 100 != 17])


class HastyPool(KVPool):
    """A control: a page that two hold is free as soon as one lets go."""

    def release(self, pages: Iterable[Page]) -> None:
        """Let go of pages, others' holds included now and then."""
        pages = list(pages)
        for page in pages:
            if page.references == 2 and page.index % 5 == 2:
                page.references = 1
        super().release(pages)


class ForgetfulPool(KVPool):
    """A control: one page loses its contents when pages move."""

    def trim(self) -> int:
        """Give memory back, and a page's contents with it."""
        freed = super().trim()
        if freed:
            self.tensors(1)[0][:, -1] = 0
        return freed


CONTROLS: dict[str, Callable[[KVLayout, int], KVPool]] = {
    "leaking": LeakingPool,
    "hasty": HastyPool,
    "forgetful": ForgetfulPool,
}


def main() -> None:
    """Run and report."""
    from common import emit, say

    quick, started, seed = "--quick" in sys.argv[1:], time.time(), 16
    operations = 10_000 if quick else 100_000
    wrong = drive(operations, seed, report=say)
    say(f"{operations:,} random operations on pool and tree: something was wrong after {wrong}")
    rows: list[dict[str, Any]] = [{"pool": "ours", "operations": operations, "violations": wrong}]
    for name, pool in CONTROLS.items():
        found = drive(2000, seed, pool=pool)
        rows.append({"pool": f"control: {name}", "operations": 2000, "violations": found})
        say(f"control, {name}: something was wrong after {found} of 2,000")
    emit(
        "pool_operations",
        figures={
            "operations": operations,
            "pool_violations": wrong,
            "controls_noticed": sum(row["violations"] > 0 for row in rows[1:]) / len(CONTROLS),
        },
        rows=rows,
        seed=seed,
        started=started,
        packages=("torch",),
        quick=quick,
    )


if __name__ == "__main__":
    main()
