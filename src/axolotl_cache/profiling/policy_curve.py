"""The prefix cache's hit rate under each policy and the optimum: the engine's own tree, run on a sample.

The exact LRU curve is known from stack distances. A run on a sample is off by much the same for every policy,
so that only what a policy gains over LRU in the same run is taken from it, and added to the exact curve.

Source: Waldspurger et al., Cache modeling and optimization using miniature simulations (ATC 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

from axolotl_cache.prefix import PolicyName
from axolotl_cache.profiling.sampled import SampledTrace
from axolotl_cache.profiling.simulate import BlockRequest, Simulated, optimum, simulate

OPTIMUM: Final = "optimum"
SIMULATED_REFERENCES: Final = 8_000
"""Blocks that a run looks up at the most: it costs some 50 microseconds for each."""
_BLOCK_TOKENS: Final = 2
"""Of the simulated blocks: the least with which a prompt can end in half of one."""


@dataclass(frozen=True, slots=True)
class Gains:
    """Runs on one sample at one capacity; all shares of the blocks looked up, from 0 to 1."""

    lru: float
    """What LRU hits in the sample. How far that is from the exact curve says how far off the runs may be."""
    gains: dict[str, float]
    """What each policy, and the optimum, hits more than that."""


class PolicyGains:
    """By how much each policy beats LRU, at capacities of the whole trace.

    Args:
        trace: of blocks; its lookups are what is simulated.
    """

    def __init__(self, trace: SampledTrace) -> None:
        small = trace if len(trace) <= SIMULATED_REFERENCES else trace.thinned(SIMULATED_REFERENCES)
        self.rate = small.rate
        """Share of the blocks that are simulated."""
        self._requests = _numbered(small)

    def at(self, capacity_blocks: int) -> Gains:
        """Return the runs at one capacity. Cost: a run for each policy."""
        capacity = max(1, round(capacity_blocks * self.rate))
        base = self._rate(simulate(self._requests, block_size=_BLOCK_TOKENS, capacity_blocks=capacity))
        gains = {
            name: self._rate(
                simulate(self._requests, block_size=_BLOCK_TOKENS, capacity_blocks=capacity, policy=name)
            )
            - base
            for name in get_args(PolicyName)
            if name != "lru"
        }
        best = optimum(self._requests, block_size=_BLOCK_TOKENS, capacity_blocks=capacity)
        return Gains(base, gains | {OPTIMUM: self._rate(best) - base})

    def _rate(self, found: Simulated) -> float:
        # Every request has one token behind its last block that is never looked up.
        asked = found.prompt_tokens - found.requests
        return found.hit_tokens / asked if asked else 0.0


def _numbered(trace: SampledTrace) -> Sequence[BlockRequest]:
    """Return the lookups of a trace, its blocks numbered from 0."""
    numbers: dict[int, int] = {}
    found = []
    for access in trace:
        blocks = [numbers.setdefault(block, len(numbers)) for block in access.blocks[: access.asked]]
        if blocks:
            found.append(BlockRequest(access.at_seconds, blocks, len(blocks) * _BLOCK_TOKENS + 1))
    return found
