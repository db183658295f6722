"""What an answer of a model's API says about the tokens that it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_MENTIONS = '"usage"'


def usage_in(chunks: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return `usage` as the API wrote it, and the model's name; nothing where it says nothing.

    OpenAI's chat and responses, and Anthropic's messages, whole or as events. Anthropic's streams say it in
    two events, of which the later wins; OpenAI's chat streams only if asked to (`stream_options`).

    Args:
        chunks: a whole answer's text, or events, each with its `data:`.
    """
    usage: dict[str, Any] = {}
    model = ""
    for chunk in chunks:
        if _MENTIONS not in chunk:
            continue
        payload = _payload(chunk)
        for part in (payload, payload.get("response"), payload.get("message")):
            if not isinstance(part, Mapping):
                continue
            said, name = part.get("usage"), part.get("model")
            if isinstance(said, Mapping):
                usage |= {key: value for key, value in said.items() if value is not None}
            if isinstance(name, str):
                model = name
    return usage, model


def _payload(chunk: str) -> Mapping[str, Any]:
    lines = [line[5:] for line in chunk.splitlines() if line.startswith("data:")]
    try:
        payload = json.loads("\n".join(lines) if lines else chunk)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, Mapping) else {}
