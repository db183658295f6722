"""A store on disk of which nobody without the key can read a word: what goes in is sealed before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from axolotl_cache.erasure import ErasureReport
from axolotl_cache.stores.base import Departure, Record, SharedStore, Stamp
from axolotl_cache.stores.sealing import NotGenuine, Sealer

_NAMES_BESIDE_CAPACITY = 1024


class SealedStore:
    """Seals on the way to another store, and opens on the way back; promises what that one promises.

    A record that does not open is dropped and counted as damaged. Sizes count as they are on disk: about 150
    bytes more an entry, and half as much again for keys and tags.

    Args:
        inner: keeps what is sealed; its own, shared with nobody.
        sealer: has the key.
        scope: as `inner` has it.
        after_put: called when something was stored.
    """

    def __init__(
        self,
        inner: SharedStore,
        sealer: Sealer,
        *,
        scope: bytes = b"",
        after_put: Callable[[], None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._sealer = sealer
        self._scope = scope
        self._after_put = after_put
        self._unopened = 0
        # Every hit in memory tells the disk of a use: sealing the name each time would double its cost.
        self._names: dict[str, str] = {}
        self._erasures = inner.erasures
        self.generation: Callable[[], int] = inner.generation
        """As the other store has it; bound, and not called through, as every hit in memory asks."""

    @property
    def capacity(self) -> int:
        """Most entries ever held."""
        return self._inner.capacity

    @property
    def max_bytes(self) -> int | None:
        """Most bytes ever held, sealed; None is no bound."""
        return self._inner.max_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes held, sealed."""
        return self._inner.size_bytes

    @property
    def damaged(self) -> int:
        """Records that were found damaged, or not sealed for their place, and dropped."""
        return self._inner.damaged + self._unopened

    @property
    def erasures(self) -> int:
        """Has changed, once `generation` was asked, if anyone has erased something since."""
        if self._erasures != self._inner.erasures:
            self._erasures = self._inner.erasures
            self._names = {}  # they may be somebody's of whom nothing is to be left
        return self._erasures

    def __len__(self) -> int:
        return len(self._inner)

    def get(self, key: str) -> Record | None:
        """Return the record, expired or not. One that does not open is dropped, counted, and None."""
        name = self._name(key)
        sealed = self._inner.get(name)
        if sealed is None:
            return None
        try:
            return self._sealer.open(name, self._scope, sealed)
        except NotGenuine:
            self._inner.discard(name, sealed.version)
            self._unopened += 1
            return None

    def version(self, key: str) -> int | None:
        """Return the version stored now."""
        return self._inner.version(self._name(key))

    def stamp(self, key: str) -> Stamp | None:
        """Return version and expiry as they are now."""
        return self._inner.stamp(self._name(key))

    def removed_at(self, key: str) -> float | None:
        """When `key` was last removed on purpose, by any process, if that is recent."""
        return self._inner.removed_at(self._name(key))

    def keys(self, *, tag: str | None = None) -> list[str]:
        """Return all keys of this scope, or those with a tag, the lowest rank first."""
        sealed_tag = None if tag is None else self._sealer.seal_name(tag, b"tag")
        return self._keys(self._inner.keys(tag=sealed_tag))

    def touch(self, key: str) -> None:
        """Note that `key` was used just now."""
        self._inner.touch(self._names.get(key) or self._name(key))

    def postpone(self, key: str, record: Record, expires_at: float) -> None:
        """Let `record`, a copy of what is stored under `key`, expire at `expires_at` instead."""
        self._inner.postpone(self._name(key), record, expires_at)

    def put(self, key: str, record: Record, now: float) -> list[Departure]:
        """Seal and store under `key`; return what had to go."""
        name = self._name(key)
        departed = self._inner.put(name, self._sealer.seal(name, self._scope, record), now)
        self._after_put()
        gone = ((self._key(each.key), each.reason) for each in departed)
        return [Departure(key, reason) for key, reason in gone if key is not None]

    def discard(self, key: str, version: int) -> bool:
        """Remove `key` if it still has that version."""
        return self._inner.discard(self._name(key), version)

    def remove(
        self,
        now: float,
        *,
        keys: Iterable[str] | None = None,
        tag: str | None = None,
        created_before: float | None = None,
    ) -> list[str]:
        """Remove, on purpose, what meets every condition given; every process that has the file sees it."""
        names = None if keys is None else [self._name(key) for key in keys]
        sealed_tag = None if tag is None else self._sealer.seal_name(tag, b"tag")
        return self._keys(self._inner.remove(now, keys=names, tag=sealed_tag, created_before=created_before))

    def erase(self, tag: str | None) -> ErasureReport:
        """Remove what has the tag, of all scopes, so that no file holds a byte of it; None is everything."""
        try:
            return self._inner.erase(None if tag is None else self._sealer.seal_name(tag, b"tag"))
        finally:
            self._names = {}

    def expire(self, now: float) -> list[str]:
        """Remove everything expired, of this scope, and return its keys."""
        return self._keys(self._inner.expire(now))

    def close(self) -> None:
        """Close the files. Closing twice is fine."""
        self._inner.close()

    def _name(self, key: str) -> str:
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= 2 * self._inner.capacity + _NAMES_BESIDE_CAPACITY:
                self._names = {}
            name = self._names[key] = self._sealer.seal_name(key, b"key")
        return name

    def _key(self, name: str) -> str | None:
        try:
            return self._sealer.open_name(name, b"key")
        except NotGenuine:  # nobody can ask for it; it goes when its time or its turn comes
            return None

    def _keys(self, names: Iterable[str]) -> list[str]:
        return [key for key in map(self._key, names) if key is not None]
