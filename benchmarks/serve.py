"""The server under load: how many hits a second, how soon, and what requests in time the cache saves.

    .venv/bin/python benchmarks/serve.py [--quick]

Four parts. (1) Exact hits: the same few requests again and again, against our server and against LiteLLM's
proxy with its memory cache, in turns, both in front of the same stub upstream (`hits`), and against ours with
its own engine (`hits_engine`). (2) A hit in the stream form: until its first byte. (3) Goodput: requests that
arrive as Azure's conversation trace has it, at growing rates, the cache off and on; counted are those whose
first token came within the target. (4) Streams that are left in their midst, each of a session: what is held
for them once nothing runs. The load is made by this process, the servers are others (but for the last part):
what it costs is in the rows.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from common import MODEL, REPOSITORY, arguments, arrivals, banking77, emit, say
from hang_ups import leaks
from workloads import scaled_gaps

SEED = 42
CONNECTIONS = 16
QUESTIONS = 20
TARGET_SECONDS = 1.0
NEW_TOKENS = 16
KEY = "sk-" + secrets.token_hex(16)
SYSTEM = "You help the customers of a bank. Answer briefly, and say so if you do not know. " * 8


# What sends


@dataclass(slots=True)
class Load:
    """What one run of requests came to."""

    seconds: float
    latencies: list[float]
    first_bytes: list[float]
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return len(self.latencies) / self.seconds

    def row(self, **names: Any) -> dict[str, Any]:
        """Return the measurement, for the result."""
        ordered = sorted(self.latencies)
        return names | {
            "requests_per_second": round(self.per_second, 1),
            "p50_ms": round(1000 * ordered[len(ordered) // 2], 3),
            "p99_ms": round(1000 * ordered[int(len(ordered) * 0.99)], 3),
            "first_byte_p50_ms": round(1000 * statistics.median(self.first_bytes), 3),
            "client_cpu_us": round(1e6 * self.cpu_seconds / len(ordered), 1),
        }


class _Connection(asyncio.Protocol):
    """Sends requests over one connection, one after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("closed"))

    async def send(self, raw: bytes) -> tuple[float, float, bytes]:
        """Return the time to the first byte and to the last, and the answer."""
        self._data, self._first, self._done = bytearray(), 0.0, self._loop.create_future()
        began = time.perf_counter()
        self._transport.write(raw)
        await self._done
        return self._first - began, time.perf_counter() - began, bytes(self._data)

    def data_received(self, data: bytes) -> None:
        self._first = self._first or time.perf_counter()
        self._data += data
        if self._is_whole() and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _is_whole(self) -> bool:
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return False
        lower = bytes(self._data[:head]).lower()
        at = lower.find(b"content-length: ")
        if at < 0:
            return self._data.endswith(b"0\r\n\r\n")
        end = lower.find(b"\r\n", at)
        return len(self._data) >= head + 4 + int(lower[at + 16 : end if end > 0 else None])


def raw_request(url: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request as it goes over the wire."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    host = url.removeprefix("http://")
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        f"{more}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def question(text: str, **options: Any) -> dict[str, Any]:
    """Return the body of a request."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"model": "model", "messages": messages, "temperature": 0, "max_tokens": NEW_TOKENS} | options


def hammer(url: str, bodies: Sequence[dict[str, Any]], seconds: float, *, per_second: float = 0.0) -> Load:
    """Send requests for so long: each connection the next as soon as one is answered, or at a fixed rate."""
    host, port = url.removeprefix("http://").split(":")
    raws = [raw_request(url, body) for body in bodies]
    load = Load(seconds, [], [], 0.0)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        turns = iter(range(10**9))

        async def one() -> None:
            _, connection = await loop.create_connection(_Connection, host, int(port))
            while True:
                number = next(turns)
                due = began + number / per_second if per_second else loop.time()
                if max(due, loop.time()) - began >= seconds:
                    break
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                # At a fixed rate, waiting for a free connection counts: the arrival is what is due.
                late = max(loop.time() - due, 0.0) if per_second else 0.0
                first, last, answer = await connection.send(raws[number % len(raws)])
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"{url} answered {answer[:300]!r}")
                load.first_bytes.append(late + first)
                load.latencies.append(late + last)
            connection._transport.close()

        cpu = time.process_time()
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        load.seconds = loop.time() - began
        load.cpu_seconds = time.process_time() - cpu

    import uvloop

    uvloop.run(run())
    return load


# What is sent to


class _Stub(BaseHTTPRequestHandler):
    """An upstream that answers everything with a short text."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        _Stub.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Please call the number on the back of your card. " * 3}
        body = json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "model",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 150, "completion_tokens": 33, "total_tokens": 183},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def stub() -> Iterator[str]:
    """Serve a stub; give its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a server until the block ends; begins when it answers."""
    with (folder / f"server-{free_port()}.log").open("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment, cwd=folder)
        try:
            end = time.monotonic() + 180
            while not _answers(url):
                if running.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read()[-3000:]}")
                time.sleep(0.3)
            yield url
        finally:
            running.terminate()
            running.wait()


