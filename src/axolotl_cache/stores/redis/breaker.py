"""A circuit breaker for each server: who fails is left alone until somebody has seen it well."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Final

from redis import exceptions

from axolotl_cache.stores.redis.address import Host

TIMEOUTS_TO_OPEN: Final = 2
"""One slow answer may be a large value; a second one in a row is a slow server."""


class Breaker:
    """Opens where a server fails; closing it is the business of who has looked, not of a request."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._slow: dict[Host, int] = {}
        self._open: dict[Host, str] = {}
        self._opened = self._closed = 0

    @property
    def counts(self) -> tuple[int, int]:
        """How often it has opened, and closed."""
        return self._opened, self._closed

    def open_for(self, host: Host) -> str | None:
        """Return why a server is left alone, or None."""
        return self._open.get(host)

    def open_for_any(self) -> bool:
        """Whether any server is left alone."""
        return bool(self._open)

    def reasons(self) -> dict[Host, str]:
        """Return who is left alone, and why."""
        with self._lock:
            return dict(self._open)

    def failed(self, host: Host, error: BaseException, *, certain: bool = False) -> bool:
        """Note a failure; return whether the server is left alone from now on."""
        with self._lock:
            if isinstance(error, exceptions.TimeoutError) and not certain:
                self._slow[host] = self._slow.get(host, 0) + 1
                if self._slow[host] < TIMEOUTS_TO_OPEN:
                    return False
            if host not in self._open:
                self._opened += 1
            self._open[host] = (str(error) or type(error).__name__).splitlines()[0][:200]
            return True

    def went_well(self, host: Host) -> None:
        """Note an answer in time."""
        if self._slow:
            self._slow.pop(host, None)

    def close(self, host: Host) -> None:
        """Use a server again."""
        with self._lock:
            self._slow.pop(host, None)
            if self._open.pop(host, None) is not None:
                self._closed += 1

    def keep_only(self, hosts: Iterable[Host]) -> None:
        """Forget the servers that are no primaries any more."""
        kept = set(hosts)
        with self._lock:
            for host in [host for host in self._open if host not in kept]:
                del self._open[host]
                self._closed += 1
