"""What comes from one source, for all tasks that listen: begun once, ended when nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from axolotl_cache.streams.window import Window

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Parts that come from one source, from the first on for each who listens.

    Used on one event loop only. The source is read in a task of its own: neither a slow listener nor one that
    leaves holds up the others.

    Args:
        source: what is read.
        ended: called once, when there is nothing more to join.
        window: keeps the parts. If the listener who is furthest is behind by as much as it takes, the source
            waits; one who is far behind that listener is let go.
    """

    def __init__(self, source: AsyncGenerator[T, None], ended: Callable[[], None], window: Window[T]) -> None:
        self._window = window
        self._source = source
        self._ended = ended
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._is_over = False
        self._error: BaseException | None = None
        self.listeners = 0
        self._reading = asyncio.ensure_future(self._read())

    async def listen(self) -> AsyncGenerator[T, None]:
        """Yield all parts, those to come included; raise what ended the source.

        Raises:
            ReaderTooSlow: what comes next is not kept any more.
        """
        self.listeners += 1
        seen = 0
        try:
            while True:
                while seen < self._window.end:
                    part = self._window.take(seen)
                    seen += 1
                    self._room.set()
                    yield part
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
            async with aclosing(self._source) as source:
                async for part in source:
                    self._window.add(part)
                    self._wake()
                    while self._window.is_full:
                        self._room.clear()
                        await self._room.wait()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._is_over = True
            self._ended()
            self._wake()

    @property
    def may_join(self) -> bool:
        """Whether one who comes now would have all of it."""
        return self._window.is_whole

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()


class Broadcasts(Generic[T]):
    """Those that are under way, by key."""

    def __init__(self) -> None:
        self._under_way: dict[str, Broadcast[T]] = {}

    def join(
        self,
        key: str,
        begin: Callable[[], AsyncGenerator[T, None]],
        window: Callable[[], Window[T]] = Window,
    ) -> tuple[AsyncGenerator[T, None], bool]:
        """Return what is under way for `key`, begun if need be, and whether this began it."""
        known = self._under_way.get(key)
        if known is not None and known.may_join:
            return known.listen(), False

        def ended() -> None:
            if self._under_way.get(key) is mine:
                del self._under_way[key]

        mine = self._under_way[key] = Broadcast(begin(), ended, window())
        return mine.listen(), True

    @property
    def listeners(self) -> int:
        """How many listen, to all of them together."""
        return sum(broadcast.listeners for broadcast in self._under_way.values())
