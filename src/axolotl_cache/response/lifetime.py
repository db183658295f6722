"""How long an entry may be served: fixed or sliding, and a little shorter for some than for others."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite

STEP = 0.01
"""A use moves a sliding expiry once that is by this share of its time: it may come that much early."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What a cache says about its entries' time, for those that do not say it themselves.

    Raises:
        ValueError: a timeout or a jitter that can't be.
    """

    timeout: float | None = None
    """Seconds; None is for ever."""
    sliding: bool = False
    """Whether the time begins anew with each use."""
    jitter: float = 0.0
    """The share of its time by which an entry may live shorter, never longer: from 0, below 1."""

    def __post_init__(self) -> None:
        if self.timeout is not None and not (isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout is a positive number of seconds, or None for ever, not {self.timeout}")
        if not 0 <= self.jitter < 1:
            raise ValueError(
                "jitter is a share of the TTL, from 0 and below 1 (0.1 is up to 10 % shorter), not "
                f"{self.jitter}"
            )

    def of(
        self, key: str, now: float, *, ttl: float | None, sliding: bool | None
    ) -> tuple[float | None, float | None]:
        """Return when an entry stored at `now` expires, and by how much a use postpones that.

        Args:
            key: decides how much shorter than `ttl` it lives: the same in every process, so that answers
                that were stored together do not all expire together.
            now: seconds since the epoch.
            ttl: seconds; None is `timeout`, infinity is for ever.
            sliding: None is as the cache has it.

        Returns:
            Seconds since the epoch, None being never; and seconds, None being not at all.

        Raises:
            ValueError: a ttl below 0.
        """
        if ttl is None:
            ttl = self.timeout
        elif not ttl >= 0:
            raise ValueError(f"ttl is a number of seconds from 0, or None for the cache's timeout, not {ttl}")
        if ttl is None or not isfinite(now + ttl):
            return None, None
        if self.jitter:
            ttl *= 1 - self.jitter * _share_of(key)
        return now + ttl, ttl if (self.sliding if sliding is None else sliding) else None


def _share_of(key: str) -> float:
    """Return a number from 0 up to 1 that only the key decides, evenly spread over keys. Cost: 1 us."""
    digest = blake2b(str(key).encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48
