"""From a body and its headers to the requests that the pipeline knows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from axolotl_cache.errors import RequestError
from axolotl_cache.request import CacheControl, Message, Request, Sampling
from axolotl_cache.server.refusal import Refusal, printable
from axolotl_cache.server.schema import ChatMessage, ChatRequest, CompletionRequest, RefusalPart, TextPart

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"

SESSION_HEADER: Final = "x-session-id"
PRINCIPAL_HEADER: Final = "x-principal"
TAGS_HEADER: Final = "x-cache-tags"
TTL_HEADER: Final = "x-cache-ttl"
ALSO_HEADER: Final = "x-cache-also"

_DEFAULT_COMPLETION_TOKENS: Final = 16
"""OpenAI's, for plain completions."""
_ALSO: Final = frozenset({"refusals", "sampled", "truncated"})
"""What is cached on request only."""
_LONGEST_NAME_CHARACTERS: Final = 256
_SEEDS: Final = 2**63
_MOST_PROBLEMS: Final = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """How bodies are read.

    Args:
        model: the name of the model served.
        adapters: names of adapters that requests may ask for as their model.
        temperature: of requests that name none.
        most_new_tokens: longest answer that may be asked for; None is no bound but the model's context.
        most_prompt_tokens: longest prompt that is computed; None is no bound but the model's context.
        control: what holds for the response cache where a request says nothing.
    """

    model: str
    adapters: Collection[str] = ()
    temperature: float = 1.0
    most_new_tokens: int | None = None
    most_prompt_tokens: int | None = None
    control: CacheControl = field(default_factory=CacheControl)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one HTTP request asks for."""

    route: str
    model: str
    """As it is named in the answer."""
    requests: tuple[Request, ...]
    """One for each choice, in their order: those of the first prompt first."""
    streams: bool
    include_usage: bool
    prompts: int = 1
    """How many prompts; each has as many choices as the others."""


def read(route: str, body: bytes, headers: Mapping[str, str], tenant: str, rules: Rules) -> Asked:
    """Return what a body and its headers ask for.

    Raises:
        Refusal: 400 with every mistake, or the first few; 404 for a model that there is not.
        RequestError: a header can't be understood.
    """
    kind: type[ChatRequest | CompletionRequest] = ChatRequest if route == CHAT else CompletionRequest
    try:
        sent = kind.model_validate_json(body)
    except ValidationError as error:
        raise _wrong(error.errors(include_url=False, include_context=False)) from None
    model, adapter = _model(sent.model, rules)
    base = Request(
        sampling=_sampling(sent, rules),
        cache_control=cache_control(headers, rules.control),
        tenant=tenant,
        principal=name_in(headers, PRINCIPAL_HEADER),
        session=name_in(headers, SESSION_HEADER),
        route=route,
        tags=tags_in(headers),
        adapter=adapter,
    )
    prompts = [base] if isinstance(sent, ChatRequest) else []
    if isinstance(sent, ChatRequest):
        tools = (
            ()
            if sent.tool_choice == "none"
            else tuple(t.model_dump(exclude_none=True) for t in sent.tools or ())
        )
        prompts = [replace(base, messages=tuple(map(_message, sent.messages)), tools=tools)]
    else:
        if sent.best_of is not None and sent.best_of != (sent.n or 1):
            raise Refusal(400, "best_of: only the same as n; ask for n answers and choose", param="best_of")
        texts = [sent.prompt] if isinstance(sent.prompt, str) else sent.prompt
        prompts = [replace(base, prompt=text) for text in texts]
    options = sent.stream_options
    return Asked(
        route=route,
        model=model,
        requests=tuple(_choice(prompt, i) for prompt in prompts for i in range(sent.n or 1)),
        streams=bool(sent.stream),
        include_usage=bool(options and options.include_usage),
        prompts=len(prompts),
    )


def cache_control(headers: Mapping[str, str], base: CacheControl) -> CacheControl:
    """Return what the headers say about the response cache.

    Args:
        headers: of the request.
        base: what holds where they say nothing.

    Raises:
        RequestError: one of them can't be understood.
    """
    header = headers.get("cache-control")
    control = base
    if header:
        asked = CacheControl.parse(header)
        control = replace(asked, sampled=base.sampled, truncated=base.truncated, refusals=base.refusals)
    ttl, also = headers.get(TTL_HEADER), headers.get(ALSO_HEADER)
    if ttl is not None:
        control = replace(control, ttl_seconds=_seconds(ttl))
    if also is not None:
        wanted = {name.strip().lower() for name in also.split(",")} - {""}
        if not wanted <= _ALSO:
            unknown = min(wanted - _ALSO)
            raise RequestError(f"X-Cache-Also is some of {', '.join(sorted(_ALSO))}, not {unknown[:50]!r}")
        control = replace(
            control,
            sampled=control.sampled or "sampled" in wanted,
            truncated=control.truncated or "truncated" in wanted,
            refusals=control.refusals or "refusals" in wanted,
        )
    return control


def _seconds(text: str) -> float:
    try:
        seconds = float(text[:_LONGEST_NAME_CHARACTERS])
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise RequestError(f"X-Cache-TTL is a number of seconds from 0, not {text[:50]!r}")
    return seconds


def tags_in(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tags that a request's answer is to have."""
    header = headers.get(TAGS_HEADER)
    return tuple(tag.strip() for tag in header.split(",") if tag.strip()) if header else ()


