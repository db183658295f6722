"""A span for each request, by OpenTelemetry's conventions for generative AI. Off unless it is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from axolotl_cache.errors import AxolotlCacheError
from axolotl_cache.observe.record import Call, Record
from axolotl_cache.request import Request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_NANOSECONDS: Final = 1_000_000_000


class Traces:
    """Makes spans of finished requests, each a child of the client's own where the client sent one.

    A span has the numbers of a request and its model, tier and sampling; never a prompt or an answer. It is
    made when the request is over, with the times it had, and sent by a thread of its own.

    Args:
        exporter: where spans go.
        service: name of this service.
    """

    def __init__(self, exporter: SpanExporter, service: str = "axolotl-cache") -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        import axolotl_cache

        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("axolotl_cache", axolotl_cache.__version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER

    def finished(self, record: Record, request: Request | None, call: Call) -> None:
        """Make the span of a request. Cost: 40 us."""
        from opentelemetry.trace import Status, StatusCode

        carrier = {"traceparent": call.traceparent} if call.traceparent else {}
        operation = "chat" if request is not None and request.messages else "text_completion"
        span = self._tracer.start_span(
            f"{operation} {record.model}".strip(),
            context=self._propagator.extract(carrier),
            kind=self._kind,
            start_time=int(record.at * _NANOSECONDS),
            attributes=_attributes(record, request, operation),
        )
        if record.status == "ok" and record.ttft_seconds:
            first = int((record.at + record.ttft_seconds) * _NANOSECONDS)
            span.add_event("axolotl_cache.first_token", timestamp=first)
        if record.status != "ok":
            span.set_status(Status(StatusCode.ERROR, record.detail))
        span.end(end_time=int((record.at + record.total_seconds) * _NANOSECONDS))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _attributes(record: Record, request: Request | None, operation: str) -> dict[str, Any]:
    """Return a span's attributes.

    Source: open-telemetry/semantic-conventions-genai, gen-ai spans (status: development).
    """
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "axolotl_cache",
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.response.id": record.id,
        "gen_ai.conversation.id": record.session or None,
        "http.route": record.route or None,
        "axolotl_cache.tenant": record.tenant or None,
        "axolotl_cache.node": record.node or None,
        "axolotl_cache.queue_seconds": record.queue_seconds,
    }
    if request is not None:
        sampling = request.sampling
        found |= {
            "gen_ai.request.max_tokens": sampling.max_new_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k or None,
            "gen_ai.request.seed": sampling.seed,
        }
    if record.status != "ok":
        return {
            name: value
            for name, value in (found | {"error.type": record.status}).items()
            if value is not None
        }
    found |= {
        "gen_ai.response.finish_reasons": [record.finish_reason],
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "axolotl_cache.served": record.served,
        "axolotl_cache.age_seconds": record.age_seconds,
        "axolotl_cache.ttft_seconds": record.ttft_seconds,
        "axolotl_cache.saved_tokens": record.saved_tokens,
        "axolotl_cache.saved_seconds": record.saved_seconds,
    }
    return {name: value for name, value in found.items() if value is not None}


def open_traces(endpoint: str, service: str = "axolotl-cache") -> Traces:
    """Return traces that go to a collector, by OTLP over HTTP.

    Args:
        endpoint: the collector's URL, as `http://localhost:4318/v1/traces`. Headers, time limits and
            certificates: OpenTelemetry's own environment variables, as `OTEL_EXPORTER_OTLP_HEADERS`.
        service: name of this service.

    Raises:
        AxolotlCacheError: the extra `otel` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise AxolotlCacheError("traces need OpenTelemetry: pip install 'axolotl-cache[otel]'") from error
    return Traces(OTLPSpanExporter(endpoint=endpoint), service)
