"""The OpenAI and Anthropic clients, of both generations, behind the caching transport."""

from __future__ import annotations

import asyncio

import pytest

from axolotl_cache.integrations.http import AsyncCachingTransport, CachingTransport

openai = pytest.importorskip("openai")

WHY = [{"role": "user", "content": "why?"}]


@pytest.fixture
def client(api, cache):
    with make_client(api, cache) as client:
        yield client


def make_client(api, cache, key="sk-one"):
    http = openai.DefaultHttpxClient(transport=CachingTransport(cache))
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, http_client=http, max_retries=0)


def ask(client, **more):
    return client.chat.completions.create(model="m", messages=WHY, **more)


def test_chat(client, api):
    first, second = ask(client), ask(client)
    assert first.choices[0].message.content == "why? / for sk-one / number 1"
    assert second == first
    assert api.count == 1


def test_where_an_answer_came_from_can_be_read(client):
    raw = client.chat.completions.with_raw_response
    caches = [raw.create(model="m", messages=WHY).headers["x-cache"] for _ in range(2)]
    assert caches == ["miss", "hit-exact"]


def test_another_question_or_key_is_another_answer(client, api, cache):
    ask(client)
    other = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "why not?"}])
    assert other.choices[0].message.content.startswith("why not?")
    with make_client(api, cache, key="sk-two") as stranger:
        assert ask(stranger).choices[0].message.content == "why? / for sk-two / number 3"


def test_a_streamed_answer_comes_again_chunk_by_chunk(client, api):
    first, second = list(ask(client, stream=True)), list(ask(client, stream=True))
    assert len(first) > 5
    assert second == first
    assert api.count == 1


def test_a_stream_that_is_left_is_not_stored(client, api):
    with ask(client, stream=True) as stream:
        next(iter(stream))
    list(ask(client, stream=True))
    assert api.count == 2


def test_responses_and_embeddings(client, api):
    texts = [client.responses.create(model="m", input="why?").output_text for _ in range(2)]
    assert texts[0] == texts[1] == "why? / for sk-one / number 1"
    streamed = [
        [event.type for event in client.responses.create(model="m", input="why?", stream=True)]
        for _ in range(2)
    ]
    assert streamed[0] == streamed[1]
    assert streamed[0][-1] == "response.completed"
    vectors = [client.embeddings.create(model="m", input="why?").data[0].embedding for _ in range(2)]
    assert vectors[0] == vectors[1]
    assert api.count == 3


def test_what_a_request_says_about_the_cache(client, cache, api):
    ask(client, extra_headers={"Cache-Control": "no-store"})
    assert len(cache) == 0
    ask(client, extra_headers={"X-Cache-Tags": "prices", "X-Cache-TTL": "60"})
    assert cache.invalidate(tag="prices") == 1
    with pytest.raises(openai.BadRequestError, match="X-Cache-TTL is a number of seconds"):
        ask(client, extra_headers={"X-Cache-TTL": "soon"})
    with pytest.raises(openai.APIStatusError, match="only-if-cached"):
        ask(client, extra_headers={"Cache-Control": "only-if-cached"})
    assert api.count == 2


def test_only_if_cached_is_not_tried_again(api, cache):
    http = openai.DefaultHttpxClient(transport=CachingTransport(cache))
    client = openai.OpenAI(base_url=f"{api.url}/v1", api_key="k", http_client=http, max_retries=5)
    with client, pytest.raises(openai.APIStatusError):
        ask(client, extra_headers={"Cache-Control": "only-if-cached"})
    assert cache.stats().misses == 1


def test_errors_are_errors_each_time(client, api):
    api.status = 500
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(client)
    assert api.count == 2


def test_the_asynchronous_client(api, cache):
    async def run():
        http = openai.DefaultAsyncHttpxClient(transport=AsyncCachingTransport(cache))
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="k", http_client=http) as client:
            both = await asyncio.gather(
                *(client.chat.completions.create(model="m", messages=WHY) for _ in range(4))
            )
            streams = []
            for _ in range(2):
                stream = await client.chat.completions.create(model="m", messages=WHY, stream=True)
                streams.append([chunk async for chunk in stream])
            return both, streams

    both, streams = asyncio.run(run())
    assert len({answer.id for answer in both}) == 1
    assert len(streams[0]) > 5
    assert streams[1] == streams[0]
    assert api.count == 2


def test_anthropics_client(api, cache):
    anthropic = pytest.importorskip("anthropic")
    http = anthropic.DefaultHttpxClient(transport=CachingTransport(cache))
    ask = {"model": "m", "max_tokens": 9, "messages": WHY}
    with anthropic.Anthropic(base_url=api.url, api_key="sk-ant", http_client=http) as client:
        texts = [client.messages.create(**ask).content[0].text for _ in range(2)]
        streams = [[event.type for event in client.messages.create(**ask, stream=True)] for _ in range(2)]
    assert texts == ["why? / for sk-ant / number 1"] * 2
    assert streams[0] == streams[1]
    assert streams[0][-1] == "message_stop"
    assert api.count == 2
