"""A tiny model API on a loopback port. Each answer says to which question, for which key, and its number."""

from __future__ import annotations

import gzip
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest

from axolotl_cache import SmartInferenceCache


class Api(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = Lock()
        self.seen = []  # (path, headers, body) of every request that came
        self.status = 200
        self.status_of_answers = 200  # an answer like any other, under a status that says it is none
        self.compresses = False
        self.finish_reason = "stop"
        self.text = None
        self.extra = {}  # joined to the message
        self.pieces_before_hanging_up = None
        self.says_done = True
        self.delay_seconds = 0.0

    @property
    def count(self):
        return len(self.seen)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), None))
        self.send_json(200, {"object": "list", "data": []})

    def do_POST(self):
        api = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with api.lock:
            api.seen.append((self.path, dict(self.headers), body))
            number = len(api.seen)
        time.sleep(api.delay_seconds)
        if api.status != 200:
            self.send_json(api.status, {"error": {"message": "the server is tired", "type": "server_error"}})
            return
        key = self.headers.get("authorization", self.headers.get("x-api-key", "nobody")).split()[-1]
        text = api.text if api.text is not None else f"{question(body)} / for {key} / number {number}"
        path = self.path.partition("?")[0]
        streams = bool(body.get("stream"))
        if path.endswith("/embeddings"):
            items = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [
                {"object": "embedding", "index": i, "embedding": [float(number), float(len(item))]}
                for i, item in enumerate(items)
            ]
            self.send_json(200, {"object": "list", "model": body["model"], "data": data, "usage": USAGE})
        elif path.endswith("/messages"):
            self.send_events(message_events(text)) if streams else self.send_json(200, message(text))
        elif path.endswith("/responses"):
            self.send_events(response_events(text)) if streams else self.send_json(200, response(text))
        elif not path.endswith("/chat/completions"):
            choice = {"index": 0, "text": text, "finish_reason": api.finish_reason, "logprobs": None}
            whole = chat(text, body, number, api) | {"object": "text_completion", "choices": [choice]}
            self.send_json(200, whole)
        elif streams:
            self.send_events(chat_events(text, api), api.status_of_answers)
        else:
            self.send_json(api.status_of_answers, chat(text, body, number, api))

    def send_json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        if self.server.compresses:
            body = gzip.compress(body)
            self.send_header("content-encoding", "gzip")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", f"req-{self.server.count}")
        self.send_header("set-cookie", "session=secret")
        self.end_headers()
        self.wfile.write(body)

    def send_events(self, events, status=200):
        self.send_response(status)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(events):
            if number == self.server.pieces_before_hanging_up:
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def question(body):
    if "messages" in body:
        return body["messages"][-1]["content"]
    return body.get("prompt") or body.get("input")


def chat(text, body, number, api):
    message = {"role": "assistant", "content": text, **api.extra}
    choice = {"index": 0, "message": message, "finish_reason": api.finish_reason}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000 + number,
        "model": body["model"],
        "choices": [choice],
        "usage": USAGE,
    }


def event(value, name=None):
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chat_events(text, api):
    words = [word + " " for word in text.split(" ")]
    deltas = [{"content": word} for word in words] + [dict(api.extra)]
    for index, delta in enumerate(deltas):
        finish = api.finish_reason if index == len(deltas) - 1 else None
        yield event(
            {
                "id": "chatcmpl-s",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )
    if api.says_done:
        yield event("[DONE]")


def message(text):
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 7},
    }


def message_events(text):
    start = message("") | {"content": [], "stop_reason": None}
    yield event({"type": "message_start", "message": start}, "message_start")
    block = {"type": "text", "text": ""}
    yield event({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start")
    for word in text.split(" "):
        delta = {"type": "text_delta", "text": word + " "}
        yield event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    yield event({"type": "content_block_stop", "index": 0}, "content_block_stop")
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    yield event({"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


def response(text):
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "error": None,
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
    }


def response_events(text):
    yield event(
        {"type": "response.created", "sequence_number": 0, "response": response("") | {"output": []}},
        "response.created",
    )
    yield event(
        {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "i",
            "output_index": 0,
            "content_index": 0,
            "delta": text,
            "logprobs": [],
        },
        "response.output_text.delta",
    )
    yield event(
        {"type": "response.completed", "sequence_number": 2, "response": response(text)}, "response.completed"
    )


@pytest.fixture
def api():
    server = Api()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache():
    with SmartInferenceCache() as cache:
        yield cache
