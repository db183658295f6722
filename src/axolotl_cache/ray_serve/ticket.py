"""What a router needs to know of a request: its prompt's beginning in chunks, each by a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from pydantic_core import from_json

from axolotl_cache.server.affinity import chunk_digests
from axolotl_cache.server.asked import SESSION_HEADER
from axolotl_cache.server.upstream_body import prompt_text

_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where a request belongs, as numbers from which nothing can be read."""

    chunks: tuple[int, ...] = ()
    """64 bits for each chunk of the prompt's text, of everything up to its end, and one for the whole."""
    conversation: int | None = None
    """Of the session; None without one."""


ELSEWHERE: Final = Ticket((int.from_bytes(b"operator", "little"),))
"""What computes nothing: pages that belong together come from one replica."""


def ticket_of(body: bytes, headers: Mapping[str, str], tenant: str) -> Ticket:
    """Return the ticket of a request to compute. What is no request gets an empty one, and its refusal there.

    Cost: parses the body, 2 ms a megabyte.

    Args:
        body: JSON, as it came.
        headers: names in small letters.
        tenant: other tenants' prompts have other numbers.
    """
    try:
        sent = from_json(body)
    except ValueError:
        return Ticket()
    if not isinstance(sent, dict):
        return Ticket()
    start = f"{tenant}\0{sent.get('model')!r}".encode("utf-8", "surrogatepass")
    text = prompt_text(sent)
    digests = [*chunk_digests(text, start=start), _digest(start, text)]
    session = headers.get(SESSION_HEADER)
    conversation = None if session is None else _number(_digest(start, f"session {session}"))
    return Ticket(tuple(map(_number, digests)), conversation)


def _digest(start: bytes, text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=_BYTES, key=blake2b(start).digest(), person=b"axc-ticket").digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")
