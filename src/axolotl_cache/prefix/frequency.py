"""The policy `lfu` for the prefix tree: the leaf asked for least often goes, old uses counting less."""

from __future__ import annotations

from axolotl_cache.prefix.eviction import Ranking, Uses

_HALF_LIFE_PER_LEAF = 5
"""As for the response cache: a use counts half once five times as many requests as there are leaves came."""


class FrequencyRanking(Ranking):
    """Least frequently used first, counted in requests, also for blocks that were gone in between.

    Source: Lee et al., LRFU: a spectrum of policies that subsumes the LRU and LFU policies, 2001.
    """

    def worth(self, uses: Uses, now_seconds: float) -> float:
        """Return how many requests asked for it, those of long ago counted in part."""
        half_life = _HALF_LIFE_PER_LEAF * max(1, len(self._leaves))
        return float(uses.requests * 2.0 ** ((uses.used_by - self._requests) / half_life))

    def _carried(self, uses: Uses) -> float:
        return self.worth(uses, 0.0)
