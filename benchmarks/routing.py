"""What does it bring to send a request to the replica that holds its prefix?

    python benchmarks/routing.py [--quick] [FILE]

Replays the Mooncake conversation trace (its first half hour) to 4 replicas with bounded caches, each a prefix
tree as the engine's, without a model. The choice, what the router knows, and what replicas tell it are the
server's own (`ray_serve/choice.py`, `knowledge.py`, `holdings.py`); so is the delay with which they tell it.

A replica computes one prompt after another, at the speed at which all four together would be busy for 70 % of
the trace if nothing were cached; the load that the router sees is what is not done yet. `imbalance` is the
computed and loaded work of the busiest replica over the mean, in requests; `behind` that in computed tokens.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axolotl_cache.prefix import PrefixTree
from axolotl_cache.profiling.requests import BlockLog, read_requests
from axolotl_cache.profiling.simulate import BlockRequest, capacity_for
from axolotl_cache.ray_serve.choice import rank
from axolotl_cache.ray_serve.holdings import Holdings, read_told
from axolotl_cache.ray_serve.knowledge import Knowledge
from axolotl_cache.ray_serve.ticket import Ticket
from common import TRACES, emit, say

MOONCAKE = TRACES / "mooncake_conversation_0-30min.jsonl.gz"
SOURCE = "https://github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl"
REPLICAS = 4
FRACTIONS = (0.02, 0.05, 0.1)
"""Of the distinct blocks, in the cache of each replica."""
BUSY_WITHOUT_CACHE = 0.7
TELLS_EVERY_SECONDS = 2.0
QUICK_REQUESTS = 1500
SEED = 0
_NAMESPACE = "simulated"
_NO_BLOCK = 2**32 - 1

Choose = Callable[[Sequence[int], "Cluster"], int]


@dataclass(frozen=True, slots=True)
class _Nothing:
    nbytes: int = 1


@dataclass(slots=True)
class Replica:
    """A cache, and what it has to do."""

    tree: PrefixTree[_Nothing]
    holdings: Holdings = field(default_factory=Holdings)
    done_at: deque[float] = field(default_factory=deque)
    """When each request under way will be done."""
    requests: int = 0
    computed_tokens: int = 0
    hit_tokens: int = 0
    wait_seconds: float = 0.0

    def load(self, now: float) -> int:
        """Return how many requests are under way."""
        while self.done_at and self.done_at[0] <= now:
            self.done_at.popleft()
        return len(self.done_at)

    def serve(self, request: BlockRequest, block_size: int, tokens_per_second: float) -> None:
        """Find what is held, compute the rest, and remember all."""
        whole = list(request.blocks[: request.prompt_tokens // block_size])
        goes_on = request.prompt_tokens > len(whole) * block_size
        match = self.tree.match([*whole, _NO_BLOCK] if goes_on else whole, namespace=_NAMESPACE)
        found = match.tokens * block_size
        self.tree.insert(whole, lambda index: _Nothing(), 1, namespace=_NAMESPACE)
        self.tree.release(match)
        self.holdings.note(Ticket(tuple(whole)), lambda: lambda: self._share(whole))
        began = max(request.at_seconds, self.done_at[-1] if self.done_at else 0.0)
        self.wait_seconds += began - request.at_seconds
        self.done_at.append(began + (request.prompt_tokens - found) / tokens_per_second)
        self.requests += 1
        self.hit_tokens += found
        self.computed_tokens += request.prompt_tokens - found

    def _share(self, whole: Sequence[int]) -> float:
        return self.tree.peek([*whole, _NO_BLOCK], namespace=_NAMESPACE) / len(whole)


class Cluster:
    """Replicas, and what a router knows of them."""

    def __init__(self, replicas: int, capacity_blocks: int) -> None:
        self.now = 0.0
        self.replicas = [
            Replica(PrefixTree[_Nothing](block_size=1, max_bytes=capacity_blocks, clock=lambda: self.now))
            for _ in range(replicas)
        ]
        self.knowledge = Knowledge()
        self._told_at = 0.0

    def loads(self) -> dict[str, int]:
        """Return the requests under way, by name."""
        return {str(place): each.load(self.now) for place, each in enumerate(self.replicas)}

    def tell(self) -> None:
        """Let the replicas report, if it is time."""
        if self.now - self._told_at < TELLS_EVERY_SECONDS:
            return
        self._told_at = self.now
        for place, each in enumerate(self.replicas):
            self.knowledge.told(str(place), read_told(each.holdings.told()))


def by_prefix(chunks: Sequence[int], cluster: Cluster) -> int:
    """Choose as the server does."""
    cluster.tell()
    loads = cluster.loads()
    candidates = cluster.knowledge.candidates(chunks, None, loads, cluster.now)
    place = rank(chunks, candidates, chunks_a_request=cluster.knowledge.chunks_a_request)[0]
    cluster.knowledge.sent(str(place), chunks, cluster.now)
    return place


def least_loaded(chunks: Sequence[int], cluster: Cluster) -> int:
    """Choose who has least to do; of equals, at random."""
    loads = list(cluster.loads().values())
    return RANDOM.choice([place for place, load in enumerate(loads) if load == min(loads)])


def at_random(chunks: Sequence[int], cluster: Cluster) -> int:
    """Choose anybody."""
    return RANDOM.randrange(len(cluster.replicas))


RANDOM = random.Random(SEED)  # noqa: S311


def replay(log: BlockLog, choose: Choose, *, replicas: int, capacity_blocks: int) -> dict[str, Any]:
    """Return what a way of choosing comes to."""
    RANDOM.seed(SEED)
    total = sum(request.prompt_tokens for request in log.requests)
    span = log.requests[-1].at_seconds - log.requests[0].at_seconds
    speed = total / (BUSY_WITHOUT_CACHE * span * REPLICAS) * REPLICAS / replicas
    cluster = Cluster(replicas, capacity_blocks)
    for request in log.requests:
        cluster.now = request.at_seconds
        chunks = request.blocks[: request.prompt_tokens // log.block_size]
        place = choose(chunks, cluster)
        cluster.replicas[place].serve(request, log.block_size, speed)
    served = [each.requests for each in cluster.replicas]
    computed = [each.computed_tokens for each in cluster.replicas]
    return {
        "hit_rate": sum(each.hit_tokens for each in cluster.replicas) / total,
        "imbalance": max(served) * replicas / sum(served),
        "behind": max(computed) * replicas / sum(computed),
        "mean_wait_seconds": sum(each.wait_seconds for each in cluster.replicas) / len(log.requests),
        "tokens_per_second": speed,
    }


WAYS: dict[str, Choose] = {"prefix": by_prefix, "random": at_random, "least loaded": least_loaded}


def figures(file: Path, *, quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the figures and the rows behind them; nothing where the trace is missing."""
    if not file.exists():
        say(f"SKIPPED: {file} is missing. Put it there, or set AXOLOTL_CACHE_TRACES. It is public: {SOURCE}.")
        return {}, []
    log = read_requests([file])
    if quick:
        log = BlockLog(log.requests[:QUICK_REQUESTS], log.block_size)
    rows = []
    say(f"{len(log.requests):,} requests, {REPLICAS} replicas")
    say(f"{'way':14} {'each holds':>10} {'hit rate':>9} {'requests':>9} {'computed':>9} {'wait':>8}")
    for fraction in FRACTIONS:
        capacity = capacity_for(fraction, log.requests, log.block_size)
        for name, choose in WAYS.items():
            found = replay(log, choose, replicas=REPLICAS, capacity_blocks=capacity)
            rows.append({"way": name, "fraction": fraction, "capacity_blocks": capacity} | found)
            say(
                f"{name:14} {fraction:>10.0%} {found['hit_rate']:>9.2%} {found['imbalance']:>9.2f} "
                f"{found['behind']:>9.2f} {found['mean_wait_seconds']:>7.2f}s"
            )
        one = replay(log, lambda *_: 0, replicas=1, capacity_blocks=capacity * REPLICAS)
        rows.append({"way": "one cache", "fraction": fraction, "capacity_blocks": capacity * REPLICAS} | one)
        say(f"{'one cache':14} {fraction * REPLICAS:>10.0%} {one['hit_rate']:>9.2%}")
    chosen = {row["way"]: row for row in rows if row["fraction"] == FRACTIONS[1]}
    return {
        "prefix_routing_hit_rate": chosen["prefix"]["hit_rate"],
        "random_routing_hit_rate": chosen["random"]["hit_rate"],
        "prefix_routing_imbalance": chosen["prefix"]["imbalance"],
        "random_routing_imbalance": chosen["random"]["imbalance"],
    }, rows


def main() -> None:
    """Answer the question."""
    started = time.time()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=MOONCAKE)
    parser.add_argument("--quick", action="store_true", help="the same on fewer requests")
    chosen = parser.parse_args()
    found, rows = figures(chosen.file, quick=chosen.quick)
    if rows:
        emit("routing", figures=found, rows=rows, seed=SEED, started=started, packages=(), quick=chosen.quick)


if __name__ == "__main__":
    main()