def _answers(url: str) -> bool:
    try:
        get(url, "/v1/models")
    except OSError:
        return False
    return True


def get(url: str, path: str) -> str:
    """Return what a server has there."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def source(url: str, body: dict[str, Any]) -> str | None:
    """Return where the answer to a request came from."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.headers["x-cache"]
    finally:
        connection.close()


def ours(folder: Path, upstream: str | None = None, *, caches: bool = True) -> Any:
    """Return our server, in front of an upstream or of its own engine."""
    port = free_port()
    on = "true" if caches else "false"
    lines = [
        f"base_model: {MODEL}",
        "chat_template: tokenizer_default",
        "bf16: true",
        f"model_config: {{enable_prefix_cache: {on}}}",
        "inference_settings: {enable_persistence: false, cache_version: bench, max_cache_entries: 5000}",
    ]
    file = folder / f"server-{port}.yaml"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "axolotl_cache.cli.main", "serve", str(file), "--port", str(port)]
    command += ["--upstream", upstream] if upstream else ["--model-name", "model", "--cache-truncated"]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    return process(command, f"http://127.0.0.1:{port}", folder, **environment)


def litellm(folder: Path, upstream: str) -> Any:
    """Return LiteLLM's proxy with its memory cache, one process, as its page on production sets it up."""
    python = REPOSITORY / ".venv-litellm-proxy" / "bin" / "litellm"
    command = Path(os.environ.get("LITELLM_PROXY") or python)
    if not command.exists():
        return None
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "model",
                "litellm_params": {"model": "openai/model", "api_base": f"{upstream}/v1", "api_key": "x"},
            }
        ],
        "litellm_settings": {
            "cache": True,
            "cache_params": {"type": "local", "ttl": 3600},
            "set_verbose": False,
        },
        "general_settings": {"master_key": KEY, "disable_spend_logs": True},
    }
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DISABLE_NO_REDIS_WARNING": "true",
    }
    command_line = [
        str(command),
        "--config",
        str(file),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--num_workers",
        "1",
    ]
    return process(command_line, f"http://127.0.0.1:{port}", folder, **environment)


# The parts


