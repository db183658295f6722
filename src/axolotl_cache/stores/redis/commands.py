"""Commands and scripts on the server that holds a key, and the copies that a write has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha1
from typing import Any, Final, TypeVar

import redis
from redis import exceptions

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.address import Host
from axolotl_cache.stores.redis.layout import Layout
from axolotl_cache.stores.redis.link import Link

V = TypeVar("V")
Call = tuple[Sequence[bytes], Sequence[Any]]
"""Of a script: its keys, all in one slot, and its arguments."""

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
            lambda client: self._run(text, [(keys, arguments)], acknowledge, client)[0],
            within_seconds=0.0 if lookup else self._within_seconds,
            lookup=lookup,
        )

    def scripts(
        self, text: str, calls: Sequence[Call], *, acknowledge: bool = False
    ) -> list[tuple[Any, int]]:
        """Do as `script` for each of `calls`, in one round trip to each server and one wait for its replicas.

        That wait is for all that the server was sent here: what is said of a call's copies is what all of
        those have, and never more than it has itself.

        Raises:
            StoreError: one of them could not be done. Others may have been done.
        """
        layout = self.layout()
        sent: dict[Host, list[int]] = {}
        for number, (keys, _) in enumerate(calls):
            sent.setdefault(layout.primary(keys[0]), []).append(number)
        done: dict[int, tuple[Any, int]] = {}
        for numbers in sent.values():
            some = [calls[number] for number in numbers]
            run = partial(self._run, text, some, acknowledge)
            replies = self.link.call(some[0][0][0], run, within_seconds=self._within_seconds)
            done.update(zip(numbers, replies, strict=True))
        return [done[number] for number in range(len(calls))]

    def _run(
        self, text: str, calls: Sequence[Call], acknowledge: bool, client: redis.Redis
    ) -> list[tuple[Any, int]]:
        # Replicas that are not there are not waited for: it would take the whole second, each time.
        replicas = min(self.link.copies - 1, self.link.replicas_of(calls[0][0][0])) if acknowledge else 0
        digest = sha1(text.encode(), usedforsecurity=False).hexdigest()
        while True:
            pipe: Any = client.pipeline(transaction=False)
            for keys, arguments in calls:
                pipe.evalsha(digest, len(keys), *keys, *arguments)
            if replicas > 0:  # on the same connection: WAIT counts the writes of its own one
                pipe.execute_command("WAIT", replicas, _WAIT_MS)
            replies = pipe.execute(raise_on_error=False)
            if any(isinstance(reply, exceptions.NoScriptError) for reply in replies):
                client.script_load(text)  # a server forgets them when it starts
                continue
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            copies = 1 + (int(replies.pop()) if replicas > 0 else 0)
            return [(reply, copies) for reply in replies]
