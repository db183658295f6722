"""An ASGI application that is called from another process: its messages as a generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from axolotl_cache.server.exchange import Message, Receive, Scope, Send

_MOST_AHEAD: Final = 64
"""Messages that wait for a slow reader before the application does."""

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


async def messages(
    application: Application, scope: Mapping[str, Any], body: bytes
) -> AsyncGenerator[Message, None]:
    """Yield what an application sends in answer to a request.

    Whoever closes the generator early is, to the application, a client that went away.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue(_MOST_AHEAD)
    left = asyncio.Event()
    asked: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if asked:
            return asked.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await application(dict(scope), receive, sent.put)
        finally:
            if not left.is_set():
                await sent.put(None)

    running = asyncio.ensure_future(run())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await running
    finally:
        left.set()
        if not running.done():
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
