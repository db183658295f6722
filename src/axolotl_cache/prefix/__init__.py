"""The prefix cache's memory: a tree of token blocks. What the blocks hold is the engine's business."""

from axolotl_cache.prefix.eviction import PolicyName, Ranking
from axolotl_cache.prefix.fence import Fence, Fences, label, marks, names_before
from axolotl_cache.prefix.lease import Lease
from axolotl_cache.prefix.match import Difference, PrefixMatch, PrefixStats
from axolotl_cache.prefix.parts import TreeParts
from axolotl_cache.prefix.rankings import make_ranking
from axolotl_cache.prefix.runs import Run
from axolotl_cache.prefix.tenants import TreeTenants
from axolotl_cache.prefix.tree import PrefixTree

__all__ = [
    "Difference",
    "Fence",
    "Fences",
    "Lease",
    "PolicyName",
    "PrefixMatch",
    "PrefixStats",
    "PrefixTree",
    "Ranking",
    "Run",
    "TreeParts",
    "TreeTenants",
    "label",
    "make_ranking",
    "marks",
    "names_before",
]
