"""What every store promises: bytes in, bytes out, hard bounds, and a policy that says who goes first."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from axolotl_cache.erasure import ErasureReport


class StoreWarning(RuntimeWarning):
    """A store could not do its work; the cache above it goes on without."""


def new_version() -> int:
    """Return 63 random bits: unlike every version before, in this process and in all others.

    Random rather than counted, so that two processes need not agree on a counter, and so that a database
    that was thrown away and begun again can't repeat one.
    """
    return int.from_bytes(os.urandom(8)) >> 1


@dataclass(frozen=True, slots=True)
class Record:
    """One stored value, as bytes, and what must be known to serve it."""

    payload: bytes
    codec: str
    """How to read `payload`; stores carry it and do not look at it."""
    created_at: float
    """Seconds since the epoch."""
    expires_at: float | None = None
    """Seconds since the epoch; None is never."""
    tags: tuple[str, ...] = ()
    version: int = field(default_factory=new_version)
    """Another one for every write, so that a copy can be compared with what is stored now."""
    sliding_seconds: float | None = None
    """A use lets it expire that much after the use; None: uses move nothing."""
    kind: str = ""
    """What its owner says that it is, as `static` or `dynamic`; stores carry it and do not look at it."""
    cost: str = ""
    """What making it took, as a JSON object; stores carry it and do not look at it."""

    def is_live(self, now: float) -> bool:
        """Whether it may still be served at `now`. At `expires_at` itself it may not."""
        return self.expires_at is None or now < self.expires_at


OVERHEAD_BYTES = 200
"""Counted for every entry on top of what it says: dates, codec, digests, a place in the indices."""


def entry_bytes(key: str, record: Record) -> int:
    """Return what an entry counts for in `max_bytes`: payload, key, tags, kind and cost, and 200 on top.

    A measure that is the same in every store. What Python's objects and SQLite's pages take on top of it
    depends on the version of either.
    """
    texts = (key, *record.tags, record.kind, record.cost)
    return OVERHEAD_BYTES + len(record.payload) + sum(map(_utf8_bytes, texts))


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Departure(NamedTuple):
    """An entry that a store dropped by itself, or did not take."""

    key: str
    reason: Literal["expired", "evicted", "too large"]


class Stamp(NamedTuple):
    """What tells a copy from what is stored now."""

    version: int
    expires_at: float | None


class Store(Protocol):
    """Bytes by key; errors of the medium are `StoreError`.

    A store never looks at a clock: `now` is given, in seconds since the epoch. Expired records are still
    returned by `get` (their owner may know a reason to use them) until something removes them.
    """

    @property
    def capacity(self) -> int:
        """Most entries ever held."""

    @property
    def max_bytes(self) -> int | None:
        """Most bytes ever held, as `entry_bytes` counts them; None is no bound."""

    @property
    def size_bytes(self) -> int:
        """Bytes held, as `entry_bytes` counts them."""

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not, or None. A damaged one is dropped, and is None.

        Changes: nothing; recency is told by `touch`.
        """

    def version(self, key: str) -> int | None:
        """Return the version stored now, without reading the payload."""

    def touch(self, key: str) -> None:
        """Note that `key` was used just now. May reach the medium only with the next write."""

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead.

        May reach the medium only with the next write. If something else is stored there now, nothing changes.
        """

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Store under `key`, in place of what was there; counts as a use.

        Returns:
            What had to go to keep to the bounds: everything expired first, then whoever the policy names,
            but never `key` itself. Only a record that is larger than `max_bytes` alone is not stored: then
            that is the one departure, `too large`, and what was there before is gone.

        Raises:
            StoreError: nothing was stored, and what was there before is unchanged.
        """

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version; not counted as removed on purpose."""

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given, and return its keys.

        With no condition everything goes.
        """

    def expire(self, now: float) -> list[str]:
        """Remove everything expired and return its keys."""

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys, or those with a tag, the lowest rank first: with `lru`, the least recently used.

        Cost: O(entries); with a tag on disk, O(entries that have it).
        """

    def __len__(self) -> int:
        """Return the number of entries, expired ones that nothing has removed yet included."""

    def close(self) -> None:
        """Give back what is held open. Closing twice is fine; using it afterwards is not."""


class SharedStore(Store, Protocol):
    """A store that other processes may change, and other threads may use, at the same time."""

    erasures: int
    """Has changed, once `generation` was asked, if anyone has erased something since. Then nothing that was
    read before may be kept: it may be somebody's of whom nothing is to be left."""

    @property
    def damaged(self) -> int:
        """Records that were found damaged, and dropped, since this object was made."""

    def generation(self) -> int:
        """Return a number that has changed if anyone but this object has changed the store since.

        Cost: well under a microsecond as long as nobody has.
        """

    def stamp(self, key: str) -> Stamp | None:
        """Return version and expiry as they are now, without reading the payload."""

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, if that is recent and it was not stored again since."""

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, so that no file holds a byte of it; None is everything.

        Notes of what was removed before go, too, and so do files that belong to no entry.

        Raises:
            ErasureError: something could not be removed; all else is, and the error says what is left.
        """
