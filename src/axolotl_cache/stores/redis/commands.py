"""Commands and scripts on the server that holds a key, and the copies that a write has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, Final, TypeVar

import redis
from redis import exceptions

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.layout import Layout
from axolotl_cache.stores.redis.link import Link

V = TypeVar("V")

_WAIT_MS: Final = 1000
"""Most that a write waits for its replicas; less than the link's patience, so that the answer is heard."""


class Commands:
    """Runs what it is given, again if need be, until `within_seconds` are over."""

    def __init__(self, link: Link, within_seconds: float) -> None:
        self.link = link
        self._within_seconds = within_seconds

    def layout(self) -> Layout:
        """Return who is who.

        Raises:
            StoreError: the servers were never reached.
        """
        layout = self.link.layout
        if layout is None and self._within_seconds and self.link.wait_up(self._within_seconds):
            layout = self.link.layout
        if layout is None:
            raise StoreError(self.link.report().trouble)
        return layout

    def run(self, key: bytes, work: Callable[[redis.Redis], Any], *, lookup: bool = False) -> Any:
        """Return what `work` does with a client of the server that holds `key`.

        Raises:
            StoreError: it could not be done in time; a lookup is tried once.
        """
        return self.link.call(
            key, work, within_seconds=0.0 if lookup else self._within_seconds, lookup=lookup
        )

    def script(
        self,
        text: str,
        keys: Sequence[bytes],
        arguments: Sequence[Any],
        *,
        acknowledge: bool = False,
        lookup: bool = False,
    ) -> tuple[Any, int]:
        """Run a script on the server that holds its keys; return its reply, and how many have the change.

        Args:
            text: the script.
            keys: all in one slot.
            arguments: what it is given.
            acknowledge: whether to wait for as many copies as the link wants, for a second at the most.
            lookup: a request is waiting: one try, with little time.

        Raises:
            StoreError: it could not be done in time. It may have been done all the same.
        """
        return self.link.call(
            keys[0],
            lambda client: self._run_script(client, text, keys, arguments, acknowledge),
            within_seconds=0.0 if lookup else self._within_seconds,
            lookup=lookup,
        )

    def _run_script(
        self,
        client: redis.Redis,
        text: str,
        keys: Sequence[bytes],
        arguments: Sequence[Any],
        acknowledge: bool,
    ) -> tuple[Any, int]:
        # Replicas that are not there are not waited for: it would take the whole second, each time.
        replicas = min(self.link.copies - 1, self.link.replicas_of(keys[0])) if acknowledge else 0
        digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        while True:
            pipe: Any = client.pipeline(transaction=False)
            pipe.evalsha(digest, len(keys), *keys, *arguments)
            if replicas > 0:  # on the same connection: WAIT counts the writes of its own one
                pipe.execute_command("WAIT", replicas, _WAIT_MS)
            reply, *waited = pipe.execute(raise_on_error=False)
            if isinstance(reply, exceptions.NoScriptError):  # a server forgets them when it starts
                client.script_load(text)
                continue
            for each in (reply, *waited):
                if isinstance(each, Exception):
                    raise each
            return reply, 1 + (int(waited[0]) if waited else 0)
