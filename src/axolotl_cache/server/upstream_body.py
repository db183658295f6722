"""What bodies to and from upstreams say, as far as the cache must know it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json

from axolotl_cache.errors import RequestError
from axolotl_cache.integrations import answers as shapes
from axolotl_cache.request import CacheControl, Message, Request
from axolotl_cache.response.owners import checked_tags
from axolotl_cache.response.ttl_rules import Facts
from axolotl_cache.server.asked import CHAT, PRINCIPAL_HEADER, SESSION_HEADER, cache_control, name_in, tags_in
from axolotl_cache.server.upstreams import Head

EVENTS: Final = "text/event-stream"


def request_of(
    sent: dict[str, Any], route: str, headers: Mapping[str, str], tenant: str, base: CacheControl
) -> Request:
    """Return a request as far as the cache looks at it; what else is wrong, an upstream will say.

    Args:
        sent: the body.
        route: where it was sent.
        headers: of the request.
        tenant: who sent it.
        base: what holds for the response cache where the headers say nothing.

    Raises:
        RequestError: a header can't be understood.
    """
    prompt = sent.get("prompt")
    texts = prompt if isinstance(prompt, list) else [prompt]
    try:
        tags = checked_tags(tags_in(headers))
    except (TypeError, ValueError) as error:
        raise RequestError(f"X-Cache-Tags: {error}") from None
    return Request(
        messages=tuple(_message(each) for each in _list(sent.get("messages")) if isinstance(each, dict)),
        prompt=None if route == CHAT else "\n".join(map(str, texts)),
        cache_control=cache_control(headers, base),
        tools=tuple(tool for tool in _list(sent.get("tools")) if isinstance(tool, dict)),
        tenant=tenant,
        principal=name_in(headers, PRINCIPAL_HEADER),
        session=name_in(headers, SESSION_HEADER),
        route=route,
        tags=tags,
    )


def facts_of(request: Request) -> Facts:
    """Return what the rules for TTLs look at."""
    said = (message.content for message in reversed(request.messages) if message.role == "user")
    functions = [tool.get("function") for tool in request.tools]
    return Facts(
        text=next(said, "") if request.prompt is None else request.prompt,
        tags=request.tags,
        route=request.route,
        tools=tuple(str(f.get("name", "")) for f in functions if isinstance(f, dict)),
        is_personal=bool(request.session or request.principal),
    )


def prompt_text(sent: Mapping[str, Any]) -> str:
    """Return what the prompt begins with, about in the order in which templates write it."""
    parts = [sent.get("tools"), sent.get("messages"), sent.get("prompt")]
    return "".join(json.dumps(part) for part in parts if part)


def is_stream(head: Head) -> bool:
    """Whether an answer comes as events."""
    return head.status == 200 and head.content_type.startswith(EVENTS)


def usage_in(chunks: Sequence[str], *, events: bool) -> dict[str, Any]:
    """Return what an answer says about its tokens; of a stream, its last event that says anything."""
    for chunk in reversed(chunks):
        if '"usage"' in chunk:
            usage = _usage(_payload(chunk, is_event=events))
            if usage:
                return usage
    return {}


def cost_of(usage: Mapping[str, Any], seconds: float, model: str) -> dict[str, Any]:
    """Return what is stored beside an answer: what it took to compute."""
    details = usage.get("prompt_tokens_details")
    counts = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else 0,
    }
    numbers = {name: count if type(count) is int and count >= 0 else 0 for name, count in counts.items()}
    return numbers | {"seconds": seconds, "model": model[:200]}


def as_hit(chunk: str) -> str:
    """Return a chunk as it is served from the cache: all tokens of the prompt count as cached."""
    if '"usage"' not in chunk:
        return chunk
    is_event = chunk.startswith("data:")
    payload = _payload(chunk, is_event=is_event)
    usage = _usage(payload)
    if type(usage.get("prompt_tokens")) is not int:
        return chunk
    details = usage.get("prompt_tokens_details")
    cached = {"cached_tokens": usage["prompt_tokens"]}
    usage["prompt_tokens_details"] = (details if isinstance(details, dict) else {}) | cached
    text = to_json(payload).decode()
    return f"data: {text}\n\n" if is_event else text


def _payload(chunk: str, *, is_event: bool) -> Any:
    """Return what a chunk carries, or None if that is no JSON."""
    lines = [line[5:] for line in chunk.splitlines() if line.startswith("data:")]
    try:
        return json.loads("\n".join(lines) if is_event else chunk)
    except (ValueError, RecursionError):
        return None


def _usage(payload: Any) -> dict[str, Any]:
    usage = payload.get("usage") if isinstance(payload, dict) else None
    return usage if isinstance(usage, dict) else {}


def _message(sent: Mapping[str, Any]) -> Message:
    try:
        text = shapes.text_of(sent.get("content"))
    except (AttributeError, TypeError):
        text = ""
    return Message(str(sent.get("role", "")), text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
