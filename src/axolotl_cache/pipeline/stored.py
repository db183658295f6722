"""An answer as the response cache keeps it, and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from axolotl_cache.request import Answer, Saved, Served, TokenLogprob, TtlDecision, Usage
from axolotl_cache.response import Entry
from axolotl_cache.response.accounts import as_cost
from axolotl_cache.response.prices import Cost


def to_value(answer: Answer, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what is stored of an answer: all that a hit needs to know, as JSON.

    Args:
        answer: what was computed.
        asked: the question, for the tier that finds it by other words.
    """
    logprobs = {"logprobs": [_to_json(entry) for entry in answer.logprobs]} if answer.logprobs else {}
    why = {"ttl_why": answer.ttl.why} if answer.ttl else {}
    question = {"asked": dict(asked)} if asked else {}
    return logprobs | why | question | {"text": answer.text, "finish_reason": answer.finish_reason}


def to_cost(answer: Answer, model: str) -> dict[str, Any]:
    """Return what is stored beside an answer: what it took to compute."""
    usage = answer.usage
    cost = Cost(
        usage.prompt_tokens, usage.completion_tokens, answer.total_seconds, usage.cached_tokens, model
    )
    return asdict(cost)


def from_entry(entry: Entry, key: str, saved: Saved, started: float, now_seconds: float) -> Answer:
    """Return a stored answer.

    Args:
        entry: what was stored.
        key: under which key.
        saved: what serving it saves.
        started: when the request came, on the clock of `time.perf_counter`.
        now_seconds: seconds since the epoch.
    """
    value, cost = entry.value, as_cost(entry.cost)
    took = time.perf_counter() - started
    return Answer(
        text=value["text"],
        finish_reason=value["finish_reason"],
        served=Served.HIT_EXACT,
        usage=Usage(cost.prompt_tokens, cost.prompt_tokens, cost.completion_tokens),
        ttft_seconds=took,
        total_seconds=took,
        age_seconds=max(now_seconds - entry.created_at, 0.0),
        saved=saved,
        key=key,
        ttl=_ttl(entry),
        logprobs=tuple(_from_json(item) for item in value.get("logprobs", ())),
    )


def _ttl(entry: Entry) -> TtlDecision:
    ends = None if entry.expires_at is None else entry.expires_at - entry.created_at
    return TtlDecision(ends, entry.kind, entry.value.get("ttl_why", ""))


def _to_json(entry: TokenLogprob) -> list[Any]:
    return [entry.token, entry.text, entry.logprob, [_to_json(other) for other in entry.top]]


def _from_json(value: list[Any]) -> TokenLogprob:
    token, text, logprob, top = value
    return TokenLogprob(token, text, logprob, tuple(_from_json(other) for other in top))
