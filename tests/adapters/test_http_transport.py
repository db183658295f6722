"""The caching transport over real sockets, httpx and httpx2, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from types import SimpleNamespace

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.integrations.http import AsyncCachingTransport, CachingTransport
from axolotl_cache.integrations.keeping import NOT_TEXT
from axolotl_cache.request import CacheControl
from axolotl_cache.response import storable


@pytest.fixture(params=["httpx", "httpx2"])
def family(request):
    return pytest.importorskip(request.param)


@pytest.fixture(params=["sync", "async"])
def ask(request, family, api, cache):
    """A function that posts, as one kind of client does it, and returns what came."""
    transports = []

    def post(
        body=None,
        headers=None,
        *,
        path="/v1/chat/completions",
        key="sk-one",
        leave_after_pieces=None,
        use=None,
        **options,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "why?"}]} | (body or {})
        sent = ({"authorization": f"Bearer {key}"} if key else {}) | (headers or {})
        if request.param == "sync":
            inner = family.HTTPTransport(verify=False)  # certificates take longer to load than all the rest
            transport = CachingTransport(cache if use is None else use, inner, **options)
            result = _post(family.Client(transport=transport), api.url + path, body, sent, leave_after_pieces)
        else:
            inner = family.AsyncHTTPTransport(verify=False)
            transport = AsyncCachingTransport(cache if use is None else use, inner, **options)
            client = family.AsyncClient(transport=transport)
            result = asyncio.run(_apost(client, api.url + path, body, sent, leave_after_pieces))
        transports.append(transport)
        post.not_stored = transport.not_stored
        return result

    return post


def _post(client, url, body, headers, leave_after_pieces):
    with client, client.stream("POST", url, json=body, headers=headers) as response:
        pieces = []
        for piece in response.iter_raw():
            pieces.append(piece)
            if len(pieces) == leave_after_pieces:
                break
        return came(response, pieces)


async def _apost(client, url, body, headers, leave_after_pieces):
    async with client, client.stream("POST", url, json=body, headers=headers) as response:
        pieces = []
        async for piece in response.aiter_raw():
            pieces.append(piece)
            if len(pieces) == leave_after_pieces:
                break
        return came(response, pieces)


def came(response, pieces):
    body = b"".join(pieces).decode(errors="replace")
    choices = json.loads(body).get("choices") if body.startswith("{") else None
    text = choices[0].get("message", {}).get("content") if choices else None
    return SimpleNamespace(
        status=response.status_code,
        headers=dict(response.headers),
        cache=response.headers.get("x-cache"),
        pieces=pieces,
        body=body,
        text=text,
    )


def test_the_second_time_it_is_not_sent(ask, api):
    first, second = ask(), ask()
    assert (first.cache, second.cache) == ("miss", "hit-exact")
    assert first.body == second.body
    assert first.text == "why? / for sk-one / number 1"
    assert api.count == 1
    assert "age" not in first.headers
    assert second.headers["age"] == "0"


def test_a_hit_has_no_header_of_another_request(ask):
    first, second = ask(), ask()
    assert first.headers["x-request-id"] == "req-1"
    assert "set-cookie" in first.headers
    assert set(second.headers) == {"content-type", "content-length", "x-cache", "age"}


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "why not?"}]},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]},
        {"model": "another"},
        {"temperature": 0.5},
        {"seed": 1},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"some_new_field": 1},
        {"stream": True},
    ],
)
def test_what_asks_for_something_else_is_computed(ask, other, api):
    ask()
    assert ask(other).cache == "miss"
    assert api.count == 2


def test_the_address_and_the_api_s_version_are_in_the_key(ask, api):
    ask()
    assert ask(path="/v2/chat/completions").cache == "miss"
    assert ask(path="/v1/chat/completions?api-version=2").cache == "miss"
    assert ask(headers={"openai-beta": "x"}).cache == "miss"
    assert ask(headers={"openai-organization": "x"}).cache == "miss"
    assert ask(headers={"x-mine": "x"}).cache == "hit-exact"
    assert ask(headers={"x-mine": "x"}, vary=["X-Mine"]).cache == "miss"
    assert ask(headers={"idempotency-key": "another"}).cache == "hit-exact"
    assert api.count == 6


def test_two_api_keys_share_nothing(ask, api):
    assert ask(key="sk-one").text == "why? / for sk-one / number 1"
    assert ask(key="sk-two").text == "why? / for sk-two / number 2"
    assert ask(key="sk-one").cache == ask(key="sk-two").cache == "hit-exact"
    assert api.count == 2


def test_cookies_tell_apart_those_who_have_no_key(ask):
    ask(headers={"cookie": "a=1"})
    assert ask(headers={"cookie": "a=2"}).cache == "hit-exact"
    ask(key=None, headers={"cookie": "a=1"})
    assert ask(key=None, headers={"cookie": "a=1"}).cache == "hit-exact"
    assert ask(key=None, headers={"cookie": "a=2"}).cache == "miss"


def test_control_sharing_between_keys_would_be_seen(ask):
    ask(key="sk-one", share_between_keys=True)
    assert ask(key="sk-two", share_between_keys=True).text == "why? / for sk-one / number 1"


def test_another_secret_is_another_key(ask):
    ask(secret=b"one")
    assert ask(secret=b"one").cache == "hit-exact"
    assert ask(secret=b"two").cache == "miss"


def test_nothing_secret_reaches_the_disk(ask, api, tmp_path):
    with SmartInferenceCache(persistence_path=tmp_path / "kept") as cache:
        ask(key="sk-canary", headers={"cookie": "cookie-canary"}, use=cache)
        api.text = "an answer-canary"
        ask({"seed": 2}, key="sk-canary", use=cache)
    files = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert b"answer-canary" in files  # what is looked for would be found
    # The first answer names its key, as no real one does; a header must not.
    assert files.count(b"sk-canary") == files.count(b"for sk-canary")
    assert b"cookie-canary" not in files
    assert b"session=secret" not in files


def test_a_stream_is_replayed_event_by_event(ask, api):
    first, second = ask({"stream": True}), ask({"stream": True})
    assert (first.cache, second.cache) == ("miss", "hit-exact")
    assert second.body == first.body
    assert second.body.endswith("data: [DONE]\n\n")
    assert len(second.pieces) == first.body.count("data: ") > 5
    assert second.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert api.count == 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_other_apis_streams_are_replayed_too(ask, path, api):
    first, second = ask({"stream": True}, path=path), ask({"stream": True}, path=path)
    assert (first.cache, second.cache) == ("miss", "hit-exact")
    assert second.body == first.body
    assert api.count == 1


def test_a_stream_that_its_reader_left_is_not_stored(ask, api):
    ask({"stream": True}, leave_after_pieces=2)
    assert ask.not_stored == {storable.ABORTED: 1}
    assert ask({"stream": True}).cache == "miss"


def test_a_stream_that_was_left_behind_its_last_event_is_stored(ask):
    pieces = len(ask({"stream": True, "seed": 1}).pieces)
    ask({"stream": True}, leave_after_pieces=pieces)
    assert ask({"stream": True}).cache == "hit-exact"


def test_a_stream_without_its_end_is_not_stored(ask, api):
    api.says_done = False
    ask({"stream": True})
    assert ask.not_stored == {storable.ABORTED: 1}
    assert ask({"stream": True}).cache == "miss"


def test_a_stream_that_breaks_off_is_not_stored(ask, api, family):
    api.pieces_before_hanging_up = 3
    with pytest.raises(family.TransportError):
        ask({"stream": True})
    api.pieces_before_hanging_up = None
    assert ask({"stream": True}).cache == "miss"


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"finish_reason": "length"}, storable.TRUNCATED),
        ({"finish_reason": "content_filter"}, storable.FILTERED),
        ({"extra": {"refusal": "No."}}, storable.REFUSED),
        ({"text": "I'm sorry, but I can't help with that."}, storable.READS_AS_REFUSAL),
    ],
)
def test_what_must_not_be_stored_is_not(ask, api, setting, reason, streams):
    vars(api).update(setting)
    ask({"stream": streams})
    assert ask.not_stored == {reason: 1}
    assert ask({"stream": streams}).cache == "miss"
    assert api.count == 2


def test_an_empty_answer_is_not_stored_and_a_call_of_a_tool_is(ask, api):
    api.text = ""
    ask()
    assert ask.not_stored == {storable.EMPTY: 1}
    api.extra = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    assert ask().cache == "miss"
    assert ask().cache == "hit-exact"


def test_cut_off_answers_are_stored_if_they_are_asked_for(ask, api):
    api.finish_reason = "length"
    control = CacheControl(sampled=True, truncated=True)
    ask(control=control)
    assert ask(control=control).cache == "hit-exact"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
@pytest.mark.parametrize("streams", [False, True])
def test_errors_are_never_stored(ask, api, status, streams):
    api.status = status
    failed = ask({"stream": streams})
    assert failed.status == status
    assert "the server is tired" in failed.body
    api.status = 200
    assert ask({"stream": streams}).status == 200
    assert api.count == 2


@pytest.mark.parametrize("status", [203, 502])
@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_under_another_status_is_not_stored(ask, api, status, streams):
    api.status_of_answers = status
    assert ask({"stream": streams}).status == status
    api.status_of_answers = 200
    assert ask({"stream": streams}).cache == "miss"


def test_compressed_answers_are_not_asked_for_and_not_stored(ask, api):
    ask(headers={"accept-encoding": "gzip"})
    (name,) = [name for name in api.seen[0][1] if name.lower() == "accept-encoding"]
    assert api.seen[0][1][name] == "identity"
    api.compresses = True
    compressed = ask({"seed": 1}).pieces
    assert json.loads(gzip.decompress(b"".join(compressed)))["choices"]
    assert ask.not_stored == {NOT_TEXT: 1}
    assert ask({"seed": 1}).cache == "miss"


def test_a_request_says_what_it_wants_of_the_cache(ask, api):
    ask(headers={"cache-control": "no-store"})
    assert ask().cache == "miss"
    assert ask(headers={"cache-control": "no-store"}).text.endswith("number 2")
    assert ask(headers={"cache-control": "no-cache"}).text.endswith("number 3")
    assert ask().text.endswith("number 3")
    assert ask(headers={"cache-control": "max-age=60"}).text.endswith("number 3")
    assert ask({"seed": 9}, headers={"x-cache-ttl": "0"}).cache == "miss"
    assert ask({"seed": 9}).cache == "miss"
    only = ask({"seed": 10}, headers={"cache-control": "only-if-cached"})
    assert (only.status, only.headers["x-should-retry"]) == (504, "false")
    assert ask(headers={"cache-control": "only-if-cached"}).text.endswith("number 3")
    assert api.count == 5


def test_max_age_and_ttl_count_in_seconds(ask, api):
    now = [1000.0]
    with SmartInferenceCache(clock=lambda: now[0]) as cache:
        ask(use=cache, headers={"x-cache-ttl": "100"})
        now[0] += 50
        hit = ask(use=cache)
        assert (hit.cache, hit.headers["age"]) == ("hit-exact", "50")
        assert ask(use=cache, headers={"cache-control": "max-age=49"}).text.endswith("number 2")
        now[0] += 99
        assert ask(use=cache).text.endswith("number 2")  # with the cache's own timeout since then
        ask({"seed": 1}, use=cache, headers={"x-cache-ttl": "100"})
        now[0] += 100
        assert ask({"seed": 1}, use=cache).cache == "miss"


def test_tags_and_namespaces(ask, api, cache):
    ask(headers={"x-cache-tags": "prices, spring", "x-cache-namespace": "a"}, tags=["all"])
    assert ask(headers={"x-cache-namespace": "b"}).cache == "miss"
    assert ask().cache == "miss"
    assert ask(headers={"x-cache-namespace": "a"}).cache == "hit-exact"
    assert ask(
        headers={"x-cache-namespace": "a"}, control=CacheControl(namespace="mine", sampled=True)
    ).cache == ("miss")
    assert cache.invalidate(tag="spring") == 1
    assert ask(headers={"x-cache-namespace": "a"}).cache == "miss"
    sent = {name.lower() for _, headers, _ in api.seen for name in headers}
    assert not {name for name in sent if name.startswith("x-cache")}


@pytest.mark.parametrize(
    "headers", [{"x-cache-ttl": "soon"}, {"x-cache-ttl": "-1"}, {"x-cache-tags": "user:ada"}]
)
def test_a_wish_that_can_t_be_understood_is_refused_and_not_sent(ask, api, headers):
    refused = ask(headers=headers)
    assert refused.status == 400
    name = next(iter(headers))
    assert name in refused.body.lower()
    assert api.count == 0


def test_without_sampled_only_what_is_repeatable_is_cached(ask):
    control = CacheControl()
    for body, again in [({}, "miss"), ({"temperature": 0}, "hit-exact"), ({"seed": 3}, "hit-exact")]:
        ask(body, control=control)
        assert ask(body, control=control).cache == again


def test_what_changes_or_asks_the_server_s_memory_passes_through(ask, api):
    for path in ("/v1/threads/t/messages", "/v1/files"):
        assert ask(path=path).cache is None
        assert ask(path=path).cache is None
    for body in ({"conversation": "c"}, {"background": True}):
        ask(body, path="/v1/responses")
        assert ask(body, path="/v1/responses").cache == "miss"
    assert api.count == 8


def test_embeddings_are_cached(ask, api):
    asked = {"path": "/v1/embeddings", "control": CacheControl()}
    assert ask({"input": ["a", "b"]}, **asked).body == ask({"input": ["a", "b"]}, **asked).body
    assert api.count == 1


def test_a_body_that_is_no_request_is_the_server_s_to_judge(ask, api):
    assert ask({"messages": [{"role": "user", "content": "x"}], "temperature": 10**400}).cache in ("miss",)


def test_leave_out(ask):
    ask({"seed": 1}, leave_out=["seed"])
    assert ask({"seed": 2}, leave_out=["seed"]).cache == "hit-exact"


def test_arguments_are_checked_at_once(cache):
    with pytest.raises(ValueError, match="messages"):
        CachingTransport(cache, leave_out=["messages"])
    with pytest.raises(TypeError, match="several"):
        CachingTransport(cache, vary="x-mine")
    with pytest.raises(TypeError, match="several"):
        CachingTransport(cache, leave_out="seed")
    with pytest.raises(ValueError, match="owner_tags"):
        CachingTransport(cache, tags=["tenant:a"])
    with pytest.raises(ValueError, match="64 bytes"):
        CachingTransport(cache, secret=b"x" * 65)


BODY = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}


def in_threads(count, work):
    results = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_equal_requests_at_once_are_sent_once(family, api, cache):
    api.delay_seconds = 0.2
    with family.Client(transport=CachingTransport(cache)) as client:
        bodies = in_threads(8, lambda: client.post(api.url + "/v1/chat/completions", json=BODY).text)
    assert len(set(bodies)) == 1
    assert len(bodies) == 8
    assert api.count == 1


def test_equal_requests_at_once_in_tasks_are_sent_once(family, api, cache):
    api.delay_seconds = 0.2

    async def run():
        async with family.AsyncClient(transport=AsyncCachingTransport(cache)) as client:
            posts = (client.post(api.url + "/v1/chat/completions", json=BODY) for _ in range(8))
            return {response.text for response in await asyncio.gather(*posts)}

    assert len(asyncio.run(run())) == 1
    assert api.count == 1


def test_those_who_wait_for_what_can_t_be_shared_ask_for_themselves_at_the_same_time(family, api, cache):
    api.delay_seconds = 0.2
    api.finish_reason = "length"
    most = []

    class Watching(family.HTTPTransport):
        under_way = 0
        lock = threading.Lock()

        def handle_request(self, request):
            with self.lock:
                self.under_way += 1
                most.append(self.under_way)
            try:
                return super().handle_request(request)
            finally:
                with self.lock:
                    self.under_way -= 1

    with family.Client(transport=CachingTransport(cache, Watching())) as client:
        bodies = in_threads(6, lambda: client.post(api.url + "/v1/chat/completions", json=BODY).text)
    assert len(set(bodies)) == 6
    assert max(most) > 2
    assert len(cache) == 0


def test_an_error_of_the_inner_transport_is_raised_and_not_stored(family, api, cache):
    with family.Client(transport=CachingTransport(cache)) as client:
        api.server_close()
        with pytest.raises(family.ConnectError):
            client.post("http://127.0.0.1:9/v1/chat/completions", json=BODY)
    assert len(cache) == 0


def test_neither_kind_takes_the_other_s_inner_transport(family, api, cache):
    client = family.Client(transport=CachingTransport(cache, family.AsyncHTTPTransport()))
    with pytest.raises(AttributeError), client:
        client.post(api.url + "/v1/chat/completions", json=BODY)


def test_the_extra_is_named_where_both_packages_are_missing(monkeypatch, cache):
    monkeypatch.setattr("axolotl_cache.integrations.transport.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"axolotl-cache\[openai\]"):
        CachingTransport(cache)
