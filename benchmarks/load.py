"""What sends requests to a server, and takes the time: as fast as they are answered, or at given times."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONNECTIONS = 16
NEW_TOKENS = 16
KEY = "sk-" + secrets.token_hex(16)
SYSTEM = "You help the customers of a bank. Answer briefly, and say so if you do not know. " * 8


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

    # A collection here, over all that a benchmark has loaded, would count as the server's time.
    gc.collect()
    gc.freeze()
    uvloop.run(run())
    gc.unfreeze()
    return load


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
