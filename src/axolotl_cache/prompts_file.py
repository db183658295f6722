"""Requests from what people give: an argument, a JSON Lines file, standard input, and logs of such lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axolotl_cache.config import parse_duration
from axolotl_cache.errors import ConfigError, Problem, RequestError
from axolotl_cache.request import CacheControl, Message, Request


@dataclass(frozen=True, slots=True)
class Named:
    """A request and the name that its file gives it."""

    name: str
    request: Request


def from_text(text: str, template: Request, system: str | None) -> Request:
    """Return the request for one text of a user.

    Args:
        text: what the user says.
        template: carries the sampling settings.
        system: the system message; None for a plain prompt or for the template's own message.
    """
    head = () if system is None else (Message("system", system),)
    return replace(template, messages=(*head, Message("user", text)))


def fit(request: Request, *, takes_messages: bool) -> Request:
    """Return the request so that a model without a chat template can take it: as a plain prompt."""
    texts = [m.content for m in request.messages if m.role == "user"]
    if takes_messages or len(texts) != 1 or len(request.messages) > 2:
        return request
    return replace(request, messages=(), prompt=texts[0])


def from_file(path: Path, template: Request, system: str | None) -> list[Named]:
    """Read a JSON Lines file of requests.

    A line is a JSON string, or an object with `user` (a user's text, behind the system message), `messages`
    (a whole conversation as in OpenAI's API) or `prompt` (a rendered prompt; no template is applied); `id`
    names it, `system` replaces the system message and `adapter` names an adapter. How it is cached say
    `cache_control` (as in HTTP), `ttl`, `namespace`, `sampled`, `truncated`, `refusals`, and for rules and
    invalidation `tags`, `route`, `tools`, `tenant`, `principal`, `session` and `entities`. Other keys are
    left alone.

    Raises:
        ConfigError: naming every line that can't be read; nothing is answered then.
    """
    problems: list[Problem] = []
    found: list[Named] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "prompts file", f"can't be read: {error}")]) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(from_value(_parsed(line), str(number), template, system))
        except RequestError as error:
            problems.append(Problem(f"{path}:{number}", "request", str(error)))
    if problems:
        raise ConfigError(problems)
    return found


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON ({error}); write one JSON value a line") from error


def from_value(value: Any, number: str, template: Request, system: str | None) -> Named:
    """Return the request of one line, as `from_file` describes it.

    Args:
        value: what the line holds, as JSON types.
        number: its name, if it gives itself none.
        template: carries what the line does not say.
        system: the system message of a user's text; None for none.

    Raises:
        RequestError: it is no such line.
    """
    if isinstance(value, str):
        value = {"user": value}
    if not isinstance(value, dict) or sum(k in value for k in ("prompt", "user", "messages")) != 1:
        raise RequestError("wants a JSON string, or an object with one of `user`, `messages`, `prompt`")
    name = str(value.get("id", number))
    own_system = value.get("system", system)
    template = replace(
        template,
        **_labels(value),
        adapter=str(value.get("adapter", "")),
        cache_control=_cache_control(value, template.cache_control),
    )
    if "messages" in value:
        return Named(name, replace(template, messages=tuple(_messages(value["messages"]))))
    text = value["user"] if "user" in value else value["prompt"]
    if not isinstance(text, str) or not isinstance(own_system, str | None):
        raise RequestError("`user`, `prompt` and `system` are texts")
    if "prompt" in value:
        return Named(name, replace(template, prompt=text))
    return Named(name, from_text(text, template, own_system))


def _labels(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line says about whose it is and what it is about."""
    labels: dict[str, Any] = {}
    for key in ("tenant", "principal", "session", "route"):
        if key in value:
            labels[key] = _text(key, value[key])
    for key in ("tags", "entities"):
        if key in value:
            if not isinstance(value[key], list):
                raise RequestError(f"`{key}` is a list of texts")
            labels[key] = tuple(_text(key, item) for item in value[key])
    if "tools" in value:
        tools = value["tools"]
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise RequestError("`tools` is a list of objects as in OpenAI's API")
        labels["tools"] = tuple(tools)
    return labels


def _cache_control(value: Mapping[str, Any], given: CacheControl) -> CacheControl:
    """Return what a line says about caching, over what the command line says."""
    own: dict[str, Any] = {}
    if "cache_control" in value:
        parsed = CacheControl.parse(_text("cache_control", value["cache_control"]))
        own = {name: getattr(parsed, name) for name in ("no_cache", "no_store", "only_if_cached")}
        own["max_age_seconds"] = parsed.max_age_seconds
    if "ttl" in value:
        try:
            own["ttl_seconds"] = parse_duration(value["ttl"])
        except ValueError as error:
            raise RequestError(f"`ttl`: {error}") from error
    if "namespace" in value:
        own["namespace"] = _text("namespace", value["namespace"])
    for key in ("sampled", "truncated", "refusals"):
        if key in value:
            if not isinstance(value[key], bool):
                raise RequestError(f"`{key}` is true or false")
            own[key] = value[key]
    return replace(given, **own)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"`{key}` holds texts, not {json.dumps(value)}")
    return value


def _messages(value: Any) -> Iterator[Message]:
    if not isinstance(value, list) or not value:
        raise RequestError("`messages` is a list with at least one message")
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise RequestError('each message is an object as {"role": "user", "content": "..."}')
        yield Message(message["role"], message["content"])
