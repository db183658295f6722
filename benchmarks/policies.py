"""What else was tried for the policy `adaptive`, and how much any policy could find that knows no more?

    python benchmarks/policies.py [--quick] [FILE]

Each line of the first table is `adaptive` with one thing changed: token hit rates with room for 1, 5, 10, 25
and 60 % of the distinct blocks, and how much of the gap between `lru` and the optimum is closed. The second
table bounds from above what a policy can find that tells blocks apart by some facts alone: it is given the
true distribution of the times to the next use for each class of blocks, and keeps each class for the best
time. Room that is empty at the start counts as if it could be used later, so that the bound is too high, not
too low.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from axolotl_cache.prefix import PrefixTree, Ranking, adaptive, eviction, make_ranking, reuse
from axolotl_cache.prefix.adaptive import ReuseRanking
from axolotl_cache.profiling.requests import BlockLog, read_requests
from axolotl_cache.profiling.simulate import capacity_for, optimum, replay
from common import TRACES, emit, say

MOONCAKE = TRACES / "mooncake_conversation_0-30min.jsonl.gz"
SOURCE = "The default is public: conversation_trace.jsonl of kvcache-ai/Mooncake, gzipped."
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.6)
QUICK_REQUESTS = 1500
Make = Callable[[], Ranking | None]


@dataclass(frozen=True, slots=True)
class Touch:
    """A block that a request asks for, and all that could be known of it then."""

    requests: int
    new_blocks: int
    gap_seconds: float
    is_first: bool
    seconds_to_next: float
    seconds_to_end: float


def main() -> None:
    """Answer the question."""
    started = time.time()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=MOONCAKE)
    parser.add_argument("--quick", action="store_true", help="the same on fewer requests")
    chosen = parser.parse_args()
    if not chosen.file.exists():
        say(f"SKIPPED: {chosen.file} is missing. Put it there, or set AXOLOTL_CACHE_TRACES. {SOURCE}")
        raise SystemExit(0)
    log = read_requests([chosen.file])
    if chosen.quick:
        log = BlockLog(log.requests[:QUICK_REQUESTS], log.block_size)
    rows = [*_tried(log), *_ceilings(log)]
    best = max(row["closed"][0] for row in rows if row["part"] == "tried")
    emit(
        "policies",
        figures={"best_gap_closed_1": best},
        rows=rows,
        seed=0,
        started=started,
        packages=(),
        quick=chosen.quick,
    )


# What was tried


def _tried(log: BlockLog) -> Iterator[dict[str, Any]]:
    capacities = [capacity_for(fraction, log.requests, log.block_size) for fraction in FRACTIONS]
    best = [
        optimum(log.requests, block_size=log.block_size, capacity_blocks=capacity).hit_rate
        for capacity in capacities
    ]
    base: list[float] = []
    for name, make, changed in _variants(log, capacities[-1]):
        with changed():
            rates = [
                replay(
                    log.requests, block_size=log.block_size, capacity_blocks=capacity, ranking=make()
                ).hit_rate
                for capacity in capacities
            ]
        base = base or rates
        closed = [_closed(rate, lru, top) for rate, lru, top in zip(rates, base, best, strict=True)]
        shown = "  ".join(
            f"{100 * rate:6.2f} ({100 * part:4.0f} %)" for rate, part in zip(rates, closed, strict=True)
        )
        say(f"{name:36} {shown}")
        yield {"part": "tried", "name": name, "hit_rates": rates, "closed": closed, "optimum": best}


def _closed(rate: float, lru: float, top: float) -> float:
    """Return the part of the gap that is closed; 0 where there is none."""
    return (rate - lru) / (top - lru) if top > lru else 0.0


def _variants(log: BlockLog, capacity: int) -> Iterator[tuple[str, Make, Callable[[], Any]]]:
    kind = reuse.kind_of
    yield "lru", lambda: None, _as_it_is
    yield "lfu", lambda: make_ranking("lfu"), _as_it_is
    yield "adaptive", ReuseRanking, _as_it_is
    everybody = PrefixTree._make_room

    def let_in(tree: Any, *args: Any, must: bool) -> bool:
        return everybody(tree, *args, must=True)

    for name, where, what, value in (
        ("lets everybody in", PrefixTree, "_make_room", let_in),
        ("kinds by requests alone", adaptive, "kind_of", lambda n, new: (kind(n, new)[0], 0)),
        ("kinds by new blocks alone", adaptive, "kind_of", lambda n, new: (1, kind(n, new)[1])),
        ("remembers as many as it holds", eviction, "_REMEMBERED_PER_BLOCK", 1),
        ("looks at every leaf", eviction, "_LOOKED_AT", 10**9),
        ("looks at 8 leaves", eviction, "_LOOKED_AT", 8),
        ("keeps none in view", eviction, "_REMAINING", 0),
        ("learns every 8 requests", adaptive, "_LEARN_EVERY", 8),
        ("learns every 128 requests", adaptive, "_LEARN_EVERY", 128),
        ("forgets half in 2,000 requests", adaptive, "_HALF_LIFE_REQUESTS", 2000),
        ("prior of 1 use", reuse, "_PRIOR_USES", 1.0),
        ("prior of 8 uses", reuse, "_PRIOR_USES", 8.0),
        ("prior of 32 uses", reuse, "_PRIOR_USES", 32.0),
    ):
        yield name, ReuseRanking, _changed(where, what, value)
    known = ReuseRanking()
    replay(log.requests, block_size=log.block_size, capacity_blocks=capacity, ranking=known)
    yield "knows this trace's rates beforehand", lambda: _Knowing(known), _as_it_is


class _Knowing(ReuseRanking):
    """Has learned all there is to learn, from the very requests that it will see."""

    def __init__(self, other: ReuseRanking) -> None:
        super().__init__()
        self._rates = other._rates

    def _learn(self, now_seconds: float) -> None:
        pass


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _changed(where: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: patch.object(where, name, value)


# What could be found at best


def _ceilings(log: BlockLog) -> Iterator[dict[str, Any]]:
    touches = _touches(log)
    seconds = log.requests[-1].at_seconds - log.requests[0].at_seconds
    tokens = sum(request.prompt_tokens for request in log.requests)
    capacities = [capacity_for(fraction, log.requests, log.block_size) for fraction in FRACTIONS]
    for name, facts in (
        ("nothing", lambda t: t.is_first),
        ("requests", lambda t: (t.is_first, min(t.requests, 10))),
        ("requests, new blocks", lambda t: (t.is_first, min(t.requests, 6), _bucket(t.new_blocks))),
        (
            "requests, time since the last",
            lambda t: (t.is_first, min(t.requests, 6), _bucket(t.gap_seconds / 15)),
        ),
    ):
        classes: dict[Hashable, list[Touch]] = defaultdict(list)
        for touch in touches:
            classes[facts(touch)].append(touch)
        pieces = sorted((p for group in classes.values() for p in _pieces(group)), reverse=True)
        rates = [_best(pieces, capacity * seconds) * log.block_size / tokens for capacity in capacities]
        shown = "  ".join(f"{100 * rate:6.2f}" for rate in rates)
        say(f"at best, knowing {name:30} {shown}   ({len(classes)} classes)")
        yield {"part": "ceiling", "name": name, "hit_rates": rates, "classes": len(classes)}


def _bucket(value: float) -> int:
    return min(9, int(math.log2(1 + value))) if value < math.inf else 99


def _touches(log: BlockLog) -> list[Touch]:
    end = log.requests[-1].at_seconds
    following: dict[int, float] = {}
    nexts: list[list[float]] = []
    for request in reversed(log.requests):
        blocks = request.blocks[: request.prompt_tokens // log.block_size]
        nexts.append([following.get(block, math.inf) - request.at_seconds for block in blocks])
        following.update((block, request.at_seconds) for block in blocks)
    asked: dict[int, tuple[int, float]] = {}
    touches = []
    for request, waits in zip(log.requests, reversed(nexts), strict=True):
        at = request.at_seconds
        blocks = request.blocks[: request.prompt_tokens // log.block_size]
        new = sum(block not in asked for block in blocks)
        gap = math.inf
        for place, (block, wait) in enumerate(zip(blocks, waits, strict=True)):
            requests, last = asked.get(block, (0, -math.inf))
            gap = at - last if requests else gap  # what is new waits as long as what it hangs on did
            asked[block] = requests + 1, at
            touches.append(Touch(requests + 1, new, gap, place == 0, wait, end - at))
    return touches


def _pieces(group: list[Touch]) -> Iterator[tuple[float, float, int]]:
    """Yield (uses a second, seconds, uses) for keeping a class ever longer, the best ones first."""
    waits = sorted({touch.seconds_to_next for touch in group if touch.seconds_to_next < math.inf})
    points = [(0.0, 0)]
    for keep in waits[:: max(1, len(waits) // 60)] + waits[-1:]:
        kept = sum(min(t.seconds_to_next, keep, t.seconds_to_end) for t in group)
        points.append((kept, sum(t.seconds_to_next <= keep for t in group)))
    hull: list[tuple[float, int]] = []
    for point in sorted(points):
        while len(hull) > 1 and _slope(hull[-2], point) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    for before, after in pairwise(hull):
        if after[1] > before[1]:
            yield _slope(before, after), after[0] - before[0], after[1] - before[1]


def _slope(before: tuple[float, int], after: tuple[float, int]) -> float:
    return (after[1] - before[1]) / max(after[0] - before[0], 1e-9)


def _best(pieces: list[tuple[float, float, int]], room: float) -> float:
    found = 0.0
    for _, cost, uses in pieces:
        part = min(1.0, room / cost) if cost > 0 else 1.0
        found += uses * part
        room -= cost * part
        if room <= 0:
            break
    return found


if __name__ == "__main__":
    main()