def name_in(headers: Mapping[str, str], header: str) -> str:
    """Return the name in a header, or "".

    Raises:
        RequestError: it is too long for one.
    """
    name = headers.get(header, "")
    if len(name) > _LONGEST_NAME_CHARACTERS:
        raise RequestError(f"{header} has {len(name)} characters; at most {_LONGEST_NAME_CHARACTERS}")
    return name


def _model(asked: str | None, rules: Rules) -> tuple[str, str]:
    """Return the name for the answer, and the adapter's."""
    if asked is None or asked == rules.model:
        return rules.model, ""
    if asked in rules.adapters:
        return asked, asked
    there = ", ".join([rules.model, *rules.adapters])
    raise Refusal(
        404,
        f"there is no model {printable(asked[:100])!r} here; there is {there}",
        code="model_not_found",
        param="model",
    )


def _sampling(sent: ChatRequest | CompletionRequest, rules: Rules) -> Sampling:
    if isinstance(sent, ChatRequest):
        longest = sent.max_completion_tokens if sent.max_completion_tokens is not None else sent.max_tokens
        if sent.top_logprobs is not None and not sent.logprobs:
            raise Refusal(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")
        logprobs = (sent.top_logprobs or 0) if sent.logprobs else None
    else:
        longest = sent.max_tokens
        logprobs = sent.logprobs
    most = rules.most_new_tokens
    if most is not None and longest is not None and longest > most:
        raise Refusal(400, f"max_tokens is {longest}; this server gives at most {most}", param="max_tokens")
    if longest is None and isinstance(sent, CompletionRequest):
        longest = _DEFAULT_COMPLETION_TOKENS
    longest = min((bound for bound in (longest, most) if bound is not None), default=None)
    stop = sent.stop or ()
    return Sampling(
        max_new_tokens=longest,
        temperature=rules.temperature if sent.temperature is None else sent.temperature,
        top_p=1.0 if sent.top_p is None else sent.top_p,
        top_k=sent.top_k or 0,
        min_p=sent.min_p or 0.0,
        repetition_penalty=1.0 if sent.repetition_penalty is None else sent.repetition_penalty,
        seed=None if sent.seed is None else sent.seed % _SEEDS,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=logprobs,
    )


def _choice(request: Request, index: int) -> Request:
    """Return the request for one of several choices: of equal seeds all would be equal."""
    seed = request.sampling.seed
    if index == 0 or seed is None or request.sampling.is_greedy:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + index) % _SEEDS))


def _message(sent: ChatMessage) -> Message:
    role = "system" if sent.role == "developer" else sent.role
    if isinstance(sent.content, list):
        parts = tuple(_part(part) for part in sent.content)
        content = "\n".join(part["text"] for part in parts)
    else:
        parts, content = (), sent.content or ""
    calls = tuple(
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
        }
        for call in sent.tool_calls or ()
    )
    return Message(role, content, parts, calls, sent.tool_call_id or "", sent.name or "")


def _part(part: TextPart | RefusalPart) -> dict[str, str]:
    return {"type": "text", "text": part.text if isinstance(part, TextPart) else part.refusal}


def _arguments(text: str) -> Any:
    """Return a call's arguments as templates want them; what is no object stays the text it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _wrong(errors: list[ErrorDetails]) -> Refusal:
    """Return pydantic's findings in one sentence each."""
    told = [_sentence(error) for error in errors[:_MOST_PROBLEMS]]
    more = [f"and {len(errors) - _MOST_PROBLEMS} more"] if len(errors) > _MOST_PROBLEMS else []
    return Refusal(400, printable("; ".join([*told, *more])), param=_place(errors[0]) or None)


def _sentence(error: ErrorDetails) -> str:
    place = _place(error)
    if error["type"] == "extra_forbidden":
        return f"{place}: not known here, and so refused; leave it out"
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['msg'].removeprefix('Invalid JSON: ')}"
    return f"{place}: {error['msg']}" if place else f"the body: {error['msg']}"


def _place(error: ErrorDetails) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]]
    return printable("".join(parts).removeprefix(".")[:200])
