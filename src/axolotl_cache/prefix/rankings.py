"""The rankings by name, as `cache_policy` has it."""

from __future__ import annotations

from typing import get_args

from axolotl_cache.prefix.adaptive import ReuseRanking
from axolotl_cache.prefix.eviction import PolicyName, Ranking
from axolotl_cache.prefix.frequency import FrequencyRanking


def make_ranking(policy: PolicyName) -> Ranking | None:
    """Return a new ranking for one tree; None for `lru`, which a tree does by itself.

    Raises:
        ValueError: there is no such policy.
    """
    if policy == "lru":
        return None
    if policy == "lfu":
        return FrequencyRanking()
    if policy == "adaptive":
        return ReuseRanking()
    raise ValueError(f"policy is one of {', '.join(get_args(PolicyName))}, not {policy!r}")
