"""The servers that compute in the engine's place: which are alive, and what they answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from axolotl_cache.server.affinity import Affinity
from axolotl_cache.server.refusal import Refusal

LOGGER: Final = logging.getLogger("axolotl_cache.server")

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0
_GONE: Final = (502, 503)
"""What a server, or what stands before it, says while it does not serve."""


@dataclass(slots=True)
class Upstream:
    """One server."""

    url: str
    running: int = 0
    """Requests that it has under way."""
    sent: int = 0
    failed: int = 0
    pause_seconds: float = 0.0
    """How long it is left out after the next failure; doubled each time."""
    out_until: float = 0.0
    """On the monotonic clock."""

    def is_alive(self, now: float) -> bool:
        """Whether it is to be tried."""
        return now >= self.out_until


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an upstream's answer; its body follows, in pieces."""

    status: int
    content_type: str
    upstream: str
    retry_after: str | None = None


@dataclass(slots=True)
class Upstreams:
    """Sends requests to the upstream that knows their beginning, and around those that fail.

    Args:
        urls: their base URLs, as `http://10.0.0.1:8000` or with `/v1`.
        client: sends; closed by `close`.
        clock: monotonic seconds.
    """

    urls: Sequence[str]
    client: httpx2.AsyncClient
    clock: Callable[[], float] = time.monotonic
    all: list[Upstream] = field(init=False)
    affinity: Affinity = field(init=False)

    def __post_init__(self) -> None:
        self.all = [Upstream(url.rstrip("/").removesuffix("/v1")) for url in self.urls]
        self.affinity = Affinity(len(self.all))

    async def send(
        self, path: str, body: bytes, chunks: Sequence[bytes]
    ) -> AsyncGenerator[Head | bytes, None]:
        """Yield the head of an answer and the pieces of its body, as they come.

        An upstream that can't be reached, or does not serve, is left out for a while and the next is tried,
        as long as none has begun to answer.

        Raises:
            Refusal: 502, none of them answered; or the one that did broke off.
        """
        tried: set[int] = set()
        while True:
            index = self._next(chunks, tried)
            if index is None:
                raise Refusal(
                    502,
                    "no upstream answered; see that they run and that their URLs are right",
                    code="no_upstream",
                    headers={"retry-after": "1"},
                )
            tried.add(index)
            upstream = self.all[index]
            upstream.running += 1
            upstream.sent += 1
            has_begun = False
            try:
                async with aclosing(self._answer(upstream, path, body)) as parts:
                    async for part in parts:
                        if not has_begun:
                            self.affinity.note(chunks, index)
                            upstream.pause_seconds = 0.0
                        has_begun = True
                        yield part
                return
            except httpx2.TransportError as error:
                self._leave_out(index, error)
                if has_begun:
                    raise Refusal(502, "the upstream broke off its answer", code="broken_off") from error
            finally:
                upstream.running -= 1

    async def models(self) -> list[dict[str, Any]]:
        """Return what the first upstream that answers lists as its models."""
        now = self.clock()
        for index, upstream in sorted(enumerate(self.all), key=lambda pair: not pair[1].is_alive(now)):
            try:
                response = await self.client.get(f"{upstream.url}/v1/models", timeout=_CONNECT_SECONDS)
                data = response.json()["data"]
            except httpx2.TransportError as error:
                self._leave_out(index, error)
            except (ValueError, KeyError, TypeError):
                continue
            else:
                return [model for model in data if isinstance(model, dict) and "id" in model]
        raise Refusal(502, "no upstream lists its models", code="no_upstream")

    @property
    def alive(self) -> int:
        """How many are not left out."""
        now = self.clock()
        return sum(upstream.is_alive(now) for upstream in self.all)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    def _next(self, chunks: Sequence[bytes], tried: set[int]) -> int | None:
        now = self.clock()
        left = [i for i in range(len(self.all)) if i not in tried]
        # With none alive, those left out longest ago: one may be back, and nobody else can tell.
        alive = [i for i in left if self.all[i].is_alive(now)] or left
        return self.affinity.choose(chunks, [u.running for u in self.all], alive) if alive else None

    async def _answer(self, upstream: Upstream, path: str, body: bytes) -> AsyncGenerator[Head | bytes, None]:
        request = self.client.build_request("POST", f"{upstream.url}{path}", content=body)
        response = await self.client.send(request, stream=True)
        try:
            if response.status_code in _GONE and len(self.all) > 1:
                raise httpx2.RemoteProtocolError(f"status {response.status_code}")
            headers = response.headers
            kind = headers.get("content-type", "application/json")
            yield Head(response.status_code, kind, upstream.url, headers.get("retry-after"))
            async for piece in response.aiter_bytes():
                yield piece
        finally:
            await response.aclose()

    def _leave_out(self, index: int, error: Exception) -> None:
        upstream = self.all[index]
        upstream.failed += 1
        upstream.pause_seconds = min(
            2 * upstream.pause_seconds or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS
        )
        upstream.out_until = self.clock() + upstream.pause_seconds
        self.affinity.forget(index)
        LOGGER.warning(
            "upstream %s is left out for %g s: %s", upstream.url, upstream.pause_seconds, error or type(error)
        )


def make_client(key: str | None, *, most: int, seconds: float) -> httpx2.AsyncClient:
    """Return the client that sends to upstreams.

    Args:
        key: their API key, if they want one.
        most: connections at once.
        seconds: how long a piece of an answer may take to come.
    """
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(seconds, connect=_CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=30),
        # Proxies from the environment are for the world outside, and redirects for browsers.
        trust_env=False,
        follow_redirects=False,
    )
