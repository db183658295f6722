"""From what became of an HTTP request to what is counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from axolotl_cache.observe import Call, Failure, Observer
from axolotl_cache.server.backend import Work
from axolotl_cache.server.exchange import Exchange
from axolotl_cache.server.refusal import CLIENT_LEFT, Refusal

TRACE_HEADER: Final = "traceparent"

_BY_CODE: Final = {
    "rate_limit_exceeded": Failure.QUOTA,
    "overloaded": Failure.OVERLOADED,
    "deadline_exceeded": Failure.DEADLINE,
    "not_cached": Failure.INVALID,
    "no_upstream": Failure.UPSTREAM,
    "broken_off": Failure.UPSTREAM,
}
_BY_STATUS: Final = {
    401: Failure.UNAUTHORIZED,
    403: Failure.UNAUTHORIZED,
    421: Failure.UNAUTHORIZED,
    CLIENT_LEFT: Failure.CANCELLED,
}


@dataclass(slots=True)
class Told:
    """What is known of a request by now."""

    tenant: str = ""
    work: Work | None = None
    queue_seconds: float = 0.0


def report(observer: Observer, exchange: Exchange, told: Told, refusal: Refusal | None) -> None:
    """Tell the observer of a request that is over: once for each answer, or once of its failure."""
    work = told.work
    call = Call(
        id=exchange.id,
        arrived_at=exchange.arrived_at,
        route=exchange.path,
        model=work.model if work else "",
        is_stream=bool(work and work.streams),
        queue_seconds=told.queue_seconds,
        traceparent=exchange.headers.get(TRACE_HEADER),
        node=work.upstream if work else "",
    )
    if refusal is None and exchange.status == 200 and work is not None:
        for choice, (request, answer) in enumerate(work.accounts):
            observer.finished(request, answer, replace(call, choice=choice) if choice else call)
        return
    asked = work.asked_for if work else None
    detail = refusal.message if refusal else ""
    observer.failed(
        _failure(exchange.status, refusal), call, request=asked, tenant=told.tenant, detail=detail
    )


def _failure(status: int, refusal: Refusal | None) -> Failure:
    if refusal is None:  # an upstream's own, passed on
        return _BY_STATUS.get(status, Failure.UPSTREAM if status >= 500 else Failure.INVALID)
    known = _BY_CODE.get(refusal.code or "") or _BY_STATUS.get(refusal.status)
    return known or (Failure.ERROR if refusal.status >= 500 else Failure.INVALID)
