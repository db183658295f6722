"""What a prefix cache of some size and policy would find: the tree itself, without a model.

The simulated tree is the engine's (`prefix/tree.py`), with blocks that hold nothing: whoever changes a policy
changes both. The optimum is Belady's, with every later request known.

What counts: a block is found if it and all before it are held, whole blocks only, and of a prompt at the most
all tokens but the last, which is always computed. The hit rate is tokens found by tokens asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from axolotl_cache.prefix import PolicyName, PrefixMatch, PrefixTree, Ranking, make_ranking
from axolotl_cache.prefix.agreement import common_length

_NO_BLOCK = 2**32 - 1
"""Behind the last whole block of a prompt that goes on: the tree keeps the last token from being found."""
_NAMESPACE = "simulated"


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A prompt as a cache sees it."""

    at_seconds: float
    """When it came; requests are in this order."""
    blocks: Sequence[int]
    """A number from 0 to 2**32 - 2 for each block, which stands for the block and all before it. One for a
    last block that is not whole may be there, and is not looked at."""
    prompt_tokens: int
    takes_seconds: float = 0.0
    """From its coming until its prompt is computed: what comes meanwhile finds of it what it waits for, and
    can't have what it uses evicted."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What was found."""

    policy: str
    capacity_blocks: int
    requests: int
    prompt_tokens: int
    hit_tokens: int
    evicted_blocks: int

    @property
    def hit_rate(self) -> float:
        """Share of the prompts' tokens that were found."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class _Nothing:
    nbytes: int = 1


_NOTHING: Final = _Nothing()


class _At:
    """A clock that stands where the requests are."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True, order=True)
class _Running:
    """A request whose prompt is being computed; the one that ends first is the least."""

    ends_at: float
    number: int
    whole: list[int] = field(compare=False)
    match: PrefixMatch[_Nothing] = field(compare=False)

    def end(self, tree: PrefixTree[_Nothing], clock: _At) -> None:
        """Let its blocks join the tree."""
        clock.seconds = max(clock.seconds, self.ends_at)
        tree.insert(self.whole, lambda index: _NOTHING, 1, namespace=_NAMESPACE)
        tree.release(self.match)


def _await_shared(running: list[_Running], asked: list[int], tree: PrefixTree[_Nothing], clock: _At) -> None:
    """End those first that compute what a new request would find: it waits for them, as in the engine."""
    if not running:
        return
    known = tree.peek(asked, namespace=_NAMESPACE)
    waited_for = [each for each in running if common_length(each.whole, asked) > known]
    for each in sorted(waited_for):
        running.remove(each)
        _Running(clock.seconds, each.number, each.whole, each.match).end(tree, clock)
    if waited_for:
        heapq.heapify(running)


def simulate(
    requests: Iterable[BlockRequest],
    *,
    block_size: int,
    capacity_blocks: int,
    policy: PolicyName = "lru",
    ttl_seconds: float | None = None,
) -> Simulated:
    """Return what a cache that begins empty finds for requests, one after another.

    Cost: some 10 us a block, more for policies that rank.

    Args:
        requests: in order of time.
        block_size: tokens in a block.
        capacity_blocks: most blocks held.
        policy: who goes first.
        ttl_seconds: blocks that nobody asked for in this time go.

    Raises:
        ValueError: a prompt is longer than its blocks, or there is no such policy.
    """
    ranking = make_ranking(policy)
    return replay(
        requests,
        block_size=block_size,
        capacity_blocks=capacity_blocks,
        ranking=ranking,
        ttl_seconds=ttl_seconds,
        name=policy,
    )


