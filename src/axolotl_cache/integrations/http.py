"""A caching transport for httpx and httpx2, and so for the OpenAI and Anthropic clients.

    transport = CachingTransport(SmartInferenceCache())
    client = openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=transport))

Sampled answers are cached, too: to install it is to ask for that. `control=CacheControl(sampled=False)`
caches only what has a temperature of 0 or a seed, and embeddings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from time import perf_counter
from typing import Any, Self, TypeVar

from axolotl_cache.errors import RequestCancelled
from axolotl_cache.integrations.exchange import Plan
from axolotl_cache.integrations.families import family_of
from axolotl_cache.integrations.keeping import Value
from axolotl_cache.integrations.messages import is_event_answer
from axolotl_cache.integrations.transport import (
    Compute,
    Request,
    Response,
    Transport,
    window,
)
from axolotl_cache.streams.broadcast import Broadcasts
from axolotl_cache.streams.shared import SharedStream, SharedStreams, SourceFailed
from axolotl_cache.streams.stop import Stop

__all__ = ["AsyncCachingTransport", "CachingTransport"]

T = TypeVar("T")


class CachingTransport(Transport):
    """Serves what was asked before, and stores what may be asked again.

    For `httpx.Client` and `httpx2.Client`. Cached are POSTs of JSON to `chat/completions`, `completions`,
    `responses`, `embeddings` and Anthropic's `v1/messages`; anything else passes through. The key is the
    whole request: address, body (as `CanonicalRequest` sees it), the headers that choose a version or an
    account, and a digest of the API key, so that two of them share nothing. Streams are replayed
    event by event, and stored only when their end came. Errors, refusals and cut-off answers are not
    stored. Of all headers, those of requests and of answers, only the answer's Content-Type is kept.

    A request says more in headers: `Cache-Control` (no-cache, no-store, max-age, only-if-cached),
    `X-Cache-TTL` (seconds), `X-Cache-Tags` (with commas), `X-Cache-Namespace`; the last three go no
    further. An answer has `X-Cache: hit-exact` or `miss`, and a hit its `Age`.

    Equal requests at the same time are sent once, and those that ask for a stream share it as it comes. What
    another process streams is waited for, for 30 seconds at the most, and replayed when it is stored.

    What an answer says of its tokens is kept with it, so that `cache.stats().saved` says what hits saved; in
    money, if the cache has `prices`.

    Args:
        cache: where answers are kept; closing the transport does not close it.
        inner: sends what is not cached; None is the family's own `HTTPTransport`.
        control: what holds where a request says nothing: `sampled=False` caches repeatable requests only,
            `truncated=True` cut-off answers, too; `ttl_seconds`, `namespace`, ...
        tags: of all entries.
        leave_out: fields of the body that are not to be in the key, as `["seed"]`.
        vary: further headers that are part of the key.
        share_between_keys: whether all API keys share answers.
        secret: keys the digest of the API key; up to 64 bytes, the same wherever the cache is shared.
        ttl_rules: for how long answers of which kind are served, as the configuration has them or as they
            stand in its YAML; a request's own TTL wins, and where no rule fits, the cache's timeout holds.

    Raises:
        ImportError: neither httpx nor httpx2 is installed.
        ValueError: `leave_out` names what tells questions apart, or a tag is a reserved one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._under_way: SharedStreams[Any] = SharedStreams()

    def handle_request(self, request: Request) -> Response:
        """Return the answer, stored or computed. What the inner transport raises is raised."""
        return _at_once(self._answer(request))

    def close(self) -> None:
        """Close the inner transport."""
        self._keeping.catch_up()
        if self._inner is not None:
            self._inner.close()

    def __enter__(self) -> Self:
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._inner is not None:
            self._inner.__exit__(*error)

    async def _send(self, request: Request) -> Response:
        with self._lock:
            if self._inner is None:
                self._inner = family_of(request).HTTPTransport()
        return self._inner.handle_request(request)

    async def _read(self, request: Request) -> bytes:
        body: bytes = request.read()
        return body

    def _join(self, request: Request, plan: Plan) -> tuple[Any, bool] | None:
        def begin(nobody: Stop) -> Generator[Any, None, None] | None:
            # What was under way a moment ago may be stored now.
            return None if self.cache.contains(plan.key) else self._source(request, plan)

        joined = self._under_way.join(plan.key, begin, window)
        return None if joined is None else (_parts(joined[0]), joined[1])

    async def _next(self, parts: Any) -> Any:
        return next(parts, None)

    def _source(self, request: Request, plan: Plan) -> Generator[Any, None, None]:
        with self.cache.alone(plan.key):
            if self.cache.contains(plan.key):
                return  # by another process, while this one waited for it
            started = perf_counter()
            response = _at_once(self._sent(request))
            if not is_event_answer(response):
                yield response
                return
            stream, seen = response.stream, []
            try:
                yield response
                for chunk in stream:
                    seen.append(chunk)
                    yield chunk
            finally:
                stream.close()
                self._keeping.keep_events(plan, seen, response.headers["content-type"], started)

    async def _drain(self, response: Response) -> list[bytes]:
        try:
            return list(response.stream)
        finally:
            response.stream.close()

    async def _get_or_compute(self, plan: Plan, compute: Compute) -> Value:
        wish = plan.wish
        return self.cache.get_or_compute(
            plan.key,
            lambda: _at_once(compute()),
            ttl=wish.control.ttl_seconds,
            tags=wish.tags,
            kind=plan.kind,
        )


