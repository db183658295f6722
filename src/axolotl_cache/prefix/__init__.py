"""The prefix cache's memory: a tree of token blocks. What the blocks hold is the engine's business."""

from axolotl_cache.prefix.eviction import PolicyName, Ranking
from axolotl_cache.prefix.rankings import make_ranking
from axolotl_cache.prefix.tree import Difference, PrefixMatch, PrefixStats, PrefixTree

__all__ = [
    "Difference",
    "PolicyName",
    "PrefixMatch",
    "PrefixStats",
    "PrefixTree",
    "Ranking",
    "make_ranking",
]
