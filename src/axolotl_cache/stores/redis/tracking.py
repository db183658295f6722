"""The servers tell which entries were changed, so that copies of them are not served: CLIENT TRACKING, BCAST.

redis-py's own client-side cache refuses Valkey, and keeps what it read with that one connection. Here two
connections to each primary do it, by the protocol that every server since Redis 6 speaks: one has tracking
turned on and sends what is changed to the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.address import Host
from axolotl_cache.stores.redis.client import PASSING
from axolotl_cache.stores.redis.link import Link

_CHANNEL: Final = "__redis__:invalidate"
_LISTEN_SECONDS: Final = 0.1
"""Short, so that closing need not wait long."""
_QUIET_SECONDS: Final = 1.0
"""After so long without a word, both connections are asked whether they are still there."""
_JOIN_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.1


class Tracking:
    """Listens to all primaries.

    Args:
        link: the way to the servers.
        prefixes: returns what the names of entries begin with, once the servers are known.
        on_changed: told the names of keys that somebody has changed.
        on_doubt: told when it is not known what has changed: any copy may be out of date.
        without_seconds: how often `on_doubt` is told where the servers can't track.
    """

    def __init__(
        self,
        link: Link,
        prefixes: Callable[[], Sequence[bytes]],
        *,
        on_changed: Callable[[Sequence[bytes]], None],
        on_doubt: Callable[[], None],
        without_seconds: float,
    ) -> None:
        self._link = link
        self._prefixes = prefixes
        self._on_changed = on_changed
        self._on_doubt = on_doubt
        self._without_seconds = without_seconds
        self._closed = threading.Event()
        self._listeners: dict[Host, threading.Thread] = {}
        self._listening: set[Host] = set()
        self.is_supported = True
        self._thread = threading.Thread(target=self._run, name="redis-tracking", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def is_listening(self) -> bool:
        """Whether all primaries are being listened to."""
        layout = self._link.layout
        return layout is not None and set(layout.primaries) <= self._listening

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until all primaries are being listened to, or can't be; return whether that is so."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_listening() and self.is_supported and time.monotonic() < deadline:
            self._closed.wait(0.005)
        return self.is_listening() or not self.is_supported

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        for thread in (self._thread, *list(self._listeners.values())):
            thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        """See to it that there is a listener for each primary."""
        while not self._closed.wait(_RETRY_SECONDS if self.is_supported else self._without_seconds):
            layout = self._link.layout
            if layout is None:
                continue
            if not self.is_supported:
                self._on_doubt()
                continue
            for host in layout.primaries:
                thread = self._listeners.get(host)
                if thread is None or not thread.is_alive():
                    thread = threading.Thread(
                        target=self._listen, args=(host,), name="redis-track", daemon=True
                    )
                    self._listeners[host] = thread
                    thread.start()

    def _listen(self, host: Host) -> None:
        client = self._link.new_client(host, timeout_seconds=2.0)
        try:
            pool = client.connection_pool
            self._follow(host, pool.get_connection(), pool.get_connection())
        except exceptions.ResponseError:
            self.is_supported = False
        except (*PASSING, exceptions.RedisError, StoreError):
            pass  # the next listener begins with a doubt
        finally:
            self._listening.discard(host)
            client.connection_pool.disconnect()

    def _follow(self, host: Host, listening: Any, tracked: Any) -> None:
        identity = _ask(listening, "CLIENT", "ID")
        _ask(listening, "SUBSCRIBE", _CHANNEL)
        asked = [part for prefix in self._prefixes() for part in (b"PREFIX", prefix)]
        _ask(tracked, "CLIENT", "TRACKING", "ON", "REDIRECT", identity, "BCAST", *asked)
        self._on_doubt()  # what was changed until now nobody told
        self._listening.add(host)
        heard_at = time.monotonic()
        while not self._closed.is_set() and host in self._primaries():
            if not listening.can_read(_LISTEN_SECONDS):
                if time.monotonic() - heard_at < _QUIET_SECONDS:
                    continue
                _ask(tracked, "PING")  # a connection that is dead without a word is found here
                listening.send_command("PING")
                if not listening.can_read(2.0):
                    return
            heard_at = time.monotonic()
            told = listening.read_response()
            if not isinstance(told, list) or told[0] != b"message":
                continue
            if told[2] is None:  # everything was flushed
                self._on_doubt()
            else:
                self._on_changed(told[2] if isinstance(told[2], list) else [told[2]])

    def _primaries(self) -> Sequence[Host]:
        layout = self._link.layout
        return () if layout is None else layout.primaries


def _ask(connection: Any, *command: Any) -> Any:
    connection.send_command(*command)
    return connection.read_response()
