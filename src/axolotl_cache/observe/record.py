"""One finished request, as everything here counts it: a few numbers, and no text of its prompt or answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from axolotl_cache.request import Answer, Miss, Request, Served


class Failure(StrEnum):
    """Why a request got no answer."""

    INVALID = "invalid"
    """It could not be served as asked."""
    UNAUTHORIZED = "unauthorized"
    QUOTA = "quota"
    """Its tenant has used up what it may use."""
    OVERLOADED = "overloaded"
    """The queue was full."""
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    """The client went away."""
    UPSTREAM = "upstream"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Call:
    """How a request came in: what a server knows of it beside the request itself."""

    id: str
    """By which the dashboard finds it; the header `X-Request-Id`."""
    arrived_at: float
    """Seconds since the epoch."""
    route: str = ""
    model: str = ""
    """As the request names it."""
    is_stream: bool = False
    queue_seconds: float = 0.0
    """Before it began."""
    traceparent: str | None = None
    """The client's trace, as W3C Trace Context writes it."""
    node: str = ""
    """The machine that served it, where there are several."""
    choice: int = 0
    """Which of several answers of one request, from 0."""


class Record(NamedTuple):
    """A request that is over. A tuple, as a frozen dataclass takes three times as long to make."""

    id: str
    at: float
    """When it came, seconds since the epoch."""
    tenant: str
    session: str
    route: str
    model: str
    node: str
    is_stream: bool
    status: str
    """`ok`, or a `Failure`."""
    detail: str
    """Of a failure, for people."""
    served: str
    """A `Served`; empty unless `ok`."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    age_seconds: float
    queue_seconds: float
    ttft_seconds: float
    """The queue included."""
    total_seconds: float
    """The queue included."""
    saved_tokens: int
    saved_seconds: float
    saved_money: float | None
    currency: str
    finish_reason: str
    key: str
    not_stored: str | None
    response_miss: Miss | None
    prefix_miss: Miss | None
    choice: int = 0
    """Which of several answers of one request, from 0."""

    @property
    def name(self) -> str:
        """The id; with the number of the answer, where it is not the first of its request."""
        return f"{self.id}.{self.choice}" if self.choice else self.id

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token behind the first; None where there is none, or nothing was computed."""
        behind = self.completion_tokens - 1
        if behind < 1 or self.served in _STORED:
            return None
        return max(self.total_seconds - self.ttft_seconds, 0.0) / behind

    @property
    def is_stored_answer(self) -> bool:
        """Whether a stored answer was served."""
        return self.served in _STORED


_STORED = frozenset({Served.HIT_EXACT.value, Served.HIT_SEMANTIC.value, Served.HIT_SESSION.value})


def of_answer(request: Request, answer: Answer, call: Call) -> Record:
    """Return the record of a request that was answered."""
    usage, saved, queue = answer.usage, answer.saved, call.queue_seconds
    return Record(
        call.id,
        call.arrived_at,
        request.tenant,
        request.session,
        call.route or request.route,
        call.model,
        call.node,
        call.is_stream,
        "ok",
        "",
        answer.served.value,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        answer.age_seconds,
        queue,
        queue + answer.ttft_seconds,
        queue + answer.total_seconds,
        saved.tokens,
        saved.seconds,
        None if saved.money is None else float(saved.money),
        saved.currency,
        answer.finish_reason,
        answer.key,
        answer.not_stored,
        answer.response_miss,
        answer.prefix_miss,
        call.choice,
    )


def of_failure(
    failure: Failure, call: Call, request: Request | None, tenant: str, detail: str, now: float
) -> Record:
    """Return the record of a request that got no answer."""
    took = max(now - call.arrived_at, 0.0)
    return Record(
        call.id,
        call.arrived_at,
        tenant or (request.tenant if request else ""),
        request.session if request else "",
        call.route,
        call.model,
        call.node,
        call.is_stream,
        failure.value,
        detail[:500],
        "",
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        age_seconds=0.0,
        queue_seconds=call.queue_seconds,
        ttft_seconds=took,
        total_seconds=took,
        saved_tokens=0,
        saved_seconds=0.0,
        saved_money=None,
        currency="",
        finish_reason="",
        key="",
        not_stored=None,
        response_miss=None,
        prefix_miss=None,
    )
