"""Requests in OpenAI's shape: bare bodies, batch files, and pairs of request and response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from axolotl_cache.profiling.formats import values
from axolotl_cache.profiling.record import Record

SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "n",
    "response_format",
    "tool_choice",
    "reasoning_effort",
)
"""Fields that can change an answer, beside the words."""

_TIMES: Final = ("timestamp", "created_at", "time", "arrival_time", "ts", "created", "date")


def reads(line: Mapping[str, Any]) -> bool:
    """Tell whether this object is, or holds, a request in OpenAI's shape."""
    return bool(body_of(line))


def body_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request's body: the object itself, or what its `body` or `request` holds; else nothing."""
    inner = next(
        (line[k] for k in ("body", "request", "kwargs", "payload") if isinstance(line.get(k), dict)), None
    )
    for each in (inner, line):
        if isinstance(each, dict) and ({"messages", "prompt", "input"} & each.keys()):
            return each
    return {}


def read(line: Mapping[str, Any]) -> Record:
    """Return the request of one line.

    Raises:
        ValueError: no words in it that can be read.
    """
    body = body_of(line)
    record = Record(
        arrived_seconds=first_time(line, _TIMES),
        tools=values.tools(body.get("tools")),
        model=values.word(body.get("model")),
        sampling={key: body[key] for key in SAMPLING if body.get(key) is not None},
        tenant=values.word(line.get("tenant")),
        principal=values.word(body.get("user")) or values.word(line.get("principal")),
        session=_session(line, body),
        total_seconds=first_number(line, ("latency", "duration", "total_seconds", "response_time")),
        ttft_seconds=first_number(line, ("ttft", "ttft_seconds")),
    )
    _words(record, body)
    response = line.get("response")
    _answer(record, response if isinstance(response, Mapping) else line)
    return record


def first_time(line: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the first of these fields that is a time, in seconds."""
    found = (values.seconds(line[name]) for name in names if name in line)
    return next((each for each in found if each is not None), None)


def first_number(line: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """Return the first of these fields that is a number."""
    return next((each for name in names if (each := values.number(line.get(name))) is not None), None)


def _words(record: Record, body: Mapping[str, Any]) -> None:
    if "messages" in body:
        record.messages = values.messages(body["messages"])
        return
    words = body.get("prompt", body.get("input"))
    if isinstance(words, list) and words and isinstance(words[0], Mapping):
        record.messages = values.messages(words)
    elif isinstance(words, list) and words and isinstance(words[0], str):
        record.prompt = "\n".join(values.texts(words))
    elif isinstance(words, str):
        record.prompt = words
    else:
        raise ValueError("the prompt is no text and no list of messages")


def _session(line: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    metadata = body.get("metadata")
    for each in (line, body, metadata if isinstance(metadata, Mapping) else {}):
        for name in ("session_id", "session", "conversation_id", "thread_id"):
            if values.word(each.get(name)):
                return values.word(each[name])
    return ""


def _answer(record: Record, response: Mapping[str, Any]) -> None:
    inner = response.get("body")
    response = inner if isinstance(inner, Mapping) else response
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        found = message.get("content") if isinstance(message, Mapping) else choices[0].get("text")
        record.answer = values.content(found)
    elif isinstance(response.get("output"), str):
        record.answer = response["output"]
    usage = response.get("usage")
    if isinstance(usage, Mapping):
        record.prompt_tokens = values.count(usage.get("prompt_tokens"))
        record.completion_tokens = values.count(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details")
        if isinstance(details, Mapping):
            record.cached_tokens = values.count(details.get("cached_tokens"))
    if record.arrived_seconds is None:
        record.arrived_seconds = values.seconds(response.get("created"))
