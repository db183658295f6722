"""What clients send, in OpenAI's shape: checked by these models, of which the OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from axolotl_cache.request import MAX_LOGPROBS

MOST_CHOICES: Final = 16
MOST_STOPS: Final = 16
MOST_PROMPTS: Final = 64
_LARGEST_COUNT: Final = 10**9
_LARGEST_SEED: Final = 2**63 - 1


class _Sent(BaseModel):
    """What all share: no silent conversions, and no field that would be left out without a word."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Nested(BaseModel):
    """Part of a message. Clients send back whole what they were sent, fields that say nothing included."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class TextPart(_Nested):
    """A part of a message's content. The engine's models read text only."""

    type: Literal["text"]
    text: str


class RefusalPart(_Nested):
    """What an assistant refused with."""

    type: Literal["refusal"]
    refusal: str


class FunctionCall(_Nested):
    """Which function, and with what."""

    name: str
    arguments: str = Field(description="JSON, as a text.")


class ToolCall(_Nested):
    """A call of an assistant."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Nested):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="`developer` is given to the template as `system`."
    )
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(_Nested):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema.")
    strict: bool | None = None


class Tool(_Nested):
    """A tool; given to the chat template as it is."""

    type: Literal["function"]
    function: Function


class StreamOptions(_Nested):
    """How a stream is sent."""

    include_usage: bool | None = Field(None, description="Send the usage in an event of its own at the end.")


class TextFormat(_Nested):
    """Plain text: the one format that the engine makes."""

    type: Literal["text"]


Count = Annotated[int, Field(ge=1, le=_LARGEST_COUNT)]
Off = Annotated[float, Field(ge=0, le=0)]


class _Common(_Sent):
    model: str | None = Field(None, description="As /v1/models lists them; without it, the model served.")
    stream: bool | None = Field(None, description="Send the answer in pieces, as server-sent events.")
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(
        None, description="How many answers. With a seed, the i-th one (from 0) has the seed + i."
    )
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None,
        description="0 is greedy, and may be served from the cache. Without it: 1, as OpenAI has it (or what "
        "the server was told); sampled, and passed by the response cache unless there is a seed.",
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_LARGEST_COUNT)] | None = Field(None, description="0 is off.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    frequency_penalty: Off | None = Field(None, description="Only 0; see repetition_penalty.")
    presence_penalty: Off | None = Field(None, description="Only 0; see repetition_penalty.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        None, description="Only an empty one."
    )
    user: str | None = Field(None, description="Has no effect; X-Principal says who asks.")
    metadata: dict[str, Any] | None = Field(None, description="Has no effect.")


class ChatRequest(_Common):
    """The body of a request to /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = Field(
        None, description="The longest answer. Without it: 512 tokens, or what the model's context leaves."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[Tool] | None = Field(
        None, description="Given to the chat template. What the model writes comes back as text."
    )
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="Has no effect.")
    response_format: TextFormat | None = None
    store: bool | None = Field(None, description="Has no effect: Cache-Control says what may be stored.")
    service_tier: str | None = Field(None, description="Has no effect.")
    safety_identifier: str | None = Field(None, description="Has no effect.")
    prompt_cache_key: str | None = Field(None, description="Has no effect: prefixes are found by content.")
    prompt_cache_retention: str | None = Field(None, description="Has no effect.")


class CompletionRequest(_Common):
    """The body of a request to /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)] = Field(
        description="Text; token ids are not taken."
    )
    max_tokens: Count | None = Field(None, description="The longest answer. Without it: 16 tokens.")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(
        None, description="Only the same as `n`."
    )
    suffix: Annotated[str, Field(max_length=0)] | None = None
