"""The response cache: the same question is answered once.

Loads neither numpy nor torch; the codec for tensors does, when it is given one.
"""

from axolotl_cache.errors import ErasureReport
from axolotl_cache.response.cache import SmartInferenceCache
from axolotl_cache.response.owners import owner_tags
from axolotl_cache.response.request_key import CanonicalRequest, KeyExplanation
from axolotl_cache.response.results import CacheStats, Entry

__all__ = [
    "CacheStats",
    "CanonicalRequest",
    "Entry",
    "ErasureReport",
    "KeyExplanation",
    "SmartInferenceCache",
    "owner_tags",
]
