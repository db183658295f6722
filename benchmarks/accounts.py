"""Where an engine's time went, and which of several tiers brought how much. Runs no model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

Set = frozenset[str]


class Generated(Protocol):
    """What is asked of a generation."""

    @property
    def cached_tokens(self) -> int:
        """Leading tokens of the prompt that were not computed."""

    @property
    def tokens(self) -> Sequence[int]:
        """The answer's."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Tokens that went through the model."""

    prefill: int
    decode: int
    new_prefill: int
    """Of the prefill: that no earlier request had computed behind the same tokens."""
    new_decode: int


def novelty(sent: Iterable[tuple[Sequence[int], Generated]]) -> Computed:
    """Count what was computed, and what of it nobody had computed before.

    A token has been computed before if an earlier request had the same token behind the same ones, be it as
    part of a prompt or of an answer. Cost: O(all tokens).

    Args:
        sent: (prompt, what came of it), in the order in which they were sent.
    """
    seen: set[int] = set()
    counts = [0, 0, 0, 0]
    for prompt, generation in sent:
        chain = 0
        for place, token in enumerate((*prompt, *generation.tokens)):
            chain = hash((chain, token))
            is_new = chain not in seen
            seen.add(chain)
            if place >= generation.cached_tokens:
                decoded = place >= len(prompt)
                counts[decoded] += 1
                counts[2 + decoded] += is_new
    return Computed(*counts)


def shares(values: Mapping[Set, float]) -> dict[str, float]:
    """Return which part of the change from none to all each brought: the Shapley values, divided by all.

    A tier's share is what it adds to the others, the mean of all orders in which they can be switched on.
    Together the shares are 1.

    Args:
        values: of every subset, something that adds up, such as seconds, or the logarithm of a throughput.

    Raises:
        ValueError: a subset is missing, or nothing changed from none to all.
    """
    names = max(values, key=len)
    count = len(names)
    if len(values) != 2**count:
        raise ValueError(f"shares need all {2**count} subsets, and there are {len(values)}")
    whole = values[names] - values[frozenset()]
    if whole == 0:
        raise ValueError("from none to all nothing changed: there is nothing to share")
    found = {}
    for name in sorted(names):
        brought = 0.0
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for others in map(frozenset, combinations(sorted(names - {name}), size)):
                brought += weight * (values[others | {name}] - values[others])
        found[name] = brought / whole
    return found
