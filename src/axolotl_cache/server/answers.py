"""What the server sends, in OpenAI's shape: these models are for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(_Said):
    """Of the prompt's tokens."""

    cached_tokens: int


class TokenUsage(_Said):
    """Tokens of one answer, as OpenAI counts them; of several choices, the prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class LikelyToken(_Said):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(LikelyToken):
    """A token of the answer."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(_Said):
    """Of all tokens of the answer."""

    content: list[ChosenToken]
    refusal: None


class AssistantMessage(_Said):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Said):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Said):
    """The answer to /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    system_fingerprint: str


class TextLogprobs(_Said):
    """Of all tokens of the answer, in four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Said):
    """One answer."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(_Said):
    """The answer to /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage
    system_fingerprint: str


class Model(_Said):
    """A model, or an adapter, that requests may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Said):
    """The answer to /v1/models."""

    object: Literal["list"]
    data: list[Model]


class SharedHealth(_Said):
    """How the servers of `cluster_cache` are; requests are served with them and without."""

    is_up: bool
    copies: int
    copies_wanted: int


class Health(_Said):
    """The answer to /healthz and /readyz."""

    status: Literal["ok", "draining", "failed"]
    shared: SharedHealth | None = None


class ErrorDetail(_Said):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Said):
    """Any answer with a status of 400 or more."""

    error: ErrorDetail
