"""Where requests come in: read whole, given a ticket, and passed on to the replica the router chooses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError

from axolotl_cache.ray_serve.calls import Call, carried
from axolotl_cache.ray_serve.ticket import ELSEWHERE, ticket_of
from axolotl_cache.server.asked import CHAT, COMPLETIONS
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.exchange import ClientLeft, Exchange, Receive, Scope, Send
from axolotl_cache.server.refusal import Refusal

LOGGER: Final = logging.getLogger("axolotl_cache.ray")
_TRIES: Final = 3
_AGAIN: Final = {"retry-after": "1"}


class Door:
    """An ASGI application in front of the replicas.

    Args:
        doors: who may come in.
        most_body_bytes: longest body.
        handle: returns Ray's handle of the engines; called for the first request.
    """

    def __init__(self, doors: Doors, most_body_bytes: int, handle: Callable[[], Any]) -> None:
        self._doors = doors
        self._most_body_bytes = most_body_bytes
        self._make = handle
        self._handle: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's start and end."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        exchange = Exchange(scope, receive, send, "ray")
        try:
            await self._serve(exchange, scope, send)
        except ClientLeft:
            return
        except Refusal as refusal:
            with suppress(OSError):
                await exchange.refuse(refusal)

    async def _serve(self, exchange: Exchange, scope: Scope, send: Send) -> None:
        computes = scope["path"] in (CHAT, COMPLETIONS)
        tenant = self._doors.tenant(exchange.headers).name if computes else ""
        body = await exchange.body(self._most_body_bytes)
        ticket = ticket_of(body, exchange.headers, tenant) if computes else ELSEWHERE
        call = Call(carried(scope), body, ticket, tenant)
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._pass_on(exchange, call, send)
                return
            except RayActorError as error:  # the replica died; its answer is the same from another
                LOGGER.warning("request %s: a replica is gone: %s", exchange.id, type(error).__name__)
                if exchange.status or not tries_left:
                    raise Refusal(
                        503, "the replica that computed this is gone; send it again", headers=_AGAIN
                    ) from error
            except BackPressureError:
                message = "too many requests are waiting; send it again later"
                raise Refusal(429, message, headers=_AGAIN) from None
            except RayError as error:
                LOGGER.exception("request %s failed", exchange.id)
                raise Refusal(500, "the server failed; its log says why") from error

    async def _pass_on(self, exchange: Exchange, call: Call, send: Send) -> None:
        if self._handle is None:
            self._handle = self._make().options(stream=True)
        answer = self._handle.serve.remote(call)
        passing = asyncio.ensure_future(_pass_all(answer, exchange, send))
        gone = asyncio.ensure_future(exchange.gone())
        try:
            await asyncio.wait((passing, gone), return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                answer.cancel()
                raise ClientLeft
            passing.result()
        finally:
            gone.cancel()
            if not passing.done():
                passing.cancel()
                with suppress(asyncio.CancelledError, RayError):
                    await passing


async def _pass_all(answer: Any, exchange: Exchange, send: Send) -> None:
    async for message in answer:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
        await send(message)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
