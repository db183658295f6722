"""The way of one request through the server: who asks, what is stored, whose turn it is, what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from axolotl_cache.observe import Observer
from axolotl_cache.request import Answer
from axolotl_cache.server.admission import Admission
from axolotl_cache.server.backend import Backend, Work
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.exchange import ClientLeft, Exchange
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.quotas import Quotas
from axolotl_cache.server.refusal import CLIENT_LEFT, Refusal, deadline_passed, refusal_of
from axolotl_cache.server.reporting import Told, report

LOGGER: Final = logging.getLogger("axolotl_cache.server")
DEADLINE_HEADER: Final = "x-request-timeout"
_SOON: Final = {"retry-after": "5"}


class Service:
    """Serves the routes that compute.

    Args:
        backend: what answers.
        limits: what is taken on.
        doors: who may come in.
        observer: is told of every request that is over.
        clock: monotonic seconds, for quotas.
    """

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        doors: Doors,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.doors = doors
        self.observer = observer
        self.quotas = Quotas(clock)
        self.admission = Admission(limits.most_running, limits.most_waiting)
        self.is_draining = False
        backend.bound_tenants(doors.cache_bytes)

    def drain(self) -> None:
        """Say from now on that no more requests should be sent."""
        self.is_draining = True

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request, whatever comes of it."""
        told = Told()
        refusal: Refusal | None = None
        try:
            await self._serve(exchange, told)
        except ClientLeft:
            exchange.status = CLIENT_LEFT
        except asyncio.CancelledError:  # the server stops, and what runs had its time
            refusal = Refusal(503, "the server stops; send it again", code="stopping", headers=_SOON)
            with suppress(Exception):
                await exchange.refuse(refusal)
            report(self.observer, exchange, told, refusal)
            raise
        except Exception as error:
            refusal = refusal_of(_first(error))
            if refusal.status == 500:
                LOGGER.exception("request %s failed", exchange.id)
            with suppress(OSError):
                await exchange.refuse(refusal)
        report(self.observer, exchange, told, refusal)

    async def _serve(self, exchange: Exchange, told: Told) -> None:
        tenant = self.doors.tenant(exchange.headers)
        told.tenant = tenant.name
        kind = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "send the body as JSON, with `Content-Type: application/json`")
        body = await exchange.body(self.limits.most_body_bytes)
        self.quotas.take(tenant)
        work = told.work = self.backend.begin(exchange.path, body, exchange.headers, tenant.name)
        if work.places == 0:
            await work.hand_out(exchange)
            return
        try:
            await self._while_there(exchange, self._computed(exchange, work, told))
        finally:
            if tenant.tokens_per_minute is not None:
                self.quotas.charge(tenant, sum(_computed_tokens(answer) for _, answer in work.accounts))

    async def _computed(self, exchange: Exchange, work: Work, told: Told) -> None:
        seconds = self._deadline_seconds(exchange)
        came = time.perf_counter()
        try:
            async with asyncio.timeout(seconds), self.admission.place(told.tenant, work.places):
                told.queue_seconds = time.perf_counter() - came
                await work.compute(exchange)
        except TimeoutError:
            raise deadline_passed(seconds) from None

    def _deadline_seconds(self, exchange: Exchange) -> float:
        header = exchange.headers.get(DEADLINE_HEADER)
        if header is None:
            return self.limits.deadline_seconds
        try:
            seconds = float(header[:100])
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            raise Refusal(400, f"X-Request-Timeout is a number of seconds above 0, not {header[:50]!r}")
        return min(seconds, self.limits.deadline_seconds)

    async def _while_there(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, and drop it as soon as the client has gone away."""
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(exchange.gone())
        try:
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
                raise ClientLeft
            working.result()
        finally:
            working.cancel()
            gone.cancel()


def _computed_tokens(answer: Answer) -> int:
    if answer.served.is_stored:
        return 0
    return answer.usage.computed_tokens + answer.usage.completion_tokens


def _first(error: Exception) -> Exception:
    """Return what several choices failed of first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
