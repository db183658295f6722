"""In front of other servers: the cache, where requests go, and what happens when a server dies."""

import asyncio
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

import openai
import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.observe import Observer
from axolotl_cache.request import CacheControl
from axolotl_cache.response.ttl_rules import TtlPolicy
from axolotl_cache.server.app import App
from axolotl_cache.server.doors import Doors
from axolotl_cache.server.limits import Limits
from axolotl_cache.server.service import Service
from axolotl_cache.server.upstream_backend import Terms, UpstreamBackend
from axolotl_cache.server.upstreams import Upstreams, make_client

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class Stub(ThreadingHTTPServer):
    """An upstream that counts what it was sent, and answers with that number."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.lock, self.seen, self.status = Lock(), [], 200
        self.pieces_before_breaking_off = None
        self.dawdles_seconds = 0.0
        self.go = Event()
        self.go.set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        if self.socket.fileno() < 0:
            return
        self.go.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._whole(200, {"object": "list", "data": [{"id": "stub", "object": "model"}]})

    def do_POST(self):
        self.close_connection = True  # else one that is stopped would go on with whoever is connected
        stub = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with stub.lock:
            stub.seen.append(body)
            number = len(stub.seen)
        if stub.status != 200:
            self._whole(stub.status, {"error": {"message": "tired", "type": "server_error"}})
            return
        head = {"id": f"chatcmpl-{number}", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            stub.go.wait(10)
            message = {"role": "assistant", "content": f"answer {number}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._whole(200, head | {"object": "chat.completion", "choices": [choice], "usage": USAGE})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for count, word in enumerate(["answer ", str(number), "."]):
            if count == stub.pieces_before_breaking_off:
                return
            if count == 1:
                stub.go.wait(10)
            self._event(head | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        self._event(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._event("[DONE]")
        time.sleep(stub.dawdles_seconds)
        self.wfile.write(b"0\r\n\r\n")

    def _whole(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _event(self, value):
        event = f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()


@pytest.fixture
def stubs():
    both = [Stub(), Stub()]
    yield both
    for stub in both:
        stub.stop()


@pytest.fixture
def backend(stubs):
    client = make_client(None, most=50, seconds=10)
    terms = Terms("production", "1", CacheControl(), TtlPolicy(None, 60))
    return UpstreamBackend(Upstreams([stub.url for stub in stubs], client), SmartInferenceCache(), terms)


@pytest.fixture
def client(backend, running):
    service = Service(backend, Limits(), Doors(None), Observer())
    with (
        running(App(service)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
    ):
        yield client


def ask(text="Hello?", **options):
    messages = [{"role": "user", "content": text}]
    return {"model": "stub", "messages": messages, "temperature": 0} | options


def raw(client, **options):
    answer = client.chat.completions.with_raw_response.create(**ask(**options))
    return answer.headers["x-cache"], answer.parse()


def test_an_answer_is_computed_once(client, stubs):
    first, again = raw(client), raw(client)
    assert (first[0], again[0]) == ("miss", "hit-exact")
    assert again[1].choices == first[1].choices
    assert first[1].usage.prompt_tokens_details is None
    assert again[1].usage.prompt_tokens_details.cached_tokens == 5
    assert sum(len(stub.seen) for stub in stubs) == 1


def test_a_stream_is_replayed_as_it_came(client, stubs):
    streams = [client.chat.completions.with_raw_response.create(**ask(stream=True)) for _ in range(2)]
    pieces = [[e.choices[0].delta.content for e in stream.parse()] for stream in streams]
    assert pieces[0] == pieces[1] == ["answer ", "1", ".", None]
    assert sum(len(stub.seen) for stub in stubs) == 1
    assert streams[1].headers["x-cache"] == "hit-exact"


def test_who_leaves_as_soon_as_all_is_there_has_it_stored(client, stubs):
    for stub in stubs:
        stub.dawdles_seconds = 1.0  # between the last event and the end, in which OpenAI's client hangs up
    first = client.chat.completions.with_raw_response.create(**ask("Why?"), stream=True)
    assert len(list(first.parse())) == 4
    again = client.chat.completions.with_raw_response.create(**ask("Why?"), stream=True)
    assert again.headers["x-cache"] == "hit-exact"


def test_beginnings_that_nobody_knows_are_spread_even_one_after_another(client, stubs):
    for number in range(4):
        client.chat.completions.create(**ask(f"{number} " * 400))
    assert [len(stub.seen) for stub in stubs] == [2, 2]


def test_sampled_answers_are_not_cached_unless_asked(client, stubs):
    for _ in range(2):
        raw(client, temperature=1)
    also = {"X-Cache-Also": "sampled"}
    served = [raw(client, temperature=1, extra_headers=also)[0] for _ in range(2)]
    assert served == ["miss", "hit-exact"]
    assert sum(len(stub.seen) for stub in stubs) == 3


@pytest.mark.parametrize("streams", [False, True])
def test_equal_requests_at_once_are_sent_once(client, backend, stubs, streams):
    for stub in stubs:
        stub.go.clear()

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="k", max_retries=0) as asynchronous:

            async def one():
                answer = await asynchronous.chat.completions.create(**ask(stream=streams))
                if streams:
                    return "".join([e.choices[0].delta.content or "" async for e in answer])
                return answer.choices[0].message.content

            async def let_go():
                while backend.under_way.listeners < 8:
                    await asyncio.sleep(0.01)
                for stub in stubs:
                    stub.go.set()

            return (await asyncio.gather(*(one() for _ in range(8)), let_go()))[:-1]

    answers = asyncio.run(ask_all())
    assert len(set(answers)) == 1
    assert sum(len(stub.seen) for stub in stubs) == 1


def test_the_same_beginning_goes_to_the_same_upstream_and_others_are_spread(client, stubs):
    system = [{"role": "system", "content": f"You are desk {n}. " * 60} for n in range(4)]
    for turn in range(3):
        for head in system:
            client.chat.completions.create(
                **ask() | {"messages": [head, {"role": "user", "content": f"Question {turn}?"}]}
            )
    desks = [{body["messages"][0]["content"][:14] for body in stub.seen} for stub in stubs]
    assert desks[0] & desks[1] == set()
    assert all(desks)


def test_a_dead_upstream_is_left_out_and_tried_again(client, backend, stubs):
    now = time.monotonic()
    backend.upstreams.clock = lambda: now
    stubs[0].stop()
    for number in range(4):
        assert raw(client, text=f"Question {number}?")[0] == "miss"
    assert backend.upstreams.all[0].failed == 1
    assert backend.upstreams.alive == 1
    stubs[0] = Stub(stubs[0].server_port)
    now += 5
    raw(client, text="Is anybody there?")  # of two that have nothing to do, the first
    assert stubs[0].seen
    assert backend.upstreams.alive == 2


def test_no_upstream_at_all_is_said(client, backend, stubs):
    for stub in stubs:
        stub.stop()
    with pytest.raises(openai.APIStatusError) as refused:
        raw(client)
    assert (refused.value.status_code, refused.value.code) == (502, "no_upstream")
    for number in range(2):
        stubs[number] = Stub(stubs[number].server_port)
    assert raw(client)[0] == "miss"  # none was alive, and so both are tried again


def test_what_breaks_off_is_said_and_not_stored(client, backend, stubs):
    for stub in stubs:
        stub.pieces_before_breaking_off = 2
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(**ask(stream=True)))
    for stub in stubs:
        stub.pieces_before_breaking_off = None
    stream = client.chat.completions.with_raw_response.create(**ask(stream=True))
    assert stream.headers["x-cache"] == "miss"


def test_errors_pass_through_and_are_not_stored(client, stubs):
    for stub in stubs:
        stub.status = 400
    with pytest.raises(openai.BadRequestError, match="tired"):
        raw(client)
    for stub in stubs:
        stub.status = 200
    assert raw(client)[0] == "miss"


def test_models_are_those_of_the_upstreams(client):
    assert [model.id for model in client.models.list()] == ["stub"]
