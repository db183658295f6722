"""One request on its way to an upstream, or answered as another was."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from axolotl_cache.integrations.exchange import Plan
from axolotl_cache.request import Answer, Request, Saved, Served, Usage
from axolotl_cache.response import Entry
from axolotl_cache.server.exchange import Exchange
from axolotl_cache.server.refusal import Refusal
from axolotl_cache.server.upstream_body import EVENTS, is_stream
from axolotl_cache.server.upstreams import Head
from axolotl_cache.streams.broadcast import Broadcasts


@dataclass(frozen=True, slots=True)
class Told:
    """What an upstream said about an answer; comes last."""

    cost: Mapping[str, Any]


Part = Head | bytes | Told
Source = Callable[["UpstreamWork"], AsyncGenerator[Part, None]]


class _NotShared(Exception):
    """What another's request came to is not for this one."""


@dataclass(slots=True)
class UpstreamWork:
    """One request.

    Args:
        request: as far as the cache looks at it.
        model: as the body names it.
        body: as it came, and goes on.
        plan: its place in the response cache; None if it has none.
        chunks: digests of what its prompt begins with.
        stored: the answer, if it is stored.
        ttl_seconds: for how long its answer may be served.
        source: what has it computed, and stored.
        under_way: what is computed for others now.

    Attributes:
        answer: the account of what was sent.
        upstream: which one computed it.
    """

    request: Request
    model: str
    body: bytes
    plan: Plan | None
    chunks: list[bytes]
    stored: Entry | None
    ttl_seconds: float | None
    source: Source
    under_way: Broadcasts[Part]
    answer: Answer | None = None
    upstream: str = ""
    started: float = field(default_factory=time.perf_counter)
    _first_at: float = 0.0

    @property
    def places(self) -> int:
        """1 unless the answer is stored."""
        return 0 if self.stored is not None else 1

    @property
    def streams(self) -> bool:
        """Whether it asks for events."""
        return self.plan is not None and self.plan.streams

    @property
    def asked_for(self) -> Request:
        """The request, as far as the cache looks at it."""
        return self.request

    @property
    def accounts(self) -> list[tuple[Request, Answer]]:
        """What came of it."""
        return [(self.request, self.answer)] if self.answer is not None else []

    async def hand_out(self, exchange: Exchange) -> None:
        """Send the stored answer, as it came."""
        if self.stored is None:
            raise RuntimeError("nothing is stored for this request")
        value, age = self.stored.value, max(time.time() - self.stored.created_at, 0.0)
        headers = [(b"x-cache", Served.HIT_EXACT.encode()), (b"age", str(int(age)).encode())]
        body = "".join(value["chunks"]).encode()
        if value["type"].startswith(EVENTS):
            await exchange.begin_events(headers)
            await exchange.end_events(body)
        else:
            await exchange.reply(200, body, headers, kind=value["type"].encode())
        self._account(Served.HIT_EXACT, self.stored.cost or {}, age, self.stored.saved)

    async def compute(self, exchange: Exchange) -> None:
        """Pass it on, or share what an equal one gets, and send what comes."""
        plan = self.plan
        if plan is None or not (plan.may_share and plan.may_store):
            await self._send(exchange, self.source(self), Served.MISS)
            return
        parts, is_mine = self.under_way.join(plan.key, lambda: self.source(self))
        try:
            await self._send(exchange, parts, Served.MISS if is_mine else Served.HIT_EXACT)
        except _NotShared:  # another's failure: this one may fare better
            await self._send(exchange, self.source(self), Served.MISS)

    async def _send(self, exchange: Exchange, parts: AsyncGenerator[Part, None], served: Served) -> None:
        head: Head | None = None
        whole: list[bytes] = []
        cost: Mapping[str, Any] = {}
        is_mine = served is Served.MISS
        async with aclosing(parts):
            try:
                async for part in parts:
                    if isinstance(part, Head):
                        head = part
                        await self._begin(exchange, head, served)
                    elif isinstance(part, Told):
                        cost = part.cost
                    elif exchange.status:
                        await exchange.send_events(part)
                    else:
                        whole.append(part)
            except Refusal:
                if is_mine or exchange.status:
                    raise
                raise _NotShared from None
        if head is None:
            raise Refusal(502, "the upstream sent nothing", code="broken_off")
        if exchange.status:
            await exchange.end_events()
        else:
            kind = head.content_type.encode("latin-1", "replace")
            await exchange.reply(head.status, b"".join(whole), _headers(head, served), kind=kind)
        if head.status == 200:
            self._account(served, cost, 0.0, Saved())

    async def _begin(self, exchange: Exchange, head: Head, served: Served) -> None:
        if served is not Served.MISS and head.status != 200:
            raise _NotShared
        self.upstream = head.upstream
        self._first_at = time.perf_counter()
        if is_stream(head):
            await exchange.begin_events(_headers(head, served))

    def _account(self, served: Served, cost: Mapping[str, Any], age: float, saved: Saved) -> None:
        prompt_tokens = int(cost.get("prompt_tokens") or 0)
        cached_tokens = int(cost.get("cached_tokens") or 0) if served is Served.MISS else prompt_tokens
        now = time.perf_counter()
        self.answer = Answer(
            text="",
            finish_reason="",
            served=served,
            usage=Usage(prompt_tokens, cached_tokens, int(cost.get("completion_tokens") or 0)),
            ttft_seconds=(self._first_at or now) - self.started,
            total_seconds=now - self.started,
            age_seconds=age,
            saved=saved,
            key="" if self.plan is None else self.plan.key,
        )


def _headers(head: Head, served: Served) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-cache", served.encode()), (b"x-cache-upstream", head.upstream.encode())]
    if head.retry_after is not None:
        headers.append((b"retry-after", head.retry_after.encode("latin-1", "replace")))
    return headers
