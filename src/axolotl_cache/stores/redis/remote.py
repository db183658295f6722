"""What a near store needs of the one that all machines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.stores.base import Record, Stamp, Store
from axolotl_cache.stores.redis.puts import Entry, Written
from axolotl_cache.stores.redis.store import RedisStore


class Remote(Store, Protocol):
    """The store that all machines share, plain or sealed."""

    @property
    def redis(self) -> RedisStore:
        """Where it is kept."""

    @property
    def damaged(self) -> int:
        """Records that were found damaged."""

    def get(self, key: str, *, lookup: bool = False) -> Record | None:
        """Return the record."""

    def stamp(self, key: str, *, lookup: bool = False) -> Stamp | None:
        """Return version and expiry."""

    def removed_at(self, key: str, *, lookup: bool = False) -> float | None:
        """When it was last removed on purpose."""

    def write_all(self, entries: Sequence[Entry], now: float) -> list[Written]:
        """Store records, and say what became of each."""

    def tagged(self, tag: str) -> list[str]:
        """Return the keys with a tag, for a request that waits."""

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes."""

    def name_of(self, key: str) -> str:
        """Return the name that a key has there."""

    def key_of(self, name: str) -> str | None:
        """Undo `name_of`."""

    def hide(self, text: str) -> str:
        """Return a key or a tag as it may stand in an announcement."""

    def show(self, hidden: str) -> str:
        """Undo `hide`."""
