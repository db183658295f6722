"""What an upstream sends, for all whose requests are equal: begun once, ended when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Parts that come from one source, from the first on for each who listens.

    Used on one event loop only. The source is read in a task of its own: neither a slow listener nor one that
    leaves holds up the others.

    Args:
        source: what is read.
        ended: called once, when there is nothing more to join.
    """

    def __init__(self, source: AsyncGenerator[T, None], ended: Callable[[], None]) -> None:
        self.parts: list[T] = []
        self._source = source
        self._ended = ended
        self._more = asyncio.Event()
        self._is_over = False
        self._error: BaseException | None = None
        self.listeners = 0
        self._reading = asyncio.ensure_future(self._read())

    async def listen(self) -> AsyncGenerator[T, None]:
        """Yield all parts, those to come included; raise what ended the source."""
        self.listeners += 1
        seen = 0
        try:
            while True:
                while seen < len(self.parts):
                    seen += 1
                    yield self.parts[seen - 1]
                if self._is_over:
                    if self._error is not None:
                        raise self._error
                    return
                await self._more.wait()
        finally:
            self.listeners -= 1
            if not self.listeners and not self._is_over:
                self._reading.cancel()
                with suppress(asyncio.CancelledError):
                    await self._reading

    async def _read(self) -> None:
        try:
            async for part in self._source:
                self.parts.append(part)
                self._wake()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_over = True
            self._ended()
            self._wake()

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()


class Broadcasts(Generic[T]):
    """Those that are under way, by key."""

    def __init__(self) -> None:
        self._under_way: dict[str, Broadcast[T]] = {}

    def join(
        self, key: str, begin: Callable[[], AsyncGenerator[T, None]]
    ) -> tuple[AsyncGenerator[T, None], bool]:
        """Return what is under way for `key`, begun if need be, and whether this began it."""
        known = self._under_way.get(key)
        if known is not None:
            return known.listen(), False

        def ended() -> None:
            if self._under_way.get(key) is mine:
                del self._under_way[key]

        mine = self._under_way[key] = Broadcast(begin(), ended)
        return mine.listen(), True

    @property
    def listeners(self) -> int:
        """How many listen, to all of them together."""
        return sum(broadcast.listeners for broadcast in self._under_way.values())
