"""httpx and httpx2: two families of the same classes, of which each wants its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

FAMILIES: Final = ("httpx", "httpx2")


def family_of(message: Any) -> Any:
    """Return the module that a request or a response comes from.

    Raises:
        TypeError: it is from neither family.
    """
    for kind in type(message).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in FAMILIES:
            return import_module(name)
    raise TypeError(f"a request of httpx or httpx2 is needed, not {type(message)!r}")


def chunks_as_stream(message: Any, chunks: list[bytes]) -> Any:
    """Return a body, for both kinds of client, of the family that `message` is of."""
    return _in_family(_Chunks, family_of(message))(chunks)


def tee(message: Any, stream: Any, keep: Callable[[list[bytes]], None]) -> Any:
    """Return `stream`, of which everything that was read is given to `keep` when it is closed."""
    return _in_family(_Tee, family_of(message))(stream, keep)


def parts_as_stream(message: Any, first: list[bytes], rest: Any) -> Any:
    """Return a body that begins with what came already; `rest` is a generator of either kind."""
    return _in_family(_Parts, family_of(message))(first, rest)


@lru_cache
def _in_family(kind: type, family: Any) -> Any:
    return type(kind.__name__, (kind, family.SyncByteStream, family.AsyncByteStream), {})


class _Chunks:
    """A body that is there already, chunk by chunk."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


class _Parts:
    """A body on its way to several readers."""

    def __init__(self, first: list[bytes], rest: Any) -> None:
        self._first = first
        self._rest = rest

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._first:
            yield chunk
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        self._rest.close()

    async def aclose(self) -> None:
        await self._rest.aclose()


class _Tee:
    """A body on its way, and what has come of it."""

    def __init__(self, stream: Any, keep: Callable[[list[bytes]], None]) -> None:
        self._stream = stream
        self._keep = keep
        self._seen: list[bytes] = []
        self._is_open = True

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._seen.append(chunk)
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._seen.append(chunk)
            yield chunk

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._end()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        # Clients close once they have read the event that ends an answer, and not only at the body's end.
        if self._is_open:
            self._is_open = False
            self._keep(self._seen)
