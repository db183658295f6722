"""The exact hit rate of an LRU cache at every capacity and every TTL, from one pass over a trace.

LRU keeps what was used last, so that a cache of C blocks holds a block exactly if fewer than C others were
used since: its stack distance. One pass gives the distances, and their distribution is the curve.

Within a request all blocks are looked up first; then they are touched from the last to the first, as in the
prefix tree, so that a parent is always newer than its children. A block whose last use is longer ago
than the TTL is forgotten, and stands below all that are not, so that distance and age decide together.

Sources: Mattson et al., Evaluation techniques for storage hierarchies (IBM Systems Journal 9, 1970);
Waldspurger et al., SHARDS (FAST 2015), section 3 (sampling) and 3.3 (the correction).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import stdev
from typing import Final

from axolotl_cache.profiling.sampled import Access, SampledTrace, mixed

NEVER: Final = -1
"""Distance of a block's first use."""
_BUCKET_BITS: Final = 11
_BUCKET: Final = 1 << _BUCKET_BITS
_MOST: Final = 2**62
"""Blocks; more than any machine holds."""
_GROUPS: Final = 8
_STUDENT_95: Final = 2.36
"""Of 7 degrees of freedom: 95 % of means of 8 groups lie within so many standard errors."""


class Recency:
    """How many different blocks were used since a block was used last.

    Cost: O(log n) for each use, in a Fenwick tree over buckets of 2,048 uses, each one bitmap.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._uses = 0
        self._bits: list[int] = [0]
        """A bit for each use that is still its block's last; bit 0 is the oldest of the bucket."""
        self._tree: list[int] = [0]
        """Fenwick tree over the counts of all buckets but the newest."""

    def distance(self, block: int) -> int:
        """Return the number of other blocks used since; `NEVER` for a new one."""
        use = self._last.get(block)
        if use is None:
            return NEVER
        bucket = use >> _BUCKET_BITS
        at_or_before = (self._bits[bucket] & ((2 << (use & _BUCKET - 1)) - 1)).bit_count()
        index = bucket
        tree = self._tree
        while index:
            at_or_before += tree[index]
            index &= index - 1
        return len(self._last) - at_or_before

    def use(self, block: int) -> None:
        """Make a block the newest."""
        old = self._last.get(block)
        if old is not None:
            self._forget(old)
        use = self._uses
        self._last[block] = use
        self._bits[-1] |= 1 << (use & _BUCKET - 1)
        self._uses += 1
        if not self._uses & _BUCKET - 1:
            self._close()

    def _forget(self, use: int) -> None:
        bucket = use >> _BUCKET_BITS
        self._bits[bucket] ^= 1 << (use & _BUCKET - 1)
        index, tree = bucket + 1, self._tree
        while index < len(tree):
            tree[index] -= 1
            index += index & -index

    def _close(self) -> None:
        """Move the newest bucket into the tree, and begin another."""
        index = len(self._tree)
        total = self._bits[-1].bit_count()
        low = index & index - 1
        child = index - 1
        while child > low:
            total += self._tree[child]
            child &= child - 1
        self._tree.append(total)
        self._bits.append(0)


@dataclass(frozen=True, slots=True)
class Distances:
    """For every block looked up: how many others were used since, and how long ago that was."""

    distance: array[int]
    """In blocks of the sample; `NEVER` for a first use."""
    age_seconds: array[float]
    group: array[int]
    """Which eighth of all blocks it belongs to: the error is estimated from how these differ."""


def distances(accesses: Iterable[Access]) -> Distances:
    """Return the stack distance of every block looked up. Cost: O(n log n) time, about 130 bytes a block."""
    recency, used_at = Recency(), dict[int, float]()
    found = Distances(array("q"), array("d"), array("b"))
    for access in accesses:
        for block in access.blocks[: access.asked]:
            found.distance.append(recency.distance(block))
            found.age_seconds.append(max(0.0, access.at_seconds - used_at.get(block, access.at_seconds)))
            found.group.append(mixed(block ^ _GROUPS) & _GROUPS - 1)
        for block in reversed(access.blocks):
            recency.use(block)
            used_at[block] = access.at_seconds
    return found


@dataclass(frozen=True, slots=True)
class LruCurve:
    """Hits at every capacity, as a share of all blocks looked up."""

    sorted_distances: array[int]
    """Of the hits of a boundless cache, ascending, in blocks of the sample."""
    references: float
    """Blocks looked up, of the sample, corrected."""
    always: float
    """Hits that the correction adds at every capacity; may be negative."""
    rate: float
    groups: tuple[LruCurve, ...] = ()
    """The same of each eighth of the blocks."""

    def hit_rate(self, capacity_blocks: float) -> float:
        """Return the share of the blocks looked up that a cache of this capacity finds, from 0 to 1."""
        if not self.references or capacity_blocks < 1:
            return 0.0
        # Of a sample, a distance d stands for d / rate; a block is found if fewer than `capacity` are newer.
        bound = min(capacity_blocks * self.rate, float(_MOST))
        hits = bisect_right(self.sorted_distances, math.ceil(bound) - 1)
        return min(1.0, max(0.0, (hits + self.always) / self.references))

    @property
    def most(self) -> float:
        """The hit rate without any bound."""
        return self.hit_rate(math.inf)

    def capacity_for(self, share: float) -> int:
        """Return the smallest capacity in blocks that finds `share` of what can be found at all."""
        wanted = share * (len(self.sorted_distances) + self.always) - self.always
        if wanted <= 0 or not self.sorted_distances:
            return 1
        index = min(len(self.sorted_distances), math.ceil(wanted)) - 1
        return math.ceil((self.sorted_distances[index] + 1) / self.rate)

    def error(self, capacity_blocks: float) -> float:
        """Return the half width of the 95 % interval of `hit_rate`, from 0 to 1; 0 if nothing was sampled."""
        if self.rate == 1 or len(self.groups) < 2:
            return 0.0
        rates = [each.hit_rate(capacity_blocks) for each in self.groups if each.references]
        if len(rates) < 2:
            return 1.0
        return min(1.0, _STUDENT_95 * stdev(rates) / math.sqrt(len(rates)))


def reused_ages(found: Distances) -> Iterator[float]:
    """Yield how long ago each block that was used before was used last, in seconds."""
    return (age for age, far in zip(found.age_seconds, found.distance, strict=True) if far != NEVER)


def lru_curve(trace: SampledTrace, found: Distances) -> LruCurve:
    """Return the curve of a trace, and where it is a sample, those of its eighths.

    Args:
        trace: where the distances are from.
        found: of `distances(trace)`.
    """
    if trace.is_exact:
        return _curve(list(found.distance), trace, 1.0)
    members: list[list[int]] = [[] for _ in range(_GROUPS)]
    for far, group in zip(found.distance, found.group, strict=True):
        members[group].append(far)
    whole = _curve(list(found.distance), trace, 1.0)
    groups = tuple(_curve(each, trace, 1 / _GROUPS) for each in members)
    return LruCurve(whole.sorted_distances, whole.references, whole.always, whole.rate, groups)


def _curve(found: list[int], trace: SampledTrace, share: float) -> LruCurve:
    hits = array("q", sorted(far for far in found if far != NEVER))
    expected = len(found) if trace.is_exact else trace.references * trace.rate * share
    # What is missing from the sample, or too much in it, are references to a few blocks that everybody uses.
    return LruCurve(hits, expected, expected - len(found), trace.rate)
