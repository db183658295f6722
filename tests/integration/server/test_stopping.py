"""The command, told to stop with a stream under way: it finishes it, or ends at once when told again."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

EVENTS = 20


class Slow(BaseHTTPRequestHandler):
    """An upstream that streams, and sends no more than its `gate` lets through."""

    protocol_version = "HTTP/1.1"
    gate = threading.Semaphore(0)

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(EVENTS):
            self.gate.acquire()
            choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            event = f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.fixture
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    Slow.gate = threading.Semaphore(1)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Slow.gate.release(10 * EVENTS)
    server.shutdown()
    server.server_close()
    thread.join()


class Command:
    """`axolotl-cache serve` in a process of its own."""

    def __init__(self, folder, config, *options):
        path = folder / "config.yaml"
        path.write_text(config)
        self.log = folder / "log.jsonl"
        command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", path, "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--request-log", self.log, *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XDG_CONFIG_HOME": str(folder)},
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if " at http" in line:
                break
        assert self.process.poll() is None, "".join(said)
        self.port = int(re.search(r":(\d+)/v1", said[-1])[1])

    def stream(self, **options):
        """Ask for a stream; return the socket once its first event came, and what came by then."""
        body = {
            "messages": [{"role": "user", "content": "Count!"}],
            "stream": True,
            "temperature": 0,
        } | options
        data = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        seen = b""
        while b'"content": "0' not in seen and b'"content":"' not in seen.partition(b'"content":""')[2]:
            seen += (got := connection.recv(65536))
            assert got, seen
        return connection, seen

    def wait(self):
        self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait(60)

    def lines(self):
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line["status"] for line in lines if "status" in line]


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(*arguments):
        started.append(Command(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.wait()


@pytest.fixture
def before_upstream(serve, upstream):
    config = "base_model: x\ninference_settings: {cache_version: '1', enable_persistence: false}\n"
    return serve(config, "--upstream", upstream)


def rest_of(connection):
    """Read to the end; a connection that is cut is at its end, too."""
    seen = b""
    try:
        while got := connection.recv(65536):
            seen += got
    except ConnectionResetError:
        pass
    connection.close()
    return seen


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_what_runs_is_finished_and_nobody_else_let_in(before_upstream):
    connection, seen = before_upstream.stream()
    before_upstream.process.send_signal(signal.SIGTERM)
    while not is_refused(before_upstream.port):
        time.sleep(0.02)
    assert before_upstream.process.poll() is None
    Slow.gate.release(EVENTS)
    seen += rest_of(connection)
    assert seen.count(b'"content"') == EVENTS
    assert b"[DONE]" in seen
    assert before_upstream.wait() == 0
    assert before_upstream.lines() == ["ok"]


@pytest.mark.parametrize("again", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_at_once(before_upstream, again):
    connection, seen = before_upstream.stream()
    before_upstream.process.send_signal(signal.SIGTERM)
    while not is_refused(before_upstream.port):
        time.sleep(0.02)
    before_upstream.process.send_signal(again)
    assert before_upstream.wait() == 128 + again
    assert b"[DONE]" not in seen + rest_of(connection)
    assert before_upstream.lines() != ["ok"]


def test_what_runs_longer_than_the_grace_is_told_so(serve, upstream):
    config = "base_model: x\ninference_settings: {cache_version: '1', enable_persistence: false}\n"
    server = serve(config, "--upstream", upstream, "--grace", "1")
    connection, seen = server.stream()
    server.process.send_signal(signal.SIGTERM)
    seen += rest_of(connection)
    assert b'"code":"stopping"' in seen
    assert server.wait() == 0
    assert server.lines() == ["error"]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_so_it_is_with_an_engine_of_its_own(serve, small_model_folder, signals):
    config = f"base_model: {small_model_folder}\nchat_template: tokenizer_default\n"
    server = serve(config + "inference_settings: {enable_persistence: false}\n", "--cache-truncated")
    connection, seen = server.stream(max_tokens=1200)
    server.process.send_signal(signal.SIGTERM)
    while not is_refused(server.port):
        time.sleep(0.02)
    if signals == 2:
        server.process.send_signal(signal.SIGTERM)
    seen += rest_of(connection)
    assert (b"[DONE]" in seen) == (signals == 1)
    assert server.wait() == (0 if signals == 1 else 128 + signal.SIGTERM)
    assert server.lines() == (["ok"] if signals == 1 else ["error"])