def hits(
    folder: Path, rounds: int, seconds: float, questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Ask ours and LiteLLM's proxy, in turns, for what both have stored."""
    bodies = [question(text) for text in questions[:QUESTIONS]]
    rows: list[dict[str, Any]] = []
    tops: dict[str, list[float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(stub())
        peer = litellm(folder, upstream)
        servers = {"axolotl-cache": stack.enter_context(ours(folder, upstream))}
        if peer is None:
            say("LiteLLM's proxy: left out; benchmarks/prepare installs it")
        else:
            servers["litellm"] = stack.enter_context(peer)
        for url in servers.values():
            before = -1
            while _Stub.asked != before:  # until all of them are stored
                before = _Stub.asked
                hammer(url, bodies, 2.0)
        stored = _Stub.asked
        for number in range(rounds):
            for name, url in servers.items():
                load = hammer(url, bodies, seconds)
                tops.setdefault(name, []).append(load.per_second)
                rows.append(load.row(part="hits", side=name, round=number))
                say(str(rows[-1]))
        if _Stub.asked != stored:
            raise RuntimeError(f"{_Stub.asked - stored} requests went to the upstream: they were no hits")
    figures = {"exact_hits_per_second": statistics.median(tops["axolotl-cache"])}
    if "litellm" in tops:
        ratios = [mine / theirs for mine, theirs in zip(tops["axolotl-cache"], tops["litellm"], strict=True)]
        figures["exact_hits_per_second_over_litellm"] = statistics.median(ratios)
    return rows, figures


def hits_engine(
    folder: Path, rounds: int, seconds: float, questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Ask ours with its own engine: at the top rate, at half of it, and for streams."""
    bodies = [question(text) for text in questions[:QUESTIONS]]
    rows: list[dict[str, Any]] = []
    p99s, firsts = [], []
    with ours(folder) as url:
        # Some answers read like refusals, and are not stored: those questions are left out.
        bodies = [body for body in bodies if [source(url, body) for _ in range(2)][1] == "hit-exact"]
        streams = [body | {"stream": True} for body in bodies]
        say(f"{len(bodies)} of {QUESTIONS} answers are stored")
        for number in range(rounds):
            top = hammer(url, bodies, seconds)
            half = hammer(url, bodies, seconds, per_second=top.per_second / 2)
            stream = hammer(url, streams, seconds, per_second=top.per_second / 4)
            for part, load in (("hits_engine", top), ("half_rate", half), ("stream", stream)):
                rows.append(load.row(part=part, side="axolotl-cache", round=number))
                say(str(rows[-1]))
            p99s.append(rows[-2]["p99_ms"])
            firsts.append(rows[-1]["first_byte_p50_ms"])
    return rows, {
        "hit_p99_ms": statistics.median(p99s),
        "stream_first_byte_ms": statistics.median(firsts),
    }


def goodput(
    folder: Path, count: int, rates: Sequence[float], questions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Let requests arrive as in the trace, the cache off and on."""
    arrived = arrivals(count + 1)
    if arrived is None:
        say("goodput: SKIPPED, azure2023_conv.csv.gz is missing")
        return [], {}
    rng = random.Random(SEED)  # noqa: S311 - no secret
    # Popular questions come again: Zipf's law over a tenth of them.
    pool = rng.sample(questions, max(count // 2, 10))
    weights = [1 / rank for rank in range(1, len(pool) + 1)]
    texts = rng.choices(pool, weights, k=count)
    rows: list[dict[str, Any]] = []
    best: dict[bool, float] = {}
    for rate in rates:
        gaps = scaled_gaps(arrived, count, 1 / rate)
        for caches in (False, True):
            with ours(folder, caches=caches) as url:
                extra = {} if caches else {"Cache-Control": "no-cache, no-store"}
                within = asyncio.run(open_loop(url, texts, gaps, extra))
            good = sum(ttft <= TARGET_SECONDS for ttft in within) / (sum(gaps) or 1)
            best[caches] = max(best.get(caches, 0.0), good)
            rows.append(
                {
                    "part": "goodput",
                    "caches": caches,
                    "rate": rate,
                    "goodput_per_second": round(good, 3),
                    "ttft_p50_seconds": round(statistics.median(within), 3),
                }
            )
            say(str(rows[-1]))
    return rows, {"goodput_on_over_off": best[True] / max(best[False], 1e-9)}


async def open_loop(
    url: str, texts: Sequence[str], gaps: Sequence[float], headers: dict[str, str]
) -> list[float]:
    """Send each request at its time, whatever became of those before; return the times to first tokens."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    began = loop.time()
    ttfts: list[float] = []

    async def one(text: str, due: float) -> None:
        await asyncio.sleep(max(began + due - loop.time(), 0))
        sent = loop.time()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request(url, question(text, stream=True), headers))
        seen = b""
        first = float("inf")
        while data := await reader.read(65536):
            seen += data
            if first == float("inf") and b'"content":' in seen.partition(b'"content":""')[2]:
                first = loop.time() - sent
            if b"[DONE]" in seen:
                break
        writer.close()
        ttfts.append(first)

    dues, total = [], 0.0
    for gap in gaps:
        total += gap
        dues.append(total)
    await asyncio.gather(*(one(text, due) for text, due in zip(texts, dues, strict=True)))
    return ttfts


def main() -> None:
    """Run all parts."""
    options = arguments(__doc__)
    started = time.time()
    rounds, seconds = (3, 3.0) if options.quick else (5, 10.0)
    questions = list(dict.fromkeys(banking77()))
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}

    def left_midway(folder: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
        row = leaks(folder, 60 if options.quick else 600, SEED, raw_request)
        say(str(row))
        return [row], {name: row[name] for name in ("leaked_blocks", "leaked_sessions")}

    with tempfile.TemporaryDirectory() as folder:
        for part in (
            lambda: hits(Path(folder), rounds, seconds, questions),
            lambda: hits_engine(Path(folder), rounds, seconds, questions),
            lambda: goodput(
                Path(folder),
                40 if options.quick else 300,
                (2.0,) if options.quick else (1.0, 2.0, 4.0, 8.0),
                questions,
            ),
            lambda: left_midway(Path(folder)),
        ):
            more, found = part()
            rows += more
            figures |= found
    emit(
        "serve",
        figures=figures,
        rows=rows,
        seed=SEED,
        started=started,
        packages=("uvicorn", "uvloop", "httptools", "pydantic", "torch", "transformers"),
        connections=CONNECTIONS,
        target_seconds=TARGET_SECONDS,
    )


if __name__ == "__main__":
    main()
