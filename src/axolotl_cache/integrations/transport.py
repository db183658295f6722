"""The flow of a request through a caching transport: one for both kinds of client.

It is written as a coroutine. For synchronous clients nothing in it ever waits, and it is run to its end in
one step.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib.util import find_spec
from threading import Lock
from time import perf_counter
from typing import Any, Final

from axolotl_cache.config import TtlRules
from axolotl_cache.errors import ReaderTooSlow, RequestError
from axolotl_cache.integrations.exchange import Plan, make_rules
from axolotl_cache.integrations.families import FAMILIES, chunks_as_stream, family_of, parts_as_stream, tee
from axolotl_cache.integrations.keeping import LARGEST_BODY_BYTES, Keeping, Value
from axolotl_cache.integrations.messages import CACHE_HEADER, address_of, hit_headers, is_event_answer
from axolotl_cache.request import CacheControl, Served
from axolotl_cache.response import SmartInferenceCache
from axolotl_cache.streams.window import Window

_MOST_UNSHARED: Final = 1024
_ALL_SAMPLED: Final = CacheControl(sampled=True)

# Requests, responses and streams are of one of two families that have nothing in common but their shape.
Request = Any
Response = Any
Compute = Callable[[], Coroutine[Any, Any, Value]]


class _Unstored(Exception):
    """Carries an answer that must not be stored past the cache to the one who asked for it."""

    def __init__(self, response: Response) -> None:
        super().__init__("not stored")
        self.response = response


class _Unshared(Exception):
    """The answer that was waited for is not to be shared: each computes its own, at the same time."""


class Transport(ABC):
    """The flow of a request; how bytes move is for the two kinds of transport to say."""

    def __init__(
        self,
        cache: SmartInferenceCache,
        inner: Any = None,
        *,
        control: CacheControl = _ALL_SAMPLED,
        tags: Iterable[str] = (),
        leave_out: Iterable[str] = (),
        vary: Iterable[str] = (),
        share_between_keys: bool = False,
        secret: bytes = b"",
        ttl_rules: TtlRules | Mapping[str, Any] | None = None,
    ) -> None:
        if not any(find_spec(name) for name in FAMILIES):
            raise ImportError(
                "caching an HTTP client needs httpx or httpx2: pip install 'axolotl-cache[openai]'"
            )
        self.cache = cache
        self._inner = inner
        self._rules = make_rules(control, tags, leave_out, vary, share_between_keys, secret, ttl_rules)
        self._keeping = Keeping(cache, lambda: LARGEST_BODY_BYTES)
        self._lock = Lock()
        self._turn = 0
        self._unshared: dict[str, int] = {}

    @property
    def not_stored(self) -> dict[str, int]:
        """How many answers were not stored, by reason."""
        return self._keeping.not_stored.counts()

    @abstractmethod
    async def _send(self, request: Request) -> Response:
        """Send it to the server."""

    @abstractmethod
    async def _read(self, request: Request) -> bytes:
        """Return the body of a request."""

    @abstractmethod
    async def _drain(self, response: Response) -> list[bytes]:
        """Return the body of a response as it came, and close it."""

    @abstractmethod
    async def _get_or_compute(self, plan: Plan, compute: Compute) -> Value:
        """Return what is stored, or compute it once for all who ask meanwhile."""

    @abstractmethod
    def _join(self, request: Request, plan: Plan) -> tuple[Any, bool] | None:
        """Return what is under way, and whether this began it; None if there is nothing to share.

        The first part is the server's response, the others are pieces of its body.
        """

    @abstractmethod
    async def _next(self, parts: Any) -> Any:
        """Return the next part, or None behind the last."""

    async def _answer(self, request: Request) -> Response:
        self._keeping.catch_up()
        try:
            wish = self._rules.wish(request.headers)
        except RequestError as error:
            return _refusal(request, 400, str(error))
        shape = self._rules.shape(request.method, request.url.path, request.headers)
        if shape is None:
            return await self._send(request)
        body, address = await self._read(request), address_of(request.url)
        plan = self._rules.plan(self.cache, shape, wish, address=address, headers=request.headers, body=body)
        if plan is None:
            return _marked(await self._send(request))
        return await self._planned(request, plan)

    async def _planned(self, request: Request, plan: Plan) -> Response:
        control = plan.wish.control
        if plan.may_share and not (plan.streams or control.only_if_cached):
            return await self._shared(request, plan)
        if not control.no_cache:
            entry = self.cache.lookup(plan.key, max_age_seconds=control.max_age_seconds)
            if entry is not None:
                return self._replay(request, plan, entry.value)
        if control.only_if_cached:
            return _refusal(request, 504, "nothing stored can answer this (only-if-cached)")
        if plan.streams and plan.may_share:
            return await self._streamed(request, plan)
        return await self._computed(request, plan)

    async def _streamed(self, request: Request, plan: Plan) -> Response:
        """Share what an equal request gets, as it comes, or begin what others may share."""
        started = perf_counter()
        while (joined := self._join(request, plan)) is not None:
            parts, is_mine = joined
            try:
                response = await self._next(parts)
                if response is None:
                    continue  # another process was quicker, and has stored it
                is_shared = is_event_answer(response)
                # Who has had nothing of it yet can begin anew, should it fail. An answer for one ends here.
                first = None if is_mine and is_shared else await self._next(parts)
            except ReaderTooSlow:
                continue
            except Exception:
                if is_mine:
                    raise
                continue
            if is_mine:
                if is_shared:
                    return _marked(response, parts_as_stream(request, [], parts))
                return await self._finished(request, plan, response, started)
            if is_shared:
                begun = [] if first is None else [first]
                headers = hit_headers(response.headers["content-type"], 0)
                stream = parts_as_stream(request, begun, parts)
                return family_of(request).Response(200, headers=headers, stream=stream)
            if response.status_code == 200:
                return await self._computed(request, plan)
        entry = self.cache.lookup(plan.key)
        if entry is not None:
            return self._replay(request, plan, entry.value)
        return await self._computed(request, plan)

    async def _shared(self, request: Request, plan: Plan) -> Response:
        turn = self._turn
        began, computed = False, []

        async def compute() -> Value:
            nonlocal began
            began = True
            if self._unshared.get(plan.key, 0) > turn:
                raise _Unshared
            response, value = await self._whole(plan, await self._sent(request))
            if value is None:
                if response.status_code == 200:  # after a failure, one other may try, and then the next
                    self._do_not_share(plan.key)
                raise _Unstored(response)
            computed.append(response)
            return value

        try:
            value = await self._get_or_compute(plan, compute)
        except _Unstored as unstored:
            return unstored.response
        except _Unshared:
            return await self._computed(request, plan)
        except RuntimeError:
            if began:
                raise
            # Waiting would have stopped the very event loop that computes it.
            return await self._computed(request, plan)
        return computed[0] if computed else self._replay(request, plan, value)

    def _do_not_share(self, key: str) -> None:
        """Let those who wait for this answer compute their own, rather than one after the other."""
        with self._lock:
            self._turn += 1
            self._unshared.pop(key, None)
            self._unshared[key] = self._turn
            if len(self._unshared) > _MOST_UNSHARED:
                del self._unshared[next(iter(self._unshared))]

    async def _computed(self, request: Request, plan: Plan) -> Response:
        started = perf_counter()
        return await self._finished(request, plan, await self._sent(request), started)

    async def _finished(self, request: Request, plan: Plan, response: Response, started: float) -> Response:
        if is_event_answer(response):

            def keep(chunks: list[bytes]) -> None:
                self._keeping.keep_events(plan, chunks, response.headers["content-type"], started)

            return _marked(response, tee(request, response.stream, keep) if plan.may_store else None)
        response, value = await self._whole(plan, response)
        if value is not None and plan.may_store:
            self._keeping.keep(plan, value, perf_counter() - started)
        return response

    async def _sent(self, request: Request) -> Response:
        # What comes is stored as it is, and given to clients that may not know how to unpack it.
        request.headers["accept-encoding"] = "identity"
        return await self._send(request)

    async def _whole(self, plan: Plan, response: Response) -> tuple[Response, Value | None]:
        """Return an answer with its body read, and what to store of it, if it may be stored."""
        chunks = await self._drain(response)
        value = self._keeping.value_of(plan, response, chunks)
        _marked(response, chunks_as_stream(response, chunks))
        return response, value

    def _replay(self, request: Request, plan: Plan, value: Value) -> Response:
        chunks = [chunk.encode() for chunk in value["chunks"]]
        headers = hit_headers(value["type"], int(self.cache.age(plan.key) or 0))
        if not plan.streams:
            headers["content-length"] = str(sum(map(len, chunks)))
        stream = chunks_as_stream(request, chunks)
        return family_of(request).Response(200, headers=headers, stream=stream)


def window() -> Window[Any]:
    """Return what keeps the parts of a shared stream."""
    return Window(LARGEST_BODY_BYTES, 0, lambda part: len(part) if isinstance(part, bytes) else 0)


def _marked(response: Response, stream: Any = None) -> Response:
    response.headers[CACHE_HEADER] = str(Served.MISS)
    if stream is not None:
        response.stream = stream
    return response


def _refusal(request: Request, status: int, message: str) -> Response:
    error = {"message": message, "type": "axolotl_cache", "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    # Clients would send a 504 again; the second time nothing is stored, either.
    headers = {"x-should-retry": "false", CACHE_HEADER: str(Served.MISS), "content-type": "application/json"}
    headers["content-length"] = str(len(body))
    stream = chunks_as_stream(request, [body])
    return family_of(request).Response(status, headers=headers, stream=stream)
