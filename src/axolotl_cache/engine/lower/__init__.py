"""The tier below the engine's own memory: whole blocks of keys and values in a store, there and back."""

from axolotl_cache.engine.lower.block import (
    chain_keys,
    layout_digest,
    next_key,
    open_lower_store,
    stored_block_bytes,
)
from axolotl_cache.engine.lower.cost import patience_seconds, worth_loading
from axolotl_cache.engine.lower.fetch import Fetch
from axolotl_cache.engine.lower.tier import LowerStats, LowerTier

__all__ = [
    "Fetch",
    "LowerStats",
    "LowerTier",
    "chain_keys",
    "layout_digest",
    "next_key",
    "open_lower_store",
    "patience_seconds",
    "stored_block_bytes",
    "worth_loading",
]