def replay(
    requests: Iterable[BlockRequest],
    *,
    block_size: int,
    capacity_blocks: int,
    ranking: Ranking | None,
    ttl_seconds: float | None = None,
    name: str = "",
) -> Simulated:
    """Return the same as `simulate` for a ranking of one's own, which may know something already.

    Args:
        requests: in order of time.
        block_size: tokens in a block.
        capacity_blocks: most blocks held.
        ranking: who goes first; None is least recently used first.
        ttl_seconds: blocks that nobody asked for in this time go.
        name: of the ranking, for the result.
    """
    clock = _At()
    tree = PrefixTree[_Nothing](
        block_size=1, max_bytes=capacity_blocks, ttl_seconds=ttl_seconds, clock=clock, ranking=ranking
    )
    running: list[_Running] = []
    count = prompt_tokens = 0
    for request in requests:
        while running and running[0].ends_at <= request.at_seconds:
            heapq.heappop(running).end(tree, clock)
        clock.seconds = max(clock.seconds, request.at_seconds)
        whole = _whole_blocks(request, block_size)
        goes_on = request.prompt_tokens > len(whole) * block_size
        asked = [*whole, _NO_BLOCK] if goes_on else whole
        _await_shared(running, asked, tree, clock)
        match = tree.match(asked, namespace=_NAMESPACE)
        begun = _Running(request.at_seconds + request.takes_seconds, count, whole, match)
        if request.takes_seconds > 0:
            heapq.heappush(running, begun)
        else:
            begun.end(tree, clock)
        count += 1
        prompt_tokens += request.prompt_tokens
    while running:
        heapq.heappop(running).end(tree, clock)
    hit_tokens = tree.stats.hit_tokens * block_size
    return Simulated(name, capacity_blocks, count, prompt_tokens, hit_tokens, tree.stats.evicted_blocks)


def optimum(requests: Sequence[BlockRequest], *, block_size: int, capacity_blocks: int) -> Simulated:
    """Return what no cache of this size can surpass: whoever is asked for latest, or never again, goes.

    Whoever asks for a block has just asked for all before it, so that the block asked for latest is never in
    front of another that is held: what is best for blocks one by one is possible for prefixes, too.

    Cost: O(blocks * log(capacity)).

    Source: Belady, A study of replacement algorithms for a virtual-storage computer, 1966; Mattson et al.,
    Evaluation techniques for storage hierarchies, 1970 (that it is the best there is).
    """
    prompts = [_whole_blocks(request, block_size) for request in requests]
    asked = [block for prompt in prompts for block in prompt]
    following = _following(asked)
    held: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    place = found = evicted = 0
    for prompt, request in zip(prompts, requests, strict=True):
        countable = (request.prompt_tokens - 1) // block_size
        for index, block in enumerate(prompt):
            found += block in held and index < countable
            held[block] = following[place]
            heapq.heappush(latest, (-following[place], block))
            place += 1
            while len(held) > capacity_blocks:
                at, goes = heapq.heappop(latest)
                if held.get(goes) == -at:
                    del held[goes]
                    evicted += 1
    prompt_tokens = sum(request.prompt_tokens for request in requests)
    return Simulated("optimum", capacity_blocks, len(prompts), prompt_tokens, found * block_size, evicted)


def distinct_blocks(requests: Iterable[BlockRequest], block_size: int) -> int:
    """Return how many whole blocks requests ask for, each counted once: with room for them all, none goes."""
    return len({block for request in requests for block in _whole_blocks(request, block_size)})


def capacity_for(fraction: float, requests: Iterable[BlockRequest], block_size: int) -> int:
    """Return a share of the distinct blocks in blocks, at least one."""
    return max(1, int(fraction * distinct_blocks(requests, block_size)))


def _whole_blocks(request: BlockRequest, block_size: int) -> list[int]:
    whole = request.prompt_tokens // block_size
    if whole > len(request.blocks):
        raise ValueError(
            f"a prompt of {request.prompt_tokens} tokens has {whole} whole blocks of {block_size} tokens, "
            f"and {len(request.blocks)} are named: is the block size right?"
        )
    return list(request.blocks[:whole])


def _following(asked: Sequence[int]) -> list[int]:
    """Return for each place where the same block is asked for next; after the end if never."""
    following = [0] * len(asked)
    next_at: dict[int, int] = {}
    for place in range(len(asked) - 1, -1, -1):
        following[place] = next_at.get(asked[place], len(asked) + place)
        next_at[asked[place]] = place
    return following
