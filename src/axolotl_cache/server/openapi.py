"""The OpenAPI document, made from the models that bodies are checked with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from axolotl_cache import __version__
from axolotl_cache.server.answers import ChatCompletion, Error, Health, Model, ModelList, TextCompletion
from axolotl_cache.server.schema import ChatRequest, CompletionRequest

_PLACE: Final = "#/components/schemas/{model}"
_SENT: Final = (ChatRequest, CompletionRequest)
_SAID: Final = (ChatCompletion, TextCompletion, ModelList, Model, Health, Error)

REQUEST_HEADERS: Final = {
    "Cache-Control": "no-cache (compute anew), no-store, max-age=SECONDS, only-if-cached.",
    "X-Cache-TTL": "Seconds for which this answer may be served; 0 stores nothing.",
    "X-Cache-Tags": "Names by which the answer can be removed later, with commas.",
    "X-Cache-Also": "Cache what otherwise is not: some of sampled, truncated, refusals, with commas.",
    "X-Session-Id": "Which conversation this is.",
    "X-Principal": "Who asks, within the tenant; another principal is served none of the answers.",
    "X-Request-Timeout": "Seconds; the server's own deadline holds if it is shorter.",
}
ANSWER_HEADERS: Final = {
    "X-Request-Id": "Names this answer, in its body too, and in the server's log.",
    "X-Cache": "Where the answer came from: hit-exact, hit-semantic, hit-session, hit-prefix or miss.",
    "Age": "On a hit, the age of the stored answer, in seconds.",
    "X-Cache-Reason": "Why the response cache did not serve it; not with a stream.",
    "X-Cache-Upstream": "Which upstream computed it, if there is one.",
}
ERRORS: Final = {
    400: "Something in the request is wrong; the message says what, `param` where.",
    401: "No key, or none that is known.",
    403: "This key may not do that.",
    404: "There is no such model.",
    413: "The body is too long.",
    415: "The body is not announced as JSON.",
    421: "Without keys: the request names another host than this machine.",
    429: "Too much at once, or a quota is used up; `Retry-After` says when to try again.",
    500: "The server failed; its log says why, under X-Request-Id.",
    502: "No upstream answered.",
    503: "The request was given up for others' sake, or the server stops; send it again.",
    504: "Not done within its deadline, or not cached (only-if-cached).",
}


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    _, schemas = models_json_schema(
        [*((model, "validation") for model in _SENT), *((model, "serialization") for model in _SAID)],
        ref_template=_PLACE,
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "axolotl-cache",
            "version": __version__,
            "description": "OpenAI's API in front of an exact inference cache.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _computed("chat", ChatRequest, ChatCompletion)},
            "/v1/completions": {"post": _computed("completions", CompletionRequest, TextCompletion)},
            "/v1/models": {"get": _read("models", "What requests may name as their model.", ModelList, 401)},
            "/v1/models/{name}": {
                "get": _read("model", "One of them.", Model, 401, 404)
                | {"parameters": [_parameter("name", "path", "Of the model.")]}
            },
            "/healthz": {"get": _read("healthz", "Whether the process is alive.", Health) | {"security": []}},
            "/readyz": {
                "get": _read("readyz", "Whether requests should be sent here; 503 if not.", Health)
                | {"security": []}
            },
            "/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This document.",
                    "security": [],
                    "responses": {
                        "200": {"description": "OpenAPI 3.1.", "content": _json({"type": "object"})}
                    },
                }
            },
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _computed(name: str, sent: type[BaseModel], said: type[BaseModel]) -> dict[str, Any]:
    ok = {
        "description": "The answer; with `stream`, its pieces as server-sent events, and at last `[DONE]`.",
        "headers": _headers(ANSWER_HEADERS),
        "content": _json(_reference(said)) | {"text/event-stream": {"schema": {"type": "string"}}},
    }
    return {
        "operationId": name,
        "summary": "Answer a conversation." if name == "chat" else "Go on with a text.",
        "parameters": [_parameter(header, "header", text) for header, text in REQUEST_HEADERS.items()],
        "requestBody": {"required": True, "content": _json(_reference(sent))},
        "responses": {"200": ok} | {str(status): _error(text) for status, text in ERRORS.items()},
    }


def _read(name: str, summary: str, said: type[BaseModel], *errors: int) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": _json(_reference(said))}}
    if said is Health:
        responses["503"] = {"description": "It does not.", "content": _json(_reference(said))}
    return {
        "operationId": name,
        "summary": summary,
        "responses": responses | {str(status): _error(ERRORS[status]) for status in errors},
    }


def _parameter(name: str, place: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1} if place == "path" else {"type": "string"}
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": schema}


def _headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": _json(_reference(Error))}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _PLACE.format(model=model.__name__)}
