"""Leases between machines: one computes, the others wait, and who comes too late is told by its token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.base import new_version
from axolotl_cache.stores.redis import scripts
from axolotl_cache.stores.redis.store import RedisStore

LEASE_SECONDS: Final = 10.0
"""How long others wait for a machine that has died."""
_FENCE_SECONDS: Final = 3600.0


class Leases:
    """Leases on keys. Each has a number, higher than all before it for that key: its fencing token.

    A holder that was stopped for longer than its lease may still write. Its token is then lower than the one
    that was given since, and the write is refused.

    Args:
        store: where they are kept, beside the entries.
        name_of: returns the name that a key has there.
        seconds: how long one lasts; it is renewed every third of that for as long as it is held.
    """

    def __init__(
        self, store: RedisStore, name_of: Callable[[str], str], seconds: float = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._name_of = name_of
        self._seconds = seconds
        self._begin()

    def _begin(self) -> None:
        self._holder = f"{new_version():x}"
        self._held: dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def token(self, key: str) -> int | None:
        """Return the fencing token of a lease that is held; None if it is not."""
        return self._held.get(key)

    def take(self, key: str) -> bool | None:
        """Take the lease; False if another machine has it, None if nobody can tell now."""
        names, milliseconds = self._names(key), int(1000 * self._seconds)
        arguments = (self._holder, milliseconds, int(1000 * _FENCE_SECONDS))
        try:
            token = int(self._store.run_script(scripts.TAKE_LEASE, names, arguments))
        except StoreError:
            return None
        if not token:
            return False
        with self._changed:
            self._held[key] = token
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="redis-lease", daemon=True)
                self._thread.start()
        return True

    def free(self, key: str) -> None:
        """Give the lease back; one that is not held is fine."""
        with self._changed:
            held = self._held.pop(key, None)
        if held is not None:
            with suppress(StoreError):  # it ends by itself
                self._store.run_script(scripts.FREE_LEASE, self._names(key)[:1], (self._holder,))

    def close(self) -> None:
        """Renew nothing any more; what is held ends by itself."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def forget_after_fork(self) -> None:
        """In a forked child: what is held is the parent's."""
        self._begin()

    def _names(self, key: str) -> list[bytes]:
        space = self._store.space
        member = space.member(self._name_of(key))
        return [space.lease(member), space.fence(member)]

    def _renew(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, self._seconds / 3):
                    return
                held = list(self._held)
            for key in held:
                with suppress(StoreError):
                    arguments = (self._holder, int(1000 * self._seconds))
                    self._store.run_script(scripts.KEEP_LEASE, self._names(key)[:1], arguments)
