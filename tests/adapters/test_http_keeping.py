"""What the HTTP transport keeps: by rule, with an account, and of equal streams one, in several processes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from decimal import Decimal

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.config import TtlRule, TtlRules
from axolotl_cache.integrations import keeping
from axolotl_cache.integrations.asked import facts_asked
from axolotl_cache.integrations.http import AsyncCachingTransport, CachingTransport
from axolotl_cache.integrations.usage import usage_in
from axolotl_cache.response.prices import PriceTable

httpx = pytest.importorskip("httpx")

STREAMED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "why?"}]}
KEY = {"authorization": "Bearer sk-one"}
EVENTS = {"content-type": "text/event-stream"}
DONE = [
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


def asked(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


# Rules and prices


def test_rules_say_how_long_an_answer_is_kept(api, cache):
    rules = {"dynamic": "2h", "static": "48h", "rules": [{"pattern": "(?i)recipe", "kind": "static"}]}
    transport = CachingTransport(cache, ttl_rules=rules)
    with httpx.Client(transport=transport, base_url=api.url, headers=KEY) as client:
        for text in ("a recipe for rice", "where is my parcel?", "what is the weather like now?", "why?"):
            for _ in range(2):
                client.post("/v1/chat/completions", json=asked(text))
        client.post("/v1/chat/completions", json=asked("a recipe"), headers={"x-cache-ttl": "7"})
    kept = {entry.kind: entry.expires_at - entry.created_at for entry in map(cache.peek, cache)}
    assert kept["static"] == pytest.approx(48 * 3600)
    assert kept["dynamic"] == pytest.approx(2 * 3600)
    assert kept[""] in (pytest.approx(7), pytest.approx(cache.timeout))
    assert len(cache) == 4  # what is of the moment is not kept
    assert api.count == 6


def test_without_rules_the_timeout_of_the_cache_holds(api, cache):
    with httpx.Client(transport=CachingTransport(cache), base_url=api.url, headers=KEY) as client:
        client.post("/v1/chat/completions", json=asked("what is the weather like now?"))
    (entry,) = map(cache.peek, cache)
    assert entry.expires_at - entry.created_at == pytest.approx(cache.timeout)


def test_rules_are_checked_when_a_transport_is_made(cache):
    with pytest.raises(ValueError, match="dynmic"):
        CachingTransport(cache, ttl_rules={"dynmic": "2h"})
    AsyncCachingTransport(cache, ttl_rules=TtlRules(rules=(TtlRule(tag="a", ttl=5.0),)))


def test_what_rules_look_at_in_each_api():
    tools = [{"type": "function", "function": {"name": "one"}}, {"name": "two"}, {"type": "web_search"}]
    facts = facts_asked(asked("why?", tools=tools), ("a",), "/v1/x")
    assert (facts.text, facts.tags, facts.route, facts.tools) == (
        "why?",
        ("a",),
        "/v1/x",
        ("one", "two", "web_search"),
    )
    parts = [{"type": "text", "text": "wh"}, {"type": "text", "text": "y?"}]
    for body in (
        asked(parts),
        {"input": "why?"},
        {"input": [{"role": "user", "content": parts}]},
        {"prompt": "why?"},
        {"prompt": ["why?"]},
    ):
        assert facts_asked(body, (), "").text == "why?"
    for body in (
        {},
        {"messages": 7},
        {"messages": [{"role": "user", "content": 7}]},
        {"tools": [7, {"function": 7}]},
    ):
        assert facts_asked(body, (), "") == facts_asked({}, (), "")


@pytest.mark.parametrize("streams", [False, True])
def test_hits_say_what_they_saved(api, streams):
    prices = PriceTable.from_mapping({"m": {"input_per_million": "2", "output_per_million": "10"}})
    with (
        SmartInferenceCache(prices=prices) as cache,
        httpx.Client(transport=CachingTransport(cache), base_url=api.url, headers=KEY) as client,
    ):
        path, body = ("/v1/chat/completions", asked("why?"))
        if streams:
            path, body = "/v1/responses", {"model": "m", "input": "why?", "stream": True}
        for _ in range(3):
            client.post(path, json=body)
        saved = cache.stats().saved
    assert api.count == 1
    usage = {"input": 5, "output": 7}  # as the server says
    assert saved.tokens == 2 * sum(usage.values())
    assert saved.money == 2 * (5 * Decimal(2) + 7 * Decimal(10)) / 1_000_000
    assert saved.seconds > 0


def test_usage_as_each_api_writes_it():
    def event(value):
        return f"data: {json.dumps(value)}\n\n"

    whole = json.dumps({"model": "m", "usage": {"prompt_tokens": 5}, "choices": []})
    assert usage_in([whole]) == ({"prompt_tokens": 5}, "m")
    chat = [event({"model": "m", "choices": [], "usage": None}), event({"model": "m", "usage": {"a": 1}})]
    assert usage_in([*chat, "data: [DONE]\n\n"]) == ({"a": 1}, "m")
    message = [
        event(
            {
                "type": "message_start",
                "message": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}},
            }
        ),
        event({"type": "message_delta", "usage": {"output_tokens": 7, "input_tokens": None}}),
    ]
    assert usage_in(message) == ({"input_tokens": 5, "output_tokens": 7}, "m")
    assert usage_in(['{"usage": [', '"usage"', '{"usage": 7}']) == ({}, "")


# A stream that the collector of cycles ends


class Inner(httpx.BaseTransport):
    def handle_request(self, request):
        class Body(httpx.SyncByteStream):
            def __iter__(self):
                yield from DONE

        return httpx.Response(200, headers=EVENTS, stream=Body())


def abandon(client):
    """Read a stream to the event that ends it, and leave it to the collector, in a cycle."""
    response = client.send(
        client.build_request("POST", "http://a/v1/chat/completions", json=STREAMED), stream=True
    )
    pieces = response.iter_raw()
    for _ in DONE:
        next(pieces)
    cycle = [response, pieces]
    cycle.append(cycle)


def collect_in_the_midst_of_a_change(cache, client):
    """Return whether a thread whose change is interrupted by the collector, with the locks held, ends."""
    cache.set("other", 1)
    cache.watch(lambda keys, on_purpose: gc.collect())

    def change():
        abandon(client)
        cache.invalidate(key="other")

    thread = threading.Thread(target=change, daemon=True)
    gc.disable()
    try:
        thread.start()
        thread.join(2)
    finally:
        gc.enable()
    return not thread.is_alive()


def test_a_stream_that_the_collector_ends_is_stored_by_the_next_request(cache):
    client = httpx.Client(transport=CachingTransport(cache, Inner()))
    assert collect_in_the_midst_of_a_change(cache, client)
    assert len(cache) == 0
    again = client.post("http://a/v1/chat/completions", json=STREAMED)
    assert (again.headers["x-cache"], again.content) == ("hit-exact", b"".join(DONE))


def test_control_stored_at_once_it_would_wait_for_itself(cache, monkeypatch):
    monkeypatch.setattr(keeping, "is_collecting", lambda: False)
    child = os.fork()  # its locks stay held
    if not child:
        client = httpx.Client(transport=CachingTransport(cache, Inner()))
        os._exit(0 if collect_in_the_midst_of_a_change(cache, client) else 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_closing_stores_what_was_put_off(cache):
    transport = CachingTransport(cache, Inner())
    client = httpx.Client(transport=transport)
    assert collect_in_the_midst_of_a_change(cache, client)
    transport.close()
    assert len(cache) == 1


# Between processes

CHILD = """
import sys
import httpx
from contextlib import nullcontext
from axolotl_cache import SmartInferenceCache
from axolotl_cache.integrations.http import CachingTransport
url, folder, alone = sys.argv[1:]
if alone == "no":
    SmartInferenceCache.alone = lambda *_: nullcontext()
