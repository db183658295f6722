"""Spans: by the conventions, with the times that requests had, and no text."""

import subprocess
import sys

import pytest

from axolotl_cache.clock import ManualClock
from axolotl_cache.observe import Call, Failure, Observer
from axolotl_cache.observe.traces import Traces
from axolotl_cache.request import Answer, Message, Request, Sampling, Saved, Served, Usage

pytest.importorskip("opentelemetry.sdk")

START = 1_700_000_000.0
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(use):
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    observer = Observer(traces=Traces(exporter), clock=ManualClock(START + 4))
    use(observer)
    observer.close()
    return exporter.get_finished_spans()


def test_a_span_has_the_numbers_of_its_request_and_the_clients_trace():
    request = Request(
        messages=(Message("user", "secret words"),),
        session="s1",
        tenant="t",
        sampling=Sampling(temperature=0.5, seed=3),
    )
    answer = Answer(
        "the answer", "stop", Served.HIT_PREFIX, Usage(100, 64, 10), 0.5, 2.0, saved=Saved(64, 0.3)
    )
    call = Call("r1", START, "/v1/chat/completions", "m", queue_seconds=0.25, traceparent=PARENT)
    (span,) = spans_of(lambda observer: observer.finished(request, answer, call))
    assert span.name == "chat m"
    assert (span.start_time, span.end_time) == (START * 1e9, (START + 2.25) * 1e9)
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    found = dict(span.attributes)
    assert found["gen_ai.usage.input_tokens"] == 100
    assert found["gen_ai.usage.cache_read.input_tokens"] == 64
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["gen_ai.request.seed"] == 3
    assert found["axolotl_cache.served"] == "hit-prefix"
    assert span.events[0].timestamp == int((START + 0.75) * 1e9)
    everything = str(span.to_json())
    assert "secret words" not in everything
    assert "the answer" not in everything


def test_a_failure_is_an_error():
    (span,) = spans_of(lambda o: o.failed(Failure.OVERLOADED, Call("r", START, model="m"), detail="full"))
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "overloaded"


def test_a_traceparent_that_means_nothing_is_no_parent():
    (span,) = spans_of(lambda o: o.failed(Failure.ERROR, Call("r", START, traceparent="rubbish")))
    assert span.parent is None


def test_nothing_of_it_is_loaded_unless_it_is_asked_for():
    program = (
        "import sys; from axolotl_cache.observe import Observer; Observer(); "
        "print({'torch', 'starlette', 'prometheus_client', 'opentelemetry', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
