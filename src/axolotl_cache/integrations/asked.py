"""What a request to a model's API asks, as `ttl_rules` look at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from axolotl_cache.config import TtlRules
from axolotl_cache.integrations.answers import text_of
from axolotl_cache.response.ttl_rules import Facts, TtlPolicy


def policy_of(rules: TtlRules | Mapping[str, Any] | None) -> TtlPolicy | None:
    """Return what decides by `ttl_rules`; None without any. Where no rule fits, the cache's timeout holds.

    Args:
        rules: as the configuration has them, or as they stand in its YAML: `{"dynamic": "2h", "rules": []}`.

    Raises:
        ValueError: a key or a value in them is unknown.
    """
    if rules is None:
        return None
    return TtlPolicy(rules if isinstance(rules, TtlRules) else TtlRules.model_validate(dict(rules)), None)


def lasting(policy: TtlPolicy | None, own_seconds: float | None, facts: Facts) -> tuple[float | None, str]:
    """Return for how long an answer may be served, None being the cache's timeout, and its kind.

    Args:
        policy: what decides; None is nothing.
        own_seconds: what was asked for, and wins.
        facts: of the request.
    """
    if policy is None or own_seconds is not None:
        return own_seconds, ""
    decided = policy.decide(facts)
    return decided.ttl_seconds, decided.kind


def facts_asked(request: Mapping[str, Any], tags: tuple[str, ...], route: str) -> Facts:
    """Return what the rules look at in a request's body. What is in no shape that is known says nothing.

    Args:
        request: the body, parsed, of any of the APIs that are cached.
        tags: of the request.
        route: the path that it was sent to.
    """
    return Facts(_question(request), tags, route, _tools(request))


def text_asked(messages: Any) -> str:
    """Return the text of the last message of a user; of what is no list of messages, its text."""
    if isinstance(messages, str):
        return messages
    said = _mappings(messages)
    if not said and isinstance(messages, list):  # several prompts
        return " ".join(text for text in messages if isinstance(text, str))
    contents = (message.get("content") for message in reversed(said) if message.get("role") == "user")
    content = next(contents, None)
    parts = content if isinstance(content, str) else [*_mappings(content)]
    return text_of(parts)


def _question(request: Mapping[str, Any]) -> str:
    return next(
        (text_asked(request[name]) for name in ("messages", "input", "prompt") if name in request), ""
    )


def _tools(request: Mapping[str, Any]) -> tuple[str, ...]:
    described = [tool.get("function", tool) for tool in _mappings(request.get("tools"))]
    return tuple(str(tool.get("name", tool.get("type", ""))) for tool in _mappings(described))


def _mappings(several: Any) -> list[Mapping[str, Any]]:
    items: Iterable[Any] = several if isinstance(several, list | tuple) else ()
    return [item for item in items if isinstance(item, Mapping)]