body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "why?"}]}
with httpx.Client(transport=CachingTransport(SmartInferenceCache(persistence_path=folder))) as client:
    print("ready", flush=True)
    sys.stdin.readline()
    answer = client.post(url + "/v1/chat/completions", json=body)
    print(answer.headers["x-cache"], len(answer.content))
"""


def at_once(api, folder, alone):
    command = [sys.executable, "-c", CHILD, api.url, str(folder), alone]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    api.delay_seconds = 0.5
    said = []
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        said.append(child.communicate(timeout=60)[0].split())
        assert child.returncode == 0
    return said


def test_processes_that_ask_for_one_stream_at_once_have_it_sent_once(api, tmp_path):
    said = at_once(api, tmp_path, "yes")
    assert api.count == 1
    assert sorted(cache for cache, _ in said) == ["hit-exact", "hit-exact", "miss"]
    assert len({size for _, size in said}) == 1


@pytest.mark.slow
def test_control_each_process_by_itself_sends_its_own(api, tmp_path):
    at_once(api, tmp_path, "no")
    assert api.count == 3


def test_a_stream_that_nobody_reads_on_is_not_waited_for_without_end(api, tmp_path, monkeypatch):
    monkeypatch.setattr("axolotl_cache.response.flight.STREAM_WAIT_SECONDS", 0.1)
    with (
        SmartInferenceCache(persistence_path=tmp_path) as one,
        SmartInferenceCache(persistence_path=tmp_path) as two,
    ):
        slow, quick = (
            httpx.Client(transport=CachingTransport(cache), base_url=api.url, headers=KEY)
            for cache in (one, two)
        )
        path = "/v1/chat/completions"
        response = slow.send(slow.build_request("POST", path, json=STREAMED), stream=True)
        assert quick.post(path, json=STREAMED).headers["x-cache"] == "miss"
        response.close()
        slow.close()
        quick.close()
    assert api.count == 2


def test_in_memory_there_is_nobody_to_wait_for():
    with SmartInferenceCache() as cache:
        assert isinstance(cache.alone("key"), nullcontext)
