"""What requests and answers of httpx and httpx2 say about themselves."""

from __future__ import annotations

from typing import Any, Final

from axolotl_cache.request import Served

CACHE_HEADER: Final = "x-cache"
EVENT_STREAM: Final = "text/event-stream"


def address_of(url: Any) -> str:
    """Return scheme, host, port, path and query."""
    # Not `str(url)`: a user and a password in it are part of the credentials, which have their own place.
    return f"{url.scheme}://{url.host}:{url.port or ''}{url.raw_path.decode('ascii')}"


def is_event_answer(response: Any) -> bool:
    """Whether it is an answer that comes as events, and can be replayed."""
    return response.status_code == 200 and is_event_stream(response) and is_plain(response)


def is_plain(response: Any) -> bool:
    """Whether its body is not compressed."""
    return str(response.headers.get("content-encoding", "identity")) == "identity"


def is_event_stream(response: Any) -> bool:
    """Whether it is server-sent events."""
    return str(response.headers.get("content-type", "")).startswith(EVENT_STREAM)


def text_of_body(chunks: list[bytes], most_bytes: int) -> str | None:
    """Return a body's text; None if it is longer than that, or no text."""
    if sum(map(len, chunks)) > most_bytes:
        return None
    try:
        return b"".join(chunks).decode()
    except UnicodeDecodeError:
        return None


def hit_headers(content_type: str, age: int) -> dict[str, str]:
    """Return the headers of an answer that was there, or under way, and is so many seconds old."""
    return {"content-type": content_type, CACHE_HEADER: str(Served.HIT_EXACT), "age": str(age)}