class AsyncCachingTransport(Transport):
    """The same for `httpx.AsyncClient` and `httpx2.AsyncClient`; arguments and rules as there."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._under_way: Broadcasts[Any] = Broadcasts()

    async def handle_async_request(self, request: Request) -> Response:
        """Return the answer, stored or computed. What the inner transport raises is raised."""
        return await self._answer(request)

    async def aclose(self) -> None:
        """Close the inner transport."""
        self._keeping.catch_up()
        if self._inner is not None:
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        if self._inner is not None:
            await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(*error)

    async def _send(self, request: Request) -> Response:
        if self._inner is None:
            self._inner = family_of(request).AsyncHTTPTransport()
        return await self._inner.handle_async_request(request)

    async def _read(self, request: Request) -> bytes:
        body: bytes = await request.aread()
        return body

    def _join(self, request: Request, plan: Plan) -> tuple[Any, bool] | None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None  # another kind of event loop, in which each asks for itself
        key = f"{id(loop)}:{plan.key}"
        return self._under_way.join(key, lambda: self._source(request, plan), window)

    async def _next(self, parts: Any) -> Any:
        return await anext(parts, None)

    async def _source(self, request: Request, plan: Plan) -> AsyncGenerator[Any, None]:
        async with self.cache.alone_in_task(plan.key):
            if self.cache.contains(plan.key):
                return
            started = perf_counter()
            response = await self._sent(request)
            if not is_event_answer(response):
                yield response
                return
            stream, seen = response.stream, []
            try:
                yield response
                async for chunk in stream:
                    seen.append(chunk)
                    yield chunk
            finally:
                await stream.aclose()
                self._keeping.keep_events(plan, seen, response.headers["content-type"], started)

    async def _drain(self, response: Response) -> list[bytes]:
        try:
            return [chunk async for chunk in response.stream]
        finally:
            await response.stream.aclose()

    async def _get_or_compute(self, plan: Plan, compute: Compute) -> Value:
        wish = plan.wish
        return await self.cache.aget_or_compute(
            plan.key, compute, ttl=wish.control.ttl_seconds, tags=wish.tags, kind=plan.kind
        )


def _parts(stream: SharedStream[Any]) -> Generator[Any, None, None]:
    try:
        yield from stream.read(Stop())
    except SourceFailed as failed:
        error = failed.__cause__
        if isinstance(error, Exception):
            raise error from None
        raise RequestCancelled("whoever read this answer from the server was interrupted") from None


def _at_once(flow: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in which nothing ever waits."""
    try:
        flow.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    flow.close()
    raise RuntimeError("a transport for synchronous clients was given an inner one that is asynchronous")
