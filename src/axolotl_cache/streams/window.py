"""The parts of a stream that are kept for those who read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from axolotl_cache.errors import ReaderTooSlow

T = TypeVar("T")


class Window(Generic[T]):
    """All parts from the first on; of a long stream, those about the reader who is furthest.

    Args:
        most: how much is kept behind that reader; None is all.
        ahead: how much may wait for that reader before `is_full`; None is as much as comes.
        size: of one part.
    """

    def __init__(
        self, most: int | None = None, ahead: int | None = None, size: Callable[[Any], int] = len
    ) -> None:
        self._most = most
        self._most_ahead = ahead
        self._size = size
        self._parts: dict[int, T] = {}
        self._first = 0
        self._end = 0
        self._furthest = 0
        self._ahead = 0
        self._behind = 0

    @property
    def end(self) -> int:
        """How many parts have come."""
        return self._end

    @property
    def is_whole(self) -> bool:
        """Whether one who comes now would have all of it."""
        return self._first == 0

    @property
    def is_full(self) -> bool:
        """Whether enough waits for the reader who is furthest."""
        return self._most_ahead is not None and self._ahead > self._most_ahead

    def add(self, part: T) -> None:
        """Keep what came."""
        self._parts[self._end] = part
        self._end += 1
        if self._most is not None:
            self._ahead += self._size(part)

    def take(self, index: int) -> T:
        """Return a part that has come.

        Raises:
            ReaderTooSlow: it is not kept any more.
        """
        if index < self._first:
            raise ReaderTooSlow(
                f"this answer was shared, and read too slowly: others were {self._most} bytes ahead; "
                "send the request again"
            )
        part = self._parts[index]
        if self._most is not None and index == self._furthest:
            self._go_on(self._size(part), self._most)
        return part

    def _go_on(self, size: int, most: int) -> None:
        self._furthest += 1
        self._ahead -= size
        self._behind += size
        while self._behind > most and self._first < self._furthest:
            self._behind -= self._size(self._parts.pop(self._first))
            self._first += 1
