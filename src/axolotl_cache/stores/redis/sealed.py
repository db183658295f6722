"""The store on Redis of which nobody without the key can read a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from axolotl_cache.stores.base import Record, SharedStore, Stamp
from axolotl_cache.stores.redis.puts import Entry, Written
from axolotl_cache.stores.redis.store import RedisStore
from axolotl_cache.stores.sealed import SealedStore
from axolotl_cache.stores.sealing import NotGenuine, Sealer


class SealedRedisStore(SealedStore):
    """Seals what goes to a `RedisStore`, names and tags included, and opens what comes back.

    Args:
        inner: has the scope that the sealer makes of the cache's own.
        sealer: has the key.
        scope: as `inner` has it.
    """

    def __init__(self, inner: RedisStore, sealer: Sealer, *, scope: bytes) -> None:
        super().__init__(cast(SharedStore, inner), sealer, scope=scope)
        self.redis = inner

    def get(self, key: str, *, lookup: bool = False) -> Record | None:
        """Return the record, expired or not. One that does not open is dropped, counted, and None."""
        name = self._name(key)
        sealed = self.redis.get(name, lookup=lookup)
        if sealed is None:
            return None
        try:
            return self._sealer.open(name, self._scope, sealed)
        except NotGenuine:
            self.redis.discard(name, sealed.version)
            self._unopened += 1
            return None

    def tagged(self, tag: str) -> list[str]:
        """Return the keys with a tag, for a request that waits."""
        return self._keys(self.redis.tagged(self._sealer.seal_name(tag, b"tag")))

    def stamp(self, key: str, *, lookup: bool = False) -> Stamp | None:
        """Return version and expiry as they are now."""
        return self.redis.stamp(self._name(key), lookup=lookup)

    def removed_at(self, key: str, *, lookup: bool = False) -> float | None:
        """When `key` was last removed on purpose, by anyone, if that is recent."""
        return self.redis.removed_at(self._name(key), lookup=lookup)

    def write_all(self, entries: Sequence[Entry], now: float) -> list[Written]:
        """Seal and store entries; what had to go is not named."""
        sealed = []
        for each in entries:
            name = self._name(each.key)
            sealed.append(Entry(name, self._sealer.seal(name, self._scope, each.record), each.token))
        return [replace(written, departed=()) for written in self.redis.write_all(sealed, now)]

    def name_of(self, key: str) -> str:
        """Return the name that a key has on the servers."""
        return self._name(key)

    def key_of(self, name: str) -> str | None:
        """Undo `name_of`; None if it is none of ours."""
        return self._key(name)

    def hide(self, text: str) -> str:
        """Return a tag or a key as it may stand in an announcement."""
        return self._sealer.seal_name(text, b"note")

    def show(self, hidden: str) -> str:
        """Undo `hide`.

        Raises:
            NotGenuine: it was hidden with another key.
        """
        return self._sealer.open_name(hidden, b"note")
