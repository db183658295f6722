"""A trace in bounded memory: all of it, or every reference to a random share of the blocks.

Sampling is by the block and not by the reference, so that a block that is kept is kept with all of its
references, and its reuse can still be seen. A cache of C blocks in front of the whole trace then behaves like
one of C * rate blocks in front of the sample.

Source: Waldspurger et al., SHARDS (FAST 2015), fixed-size variant; Waldspurger et al. (ATC 2017), on running
any policy on such a sample.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1
_HOT: Final = 16
"""A block with more than one in so many of the references is hot."""
_FIRST: Final = 0x9E3779B97F4A7C15
_SECOND: Final = 0xD6E8FEB86659FD93


def mixed(block: int) -> int:
    """Return a number from 0 to 2^64 - 1 that looks random, and is the same in every process.

    Source: the constants are those of splitmix64 (golden ratio) and of rrxmrrxmsx by P. Evensen.
    """
    x = block * _FIRST + _SECOND & _MASK
    return (x ^ x >> 32) * _SECOND & _MASK


@dataclass(frozen=True, slots=True)
class Access:
    """What one request asks of a cache: blocks in the order of the prompt."""

    at_seconds: float
    blocks: Sequence[int]
    asked: int
    """The first so many are looked up; the others (the answer's) are only kept afterwards."""


class SampledTrace:
    """Keeps references to a share of all blocks, and halves the share each time that there are too many.

    Args:
        limit: most references held; 16 bytes each at the most.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a sample of {limit} references holds nothing")
        self._limit = limit
        self._threshold = 1 << _BITS
        self._hot: set[int] = set()
        self._blocks = array("Q")
        self._ends = array("q")
        """Where each access ends in `_blocks`."""
        self._asked = array("i")
        self._times = array("d")
        self.requests = 0
        self.references = 0
        """Blocks looked up by all requests, kept or not."""

    @property
    def rate(self) -> float:
        """Share of the blocks that are kept, above 0 and at most 1."""
        return self._threshold / (1 << _BITS)

    @property
    def is_exact(self) -> bool:
        """Whether everything is kept."""
        return self._threshold == 1 << _BITS

    def __len__(self) -> int:
        """References kept."""
        return len(self._blocks)

    def add(self, at_seconds: float, blocks: Sequence[int], asked: int) -> None:
        """Take one request's references, as in `Access`.

        Cost: O(len(blocks)), and now and then a pass over all that is kept.
        """
        self.requests += 1
        self.references += asked
        if self._threshold < 1 << _BITS:
            blocks, asked = self._kept(blocks, asked)
        if not blocks:
            return
        self._blocks.extend(blocks)
        self._ends.append(len(self._blocks))
        self._asked.append(asked)
        self._times.append(at_seconds)
        while len(self._blocks) > self._limit and self._threshold > 1:
            self._halve()

    def _kept(self, blocks: Sequence[int], asked: int) -> tuple[Sequence[int], int]:
        limit = self._threshold
        # `mixed` by hand: a call for each of millions of blocks would cost more than all the rest.
        kept = [
            block
            for block in blocks
            if ((x := block * _FIRST + _SECOND & _MASK) ^ x >> 32) * _SECOND & _MASK < limit
        ]
        if self._hot and not self._hot.isdisjoint(kept):
            kept = [block for block in kept if block not in self._hot]
        if asked == len(blocks):
            return kept, len(kept)
        answers = sum(mixed(block) < limit and block not in self._hot for block in blocks[asked:])
        return kept, len(kept) - answers

    def _halve(self) -> None:
        before = list(self)
        self._threshold >>= 1
        uses = Counter(self._blocks)
        most = len(self._blocks) // _HOT
        # No smaller share would thin out a block that every request has. It hits at any capacity, and is
        # counted as such, because the references that a sample lacks are taken for those to hot blocks.
        self._hot |= {block for block, count in uses.items() if count > most}
        self._blocks, self._ends = array("Q"), array("q")
        self._asked, self._times = array("i"), array("d")
        for access in before:
            kept, asked = self._kept(access.blocks, access.asked)
            if kept:
                self._blocks.extend(kept)
                self._ends.append(len(self._blocks))
                self._asked.append(asked)
                self._times.append(access.at_seconds)

    def __iter__(self) -> Iterator[Access]:
        """Yield what is kept, in order."""
        start = 0
        for end, asked, at in zip(self._ends, self._asked, self._times, strict=True):
            yield Access(at, self._blocks[start:end], asked)
            start = end

    def lookups(self) -> Iterator[tuple[float, int]]:
        """Yield the time and the block of each reference that is looked up, in order."""
        start, blocks = 0, self._blocks
        for end, asked, at in zip(self._ends, self._asked, self._times, strict=True):
            for index in range(start, start + asked):
                yield at, blocks[index]
            start = end

    def different(self) -> int:
        """Return how many different blocks the whole trace has, estimated from what is kept."""
        return round(len(set(self._blocks)) / self.rate) + len(self._hot)

    def thinned(self, limit: int) -> SampledTrace:
        """Return a sample of this one with at most `limit` references."""
        other = SampledTrace(limit)
        other._threshold, other._hot = self._threshold, set(self._hot)
        for access in self:
            other.add(access.at_seconds, access.blocks, access.asked)
        other.requests, other.references = self.requests, self.references
        return other
