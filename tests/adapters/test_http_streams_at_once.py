"""Equal requests for a stream at the same time: sent once, and read by all as it comes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from axolotl_cache.errors import ReaderTooSlow
from axolotl_cache.integrations import transport
from axolotl_cache.integrations.http import AsyncCachingTransport, CachingTransport

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "why?"}]}
URL = "http://a-server/v1/chat/completions"
PIECES = [
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
EVENTS = {"content-type": "text/event-stream"}


@pytest.fixture(params=["httpx", "httpx2"])
def family(request):
    return pytest.importorskip(request.param)


class Upstream:
    """Sends a piece each time it is let; the requests named in `fails` break off before that piece."""

    def __init__(self, family, fails=None, status=200):
        self.family = family
        self.fails = fails or {}
        self.status = status
        self.count = 0
        self.closed = 0
        self.gate = threading.Semaphore(0)
        self.agate = None

    def sync(self):
        upstream = self

        class Body(self.family.SyncByteStream):
            def __init__(self, number):
                self.number = number

            def __iter__(self):
                for at, piece in enumerate(PIECES):
                    assert upstream.gate.acquire(timeout=60)
                    if upstream.fails.get(self.number) == at:
                        raise upstream.family.ReadError("broken off")
                    yield piece

            def close(self):
                upstream.closed += 1

        class Inner(self.family.BaseTransport):
            def handle_request(self, request):
                upstream.count += 1
                return upstream.family.Response(upstream.status, headers=EVENTS, stream=Body(upstream.count))

        return Inner()

    def asynchronous(self):
        upstream = self
        self.agate = asyncio.Semaphore(0)

        class Body(self.family.AsyncByteStream):
            def __init__(self, number):
                self.number = number

            async def __aiter__(self):
                for at, piece in enumerate(PIECES):
                    await upstream.agate.acquire()
                    if upstream.fails.get(self.number) == at:
                        raise upstream.family.ReadError("broken off")
                    yield piece

            async def aclose(self):
                upstream.closed += 1

        class Inner(self.family.AsyncBaseTransport):
            async def handle_async_request(self, request):
                upstream.count += 1
                return upstream.family.Response(upstream.status, headers=EVENTS, stream=Body(upstream.count))

        return Inner()

    def let(self, pieces):
        for _ in range(pieces):
            self.gate.release()
            if self.agate is not None:
                self.agate.release()


def opened(client):
    response = client.send(client.build_request("POST", URL, json=BODY), stream=True)
    return response, response.iter_raw()


async def aopened(client):
    response = await client.send(client.build_request("POST", URL, json=BODY), stream=True)
    return response, response.aiter_raw()


def test_all_have_each_piece_as_it_comes(family, cache):
    upstream = Upstream(family)
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        first, pieces = opened(client)
        upstream.let(1)
        second, others = opened(client)
        # The server has sent one piece only, and both have it.
        assert (next(others), next(pieces)) == (PIECES[0], PIECES[0])
        upstream.let(2)
        assert list(others) == list(pieces) == PIECES[1:]
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit-exact")
        assert (upstream.count, upstream.closed) == (1, 1)
        assert client.post(URL, json=BODY).content == b"".join(PIECES)
    assert upstream.count == 1
    assert len(cache) == 1


def test_control_what_is_not_to_be_shared_is_sent_each_time(family, cache):
    upstream = Upstream(family)
    upstream.let(6)
    headers = {"cache-control": "no-store"}
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        for _ in range(2):
            assert client.post(URL, json=BODY, headers=headers).content == b"".join(PIECES)
    assert upstream.count == 2


def test_in_threads(family, cache):
    upstream, bodies = Upstream(family), []
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        work = [
            threading.Thread(target=lambda: bodies.append(client.post(URL, json=BODY).content))
            for _ in range(6)
        ]
        for thread in work:
            thread.start()
        upstream.let(3)
        for thread in work:
            thread.join()
    assert bodies == [b"".join(PIECES)] * 6
    assert upstream.count == 1


def test_who_began_it_may_leave(family, cache):
    upstream = Upstream(family)
    upstream.let(1)
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        first, _ = opened(client)
        _, others = opened(client)
        first.close()
        upstream.let(2)
        assert list(others) == PIECES
    assert (upstream.count, upstream.closed, len(cache)) == (1, 1, 1)


def test_when_all_have_left_it_is_closed_and_not_stored(family, cache):
    upstream = Upstream(family)
    upstream.let(1)
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        for response in [opened(client)[0], opened(client)[0]]:
            response.close()
    assert (upstream.count, upstream.closed, len(cache)) == (1, 1, 0)


def test_if_it_fails_before_its_first_piece_another_takes_over(family, cache):
    upstream, results = Upstream(family, fails={1: 0}), []
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        _, pieces = opened(client)
        upstream.let(4)
        _, others = opened(client)  # has the first one's failure, and begins anew
        results = list(others)
        with pytest.raises(family.ReadError):
            next(pieces)
    assert results == PIECES
    assert upstream.count == 2


def test_what_breaks_off_later_breaks_off_for_all_and_is_not_stored(family, cache):
    upstream = Upstream(family, fails={1: 1})
    upstream.let(2)
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        readers = [opened(client)[1], opened(client)[1]]
        for pieces in readers:
            assert next(pieces) == PIECES[0]
            with pytest.raises(family.ReadError):
                next(pieces)
    assert (upstream.count, len(cache)) == (1, 0)


def test_nobody_waits_for_a_slow_reader_who_is_let_go_in_the_end(family, cache, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_BODY_BYTES", len(PIECES[1]))
    upstream = Upstream(family)
    upstream.let(3)
    with family.Client(transport=CachingTransport(cache, upstream.sync())) as client:
        _, slow = opened(client)
        _, quick = opened(client)
        assert list(quick) == PIECES
        with pytest.raises(ReaderTooSlow, match="send the request again"):
            next(slow)


@pytest.mark.parametrize("leaves", [False, True])
def test_tasks_share_it_and_the_first_may_leave(family, cache, leaves):
    upstream = Upstream(family)

    async def run():
        async with family.AsyncClient(
            transport=AsyncCachingTransport(cache, upstream.asynchronous())
        ) as client:
            first, pieces = await aopened(client)
            upstream.let(1)
            second, others = await aopened(client)
            assert await anext(others) == PIECES[0]
            if leaves:
                await first.aclose()
            upstream.let(2)
            assert [piece async for piece in others] == PIECES[1:]
            if not leaves:
                assert [piece async for piece in pieces] == PIECES
            assert second.headers["x-cache"] == "hit-exact"

    asyncio.run(run())
    assert (upstream.count, upstream.closed, len(cache)) == (1, 1, 1)


def test_of_tasks_another_takes_over_and_all_leaving_ends_it(family, cache):
    upstream = Upstream(family, fails={1: 0})

    async def run():
        async with family.AsyncClient(
            transport=AsyncCachingTransport(cache, upstream.asynchronous())
        ) as client:
            _, pieces = await aopened(client)
            waiting = asyncio.ensure_future(aopened(client))
            await asyncio.sleep(0)
            upstream.let(2)
            response, others = await waiting
            with pytest.raises(family.ReadError):
                await anext(pieces)
            assert await anext(others) == PIECES[0]
            await response.aclose()

    asyncio.run(run())
    assert (upstream.count, upstream.closed, len(cache)) == (2, 2, 0)
