"""The ASGI application: the quick routes by themselves, all others through Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from axolotl_cache.server.asked import CHAT, COMPLETIONS
from axolotl_cache.server.exchange import Exchange, Receive, Scope, Send
from axolotl_cache.server.openapi import document
from axolotl_cache.server.refusal import Refusal, refusal_of
from axolotl_cache.server.service import Service

_PREFIXES: Final = {CHAT: "chatcmpl", COMPLETIONS: "cmpl"}


class App:
    """The application.

    Args:
        service: serves the routes that compute.
        routes: further ones.
    """

    def __init__(self, service: Service, routes: Sequence[BaseRoute] = ()) -> None:
        self.service = service

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            service.is_draining = True
            await service.backend.close()

        own = [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        self._others = Starlette(
            routes=[*own, *routes],
            lifespan=lifespan,
            exception_handlers={Refusal: _refused, HTTPException: _http_error, Exception: _failure},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        prefix = _PREFIXES.get(scope["path"]) if scope["type"] == "http" else None
        if prefix is None:
            await self._others(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, prefix)
        if scope["method"] == "POST":
            await self.service.serve(exchange)
        else:
            refusal = Refusal(
                405, f"{scope['method']} is not for {scope['path']}; POST", headers={"allow": "POST"}
            )
            await exchange.refuse(refusal)

    async def _models(self, request: Request) -> Response:
        self.service.doors.tenant(request.headers)
        return JSONResponse({"object": "list", "data": await self.service.backend.models()})

    async def _model(self, request: Request) -> Response:
        self.service.doors.tenant(request.headers)
        name = request.path_params["name"]
        found = [model for model in await self.service.backend.models() if model["id"] == name]
        if not found:
            raise Refusal(404, f"there is no model {name[:100]!r} here; /v1/models lists what there is")
        return JSONResponse(found[0])

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, request: Request) -> Response:
        status = "ok" if self.service.backend.is_ready else "failed"
        if self.service.is_draining:
            status = "draining"
        health: dict[str, object] = {"status": status}
        shared = self.service.backend.shared
        if shared is not None:  # without addresses and reasons: no key is needed here, and the log has them
            told = shared.report()
            health["shared"] = {
                "is_up": told.is_up,
                "copies": told.copies,
                "copies_wanted": told.copies_wanted,
            }
        return JSONResponse(health, 200 if status == "ok" else 503)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document())


async def _refused(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, dict(refusal.headers), media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _failure(request, error)
    message = error.detail if error.status_code != 404 else f"there is nothing at {request.url.path[:200]}"
    return await _refused(request, Refusal(error.status_code, message, headers=error.headers or {}))


async def _failure(request: Request, error: Exception) -> Response:
    return await _refused(request, Refusal(500, "the server failed; its log says why"))
