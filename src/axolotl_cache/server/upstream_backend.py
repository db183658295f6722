"""Answers from other OpenAI-compatible servers, through the response cache."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json, to_json

from axolotl_cache.errors import NotCached
from axolotl_cache.integrations import answers as shapes
from axolotl_cache.integrations.exchange import Plan, Rules, Wish
from axolotl_cache.request import CacheControl, Request
from axolotl_cache.response import SmartInferenceCache, owner_tags
from axolotl_cache.response.ttl_rules import TtlPolicy
from axolotl_cache.server.affinity import chunk_digests
from axolotl_cache.server.asked import CHAT
from axolotl_cache.server.refusal import Refusal
from axolotl_cache.server.upstream_body import (
    as_hit,
    cost_of,
    facts_of,
    is_stream,
    prompt_text,
    request_of,
    usage_in,
)
from axolotl_cache.server.upstream_work import Part, Told, UpstreamWork
from axolotl_cache.server.upstreams import Head, Upstreams
from axolotl_cache.streams.broadcast import Broadcasts

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.near import NearStore

_DONE: Final = b"data: [DONE]"
_AFTER_LAST_SECONDS: Final = 0.1
"""llama.cpp's Python server saves its state before it ends a stream."""
_LARGEST_KEPT_BYTES: Final = 16 * 2**20
"""A longer answer passes through, and is not kept."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What stored answers belong to, and for how long.

    Args:
        environment_tag: as in `inference_settings`.
        cache_version: stands for the upstreams' weights, which nobody here can see.
        control: what holds for the response cache where a request says nothing.
        ttl: for how long answers may be served.
    """

    environment_tag: str
    cache_version: str
    control: CacheControl
    ttl: TtlPolicy

    def namespace(self, request: Request) -> str:
        """Return the namespace of a request's answer."""
        own = request.cache_control.namespace
        parts = [self.environment_tag, self.cache_version, request.tenant, request.principal, own]
        return to_json(parts).decode()


