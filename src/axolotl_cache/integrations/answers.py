"""Answers as OpenAI's and Anthropic's APIs write them, whole or streamed, and which of them may be kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from axolotl_cache.request import CacheControl
from axolotl_cache.response.storable import ABORTED, EMPTY, FAILED, Outcome, why_not_stored

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
RESPONSES: Final = "responses"
EMBEDDINGS: Final = "embeddings"
MESSAGES: Final = "messages"

NOT_UNDERSTOOD: Final = "it is not in a shape that is known"

_DONE: Final = "[DONE]"
_EVENT: Final = re.compile(r".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)
_FINISH: Final = {
    "end_turn": "stop",
    "max_output_tokens": "length",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "safety": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
"""What other APIs call what OpenAI calls `finish_reason`."""
_REFUSED: Final = "refusal"
_PAUSED: Final = "pause_turn"
_FAILURE: Final = Outcome("", None, failed=True)


def finish_reason(said: Any) -> str | None:
    """Return why an answer ended in OpenAI's words, whatever API said it; None if it did not."""
    if type(said) is not str or not said:
        return None
    return _FINISH.get(said.lower(), said.lower())


def why_body_not_stored(shape: str, body: str, control: CacheControl) -> str | None:
    """Return why a whole answer must not be stored, or None if it may be.

    Args:
        shape: which API's: `CHAT`, ...
        body: what came with status 200.
        control: whether cut-off answers and refusals are wanted.
    """
    try:
        payload = json.loads(body)
    except ValueError:
        return NOT_UNDERSTOOD
    return why_payload_not_stored(shape, payload, control)


def why_events_not_stored(shape: str, events: Sequence[str], control: CacheControl) -> str | None:
    """Return why a streamed answer must not be stored, or None if it may be; its end must be there.

    Args:
        shape: which API's.
        events: as `split_events` gives them.
        control: whether cut-off answers and refusals are wanted.
    """
    try:
        payloads = list(_payloads(events))
    except ValueError:
        return ABORTED  # an event that was cut in the midst
    if any(_is_error(payload) for payload in payloads):
        return FAILED
    try:
        whole = _ASSEMBLE[shape](payloads) if shape in _ASSEMBLE else None
    except (AttributeError, KeyError, TypeError):
        return NOT_UNDERSTOOD
    return ABORTED if whole is None else why_payload_not_stored(shape, whole, control)


def why_payload_not_stored(shape: str, payload: Any, control: CacheControl) -> str | None:
    """Return why a whole answer must not be stored, or None if it may be.

    Args:
        shape: which API's.
        payload: the body, parsed.
        control: whether cut-off answers and refusals are wanted.
    """
    if _is_error(payload):
        return FAILED
    if not isinstance(payload, Mapping):
        return NOT_UNDERSTOOD
    if shape == EMBEDDINGS:
        data = payload.get("data")
        return None if isinstance(data, list) and data and all(map(_has_embedding, data)) else EMPTY
    try:
        outcomes = _OUTCOMES[shape](payload)
    except (AttributeError, KeyError, TypeError):
        return NOT_UNDERSTOOD
    return why_outcomes_not_stored(outcomes, control)


def why_outcomes_not_stored(outcomes: Sequence[Outcome], control: CacheControl) -> str | None:
    """Return why several answers to one request must not be stored, or None if all of them may be."""
    reasons = (
        why_not_stored(outcome, truncated=control.truncated, refusals=control.refusals)
        for outcome in outcomes
    )
    return next((reason for reason in reasons if reason), None) if outcomes else EMPTY


def text_of(content: Any) -> str:
    """Return the text of a message's content: a text, a list of parts, or nothing."""
    if isinstance(content, list):
        parts = (part if isinstance(part, str) else part.get("text") for part in content)
        return "".join(part or "" for part in parts)
    return "" if content is None else str(content)


def split_events(body: str) -> list[str]:
    """Return server-sent events one by one, each with the blank line that ends it; joined, they are `body`.

    Source: HTML Standard, section 9.2.5, "Parsing an event stream".
    """
    return _EVENT.findall(body)


def _payloads(events: Sequence[str]) -> Iterator[Any]:
    """Yield what each event carries, parsed; `_DONE` as it is."""
    for event in events:
        lines = [line[5:].removeprefix(" ") for line in event.splitlines() if line.startswith("data:")]
        data = "\n".join(lines)
        if data.strip() == _DONE:
            yield _DONE
        elif data.strip():
            yield json.loads(data)


