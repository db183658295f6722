"""/metrics and /dashboard: routes over the observer's data, for operators only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from axolotl_cache.dashboard import Dashboard
from axolotl_cache.observe.exposition import CONTENT_TYPE, exposition

Authorize = Callable[[Request], None]
"""Raises HTTPException unless an operator asks."""

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def observability_routes(dashboard: Dashboard, authorize: Authorize) -> list[Route]:
    """Return the routes of the metrics and the dashboard.

    The dashboard's own files hold no data, and are there for everyone: the page asks for a key where its
    data needs one.

    Args:
        dashboard: what they show.
        authorize: called for each route with data.
    """
    pages = _Pages(dashboard, authorize)
    routes = [
        ("/metrics", pages.metrics),
        ("/dashboard", pages.redirect),
        ("/dashboard/", pages.file),
        ("/dashboard/api/overview", pages.overview),
        ("/dashboard/api/requests", pages.requests),
        ("/dashboard/api/requests/{id}", pages.request),
        ("/dashboard/api/prefixes", pages.prefixes),
        ("/dashboard/api/nodes", pages.nodes),
        ("/dashboard/{file}", pages.file),
    ]
    return [Route(path, endpoint, methods=["GET"], include_in_schema=False) for path, endpoint in routes]


class _Pages:
    """The endpoints."""

    def __init__(self, dashboard: Dashboard, authorize: Authorize) -> None:
        self._dashboard = dashboard
        self._authorize = authorize
        self._files = {
            entry.name: entry.read_bytes()
            for entry in (files("axolotl_cache.dashboard") / "static").iterdir()
            if entry.name.endswith(tuple(_TYPES))
        }

    async def metrics(self, request: Request) -> Response:
        self._authorize(request)
        text = await run_in_threadpool(exposition, self._dashboard.observer)
        return Response(text, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    async def redirect(self, request: Request) -> Response:
        # Relative, so that it holds behind a proxy that serves us below another path.
        return RedirectResponse("dashboard/", 307, headers=_HEADERS)

    async def file(self, request: Request) -> Response:
        name = request.path_params.get("file", "index.html")
        content = self._files.get(name)
        if content is None:
            raise HTTPException(404, f"the dashboard has no file {name!r}")
        kind = _TYPES[name[name.rindex(".") :]]
        return Response(content, headers=_HEADERS | {"Content-Type": kind, "Cache-Control": "no-cache"})

    async def overview(self, request: Request) -> Response:
        self._authorize(request)
        span = request.query_params.get("span", "3600")
        try:
            found = await run_in_threadpool(self._dashboard.overview, int(span))
        except ValueError as error:
            raise HTTPException(400, f"span: {error}") from error
        return _json(found)

    async def requests(self, request: Request) -> Response:
        self._authorize(request)
        wanted = request.query_params
        found = await run_in_threadpool(
            lambda: self._dashboard.requests(served=wanted.get("served", ""), tenant=wanted.get("tenant"))
        )
        return _json(found)

    async def request(self, request: Request) -> Response:
        self._authorize(request)
        found = await run_in_threadpool(self._dashboard.request, request.path_params["id"])
        if found is None:
            raise HTTPException(404, "this request is not among the last ones that are kept")
        return _json(found)

    async def prefixes(self, request: Request) -> Response:
        self._authorize(request)
        return _json(await run_in_threadpool(self._dashboard.prefixes))

    async def nodes(self, request: Request) -> Response:
        self._authorize(request)
        return _json(await run_in_threadpool(self._dashboard.nodes))


def _json(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers=_HEADERS | {"Cache-Control": "no-store"})