class UpstreamBackend:
    """Other servers, and the response cache before them.

    Args:
        upstreams: where requests go.
        cache: where answers are kept; closed by whoever opened it. None keeps none.
        terms: what they belong to.
    """

    def __init__(self, upstreams: Upstreams, cache: SmartInferenceCache | None, terms: Terms) -> None:
        self.upstreams = upstreams
        self.cache = cache
        self.terms = terms
        self.under_way: Broadcasts[Part] = Broadcasts()
        self.not_stored: Counter[str] = Counter()
        self._rules = Rules(
            control=terms.control, tags=(), leave_out=(), vary=(), share_between_keys=True, secret=b""
        )

    def begin(self, route: str, body: bytes, headers: dict[str, str], tenant: str) -> UpstreamWork:
        """Read a request, as far as the cache must, and look up what is stored.

        Raises:
            Refusal: the body is no JSON object.
            RequestError: a header can't be understood.
            NotCached: it wants a stored answer or none, and there is none.
        """
        try:
            sent = from_json(body)
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        if not isinstance(sent, dict):
            raise Refusal(400, "the body is JSON, but no object")
        request = request_of(sent, route, headers, tenant, self.terms.control)
        control = request.cache_control
        decision = self.terms.ttl.decide(facts_of(request), control.ttl_seconds)
        plan = None if decision.ttl_seconds == 0 else self._plan(request, body)
        stored = None
        if plan is not None and self.cache is not None and not control.no_cache:
            stored = self.cache.lookup(plan.key, max_age_seconds=control.max_age_seconds)
        if stored is None and control.only_if_cached:
            raise NotCached("nothing stored can answer this request")
        named = sent.get("model")
        model = named if isinstance(named, str) else ""
        start = f"{tenant}\0{model}".encode("utf-8", "surrogatepass")
        return UpstreamWork(
            request=request,
            model=model,
            body=body,
            plan=plan,
            chunks=[] if stored is not None else chunk_digests(prompt_text(sent), start=start),
            stored=stored,
            ttl_seconds=math.inf if decision.ttl_seconds is None else decision.ttl_seconds,
            source=self._computed,
            under_way=self.under_way,
        )

    def _plan(self, request: Request, body: bytes) -> Plan | None:
        if self.cache is None:
            return None
        wish = Wish(request.cache_control, request.tags, self.terms.namespace(request))
        shape = shapes.CHAT if request.route == CHAT else shapes.COMPLETIONS
        return self._rules.plan(self.cache, shape, wish, address="", headers={}, body=body)

    async def _computed(self, work: UpstreamWork) -> AsyncGenerator[Part, None]:
        """Yield what an upstream answers, and what that took; and keep it, if it may be."""
        head: Head | None = None
        # Held back until the answer is kept: clients hang up as soon as they have it.
        last = b""
        pieces: list[bytes] = []
        size_bytes = 0
        started = time.perf_counter()
        async with aclosing(self.upstreams.send(work.request.route, work.body, work.chunks)) as parts:
            async for part in parts:
                if isinstance(part, Head):
                    head = part
                else:
                    size_bytes += len(part)
                    if size_bytes <= _LARGEST_KEPT_BYTES:
                        pieces.append(part)
                    if head is not None and is_stream(head) and part.rstrip().endswith(_DONE):
                        last = part
                        await _read_out(parts)
                        break
                yield part
        if head is None or head.status != 200 or size_bytes > _LARGEST_KEPT_BYTES:
            if last:
                yield last
            return
        text = b"".join(pieces).decode("utf-8", "replace")
        chunks = shapes.split_events(text) if is_stream(head) else [text]
        usage = usage_in(chunks, events=is_stream(head))
        cost = cost_of(usage, time.perf_counter() - started, work.model)
        self._keep(work, head, chunks, cost)
        yield Told(cost)
        if last:
            yield last

    def _keep(self, work: UpstreamWork, head: Head, chunks: Sequence[str], cost: Mapping[str, Any]) -> None:
        plan = work.plan
        if plan is None or self.cache is None or not plan.may_store:
            return
        control = plan.wish.control
        if is_stream(head):
            reason = shapes.why_events_not_stored(plan.shape, chunks, control)
        else:
            reason = shapes.why_body_not_stored(plan.shape, chunks[0], control)
        if reason is not None:
            self.not_stored[reason] += 1
            return
        request = work.request
        owners = owner_tags(
            tenant=request.tenant,
            user=request.principal,
            session=request.session,
            version=self.terms.cache_version,
        )
        value = {"type": head.content_type, "chunks": [as_hit(chunk) for chunk in chunks]}
        tags = (*owners, *request.tags)
        self.cache.set(plan.key, value, ttl=work.ttl_seconds, tags=tags, cost=cost)

    def bound_tenants(self, bound_of: Callable[[str], int | None]) -> None:
        """Hold no more stored answers of a tenant than so many bytes."""
        if self.cache is not None:
            self.cache.bound_tenants(bound_of)

    @property
    def is_ready(self) -> bool:
        """Whether any upstream is to be tried."""
        return self.upstreams.alive > 0

    @property
    def shared(self) -> NearStore | None:
        """The servers that `cluster_cache` names; None without any."""
        return None if self.cache is None else self.cache.shared

    async def models(self) -> list[dict[str, Any]]:
        """Return what the upstreams list as their models."""
        return await self.upstreams.models()

    async def close(self) -> None:
        """Close all connections."""
        await self.upstreams.close()


async def _read_out(parts: AsyncGenerator[Head | bytes, None]) -> None:
    """Read what comes behind a stream's last event, so that its connection can be used again."""
    with suppress(TimeoutError, Refusal):
        async with asyncio.timeout(_AFTER_LAST_SECONDS):
            async for _ in parts:
                pass
