"""LiteLLM's logs: its standard logging payload, and rows of its spend log.

Source: https://docs.litellm.ai/docs/proxy/logging_spec (fields of StandardLoggingPayload).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from axolotl_cache.profiling.formats import openai, values
from axolotl_cache.profiling.record import Record


def reads(line: Mapping[str, Any]) -> bool:
    """Tell whether this object is one of LiteLLM's, which names the call and when it started."""
    payload = inner(line)
    return "call_type" in payload and "startTime" in payload


def inner(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the payload where it is wrapped in `standard_logging_object`."""
    found = line.get("standard_logging_object")
    return found if isinstance(found, Mapping) else line


def read(line: Mapping[str, Any]) -> Record:
    """Return the request of one line.

    Raises:
        ValueError: messages were not logged (`store_prompts_in_spend_logs`, `turn_off_message_logging`).
    """
    line = inner(line)
    words = _loaded(line.get("messages"))
    request = _loaded(line.get("proxy_server_request"))
    if not words and isinstance(request, Mapping):
        words = request.get("messages") or request.get("prompt")
    if not words:
        raise ValueError("LiteLLM did not log the messages: set store_prompts_in_spend_logs")
    parameters = _loaded(line.get("model_parameters"))
    parameters = parameters if isinstance(parameters, Mapping) else {}
    body = {**parameters, "model": line.get("model"), "user": line.get("end_user")}
    body |= {"prompt": words} if isinstance(words, str) else {"messages": words}
    record = openai.read({"request": body, "response": _loaded(line.get("response"))})
    record.arrived_seconds = values.seconds(line.get("startTime"))
    end = values.seconds(line.get("endTime"))
    first = values.seconds(line.get("completionStartTime"))
    if record.arrived_seconds is not None:
        record.total_seconds = None if end is None else max(0.0, end - record.arrived_seconds)
        record.ttft_seconds = None if first is None else max(0.0, first - record.arrived_seconds)
    record.prompt_tokens = values.count(line.get("prompt_tokens"))
    record.completion_tokens = values.count(line.get("completion_tokens"))
    record.session = values.word(line.get("session_id") or line.get("trace_id"))
    if line.get("cache_hit") in (True, "True", "true"):
        record.served = "hit-exact"
    return record


def _loaded(value: Any) -> Any:
    """Return a value that the spend log keeps as JSON in a text; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