def _is_error(payload: Any) -> bool:
    if not isinstance(payload, Mapping):
        return False
    return bool(payload.get("error")) or "error" in (payload.get("type"), payload.get("object"))


def _has_embedding(item: Any) -> bool:
    return isinstance(item, Mapping) and bool(item.get("embedding"))


# Whole answers


def _of_chat(payload: Mapping[str, Any]) -> list[Outcome]:
    return [_of_choice(choice, choice["message"]) for choice in payload["choices"]]


def _of_choice(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Outcome:
    return Outcome(
        text=text_of(message.get("content")),
        finish_reason=finish_reason(choice.get("finish_reason")),
        refusal=message.get("refusal"),
        calls_tools=bool(message.get("tool_calls") or message.get("function_call")),
    )


def _of_completion(payload: Mapping[str, Any]) -> list[Outcome]:
    return [
        Outcome(text_of(choice["text"]), finish_reason(choice.get("finish_reason")))
        for choice in payload["choices"]
    ]


def _of_response(payload: Mapping[str, Any]) -> list[Outcome]:
    status, items = payload.get("status"), payload["output"]
    reason = finish_reason((payload.get("incomplete_details") or {}).get("reason"))
    parts = [part for item in items if item.get("type") == "message" for part in item["content"]]
    return [
        Outcome(
            text=text_of(parts),
            finish_reason="stop" if status == "completed" else reason,
            refusal=next((part["refusal"] for part in parts if part.get("type") == _REFUSED), None),
            calls_tools=any(str(item.get("type")).endswith("_call") for item in items),
            failed=status in ("failed", "cancelled"),
            ended=status == "completed" or (status == "incomplete" and reason is not None),
        )
    ]


def _of_message(payload: Mapping[str, Any]) -> list[Outcome]:
    reason = payload.get("stop_reason")
    return [
        Outcome(
            text=text_of(payload["content"]),
            finish_reason=finish_reason(reason),
            refusal=_REFUSED if reason == _REFUSED else None,
            calls_tools=any(part.get("type") == "tool_use" for part in payload["content"]),
            ended=reason is not None and reason != _PAUSED,
        )
    ]


_OUTCOMES: Final = {
    CHAT: _of_chat,
    COMPLETIONS: _of_completion,
    RESPONSES: _of_response,
    MESSAGES: _of_message,
}


# Streamed ones, put together; None if the end is missing


def _chat_of(payloads: Sequence[Any]) -> dict[str, Any] | None:
    if _DONE not in payloads:
        return None
    found: dict[int, dict[str, Any]] = {}
    for payload in payloads:
        for piece in payload.get("choices") or () if isinstance(payload, Mapping) else ():
            choice = found.setdefault(
                piece.get("index", 0), {"text": "", "finish_reason": None, "message": {"content": ""}}
            )
            delta, message = piece.get("delta") or {}, choice["message"]
            choice["text"] += piece.get("text") or ""
            message["content"] += delta.get("content") or ""
            for name in ("refusal", "tool_calls", "function_call"):
                message[name] = delta.get(name) or message.get(name)
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
    # Servers that stop in the midst may still say that they are done; of an answer they say why it ended.
    if any(choice["finish_reason"] is None for choice in found.values()):
        return None
    return {"choices": list(found.values())}


def _response_of(payloads: Sequence[Any]) -> Mapping[str, Any] | None:
    ends = ("response.completed", "response.incomplete", "response.failed")
    responses = (p["response"] for p in payloads if isinstance(p, Mapping) and p.get("type") in ends)
    return next(responses, None)


def _message_of(payloads: Sequence[Any]) -> dict[str, Any] | None:
    content: list[dict[str, Any]] = []
    reason, ended = None, False
    for payload in payloads:
        kind = payload.get("type") if isinstance(payload, Mapping) else None
        if kind == "content_block_start":
            content.append(dict(payload["content_block"]))
        elif kind == "content_block_delta":
            content.append({"text": payload["delta"].get("text")})
        elif kind == "message_delta":
            reason = payload["delta"].get("stop_reason") or reason
        ended = ended or kind == "message_stop"
    return {"content": content, "stop_reason": reason} if ended else None


_ASSEMBLE: Final = {
    CHAT: _chat_of,
    COMPLETIONS: _chat_of,
    RESPONSES: _response_of,
    MESSAGES: _message_of,
}
