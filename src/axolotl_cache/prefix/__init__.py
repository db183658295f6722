"""The prefix cache's memory: a tree of token blocks. What the blocks hold is the engine's business."""

from axolotl_cache.prefix.runs import Run
from axolotl_cache.prefix.tree import Difference, PrefixMatch, PrefixStats, PrefixTree

__all__ = ["Difference", "PrefixMatch", "PrefixStats", "PrefixTree", "Run"]
