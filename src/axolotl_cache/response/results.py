"""What the response cache reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from axolotl_cache.request import Saved

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.stats import RemoteStats


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value with its dates, in seconds since the epoch."""

    value: Any
    created_at: float
    expires_at: float | None
    """None is never."""
    tags: tuple[str, ...]
    kind: str = ""
    """What kind of content it was stored as: `static`, `dynamic`, or nothing."""
    cost: Mapping[str, Any] | None = None
    """What making it took, as it was given to `set` or measured by `get_or_compute`."""
    saved: Saved = field(default_factory=Saved)
    """What serving it saves."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since this object was made, and what is held now."""

    memory_hits: int
    disk_hits: int
    misses: int
    coalesced: int
    """Calls of `get_or_compute` that missed, and were answered by another caller's computation."""
    sets: int
    expirations: int
    evictions: int
    invalidations: int
    damaged: int
    """Stored values whose checksum did not fit; each was dropped, and was a miss."""
    store_errors: int
    """Reads and writes that the disk refused; the cache went on in memory."""
    entries: int
    stored_bytes: int
    """Bytes of all entries, as `max_bytes` counts them: on disk with persistence, else in memory."""
    memory_bytes: int
    """The same of those in memory."""
    too_large: int = 0
    """Entries that were not kept, being larger than `max_bytes` by themselves."""
    refused_as_wrong: int = 0
    """Times that an answer was not stored again, or not served to another wording, having been reported."""
    saved: Saved = field(default_factory=Saved)
    """What all hits together saved, as far as is known of their entries; money with `prices`."""

    shared: RemoteStats | None = None
    """Of the tier that several machines share; None without one. Its hits count as `disk_hits`."""

    @property
    def hits(self) -> int:
        """Lookups answered, from memory or a tier below it."""
        return self.memory_hits + self.disk_hits

    @property
    def hit_rate(self) -> float:
        """Hits over lookups; 0 before the first lookup."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
