"""Answers from our own engine, through the pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from axolotl_cache.pipeline import Pipeline
from axolotl_cache.request import Answer, Delta, Request
from axolotl_cache.server.asked import Asked, Rules, read
from axolotl_cache.server.computing import Computing
from axolotl_cache.server.exchange import Exchange
from axolotl_cache.server.replies import Replies, source_headers
from axolotl_cache.streams.stop import Stop

if TYPE_CHECKING:
    from axolotl_cache.stores.redis.near import NearStore

Begun = Answer | Generator[Delta | Answer, None, None]


@dataclass(slots=True)
class EngineWork:
    """One HTTP request on its way through the pipeline.

    Attributes:
        asked: what it asks for.
        answers: what came of it, in the order of the choices; None where nothing came yet.
    """

    asked: Asked
    backend: EngineBackend
    begun: Sequence[Begun]
    stops: Sequence[Stop]
    answers: list[Answer | None] = field(default_factory=list)

    @property
    def places(self) -> int:
        """Choices that must be computed."""
        return sum(not isinstance(part, Answer) for part in self.begun)

    @property
    def model(self) -> str:
        """As the request names it."""
        return self.asked.model

    @property
    def streams(self) -> bool:
        """Whether it asks for events."""
        return self.asked.streams

    @property
    def upstream(self) -> str:
        """None: the engine is ours."""
        return ""

    @property
    def asked_for(self) -> Request:
        """The request of the first choice."""
        return self.asked.requests[0]

    @property
    def accounts(self) -> list[tuple[Request, Answer]]:
        """The answers that there are, each with its request."""
        pairs = zip(self.asked.requests, self.answers, strict=True)
        return [(request, answer) for request, answer in pairs if answer is not None]

    async def hand_out(self, exchange: Exchange) -> None:
        """Send answers that are all stored."""
        answers = [part for part in self.begun if isinstance(part, Answer)]
        self.answers[:] = answers
        replies = self._replies(exchange)
        if self.asked.streams:
            await exchange.begin_events(source_headers(answers))
            events = b"".join(replies.replay(index, answer) for index, answer in enumerate(answers))
            await exchange.end_events(events + replies.last(answers))
        else:
            await exchange.reply(200, replies.body(answers), source_headers(answers))

    async def compute(self, exchange: Exchange) -> None:
        """Compute what is not stored, and send it: as it comes, if that is asked for."""
        if self.asked.streams:
            await self._stream(exchange)
            return
        async with asyncio.TaskGroup() as group:
            for index in range(len(self.begun)):
                group.create_task(self._whole(index))
        answers = [answer for answer in self.answers if answer is not None]
        reason = answers[0].response_miss
        headers = source_headers(answers)
        if reason is not None:
            headers.append((b"x-cache-reason", reason.reason.encode("latin-1", "replace")))
        await exchange.reply(200, self._replies(exchange).body(answers), headers)

    async def _whole(self, index: int) -> None:
        begun = self.begun[index]
        if isinstance(begun, Answer):
            self.answers[index] = begun
            return
        async with aclosing(self.backend.computing.read(begun, self.stops[index], pieces=False)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    self.answers[index] = part

    async def _stream(self, exchange: Exchange) -> None:
        replies = self._replies(exchange)
        pieces: asyncio.Queue[tuple[int, Delta | Answer] | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(self._follow(i, pieces)) for i in range(len(self.begun))]
            group.create_task(_tell_end(readers, pieces))
            while (came := await pieces.get()) is not None:
                # What came meanwhile goes in one piece: fewer system calls, and the same events.
                events = bytearray()
                while came is not None:
                    index, part = came
                    if not exchange.status:
                        await exchange.begin_events(
                            source_headers([part])
                            if isinstance(part, Answer)
                            else [(b"x-cache", part.served.encode())]
                        )
                        events += b"".join(replies.begin(i) for i in range(len(self.begun)))
                    if isinstance(part, Answer):
                        self.answers[index] = part
                        events += replies.end(index, part)
                    elif part.text or part.logprobs:
                        events += replies.piece(index, part.text, part.logprobs)
                    if pieces.empty():
                        break
                    came = pieces.get_nowait()
                if events:
                    await exchange.send_events(bytes(events))
                if came is None:
                    break
        await exchange.end_events(replies.last([a for a in self.answers if a is not None]))

    async def _follow(self, index: int, pieces: asyncio.Queue[tuple[int, Delta | Answer] | None]) -> None:
        begun = self.begun[index]
        if isinstance(begun, Answer):
            pieces.put_nowait((index, Delta(begun.text, begun.logprobs, begun.served)))
            pieces.put_nowait((index, begun))
            return
        async with aclosing(self.backend.computing.read(begun, self.stops[index], pieces=True)) as parts:
            async for part in parts:
                pieces.put_nowait((index, part))

    def _replies(self, exchange: Exchange) -> Replies:
        return Replies(self.asked, exchange.id, exchange.arrived_at, self.backend.fingerprint)


async def _tell_end(
    readers: Sequence[asyncio.Task[None]], pieces: asyncio.Queue[tuple[int, Delta | Answer] | None]
) -> None:
    await asyncio.wait(readers)
    pieces.put_nowait(None)


class EngineBackend:
    """The pipeline, its engine in a thread of its own.

    Args:
        pipeline: closed by whoever opened it.
        rules: how bodies are read.
        most_running: choices that are computed at once.
    """

    def __init__(self, pipeline: Pipeline, rules: Rules, *, most_running: int) -> None:
        self.pipeline = pipeline
        self.rules = rules
        self.computing = Computing(most_running)
        self._started = int(time.time())
        self.fingerprint = f"fp_{pipeline.namespace.digest[:12]}"

    def begin(self, route: str, body: bytes, headers: dict[str, str], tenant: str) -> EngineWork:
        """Return what a request comes to: stored answers, and what computes the others.

        Raises:
            Refusal, RequestError: it can't be served as asked.
        """
        asked = read(route, body, headers, tenant, self.rules)
        # Greedy choices are equal: whoever computes one has computed all.
        stops = [Stop() for _ in asked.requests]
        begun: list[Begun] = list(map(self.pipeline.begin, asked.requests, stops))
        return EngineWork(asked, self, begun, stops, [None] * len(begun))

    def bound_tenants(self, bound_of: Callable[[str], int | None]) -> None:
        """Hold no more for a tenant than so many bytes: stored answers first, and in what they leave, KV."""
        response, prefixes = self.pipeline.response, self.pipeline.engine.prefix_tenants
        if response is not None:
            response.bound_tenants(bound_of)

        def left(tenant: str) -> int | None:
            bound = bound_of(tenant)
            if bound is None or response is None:
                return bound
            return max(bound - response.tenant_bytes(tenant), 0)

        if prefixes is not None:
            prefixes.bound_of = left

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here."""
        return True

    @property
    def shared(self) -> NearStore | None:
        """The servers that `cluster_cache` names; None without any."""
        cache = self.pipeline.response
        return None if cache is None else cache.shared

    async def models(self) -> list[dict[str, Any]]:
        """Return what requests may name as their model, as OpenAI lists it."""
        names = (self.rules.model, *self.rules.adapters)
        head = {"object": "model", "created": self._started, "owned_by": "axolotl-cache"}
        return [{"id": name} | head for name in names]

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.to_thread(self.computing.close)
