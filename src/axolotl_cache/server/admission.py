"""Who may begin: so many at once, so many that wait, and fair turns between tenants."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from axolotl_cache.server.refusal import Refusal

_MEMORY: Final = 0.9
"""How much of the mean time of a request stays, when another one ends."""
_LONGEST_RETRY_SECONDS: Final = 600


class _Waiting:
    __slots__ = ("places", "turn")

    def __init__(self, places: int) -> None:
        self.places = places
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """Lets requests in, in the order in which they came; tenants that wait take turns.

    For one event loop, and used in its thread only.

    Args:
        most_running: choices that are computed at once.
        most_waiting: requests that may wait; a further one is refused at once.
    """

    def __init__(self, most_running: int, most_waiting: int) -> None:
        self.most_running = most_running
        self.most_waiting = most_waiting
        self.running = 0
        """Choices that are being computed."""
        self.refused = 0
        self._queues: dict[str, deque[_Waiting]] = {}
        """By tenant; whose turn is next comes first."""
        self._waiting = 0
        self._mean_seconds = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._waiting

    @asynccontextmanager
    async def place(self, tenant: str, places: int) -> AsyncIterator[None]:
        """Wait for the turn, and hold so many places.

        Raises:
            Refusal: 429, with an estimate of when there will be room.
        """
        places = min(places, self.most_running)
        if self._waiting or self.running + places > self.most_running:
            await self._wait(tenant, places)
        else:
            self.running += places
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._note(asyncio.get_running_loop().time() - began)
            self.running -= places
            self._let_in()

    def retry_after_seconds(self) -> int:
        """Return when a request that came then would wait no longer than one that is let in now.

        That is when the queue has lost one: after the mean time of a request, as many of which end side by
        side as run.
        """
        estimate = self._mean_seconds * (self._waiting + 1) / self.most_running
        return max(1, min(math.ceil(estimate), _LONGEST_RETRY_SECONDS))

    async def _wait(self, tenant: str, places: int) -> None:
        if self._waiting >= self.most_waiting:
            self.refused += 1
            seconds = self.retry_after_seconds()
            raise Refusal(
                429,
                f"{self._waiting} requests wait already; try again in {seconds} s",
                code="overloaded",
                headers={"retry-after": str(seconds)},
            )
        mine = _Waiting(places)
        self._queues.setdefault(tenant, deque()).append(mine)
        self._waiting += 1
        try:
            await mine.turn
        except BaseException:
            if mine.turn.done() and not mine.turn.cancelled():  # let in, and gone in the same moment
                self.running -= places
                self._let_in()
            else:
                self._forget(tenant, mine)
            raise

    def _forget(self, tenant: str, mine: _Waiting) -> None:
        self._waiting -= 1
        queue = self._queues[tenant]
        queue.remove(mine)
        if not queue:
            del self._queues[tenant]
        self._let_in()  # it may have been a large one, behind which small ones would fit

    def _let_in(self) -> None:
        while self._queues:
            tenant, queue = next(iter(self._queues.items()))
            if self.running + queue[0].places > self.most_running:
                return
            waiting = queue.popleft()
            self.running += waiting.places
            self._waiting -= 1
            del self._queues[tenant]
            if queue:  # to the end: the others' turn comes first
                self._queues[tenant] = queue
            waiting.turn.set_result(None)

    def _note(self, seconds: float) -> None:
        known = self._mean_seconds
        self._mean_seconds = seconds if not known else _MEMORY * known + (1 - _MEMORY) * seconds
