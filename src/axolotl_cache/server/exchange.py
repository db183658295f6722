"""One HTTP request and its answer, over ASGI. No framework: this is the path of every hit."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from axolotl_cache.server.refusal import CLIENT_LEFT, Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REQUEST_ID: Final = "x-request-id"
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    # Else nginx collects the pieces, and a browser may keep them.
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class ClientLeft(Exception):
    """The client went away before its answer was whole."""


class Exchange:
    """A request as it came, and the answer as it goes.

    Attributes:
        id: new for each, and sent as `X-Request-Id`.
        arrived_at: seconds since the epoch.
        started: the same on the clock of `time.perf_counter`.
        headers: names in small letters; several of one name joined with commas.
        status: of what was sent; 0 before that.
    """

    __slots__ = ("_receive", "_send", "arrived_at", "headers", "id", "path", "started", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send, prefix: str) -> None:
        self.arrived_at = time.time()
        self.started = time.perf_counter()
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.path: str = scope["path"]
        self.status = 0
        self._receive = receive
        self._send = send
        self.headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name, text = raw.decode("latin-1"), value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {text}" if name in self.headers else text

    async def body(self, most_bytes: int) -> bytes:
        """Return the body.

        Raises:
            Refusal: it is longer than that.
            ClientLeft: it never came whole.
        """
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > most_bytes:
            raise too_large(most_bytes)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            whole: bytes = message.get("body", b"")
            if len(whole) > most_bytes:
                raise too_large(most_bytes)
            return whole
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                self.status = CLIENT_LEFT
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most_bytes:
                raise too_large(most_bytes)
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await self._receive()

    async def gone(self) -> None:
        """Return when the client has gone away; to be awaited only once the body is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), *, kind: bytes = b""
    ) -> None:
        """Send the whole answer."""
        self.status = status
        content_type = (b"content-type", kind) if kind else _JSON
        length = (b"content-length", str(len(body)).encode())
        own_id = (b"x-request-id", self.id.encode())
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [content_type, length, own_id, *headers],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error; as an event, if the answer has begun as a stream."""
        if self.status:
            await self.send_events(b"data: " + refusal.body + b"\n\n")
            await self.end_events()
        else:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in refusal.headers.items()]
            await self.reply(refusal.status, refusal.body, headers)

    async def begin_events(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Begin a stream of server-sent events."""
        self.status = 200
        own_id = (b"x-request-id", self.id.encode())
        await self._send(
            {"type": "http.response.start", "status": 200, "headers": [*_EVENTS, own_id, *headers]}
        )

    async def send_events(self, events: bytes) -> None:
        """Send some; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_events(self, events: bytes = b"") -> None:
        """Send the last, and end the answer."""
        await self._send({"type": "http.response.body", "body": events})


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


def too_large(most_bytes: int) -> Refusal:
    """Return what is said to a body that is too long."""
    return Refusal(413, f"the body is longer than {most_bytes:,} bytes; send less", code="body_too_large")
